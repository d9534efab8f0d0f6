//! What a driver would do: carries commands out, keeps the state, the document of claims and the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use polity_cluster::rpc::Blob;
use polity_cluster::{Boot, NodeId, NodeName};
use polity_crdt::ReplicaId;
use polity_shard::claims::{Claim, Claims, Fence, Sight, claims_of, write_claim};
use polity_shard::handoff::{HandoffId, HandoffMessage, Step};
use polity_shard::journal::{Conflict, Journal, JournalConfig, Resolution, Snapshot};
use polity_shard::{Candidate, Command, Epoch, EpochError, Placement, ReplicaCount, ShardId, Steward};

use super::{BOUND, Book, Event, Letter, NOTICE_MS, SHARDS, TICK, World, config, ms};

/// How many effects a chunk holds.
const CHUNK: usize = 8;
/// What becomes of conflicts here: nobody takes what a loser has to the winner.
pub(crate) const RESOLUTION: Resolution = Resolution::GreaterEpochAlone;

pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) boot: u64,
    pub(crate) started: Duration,
    pub(crate) steward: Option<Steward>,
    pub(crate) paused_until: Duration,
    pub(crate) is_draining: bool,
    pub(crate) book: Book,
    pub(crate) journal: Journal,
    /// Who is up in its eyes, and whether it drains.
    pub(crate) view: BTreeMap<usize, (NodeId, bool)>,
    /// When it will notice what has changed.
    noticing: BTreeMap<usize, Duration>,
    /// Whom it takes for down, until when, although they are not.
    pub(crate) doubts: BTreeMap<usize, Duration>,
    /// Whom it has compared its claims with.
    met: BTreeSet<usize>,
    next_peer: usize,
    pub(crate) timer: Option<Duration>,
    /// The greatest epochs that have reached it in any way.
    pub(crate) seen: BTreeMap<ShardId, Epoch>,
    /// What it knew of claims, from time to time.
    pub(crate) history: VecDeque<(Duration, Claims)>,
    /// The effects that it has.
    pub(crate) state: BTreeMap<ShardId, BTreeSet<u64>>,
    sources: BTreeMap<HandoffId, Vec<Vec<u64>>>,
    staged: BTreeMap<HandoffId, Vec<u64>>,
    pub(crate) paused: BTreeSet<ShardId>,
}

impl Node {
    pub(crate) fn absent(at: usize) -> Self {
        Self {
            name: NodeName::new(&format!("n{at}")).expect("valid"),
            boot: 0,
            started: ms(0),
            steward: None,
            paused_until: ms(0),
            is_draining: false,
            book: Book::new(ReplicaId(0)),
            journal: Journal::default(),
            view: BTreeMap::new(),
            noticing: BTreeMap::new(),
            doubts: BTreeMap::new(),
            met: BTreeSet::new(),
            next_peer: 0,
            timer: None,
            seen: BTreeMap::new(),
            history: VecDeque::new(),
            state: BTreeMap::new(),
            sources: BTreeMap::new(),
            staged: BTreeMap::new(),
            paused: BTreeSet::new(),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.steward.is_some()
    }

    pub(crate) fn id(&self) -> NodeId {
        NodeId { name: self.name.clone(), boot: Boot { generation: self.boot, nonce: 1 } }
    }

    pub(crate) fn steward(&self) -> &Steward {
        self.steward.as_ref().expect("it is alive")
    }

    pub(crate) fn owns(&self, shard: ShardId) -> Option<&Epoch> {
        self.steward.as_ref()?.core().owns(shard)
    }

    pub(crate) fn claims(&self) -> Claims {
        claims_of(&self.book, config().shards)
    }

    fn snapshot(&self, shard: ShardId) -> Snapshot {
        let effects = self.state.get(&shard).into_iter().flatten();
        Snapshot::State(Blob(effects.flat_map(|effect| effect.to_le_bytes()).collect::<Vec<_>>().into()))
    }

    fn see(&mut self, shard: ShardId, epoch: &Epoch) {
        let seen = self.seen.entry(shard).or_insert_with(|| epoch.clone());
        if *seen < *epoch {
            *seen = epoch.clone();
        }
    }
}

impl World {
    pub(crate) fn start(&mut self, at: usize) {
        let (boot, now) = (self.nodes[at].boot + 1, self.now);
        let mut node = Node { boot, started: now, ..Node::absent(at) };
        node.steward = Some(Steward::new(node.id(), config(), Fence::default()));
        node.book = Book::new(ReplicaId(at as u64 * 1_000 + boot));
        node.journal = Journal::new(JournalConfig::default());
        self.nodes[at] = node;
        log!(self, "n{at} starts as boot {boot}");
        // It has been told who is there.
        for other in 0..self.nodes.len() {
            if self.reaches(at, other) {
                let id = (self.nodes[other].id(), self.nodes[other].is_draining);
                self.nodes[at].view.insert(other, id);
            }
        }
        self.look(at);
        let delay = self.dice.below(200);
        self.after(ms(1 + delay), Event::Tick { at, boot });
    }

