//! A node with all its floors: wiring, and nothing else.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use polity_cluster::discovery::Discovery;
use polity_cluster::{Certificates, DocumentError, Env, Preset, Timings, VersionRange};
use polity_kv::{Bucket, BucketKind, ConfigError, Engine, EngineError, Kv, KvConfig, MemoryEngine, StartError};
use polity_shard::{Ownership, ShardId};

use crate::explain::{KeyExplanation, Known};
use crate::ownership::{Owners, Tenure};

/// Why a node did not start, or what it could not do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node itself.
    #[error(transparent)]
    Cluster(#[from] polity_cluster::Error),
    /// The document of claims could not be opened.
    #[error("the owners of shards: {0}")]
    Ownership(#[from] DocumentError),
    /// The configuration of the key-value store.
    #[error("the key-value store: {0}")]
    Kv(#[from] ConfigError),
    /// The storage engine of the key-value store could not be opened or read.
    #[error("the key-value store: {0}")]
    Engine(#[from] EngineError),
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => Self::Kv(error),
            StartError::Engine(error) => Self::Engine(error),
            error => Self::Engine(EngineError::Other { action: "started", cause: error.to_string() }),
        }
    }
}

impl Error {
    /// Whether the same call may succeed later without a change of configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Cluster(error) => error.is_retryable(),
            Self::Kv(_) => false,
            // The node has stopped meanwhile.
            Self::Ownership(error) => matches!(error, DocumentError::Stopped),
            Self::Engine(error) => error.is_retryable() || matches!(error, EngineError::InUse { .. }),
        }
    }
}

/// A running node. Cheap to clone; when the last clone is dropped, it stops without a farewell, as if it had crashed.
///
/// All that a [`polity_cluster::Node`] does, this does too.
#[derive(Debug, Clone)]
pub struct Node {
    cluster: polity_cluster::Node,
    kv: Kv,
    ownership: Option<Ownership>,
}

impl Node {
    /// Starts to describe a node. Its name is stable: the node that is started again under it is the same node.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }

    /// The replicated key-value store.
    #[must_use]
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Who owns which shard, if the node was built with [`Builder::ownership`].
    #[must_use]
    pub fn ownership(&self) -> Option<&Ownership> {
        self.ownership.as_ref()
    }

    /// Where a key is, who owns its shard, why, and what that waits for, as this node knows it: its [`Display`] is for
    /// people. Works on every node, asks nobody, and waits for nothing.
    ///
    /// The key is one of [`Node::kv`] itself, outside of its buckets: for those there is [`Node::explain_in`].
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use polity::{Node, Owners, Preset};
    ///
    /// let node = Node::builder("n1").cluster("explain").preset(Preset::Local).no_discovery();
    /// let node = node.zone("a").ownership(Owners::default()).start().await?;
    /// node.ready().await?;
    /// let told = node.explain("user-42").to_string();
    /// let lines: Vec<&str> = told.lines().collect();
    /// assert!(lines[0].starts_with("\"user-42\" is in shard ") && lines[0].contains(", owned by n1#1."));
    /// assert_eq!(lines[1..], [
    ///     "  1. n1 in zone a, weight 100: scores best of all; owns it; this node",
    ///     "  waits for nothing",
    /// ]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// [`Display`]: std::fmt::Display
    #[must_use]
    pub fn explain(&self, key: impl AsRef<[u8]>) -> KeyExplanation {
        let key = key.as_ref();
        self.explain_at(None, key, self.kv.shard_of(key))
    }

