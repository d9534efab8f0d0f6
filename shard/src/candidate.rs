//! What placement knows of a node: its name, how much it can take, and what it shares a fate with.

use polity_cluster::{NodeName, Weight, Zone};
use serde::{Deserialize, Serialize};

/// A node that shards may be placed on.
///
/// Which life of the node it is does not enter: a node that is started again keeps its shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub name: NodeName,
    /// How large its share is.
    pub weight: Weight,
    /// The zone that it fails with; a node without one is a zone of its own.
    pub zone: Option<Zone>,
}

impl Candidate {
    /// A node of default weight, without a zone.
    #[must_use]
    pub fn new(name: NodeName) -> Self {
        Self { name, weight: Weight::default(), zone: None }
    }

    /// The same node with this weight.
    #[must_use]
    pub fn with_weight(self, weight: Weight) -> Self {
        Self { weight, ..self }
    }

    /// The same node in this zone.
    #[must_use]
    pub fn with_zone(self, zone: Zone) -> Self {
        Self { zone: Some(zone), ..self }
    }
}
