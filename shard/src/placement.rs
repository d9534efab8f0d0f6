//! The table of preference lists.
//!
//! **Idea.** Ranking all nodes for each key would cost more with every node. There are few shards, so the ranking is
//! done once per shard and member list, off the hot path, and a lookup reads an array.
//!
//! **Order.** Nodes are ranked by ([rank within their zone](Candidate::zone), score, name), where the rank within a
//! zone is by (score, name). So the first nodes of a list are the best of each zone, then come the second best of each,
//! and so on: the replicas of a shard are in distinct zones while there are enough zones, and as evenly among them as
//! they can be when there are not. A list of n nodes is the beginning of the list of n + 1.
//!
//! **Minimal movement.** Where no two nodes share a zone, the list of a shard is that of the n least scores. A node that
//! joins enters the lists that it belongs to and pushes one node out of each; nothing else changes, and leaving is the
//! reverse. With shared zones no more moves, and nobody else becomes the first: a zone has as many places as before or one
//! more, and the new node takes it or that of its zone's last. But those who stay may change their order: the zone's best
//! node that was then ranks behind the best of other zones.
//!
//! **Cost.** A build calculates shards × nodes scores of some nanoseconds each. The table takes 2 bytes per shard and
//! replica.

use std::fmt;

use polity_cluster::NodeName;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::mutation::{Mutation, mutated};
use crate::rendezvous::Scorer;
use crate::{Candidate, Error, ShardCount, ShardId, Weight};

/// The most nodes that a placement takes: four times the largest cluster that the library is made for. It bounds a
/// build of the default number of shards to some ten milliseconds.
pub const MAX_NODES: usize = 4_096;

const _: () = assert!(MAX_NODES <= 1 << u16::BITS, "every index fits into a NodeIndex");

/// On how many nodes each shard should be: from 1 to 16, by default 3, of which two are a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct ReplicaCount(u8);

impl ReplicaCount {
    /// The greatest count. More replicas than this make every write slower and nothing safer.
    pub const MAX: u8 = 16;

