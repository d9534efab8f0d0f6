//! Which shards there are, and in which of them a key is. Pure.
//!
//! Quorums, rosters and repair are a shard's. So keys with another number of replicas are in shards of their own: for each
//! number that a bucket has, and that is not [`KvConfig::replicas`], there is a *class* of [`KvConfig::shards`] shards.
//!
//! | class | its shards |
//! |---|---|
//! | of `KvConfig::replicas`: all buckets that say nothing else | `0..shards` |
//! | of n replicas | the same numbers, with n in the 16 bits above |
//!
//! So a shard keeps its number whatever else is declared. Shards with one number in the lower bits have one order of nodes, of
//! which each class takes the beginning.

use std::collections::BTreeMap;

use polity_shard::{ReplicaCount, ShardCount, ShardId};

use crate::config::KvConfig;
use crate::place::{bucket_of, key_of};

/// Above so many bits a shard names its class.
const INDEX_BITS: u32 = 16;
const _: () = assert!(ShardCount::MAX <= 1 << INDEX_BITS, "every shard of a class has a number of its own");

/// How many classes there can be: one for each number of replicas, and that of the store's own.
pub(crate) const MAX_CLASSES: usize = ReplicaCount::MAX as usize + 1;

/// The shards of a store. All nodes of a cluster have the same ([`KvConfig::must_match`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    shards: ShardCount,
    replicas: ReplicaCount,
    /// The other numbers of replicas, rising.
    classes: Vec<ReplicaCount>,
    /// The buckets that have them, each named as its places begin.
    buckets: BTreeMap<Vec<u8>, ReplicaCount>,
}

impl Layout {
    /// The layout that a configuration asks for.
    pub(crate) fn new(config: &KvConfig) -> Self {
        let buckets: BTreeMap<Vec<u8>, ReplicaCount> =
            config.other_replicas().into_iter().map(|(name, count)| (key_of(name, b"").0.to_vec(), count)).collect();
        let mut classes: Vec<ReplicaCount> = buckets.values().copied().collect();
        classes.sort_unstable();
        classes.dedup();
        Self { shards: config.shards, replicas: config.replicas, classes, buckets }
    }

    /// How many shards a class has.
    pub(crate) fn shards(&self) -> ShardCount {
        self.shards
    }

    /// The numbers of replicas that have a class beside that of the store's own number, rising.
    pub(crate) fn classes(&self) -> &[ReplicaCount] {
        &self.classes
    }

    /// How many shards there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.get() as usize * (1 + self.classes.len())
    }

    /// All shards, rising.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let (shards, classes) = (self.shards, self.classes.clone());
        shards.iter().chain(classes.into_iter().flat_map(move |class| ids_of(class, shards)))
    }

    /// The shard of a place.
    #[inline]
    pub(crate) fn shard_of(&self, place: &[u8]) -> ShardId {
        let index = self.shards.shard_of(place);
        if self.buckets.is_empty() { index } else { id_of(self.class_of_bucket(place), index) }
    }

    /// The shards in which the keys of a bucket are, rising. The bucket is named as its places begin, or by one of them.
    pub(crate) fn shards_of_bucket(&self, place: &[u8]) -> impl Iterator<Item = ShardId> + use<> {
        let class = self.class_of_bucket(place);
        self.shards.iter().map(move |index| id_of(class, index))
    }

    /// The class of a bucket's shards.
    pub(crate) fn class_of_bucket(&self, place: &[u8]) -> usize {
        self.buckets.get(bucket_of(place)).map_or(0, |count| usize::from(count.get()))
    }

    /// The next shard of the same class.
    pub(crate) fn after(&self, shard: ShardId) -> Option<ShardId> {
        let next = ShardId(shard.0 + 1);
        (class_of(next) == class_of(shard) && self.contains(next)).then_some(next)
    }

    pub(crate) fn contains(&self, shard: ShardId) -> bool {
        self.shards.contains(index_of(shard)) && self.rank(shard).is_some()
    }

    /// The place of a shard among all, from 0.
    ///
    /// # Panics
    /// If it is none of them.
    #[inline]
    pub(crate) fn position(&self, shard: ShardId) -> usize {
        let rank = self.rank(shard).expect("the class of a shard is one of the layout");
        rank * self.shards.get() as usize + index_of(shard).0 as usize
    }

    /// The place of a shard's class among all: that of the store's own number comes first.
    #[inline]
    fn rank(&self, shard: ShardId) -> Option<usize> {
        match class_of(shard) {
            0 => Some(0),
            class => Some(1 + self.classes.iter().position(|count| usize::from(count.get()) == class)?),
        }
    }

    /// On how many nodes a shard should be.
    pub(crate) fn replicas_of(&self, shard: ShardId) -> usize {
        self.replicas_in(class_of(shard))
    }

    /// On how many nodes the shards of a class should be.
    pub(crate) fn replicas_in(&self, class: usize) -> usize {
        if class == 0 { usize::from(self.replicas.get()) } else { class }
    }

    /// The greatest number of replicas that a shard has.
    pub(crate) fn max_replicas(&self) -> ReplicaCount {
        self.classes.last().copied().unwrap_or(self.replicas).max(self.replicas)
    }
}

/// The shards of the class of so many replicas, whether there is one or not.
pub(crate) fn ids_of(class: ReplicaCount, shards: ShardCount) -> impl Iterator<Item = ShardId> {
    shards.iter().map(move |index| id_of(usize::from(class.get()), index))
}

