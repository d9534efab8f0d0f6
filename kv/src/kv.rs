//! The handle to a node's key-value store.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::{Node, NodeId};
use polity_crdt::VersionVector;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::acks::Acks;
use crate::bucket::config::Rules;
use crate::bucket::{Bucket, BucketConfig, BucketKind};
use crate::call::{Get, GetMany, Put, PutMany};
use crate::config::{ConfigError, KvConfig};
use crate::coordinator::{Coordinator, Done};
use crate::count;
use crate::engine::{Engine, MemoryEngine};
use crate::error::{KvError, StartError};
use crate::gate::Gate;
use crate::mend::Mending;
use crate::place::{self, MAX_BUCKET_BYTES};
use crate::record::{Blob, IdempotencyKey, Kind, Record, Update};
use crate::scan::Scan;
use crate::serve;
use crate::settled;
use crate::stats::KvStats;
use crate::store::Store;
use crate::tombstones;
use crate::upkeep::Upkeep;
use crate::watch::{self, Watch, Watches};

/// What a reader has seen of a key. A write that carries it replaces exactly that; without it, two writes that knew
/// nothing of each other both stay. Opaque, and good for the key that it was read from only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Context(VersionVector);

/// Bytes that are not a [`Context`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a causal context: {0}")]
pub struct NotAContext(String);

impl Context {
    pub(crate) fn of(done: Done) -> Self {
        Self(done.context)
    }

    pub(crate) fn version(&self) -> &VersionVector {
        &self.0
    }

    /// The context in bytes, to be handed to a client that will write later, perhaps through another node.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(&self.0).expect("a context encodes into a growing buffer")
    }

    /// The inverse of [`Context::to_bytes`].
    ///
    /// # Errors
    /// [`NotAContext`] for anything else. A client can make up a context that covers values that it has not read; it
    /// then replaces them, as it could by reading first.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAContext> {
        match postcard::take_from_bytes(bytes) {
            Ok((context, [])) => Ok(Self(context)),
            Ok(_) => Err(NotAContext("trailing bytes".to_owned())),
            Err(error) => Err(NotAContext(error.to_string())),
        }
    }
}

/// What is stored under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    values: Vec<Bytes>,
    context: Context,
}

impl Entry {
    pub(crate) fn new(record: &Record) -> Self {
        let values = record.values();
        let shown = if mutated(Mutation::HidesSiblings) { 1 } else { values.len() };
        Self {
            values: values.into_iter().take(shown).map(|value| value.0.clone()).collect(),
            context: Context(record.context().clone()),
        }
    }

    /// All values that no write has replaced. More than one if writes were concurrent: merge them, and write the result
    /// with the [`Entry::context`].
    #[must_use]
    pub fn values(&self) -> &[Bytes] {
        &self.values
    }

    /// The value, if there is exactly one.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match &self.values[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Whether the key has no value: it was never written, or was deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What this read has seen.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }
}

/// A node's store. Cheap to clone.
///
/// # Guarantees
/// At [`Consistency::Quorum`](crate::Consistency::Quorum), the default, for the failure model and in the words of
/// `docs/SEMANTICS.md`: an acknowledged write survives failures that destroy fewer than a quorum of its replicas before
/// repair has completed (K1); concurrent writes stay side by side (K2); a read sees every write that was acknowledged
/// before it began (K3); an error says whether the write may have been applied (K6).
#[derive(Clone)]
pub struct Kv {
    inner: Arc<Inner>,
}

struct Inner {
    coordinator: Arc<Coordinator>,
    gate: Gate,
    upkeep: JoinHandle<()>,
    acks: JoinHandle<()>,
    mending: JoinHandle<()>,
    watches: Arc<Watches>,
    watching: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.upkeep.abort();
        self.acks.abort();
        self.mending.abort();
        self.watching.abort();
    }
}

impl fmt::Debug for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kv").field("node", &self.inner.coordinator.node).finish_non_exhaustive()
    }
}

impl Kv {
    /// Starts the store of a node, in memory. Must be called while the node starts
    /// ([`polity_cluster::Builder::start_with`]), so that no peer can ask it too early, and once per node.
    ///
    /// # Errors
    /// [`StartError`]; nothing was started.
    pub fn start(node: &Node, config: KvConfig) -> Result<Self, StartError> {
        let engine = Arc::new(MemoryEngine::new(config.shards));
        Self::start_on(node, config, engine)
    }

