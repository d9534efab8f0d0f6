//! Member lists for tests.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use polity_cluster::NodeName;
use polity_shard::{Candidate, Placement, ReplicaCount, ShardCount, Weight, Zone};

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a valid name")
}

pub(crate) fn weight(weight: u16) -> Weight {
    Weight::new(weight).expect("a valid weight")
}

pub(crate) fn zone(text: &str) -> Zone {
    Zone::new(text).expect("a valid zone")
}

/// `n0`, `n1`, ... of equal weight without zones.
pub(crate) fn nodes(count: usize) -> Vec<Candidate> {
    (0..count).map(|i| Candidate::new(name(&format!("n{i}")))).collect()
}

pub(crate) fn place(candidates: &[Candidate], shards: u32, replicas: u8) -> Placement {
    let shards = ShardCount::new(shards).expect("a valid count");
    let replicas = ReplicaCount::new(replicas).expect("a valid count");
    Placement::compute(candidates, shards, replicas).expect("distinct names")
}

/// How many shards each node has, in the order of [`Placement::nodes`].
pub(crate) fn loads(placement: &Placement) -> Vec<u32> {
    let mut loads = vec![0; placement.nodes().len()];
    for shard in placement.shards().iter() {
        placement.owners(shard).iter().for_each(|owner| loads[owner.get()] += 1);
    }
    loads
}
