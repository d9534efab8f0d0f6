//! Ownership on real nodes on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity_cluster::rpc::Blob;
use polity_cluster::{BoxFuture, Node, NodeId, Preset};
use polity_shard::claims::Claim;
use polity_shard::{Estate, LocalAuthority, Ownership, OwnershipConfig, ShardCount, ShardId, StewardConfig};

const SHARDS: u32 = 16;
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Marks of those that have owned a shard.
#[derive(Default)]
struct Marks {
    of: Mutex<BTreeMap<ShardId, BTreeSet<String>>>,
}

impl Marks {
    fn all(&self, shard: ShardId) -> BTreeSet<String> {
        self.of.lock().expect("nobody panics").get(&shard).cloned().unwrap_or_default()
    }
}

impl Estate for Marks {
    fn owned(&self, claim: &Claim) {
        let mut of = self.of.lock().expect("nobody panics");
        of.entry(claim.shard).or_default().insert(claim.epoch.to_string());
    }

    fn lost(&self, _: ShardId, _: &NodeId) {}

    fn open(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        let chunks = self.all(shard).into_iter().map(|mark| Blob(mark.into_bytes().into())).collect();
        Box::pin(std::future::ready(Ok(chunks)))
    }

    fn pause(&self, _: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        Box::pin(std::future::ready(Ok(vec![Blob(b"the end".to_vec().into())])))
    }

    fn resume(&self, _: ShardId) {}

    fn install(&self, shard: ShardId, chunks: Vec<Blob>) -> BoxFuture<'_, bool> {
        let marks = chunks.into_iter().map(|chunk| String::from_utf8_lossy(&chunk.0).into_owned());
        self.of.lock().expect("nobody panics").entry(shard).or_default().extend(marks);
        Box::pin(std::future::ready(true))
    }

    fn state(&self, shard: ShardId) -> Blob {
        Blob(self.all(shard).into_iter().collect::<String>().into_bytes().into())
    }
}

struct Host {
    node: Node,
    ownership: Ownership,
    marks: Arc<Marks>,
}

async fn host(name: &str, others: &[&Host]) -> Host {
    let builder = Node::builder(name).cluster("ownership-of-nodes").preset(Preset::Local).no_discovery();
    let node = builder.seeds(others.iter().map(|other| other.node.addr())).start().await.expect("starts");
    let marks = Arc::new(Marks::default());
    let steward = StewardConfig { shards: ShardCount::new(SHARDS).expect("valid"), ..StewardConfig::default() };
    let config = OwnershipConfig { steward, ..OwnershipConfig::default() };
    let ownership = Ownership::start(&node, config, Arc::new(LocalAuthority), marks.clone()).expect("starts");
    Host { node, ownership, marks }
}

/// Waits until all agree, and returns who owns what.
async fn owners(hosts: &[&Host]) -> BTreeMap<ShardId, NodeId> {
    loop {
        for host in hosts {
            let settled = tokio::time::timeout(LONG, host.ownership.settled()).await;
            settled.unwrap_or_else(|_| panic!("{}", all_explained(host)));
        }
        let count = hosts.iter().filter(|host| host.node.members().snapshot().up().count() == hosts.len()).count();
        match owned_by(hosts) {
            Some(owners) if count == hosts.len() => return owners,
            _ => tokio::task::yield_now().await,
        }
    }
}

/// Who owns what, if each shard is owned by one of them and no more.
fn owned_by(hosts: &[&Host]) -> Option<BTreeMap<ShardId, NodeId>> {
    let mut owned = Vec::new();
    for host in hosts {
        owned.extend(host.ownership.owned().into_keys().map(|shard| (shard, host.node.id().clone())));
    }
    let owners: BTreeMap<_, _> = owned.iter().cloned().collect();
    (owners.len() == SHARDS as usize && owned.len() == owners.len()).then_some(owners)
}

