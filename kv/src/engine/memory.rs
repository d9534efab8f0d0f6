//! Records in memory: gone when the process is.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::PoisonError;

use polity_shard::{ShardCount, ShardId};

use super::{Engine, EngineError, Visit};
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

type Records = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Keeps every shard's records in an ordered map under a lock of its own.
#[derive(Debug)]
pub struct MemoryEngine {
    shards: Vec<RwLock<Records>>,
}

impl MemoryEngine {
    /// An empty engine for a store of so many shards.
    #[must_use]
    pub fn new(shards: ShardCount) -> Self {
        Self { shards: (0..shards.get()).map(|_| RwLock::default()).collect() }
    }

    fn read(&self, shard: ShardId) -> RwLockReadGuard<'_, Records> {
        self.shards[shard.0 as usize].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: ShardId) -> RwLockWriteGuard<'_, Records> {
        self.shards[shard.0 as usize].write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.read(shard).get(key).map(|record| record.to_vec()))
    }

    fn store(&self, shard: ShardId, key: &[u8], record: &[u8]) -> Result<(), EngineError> {
        let mut records = self.write(shard);
        if let Some(old) = records.get_mut(key) {
            *old = record.into();
        } else {
            records.insert(key.into(), record.into());
        }
        Ok(())
    }

    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, record) in self.read(shard).range::<[u8], _>((from, Bound::Unbounded)) {
            if visit(key, record) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self, shard: ShardId) -> Result<(), EngineError> {
        self.write(shard).clear();
        Ok(())
    }
}