    /// The same for a key of a bucket.
    ///
    /// Shards of a bucket with a number of replicas of its own have no owners, whatever the cluster keeps: then the owner is
    /// [`Owner::NotCovered`](crate::Owner::NotCovered).
    ///
    /// # Panics
    /// If the bucket is not of this cluster's store, and its key is in a shard that this store has not.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use polity::kv::Set;
    /// use polity::{Bucket, BucketConfig, KvConfig, Node, Preset};
    ///
    /// let node = Node::builder("n1").cluster("explain-in").preset(Preset::Local).no_discovery();
    /// let node = node.kv(KvConfig::default().bucket("carts", BucketConfig::set())).start().await?;
    /// node.ready().await?;
    /// let carts: Bucket<Set> = node.kv().bucket("carts")?;
    /// let told = node.explain_in(&carts, "user-42");
    /// assert_eq!((told.shard, &told.replicas[0].node), (carts.shard_of("user-42"), node.id()));
    /// assert!(told.to_string().starts_with("\"user-42\" of \"carts\" is in shard "));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn explain_in<K: BucketKind>(&self, bucket: &Bucket<K>, key: impl AsRef<[u8]>) -> KeyExplanation {
        let key = key.as_ref();
        self.explain_at(Some(bucket.name()), key, bucket.shard_of(key))
    }

    fn explain_at(&self, bucket: Option<&str>, key: &[u8], shard: ShardId) -> KeyExplanation {
        let status = self.kv.shard(shard).expect("a key's shard is one of the store's");
        let owner = match &self.ownership {
            None => Known::NotKept,
            // It would say that nobody is there to own it.
            Some(_) if !self.kv.config().shards.contains(shard) => Known::NotCovered,
            Some(ownership) => Known::Of(ownership.explain(shard)),
        };
        KeyExplanation::new((bucket, key), self.cluster.id(), &self.cluster.members().snapshot(), &status, owner)
    }

    /// Waits until this node is a member that has caught up: every shard that belongs to it is here, and it has nothing
    /// to hand over. With [`Builder::ownership`] that includes that it owns what it should own, and nothing else. Waits for
    /// as long as a failure keeps it from that. Cancel safe.
    ///
    /// # Errors
    /// [`polity_cluster::Error::Stopped`] or `NameTaken` if the node has stopped.
    pub async fn ready(&self) -> Result<(), Error> {
        self.cluster.ready().await?;
        tokio::select! {
            biased;
            _ = self.cluster.stopped() => Ok(self.cluster.ready().await?),
            () = self.caught_up() => Ok(()),
        }
    }

    async fn caught_up(&self) {
        self.kv.caught_up().await;
        if let Some(ownership) = &self.ownership {
            ownership.caught_up().await;
        }
    }

    /// Leaves: hands everything over to the others, tells them, and stops. They see
    /// [`Status::Left`](polity_cluster::Status) at once, not a failure. The name may come back at any time.
    ///
    /// Waits up to `within` until every shard has been taken over; then it goes, whatever is left. Reads and writes of the store are
    /// served until then; those that have begun are waited for, and later ones fail with
    /// [`KvError::Stopped`](polity_kv::KvError::Stopped), not applied. That and the farewell may take up to `within` each, too, where others
    /// do not answer. Once begun, it cannot be taken back; dropping the future leaves a node that nothing is placed on and that still serves.
    ///
    /// # Errors
    /// [`polity_cluster::Error::Stopped`], or [`polity_cluster::Error::NameTaken`], if the node had stopped before.
    pub async fn leave(&self, within: Duration) -> Result<(), Error> {
        self.cluster.drain();
        // What was not handed over in time is still on the other replicas.
        let handed_over = async {
            self.kv.settled().await;
            if let Some(ownership) = &self.ownership {
                ownership.handed_over().await;
            }
        };
        let _ = tokio::time::timeout(within, handed_over).await;
        // Others close their connections once they hear that it has left.
        let _ = tokio::time::timeout(within, self.kv.close()).await;
        Ok(self.cluster.leave(within).await?)
    }
}

impl Deref for Node {
    type Target = polity_cluster::Node;
    fn deref(&self) -> &polity_cluster::Node {
        &self.cluster
    }
}

/// Describes a node. [`Builder::start`] checks everything before it touches anything.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    cluster: polity_cluster::Builder,
    kv: KvConfig,
    records: Records,
    owners: Option<Owners>,
}

/// Where the key-value store keeps its records.
#[derive(Debug, Clone)]
enum Records {
    InMemory,
    #[cfg(feature = "durable")]
    InFolder(PathBuf),
    On(Arc<dyn Engine>),
}

impl Builder {
    fn new(name: String) -> Self {
        let cluster = polity_cluster::Node::builder(name);
        Self { cluster, kv: KvConfig::default(), records: Records::InMemory, owners: None }
    }

    /// The name of the cluster. Nodes of differently named clusters refuse each other.
    pub fn cluster(self, name: impl Into<String>) -> Self {
        Self { cluster: self.cluster.cluster(name), ..self }
    }

    /// Where to listen, `IP:PORT`, for gossip and QUIC on the one port. Port 0 lets the system choose.
    pub fn listen(self, addr: impl ToString) -> Self {
        Self { cluster: self.cluster.listen(addr), ..self }
    }

    /// Where others reach this node, if that is not where it listens.
    pub fn advertise(self, addr: impl ToString) -> Self {
        Self { cluster: self.cluster.advertise(addr), ..self }
    }

