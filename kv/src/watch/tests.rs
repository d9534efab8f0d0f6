//! Watches on real nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use polity_cluster::{Node, Preset};
use polity_shard::ShardCount;

use super::*;
use crate::bucket::{Bucket, BucketConfig, Counter, LastWriterWins};
use crate::config::{Consistency, KvConfig};

/// Renewals, and what is compared from time to time, come at once, or never while a test runs.
const OFTEN: Duration = Duration::from_millis(100);
const NEVER: Duration = Duration::from_secs(600);

struct Cluster {
    nodes: Vec<(Node, Kv)>,
    patrol: Duration,
}

impl Cluster {
    async fn of(nodes: usize, patrol: Duration) -> Self {
        let mut cluster = Self { nodes: Vec::new(), patrol };
        for _ in 0..nodes {
            cluster.grow().await;
        }
        cluster.settle().await;
        cluster
    }

    async fn grow(&mut self) {
        let name = format!("n{}", self.nodes.len());
        let builder = Node::builder(name).cluster("watches").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
        let builder = builder.seeds(self.nodes.iter().map(|(node, _)| node.addr()));
        let mut config = KvConfig::default()
            .bucket("visits", BucketConfig::counter())
            .bucket("settings", BucketConfig::last_writer_wins())
            .bucket("sessions", BucketConfig::last_writer_wins().ttl(Duration::from_millis(300)));
        config.shards = ShardCount::new(16).expect("a power of two");
        config.patrol_interval = self.patrol;
        let (node, kv) = builder.start_with(|node| Kv::start(node, config.clone())).await.expect("starts");
        self.nodes.push((node, kv.expect("valid")));
    }

    async fn settle(&self) {
        for (_, kv) in &self.nodes {
            kv.settled().await;
        }
    }

    fn kv(&self, at: usize) -> &Kv {
        &self.nodes[at].1
    }

    fn settings(&self, at: usize) -> Bucket<LastWriterWins> {
        self.kv(at).bucket("settings").expect("it is declared")
    }

    fn watched(&self, at: usize) -> &Watched {
        self.kv(at).coordinator().store.watched()
    }

    /// All replicas forget who watches.
    fn forget(&self) {
        for at in 0..self.nodes.len() {
            *self.watched(at).registry() = Registry::default();
        }
    }
}

/// What a watch has given up to its mark.
async fn first<T>(watch: &mut Watch<T>) -> BTreeMap<String, Option<T>> {
    let mut seen = BTreeMap::new();
    loop {
        match watch.next().await.expect("it goes on") {
            WatchEvent::Key { key, value } => {
                seen.insert(String::from_utf8(key.to_vec()).expect("text"), value);
            }
            WatchEvent::Current => return seen,
        }
    }
}

/// Waits until a watch has given this of a key.
async fn until<T: PartialEq + fmt::Debug>(watch: &mut Watch<T>, key: &str, value: Option<T>) {
    loop {
        let event = watch.next().await.expect("it goes on");
        if matches!(&event, WatchEvent::Key { key: of, value: is } if of == key && *is == value) {
            return;
        }
    }
}

