//! Owners of shards, and explanations, through the front door, on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use polity::cluster::BoxFuture;
use polity::cluster::discovery::from_fn;
use polity::kv::{LastWriterWins, ReplicaCount, Set};
use polity::shard::journal::{Conflict, Resolution, Snapshot};
use polity::shard::{EpochError, LocalAuthority, ShardCount};
use polity::{
    Bucket, BucketConfig, Epoch, EpochAuthority, KvConfig, Node, NodeId, Owner, Owners, Ownership, OwnershipEvent,
    Preset, ShardId, Wait,
};

const SHARDS: u32 = 32;
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn builder(name: &str) -> polity::Builder {
    let mut kv = KvConfig::default();
    kv.shards = ShardCount::new(SHARDS).expect("valid");
    let zone = if name == "n0" { "a" } else { "b" };
    Node::builder(name).cluster("owners-of-nodes").preset(Preset::Local).no_discovery().kv(kv).zone(zone)
}

fn owners(node: &Node) -> &Ownership {
    node.ownership().expect("it was asked for")
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it happens")
}

/// Nodes with owners that see each other and have caught up.
async fn nodes(count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for i in 0..count {
        let builder =
            builder(&format!("n{i}")).seeds(nodes.first().map(|node| node.addr())).ownership(Owners::default());
        nodes.push(within(builder.start()).await.expect("starts"));
    }
    all_settled(&nodes).await;
    nodes
}

async fn all_settled(nodes: &[Node]) {
    // What one waits for follows from the members that it sees.
    for node in nodes {
        let mut changes = node.members().subscribe();
        while node.members().snapshot().up().count() != nodes.len() {
            within(changes.next()).await;
        }
    }
    for node in nodes {
        within(node.ready()).await.expect("runs");
        within(owners(node).settled()).await;
    }
}

