//! Buckets: keys of their own, all of one kind.
//!
//! ```no_run
//! # async fn run(kv: &polity_kv::Kv) -> Result<(), polity_kv::KvError> {
//! let visits = kv.bucket("visits")?.counter();
//! visits.add("home", 1).await?;
//! let carts = kv.bucket("carts")?.set();
//! carts.update("user-42", |cart| cart.add("apples").remove("pears")).await?;
//! let sessions = kv.bucket("sessions")?.ttl(std::time::Duration::from_secs(1800)).last_writer_wins();
//! sessions.put("token", "user-42").await?;
//! # Ok(()) }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_cluster::NodeId;

use crate::call::{Get, Put};
use crate::coordinator::Done;
use crate::error::KvError;
use crate::kv::{Context, Entry, Kv};
use crate::place::{self, MAX_BUCKET_BYTES};
use crate::record::{Blob, Kind, Record, Step, Update};
use crate::scan::Scan;

/// Values that were written at the same time stay side by side: see [`Kind::Causal`].
#[derive(Debug, Clone, Copy)]
pub struct Causal;
/// The latest value stays: see [`Kind::LastWriterWins`].
#[derive(Debug, Clone, Copy)]
pub struct LastWriterWins;
/// A number to which is added: see [`Kind::Counter`].
#[derive(Debug, Clone, Copy)]
pub struct Counter;
/// A set of elements: see [`Kind::Set`].
#[derive(Debug, Clone, Copy)]
pub struct Set;
/// A map from fields to values: see [`Kind::Map`].
#[derive(Debug, Clone, Copy)]
pub struct Map;

mod sealed {
    pub trait Sealed {
        const KIND: crate::record::Kind;
        type Value;
        fn value(found: Found<'_>) -> Option<Self::Value>;
    }

    /// What a key holds.
    #[derive(Debug)]
    pub struct Found<'a>(pub(crate) &'a crate::record::Record);
}
use sealed::{Found, Sealed};

/// The kinds of buckets.
pub trait BucketKind: Sealed {}
impl<K: Sealed> BucketKind for K {}

/// The kinds whose values expire as a whole. Of causal ones each is given its own time when it is written.
pub trait ExpiresAsAWhole: BucketKind {}
impl ExpiresAsAWhole for LastWriterWins {}
impl ExpiresAsAWhole for Counter {}
impl ExpiresAsAWhole for Set {}
impl ExpiresAsAWhole for Map {}

impl Sealed for Causal {
    const KIND: Kind = Kind::Causal;
    type Value = Entry;
    fn value(Found(record): Found<'_>) -> Option<Self::Value> {
        Some(Entry::new(record))
    }
}
impl Sealed for LastWriterWins {
    const KIND: Kind = Kind::LastWriterWins;
    type Value = Bytes;
    fn value(Found(record): Found<'_>) -> Option<Self::Value> {
        record.values().first().map(|value| value.0.clone())
    }
}
impl Sealed for Counter {
    const KIND: Kind = Kind::Counter;
    type Value = i128;
    fn value(Found(record): Found<'_>) -> Option<Self::Value> {
        Some(record.total())
    }
}
impl Sealed for Set {
    const KIND: Kind = Kind::Set;
    type Value = BTreeSet<Bytes>;
    fn value(Found(record): Found<'_>) -> Option<Self::Value> {
        Some(record.elements().map(|element| element.0.clone()).collect())
    }
}
impl Sealed for Map {
    const KIND: Kind = Kind::Map;
    type Value = BTreeMap<Bytes, Bytes>;
    fn value(Found(record): Found<'_>) -> Option<Self::Value> {
        Some(record.fields().map(|(field, value)| (field.0.clone(), value.0.clone())).collect())
    }
}

/// Describes a bucket. All nodes that use it must say the same: a write of one kind to a key that holds another fails.
#[derive(Debug, Clone)]
#[must_use = "a description is no bucket: say of which kind it is"]
pub struct BucketBuilder {
    kv: Kv,
    name: Arc<str>,
    ttl: Option<Duration>,
}

impl BucketBuilder {
    pub(crate) fn new(kv: Kv, name: &str) -> Result<Self, KvError> {
        if name.is_empty() || name.len() > MAX_BUCKET_BYTES {
            return Err(KvError::BucketName { bytes: name.len(), limit: MAX_BUCKET_BYTES });
        }
        Ok(Self { kv, name: name.into(), ttl: None })
    }

