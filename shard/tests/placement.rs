//! What every placement satisfies, and how well placements of usual sizes spread: the checker of promise H2 (balanced,
//! minimal, zone-aware). Each of its tests says which part it judges; the last shows that they notice.

mod members;

use std::collections::{BTreeMap, BTreeSet};

use members::{loads, name, nodes, place, weight, zone};
use polity_cluster::NodeName;
use polity_shard::{Candidate, Error, MAX_NODES, Placement, ReplicaCount, ShardCount, ShardId, Weight, Zone};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

const CASES: u32 = 2_048;

/// Up to 14 nodes of any weight, in up to 4 zones or in none.
fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let node = (1..=Weight::MAX, prop::option::of(0..4u8));
    prop::collection::btree_map("[a-z]{1,3}", node, 0..14).prop_map(|nodes| {
        let node = |(text, (w, z)): (String, (u16, Option<u8>))| Candidate {
            name: name(&text),
            weight: weight(w),
            zone: z.map(|z| zone(&z.to_string())),
        };
        nodes.into_iter().map(node).collect()
    })
}

/// The owners of each shard as a set.
fn owner_sets(placement: &Placement) -> Vec<BTreeSet<&NodeName>> {
    placement.shards().iter().map(|shard| placement.preference_list(shard).collect()).collect()
}

/// The replicas of a shard are in as many zones as there can be, and as evenly among them.
fn spread_over_zones(candidates: &[Candidate], replicas: u8) -> TestCaseResult {
    let placement = place(candidates, 64, replicas);
    let length = candidates.len().min(usize::from(replicas));
    // A node without a zone is one of its own.
    let zones: BTreeMap<&NodeName, (Option<&Zone>, Option<&NodeName>)> =
        candidates.iter().map(|c| (&c.name, (c.zone.as_ref(), c.zone.is_none().then_some(&c.name)))).collect();
    let count = |zone| zones.values().filter(|other| **other == zone).count();
    for owners in owner_sets(&placement) {
        prop_assert_eq!(owners.len(), length);
        let used: BTreeSet<_> = owners.iter().map(|owner| zones[owner]).collect();
        let all: BTreeSet<_> = zones.values().copied().collect();
        prop_assert_eq!(used.len(), length.min(all.len()), "as many zones as there can be");
        // As even as can be: a zone with fewer owners than another, by two, has no more nodes to give.
        let owned = |zone| owners.iter().filter(|owner| zones[**owner] == zone).count();
        let most = all.iter().map(|zone| owned(*zone)).max().unwrap_or(0);
        for zone in all {
            prop_assert!(owned(zone) + 1 >= most || owned(zone) == count(zone));
        }
    }
    Ok(())
}

/// A node that joins takes places, and nothing else changes but the order of those who stay, and that only where nodes have
/// zones. A leave is the reverse.
fn moves_only_what_it_must(nodes: &[Candidate], joining: &Candidate, replicas: u8) -> TestCaseResult {
    let all = [nodes, std::slice::from_ref(joining)].concat();
    let have_zones = all.iter().any(|node| node.zone.is_some());
    let (before, after) = (place(nodes, 64, replicas), place(&all, 64, replicas));
    for shard in before.shards().iter() {
        let old: Vec<_> = before.preference_list(shard).collect();
        let kept: Vec<_> = after.preference_list(shard).filter(|owner| **owner != joining.name).collect();
        prop_assert!(kept.iter().all(|owner| old.contains(owner)), "nobody else takes a place");
        prop_assert!(have_zones || old.starts_with(&kept), "all who stay stay in order");
        let joined = after.owners(shard).len() - kept.len();
        prop_assert!(old.len() - kept.len() <= joined, "only the new node takes a place");
        let first = after.preference_list(shard).next();
        prop_assert!(first == old.first().copied() || first == Some(&joining.name), "nobody else becomes the first");
    }
    Ok(())
}

/// A node that is in no list of [`candidates`], of any weight, in one of their zones, in one of its own or in none.
fn newcomer() -> impl Strategy<Value = Candidate> {
    (1..=Weight::MAX, prop::option::of(0..5u8)).prop_map(|(w, z)| Candidate {
        name: name("a new one"),
        weight: weight(w),
        zone: z.map(|z| zone(&z.to_string())),
    })
}

fn without_zone(node: Candidate) -> Candidate {
    Candidate { zone: None, ..node }
}

