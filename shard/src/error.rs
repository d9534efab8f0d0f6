//! What can be wrong with the input of a placement. None of it goes away by trying again.

use polity_cluster::NodeName;

use crate::{MAX_NODES, ReplicaCount, ShardCount};

/// Why a setting or a list of candidates was refused. Nothing has been made or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The number of shards is not a power of two, or out of range.
    #[error("the number of shards is a power of two from 1 to {max}; this is {0}", max = ShardCount::MAX)]
    ShardCount(u32),
    /// The number of replicas is out of range.
    #[error("the number of replicas is from 1 to {max}; this is {0}", max = ReplicaCount::MAX)]
    ReplicaCount(u8),
    /// Two candidates have this name.
    #[error("node {0:?} is listed twice")]
    DuplicateNode(NodeName),
    /// There are more candidates than a placement takes; here is how many there are.
    #[error("a placement takes at most {MAX_NODES} nodes; these are {0}")]
    TooManyNodes(usize),
}
