//! What a shard holds, in a few numbers: replicas compare these before they send records. Pure.
//!
//! | number | of | what for |
//! |---|---|---|
//! | [`Digest`] | a shard: the sum of the hashes of its records, and how many there are | whether two replicas hold the same |
//! | [`block`] | some shards in a row | the same, of all of them at once |
//! | [`element`] | one record under its key, in one comparison | which records differ ([`mod@crate::reconcile`]) |
//!
//! Sums can be kept up to date as records change, in any order, and are equal where the records are.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::record::content;

/// How many shards are compared by one number: the fan-out of a tree with two levels, which for the default number of
/// shards has as many blocks as a block has shards.
pub(crate) const BLOCK: usize = 16;

/// What one shard holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Digest {
    sum: u64,
    count: u64,
}

impl Digest {
    /// The record of `key` has changed from `old` to `new`.
    pub(crate) fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let sum = |record: Option<&[u8]>| record.map_or(0, |record| hash(key, record));
        self.sum = self.sum.wrapping_sub(sum(old)).wrapping_add(sum(new));
        self.count = self.count.saturating_sub(u64::from(old.is_some())) + u64::from(new.is_some());
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Both in one number.
    pub(crate) fn total(&self) -> u64 {
        self.sum ^ self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// The hash of one record under its key.
fn hash(key: &[u8], record: &[u8]) -> u64 {
    xxh3_64_with_seed(content(record), xxh3_64(key))
}

/// The digests of some shards in one number.
pub(crate) fn block(digests: &[Digest]) -> u64 {
    let step = |hash: u64, digest: &Digest| xxh3_64_with_seed(&digest.total().to_le_bytes(), hash);
    digests.iter().fold(0, step)
}

/// Stands for a record under its key in one comparison: the [`tag`] of the key in the upper half, the hash of the record in
/// the lower one. Another `salt` gives others, so two records that look alike in one comparison do not in the next.
pub(crate) fn element(key: &[u8], record: &[u8], salt: u64) -> u64 {
    u64::from(tag(key, salt)) << 32 | xxh3_64_with_seed(content(record), salt) & 0xffff_ffff
}

/// The salt of the comparison after the one under `salt`.
pub(crate) fn next_salt(salt: u64) -> u64 {
    salt.rotate_left(17).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

/// Stands for a key in one comparison.
pub(crate) fn tag(key: &[u8], salt: u64) -> u32 {
    (xxh3_64_with_seed(key, salt) >> 32) as u32
}

/// The tag that is in an element.
pub(crate) fn tag_of(element: u64) -> u32 {
    (element >> 32) as u32
}

/// Names a key where there may be two of one tag: two keys that one shard ever has meet with a chance of 2⁻⁶⁴.
pub(crate) fn key_id(key: &[u8]) -> u64 {
    xxh3_64(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_content_and_not_the_order() {
        let (mut a, mut b) = (Digest::default(), Digest::default());
        a.change(b"x", None, Some(b"1"));
        a.change(b"y", None, Some(b"2"));
        b.change(b"y", None, Some(b"0"));
        b.change(b"x", None, Some(b"1"));
        assert_ne!(a.total(), b.total());
        assert_ne!(block(&[a, a]), block(&[a, b]));
        assert_ne!(block(&[b, a]), block(&[a, b]), "each shard has its place");
        b.change(b"y", Some(b"0"), Some(b"2"));
        b.change(b"z", None, Some(b"3"));
        b.change(b"z", Some(b"3"), None);
        assert_eq!((a, a.total(), block(&[a, b])), (b, b.total(), block(&[b, a])));
        assert_eq!(a.count(), 2);
    }

    #[test]
    fn an_element_names_its_key_and_another_salt_makes_another() {
        assert_eq!(tag_of(element(b"x", b"1", 5)), tag(b"x", 5));
        assert_eq!(tag_of(element(b"x", b"2", 5)), tag(b"x", 5));
        assert_ne!(element(b"x", b"1", 5), element(b"x", b"2", 5));
        assert_ne!(element(b"x", b"1", 5), element(b"x", b"1", 6));
    }
}
