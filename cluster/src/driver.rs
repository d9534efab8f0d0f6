//! The one task that drives a node's membership and node state.
//!
//! It carries out what the sans-IO cores ask for, and adds what they lack: push-pull with a random member, greeting
//! seeds for ever, and publishing what changed. Everything reaches it through bounded queues; nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use foca::{Member as FocaMember, State};
use rand::rngs::StdRng;
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Timings;
use crate::doorman::Doorman;
use crate::exchange::{PUSH_PULL, PushPull, PushPullAnswer, TELL, Tell};
use crate::hello::Refusal;
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::membership::core::{Core, Output, SharedTable};
use crate::membership::view::{Member, Members, Status};
use crate::rpc::{Peer, Reply, Rpc, RpcError, RpcErrorKind};
use crate::secure::envelope::{DropReason, Opener, Sealer};
use crate::state::{Entry, PROFILE_KEY, Profile, Table};
use crate::stop::StopReason;
use crate::transport::Transport;

/// How many datagrams may wait for the driver: a burst of one from each of a thousand members.
pub(crate) const DATAGRAM_QUEUE: usize = 1024;
/// How many requests of peers and handles may wait for the driver.
pub(crate) const COMMAND_QUEUE: usize = 256;
/// How many members are told directly that a node leaves; gossip tells the others.
const FAREWELLS: usize = 16;
/// How many exchanges and greetings may be under way: beyond that, the next tick starts none.
const MAX_ERRANDS: usize = 64;

/// Datagrams of gossip that were dropped, by reason.
#[derive(Debug, Default)]
pub(crate) struct Drops([AtomicU64; 8]);

const REASONS: [DropReason; 8] = [
    DropReason::Truncated,
    DropReason::Oversized,
    DropReason::Version,
    DropReason::KeyEpoch,
    DropReason::Unauthentic,
    DropReason::Replayed,
    DropReason::Malformed,
    DropReason::Overload,
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

/// What handles and RPC handlers ask of the driver.
pub(crate) enum Command {
    PushPull(PushPull, Reply<PushPullAnswer>),
    Tell(Tell, Reply<()>),
    /// Our own node state has a new entry.
    Spread(Entry),
    /// Say farewell within this time, and stop.
    Leave(Duration, oneshot::Sender<()>),
}

/// What an errand came back with.
enum Done {
    Exchanged(Identity, Result<PushPullAnswer, RpcError>),
    Greeted(Result<Identity, RpcError>),
    Told(Result<(), RpcError>),
}

/// The parts that a driver is made of.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) table: SharedTable,
    pub(crate) members: Members,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) rpc: Rpc,
    pub(crate) transport: Arc<Transport>,
    pub(crate) doorman: Arc<Doorman>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) timings: Timings,
    pub(crate) datagrams: mpsc::Receiver<Vec<u8>>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) stop: Arc<watch::Sender<Option<StopReason>>>,
    pub(crate) joined: Arc<watch::Sender<bool>>,
    pub(crate) rng: StdRng,
}

pub(crate) struct Driver {
    parts: Parts,
    started: Instant,
    errands: JoinSet<Done>,
    seed_addrs: BTreeSet<SocketAddr>,
    next_push_pull: Duration,
    next_announce: Duration,
    next_look: Duration,
    /// The view may differ from what was published.
    dirty: bool,
    /// All state has been exchanged with a member, or there is none.
    joined: bool,
}

impl Driver {
    /// A driver that has met `greeted` already.
    pub(crate) fn new(parts: Parts, greeted: Vec<Identity>, seed_addrs: BTreeSet<SocketAddr>) -> Self {
        let mut driver = Self {
            parts,
            started: Instant::now(),
            errands: JoinSet::new(),
            seed_addrs,
            next_push_pull: Duration::ZERO,
            next_announce: Duration::ZERO,
            next_look: Duration::ZERO,
            dirty: true,
            joined: false,
        };
        driver.next_push_pull = driver.jittered(driver.parts.timings.push_pull_interval);
        driver.joined = greeted.is_empty();
        for seed in greeted {
            driver.met(seed);
        }
        driver.carry_out();
        driver
    }

