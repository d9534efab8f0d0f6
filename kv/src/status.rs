//! How a node stands to a shard, for those who look at it from outside: the front door, and whoever hands shards over.

use std::fmt;
use std::sync::Arc;

use polity_cluster::NodeId;
use polity_shard::ShardId;
use polity_shard::journal::StoreMark;

use crate::coordinator::Coordinator;
use crate::kv::Kv;
use crate::place;
use crate::standing::Fates;

/// How one node stands to one shard, as it sees the cluster at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ShardStatus {
    /// Which shard.
    pub shard: ShardId,
    /// The nodes that the shard belongs to, the preferred ones first.
    pub replicas: Vec<NodeId>,
    /// How many of them make a quorum.
    pub quorum: usize,
    /// How many of them are up.
    pub up: usize,
    /// Whether the node is one of them.
    pub is_replica: bool,
    /// Whether the node holds records of it. One that is no replica hands them over.
    pub holds_records: bool,
    /// Whether the node has learned who had the shard before, which it does once, after its start.
    pub is_introduced: bool,
    /// How many earlier placements may have acknowledged writes that the node has not heard of.
    pub owed: usize,
    /// The nodes that it has yet to hear from because of that.
    pub waits_for: Vec<NodeId>,
    is_settled: bool,
}

impl ShardStatus {
    /// Whether the node vouches for the shard: it is a replica, and has all that was acknowledged before.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether the node holds records that belong to others by now, and has yet to hand them over.
    #[must_use]
    pub fn is_to_hand_over(&self) -> bool {
        !self.is_replica && self.holds_records
    }

    /// Whether as many replicas are up as make a quorum.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        self.quorum > 0 && self.up >= self.quorum
    }
}

/// Looks at the shards of a node's store, without keeping that running. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    coordinator: Arc<Coordinator>,
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").field("node", &self.coordinator.node).finish_non_exhaustive()
    }
}

impl Shards {
    /// How the node stands to a shard; nothing if there is no such shard. Asks nobody, and does not wait for anything but a
    /// lock that is held for moments.
    #[must_use]
    pub fn status(&self, shard: ShardId) -> Option<ShardStatus> {
        let here = &self.coordinator;
        if !here.store.has_shard(shard) {
            return None;
        }
        let sight = here.sight();
        let replicas = sight.map.preference_list(shard);
        let standing = here.store.with_standing(shard, |standing| {
            let is_current = standing.current().contains(&here.node);
            let (owed, is_ready) = (standing.owed().count(), standing.is_ready());
            let waits_for =
                if is_ready || !is_current { Default::default() } else { standing.to_ask(&here.node, &sight) };
            (is_current, owed, is_ready, waits_for)
        });
        let is_introduced = standing.is_some();
        let (is_current, owed, is_ready, waits_for) = standing.unwrap_or_default();
        Some(ShardStatus {
            shard,
            quorum: if replicas.is_empty() { 0 } else { replicas.len() / 2 + 1 },
            up: replicas.iter().filter(|node| sight.is_up(node)).count(),
            is_replica: replicas.contains(&here.node),
            // The store has followed the map, or is about to.
            is_settled: is_current && is_ready && replicas.contains(&here.node),
            replicas,
            holds_records: here.store.holds_records(shard),
            is_introduced,
            owed,
            waits_for: waits_for.into_iter().collect(),
        })
    }

    /// What the node holds of a shard, in two numbers, for the journal of conflicts; nothing if there is no such shard. Records
    /// that are traces of deletes count. Reads only, and waits for nothing but that lock.
    #[must_use]
    pub fn mark(&self, shard: ShardId) -> Option<StoreMark> {
        let store = &self.coordinator.store;
        store
            .has_shard(shard)
            .then(|| store.digest(shard))
            .map(|held| StoreMark { records: held.count(), digest: held.total() })
    }

    /// How often what is waited for should be looked at again.
    #[must_use]
    pub fn interval(&self) -> std::time::Duration {
        self.coordinator.config.upkeep_interval
    }
}

impl Kv {
    /// The shard of a key. That of a key of a bucket is another one than that of the same key outside of it: see
    /// [`Bucket::shard_of`](crate::Bucket::shard_of).
    #[must_use]
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> ShardId {
        self.coordinator().store.shard_of(&place::key_of("", key.as_ref()).0)
    }

    /// How this node stands to a shard: what it holds of it, whether it vouches for it, and what it waits for. Nothing if
    /// there is no such shard. Asks nobody.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<ShardStatus> {
        self.shards().status(shard)
    }

    /// The same for whoever must not keep the store running.
    #[must_use]
    pub fn shards(&self) -> Shards {
        Shards { coordinator: self.coordinator().clone() }
    }
}
