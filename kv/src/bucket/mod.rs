//! Buckets: keys of their own, all of one kind, which the store's configuration declares.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use polity_kv::{Bucket, BucketConfig, Counter, Kv, KvConfig, KvError, LastWriterWins, Set};
//!
//! fn config() -> KvConfig {
//!     KvConfig::default()
//!         .bucket("visits", BucketConfig::counter())
//!         .bucket("carts", BucketConfig::set())
//!         .bucket("sessions", BucketConfig::last_writer_wins().ttl(Duration::from_secs(1800)))
//! }
//!
//! async fn run(kv: &Kv) -> Result<(), KvError> {
//!     let visits: Bucket<Counter> = kv.bucket("visits")?;
//!     visits.add("home", 1).await?;
//!     let carts: Bucket<Set> = kv.bucket("carts")?;
//!     carts.update("user-42", |cart| cart.add("apples").remove("pears")).await?;
//!     let sessions: Bucket<LastWriterWins> = kv.bucket("sessions")?;
//!     sessions.put("token", "user-42").await?;
//!     Ok(())
//! }
//! ```

pub(crate) mod config;
mod kinds;
mod writes;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use polity_cluster::NodeId;
use polity_shard::ShardId;

pub use self::config::BucketConfig;
use self::config::Rules;
use self::kinds::sealed::{Finished, Found};
pub use self::kinds::{Any, BucketKind, Causal, Counter, LastWriterWins, Map, Set, Value};
pub use self::writes::{MapUpdate, SetUpdate};
use crate::call::{Get, GetMany, Put, PutMany};
use crate::coordinator::Done;
use crate::count;
use crate::error::KvError;
use crate::kv::Kv;
use crate::place;
use crate::record::{Blob, Record, Update};
use crate::scan::Scan;
use crate::watch::Watch;

/// A bucket of one kind, opened with [`Kv::bucket`]. Cheap to clone.
///
/// A call's own options win over what the bucket was declared with.
pub struct Bucket<K> {
    kv: Kv,
    name: Arc<str>,
    rules: Rules,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Bucket<K> {
    fn clone(&self) -> Self {
        Self { kv: self.kv.clone(), name: self.name.clone(), rules: self.rules, kind: PhantomData }
    }
}

impl<K> fmt::Debug for Bucket<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("name", &self.name).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<K: BucketKind> Bucket<K> {
    /// Opens a bucket as it was declared.
    pub(crate) fn open(kv: &Kv, name: &str) -> Result<Self, KvError> {
        let config = kv.config();
        let Some((_, declared)) = config.buckets().find(|(declared, _)| *declared == name) else {
            let declared = config.buckets().map(|(name, _)| name.to_owned()).collect();
            return Err(KvError::UnknownBucket { name: name.to_owned(), declared });
        };
        if declared.kind() != K::KIND {
            return Err(KvError::BucketKind { name: name.to_owned(), declared: declared.kind(), asked: K::KIND });
        }
        let rules = Rules::new(declared, config);
        Ok(Self { kv: kv.clone(), name: name.into(), rules, kind: PhantomData })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a key.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, K::Read> {
        self.read(key, |record| K::read(Found(record)))
    }

    /// Reads many keys, each as [`Bucket::get`] does. See [`GetMany`].
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get_many<Key: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = Key>) -> GetMany<'_, K::Read> {
        let places = keys.into_iter().map(|key| self.place(key.as_ref())).collect();
        GetMany::new(&self.kv, places, K::KIND, self.rules, |record| K::read(Found(record)))
    }

