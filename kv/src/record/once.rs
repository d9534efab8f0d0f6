//! Writes that are done once, however often they are asked for.
//!
//! A caller that does not know what became of a write asks for it again under the same [`IdempotencyKey`], and the record of the key
//! says whether the write is in it. So such a write asks a quorum first: what a quorum has acknowledged, every quorum knows.
//!
//! Two attempts that run at the same time, or on two sides of a split, do not know of each other, and both are applied. In a
//! counter they are one: what was added is part of the totals, beside which there is a mark of it ([`Added`], an element of an
//! add-wins set that has a dot of each replica that has added it), and what was added again does not count. Counters travel as a
//! whole, and a removal takes totals and marks, so one that has seen one attempt leaves the other. When the key is over, and it was
//! added once, whoever counts next forgets the mark. Of other kinds both attempts stay what they are: the same value twice, or an
//! element that is added, or removed, again.
//!
//! Traces are kept by time, not by who has heard of them: see `KvConfig::idempotency_window`.

use std::cmp::Reverse;
use std::time::Duration;

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{Dot, ReplicaId};
use serde::{Deserialize, Serialize};

use super::{Millis, NotARecord};

/// The most traces of one record before writes under other keys are refused.
pub(crate) const MAX_DONE: usize = 1024;

/// The most traces that a record may have: sides of a split do not know of each other's.
pub(crate) const MAX_TRACES: usize = 16 * MAX_DONE;

/// About the most bytes of a trace.
pub(crate) const TRACE_BYTES: usize = 64;

/// Names a write, and no other ever: asked for again under the same name, it takes effect once. See
/// [`Put::idempotency_key`](crate::Put::idempotency_key).
///
/// It has a time, from which on it counts for [`KvConfig::idempotency_window`](crate::KvConfig::idempotency_window): make it
/// when the write is asked for the first time, with [`Kv::idempotency_key`](crate::Kv::idempotency_key), and keep it until the
/// write has succeeded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The hash of what the caller calls it.
    id: u128,
    since: Millis,
}

impl IdempotencyKey {
    /// The key of this name, since a time after the Unix epoch. A name may be of any length, and stands for one write to one key of the
    /// store: another under it is taken for the same.
    #[must_use]
    pub fn new(name: impl AsRef<[u8]>, since: Duration) -> Self {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { id: xxhash_rust::xxh3::xxh3_128(name.as_ref()), since }
    }

    /// Since when it counts, after the Unix epoch, in milliseconds.
    #[must_use]
    pub fn since(&self) -> Duration {
        Duration::from_millis(self.since)
    }

    /// Whether it counts at a time: it is neither older nor newer than the window is long.
    pub(crate) fn counts_at(&self, now: Millis, window: Millis) -> bool {
        self.since.abs_diff(now) <= window
    }
}

/// What is added to a counter under an idempotency key: an element of a set, so all attempts are one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Added {
    pub(super) id: u128,
    pub(super) by: i64,
}

impl Added {
    pub(super) fn new(key: IdempotencyKey, by: i64, replica: ReplicaId) -> Self {
        let own = if mutated(Mutation::CountsTwice) { u128::from(replica.0) } else { 0 };
        Self { id: key.id ^ own, by }
    }
}

/// What a write under an idempotency key leaves in the record: which write of which replica it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Trace {
    id: u128,
    by: ReplicaId,
    /// The replica's count of its writes then; 0 if it put no causal value.
    count: u64,
    until: Millis,
}

impl Trace {
    /// Kept for twice the window, so that clocks may differ by as much as it is long.
    pub(super) fn new(key: IdempotencyKey, (by, count): (ReplicaId, u64), window: Millis) -> Self {
        Self { id: key.id, by, count, until: key.since.saturating_add(window.saturating_mul(2)) }
    }

    fn name(&self) -> (u128, ReplicaId, u64) {
        (self.id, self.by, self.count)
    }

    /// The write that put a causal value.
    pub(super) fn dot(&self) -> Option<Dot> {
        (self.count > 0).then_some(Dot { replica: self.by, counter: self.count })
    }
}

/// The traces of a record, by id, then by dot. One of each.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(super) struct Done(Vec<Trace>);

impl Done {
    /// Nothing, if there are no bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NotARecord> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (traces, rest): (Vec<Trace>, _) =
            postcard::take_from_bytes(bytes).map_err(|error| NotARecord(error.to_string()))?;
        let in_order = traces.windows(2).all(|pair| pair[0].name() < pair[1].name());
        if traces.is_empty() || traces.len() > MAX_TRACES || !in_order || !rest.is_empty() {
            return Err(NotARecord("the writes under idempotency keys are too many, or not in order".to_owned()));
        }
        Ok(Self(traces))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether something was done under the key of this id.
    pub(super) fn has(&self, id: u128) -> bool {
        self.0.binary_search_by_key(&id, |trace| trace.id).is_ok()
    }

