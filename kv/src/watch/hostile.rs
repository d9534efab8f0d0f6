//! What peers send about watches, and should not: damaged, made up, or too much of it.

use polity_cluster::rpc::{Lane, Method, Peer, RpcError};
use polity_cluster::{Node, Preset};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::ser::SerializeTuple as _;
use serde::{Serialize, Serializer};

use super::*;
use crate::config::KvConfig;
use crate::record::{Kind, Update, Writing};
use crate::wire::{MAX_WATCHES_A_MESSAGE, Watch as Registration};

/// How many damaged messages of each kind are sent.
const DAMAGED: usize = 2_000;
const WITHIN: Duration = Duration::from_secs(10);

/// A body, as it is.
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}

const RAW_WATCH: Method<Raw, Vec<Option<bool>>> = Method::new(43, "raw watch", Lane::Control);
const RAW_NEWS: Method<Raw, bool> = Method::new(44, "raw news", Lane::Bulk);

/// A member that sends what it likes to a node that watches.
struct Duel {
    attacker: (Node, Kv),
    victim: (Node, Kv),
    watch: Watch<crate::kv::Entry>,
}

async fn start(name: &str, seed: Option<&Node>) -> (Node, Kv) {
    let builder = Node::builder(name).cluster("duel").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    let builder = builder.seeds(seed.map(Node::addr));
    let (node, kv) = builder.start_with(|node| Kv::start(node, KvConfig::default())).await.expect("starts");
    (node, kv.expect("valid"))
}

impl Duel {
    async fn new() -> Self {
        let (node, kv) = start("victim", None).await;
        let attacker = start("attacker", Some(&node)).await;
        kv.settled().await;
        let mut watch = kv.watch_prefix("mode").expect("room");
        assert!(matches!(watch.next().await, Ok(WatchEvent::Current)));
        Self { attacker, victim: (node, kv), watch }
    }

    fn peer(&self) -> Peer {
        Peer { node: self.victim.0.id().clone(), addr: self.victim.0.addr() }
    }

    async fn register(&self, watches: Vec<(u64, Blob, bool)>, over: Vec<u64>) -> Result<Vec<Option<bool>>, RpcError> {
        let asked = Registration { watches, over, lease_ms: u32::MAX };
        self.attacker.0.rpc().call(&self.peer(), &WATCH, &asked, WITHIN).await
    }

    async fn tell(&self, key: &str, record: Vec<u8>) -> Result<bool, RpcError> {
        let records = vec![(place::key_of("", key.as_bytes()), record.into())];
        let news = News { watch: self.watch.id, records, missed: false };
        self.attacker.0.rpc().call(&self.peer(), &NEWS, &news, WITHIN).await
    }

    fn held(&self) -> usize {
        self.victim.1.coordinator().store.watched().registry().len()
    }

    /// The victim's own watch goes on.
    async fn goes_on(mut self) {
        self.victim.1.put("mode-after", "1").await.expect("writes");
        loop {
            if let WatchEvent::Key { key, .. } = self.watch.next().await.expect("it goes on")
                && key == "mode-after"
            {
                return;
            }
        }
    }
}

fn record(value: &str) -> Vec<u8> {
    let mut record = Record::default();
    let update = Update::put(Kind::Causal, Some(Blob::from(value.as_bytes().to_vec())));
    let writing = Writing {
        replica: polity_crdt::ReplicaId(1),
        above: 0,
        context: None,
        at: polity_crdt::Timestamp::default(),
        window: 0,
    };
    record.apply(&update, &writing).expect("nothing else is there");
    record::encode(&record)
}

/// Cut off, with bytes changed, left out or put in, or made up altogether.
fn damaged(rng: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    if rng.random_bool(0.2) {
        return (0..rng.random_range(0..64)).map(|_| rng.random()).collect();
    }
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), rng.random()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            // A length or a number that is far too great.
            3 if at < bytes.len() => drop(bytes.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f])),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => {}
        }
    }
    bytes
}

