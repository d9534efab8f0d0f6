//! How a node stands to its shards, as the store has it: changed under the shard's lock, and kept in the engine.

use std::sync::{Arc, PoisonError};

use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::{NodeId, NodeName};
use polity_shard::ShardId;

use super::sketches::Sketches;
use super::{Shard, Store};
use crate::digest::Digest;
use crate::engine::{Commit, EngineError};
use crate::kept;
use crate::lineage::{Heirs, Lineage};
use crate::roster::Roster;
use crate::standing::Standing;

/// What a shard answers to a replica that asks for all it has.
#[derive(Debug)]
pub(crate) struct Account {
    /// The rosters that it stands for.
    pub(crate) rosters: Vec<Roster>,
    pub(crate) digest: Digest,
    /// Whether the asker has fenced it. If not, it has to ask again.
    pub(crate) is_fenced: bool,
}

impl Store {
    /// The roster that placement gives a shard.
    pub(crate) fn placed(&self, shard: ShardId) -> Roster {
        self.shard(shard).placed.clone()
    }

    /// Placement has changed.
    pub(crate) fn place(&self, id: ShardId, roster: Roster) {
        let mut shard = self.shard(id);
        if let Some(standing) = &mut shard.standing {
            standing.move_to(roster.clone(), &self.own);
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
            // More than can be owed are less later, when those that told them have settled.
            shard.standing = Standing::new(shard.placed.clone(), rosters);
            self.keep_or_warn(&mut shard, id);
        }
    }

    /// Writes the standing of a shard to the engine, if it has changed since.
    pub(super) fn keep(&self, shard: &mut Shard, id: ShardId) -> Result<(), EngineError> {
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
    pub(super) fn keep_or_warn(&self, shard: &mut Shard, id: ShardId) {
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

    /// Reads or changes the standing of a shard, if it is known. One that had no room to follow placement does so as soon as it has.
    pub(crate) fn with_standing<T>(&self, shard: ShardId, change: impl FnOnce(&mut Standing) -> T) -> Option<T> {
        let mut guard = self.shard(shard);
        let Shard { standing, placed, .. } = &mut *guard;
        let result = standing.as_mut().map(|standing| {
            let result = change(standing);
            standing.move_to(placed.clone(), &self.own);
            result
        });
        self.keep_or_warn(&mut guard, shard);
        result
    }

    pub(crate) fn digest(&self, shard: ShardId) -> Digest {
        self.shard(shard).digest
    }

    pub(crate) fn holds_records(&self, shard: ShardId) -> bool {
        self.digest(shard).count() > 0
    }

    /// A replica of `under` that owes `owed` asks for all that this shard has: fences it, and gives the account that the answer
    /// brings. `None` if this node does not know yet what it should have.
    ///
    /// Who was taken for down, and comes back under the same boot, hears so first of what went on without it: it has to fetch that,
    /// and the account says that it is new to it.
    pub(crate) fn account(&self, id: ShardId, under: &Roster, owed: &[Roster]) -> Option<Account> {
        let mut shard = self.shard(id);
        let standing = shard.standing.as_mut()?;
        let is_fenced = standing.fence(under);
        owed.iter().for_each(|roster| standing.hear_of(roster.clone()));
        let (rosters, changes) = (standing.rosters().cloned().collect(), standing.changes());
        if mutated(Mutation::ForgetsFences) {
            shard.kept = changes;
        }
        self.keep_or_warn(&mut shard, id);
        Some(Account { rosters, digest: shard.digest, is_fenced })
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
}
