//! The limits and times of a store.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_shard::handoff::BudgetConfig;
use polity_shard::{ReplicaCount, ShardCount};
use serde::{Deserialize, Serialize};

use crate::bucket::BucketConfig;
use crate::bucket::config::MAX_BUCKETS;
use crate::errands::PATIENCE;
use crate::layout::Layout;

/// How many replicas must do their part before an operation is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Consistency {
    /// One. A write may be lost with that replica, a read may be stale; both work in any part of a split cluster.
    One,
    /// More than half. A read sees every write that was acknowledged before it began (promise K3).
    #[default]
    Quorum,
    /// All. A write reaches every replica; neither works while one of them is away.
    All,
}

/// Room for the causal history beside a record's values: some hundred writers of one key.
const MAX_HISTORY_BYTES: usize = 64 << 10;

/// The longest of all times that are waited for.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How many bytes of names of buckets are compared in words when a node joins: a setting has at most 256.
const MAX_LIST_BYTES: usize = 200;

/// Limits and times of a store. Those marked *must match* are compared when a node joins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvConfig {
    /// Into how many shards the keys are divided: 256, and at most 65,536 for all numbers of replicas together. Must match.
    pub shards: ShardCount,
    /// How many nodes hold each key, unless its bucket says otherwise. Must match. 3, which survives the loss of one node.
    pub replicas: ReplicaCount,
    /// The longest key. 4 KiB, at most 64 KiB: keys are sent with every request. On disk 65,466 bytes, and less the name of its bucket.
    pub max_key_bytes: usize,
    /// The largest value. 1 MiB, and no more; the siblings of a key together take at most three times that, so that they fit into
    /// one frame of the transport (4 MiB).
    pub max_value_bytes: usize,
    /// The most siblings that a key may have before writes without their context are refused. 64, at most 1,024.
    pub max_siblings: usize,
    /// How long an operation may take. 2 s: more than a connect with one lost packet. At least 10 ms.
    pub timeout: Duration,
    /// How long a read waits for the replicas it asked before it asks the others too. 50 ms: twice a slow round trip. At least
    /// 1 ms.
    pub hedge_after: Duration,
    /// How often this node compares what it holds with one other member, each in turn, when nothing has changed. 10 s, at least 100 ms.
    /// Watches renew their leases as often.
    pub patrol_interval: Duration,
    /// How often work that could not be done is tried again. 50 ms, at least 5 ms.
    pub upkeep_interval: Duration,
    /// How fast this node fetches and sends records to make replicas equal, beside what callers do. 64 MiB a second, half of
    /// what a link of 1 Gbit/s carries; no more than half of all that the node moves, but 16 MiB a second whatever else it does:
    /// until a replica has caught up, the next failure may cost a write (K1). Small records are bounded by what the node has time for
    /// beside callers.
    pub repair: BudgetConfig,
    /// How long the trace of a delete is kept after all have it. 10 minutes; at least 10 s, and twice `timeout`, and no
    /// two clocks need to agree on it. A node that leaves before it has handed everything over, or is away for so long that
    /// the members forget it, and comes back with its folder after that time may bring back what was deleted meanwhile.
    pub tombstone_grace: Duration,
    /// For how long an [`IdempotencyKey`](crate::IdempotencyKey) counts, from when it was made. 2 minutes; at least twice `timeout`. Wall
    /// clocks must differ by less, and splits end sooner. A key of the store takes 1,024 of them in twice that time. Must match.
    pub idempotency_window: Duration,
    /// What [`KvConfig::bucket`] has declared.
    pub(crate) buckets: Vec<(String, BucketConfig)>,
}

impl Default for KvConfig {
    fn default() -> Self {
        Self {
            shards: ShardCount::default(),
            replicas: ReplicaCount::default(),
            max_key_bytes: 4 << 10,
            max_value_bytes: 1 << 20,
            max_siblings: 64,
            timeout: Duration::from_secs(2),
            hedge_after: Duration::from_millis(50),
            patrol_interval: Duration::from_secs(10),
            upkeep_interval: Duration::from_millis(50),
            repair: BudgetConfig { least: 16 << 20, ..BudgetConfig::default() },
            tombstone_grace: Duration::from_secs(600),
            idempotency_window: Duration::from_secs(120),
            buckets: Vec::new(),
        }
    }
}

/// A limit or time outside of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct ConfigError {
    /// Which.
    pub setting: Cow<'static, str>,
    /// What would be right.
    pub problem: &'static str,
}

impl KvConfig {
    /// Declares a bucket: keys of their own, which are then opened with [`Kv::bucket`](crate::Kv::bucket). A name has 1 to
    /// 64 bytes and is declared once; at most 1,024 are.
    #[must_use]
    pub fn bucket(mut self, name: impl Into<String>, bucket: BucketConfig) -> Self {
        self.buckets.push((name.into(), bucket));
        self
    }

    /// The declared buckets, in the order of their declaration.
    pub fn buckets(&self) -> impl Iterator<Item = (&str, &BucketConfig)> {
        self.buckets.iter().map(|(name, bucket)| (&name[..], bucket))
    }

