//! Buckets of every kind on three nodes: what is written on one is read on another, and kinds are not mixed up.

use std::time::Duration;

use bytes::Bytes;
use polity_cluster::{Node, Preset};
use polity_kv::{Consistency, Kind, Kv, KvConfig, KvError, Outcome};
use polity_shard::ShardCount;

async fn three() -> Vec<(Node, Kv)> {
    let mut nodes: Vec<(Node, Kv)> = Vec::new();
    for name in ["n0", "n1", "n2"] {
        let builder = Node::builder(name).cluster("buckets").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
        let builder = builder.seeds(nodes.iter().map(|(node, _)| node.addr()));
        let mut config = KvConfig::default();
        config.shards = ShardCount::new(16).expect("a power of two");
        config.patrol_interval = Duration::from_millis(100);
        let (node, kv) = builder.start_with(|node| Kv::start(node, config.clone())).await.expect("starts");
        nodes.push((node, kv.expect("valid")));
    }
    for (_, kv) in &nodes {
        kv.settled().await;
    }
    nodes
}

#[tokio::test]
async fn what_is_written_on_one_node_is_read_on_another() {
    let nodes = three().await;
    let [(_, a), (_, b), (_, c)] = &nodes[..] else { unreachable!() };

    let on = |kv: &Kv| kv.bucket("visits").expect("a name").counter();
    assert_eq!(on(a).add("home", 5).await.expect("adds"), 5);
    assert_eq!(on(b).add("home", -2).await.expect("adds"), 3);
    assert_eq!(on(c).get("home").await.expect("reads"), 3);
    assert!(on(c).delete("home").await.expect("deletes") && !on(a).delete("home").await.expect("deletes"));
    assert_eq!((on(b).get("home").await.expect("reads"), on(b).get("away").await.expect("reads")), (0, 0));

    let on = |kv: &Kv| kv.bucket("carts").expect("a name").set();
    assert_eq!(on(a).update("ada", |cart| cart.add("tea").add("milk")).await.expect("adds"), 2);
    assert_eq!(on(b).update("ada", |cart| cart.remove("tea").add("milk")).await.expect("changes"), 1);
    assert_eq!(on(c).get("ada").await.expect("reads").into_iter().collect::<Vec<_>>(), [Bytes::from("milk")]);

    let on = |kv: &Kv| kv.bucket("people").expect("a name").map();
    assert_eq!(on(a).update("ada", |map| map.set("city", "London").set("age", "36")).await.expect("sets"), 2);
    assert_eq!(on(b).update("ada", |map| map.set("city", "Paris").remove("age")).await.expect("sets"), 1);
    let ada: Vec<_> = on(c).get("ada").await.expect("reads").into_iter().collect();
    assert_eq!(ada, [(Bytes::from("city"), Bytes::from("Paris"))]);

    let on = |kv: &Kv| kv.bucket("settings").expect("a name").last_writer_wins();
    for (kv, value) in [(a, "one"), (b, "two"), (c, "three")] {
        on(kv).put("mode", value).await.expect("writes");
        assert_eq!(on(a).get("mode").await.expect("reads"), Some(Bytes::from(value)));
    }
    assert!(on(a).delete("mode").await.expect("deletes"));
    assert_eq!(on(b).get("mode").await.expect("reads"), None);

    // Buckets share no keys, with each other and with the store's own.
    let on = |kv: &Kv| kv.bucket("notes").expect("a name").causal();
    let context = on(a).put("ada", "first").await.expect("writes");
    on(b).put("ada", "second").context(&context).await.expect("writes");
    assert_eq!(on(c).get("ada").await.expect("reads").value(), Some(&Bytes::from("second")));
    assert!(a.get("ada").await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_until_nothing_is_there() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    let (sets, counters) = (a.bucket("mixed").expect("a name").set(), b.bucket("mixed").expect("a name").counter());
    sets.update("key", |set| set.add("x")).await.expect("adds");
    let error = counters.add("key", 1).await.expect_err("it is a set");
    assert!(matches!(error, KvError::WrongKind { found: Kind::Set, wanted: Kind::Counter }), "{error}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
    assert!(counters.get("key").await.is_err());
    sets.delete("key").await.expect("deletes");
    assert_eq!(counters.add("key", 1).await.expect("the key is free"), 1);
    let error = a.bucket("").expect_err("it has no name");
    assert!(matches!(error, KvError::BucketName { bytes: 0, .. }), "{error}");
    let error = sets.update("key", |set| (0..20_000).fold(set, |set, at| set.add(format!("{at}")))).await;
    assert!(matches!(error, Err(KvError::TooManySteps { steps: 20_000, .. })), "{error:?}");
}

#[tokio::test]
async fn what_has_expired_is_gone_everywhere_and_its_record_is_a_trace() {
    let nodes = three().await;
    let [(_, a), (_, b), (_, c)] = &nodes[..] else { unreachable!() };
    let short = Duration::from_millis(300);
    let sessions = |kv: &Kv| kv.bucket("sessions").expect("a name").ttl(short).last_writer_wins();
    sessions(a).put("token", "ada").consistency(Consistency::All).await.expect("writes");
    assert_eq!(sessions(b).get("token").await.expect("reads"), Some(Bytes::from("ada")));
    assert!(sessions(b).expires("token").await.expect("reads").is_some());
    let sets = a.bucket("sets").expect("a name").set();
    sets.update("kept", |set| set.add("x")).await.expect("adds");
    sets.expire("kept", Some(short)).await.expect("expires");
    sets.expire("kept", None).await.expect("expires no more");
    while sessions(c).get("token").await.expect("reads").is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Whichever replica is asked.
    for kv in [a, b, c] {
        assert_eq!(sessions(kv).get("token").consistency(Consistency::One).await.expect("reads"), None);
    }
    assert_eq!(sets.get("kept").await.expect("reads").len(), 1);
    sessions(a).put("token", "bob").await.expect("writes");
    assert_eq!(sessions(b).get("token").await.expect("reads"), Some(Bytes::from("bob")));
}

#[tokio::test]
async fn a_scan_finds_every_key_of_its_bucket_once() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    let on = |kv: &Kv| kv.bucket("many").expect("a name").last_writer_wins();
    // More than fits into a page of any shard.
    let value = vec![7; 20_000];
    for at in 0..300 {
        on(a).put(format!("key-{at:03}"), value.clone()).await.expect("writes");
    }
    on(b).delete("key-007").await.expect("deletes");
    a.bucket("other").expect("a name").counter().add("key-400", 1).await.expect("adds");
    let found = async |prefix: &str| {
        let (many, mut keys) = (on(b), Vec::new());
        let mut scan = many.scan(prefix);
        while let Some((key, held)) = scan.next().await.expect("reads") {
            assert_eq!(held, value);
            keys.push(String::from_utf8(key.to_vec()).expect("text"));
        }
        keys.sort();
        keys
    };
    let expected = |keys: std::ops::Range<u32>| -> Vec<String> {
        keys.filter(|at| *at != 7).map(|at| format!("key-{at:03}")).collect()
    };
    assert_eq!(found("").await, expected(0..300));
    assert_eq!(found("key-1").await, expected(100..200));
    assert_eq!(found("key-299").await, expected(299..300));
    assert!(found("nothing").await.is_empty());
}
