//! From a description to a running node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::config::{Preset, Timings};
use crate::document::Documents;
use crate::doorman::Doorman;
use crate::driver::{COMMAND_QUEUE, Command, DATAGRAM_QUEUE, Driver, Drops, Parts};
use crate::error::Error;
use crate::exchange::{PUSH_PULL, TELL};
use crate::ground::{Env, Executor};
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::membership::core::Core;
use crate::membership::view::Members;
use crate::mutation::{Mutation, mutated};
use crate::node::{Inner, Node};
use crate::presence::Presences;
use crate::rpc::{Rpc, RpcErrorKind};
use crate::secure::Secret;
use crate::secure::envelope::{DropReason, MAX_DATAGRAM_BYTES, Opener, Sealer};
use crate::secure::tls::TlsIdentity;
use crate::state::{PROFILE_KEY, Profile, Table, Weight, Zone};
use crate::topic::Topics;
use crate::transport::config::TransportConfig;
use crate::transport::socket::GossipSink;
use crate::transport::{Transport, TransportParts};

/// The longest name of a cluster and of a role, in bytes.
const MAX_WORD_BYTES: usize = 64;
/// The most roles that a node may have.
const MAX_ROLES: usize = 8;
/// The most seeds: more are not more certain, and each is greeted for ever.
const MAX_SEEDS: usize = 64;
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
    secret: Option<Vec<u8>>,
    preset: Preset,
    timings: Option<Timings>,
    weight: u16,
    zone: Option<String>,
    roles: Vec<String>,
    settings: BTreeMap<String, String>,
    data_dir: Option<PathBuf>,
    callers_runtime: bool,
    env: Env,
}

/// A description that was found to be in order.
struct Plan {
    name: NodeName,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
    secret: Secret,
    timings: Timings,
    profile: Profile,
}