    /// How long what is written stays, unless a write says otherwise.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// A bucket of values that stay side by side when they were written at the same time.
    #[must_use]
    pub fn causal(self) -> Bucket<Causal> {
        self.of()
    }

    /// A bucket of values of which the latest stays.
    #[must_use]
    pub fn last_writer_wins(self) -> Bucket<LastWriterWins> {
        self.of()
    }

    /// A bucket of counters.
    #[must_use]
    pub fn counter(self) -> Bucket<Counter> {
        self.of()
    }

    /// A bucket of sets.
    #[must_use]
    pub fn set(self) -> Bucket<Set> {
        self.of()
    }

    /// A bucket of maps.
    #[must_use]
    pub fn map(self) -> Bucket<Map> {
        self.of()
    }

    fn of<K>(self) -> Bucket<K> {
        let Self { kv, name, ttl } = self;
        Bucket { kv, name, ttl, kind: PhantomData }
    }
}

/// A bucket of one kind. Cheap to clone.
#[derive(Debug)]
pub struct Bucket<K> {
    kv: Kv,
    name: Arc<str>,
    ttl: Option<Duration>,
    kind: PhantomData<K>,
}

impl<K> Clone for Bucket<K> {
    fn clone(&self) -> Self {
        Self { kv: self.kv.clone(), name: self.name.clone(), ttl: self.ttl, kind: PhantomData }
    }
}

impl<K: BucketKind> Bucket<K> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The nodes that a key belongs to, the preferred ones first, as this node sees the cluster.
    #[must_use]
    pub fn replicas(&self, key: impl AsRef<[u8]>) -> Vec<NodeId> {
        self.kv.replicas_of(&self.place(key.as_ref()))
    }

    /// When what is under a key expires, as a time since the Unix epoch: `None` if nothing is there, or it never does.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn expires(&self, key: impl AsRef<[u8]>) -> Get<'_, Option<Duration>> {
        self.read(key, |record| record.expires().map(Duration::from_millis))
    }

    /// Goes through all keys that begin so; all of the bucket, if that is nothing.
    #[must_use = "a scan does nothing until it is asked for what is next"]
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan<'_, K::Value> {
        Scan::new(&self.kv, self.place(prefix.as_ref()), K::KIND, |record| K::value(Found(record)))
    }

    /// A hash of what this node itself holds of a key, without asking anybody: replicas that agree have the same. `None` if
    /// it has no record of it. For looking at a node, not for serving.
    ///
    /// # Errors
    /// [`KvError::Engine`].
    pub fn fingerprint(&self, key: impl AsRef<[u8]>) -> Result<Option<u64>, KvError> {
        Ok(self.kv.coordinator().store.fingerprint(&self.place(key.as_ref()).0)?)
    }

    fn place(&self, key: &[u8]) -> Blob {
        place::key_of(&self.name, key)
    }

    fn read<T>(&self, key: impl AsRef<[u8]>, make: fn(&Record) -> T) -> Get<'_, T> {
        Get::new(&self.kv, self.place(key.as_ref()), make).of_kind(K::KIND)
    }

    fn write<T>(&self, key: impl AsRef<[u8]>, update: Update, make: fn(Done) -> T) -> Put<'_, T> {
        let is_written = !update.steps.is_empty();
        let put = Put::new(&self.kv, self.place(key.as_ref()), update, make);
        match self.ttl.filter(|_| is_written) {
            Some(ttl) => put.ttl(ttl),
            None => put,
        }
    }

    fn clear<T>(&self, key: impl AsRef<[u8]>, make: fn(Done) -> T) -> Put<'_, T> {
        self.write(key, Update { clears: true, ..Update::of(K::KIND, Vec::new()) }, make)
    }
}

impl<K: ExpiresAsAWhole> Bucket<K> {
    /// Sets when all that is under a key expires: after this time, or never. Does nothing if nothing is there.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn expire(&self, key: impl AsRef<[u8]>, after: Option<Duration>) -> Put<'_, ()> {
        let update = Update { expires: Some(None), ..Update::of(K::KIND, Vec::new()) };
        let put = Put::new(&self.kv, self.place(key.as_ref()), update, drop);
        match after {
            Some(after) => put.ttl(after),
            None => put,
        }
    }
}

