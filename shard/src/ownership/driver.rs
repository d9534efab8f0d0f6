//! The task that carries out what the steward says, and what peers ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use polity_cluster::document::Watch;
use polity_cluster::rpc::{Blob, Peer, Rpc, RpcErrorKind};
use polity_cluster::{BoxFuture, Node, NodeId, Subscription};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::traffic::Traffic;
use super::{CLAIMS, CLAIMS_AT_ONCE, CONFLICT, HANDOFF, HANDOFF_CHUNK, OwnershipEvent, Shared};
use crate::claims::{By, Claim, ClaimBook, Claims, Sight, claims_of, write_claim};
use crate::handoff::{Ask, HandoffId, HandoffMessage, Step};
use crate::journal::{Conflict, Resolution, Snapshot};
use crate::{Command, Epoch, EpochError, ShardId};

/// How long a peer has for an answer. It is Down sooner if it is dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// When a member that did not say what it knows is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often a handoff that waits for the budget looks at what the node has sent meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a task has come to.
enum Done {
    Nothing,
    Epoch(ShardId, Result<Epoch, EpochError>),
    Opened(HandoffId, Result<Vec<Blob>, String>),
    CaughtUp(HandoffId, Result<Vec<Blob>, String>),
    Paused(HandoffId, Result<Vec<Blob>, String>),
    Installed(HandoffId, bool),
    /// What the winner of a conflict has: the claim that lost, the one that won.
    Conflict(Claim, Claim, Snapshot),
    /// What a member knows, if it has said so.
    Known(NodeId, Option<Claims>),
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    rpc: Rpc,
    /// Whether the node is a member: before that it knows only itself, and nobody whom it could ask.
    joined: BoxFuture<'static, bool>,
    is_member: bool,
    stopped: BoxFuture<'static, ()>,
    changes: Subscription,
    watch: Watch<ClaimBook>,
    tasks: JoinSet<Done>,
    /// Who is being asked what it knows, and who has said so.
    asked: BTreeSet<NodeId>,
    met: BTreeSet<NodeId>,
    /// The shards that are being paused, and whether that is to be undone as soon as it is done.
    pausing: BTreeMap<HandoffId, bool>,
    traffic: Traffic,
}

/// Answers peers.
pub(super) fn serve(rpc: &Rpc, shared: &Arc<Shared>) {
    for method in [HANDOFF, HANDOFF_CHUNK] {
        let shared = shared.clone();
        rpc.serve(method, move |caller, message, reply| {
            let ready = match &message {
                HandoffMessage::Ask(HandoffId { claim, .. }, Ask::Prepare { .. }) => {
                    Some((claim.shard, shared.estate.is_ready(claim.shard)))
                }
                _ => None,
            };
            shared.with(|steward, now| {
                if let Some((shard, is_ready)) = ready {
                    steward.handle_ready(shard, is_ready);
                }
                steward.handle_message(now, &caller.node, message);
            });
            reply.send(&());
        });
    }
    let of = shared.clone();
    rpc.serve(CLAIMS, move |_, from: ShardId, reply| {
        let state = of.lock();
        let claims = state.steward.core().claims().from(from).take(CLAIMS_AT_ONCE);
        reply.send(&claims.map(|(shard, epoch)| Claim { shard, epoch: epoch.clone() }).collect());
    });
    let of = shared.clone();
    rpc.serve(CONFLICT, move |_, conflict: Conflict, reply| {
        if !of.config.steward.shards.contains(conflict.won.shard) || conflict.won.shard != conflict.lost.shard {
            return reply.fail(polity_cluster::rpc::Failure::not_applied("there is no such conflict"));
        }
        let ours = of.estate.state(conflict.won.shard);
        let answer = of.lock().journal.hear(conflict, ours);
        reply.send(&answer);
    });
}

