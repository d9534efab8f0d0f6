//! Who is new to a shard fetches what it lacks, and the others wait for that.
//!
//! A replica that was away owes rosters that it was not in, and asks their boots for all that they have. They owe the one from before as
//! well, and have to hear of what the newcomer has; but if all compare the shard with it at the same time, each record comes several times,
//! and each comparison costs what the first does. So they leave it alone until it has what they have, or does not get on: then
//! nobody waits for somebody who waits, in whatever circle.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use polity_cluster::NodeId;
use tokio::time::Instant;

use crate::sync::Mutex;

/// For how long a peer may not get on.
const PATIENCE: Duration = Duration::from_secs(5);

/// The peers that are waited for.
#[derive(Debug, Default)]
pub(crate) struct Newcomers(Mutex<BTreeMap<NodeId, Wait>>);

#[derive(Debug)]
struct Wait {
    /// In how many shards it differs.
    shards: usize,
    /// Until when, unless it gets on.
    until: Instant,
}

impl Newcomers {
    /// Whether to leave a peer alone that is new to a shard.
    pub(crate) fn may_wait(&self, peer: &NodeId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(peer).is_none_or(|wait| Instant::now() < wait.until)
    }

    /// A peer was left alone in so many shards.
    pub(crate) fn waits(&self, peer: &NodeId, shards: usize) {
        let (now, mut waits) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Those that nobody has asked since are gone, or equal by now.
        waits.retain(|node, wait| node == peer || now < wait.until + PATIENCE);
        match waits.get_mut(peer) {
            _ if shards == 0 => drop(waits.remove(peer)),
            Some(wait) if wait.shards <= shards => wait.shards = shards,
            _ => drop(waits.insert(peer.clone(), Wait { shards, until: now + PATIENCE })),
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::roster::tests::boot;

    #[tokio::test(start_paused = true)]
    async fn one_that_gets_on_is_waited_for_and_one_that_does_not_is_not() {
        let (newcomers, peer) = (Newcomers::default(), boot("a1"));
        assert!(newcomers.may_wait(&peer));
        for shards in [9, 8, 7] {
            newcomers.waits(&peer, shards);
            tokio::time::advance(PATIENCE * 3 / 4).await;
            assert!(newcomers.may_wait(&peer), "{shards}");
        }
        newcomers.waits(&peer, 7);
        tokio::time::advance(PATIENCE / 4).await;
        assert!(!newcomers.may_wait(&peer));
        newcomers.waits(&peer, 0);
        assert!(newcomers.may_wait(&peer) && newcomers.0.lock().expect("no panics").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_remembered_for_ever() {
        let newcomers = Newcomers::default();
        newcomers.waits(&boot("a1"), 3);
        tokio::time::advance(PATIENCE * 3).await;
        newcomers.waits(&boot("b1"), 3);
        assert_eq!(newcomers.0.lock().expect("no panics").len(), 1);
    }
}
