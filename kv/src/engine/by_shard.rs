//! One of something for each shard that an engine is asked about.

use std::fmt;
use std::sync::OnceLock;

use polity_shard::{ShardCount, ShardId};

use crate::layout::{MAX_CLASSES, class_of, index_of};

/// Those of a class are made when the first of them is asked for.
pub(super) struct ByShard<T> {
    shards: ShardCount,
    classes: [OnceLock<Box<[T]>>; MAX_CLASSES],
    make: Box<dyn Fn() -> T + Send + Sync>,
}

impl<T> ByShard<T> {
    /// One for each shard of a store that has so many in a class.
    pub(super) fn new(shards: ShardCount, make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self { shards, classes: [const { OnceLock::new() }; MAX_CLASSES], make: Box::new(make) }
    }

    /// That of a shard.
    ///
    /// # Panics
    /// If no store with so many shards in a class has it.
    pub(super) fn of(&self, shard: ShardId) -> &T {
        let make = || (0..self.shards.get()).map(|_| (self.make)()).collect();
        &self.classes[class_of(shard)].get_or_init(make)[index_of(shard).0 as usize]
    }
}

impl<T> fmt::Debug for ByShard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByShard").field("shards", &self.shards.get()).finish_non_exhaustive()
    }
}