    /// Gives an input to a steward and carries out what it says.
    pub(crate) fn with<R>(&mut self, at: usize, act: impl FnOnce(&mut Steward, Duration) -> R) -> R {
        let now = self.now;
        let result = act(self.nodes[at].steward.as_mut().expect("it is alive"), now);
        while let Some(command) = self.nodes[at].steward.as_mut().and_then(Steward::poll_command) {
            self.carry_out(at, command);
        }
        let due = self.nodes[at].steward.as_ref().and_then(Steward::poll_timeout);
        if let Some(due) = due.filter(|due| self.nodes[at].timer.is_none_or(|timer| *due < timer)) {
            self.nodes[at].timer = Some(due);
            let boot = self.nodes[at].boot;
            self.after(due.saturating_sub(now), Event::Timer { at, boot });
        }
        result
    }

    fn carry_out(&mut self, at: usize, command: Command) {
        let boot = self.nodes[at].boot;
        match command {
            Command::Seek { shard, after } => {
                let (delay, fails) = (self.dice.below(50), self.dice.chance(5));
                self.after(ms(delay), Event::Granted { at, boot, shard, after, fails });
            }
            Command::Own(claim) => {
                log!(self, "n{at} owns {claim}");
                self.judge_claim(at, &claim);
                let Claim { shard, epoch } = claim.clone();
                self.nodes[at].see(shard, &epoch);
                let write = self.nodes[at].book.update(|book, w| write_claim(book, w, claim));
                write.expect("dots are not exhausted");
                self.tell_claims(at);
            }
            Command::Relay(claim) => {
                log!(self, "n{at} relays {claim}");
                let write = self.nodes[at].book.update(|book, w| write_claim(book, w, claim));
                write.expect("dots are not exhausted");
                self.tell_claims(at);
            }
            Command::Release { claim, to } => {
                log!(self, "n{at} lets go of {claim} for {to}");
                self.nodes[at].paused.remove(&claim.shard);
                self.judge_release(at, &claim, &to);
            }
            Command::Superseded { claim, by } => {
                log!(self, "n{at} is superseded on {claim} by {by}");
                self.nodes[at].paused.remove(&claim.shard);
            }
            Command::Conflict { lost, won } => self.conflict(at, lost, &won),
            Command::Handoff(step) => self.carry_out_step(at, step),
        }
    }