    /// Starts the store of a node on an engine of the caller's, with what it holds: all of that is read before this
    /// returns. For a million small records on disk that takes two to three seconds, the opening of the engine included. What
    /// another boot of this node has written is handed to whom it belongs now, and this boot writes under names of its own.
    ///
    /// # Errors
    /// [`StartError`]; nothing was started.
    pub fn start_on(node: &Node, config: KvConfig, engine: Arc<dyn Engine>) -> Result<Self, StartError> {
        config.validate()?;
        if config.max_key_bytes + MAX_BUCKET_BYTES + 1 > engine.max_key_bytes() {
            let problem = "is more than the storage engine takes";
            return Err(ConfigError { setting: "max_key_bytes".into(), problem }.into());
        }
        let store = Arc::new(Store::new(node.id().clone(), &config, engine)?);
        let wake = Arc::new(Notify::new());
        let (mending, see_through) = Mending::new(wake.clone());
        let coordinator = Arc::new(Coordinator::new(node, store.clone(), config, mending));
        let (acks, task) = Acks::new(store);
        serve::register(node.rpc(), &coordinator, &wake, &acks);
        let watches = Arc::new(Watches::default());
        let watching = watch::start(&coordinator, &watches);
        let span = tracing::info_span!("kv", node = %node.id());
        let upkeep = Upkeep::new(node, coordinator.clone(), wake).run().instrument(span.clone());
        let (upkeep, acks) = (node.spawn_internal(upkeep), node.spawn_internal(task));
        let mending = node.spawn_internal(see_through.instrument(span.clone()));
        let watching = node.spawn_internal(watching.instrument(span));
        Ok(Self {
            inner: Arc::new(Inner { coordinator, gate: Gate::default(), upkeep, acks, mending, watches, watching }),
        })
    }

    /// Opens a bucket that [`KvConfig::bucket`] has declared: keys of their own. The type says of which kind they are:
    /// `let visits: Bucket<Counter> = kv.bucket("visits")?`. The store's own `get`, `put` and `delete` are those of the
    /// causal bucket without a name, which nobody declares.
    ///
    /// # Errors
    /// [`KvError::UnknownBucket`], [`KvError::BucketKind`].
    pub fn bucket<K: BucketKind>(&self, name: &str) -> Result<Bucket<K>, KvError> {
        Bucket::open(self, name)
    }

