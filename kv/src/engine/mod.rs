//! Where records are kept.
//!
//! An engine stores opaque records by shard and key. It knows nothing of versions, replicas or time; the store above it
//! reads a record, merges, and writes it back, one shard at a time: for one shard, no two calls that write overlap.
//!
//! Writing and surviving are two steps. A call that writes is quick, never waits for a disk, and returns a [`Commit`];
//! [`Engine::durable`] waits until all that was written up to a commit survives a power cut. The store writes under its
//! lock and waits outside of it, so that all who wait at one time share one sync of the disk.
//!
//! | engine | what survives | where |
//! |---|---|---|
//! | [`MemoryEngine`] | nothing | memory |
//! | `DurableEngine` (feature `durable`) | what was durable | a folder |
//! | `FaultyEngine` (feature `turmoil`) | what was durable, if the test lets it | a simulated disk |
//!
//! An engine of your own is tested by [`conformance::check`].

mod by_shard;
pub mod conformance;
#[cfg(feature = "durable")]
pub mod durable;
mod error;
#[cfg(feature = "turmoil")]
pub mod faulty;
mod memory;

use std::fmt::Debug;
use std::ops::ControlFlow;

use polity_cluster::BoxFuture;
use polity_shard::ShardId;

#[cfg(feature = "durable")]
pub use durable::DurableEngine;
pub use error::EngineError;
#[cfg(feature = "turmoil")]
pub use faulty::{Disk, FaultyEngine};
pub use memory::MemoryEngine;

/// What a scan does with one record; breaking ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A point in the order in which one engine was written to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Commit(pub u64);

impl Commit {
    /// Before all: there is nothing to wait for. An engine that promises no durability returns it always.
    pub const NONE: Self = Self(0);
}

/// One change of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// Replaces the record of a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its record from now on.
        record: &'a [u8],
    },
    /// Removes the record of a key, if there is one.
    Remove {
        /// The key.
        key: &'a [u8],
    },
}

/// Keeps records by shard and key, and a few values by name.
///
/// A store with [`KvConfig::shards`](crate::KvConfig::shards) shards has those from 0 on, and, for buckets with another number
/// of replicas, n, as many from n · 2^16 on. An engine on disk that holds some of these is asked for them also when no such
/// bucket is declared any more.
///
/// When a call that writes has returned, every later [`Engine::load`] and [`Engine::scan`] of this process sees what it
/// wrote. After a crash of the process or of the machine an engine holds what was written up to some commit that is not
/// before any for which [`Engine::durable`] has returned, and nothing else; a batch is there as a whole or not at all. An
/// engine that promises less says so in its own documentation.
pub trait Engine: Debug + Send + Sync + 'static {
    /// The record of a key.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Makes all of these changes in one shard, in this order, or none of them. Does not wait for a disk.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn write(&self, shard: ShardId, changes: &[Change<'_>]) -> Result<Commit, EngineError>;

    /// Replaces the record of a key. Does not wait for a disk.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn store(&self, shard: ShardId, key: &[u8], record: &[u8]) -> Result<Commit, EngineError> {
        self.write(shard, &[Change::Put { key, record }])
    }

    /// Visits the records of a shard whose keys are greater than `after`, by rising key, as they were at one moment
    /// during the call. The visitor must not write to this engine.
    ///
    /// # Errors
    /// [`EngineError`]; some records may have been visited.
    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError>;

    /// Visits all records of a shard in any order, as they were at one moment during the call. The visitor must not write to
    /// this engine.
    ///
    /// # Errors
    /// [`EngineError`]; some records may have been visited.
    fn visit(&self, shard: ShardId, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        self.scan(shard, None, visit)
    }

    /// Removes all records of a shard. Does not wait for a disk. After a crash before it is durable, some of them may be
    /// gone and others not.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn clear(&self, shard: ShardId) -> Result<Commit, EngineError>;

    /// Waits until everything up to a commit survives a power cut. Cancel safe: the disk is synced all the same.
    ///
    /// # Errors
    /// [`EngineError`]: it is not known what of it survives.
    fn durable(&self, upto: Commit) -> BoxFuture<'_, Result<(), EngineError>>;

    /// A value that was kept under a name.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError>;

    /// Keeps a small value under a name, beside all records: [`Engine::clear`] does not touch it. Does not wait for a
    /// disk.
    ///
    /// # Errors
    /// [`EngineError`]; nothing changed.
    fn put_meta(&self, name: &str, value: &[u8]) -> Result<Commit, EngineError>;

    /// Whether anything of it outlives its process. If not, its commits are all [`Commit::NONE`], and the store does not
    /// keep in it what only a later boot would read.
    fn is_durable(&self) -> bool {
        true
    }

    /// The longest key that it takes.
    fn max_key_bytes(&self) -> usize {
        usize::MAX
    }

    /// Why it takes nothing more until it is opened anew, if so.
    fn failure(&self) -> Option<EngineError> {
        None
    }

    /// What was found damaged when it was opened, and what became of it, for people: it began with less than it had held.
    fn damage(&self) -> Option<&str> {
        None
    }
}
