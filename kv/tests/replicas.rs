//! Buckets of other numbers of replicas than their store's, on five nodes and on disk.

use std::time::Duration;

use bytes::Bytes;
use polity_cluster::{Error, Node, Preset};
use polity_kv::{Bucket, BucketConfig, Counter, Kv, KvConfig, KvError, LastWriterWins, ReplicaCount, Set, WatchEvent};
use polity_shard::ShardCount;

fn count(count: u8) -> ReplicaCount {
    ReplicaCount::new(count).expect("a possible number")
}

fn base() -> KvConfig {
    let mut config = KvConfig::default();
    config.shards = ShardCount::new(16).expect("a power of two");
    config.patrol_interval = Duration::from_millis(100);
    config
}

fn config() -> KvConfig {
    base()
        .bucket("plain", BucketConfig::last_writer_wins())
        .bucket("cache", BucketConfig::last_writer_wins().replicas(count(1)))
        .bucket("accounts", BucketConfig::last_writer_wins().replicas(count(5)))
        .bucket("votes", BucketConfig::counter().replicas(count(5)))
}

fn open(kv: &Kv, name: &str) -> Bucket<LastWriterWins> {
    kv.bucket(name).expect("it is declared")
}

fn builder(name: &str, config: &KvConfig, seeds: &[(Node, Kv)]) -> polity_cluster::Builder {
    let builder = Node::builder(name).cluster("replicas").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    let builder = builder.seeds(seeds.iter().map(|(node, _)| node.addr()));
    config.must_match().into_iter().fold(builder, |builder, (key, value)| builder.must_match(key, value))
}

async fn nodes(names: impl IntoIterator<Item = &'static str>) -> Vec<(Node, Kv)> {
    let mut nodes: Vec<(Node, Kv)> = Vec::new();
    for name in names {
        let builder = builder(name, &config(), &nodes);
        let (node, kv) = builder.start_with(|node| Kv::start(node, config())).await.expect("starts");
        nodes.push((node, kv.expect("valid")));
    }
    for (_, kv) in &nodes {
        kv.settled().await;
    }
    nodes
}

async fn all_of(bucket: &Bucket<LastWriterWins>) -> Vec<Bytes> {
    let mut scan = bucket.scan("");
    let mut keys = Vec::new();
    while let Some((key, _)) = scan.next().await.expect("reads") {
        keys.push(key);
    }
    keys.sort();
    keys
}

#[tokio::test]
async fn each_bucket_has_as_many_replicas_as_it_says_and_is_used_as_any_other() {
    let nodes = nodes(["n0", "n1", "n2", "n3", "n4"]).await;
    let [(_, a), (_, b), (_, c), ..] = &nodes[..] else { unreachable!() };
    let buckets = [("plain", 3), ("cache", 1), ("accounts", 5)];
    let key = |at: usize| format!("key-{at:02}");
    for (name, replicas) in buckets {
        let (here, there) = (open(a, name), open(b, name));
        let mut watch = open(c, name).watch_prefix("").expect("there are few");
        for at in 0..50 {
            let on = here.replicas(key(at));
            assert_eq!(on.len(), replicas, "{name}");
            assert_eq!(on, there.replicas(key(at)));
            let shard = here.shard_of(key(at));
            assert_eq!((shard, shard.0 < 1 << 16), (there.shard_of(key(at)), replicas == 3), "{name}");
            assert_eq!(a.shard(shard).expect("one of the store's").replicas, on);
            here.put(key(at), format!("{name}-{at}")).await.expect("writes");
        }
        for at in 0..50 {
            let found = there.get(key(at)).await.expect("reads");
            assert_eq!(found, Some(Bytes::from(format!("{name}-{at}"))));
        }
        let keys: Vec<Bytes> = (0..50).map(|at| Bytes::from(key(at))).collect();
        assert_eq!(all_of(&there).await, keys);
        assert!(there.delete(key(7)).await.expect("deletes"));
        assert_eq!(here.get(key(7)).await.expect("reads"), None);
        assert_eq!(all_of(&here).await.len(), 49);
        while here.len().await.expect("counts") != 49 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The watch sees all of it, whenever it was begun.
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() != 49 || seen.contains(&Bytes::from(key(7))) {
            match watch.next().await.expect("it goes on") {
                WatchEvent::Key { key, value: Some(_) } => drop(seen.insert(key)),
                WatchEvent::Key { key, value: None } => drop(seen.remove(&key)),
                _ => {}
            }
        }
        here.put(key(50), "new").await.expect("writes");
        let mut one = there.watch(key(50)).expect("there are few");
        loop {
            if let WatchEvent::Key { value, .. } = one.next().await.expect("it goes on") {
                assert_eq!(value, Some(Bytes::from("new")));
                break;
            }
        }
    }
    // No more replicas than those hold anything, and the buckets of one number share no keys.
    for (_, kv) in &nodes {
        kv.settled().await;
    }
    for (name, replicas) in buckets {
        let holders = nodes.iter().filter(|(_, kv)| open(kv, name).fingerprint(key(3)).expect("reads").is_some());
        assert_eq!(holders.count(), replicas, "{name}");
    }
    let votes: Bucket<Counter> = a.bucket("votes").expect("it is declared");
    assert_eq!(votes.add(key(3), 2).await.expect("adds"), 2);
    assert_eq!(votes.replicas(key(3)).len(), 5);
    assert_eq!(open(b, "accounts").get(key(3)).await.expect("reads"), Some(Bytes::from("accounts-3")));
}

