//! What one node holds: for each shard its standing, the digest of its records, and the records in the engine.
//!
//! Everything here is synchronous and takes one shard's lock for a short time. That one lock orders three things that
//! must not be seen apart: a record's change, the digest's change, and the standing that the answer vouches with.
//!
//! | module | does |
//! |---|---|
//! | `standings` | follows placement, fences, and keeps how the node stands to each shard |
//! | `records` | reads, merges and writes one record |
//! | `blind` | writes before it is known what others have, and takes away what the write should have replaced |
//! | `pages` | gives many records at once |
//! | `expiry`, `tombstones` | lets go what has expired, and the traces of deletes |
//! | `repair`, `sketches` | compares a shard with another replica's |
//! | `classes` | checks that records lie in shards of their replica count |

mod blind;
mod classes;
#[cfg(all(test, feature = "turmoil", not(feature = "shuttle")))]
mod crashes;
mod expiry;
mod pages;
#[cfg(all(test, feature = "shuttle"))]
mod races;
mod records;
mod repair;
#[cfg(all(test, not(feature = "shuttle")))]
mod replica;
mod sketches;
mod standings;
mod tombstones;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use polity_cluster::NodeId;
use polity_crdt::{HybridClock, ReplicaId};
use polity_shard::{ReplicaCount, ShardId};

use self::blind::UnderWay;
pub(crate) use self::blind::{Amended, Blind, Said};
use crate::agenda::Agenda;
use crate::census::Census;
use crate::config::KvConfig;
use crate::digest::Digest;
use crate::engine::{Commit, Engine, EngineError};
use crate::kept::{self, NotKept};
use crate::layout::Layout;
use crate::lineage::{Heirs, Lineage};
use crate::record::{self, Millis, Record};
use crate::roster::{Roster, RosterId};
use crate::standing::Standing;
use crate::sync::{AtomicU64, Mutex, MutexGuard, RwLock};
use crate::tally::Vouch;
use crate::watch::Watched;

pub(crate) use records::{Known, Write, WriteError, Written};
pub(crate) use repair::{Looked, Taken, decode_elements, rank, tags_of};
pub(crate) use sketches::KEPT;
use sketches::Sketches;

/// One shard as one node has it.
#[derive(Debug)]
struct Shard {
    /// What placement says. Always known.
    placed: Roster,
    /// `None` until this node has learned the rosters of the shard from one that knows them, or from its own engine.
    standing: Option<Standing>,
    /// Up to which of its changes the engine has the standing.
    kept: u64,
    digest: Digest,
    sketches: Sketches,
    /// The last commit that changed a record or the standing.
    commit: Commit,
    /// The replica that this node is for the shard's keys. A new one each time the shard's records were dropped, so
    /// that no dot is ever used twice.
    replica: ReplicaId,
    /// The greatest number that this replica has counted in a record which was dropped since.
    counted: u64,
    clock: HybridClock,
    /// The keys of which something expires.
    expiries: Agenda,
    /// The keys of which only the trace of a delete is left, or what has expired, with the age of the store at which they are ripe.
    tombstones: Agenda,
    census: Census,
    under_way: UnderWay,
}

/// What a record replaces.
#[derive(Clone, Copy)]
struct Old<'a> {
    bytes: Option<&'a [u8]>,
    is_live: bool,
}

/// The records of one node.
#[derive(Debug)]
pub(crate) struct Store {
    own: NodeId,
    layout: Arc<Layout>,
    /// By their places in the layout.
    shards: Vec<Mutex<Shard>>,
    engine: Arc<dyn Engine>,
    /// The boots whose records and standing the engine holds.
    lineage: Lineage,
    /// Whom others continue, as far as they have said.
    heirs: RwLock<Arc<Heirs>>,
    max_siblings: usize,
    max_record_bytes: usize,
    /// How long a write is named for.
    window: Millis,
    tenancies: AtomicU64,
    /// See [`Store::grow_older`].
    age: AtomicU64,
    collected: AtomicU64,
    watched: Watched,
}

impl Store {
    /// The store of what an engine holds. Reads all of it, to know its digests. What the engine says of whose it was and how
    /// that stood to its shards is true of this boot from now on.
    pub(crate) fn new(own: NodeId, config: &KvConfig, engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let continued = match engine.is_durable() {
            true => read_meta(&*engine, kept::LINEAGE, |bytes| kept::decode_lineage(bytes, &own.name, config.shards))?,
            false => None,
        };
        let continued = continued.flatten();
        let lineage = continued.clone().unwrap_or_default();
        let store = Self {
            layout: Arc::new(Layout::new(config)),
            shards: Vec::new(),
            heirs: RwLock::new(Arc::new(Heirs::new(&own, lineage.clone()))),
            own,
            engine,
            lineage,
            max_siblings: config.max_siblings,
            max_record_bytes: config.max_record_bytes(),
            window: millis(config.idempotency_window),
            tenancies: AtomicU64::new(0),
            age: AtomicU64::new(0),
            collected: AtomicU64::new(0),
            watched: Watched::default(),
        };
        let shards = store.shard_ids().map(|shard| {
            let standing = match continued {
                Some(_) => read_meta(&*store.engine, &kept::standing_of(shard), kept::decode_standing)?,
                None => None,
            };
            let mut fresh = Shard {
                placed: Roster::new([]),
                kept: standing.as_ref().map_or(0, Standing::changes),
                standing,
                digest: Digest::default(),
                sketches: Sketches::default(),
                commit: Commit::NONE,
                replica: store.next_replica(),
                counted: 0,
                clock: HybridClock::new(),
                expiries: Agenda::default(),
                tombstones: Agenda::default(),
                census: Census::default(),
                under_way: UnderWay::default(),
            };
            store.inspect(shard, &mut fresh)?;
            Ok(fresh)
        });
        let mut shards = shards.collect::<Result<Vec<_>, EngineError>>()?;
        let kept = store.left_classes()?;
        let commit = store.begin(kept)?;
        shards.iter_mut().for_each(|shard| shard.commit = commit);
        Ok(Self { shards: shards.into_iter().map(Mutex::new).collect(), ..store })
    }

