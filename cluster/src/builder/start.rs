//! From a description that is in order to a running node.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use super::meeting::Found;
use super::plan::Plan;
use super::{Builder, ground};
use crate::config::Preset;
use crate::discovery::{Asker, Context, Discovery, Memory, Multicast};
use crate::document::Documents;
use crate::doorman::Doorman;
use crate::driver::{COMMAND_QUEUE, Command, DATAGRAM_QUEUE, Driver, Drops, Parts};
use crate::error::Error;
use crate::exchange::{PUSH_PULL, TELL};
use crate::formation::driver::Former;
use crate::ground::Executor;
use crate::identity::{Boot, Identity, NodeId};
use crate::keyring::{Keeper, Keyring, ORDERS};
use crate::membership::core::Core;
use crate::membership::view::Members;
use crate::mutation::{Mutation, mutated};
use crate::node::{Inner, Node};
use crate::presence::Presences;
use crate::rpc::Rpc;
use crate::secure::envelope::{DropReason, MAX_DATAGRAM_BYTES, Opener, Sealer};
use crate::secure::ring::{KEYS_KEY, Ring};
use crate::secure::tls::TlsIdentity;
use crate::state::{ADDRESSES_KEY, PROFILE_KEY, Table};
use crate::topic::Topics;
use crate::transport::config::TransportConfig;
use crate::transport::socket::GossipSink;
use crate::transport::{Transport, TransportParts};
use crate::version::WIRE_KEY;

/// How many boots a start tries, if the cluster knows newer ones than the seeds do.
const BOOTS: u32 = 4;
/// How long a start that has failed waits for what is left of it to go: it has nothing left to do.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// What a start has taken, and is free again once it has failed: the node's thread and its port.
#[derive(Default)]
struct Remains(Vec<oneshot::Receiver<()>>);

impl Remains {
    /// To be dropped when something is free again.
    fn hold(&mut self) -> oneshot::Sender<()> {
        let (held, free) = oneshot::channel();
        self.0.push(free);
        held
    }

    /// Waits until all is free. That takes until tasks that were stopped have been let go of, and as long as somebody keeps a
    /// handle of the node: no longer than [`GONE_WITHIN`].
    async fn gone(self) {
        let all = async {
            for free in self.0 {
                let _ = free.await;
            }
        };
        let _ = timeout(GONE_WITHIN, all).await;
    }
}

impl Builder {
    /// Like [`Builder::start`], and calls `prepare` when the node has its identity and before any peer can know of it:
    /// the place to register the services that a member must have. It is called again for a newer boot if the cluster
    /// knows of one; what came of the earlier call is dropped then.
    ///
    /// # Errors
    /// Those of [`Builder::start`].
    pub async fn start_with<T>(self, mut prepare: impl FnMut(&Node) -> T) -> Result<(Node, T), Error> {
        let (mut newest, mut left) = (0, BOOTS);
        loop {
            left -= 1;
            let mut remains = Remains::default();
            let outcome = self.try_to_start(newest, &mut prepare, &mut remains).await;
            if outcome.is_err() {
                remains.gone().await;
            }
            if let Err(Error::Outpaced { by }) = &outcome {
                // Also for whoever starts this node after this process.
                newest = by.generation;
                self.remember_generation(newest)?;
                if left > 0 {
                    tracing::info!(name = %self.name, %by, "the cluster knows a newer boot than the seeds did: begin again");
                    continue;
                }
            }
            return outcome;
        }
    }