#[tokio::test]
async fn what_a_bucket_survives_follows_from_its_own_number() {
    let nodes = nodes(["n0", "n1", "n2", "n3", "n4"]).await;
    let (accounts, cache) = (open(&nodes[0].1, "accounts"), open(&nodes[0].1, "cache"));
    for at in 0..40 {
        accounts.put(format!("{at}"), "kept").await.expect("writes");
        cache.put(format!("{at}"), "kept").await.expect("writes");
    }
    let gone = [nodes[3].0.id().clone(), nodes[4].0.id().clone()];
    let on: Vec<_> = (0..40).map(|at| cache.replicas(format!("{at}"))).collect();
    // Two at once: three of five replicas are left.
    tokio::join!(nodes[3].0.stop(), nodes[4].0.stop());
    for at in 0..40 {
        assert_eq!(accounts.get(format!("{at}")).await.expect("three are left"), Some(Bytes::from("kept")));
        accounts.put(format!("{at}"), "again").await.expect("three are left");
    }
    // What was on one of them only waits for it, and all else is there.
    for (at, on) in on.iter().enumerate() {
        let read = cache.get(format!("{at}")).timeout(Duration::from_millis(100)).await;
        match gone.contains(&on[0]) {
            true => assert!(read.is_err(), "{at}: {read:?}"),
            false => assert_eq!(read.expect("its node is up"), Some(Bytes::from("kept"))),
        }
    }
    assert!(on.iter().any(|on| gone.contains(&on[0])) && on.iter().any(|on| !gone.contains(&on[0])));
}

