//! Stores under keys: what sets and maps are made of.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use super::few::Few;
use super::{Crdt, Delta, Key, Observer, Visitor, sealed};
use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;
use crate::{Dot, VersionVector};

/// Stores under keys. A key is there while something under it is live.
#[derive(Clone, PartialEq, Debug)]
pub struct DotMap<K, S> {
    entries: BTreeMap<K, S>,
}

impl<K, S> Default for DotMap<K, S> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K: Ord, S> DotMap<K, S> {
    /// The store under a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&S>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key)
    }

    /// A key as it is kept, and the store under it.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &S)>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get_key_value(key)
    }

    /// All keys with their stores, in the order of keys.
    pub fn iter(&self) -> std::collections::btree_map::Iter<'_, K, S> {
        self.entries.iter()
    }

    /// The keys within a range with their stores, in order.
    pub fn range<R: std::ops::RangeBounds<K>>(&self, range: R) -> std::collections::btree_map::Range<'_, K, S> {
        self.entries.range(range)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// From so many keys on, and a quarter of those that are there, a delta is joined in one pass over both.
const MANY: usize = 64;

impl<K: Key, S: Crdt> DotMap<K, S> {
    /// Joins parts in the order of their keys, in one pass over both.
    fn apply_many(&mut self, parts: Vec<(K, S::Delta)>, seen: &VersionVector, observe: Observer<'_, K>) {
        let mut joined = Vec::with_capacity(self.entries.len() + parts.len());
        let mut entries = std::mem::take(&mut self.entries).into_iter().peekable();
        for (key, part) in parts {
            while let Some(entry) = entries.next_if(|(other, _)| *other < key) {
                joined.push(entry);
            }
            let mut store = entries.next_if(|(other, _)| *other == key).map(|(_, store)| store).unwrap_or_default();
            store.apply(part, seen, &mut |_, dot, fate| observe(&key, dot, fate));
            if !store.is_bottom() {
                joined.push((key, store));
            }
        }
        joined.extend(entries);
        // From a sorted list a tree is made without comparing its way down for each key, and its nodes are full.
        self.entries = joined.into_iter().collect();
    }
}

impl<K, S> sealed::Sealed for DotMap<K, S> {}

impl<K: Key, S: Crdt> Crdt for DotMap<K, S> {
    type Key = K;
    type Delta = DotMapDelta<K, S::Delta>;

    fn is_bottom(&self) -> bool {
        self.entries.is_empty()
    }

    fn apply(&mut self, delta: Self::Delta, seen: &VersionVector, observe: Observer<'_, K>) {
        // Only what has been seen can be live, and most of what is dead was not: then there is nothing to look for.
        let lost = delta.dead.intersection(seen);
        if !lost.is_empty() {
            self.strike(&lost, observe);
        }
        if delta.len() >= MANY && delta.len() >= self.entries.len() / 4 {
            return self.apply_many(delta.entries.into_vec(), seen, observe);
        }
        for (key, part) in delta.entries {
            match self.entries.entry(key) {
                Entry::Occupied(mut entry) => {
                    let (key, store) = (entry.key().clone(), entry.get_mut());
                    store.apply(part, seen, &mut |_, dot, fate| observe(&key, dot, fate));
                    if store.is_bottom() {
                        entry.remove();
                    }
                }
                Entry::Vacant(entry) => {
                    let mut store = S::default();
                    store.apply(part, seen, &mut |_, dot, fate| observe(entry.key(), dot, fate));
                    if !store.is_bottom() {
                        entry.insert(store);
                    }
                }
            }
        }
    }

    fn strike(&mut self, dots: &VersionVector, observe: Observer<'_, K>) {
        self.entries.retain(|key, store| {
            store.strike(dots, &mut |_, dot, fate| observe(key, dot, fate));
            !store.is_bottom()
        });
    }

    fn visit(&self, from: Bound<&K>, visit: Visitor<'_, K>) {
        let mut dots = Vec::new();
        for (key, store) in self.entries.range((from, Bound::Unbounded)) {
            store.visit(Bound::Unbounded, &mut |_, inner| {
                dots.extend(inner);
                true
            });
            if !visit(key, &mut dots.drain(..)) {
                return;
            }
        }
    }