impl Driver {
    /// Holds no handle of the node, so that it does not keep the node running.
    pub(super) fn new(shared: Arc<Shared>, node: &Node) -> Self {
        let (ready, mut stop) = (node.ready(), node.stop_signal());
        Self {
            joined: Box::pin(async move { ready.await.is_ok() }),
            is_member: false,
            stopped: Box::pin(async move { drop(stop.wait_for(Option::is_some).await) }),
            traffic: Traffic::new(node.rpc().stats().bytes_out.value()),
            rpc: node.rpc().clone(),
            changes: shared.members.subscribe(),
            watch: shared.document.watch(),
            shared,
            tasks: JoinSet::new(),
            asked: BTreeSet::new(),
            met: BTreeSet::new(),
            pausing: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            while let Some(command) = self.next_command() {
                self.carry_out(command);
            }
            self.rest();
            self.shared.turns.send_modify(|turns| *turns += 1);
            let due = self.due();
            tokio::select! {
                biased;
                () = &mut self.stopped => return,
                is_member = &mut self.joined, if !self.is_member => {
                    // If not, the node has stopped.
                    self.is_member = is_member;
                    self.follow_members();
                }
                _ = self.changes.next() => self.follow_members(),
                _ = self.watch.next() => self.follow_claims(),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    // All that have ended, in one turn: a node that starts alone is given the epochs of all shards at once.
                    let mut ended = Some(done);
                    while let Some(done) = ended {
                        // One of an estate or an authority may have panicked; what waits for it is tried again or alarms.
                        match done {
                            Ok(done) => self.settle(done),
                            Err(error) => tracing::error!(%error, "a task of ownership has failed"),
                        }
                        ended = self.tasks.try_join_next();
                    }
                }
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.shared.with(|steward, now| steward.handle_timeout(now));
                }
            }
        }
    }

    fn next_command(&self) -> Option<Command> {
        self.shared.lock().steward.poll_command()
    }

    /// Tells the budget of handoffs what the node has sent beside them, and returns when there is something to do.
    fn due(&mut self) -> Option<Instant> {
        let sent = self.rpc.stats().bytes_out.value();
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let others = self.traffic.look(sent, state.steward.desk().spent());
        state.steward.handle_moved(now, others);
        let waits_for_budget = state.steward.desk().waits_for_budget();
        let due = state.steward.poll_timeout()?;
        let due = if waits_for_budget { due.min(now + LOOK_AGAIN) } else { due };
        Some(self.shared.started + due)
    }

    // ---- inputs ---------------------------------------------------------------------------------------------------

    fn follow_members(&mut self) {
        while self.changes.try_next().is_some() {}
        let view = self.shared.members.snapshot();
        match Sight::of(&view, self.shared.config.steward.shards, self.shared.config.replicas) {
            Ok(sight) => self.shared.with(|steward, now| steward.handle_sight(now, sight)),
            Err(error) => tracing::error!(%error, "shards cannot be placed on these members"),
        }
        self.learn();
    }

    fn follow_claims(&self) {
        let claims = self.shared.document.read(|book| claims_of(book, self.shared.config.steward.shards));
        self.shared.with(|steward, now| steward.handle_claims(now, &claims));
    }

    /// Asks those that are up what they know, until all have said so.
    fn learn(&mut self) {
        if !self.is_member || self.shared.lock().steward.core().has_learned() {
            return;
        }
        let view = self.shared.members.snapshot();
        let others: Vec<_> = view.up().filter(|member| member.id != self.shared.me).collect();
        if others.iter().all(|member| self.met.contains(&member.id)) {
            return self.shared.with(|steward, now| steward.handle_learned(now));
        }
        for member in others {
            if !self.met.contains(&member.id) && self.asked.insert(member.id.clone()) {
                let (rpc, peer) = (self.rpc.clone(), Peer { node: member.id.clone(), addr: member.addr });
                self.tasks.spawn(async move {
                    let known = claims_known_by(&rpc, &peer).await;
                    if known.is_none() {
                        tokio::time::sleep(ASK_AGAIN).await;
                    }
                    Done::Known(peer.node, known)
                });
            }
        }
    }

    fn settle(&mut self, done: Done) {
        let shared = self.shared.clone();
        match done {
            Done::Nothing => {}
            Done::Epoch(shard, answer) => shared.with(|steward, now| steward.handle_epoch(now, shard, answer)),
            Done::Opened(id, Ok(chunks)) => {
                let (count, bytes) = size(&chunks);
                // Nobody would close what belongs to a handoff that has ended meanwhile.
                if shared.lock().steward.desk().progress(id.claim.shard).any(|progress| progress.id == id) {
                    shared.lock().sources.insert(id.clone(), chunks);
                    shared.with(|steward, now| steward.handle_opened(now, &id, count, bytes));
                }
            }
            Done::Opened(id, Err(why)) => {
                shared.with(|steward, now| steward.handle_source_failed(now, &id, &why));
            }
            Done::CaughtUp(id, changes) => self.change(&id, changes),
            Done::Paused(id, changes) => {
                if self.pausing.remove(&id) == Some(true) {
                    shared.estate.resume(id.claim.shard);
                }
                self.change(&id, changes);
            }
            Done::Installed(id, is_installed) => {
                if is_installed {
                    self.tell(OwnershipEvent::Received(id.claim.clone()));
                }
                shared.with(|steward, now| steward.handle_installed(now, &id, is_installed));
            }
            Done::Conflict(lost, won, answer) => shared.lock().journal.complete(&lost, &won, answer),
            Done::Known(node, known) => {
                self.asked.remove(&node);
                if let Some(known) = known {
                    self.met.insert(node);
                    shared.with(|steward, now| steward.handle_known(now, &known));
                }
                self.learn();
            }
        }
    }

    /// What has changed in a shard since it was read is read as well.
    fn change(&self, id: &HandoffId, changes: Result<Vec<Blob>, String>) {
        let chunks = match changes {
            Ok(chunks) => chunks,
            Err(why) => return self.shared.with(|steward, now| steward.handle_source_failed(now, id, &why)),
        };
        let (count, bytes) = size(&chunks);
        // It is closed already if the handoff has ended.
        if let Some(source) = self.shared.lock().sources.get_mut(id) {
            source.extend(chunks);
        }
        self.shared.with(|steward, now| steward.handle_changes(now, id, count, bytes));
    }

    // ---- outputs --------------------------------------------------------------------------------------------------

    fn carry_out(&mut self, command: Command) {
        let shared = self.shared.clone();
        match command {
            Command::Seek { shard, after } => {
                self.tasks.spawn(async move {
                    let answer = shared.authority.grant(shard, after.as_ref(), &shared.me).await;
                    Done::Epoch(shard, answer)
                });
            }
            Command::Own(claim) => {
                self.write(claim.clone());
                shared.estate.owned(&claim);
                self.tell(OwnershipEvent::Gained(claim));
            }
            Command::Relay(claim) => self.write(claim),
            Command::Release { claim, to } => {
                shared.estate.lost(claim.shard, &to);
                self.tell(OwnershipEvent::Lost { claim, by: By::Handoff(to) });
            }
            Command::Superseded { claim, by } => {
                shared.estate.lost(claim.shard, &by.owner);
                self.tell(OwnershipEvent::Lost { claim, by: By::Claim(by) });
            }
            Command::Conflict { lost, won } => self.report(lost, won),
            Command::Handoff(step) => self.carry_out_step(step),
        }
    }

    fn tell(&self, event: OwnershipEvent) {
        self.shared.lock().told.tell(event);
    }

    /// Tells of the claims that have become known, and rests, unless there is something to do again.
    fn rest(&self) {
        let mut state = self.shared.lock();
        while let Some(shard) = state.steward.poll_news() {
            if let Some(epoch) = state.steward.core().claims().epoch(shard).cloned() {
                state.told.tell(OwnershipEvent::Claimed(Claim { shard, epoch }));
            }
        }
        state.is_at_rest = !state.steward.has_commands();
    }

    fn write(&self, claim: Claim) {
        let written = self.shared.document.update(|book, w| write_claim(book, w, claim));
        // The node has stopped, or the document has no dots left: others will take the shard for theirs.
        let _ = written.inspect_err(|error| tracing::warn!(%error, "a claim was not written"));
    }

    /// Writes a conflict down, here and at its winner.
    fn report(&mut self, lost: Claim, won: Epoch) {
        let shared = self.shared.clone();
        let wall = shared.env.ground().wall_clock();
        let winner = self.peer(&won.owner);
        let conflict = Conflict {
            lost_state: shared.estate.state(lost.shard),
            won: Claim { shard: lost.shard, epoch: won },
            lost,
            won_state: Snapshot::Missing,
            resolution: Resolution::of(shared.estate.merges()),
            at: wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        };
        tracing::warn!(%conflict, "two owned a shard at once");
        let (lost, won) = (conflict.lost.clone(), conflict.won.clone());
        let told = shared.lock().journal.report(conflict);
        self.tell(OwnershipEvent::Conflict { lost: lost.clone(), won: won.clone() });
        if let Some(winner) = winner {
            let call = self.rpc.call(&winner, &CONFLICT, &told, ANSWER_WITHIN);
            self.tasks.spawn(async move { Done::Conflict(lost, won, call.await.unwrap_or(Snapshot::Missing)) });
        }
    }

    fn carry_out_step(&mut self, step: Step) {
        let shared = self.shared.clone();
        match step {
            Step::Send { to, message } => self.send(&to, &message),
            Step::Open(id) => {
                self.tasks.spawn(async move {
                    let chunks = shared.estate.open(id.claim.shard).await;
                    Done::Opened(id, chunks)
                });
            }
            Step::Read { id, index } => {
                let chunk = shared.lock().sources.get(&id).and_then(|chunks| chunks.get(index as usize)).cloned();
                match chunk {
                    Some(chunk) => shared.with(|steward, now| steward.handle_chunk(now, &id, index, chunk)),
                    None => shared.with(|steward, now| steward.handle_source_failed(now, &id, "a chunk is missing")),
                }
            }
            Step::CatchUp(id) => {
                self.tasks.spawn(async move {
                    let changes = shared.estate.catch_up(id.claim.shard).await;
                    Done::CaughtUp(id, changes)
                });
            }
            Step::Pause(id) => {
                self.pausing.insert(id.clone(), false);
                self.tasks.spawn(async move {
                    let changes = shared.estate.pause(id.claim.shard).await;
                    Done::Paused(id, changes)
                });
            }
            Step::Resume(id) => match self.pausing.get_mut(&id) {
                Some(is_over) => *is_over = true,
                None => shared.estate.resume(id.claim.shard),
            },
            Step::Close(id) => {
                shared.lock().sources.remove(&id);
            }
            Step::Stage { id, bytes, .. } => shared.lock().staged.entry(id).or_default().push(bytes),
            Step::Install(id) => {
                let chunks = shared.lock().staged.remove(&id).unwrap_or_default();
                self.tasks.spawn(async move {
                    let is_installed = shared.estate.install(id.claim.shard, chunks).await;
                    Done::Installed(id, is_installed)
                });
            }
            Step::Discard(id) => {
                shared.lock().staged.remove(&id);
            }
            Step::Alarm(stuck) => {
                tracing::warn!(%stuck, "a handoff does not go on");
                self.tell(OwnershipEvent::Stuck(stuck));
            }
            // Settled by the steward.
            Step::Acknowledged { .. } | Step::Failed { .. } | Step::NotTaken(_) | Step::Received(_) => {}
        }
    }

    fn send(&mut self, to: &NodeId, message: &HandoffMessage) {
        let Some(peer) = self.peer(to) else {
            return;
        };
        let is_chunk = matches!(message, HandoffMessage::Ask(_, Ask::Chunk { .. }));
        let method = if is_chunk { HANDOFF_CHUNK } else { HANDOFF };
        let call = self.rpc.call(&peer, &method, message, ANSWER_WITHIN);
        self.tasks.spawn(async move {
            // What is lost is said again.
            let _ = call.await.inspect_err(|error| tracing::debug!(%error, "a message of a handoff was lost"));
            Done::Nothing
        });
    }

    fn peer(&self, node: &NodeId) -> Option<Peer> {
        let view = self.shared.members.snapshot();
        let member = view.members.get(&node.name).filter(|member| member.id == *node)?;
        Some(Peer { node: member.id.clone(), addr: member.addr })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.lock().told.end();
    }
}

fn size(chunks: &[Blob]) -> (u32, u64) {
    let bytes = chunks.iter().map(|chunk| chunk.0.len() as u64).sum();
    // More than fits is more than a handoff takes, and is refused.
    (u32::try_from(chunks.len()).unwrap_or(u32::MAX), bytes)
}

/// All claims that a member knows; none if it has no ownership.
async fn claims_known_by(rpc: &Rpc, peer: &Peer) -> Option<Claims> {
    let mut known = Claims::new();
    let mut from = ShardId(0);
    loop {
        match rpc.call(peer, &CLAIMS, &from, ANSWER_WITHIN).await {
            Ok(claims) => {
                // Shards rise, so this comes to an end.
                let last = claims.iter().map(|claim| claim.shard).max().filter(|last| *last >= from);
                let is_all = claims.len() < CLAIMS_AT_ONCE;
                known.join(&claims.into_iter().collect());
                match last.and_then(|last| last.0.checked_add(1)) {
                    Some(next) if !is_all => from = ShardId(next),
                    _ => return Some(known),
                }
            }
            Err(error) if *error.kind() == RpcErrorKind::NoSuchMethod => return Some(known),
            Err(_) => return None,
        }
    }
}
