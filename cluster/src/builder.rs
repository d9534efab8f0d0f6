//! From a description to a running node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use crate::config::{Preset, Timings};
use crate::discovery::{Asker, Context, Discovery, First, MAX_DISCOVERIES, Memory, Multicast, StaticList};
use crate::document::Documents;
use crate::doorman::Doorman;
use crate::driver::{COMMAND_QUEUE, Command, DATAGRAM_QUEUE, Driver, Drops, Parts};
use crate::error::Error;
use crate::exchange::{PUSH_PULL, TELL};
use crate::formation::driver::{Former, remembered};
use crate::formation::{Charter, MAX_EXPECTED};
use crate::ground::{Env, Executor};
use crate::hello::Refusal;
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::keyring::{Keeper, Keyring, ORDERS};
use crate::membership::core::Core;
use crate::membership::view::Members;
use crate::mutation::{Mutation, mutated};
use crate::node::{Inner, Node};
use crate::presence::Presences;
use crate::rpc::{Rpc, RpcErrorKind};
use crate::secure::envelope::{DropReason, MAX_DATAGRAM_BYTES, Opener, Sealer};
use crate::secure::ring::{KEYS_KEY, Ring};
use crate::secure::tls::TlsIdentity;
use crate::secure::{Certificates, Secret, SecretError};
use crate::state::{ADDRESSES_KEY, PROFILE_KEY, Profile, Table, Weight, Zone, encode_addresses};
use crate::topic::Topics;
use crate::transport::config::TransportConfig;
use crate::transport::socket::GossipSink;
use crate::transport::{Transport, TransportParts};
use crate::version::{Speaks, VersionRange, WIRE_KEY};

/// The longest name of a cluster and of a role, in bytes.
const MAX_WORD_BYTES: usize = 64;
/// The most roles that a node may have.
const MAX_ROLES: usize = 8;
/// How long to wait before a seed that did not answer is greeted again while the node starts.
const GREET_AGAIN: Duration = Duration::from_millis(50);
/// How long it waits at most, once it has tried some times.
const GREET_AGAIN_AT_MOST: Duration = Duration::from_millis(400);
/// The name of the file that remembers the generation.
const GENERATION_FILE: &str = "generation";

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
    secret: Option<Given>,
    trusted: Vec<Given>,
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

/// A secret as it was given, which may be too short. Never printed, and wiped when dropped.
#[derive(Clone)]
struct Given(Zeroizing<Vec<u8>>);