    /// Reads a key. Fails at once if too few replicas are up, and after the store's timeout if too few answer.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get<'_, Entry> {
        Get::new(self, place_of(key), Some(Kind::Causal), self.rules(), Entry::new)
    }

    /// Reads many keys, each as [`Kv::get`] does. See [`GetMany`].
    #[must_use = "a read does nothing until it is awaited"]
    pub fn get_many<Key: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = Key>) -> GetMany<'_, Entry> {
        let places = keys.into_iter().map(place_of).collect();
        GetMany::new(self, places, Some(Kind::Causal), self.rules(), Entry::new)
    }

    /// Writes a value. Unless it is given a [`Put::context`], it replaces what a quorum knows when it is called.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put<'_, Context> {
        Put::new(self, place_of(key), put(Some(value.into())), self.rules(), Context::of)
    }

    /// Writes many values, each as [`Kv::put`] does without a context. See [`PutMany`].
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put_many<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> PutMany<'_, Context> {
        let updates = values.into_iter().map(|(key, value)| (place_of(key), put(Some(value.into()))));
        PutMany::new(self, updates.collect(), self.rules(), Context::of)
    }

    /// Deletes a key: whatever its context covers, or, without one, what a quorum knows.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Put<'_, Context> {
        Put::new(self, place_of(key), put(None), self.rules(), Context::of)
    }

    /// Deletes many keys, each as [`Kv::delete`] does without a context. See [`PutMany`].
    #[must_use = "a write does nothing until it is awaited"]
    pub fn delete_many<Key: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = Key>) -> PutMany<'_, Context> {
        let updates = keys.into_iter().map(|key| (place_of(key), put(None))).collect();
        PutMany::new(self, updates, self.rules(), Context::of)
    }

    /// Goes through all keys of the bucket without a name that begin so; all of it, if that is nothing. See [`Scan`].
    #[must_use = "a scan does nothing until it is asked for what is next"]
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan<'_, Entry> {
        Scan::new(self, place_of(prefix), self.rules().read, causal)
    }

    /// About how many keys of the bucket without a name hold something. See [`Bucket::len`].
    ///
    /// # Errors
    /// [`KvError::NotEnoughReplicas`]: no replica of some shard has answered in time. [`KvError::Stopped`].
    #[allow(clippy::len_without_is_empty, reason = "an estimate of 0 does not say that nothing is there")]
    pub async fn len(&self) -> Result<u64, KvError> {
        count::len(&self.inner.coordinator, &place_of(b"")).await
    }

    /// Watches a key of the bucket without a name. See [`Watch`].
    ///
    /// # Errors
    /// [`KvError::KeySize`], [`KvError::TooManyWatches`], [`KvError::Stopped`].
    pub fn watch(&self, key: impl AsRef<[u8]>) -> Result<Watch<Entry>, KvError> {
        Watch::new(self, place_of(key), true, self.config().max_key_bytes, causal)
    }

    /// Watches all keys of the bucket without a name that begin so. See [`Watch`].
    ///
    /// # Errors
    /// [`KvError::KeySize`], [`KvError::TooManyWatches`], [`KvError::Stopped`].
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Watch<Entry>, KvError> {
        Watch::new(self, place_of(prefix), false, self.config().max_key_bytes, causal)
    }

    /// Names a write, from now on: see [`Put::idempotency_key`].
    #[must_use]
    pub fn idempotency_key(&self, name: impl AsRef<[u8]>) -> IdempotencyKey {
        IdempotencyKey::new(name, self.coordinator().wall())
    }

    /// Waits until all members see the same members, and every shard is on the nodes that it belongs to and has caught
    /// up there: from then on the store survives the next failure. Waits for ever while a failure cannot be repaired;
    /// give it a timeout. Cancel safe.
    pub async fn settled(&self) {
        settled::settled(&self.inner.coordinator).await;
    }

    /// Waits until this node has learned, caught up with and handed over all that it has to. Cancel safe.
    pub async fn caught_up(&self) {
        while self.pending_shards() > 0 {
            tokio::time::sleep(self.config().upkeep_interval).await;
        }
    }

    /// How many shards this node has yet to catch up with, learn about or hand over. 0 when it is done.
    #[must_use]
    pub fn pending_shards(&self) -> u32 {
        settled::progress(&self.inner.coordinator).pending
    }

    /// The nodes that a key belongs to, the preferred ones first, as this node sees the cluster.
    #[must_use]
    pub fn replicas(&self, key: impl AsRef<[u8]>) -> Vec<NodeId> {
        self.replicas_of(&place_of(key))
    }

    pub(crate) fn replicas_of(&self, place: &Blob) -> Vec<NodeId> {
        let here = &self.inner.coordinator;
        here.map().preference_list(here.store.shard_of(&place.0))
    }

    /// What this node itself holds of a key, without asking anybody; `None` if it holds nothing. It may be stale
    /// or on its way to another node: for looking at a node, not for serving.
    ///
    /// # Errors
    /// [`KvError::Engine`].
    pub fn local(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, KvError> {
        let store = &self.inner.coordinator.store;
        let record = store.local(&place_of(key).0)?;
        Ok(record.filter(Record::is_live).map(|record| Entry::new(&record)))
    }

    /// How many records this node holds, traces of deletes included. Counts them one by one.
    ///
    /// # Errors
    /// [`KvError::Engine`].
    pub fn local_records(&self) -> Result<u64, KvError> {
        Ok(self.inner.coordinator.store.records()?)
    }

    /// What this node's store has done so that replicas become equal, and what waits to be done.
    #[must_use]
    pub fn stats(&self) -> KvStats {
        let here = &self.inner.coordinator;
        let (repair_bytes, repairs_waiting) = (here.throttle.spent(), here.throttle.waiting());
        let (tombstones, tombstones_collected) = here.store.tombstones();
        let tombstones_blocked_by = tombstones::blocked_by(&here.map()).cloned();
        KvStats {
            repair_bytes,
            repairs_waiting,
            tombstones,
            tombstones_collected,
            tombstones_blocked_by,
            damage: here.store.damage(),
            engine_failure: here.store.engine_failure(),
            ..here.mending.stats()
        }
    }

    /// The limits and times of this store.
    #[must_use]
    pub fn config(&self) -> &KvConfig {
        &self.inner.coordinator.config
    }

    /// Lets no read or write of a key begin any more on this node ([`KvError::Stopped`]), and waits until those that have begun
    /// are over. For a node that is about to leave: a connection that is closed under a write leaves its outcome unknown.
    /// Cancel safe: what was closed stays so.
    pub async fn close(&self) {
        self.inner.gate.close().await;
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    pub(crate) fn coordinator(&self) -> &Arc<Coordinator> {
        &self.inner.coordinator
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.inner.watches
    }

    /// Those of the bucket without a name.
    fn rules(&self) -> Rules {
        Rules::new(&BucketConfig::causal(), self.config())
    }
}

/// Where the bucket without a name keeps a key.
fn place_of(key: impl AsRef<[u8]>) -> Blob {
    place::key_of("", key.as_ref())
}

fn causal(record: &Record) -> Option<Entry> {
    (record.is_live() && record.kind() == Kind::Causal).then(|| Entry::new(record))
}

fn put(value: Option<Bytes>) -> Update {
    Update::put(Kind::Causal, value.map(Blob))
}
