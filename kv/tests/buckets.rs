//! Buckets of every kind on three nodes: what is written on one is read on another, and kinds are not mixed up.

#[cfg(feature = "turmoil")]
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_cluster::{Node, Preset};
#[cfg(feature = "turmoil")]
use polity_kv::engine::faulty::Fault;
#[cfg(feature = "turmoil")]
use polity_kv::engine::{Disk, FaultyEngine};
use polity_kv::{
    Any, Bucket, BucketConfig, Causal, Consistency, Context, Counter, IdempotencyKey, Kind, Kv, KvConfig, KvError,
    LastWriterWins, Map, Outcome, Set, Value,
};
use polity_shard::ShardCount;

/// How many values a causal key may have side by side.
const MAX_SIBLINGS: usize = 4;
/// How long a session lasts.
const SHORT: Duration = Duration::from_millis(300);

fn config() -> KvConfig {
    let mut config = KvConfig::default()
        .bucket("visits", BucketConfig::counter())
        .bucket("carts", BucketConfig::set())
        .bucket("people", BucketConfig::map())
        .bucket("settings", BucketConfig::last_writer_wins())
        .bucket("notes", BucketConfig::causal())
        .bucket("mixed", BucketConfig::any())
        .bucket("sessions", BucketConfig::last_writer_wins().ttl(SHORT))
        .bucket("short", BucketConfig::last_writer_wins().max_key_bytes(3).max_value_bytes(5))
        .bucket("careless", BucketConfig::counter().read(Consistency::One).write(Consistency::One));
    config.shards = ShardCount::new(16).expect("a power of two");
    config.patrol_interval = Duration::from_millis(100);
    config.max_siblings = MAX_SIBLINGS;
    config
}

fn open<K: polity_kv::BucketKind>(kv: &Kv, name: &str) -> Bucket<K> {
    kv.bucket(name).expect("it is declared")
}

async fn three() -> Vec<(Node, Kv)> {
    let mut nodes: Vec<(Node, Kv)> = Vec::new();
    for name in ["n0", "n1", "n2"] {
        let builder = Node::builder(name).cluster("buckets").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
        let builder = builder.seeds(nodes.iter().map(|(node, _)| node.addr()));
        let (node, kv) = builder.start_with(|node| Kv::start(node, config())).await.expect("starts");
        nodes.push((node, kv.expect("valid")));
    }
    for (_, kv) in &nodes {
        kv.settled().await;
    }
    nodes
}

/// Three nodes on disks that fail when they are told to.
#[cfg(feature = "turmoil")]
async fn three_on_disks(timeout: Duration) -> (Vec<(Node, Kv)>, Vec<Disk>) {
    let disks: Vec<Disk> = (0..3).map(Disk::new).collect();
    let mut nodes: Vec<(Node, Kv)> = Vec::new();
    for (at, disk) in disks.iter().enumerate() {
        let builder = Node::builder(format!("n{at}")).cluster("disks").preset(Preset::Local).no_discovery();
        let builder = builder.listen("127.0.0.1:0").seeds(nodes.iter().map(|(node, _)| node.addr()));
        let engine = Arc::new(FaultyEngine::open(disk).expect("an empty disk"));
        let mut config = config();
        config.timeout = timeout;
        let started = builder.start_with(|node| Kv::start_on(node, config.clone(), engine.clone())).await;
        let (node, kv) = started.expect("starts");
        nodes.push((node, kv.expect("valid")));
    }
    for (_, kv) in &nodes {
        kv.settled().await;
    }
    (nodes, disks)
}

