//! From a description to a running node: what is described here is checked in `plan`, and comes to life in `start`, which
//! looks for others in `meeting`.

mod meeting;
mod plan;
mod start;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Preset, Timings};
use crate::discovery::Discovery;
use crate::error::Error;
use crate::ground::Env;
use crate::node::Node;
use crate::secure::{Certificates, Secret, SecretError};
use crate::state::Weight;
use crate::version::{Speaks, VersionRange};

/// Describes a node. [`Builder::start`] checks everything before it touches anything.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    name: String,
    cluster: String,
    listen: String,
    advertise: Option<String>,
    seeds: Vec<String>,
    discoveries: Vec<Arc<dyn Discovery>>,
    default_discovery: bool,
    expected: Option<usize>,
    /// Checked when the node is started. Never printed, and wiped when dropped.
    secret: Option<Result<Secret, SecretError>>,
    trusted: Vec<Result<Secret, SecretError>>,
    certificates: Option<Certificates>,
    preset: Preset,
    timings: Option<Timings>,
    weight: u16,
    zone: Option<String>,
    roles: Vec<String>,
    addresses: BTreeMap<String, SocketAddr>,
    settings: BTreeMap<String, String>,
    data_dir: Option<PathBuf>,
    callers_runtime: bool,
    speaks: Speaks,
    env: Env,
}

