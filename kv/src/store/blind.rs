//! Writes that ask nobody first: what they find out afterwards, and what they do about it.
//!
//! A write replaces what a quorum knows. To ask for that first costs a round, and the answer is nearly always what the
//! coordinator has itself. So a write that can be made up for is done over what is here ([`Store::write_blindly`]), and
//! brings the hash of that along. Who had something else says what ([`Said`]), and [`Store::amend`] makes up for it: an
//! update that only adds to a set or counter learns what it has come to, and expires with the rest, if others know that that is
//! to expire; and a put of a causal value takes away what it should have replaced.
//!
//! # Why of two puts one value stays
//!
//! Two concurrent puts must not take away each other's value. So a put spares what may do the same to it:
//!
//! - It takes away only values whose writes are *over*: acknowledged, or given up. Every coordinator keeps the writes that
//!   are under way, and says them with what it had. That a write is over is said by its coordinator, or follows when
//!   every replica has answered and none names it: then its coordinator is none of them any more.
//! - It spares a value if whoever holds that has heard that its own value was taken away.
//!
//! Say x takes y away. The write y is over, so it takes nothing away any more; and what it did take away is in the record
//! that said so, so it was not x. What is under way stays beside x as a sibling, as what is written at the same time does.
//! Nothing is ever put a second time, so nothing comes back that was deleted (K5).

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{Dot, ReplicaId};
use polity_shard::ShardId;

use super::{Store, WriteError, Written, millis};
use crate::record::{self, NotARecord, Record, Update};
use crate::roster::RosterId;
use crate::wire::Had;

/// The causal writes of a shard that this node coordinates and that are not over.
#[derive(Debug, Default)]
pub(super) struct UnderWay(BTreeMap<Box<[u8]>, Vec<Dot>>);

impl UnderWay {
    pub(super) fn begin(&mut self, key: &[u8], dot: Dot) {
        match self.0.get_mut(key) {
            Some(dots) => dots.push(dot),
            None => drop(self.0.insert(key.into(), vec![dot])),
        }
    }

    fn end(&mut self, key: &[u8], dot: Dot) {
        if let Some(dots) = self.0.get_mut(key) {
            dots.retain(|other| *other != dot);
            if dots.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn of(&self, key: &[u8]) -> Vec<Dot> {
        self.0.get(key).cloned().unwrap_or_default()
    }
}

/// A causal write under way: until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    store: &'a Store,
    shard: ShardId,
    key: &'a [u8],
    dot: Dot,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.store.shard(self.shard).under_way.end(self.key, self.dot);
    }
}

/// What a write has found here that did not ask a quorum first.
#[derive(Debug)]
pub(crate) struct Blind {
    old: Option<Vec<u8>>,
}

impl Blind {
    /// The hash of what was here before; of no bytes, if that was nothing.
    pub(crate) fn before(&self) -> u64 {
        record::hash(self.old.as_deref().unwrap_or_default())
    }
}

/// What a replica had that was not what the writer had.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) record: Record,
    by: ReplicaId,
    under_way: Vec<Dot>,
}

impl TryFrom<Had> for Said {
    type Error = NotARecord;

    fn try_from(Had { record, by, under_way }: Had) -> Result<Self, NotARecord> {
        Ok(Self { record: record::decode(&record.0)?, by, under_way })
    }
}

/// What became of a write that did not ask a quorum first.
#[derive(Debug)]
pub(crate) enum Amended {
    /// The others have all that they need.
    Enough(Written),
    /// Something was taken away that a quorum has to hear of.
    Further(Written),
    /// It cannot be told whether some values are still being written: every replica has to be asked.
    Undecided(Written),
}

impl Store {
    /// Writes to a key over what this replica knows, which may be less than a quorum does, if that can be made up for:
    /// see [`Store::amend`]. `None`, and nothing was written, if it cannot.
    pub(crate) fn write_blindly(
        &self,
        shard: ShardId,
        key: &[u8],
        update: &Update,
        wall: Duration,
        named: RosterId,
    ) -> Result<Option<(Written, Blind)>, WriteError> {
        if !update.needs_no_quorum() {
            return Ok(None);
        }
        let mut guard = self.shard(shard);
        let old = self.engine.load(shard, key)?;
        let record = record::decode_any(old.as_deref())?;
        // What has expired of another kind is in the way until a writer that has asked a quorum removes it.
        let is_in_the_way = record.is_live() && update.kind.is_some_and(|kind| kind != record.kind());
        if mutated(Mutation::ReplacesUnseen) || is_in_the_way || !record.takes_blindly(update) {
            return Ok(None);
        }
        let replaced = guard.old(key, old.as_deref(), &record);
        let asked = (update, None, wall, None);
        let written = self.write_over(&mut guard, (shard, key), (record, replaced), asked, named)?;
        Ok(Some((written, Blind { old })))
    }

