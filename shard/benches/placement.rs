//! What placement costs and how well it spreads: `cargo bench -p polity-shard`.
//!
//! Prints the time of a build, the time of a lookup beside that of a bare array read of the same width in the same
//! run, and the figures for balance and movement, which are the same in every run. What promise H2 says of them is judged by
//! `tests/placement.rs`; the others are published, not promised.

use std::hint::black_box;
use std::time::Instant;

use polity_cluster::NodeName;
use polity_shard::{Candidate, Placement, ReplicaCount, ShardCount, ShardId, Weight, Zone};

/// Each time is the best of this many rounds: what else the machine does can only add to it.
const ROUNDS: usize = 15;

fn main() {
    println!("4,096 shards, 3 replicas, equal weights, nodes n0, n1, ...\n");
    println!(
        "{:>6} {:>10} {:>12} {:>12} {:>9} {:>14} {:>15}",
        "nodes", "build ms", "in 3 zones", "in 2 zones", "max/fair", "moved on join", "moved on leave"
    );
    for nodes in [5, 12, 99, 100, 1_000] {
        let plain = nodes_of_weights(&vec![100; nodes]);
        let [three, two] = [3, 2].map(|zones| in_zones(&plain, zones));
        let placement = place(&plain, 3);
        println!(
            "{nodes:>6} {:>10.2} {:>12.2} {:>12.2} {:>9.3} {:>14.3} {:>15.3}",
            best_ns(|| place(&plain, 3)) / 1e6,
            best_ns(|| place(&three, 3)) / 1e6,
            best_ns(|| place(&two, 3)) / 1e6,
            max_over_fair(&placement, &vec![100; nodes]),
            moved_over_minimum(&placement, &place(&nodes_of_weights(&vec![100; nodes + 1]), 3)),
            moved_over_minimum(&placement, &place(&plain[1..], 3)),
        );
    }
    weights();
    lookups();
}

fn weights() {
    println!(
        "\nunequal weights: max/fair, and the most that moves when any one node leaves or one of the least or greatest weight"
    );
    println!("joins, of 3 replicas; in zones it joins any. Published, not promised, but for the movement\n");
    println!(
        "{:>32} {:>9} {:>10} {:>14} {:>15} {:>13} {:>14} {:>13} {:>14}",
        "",
        "1 replica",
        "3 replicas",
        "moved on join",
        "moved on leave",
        "join, 3 zones",
        "leave, 3 zones",
        "join, 2 zones",
        "leave, 2 zones"
    );
    let mixes: [(&str, Vec<u16>); 4] = [
        ("5 nodes, 1:1:1:2:2", vec![100, 100, 100, 200, 200]),
        ("5 nodes, 1:2:3:4:5", vec![100, 200, 300, 400, 500]),
        ("12 nodes, half of them double", [[100, 200]; 6].concat()),
        ("99 nodes, a third of them double", [[100, 100, 200]; 33].concat()),
    ];
    for (name, weights) in mixes {
        let [one, three] = [1, 3].map(|replicas| {
            let placement = place(&nodes_of_weights(&weights), replicas);
            max_over_fair(&placement, &weights)
        });
        let nodes = nodes_of_weights(&weights);
        let [plain, in_three, in_two] = [1, 3, 2].map(|zones| most_moved(&nodes, zones));
        println!(
            "{name:>32} {one:>9.3} {three:>10.3} {:>14.3} {:>15.3} {:>13.3} {:>14.3} {:>13.3} {:>14.3}",
            plain.0, plain.1, in_three.0, in_three.1, in_two.0, in_two.1,
        );
    }
}

/// The most that moves when one node joins, and when one leaves. One zone is none.
fn most_moved(nodes: &[Candidate], zones: usize) -> (f64, f64) {
    let spread = |nodes: &[Candidate]| if zones > 1 { in_zones(nodes, zones) } else { nodes.to_vec() };
    let (nodes, name) = (spread(nodes), NodeName::new("joins").expect("a valid name"));
    let before = place(&nodes, 3);
    let weights = nodes.iter().map(|node| node.weight);
    let extremes = [weights.clone().min(), weights.max()].map(|weight| weight.expect("there are nodes"));
    let joins = extremes.into_iter().flat_map(|weight| {
        // Each zone has one of the first nodes.
        nodes[..zones].iter().map(move |node| (weight, node.zone.clone()))
    });
    let join = joins.map(|(weight, zone)| {
        let joins = Candidate { name: name.clone(), weight, zone };
        moved_over_minimum(&before, &place(&[&nodes[..], &[joins]].concat(), 3))
    });
    let leave = (0..nodes.len()).map(|at| {
        let rest = [&nodes[..at], &nodes[at + 1..]].concat();
        moved_over_minimum(&before, &place(&rest, 3))
    });
    (join.fold(0.0, f64::max), leave.fold(0.0, f64::max))
}