    fn carry_out_step(&mut self, at: usize, step: Step) {
        let boot = self.nodes[at].boot;
        match step {
            Step::Send { to, message } => {
                if let Some(to) = self.nodes.iter().position(|node| node.id() == to) {
                    self.post(at, to, Letter::Handoff(message));
                }
            }
            Step::Open(id) => {
                log!(self, "n{at} opens {id}");
                let state =
                    self.nodes[at].state.get(&id.claim.shard).into_iter().flatten().copied().collect::<Vec<_>>();
                let chunks: Vec<_> = state.chunks(CHUNK).map(<[u64]>::to_vec).collect();
                let (count, bytes) = (chunks.len() as u32, state.len() as u64 * 8);
                self.nodes[at].sources.insert(id.clone(), chunks);
                self.with(at, |steward, now| steward.handle_opened(now, &id, count, bytes));
            }
            Step::Read { id, index } => {
                let chunk = &self.nodes[at].sources[&id][index as usize];
                let bytes: Vec<u8> = chunk.iter().flat_map(|effect| effect.to_le_bytes()).collect();
                self.with(at, |steward, now| steward.handle_chunk(now, &id, index, Blob(bytes.into())));
            }
            step @ (Step::Pause(_) | Step::CatchUp(_)) => {
                let pauses = matches!(step, Step::Pause(_));
                let (Step::Pause(id) | Step::CatchUp(id)) = step else { return };
                if pauses {
                    self.nodes[at].paused.insert(id.claim.shard);
                }
                let node = &mut self.nodes[at];
                let source = node.sources.get_mut(&id).expect("it was opened");
                let sent: BTreeSet<u64> = source.iter().flatten().copied().collect();
                let new = node.state.get(&id.claim.shard).into_iter().flatten().filter(|effect| !sent.contains(effect));
                let new: Vec<u64> = new.copied().collect();
                let chunks: Vec<_> = new.chunks(CHUNK).map(<[u64]>::to_vec).collect();
                let (count, bytes) = (chunks.len() as u32, new.len() as u64 * 8);
                source.extend(chunks);
                self.with(at, |steward, now| steward.handle_changes(now, &id, count, bytes));
            }
            Step::Resume(id) => {
                log!(self, "n{at} resumes after {id}");
                self.nodes[at].paused.remove(&id.claim.shard);
            }
            Step::Close(id) => {
                self.nodes[at].sources.remove(&id);
            }
            Step::Stage { id, bytes, .. } => {
                let effects = bytes.0.chunks(8).map(|effect| u64::from_le_bytes(effect.try_into().expect("eight")));
                self.nodes[at].staged.entry(id).or_default().extend(effects);
            }
            Step::Install(id) => {
                let delay = if self.dice.chance(5) { 3_000 } else { self.dice.below(300) };
                self.after(ms(delay), Event::Installed { at, boot, id });
            }
            Step::Discard(id) => {
                log!(self, "n{at} discards {id}");
                self.nodes[at].staged.remove(&id);
            }
            Step::Alarm(stuck) => log!(self, "n{at}: {stuck}"),
            step @ (Step::Acknowledged { .. } | Step::Failed { .. } | Step::NotTaken(_) | Step::Received(_)) => {
                self.fail(format!("{step:?} is not for the driver"));
            }
        }
    }

    pub(crate) fn install(&mut self, at: usize, id: &HandoffId) {
        let staged = self.nodes[at].staged.remove(id);
        self.nodes[at].state.entry(id.claim.shard).or_default().extend(staged.into_iter().flatten());
        let is_good = !self.dice.chance(3);
        log!(self, "n{at} installs {id}: {is_good}");
        self.with(at, |steward, now| steward.handle_installed(now, id, is_good));
    }

    pub(crate) fn grant(&mut self, at: usize, shard: ShardId, after: Option<&Epoch>, fails: bool) {
        let answer = if fails {
            Err(EpochError::Unavailable("it was not lucky".to_owned()))
        } else {
            Epoch::next(after, &self.nodes[at].id()).ok_or(EpochError::Exhausted)
        };
        self.with(at, |steward, now| steward.handle_epoch(now, shard, answer));
    }

    fn conflict(&mut self, at: usize, lost: Claim, won: &Epoch) {
        let conflict = Conflict {
            won: Claim { shard: lost.shard, epoch: won.clone() },
            lost_state: self.nodes[at].snapshot(lost.shard),
            lost,
            won_state: Snapshot::Missing,
            resolution: RESOLUTION,
            at: self.now,
        };
        log!(self, "n{at}: {conflict}");
        let told = self.nodes[at].journal.report(conflict);
        if let Some(to) = self.nodes.iter().position(|node| node.id() == won.owner) {
            self.post(at, to, Letter::Conflict(told));
        }
    }

