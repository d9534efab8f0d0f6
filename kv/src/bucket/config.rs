//! How a bucket is declared.

use std::time::Duration;

use polity_shard::ReplicaCount;

use crate::config::{ConfigError, Consistency, KvConfig};
use crate::place::MAX_BUCKET_BYTES;
use crate::record::Kind;

/// The most buckets that a store declares: errors name them.
pub(crate) const MAX_BUCKETS: usize = 1024;

/// What a bucket is, declared once with [`KvConfig::bucket`].
///
/// ```
/// # use std::time::Duration;
/// use polity_kv::{BucketConfig, Consistency, KvConfig};
///
/// let half_an_hour = Duration::from_secs(1800);
/// let config = KvConfig::default()
///     .bucket("visits", BucketConfig::counter())
///     .bucket("sessions", BucketConfig::last_writer_wins().ttl(half_an_hour).read(Consistency::One));
/// assert_eq!(config.buckets().map(|(name, _)| name).collect::<Vec<_>>(), ["visits", "sessions"]);
/// ```
///
/// Two kinds are registers (Shapiro and others, "A comprehensive study of convergent and commutative replicated data types",
/// 2011, section 3.2): last-writer-wins is the LWW-register, and causal the multi-value register.
///
/// Nodes need not declare the same buckets, so that one can be added by one node after the other. Those that declare the
/// same must say the same: where two differ in the kind, a write of one kind to a key that holds another is refused. A bucket with
/// a number of [`BucketConfig::replicas`] of its own is declared by all of them or by none: others are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a description is no bucket: declare it with `KvConfig::bucket`"]
pub struct BucketConfig {
    kind: Option<Kind>,
    ttl: Option<Duration>,
    read: Consistency,
    write: Consistency,
    max_key_bytes: Option<usize>,
    max_value_bytes: Option<usize>,
    replicas: Option<ReplicaCount>,
}

impl BucketConfig {
    /// Values that were written at the same time stay side by side, a multi-value register: [`Kind::Causal`].
    pub const fn causal() -> Self {
        Self::of(Some(Kind::Causal))
    }

    /// Values of which the latest stays, a last-writer-wins register: [`Kind::LastWriterWins`].
    pub const fn last_writer_wins() -> Self {
        Self::of(Some(Kind::LastWriterWins))
    }

    /// Numbers to which is added: [`Kind::Counter`].
    pub const fn counter() -> Self {
        Self::of(Some(Kind::Counter))
    }

    /// Sets of elements: [`Kind::Set`].
    pub const fn set() -> Self {
        Self::of(Some(Kind::Set))
    }

    /// Maps from fields to values: [`Kind::Map`].
    pub const fn map() -> Self {
        Self::of(Some(Kind::Map))
    }

    /// Keys of any kind: the first write to a key says which, until nothing is there any more.
    pub const fn any() -> Self {
        Self::of(None)
    }

    const fn of(kind: Option<Kind>) -> Self {
        let quorum = Consistency::Quorum;
        Self {
            kind,
            ttl: None,
            read: quorum,
            write: quorum,
            max_key_bytes: None,
            max_value_bytes: None,
            replicas: None,
        }
    }

    /// How long what is under a key stays after the last write to it, unless a write says otherwise. For ever by default.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How many replicas must answer a read or scan, unless a call says otherwise. A quorum by default.
    ///
    /// With anything less, or with less for writes, a read may miss a write that was acknowledged before it (K3).
    pub const fn read(mut self, level: Consistency) -> Self {
        self.read = level;
        self
    }

    /// How many replicas must have written, unless a call says otherwise. A quorum by default.
    ///
    /// With one, a write may be lost with that replica (K1).
    pub const fn write(mut self, level: Consistency) -> Self {
        self.write = level;
        self
    }