    /// Members to join through, `HOST:PORT`. One that answers is enough.
    pub fn seeds<S: ToString>(self, seeds: impl IntoIterator<Item = S>) -> Self {
        Self { cluster: self.cluster.seeds(seeds), ..self }
    }

    /// Another way to find members, beside the seeds.
    pub fn discover(self, discovery: impl Discovery) -> Self {
        Self { cluster: self.cluster.discover(discovery), ..self }
    }

    /// Leaves out what the preset looks for by itself: with [`Preset::Local`], other nodes on the same machine.
    pub fn no_discovery(self) -> Self {
        Self { cluster: self.cluster.no_discovery(), ..self }
    }

    /// Waits until this many nodes have formed the cluster together: more than half of those that start.
    pub fn expect(self, nodes: usize) -> Self {
        Self { cluster: self.cluster.expect(nodes), ..self }
    }

    /// The cluster's secret: at least 32 random bytes. Required unless all is on loopback with [`Preset::Local`].
    pub fn secret(self, secret: impl Into<Vec<u8>>) -> Self {
        Self { cluster: self.cluster.secret(secret), ..self }
    }

    /// A further secret that this node accepts, for a node that starts in the middle of a rotation: see
    /// [`keyring`](polity_cluster::keyring).
    pub fn also_trust(self, secret: impl Into<Vec<u8>>) -> Self {
        Self { cluster: self.cluster.also_trust(secret), ..self }
    }

    /// Certificates of an authority of the operator's instead of those that follow from the secret.
    pub fn certificates(self, certificates: Certificates) -> Self {
        Self { cluster: self.cluster.certificates(certificates), ..self }
    }

    /// Where the members are in relation to each other. [`Preset::Lan`] unless said otherwise.
    pub fn preset(self, preset: Preset) -> Self {
        Self { cluster: self.cluster.preset(preset), ..self }
    }

    /// Changes the preset's times.
    pub fn timings(self, timings: Timings) -> Self {
        Self { cluster: self.cluster.timings(timings), ..self }
    }

    /// This node's share of the work in proportion to the others': 1 to 1,000, 100 unless said otherwise. While it runs:
    /// [`set_weight`](polity_cluster::Node::set_weight).
    pub fn weight(self, weight: u16) -> Self {
        Self { cluster: self.cluster.weight(weight), ..self }
    }

    /// This node's failure domain: replicas go to distinct zones while there are enough.
    pub fn zone(self, zone: impl Into<String>) -> Self {
        Self { cluster: self.cluster.zone(zone), ..self }
    }

    /// A word for the application.
    pub fn role(self, role: impl Into<String>) -> Self {
        Self { cluster: self.cluster.role(role), ..self }
    }

    /// Where else this node listens, for whatever the application serves: at most 16, under names of 1 to 32 bytes. The
    /// others find them in [`Member::addresses`](crate::Member).
    pub fn address(self, name: impl Into<String>, addr: SocketAddr) -> Self {
        Self { cluster: self.cluster.address(name, addr), ..self }
    }

    /// A setting of the application in which all members must agree.
    pub fn must_match(self, key: impl Into<String>, value: impl ToString) -> Self {
        Self { cluster: self.cluster.must_match(key, value), ..self }
    }

    /// A folder of this node's own, where it remembers its generation.
    pub fn data_dir(self, folder: impl Into<PathBuf>) -> Self {
        Self { cluster: self.cluster.data_dir(folder), ..self }
    }

    /// Runs transport and membership on the caller's runtime instead of on a thread of their own.
    pub fn on_callers_runtime(self) -> Self {
        Self { cluster: self.cluster.on_callers_runtime(), ..self }
    }

    /// Runs the node as a build would that speaks these versions only: for tests of upgrades.
    #[doc(hidden)]
    pub fn speak_only(self, versions: VersionRange) -> Self {
        Self { cluster: self.cluster.speak_only(versions), ..self }
    }

    /// What the node stands on: the simulator's ground, for example.
    pub fn env(self, env: Env) -> Self {
        Self { cluster: self.cluster.env(env), ..self }
    }

    /// Limits and times of the key-value store.
    pub fn kv(self, config: KvConfig) -> Self {
        Self { kv: config, ..self }
    }

    /// Keeps all that the node has to remember in a folder of its own: its generation ([`Builder::data_dir`]), and the
    /// records of the key-value store, which are synced to disk before a write is acknowledged. What the node held is
    /// there again when it starts anew. Without it, they are in memory.
    ///
    /// The folder is the node's own: another's is refused. Should the disk have damaged it, the data are put aside, and what
    /// cannot be read of them is fetched from the other replicas ([`KvStats::damage`](polity_kv::KvStats)); a node that has
    /// never seen another member, or keeps each key alone, does not start then. See `docs/STORAGE.md`.
    #[cfg(feature = "durable")]
    pub fn durable(self, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { records: Records::InFolder(folder.join("kv")), ..self.data_dir(folder) }
    }