#[inline]
const fn id_of(class: usize, index: ShardId) -> ShardId {
    ShardId((class as u32) << INDEX_BITS | index.0)
}

/// What a shard is called in its class.
#[inline]
pub(crate) const fn index_of(shard: ShardId) -> ShardId {
    ShardId(shard.0 & ((1 << INDEX_BITS) - 1))
}

/// The class of a shard: how many replicas it has, or 0 if that is the store's own number.
#[inline]
pub(crate) const fn class_of(shard: ShardId) -> usize {
    (shard.0 >> INDEX_BITS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::BucketConfig;

    fn count(count: u8) -> ReplicaCount {
        ReplicaCount::new(count).expect("a possible number")
    }

    fn config(buckets: &[(&str, u8)]) -> KvConfig {
        let config = KvConfig { shards: ShardCount::new(16).expect("a power of two"), ..KvConfig::default() };
        let declare = |config: KvConfig, (name, replicas): &(&str, u8)| {
            config.bucket(*name, BucketConfig::set().replicas(count(*replicas)))
        };
        buckets.iter().fold(config.bucket("plain", BucketConfig::set()), declare)
    }

    fn layout(buckets: &[(&str, u8)]) -> Layout {
        Layout::new(&config(buckets))
    }

    fn shard_of(layout: &Layout, bucket: &str, key: &str) -> ShardId {
        layout.shard_of(&key_of(bucket, key.as_bytes()).0)
    }

    #[test]
    fn without_other_counts_there_are_the_shards_of_the_store_and_no_more() {
        for layout in [layout(&[]), layout(&[("as all", 3)])] {
            assert!(layout.ids().eq((0..16).map(ShardId)) && layout.classes().is_empty());
            for key in 0..100 {
                let place = key_of("plain", format!("{key}").as_bytes());
                assert_eq!(layout.shard_of(&place.0), ShardCount::new(16).expect("valid").shard_of(&place.0));
            }
            assert_eq!((layout.replicas_of(ShardId(15)), layout.max_replicas()), (3, count(3)));
            assert!(layout.contains(ShardId(15)));
            assert!(![16, 1 << 16, 3 << 16, 3 << 16 | 5, u32::MAX].map(ShardId).iter().any(|id| layout.contains(*id)));
        }
    }

    #[test]
    fn a_class_serves_all_buckets_of_its_count() {
        let layout = layout(&[("one", 1), ("five", 5), ("also five", 5)]);
        assert_eq!((layout.classes(), layout.len(), layout.max_replicas()), (&[count(1), count(5)][..], 48, count(5)));
        for key in 0..100 {
            let key = format!("key-{key}");
            let (plain, none) = (shard_of(&layout, "plain", &key), shard_of(&layout, "", &key));
            assert!([plain, none].iter().all(|shard| shard.0 < 16 && layout.replicas_of(*shard) == 3));
            for (bucket, replicas) in [("one", 1), ("five", 5), ("also five", 5)] {
                let shard = shard_of(&layout, bucket, &key);
                assert_eq!((class_of(shard), layout.replicas_of(shard)), (replicas, replicas));
                assert_eq!(index_of(shard), layout.shards().shard_of(&key_of(bucket, key.as_bytes()).0));
                assert!(layout.contains(shard));
            }
        }
        // A bucket is found by its whole name.
        assert!([shard_of(&layout, "fiv", "e"), shard_of(&layout, "fives", "")].iter().all(|shard| shard.0 < 16));
        assert!(layout.shard_of(&[]).0 < 16 && layout.shard_of(&[9, 1]).0 < 16);
    }

    #[test]
    fn every_shard_has_a_place_of_its_own_in_the_order_of_all() {
        let layout = layout(&[("sixteen", 16), ("one", 1)]);
        let ids: Vec<ShardId> = layout.ids().collect();
        assert!(ids.is_sorted() && ids.len() == layout.len());
        assert!(ids.iter().enumerate().all(|(at, id)| layout.position(*id) == at && layout.contains(*id)));
        assert_eq!(ids[16..18], [1 << 16, 1 << 16 | 1].map(ShardId));
        assert!(![16, 1 << 16 | 16, 2 << 16, 17 << 16].map(ShardId).iter().any(|id| layout.contains(*id)));
        for bucket in ["plain", "one", "sixteen"] {
            let place = key_of(bucket, b"x");
            let shards: Vec<ShardId> = layout.shards_of_bucket(&place.0).collect();
            assert!(shards.len() == 16 && shards.contains(&layout.shard_of(&place.0)));
            assert!(std::iter::successors(Some(shards[0]), |shard| layout.after(*shard)).eq(shards));
        }
    }

    #[test]
    fn a_shard_keeps_its_number_whatever_else_is_declared() {
        let (few, many) = (layout(&[("five", 5)]), layout(&[("one", 1), ("four", 4), ("five", 5), ("more", 5)]));
        for key in 0..100 {
            let key = format!("key-{key}");
            for bucket in ["", "plain", "five"] {
                assert_eq!(shard_of(&few, bucket, &key), shard_of(&many, bucket, &key));
            }
        }
        // With the most shards that there can be, none follows the last.
        let all = Layout::new(&KvConfig { shards: ShardCount::new(1 << 16).expect("valid"), ..KvConfig::default() });
        assert_eq!(all.after(ShardId((1 << 16) - 1)), None);
    }
}