    pub(crate) fn deliver(&mut self, from: usize, to: usize, sender: u64, letter: Letter) {
        match letter {
            Letter::Book { full, answer } => {
                self.nodes[to].book.merge(full);
                if self.nodes[from].boot == sender {
                    self.nodes[to].met.insert(from);
                }
                self.take_claims(to);
                if answer {
                    let full = self.nodes[to].book.full();
                    self.post(to, from, Letter::Book { full, answer: false });
                }
            }
            Letter::Effect { shard, epoch, id } => {
                let result = self.with(to, |steward, now| steward.handle_effect(now, shard, &epoch));
                match result {
                    Ok(()) => {
                        if self.nodes[to].seen.get(&shard).is_some_and(|seen| *seen > epoch) {
                            self.fail(format!("n{to} takes an effect under {epoch}, and knows better"));
                        }
                        self.nodes[to].see(shard, &epoch);
                        self.nodes[to].state.entry(shard).or_default().insert(id);
                    }
                    Err(_) => self.judge.refused += 1,
                }
            }
            Letter::Handoff(message) => {
                let id = NodeId { boot: Boot { generation: sender, nonce: 1 }, name: self.nodes[from].name.clone() };
                let (HandoffMessage::Ask(handoff, _) | HandoffMessage::Tell(handoff, _)) = &message;
                log!(self, "n{from} to n{to}: {handoff}: {}", kind(&message));
                self.with(to, |steward, now| steward.handle_message(now, &id, message));
            }
            Letter::Conflict(conflict) => {
                let (lost, won) = (conflict.lost.clone(), conflict.won.clone());
                self.judge_asked(&lost, &won);
                let ours = self.nodes[to].snapshot(lost.shard);
                let answer = self.nodes[to].journal.hear(conflict, ours);
                self.post(to, from, Letter::Won(lost, won, answer));
            }
            Letter::Won(lost, won, answer) => {
                self.judge_answered(&lost, &won);
                self.nodes[to].journal.complete(&lost, &won, answer);
            }
        }
    }

    /// What the document says goes into the steward.
    fn take_claims(&mut self, at: usize) {
        let claims = self.nodes[at].claims();
        for (shard, epoch) in claims.iter() {
            self.nodes[at].see(shard, epoch);
        }
        self.with(at, |steward, now| steward.handle_claims(now, &claims));
        self.meet(at);
    }

    /// Whether it has learned what others have claimed: it has compared its document with all that it sees.
    fn meet(&mut self, at: usize) {
        let node = &self.nodes[at];
        let has_met = node.view.keys().all(|other| *other == at || node.met.contains(other));
        // Whoever is alone, and not the first of all, is no member yet.
        let is_first = at == 0 && node.boot == 1;
        if has_met && (is_first || node.view.len() > 1) && !node.steward().core().has_learned() {
            log!(self, "n{at} has learned");
            self.with(at, |steward, now| steward.handle_learned(now));
        }
    }

    fn tell_claims(&mut self, at: usize) {
        for other in 0..self.nodes.len() {
            let full = self.nodes[at].book.full();
            self.post(at, other, Letter::Book { full, answer: false });
        }
    }

    pub(crate) fn tick(&mut self, at: usize) {
        self.look(at);
        self.meet(at);
        let node = &mut self.nodes[at];
        node.next_peer = (node.next_peer + 1) % self.side.len();
        let (peer, full, boot) = (node.next_peer, node.book.full(), node.boot);
        node.history.push_back((self.now, claims_of(&node.book, config().shards)));
        while node.history.front().is_some_and(|(at, _)| *at + BOUND + TICK < self.now) {
            node.history.pop_front();
        }
        self.post(at, peer, Letter::Book { full, answer: true });
        let moved = self.dice.below(200);
        self.with(at, |steward, now| steward.handle_moved(now, moved));
        self.meddle(at);
        for shard in config().shards.iter() {
            self.work(at, shard);
        }
        self.judge_now();
        self.after(TICK, Event::Tick { at, boot });
    }

