//! The fence: what refuses effects of owners that are no more.
//!
//! Every effect of an owner carries its epoch. Whoever is to accept it (the owner itself before it begins, a replica
//! before it stores) asks the fence, which knows the greatest epoch of each shard, and the shards that were let go here
//! although their next owner has not claimed them yet. An effect under a greater epoch than is known raises the fence: it
//! is the news of a claim, and may be faster than the document.
//!
//! **What it is not.** An effect that was acknowledged under an old epoch is not an effect any more but state, and enters
//! by merge. And a fence that has not heard of an epoch cannot refuse for it: with available ownership two owners overlap
//! until the news has spread (promise H3 says how long).

use std::collections::BTreeMap;
use std::fmt;

use polity_cluster::NodeId;

use super::table::{Claim, Claims};
use crate::mutation::{Mutation, mutated};
use crate::{Epoch, ShardId};

/// Why an effect was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum By {
    /// A claim under this epoch, which names its owner.
    Claim(Epoch),
    /// The shard was handed over to this boot, which is about to claim it.
    Handoff(NodeId),
}

impl By {
    /// Whom to ask instead.
    #[must_use]
    pub fn owner(&self) -> &NodeId {
        match self {
            Self::Claim(epoch) => &epoch.owner,
            Self::Handoff(to) => to,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(epoch) => write!(f, "the claim {epoch}"),
            Self::Handoff(to) => write!(f, "the handoff to {to}"),
        }
    }
}

/// An effect was refused, and has had no effect, because its epoch is over. To be tried again with the owner of now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this epoch of shard {shard} is superseded by {by}")]
pub struct Superseded {
    /// The shard.
    pub shard: ShardId,
    /// What has taken its place.
    pub by: By,
}

impl Superseded {
    /// Always: nothing was done, and [`By::owner`] says who would.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        true
    }
}

/// Knows which epochs are over.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    claims: Claims,
    /// What was let go here: under which epoch, and for whom. Goes when a greater epoch comes.
    closed: BTreeMap<ShardId, (Epoch, NodeId)>,
}

impl Fence {
    /// A fence that knows these claims: none, or what was kept from an earlier life.
    #[must_use]
    pub fn new(claims: Claims) -> Self {
        Self { claims, closed: BTreeMap::new() }
    }

    /// The claims that it knows.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether effects under `epoch` are over.
    ///
    /// # Errors
    /// [`Superseded`] if a greater epoch is known, or the shard was let go here under this one or a greater.
    pub fn check(&self, shard: ShardId, epoch: &Epoch) -> Result<(), Superseded> {
        if mutated(Mutation::OpenFence) {
            return Ok(());
        }
        let refuse = |by| Err(Superseded { shard, by });
        match self.claims.epoch(shard) {
            Some(known) if known > epoch => return refuse(By::Claim(known.clone())),
            _ => {}
        }
        match self.closed.get(&shard) {
            Some((closed, to)) if closed >= epoch => refuse(By::Handoff(to.clone())),
            _ => Ok(()),
        }
    }

    /// As [`Fence::check`], for an effect that was sent by its owner: an epoch that was not known yet is from now on.
    /// The second is whether it was news, which the state machine is to be told ([`Core::handle_claim`](super::Core)).
    ///
    /// # Errors
    /// As there.
    pub fn admit(&mut self, shard: ShardId, epoch: &Epoch) -> Result<bool, Superseded> {
        self.check(shard, epoch)?;
        Ok(self.learn(Claim { shard, epoch: epoch.clone() }))
    }

    /// A claim is known. Returns whether it is the greatest now and was not before.
    pub fn learn(&mut self, claim: Claim) -> bool {
        let shard = claim.shard;
        if self.closed.get(&shard).is_some_and(|(closed, _)| *closed < claim.epoch) {
            self.closed.remove(&shard);
        }
        self.claims.learn(claim)
    }

    /// The shard is let go, for `to`: nothing under `epoch` passes any more.
    pub(super) fn close(&mut self, shard: ShardId, epoch: Epoch, to: NodeId) {
        self.closed.insert(shard, (epoch, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::tests::{boot, epoch};

    const SHARD: ShardId = ShardId(3);

    #[test]
    fn old_epochs_are_refused_and_new_ones_raise_the_fence() {
        let mut fence = Fence::default();
        assert_eq!(fence.admit(SHARD, &epoch("1a1")), Ok(true));
        assert_eq!(fence.admit(SHARD, &epoch("1a1")), Ok(false));
        assert_eq!(fence.admit(SHARD, &epoch("2b1")), Ok(true));
        let refused = fence.admit(SHARD, &epoch("1a1")).expect_err("over");
        assert_eq!(refused.by, By::Claim(epoch("2b1")));
        assert_eq!(refused.by.owner(), &boot("b1"));
        assert!(refused.is_retryable());
        assert_eq!(refused.to_string(), "this epoch of shard 3 is superseded by the claim 2@b#1.00000000");
        assert_eq!(fence.check(ShardId(4), &epoch("1a1")), Ok(()), "shards have nothing to do with each other");
    }

    #[test]
    fn what_was_let_go_is_closed_until_the_next_claim() {
        let mut fence = Fence::default();
        fence.learn(Claim { shard: SHARD, epoch: epoch("4a1") });
        fence.close(SHARD, epoch("4a1"), boot("b1"));
        let refused = fence.check(SHARD, &epoch("4a1")).expect_err("let go");
        assert_eq!(refused.by, By::Handoff(boot("b1")));
        assert_eq!(fence.admit(SHARD, &epoch("5b1")), Ok(true));
        assert_eq!(fence.check(SHARD, &epoch("4a1")).expect_err("over").by, By::Claim(epoch("5b1")));
    }
}
