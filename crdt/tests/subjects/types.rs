//! How each type is written and read.

use std::collections::{BTreeMap, BTreeSet};

use polity_crdt::types::Nestable;
use polity_crdt::{
    AwSet, BoundedCounter, Change, Dot, DwFlag, EwFlag, GCounter, GSet, LwwRegister, MvRegister, OrMap, OwnerMap,
    PnCounter, ReplicaId, RwSet, Timestamp, Writer,
};

use super::{Count, Dice, Intent, REPLICAS, Standing, Subject, What};

const ENABLED: u64 = 1;
const DISABLED: u64 = 0;
const ADDED: u64 = 1;
const REMOVED: u64 = 0;

fn intent(path: impl Into<Vec<u64>>, what: What) -> Intent {
    Intent { path: path.into(), what }
}

fn some_is(standing: &[Standing<'_>], value: u64) -> bool {
    standing.iter().any(|write| *write.what == What::Put(value))
}

impl Subject for EwFlag {
    type Read = bool;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        match dice.roll(2) {
            0 => (intent([], What::Put(ENABLED)), self.enable(w)),
            _ => (intent([], What::Kill), Ok(self.disable())),
        }
    }

    fn read(&self) -> bool {
        self.is_enabled()
    }

    fn expected(standing: &[Standing<'_>]) -> bool {
        some_is(standing, ENABLED)
    }
}

impl Subject for DwFlag {
    type Read = bool;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        match dice.roll(2) {
            0 => (intent([], What::Put(DISABLED)), self.disable(w)),
            _ => (intent([], What::Kill), Ok(self.enable())),
        }
    }

    fn read(&self) -> bool {
        self.is_enabled()
    }

    fn expected(standing: &[Standing<'_>]) -> bool {
        !some_is(standing, DISABLED)
    }
}

impl Subject for LwwRegister<u8> {
    type Read = Option<(Timestamp, u64)>;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let (now, value) = (Timestamp { millis: dice.roll(4).into(), logical: 0 }, dice.roll(200) as u8);
        (intent([], What::At(now, value.into())), self.set(w, now, value))
    }

    fn read(&self) -> Self::Read {
        self.entry().map(|(at, value)| (at, u64::from(*value)))
    }

    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        let writes = standing.iter().filter_map(|write| match write.what {
            What::At(at, value) => Some((*at, write.dot, *value)),
            _ => None,
        });
        writes.max().map(|(at, _, value)| (at, value))
    }
}

impl Subject for MvRegister<u8> {
    type Read = Vec<u64>;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        match dice.roll(5) {
            0 => (intent([], What::Kill), Ok(self.clear())),
            _ => {
                let value = dice.roll(4) as u8;
                (intent([], What::Put(value.into())), self.set(w, value))
            }
        }
    }

    fn read(&self) -> Vec<u64> {
        assert_eq!(self.value(), Some(self.values().next()).filter(|_| self.values().len() == 1).flatten());
        self.values().map(|value| u64::from(*value)).collect()
    }

    fn expected(standing: &[Standing<'_>]) -> Vec<u64> {
        let values: BTreeMap<Dot, u64> = standing
            .iter()
            .filter_map(|write| match write.what {
                What::Put(value) => Some((write.dot, *value)),
                _ => None,
            })
            .collect();
        values.into_values().collect()
    }
}

/// The sum of what the standing counts of all replicas say.
fn total(standing: &[Standing<'_>]) -> Count {
    let mut total = Count::default();
    for write in standing {
        if let What::Count(count) = write.what {
            total.plus(count);
        }
    }
    total
}

impl Subject for GCounter {
    type Read = i128;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let more = dice.roll(4);
        let count = Count { added: more.into(), ..Count::default() };
        (intent([w.replica().0], What::Count(count)), self.add(w, more.into()))
    }

    fn read(&self) -> i128 {
        self.value().try_into().expect("small")
    }

    fn expected(standing: &[Standing<'_>]) -> i128 {
        total(standing).added
    }
}

impl Subject for PnCounter {
    type Read = i128;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let by = i64::from(dice.roll(7)) - 3;
        let count = Count { added: by.max(0).into(), taken: (-by).max(0).into(), ..Count::default() };
        (intent([w.replica().0], What::Count(count)), self.add(w, by))
    }

    fn read(&self) -> i128 {
        self.value()
    }

    fn expected(standing: &[Standing<'_>]) -> i128 {
        let total = total(standing);
        total.added - total.taken
    }
}

/// The count, and the rights of each replica.
impl Subject for BoundedCounter {
    type Read = (i128, Vec<i128>);

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let (kind, amount, to) = (dice.roll(3), dice.roll(5), REPLICAS[dice.roll(4) as usize]);
        let (units, mut count) = (i128::from(amount), Count::default());
        let change = match kind {
            0 => {
                count.added = units;
                self.add(w, amount.into())
            }
            1 => {
                count.taken = units;
                self.take(w, amount.into())
            }
            _ => {
                count.given.insert(to.0, units);
                self.give(w, to, amount.into())
            }
        };
        (intent([w.replica().0], What::Count(count)), change)
    }

    fn read(&self) -> Self::Read {
        let rights = REPLICAS.map(|replica| i128::from(self.rights(replica)));
        (self.value().try_into().expect("small"), rights.to_vec())
    }

    /// Neither the count nor any rights are cut off at 0 here: the model would show what goes below.
    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        let all = total(standing);
        let rights = REPLICAS.map(|replica| {
            let own: Vec<_> = standing.iter().filter(|write| write.path == [replica.0]).cloned().collect();
            let own = total(&own);
            let received = all.given.get(&replica.0).copied().unwrap_or(0);
            own.added + received - own.taken - own.given.values().sum::<i128>()
        });
        (all.added - all.taken, rights.to_vec())
    }
}