fn all_explained(host: &Host) -> String {
    (0..SHARDS).map(|shard| host.ownership.explain(ShardId(shard)).to_string() + "\n").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_move_with_their_state_when_nodes_join_leave_die_and_change_their_weight() {
    let n0 = host("n0", &[]).await;
    let all = owners(&[&n0]).await;
    assert!(all.values().all(|owner| owner == n0.node.id()));
    let first: Vec<_> = (0..SHARDS).map(|shard| n0.ownership.owns(ShardId(shard)).expect("it owns all")).collect();

    let n1 = host("n1", &[&n0]).await;
    let n2 = host("n2", &[&n0]).await;
    let hosts = [&n0, &n1, &n2];
    let all = owners(&hosts).await;
    for host in hosts {
        let own = all.iter().filter(|(_, owner)| *owner == host.node.id()).map(|(shard, _)| *shard);
        let own: Vec<_> = own.collect();
        assert!(!own.is_empty(), "{} has a share", host.node.id());
        for shard in own {
            let before = &first[shard.0 as usize];
            assert!(host.marks.all(shard).contains(&before.to_string()), "what the first owner had has come along");
            let epoch = host.ownership.owns(shard).expect("it owns it");
            assert_eq!(host.ownership.admit(shard, &epoch), Ok(()));
            if host.node.id() != n0.node.id() {
                assert!(epoch > *before);
                assert!(host.marks.all(shard).contains("the end"));
                let refused = n0.ownership.admit(shard, before).expect_err("over");
                assert_eq!(refused.by.owner(), host.node.id());
            }
        }
        assert!(host.ownership.journal(|journal| journal.is_empty()), "a join is no conflict");
        assert!(host.ownership.stuck().is_empty());
    }
    assert!(n0.ownership.explain(ShardId(0)).to_string().ends_with("waits for nothing"));

    // One dies, and what it owned is owned by others.
    n2.node.stop().await;
    let rest = owners(&[&n0, &n1]).await;
    assert!(rest.iter().all(|(shard, owner)| all[shard] == *owner || all[shard] == *n2.node.id()));

    // It comes back without its memory, under another boot, and gets the same shards back, under greater epochs.
    let n2 = host("n2", &[&n0]).await;
    let back = owners(&[&n0, &n1, &n2]).await;
    for (shard, owner) in &all {
        assert_eq!(back[shard].name, owner.name);
        assert!(n1.ownership.epoch(*shard).expect("claimed").counter >= first[shard.0 as usize].counter);
    }

    // The share of one becomes small while it runs: what it owned goes to the others, with its state.
    n0.node.set_weight(1).expect("in range");
    let is_light = || n0.ownership.owned().len() <= 1;
    let moved = tokio::time::timeout(LONG, async {
        loop {
            match owned_by(&[&n0, &n1, &n2]) {
                Some(owners) if is_light() => return owners,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let light = moved.await.unwrap_or_else(|_| panic!("{}", all_explained(&n0)));
    for (shard, owner) in &light {
        let owner = [&n0, &n1, &n2].into_iter().find(|host| host.node.id() == owner).expect("one of the three");
        assert!(owner.marks.all(*shard).is_superset(&n0.marks.all(*shard)) || back[shard] != *n0.node.id());
    }

    // One leaves on purpose: first it hands over. It lets a shard go a moment before the next owner has it.
    n1.node.drain();
    let handed_over = tokio::time::timeout(LONG, async {
        loop {
            match owned_by(&[&n0, &n2]) {
                Some(owners) if n1.ownership.owned().is_empty() => return owners,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let owners = handed_over.await.unwrap_or_else(|_| panic!("{}", all_explained(&n1)));
    for (shard, owner) in owners {
        let owner = [&n0, &n2].into_iter().find(|host| *host.node.id() == owner).expect("one of the two");
        assert!(owner.marks.all(shard).is_superset(&n1.marks.all(shard)) || light[&shard].name.as_str() != "n1");
    }
    let journals = [&n0, &n1, &n2].map(|host| host.ownership.journal(|journal| journal.len()));
    assert_eq!(journals, [0; 3]);
}