    /// Starts one boot, newer than the generation that is known.
    async fn try_to_start<T>(
        &self,
        newest: u64,
        prepare: &mut impl FnMut(&Node) -> T,
        remains: &mut Remains,
    ) -> Result<(Node, T), Error> {
        let plan = self.validate()?;
        let mut rng = StdRng::from_seed(self.env.ground().seed());
        let leaf_seed = Zeroizing::new(rng.random());
        let tls = self.tls(&plan, &leaf_seed)?;
        let executor = if self.callers_runtime || !self.env.ground().own_thread() {
            Executor::of_caller(self.env.ground().gate())
        } else {
            Executor::own_thread(&self.name, self.env.ground().gate(), remains.hold())
        };
        let executor = executor.map_err(|e| ground("cannot start the node's thread", e))?;
        let drops = Arc::new(Drops::default());
        let (ring, rings) = watch::channel(Arc::new(plan.ring.clone()));
        let held = remains.hold();
        let (transport, addr, doorman, datagrams) =
            self.open(&plan, &executor, &mut rng, (&rings, tls), (&drops, held))?;
        let rpc = Rpc::new(Arc::clone(transport.shared()));
        let context = Context::with_ring(self.env.clone(), &self.cluster, rings.clone(), addr);
        let handle = executor.handle().clone();
        let mut asker = Asker::new(context, &plan.discoveries, self.lan(), StdRng::from_rng(&mut rng), handle);
        let patience = plan.timings.solo_after;
        let found = self.find_members(&mut asker, doorman.charter(), (&rpc, &executor), addr, (patience, newest)).await;
        let Found { seeds: seed_addrs, met, generation, remembered } = match found {
            Ok(found) => found,
            Err(error) => {
                transport.shutdown().await;
                return Err(error);
            }
        };
        let name_alone = mutated(Mutation::BootUsedAgain);
        let nonce = if name_alone { xxhash_rust::xxh3::xxh3_128(self.name.as_bytes()) } else { rng.random() };
        let id = NodeId { name: plan.name.clone(), boot: Boot { generation, nonce } };
        let own = Identity { node: id.clone(), rejoin: 0, addr };
        doorman.set_own(own.clone());
        transport.set_local(id.clone());

        let table = Arc::new(Mutex::new(self.own_state(&plan, &id)));
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
        asker.announce(&executor, &mut background);
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
            remembered,
            tell: commands.clone(),
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
            keeps: self.expected.is_some() && self.data_dir.is_some() && remembered.is_none(),
        };
        tracing::info!(node = %id, %addr, cluster = %self.cluster, "node started");

        // The driver waits until the services are in place.
        let (begin, begun) = oneshot::channel::<()>();
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
        let error = match node.ready().await {
            Ok(()) => return Ok((node, prepared)),
            // It was never a member for long enough to learn of it, so it is no process that another one took over from.
            Err(Error::NameTaken { by }) => Error::Outpaced { by },
            Err(error) => error,
        };
        node.stop().await;
        Err(error)
    }

    /// What the node says of itself from the beginning.
    fn own_state(&self, plan: &Plan, id: &NodeId) -> Table {
        let mut table = Table::new(id.clone());
        let speaks = self.speaks.says_so().then(|| (WIRE_KEY, encoded(&self.speaks)));
        let addresses = plan.addresses.clone().map(|addresses| (ADDRESSES_KEY, addresses));
        let always = [(PROFILE_KEY, encoded(&plan.profile)), (KEYS_KEY, plan.ring.shown().to_bytes())];
        for (key, value) in always.into_iter().chain(speaks).chain(addresses) {
            table.set(key, value).expect("it is within the limits: its parts were checked");
        }
        table
    }

    /// What the preset looks for by itself: on one machine nothing has to be told.
    fn lan(&self) -> Option<Arc<dyn Discovery>> {
        (self.default_discovery && self.preset == Preset::Local).then(|| Arc::new(Multicast::new()) as _)
    }

    /// Opens the socket and starts the transport on it.
    #[allow(clippy::type_complexity, reason = "the parts go to one place each")]
    fn open(
        &self,
        plan: &Plan,
        executor: &Executor,
        rng: &mut StdRng,
        (rings, tls): (&watch::Receiver<Arc<Ring>>, TlsIdentity),
        (drops, held): (&Arc<Drops>, oneshot::Sender<()>),
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
            held,
            rng_seed: rng.random(),
            tls,
            reset_key: plan.ring.primary().1.reset_key(&plan.name),
            config: TransportConfig::default(),
            policy: doorman.clone(),
            gossip,
            gate: self.env.ground().gate(),
        };
        let transport = Transport::start(parts).map_err(|e| listen_error(std::io::Error::other(e)))?;
        Ok((Arc::new(transport), addr, doorman, datagrams_in))
    }
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("what a node says of itself encodes")
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
