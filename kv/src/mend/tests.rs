//! Reads and writes mend what they find, on real nodes that compare nothing by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use polity_cluster::{BoxFuture, Node, Preset};
use polity_shard::ShardCount;
use polity_shard::handoff::BudgetConfig;

use super::*;
use crate::config::{Consistency, KvConfig};
use crate::engine::{Change, Commit, Engine, EngineError, MemoryEngine, Visit};
use crate::error::Outcome;
use crate::kv::Kv;
use crate::place;
use crate::record::{Kind, Record, Update};
use crate::store::{Known, Write};

/// Longer than a test runs.
const NEVER: Duration = Duration::from_secs(600);

/// In memory, and writes nothing while it is broken.
#[derive(Debug)]
struct Breakable {
    records: MemoryEngine,
    is_broken: AtomicBool,
}

impl Engine for Breakable {
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.records.load(shard, key)
    }

    fn write(&self, shard: ShardId, changes: &[Change<'_>]) -> Result<Commit, EngineError> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(EngineError::Other { action: "write", cause: "it is broken".to_owned() });
        }
        self.records.write(shard, changes)
    }

    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        self.records.scan(shard, after, visit)
    }

    fn clear(&self, shard: ShardId) -> Result<Commit, EngineError> {
        self.records.clear(shard)
    }

    fn durable(&self, upto: Commit) -> BoxFuture<'_, Result<(), EngineError>> {
        self.records.durable(upto)
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        self.records.meta(name)
    }

    fn put_meta(&self, name: &str, value: &[u8]) -> Result<Commit, EngineError> {
        self.records.put_meta(name, value)
    }

    fn is_durable(&self) -> bool {
        false
    }
}

struct One {
    _node: Node,
    kv: Kv,
    engine: Arc<Breakable>,
}

impl One {
    fn set_broken(&self, is_broken: bool) {
        self.engine.is_broken.store(is_broken, Ordering::Relaxed);
    }

    fn has(&self, key: &str) -> bool {
        self.kv.local(key).expect("reads").is_some_and(|entry| !entry.is_empty())
    }

    /// Puts a value here and tells nobody.
    fn write_alone(&self, key: &str, value: Vec<u8>) -> Blob {
        let (store, place) = (&self.kv.coordinator().store, place::key_of("", key.as_bytes()));
        let (shard, update) = (store.shard_of(&place.0), Update::put(Kind::Causal, Some(value.into())));
        let write = Write {
            update: &update,
            context: None,
            known: Some(Known { record: Record::default(), asked: Duration::ZERO }),
            wall: Duration::ZERO,
        };
        store.write(shard, &place.0, write, store.placed(shard).id()).expect("writes");
        place
    }
}

async fn three() -> [One; 3] {
    three_with(KvConfig::default()).await
}

async fn three_with(config: KvConfig) -> [One; 3] {
    let mut nodes: Vec<One> = Vec::new();
    for name in ["n0", "n1", "n2"] {
        let builder = Node::builder(name).cluster("mends").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
        let builder = builder.seeds(nodes.iter().map(|one| one._node.addr()));
        let shards = ShardCount::new(16).expect("a power of two");
        let config = KvConfig { shards, patrol_interval: NEVER, ..config.clone() };
        let records = MemoryEngine::new(config.shards);
        let engine = Arc::new(Breakable { records, is_broken: AtomicBool::new(false) });
        let (node, kv) =
            builder.start_with(|node| Kv::start_on(node, config.clone(), engine.clone())).await.expect("starts");
        nodes.push(One { _node: node, kv: kv.expect("valid"), engine });
    }
    for one in &nodes {
        one.kv.settled().await;
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("there are three"))
}

/// Waits for what nobody tells.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waits).await.is_ok(), "{what}");
}

#[tokio::test]
async fn a_read_repairs_the_replicas_that_had_less() {
    let [a, b, c] = three().await;
    a.write_alone("key", vec![0]);
    assert!(!b.has("key") && !c.has("key"));
    let entry = b.kv.get("key").consistency(Consistency::All).await.expect("reads");
    assert_eq!(entry.values().len(), 1);
    assert!(b.has("key"), "its own is repaired at once");
    until("the other that had less is repaired", || c.has("key")).await;
    assert_eq!((b.kv.stats().read_repairs, b.kv.stats().hints), (2, 0));
    b.kv.get("key").consistency(Consistency::All).await.expect("reads");
    assert_eq!(b.kv.stats().read_repairs, 2, "all are equal");
}