#[tokio::test]
async fn nodes_that_say_otherwise_are_refused() {
    let nodes = nodes(["n0"]).await;
    let refused = |config: KvConfig| {
        let builder = builder("n1", &config, &nodes);
        async { builder.start().await.expect_err("it says otherwise") }
    };
    let base = base();
    let cache = || BucketConfig::last_writer_wins().replicas(count(1));
    let five = || BucketConfig::last_writer_wins().replicas(count(5));
    let other =
        base.clone().bucket("cache", cache()).bucket("votes", five()).bucket("accounts", five().replicas(count(4)));
    for config in [base.clone(), base.clone().bucket("cache", cache()), other] {
        let error = refused(config).await;
        assert!(matches!(&error, Error::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("kv.replicas") && text.contains(r#"3, "accounts" 5, "cache" 1, "votes" 5"#), "{text}");
    }
    // The order does not matter, nor who declares what else.
    let same = base.bucket("votes", five()).bucket("more", BucketConfig::set()).bucket("accounts", five());
    let same = same.bucket("cache", cache());
    builder("n1", &same, &nodes).start().await.expect("it says the same").stop().await;
    assert!(matches!(nodes[0].1.bucket::<Set>("more"), Err(KvError::UnknownBucket { .. })));
}

#[cfg(feature = "durable")]
mod on_disk {
    use std::sync::Arc;

    use polity_cluster::NodeName;
    use polity_kv::StartError;
    use polity_kv::engine::durable::Owner;
    use polity_kv::engine::{DurableEngine, Engine, EngineError};

    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("polity-replicas-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }

        async fn open(&self) -> Arc<dyn Engine> {
            let (node, shards) = (NodeName::new("n0").expect("valid"), config().shards);
            let owner = Owner { cluster: "replicas".to_owned(), node, shards };
            loop {
                match DurableEngine::open(self.0.join("kv"), &owner) {
                    Ok(engine) => return Arc::new(engine),
                    // The tasks of the node before end when they are looked at.
                    Err(EngineError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        }

        fn format(&self) -> String {
            let text = std::fs::read_to_string(self.0.join("kv/identity")).expect("it is there");
            text.lines().next().expect("a line").to_owned()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn of(buckets: &[(&str, Option<u8>)]) -> KvConfig {
        buckets.iter().fold(base(), |config, (name, replicas)| {
            let bucket = BucketConfig::last_writer_wins();
            config.bucket(*name, replicas.map_or(bucket, |replicas| bucket.replicas(count(replicas))))
        })
    }

    /// Starts a node on the folder, does something, and stops it.
    async fn with<T>(folder: &Folder, config: KvConfig, work: impl AsyncFnOnce(&Kv) -> T) -> Result<T, StartError> {
        let engine = folder.open().await;
        let start = |node: &Node| Kv::start_on(node, config.clone(), engine.clone());
        let (node, kv) = builder("n0", &config, &[]).data_dir(&folder.0).start_with(start).await.expect("starts");
        let done = match kv {
            Ok(kv) => {
                kv.settled().await;
                Ok(work(&kv).await)
            }
            Err(error) => Err(error),
        };
        node.stop().await;
        done
    }

    fn refused(error: StartError) -> (String, u8, u8) {
        match error {
            StartError::Engine(EngineError::OtherReplicas { bucket, found, expected }) => (bucket, found, expected),
            error => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn the_number_is_for_the_life_of_what_the_folder_holds() {
        let folder = Folder::new("life");
        let put = async |kv: &Kv, name: &str| open(kv, name).put("key", name.to_owned()).await.expect("writes");
        let found = async |kv: &Kv, name: &str| open(kv, name).get("key").await.expect("reads");
        with(&folder, of(&[("plain", None)]), async |kv| put(kv, "plain").await).await.expect("starts");
        assert_eq!(folder.format(), "polity-kv 3");

        // A bucket with a number of its own is added.
        let both = [("plain", None), ("five", Some(5)), ("empty", Some(5)), ("one", Some(1))];
        with(&folder, of(&both), async |kv| {
            assert_eq!(found(kv, "plain").await, Some(Bytes::from("plain")));
            put(kv, "five").await;
        })
        .await
        .expect("starts");
        assert_eq!(folder.format(), "polity-kv 4");
        let kept = async |kv: &Kv| {
            assert_eq!(found(kv, "five").await, Some(Bytes::from("five")));
            assert_eq!(found(kv, "plain").await, Some(Bytes::from("plain")));
        };
        with(&folder, of(&both), kept).await.expect("starts");

        let start = async |buckets: &[(&str, Option<u8>)]| with(&folder, of(buckets), async |_| ()).await;
        let error = start(&[("five", Some(4))]).await.expect_err("it holds five's");
        assert!(error.to_string().contains("\"five\"") && !matches!(error, StartError::Config(_)), "{error}");
        assert_eq!(refused(error), ("five".to_owned(), 5, 4));
        for buckets in [&[("five", None)][..], &[], &[("empty", Some(5))]] {
            assert_eq!(refused(start(buckets).await.expect_err("it holds five's")), ("five".to_owned(), 5, 3));
        }
        let error = start(&[("plain", Some(5)), ("five", Some(5))]).await.expect_err("it holds plain's");
        assert_eq!(refused(error), ("plain".to_owned(), 3, 5));

        // What holds nothing may change, and nothing was touched.
        let fewer = [("five", Some(5)), ("empty", Some(2))];
        with(&folder, of(&fewer), async |kv| assert_eq!(found(kv, "five").await, Some(Bytes::from("five"))))
            .await
            .expect("starts");
        with(&folder, of(&both), kept).await.expect("starts");
    }
}
