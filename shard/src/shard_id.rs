//! From key to shard: a fixed number of ranges of one hash.
//!
//! A shard is the unit of placement and of ownership: few enough to make a table of them all, many enough that they
//! divide evenly. A key's shard is made of the top bits of its hash, so that each shard is one contiguous range of
//! hashes, and doubling the number of shards would split each in two.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Error;

/// The seed of the hash of keys: the bytes "polity/k", read as a little-endian number. It keeps the hash of a key
/// apart from hashes with seed 0, by which a user may have chosen or grouped the keys.
const KEY_SEED: u64 = u64::from_le_bytes(*b"polity/k");

/// A shard: `0..count` for a [`ShardCount`] of `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many shards there are: a power of two from 1 to 65,536, by default 256.
///
/// The count **must be the same on all nodes** and for the whole life of the data: it decides which shard a key is in,
/// so two nodes that differ in it agree on nothing. Choose 20 or more shards for each node that the cluster may grow
/// to; with fewer, some nodes get much more than their share. The default divides well up to a dozen nodes and costs
/// nothing to speak of: a placement of it takes 1.5 KiB at 3 replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct ShardCount {
    bits: u32,
}

impl ShardCount {
    /// The greatest count. A placement of it takes 2 MiB at the greatest number of replicas.
    pub const MAX: u32 = 1 << 16;

    /// Checks and takes a count.
    ///
    /// # Errors
    /// [`Error::ShardCount`] if it is not a power of two from 1 to [`ShardCount::MAX`].
    pub const fn new(count: u32) -> Result<Self, Error> {
        if count.is_power_of_two() && count <= Self::MAX {
            Ok(Self { bits: count.trailing_zeros() })
        } else {
            Err(Error::ShardCount(count))
        }
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> u32 {
        1 << self.bits
    }

    /// The shard of a key: the top bits of its XXH3 hash, the same on every architecture.
    #[must_use]
    #[inline]
    pub fn shard_of(self, key: &[u8]) -> ShardId {
        let hash = xxh3_64_with_seed(key, KEY_SEED);
        // In two steps, because shifting 64 bits out at once would overflow when there is but one shard.
        ShardId((hash >> 1 >> (u64::BITS - 1 - self.bits)) as u32)
    }

    /// Whether `shard` is one of these.
    #[must_use]
    pub const fn contains(self, shard: ShardId) -> bool {
        shard.0 < self.get()
    }

    /// All shards, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = ShardId> + DoubleEndedIterator {
        (0..self.get()).map(ShardId)
    }
}

impl Default for ShardCount {
    fn default() -> Self {
        Self { bits: 8 }
    }
}

impl From<ShardCount> for u32 {
    fn from(count: ShardCount) -> Self {
        count.get()
    }
}

impl TryFrom<u32> for ShardCount {
    type Error = Error;
    fn try_from(count: u32) -> Result<Self, Error> {
        Self::new(count)
    }
}

impl fmt::Display for ShardCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