/// With one replica shares follow weights exactly, but for chance: within four standard deviations of a binomial.
fn shares_of_seven_follow_weights() -> TestCaseResult {
    let weights = [1, 10, 50, 100, 100, 333, 1_000];
    let candidates: Vec<_> = nodes(7).into_iter().zip(weights).map(|(c, w)| c.with_weight(weight(w))).collect();
    let total: u16 = weights.iter().sum();
    for (load, w) in loads(&place(&candidates, 65_536, 1)).into_iter().zip(weights) {
        let share = f64::from(w) / f64::from(total);
        let (mean, deviation) = (65_536.0 * share, (65_536.0 * share * (1.0 - share)).sqrt());
        prop_assert!((f64::from(load) - mean).abs() <= 4.0 * deviation, "weight {w}: {load}, expected {mean}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn the_order_of_candidates_does_not_matter(
        (candidates, shuffled) in candidates().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle())),
        replicas in 1..6u8,
    ) {
        let placement = place(&candidates, 64, replicas);
        prop_assert_eq!(&placement, &place(&shuffled, 64, replicas));
        prop_assert!(placement.nodes().is_sorted());
    }

    /// H2, zone-aware.
    #[test]
    fn lists_are_distinct_nodes_spread_over_zones(candidates in candidates(), replicas in 1..8u8) {
        spread_over_zones(&candidates, replicas)?;
    }

    #[test]
    fn lists_extend_those_of_fewer_replicas(candidates in candidates(), replicas in 1..8u8) {
        let (fewer, more) = (place(&candidates, 64, replicas), place(&candidates, 64, replicas + 1));
        for shard in fewer.shards().iter() {
            prop_assert!(more.owners(shard).starts_with(fewer.owners(shard)));
        }
    }

    /// H2, minimal.
    #[test]
    fn without_shared_zones_a_join_or_leave_moves_only_what_it_must(
        candidates in candidates(),
        joining in newcomer(),
        replicas in 1..6u8,
    ) {
        let candidates: Vec<_> = candidates.into_iter().map(without_zone).collect();
        moves_only_what_it_must(&candidates, &without_zone(joining), replicas)?;
    }

    /// H2, minimal.
    #[test]
    fn with_shared_zones_a_join_or_leave_moves_no_more(
        candidates in candidates(),
        joining in newcomer(),
        replicas in 1..8u8,
    ) {
        moves_only_what_it_must(&candidates, &joining, replicas)?;
    }

    #[test]
    fn lookups_agree_with_each_other(candidates in candidates(), replicas in 1..6u8) {
        let placement = place(&candidates, 64, replicas);
        let loads = loads(&placement);
        for (index, node) in placement.nodes().iter().enumerate() {
            prop_assert_eq!(placement.index_of(node).map(|index| index.get()), Some(index));
            let shards: Vec<_> = placement.shards_of(node).collect();
            prop_assert_eq!(shards.len(), loads[index] as usize);
            prop_assert!(shards.iter().all(|shard| placement.preference_list(*shard).any(|owner| owner == node)));
        }
        prop_assert_eq!(placement.shards_of(&name("a stranger")).count(), 0);
        prop_assert!(placement.owners(ShardId(64)).is_empty() && placement.owners(ShardId(u32::MAX)).is_empty());
    }
}

/// H2, balanced.
#[test]
fn loads_of_equal_nodes_are_balanced() {
    for (count, bound) in [(5, 1.10), (12, 1.10), (99, 1.25)] {
        let loads = loads(&place(&nodes(count), 4_096, 3));
        let fair = 4_096.0 * 3.0 / count as f64;
        let most = f64::from(*loads.iter().max().expect("there are nodes"));
        assert!(most / fair <= bound, "{count} nodes: {most} of a fair {fair}");
    }
}

/// H2, balanced by weight.
#[test]
fn shares_follow_weights() {
    shares_of_seven_follow_weights().expect("but for chance");
}

#[test]
fn digests_tell_placements_apart() {
    let base = place(&nodes(4), 64, 3);
    assert_eq!(base.digest(), place(&nodes(4), 64, 3).digest());
    let others = [place(&nodes(5), 64, 3), place(&nodes(4), 128, 3), place(&nodes(4), 64, 2), place(&nodes(3), 64, 4)];
    let digests: BTreeSet<_> = others.iter().chain([&base]).map(Placement::digest).collect();
    assert_eq!(digests.len(), 5);
    assert_ne!(place(&nodes(2), 64, 3).digest(), place(&nodes(2), 64, 4).digest(), "the setting itself counts");
}

#[test]
fn what_cannot_be_placed_is_refused() {
    let compute =
        |candidates: &[Candidate]| Placement::compute(candidates, ShardCount::default(), ReplicaCount::default());
    let twice = [nodes(3), vec![Candidate::new(name("n1")).with_weight(weight(5))]].concat();
    assert_eq!(compute(&twice), Err(Error::DuplicateNode(name("n1"))));
    assert_eq!(compute(&nodes(MAX_NODES + 1)), Err(Error::TooManyNodes(MAX_NODES + 1)));
    let one_shard = ShardCount::new(1).expect("valid");
    assert!(Placement::compute(&nodes(MAX_NODES), one_shard, ReplicaCount::default()).is_ok());
    let nobody = compute(&[]).expect("an empty cluster has a placement");
    assert!(nobody.owners(ShardId(0)).is_empty() && nobody.nodes().is_empty());
}

#[test]
fn settings_are_checked() {
    for count in [0, 3, 255, 1 << 17, u32::MAX] {
        assert_eq!(ShardCount::new(count), Err(Error::ShardCount(count)));
    }
    assert_eq!(ShardCount::new(65_536).map(ShardCount::get), Ok(65_536));
    assert_eq!(ShardCount::default().get(), 256);
    assert!(ShardCount::default().contains(ShardId(255)) && !ShardCount::default().contains(ShardId(256)));
    assert_eq!([0, 17].map(ReplicaCount::new), [0, 17].map(|n| Err(Error::ReplicaCount(n))));
}

/// Each deliberate fault of placement is noticed by the part of H2 that it breaks, and by no other. Without one the tests above
/// pass.
#[cfg(feature = "mutations")]
#[test]
fn every_fault_of_placement_is_noticed() {
    use polity_shard::mutation::{Mutation, set};
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let runner = || TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let spread = || runner().run(&(candidates(), 1..8u8), |(nodes, replicas)| spread_over_zones(&nodes, replicas));
    let moves = || {
        let all = (candidates(), newcomer(), 1..6u8);
        runner().run(&all, |(nodes, joining, replicas)| moves_only_what_it_must(&nodes, &joining, replicas))
    };
    // Whether zones, movement and weights are found in order.
    let judge = |mutation| {
        set(Some(mutation));
        let found = [spread().is_ok(), moves().is_ok(), shares_of_seven_follow_weights().is_ok()];
        set(None);
        found
    };
    assert_eq!(judge(Mutation::IgnoresZones), [false, true, true]);
    assert_eq!(judge(Mutation::CountsNodes), [true, false, true]);
    assert_eq!(judge(Mutation::IgnoresWeights), [true, true, false]);
}
