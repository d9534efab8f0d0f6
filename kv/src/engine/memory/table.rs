//! The records of one shard in memory: found by hash, visited in order.
//!
//! A lookup in an ordered tree reads a dozen keys that lie all over memory; one by hash reads one. So records are found
//! through an open hash table of their places. Their order is needed by scans only, and is made then: `order` names the
//! places by rising key, except for those that were added since the last scan, which are `fresh`. Key and record share one
//! allocation.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::Visit;

/// A slot that names no place.
const EMPTY: u64 = u64::MAX;
/// At most 3 of 4 slots are used: beyond that, runs of used slots grow fast.
const MAX_LOAD: (usize, usize) = (3, 4);
/// The smallest table that is not empty.
const MIN_SLOTS: usize = 8;

/// The records of one shard.
#[derive(Debug, Default)]
pub(super) struct Table {
    seed: u64,
    /// The high half of a key's hash, and the place of its entry. A power of two of them, or none.
    slots: Vec<u64>,
    entries: Vec<Entry>,
    /// Places by rising key.
    order: Vec<u32>,
    /// Places that are not in the order yet.
    fresh: Vec<u32>,
}

/// A key and its record: the key's length in 4 bytes, the key, the record.
#[derive(Debug)]
struct Entry(Box<[u8]>);

const HEADER: usize = size_of::<u32>();

impl Entry {
    fn new(key: &[u8], record: &[u8]) -> Self {
        let length = u32::try_from(key.len()).expect("a key has less than 4 GiB");
        let mut bytes = Vec::with_capacity(HEADER + key.len() + record.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(record);
        Self(bytes.into_boxed_slice())
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let (header, rest) = self.0.split_first_chunk::<HEADER>().expect("an entry has a header");
        rest.split_at(u32::from_le_bytes(*header) as usize)
    }

    fn key(&self) -> &[u8] {
        self.split().0
    }

    fn record_mut(&mut self) -> &mut [u8] {
        let begin = HEADER + self.key().len();
        &mut self.0[begin..]
    }
}

impl Table {
    /// An empty table whose hashes begin with `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, place) = self.find(self.hash(key), key)?;
        Some(self.entries[place].split().1)
    }