/// A node whose disk takes nothing leaves its writes to the others. If none takes anything, nothing is written, and the error says why.
#[cfg(feature = "turmoil")]
#[tokio::test]
async fn a_full_disk_fails_no_write_that_others_can_take() {
    let (nodes, disks) = three_on_disks(Duration::from_secs(10)).await;
    let on = |at: usize| open::<Counter>(&nodes[at].1, "visits");
    let put = |at: usize, value: &str| nodes[at].1.put("page", value.to_owned());
    assert_eq!(on(0).add("home", 1).await.expect("adds"), 1);
    put(0, "old").await.expect("puts");
    disks[0].set_fault(Fault::Full);
    assert_eq!(on(0).add("home", 1).await.expect("others have room"), 2);
    put(0, "new").await.expect("others have room");
    put(0, "other").context(&Context::default()).await.expect("others have room");
    disks[1..].iter().for_each(|disk| disk.set_fault(Fault::Full));
    for error in [on(0).add("home", 1).await.expect_err("no room"), put(2, "none").await.expect_err("no room")] {
        assert!(matches!(error, KvError::NoRoom { full: 2 | 3, replicas: 3, .. }), "{error}");
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false), "{error}");
    }
    disks.iter().for_each(|disk| disk.set_fault(Fault::None));
    assert_eq!(on(1).get("home").await.expect("reads"), 2);
    let page = nodes[2].1.get("page").await.expect("reads");
    let mut values: Vec<_> = page.values().iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    values.sort();
    assert_eq!(values, ["new", "other"]);
}

/// What a node cannot read any more is read from the others, and written through them. Once it can, it gets what it has missed.
#[cfg(feature = "turmoil")]
#[tokio::test]
async fn a_disk_that_cannot_be_read_fails_nothing_that_others_can_do() {
    let (nodes, disks) = three_on_disks(Duration::from_secs(10)).await;
    let kv = &nodes[0].1;
    kv.put("page", "old").consistency(Consistency::All).await.expect("puts");
    disks[0].set_fault(Fault::Unreadable);
    assert_eq!(kv.get("page").await.expect("others can").value(), Some(&Bytes::from("old")));
    kv.put("page", "new").await.expect("others can");
    assert_eq!(open::<Counter>(kv, "visits").add("home", 2).await.expect("others can"), 2);
    let one = kv.get("page").consistency(Consistency::One).await.expect("another can");
    assert_eq!(one.value(), Some(&Bytes::from("new")));
    disks[1].set_fault(Fault::Unreadable);
    let error = kv.get("page").timeout(Duration::from_millis(300)).await.expect_err("one is no quorum");
    assert!(error.to_string().contains("a block is not what was written"), "{error}");
    disks.iter().for_each(|disk| disk.set_fault(Fault::None));
    let all = || kv.get("page").consistency(Consistency::All);
    assert_eq!(all().await.expect("reads").value(), Some(&Bytes::from("new")));
    assert_eq!(kv.stats().engine_failure, None);
}