#[tokio::test]
async fn damaged_messages_do_a_node_no_harm() {
    let duel = Duel::new().await;
    let mut rng = StdRng::seed_from_u64(1);
    let watches = (0..4).map(|id| (id, place::key_of("", b"other"), id % 2 == 0)).collect();
    let watch = postcard::to_allocvec(&Registration { watches, over: vec![9, 10], lease_ms: 60_000 }).expect("encodes");
    let records = ["1", "2"].map(|text| (place::key_of("", format!("mode-{text}").as_bytes()), record(text).into()));
    let news = News { watch: duel.watch.id, records: records.into(), missed: true };
    let news = postcard::to_allocvec(&news).expect("encodes");
    let (peer, rpc) = (duel.peer(), duel.attacker.0.rpc());
    assert!(rpc.call(&peer, &RAW_NEWS, &Raw(news.clone()), WITHIN).await.expect("it is whole"));
    let mut refused = 0;
    for _ in 0..DAMAGED {
        let body = Raw(damaged(&mut rng, &watch));
        refused += u32::from(rpc.call(&peer, &RAW_WATCH, &body, WITHIN).await.is_err());
        let body = Raw(damaged(&mut rng, &news));
        refused += u32::from(rpc.call(&peer, &RAW_NEWS, &body, WITHIN).await.is_err());
    }
    assert!(refused > 1_000, "{refused}");
    assert!(duel.held() <= MAX_WATCHES_A_NODE + 1);
    duel.goes_on().await;
}

#[tokio::test]
async fn too_much_is_refused_and_nothing_of_it_is_taken() {
    let duel = Duel::new().await;
    let before = duel.held();
    let refused = |answer: Result<Vec<Option<bool>>, RpcError>, why: &str| {
        let error = answer.expect_err("too much").to_string();
        assert!(error.contains(why), "{error}");
    };
    let watch = |id: usize, place: Blob| (id as u64, place, true);
    let place = || place::key_of("", b"other");
    let many = |count: usize| (0..count).map(|id| watch(id, place())).collect::<Vec<_>>();
    refused(duel.register(many(MAX_WATCHES_A_MESSAGE + 1), Vec::new()).await, "at most 256 watches a message");
    refused(duel.register(Vec::new(), vec![1; MAX_WATCHES_A_NODE + 1]).await, "1024 that are over");
    refused(duel.register(vec![watch(1, Blob::default())], Vec::new()).await, "a key has 1 to");
    refused(duel.register(vec![watch(1, vec![0; 5000].into())], Vec::new()).await, "a key has 1 to");
    assert_eq!(duel.held(), before);

    let largest = 2 * duel.victim.1.config().max_record_bytes();
    for (key, bytes, why) in [
        ("other", record("1"), "no concern"),
        ("mode", vec![9; 20], "not a record"),
        ("mode", vec![], "not a record"),
        (&"mode".repeat(2000), record("1"), "a key has 1 to"),
    ] {
        let error = duel.tell(key, bytes).await.expect_err("nonsense").to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(duel.tell("mode", vec![0; largest + 1]).await.is_err());
    let unknown = News { watch: u64::MAX, records: Vec::new(), missed: true };
    let answer = duel.attacker.0.rpc().call(&duel.peer(), &NEWS, &unknown, WITHIN).await;
    assert!(!answer.expect("an answer"), "nobody watches");
    duel.goes_on().await;
}

#[tokio::test]
async fn a_peer_has_room_for_its_own_watches_only() {
    let duel = Duel::new().await;
    let before = duel.held();
    let mut answers = Vec::new();
    for first in (0..2 * MAX_WATCHES_A_NODE).step_by(MAX_WATCHES_A_MESSAGE) {
        let ids = (first..first + MAX_WATCHES_A_MESSAGE).map(|id| (id as u64, place::key_of("", b"mode-after"), false));
        answers.extend(duel.register(ids.collect(), Vec::new()).await.expect("an answer"));
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_some()).count(), MAX_WATCHES_A_NODE);
    assert_eq!(duel.held(), before + MAX_WATCHES_A_NODE);
    // Nobody over there watches: they are told so, once each, and are over.
    duel.goes_on().await;
}
