//! What can be wrong with the input of a placement. None of it goes away by trying again.

use polity_cluster::NodeName;

use crate::{MAX_NODES, MAX_ZONE_BYTES, ReplicaCount, ShardCount, Weight};

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
    /// A weight is out of range.
    #[error("a weight is from 1 to {max}; this is {0}", max = Weight::MAX)]
    Weight(u16),
    /// The name of a zone is empty.
    #[error("the name of a zone must not be empty")]
    ZoneEmpty,
    /// The name of a zone is too long; here is its length in bytes.
    #[error("the name of a zone is at most {MAX_ZONE_BYTES} bytes long; this one has {0}")]
    ZoneTooLong(usize),
    /// The name of a zone has a control character, or white space at an end.
    #[error("the name of a zone must not contain control characters or begin or end with white space: {0:?}")]
    ZoneBadCharacter(String),
    /// Two candidates have this name.
    #[error("node {0:?} is listed twice")]
    DuplicateNode(NodeName),
    /// There are more candidates than a placement takes; here is how many there are.
    #[error("a placement takes at most {MAX_NODES} nodes; these are {0}")]
    TooManyNodes(usize),
}