impl Builder {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            cluster: "polity".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            seeds: Vec::new(),
            discoveries: Vec::new(),
            default_discovery: true,
            expected: None,
            secret: None,
            trusted: Vec::new(),
            certificates: None,
            preset: Preset::default(),
            timings: None,
            weight: Weight::default().get(),
            zone: None,
            roles: Vec::new(),
            addresses: BTreeMap::new(),
            settings: BTreeMap::new(),
            data_dir: None,
            callers_runtime: false,
            speaks: Speaks::CURRENT,
            env: Env::real(),
        }
    }

    /// The name of the cluster. Nodes of differently named clusters refuse each other.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// Where to listen, `IP:PORT`, for gossip and QUIC on the one port. Port 0 lets the system choose.
    pub fn listen(mut self, addr: impl ToString) -> Self {
        self.listen = addr.to_string();
        self
    }

    /// Where others reach this node, if that is not where it listens.
    pub fn advertise(mut self, addr: impl ToString) -> Self {
        self.advertise = Some(addr.to_string());
        self
    }

    /// Members to join through, `HOST:PORT`. One that answers is enough. All are greeted for as long as the node runs
    /// while nobody is up at their address. A node's own address may be among them. Names are resolved again for ever,
    /// and every address of a name counts: see [`StaticList`](crate::discovery::StaticList).
    pub fn seeds<S: ToString>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(|seed| seed.to_string()).collect();
        self
    }

    /// Another way to find members, beside the seeds. Up to [`MAX_DISCOVERIES`](crate::discovery::MAX_DISCOVERIES) may be
    /// given.
    ///
    /// ```
    /// use polity_cluster::discovery::{DnsName, WatchedFile};
    /// # let builder = polity_cluster::Node::builder("n1");
    /// let builder = builder.discover(DnsName::new("shop.internal", 7946)?).discover(WatchedFile::new("/etc/shop/seeds"));
    /// # Ok::<(), polity_cluster::Error>(())
    /// ```
    pub fn discover(mut self, discovery: impl Discovery) -> Self {
        self.discoveries.push(Arc::new(discovery));
        self
    }

    /// Leaves out what the preset looks for by itself. With [`Preset::Local`] a node finds others of its cluster on the
    /// same machine by [`Multicast`](crate::discovery::Multicast); one that nobody answers within 200 ms goes on. Tests
    /// that must stay alone, and whoever cannot spare that time, turn it off. What was given to [`Builder::discover`]
    /// stays.
    pub fn no_discovery(mut self) -> Self {
        self.default_discovery = false;
        self
    }

    /// Waits until `nodes` nodes, this one included, have formed the cluster together: they choose a
    /// [`ClusterId`](crate::ClusterId), and a node with another id is refused from then on. So nodes that start while they
    /// cannot reach each other never become two clusters. Give all of them the same number.
    ///
    /// It must be **more than half of the boots** that there are while the cluster forms: each start of a process is one,
    /// and one more whenever it turns out that the cluster knows a newer boot of its name than its seeds did. Of five
    /// nodes expect three, and four or five if some may be started again meanwhile. Nodes that join later need not say
    /// it. With [`Builder::data_dir`] a node remembers the id, and a cluster that starts again as a whole keeps it;
    /// without, a restarted node takes the id from others, and counts as one more that starts if it meets only such as
    /// have none.
    ///
    /// Without it a cluster has no id, and clusters of the same name and secret that meet merge. A cluster without an id
    /// that meets one with an id takes that over.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # use polity_cluster::{Node, Preset};
    /// # let base = 32_000 + std::process::id() % 200 * 3;
    /// # let seeds: Vec<_> = (0..3).map(|at| format!("127.0.0.1:{}", base + at)).collect();
    /// let node = |at: usize| {
    ///     let builder = Node::builder(format!("n{at}")).cluster("formed").preset(Preset::Local).no_discovery();
    ///     builder.listen(&seeds[at]).seeds(&seeds).expect(2)
    /// };
    /// let (a, b, c) = tokio::try_join!(node(0).start(), node(1).start(), node(2).start())?;
    /// assert!(a.cluster_id().is_some() && a.cluster_id() == b.cluster_id() && a.cluster_id() == c.cluster_id());
    /// # Ok::<(), polity_cluster::Error>(()) }).unwrap();
    /// ```
    pub fn expect(mut self, nodes: usize) -> Self {
        self.expected = Some(nodes);
        self
    }

    /// The cluster's secret: at least 32 random bytes. Required unless all is on loopback with [`Preset::Local`].
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(Secret::new(secret));
        self
    }

    /// A further secret that this node accepts, for a node that starts in the middle of a rotation: the new one while
    /// members may not hold it yet, or the old one while they may still seal with it. See [`keyring`](crate::keyring).
    pub fn also_trust(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.trusted.push(Secret::new(secret));
        self
    }

    /// Certificates of the operator's for the connections between nodes, instead of those that follow from the secret. The
    /// secret is needed all the same, for gossip. Without certificates no clock is read; with them this machine's says
    /// whether they are valid, here and for those of peers.
    ///
    /// # Errors
    /// When the node starts: [`Error::Certificates`] before anything runs if they do not fit the node.
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Where the members are in relation to each other. [`Preset::Lan`] unless said otherwise.
    pub fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// Changes the preset's times.
    pub fn timings(mut self, timings: Timings) -> Self {
        self.timings = Some(timings);
        self
    }

    /// This node's share of the work in proportion to the others': 1 to 1,000, 100 unless said otherwise.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// This node's failure domain.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// A word for the application.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.roles.push(role.into());
        self
    }

    /// Where else this node listens, for whatever the application serves: at most 16, under names of 1 to 32 bytes. The
    /// others find them in [`Member::addresses`](crate::Member).
    pub fn address(mut self, name: impl Into<String>, addr: SocketAddr) -> Self {
        self.addresses.insert(name.into(), addr);
        self
    }

    /// A setting in which all members must agree. A node that differs is refused, and told the difference.
    pub fn must_match(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.settings.insert(key.into(), value.to_string());
        self
    }

    /// A folder of this node's own, where it remembers its generation, so that a restart is newer than the life before
    /// even while no seed answers, and where members were, so that it finds them again when no seed does.
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(folder.into());
        self
    }

    /// The names of the cluster and of the node, once all of the description was found to be in order: for the floors
    /// above, which have folders too.
    ///
    /// # Errors
    /// What [`Builder::start`] would find wrong before it touches anything.
    #[doc(hidden)]
    pub fn names(&self) -> Result<(String, crate::NodeName), Error> {
        let plan = self.validate()?;
        Ok((self.cluster.clone(), plan.name))
    }

    /// Whether its folder remembers any other member.
    #[doc(hidden)]
    #[must_use]
    pub fn remembers_others(&self) -> bool {
        crate::discovery::Memory::of(&self.env, self.data_dir.as_ref()).names_any()
    }

    /// Runs transport and membership on the caller's runtime instead of on a thread of their own. A single call is some
    /// microseconds quicker; but a task that never yields stalls the node, and others may take it for dead.
    pub fn on_callers_runtime(mut self) -> Self {
        self.callers_runtime = true;
        self
    }

    /// Runs the node as a build would that speaks these versions only: for tests of upgrades.
    #[doc(hidden)]
    pub fn speak_only(mut self, versions: VersionRange) -> Self {
        self.speaks = Speaks::only(versions);
        self
    }

    /// What the node stands on: the simulator's ground, for example.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// Starts the node. Returns when it is a member: it has exchanged all state with another, or it is the first, because
    /// all its discoveries have answered and none has named anybody but itself.
    ///
    /// A node that reaches none of its seeds waits for one, for as long as it takes: it may be one of a cluster that it
    /// is cut off from. Nodes that start at the same time and find each other found the cluster together. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running, and the port is free.
    pub async fn start(self) -> Result<Node, Error> {
        Ok(self.start_with(|_| ()).await?.0)
    }
}

fn ground(action: &str, source: std::io::Error) -> Error {
    Error::Ground { action: action.to_owned(), source: Arc::new(source) }
}