    /// Keeps a causal write under way until what is returned is dropped.
    pub(crate) fn flight<'a>(&'a self, shard: ShardId, key: &'a [u8], written: &Written) -> Option<Flight<'a>> {
        written.dot.map(|dot| Flight { store: self, shard, key, dot })
    }

    /// Makes up for what others had when a key was written blindly, as of the time of the wall clock when they were asked. `everyone`: all
    /// replicas have answered, and not just a quorum.
    ///
    /// # Errors
    /// [`WriteError`]; the write may have been seen.
    pub(crate) fn amend(
        &self,
        (shard, key): (ShardId, &[u8]),
        (update, wall): (&Update, Duration),
        (mut written, blind): (Written, &Blind),
        (said, everyone): (Vec<Said>, bool),
        named: RosterId,
    ) -> Result<Amended, WriteError> {
        // Nearly always all had what was here.
        if said.is_empty() {
            return Ok(Amended::Enough(written));
        }
        let before = record::decode_any(blind.old.as_deref())?;
        let known = said.iter().fold(Record::default(), |mut known, said| {
            known.merge(said.record.clone());
            known
        });
        // The bucket once had another kind, and this replica lacked the key.
        let now = millis(wall);
        let there = known.seen_at(now);
        if there.is_live() && update.kind.is_some_and(|kind| kind != there.kind()) {
            return Err(WriteError::WrongKind(there.kind()));
        }
        let mut after = before.clone();
        if !after.merge(known.clone()) {
            return Ok(Amended::Enough(written));
        }
        let replaced = match written.dot {
            Some(own) => match replaced(own, &before, &said, everyone) {
                Some(replaced) => replaced,
                None => return Ok(Amended::Undecided(written)),
            },
            None => BTreeSet::new(),
        };
        let mut guard = self.shard(shard);
        let old = self.engine.load(shard, key)?;
        let mut record = record::decode_any(old.as_deref())?;
        let found = guard.old(key, old.as_deref(), &record);
        let is_news = record.merge(known);
        // Others know when all of it expires. If that is over, what was added is no part of that, and stays.
        after.latch(now);
        if let Some(kind) = update.kind.filter(|kind| written.dot.is_none() && record.is_timed(*kind)) {
            record.latch(now);
            let told = record::decode(&written.record)?;
            if record.extend(kind, (&after, &before, &told), &guard.writing(wall, self.window))? {
                self.put_record(&mut guard, shard, key, found, &record)?;
                let (changed, total) = (after.would_change(update), record.seen_at(now).total());
                let (record, vouch) = (record::encode(&record), guard.vouch(named));
                return Ok(Amended::Further(Written { record, changed, total, vouch, ..written }));
            }
        }
        let is_further = !replaced.is_empty();
        if is_further {
            let replaced = replaced.into_iter().collect();
            record.remove(&replaced);
            written.context.merge(&replaced);
        }
        if is_news || is_further {
            self.put_record(&mut guard, shard, key, found, &record)?;
        }
        if is_further {
            return Ok(Amended::Further(Written {
                record: record::encode(&record),
                vouch: guard.vouch(named),
                ..written
            }));
        }
        if written.dot.is_none() {
            written.changed = after.would_change(update);
            written.total = record.seen_at(now).total();
            written.context.merge(after.context());
        }
        Ok(Amended::Enough(written))
    }
}

/// The values that the put `own` over `before` should have replaced, of those that others had. `None` if it cannot be told of
/// one whether it is still being written.
fn replaced(own: Dot, before: &Record, said: &[Said], everyone: bool) -> Option<BTreeSet<Dot>> {
    let mut replaced = BTreeSet::new();
    for dot in said.iter().flat_map(|said| said.record.dots()) {
        if dot == own || before.context().contains(dot) || replaced.contains(&dot) {
            continue;
        }
        let has_lost_own =
            |said: &Said| said.record.context().contains(own) && !said.record.dots().any(|held| held == own);
        let mut holders = said.iter().filter(|said| said.record.dots().any(|held| held == dot));
        let is_under_way = said.iter().any(|said| said.under_way.contains(&dot));
        if (is_under_way && !mutated(Mutation::ReplacesWhatIsBeingWritten)) || holders.any(has_lost_own) {
            continue;
        }
        if !everyone && !said.iter().any(|said| said.by == dot.replica) && !is_under_way {
            return None;
        }
        replaced.insert(dot);
    }
    Some(replaced)
}