/// Who owns what, by what each says of itself.
fn owned(nodes: &[Node]) -> BTreeMap<ShardId, Vec<NodeId>> {
    let mut owned: BTreeMap<ShardId, Vec<NodeId>> = BTreeMap::new();
    for node in nodes {
        for shard in owners(node).owned().into_keys() {
            owned.entry(shard).or_default().push(node.id().clone());
        }
    }
    owned
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_ready_owns_what_it_should_own_and_who_leaves_hands_it_over_first() {
    let alone = nodes(1).await;
    assert_eq!(owners(&alone[0]).owned().len(), SHARDS as usize, "it was ready");
    alone[0].stop().await;

    let mut nodes = nodes(3).await;
    let all = owned(&nodes);
    assert_eq!(all.len(), SHARDS as usize);
    for (shard, owners) in &all {
        let preferred = nodes[0].kv().shard(*shard).expect("one of them").replicas[0].clone();
        assert_eq!(*owners, [preferred], "shard {shard}");
    }

    // What the one that leaves owned goes over, with no conflict, and the others are told.
    let leaver = nodes.pop().expect("three");
    let had: Vec<ShardId> = owners(&leaver).owned().into_keys().collect();
    assert!(!had.is_empty());
    let mut watch = owners(&leaver).watch();
    let Some(OwnershipEvent::Snapshot { owned: mut copy, .. }) = watch.next().await else { panic!("a snapshot first") };
    assert_eq!(copy, owners(&leaver).owned());
    within(leaver.leave(LONG)).await.expect("it was running");
    while let Some(event) = within(watch.next()).await {
        match event {
            OwnershipEvent::Lost { claim, .. } => assert_eq!(copy.remove(&claim.shard), Some(claim.epoch)),
            OwnershipEvent::Gained(claim) => panic!("it drains, and gains {claim}"),
            _ => {}
        }
    }
    assert!(copy.is_empty(), "all was handed over: {copy:?}");
    all_settled(&nodes).await;
    let rest = owned(&nodes);
    assert!(rest.values().all(|owners| owners.len() == 1) && rest.len() == SHARDS as usize);
    assert!(nodes.iter().all(|node| owners(node).journal(|journal| journal.is_empty())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_explains_a_key_alike() {
    let nodes = nodes(3).await;
    for key in ["user-42", "user-43", "user-44"] {
        let told: Vec<_> = nodes.iter().map(|node| node.explain(key)).collect();
        for (node, told_here) in nodes.iter().zip(&told) {
            assert_eq!(told_here.by, *node.id());
            assert_eq!((&told_here.replicas, &told_here.owner), (&told[0].replicas, &told[0].owner));
            assert_eq!(told_here.waits_for, [], "{told_here}");
            let Owner::Claimed { epoch, is_up: true, why: None } = &told_here.owner else { panic!("{told_here}") };
            assert_eq!(epoch.owner, told_here.replicas[0].node);
            assert_eq!(owners(node).admit(told_here.shard, epoch), Ok(()));
        }
        // Two zones and three replicas: the last of them finds none that is new.
        let last = &told[0].replicas[2];
        assert_eq!((last.rank_in_zone, last.zone.as_ref().map(|zone| zone.as_str())), (1, Some("b")));
        let text = told[0].to_string();
        println!("{text}");
        assert!(text.contains("; owns it") && text.contains("; this node"), "{text}");
        assert!(text.contains("all zones have one already") && text.ends_with("waits for nothing"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_owners_a_key_is_explained_too() {
    let node = builder("n0").start().await.expect("starts");
    assert!(node.ownership().is_none());
    within(node.ready()).await.expect("runs");
    let told = node.explain("user-42");
    assert_eq!((&told.owner, told.waits_for.len()), (&Owner::NotKept, 0));
    assert!(told.to_string().contains("which has no owner: the cluster keeps none"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_bucket_is_explained_by_what_its_bucket_is() {
    let started = async |keeps_owners: bool| {
        let mut kv = KvConfig::default()
            .bucket("carts", BucketConfig::set())
            .bucket("cache", BucketConfig::last_writer_wins().replicas(ReplicaCount::new(1).expect("valid")));
        kv.shards = ShardCount::new(SHARDS).expect("valid");
        let builder = builder("n0").kv(kv);
        let builder = if keeps_owners { builder.ownership(Owners::default()) } else { builder };
        let node = within(builder.start()).await.expect("starts");
        within(node.ready()).await.expect("runs");
        node
    };
    for keeps_owners in [true, false] {
        let node = started(keeps_owners).await;
        let carts: Bucket<Set> = node.kv().bucket("carts").expect("it is declared");
        let cache: Bucket<LastWriterWins> = node.kv().bucket("cache").expect("it is declared");

        let told = node.explain_in(&carts, "user-42");
        assert_eq!((told.shard, told.bucket.as_deref()), (carts.shard_of("user-42"), Some("carts")));
        assert_eq!((told.replicas.len(), &told.waits_for[..]), (1, &[][..]), "{told}");
        assert_eq!(matches!(told.owner, Owner::Claimed { is_up: true, why: None, .. }), keeps_owners, "{told}");
        assert_eq!(told.owner_epoch(), node.ownership().and_then(|owners| owners.owns(told.shard)).as_ref());
        let of_carts = told.to_string();
        assert!(of_carts.starts_with(&format!("\"user-42\" of \"carts\" is in shard {}, ", told.shard)), "{told}");

        // Shards of another number of replicas have no owners.
        let told = node.explain_in(&cache, "user-42");
        assert_eq!((told.shard, told.shard.0 >> 16), (cache.shard_of("user-42"), 1));
        assert_eq!(told.replicas[0].node, *node.id());
        assert_eq!((told.owner_epoch(), &told.waits_for[..]), (None, &[][..]), "{told}");
        let (owner, why) = match keeps_owners {
            true => (Owner::NotCovered, "which has no owner: the bucket has a number of replicas of its own"),
            false => (Owner::NotKept, "which has no owner: the cluster keeps none"),
        };
        assert_eq!(told.owner, owner);
        let first = format!("\"user-42\" of \"cache\" is in shard {}, {why} (as {} knows it)", told.shard, node.id());
        assert_eq!(told.to_string().lines().next(), Some(&first[..]));

        // Outside of them all is as if there were none.
        let told = node.explain("user-42");
        assert_eq!((told.shard, &told.bucket), (node.kv().shard_of("user-42"), &None));
        assert!(told.to_string().starts_with(&format!("\"user-42\" is in shard {}, ", told.shard)), "{told}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_no_owners_is_refused_by_those_that_have() {
    let with = builder("n0").ownership(Owners::default()).start().await.expect("starts");
    let without = builder("n1").seeds([with.addr()]);
    let refused = within(without.start()).await.expect_err("refused").to_string();
    assert!(refused.contains("shard.owners is yes there and nothing here"), "{refused}");
}

/// Gives out no epoch before it is opened.
#[derive(Debug)]
struct Gate(tokio::sync::Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(tokio::sync::Semaphore::new(0))
    }
}

impl EpochAuthority for Gate {
    fn grant<'a>(
        &'a self,
        shard: ShardId,
        after: Option<&'a Epoch>,
        owner: &'a NodeId,
    ) -> BoxFuture<'a, Result<Epoch, EpochError>> {
        Box::pin(async move {
            self.0.acquire().await.expect("it is not closed").forget();
            LocalAuthority.grant(shard, after, owner).await
        })
    }
}

/// Gives out every tenth epoch.
#[derive(Debug, Default)]
struct Tens {
    asked: AtomicU64,
}

impl EpochAuthority for Tens {
    fn grant<'a>(
        &'a self,
        shard: ShardId,
        after: Option<&'a Epoch>,
        owner: &'a NodeId,
    ) -> BoxFuture<'a, Result<Epoch, EpochError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let epoch = LocalAuthority.grant(shard, after, owner).await?;
            Ok(Epoch { counter: epoch.counter + 9, ..epoch })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_are_those_of_the_authority_that_was_given() {
    let tens = Arc::new(Tens::default());
    let mut settings = Owners::default();
    settings.epochs = tens.clone();
    let node = builder("n0").ownership(settings).start().await.expect("starts");
    within(node.ready()).await.expect("runs");
    assert!(owners(&node).owned().values().all(|epoch| epoch.counter == 10));
    assert_eq!(tens.asked.load(Ordering::Relaxed), u64::from(SHARDS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_behind_is_told_what_is_so() {
    let mut kv = KvConfig::default();
    kv.shards = ShardCount::new(2_048).expect("valid");
    let gate = Arc::new(Gate::default());
    let mut settings = Owners::default();
    settings.epochs = gate.clone();
    let node = builder("n0").kv(kv).ownership(settings).start().await.expect("starts");
    let mut watch = owners(&node).watch();
    let Some(OwnershipEvent::Snapshot { owned, .. }) = watch.try_next() else { panic!("a snapshot first") };
    assert_eq!(owned.len(), 0);
    gate.0.add_permits(2_048);
    within(node.ready()).await.expect("runs");
    // More than twice as many events as there is room for have happened by now.
    let Some(OwnershipEvent::Snapshot { owned, claims }) = watch.next().await else { panic!("a snapshot") };
    assert_eq!((owned.len(), claims.len()), (2_048, 2_048));
    assert_eq!(owned, owners(&node).owned());
    node.stop().await;
    while let Some(event) = within(watch.next()).await {
        assert!(matches!(event, OwnershipEvent::Claimed(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_about_to_leave_a_key_waits_for_somebody_and_its_owner_keeps_it() {
    let nodes = nodes(1).await;
    let owner = nodes[0].explain("user-42").owner;
    assert!(matches!(owner, Owner::Claimed { .. }));
    nodes[0].drain();
    // The store follows the members a moment later.
    let told = within(async {
        loop {
            let told = nodes[0].explain("user-42");
            if told.replicas.is_empty() {
                return told;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await;
    assert!(told.waits_for.contains(&Wait::Replicas), "{told}");
    assert_eq!(told.owner_epoch(), nodes[0].ownership().and_then(|owners| owners.owns(told.shard)).as_ref());
    assert!(told.to_string().contains("waits for somebody who could keep it"), "{told}");
}

/// The entries of a journal by their shards, when there is one for each and none waits for an answer.
fn entries(node: &Node) -> Option<BTreeMap<ShardId, Conflict>> {
    owners(node).journal(|journal| {
        let all: BTreeMap<_, _> = journal.iter().map(|(_, entry)| (entry.lost.shard, entry.clone())).collect();
        let is_whole = all.values().all(|entry| entry.won_state != Snapshot::Missing);
        (is_whole && all.len() == SHARDS as usize && journal.len() == all.len()).then_some(all)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_owned_everything_and_meet_write_down_what_their_stores_had() {
    // Neither finds anybody before this is known.
    let meeting: Arc<OnceLock<SocketAddr>> = Arc::default();
    let at = meeting.clone();
    let find = from_fn(move || Ok(at.get().copied().into_iter().collect::<BTreeSet<_>>()));
    let mut nodes = Vec::new();
    for builder in [builder("n0"), builder("n1").discover(find)] {
        let node = within(builder.ownership(Owners::default()).start()).await.expect("starts");
        within(node.ready()).await.expect("runs");
        let put = node.kv().put("user-42", node.id().name.as_str().to_owned());
        within(put.into_future()).await.expect("is put");
        assert_eq!(owners(&node).owned().len(), SHARDS as usize);
        nodes.push(node);
    }

    meeting.set(nodes[0].addr()).expect("once");
    all_settled(&nodes).await;
    let whole = within(async {
        loop {
            match (entries(&nodes[0]), entries(&nodes[1])) {
                (Some(at_loser), Some(at_winner)) => return (at_loser, at_winner),
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let (at_loser, at_winner) = whole.await;
    let shard = nodes[0].kv().shard_of("user-42");
    for (at, entry) in at_loser.iter().chain(&at_winner) {
        assert_eq!((entry.lost.epoch.owner.name.as_str(), entry.won.epoch.owner.name.as_str()), ("n0", "n1"));
        assert_eq!(entry.resolution, Resolution::GreaterEpochMerges);
        let of_its_own = if at_loser[at] == *entry { &entry.lost_state } else { &entry.won_state };
        let Snapshot::Stored(Some(mark)) = of_its_own else { panic!("{entry:?}") };
        assert_eq!(mark.records, u64::from(*at == shard), "{entry:?}");
    }
    // What either of them had is in the other's store, and nothing had to be taken from a journal.
    let merged = within(async {
        loop {
            let marks = [0, 1].map(|node: usize| nodes[node].kv().shards().mark(shard));
            match nodes[0].kv().get("user-42").await {
                Ok(entry) if entry.values().len() == 2 && marks[0] == marks[1] => return marks,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    assert!(merged.await[0].is_some_and(|mark| mark.records == 1));
}
