//! The one task that drives a node's membership and node state.
//!
//! It carries out what the [`Agent`] asks for and tells it what came of it: seals and opens datagrams, makes calls,
//! publishes what changed. Everything reaches it through bounded queues; nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::config::Timings;
use crate::doorman::Doorman;
use crate::exchange::{PUSH_PULL, PushPull, PushPullAnswer, TELL, Tell, TellAnswer};
use crate::formation::{CLUSTER_KEY, ClusterId};
use crate::hello::Refusal;
use crate::identity::{Boot, Identity, NodeName};
use crate::membership::agent::{Agent, Output};
use crate::membership::core::{Core, SharedTable};
use crate::membership::handle::Handle;
use crate::membership::stats::MembershipStats;
use crate::membership::view::{Member, Members};
use crate::rpc::{Peer, Reply, Rpc, RpcError, RpcErrorKind};
use crate::secure::cookie::{Reception, Taken};
use crate::secure::envelope::{DropReason, Opener, Sealer};
use crate::secure::ring::{KEYS_KEY, Ring};
use crate::state::{Entry, Table};
use crate::stop::StopReason;
use crate::transport::Transport;

/// How many datagrams may wait for the driver: a burst of one from each of a thousand members.
pub(crate) const DATAGRAM_QUEUE: usize = 1024;
/// How many requests of peers and handles may wait for the driver.
pub(crate) const COMMAND_QUEUE: usize = 256;

/// Datagrams of gossip that were dropped, by reason.
#[derive(Debug, Default)]
pub(crate) struct Drops([AtomicU64; REASONS.len()]);

const REASONS: [DropReason; 9] = [
    DropReason::Truncated,
    DropReason::Oversized,
    DropReason::Version,
    DropReason::UnknownKey,
    DropReason::Unauthentic,
    DropReason::Replayed,
    DropReason::Malformed,
    DropReason::Overload,
    DropReason::Unproven,
];

impl Drops {
    pub(crate) fn count(&self, reason: DropReason) {
        if let Some(at) = REASONS.iter().position(|r| *r == reason) {
            self.0[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<DropReason, u64> {
        REASONS.iter().zip(&self.0).map(|(reason, count)| (*reason, count.load(Ordering::Relaxed))).collect()
    }
}

/// After how many turns something other than a datagram has its turn, however many datagrams there are.
const DATAGRAMS_IN_A_ROW: u32 = 16;

/// What handles and RPC handlers ask of the driver.
pub(crate) enum Command {
    PushPull(PushPull, Reply<PushPullAnswer>),
    Tell(NodeName, Tell, Reply<TellAnswer>),
    /// Our own node state has a new entry.
    Spread(Entry),
    /// These are the seeds from now on.
    Seeds(BTreeSet<SocketAddr>),
    /// The cluster's id is where a restart finds it.
    Kept,
    /// Say farewell within this time, and stop.
    Leave(Duration, oneshot::Sender<()>),
}

/// What an errand came back with.
enum Done {
    Exchanged(Handle, Result<PushPullAnswer, RpcError>),
    Greeted(Result<Identity, RpcError>),
    Told(Handle, Result<TellAnswer, RpcError>),
    Farewell,
}

/// The parts that a driver is made of.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) table: SharedTable,
    pub(crate) members: Members,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    /// The node's secrets, as the keyring's task changes them.
    pub(crate) ring: watch::Receiver<Arc<Ring>>,
    /// Tells that task that members or their node state have changed.
    pub(crate) news: Arc<Notify>,
    pub(crate) rpc: Rpc,
    pub(crate) transport: Arc<Transport>,
    pub(crate) doorman: Arc<Doorman>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) timings: Timings,
    /// With the addresses that they came from.
    pub(crate) datagrams: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) stop: Arc<watch::Sender<Option<StopReason>>>,
    pub(crate) joined: Arc<watch::Sender<bool>>,
    pub(crate) stats: Arc<watch::Sender<MembershipStats>>,
    pub(crate) rng: StdRng,
    /// What runs beside the driver and ends with it.
    pub(crate) background: JoinSet<()>,
    /// Whether the node is ready only once its cluster has an id.
    pub(crate) forms: bool,
    /// Whether it is ready only once the id is where a restart finds it.
    pub(crate) keeps: bool,
}

