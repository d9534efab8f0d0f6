//! One record: read, merged, written.

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{Dot, Timestamp, VersionVector};
use polity_shard::ShardId;

use super::{Old, Shard, Store, millis};
use crate::engine::EngineError;
use crate::record::{self, Kind, MAX_DONE, Millis, NotARecord, Record, Refused, Update, Writing};
use crate::roster::RosterId;
use crate::tally::Vouch;
use crate::wire::Had;

/// Why a write was not done here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Malformed(NotARecord),
    #[error("the key holds a {0} value")]
    WrongKind(Kind),
    #[error("the steps are of another kind than the update")]
    Nonsense,
    #[error("beside {0} siblings there is no room")]
    TooManySiblings(usize),
    #[error("{0} bytes are too many for a key")]
    RecordTooLarge(usize),
    #[error("the key has {MAX_DONE} writes under idempotency keys already")]
    TooManyKeys,
    /// It would cover what was written after its time.
    #[error("the time has passed that it was to live for")]
    Late,
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

/// A write, and what its writer knows.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) update: &'a Update,
    /// What it replaces of a causal key. `None`: what the writer knows.
    pub(crate) context: Option<&'a VersionVector>,
    /// What a quorum knew, if it was asked.
    pub(crate) known: Option<Known>,
    /// The wall clock, since the Unix epoch.
    pub(crate) wall: Duration,
}

/// What a quorum has said.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: Record,
    /// The wall clock when it was asked. What has expired since may have been given another time since.
    pub(crate) asked: Duration,
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

impl Shard {
    /// How this replica writes now, over all that it knows.
    pub(super) fn writing(&mut self, wall: Duration, window: Millis) -> Writing<'static> {
        let at = if mutated(Mutation::StampsNothing) { Timestamp::default() } else { self.clock.now(wall) };
        Writing { replica: self.replica, above: self.counted, context: None, at, window }
    }
}

impl Store {
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
    pub(super) fn merge_into<'a>(
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
        // That of a delete of nothing: there is nothing to keep.
        if !theirs.is_written() {
            return Ok(old.map(Cow::Borrowed));
        }
        let mut ours = record::decode_any(old)?;
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
        let mut record = record::decode_any(old.as_deref())?;
        let old = guard.old(key, old.as_deref(), &record);
        // A causal write replaces what its writer has seen: not what has come meanwhile.
        let seen = known.as_ref().map(|known| known.record.context().clone());
        let asked = known.as_ref().map(|known| known.asked);
        if let Some(Known { record: known, .. }) = known {
            record.merge(known);
        }
        let asked = (update, context.or(seen.as_ref()), wall, asked);
        self.write_over(&mut guard, (shard, key), (record, old), asked, named)
    }

    /// Writes over a record. What had expired when a quorum was asked goes first; if none was, causal values.
    pub(super) fn write_over(
        &self,
        guard: &mut Shard,
        (shard, key): (ShardId, &[u8]),
        (mut record, old): (Record, Old<'_>),
        (update, context, wall, asked): (&Update, Option<&VersionVector>, Duration, Option<Duration>),
        named: RosterId,
    ) -> Result<Written, WriteError> {
        let writing = guard.writing(wall, self.window);
        // It is later than what is removed before it, too.
        let at = record.stamp().map_or(writing.at, |stamp| writing.at.max(stamp.next()));
        let at = if mutated(Mutation::StampsNothing) { writing.at } else { at };
        let writing = Writing { context, at, ..writing };
        match asked {
            Some(asked) => record.latch(millis(asked)),
            None => record.latch_alone(millis(wall)),
        };
        if mutated(Mutation::ReplacesUnseen) {
            record.clear();
        }
        let siblings = record.siblings();
        let applied = record.apply(update, &writing)?;
        if update.expires.flatten().is_some_and(|at| at <= millis(wall)) && !applied.again {
            return Err(WriteError::Late);
        }
        if record.siblings() > self.max_siblings && !update.clears && !applied.again {
            return Err(WriteError::TooManySiblings(siblings));
        }
        let bytes = record::encode(&record);
        let length = record::content(&bytes).len();
        if length > self.max_record_bytes && !applied.again {
            return Err(WriteError::RecordTooLarge(length));
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

    pub(super) fn put_record(
        &self,
        guard: &mut Shard,
        shard: ShardId,
        key: &[u8],
        old: Old<'_>,
        record: &Record,
    ) -> Result<(), EngineError> {
        self.put_bytes(guard, shard, key, old, (&record::encode(record), record))
    }

    pub(super) fn put_bytes(
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
}
