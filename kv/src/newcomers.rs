//! Who is new to a shard fetches what it lacks, and the others wait for that.
//!
//! A replica that was away owes rosters that it was not in, and asks their boots for all that they have. They have to hear of what it
//! has as well; but if all compare the shard with it at the same time, each record comes several times, and each comparison costs what
//! the first does. So those that were there leave it alone until it has what they have. It waits for nobody itself; and should it not get
//! on, nobody waits for it either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use polity_cluster::NodeId;
use polity_shard::ShardId;
use tokio::time::Instant;

use crate::errands::PATIENCE;
use crate::sync::Mutex;

/// The peers that are waited for.
#[derive(Debug, Default)]
pub(crate) struct Newcomers(Mutex<BTreeMap<NodeId, Wait>>);

#[derive(Debug)]
struct Wait {
    /// What it is new to, and was not equal in when it was last asked.
    shards: BTreeSet<ShardId>,
    /// Until when it is waited for, unless it gets on.
    until: Instant,
}

impl Newcomers {
    /// Of shards that a peer was asked about: whether it is new to each, and not equal in it. Returns whether it gets on with fetching
    /// what it lacks.
    pub(crate) fn get_on(&self, peer: &NodeId, asked: impl IntoIterator<Item = (ShardId, bool)>) -> bool {
        let (now, mut waits) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Of those that nobody has asked for some time nobody will.
        waits.retain(|_, wait| now < wait.until + 4 * PATIENCE);
        let until = now + PATIENCE;
        let wait = waits.entry(peer.clone()).or_insert(Wait { shards: BTreeSet::new(), until });
        for (shard, lacks) in asked {
            let is_news = if lacks { wait.shards.insert(shard) } else { wait.shards.remove(&shard) };
            if is_news {
                wait.until = until;
            }
        }
        let gets_on = now < wait.until;
        if wait.shards.is_empty() {
            waits.remove(peer);
        }
        gets_on
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::roster::tests::boot;

    fn lacks(newcomers: &Newcomers, peer: &str, asked: std::ops::Range<u32>, lacking: std::ops::Range<u32>) -> bool {
        newcomers.get_on(&boot(peer), asked.map(|shard| (ShardId(shard), lacking.contains(&shard))))
    }

    fn waited_for(newcomers: &Newcomers) -> usize {
        newcomers.0.lock().expect("no panics").len()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gets_on_is_waited_for_and_one_that_does_not_is_not() {
        let newcomers = Newcomers::default();
        for end in [9, 8, 7] {
            assert!(lacks(&newcomers, "a1", 0..10, 0..end), "{end}");
            tokio::time::advance(PATIENCE * 3 / 4).await;
            assert!(lacks(&newcomers, "a1", 0..10, 0..end), "{end}");
        }
        tokio::time::advance(PATIENCE / 4).await;
        assert!(!lacks(&newcomers, "a1", 0..10, 0..7) && !lacks(&newcomers, "a1", 3..5, 0..7));
        assert!(lacks(&newcomers, "b1", 0..10, 0..7) && lacks(&newcomers, "a1", 0..10, 0..6));
    }

    /// Who comes back for the second time is not taken for one that has not got on since the first: whichever of its shards are asked
    /// about together.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_new_again_is_waited_for_again() {
        let newcomers = Newcomers::default();
        assert!(lacks(&newcomers, "a1", 0..10, 0..10) && lacks(&newcomers, "a1", 0..10, 7..10));
        assert!(lacks(&newcomers, "a1", 7..10, 0..0));
        tokio::time::advance(PATIENCE * 2).await;
        assert!(lacks(&newcomers, "a1", 0..10, 0..10) && lacks(&newcomers, "a1", 7..10, 7..10));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_remembered_for_ever() {
        let newcomers = Newcomers::default();
        lacks(&newcomers, "a1", 0..3, 0..3);
        lacks(&newcomers, "b1", 0..3, 0..3);
        lacks(&newcomers, "b1", 0..3, 0..0);
        assert_eq!(waited_for(&newcomers), 1);
        tokio::time::advance(PATIENCE * 5).await;
        lacks(&newcomers, "c1", 0..3, 0..3);
        assert_eq!(waited_for(&newcomers), 1);
    }
}