/// What is under a key has a limit, and what would exceed it is not written.
#[tokio::test]
async fn a_key_holds_so_much_and_no_more() {
    let nodes = three().await;
    let cart = open::<Set>(&nodes[0].1, "carts");
    let element = |at: u8| vec![at; 1_000_000];
    for at in 0..3 {
        cart.update("big", |cart| cart.add(element(at))).await.expect("there is room");
    }
    let error = cart.update("big", |cart| cart.add(element(3))).await.expect_err("it is full");
    let KvError::RecordTooLarge { bytes, limit } = error else { panic!("{error}") };
    assert!(bytes > 4_000_000 && limit < 4_000_000, "{error}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
    assert_eq!(cart.get("big").await.expect("reads").len(), 3);
    cart.update("big", |cart| cart.remove(element(0))).await.expect("it becomes less");
    cart.update("big", |cart| cart.add(element(3))).await.expect("there is room again");
    assert_eq!(open::<Set>(&nodes[1].1, "carts").get("big").await.expect("reads").len(), 3);
}

#[tokio::test]
async fn what_is_written_on_one_node_is_read_on_another() {
    let nodes = three().await;
    let [(_, a), (_, b), (_, c)] = &nodes[..] else { unreachable!() };

    let on = |kv: &Kv| open::<Counter>(kv, "visits");
    assert_eq!(on(a).add("home", 5).await.expect("adds"), 5);
    assert_eq!(on(b).add("home", -2).await.expect("adds"), 3);
    assert_eq!(on(c).get("home").await.expect("reads"), 3);
    assert!(on(c).delete("home").await.expect("deletes") && !on(a).delete("home").await.expect("deletes"));
    assert_eq!((on(b).get("home").await.expect("reads"), on(b).get("away").await.expect("reads")), (0, 0));

    let on = |kv: &Kv| open::<Set>(kv, "carts");
    assert_eq!(on(a).update("ada", |cart| cart.add("tea").add("milk")).await.expect("adds"), 2);
    assert_eq!(on(b).update("ada", |cart| cart.remove("tea").add("milk")).await.expect("changes"), 1);
    assert_eq!(on(c).get("ada").await.expect("reads").into_iter().collect::<Vec<_>>(), [Bytes::from("milk")]);

    let on = |kv: &Kv| open::<Map>(kv, "people");
    assert_eq!(on(a).update("ada", |map| map.set("city", "London").set("age", "36")).await.expect("sets"), 2);
    assert_eq!(on(b).update("ada", |map| map.set("city", "Paris").remove("age")).await.expect("sets"), 1);
    let ada: Vec<_> = on(c).get("ada").await.expect("reads").into_iter().collect();
    assert_eq!(ada, [(Bytes::from("city"), Bytes::from("Paris"))]);

    let on = |kv: &Kv| open::<LastWriterWins>(kv, "settings");
    for (kv, value) in [(a, "one"), (b, "two"), (c, "three")] {
        on(kv).put("mode", value).await.expect("writes");
        assert_eq!(on(a).get("mode").await.expect("reads"), Some(Bytes::from(value)));
    }
    assert!(on(a).delete("mode").await.expect("deletes"));
    assert_eq!(on(b).get("mode").await.expect("reads"), None);

    // Buckets share no keys, with each other and with the store's own.
    let on = |kv: &Kv| open::<Causal>(kv, "notes");
    let context = on(a).put("ada", "first").await.expect("writes");
    on(b).put("ada", "second").context(&context).await.expect("writes");
    assert_eq!(on(c).get("ada").await.expect("reads").value(), Some(&Bytes::from("second")));
    assert!(a.get("ada").await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_write_under_an_idempotency_key_is_done_once_whoever_asks_for_it() {
    let nodes = three().await;
    let [(_, a), (_, b), (_, c)] = &nodes[..] else { unreachable!() };
    let visits = |kv: &Kv| open::<Counter>(kv, "visits");

    let key = a.idempotency_key("visit 1");
    for kv in [a, b, c, a] {
        assert_eq!(visits(kv).add("once", 5).idempotency_key(key).await.expect("adds"), 5);
    }
    let at_once = (0..30).map(|at| {
        let (kv, key) = (&nodes[at % 3].1, key_of(a, at / 10));
        async move { visits(kv).add("many", 1).idempotency_key(key).await }
    });
    futures_util::future::try_join_all(at_once).await.expect("adds");
    assert_eq!(visits(b).get("many").await.expect("reads"), 3);

    // What was written since is not undone.
    let notes = |kv: &Kv| open::<Causal>(kv, "notes");
    let (first, key) = (a.idempotency_key("note 1"), b.idempotency_key("note 2"));
    notes(a).put("ada", "one").idempotency_key(first).await.expect("writes");
    let context = notes(b).put("ada", "two").idempotency_key(key).await.expect("writes");
    notes(c).put("ada", "one").idempotency_key(first).await.expect("writes");
    assert_eq!(notes(a).get("ada").await.expect("reads").value(), Some(&Bytes::from("two")));
    let again = notes(c).put("ada", "two").idempotency_key(key).await.expect("writes");
    for context in [again, context] {
        notes(a).put("ada", "three").context(&context).await.expect("writes");
    }
    let ada = notes(a).get("ada").await.expect("reads");
    assert_eq!(
        ada.values(),
        [Bytes::from("three"), Bytes::from("three")],
        "only the first of them had seen what is there"
    );

    let delete = c.idempotency_key("delete 1");
    assert!(open::<LastWriterWins>(a, "settings").put("mode", "one").await.is_ok());
    assert!(open::<LastWriterWins>(b, "settings").delete("mode").idempotency_key(delete).await.expect("deletes"));
    open::<LastWriterWins>(c, "settings").put("mode", "two").await.expect("writes");
    assert!(!open::<LastWriterWins>(a, "settings").delete("mode").idempotency_key(delete).await.expect("is done"));
    assert_eq!(open::<LastWriterWins>(a, "settings").get("mode").await.expect("reads"), Some(Bytes::from("two")));
}

fn key_of(kv: &Kv, name: usize) -> IdempotencyKey {
    kv.idempotency_key(format!("visit {name}"))
}

#[tokio::test]
async fn an_idempotency_key_counts_for_its_window_and_a_key_has_room_for_so_many() {
    let nodes = three().await;
    let [(_, a), ..] = &nodes[..] else { unreachable!() };
    let (visits, window) = (open::<Counter>(a, "visits"), a.config().idempotency_window);
    let since = a.idempotency_key("").since();
    for wrong in [since - window - Duration::from_secs(1), since + window + Duration::from_secs(10)] {
        let refused = visits.add("home", 1).idempotency_key(IdempotencyKey::new("key", wrong)).await;
        let error = refused.expect_err("it does not count");
        assert!(matches!(error, KvError::IdempotencyKeyOutOfWindow { .. }), "{error}");
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
    }
    assert_eq!(visits.get("home").await.expect("reads"), 0);

    for name in 0..1024 {
        visits.add("full", 1).idempotency_key(key_of(a, name)).await.expect("adds");
    }
    let error = visits.add("full", 1).idempotency_key(key_of(a, 1024)).await.expect_err("there is no room");
    assert!(matches!(error, KvError::TooManyIdempotencyKeys { limit: 1024 }), "{error}");
    visits.add("full", 1).idempotency_key(key_of(a, 7)).await.expect("it is done");
    assert_eq!(visits.add("full", 1).await.expect("adds"), 1025);
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_until_nothing_is_there() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    let (sets, counters) = (open::<Any>(a, "mixed").sets(), open::<Any>(b, "mixed").counters());
    sets.update("key", |set| set.add("x")).await.expect("adds");
    let error = counters.add("key", 1).await.expect_err("it is a set");
    assert!(matches!(error, KvError::WrongKind { found: Kind::Set, wanted: Kind::Counter }), "{error}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
    assert!(counters.get("key").await.is_err());
    sets.delete("key").await.expect("deletes");
    assert_eq!(counters.add("key", 1).await.expect("the key is free"), 1);
    let error = sets.update("key", |set| (0..20_000).fold(set, |set, at| set.add(format!("{at}")))).await;
    assert!(matches!(error, Err(KvError::TooManySteps { steps: 20_000, .. })), "{error:?}");
}

#[tokio::test]
async fn what_has_expired_is_gone_everywhere_and_its_record_is_a_trace() {
    let nodes = three().await;
    let [(_, a), (_, b), (_, c)] = &nodes[..] else { unreachable!() };
    let sessions = |kv: &Kv| open::<LastWriterWins>(kv, "sessions");
    sessions(a).put("token", "ada").consistency(Consistency::All).await.expect("writes");
    assert_eq!(sessions(b).get("token").await.expect("reads"), Some(Bytes::from("ada")));
    assert!(sessions(b).expires("token").await.expect("reads").is_some());
    let sets = open::<Set>(a, "carts");
    sets.update("kept", |set| set.add("x")).await.expect("adds");
    assert!(sets.expire("kept", Some(SHORT)).await.expect("expires"));
    assert!(sets.expire("kept", None).await.expect("expires no more"));
    assert!(!sets.expire("nothing", Some(SHORT)).await.expect("there is nothing"));
    // A call's own time wins over that of the bucket.
    sessions(a).put("lasting", "ada").ttl(Duration::from_secs(3600)).await.expect("writes");
    while sessions(c).get("token").await.expect("reads").is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Whichever replica is asked.
    for kv in [a, b, c] {
        assert_eq!(sessions(kv).get("token").consistency(Consistency::One).await.expect("reads"), None);
    }
    assert_eq!(sets.get("kept").await.expect("reads").len(), 1);
    assert_eq!(sessions(b).get("lasting").await.expect("reads"), Some(Bytes::from("ada")));
    sessions(a).put("token", "bob").await.expect("writes");
    assert_eq!(sessions(b).get("token").await.expect("reads"), Some(Bytes::from("bob")));
}

/// The keys of these numbers, but for the one that the tests of scans delete.
fn expected(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.filter(|at| *at != 7).map(|at| format!("key-{at:03}")).collect()
}

#[tokio::test]
async fn a_scan_finds_every_key_of_its_bucket_once() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    let on = |kv: &Kv| open::<LastWriterWins>(kv, "settings");
    // More than fits into a page of any shard.
    let value = vec![7; 20_000];
    for at in 0..300 {
        on(a).put(format!("key-{at:03}"), value.clone()).await.expect("writes");
    }
    on(b).delete("key-007").await.expect("deletes");
    open::<Counter>(a, "visits").add("key-400", 1).await.expect("adds");
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
    assert_eq!(found("").await, expected(0..300));
    assert_eq!(found("key-1").await, expected(100..200));
    assert_eq!(found("key-299").await, expected(299..300));
    assert!(found("nothing").await.is_empty());
}

#[tokio::test]
async fn a_scan_of_the_store_finds_what_is_in_no_named_bucket() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    // More than fits into a page of any shard.
    let value = vec![7; 20_000];
    let written = a.put_many((0..300).map(|at| (format!("key-{at:03}"), value.clone()))).await;
    assert!(written.iter().all(Result::is_ok));
    b.delete("key-007").await.expect("deletes");
    for context in [a, b].map(|_| Context::default()) {
        a.put("key-200", value.clone()).context(&context).await.expect("stays beside what is there");
    }
    let notes = open::<Causal>(a, "notes");
    notes.put("key-400", "1").await.expect("writes");
    let found = async |prefix: &str| {
        let (mut scan, mut keys) = (b.scan(prefix), Vec::new());
        while let Some((key, entry)) = scan.next().await.expect("reads") {
            let siblings = if key == "key-200" { 3 } else { 1 };
            assert!(entry.values().len() == siblings && entry.values().iter().all(|held| *held == value), "{key:?}");
            keys.push(String::from_utf8(key.to_vec()).expect("text"));
        }
        keys.sort();
        keys
    };
    assert_eq!(found("").await, expected(0..300));
    assert_eq!(found("key-1").await, expected(100..200));
    assert_eq!(found("key-299").await, expected(299..300));
    assert!(found("key-4").await.is_empty() && found("nothing").await.is_empty());
}

#[tokio::test]
async fn a_key_with_too_many_siblings_takes_no_more_of_them_and_loses_none() {
    let nodes = three().await;
    let [(_, a), (_, b), (_, c)] = &nodes[..] else { unreachable!() };
    let notes = |kv: &Kv| open::<Causal>(kv, "notes");
    let first = notes(a).put("ada", "first").consistency(Consistency::All).await.expect("writes");
    // The first of them replaces what its context has seen, and the others stay beside it.
    for at in 0..MAX_SIBLINGS {
        let here = notes(&nodes[at % 3].1);
        let put = here.put("ada", format!("{at}")).context(&first);
        put.consistency(Consistency::All).await.expect("there is room");
    }
    let held = async |kv: &Kv| {
        let entry = notes(kv).get("ada").await.expect("reads");
        let mut values = entry.values().to_vec();
        values.sort();
        (values, entry.context().clone())
    };
    let before = held(a).await;
    assert_eq!(before.0, (0..MAX_SIBLINGS).map(|at| Bytes::from(format!("{at}"))).collect::<Vec<_>>());
    for kv in [a, b, c] {
        let error = notes(kv).put("ada", "one more").context(&first).await.expect_err("there is no room");
        assert!(matches!(error, KvError::TooManySiblings { siblings: MAX_SIBLINGS }), "{error}");
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
        assert_eq!(held(kv).await, before);
    }
    // A delete with an old context removes nothing, and is no sibling.
    notes(b).delete("ada").context(&first).await.expect("it makes no value");
    assert_eq!(held(c).await.0, before.0);

    // Who has read them all makes room, and so does who asks for what a quorum knows.
    notes(c).put("ada", "merged").context(&before.1).await.expect("it replaces them");
    assert_eq!(held(a).await.0, ["merged"]);
    for at in 1..MAX_SIBLINGS {
        // On all, so that whoever is asked next knows them all: the limit is of what the coordinator holds.
        let put = notes(a).put("ada", format!("{at}")).context(&first).consistency(Consistency::All).await;
        put.expect("there is room again");
    }
    let error = notes(b).put("ada", "one more").context(&first).await.expect_err("there is no room");
    assert!(matches!(error, KvError::TooManySiblings { .. }), "{error}");
    notes(b).put("ada", "last").await.expect("it replaces what a quorum knows");
    assert_eq!(held(c).await.0, ["last"]);

    // The bucket without a name has the same limit.
    let put = |value: usize| a.put("ada", format!("{value}")).context(&first);
    for at in 0..MAX_SIBLINGS {
        put(at).await.expect("there is room");
    }
    assert!(matches!(put(MAX_SIBLINGS).await, Err(KvError::TooManySiblings { .. })));
    assert_eq!(b.get("ada").await.expect("reads").values().len(), MAX_SIBLINGS);
}

#[tokio::test]
async fn a_bucket_is_opened_as_it_was_declared() {
    let nodes = three().await;
    let (_, kv) = &nodes[0];
    let error = kv.bucket::<Counter>("visit").expect_err("it is called otherwise");
    let KvError::UnknownBucket { name, declared } = &error else { panic!("{error}") };
    assert_eq!((&name[..], declared.len()), ("visit", 9));
    assert!(error.to_string().contains("\"visits\""), "{error}");
    let error = kv.bucket::<Set>("visits").expect_err("it has counters");
    let (counter, set) = (Some(Kind::Counter), Some(Kind::Set));
    assert!(matches!(&error, KvError::BucketKind { declared, asked, .. } if (*declared, *asked) == (counter, set)));
    assert!(error.to_string().contains("declared as counter, and was asked for as set"), "{error}");
    for error in [kv.bucket::<Any>("visits").err(), kv.bucket::<Counter>("mixed").err()] {
        assert!(matches!(error, Some(KvError::BucketKind { .. })), "{error:?}");
    }
    assert!(kv.bucket::<Causal>("").is_err(), "the one without a name is the store itself");
}

#[tokio::test]
async fn limits_and_levels_of_a_bucket_hold_unless_a_call_says_otherwise() {
    let nodes = three().await;
    let [(_, kv), (b, _), (c, _)] = &nodes[..] else { unreachable!() };
    let short = open::<LastWriterWins>(kv, "short");
    short.put("abc", "12345").await.expect("within the limits");
    let error = short.put("abcd", "1").await.expect_err("the key is too long");
    assert!(matches!(error, KvError::KeySize { bytes: 4, limit: 3 }), "{error}");
    assert!(matches!(short.get("abcd").await, Err(KvError::KeySize { bytes: 4, limit: 3 })));
    let error = short.put("abc", "123456").await.expect_err("the value is too large");
    assert!(matches!(error, KvError::ValueTooLarge { bytes: 6, limit: 5 }), "{error}");
    assert_eq!(short.get("abc").await.expect("reads"), Some(Bytes::from("12345")));

    // Alone, this node serves what asks for one replica and nothing that asks for more.
    let (careless, careful) = (open::<Counter>(kv, "careless"), open::<Counter>(kv, "visits"));
    b.stop().await;
    c.stop().await;
    careless.add("home", 1).await.expect("one is enough");
    assert_eq!(careless.get("home").await.expect("one is enough"), 1);
    let within = Duration::from_millis(100);
    assert!(careless.add("home", 1).consistency(Consistency::All).timeout(within).await.is_err());
    assert!(careless.get("home").consistency(Consistency::All).timeout(within).await.is_err());
    assert!(careful.add("home", 1).timeout(within).await.is_err());
    assert!(careful.get("home").timeout(within).await.is_err());
    assert_eq!(careful.get("home").consistency(Consistency::One).await.expect("one is enough"), 0);
}

#[tokio::test]
async fn keys_of_any_kind_are_what_their_first_write_made_them() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    let (here, there) = (open::<Any>(a, "mixed"), open::<Any>(b, "mixed"));
    assert_eq!(here.kind("key").await.expect("reads"), None);
    assert_eq!(here.get("key").await.expect("reads"), None);
    assert!(!here.delete("key").await.expect("there is nothing"));
    assert!(!here.expire("key", Some(SHORT)).await.expect("there is nothing"));

    here.counters().add("counter", 7).await.expect("adds");
    here.sets().update("set", |set| set.add("x")).await.expect("adds");
    here.maps().update("map", |map| map.set("city", "Paris")).await.expect("sets");
    here.last_writer_wins().put("latest", "one").await.expect("writes");
    here.causal().put("causal", "one").await.expect("writes");
    let expected = [
        ("counter", Value::Counter(7)),
        ("set", Value::Set([Bytes::from("x")].into())),
        ("map", Value::Map([(Bytes::from("city"), Bytes::from("Paris"))].into())),
        ("latest", Value::LastWriterWins(Bytes::from("one"))),
    ];
    for (key, value) in expected {
        assert_eq!(there.kind(key).await.expect("reads"), Some(value.kind()));
        assert_eq!(there.get(key).await.expect("reads"), Some(value));
    }
    let Some(Value::Causal(entry)) = there.get("causal").await.expect("reads") else { panic!("it is causal") };
    assert_eq!(entry.value(), Some(&Bytes::from("one")));
    let error = there.counters().add("set", 1).await.expect_err("it is a set");
    assert!(matches!(error, KvError::WrongKind { found: Kind::Set, wanted: Kind::Counter }), "{error}");

    let mut scan = there.scan("");
    let mut found = Vec::new();
    while let Some((key, value)) = scan.next().await.expect("reads") {
        found.push((String::from_utf8(key.to_vec()).expect("text"), value.kind()));
    }
    found.sort();
    let kinds = [Kind::Causal, Kind::Counter, Kind::LastWriterWins, Kind::Map, Kind::Set];
    assert_eq!(
        found,
        ["causal", "counter", "latest", "map", "set"].map(str::to_owned).into_iter().zip(kinds).collect::<Vec<_>>()
    );

    let hour = Duration::from_secs(3600);
    for key in ["counter", "set", "map", "latest", "causal"] {
        assert!(there.exists(key).await.expect("reads"));
        assert!(there.expire(key, Some(hour)).await.expect("expires"), "{key}");
        assert!(here.expires(key).await.expect("reads").is_some(), "{key}");
        assert!(there.expire(key, None).await.expect("expires no more"), "{key}");
        assert_eq!(here.expires(key).await.expect("reads"), None, "{key}");
        assert!(there.delete(key).await.expect("deletes"), "{key}");
        assert!(!here.exists(key).await.expect("reads") && !here.delete(key).await.expect("there is nothing"), "{key}");
        here.counters().add(key, 1).await.expect("the key is free");
    }
}

#[tokio::test]
async fn many_keys_are_answered_in_their_order_each_for_itself() {
    let nodes = three().await;
    let [(_, a), (_, b), _] = &nodes[..] else { unreachable!() };
    let (settings, there) = (open::<LastWriterWins>(a, "settings"), open::<LastWriterWins>(b, "settings"));
    let key = |at: u32| format!("key-{at}");
    let written = settings.put_many((0..500).map(|at| (key(at), format!("value-{at}")))).await;
    assert_eq!(written.iter().filter(|answer| answer.is_ok()).count(), 500);
    let found = there.get_many((0..501).rev().map(key)).await;
    assert_eq!(found.len(), 501);
    assert_eq!(found[0].as_ref().expect("reads"), &None);
    for (at, found) in (0..500).rev().zip(&found[1..]) {
        assert_eq!(found.as_ref().expect("reads"), &Some(Bytes::from(format!("value-{at}"))));
    }
    let deleted = there.delete_many([key(3), key(1000), key(4)]).await;
    assert_eq!(deleted.into_iter().map(|answer| answer.expect("deletes")).collect::<Vec<_>>(), [true, false, true]);
    let found = settings.get_many([key(3), key(5)]).await;
    let found: Vec<_> = found.into_iter().map(|answer| answer.expect("reads").is_some()).collect();
    assert_eq!(found, [false, true]);

    // One that fails takes no other with it.
    let short = open::<LastWriterWins>(a, "short");
    let answers = short.put_many([("a", "12345"), ("abcd", "1"), ("b", "123456"), ("c", "1")]).await;
    assert!(matches!(
        &answers[..],
        [Ok(()), Err(KvError::KeySize { bytes: 4, .. }), Err(KvError::ValueTooLarge { bytes: 6, .. }), Ok(())]
    ));
    let answers = open::<Any>(a, "mixed").counters().add_many([("one", 1), ("two", 2)]).await;
    assert_eq!(answers.into_iter().map(|answer| answer.expect("adds")).collect::<Vec<_>>(), [1, 2]);
    open::<Any>(a, "mixed").sets().update("set", |set| set.add("x")).await.expect("adds");
    let answers = open::<Any>(b, "mixed").counters().get_many(["one", "set", "two"]).await;
    assert!(matches!(&answers[..], [Ok(1), Err(KvError::WrongKind { found: Kind::Set, .. }), Ok(2)]), "{answers:?}");
    assert!(settings.get_many::<&str>([]).await.is_empty());

    // The causal bucket without a name.
    let contexts = a.put_many([("x", "1"), ("y", "2")]).await;
    let context = contexts.into_iter().next().expect("two answers").expect("writes");
    b.put("x", "3").context(&context).await.expect("writes");
    let values = |entries: Vec<Result<polity_kv::Entry, KvError>>| -> Vec<Option<Bytes>> {
        entries.into_iter().map(|entry| entry.expect("reads").value().cloned()).collect()
    };
    assert_eq!(values(a.get_many(["y", "x"]).await), [Some(Bytes::from("2")), Some(Bytes::from("3"))]);
    assert!(a.delete_many(["x", "y"]).await.iter().all(Result::is_ok));
    assert_eq!(values(b.get_many(["y", "x"]).await), [None, None]);
}

#[tokio::test]
async fn keys_are_counted_by_bucket_and_the_count_follows_writes_deletes_and_expiry() {
    let nodes = three().await;
    let [(_, a), (_, b), (c, _)] = &nodes[..] else { unreachable!() };
    let len = async |kv: &Kv, name: &str| open::<LastWriterWins>(kv, name).len().await.expect("counts");
    assert_eq!((len(a, "settings").await, a.len().await.expect("counts")), (0, 0));
    let settings = open::<LastWriterWins>(a, "settings");
    let all = |answers: Vec<Result<(), KvError>>| assert!(answers.iter().all(Result::is_ok));
    let key = |at: u32| format!("key-{at}");
    all(settings.put_many((0..100).map(|at| (key(at), "1"))).consistency(Consistency::All).await);
    all(settings.put_many((50..60).map(|at| (key(at), "2"))).consistency(Consistency::All).await);
    a.put("key-1", "1").consistency(Consistency::All).await.expect("writes");
    assert_eq!((len(a, "settings").await, len(b, "settings").await, len(b, "short").await), (100, 100, 0));
    assert_eq!(b.len().await.expect("counts"), 1);
    let deleted = settings.delete_many((0..30).map(key)).consistency(Consistency::All).await;
    assert!(deleted.iter().all(|answer| matches!(answer, Ok(true))));
    assert_eq!(len(b, "settings").await, 70);
    settings.put(key(3), "again").consistency(Consistency::All).await.expect("writes");
    assert_eq!(len(b, "settings").await, 71);

    all(open::<LastWriterWins>(a, "sessions").put_many([("x", "1"), ("y", "1")]).await);
    while len(b, "sessions").await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Another replica counts for the one that is away.
    c.stop().await;
    assert_eq!((len(a, "settings").await, len(b, "settings").await), (71, 71));
}
