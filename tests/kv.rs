//! Whole nodes with their stores on loopback.

use std::time::Duration;

use polity::shard::handoff::BudgetConfig;
use polity::{Consistency, KvConfig, KvError, Node, Outcome, Preset};

fn builder(name: &str) -> polity::Builder {
    Node::builder(name).cluster("test").preset(Preset::Local).no_discovery().secret([7; 32])
}

/// Five nodes that know each other and have settled.
async fn five() -> Vec<Node> {
    let mut nodes = vec![builder("n0").start().await.expect("starts")];
    for i in 1..5 {
        nodes.push(builder(&format!("n{i}")).seeds([nodes[0].addr()]).start().await.expect("starts"));
    }
    settled(&nodes).await;
    nodes
}

async fn settled(nodes: &[Node]) {
    for node in nodes {
        node.kv().settled().await;
    }
}

async fn value(node: &Node, key: &str) -> Vec<String> {
    let entry = node.kv().get(key).await.expect("a quorum answers");
    let mut values: Vec<_> = entry.values().iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
    values.sort();
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_writes_every_node_reads() {
    let nodes = five().await;
    for i in 0..100 {
        nodes[i % 5].kv().put(format!("k{i}"), format!("v{i}")).await.expect("written");
    }
    for i in 0..100 {
        assert_eq!(value(&nodes[(i + 2) % 5], &format!("k{i}")).await, [format!("v{i}")]);
        nodes[(i + 1) % 5].kv().put(format!("k{i}"), "again").await.expect("written");
        assert_eq!(value(&nodes[(i + 3) % 5], &format!("k{i}")).await, ["again"]);
        nodes[(i + 4) % 5].kv().delete(format!("k{i}")).await.expect("deleted");
        assert!(value(&nodes[i % 5], &format!("k{i}")).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_stay_side_by_side_until_one_has_seen_both() {
    let nodes = five().await;
    let (a, b) = (nodes[0].kv(), nodes[1].kv());
    let seen = a.get("cart").await.expect("read");
    a.put("cart", "apple").context(seen.context()).await.expect("written");
    b.put("cart", "pear").context(seen.context()).await.expect("written");
    assert_eq!(value(&nodes[2], "cart").await, ["apple", "pear"]);
    let both = nodes[3].kv().get("cart").await.expect("read");
    assert!(both.value().is_none());
    // What a write returns covers what its writer has seen, and not the sibling that it does not know.
    let mine = a.put("list", "one").await.expect("written");
    b.put("list", "two").context(&polity::Context::default()).await.expect("written");
    let sent = polity::Context::from_bytes(&mine.to_bytes()).expect("survives the way");
    assert_eq!(sent, mine);
    assert!(polity::Context::from_bytes(&[9]).is_err());
    a.put("list", "three").context(&sent).await.expect("written");
    assert_eq!(value(&nodes[2], "list").await, ["three", "two"]);
    nodes[3].kv().put("cart", "both").context(both.context()).await.expect("written");
    assert_eq!(value(&nodes[4], "cart").await, ["both"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_named() {
    let node = builder("n0").kv(KvConfig::default()).start().await.expect("starts");
    let error = node.kv().put(vec![b'k'; 5000], "v").await.expect_err("refused");
    assert!(matches!(error, KvError::KeySize { bytes: 5000, limit: 4096 }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let error = node.kv().put("k", vec![0; (1 << 20) + 1]).await.expect_err("refused");
    assert!(error.to_string().contains("1048576"), "{error}");
    let error = node.kv().get("").await.expect_err("refused");
    assert!(matches!(error, KvError::KeySize { bytes: 0, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nodes_stop_one_after_the_other_and_come_back_empty() {
    let mut nodes = five().await;
    for i in 0..200 {
        nodes[i % 5].kv().put(format!("k{i}"), format!("v{i}")).await.expect("written");
    }
    for victim in 0..5 {
        let survivor = (victim + 1) % 5;
        nodes[victim].stop().await;
        let seeds = [nodes[survivor].addr()];
        nodes[victim] = builder(&format!("n{victim}")).seeds(seeds).start().await.expect("starts again");
        settled(&nodes).await;
    }
    for i in 0..200 {
        assert_eq!(value(&nodes[(i + 2) % 5], &format!("k{i}")).await, [format!("v{i}")], "k{i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_has_handed_everything_over() {
    let mut nodes = five().await;
    for i in 0..200 {
        nodes[i % 5].kv().put(format!("k{i}"), format!("v{i}")).consistency(Consistency::All).await.expect("written");
    }
    while nodes.len() > 1 {
        let leaver = nodes.pop().expect("more than one");
        leaver.leave(Duration::from_secs(20)).await.expect("leaves");
        settled(&nodes).await;
        for i in 0..200 {
            assert_eq!(value(&nodes[i % nodes.len()], &format!("k{i}")).await, [format!("v{i}")], "k{i}");
        }
    }
    assert_eq!(nodes[0].kv().local_records().expect("counts"), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_to_a_node_that_joins_moves_once() {
    // All compare what they have all the time, while the newcomer needs seconds to fetch what it lacks.
    let mut config = KvConfig::default();
    config.patrol_interval = Duration::from_millis(100);
    config.repair = BudgetConfig { bytes_per_second: 1 << 20, least: 1 << 20, burst: 1 << 16, ..config.repair };
    let builder = |name: &str| builder(name).kv(config.clone());
    let mut nodes = vec![builder("n0").start().await.expect("starts")];
    for i in 1..3 {
        nodes.push(builder(&format!("n{i}")).seeds([nodes[0].addr()]).start().await.expect("starts"));
    }
    settled(&nodes).await;
    for i in 0..3_000 {
        let put = nodes[i % 3].kv().put(format!("k{i}"), vec![7; 1_000]);
        put.consistency(Consistency::All).await.expect("written");
    }
    let moved = |nodes: &[Node]| nodes.iter().map(|node| node.kv().stats().repair_bytes).sum::<u64>();
    let before = moved(&nodes);
    nodes.push(builder("n3").seeds([nodes[0].addr()]).start().await.expect("starts"));
    settled(&nodes).await;
    let records = nodes[3].kv().local_records().expect("counts") as u64;
    let moved = moved(&nodes) - before;
    assert!(records > 1_500 && moved > records * 1_000, "{moved} bytes for {records} records");
    assert!(moved < records * 1_400, "{moved} bytes for {records} records");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_weight_moves_what_it_must_and_fails_nothing() {
    const KEYS: usize = 300;
    let nodes = five().await;
    for i in 0..KEYS {
        nodes[i % 5].kv().put(format!("k{i}"), "0").await.expect("written");
    }
    settled(&nodes).await;
    let mut held = Vec::new();
    for (round, weight) in [(1, 1_000), (2, 1)] {
        nodes[0].set_weight(weight).expect("in range");
        let sees = |node: &Node| {
            let view = node.members().snapshot();
            view.up().any(|member| member.profile.as_ref().is_some_and(|profile| profile.weight.get() == weight))
        };
        // Callers go on while shards move.
        let mut written = 0;
        let moving = async {
            while !nodes.iter().all(sees) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            settled(&nodes).await;
        };
        tokio::pin!(moving);
        loop {
            let i = written % KEYS;
            tokio::select! {
                biased;
                put = nodes[written % 5].kv().put(format!("k{i}"), format!("{round}")) => drop(put.expect("written")),
                () = &mut moving, if written >= KEYS => break,
            }
            written += 1;
        }
        for i in 0..KEYS {
            assert_eq!(value(&nodes[(i + 1) % 5], &format!("k{i}")).await, [format!("{round}")], "k{i}");
        }
        settled(&nodes).await;
        held.push(nodes[0].kv().local_records().expect("counts") as usize);
    }
    assert!(held[0] > KEYS * 8 / 10 && held[1] < KEYS / 10, "{held:?} of {KEYS}");
    assert!(nodes[0].set_weight(0).is_err() && nodes[0].set_weight(1_001).is_err());
}
