//! What of one shard has been written and is not in the tables yet.

use std::collections::BTreeMap;
use std::ops::Bound;

use fjall::Slice;

use crate::engine::Commit;

/// A key as the library has it, with its shard. Its bytes are shared.
pub(super) type Key = Slice;
/// `None`: the key is removed.
pub(super) type Value = Option<Slice>;

/// The newest change of each key that waits.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: BTreeMap<Key, (Commit, Value)>,
    /// The newest clearing that waits: nothing that is in the tables now counts.
    cleared: Option<Commit>,
}

/// What waits for a key.
pub(super) enum Found {
    Record(Slice),
    Gone,
    /// Nothing: what the tables have counts.
    Below,
}

impl Pending {
    pub(super) fn get(&self, key: &[u8]) -> Found {
        match self.changes.get(key) {
            Some((_, Some(record))) => Found::Record(record.clone()),
            Some((_, None)) => Found::Gone,
            None if self.cleared.is_some() => Found::Gone,
            None => Found::Below,
        }
    }

    pub(super) fn is_cleared(&self) -> bool {
        self.cleared.is_some()
    }

    /// What waits for keys that are greater, by rising key.
    pub(super) fn after(&self, after: Option<&[u8]>) -> Vec<(Key, Value)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.changes.range::<[u8], _>((from, Bound::Unbounded));
        range.map(|(key, (_, value))| (key.clone(), value.clone())).collect()
    }

    pub(super) fn change(&mut self, at: Commit, key: Key, value: Value) {
        self.changes.insert(key, (at, value));
    }

    pub(super) fn clear(&mut self, at: Commit) {
        self.changes.clear();
        self.cleared = Some(at);
    }

    /// The change of a key that was made at this commit is in the tables now.
    pub(super) fn settle(&mut self, at: Commit, key: &[u8]) {
        if self.changes.get(key).is_some_and(|(newest, _)| *newest == at) {
            self.changes.remove(key);
        }
    }

    pub(super) fn settle_clear(&mut self, at: Commit) {
        if self.cleared == Some(at) {
            self.cleared = None;
        }
    }
}