    /// Checks and takes a count.
    ///
    /// # Errors
    /// [`Error::ReplicaCount`] if it is not from 1 to [`ReplicaCount::MAX`].
    pub const fn new(count: u8) -> Result<Self, Error> {
        if 1 <= count && count <= Self::MAX { Ok(Self(count)) } else { Err(Error::ReplicaCount(count)) }
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for ReplicaCount {
    fn default() -> Self {
        Self(3)
    }
}

impl From<ReplicaCount> for u8 {
    fn from(count: ReplicaCount) -> Self {
        count.0
    }
}

impl TryFrom<u8> for ReplicaCount {
    type Error = Error;
    fn try_from(count: u8) -> Result<Self, Error> {
        Self::new(count)
    }
}

/// The place of a node in [`Placement::nodes`]. It means nothing to another placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(u16);

impl NodeIndex {
    /// The place as a number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Which nodes each shard should be on, in order of preference.
///
/// Equal sets of candidates with equal settings give equal placements, in whatever order they are listed, on every
/// build and architecture. A placement does not change; a new member list makes a new one.
#[derive(Clone, PartialEq, Eq)]
pub struct Placement {
    shards: ShardCount,
    replicas: ReplicaCount,
    /// Sorted.
    nodes: Box<[NodeName]>,
    /// The lists of all shards in order, each `list_len` long.
    table: Box<[NodeIndex]>,
    /// The number of replicas, or of nodes if these are fewer.
    list_len: usize,
}

impl Placement {
    /// Places `shards` on `candidates`, each on `replicas` of them, or on all if there are fewer.
    ///
    /// It calculates one score of some nanoseconds for each pair of shard and candidate, so call it where a few
    /// milliseconds do not matter. Without candidates all lists are empty.
    ///
    /// # Errors
    /// [`Error::DuplicateNode`] if two candidates have one name, and [`Error::TooManyNodes`] if there are more than
    /// [`MAX_NODES`].
    pub fn compute(candidates: &[Candidate], shards: ShardCount, replicas: ReplicaCount) -> Result<Self, Error> {
        if candidates.len() > MAX_NODES {
            return Err(Error::TooManyNodes(candidates.len()));
        }
        let mut sorted: Vec<&Candidate> = candidates.iter().collect();
        sorted.sort_unstable_by_key(|candidate| &candidate.name);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::DuplicateNode(pair[0].name.clone()));
        }
        let list_len = sorted.len().min(usize::from(replicas.get()));
        let mut table = Vec::with_capacity(list_len * shards.get() as usize);
        let zones = zones(&sorted);
        if zones.len() >= list_len {
            for shard in shards.iter() {
                push_best_of_distinct_zones(&mut table, &zones, shard, list_len);
            }
        } else {
            for shard in shards.iter() {
                push_best_by_rank_in_zone(&mut table, &zones, shard, list_len);
            }
        }
        let nodes = sorted.into_iter().map(|candidate| candidate.name.clone()).collect();
        Ok(Self { shards, replicas, nodes, table: table.into_boxed_slice(), list_len })
    }

    /// How many shards are placed.
    #[must_use]
    pub fn shards(&self) -> ShardCount {
        self.shards
    }

    /// On how many nodes each shard should be. There may be fewer nodes than that.
    #[must_use]
    pub fn replicas(&self) -> ReplicaCount {
        self.replicas
    }

    /// All nodes, by name. Some may own nothing.
    #[must_use]
    pub fn nodes(&self) -> &[NodeName] {
        &self.nodes
    }

    /// The preference list of a shard, as places in [`Placement::nodes`]: distinct, and as many as there are replicas or
    /// nodes, whichever are fewer. None for a shard that is not one of [`Placement::shards`].
    #[must_use]
    #[inline]
    pub fn owners(&self, shard: ShardId) -> &[NodeIndex] {
        if !self.shards.contains(shard) {
            return &[];
        }
        let begin = shard.0 as usize * self.list_len;
        &self.table[begin..begin + self.list_len]
    }

    /// The preference list of a shard, best first.
    pub fn preference_list(&self, shard: ShardId) -> impl ExactSizeIterator<Item = &NodeName> {
        self.owners(shard).iter().map(|index| &self.nodes[index.get()])
    }

    /// Where `name` is in [`Placement::nodes`], if it is a node of this placement.
    #[must_use]
    pub fn index_of(&self, name: &NodeName) -> Option<NodeIndex> {
        // Indexes fit by `MAX_NODES`.
        self.nodes.binary_search(name).ok().map(|index| NodeIndex(index as u16))
    }

    /// The shards that have `name` on their preference lists, in order.
    pub fn shards_of(&self, name: &NodeName) -> impl Iterator<Item = ShardId> {
        let index = self.index_of(name);
        self.shards.iter().filter(move |shard| index.is_some_and(|index| self.owners(*shard).contains(&index)))
    }

    /// A hash of everything that the placement says. Two nodes whose digests are equal agree on every owner.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut bytes = self.shards.get().to_le_bytes().to_vec();
        bytes.push(self.replicas.get());
        for name in &self.nodes {
            // Names have no control characters, so a zero byte ends one.
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.push(0);
        }
        bytes.extend(self.table.iter().flat_map(|index| index.0.to_le_bytes()));
        xxh3_64(&bytes)
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("shards", &self.shards.get())
            .field("replicas", &self.replicas.get())
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

const MAX_LIST_LEN: usize = ReplicaCount::MAX as usize;

/// The nodes of one zone, by name.
type ZoneMembers = Vec<(NodeIndex, Scorer)>;

/// A node under consideration. Ordered by score, then by name, as the order of indexes is that of names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    score: u64,
    node: NodeIndex,
}

impl Ranked {
    /// A place that is still free: no score is as bad, since weights are at least 1 and logarithms at most 64.
    const WORST: Self = Self { score: u64::MAX, node: NodeIndex(u16::MAX) };
}

/// The nodes by zone; a node without a zone is one alone. The order of the zones has no effect.
fn zones(sorted: &[&Candidate]) -> Vec<ZoneMembers> {
    // The index is unique, so a node without a zone meets no other.
    let key = |index: usize| {
        let zone = sorted[index].zone.as_ref().filter(|_| !mutated(Mutation::IgnoresZones));
        (zone, zone.is_none().then_some(index))
    };
    let mut indexes: Vec<usize> = (0..sorted.len()).collect();
    indexes.sort_by_key(|index| key(*index));
    let zones = indexes.chunk_by(|a, b| key(*a) == key(*b));
    let scorer = |index: &usize| {
        let Candidate { name, weight, .. } = sorted[*index];
        let weight = if mutated(Mutation::IgnoresWeights) { Weight::default() } else { *weight };
        let scorer = Scorer::new(name, weight);
        let scorer = if mutated(Mutation::CountsNodes) { scorer.salted(sorted.len()) } else { scorer };
        // Indexes fit by `MAX_NODES`.
        (NodeIndex(*index as u16), scorer)
    };
    zones.map(|zone| zone.iter().map(scorer).collect()).collect()
}

/// Appends the list of `shard` where there is a zone for each of its nodes: the best of each zone, the best of these.
fn push_best_of_distinct_zones(table: &mut Vec<NodeIndex>, zones: &[ZoneMembers], shard: ShardId, list_len: usize) {
    let best = &mut [Ranked::WORST; MAX_LIST_LEN][..list_len];
    for first in zones.iter().filter_map(|zone| ranked(zone, shard).min()) {
        keep_if_better(best, first);
    }
    table.extend(best.iter().map(|ranked| ranked.node));
}

/// Appends the list of `shard` by the general rule: rank within the zone, then score, then name.
fn push_best_by_rank_in_zone(table: &mut Vec<NodeIndex>, zones: &[ZoneMembers], shard: ShardId, list_len: usize) {
    let mut all = Vec::with_capacity(zones.len() * list_len);
    for zone in zones {
        let best = &mut [Ranked::WORST; MAX_LIST_LEN][..list_len.min(zone.len())];
        ranked(zone, shard).for_each(|node| keep_if_better(best, node));
        all.extend(best.iter().copied().enumerate());
    }
    all.sort_unstable();
    table.extend(all.iter().take(list_len).map(|(_, ranked)| ranked.node));
}

fn ranked(zone: &ZoneMembers, shard: ShardId) -> impl Iterator<Item = Ranked> {
    zone.iter().map(move |(node, scorer)| Ranked { score: scorer.score(shard), node: *node })
}

/// Sorts `new` into the sorted `best`, whose last then drops out, or leaves it if it comes after all of them.
#[inline]
fn keep_if_better(best: &mut [Ranked], new: Ranked) {
    if best.last().is_some_and(|last| new < *last) {
        let place = best.partition_point(|other| *other < new);
        best[place..].rotate_right(1);
        best[place] = new;
    }
}