    /// What was done under a key.
    pub(super) fn of(&self, key: IdempotencyKey) -> Option<&Trace> {
        let at = self.0.partition_point(|trace| trace.id < key.id);
        self.0.get(at).filter(|trace| trace.id == key.id)
    }

    /// Adds the trace of a key that has none yet.
    pub(super) fn insert(&mut self, trace: Trace) {
        let at = self.0.partition_point(|other| other.name() < trace.name());
        self.0.insert(at, trace);
    }

    /// Takes in those of another copy. Returns whether any was new.
    pub(super) fn merge(&mut self, other: Self) -> bool {
        if other.is_in(self) {
            return false;
        }
        self.0.extend(other.0);
        // Of two of one name the one that is kept for longer comes first.
        self.0.sort_unstable_by_key(|trace| (trace.name(), Reverse(trace.until)));
        self.0.dedup_by_key(|trace| trace.name());
        true
    }

    /// Whether another copy has all of these, and for as long.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        self.0.iter().all(|trace| match other.0.binary_search_by_key(&trace.name(), Trace::name) {
            Ok(at) => other.0[at].until >= trace.until,
            Err(_) => false,
        })
    }

    /// When the first of them has been kept for long enough.
    pub(super) fn next_end(&self) -> Option<Millis> {
        self.0.iter().map(|trace| trace.until).min()
    }

    /// Forgets those that have been kept for long enough. Returns whether there were any.
    pub(super) fn forget(&mut self, now: Millis) -> bool {
        let before = self.0.len();
        self.0.retain(|trace| trace.until > now);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Blob, Kind, Record, Refused, Step, Update, Writing, content, decode, encode};
    use super::*;
    use polity_crdt::Timestamp;
    use proptest::prelude::*;

    const WINDOW: Millis = 100;

    fn writing(replica: u64) -> Writing<'static> {
        let at = Timestamp { millis: 1, logical: 0 };
        Writing { replica: ReplicaId(replica), above: 0, context: None, at, window: WINDOW }
    }

    fn key(name: u16) -> IdempotencyKey {
        IdempotencyKey::new(name.to_le_bytes(), Duration::from_millis(10))
    }

    /// Adds without a key. Returns what others are told.
    fn told(record: &mut Record, replica: u64, by: i64) -> Record {
        let update = Update::of(Kind::Counter, vec![Step::Add(by)]);
        record.apply(&update, &writing(replica)).expect("room").delta.unwrap_or_else(|| record.clone())
    }

    /// The write of this name adds its number.
    fn add(record: &mut Record, replica: u64, name: u16) -> Record {
        let steps = vec![Step::Add(name.into())];
        let update = Update { once: Some(key(name)), ..Update::of(Kind::Counter, steps) };
        record.apply(&update, &writing(replica)).expect("room").delta.unwrap_or_else(|| record.clone())
    }

    fn put(record: &mut Record, replica: u64, name: u16, value: &str) -> polity_crdt::VersionVector {
        let value = Blob::from(value.as_bytes().to_vec());
        let update = Update { once: Some(key(name)), ..Update::put(Kind::Causal, Some(value)) };
        record.apply(&update, &writing(replica)).expect("room").context
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        let mut record = Record::default();
        add(&mut record, 1, 5);
        let before = record.clone();
        add(&mut record, 1, 5);
        add(&mut record, 2, 5);
        assert_eq!((&record, record.total()), (&before, 5));
        add(&mut record, 2, 7);
        assert_eq!(record.total(), 12);

        let mut record = Record::default();
        let first = put(&mut record, 1, 1, "a");
        put(&mut record, 1, 2, "b");
        let again = put(&mut record, 2, 1, "a");
        assert_eq!(record.values(), [&Blob::from(b"b".to_vec())], "not put again");
        assert_eq!(again, first, "it covers what was put then, and not what is there");
    }

    #[test]
    fn a_delete_of_nothing_is_remembered_too() {
        let mut record = Record::default();
        let delete = Update { once: Some(key(1)), ..Update::put(Kind::Causal, None) };
        record.apply(&delete, &writing(1)).expect("room");
        assert!(record.is_written() && !record.is_live());
        put(&mut record, 1, 2, "a");
        record.apply(&delete, &writing(2)).expect("room");
        assert!(record.is_live());
    }

    #[test]
    fn what_was_added_on_two_sides_counts_once_and_a_removal_takes_all_of_it() {
        let mut sides = [Record::default(), Record::default(), Record::default()];
        for (replica, side) in (1..).zip(&mut sides) {
            add(side, replica, 5);
            add(side, replica, 10 + replica as u16);
        }
        let [a, b, c] = sides;
        for order in [[&a, &b, &c], [&c, &b, &a], [&b, &a, &c], [&c, &a, &b]] {
            let mut all = Record::default();
            for side in order {
                all.merge(side.clone());
            }
            assert_eq!(all.total(), 5 + 11 + 12 + 13);
            let mut removed = all.clone();
            removed.clear();
            removed.merge(all);
            assert!(!removed.is_live() && removed.total() == 0);
        }
    }

    #[test]
    fn the_greatest_amounts_count_once_too() {
        for by in [i64::MIN, i64::MAX, -1] {
            let update = Update { once: Some(key(1)), ..Update::of(Kind::Counter, vec![Step::Add(by)]) };
            let mut sides = [Record::default(), Record::default()];
            for (replica, side) in (1..).zip(&mut sides) {
                side.apply(&update, &writing(replica)).expect("room");
            }
            let [mut all, other] = sides;
            all.merge(other);
            assert_eq!(all.total(), by.into());
        }
        let twice = vec![Step::Add(i64::MAX); 2];
        let update = Update { once: Some(key(1)), ..Update::of(Kind::Counter, twice) };
        let refused = Record::default().apply(&update, &writing(1));
        assert!(matches!(refused, Err(Refused::Exhausted(_))), "{refused:?}");
    }

    #[test]
    fn traces_go_when_their_time_is_over_and_do_not_count_as_a_difference() {
        let mut record = Record::default();
        add(&mut record, 1, 5);
        let bytes = encode(&record);
        assert_eq!((decode(&bytes), record.next_due(0)), (Ok(record.clone()), Some(10 + 2 * WINDOW)));
        assert!(!record.latch(10 + 2 * WINDOW - 1) && record.latch(10 + 2 * WINDOW));
        assert_eq!((record.next_due(0), encode(&record)), (None, content(&bytes).to_vec()));
        assert_eq!(content(&encode(&record)), encode(&record));

        let mut nothing = Record::default();
        let delete = Update { once: Some(key(1)), clears: true, ..Update::any() };
        nothing.apply(&delete, &writing(1)).expect("room");
        assert!(!nothing.is_tombstone(), "it may be asked for again");
        assert!(nothing.latch(u64::MAX) && nothing.next_due(0).is_none() && nothing.is_tombstone());
    }

    #[test]
    fn marks_of_keys_that_are_over_are_forgotten_but_for_what_was_added_twice() {
        let mut sides = [Record::default(), Record::default()];
        for (replica, side) in (1..).zip(&mut sides) {
            add(side, replica, 5);
            add(side, replica, 10 + replica as u16);
        }
        let [mut a, mut b] = sides;
        a.merge(b.clone());
        b.merge(a.clone());
        let length = encode(&a).len();
        for record in [&mut a, &mut b] {
            record.latch(1_000);
        }
        // One counts on, and the other hears of it by a delta.
        b.merge(told(&mut a, 1, 100));
        assert_eq!((a.total(), b.total()), (128, 128));
        a.merge(told(&mut b, 2, 100));
        assert_eq!((a.total(), &a), (228, &b));
        assert!(encode(&a).len() < length && a.parts.iter().all(|part| part.contexts()[2].replica_count() <= 2));
        let (mut removed, kept) = (a.clone(), a);
        removed.clear();
        removed.merge(kept);
        assert!(!removed.is_live());
    }

    /// One that has not heard of a delete counts on, long after the key was over: what was deleted stays deleted.
    #[test]
    fn what_was_added_under_a_key_does_not_come_back_after_a_delete() {
        for (before, again) in [(0, false), (7, false), (0, true), (7, true)] {
            let mut a = Record::default();
            told(&mut a, 1, before);
            add(&mut a, 1, 5);
            if again {
                let mut other = Record::default();
                add(&mut other, 2, 5);
                a.merge(other);
            }
            assert_eq!(a.total(), i128::from(before) + 5);
            let mut deleted = a.clone();
            deleted.clear();
            a.latch(1_000);
            let told = told(&mut a, 1, 1);
            let mut others = [deleted.clone(), deleted.clone()];
            others[0].merge(told);
            others[1].merge(a);
            for other in others {
                assert_eq!(other.total(), 1, "{before} {again}");
            }
        }
    }

    /// Of a keyed write of any kind nobody has heard; of the next write without a key another has. It has both then, or it would say that the
    /// first was done. Also if the next one adds nothing.
    #[test]
    fn who_has_the_trace_has_the_write() {
        let text = |text: &str| Blob::from(text.as_bytes().to_vec());
        let cases = [
            (Kind::Set, Step::Insert(text("x")), Step::Insert(text("y"))),
            (Kind::Map, Step::Set(text("x"), text("1")), Step::Set(text("y"), text("2"))),
            (Kind::Counter, Step::Add(5), Step::Add(1)),
            (Kind::Counter, Step::Add(5), Step::Add(0)),
        ];
        for (kind, first, second) in cases {
            let mut here = Record::default();
            here.apply(&Update { once: Some(key(1)), ..Update::of(kind, vec![first]) }, &writing(1)).expect("room");
            let delta = here.apply(&Update::of(kind, vec![second]), &writing(1)).expect("room").delta;
            let there = delta.unwrap_or_else(|| here.clone());
            assert_eq!(there, here, "{kind}");
        }
    }

    /// Whoever hears of a total hears of what of it was added under keys, also if only of a later one.
    #[test]
    fn an_attempt_that_was_not_heard_of_counts_once_with_the_next_addition() {
        let mut sides = [Record::default(), Record::default()];
        for (replica, side) in (1..).zip(&mut sides) {
            add(side, replica, 5);
        }
        let [mut a, mut b] = sides;
        let told = told(&mut b, 2, 1);
        let mut third = told.clone();
        assert_eq!(third.total(), 6);
        third.merge(a.clone());
        a.merge(told);
        assert_eq!((a.total(), third.total()), (6, 6));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut record = Record::default();
        for name in 0..MAX_DONE {
            add(&mut record, 1, name as u16);
        }
        let update = Update { once: Some(key(9_999)), ..Update::of(Kind::Counter, vec![Step::Add(1)]) };
        assert_eq!(record.apply(&update, &writing(1)), Err(Refused::TooManyKeys));
        add(&mut record, 1, 3);
        record.apply(&Update { once: None, ..update }, &writing(1)).expect("without a key there is");
    }

    #[test]
    fn traces_out_of_order_are_refused() {
        let trace = |id| Trace { id, by: ReplicaId(1), count: 1, until: 1 };
        for traces in [vec![trace(2), trace(1)], vec![trace(1), trace(1)], vec![]] {
            let bytes = postcard::to_allocvec(&traces).expect("encodes");
            assert!(Done::decode(&bytes).is_err(), "{traces:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Attempts on any of four replicas, whole records and deltas that arrive anywhere, in any order: in the end every write
        /// counts once; and what was removed by some who had seen an attempt once, or not at all.
        #[test]
        fn every_write_counts_once(deeds in prop::collection::vec((0..4usize, 0..4usize, 0..8u16), 0..40), removes in any::<bool>()) {
            let mut records = vec![Record::default(); 4];
            let mut done = std::collections::BTreeSet::new();
            for (at, other, name) in deeds {
                if name < 5 {
                    let delta = add(&mut records[at], at as u64 + 1, 1 << name);
                    done.insert(name);
                    if at != other {
                        records[other].merge(delta);
                    }
                } else if name == 5 && removes {
                    records[at].clear();
                } else {
                    let heard = records[other].clone();
                    records[at].merge(heard);
                }
            }
            let (mut all, mut back) = (Record::default(), Record::default());
            for (record, other) in records.iter().zip(records.iter().rev()) {
                all.merge(record.clone());
                back.merge(other.clone());
            }
            prop_assert_eq!(&all, &back);
            let expected: i128 = done.into_iter().map(|name| 1 << name).sum();
            if removes {
                // Each number is a bit of its own.
                prop_assert!(all.total() & !expected == 0, "{} of {}", all.total(), expected);
            } else {
                prop_assert_eq!(all.total(), expected);
            }
        }

        /// When all keys are over and all have heard of them, marks are forgotten, and nothing counts more or less because of that,
        /// whoever counts on at the same time and hears of what later.
        #[test]
        fn what_is_over_is_still_counted_once(
            keyed in prop::collection::vec((0..4usize, 0..5u16), 0..12),
            deeds in prop::collection::vec((0..4usize, 0..4usize, any::<bool>()), 0..30),
        ) {
            let mut records = vec![Record::default(); 4];
            for (at, name) in &keyed {
                add(&mut records[*at], *at as u64 + 1, 1 << name);
            }
            let mut all = Record::default();
            for record in &records {
                all.merge(record.clone());
            }
            let mut expected = all.total();
            all.latch(10 + 2 * WINDOW);
            records.fill(all.clone());
            for (at, other, counts) in deeds {
                let heard = if counts {
                    expected += 1000;
                    told(&mut records[at], at as u64 + 1, 1000)
                } else {
                    records[at].clone()
                };
                records[other].merge(heard);
            }
            for record in records {
                all.merge(record);
            }
            prop_assert_eq!(all.total(), expected);
        }

        /// Deletes on both sides that have seen one attempt each leave nothing, and nothing less.
        #[test]
        fn what_two_deletes_have_removed_is_not_taken_back(sides in 2..5usize) {
            let mut all = Record::default();
            for replica in 0..sides {
                let mut side = Record::default();
                add(&mut side, replica as u64 + 1, 5);
                side.clear();
                all.merge(side);
            }
            prop_assert!(all.total() == 0 && !all.is_live());
        }
    }
}