impl Given {
    fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    fn check(&self) -> Result<Secret, SecretError> {
        Secret::new(self.0.as_slice())
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// A description that was found to be in order.
struct Plan {
    name: NodeName,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
    ring: Ring,
    timings: Timings,
    profile: Profile,
    addresses: Option<Vec<u8>>,
    discoveries: Vec<Arc<dyn Discovery>>,
}

/// What a node knows of its cluster before it is a member.
struct Found {
    seeds: BTreeSet<SocketAddr>,
    met: Vec<Identity>,
    generation: u64,
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
    /// and every address of a name counts: see [`StaticList`].
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
    /// same machine by [`Multicast`]; one that nobody answers within 200 ms goes on. Tests that must stay alone, and
    /// whoever cannot spare that time, turn it off. What was given to [`Builder::discover`] stays.
    pub fn no_discovery(mut self) -> Self {
        self.default_discovery = false;
        self
    }

    /// Waits until `nodes` nodes, this one included, have formed the cluster together: they choose a [`ClusterId`](crate::ClusterId), and a
    /// node with another id is refused from then on. So nodes that start while they cannot reach each other never become
    /// two clusters. Give all of them the same number.
    ///
    /// It must be **more than half of those that start** while the cluster forms, each start of a process counted: of
    /// five nodes expect three, and four or five if some may be started again meanwhile. Nodes that join later need not
    /// say it. With [`Builder::data_dir`] a node remembers the id, and a cluster that starts again as a whole keeps it;
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
        self.secret = Some(Given::new(secret));
        self
    }

    /// A further secret that this node accepts, for a node that starts in the middle of a rotation: the new one while
    /// members may not hold it yet, or the old one while they may still seal with it. See [`keyring`](crate::keyring).
    pub fn also_trust(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.trusted.push(Given::new(secret));
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

    /// Like [`Builder::start`], and calls `prepare` when the node has its identity and before any peer can know of it:
    /// the place to register the services that a member must have.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running.
    pub async fn start_with<T>(self, prepare: impl FnOnce(&Node) -> T) -> Result<(Node, T), Error> {
        let plan = self.validate()?;
        let mut rng = StdRng::from_seed(self.env.ground().seed());
        let leaf_seed = Zeroizing::new(rng.random());
        let tls = self.tls(&plan, &leaf_seed)?;
        let executor = if self.callers_runtime || !self.env.ground().own_thread() {
            Executor::of_caller(self.env.ground().gate())
        } else {
            Executor::own_thread(&self.name, self.env.ground().gate())
        };
        let executor = executor.map_err(|e| ground("cannot start the node's thread", e))?;
        let drops = Arc::new(Drops::default());
        let (ring, rings) = watch::channel(Arc::new(plan.ring.clone()));
        let (transport, addr, doorman, datagrams) = match self.open(&plan, &executor, &mut rng, (&rings, tls), &drops) {
            Ok(opened) => opened,
            Err(error) => {
                executor.end().await;
                return Err(error);
            }
        };
        let rpc = Rpc::new(Arc::clone(transport.shared()));
        let context = Context::with_ring(self.env.clone(), &self.cluster, rings.clone(), addr);
        let handle = executor.handle().clone();
        let mut asker = Asker::new(context, &plan.discoveries, self.lan(), StdRng::from_rng(&mut rng), handle);
        let found =
            self.find_members(&mut asker, doorman.charter(), (&rpc, &executor), addr, plan.timings.solo_after).await;
        let Found { seeds: seed_addrs, met, generation } = match found {
            Ok(found) => found,
            Err(error) => {
                transport.shutdown().await;
                executor.end().await;
                return Err(error);
            }
        };
        let name_alone = mutated(Mutation::BootUsedAgain);
        let nonce = if name_alone { xxhash_rust::xxh3::xxh3_128(self.name.as_bytes()) } else { rng.random() };
        let id = NodeId { name: plan.name.clone(), boot: Boot { generation, nonce } };
        let own = Identity { node: id.clone(), rejoin: 0, addr };
        doorman.set_own(own.clone());
        transport.set_local(id.clone());

        let mut table = Table::new(id.clone());
        let profile = postcard::to_allocvec(&plan.profile).expect("a profile encodes");
        table.set(PROFILE_KEY, profile).expect("a profile is within the limits: its parts were checked");
        if self.speaks.says_so() {
            let speaks = postcard::to_allocvec(&self.speaks).expect("numbers encode");
            table.set(WIRE_KEY, speaks).expect("they are within the limits");
        }
        if let Some(addresses) = plan.addresses {
            table.set(ADDRESSES_KEY, addresses).expect("they are within the limits: they were checked");
        }
        table.set(KEYS_KEY, plan.ring.shown().to_bytes()).expect("a ring is within the limits");
        let table = Arc::new(Mutex::new(table));
        let core = Core::new(own, &plan.timings, StdRng::from_rng(&mut rng), table.clone());
        let (commands, commands_in) = mpsc::channel(COMMAND_QUEUE);
        serve(&rpc, &commands);
        let documents = Arc::new(Documents::default());
        documents.serve(&rpc);
        let topics = Arc::new(Topics::default());
        if self.speaks.says_so() {
            topics.serve(&rpc);
        }

        let (members, stop, joined) = (Members::new(), Arc::new(watch::Sender::new(None)), watch::Sender::new(false));
        let (joined, stats) = (Arc::new(joined), Arc::new(watch::Sender::default()));
        let mut background = JoinSet::new();
        let (counts, memory) = (asker.counts(), Memory::of(&self.env, self.data_dir.as_ref()));
        asker.announce(&mut background);
        let ask_for_ever =
            asker.run(plan.timings.announce_interval, seed_addrs.clone(), memory, members.clone(), commands.clone());
        executor.spawn_in(&mut background, ask_for_ever);
        let charter = doorman.charter().clone();
        let former = Former {
            own: id.clone(),
            cluster: self.cluster.clone(),
            expected: self.expected.map(|nodes| nodes as u32),
            patience: plan.timings.probe_period * 4,
            charter: charter.clone(),
            members: members.clone(),
            rpc: rpc.clone(),
            env: self.env.clone(),
            folder: self.data_dir.clone(),
            rng: StdRng::from_rng(&mut rng),
        };
        let asked = former.serve();
        executor.spawn_in(&mut background, former.run(asked));
        let (news, (orders, ordered)) = (Arc::new(Notify::new()), mpsc::channel(ORDERS));
        let keyring = Keyring::new(id.clone(), members.clone(), table.clone(), orders);
        let keeper = Keeper {
            own: id.clone(),
            env: self.env.clone(),
            members: members.clone(),
            table: table.clone(),
            rpc: rpc.clone(),
            transport: transport.clone(),
            ring,
            news: news.clone(),
            leaf_seed: self.certificates.is_none().then_some(leaf_seed),
        };
        let brought = keeper.serve();
        executor.spawn_in(&mut background, keeper.run(ordered, brought));
        let parts = Parts {
            core,
            table: table.clone(),
            members: members.clone(),
            sealer: Sealer::new(&plan.ring, &self.cluster, id.boot),
            opener: Opener::new(&plan.ring, &self.cluster, id.boot),
            ring: rings,
            news,
            rpc: rpc.clone(),
            transport: transport.clone(),
            doorman,
            drops: drops.clone(),
            timings: plan.timings.clone(),
            datagrams,
            commands: commands_in,
            stop: stop.clone(),
            joined: joined.clone(),
            stats: stats.clone(),
            rng,
            background,
            forms: self.expected.is_some(),
        };
        tracing::info!(node = %id, %addr, cluster = %self.cluster, "node started");

        // The driver waits until the services are in place.
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let span = tracing::info_span!("node", name = %id.name, boot = %id.boot);
        let drive = async move {
            if begun.await.is_ok() {
                Driver::new(parts, met, seed_addrs).run().await;
            }
        };
        let driver = executor.spawn(drive.instrument(span));
        let node = Node::new(Inner {
            id,
            addr,
            cluster: self.cluster.clone(),
            env: self.env.clone(),
            members,
            rpc,
            transport,
            table,
            commands,
            drops,
            discovery: counts,
            charter,
            documents,
            presences: Presences::default(),
            topics,
            keyring,
            stop,
            joined,
            stats,
            driver,
            executor,
        });
        let prepared = prepare(&node);
        let _ = begin.send(());
        match node.ready().await {
            Ok(()) => Ok((node, prepared)),
            // It was never a member for long enough to learn of it, so it is no process that another one took over from.
            Err(Error::NameTaken { by }) => {
                node.stop().await;
                Err(Error::Outpaced { by })
            }
            Err(error) => Err(error),
        }
    }

    /// What the preset looks for by itself: on one machine nothing has to be told.
    fn lan(&self) -> Option<Arc<dyn Discovery>> {
        (self.default_discovery && self.preset == Preset::Local).then(|| Arc::new(Multicast::new()) as _)
    }

    /// Finds out where others are, meets one if there is one, and which generation this node is.
    async fn find_members(
        &self,
        asker: &mut Asker,
        charter: &Charter,
        (rpc, executor): (&Rpc, &Executor),
        own: SocketAddr,
        patience: Duration,
    ) -> Result<Found, Error> {
        let unread = |error| ground("cannot read the id of the cluster", error);
        if let Some(id) = remembered(&self.env, self.data_dir.as_ref(), &self.cluster).map_err(unread)? {
            charter.adopt(id);
        }
        let First { seeds, is_first } = asker.first().await?;
        let (met, heard) = self.meet((rpc, executor), own, &seeds, patience).await?;
        let known = met.iter().map(|(_, generation)| *generation).max();
        let generation = self.next_generation(known, !heard && !is_first)?;
        Ok(Found { seeds, met: met.into_iter().map(|(identity, _)| identity).collect(), generation })
    }

    fn validate(&self) -> Result<Plan, Error> {
        let name = NodeName::new(&self.name)?;
        let word = |setting, word: &str| {
            if word.is_empty() || word.len() > MAX_WORD_BYTES {
                return Err(Error::config(setting, format!("1 to {MAX_WORD_BYTES} bytes, not {word:?}")));
            }
            Ok(())
        };
        word("cluster", &self.cluster)?;
        self.roles.iter().try_for_each(|role| word("role", role))?;
        for (key, value) in &self.settings {
            word("must_match", key)?;
            word("must_match", value)?;
        }
        if self.settings.len() > crate::hello::MAX_SETTINGS {
            return Err(Error::config("must_match", format!("at most {}", crate::hello::MAX_SETTINGS)));
        }
        if self.roles.len() > MAX_ROLES {
            return Err(Error::config("role", format!("at most {MAX_ROLES}, not {}", self.roles.len())));
        }
        if self.expected.is_some_and(|nodes| nodes == 0 || nodes > MAX_EXPECTED) {
            return Err(Error::config("expect", format!("1 to {MAX_EXPECTED} nodes")));
        }
        let mut discoveries = self.discoveries.clone();
        if !self.seeds.is_empty() {
            discoveries.insert(0, Arc::new(StaticList::new(&self.seeds)?));
        }
        if discoveries.len() > MAX_DISCOVERIES {
            let problem = format!("at most {MAX_DISCOVERIES} discoveries with the seeds, not {}", discoveries.len());
            return Err(Error::config("discover", problem));
        }
        let addr = |setting, text: &str| {
            text.parse::<SocketAddr>()
                .map_err(|_| Error::config(setting, format!("IP:PORT, such as 127.0.0.1:7946, not {text:?}")))
        };
        let listen = addr("listen", &self.listen)?;
        let advertise = self.advertise.as_deref().map(|text| addr("advertise", text)).transpose()?;
        if advertise.unwrap_or(listen).ip().is_unspecified() {
            return Err(Error::config("advertise", "others cannot reach an unspecified address: name one"));
        }
        let secret = match &self.secret {
            Some(secret) => secret.check()?,
            None if self.preset == Preset::Local && listen.ip().is_loopback() => Secret::open(&self.cluster),
            None => {
                return Err(Error::config("secret", "required, unless all is on loopback with the preset `Local`"));
            }
        };
        let trusted: Vec<_> = self.trusted.iter().map(Given::check).collect::<Result<_, _>>()?;
        let ring = Ring::new(secret, trusted)?;
        let timings = self.timings.clone().unwrap_or_else(|| Timings::preset(self.preset));
        timings.validate().map_err(|problem| Error::config("timings", problem))?;
        let profile = Profile {
            weight: Weight::new(self.weight)?,
            zone: self.zone.as_deref().map(Zone::new).transpose()?,
            roles: self.roles.clone(),
            draining: false,
            left: false,
        };
        let addresses = (!self.addresses.is_empty()).then(|| encode_addresses(&self.addresses)).transpose()?;
        Ok(Plan { name, listen, advertise, ring, timings, profile, addresses, discoveries })
    }

    fn tls(&self, plan: &Plan, leaf_seed: &[u8; 32]) -> Result<TlsIdentity, Error> {
        match &self.certificates {
            Some(certificates) => Ok(certificates.identity(&self.env, &plan.name)?),
            None => TlsIdentity::of_ring(self.env.ground().crypto(), &plan.ring, &plan.name, leaf_seed)
                .map_err(|error| Error::config("secret", error.to_string())),
        }
    }

    /// Opens the socket and starts the transport on it.
    #[allow(clippy::type_complexity, reason = "the parts go to one place each")]
    fn open(
        &self,
        plan: &Plan,
        executor: &Executor,
        rng: &mut StdRng,
        (rings, tls): (&watch::Receiver<Arc<Ring>>, TlsIdentity),
        drops: &Arc<Drops>,
    ) -> Result<(Arc<Transport>, SocketAddr, Arc<Doorman>, mpsc::Receiver<(SocketAddr, Vec<u8>)>), Error> {
        let _entered = executor.enter();
        let listen_error = |source| Error::Listen { addr: plan.listen, source: Arc::new(source) };
        let socket = self.env.ground().bind(plan.listen).map_err(listen_error)?;
        let bound = socket.local_addr().map_err(listen_error)?;
        let mut addr = plan.advertise.unwrap_or(bound);
        if addr.port() == 0 {
            addr.set_port(bound.port());
        }
        let doorman = Arc::new(Doorman::new(
            (self.cluster.clone(), self.settings.clone()),
            plan.name.clone(),
            addr,
            self.speaks,
            rings.clone(),
        ));
        let (datagrams, datagrams_in) = mpsc::channel(DATAGRAM_QUEUE);
        let gossip = Arc::new(GossipQueue { queue: datagrams, drops: drops.clone() });
        let parts = TransportParts {
            socket,
            rng_seed: rng.random(),
            tls,
            reset_key: *plan.ring.primary().1.reset_key(&plan.name),
            config: TransportConfig::default(),
            policy: doorman.clone(),
            gossip,
            gate: self.env.ground().gate(),
        };
        let transport = Transport::start(parts).map_err(|e| listen_error(std::io::Error::other(e)))?;
        Ok((Arc::new(transport), addr, doorman, datagrams_in))
    }

    /// Greets all seeds until one lets us in. Returns who did, and our name's generation as they know it; nobody, if
    /// none was there within `patience`. Returns too whether any was heard of, be it that it was starting itself.
    ///
    /// If all of them are there and start too, none of them is a member of anything: the one with the lowest address need
    /// not wait, and the others join it.
    async fn meet(
        &self,
        (rpc, executor): (&Rpc, &Executor),
        own: SocketAddr,
        seeds: &BTreeSet<SocketAddr>,
        patience: Duration,
    ) -> Result<(Vec<(Identity, u64)>, bool), Error> {
        // Who was heard of, and whether it starts too.
        let heard = Arc::new(watch::Sender::new(BTreeMap::new()));
        let deadline = Instant::now() + patience;
        let mut greetings = JoinSet::new();
        for seed in seeds.iter().copied() {
            let (rpc, heard) = (rpc.clone(), heard.clone());
            let greeting = async move {
                // Each try is a handshake: seeds that wait for each other must not keep each other busy.
                let mut again = GREET_AGAIN;
                loop {
                    match rpc.greet(seed, patience).await {
                        Ok(greeting) => return Ok((greeting.id, greeting.your_generation)),
                        Err(error) => match error.kind() {
                            RpcErrorKind::Refused(refusal) if !refusal.is_retryable() => {
                                return Err(Error::Refused { seed, refusal: refusal.clone() });
                            }
                            RpcErrorKind::Untrusted(cause) => {
                                return Err(Error::Untrusted { seed, cause: cause.clone() });
                            }
                            RpcErrorKind::Outdated(cause) => {
                                return Err(Error::Outdated { seed, cause: cause.clone() });
                            }
                            kind => {
                                if let RpcErrorKind::Refused(refusal) = kind {
                                    let starts = matches!(refusal, Refusal::Starting);
                                    heard.send_if_modified(|heard| heard.insert(seed, starts) != Some(starts));
                                }
                                tokio::time::sleep(again).await;
                                again = (again * 2).min(GREET_AGAIN_AT_MOST);
                            }
                        },
                    }
                }
            };
            greetings.spawn_on(greeting, executor.handle());
        }
        let (mut met, mut refused) = (Vec::new(), None);
        let mut news = heard.subscribe();
        let is_first_of_all = |heard: &BTreeMap<SocketAddr, bool>| {
            seeds.first() > Some(&own) && seeds.iter().all(|seed| heard.get(seed) == Some(&true))
        };
        // Who is slower than the first that answers is met by gossip.
        while met.is_empty() {
            tokio::select! {
                biased;
                answer = greetings.join_next() => match answer {
                    Some(Ok(Ok(greeting))) => met.push(greeting),
                    Some(Ok(Err(error))) => refused = Some(error),
                    Some(Err(_)) => {}
                    None => break,
                },
                _ = news.wait_for(is_first_of_all) => break,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        match refused {
            Some(error) if met.is_empty() => Err(error),
            _ => {
                let heard = !met.is_empty() || !heard.borrow().is_empty();
                Ok((met, heard))
            }
        }
    }

    /// One more than what the seeds and our own folder know of our name.
    ///
    /// A node that is `cut_off` from all seeds, and may have lost its folder, cannot know what it was before. The wall
    /// clock is then the best guess: most likely it is above, and if it is not, the node stops when it meets its cluster.
    fn next_generation(&self, known: Option<u64>, cut_off: bool) -> Result<u64, Error> {
        let path = self.data_dir.as_ref().map(|folder| folder.join(GENERATION_FILE));
        let mut newest = known.unwrap_or(0);
        let ground_of = self.env.ground();
        if let Some(path) = &path {
            let error = |e| ground(&format!("cannot read {}", path.display()), e);
            if let Some(content) = ground_of.read(path).map_err(error)? {
                // A disk that lost or tore the file is one that was replaced: the seeds know the generation, and a node
                // that meets a newer one of its name stops.
                match String::from_utf8_lossy(&content).trim().parse::<u64>() {
                    Ok(remembered) => newest = newest.max(remembered),
                    Err(cause) => tracing::warn!(path = %path.display(), %cause, "the generation file is damaged"),
                }
            }
        }
        if cut_off {
            let since = self.env.ground().wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            newest = newest.max(since.as_millis() as u64);
        }
        let step = if newest > 0 && mutated(Mutation::BootUsedAgain) { 0 } else { 1 };
        let generation = newest.saturating_add(step);
        if let Some(path) = &path {
            ground_of
                .write(path, generation.to_string().as_bytes())
                .map_err(|e| ground(&format!("cannot write {}", path.display()), e))?;
        }
        Ok(generation)
    }
}

fn ground(action: &str, source: std::io::Error) -> Error {
    Error::Ground { action: action.to_owned(), source: Arc::new(source) }
}

/// Hands gossip from the socket to the driver.
struct GossipQueue {
    queue: mpsc::Sender<(SocketAddr, Vec<u8>)>,
    drops: Arc<Drops>,
}

impl GossipSink for GossipQueue {
    fn datagram(&self, from: SocketAddr, bytes: &[u8]) {
        if bytes.len() > MAX_DATAGRAM_BYTES {
            self.drops.count(DropReason::Oversized);
        } else if self.queue.try_send((from, bytes.to_vec())).is_err() {
            self.drops.count(DropReason::Overload);
        }
    }
}

/// Lets peers reach the driver. A full queue drops the request, and its sender is told so.
fn serve(rpc: &Rpc, commands: &mpsc::Sender<Command>) {
    let queue = commands.clone();
    rpc.serve(PUSH_PULL, move |_, request, reply| {
        let _ = queue.try_send(Command::PushPull(request, reply));
    });
    let queue = commands.clone();
    rpc.serve(TELL, move |caller, tell, reply| {
        let _ = queue.try_send(Command::Tell(caller.node.name.clone(), tell, reply));
    });
}