pub(crate) struct Driver {
    agent: Agent,
    table: SharedTable,
    members: Members,
    sealer: Sealer,
    reception: Reception,
    ring: watch::Receiver<Arc<Ring>>,
    news: Arc<Notify>,
    rpc: Rpc,
    transport: Arc<Transport>,
    doorman: Arc<Doorman>,
    drops: Arc<Drops>,
    datagrams: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    commands: mpsc::Receiver<Command>,
    stop: Arc<watch::Sender<Option<StopReason>>>,
    joined: Arc<watch::Sender<bool>>,
    stats: Arc<watch::Sender<MembershipStats>>,
    started: Instant,
    errands: JoinSet<Done>,
    /// Who waits for us to have left.
    leaving: Option<oneshot::Sender<()>>,
    background: JoinSet<()>,
    forms: bool,
    keeps: bool,
    charter: watch::Receiver<Option<ClusterId>>,
    chartered: bool,
}

impl Driver {
    /// A driver that has met `greeted` already.
    pub(crate) fn new(mut parts: Parts, greeted: Vec<Identity>, seeds: BTreeSet<SocketAddr>) -> Self {
        let charter = parts.doorman.charter().subscribe();
        let reception = Reception::new(parts.opener, StdRng::from_rng(&mut parts.rng));
        let mut driver = Self {
            agent: Agent::new((parts.core, parts.table.clone(), parts.timings, parts.rng), greeted, seeds),
            table: parts.table,
            members: parts.members,
            sealer: parts.sealer,
            reception,
            ring: parts.ring,
            news: parts.news,
            rpc: parts.rpc,
            transport: parts.transport,
            doorman: parts.doorman,
            drops: parts.drops,
            datagrams: parts.datagrams,
            commands: parts.commands,
            stop: parts.stop,
            joined: parts.joined,
            stats: parts.stats,
            started: Instant::now(),
            errands: JoinSet::new(),
            leaving: None,
            background: parts.background,
            forms: parts.forms,
            keeps: parts.keeps,
            charter,
            chartered: false,
        };
        driver.take_charter();
        driver.carry_out();
        driver
    }

    /// Runs until the node stops.
    pub(crate) async fn run(mut self) {
        let mut stopped = self.stop.subscribe();
        let mut in_a_row = 0;
        loop {
            if in_a_row >= DATAGRAMS_IN_A_ROW {
                in_a_row = 0;
                self.take_what_waits();
            }
            in_a_row += 1;
            self.publish();
            let due = self.agent.poll_timeout().map(|due| self.started + due);
            tokio::select! {
                biased;
                () = until_stopped(&mut stopped) => break,
                Ok(()) = self.charter.changed() => self.take_charter(),
                Ok(()) = self.ring.changed() => self.take_ring(),
                Some((from, mut datagram)) = self.datagrams.recv() => self.handle_datagram(from, &mut datagram),
                Some(command) = self.commands.recv() => self.handle_command(command),
                Some(done) = self.errands.join_next(), if !self.errands.is_empty() => self.handle_ended(done),
                () = tokio::time::sleep_until(due.unwrap_or(self.started)), if due.is_some() => {}
            }
            let now = self.now();
            self.agent.handle_timeout(now);
            self.carry_out();
        }
        self.background.shutdown().await;
        self.errands.shutdown().await;
        // Whoever was superseded must not be served by either.
        self.transport.shutdown().await;
    }

    /// Takes what would have to wait for as long as datagrams come, whoever sends them.
    fn take_what_waits(&mut self) {
        if let Ok(command) = self.commands.try_recv() {
            self.handle_command(command);
        }
        if let Some(done) = self.errands.try_join_next() {
            self.handle_ended(done);
        }
    }