impl Builder {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            cluster: "polity".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            seeds: Vec::new(),
            secret: None,
            preset: Preset::default(),
            timings: None,
            weight: Weight::default().get(),
            zone: None,
            roles: Vec::new(),
            settings: BTreeMap::new(),
            data_dir: None,
            callers_runtime: false,
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
    /// while nobody is up at their address. A node's own address may be among them.
    pub fn seeds<S: ToString>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(|seed| seed.to_string()).collect();
        self
    }

    /// The cluster's secret: at least 32 random bytes. Required unless all is on loopback with [`Preset::Local`].
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(secret.into());
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

    /// A setting in which all members must agree. A node that differs is refused, and told the difference.
    pub fn must_match(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.settings.insert(key.into(), value.to_string());
        self
    }

    /// A folder of this node's own, where it remembers its generation, so that a restart is newer than the life before
    /// even while no seed answers.
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

    /// What the node stands on: the simulator's ground, for example.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// Starts the node. Returns when it is a member: it has exchanged all state with another, or it is the first, because
    /// it has no seeds but itself.
    ///
    /// A node that reaches none of its seeds waits for one, for as long as it takes: it may be one of a cluster that it
    /// is cut off from. Nodes that start at the same time and find each other found the cluster together. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running.
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
        let executor = if self.callers_runtime || !self.env.ground().own_thread() {
            Executor::of_caller(self.env.ground().gate())
        } else {
            Executor::own_thread(&self.name, self.env.ground().gate())
        };
        let executor = executor.map_err(|e| ground("cannot start the node's thread", e))?;
        let mut rng = StdRng::from_seed(self.env.ground().seed());

        let drops = Arc::new(Drops::default());
        let (transport, addr, doorman, datagrams) = self.open(&plan, &executor, &mut rng, &drops)?;
        let rpc = Rpc::new(Arc::clone(transport.shared()));
        let (seed_addrs, is_first) = self.resolve_seeds(addr).await;
        let (met, heard) = match self.meet(&rpc, &executor, &seed_addrs, plan.timings.solo_after).await {
            Ok(answers) => answers,
            Err(error) => {
                transport.shutdown().await;
                return Err(error);
            }
        };

        let known = met.iter().map(|(_, generation)| *generation).max();
        let generation = self.next_generation(known, !heard && !is_first)?;
        let name_alone = mutated(Mutation::BootUsedAgain);
        let nonce = if name_alone { xxhash_rust::xxh3::xxh3_128(self.name.as_bytes()) } else { rng.random() };
        let id = NodeId { name: plan.name.clone(), boot: Boot { generation, nonce } };
        let own = Identity { node: id.clone(), rejoin: 0, addr };
        doorman.set_own(own.clone());
        transport.set_local(id.clone());

        let mut table = Table::new(id.clone());
        let profile = postcard::to_allocvec(&plan.profile).expect("a profile encodes");
        table.set(PROFILE_KEY, profile)?;
        let table = Arc::new(Mutex::new(table));
        let core = Core::new(own, &plan.timings, StdRng::from_rng(&mut rng), table.clone());
        let (commands, commands_in) = mpsc::channel(COMMAND_QUEUE);
        serve(&rpc, &commands);
        let documents = Arc::new(Documents::default());
        documents.serve(&rpc);
        let topics = Arc::new(Topics::default());
        topics.serve(&rpc);

        let (members, stop, joined) = (Members::new(), Arc::new(watch::Sender::new(None)), watch::Sender::new(false));
        let joined = Arc::new(joined);
        let parts = Parts {
            core,
            table: table.clone(),
            members: members.clone(),
            sealer: Sealer::new(&plan.secret, &self.cluster, id.boot),
            opener: Opener::new(&plan.secret, &self.cluster, id.boot),
            rpc: rpc.clone(),
            transport: transport.clone(),
            doorman,
            drops: drops.clone(),
            timings: plan.timings.clone(),
            datagrams,
            commands: commands_in,
            stop: stop.clone(),
            joined: joined.clone(),
            rng,
        };
        tracing::info!(node = %id, %addr, cluster = %self.cluster, "node started");

        // The driver waits until the services are in place.
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let greeted = met.into_iter().map(|(identity, _)| identity).collect();
        let span = tracing::info_span!("node", name = %id.name, boot = %id.boot);
        let drive = async move {
            if begun.await.is_ok() {
                Driver::new(parts, greeted, seed_addrs).run().await;
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
            documents,
            presences: Presences::default(),
            topics,
            stop,
            joined,
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
        if self.seeds.len() > MAX_SEEDS {
            return Err(Error::config("seeds", format!("at most {MAX_SEEDS}, not {}", self.seeds.len())));
        }
        for seed in &self.seeds {
            let port = seed.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if !port.is_some_and(|(host, port)| !host.is_empty() && port != 0) {
                return Err(Error::config("seeds", format!("HOST:PORT, not {seed:?}")));
            }
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
            Some(secret) => Secret::new(secret.clone())?,
            None if self.preset == Preset::Local && listen.ip().is_loopback() => Secret::open(&self.cluster),
            None => {
                return Err(Error::config("secret", "required, unless all is on loopback with the preset `Local`"));
            }
        };
        let timings = self.timings.clone().unwrap_or_else(|| Timings::preset(self.preset));
        timings.validate().map_err(|problem| Error::config("timings", problem))?;
        let profile = Profile {
            weight: Weight::new(self.weight)?,
            zone: self.zone.as_deref().map(Zone::new).transpose()?,
            roles: self.roles.clone(),
            draining: false,
            left: false,
        };
        Ok(Plan { name, listen, advertise, secret, timings, profile })
    }

    /// Opens the socket and starts the transport on it.
    #[allow(clippy::type_complexity, reason = "the parts go to one place each")]
    fn open(
        &self,
        plan: &Plan,
        executor: &Executor,
        rng: &mut StdRng,
        drops: &Arc<Drops>,
    ) -> Result<(Arc<Transport>, SocketAddr, Arc<Doorman>, mpsc::Receiver<Vec<u8>>), Error> {
        let _entered = executor.enter();
        let listen_error = |source| Error::Listen { addr: plan.listen, source: Arc::new(source) };
        let socket = self.env.ground().bind(plan.listen).map_err(listen_error)?;
        let bound = socket.local_addr().map_err(listen_error)?;
        let mut addr = plan.advertise.unwrap_or(bound);
        if addr.port() == 0 {
            addr.set_port(bound.port());
        }
        let doorman = Arc::new(Doorman::new(self.cluster.clone(), self.settings.clone(), plan.name.clone(), addr));
        let (datagrams, datagrams_in) = mpsc::channel::<Vec<u8>>(DATAGRAM_QUEUE);
        let gossip = Arc::new(GossipQueue { queue: datagrams, drops: drops.clone() });
        let parts = TransportParts {
            socket,
            rng_seed: rng.random(),
            tls: TlsIdentity::with_provider(
                self.env.ground().crypto(),
                &plan.secret.ca_seed(),
                &plan.name,
                &rng.random(),
            )
            .map_err(|e| Error::config("secret", e.to_string()))?,
            reset_key: *plan.secret.reset_key(&plan.name),
            config: TransportConfig::default(),
            policy: doorman.clone(),
            gossip,
            gate: self.env.ground().gate(),
        };
        let transport = Transport::start(parts).map_err(|e| listen_error(std::io::Error::other(e)))?;
        Ok((Arc::new(transport), addr, doorman, datagrams_in))
    }

    /// The seeds' addresses without our own, and whether there are none at all: the node is then the first. A name that
    /// does not resolve now is logged and left out.
    async fn resolve_seeds(&self, own: SocketAddr) -> (BTreeSet<SocketAddr>, bool) {
        let mut unresolved = false;
        let mut addrs = BTreeSet::new();
        for seed in &self.seeds {
            match self.env.ground().resolve(seed).await {
                Ok(found) => addrs.extend(found),
                Err(error) => {
                    tracing::warn!(%seed, %error, "a seed does not resolve");
                    unresolved = true;
                }
            }
        }
        addrs.remove(&own);
        let is_first = addrs.is_empty() && !unresolved;
        (addrs, is_first)
    }

    /// Greets all seeds until one lets us in. Returns who did, and our name's generation as they know it; nobody, if
    /// none was there within `patience`. Returns too whether any was heard of, be it that it was starting itself.
    async fn meet(
        &self,
        rpc: &Rpc,
        executor: &Executor,
        seeds: &BTreeSet<SocketAddr>,
        patience: Duration,
    ) -> Result<(Vec<(Identity, u64)>, bool), Error> {
        let heard = Arc::new(AtomicBool::new(false));
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
                            kind => {
                                if matches!(kind, RpcErrorKind::Refused(_)) {
                                    heard.store(true, Ordering::Relaxed);
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
        // The first that answers may be followed at once by others; who is slower is met by gossip.
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, greetings.join_next()).await {
            match answer {
                Ok(Ok(greeting)) => met.push(greeting),
                Ok(Err(error)) => refused = Some(error),
                Err(_) => {}
            }
            if !met.is_empty() {
                break;
            }
        }
        match refused {
            Some(error) if met.is_empty() => Err(error),
            _ => {
                let heard = !met.is_empty() || heard.load(Ordering::Relaxed);
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
    queue: mpsc::Sender<Vec<u8>>,
    drops: Arc<Drops>,
}

impl GossipSink for GossipQueue {
    fn datagram(&self, _: SocketAddr, bytes: &[u8]) {
        if bytes.len() > MAX_DATAGRAM_BYTES {
            self.drops.count(DropReason::Oversized);
        } else if self.queue.try_send(bytes.to_vec()).is_err() {
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
    rpc.serve(TELL, move |_, tell, reply| {
        let _ = queue.try_send(Command::Tell(tell, reply));
    });
}