    pub(super) fn put(&mut self, key: &[u8], record: &[u8]) {
        let hash = self.hash(key);
        if let Some((_, place)) = self.find(hash, key) {
            let entry = &mut self.entries[place];
            let old = entry.record_mut();
            if old.len() == record.len() {
                old.copy_from_slice(record);
            } else {
                *entry = Entry::new(key, record);
            }
            return;
        }
        if (self.entries.len() + 1) * MAX_LOAD.1 > self.slots.len() * MAX_LOAD.0 {
            self.grow();
        }
        let place = u32::try_from(self.entries.len()).expect("a shard has less than 2^32 records");
        self.entries.push(Entry::new(key, record));
        self.fresh.push(place);
        self.occupy(hash, place);
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        let Some((slot, place)) = self.find(self.hash(key), key) else { return };
        self.settle_order();
        let rank = self.rank(key).expect("every place is in the order");
        self.order.remove(rank);
        self.vacate(slot);
        // The last entry takes the place that is free now.
        let last = self.entries.len() - 1;
        if place != last {
            let moved = self.entries[last].key();
            let (slot, _) = self.find(self.hash(moved), moved).expect("every entry has a slot");
            let rank = self.rank(moved).expect("every place is in the order");
            self.slots[slot] = self.slots[slot] & !u64::from(u32::MAX) | place as u64;
            self.order[rank] = place as u32;
        }
        self.entries.swap_remove(place);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.seed);
    }

    /// Whether a scan can do without [`Table::settle_order`].
    pub(super) fn is_in_order(&self) -> bool {
        self.fresh.is_empty()
    }

    /// Brings what was added since the last scan into the order.
    pub(super) fn settle_order(&mut self) {
        let entries = &self.entries;
        let key = |place: &u32| entries[*place as usize].key();
        self.fresh.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        let old = self.order.len();
        self.order.append(&mut self.fresh);
        self.fresh.shrink_to(0);
        if old > 0 && old < self.order.len() {
            // Two sorted runs: a stable sort merges them.
            self.order.sort_by(|a, b| key(a).cmp(key(b)));
        }
    }

    /// Visits by rising key. Only what is in the order is visited.
    pub(super) fn visit(&self, after: Option<&[u8]>, visit: &mut Visit<'_>) {
        let from =
            after.map_or(0, |after| self.order.partition_point(|place| self.entries[*place as usize].key() <= after));
        for place in &self.order[from..] {
            let (key, record) = self.entries[*place as usize].split();
            if visit(key, record) == ControlFlow::Break(()) {
                break;
            }
        }
    }

    /// Visits all in no order: mostly as they lie in memory, which takes a fraction of the time.
    pub(super) fn visit_all(&self, visit: &mut Visit<'_>) {
        for entry in &self.entries {
            let (key, record) = entry.split();
            if visit(key, record) == ControlFlow::Break(()) {
                break;
            }
        }
    }

    fn rank(&self, key: &[u8]) -> Option<usize> {
        self.order.binary_search_by(|place| self.entries[*place as usize].key().cmp(key)).ok()
    }

    // ---- slots ----------------------------------------------------------------------------------------------------

    fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    /// Where the search for a hash begins. The high half is in the slot, so that a slot says where its own search began.
    fn home(&self, high: u64) -> usize {
        (high >> 32) as usize & (self.slots.len() - 1)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<(usize, usize)> {
        if self.slots.is_empty() {
            return None;
        }
        let mut slot = self.home(hash);
        loop {
            let found = self.slots[slot];
            if found == EMPTY {
                return None;
            }
            let place = found as u32 as usize;
            if found >> 32 == hash >> 32 && self.entries[place].key() == key {
                return Some((slot, place));
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    fn occupy(&mut self, hash: u64, place: u32) {
        let mut slot = self.home(hash);
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = hash & !u64::from(u32::MAX) | u64::from(place);
    }

    /// Frees a slot, and moves into it whatever could not be found past a free slot.
    fn vacate(&mut self, mut free: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = free;
        loop {
            slot = (slot + 1) & mask;
            if self.slots[slot] == EMPTY {
                break;
            }
            let from_home = slot.wrapping_sub(self.home(self.slots[slot])) & mask;
            if from_home >= slot.wrapping_sub(free) & mask {
                self.slots[free] = self.slots[slot];
                free = slot;
            }
        }
        self.slots[free] = EMPTY;
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(MIN_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        for slot in old.into_iter().filter(|slot| *slot != EMPTY) {
            self.occupy(slot, slot as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn content(table: &mut Table, after: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        table.settle_order();
        table.visit(after, &mut |key, record| {
            all.push((key.to_vec(), record.to_vec()));
            ControlFlow::Continue(())
        });
        all
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u16, Vec<u8>),
        Remove(u16),
        Scan(u16),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (0..300u16, prop::collection::vec(any::<u8>(), 0..5)).prop_map(|(key, record)| Step::Put(key, record)),
            6 => (0..300u16).prop_map(Step::Remove),
            2 => (0..300u16).prop_map(Step::Scan),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn does_what_an_ordered_map_does(seed: u64, steps in prop::collection::vec(step(), 0..600)) {
            let (mut table, mut map) = (Table::new(seed), BTreeMap::<Vec<u8>, Vec<u8>>::new());
            for step in steps {
                match step {
                    Step::Put(key, record) => {
                        table.put(&key.to_be_bytes(), &record);
                        map.insert(key.to_be_bytes().to_vec(), record);
                    }
                    Step::Remove(key) => {
                        table.remove(&key.to_be_bytes());
                        map.remove(&key.to_be_bytes()[..]);
                    }
                    Step::Scan(after) => {
                        let after = after.to_be_bytes().to_vec();
                        let expected = map.iter().filter(|(key, _)| **key > after);
                        let expected: Vec<_> = expected.map(|(key, record)| (key.clone(), record.clone())).collect();
                        prop_assert_eq!(content(&mut table, Some(&after)), expected);
                    }
                    Step::Clear => {
                        table.clear();
                        map.clear();
                    }
                }
                for key in (0..300u16).step_by(7) {
                    let key = key.to_be_bytes();
                    prop_assert_eq!(table.get(&key), map.get(&key[..]).map(|record| &record[..]));
                }
            }
            prop_assert_eq!(content(&mut table, None), map.into_iter().collect::<Vec<_>>());
        }
    }
}