fn lookups() {
    let placement = place(&nodes_of_weights(&[100; 100]), 3);
    let keys: Vec<[u8; 16]> =
        (0..1_u128 << 16).map(|i| (i * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes()).collect();
    let shards: Vec<ShardId> = keys.iter().map(|key| placement.shards().shard_of(key)).collect();
    let rows: Vec<[u16; 3]> =
        placement.shards().iter().map(|s| [0, 1, 2].map(|i| placement.owners(s)[i].get() as u16)).collect();
    let per_key = |ns: f64| ns / keys.len() as f64;

    let floor = best_ns(|| shards.iter().fold(0, |sum, s| sum ^ rows[s.0 as usize].iter().fold(0, |x, i| x ^ i)));
    let lookup =
        best_ns(|| shards.iter().fold(0, |sum, s| sum ^ placement.owners(*s).iter().fold(0, |x, i| x ^ i.get())));
    let hash = best_ns(|| keys.iter().fold(0, |sum, key| sum ^ placement.shards().shard_of(key).0));
    println!("\nlookup of 3 owners of 100 nodes, shards in random order");
    println!("{:>34}: {:.2} ns", "floor: a bare array of rows", per_key(floor));
    println!("{:>34}: {:.2} ns", "Placement::owners", per_key(lookup));
    println!("{:>34}: {:.2} ns", "ShardCount::shard_of, 16-byte keys", per_key(hash));
}

fn nodes_of_weights(weights: &[u16]) -> Vec<Candidate> {
    let node = |(i, weight): (usize, &u16)| {
        let name = NodeName::new(&format!("n{i}")).expect("a valid name");
        Candidate::new(name).with_weight(Weight::new(*weight).expect("a valid weight"))
    };
    weights.iter().enumerate().map(node).collect()
}

fn in_zones(candidates: &[Candidate], zones: usize) -> Vec<Candidate> {
    let zone = |number: usize| Zone::new(&format!("z{number}")).expect("a valid zone");
    candidates.iter().enumerate().map(|(i, candidate)| candidate.clone().with_zone(zone(i % zones))).collect()
}

fn place(candidates: &[Candidate], replicas: u8) -> Placement {
    let shards = ShardCount::new(4_096).expect("a valid count");
    Placement::compute(candidates, shards, ReplicaCount::new(replicas).expect("a valid count")).expect("distinct names")
}

/// The greatest load of a node, over its share by weight of all loads.
fn max_over_fair(placement: &Placement, weights: &[u16]) -> f64 {
    let mut loads = vec![0_u32; placement.nodes().len()];
    for shard in placement.shards().iter() {
        placement.owners(shard).iter().for_each(|owner| loads[owner.get()] += 1);
    }
    let per_weight = f64::from(loads.iter().sum::<u32>()) / weights.iter().map(|w| f64::from(*w)).sum::<f64>();
    let ratio = |(i, weight): (usize, &u16)| {
        let name = NodeName::new(&format!("n{i}")).expect("a valid name");
        let index = placement.index_of(&name).expect("a node of the placement");
        f64::from(loads[index.get()]) / (f64::from(*weight) * per_weight)
    };
    weights.iter().enumerate().map(ratio).fold(0.0, f64::max)
}

/// The replicas that one placement has and the other has not, over those of nodes that the other does not have.
fn moved_over_minimum(a: &Placement, b: &Placement) -> f64 {
    let (mut moved, mut minimum) = (0, 0);
    for (from, to) in [(a, b), (b, a)] {
        for shard in from.shards().iter() {
            for owner in from.preference_list(shard) {
                moved += i32::from(to.preference_list(shard).all(|other| other != owner));
                minimum += i32::from(to.index_of(owner).is_none());
            }
        }
    }
    // Each replica that a node takes over is one that another gives up.
    f64::from(moved) / f64::from(2 * minimum)
}

/// The least time of a call, in nanoseconds.
fn best_ns<T>(mut call: impl FnMut() -> T) -> f64 {
    let time = |_| {
        let begin = Instant::now();
        black_box(call());
        begin.elapsed().as_nanos() as f64
    };
    (0..ROUNDS).map(time).fold(f64::INFINITY, f64::min)
}