    fn pick(&self, wanted: Vec<(K, VersionVector)>) -> Self::Delta {
        let entries = wanted.into_iter().map(|(key, dots)| {
            let mut part = self.entries.get(&key).map(|store| store.restrict(&dots)).unwrap_or_default();
            let mut live = 0;
            part.visit_live(&mut |_| live += 1);
            if live < dots.dot_count() {
                let dead = dots.difference(&part.live());
                part.kill(&dead);
            }
            (key, part)
        });
        DotMapDelta::of(entries.collect())
    }

    fn restrict(&self, dots: &VersionVector) -> Self::Delta {
        let parts = self.entries.iter().map(|(key, store)| (key, store.restrict(dots)));
        let entries = parts.filter(|(_, part)| !part.is_empty()).map(|(key, part)| (key.clone(), part)).collect();
        DotMapDelta { entries, dead: VersionVector::new() }
    }

    fn everything(&self) -> Self::Delta {
        let entries = self.entries.iter().map(|(key, store)| (key.clone(), store.everything())).collect();
        DotMapDelta { entries, dead: VersionVector::new() }
    }
}

/// What became of some dots of a [`DotMap`].
#[derive(Clone, PartialEq, Debug)]
pub struct DotMapDelta<K, D> {
    /// Sorted by key; no key is there twice, and none without a claim.
    entries: Few<(K, D)>,
    /// Dots that are dead, wherever they were.
    dead: VersionVector,
}

impl<K, D> Default for DotMapDelta<K, D> {
    fn default() -> Self {
        Self { entries: Few::None, dead: VersionVector::new() }
    }
}

impl<K: Key, D: Delta> DotMapDelta<K, D> {
    /// The delta that says this of one key.
    pub(crate) fn at(key: K, part: D) -> Self {
        Self { entries: Few::One((key, part)), dead: VersionVector::new() }
    }

    /// From entries in any order.
    pub(crate) fn of(mut entries: Vec<(K, D)>) -> Self {
        entries.retain(|(_, part)| !part.is_empty());
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(later, part), (key, kept)| {
            let same = later == key;
            if same {
                kept.join(std::mem::take(part));
            }
            same
        });
        Self { entries: entries.into(), dead: VersionVector::new() }
    }

    /// The keys of which it says something where they are, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> {
        self.entries.as_slice().iter().map(|(key, _)| key)
    }

    /// How many keys those are.
    fn len(&self) -> usize {
        self.entries.as_slice().len()
    }

    fn live_below(&self) -> VersionVector {
        if self.dead.is_empty() { VersionVector::new() } else { self.live() }
    }
}

impl<K, D> sealed::Sealed for DotMapDelta<K, D> {}

/// No dots are dead on this level.
const NO_DEAD: u64 = 0;
/// The dead dots follow.
const DEAD: u64 = 1;
/// The live and the dead dots follow together: fewer intervals, where live dots lie between dead ones.
const BOTH: u64 = 2;

impl<K: Key, D: Delta> Delta for DotMapDelta<K, D> {
    fn is_empty(&self) -> bool {
        self.len() == 0 && self.dead.is_empty()
    }

    fn visit_live(&self, visit: &mut dyn FnMut(Dot)) {
        self.entries.as_slice().iter().for_each(|(_, part)| part.visit_live(visit));
    }

    fn visit_dead(&self, visit: &mut dyn FnMut(&VersionVector)) {
        visit(&self.dead);
        self.entries.as_slice().iter().for_each(|(_, part)| part.visit_dead(visit));
    }

    fn kill(&mut self, dots: &VersionVector) {
        self.withdraw(dots);
        self.dead.merge(dots);
    }

    fn withdraw(&mut self, dots: &VersionVector) {
        self.entries.retain_mut(|(_, part)| {
            part.withdraw(dots);
            !part.is_empty()
        });
    }

    fn unite(&mut self, other: Self) {
        self.dead.merge(&other.dead);
        if other.len() == 0 {
            return;
        }
        let mut entries = Vec::with_capacity(self.len() + other.len());
        let (mut left, mut right) =
            (std::mem::take(&mut self.entries).into_iter().peekable(), other.entries.into_iter());
        let mut next = right.next();
        while let Some((key, mut part)) = next.take() {
            while let Some(entry) = left.next_if(|(other, _)| *other < key) {
                entries.push(entry);
            }
            if let Some((_, mut mine)) = left.next_if(|(other, _)| *other == key) {
                mine.unite(part);
                part = mine;
            }
            entries.push((key, part));
            next = right.next();
        }
        entries.extend(left);
        self.entries = entries.into();
    }