    /// Runs until the node stops.
    pub(crate) async fn run(mut self) {
        let mut stopped = self.parts.stop.subscribe();
        loop {
            self.publish();
            let due = self.started + self.next_due();
            tokio::select! {
                biased;
                () = until_stopped(&mut stopped) => break,
                Some(mut datagram) = self.parts.datagrams.recv() => self.handle_datagram(&mut datagram),
                Some(command) = self.parts.commands.recv() => {
                    if let Command::Leave(within, done) = command {
                        self.leave(within).await;
                        let _ = done.send(());
                        break;
                    }
                    self.handle_command(command);
                }
                Some(done) = self.errands.join_next(), if !self.errands.is_empty() => {
                    if let Ok(done) = done {
                        self.handle_done(done);
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
            self.handle_timeouts();
            self.carry_out();
        }
        self.errands.shutdown().await;
        // Whoever was superseded must not be served by either.
        self.parts.transport.shutdown().await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A time near `interval`, so that nodes that started together do not stay in step.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.parts.rng.random_range(0.75..1.25))
    }

    fn next_due(&self) -> Duration {
        let own = self.next_push_pull.min(self.next_announce).min(self.next_look);
        self.parts.core.poll_timeout().map_or(own, |core| core.min(own))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.parts.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_datagram(&mut self, datagram: &mut [u8]) {
        let now = self.now();
        match self.parts.opener.open(datagram) {
            Ok((boot, payload)) => {
                if !self.parts.core.handle_payload(now, boot, payload) {
                    self.parts.drops.count(DropReason::Malformed);
                }
            }
            Err(reason) => self.parts.drops.count(reason),
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::PushPull(theirs, reply) => {
                let (entries, read) = {
                    let table = self.table();
                    (table.above(&theirs.read), table.digest())
                };
                self.parts.core.handle_members(now, theirs.members);
                reply.send(&PushPullAnswer { members: self.parts.core.membership(), entries, read });
            }
            Command::Tell(tell, reply) => {
                self.table().apply(tell.entries);
                self.parts.core.handle_members(now, tell.members);
                reply.send(&());
            }
            Command::Spread(entry) => self.parts.core.spread(now, &entry),
            Command::Leave(..) => {}
        }
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Exchanged(peer, Ok(answer)) => {
                self.parts.core.handle_members(now, answer.members);
                let lacking = {
                    let mut table = self.table();
                    table.apply(answer.entries);
                    table.above(&answer.read)
                };
                if !lacking.is_empty() {
                    self.tell(&peer, Tell { members: Vec::new(), entries: lacking });
                }
                self.joined = true;
                self.dirty = true;
            }
            Done::Greeted(Ok(identity)) => self.met(identity),
            Done::Told(Ok(())) => {}
            Done::Exchanged(_, Err(error)) | Done::Greeted(Err(error)) | Done::Told(Err(error)) => {
                tracing::debug!(%error, "an errand failed");
                if let RpcErrorKind::Refused(Refusal::NameTaken { by }) = error.kind() {
                    self.superseded(*by);
                }
            }
        }
    }

    /// A member that has just answered us: it is alive, whatever was gossiped of it.
    fn met(&mut self, identity: Identity) {
        let now = self.now();
        self.parts.core.handle_members(now, vec![FocaMember::alive(identity.clone())]);
        self.exchange(identity);
    }

    fn handle_timeouts(&mut self) {
        let now = self.now();
        self.parts.core.handle_timeout(now);
        if now >= self.next_push_pull {
            let interval = self.parts.timings.push_pull_interval;
            self.next_push_pull = now + self.jittered(interval);
            self.push_pull();
        }
        if now >= self.next_announce {
            let interval = self.parts.timings.announce_interval;
            self.next_announce = now + self.jittered(interval);
            self.greet_absent_seeds();
        }
        if now >= self.next_look {
            // Suspicion is no event of foca's, so it is looked for once a period.
            self.next_look = now + self.parts.timings.probe_period;
            self.dirty = true;
        }
    }

    /// Exchanges everything with one random member; with one whose profile is not known yet if there is such a one.
    fn push_pull(&mut self) {
        let view = self.parts.members.snapshot();
        let own = self.parts.core.identity().node.name.clone();
        let others = || view.up().filter(|member| member.id.name != own);
        let unknown = others().filter(|member| member.profile.is_none()).choose(&mut self.parts.rng);
        let chosen = unknown.or_else(|| others().choose(&mut self.parts.rng));
        if let Some(member) = chosen {
            let (node, rejoin, addr) = (member.id.clone(), member.rejoin, member.addr);
            self.exchange(Identity { node, rejoin, addr });
        }
    }

    fn exchange(&mut self, with: Identity) {
        if self.errands.len() >= MAX_ERRANDS {
            return;
        }
        let request = PushPull { members: self.parts.core.membership(), read: self.table().digest() };
        let (rpc, peer, within) = (self.parts.rpc.clone(), peer(&with), self.parts.timings.probe_period * 4);
        self.errands.spawn(async move {
            let answer = rpc.call(&peer, &PUSH_PULL, &request, within).await;
            Done::Exchanged(with, answer)
        });
    }

    fn tell(&mut self, to: &Identity, tell: Tell) {
        if self.errands.len() >= MAX_ERRANDS {
            return;
        }
        let (rpc, peer, within) = (self.parts.rpc.clone(), peer(to), self.parts.timings.probe_period * 4);
        self.errands.spawn(async move { Done::Told(rpc.call(&peer, &TELL, &tell, within).await) });
    }

    /// Greets each seed at whose address no member is up: it may be new, or the other half of a cluster that was split.
    fn greet_absent_seeds(&mut self) {
        let view = self.parts.members.snapshot();
        let present: BTreeSet<SocketAddr> = view.up().map(|member| member.addr).collect();
        let absent: Vec<SocketAddr> = self.seed_addrs.difference(&present).copied().collect();
        for addr in absent {
            if self.errands.len() >= MAX_ERRANDS {
                return;
            }
            let (rpc, within) = (self.parts.rpc.clone(), self.parts.timings.announce_interval);
            self.errands.spawn(async move { Done::Greeted(rpc.greet(addr, within).await.map(|g| g.id)) });
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.parts.core.poll_output() {
            match output {
                Output::Send(to, payload) => {
                    let datagram = self.parts.sealer.seal(to.node.boot, &payload);
                    self.parts.transport.send_gossip(to.addr, &datagram);
                }
                Output::Up(id) => {
                    tracing::info!(member = %id.node, addr = %id.addr, rejoin = id.rejoin, "member up");
                    self.dirty = true;
                    // Its profile may have come with its announcement; if not, ask soon.
                    let soon = self.now() + self.parts.timings.gossip_interval * 2;
                    self.next_push_pull = self.next_push_pull.min(soon);
                }
                Output::Down(id) => {
                    tracing::info!(member = %id.node, "member down");
                    self.dirty = true;
                    self.parts.transport.disconnect(&id.node, "it is down");
                }
                Output::Replaced(id) => {
                    tracing::info!(member = %id.node, "member superseded by a newer boot");
                    self.parts.transport.disconnect(&id.node, "a newer process has its name");
                }
                Output::Rejoined(id) => {
                    tracing::info!(rejoin = id.rejoin, "others believed this node down: it is back");
                    self.parts.doorman.set_own(id);
                    self.dirty = true;
                }
                Output::Superseded(by) => self.superseded(by),
            }
        }
        if !self.table().take_changed().is_empty() {
            self.dirty = true;
        }
    }

    fn superseded(&self, by: Boot) {
        tracing::error!(%by, "a newer process has this node's name: this one stops");
        self.parts.stop.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(StopReason::NameTaken { by });
            first
        });
    }

    /// Makes the view anew if something may have changed.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let own = self.parts.core.identity().clone();
        let mut members = BTreeMap::new();
        {
            let table = self.table();
            for known in self.parts.core.membership() {
                let member = describe(&table, &known);
                members.insert(member.id.name.clone(), member);
            }
        }
        let names: BTreeSet<NodeName> = members.keys().cloned().collect();
        self.parts.doorman.set_known(members.values().map(|member| member.id.clone()));
        let unknown = members.values().any(|m| m.status.is_up() && m.profile.is_none() && m.id != own.node);
        if unknown {
            let soon = self.now() + self.parts.timings.gossip_interval * 2;
            self.next_push_pull = self.next_push_pull.min(soon);
        }
        self.parts.members.update(members);
        self.table().retain(&names);
        self.parts.core.retain(&names);
        // Only now can whoever waits for it see the members.
        self.parts.joined.send_if_modified(|joined| std::mem::replace(joined, self.joined) != self.joined);
    }

