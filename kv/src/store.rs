//! What one node holds: for each shard its standing, the digest of its records, and the records in the engine.
//!
//! Everything here is synchronous and takes one shard's lock for a short time. That one lock orders three things that
//! must not be seen apart: a record's change, the digest's change, and the standing that the answer vouches with.

#[cfg(all(test, feature = "turmoil", not(feature = "shuttle")))]
mod crashes;
#[cfg(all(test, feature = "shuttle"))]
mod races;
mod repair;

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{HybridClock, ReplicaId, VersionVector};
use polity_shard::{ShardCount, ShardId};

use crate::config::KvConfig;
use crate::digest::Digest;
use crate::engine::{Commit, Engine, EngineError};
use crate::expiries::Expiries;
use crate::record::{self, Blob, Kind, Millis, NotARecord, Record, Refused, Update, Writing};
use crate::roster::{Roster, RosterId};
use crate::standing::Standing;
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use crate::tally::Vouch;
use crate::wire::Page;

pub(crate) use repair::{Taken, decode_elements, rank, tags_of};

/// One shard as one node has it.
#[derive(Debug)]
struct Shard {
    /// What placement says. Always known.
    placed: Roster,
    /// `None` until this node has learned the rosters of the shard from one that knows them.
    standing: Option<Standing>,
    digest: Digest,
    /// Whether there is any record.
    holds_records: bool,
    /// The last commit that changed a record.
    commit: Commit,
    /// The replica that this node is for the shard's keys. A new one each time the shard's records were dropped, so
    /// that no dot is ever used twice.
    replica: ReplicaId,
    clock: HybridClock,
    expiries: Expiries,
}

/// Why a write was not done here.
#[derive(Debug)]
pub(crate) enum WriteError {
    Malformed(NotARecord),
    WrongKind(Kind),
    Nonsense,
    TooManySiblings(usize),
    RecordTooLarge(usize),
    Engine(EngineError),
}

impl From<EngineError> for WriteError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// The records of one node.
#[derive(Debug)]
pub(crate) struct Store {
    own: NodeId,
    count: ShardCount,
    shards: Vec<Mutex<Shard>>,
    engine: Arc<dyn Engine>,
    max_siblings: usize,
    max_record_bytes: usize,
    tenancies: AtomicU64,
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
}

impl Store {
    /// The store of what an engine holds. Reads all of it, to know its digests.
    pub(crate) fn new(own: NodeId, config: &KvConfig, engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let store = Self {
            own,
            count: config.shards,
            shards: Vec::new(),
            engine,
            max_siblings: config.max_siblings,
            max_record_bytes: config.max_record_bytes(),
            tenancies: AtomicU64::new(0),
        };
        let shards = config.shards.iter().map(|shard| {
            let (digest, holds_records, expiries) = store.inspect(shard)?;
            Ok(Mutex::new(Shard {
                placed: Roster::new([]),
                standing: None,
                digest,
                holds_records,
                commit: Commit::NONE,
                replica: store.next_replica(),
                clock: HybridClock::new(),
                expiries,
            }))
        });
        let shards = shards.collect::<Result<_, EngineError>>()?;
        Ok(Self { shards, ..store })
    }

    /// The digest of what the engine holds of a shard, whether that is anything, and what of it expires.
    fn inspect(&self, shard: ShardId) -> Result<(Digest, bool, Expiries), EngineError> {
        let (mut digest, mut holds_records, mut expiries) = (Digest::default(), false, Expiries::default());
        self.engine.scan(shard, None, &mut |key, record| {
            digest.change(key, None, record);
            holds_records = true;
            if let Some(at) = record::decode(record).ok().and_then(|record| record.next_expiry()) {
                expiries.set(key, Some(at));
            }
            ControlFlow::Continue(())
        })?;
        Ok((digest, holds_records, expiries))
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
        self.count.shard_of(key)
    }