    fn handle_ended(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(done) => self.handle_done(done),
            // An errand that panicked has brought nothing.
            Err(_) => self.agent.handle_failed(None),
        }
    }

    /// From now on we listen only to members of our own cluster, if that has an id, and tell everyone which it is.
    fn take_charter(&mut self) {
        let Some(id) = self.charter.borrow_and_update().filter(|_| !self.chartered) else { return };
        self.chartered = true;
        self.sealer.charter(id);
        self.reception.charter(id);
        self.say(CLUSTER_KEY, id.to_bytes().to_vec());
    }

    /// Seals and opens with other keys from now on. Only then are they shown, so that others may rely on it.
    fn take_ring(&mut self) {
        let ring = Arc::clone(&self.ring.borrow_and_update());
        self.sealer.set_ring(&ring);
        self.reception.set_ring(&ring);
        self.say(KEYS_KEY, ring.shown().to_bytes());
    }

    /// Writes an entry of our own node state.
    fn say(&mut self, key: &str, value: Vec<u8>) {
        let written = self.table().set(key, value);
        if let Ok(Some(entry)) = written {
            let now = self.now();
            self.agent.handle_spread(now, &entry);
        }
    }

    /// Takes over the id that these members say their cluster has, if we have none.
    fn read_charters<'a>(&self, members: impl Iterator<Item = &'a Member>) {
        for member in members.filter(|member| member.status.is_up()) {
            let id = self.table().value(&member.id, CLUSTER_KEY).and_then(ClusterId::from_bytes);
            if let Some(id) = id {
                self.doorman.charter().adopt(id);
            }
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn handle_datagram(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        match self.reception.take(self.now(), from, datagram, &self.sealer) {
            Ok(Taken::Gossip(boot, message)) => self.handle_message(boot, message),
            Ok(Taken::Met(met)) => {
                if let Some(reply) = met.reply {
                    self.transport.send_gossip(from, &reply);
                }
                (0..met.lost).for_each(|_| self.drops.count(DropReason::Unproven));
                met.released.iter().for_each(|message| self.handle_message(met.from, message));
            }
            Err(reason) => self.drops.count(reason),
        }
    }

    fn handle_message(&mut self, from: Boot, message: &[u8]) {
        if !self.agent.handle_payload(self.now(), from, message) {
            self.drops.count(DropReason::Malformed);
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::PushPull(theirs, reply) => {
                // A reply that is dropped tells the peer that it was.
                if let Some(answer) = self.agent.handle_push_pull(now, &theirs) {
                    reply.send(&answer);
                }
            }
            Command::Tell(from, tell, reply) => {
                if let Some(answer) = self.agent.handle_tell(now, &from, tell) {
                    reply.send(&answer);
                }
            }
            Command::Seeds(seeds) => self.agent.handle_seeds(now, seeds),
            Command::Kept => self.keeps = false,
            Command::Spread(entry) => self.agent.handle_spread(now, &entry),
            Command::Leave(within, done) => {
                self.leaving.get_or_insert(done);
                self.agent.handle_leave(now, within);
            }
        }
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Exchanged(peer, Ok(answer)) => self.agent.handle_answer(now, &peer, answer),
            Done::Greeted(Ok(identity)) => self.agent.handle_greeted(now, identity),
            Done::Told(peer, Ok(answer)) => self.agent.handle_told(now, &peer, answer),
            Done::Farewell => self.agent.handle_farewell(),
            Done::Exchanged(_, Err(error)) | Done::Greeted(Err(error)) | Done::Told(_, Err(error)) => {
                tracing::debug!(%error, "an errand failed");
                match error.kind() {
                    RpcErrorKind::Refused(
                        refusal @ (Refusal::OtherFormation { .. } | Refusal::NotCertified { .. }),
                    ) => {
                        self.doorman.refused_by(error.addr(), refusal);
                    }
                    RpcErrorKind::Refused(Refusal::NoCommonKey) => {
                        self.doorman.untrusted_by(error.addr(), &error.to_string(), self.is_cut_off());
                    }
                    RpcErrorKind::Outdated(cause) => self.doorman.outdated(error.addr(), cause),
                    RpcErrorKind::Untrusted(cause) => {
                        self.doorman.untrusted_by(error.addr(), cause, self.is_cut_off());
                    }
                    _ => {}
                }
                let newer = match error.kind() {
                    RpcErrorKind::Refused(Refusal::NameTaken { by }) => Some(*by),
                    _ => None,
                };
                self.agent.handle_failed(newer);
            }
        }
    }

    /// Whether at most half of the members that this node knows are there, or it is alone.
    fn is_cut_off(&self) -> bool {
        let view = self.members.snapshot();
        let up = view.up().count();
        up <= 1 || up * 2 <= view.members.len()
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Send(to, payload) => {
                    let datagram = self.sealer.seal_gossip(to.node.boot, &payload);
                    self.transport.send_gossip(to.addr, &datagram);
                }
                Output::PushPull { with, request, within } => {
                    let (rpc, peer) = (self.rpc.clone(), peer(&with));
                    self.errands.spawn(async move {
                        let answer = rpc.call(&peer, &PUSH_PULL, &request, within).await;
                        Done::Exchanged(with, answer)
                    });
                }
                Output::Tell { to, tell, within } => {
                    let (rpc, peer) = (self.rpc.clone(), peer(&to));
                    self.errands.spawn(async move {
                        let answer = rpc.call(&peer, &TELL, &tell, within).await;
                        Done::Told(to, answer)
                    });
                }
                Output::Farewell { to, tell, within } => {
                    let farewell = self.rpc.call(&peer(&to), &TELL, &tell, within);
                    self.errands.spawn(async move {
                        let _ = farewell.await;
                        Done::Farewell
                    });
                }
                Output::Greet { addr, within } => {
                    let rpc = self.rpc.clone();
                    self.errands.spawn(async move { Done::Greeted(rpc.greet(addr, within).await.map(|g| g.id)) });
                }
                Output::Disconnect(node, why) => self.transport.disconnect(&node, why),
                Output::Rejoined(own) => self.doorman.set_own(own),
                Output::Superseded(by) => self.superseded(by),
                Output::Left => self.left(),
            }
        }
    }

    fn superseded(&self, by: Boot) {
        tracing::error!(%by, "a newer process has this node's name: this one stops");
        self.stop.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(StopReason::NameTaken { by });
            first
        });
    }

    fn left(&mut self) {
        self.doorman.leave();
        self.stop.send_replace(Some(StopReason::Left));
        if let Some(done) = self.leaving.take() {
            let _ = done.send(());
        }
    }

    /// Publishes what has changed.
    fn publish(&mut self) {
        let changed = self.agent.take_changed().into_iter();
        let latest: BTreeMap<_, _> = changed.map(|name| (name.clone(), self.agent.member(&name))).collect();
        let is_news = !latest.is_empty();
        for (name, member) in &latest {
            self.doorman.set_known(name, member.as_ref().map(|member| member.id.boot));
        }
        if !self.chartered {
            self.read_charters(latest.values().flatten());
        }
        // Whoever has seen a change finds it counted.
        let stats = self.agent.stats(self.now());
        self.stats.send_if_modified(|before| std::mem::replace(before, stats) != stats);
        self.members.apply(latest);
        if is_news {
            self.news.notify_one();
        }
        // Only now can whoever waits for it see the members.
        let now = self.agent.joined() && (self.chartered || !self.forms) && !self.keeps;
        self.joined.send_if_modified(|joined| std::mem::replace(joined, now) != now);
    }
}

async fn until_stopped(stop: &mut watch::Receiver<Option<StopReason>>) {
    // An error means that the node is gone altogether.
    let _ = stop.wait_for(Option::is_some).await;
}

fn peer(identity: &Identity) -> Peer {
    Peer { node: identity.node.clone(), addr: identity.addr }
}
