//! What a node sees of the members, reduced to what ownership depends on: which boots are up, who is about to leave, and
//! where shards belong.

use std::collections::{BTreeMap, BTreeSet};

use polity_cluster::{Boot, NodeId, NodeName, View, Zone};

use crate::{Candidate, Error, Placement, ReplicaCount, ShardCount, ShardId};

/// The members at one moment, as one node sees them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sight {
    up: BTreeMap<NodeName, Boot>,
    draining: BTreeSet<NodeName>,
    zones: BTreeMap<NodeName, Zone>,
    placement: Placement,
}

impl Sight {
    /// These boots are up, those of them named in `draining` are about to leave, and shards belong where `placement` says.
    /// A placement is made of those that are up and stay; whoever of it is not up is passed over.
    #[must_use]
    pub fn new(
        up: impl IntoIterator<Item = NodeId>,
        draining: impl IntoIterator<Item = NodeName>,
        placement: Placement,
    ) -> Self {
        let up = up.into_iter().map(|node| (node.name, node.boot)).collect();
        Self { up, draining: draining.into_iter().collect(), zones: BTreeMap::new(), placement }
    }

    /// The same with the zones of nodes, for [`explain`](crate::Steward::explain) to name.
    #[must_use]
    pub fn with_zones(self, zones: impl IntoIterator<Item = (NodeName, Zone)>) -> Self {
        Self { zones: zones.into_iter().collect(), ..self }
    }

    /// What `view` says. Shards belong to members that are up, have said what they are, and are not about to leave.
    ///
    /// # Errors
    /// Those of [`Placement::compute`].
    pub fn of(view: &View, shards: ShardCount, replicas: ReplicaCount) -> Result<Self, Error> {
        let profiles = || view.up().filter_map(|member| Some((&member.id.name, member.profile.as_ref()?)));
        let candidates = profiles().filter(|(_, profile)| !profile.draining).map(|(name, profile)| Candidate {
            name: name.clone(),
            weight: profile.weight,
            zone: profile.zone.clone(),
        });
        let placement = Placement::compute(&candidates.collect::<Vec<_>>(), shards, replicas)?;
        let up = view.up().map(|member| member.id.clone());
        let draining = profiles().filter(|(_, profile)| profile.draining).map(|(name, _)| name.clone());
        let zones = profiles().filter_map(|(name, profile)| Some((name.clone(), profile.zone.clone()?)));
        Ok(Self::new(up, draining, placement).with_zones(zones))
    }

    /// Whether this boot is up.
    #[must_use]
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.up.get(&node.name) == Some(&node.boot)
    }

    /// Whether a node of this name is about to leave.
    #[must_use]
    pub fn is_draining(&self, name: &NodeName) -> bool {
        self.draining.contains(name)
    }

    /// The zone of a node, if it is known to have one.
    #[must_use]
    pub fn zone(&self, name: &NodeName) -> Option<&Zone> {
        self.zones.get(name)
    }

    /// The boot of this name that is up.
    #[must_use]
    pub fn boot_of(&self, name: &NodeName) -> Option<NodeId> {
        Some(NodeId { name: name.clone(), boot: *self.up.get(name)? })
    }

    /// The boots that are up.
    pub fn up(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.up.iter().map(|(name, boot)| NodeId { name: name.clone(), boot: *boot })
    }

    /// Who should own a shard: the first of its preference list that is up. Nobody, if all that are up are about to leave;
    /// then who owns it keeps it.
    #[must_use]
    pub fn preferred(&self, shard: ShardId) -> Option<NodeId> {
        self.placement.preference_list(shard).find_map(|name| self.boot_of(name))
    }

    /// Where shards belong.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }
}