    pub(crate) fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.count.iter()
    }

    pub(crate) fn has_shard(&self, shard: ShardId) -> bool {
        self.count.contains(shard)
    }

    fn shard(&self, shard: ShardId) -> MutexGuard<'_, Shard> {
        self.shards[shard.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- standing -------------------------------------------------------------------------------------------------

    /// The roster that placement gives a shard.
    pub(crate) fn placed(&self, shard: ShardId) -> Roster {
        self.shard(shard).placed.clone()
    }

    /// Placement has changed.
    pub(crate) fn place(&self, shard: ShardId, roster: Roster) {
        let mut shard = self.shard(shard);
        if let Some(standing) = &mut shard.standing {
            standing.move_to(roster.clone());
        }
        if !roster.is_empty() {
            shard.placed = roster;
        }
    }

    /// This node has learned which rosters a shard has had; none, if it has just been founded.
    pub(crate) fn introduce(&self, shard: ShardId, rosters: Vec<Roster>) {
        let mut shard = self.shard(shard);
        if shard.standing.is_none() && !shard.placed.is_empty() {
            shard.standing = Some(Standing::new(shard.placed.clone(), rosters));
        }
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
        self.shard(shard).standing.as_mut().map(change)
    }

    pub(crate) fn digest(&self, shard: ShardId) -> Digest {
        self.shard(shard).digest
    }

    pub(crate) fn holds_records(&self, shard: ShardId) -> bool {
        self.shard(shard).holds_records
    }

    /// A replica of `under` asks for all that this shard has: fences it, and gives the account that the answer brings.
    /// `None` if this node does not know yet what it should have.
    pub(crate) fn account(&self, shard: ShardId, under: &Roster) -> Option<Account> {
        let mut shard = self.shard(shard);
        let standing = shard.standing.as_mut()?;
        standing.fence(under);
        let rosters = standing.rosters().cloned().collect();
        Some(Account { rosters, digest: shard.digest })
    }

    /// The last commit that changed one of these shards. Whoever acknowledges what they hold waits for it, without a lock.
    pub(crate) fn commit(&self, shards: impl IntoIterator<Item = ShardId>) -> Commit {
        shards.into_iter().map(|shard| self.shard(shard).commit).max().unwrap_or(Commit::NONE)
    }

    /// Waits until everything up to a commit survives a power cut, as far as the engine promises that.
    pub(crate) async fn durable(&self, upto: Commit) -> Result<(), EngineError> {
        if upto == Commit::NONE { Ok(()) } else { self.engine.durable(upto).await }
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

    /// A hash of this node's own record of a key.
    pub(crate) fn fingerprint(&self, key: &[u8]) -> Result<Option<u64>, EngineError> {
        let shard = self.shard_of(key);
        let _guard = self.shard(shard);
        Ok(self.engine.load(shard, key)?.map(|bytes| xxhash_rust::xxh3::xxh3_64(&bytes)))
    }

    /// Merges a record into this node's. Whoever sent it, and whatever this node's standing: what a replica has
    /// acknowledged enters wherever it arrives.
    pub(crate) fn merge(&self, shard: ShardId, key: &[u8], bytes: &[u8], named: RosterId) -> Result<Vouch, WriteError> {
        let mut guard = self.shard(shard);
        self.merge_into(&mut guard, shard, key, bytes)?;
        Ok(guard.vouch(named))
    }

    fn merge_into(&self, guard: &mut Shard, shard: ShardId, key: &[u8], bytes: &[u8]) -> Result<Taken, WriteError> {
        let old = self.engine.load(shard, key)?;
        if old.as_deref() == Some(bytes) {
            return Ok(Taken::Same);
        }
        let theirs = record::decode(bytes).map_err(WriteError::Malformed)?;
        if mutated(Mutation::ForgetsDeletes) && !theirs.is_live() {
            return Ok(Taken::Same);
        }
        let mut ours = match &old {
            Some(old) => record::decode(old).map_err(WriteError::Malformed)?,
            None => Record::default(),
        };
        if !ours.merge(theirs) {
            return Ok(old.map_or(Taken::Same, Taken::More));
        }
        let new = record::encode(&ours);
        self.put_bytes(guard, shard, key, old.as_deref(), (&new, ours.next_expiry()))?;
        Ok(if new == bytes { Taken::Same } else { Taken::More(new) })
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
            Some(bytes) => record::decode(bytes).map_err(WriteError::Malformed)?,
            None => Record::default(),
        };
        // A causal write replaces what its writer has seen: not what has come meanwhile.
        let seen = known.as_ref().map(|known| known.context().clone());
        if let Some(known) = known {
            record.merge(known);
        }
        let at = guard.clock.now(wall);
        record.latch(millis(wall));
        if mutated(Mutation::ReplacesUnseen) {
            record.clear();
        }
        let writing = Writing { replica: guard.replica, context: context.or(seen.as_ref()), at };
        let applied = record.apply(update, &writing).map_err(|refused| match refused {
            Refused::WrongKind(kind) => WriteError::WrongKind(kind),
            Refused::Nonsense => WriteError::Nonsense,
            Refused::Exhausted(cause) => WriteError::Engine(EngineError::Other { action: "counted a write", cause }),
        })?;
        if record.siblings() > self.max_siblings && !update.clears {
            return Err(WriteError::TooManySiblings(record.siblings()));
        }
        let bytes = record::encode(&record);
        if bytes.len() > self.max_record_bytes + MAX_HISTORY_BYTES {
            return Err(WriteError::RecordTooLarge(record.siblings()));
        }
        // Of a key that was never written there is nothing to delete, and nothing that the other replicas would keep.
        if record.is_written() {
            self.put_bytes(&mut guard, shard, key, old.as_deref(), (&bytes, record.next_expiry()))?;
        }
        let delta = applied.delta.as_ref().map_or(bytes, record::encode);
        let context = if mutated(Mutation::KnowsTooMuch) { record.context().clone() } else { applied.context };
        Ok(Written {
            record: delta,
            context,
            changed: applied.changed,
            total: record.total(),
            vouch: guard.vouch(named),
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
            let old = self.engine.load(shard, key)?;
            let record = old.as_deref().map(record::decode);
            if let Some(Ok(mut record)) = record
                && record.latch(now)
            {
                self.put_record(&mut guard, shard, key, old.as_deref(), &record)?;
            } else {
                guard.expiries.set(key, None);
            }
        }
        Ok(due.len() == at_most)
    }

    fn put_record(
        &self,
        guard: &mut Shard,
        shard: ShardId,
        key: &[u8],
        old: Option<&[u8]>,
        record: &Record,
    ) -> Result<(), EngineError> {
        self.put_bytes(guard, shard, key, old, (&record::encode(record), record.next_expiry()))
    }

    fn put_bytes(
        &self,
        guard: &mut Shard,
        shard: ShardId,
        key: &[u8],
        old: Option<&[u8]>,
        (new, expires): (&[u8], Option<Millis>),
    ) -> Result<(), EngineError> {
        guard.commit = self.engine.store(shard, key, new)?;
        guard.digest.change(key, old, new);
        guard.holds_records = true;
        guard.expiries.set(key, expires);
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
        guard.commit = self.engine.clear(shard)?;
        guard.digest = Digest::default();
        guard.holds_records = false;
        guard.expiries.clear();
        guard.replica = self.next_replica();
        Ok(true)
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

/// How many keys of a shard are looked at while others wait for it.
const EXPIRED_AT_ONCE: usize = 64;

/// Room for the causal history beside a record's values: some hundred writers of one key.
const MAX_HISTORY_BYTES: usize = 64 << 10;

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
    fn vouch(&self, named: RosterId) -> Vouch {
        match &self.standing {
            None => Vouch::Nothing,
            Some(standing) if standing.is_ready() && standing.current().id() == named => Vouch::Agree,
            Some(standing) => Vouch::For(standing.rosters().cloned().collect()),
        }
    }
}
