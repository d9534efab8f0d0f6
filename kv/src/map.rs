//! Where everything is, as one node sees it: the members, and the shards placed on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::Peer;
use polity_cluster::{Member, NodeId, NodeName, Status, View};
use polity_shard::{Candidate, Placement, ShardId};

use crate::layout::{Layout, index_of};
use crate::lineage::Heirs;
use crate::roster::Roster;
use crate::standing::Fates;

/// The longest list of each shard number, of which each class of shards takes the beginning.
#[derive(Debug)]
struct Placed {
    lists: Placement,
    layout: Arc<Layout>,
}

/// One version of the map. Replaced as a whole when the members change.
#[derive(Debug, Default)]
pub(crate) struct Map {
    members: BTreeMap<NodeName, Member>,
    placement: Option<Placed>,
    digest: u64,
}

impl Map {
    /// The map of a view. Shards go to members that are up, have said what they are, and are not about to leave.
    pub(crate) fn new(view: &View, layout: &Arc<Layout>) -> Self {
        let zones = !(mutated(Mutation::ForgetsZones) && view.version > 20);
        let candidates: Vec<Candidate> = view
            .up()
            .filter_map(|member| {
                let profile = member.profile.as_ref().filter(|profile| !profile.draining)?;
                let zone = profile.zone.clone().filter(|_| zones);
                Some(Candidate { name: member.id.name.clone(), weight: profile.weight, zone })
            })
            .collect();
        let placement = Placement::compute(&candidates, layout.shards(), layout.max_replicas())
            .map(|lists| Placed { lists, layout: layout.clone() })
            .inspect_err(|error| tracing::error!(%error, "shards cannot be placed on these members"))
            .ok();
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for member in view.up() {
            hasher.update(&(member.id.name.as_str().len() as u64).to_le_bytes());
            hasher.update(member.id.name.as_str().as_bytes());
            hasher.update(&member.id.boot.to_bytes());
            let profile = postcard::to_allocvec(&member.profile).expect("a profile encodes");
            hasher.update(&profile);
        }
        Self { members: view.members.clone(), placement, digest: hasher.digest() }
    }

    /// Tells two views of who is up apart.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The boots that a shard belongs to, the preferred ones first.
    pub(crate) fn preference_list(&self, shard: ShardId) -> Vec<NodeId> {
        let names = self.placement.iter().flat_map(|Placed { lists, layout }| {
            lists.preference_list(index_of(shard)).take(layout.replicas_of(shard))
        });
        names.filter_map(|name| self.members.get(name)).map(|member| member.id.clone()).collect()
    }

    pub(crate) fn roster(&self, shard: ShardId) -> Roster {
        Roster::new(self.preference_list(shard))
    }

    /// The members that are down and have not left: they may come back with what they know.
    pub(crate) fn down_members(&self) -> impl Iterator<Item = &NodeName> {
        self.members.iter().filter(|(_, member)| member.status == Status::Down).map(|(name, _)| name)
    }

    /// How to reach a boot, if it is the newest of its name.
    pub(crate) fn peer(&self, node: &NodeId) -> Option<Peer> {
        let member = self.members.get(&node.name).filter(|member| member.id == *node)?;
        Some(Peer { node: member.id.clone(), addr: member.addr })
    }

    /// Whether this boot has said that it is about to leave.
    pub(crate) fn is_draining(&self, node: &NodeId) -> bool {
        let member = self.members.get(&node.name).filter(|member| member.id == *node);
        member.and_then(|member| member.profile.as_ref()).is_some_and(|profile| profile.draining)
    }

    /// The members that are up.
    pub(crate) fn up_members(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.status.is_up())
    }

    /// What nodes with the same members agree on, and outsiders do not know.
    pub(crate) fn salt(&self) -> u64 {
        self.up_members().next().map_or(0, |member| xxhash_rust::xxh3::xxh3_64(&member.id.boot.to_bytes()))
    }

    /// Whether any boot of this name is known.
    pub(crate) fn has_member(&self, name: &NodeName) -> bool {
        self.members.contains_key(name)
    }

    /// Whether this boot is a member that is up.
    pub(crate) fn is_up(&self, node: &NodeId) -> bool {
        self.members.get(&node.name).is_some_and(|member| member.id == *node && member.status.is_up())
    }

    /// Whether this boot was taken for down by others since `before`, and is back.
    pub(crate) fn has_come_back(&self, node: &NodeId, before: &Self) -> bool {
        let rejoin =
            |map: &Self| map.members.get(&node.name).filter(|member| member.id == *node).map(|member| member.rejoin);
        rejoin(self).zip(rejoin(before)).is_some_and(|(now, then)| now > then)
    }

    /// Whether this boot may be there again: no newer one of its name is known, and it has not left.
    pub(crate) fn may_return(&self, node: &NodeId) -> bool {
        self.members.get(&node.name).is_some_and(|member| member.id == *node && member.status != Status::Left)
    }

    /// The newest boot of a node's name, if it is another one and has not left.
    pub(crate) fn successor(&self, node: &NodeId) -> Option<NodeId> {
        let member = self.members.get(&node.name)?;
        (member.id.boot > node.boot && member.status != Status::Left).then(|| member.id.clone())
    }
}

/// The map, and who is whose heir: all that the standing of a shard asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    pub(crate) map: Arc<Map>,
    pub(crate) heirs: Arc<Heirs>,
}

impl Sight {
    /// Whether nothing has changed between the two.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.map, &other.map) && Arc::ptr_eq(&self.heirs, &other.heirs)
    }
}

impl Fates for Sight {
    fn is_gone(&self, node: &NodeId) -> bool {
        let is_gone =
            |member: &Member| member.id.boot > node.boot || (member.id == *node && member.status == Status::Left);
        self.map.members.get(&node.name).is_some_and(is_gone)
    }

    fn is_up(&self, node: &NodeId) -> bool {
        self.map.is_up(node)
    }

    fn successor(&self, node: &NodeId) -> Option<NodeId> {
        self.map.successor(node)
    }

    fn up(&self) -> Vec<NodeId> {
        self.map.up_members().map(|member| member.id.clone()).collect()
    }

    fn continues(&self, newer: &NodeId, older: &NodeId) -> Option<bool> {
        self.heirs.continues(newer, older)
    }
}
