//! Placements that must be the same on every build and architecture, for ever.
//!
//! A failure here means that nodes of this build place data elsewhere than nodes of another. That is a new protocol:
//! do not change a value below without a way for running clusters to get there.

mod members;

use members::{name, nodes, place, weight, zone};
use polity_shard::{Candidate, Placement, ShardCount, ShardId};

fn list(placement: &Placement, shard: u32) -> String {
    placement.preference_list(ShardId(shard)).map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
}

fn digest(placement: &Placement) -> String {
    format!("{:016x}", placement.digest())
}

fn mixed() -> Vec<Candidate> {
    let node = |text, w, z| Candidate::new(name(text)).with_weight(weight(w)).with_zone(zone(z));
    vec![
        node("ada", 100, "north"),
        node("bob", 250, "north"),
        node("cyd", 100, "south"),
        node("dan", 1, "south"),
        node("eve", 1_000, "west"),
        node("fay", 333, "west"),
        Candidate::new(name("gil")),
        Candidate::new(name("h é")).with_weight(weight(7)),
    ]
}

#[test]
fn keys() {
    let of = |count, key: &[u8]| ShardCount::new(count).expect("valid").shard_of(key).0;
    let keys: [&[u8]; 5] = [b"", b"a", b"cart/4711", &[0; 17], &[0xff; 300]];
    assert_eq!(keys.map(|key| of(65_536, key)), [54_844, 20_016, 3_396, 17_273, 61_860]);
    for key in keys {
        for bits in 0..=16 {
            assert_eq!(of(1 << bits, key), of(65_536, key) >> (16 - bits), "shards are ranges of one hash");
        }
    }
}

#[test]
fn equal_nodes() {
    let placement = place(&nodes(5), 256, 3);
    assert_eq!(
        [0, 1, 2, 100, 255].map(|shard| list(&placement, shard)),
        ["n3 n4 n2", "n4 n3 n2", "n0 n4 n2", "n0 n3 n4", "n3 n1 n4"]
    );
    let more = [
        place(&nodes(3), 256, 3),
        place(&nodes(12), 4_096, 3),
        place(&nodes(100), 4_096, 5),
        place(&nodes(40), 65_536, 16),
    ];
    assert_eq!(digest(&placement), "34560ea36126d046");
    assert_eq!(
        more.each_ref().map(digest),
        ["1653dff956a50415", "5ac369242451a85b", "3d335d9aa1f90f43", "912665ab36a94c3f"]
    );
}

#[test]
fn weights_and_zones() {
    let placement = place(&mixed(), 256, 3);
    assert_eq!(
        [0, 1, 2, 100, 255].map(|shard| list(&placement, shard)),
        ["fay cyd ada", "bob fay cyd", "ada eve cyd", "bob fay gil", "eve bob cyd"]
    );
    let weights_only: Vec<_> = mixed().into_iter().map(|node| Candidate { zone: None, ..node }).collect();
    let more = [place(&mixed(), 4_096, 1), place(&weights_only, 4_096, 3)];
    assert_eq!(digest(&placement), "4f157d278f3fc3e8");
    assert_eq!(more.each_ref().map(digest), ["a8ba5d94516f23ed", "52f2ed8852cd9e67"]);
}

#[test]
fn more_replicas_than_zones_or_nodes() {
    let placement = place(&mixed(), 256, 7);
    assert_eq!(
        [0, 1, 255].map(|shard| list(&placement, shard)),
        ["fay cyd ada gil h é eve bob", "bob fay cyd gil h é ada eve", "eve bob cyd gil h é fay ada"]
    );
    let more = [place(&mixed(), 256, 16), place(&nodes(2), 1, 3), place(&[], 256, 3)];
    assert_eq!(digest(&placement), "35bcafa2799a8d67");
    assert_eq!(more.each_ref().map(digest), ["593ca3fda5fa08ea", "eab6143c25811889", "7acb749e15694731"]);
}