    /// What an operator does: he cancels a handoff.
    fn meddle(&mut self, at: usize) {
        let shard = ShardId(self.dice.below(u64::from(SHARDS)) as u32);
        if self.now >= self.chaos_until || !self.dice.chance(20) {
            return;
        }
        let before = self.nodes[at].owns(shard).cloned();
        if self.with(at, |steward, now| steward.cancel(now, shard)) {
            log!(self, "n{at} cancels the handoff of shard {shard}");
            self.judge_cancel(at, shard, before);
        }
    }

    /// What an owner does: an effect here, that is sent to another.
    fn work(&mut self, at: usize, shard: ShardId) {
        let node = &self.nodes[at];
        let Some(epoch) = node.owns(shard).filter(|_| !node.paused.contains(&shard)).cloned() else {
            return;
        };
        if node.steward().core().fence().check(shard, &epoch).is_err() {
            return;
        }
        if node.seen.get(&shard).is_some_and(|seen| *seen > epoch) {
            self.fail(format!("n{at} serves shard {shard} under {epoch}, and knows better"));
        }
        self.effects += 1;
        let id = self.effects;
        self.nodes[at].state.entry(shard).or_default().insert(id);
        self.judge_effect(&Claim { shard, epoch: epoch.clone() }, id);
        let other = self.dice.below(self.nodes.len() as u64) as usize;
        // Some are late, as those of an owner that has lost the shard meanwhile.
        self.post(at, other, Letter::Effect { shard, epoch, id });
    }

    /// Looks at the members.
    fn look(&mut self, at: usize) {
        let mut has_changed =
            !self.nodes[at].view.contains_key(&at) || self.nodes[at].steward().core().sight().is_none();
        for other in 0..self.nodes.len() {
            let doubts = self.nodes[at].doubts.get(&other).is_some_and(|until| *until > self.now);
            let there = self.reaches(at, other) && self.nodes[other].paused_until <= self.now && !doubts;
            let truth = there.then(|| (self.nodes[other].id(), self.nodes[other].is_draining));
            let delay = self.dice.below(NOTICE_MS);
            let (node, now) = (&mut self.nodes[at], self.now);
            if node.view.get(&other) == truth.as_ref() {
                node.noticing.remove(&other);
                continue;
            }
            let due = *node.noticing.entry(other).or_insert(if other == at { now } else { now + ms(delay) });
            if now >= due {
                node.noticing.remove(&other);
                node.met.remove(&other);
                match truth {
                    Some(truth) => node.view.insert(other, truth),
                    None => node.view.remove(&other),
                };
                has_changed = true;
            }
        }
        if has_changed {
            let sight = self.sight(at);
            self.with(at, |steward, now| steward.handle_sight(now, sight));
        }
    }

    pub(crate) fn sight(&self, at: usize) -> Sight {
        sight_of(self.nodes[at].view.values())
    }
}

pub(crate) fn sight_of<'a>(members: impl Iterator<Item = &'a (NodeId, bool)> + Clone) -> Sight {
    let stay = members.clone().filter(|(_, drains)| !drains).map(|(id, _)| Candidate::new(id.name.clone()));
    let replicas = ReplicaCount::new(2).expect("valid");
    let placement = Placement::compute(&stay.collect::<Vec<_>>(), config().shards, replicas).expect("distinct names");
    let drains = members.clone().filter(|(_, drains)| *drains).map(|(id, _)| id.name.clone());
    Sight::new(members.map(|(id, _)| id.clone()), drains, placement)
}

fn kind(message: &HandoffMessage) -> String {
    match message {
        HandoffMessage::Ask(_, polity_shard::handoff::Ask::Chunk { index, .. }) => format!("Chunk {index}"),
        HandoffMessage::Ask(_, ask) => format!("{ask:?}"),
        HandoffMessage::Tell(_, tell) => format!("{tell:?}"),
    }
}
