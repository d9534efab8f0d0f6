//! What happens to the ownership of a node, told to those who act on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::Shared;
use crate::claims::{By, Claim, Claims};
use crate::handoff::Stuck;
use crate::{Epoch, ShardId};

/// How many events wait for a watch at most, some 150 bytes each: four for each shard of a cluster of the default size. One
/// that has not taken them by then is told what is so instead.
pub const MAX_EVENTS: usize = 1_024;

/// Something about who owns what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnershipEvent {
    /// What is so: the first event of every watch, and the one in the place of those that did not wait for it.
    Snapshot {
        /// What this node owns.
        owned: BTreeMap<ShardId, Epoch>,
        /// The greatest claims that are known, its own among them.
        claims: Claims,
    },
    /// This node owns the shard from now on.
    Gained(Claim),
    /// This node does not own it any more. The fence refuses its effects already.
    Lost {
        /// The claim that is over.
        claim: Claim,
        /// What ended it: it was handed over, or another has claimed the shard.
        by: By,
    },
    /// The greatest claim that is known of a shard, which was another before.
    Claimed(Claim),
    /// The state of a shard is installed here, for this node to own it when its owner under this claim has let go.
    Received(Claim),
    /// Another owned a shard at the same time, under a greater epoch. The journal has more.
    Conflict {
        /// This node's claim.
        lost: Claim,
        /// The other's.
        won: Claim,
    },
    /// A handoff of this node does not go on.
    Stuck(Stuck),
}

/// What has been told so far. Changed under the lock of the node's state, together with what is sent, so that a snapshot and
/// the events after it make up what is so.
pub(super) struct Told {
    owned: BTreeMap<ShardId, Epoch>,
    /// `None` when it has ended.
    events: Option<broadcast::Sender<OwnershipEvent>>,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { owned: BTreeMap::new(), events: Some(broadcast::Sender::new(MAX_EVENTS)) }
    }

    pub(super) fn tell(&mut self, event: OwnershipEvent) {
        match &event {
            OwnershipEvent::Gained(claim) => drop(self.owned.insert(claim.shard, claim.epoch.clone())),
            // What was handed over is not lost a second time when the next owner has claimed it.
            OwnershipEvent::Lost { claim, .. } if self.owned.get(&claim.shard) != Some(&claim.epoch) => return,
            OwnershipEvent::Lost { claim, .. } => drop(self.owned.remove(&claim.shard)),
            _ => {}
        }
        if let Some(events) = &self.events {
            // Nobody may be watching.
            let _ = events.send(event);
        }
    }

    pub(super) fn end(&mut self) {
        self.events = None;
    }
}

/// Follows who owns what; begun by [`Ownership::watch`](super::Ownership::watch).
pub struct OwnershipWatch {
    shared: Arc<Shared>,
    /// `None` before the first event, after some were lost, and at the end.
    events: Option<broadcast::Receiver<OwnershipEvent>>,
}

impl fmt::Debug for OwnershipWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnershipWatch").field("node", &self.shared.me).finish_non_exhaustive()
    }
}

impl OwnershipWatch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, events: None }
    }

    /// The next event; the first is a [`OwnershipEvent::Snapshot`]. `None` when the node's ownership has ended. Applied in
    /// order, the events make up what this node owns: not what is so at the moment in which one is taken, for which
    /// [`Ownership::admit`](super::Ownership::admit) is to be asked. Cancel safe.
    pub async fn next(&mut self) -> Option<OwnershipEvent> {
        let Some(events) = &mut self.events else {
            return self.snapshot();
        };
        match events.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(_)) => self.snapshot(),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<OwnershipEvent> {
        let Some(events) = &mut self.events else {
            return self.snapshot();
        };
        match events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(_)) => self.snapshot(),
            Err(TryRecvError::Closed | TryRecvError::Empty) => None,
        }
    }

    fn snapshot(&mut self) -> Option<OwnershipEvent> {
        let state = self.shared.lock();
        let claims = state.steward.core().claims().clone();
        let owned = state.told.owned.clone();
        self.events = Some(state.told.events.as_ref()?.subscribe());
        Some(OwnershipEvent::Snapshot { owned, claims })
    }
}
