//! Who is new to a shard fetches what it lacks, and the others wait for that.
//!
//! A replica that was away owes rosters that it was not in, and asks their boots for all that they have. They have to hear of what it
//! has as well; but if all compare the shard with it at the same time, each record comes several times, and each comparison costs what
//! the first does. So those that were there leave it alone until it has what they have. It waits for nobody itself; and should it not get
//! on, nobody waits for it either.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use polity_cluster::NodeId;
use polity_shard::ShardId;
use tokio::time::Instant;

use crate::errands::PATIENCE;
use crate::sync::Mutex;

/// The peers that are waited for, each with the first of the shards that it is asked for at once.
#[derive(Debug, Default)]
pub(crate) struct Newcomers(Mutex<BTreeMap<(NodeId, ShardId), Wait>>);

#[derive(Debug)]
struct Wait {
    /// The fewest shards in which it has differed.
    shards: usize,
    /// Until when it is waited for, unless they become fewer.
    until: Instant,
}

impl Newcomers {
    /// Whether a peer that is new to so many shards, and differs in them, gets on with fetching them.
    pub(crate) fn get_on(&self, peer: &NodeId, first: ShardId, shards: usize) -> bool {
        let (now, mut waits) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Of those that nobody has asked for some time nobody will.
        waits.retain(|_, wait| now < wait.until + 4 * PATIENCE);
        let at = (peer.clone(), first);
        if shards == 0 {
            waits.remove(&at);
            return true;
        }
        match waits.get(&at) {
            Some(wait) if wait.shards <= shards => now < wait.until,
            _ => {
                waits.insert(at, Wait { shards, until: now + PATIENCE });
                true
            }
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::roster::tests::boot;

    const FIRST: ShardId = ShardId(0);

    #[tokio::test(start_paused = true)]
    async fn one_that_gets_on_is_waited_for_and_one_that_does_not_is_not() {
        let (newcomers, peer) = (Newcomers::default(), boot("a1"));
        for shards in [9, 8, 7] {
            assert!(newcomers.get_on(&peer, FIRST, shards), "{shards}");
            tokio::time::advance(PATIENCE * 3 / 4).await;
            assert!(newcomers.get_on(&peer, FIRST, shards + 1), "{shards}");
        }
        tokio::time::advance(PATIENCE / 4).await;
        assert!(!newcomers.get_on(&peer, FIRST, 8) && !newcomers.get_on(&peer, FIRST, 7));
        assert!(
            newcomers.get_on(&peer, FIRST, 6)
                && newcomers.get_on(&peer, ShardId(1), 9)
                && newcomers.get_on(&boot("b1"), FIRST, 9)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_remembered_for_ever() {
        let newcomers = Newcomers::default();
        newcomers.get_on(&boot("a1"), FIRST, 3);
        newcomers.get_on(&boot("b1"), FIRST, 3);
        newcomers.get_on(&boot("b1"), FIRST, 0);
        assert_eq!(newcomers.0.lock().expect("no panics").len(), 1);
        tokio::time::advance(PATIENCE * 5).await;
        newcomers.get_on(&boot("c1"), FIRST, 3);
        assert_eq!(newcomers.0.lock().expect("no panics").len(), 1);
    }
}
