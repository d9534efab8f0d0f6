//! What one node holds: for each shard its standing, the digest of its records, and the records in the engine.
//!
//! Everything here is synchronous and takes one shard's lock for a short time. That one lock orders three things that
//! must not be seen apart: a record's change, the digest's change, and the standing that the answer vouches with.

mod blind;
mod classes;
#[cfg(all(test, feature = "turmoil", not(feature = "shuttle")))]
mod crashes;
#[cfg(all(test, feature = "shuttle"))]
mod races;
mod repair;
mod sketches;
mod tombstones;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::{NodeId, NodeName};
use polity_crdt::{Dot, HybridClock, ReplicaId, VersionVector};
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
use crate::record::{self, Blob, Kind, MAX_DONE, Millis, NotARecord, Record, Refused, Update, Writing};
use crate::roster::{Roster, RosterId};
use crate::standing::Standing;
use crate::sync::{AtomicU64, Mutex, MutexGuard, RwLock};
use crate::tally::Vouch;
use crate::watch::Watched;
use crate::wire::{Had, Page};

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

/// What a record is replaced.
#[derive(Clone, Copy)]
struct Old<'a> {
    bytes: Option<&'a [u8]>,
    is_live: bool,
}

/// Why a write was not done here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Malformed(NotARecord),
    #[error("the key holds a {0} value")]
    WrongKind(Kind),
    #[error("the steps are of another kind than the update")]
    Nonsense,
    #[error("{0} siblings are too many")]
    TooManySiblings(usize),
    #[error("{0} siblings are too large")]
    RecordTooLarge(usize),
    #[error("the key has {MAX_DONE} writes under idempotency keys already")]
    TooManyKeys,
    #[error(transparent)]
    Engine(EngineError),
}

impl From<EngineError> for WriteError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<NotARecord> for WriteError {
    fn from(error: NotARecord) -> Self {
        Self::Malformed(error)
    }
}

impl From<Refused> for WriteError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::WrongKind(kind) => Self::WrongKind(kind),
            Refused::Nonsense => Self::Nonsense,
            Refused::TooManyKeys => Self::TooManyKeys,
            Refused::Exhausted(cause) => Self::Engine(EngineError::Other { action: "counted a write", cause }),
        }
    }
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

/// What a shard answers to a replica that asks for all it has.
#[derive(Debug)]
pub(crate) struct Account {
    /// The rosters that it stands for.
    pub(crate) rosters: Vec<Roster>,
    pub(crate) digest: Digest,
}

/// A write, and what its writer knows.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) update: &'a Update,
    /// What it replaces of a causal key. `None`: what the writer knows.
    pub(crate) context: Option<&'a VersionVector>,
    /// What a quorum knew a moment ago, if it was asked.
    pub(crate) known: Option<Record>,
    /// The wall clock, since the Unix epoch.
    pub(crate) wall: Duration,
}

/// What a write has done, and who must have it.
#[derive(Debug)]
pub(crate) struct Written {
    /// What others need to have it too.
    pub(crate) record: Vec<u8>,
    pub(crate) context: VersionVector,
    /// How many of its steps have changed something.
    pub(crate) changed: u32,
    /// What a counter stands at, as far as is known here.
    pub(crate) total: i128,
    pub(crate) vouch: Vouch,
    /// The write that put a causal value. It is under way: see [`Store::flight`].
    pub(crate) dot: Option<Dot>,
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

    // ---- standing -------------------------------------------------------------------------------------------------

    /// The roster that placement gives a shard.
    pub(crate) fn placed(&self, shard: ShardId) -> Roster {
        self.shard(shard).placed.clone()
    }

    /// Placement has changed.
    pub(crate) fn place(&self, id: ShardId, roster: Roster) {
        let mut shard = self.shard(id);
        if let Some(standing) = &mut shard.standing {
            standing.move_to(roster.clone());
        }
        if !roster.is_empty() {
            shard.placed = roster;
        }
        self.keep_or_warn(&mut shard, id);
    }

