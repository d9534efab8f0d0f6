//! What a store counts.

use polity_cluster::NodeName;

/// What a node's store has done to keep replicas equal. See [`Kv::stats`](crate::Kv::stats).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvStats {
    /// Records that a read has sent to replicas that had less.
    pub read_repairs: u64,
    /// Records that a read would have sent, had not too many been on their way.
    pub read_repairs_skipped: u64,
    /// Keys of which this node knows that a replica has missed a write, now.
    pub hints: usize,
    /// Shards of which a replica has missed so much that they wait to be compared with it, now.
    pub hinted_shards: usize,
    /// Keys that were given to replicas which had missed a write.
    pub hints_delivered: u64,
    /// Bytes of records, and of what tells them apart, that this node has fetched and sent to make replicas equal. Repairs of
    /// reads are not among them.
    pub repair_bytes: u64,
    /// Conversations with a replica that wait because the budget is spent ([`KvConfig::repair`](crate::KvConfig::repair)), now.
    pub repairs_waiting: u64,
    /// Keys of which this node holds only the trace of a delete, or what has expired, now.
    pub tombstones: usize,
    /// Such keys that this node has dropped because all members had nothing else.
    pub tombstones_collected: u64,
    /// A member that is down and keeps tombstones from being collected: it may come back with what was deleted meanwhile. Have
    /// it come back, or replace it by a node of the same name.
    pub tombstones_blocked_by: Option<NodeName>,
    /// What was found damaged on this node's disk when it started, with file and offset, and what became of it
    /// ([`Engine::damage`](crate::Engine::damage)). The rest was fetched from the other replicas, or is being fetched.
    pub damage: Option<String>,
    /// Why this node's storage engine takes nothing more ([`Engine::failure`](crate::Engine::failure)): the other replicas go on
    /// without it. Start the node again, once there is room, or the disk is sound.
    pub engine_failure: Option<String>,
}
