//! Records in memory: gone when the process is.

mod table;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::PoisonError;

use polity_cluster::BoxFuture;
use polity_shard::{ShardCount, ShardId};

use self::table::Table;
use super::by_shard::ByShard;
use super::{Change, Commit, Engine, EngineError, Visit};
use crate::sync::RwLock;

/// Keeps every shard's records in memory, under a lock of its own. Nothing survives the process, and nothing is promised:
/// [`Engine::durable`] returns at once.
#[derive(Debug)]
pub struct MemoryEngine {
    shards: ByShard<RwLock<Table>>,
    meta: RwLock<BTreeMap<String, Vec<u8>>>,
}

impl MemoryEngine {
    /// An empty engine for a store of so many shards ([`KvConfig::shards`](crate::KvConfig::shards)).
    #[must_use]
    pub fn new(shards: ShardCount) -> Self {
        // Nobody who chooses keys knows where they go. Nothing that can be seen depends on it.
        let seed = RandomState::new().build_hasher().finish();
        Self { shards: ByShard::new(shards, move || RwLock::new(Table::new(seed))), meta: RwLock::default() }
    }

    fn shard(&self, shard: ShardId) -> &RwLock<Table> {
        self.shards.of(shard)
    }
}

impl Engine for MemoryEngine {
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let table = self.shard(shard).read().unwrap_or_else(PoisonError::into_inner);
        Ok(table.get(key).map(<[u8]>::to_vec))
    }

    fn write(&self, shard: ShardId, changes: &[Change<'_>]) -> Result<Commit, EngineError> {
        let mut table = self.shard(shard).write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Put { key, record } => table.put(key, record),
                Change::Remove { key } => table.remove(key),
            }
        }
        Ok(Commit::NONE)
    }

    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        let table = self.shard(shard).read().unwrap_or_else(PoisonError::into_inner);
        if table.is_in_order() {
            table.visit(after, visit);
            return Ok(());
        }
        drop(table);
        let mut table = self.shard(shard).write().unwrap_or_else(PoisonError::into_inner);
        table.settle_order();
        table.visit(after, visit);
        Ok(())
    }

    fn visit(&self, shard: ShardId, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        self.shard(shard).read().unwrap_or_else(PoisonError::into_inner).visit_all(visit);
        Ok(())
    }

    fn clear(&self, shard: ShardId) -> Result<Commit, EngineError> {
        self.shard(shard).write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(Commit::NONE)
    }

    fn durable(&self, _upto: Commit) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.meta.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }

    fn put_meta(&self, name: &str, value: &[u8]) -> Result<Commit, EngineError> {
        self.meta.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.to_vec());
        Ok(Commit::NONE)
    }
}