fn bytes(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn a_watch_gives_what_is_there_and_then_what_any_node_writes() {
    let cluster = Cluster::of(5, NEVER).await;
    let settings = cluster.settings(0);
    settings.put("mode-a", "1").await.expect("writes");
    settings.put("mode-b", "1").await.expect("writes");
    settings.put("other", "1").await.expect("writes");
    settings.put("mode-gone", "1").await.expect("writes");
    settings.delete("mode-gone").await.expect("deletes");
    for at in 0..5 {
        let here = cluster.settings(at);
        let (mut one, mut many) = (here.watch("mode-a").expect("room"), here.watch_prefix("mode-").expect("room"));
        let mut all = here.watch_prefix("").expect("room");
        let known = first(&mut one).await;
        assert_eq!(known.into_keys().collect::<Vec<_>>(), ["mode-a"]);
        let known = first(&mut many).await;
        assert!(known.contains_key("mode-a") && known.contains_key("mode-b") && !known.contains_key("other"));
        assert!(known.values().all(Option::is_some), "what is gone was never seen");
        assert!(first(&mut all).await.contains_key("other"));
        for by in 0..5 {
            let value = format!("{at}-{by}");
            cluster.settings(by).put("mode-a", value.clone()).await.expect("writes");
            until(&mut one, "mode-a", bytes(&value)).await;
            until(&mut many, "mode-a", bytes(&value)).await;
            until(&mut all, "mode-a", bytes(&value)).await;
        }
        cluster.settings(4 - at).put("mode-new", format!("{at}")).await.expect("writes");
        until(&mut many, "mode-new", bytes(&format!("{at}"))).await;
        cluster.settings(4 - at).delete("mode-new").await.expect("deletes");
        until(&mut many, "mode-new", None).await;
    }
}

#[tokio::test]
async fn a_watch_of_another_kind_sees_its_own() {
    let cluster = Cluster::of(3, NEVER).await;
    let visits: Bucket<Counter> = cluster.kv(0).bucket("visits").expect("it is declared");
    let mut watch = visits.watch_prefix("").expect("room");
    let mut causal = cluster.kv(1).watch("note").expect("room");
    assert!(first(&mut watch).await.is_empty() && first(&mut causal).await.is_empty());
    for total in 1..=3 {
        visits.add("home", 1).await.expect("adds");
        until(&mut watch, "home", Some(total)).await;
    }
    cluster.kv(2).put("note", "text").await.expect("writes");
    let event = causal.next().await.expect("it goes on");
    let WatchEvent::Key { value: Some(entry), .. } = event else { panic!("{event:?}") };
    assert_eq!(entry.value(), bytes("text").as_ref());
    let sessions: Bucket<LastWriterWins> = cluster.kv(1).bucket("sessions").expect("it is declared");
    let mut watch = sessions.watch("token").expect("room");
    sessions.put("token", "ada").ttl(Duration::from_secs(3600)).await.expect("writes");
    until(&mut watch, "token", bytes("ada")).await;
    // No replica has looked for what has expired when the watch says so.
    let soon = || sessions.expire("token", Some(Duration::from_millis(20))).into_future();
    let mut done = soon().await;
    while matches!(done, Err(KvError::Expired)) {
        done = soon().await;
    }
    assert!(done.expect("expires"));
    // And then its time is over.
    until(&mut watch, "token", None).await;
}

#[tokio::test]
async fn a_replica_that_forgot_a_watch_is_found_out_when_the_lease_is_renewed() {
    let cluster = Cluster::of(3, OFTEN).await;
    let mut watch = cluster.settings(0).watch_prefix("mode").expect("room");
    first(&mut watch).await;
    for round in 0..3 {
        cluster.forget();
        let value = format!("{round}");
        cluster.settings(1).put("mode", value.clone()).consistency(Consistency::All).await.expect("writes");
        until(&mut watch, "mode", bytes(&value)).await;
    }
}

#[tokio::test]
async fn what_a_replica_could_not_tell_is_looked_for() {
    let cluster = Cluster::of(3, NEVER).await;
    let mut watch = cluster.settings(0).watch_prefix("mode").expect("room");
    first(&mut watch).await;
    cluster.forget();
    cluster.settings(1).put("mode", "unheard").consistency(Consistency::All).await.expect("writes");
    let (node, _) = &cluster.nodes[0];
    let peer = polity_cluster::rpc::Peer { node: node.id().clone(), addr: node.addr() };
    let news = News { watch: watch.id, records: Vec::new(), missed: true };
    for (node, _) in &cluster.nodes {
        assert!(node.rpc().call(&peer, &NEWS, &news, Duration::from_secs(5)).await.expect("it is told"));
    }
    until(&mut watch, "mode", bytes("unheard")).await;
}

#[tokio::test]
async fn a_watch_follows_its_keys_to_nodes_that_join() {
    let mut cluster = Cluster::of(3, NEVER).await;
    let settings = cluster.settings(0);
    let mut many = settings.watch_prefix("key-").expect("room");
    let mut one = settings.watch("key-7").expect("room");
    first(&mut many).await;
    first(&mut one).await;
    cluster.grow().await;
    cluster.grow().await;
    cluster.settle().await;
    for by in [3, 4] {
        let written = cluster.settings(by).put_many((0..40).map(|at| (format!("key-{at}"), format!("{by}")))).await;
        assert!(written.iter().all(Result::is_ok));
        let mut seen = BTreeMap::new();
        while seen.len() < 40 || seen.values().any(|value| *value != bytes(&format!("{by}"))) {
            if let WatchEvent::Key { key, value } = many.next().await.expect("it goes on") {
                seen.insert(key, value);
            }
        }
        until(&mut one, "key-7", bytes(&format!("{by}"))).await;
    }
    // Two of five may go, one after the other.
    for gone in [1, 2] {
        cluster.nodes[gone].0.leave(Duration::from_secs(5)).await.expect("leaves");
        cluster.kv(3).settled().await;
        cluster.settings(3).put("key-7", format!("after {gone}")).await.expect("writes");
        until(&mut one, "key-7", bytes(&format!("after {gone}"))).await;
        until(&mut many, "key-7", bytes(&format!("after {gone}"))).await;
    }
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_over_everywhere() {
    let cluster = Cluster::of(3, NEVER).await;
    let settings = cluster.settings(0);
    let mut watch = settings.watch("mode").expect("room");
    first(&mut watch).await;
    assert!((0..3).all(|at| cluster.watched(at).registry().len() == 1));
    drop(watch);
    while (0..3).any(|at| cluster.watched(at).registry().len() > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Also one that its replicas were not told of.
    let mut watch = settings.watch("mode").expect("room");
    first(&mut watch).await;
    let id = watch.id;
    cluster.kv(0).watches().table().watchers.remove(&id);
    settings.put("mode", "1").consistency(Consistency::All).await.expect("writes");
    while (0..3).any(|at| cluster.watched(at).registry().len() > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_node_has_so_many_watches_and_none_once_it_has_stopped() {
    let cluster = Cluster::of(1, NEVER).await;
    let settings = cluster.settings(0);
    let mut watches: Vec<_> = (0..MAX_WATCHES_A_NODE).map(|_| settings.watch("mode").expect("room")).collect();
    assert!(matches!(settings.watch("mode"), Err(KvError::TooManyWatches { limit: MAX_WATCHES_A_NODE })));
    watches.pop();
    let mut watch = settings.watch("mode").expect("room");
    assert!(matches!(settings.watch(""), Err(KvError::KeySize { bytes: 0, .. })));
    settings.put("mode", "1").await.expect("writes");
    until(&mut watch, "mode", bytes("1")).await;
    cluster.nodes[0].0.stop().await;
    while watch.next().await.is_ok() {}
    assert!(matches!(watch.next().await, Err(KvError::Stopped)));
    assert!(matches!(watches[0].next().await, Err(KvError::Stopped) | Ok(_)));
}