    fn split_live(self, into: &mut Vec<Self>) {
        for (key, part) in self.entries {
            let mut parts = Vec::new();
            part.split_live(&mut parts);
            into.extend(parts.into_iter().map(|part| Self::at(key.clone(), part)));
        }
    }

    fn encode_part(&self, to: &mut Encoder) {
        let mut both = self.live_below();
        both.merge(&self.dead);
        let form = match () {
            () if self.dead.is_empty() => NO_DEAD,
            () if both.interval_count() < self.dead.interval_count() => BOTH,
            () => DEAD,
        };
        to.number((self.len() as u64) << 2 | form);
        match form {
            NO_DEAD => {}
            BOTH => to.dots(&both),
            _ => to.dots(&self.dead),
        }
        for (key, part) in self.entries.as_slice() {
            to.content(key);
            part.encode_part(to);
        }
    }

    fn decode_part(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let header = from.number()?;
        let form = header & 3;
        let dots = match form {
            NO_DEAD => VersionVector::new(),
            DEAD | BOTH => from.dots()?,
            _ => return Err(DecodeError::Tag),
        };
        let count = from.fits(header >> 2)?;
        let mut entries: Vec<(K, D)> = Vec::new();
        for _ in 0..count {
            let key = from.content()?;
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Order);
            }
            let part = D::decode_part(from)?;
            if part.is_empty() {
                return Err(DecodeError::Order);
            }
            entries.push((key, part));
        }
        let mut delta = Self { entries: entries.into(), dead: VersionVector::new() };
        if form != NO_DEAD {
            let live = delta.live();
            let (dead, both) = if form == DEAD {
                let mut both = live;
                both.merge(&dots);
                (dots, both)
            } else {
                (dots.difference(&live), dots)
            };
            let shortest = both.interval_count() < dead.interval_count();
            if dead.is_empty() || shortest != (form == BOTH) || form == BOTH && !both.covers(&delta.live()) {
                return Err(DecodeError::Order);
            }
            delta.dead = dead;
        }
        Ok(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Fate;
    use crate::{AwSet, Replica, ReplicaId};

    /// A replica that has added some numbers and removed some of those.
    fn replica(id: u64, added: impl Iterator<Item = u64>, removed: impl Fn(u64) -> bool) -> Replica<AwSet<u64>> {
        let mut replica = Replica::<AwSet<u64>>::new(ReplicaId(id));
        for number in added {
            replica.update(|set, w| set.add(w, number)).expect("room");
            if removed(number) {
                replica.update(|set, _| Ok(set.remove(&number))).expect("no dot is needed");
            }
        }
        replica
    }

    #[test]
    fn a_large_delta_does_what_its_parts_do() {
        for (step, offset) in [(1, 0), (3, 1), (7, 250), (1, 1_000)] {
            let here = replica(1, 0..300, |number| number % 5 == 0);
            let mut there = replica(2, (0..300).map(|number| offset + number * step), |number| number % 4 == 0);
            // What is removed here was seen there, and the other way round.
            there.merge(here.full());
            for number in (0..300).step_by(3) {
                there.update(|set, _| Ok(set.remove(&number))).expect("no dot is needed");
            }
            let delta = there.full();
            assert!(delta.keys().len() >= MANY);
            let (mut at_once, mut in_parts) = (here.clone(), here);
            let mut moves = [Vec::new(), Vec::new()];
            at_once.merge_with(delta.clone(), &mut |key, dot, fate| moves[0].push((*key, dot, fate == Fate::Came)));
            for part in delta.decompose() {
                in_parts.merge_with(part, &mut |key, dot, fate| moves[1].push((*key, dot, fate == Fate::Came)));
            }
            moves.iter_mut().for_each(|moves| moves.sort_unstable());
            assert_eq!(moves[0], moves[1]);
            assert!(at_once == in_parts && at_once == there);
        }
    }
}
