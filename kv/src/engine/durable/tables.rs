//! In which of the library's keyspaces the records of a shard are, and under which keys.
//!
//! The shards of the store's own number of replicas are in one, with 2 bytes before each key. Those of all other classes are in
//! another, with 4, which is made when the first of them is written to: from then on the folder has a format that builds before
//! do not read.

use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use fjall::{Keyspace, Slice};
use polity_shard::{ShardCount, ShardId};

use crate::engine::EngineError;
use crate::layout::class_of;

/// What is before the key of a record, at most.
pub(super) const MAX_PREFIX_BYTES: usize = size_of::<u32>();
/// Up to this length a key is put together without an allocation.
const MAX_SHORT_KEY: usize = 128;
const _: () = assert!(ShardCount::MAX as usize <= 1 << u16::BITS, "every shard of a class fits into two bytes");

/// Makes the keyspace of the other classes.
type Make = dyn Fn() -> Result<Keyspace, EngineError> + Send + Sync;

/// Cheap to clone: they stay the same.
#[derive(Clone)]
pub(super) struct Tables {
    records: Keyspace,
    others: Arc<OnceLock<Keyspace>>,
    make: Arc<Make>,
}

impl Tables {
    /// Those of the store's own number of replicas, those of the others if there are any yet, and how they are made if not.
    pub(super) fn new(
        records: Keyspace,
        others: Option<Keyspace>,
        make: impl Fn() -> Result<Keyspace, EngineError> + Send + Sync + 'static,
    ) -> Self {
        Self { records, others: Arc::new(others.map_or_else(OnceLock::new, OnceLock::from)), make: Arc::new(make) }
    }

    /// Where the records of a shard are; nothing if none of its kind has ever been written.
    pub(super) fn of(&self, shard: ShardId) -> Option<&Keyspace> {
        if class_of(shard) == 0 { Some(&self.records) } else { self.others.get() }
    }

    /// The same to be written to. Called by one thread.
    pub(super) fn made_for(&self, shard: ShardId) -> Result<&Keyspace, EngineError> {
        if let Some(there) = self.of(shard) {
            return Ok(there);
        }
        let made = (self.make)()?;
        Ok(self.others.get_or_init(|| made))
    }

    /// The records of a shard whose keys are greater than `after`, as they are now.
    pub(super) fn scan(&self, shard: ShardId, after: Option<&[u8]>) -> impl Iterator<Item = fjall::Guard> + use<> {
        let from = match after {
            Some(after) => Bound::Excluded(key_of(shard, after)),
            None => Bound::Included(key_of(shard, &[])),
        };
        // The last shard of two bytes has none behind it.
        let next = key_of(ShardId(shard.0 + 1), &[]);
        let to = if next.len() == prefix_bytes(shard) { Bound::Excluded(next) } else { Bound::Unbounded };
        self.of(shard).map(|records| records.range::<Slice, _>((from, to))).into_iter().flatten()
    }
}

/// How many bytes are before the keys of a shard.
pub(super) const fn prefix_bytes(shard: ShardId) -> usize {
    if class_of(shard) == 0 { size_of::<u16>() } else { MAX_PREFIX_BYTES }
}

/// The library's key of a record.
pub(super) fn key_of(shard: ShardId, key: &[u8]) -> Slice {
    // Most keys are short, and the library copies what it is given.
    let mut short = [0; MAX_SHORT_KEY];
    let prefix = prefix_bytes(shard);
    let length = prefix + key.len();
    let mut long = Vec::new();
    let bytes = short.get_mut(..length).unwrap_or_else(|| {
        long.resize(length, 0);
        &mut long[..]
    });
    bytes[..prefix].copy_from_slice(&shard.0.to_be_bytes()[MAX_PREFIX_BYTES - prefix..]);
    bytes[prefix..].copy_from_slice(key);
    Slice::from(&*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key_of(ShardId(0x0102), b"k")[..], *b"\x01\x02k", "the format: docs/STORAGE.md");
        assert_eq!(key_of(ShardId(5 << 16 | 0x0102), b"k")[..], *b"\0\x05\x01\x02k", "the format: docs/STORAGE.md");
        let long = key_of(ShardId(0), &[7; 200]);
        assert_eq!((long.len(), &long[..3]), (202, &[0, 0, 7][..]));
    }
}