    /// How many nodes hold each key. [`KvConfig::replicas`] by default. It must be the same on all nodes, and for as long as the
    /// bucket holds anything: to change it, stop all nodes, and start them without what they held, or with another bucket.
    ///
    /// Keys of 5 survive the loss of two nodes at once. Those of 1 wait while their node is down, as do
    /// [`Kv::settled`](crate::Kv::settled) and the nodes that have them next, and are lost with its memory or folder; one that
    /// leaves hands them over. All buckets with one number share [`KvConfig::shards`] shards, so each number that no other bucket
    /// has costs as much upkeep as the store itself.
    ///
    /// ```
    /// # use polity_kv::{BucketConfig, KvConfig, ReplicaCount};
    /// let config = KvConfig::default()
    ///     .bucket("cache", BucketConfig::last_writer_wins().replicas(ReplicaCount::new(1)?))
    ///     .bucket("accounts", BucketConfig::map().replicas(ReplicaCount::new(5)?));
    /// config.validate()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn replicas(mut self, replicas: ReplicaCount) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// The longest key of the bucket. The store's limit by default, and never more.
    pub const fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.max_key_bytes = Some(bytes);
        self
    }

    /// The largest value of the bucket, or the largest change of a set or map. The store's limit by default, and never
    /// more.
    pub const fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = Some(bytes);
        self
    }

    /// Of which kind its keys are; `None` if each may be of its own.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Of how many replicas, if it says so.
    pub(crate) const fn own_replicas(&self) -> Option<ReplicaCount> {
        self.replicas
    }

    /// Checks a declaration against the limits of its store.
    pub(crate) fn validate(&self, name: &str, store: &KvConfig) -> Result<(), ConfigError> {
        let of = |setting: &str| format!("{setting} of the bucket {name:?}");
        let check = |ok, setting: &str, problem| {
            if ok { Ok(()) } else { Err(ConfigError { setting: of(setting).into(), problem }) }
        };
        let lengths = 1..=MAX_BUCKET_BYTES;
        check(lengths.contains(&name.len()), "the name", "has 1 to 64 bytes")?;
        check(self.ttl.is_none_or(|ttl| ttl >= Duration::from_millis(1)), "ttl", "is at least 1 ms")?;
        let within = |bytes: Option<usize>, most| bytes.is_none_or(|bytes| (1..=most).contains(&bytes));
        let problem = "is at least 1 and not above that of the store";
        check(within(self.max_key_bytes, store.max_key_bytes), "max_key_bytes", problem)?;
        check(within(self.max_value_bytes, store.max_value_bytes), "max_value_bytes", problem)
    }
}

/// What holds for the calls on a bucket, unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Whether keys may be of any kind.
    pub(crate) of_any_kind: bool,
    pub(crate) ttl: Option<Duration>,
    pub(crate) read: Consistency,
    pub(crate) write: Consistency,
    pub(crate) max_key_bytes: usize,
    pub(crate) max_value_bytes: usize,
}

impl Rules {
    /// Those of a bucket that is declared so.
    pub(crate) fn new(bucket: &BucketConfig, store: &KvConfig) -> Self {
        Self {
            of_any_kind: bucket.kind.is_none(),
            ttl: bucket.ttl,
            read: bucket.read,
            write: bucket.write,
            max_key_bytes: bucket.max_key_bytes.unwrap_or(store.max_key_bytes),
            max_value_bytes: bucket.max_value_bytes.unwrap_or(store.max_value_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_refused(config: &KvConfig, words: &[&str]) {
        let error = config.validate().expect_err("it is wrong").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn a_declaration_is_checked_against_its_store() {
        let of = |bucket| KvConfig::default().bucket("people", bucket);
        of(BucketConfig::map().max_key_bytes(4 << 10).max_value_bytes(1 << 20)).validate().expect("within the limits");
        assert_refused(&of(BucketConfig::map().max_key_bytes((4 << 10) + 1)), &["max_key_bytes", "people"]);
        assert_refused(&of(BucketConfig::map().max_key_bytes(0)), &["max_key_bytes", "people"]);
        assert_refused(&of(BucketConfig::map().max_value_bytes((1 << 20) + 1)), &["max_value_bytes", "people"]);
        assert_refused(&of(BucketConfig::set().ttl(Duration::ZERO)), &["ttl", "people"]);
        assert_refused(&KvConfig::default().bucket("", BucketConfig::map()), &["name", "1 to 64"]);
        assert_refused(&KvConfig::default().bucket("x".repeat(65), BucketConfig::map()), &["name", "1 to 64"]);
        KvConfig::default().bucket("x".repeat(64), BucketConfig::map()).validate().expect("within the limits");
    }

    #[test]
    fn a_bucket_is_declared_once() {
        let once = KvConfig::default().bucket("a", BucketConfig::set()).bucket("b", BucketConfig::set());
        once.validate().expect("two buckets");
        assert_refused(&once.bucket("a", BucketConfig::set()), &["\"a\"", "once"]);
        let many = (0..=MAX_BUCKETS)
            .fold(KvConfig::default(), |config, at| config.bucket(at.to_string(), BucketConfig::counter()));
        assert_refused(&many, &["buckets", "1,024"]);
    }
}
