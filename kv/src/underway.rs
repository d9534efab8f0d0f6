//! Which shards an errand is bringing up to date now.
//!
//! A shard is asked of several replicas, by an errand to each. Two that fetched it beside each other would bring every record
//! twice, so each holds the shards that it reconciles: what one has fetched, the next need not.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use polity_shard::ShardId;
use tokio::sync::Notify;

use crate::sync::Mutex;

/// The shards that are held, each by one errand.
#[derive(Debug, Default)]
pub(crate) struct Underway {
    shards: Mutex<BTreeSet<ShardId>>,
    freed: Notify,
}

impl Underway {
    /// Holds the shards that `choose` names of those that nobody holds; if it names none, asks it again when some are let go of.
    /// An errand that waits here holds none. Cancel safe.
    pub(crate) async fn hold(&self, mut choose: impl FnMut(&BTreeSet<ShardId>) -> Vec<ShardId>) -> Held<'_> {
        loop {
            // What is let go of from here on is heard.
            let freed = self.freed.notified();
            let chosen = {
                let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
                let chosen = choose(&shards);
                shards.extend(&chosen);
                chosen
            };
            if !chosen.is_empty() {
                return Held { of: self, shards: chosen };
            }
            freed.await;
        }
    }
}

/// Some shards, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    of: &'a Underway,
    shards: Vec<ShardId>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut shards = self.of.shards.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in &self.shards {
            shards.remove(shard);
        }
        drop(shards);
        self.of.freed.notify_waiters();
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The first of some that is not held.
    fn first_of(wanted: &[u32]) -> impl FnMut(&BTreeSet<ShardId>) -> Vec<ShardId> {
        move |held| wanted.iter().map(|shard| ShardId(*shard)).filter(|shard| !held.contains(shard)).take(1).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_is_held_by_one_until_it_lets_go() {
        let underway = Underway::default();
        let one = underway.hold(first_of(&[1, 2])).await;
        let other = underway.hold(first_of(&[1, 2])).await;
        assert_eq!((&one.shards[..], &other.shards[..]), (&[ShardId(1)][..], &[ShardId(2)][..]));
        let long = Duration::from_secs(60);
        assert!(tokio::time::timeout(long, underway.hold(first_of(&[1, 2]))).await.is_err(), "both are held");
        let (next, ()) = tokio::join!(underway.hold(first_of(&[1, 2])), async {
            tokio::task::yield_now().await;
            drop(other);
        });
        assert_eq!(next.shards, [ShardId(2)]);
        drop((one, next));
        assert!(underway.shards.lock().expect("not poisoned").is_empty());
    }
}