    /// This node has learned which rosters a shard has had; none, if it has just been founded.
    pub(crate) fn introduce(&self, id: ShardId, rosters: Vec<Roster>) {
        let mut shard = self.shard(id);
        if shard.standing.is_none() && !shard.placed.is_empty() {
            shard.standing = Some(Standing::new(shard.placed.clone(), rosters));
            self.keep_or_warn(&mut shard, id);
        }
    }

    /// Writes the standing of a shard to the engine, if it has changed since.
    fn keep(&self, shard: &mut Shard, id: ShardId) -> Result<(), EngineError> {
        if let Some(standing) = &shard.standing
            && standing.changes() != shard.kept
            && self.engine.is_durable()
        {
            shard.commit = self.engine.put_meta(&kept::standing_of(id), &kept::encode_standing(standing))?;
            shard.kept = standing.changes();
        }
        Ok(())
    }

    /// Should that fail, nothing is acknowledged before it has been made up for: see [`Store::commit`].
    fn keep_or_warn(&self, shard: &mut Shard, id: ShardId) {
        if let Err(error) = self.keep(shard, id) {
            tracing::warn!(%error, shard = %id, "the standing of a shard was not kept");
        }
    }

    /// The boots that this one continues.
    pub(crate) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Whom all continue that have said it.
    pub(crate) fn heirs(&self) -> Arc<Heirs> {
        self.heirs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A boot has said whom it continues.
    pub(crate) fn note_lineage(&self, node: &NodeId, lineage: Lineage) {
        if self.heirs().lacks(node) {
            Arc::make_mut(&mut self.heirs.write().unwrap_or_else(PoisonError::into_inner)).note(node, lineage);
        }
    }

    /// Forgets what was said by those that are not members any more.
    pub(crate) fn forget_lineages(&self, is_member: impl Fn(&NodeName) -> bool) {
        let is_ours = |name: &NodeName| *name == self.own.name || is_member(name);
        Arc::make_mut(&mut self.heirs.write().unwrap_or_else(PoisonError::into_inner)).retain(is_ours);
    }

    pub(crate) fn is_introduced(&self, shard: ShardId) -> bool {
        self.shard(shard).standing.is_some()
    }

    /// The rosters that this node stands for, the current one first. `None` if it does not know.
    pub(crate) fn rosters(&self, shard: ShardId) -> Option<Vec<Roster>> {
        self.shard(shard).standing.as_ref().map(|standing| standing.rosters().cloned().collect())
    }

    /// Reads or changes the standing of a shard, if it is known.
    pub(crate) fn with_standing<T>(&self, shard: ShardId, change: impl FnOnce(&mut Standing) -> T) -> Option<T> {
        let mut guard = self.shard(shard);
        let result = guard.standing.as_mut().map(change);
        self.keep_or_warn(&mut guard, shard);
        result
    }

    pub(crate) fn digest(&self, shard: ShardId) -> Digest {
        self.shard(shard).digest
    }

    pub(crate) fn holds_records(&self, shard: ShardId) -> bool {
        self.digest(shard).count() > 0
    }

    /// A replica of `under` asks for all that this shard has: fences it, and gives the account that the answer brings.
    /// `None` if this node does not know yet what it should have.
    pub(crate) fn account(&self, id: ShardId, under: &Roster) -> Option<Account> {
        let mut shard = self.shard(id);
        let standing = shard.standing.as_mut()?;
        standing.fence(under);
        let (rosters, changes) = (standing.rosters().cloned().collect(), standing.changes());
        if mutated(Mutation::ForgetsFences) {
            shard.kept = changes;
        }
        self.keep_or_warn(&mut shard, id);
        Some(Account { rosters, digest: shard.digest })
    }

    /// The last commit that changed one of these shards, or how it stands. Whoever acknowledges what they hold waits for it,
    /// without a lock.
    ///
    /// # Errors
    /// A standing could not be kept: nothing may be acknowledged that it vouches for.
    pub(crate) fn commit(&self, shards: impl IntoIterator<Item = ShardId>) -> Result<Commit, EngineError> {
        let mut last = Commit::NONE;
        for id in shards {
            let mut shard = self.shard(id);
            self.keep(&mut shard, id)?;
            last = last.max(shard.commit);
        }
        Ok(last)
    }

    /// Waits until everything up to a commit survives a power cut, as far as the engine promises that.
    pub(crate) async fn durable(&self, upto: Commit) -> Result<(), EngineError> {
        if upto == Commit::NONE || mutated(Mutation::AcksBeforeDurable) {
            return Ok(());
        }
        self.engine.durable(upto).await
    }

    /// Waits until all that these shards hold, and how they stand, survives a power cut.
    pub(crate) async fn all_durable(&self, shards: impl IntoIterator<Item = ShardId>) -> Result<(), EngineError> {
        self.durable(self.commit(shards)?).await
    }

    // ---- records --------------------------------------------------------------------------------------------------

    /// A record, and what its answer vouches for.
    pub(crate) fn read(
        &self,
        shard: ShardId,
        key: &[u8],
        named: RosterId,
    ) -> Result<(Option<Vec<u8>>, Vouch), EngineError> {
        let guard = self.shard(shard);
        let record = self.engine.load(shard, key)?;
        Ok((record, guard.vouch(named)))
    }

    /// This node's own record of a key, whatever its standing.
    pub(crate) fn local(&self, key: &[u8]) -> Result<Option<Record>, EngineError> {
        let shard = self.shard_of(key);
        let _guard = self.shard(shard);
        let bytes = self.engine.load(shard, key)?;
        let damaged =
            |cause: record::NotARecord| EngineError::Other { action: "decoded a record", cause: cause.to_string() };
        bytes.map(|bytes| record::decode(&bytes).map_err(damaged)).transpose()
    }

    /// A hash of this node's own record of a key, if something is there.
    pub(crate) fn fingerprint(&self, key: &[u8]) -> Result<Option<u64>, EngineError> {
        let record = self.local(key)?.filter(Record::is_live);
        Ok(record.map(|record| record::hash(&record::encode(&record))))
    }

    /// Merges a record into this node's. Whoever sent it, and whatever this node's standing: what a replica has
    /// acknowledged enters wherever it arrives.
    pub(crate) fn merge(&self, shard: ShardId, key: &[u8], bytes: &[u8], named: RosterId) -> Result<Vouch, WriteError> {
        Ok(self.merge_and_tell(shard, key, bytes, named, None)?.0)
    }

    /// The same, and tells what was here before, if that is asked for and is not what has this hash.
    pub(crate) fn merge_and_tell(
        &self,
        shard: ShardId,
        key: &[u8],
        bytes: &[u8],
        named: RosterId,
        before: Option<u64>,
    ) -> Result<(Vouch, Option<Had>), WriteError> {
        let mut guard = self.shard(shard);
        let old = self.engine.load(shard, key)?;
        self.merge_into(&mut guard, shard, key, old.as_deref(), bytes)?;
        let is_asked = |old: &Vec<u8>| before.is_some_and(|before| before != record::hash(old));
        let had = old.filter(is_asked).map(|old| Had {
            record: old.into(),
            by: guard.replica,
            under_way: guard.under_way.of(key),
        });
        Ok((guard.vouch(named), had))
    }

    /// Merges a record into what is here. Returns what is here then, if that is something else than what came.
    fn merge_into<'a>(
        &self,
        guard: &mut Shard,
        shard: ShardId,
        key: &[u8],
        old: Option<&'a [u8]>,
        bytes: &[u8],
    ) -> Result<Option<Cow<'a, [u8]>>, WriteError> {
        if old == Some(bytes) {
            return Ok(None);
        }
        let theirs = record::decode(bytes)?;
        if mutated(Mutation::ForgetsDeletes) && !theirs.is_live() {
            return Ok(None);
        }
        let mut ours = old.map_or_else(|| Ok(Record::default()), record::decode)?;
        let replaced = guard.old(key, old, &ours);
        if ours.gives_way_to(&theirs) {
            self.put_bytes(guard, shard, key, replaced, (bytes, &theirs))?;
            return Ok(None);
        }
        if !ours.merge(theirs) {
            return Ok(old.map(Cow::Borrowed));
        }
        let new = record::encode(&ours);
        self.put_bytes(guard, shard, key, replaced, (&new, &ours))?;
        Ok((new != bytes).then_some(Cow::Owned(new)))
    }

    /// Writes to a key.
    pub(crate) fn write(
        &self,
        shard: ShardId,
        key: &[u8],
        write: Write<'_>,
        named: RosterId,
    ) -> Result<Written, WriteError> {
        let Write { update, context, known, wall } = write;
        let mut guard = self.shard(shard);
        let old = self.engine.load(shard, key)?;
        let mut record = match old.as_deref() {
            Some(bytes) => record::decode(bytes)?,
            None => Record::default(),
        };
        let old = guard.old(key, old.as_deref(), &record);
        // A causal write replaces what its writer has seen: not what has come meanwhile.
        let seen = known.as_ref().map(|known| known.context().clone());
        if let Some(known) = known {
            record.merge(known);
        }
        if mutated(Mutation::ReplacesUnseen) {
            record.clear();
        }
        let asked = (update, context.or(seen.as_ref()), wall);
        self.write_over(&mut guard, (shard, key), (record, old), asked, named)
    }

    fn write_over(
        &self,
        guard: &mut Shard,
        (shard, key): (ShardId, &[u8]),
        (mut record, old): (Record, Old<'_>),
        (update, context, wall): (&Update, Option<&VersionVector>, Duration),
        named: RosterId,
    ) -> Result<Written, WriteError> {
        record.latch(millis(wall));
        let at = guard.clock.now(wall);
        let writing = Writing { replica: guard.replica, above: guard.counted, context, at, window: self.window };
        let applied = record.apply(update, &writing)?;
        if record.siblings() > self.max_siblings && !update.clears && !applied.again {
            return Err(WriteError::TooManySiblings(record.siblings()));
        }
        let bytes = record::encode(&record);
        if record::content(&bytes).len() > self.max_record_bytes && !applied.again {
            return Err(WriteError::RecordTooLarge(record.siblings()));
        }
        // Of a key that was never written there is nothing to delete, and nothing that the other replicas would keep.
        if record.is_written() {
            self.put_bytes(guard, shard, key, old, (&bytes, &record))?;
        }
        if let Some(dot) = applied.dot {
            guard.under_way.begin(key, dot);
        }
        let delta = applied.delta.as_ref().map_or(bytes, record::encode);
        let context = if mutated(Mutation::KnowsTooMuch) { record.context().clone() } else { applied.context };
        Ok(Written {
            record: delta,
            context,
            changed: applied.changed,
            total: record.total(),
            vouch: guard.vouch(named),
            dot: applied.dot,
        })
    }

    /// Removes what has expired, of some keys of each shard. Returns whether more has.
    pub(crate) fn expire(&self, wall: Duration) -> Result<bool, EngineError> {
        let mut is_more = false;
        for shard in self.shard_ids() {
            is_more |= self.expire_in(shard, millis(wall), EXPIRED_AT_ONCE)?;
        }
        Ok(is_more)
    }

    fn expire_in(&self, shard: ShardId, now: Millis, at_most: usize) -> Result<bool, EngineError> {
        let mut guard = self.shard(shard);
        let due = guard.expiries.due(now, at_most);
        for key in &due {
            let bytes = self.engine.load(shard, key)?;
            let Some(Ok(mut record)) = bytes.as_deref().map(record::decode) else {
                guard.expiries.set(key, None);
                continue;
            };
            let old = guard.old(key, bytes.as_deref(), &record);
            if record.latch_alone(now) {
                self.put_record(&mut guard, shard, key, old, &record)?;
            }
            guard.expiries.set(key, record.next_due(now));
            if record.seen_at(now).is_tombstone() {
                guard.lapse(key, self.age());
            }
        }
        Ok(due.len() == at_most)
    }

    fn put_record(
        &self,
        guard: &mut Shard,
        shard: ShardId,
        key: &[u8],
        old: Old<'_>,
        record: &Record,
    ) -> Result<(), EngineError> {
        self.put_bytes(guard, shard, key, old, (&record::encode(record), record))
    }

    fn put_bytes(
        &self,
        guard: &mut Shard,
        shard: ShardId,
        key: &[u8],
        old: Old<'_>,
        (new, record): (&[u8], &Record),
    ) -> Result<(), EngineError> {
        guard.commit = self.engine.store(shard, key, new)?;
        guard.change(key, old.bytes, Some(new));
        guard.note(key, old.is_live, Some(record), self.age());
        self.watched.note(key);
        Ok(())
    }

    /// The records whose keys are greater than `after`, until they fill `bytes`. Returns whether there are more.
    pub(crate) fn page(
        &self,
        shard: ShardId,
        after: Option<&[u8]>,
        bytes: usize,
    ) -> Result<(Vec<(Blob, Blob)>, bool), EngineError> {
        let mut filling = Filling::new(bytes);
        self.engine.scan(shard, after, &mut |key, record| filling.take(key, record))?;
        Ok((filling.records, filling.more))
    }

    /// The records whose keys begin with `prefix` and are greater than `after`, until they fill `bytes`; whether there are
    /// more; and what the answer vouches for.
    pub(crate) fn page_of(
        &self,
        shard: ShardId,
        prefix: &[u8],
        after: Option<&[u8]>,
        bytes: usize,
        named: RosterId,
    ) -> Result<(Page, Vouch), EngineError> {
        let guard = self.shard(shard);
        let mut filling = Filling::new(bytes);
        let mut take = |key: &[u8], record: &[u8]| {
            if key.starts_with(prefix) { filling.take(key, record) } else { ControlFlow::Break(()) }
        };
        if after.is_none()
            && let Some(record) = self.engine.load(shard, prefix)?
        {
            let _ = take(prefix, &record);
        }
        self.engine.scan(shard, Some(after.unwrap_or(prefix)), &mut take)?;
        Ok((Page { records: filling.records, more: filling.more }, guard.vouch(named)))
    }

    /// Drops the records of a shard that belongs to others now, if nothing has changed since they were given `given`.
    pub(crate) fn release(&self, shard: ShardId, given: &Digest) -> Result<bool, EngineError> {
        let mut guard = self.shard(shard);
        let ours = guard.standing.as_ref().is_none_or(|s| s.current().contains(&self.own) || !s.is_ready());
        if ours || guard.digest != *given || mutated(Mutation::KeepsWhatItGave) {
            return Ok(false);
        }
        // An engine that has lost the records must know who has them.
        self.keep(&mut guard, shard)?;
        guard.commit = self.engine.clear(shard)?;
        guard.digest = Digest::default();
        guard.sketches = Sketches::default();
        guard.expiries.clear();
        guard.tombstones.clear();
        guard.census.clear();
        (guard.replica, guard.counted) = (self.next_replica(), 0);
        Ok(true)
    }

    /// The records of these keys, until they fill `bytes`, and how many of the keys that were.
    pub(crate) fn records_at(&self, keys: &[Blob], bytes: usize) -> Result<(Vec<(Blob, Blob)>, usize), EngineError> {
        let mut filling = Filling::new(bytes);
        for (at, key) in keys.iter().enumerate() {
            let shard = self.shard_of(&key.0);
            let record = {
                let _guard = self.shard(shard);
                self.engine.load(shard, &key.0)?
            };
            // One that has been handed over is told by its new owners.
            if let Some(record) = record
                && filling.take(&key.0, &record).is_break()
            {
                return Ok((filling.records, at));
            }
        }
        Ok((filling.records, keys.len()))
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

/// How many keys of a shard are looked at while others wait for it.
const EXPIRED_AT_ONCE: usize = 64;

/// A page that is being filled.
struct Filling {
    room: usize,
    records: Vec<(Blob, Blob)>,
    /// The last key that was dealt with.
    last: Option<Blob>,
    /// Whether there was something that found no room.
    more: bool,
}

impl Filling {
    fn new(room: usize) -> Self {
        Self { room, records: Vec::new(), last: None, more: false }
    }

    /// Takes a record if there is room. The first one always finds some.
    fn take(&mut self, key: &[u8], record: &[u8]) -> ControlFlow<()> {
        let bytes = key.len() + record.len();
        if bytes > self.room && !self.records.is_empty() {
            self.more = true;
            return ControlFlow::Break(());
        }
        self.room = self.room.saturating_sub(bytes);
        let key = Blob::from(key.to_vec());
        self.last = Some(key.clone());
        self.records.push((key, record.to_vec().into()));
        ControlFlow::Continue(())
    }
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
