//! Shards with owners: how a node takes part, over the placement of its key-value store.

use std::sync::Arc;

use polity_cluster::rpc::Blob;
use polity_cluster::{BoxFuture, NodeId};
use polity_kv::{KvConfig, Shards};
use polity_shard::claims::{Claim, ClaimConfig};
use polity_shard::handoff::HandoffConfig;
use polity_shard::journal::{JournalConfig, Snapshot};
use polity_shard::{EpochAuthority, Estate, LocalAuthority, OwnershipConfig, ShardId, StewardConfig};
use tokio::time::Instant;

/// How shards get owners; see [`Builder::ownership`](crate::Builder::ownership).
///
/// Shards and preference lists are those of the key-value store, so the owner of a key is the first of its replicas that is
/// up, but for the time that a handover takes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Owners {
    /// How long claims wait.
    pub claims: ClaimConfig,
    /// The limits of handovers.
    pub handoff: HandoffConfig,
    /// The bounds of the journal of conflicts.
    pub journal: JournalConfig,
    /// Who gives out epochs. All nodes of a cluster must ask the same: it is not checked. By default each node chooses its
    /// own ([`LocalAuthority`]), so that both sides of a split go on.
    pub epochs: Arc<dyn EpochAuthority>,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            claims: ClaimConfig::default(),
            handoff: HandoffConfig::default(),
            journal: JournalConfig::default(),
            epochs: Arc::new(LocalAuthority),
        }
    }
}

impl Owners {
    /// The setting in which all members must agree: a node without owners would never claim what is its to own.
    pub(crate) const MUST_MATCH: (&'static str, &'static str) = ("shard.owners", "yes");

    pub(crate) fn config(&self, kv: &KvConfig) -> OwnershipConfig {
        let Self { claims, handoff, journal, .. } = *self;
        let steward = StewardConfig { shards: kv.shards, claims, handoff };
        OwnershipConfig { steward, replicas: kv.replicas, journal }
    }
}

/// The state of shards is the key-value store's, which moves by its own upkeep: handed over is the right to act for a shard,
/// and nobody gets that before he vouches for what is stored there.
#[derive(Debug)]
pub(crate) struct Tenure {
    shards: Shards,
    /// How long to wait for a shard that has become unsettled after its handover was begun. The owner before is about to give
    /// it up by then, and begins it anew.
    within: std::time::Duration,
}

impl Tenure {
    pub(crate) fn new(shards: Shards, owners: &Owners) -> Self {
        Self { shards, within: owners.handoff.pause }
    }
}

impl Estate for Tenure {
    fn owned(&self, _: &Claim) {}

    fn lost(&self, _: ShardId, _: &NodeId) {}

    fn open(&self, _: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn pause(&self, _: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn resume(&self, _: ShardId) {}

    fn is_ready(&self, shard: ShardId) -> bool {
        self.shards.status(shard).is_some_and(|status| status.is_settled())
    }

    fn install(&self, shard: ShardId, _: Vec<Blob>) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let until = Instant::now() + self.within;
            while !self.is_ready(shard) {
                if Instant::now() >= until {
                    return false;
                }
                tokio::time::sleep(self.shards.interval()).await;
            }
            true
        })
    }

    /// What was acknowledged under either epoch is in the store.
    fn state(&self, shard: ShardId) -> Snapshot {
        Snapshot::Stored(self.shards.mark(shard))
    }

    /// It merges there.
    fn merges(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use polity_cluster::{Node, Preset};
    use polity_kv::Kv;

    use super::*;

    #[tokio::test]
    async fn a_shard_is_taken_once_the_store_vouches_for_it_and_not_before() {
        let builder = Node::builder("n1").cluster("tenure").preset(Preset::Local).no_discovery();
        let start = |node: &Node| {
            let kv = Kv::start(node, KvConfig::default()).expect("starts");
            let tenure = Tenure { shards: kv.shards(), within: std::time::Duration::ZERO };
            // Nobody has told the node yet who had what.
            let is_ready = tenure.is_ready(ShardId(3));
            (kv, tenure, is_ready)
        };
        let (_node, (kv, tenure, was_ready)) = builder.start_with(start).await.expect("starts");
        assert!(!was_ready);
        kv.caught_up().await;
        assert!(tenure.is_ready(ShardId(3)) && tenure.install(ShardId(3), Vec::new()).await);
        let shard = kv.shard_of("user-42");
        let records = || match tenure.state(shard) {
            Snapshot::Stored(Some(mark)) => mark.records,
            other => panic!("{other:?}"),
        };
        assert_eq!(records(), 0);
        kv.put("user-42", "Ada").await.expect("is put");
        assert_eq!(records(), 1);
        let no_such = ShardId(kv.config().shards.get());
        assert!(!tenure.is_ready(no_such) && !tenure.install(no_such, Vec::new()).await);
        assert_eq!(tenure.state(no_such), Snapshot::Stored(None));
    }
}