impl Subject for GSet<u8> {
    type Read = BTreeSet<u64>;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let element = dice.key();
        (intent([element.into()], What::Put(ADDED)), self.add(w, element))
    }

    fn read(&self) -> Self::Read {
        assert_eq!(self.len(), self.iter().len());
        self.iter().map(|element| u64::from(*element)).collect()
    }

    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        standing.iter().map(|write| write.path[0]).collect()
    }
}

impl Subject for AwSet<u8> {
    type Read = BTreeSet<u64>;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let (kind, element) = (dice.roll(5), dice.key());
        match kind {
            0 | 1 => (intent([element.into()], What::Kill), Ok(self.remove(&element))),
            _ => (intent([element.into()], What::Put(ADDED)), self.add(w, element)),
        }
    }

    fn read(&self) -> Self::Read {
        assert!((0..3).all(|element| self.contains(&element) == self.iter().any(|other| *other == element)));
        self.iter().map(|element| u64::from(*element)).collect()
    }

    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        standing.iter().map(|write| write.path[0]).collect()
    }
}

impl Subject for RwSet<u8> {
    type Read = BTreeSet<u64>;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let (kind, element) = (dice.roll(5), dice.key());
        match kind {
            0 | 1 => (intent([element.into()], What::Put(REMOVED)), self.remove(w, element)),
            _ => (intent([element.into()], What::Put(ADDED)), self.add(w, element)),
        }
    }

    fn read(&self) -> Self::Read {
        assert!((0..3).all(|element| self.contains(&element) == self.iter().any(|other| *other == element)));
        self.iter().map(|element| u64::from(*element)).collect()
    }

    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        let mut elements: BTreeSet<u64> = standing.iter().map(|write| write.path[0]).collect();
        for write in standing {
            if *write.what == What::Put(REMOVED) {
                elements.remove(&write.path[0]);
            }
        }
        elements
    }
}

impl<V: Subject + Nestable> Subject for OrMap<u8, V> {
    type Read = BTreeMap<u64, V::Read>;

    const COLLECTS_UNSEEN: bool = !V::LEAVES_MARKS;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let (kind, key) = (dice.roll(5), dice.key());
        if kind == 0 {
            return (intent([key.into()], What::Kill), Ok(self.remove(&key)));
        }
        let mut said = None;
        let change = self.update(w, key, |value, w| {
            let (inner, change) = value.act(w, dice);
            said = Some(inner);
            change
        });
        let Intent { mut path, what } = said.expect("the closure runs");
        path.insert(0, key.into());
        (Intent { path, what }, change)
    }

    fn read(&self) -> Self::Read {
        assert!(self.iter().all(|(_, value)| !value.is_bottom()));
        self.iter().map(|(key, value)| (u64::from(*key), value.read())).collect()
    }

    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        let mut below: BTreeMap<u64, Vec<Standing<'_>>> = BTreeMap::new();
        for write in standing {
            let rest = Standing { path: &write.path[1..], ..write.clone() };
            below.entry(write.path[0]).or_default().push(rest);
        }
        below.into_iter().map(|(key, standing)| (key, V::expected(&standing))).collect()
    }
}

impl Subject for OwnerMap<u8, u8> {
    type Read = BTreeMap<(u64, u64), (u64, u64)>;

    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>) {
        let (kind, key, value) = (dice.roll(6), dice.key(), dice.roll(3) as u8);
        let own = w.replica();
        match kind {
            0 => (intent([own.0, key.into()], What::Kill), self.remove(w, own, &key)),
            1 => {
                let owner = REPLICAS[dice.roll(4) as usize];
                (intent([owner.0], What::Kill), Ok(self.drop_owner(owner)))
            }
            _ => (intent([own.0, key.into()], What::Put(value.into())), self.put(w, key, value)),
        }
    }

    fn read(&self) -> Self::Read {
        let entry = |(owner, key, value): (ReplicaId, &u8, &u8)| {
            let version = self.version(owner, key).expect("the entry is there");
            assert_eq!(self.get(owner, key), Some(value));
            ((owner.0, u64::from(*key)), (u64::from(*value), version))
        };
        self.iter().map(entry).collect()
    }

    fn expected(standing: &[Standing<'_>]) -> Self::Read {
        let entries = standing.iter().filter_map(|write| match write.what {
            What::Put(value) => Some(((write.path[0], write.path[1]), (*value, write.dot.counter))),
            _ => None,
        });
        let entries: Vec<_> = entries.collect();
        let read: BTreeMap<_, _> = entries.iter().copied().collect();
        assert_eq!(read.len(), entries.len(), "an entry has one writer, who replaces what it wrote");
        read
    }
}
