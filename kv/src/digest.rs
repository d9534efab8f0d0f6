//! What a shard holds, in a few numbers: replicas compare these before they send records. Pure.
//!
//! The keys of a shard are divided into [`BUCKETS`]; each bucket is the sum of the hashes of its records. Sums can be
//! kept up to date as records change, in any order, and are equal where the records are.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Into how many buckets the keys of a shard are divided: a comparison is 256 bytes, and one record that differs costs
/// the 32nd part of a shard.
pub(crate) const BUCKETS: usize = 32;

/// A set of buckets, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Buckets(u32);

impl Buckets {
    pub(crate) fn contains_key(self, key: &[u8]) -> bool {
        self.0 & (1 << bucket(key)) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bucket(key: &[u8]) -> usize {
    (xxh3_64_with_seed(key, 1) % BUCKETS as u64) as usize
}

/// The hash of one record under its key.
fn hash(key: &[u8], record: &[u8]) -> u64 {
    xxh3_64_with_seed(record, xxh3_64(key))
}

/// The sums of one shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Digest([u64; BUCKETS]);

impl Default for Digest {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Digest {
    /// The record of `key` has changed from `old` to `new`.
    pub(crate) fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: &[u8]) {
        let sum = &mut self.0[bucket(key)];
        if let Some(old) = old {
            *sum = sum.wrapping_sub(hash(key, old));
        }
        *sum = sum.wrapping_add(hash(key, new));
    }

    /// All sums in one.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |total, sum| total.rotate_left(5) ^ sum.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The buckets in which two shards differ.
    pub(crate) fn difference(&self, other: &Self) -> Buckets {
        let differing = (0..BUCKETS).filter(|i| self.0[*i] != other.0[*i]);
        Buckets(differing.fold(0, |bits, i| bits | 1 << i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_content_and_not_the_order() {
        let (mut a, mut b) = (Digest::default(), Digest::default());
        a.change(b"x", None, b"1");
        a.change(b"y", None, b"2");
        b.change(b"y", None, b"0");
        b.change(b"x", None, b"1");
        assert_ne!(a.total(), b.total());
        let buckets = a.difference(&b);
        assert!(buckets.contains_key(b"y") && !buckets.contains_key(b"x"));
        b.change(b"y", Some(b"0"), b"2");
        assert_eq!(a, b);
        assert!(a.difference(&b).is_empty());
        assert_eq!(a.total(), b.total());
    }
}