#[tokio::test]
async fn who_has_missed_a_write_gets_it_when_it_answers_again() {
    let [a, b, c] = three().await;
    c.set_broken(true);
    a.kv.put("key", "value").await.expect("two of three have it");
    until("it is remembered that the third has missed it", || a.kv.stats().hints == 1).await;
    // It answers, but takes nothing yet: the mark stays.
    a.kv.get("other").consistency(Consistency::All).await.expect("reads");
    until("it is remembered still", || a.kv.stats().hints == 1).await;
    assert!(!c.has("key"));
    c.set_broken(false);
    // An answer that came while the third still refused has counted; any later one will do.
    while !c.has("key") {
        a.kv.get("other").consistency(Consistency::All).await.expect("reads");
    }
    until("nothing is left", || a.kv.stats().hints == 0 && a.kv.stats().hints_delivered == 1).await;
    assert!(b.has("key"));
    assert_eq!(a.kv.stats().read_repairs, 0);
}

#[tokio::test]
async fn who_has_missed_too_much_is_compared() {
    let [a, _b, c] = three().await;
    let key = "theirs";
    let place = c.write_alone(key, vec![0]);
    let shard = a.kv.coordinator().store.shard_of(&place.0);
    a.kv.coordinator().mending.hints().note_whole(c.kv.coordinator().store.own(), shard);
    assert_eq!(a.kv.stats().hinted_shards, 1);
    a.kv.get("other").consistency(Consistency::All).await.expect("reads");
    until("what differs in the shard is exchanged", || a.has(key)).await;
    until("nothing is left", || a.kv.stats().hinted_shards == 0).await;
}

#[tokio::test]
async fn what_was_missed_is_given_within_the_budget() {
    let repair = BudgetConfig { bytes_per_second: 1, share_percent: 50, least: 1, burst: 1 };
    let [a, _b, c] = three_with(KvConfig { repair, ..KvConfig::default() }).await;
    let (here, third) = (a.kv.coordinator(), c.kv.coordinator().store.own());
    // Each is a page of its own, and one is more than is sent in a day.
    for key in ["1", "2", "3", "4"] {
        let place = a.write_alone(key, vec![0; 200 << 10]);
        here.mending.missed(third, here.store.shard_of(&place.0), &place);
    }
    a.kv.get("other").consistency(Consistency::All).await.expect("reads");
    until("the second page waits", || a.kv.stats().repairs_waiting == 1).await;
    let stats = a.kv.stats();
    assert_eq!((stats.hints_delivered, stats.repair_bytes / (200 << 10)), (1, 1), "{stats:?}");
}

#[tokio::test]
async fn a_mark_is_no_acknowledgement() {
    let [a, b, c] = three().await;
    b.set_broken(true);
    c.set_broken(true);
    let error = a.kv.put("key", "value").await.expect_err("one of three has it");
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert_eq!(a.kv.stats().hints, 2, "both are remembered, and count for nothing");
    a.kv.put("key", "value").consistency(Consistency::One).await.expect("one is enough here");
}

/// Calls that end by themselves are not needed for this: whether one may be sent is decided before it is.
#[tokio::test]
async fn so_many_repairs_are_on_their_way_and_one_of_a_key() {
    let [a, _b, _c] = three().await;
    let (mending, _task) = Mending::new(Arc::new(Notify::new()));
    let peer = polity_cluster::rpc::Peer { node: a._node.id().clone(), addr: a._node.addr() };
    let read = |key: &Blob| crate::wire::Read {
        shard: 0,
        named: a.kv.coordinator().store.placed(ShardId(0)).id(),
        key: key.clone(),
    };
    let mut sent = 0;
    for at in (0..MAX_REPAIRS + 10).chain([0]) {
        let key = Blob::from(at.to_le_bytes().to_vec());
        mending.repair(&peer.node, &key, 10, || {
            sent += 1;
            a._node.rpc().call(&peer, &crate::wire::MERGE, &read(&key), NEVER)
        });
    }
    let stats = mending.stats();
    assert_eq!((sent, stats.read_repairs, stats.read_repairs_skipped), (MAX_REPAIRS, MAX_REPAIRS as u64, 10));
}
