//! Where records are kept.
//!
//! An engine stores opaque records by shard and key. It knows nothing of versions, replicas or time; the store above it
//! reads a record, merges, and writes it back, one shard at a time: for one shard, no two calls that write overlap.

mod memory;

use std::fmt::Debug;
use std::ops::ControlFlow;

use polity_shard::ShardId;

pub use memory::MemoryEngine;

/// Why an engine could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the storage engine failed while it {action}: {cause}")]
pub struct EngineError {
    /// What it was doing.
    pub action: &'static str,
    /// What went wrong.
    pub cause: String,
}

/// What a scan does with one record; breaking ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Keeps records by shard and key.
///
/// When [`Engine::store`] has returned, every later [`Engine::load`] of this process sees the record. An engine that
/// promises more (to survive a crash) says so in its own documentation.
pub trait Engine: Debug + Send + Sync + 'static {
    /// The record of a key.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Replaces the record of a key.
    ///
    /// # Errors
    /// [`EngineError`]; the key has its old record or the new one.
    fn store(&self, shard: ShardId, key: &[u8], record: &[u8]) -> Result<(), EngineError>;

    /// Visits the records of a shard whose keys are greater than `after`, by rising key.
    ///
    /// # Errors
    /// [`EngineError`]; some records may have been visited.
    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError>;

    /// Removes all records of a shard.
    ///
    /// # Errors
    /// [`EngineError`]; some records may be gone.
    fn clear(&self, shard: ShardId) -> Result<(), EngineError>;
}
