//! A roster: the boots that hold a shard at one time.
//!
//! Placement names nodes; a roster names *boots* of nodes, because a node that started again has lost what it held. So
//! the roster of a shard changes when its placement does and when one of its nodes restarts.

use std::fmt;
use std::sync::Arc;

use polity_cluster::NodeId;
use polity_shard::ReplicaCount;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Consistency;

/// The most boots in a roster.
pub(crate) const MAX_REPLICAS: usize = ReplicaCount::MAX as usize;

/// A set of boots that hold one shard. Sorted, without duplicates, and never larger than [`MAX_REPLICAS`].
#[derive(Clone)]
pub(crate) struct Roster {
    nodes: Arc<[NodeId]>,
    id: RosterId,
}

/// Names a roster in 64 bits: two of the rosters that one shard ever has meet with a chance of 2⁻⁶⁴.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct RosterId(u64);

impl Roster {
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        debug_assert!(nodes.len() <= MAX_REPLICAS, "placement gives at most this many");
        Self::of(nodes)
    }

    fn of(nodes: Vec<NodeId>) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for node in &nodes {
            hasher.update(&(node.name.as_str().len() as u64).to_le_bytes());
            hasher.update(node.name.as_str().as_bytes());
            hasher.update(&node.boot.to_bytes());
        }
        Self { nodes: nodes.into(), id: RosterId(hasher.digest()) }
    }

    pub(crate) fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        self.nodes.binary_search(node).is_ok()
    }

    /// More than half. Any two quorums of a roster have a boot in common.
    pub(crate) fn quorum(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// How many must do their part at a level of consistency.
    pub(crate) fn needed(&self, level: Consistency) -> usize {
        match level {
            Consistency::One => 1,
            Consistency::Quorum => self.quorum(),
            Consistency::All => self.nodes.len(),
        }
    }

    pub(crate) fn id(&self) -> RosterId {
        self.id
    }
}

impl PartialEq for Roster {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && (Arc::ptr_eq(&self.nodes, &other.nodes) || self.nodes == other.nodes)
    }
}

impl Eq for Roster {}

impl PartialOrd for Roster {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Roster {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nodes.cmp(&other.nodes)
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nodes()).finish()
    }
}

impl Serialize for Roster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.nodes[..].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Roster {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let nodes = Vec::<NodeId>::deserialize(deserializer)?;
        if nodes.len() > MAX_REPLICAS {
            return Err(D::Error::custom("a roster has more boots than a shard has replicas"));
        }
        if !nodes.is_sorted_by(|a, b| a < b) {
            return Err(D::Error::custom("a roster is sorted and has no duplicates"));
        }
        Ok(Self::of(nodes))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use polity_cluster::{Boot, NodeName};

    /// `"a1"` is boot 1 of node a.
    pub(crate) fn boot(text: &str) -> NodeId {
        let (name, generation) = text.split_at(1);
        let generation = generation.parse().expect("a number");
        NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation, nonce: 7 } }
    }

    /// `roster("a1 b1 c1")`.
    pub(crate) fn roster(text: &str) -> Roster {
        Roster::new(text.split_whitespace().map(boot))
    }

    #[test]
    fn a_roster_is_a_set_of_boots() {
        assert_eq!(roster("b1 a1 a1"), roster("a1 b1"));
        assert_eq!(roster("b1 a1").id(), roster("a1 b1").id());
        assert_ne!(roster("a1 b1").id(), roster("a2 b1").id());
        assert_eq!(
            [1, 2, 2, 3, 3],
            [1, 2, 3, 4, 5].map(|n| Roster::new((1..=n).map(|i| boot(&format!("a{i}")))).quorum())
        );
    }

    #[test]
    fn a_roster_from_a_peer_is_checked() {
        let good = postcard::to_allocvec(&roster("a1 b1")).expect("encodes");
        assert_eq!(postcard::from_bytes::<Roster>(&good).expect("decodes"), roster("a1 b1"));
        let unsorted = postcard::to_allocvec(&vec![boot("b1"), boot("a1")]).expect("encodes");
        assert!(postcard::from_bytes::<Roster>(&unsorted).is_err());
        let crowd: Vec<_> = (1..=17).map(|i| boot(&format!("a{i}"))).collect();
        assert!(postcard::from_bytes::<Roster>(&postcard::to_allocvec(&crowd).expect("encodes")).is_err());
    }
}