    /// Whether anything is under a key.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn exists(&self, key: impl AsRef<[u8]>) -> Get<'_, bool> {
        self.read(key, Record::is_live)
    }

    /// When what is under a key expires, as a time since the Unix epoch: `None` if nothing is there, or it never does.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn expires(&self, key: impl AsRef<[u8]>) -> Get<'_, Option<Duration>> {
        self.read(key, |record| record.expires().map(Duration::from_millis))
    }

    /// Sets when all that is under a key expires: after this time, or never. Does nothing if nothing is there, and says so
    /// with `false`.
    ///
    /// To a causal key this is a write of the values that a quorum knows: one that is written at the same time elsewhere
    /// stays beside them.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn expire(&self, key: impl AsRef<[u8]>, after: Option<Duration>) -> Put<'_, bool> {
        let update = Update { expires: Some(None), ..Update::any() }.of_kind(K::KIND);
        let put = self.write(key, update, |done| done.changed > 0);
        match after {
            Some(after) => put.ttl(after),
            None => put,
        }
    }

    /// Deletes what a quorum knows of a key. What is written at the same time stays.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, K::Deleted> {
        self.write(key, Self::clear(), |done| K::deleted(Finished(done)))
    }

    /// Deletes many keys, each as [`Bucket::delete`] does. See [`PutMany`].
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete_many<Key: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = Key>) -> PutMany<'_, K::Deleted> {
        self.write_many(keys.into_iter().map(|key| (key, Self::clear())), |done| K::deleted(Finished(done)))
    }

    /// Goes through all keys that begin so; all of the bucket, if that is nothing.
    #[must_use = "a scan does nothing until it is asked for what is next"]
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan<'_, K::Value> {
        let make = |record: &Record| K::value(Found(record));
        Scan::new(&self.kv, self.place(prefix.as_ref()), self.rules.read, make)
    }

    /// Watches a key: first what is there, then changes. See [`Watch`].
    ///
    /// # Errors
    /// [`KvError::KeySize`], [`KvError::TooManyWatches`], [`KvError::Stopped`].
    pub fn watch(&self, key: impl AsRef<[u8]>) -> Result<Watch<K::Value>, KvError> {
        let make = |record: &Record| K::value(Found(record));
        Watch::new(&self.kv, self.place(key.as_ref()), true, self.rules.max_key_bytes, make)
    }

    /// Watches all keys that begin so; all of the bucket, if that is nothing. See [`Watch`].
    ///
    /// # Errors
    /// [`KvError::KeySize`], [`KvError::TooManyWatches`], [`KvError::Stopped`].
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Watch<K::Value>, KvError> {
        let make = |record: &Record| K::value(Found(record));
        Watch::new(&self.kv, self.place(prefix.as_ref()), false, self.rules.max_key_bytes, make)
    }

    /// About how many keys hold something, as one replica of each shard counts them.
    ///
    /// It is an estimate: what has not arrived yet at the replicas that are asked is missing, and what has expired counts
    /// until it has been removed. Once nothing is written any more and the replicas have become equal (K4), it is exact.
    ///
    /// # Errors
    /// [`KvError::NotEnoughReplicas`]: no replica of some shard has answered in time. [`KvError::Stopped`].
    #[allow(clippy::len_without_is_empty, reason = "an estimate of 0 does not say that nothing is there")]
    pub async fn len(&self) -> Result<u64, KvError> {
        count::len(self.kv.coordinator(), &self.place(b"")).await
    }

    /// The nodes that a key belongs to, the preferred ones first, as this node sees the cluster.
    #[must_use]
    pub fn replicas(&self, key: impl AsRef<[u8]>) -> Vec<NodeId> {
        self.kv.replicas_of(&self.place(key.as_ref()))
    }

    /// The shard of a key. That of the same key in another bucket, or in none, is as a rule another one. [`Kv::shard`] says how
    /// this node stands to it.
    ///
    /// A bucket with a number of replicas of its own has shards of its own, with numbers from 65,536 on.
    #[must_use]
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> ShardId {
        self.kv.coordinator().store.shard_of(&self.place(key.as_ref()).0)
    }

    /// A hash of what this node itself holds of a key, without asking anybody: replicas that agree have the same. `None` if
    /// it holds nothing. For looking at a node, not for serving.
    ///
    /// # Errors
    /// [`KvError::Engine`].
    pub fn fingerprint(&self, key: impl AsRef<[u8]>) -> Result<Option<u64>, KvError> {
        Ok(self.kv.coordinator().store.fingerprint(&self.place(key.as_ref()).0)?)
    }

    fn place(&self, key: &[u8]) -> Blob {
        place::key_of(&self.name, key)
    }

    /// The same keys, seen as those of one kind.
    fn view<V>(&self) -> Bucket<V> {
        Bucket { kv: self.kv.clone(), name: self.name.clone(), rules: self.rules, kind: PhantomData }
    }

    fn clear() -> Update {
        Update { clears: true, ..Update::any() }.of_kind(K::KIND)
    }

    fn read<T>(&self, key: impl AsRef<[u8]>, make: fn(&Record) -> T) -> Get<'_, T> {
        Get::new(&self.kv, self.place(key.as_ref()), K::KIND, self.rules, make)
    }

    fn write<T>(&self, key: impl AsRef<[u8]>, update: Update, make: fn(Done) -> T) -> Put<'_, T> {
        Put::new(&self.kv, self.place(key.as_ref()), update, self.rules, make)
    }

    fn write_many<T, Key: AsRef<[u8]>>(
        &self,
        updates: impl Iterator<Item = (Key, Update)>,
        make: fn(Done) -> T,
    ) -> PutMany<'_, T> {
        let updates = updates.map(|(key, update)| (self.place(key.as_ref()), update)).collect();
        PutMany::new(&self.kv, updates, self.rules, make)
    }
}
