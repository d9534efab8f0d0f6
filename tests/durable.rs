//! Whole nodes whose stores are in folders.

use std::path::PathBuf;
use std::time::Duration;

use polity::kv::EngineError;
use polity::shard::handoff::BudgetConfig;
use polity::{Consistency, Error, KvConfig, Node, Preset};
use tokio::time::{Instant, sleep, timeout};

const NODES: usize = 3;
const KEYS: usize = 200;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("polity-durable-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn builder(folder: &Folder, name: &str) -> polity::Builder {
    let builder = Node::builder(name).cluster("test").preset(Preset::Local).no_discovery().secret([7; 32]);
    builder.durable(folder.0.join(name))
}

/// Starts a node as soon as the life before has let go of its folder.
async fn start(builder: polity::Builder) -> Node {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match builder.clone().start().await {
            Err(Error::Engine(EngineError::InUse { .. })) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            started => return started.expect("starts"),
        }
    }
}

async fn cluster(folder: &Folder) -> Vec<Node> {
    let mut nodes = vec![start(builder(folder, "n0")).await];
    for at in 1..NODES {
        nodes.push(start(builder(folder, &format!("n{at}")).seeds([nodes[0].addr()])).await);
    }
    for node in &nodes {
        timeout(Duration::from_secs(30), node.kv().settled()).await.expect("it settles");
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_stops_as_a_whole_has_its_data_again() {
    let folder = Folder::new("whole");
    for life in 0..3 {
        let nodes = cluster(&folder).await;
        for key in 0..KEYS {
            let name = format!("k{key}");
            let kv = nodes[key % NODES].kv();
            let entry = kv.get(&name).await.expect("a quorum answers");
            // Every seventh was deleted in the life before.
            let expected = (life > 0 && key % 7 != 0).then(|| format!("{key} in life {}", life - 1));
            assert_eq!(
                entry.value().map(|value| &value[..]),
                expected.as_ref().map(|value| value.as_bytes()),
                "{name}"
            );
            kv.put(&name, format!("{key} in life {life}")).await.expect("written");
            if key % 7 == 0 {
                kv.delete(&name).await.expect("deleted");
            }
        }
        for node in &nodes {
            node.stop().await;
        }
    }
}

#[tokio::test]
async fn a_folder_that_does_not_fit_is_refused_and_nothing_is_started() {
    let folder = Folder::new("refused");
    let node = builder(&folder, "n0").start().await.expect("starts");
    let again = builder(&folder, "n0").start().await.expect_err("it is in use");
    assert!(matches!(again, Error::Engine(EngineError::InUse { .. })) && again.is_retryable(), "{again}");
    let port = node.addr();
    node.stop().await;
    drop(node);
    start(builder(&folder, "n0")).await.stop().await;
    let other = Node::builder("n1").cluster("test").preset(Preset::Local).no_discovery().secret([7; 32]);
    // The port is free all the while: whoever is refused has bound nothing.
    let refused = other.listen(port).durable(folder.0.join("n0")).start().await.expect_err("it is n0's");
    assert!(matches!(refused, Error::Engine(EngineError::NotOurs { .. })), "{refused}");
    std::net::UdpSocket::bind(port).expect("nobody has it");
    let mut config = KvConfig::default();
    config.shards = polity::shard::ShardCount::new(16).expect("valid");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match builder(&folder, "n0").kv(config.clone()).start().await.expect_err("it has 256 shards") {
            Error::Engine(EngineError::OtherShards { found: 256, expected: 16, .. }) => break,
            Error::Engine(EngineError::InUse { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await
            }
            error => panic!("{error}"),
        }
    }
    let mut config = KvConfig::default();
    config.max_key_bytes = 64 << 10;
    start(builder(&folder, "n0")).await.stop().await;
    let error = loop {
        match builder(&folder, "n0").kv(config.clone()).start().await.expect_err("the engine takes less") {
            Error::Engine(EngineError::InUse { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await
            }
            error => break error,
        }
    };
    assert!(matches!(error, Error::Kv(_)), "{error}");
}

/// No user may make a folder there, whoever runs this.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_node_whose_folder_is_read_only_says_so_and_does_not_start() {
    let builder = Node::builder("n0").cluster("test").preset(Preset::Local).no_discovery();
    let refused = builder.durable("/sys/polity").start().await.expect_err("nothing can be made there");
    assert!(matches!(refused, Error::Engine(EngineError::ReadOnly { .. })), "{refused:?}");
}

/// Inverts a bit in the midst of a node's journal, once the life before has let go of it.
async fn damage(folder: &Folder, name: &str) {
    let lock = std::fs::File::open(folder.0.join(name).join("kv/lock")).expect("opens");
    while lock.try_lock().is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    let data = folder.0.join(name).join("kv/data");
    let files = std::fs::read_dir(&data).expect("reads").map(|entry| entry.expect("reads").path());
    let journal = files.filter(|path| path.extension().is_some_and(|e| e == "jnl")).max().expect("there is one");
    let mut bytes = std::fs::read(&journal).expect("reads");
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    bytes[end / 2] ^= 1;
    std::fs::write(&journal, bytes).expect("writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disk_has_damaged_is_reported_and_fetched_from_the_other_replicas() {
    let folder = Folder::new("damaged");
    let mut nodes = cluster(&folder).await;
    for key in 0..KEYS {
        nodes[key % NODES].kv().put(format!("k{key}"), format!("{key}")).await.expect("written");
    }
    nodes[0].kv().delete("k0").await.expect("deleted");
    // It remembers where the others are: that there are copies elsewhere.
    let members = folder.0.join("n2/members");
    while std::fs::read(&members).unwrap_or_default().is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    let last = nodes.pop().expect("three");
    last.stop().await;
    drop(last);
    damage(&folder, "n2").await;
    let last = start(builder(&folder, "n2").seeds([nodes[0].addr()])).await;
    nodes.push(last);
    for node in &nodes {
        timeout(Duration::from_secs(30), node.kv().settled()).await.expect("it settles");
    }
    let told = nodes[2].kv().stats().damage.expect("it says so");
    assert!(told.contains(".jnl") && told.contains("at byte"), "{told}");
    for key in 0..KEYS {
        let name = format!("k{key}");
        let held = nodes[2].kv().get(&name).consistency(Consistency::One).await.expect("it has a copy itself");
        let expected = (key > 0).then(|| format!("{key}"));
        assert_eq!(held.value().map(|value| &value[..]), expected.as_ref().map(|value| value.as_bytes()), "{name}");
    }
}

#[tokio::test]
async fn a_node_that_has_seen_no_other_does_not_put_its_data_aside() {
    let folder = Folder::new("damaged-alone");
    let node = start(builder(&folder, "n0")).await;
    for key in 0..KEYS {
        node.kv().put(format!("k{key}"), "v").await.expect("written");
    }
    node.stop().await;
    drop(node);
    damage(&folder, "n0").await;
    let data = folder.0.join("n0/kv/data");
    let refused = builder(&folder, "n0").start().await.expect_err("nobody else has its records");
    assert!(matches!(refused, Error::Engine(EngineError::Damaged { offset: Some(_), .. })), "{refused}");
    assert!(data.exists() && !data.with_file_name("data.damaged").exists(), "nothing was touched");
}

/// Both replicas that were there have to hear of what the third has, which has to have all that they have: and yet what it has missed
/// is told once, and moves once (K4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_has_missed_while_it_was_away_moves_once() {
    const KEYS: usize = 4_000;
    const MISSED: usize = 1_500;
    const VALUE: usize = 100;
    let folder = Folder::new("away");
    // All compare what they have all the time, while the third needs some time to fetch what it lacks.
    let mut config = KvConfig::default();
    config.patrol_interval = Duration::from_millis(100);
    config.repair = BudgetConfig { bytes_per_second: 256 << 10, least: 256 << 10, burst: 1 << 15, ..config.repair };
    let builder = |name: &str| builder(&folder, name).kv(config.clone());
    let mut nodes = vec![start(builder("n0")).await];
    for name in ["n1", "n2"] {
        nodes.push(start(builder(name).seeds([nodes[0].addr()])).await);
    }
    for node in &nodes {
        timeout(Duration::from_secs(30), node.kv().settled()).await.expect("it settles");
    }
    let put = async |nodes: &[Node], key: usize, what: u8| {
        let put = nodes[key % nodes.len()].kv().put(format!("key-{key:06}"), vec![what; VALUE]);
        put.timeout(Duration::from_secs(20)).await.expect("written");
    };
    for key in 0..KEYS {
        put(&nodes, key, 1).await;
    }
    let last = nodes.pop().expect("three");
    last.stop().await;
    drop(last);
    for key in 0..MISSED {
        put(&nodes, key, 2).await;
    }
    let moved = |nodes: &[Node]| nodes.iter().map(|node| node.kv().stats().repair_bytes).sum::<u64>() as usize;
    let before = moved(&nodes);
    nodes.push(start(builder("n2").seeds([nodes[0].addr()])).await);
    for node in &nodes {
        timeout(Duration::from_secs(60), node.kv().settled()).await.expect("it settles");
    }
    for key in 0..MISSED {
        let held = nodes[2].kv().get(format!("key-{key:06}")).consistency(Consistency::One).await.expect("its own");
        assert_eq!(held.value().map(|value| value[0]), Some(2), "{key}");
    }
    let (moved, payload) = (moved(&nodes) - before, MISSED * (VALUE + "key-000000".len()));
    assert!(moved < (64 << 10) + payload * 22 / 10, "{moved} bytes for {payload}");
}