impl Bucket<Causal> {
    /// Reads a key: all values that no write has replaced.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, Entry> {
        self.read(key, Entry::new)
    }

    /// Writes a value. Unless it is given a [`Put::context`], it replaces what a quorum knows when it is called.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put<'_, Context> {
        self.write(key, Update::put(Kind::Causal, Some(Blob(value.into()))), Context::of)
    }

    /// Deletes a key: whatever its context covers, or, without one, what a quorum knows.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, Context> {
        self.write(key, Update::put(Kind::Causal, None), Context::of)
    }
}

impl Bucket<LastWriterWins> {
    /// Reads a key; `None` if it was never written, or was deleted.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, Option<Bytes>> {
        self.read(key, |record| LastWriterWins::value(Found(record)))
    }

    /// Writes a value, in the place of all that were written before.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put<'_, ()> {
        self.write(key, Update::put(Kind::LastWriterWins, Some(Blob(value.into()))), drop)
    }

    /// Deletes what a quorum knows of a key. Says whether anything was there.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, bool> {
        self.clear(key, |done| done.changed > 0)
    }
}

impl Bucket<Counter> {
    /// What a counter stands at; 0 if nothing was ever added.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, i128> {
        self.read(key, Record::total)
    }

    /// Adds to a counter. Returns what it stands at then, as far as a quorum knows: two that add at the same time may be
    /// told the same, so it is no unique number.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn add(&self, key: impl AsRef<[u8]>, by: i64) -> Put<'_, i128> {
        self.write(key, Update::of(Kind::Counter, vec![Step::Add(by)]), |done| done.total)
    }

    /// Lets a counter begin anew at 0. What is added at the same time stays. Says whether anything was there.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, bool> {
        self.clear(key, |done| done.changed > 0)
    }
}

/// What is to be done with a set, in this order.
#[derive(Debug, Default)]
#[must_use = "an update does nothing until it is returned"]
pub struct SetUpdate(Vec<Step>);

impl SetUpdate {
    /// Adds an element.
    #[allow(clippy::should_implement_trait, reason = "it is what one does with a set")]
    pub fn add(mut self, element: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Insert(element.as_ref().to_vec().into()));
        self
    }

    /// Removes an element. One that is added at the same time elsewhere stays.
    pub fn remove(mut self, element: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Remove(element.as_ref().to_vec().into()));
        self
    }
}

impl Bucket<Set> {
    /// The elements of a set.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, BTreeSet<Bytes>> {
        self.read(key, |record| Set::value(Found(record)).unwrap_or_default())
    }

    /// Changes a set, as one write. Returns how many elements were new or are gone, as far as a quorum knows.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn update(&self, key: impl AsRef<[u8]>, change: impl FnOnce(SetUpdate) -> SetUpdate) -> Put<'_, u32> {
        let update = change(SetUpdate::default());
        self.write(key, Update::of(Kind::Set, update.0), |done| done.changed)
    }

    /// Removes all elements that a quorum knows. Says whether there were any.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, bool> {
        self.clear(key, |done| done.changed > 0)
    }
}

/// What is to be done with a map, in this order.
#[derive(Debug, Default)]
#[must_use = "an update does nothing until it is returned"]
pub struct MapUpdate(Vec<Step>);

impl MapUpdate {
    /// Sets a field, in the place of what was set before.
    pub fn set(mut self, field: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.0.push(Step::Set(field.as_ref().to_vec().into(), Blob(value.into())));
        self
    }

    /// Removes a field. One that is set at the same time elsewhere stays.
    pub fn remove(mut self, field: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Remove(field.as_ref().to_vec().into()));
        self
    }
}

impl Bucket<Map> {
    /// The fields of a map.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, BTreeMap<Bytes, Bytes>> {
        self.read(key, |record| Map::value(Found(record)).unwrap_or_default())
    }

    /// Changes a map, as one write. Returns how many fields were new or are gone, as far as a quorum knows.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn update(&self, key: impl AsRef<[u8]>, change: impl FnOnce(MapUpdate) -> MapUpdate) -> Put<'_, u32> {
        let update = change(MapUpdate::default());
        self.write(key, Update::of(Kind::Map, update.0), |done| done.changed)
    }

    /// Removes all fields that a quorum knows. Says whether there were any.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, bool> {
        self.clear(key, |done| done.changed > 0)
    }
}