    /// Says in the engine that it is this boot's. Nothing is acknowledged before that is durable.
    fn begin(&self, kept: BTreeSet<ReplicaCount>) -> Result<Commit, EngineError> {
        if !self.engine.is_durable() {
            return Ok(Commit::NONE);
        }
        let classes: BTreeSet<ReplicaCount> = self.layout.classes().iter().copied().collect();
        if !classes.is_subset(&kept) {
            self.engine.put_meta(kept::CLASSES, &kept::encode_classes(&(&kept | &classes)))?;
        }
        let left = kept::encode_lineage(&self.own.name, self.layout.shards(), self.own.boot, &self.lineage);
        self.engine.put_meta(kept::LINEAGE, &left)
    }

    /// Fills in what follows from what the engine holds of a shard.
    fn inspect(&self, id: ShardId, shard: &mut Shard) -> Result<(), EngineError> {
        let mut astray = Ok(());
        self.engine.scan(id, None, &mut |key, bytes| {
            astray = self.check_class(id, key);
            if astray.is_err() {
                return ControlFlow::Break(());
            }
            shard.digest.change(key, None, Some(bytes));
            if let Ok(record) = record::decode(bytes) {
                shard.note(key, false, Some(&record), 0);
            }
            ControlFlow::Continue(())
        })?;
        astray
    }

    /// Nothing that this boot or another has been: the boot is random, and the count grows.
    fn next_replica(&self) -> ReplicaId {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&self.own.boot.to_bytes());
        hasher.update(&self.tenancies.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        ReplicaId(hasher.digest())
    }

    pub(crate) fn own(&self) -> &NodeId {
        &self.own
    }

    pub(crate) fn shard_of(&self, key: &[u8]) -> ShardId {
        self.layout.shard_of(key)
    }

    pub(crate) fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.layout.ids()
    }

    pub(crate) fn has_shard(&self, shard: ShardId) -> bool {
        self.layout.contains(shard)
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn shard(&self, shard: ShardId) -> MutexGuard<'_, Shard> {
        self.shards[self.layout.position(shard)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who watches what it holds.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// How many keys of a bucket hold something, if this node is a replica of the shard and has caught up with it. The
    /// bucket is named as its places begin.
    pub(crate) fn live_keys(&self, shard: ShardId, bucket: &[u8]) -> Option<u64> {
        let guard = self.shard(shard);
        let ready = guard.standing.as_ref().is_some_and(|s| s.is_ready() && s.current().contains(&self.own));
        ready.then(|| guard.census.of(bucket))
    }

    /// What the engine had lost when it was opened.
    pub(crate) fn damage(&self) -> Option<String> {
        self.engine.damage().map(str::to_owned)
    }

    /// Why the engine takes nothing more.
    pub(crate) fn engine_failure(&self) -> Option<String> {
        self.engine.failure().map(|error| error.to_string())
    }

    /// The live keys of the records that this node holds, with their values counted: for statistics.
    pub(crate) fn records(&self) -> Result<u64, EngineError> {
        let mut count = 0;
        for shard in self.shard_ids() {
            self.engine.scan(shard, None, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok(count)
    }
}

/// A value of the engine's, understood.
fn read_meta<T>(
    engine: &dyn Engine,
    name: &str,
    decode: impl FnOnce(&[u8]) -> Result<T, NotKept>,
) -> Result<Option<T>, EngineError> {
    let not_kept =
        |error: NotKept| EngineError::Other { action: "read what it had kept", cause: format!("{name}: {error}") };
    engine.meta(name)?.map(|bytes| decode(&bytes).map_err(not_kept)).transpose()
}

/// A wall clock's time as records have it.
pub(crate) fn millis(wall: Duration) -> Millis {
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}

impl Shard {
    /// What is replaced under a key.
    fn old<'a>(&self, key: &[u8], bytes: Option<&'a [u8]>, record: &Record) -> Old<'a> {
        Old { bytes, is_live: record.is_live() && self.tombstones.of(key).is_none() }
    }

    /// All that is under a key has expired; the store is so old.
    fn lapse(&mut self, key: &[u8], age: u64) {
        if self.tombstones.of(key).is_none() {
            self.tombstones.set(key, Some(age + tombstones::RIPE));
            self.census.change(key, true, false);
        }
    }

    /// The bytes of a record have changed.
    fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        self.digest.change(key, old, new);
        self.sketches.change(key, old, new);
    }

    /// What is under a key has changed; the store is so old.
    fn note(&mut self, key: &[u8], was_live: bool, record: Option<&Record>, age: u64) {
        self.expiries.set(key, record.and_then(|record| record.next_due(0)));
        self.tombstones.set(key, record.filter(|record| record.is_tombstone()).map(|_| age + tombstones::RIPE));
        self.census.change(key, was_live, record.is_some_and(Record::is_live));
    }

    fn vouch(&self, named: RosterId) -> Vouch {
        match &self.standing {
            None => Vouch::Nothing,
            Some(standing) if standing.is_ready() && standing.current().id() == named => Vouch::Agree,
            Some(standing) => Vouch::For(standing.rosters().cloned().collect()),
        }
    }
}