    /// Tells some members that we go, then all the others by gossip.
    async fn leave(&mut self, within: Duration) {
        let own = self.parts.core.identity().clone();
        let view = self.parts.members.snapshot();
        let told: Vec<Peer> = view
            .up()
            .filter(|member| member.id != own.node)
            .map(|member| Peer { node: member.id.clone(), addr: member.addr })
            .sample(&mut self.parts.rng, FAREWELLS);
        let farewell = Tell { members: vec![FocaMember::down(own)], entries: self.table().above(&Vec::new()) };
        let mut farewells = JoinSet::new();
        for peer in told {
            farewells.spawn(self.parts.rpc.call(&peer, &TELL, &farewell, within));
        }
        // What was not told in time is found out by probing.
        let _ = tokio::time::timeout(within, async { while farewells.join_next().await.is_some() {} }).await;
        let now = self.now();
        self.parts.core.leave(now);
        self.parts.doorman.leave();
        self.carry_out();
        self.parts.stop.send_replace(Some(StopReason::Left));
    }
}

async fn until_stopped(stop: &mut watch::Receiver<Option<StopReason>>) {
    // An error means that the node is gone altogether.
    let _ = stop.wait_for(Option::is_some).await;
}

fn peer(identity: &Identity) -> Peer {
    Peer { node: identity.node.clone(), addr: identity.addr }
}

fn describe(table: &Table, known: &FocaMember<Identity>) -> Member {
    let id: &NodeId = &known.id().node;
    let profile: Option<Profile> = table.value(id, PROFILE_KEY).and_then(|bytes| postcard::from_bytes(bytes).ok());
    let left = profile.as_ref().is_some_and(|profile| profile.left);
    let status = match known.state() {
        State::Alive => Status::Alive,
        State::Suspect => Status::Suspect,
        State::Down if left => Status::Left,
        State::Down => Status::Down,
    };
    Member {
        id: id.clone(),
        addr: known.id().addr,
        status,
        rejoin: known.id().rejoin,
        profile,
        state: table.application_entries(id),
    }
}