    /// The settings in which all members must agree.
    #[must_use]
    pub fn must_match(&self) -> [(&'static str, String); 3] {
        [
            ("kv.shards", self.shards.get().to_string()),
            ("kv.replicas", self.replicas_text()),
            ("kv.idempotency_window", format!("{:?}", self.idempotency_window)),
        ]
    }

    /// The buckets with another number of replicas than the store's own, in the order of their names.
    pub(crate) fn other_replicas(&self) -> BTreeMap<&str, ReplicaCount> {
        let own = self.buckets().filter_map(|(name, bucket)| Some((name, bucket.own_replicas()?)));
        own.filter(|(_, count)| *count != self.replicas).collect()
    }

    /// The number of replicas, and the buckets that have another.
    fn replicas_text(&self) -> String {
        let (replicas, others) = (self.replicas.get(), self.other_replicas());
        let list: String = others.iter().map(|(name, count)| format!(", {name:?} {}", count.get())).collect();
        if list.len() <= MAX_LIST_BYTES {
            return format!("{replicas}{list}");
        }
        let hash = xxhash_rust::xxh3::xxh3_64(list.as_bytes());
        format!("{replicas}, and others in {} buckets ({hash:016x})", others.len())
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`ConfigError`] names the first that is outside of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok, setting: &'static str, problem| {
            if ok { Ok(()) } else { Err(ConfigError { setting: setting.into(), problem }) }
        };
        let ms = Duration::from_millis;
        check((1..=64 << 10).contains(&self.max_key_bytes), "max_key_bytes", "is between 1 and 65,536")?;
        check((1..=1 << 20).contains(&self.max_value_bytes), "max_value_bytes", "is between 1 and 1,048,576")?;
        check((1..=1024).contains(&self.max_siblings), "max_siblings", "is between 1 and 1,024")?;
        let times = [
            (self.timeout, "timeout"),
            (self.hedge_after, "hedge_after"),
            (self.tombstone_grace, "tombstone_grace"),
            (self.idempotency_window, "idempotency_window"),
            (self.patrol_interval, "patrol_interval"),
            (self.upkeep_interval, "upkeep_interval"),
        ];
        for (time, setting) in times {
            check(time <= MAX_TIME, setting, "is at most a year")?;
        }
        check(self.timeout >= ms(10), "timeout", "is at least 10 ms")?;
        check(self.hedge_after >= ms(1), "hedge_after", "is at least 1 ms")?;
        let grace = self.tombstone_grace >= 2 * self.timeout.max(PATIENCE);
        check(grace, "tombstone_grace", "is at least 10 s, and twice `timeout`")?;
        check(self.idempotency_window >= 2 * self.timeout, "idempotency_window", "is at least twice `timeout`")?;
        check(self.patrol_interval >= ms(100), "patrol_interval", "is at least 100 ms")?;
        check(self.upkeep_interval >= ms(5), "upkeep_interval", "is at least 5 ms")?;
        check((1..=100).contains(&self.repair.share_percent), "repair.share_percent", "is between 1 and 100")?;
        let least = (1..=self.repair.bytes_per_second).contains(&self.repair.least);
        check(least, "repair.least", "is between 1 and repair.bytes_per_second")?;
        check(self.repair.burst >= 1, "repair.burst", "is at least 1")?;
        let shards = Layout::new(self).len();
        check(shards <= ShardCount::MAX as usize, "shards", "for each number of replicas are at most 65,536 together")?;
        check(self.buckets.len() <= MAX_BUCKETS, "the number of buckets", "is at most 1,024")?;
        let mut names = BTreeSet::new();
        for (name, bucket) in self.buckets() {
            if !names.insert(name) {
                let setting = format!("the bucket {name:?}").into();
                return Err(ConfigError { setting, problem: "is declared once" });
            }
            bucket.validate(name, self)?;
        }
        Ok(())
    }

    /// The most bytes of a record that is written, but for the traces of idempotency keys: the siblings of its key, and their history.
    pub(crate) fn max_record_bytes(&self) -> usize {
        3 * self.max_value_bytes + MAX_HISTORY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u8) -> BucketConfig {
        BucketConfig::counter().replicas(ReplicaCount::new(count).expect("a possible number"))
    }

    #[test]
    fn members_must_agree_on_the_buckets_with_other_numbers_of_replicas_and_on_no_others() {
        let text = |config: &KvConfig| config.must_match()[1].clone();
        let plain = KvConfig::default().bucket("a", BucketConfig::set()).bucket("b", of(3));
        assert_eq!(text(&plain), ("kv.replicas", "3".to_owned()));
        let (one, other) =
            (plain.clone().bucket("y", of(5)).bucket("x", of(1)), plain.bucket("x", of(1)).bucket("y", of(5)));
        assert_eq!(text(&one), ("kv.replicas", "3, \"x\" 1, \"y\" 5".to_owned()));
        assert_eq!(text(&one), text(&other));
        let many = |last: u8| {
            (0..100).fold(KvConfig::default().bucket("last", of(last)), |c, at| c.bucket(at.to_string(), of(2)))
        };
        assert!(text(&many(4)).1.starts_with("3, and others in 101 buckets (") && text(&many(4)).1.len() <= 256);
        assert_ne!(text(&many(4)), text(&many(5)));
    }

    #[test]
    fn all_shards_together_are_no_more_than_those_of_one_number() {
        let with = |shards: u32| {
            let shards = ShardCount::new(shards).expect("a power of two");
            KvConfig { shards, ..KvConfig::default() }
        };
        with(1 << 16).bucket("a", of(3)).validate().expect("one number");
        with(1 << 15).bucket("a", of(1)).bucket("b", of(1)).validate().expect("two numbers");
        let error = with(1 << 15).bucket("a", of(1)).bucket("b", of(2)).validate().expect_err("three numbers");
        assert_eq!(error.setting, "shards");
    }
}