    /// Keeps the records of the key-value store on an engine of the caller's. It must not be used by another node at the
    /// same time.
    pub fn engine(self, engine: Arc<dyn Engine>) -> Self {
        Self { records: Records::On(engine), ..self }
    }

    /// Gives shards owners: at any time one node acts for a shard, under an epoch that everyone can check, and
    /// [`Node::ownership`] says which. Costs each node a claim of some 100 bytes for each shard, and a round of about 200
    /// bytes every 5 s; when members come and go, some messages for each shard that changes hands. So it is there on request.
    ///
    /// All members must have it, or none: others are refused, since a node without it would not claim what is its to own.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use polity::{Node, Owners, Preset};
    ///
    /// let node = Node::builder("n1").cluster("owners").preset(Preset::Local).no_discovery();
    /// let node = node.ownership(Owners::default()).start().await?;
    /// node.ready().await?;
    ///
    /// let (owners, shard) = (node.ownership().expect("it was asked for"), node.kv().shard_of("user-42"));
    /// if let Some(epoch) = owners.owns(shard) {
    ///     // Whatever is done for this shard carries the epoch, and whoever it is sent to asks first.
    ///     assert!(owners.admit(shard, &epoch).is_ok());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn ownership(self, owners: Owners) -> Self {
        Self { owners: Some(owners), ..self }
    }

    /// Starts the node. Returns when it is a member: it has exchanged all state with another, or it is the first, because
    /// all its discoveries have answered and none has named anybody but itself.
    ///
    /// A node that reaches none of its seeds waits for one, for as long as it takes: it may be one of a cluster that it
    /// is cut off from. Nodes that start at the same time and find each other found the cluster together. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running.
    pub async fn start(self) -> Result<Node, Error> {
        self.kv.validate()?;
        let engine = self.open().await?;
        let mut cluster = self.cluster;
        for (key, value) in self.kv.must_match() {
            cluster = cluster.must_match(key, value);
        }
        if self.owners.is_some() {
            let (key, value) = Owners::MUST_MATCH;
            cluster = cluster.must_match(key, value);
        }
        let start = |node: &polity_cluster::Node| -> Result<_, Error> {
            let kv = Kv::start_on(node, self.kv.clone(), engine.clone())?;
            let ownership = self.owners.as_ref().map(|owners| start_ownership(node, &kv, owners)).transpose()?;
            Ok((kv, ownership))
        };
        let (cluster, floors) = cluster.start_with(start).await?;
        match floors {
            Ok((kv, ownership)) => Ok(Node { cluster, kv, ownership }),
            Err(error) => {
                cluster.stop().await;
                Err(error)
            }
        }
    }

    /// Opens the engine: before anything is started, and where blocking is allowed.
    async fn open(&self) -> Result<Arc<dyn Engine>, Error> {
        match &self.records {
            Records::InMemory => Ok(Arc::new(MemoryEngine::new(self.kv.shards))),
            #[cfg(feature = "durable")]
            Records::InFolder(folder) => {
                let (cluster, node) = self.cluster.names()?;
                let owner = polity_kv::engine::durable::Owner { cluster, node, shards: self.kv.shards };
                let folder = folder.clone();
                // Nothing is put aside of which nobody else may have a copy.
                let has_copies = self.kv.replicas.get() > 1 && self.cluster.remembers_others();
                let open = move || match has_copies {
                    true => polity_kv::engine::DurableEngine::open_or_set_aside(folder, &owner),
                    false => polity_kv::engine::DurableEngine::open(folder, &owner),
                };
                match tokio::task::spawn_blocking(open).await {
                    Ok(engine) => Ok(Arc::new(engine?)),
                    Err(error) => Err(EngineError::Other { action: "opened", cause: error.to_string() }.into()),
                }
            }
            Records::On(engine) => Ok(engine.clone()),
        }
    }
}

/// Must be called while the node starts, so that no peer can ask it too early.
fn start_ownership(node: &polity_cluster::Node, kv: &Kv, owners: &Owners) -> Result<Ownership, Error> {
    let estate = Arc::new(Tenure::new(kv.shards(), owners));
    Ok(Ownership::start(node, owners.config(kv.config()), owners.epochs.clone(), estate)?)
}
