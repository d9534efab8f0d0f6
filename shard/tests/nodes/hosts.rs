//! Nodes with ownership, and what there is to own on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use polity_cluster::rpc::Blob;
use polity_cluster::{BoxFuture, Builder, Node, NodeId, Preset};
use polity_shard::claims::Claim;
use polity_shard::handoff::HandoffConfig;
use polity_shard::journal::Snapshot;
use polity_shard::{Estate, LocalAuthority, Ownership, OwnershipConfig, ShardCount, ShardId, StewardConfig};
use tokio::sync::watch;

pub(crate) const SHARDS: u32 = 16;
/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Marks of those that have owned a shard.
pub(crate) struct Marks {
    of: Mutex<BTreeMap<ShardId, BTreeSet<String>>>,
    paused: Mutex<BTreeSet<ShardId>>,
    /// Whether what comes is installed, or waits.
    pub(crate) installs: watch::Sender<bool>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { of: Mutex::default(), paused: Mutex::default(), installs: watch::Sender::new(true) }
    }
}

impl Marks {
    fn of(&self) -> MutexGuard<'_, BTreeMap<ShardId, BTreeSet<String>>> {
        self.of.lock().expect("nobody panics")
    }

    fn paused(&self) -> MutexGuard<'_, BTreeSet<ShardId>> {
        self.paused.lock().expect("nobody panics")
    }

    pub(crate) fn all(&self, shard: ShardId) -> BTreeSet<String> {
        self.of().get(&shard).cloned().unwrap_or_default()
    }

    pub(crate) fn add(&self, shard: ShardId, mark: String) {
        self.of().entry(shard).or_default().insert(mark);
    }

    pub(crate) fn is_paused(&self, shard: ShardId) -> bool {
        self.paused().contains(&shard)
    }
}

impl Estate for Marks {
    fn owned(&self, claim: &Claim) {
        self.add(claim.shard, claim.epoch.to_string());
    }

    fn lost(&self, shard: ShardId, _: &NodeId) {
        self.paused().remove(&shard);
    }

    fn open(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        let chunks = self.all(shard).into_iter().map(|mark| Blob(mark.into_bytes().into())).collect();
        Box::pin(std::future::ready(Ok(chunks)))
    }

    fn pause(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        self.paused().insert(shard);
        Box::pin(std::future::ready(Ok(vec![Blob(b"the end".to_vec().into())])))
    }

    fn resume(&self, shard: ShardId) {
        self.paused().remove(&shard);
    }

    fn install(&self, shard: ShardId, chunks: Vec<Blob>) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let mut installs = self.installs.subscribe();
            let is_open = installs.wait_for(|installs| *installs).await.is_ok();
            let marks = chunks.into_iter().map(|chunk| String::from_utf8_lossy(&chunk.0).into_owned());
            marks.for_each(|mark| self.add(shard, mark));
            is_open
        })
    }

    fn state(&self, shard: ShardId) -> Snapshot {
        Snapshot::State(Blob(self.all(shard).into_iter().collect::<String>().into_bytes().into()))
    }
}

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) ownership: Ownership,
    pub(crate) marks: Arc<Marks>,
}

pub(crate) fn builder(name: &str) -> Builder {
    Node::builder(name).cluster("ownership-of-nodes").preset(Preset::Local).no_discovery()
}

pub(crate) async fn host(name: &str, others: &[&Host]) -> Host {
    let seeds = others.iter().map(|other| other.node.addr());
    started(builder(name).seeds(seeds), Marks::default(), HandoffConfig::default()).await
}

pub(crate) async fn started(builder: Builder, marks: Marks, handoff: HandoffConfig) -> Host {
    let node = builder.start().await.expect("starts");
    let marks = Arc::new(marks);
    let shards = ShardCount::new(SHARDS).expect("valid");
    let steward = StewardConfig { shards, handoff, ..StewardConfig::default() };
    let config = OwnershipConfig { steward, ..OwnershipConfig::default() };
    let ownership = Ownership::start(&node, config, Arc::new(LocalAuthority), marks.clone()).expect("starts");
    Host { node, ownership, marks }
}

/// Waits for something that is about to be so.
pub(crate) async fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let found = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(LONG, found).await.expect("it becomes so")
}

/// Waits until all agree, and returns who owns what.
pub(crate) async fn owners(hosts: &[&Host]) -> BTreeMap<ShardId, NodeId> {
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
pub(crate) fn owned_by(hosts: &[&Host]) -> Option<BTreeMap<ShardId, NodeId>> {
    let mut owned = Vec::new();
    for host in hosts {
        owned.extend(host.ownership.owned().into_keys().map(|shard| (shard, host.node.id().clone())));
    }
    let owners: BTreeMap<_, _> = owned.iter().cloned().collect();
    (owners.len() == SHARDS as usize && owned.len() == owners.len()).then_some(owners)
}

pub(crate) fn all_explained(host: &Host) -> String {
    (0..SHARDS).map(|shard| host.ownership.explain(ShardId(shard)).to_string() + "\n").collect()
}
