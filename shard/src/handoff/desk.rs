//! All handoffs of a node, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_cluster::NodeId;
use polity_cluster::rpc::Blob;

use super::message::{Ask, HandoffId, HandoffMessage, Refusal, Tell};
use super::receive::{Receiving, tell};
use super::send::{Outcome, Sending};
use super::{Budget, Direction, HandoffConfig, HandoffError, Progress, Step, Steps, Stuck, WaitsFor};
use crate::claims::{Claim, Claims, Sight};
use crate::mutation::{Mutation, mutated};
use crate::{ShardCount, ShardId};

/// Waits for its turn.
#[derive(Debug)]
struct Waiting {
    claim: Claim,
    to: NodeId,
    since: Duration,
    is_stuck: bool,
}

/// What has failed so far, without anything that came of it.
#[derive(Debug)]
struct Failing {
    claim: Claim,
    to: NodeId,
    /// When the first attempt began.
    since: Duration,
    is_reported: bool,
}

/// The handoffs of one boot. At most one for each shard in each direction.
#[derive(Debug)]
pub struct Desk {
    me: NodeId,
    shards: ShardCount,
    config: HandoffConfig,
    budget: Budget,
    is_draining: bool,
    attempts: u32,
    /// Those that wait for their turn, in the order of their coming, and the place of each shard's.
    queue: BTreeMap<u64, Waiting>,
    places: BTreeMap<ShardId, u64>,
    next_place: u64,
    sending: BTreeMap<ShardId, Sending>,
    /// The handoffs whose last attempts have failed.
    failing: BTreeMap<ShardId, Failing>,
    receiving: BTreeMap<ShardId, Receiving>,
    /// What this node is not ready to be given.
    unready: BTreeSet<ShardId>,
    steps: Steps,
}

impl Desk {
    /// Nothing is under way.
    #[must_use]
    pub fn new(me: NodeId, shards: ShardCount, config: HandoffConfig) -> Self {
        Self {
            me,
            shards,
            config,
            budget: Budget::new(config.budget),
            is_draining: false,
            attempts: 0,
            queue: BTreeMap::new(),
            places: BTreeMap::new(),
            next_place: 0,
            sending: BTreeMap::new(),
            failing: BTreeMap::new(),
            receiving: BTreeMap::new(),
            unready: BTreeSet::new(),
            steps: Steps::new(),
        }
    }

    // ---- what is seen of it ---------------------------------------------------------------------------------------

    /// How far the handoffs of a shard are.
    pub fn progress(&self, shard: ShardId) -> impl Iterator<Item = Progress> {
        let sending = self.sending.get(&shard).map(Sending::progress);
        self.waiting(shard)
            .map(Waiting::progress)
            .into_iter()
            .chain(sending)
            .chain(self.receiving.get(&shard).map(Receiving::progress))
    }

    /// How far all are: those that are sent, those that are received, those that wait for their turn.
    pub fn all(&self) -> impl Iterator<Item = Progress> {
        let open = self.sending.values().map(Sending::progress).chain(self.receiving.values().map(Receiving::progress));
        open.chain(self.queue.values().map(Waiting::progress))
    }

    /// Those that this node sends and that have not gone on for [`HandoffConfig::alarm`].
    pub fn stuck(&self, now: Duration) -> impl Iterator<Item = Stuck> {
        let late = self.all().filter(|progress| progress.direction == Direction::Sending);
        let late = late.filter(move |progress| now >= progress.since + self.config.alarm);
        late.map(Stuck::from)
    }

    /// How many bytes handoffs have sent.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.budget.spent()
    }

    /// Whether one of them could send, if the budget let it.
    #[must_use]
    pub fn waits_for_budget(&self) -> bool {
        self.sending.values().any(Sending::waits_for_budget)
    }

    // ---- inputs of the owner --------------------------------------------------------------------------------------

    /// Hands a shard over, as soon as its turn comes. What was under way for it before is cancelled.
    pub fn begin(&mut self, now: Duration, claim: Claim, to: NodeId) {
        self.drop_sending(claim.shard, true);
        if self.failing.get(&claim.shard).is_some_and(|failing| failing.claim != claim || failing.to != to) {
            self.failing.remove(&claim.shard);
        }
        self.places.insert(claim.shard, self.next_place);
        self.queue.insert(self.next_place, Waiting { claim, to, since: now, is_stuck: false });
        self.next_place += 1;
        self.advance(now);
    }

    /// Breaks off what is under way under this claim. What was let go already stays so.
    pub fn cancel(&mut self, now: Duration, claim: &Claim) {
        if self.failing.get(&claim.shard).is_some_and(|failing| failing.claim == *claim) {
            self.failing.remove(&claim.shard);
        }
        let waits = self.waiting(claim.shard).is_some_and(|waiting| waiting.claim == *claim);
        let sending = self.sending.get(&claim.shard);
        if waits || sending.is_some_and(|sending| sending.id.claim == *claim && !sending.is_let_go()) {
            self.drop_sending(claim.shard, true);
            self.advance(now);
        }
    }

    fn waiting(&self, shard: ShardId) -> Option<&Waiting> {
        self.queue.get(self.places.get(&shard)?)
    }

    fn drop_sending(&mut self, shard: ShardId, tell: bool) {
        if let Some(place) = self.places.remove(&shard) {
            self.queue.remove(&place);
        }
        if let Some(sending) = self.sending.remove(&shard) {
            if tell && !sending.is_let_go() {
                sending.say(Ask::Cancel, &mut self.steps);
            }
            sending.end(&mut self.steps);
        }
    }

    /// The snapshot was taken, and has this size.
    pub fn handle_opened(&mut self, now: Duration, id: &HandoffId, chunks: u32, bytes: u64) {
        self.with_sending(now, id, |sending, _, _| sending.handle_opened(now, chunks, bytes));
    }

    /// A chunk was read.
    pub fn handle_chunk(&mut self, now: Duration, id: &HandoffId, index: u32, bytes: Blob) {
        self.budget.spend(bytes.0.len() as u64);
        self.with_sending(now, id, |sending, config, steps| sending.handle_chunk(now, index, bytes, config, steps));
    }

    /// So much has changed since the shard was opened, or this was last asked; nothing, perhaps. It is paused, if it was to be.
    pub fn handle_changes(&mut self, now: Duration, id: &HandoffId, chunks: u32, bytes: u64) {
        self.with_sending(now, id, |sending, _, _| sending.handle_changes(now, chunks, bytes));
    }

    /// The state cannot be read.
    pub fn handle_source_failed(&mut self, now: Duration, id: &HandoffId, why: &str) {
        self.with_sending(now, id, |_, _, _| Outcome::Fails(HandoffError::Source(why.to_owned())));
    }

    /// The shard is let go.
    pub fn handle_let_go(&mut self, now: Duration, id: &HandoffId) {
        self.failing.remove(&id.claim.shard);
        self.with_sending(now, id, |sending, _, _| {
            sending.handle_let_go(now);
            Outcome::GoesOn
        });
    }

    fn with_sending(
        &mut self,
        now: Duration,
        id: &HandoffId,
        act: impl FnOnce(&mut Sending, &HandoffConfig, &mut Steps) -> Outcome,
    ) {
        if let Some(sending) = self.sending.get_mut(&id.claim.shard).filter(|sending| sending.id == *id) {
            let outcome = act(sending, &self.config, &mut self.steps);
            self.conclude(id.claim.shard, outcome);
            self.advance(now);
        }
    }

    fn conclude(&mut self, shard: ShardId, outcome: Outcome) {
        let Some(id) = self.sending.get(&shard).map(|sending| sending.id.clone()) else {
            return;
        };
        match outcome {
            Outcome::GoesOn => {}
            Outcome::Fails(error) => {
                self.note_failure(shard);
                self.drop_sending(shard, true);
                self.steps.push_back(Step::Failed { id, error });
            }
            Outcome::NotTaken => {
                self.drop_sending(shard, false);
                self.steps.push_back(Step::NotTaken(id));
            }
        }
    }

    fn note_failure(&mut self, shard: ShardId) {
        if let Some(sending) = self.sending.get(&shard) {
            let (claim, to, since) = (sending.id.claim.clone(), sending.to.clone(), sending.began);
            self.failing.entry(shard).or_insert(Failing { claim, to, since, is_reported: false });
        }
    }

    // ---- inputs of the receiver -----------------------------------------------------------------------------------

    /// Whether this node is ready to be given a shard. It is, unless this has said otherwise.
    pub fn handle_ready(&mut self, shard: ShardId, is_ready: bool) {
        if is_ready {
            self.unready.remove(&shard);
        } else if self.shards.contains(shard) {
            self.unready.insert(shard);
        }
    }

    /// What was staged is installed, or cannot be.
    pub fn handle_installed(&mut self, now: Duration, id: &HandoffId, is_installed: bool) {
        let Some(receiving) = self.receiving.get_mut(&id.claim.shard).filter(|receiving| receiving.id == *id) else {
            return;
        };
        let from = receiving.from.clone();
        if is_installed {
            let answer = receiving.handle_installed(now);
            self.steps.extend(answer.map(|answer| tell(id.clone(), from, answer)));
        } else if receiving.is_open() {
            self.drop_receiving(id.claim.shard);
            self.steps.push_back(tell(id.clone(), from, Tell::Refused(Refusal::NotInstalled)));
        }
    }

    fn drop_receiving(&mut self, shard: ShardId) {
        if let Some(receiving) = self.receiving.remove(&shard) {
            receiving.end(&mut self.steps);
        }
    }

    // ---- inputs of both -------------------------------------------------------------------------------------------

    /// A message of `from` has come. `claims` are those that are known.
    pub fn handle_message(&mut self, now: Duration, from: &NodeId, message: HandoffMessage, claims: &Claims) {
        match message {
            HandoffMessage::Ask(id, ask) => {
                let answer = self.handle_ask(now, from, &id, ask, claims);
                self.steps.extend(answer.map(|answer| tell(id, from.clone(), answer)));
            }
            HandoffMessage::Tell(id, answer) => self.handle_tell(now, from, &id, answer),
        }
    }

    fn handle_ask(&mut self, now: Duration, from: &NodeId, id: &HandoffId, ask: Ask, claims: &Claims) -> Option<Tell> {
        let Claim { shard, epoch } = &id.claim;
        let refuse = |refusal| (ask != Ask::Cancel).then_some(Tell::Refused(refusal));
        if epoch.owner != *from || !self.shards.contains(*shard) {
            return refuse(Refusal::Malformed);
        }
        if let Some(greater) = claims.epoch(*shard).filter(|known| *known > epoch) {
            return refuse(Refusal::Superseded(greater.clone()));
        }
        let known = self.receiving.get(shard).map(|receiving| receiving.id.cmp(id));
        if let Ask::Prepare { chunks, bytes } = ask
            && known.is_none_or(std::cmp::Ordering::is_lt)
        {
            if let Some(refusal) = self.reason_to_refuse(*shard, chunks, bytes) {
                return Some(Tell::Refused(refusal));
            }
            self.drop_receiving(*shard);
            self.receiving
                .insert(*shard, Receiving::new(now, id.clone(), from.clone(), (chunks, bytes), self.config.staged));
        } else if known.is_none_or(std::cmp::Ordering::is_ne) {
            return refuse(Refusal::Unknown);
        }
        let receiving = self.receiving.get_mut(shard)?;
        if ask == Ask::Cancel {
            if !receiving.is_taken() {
                self.drop_receiving(*shard);
            }
            return None;
        }
        match receiving.handle_ask(now, ask, &mut self.steps) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.drop_receiving(*shard);
                Some(Tell::Refused(refusal))
            }
        }
    }

    fn reason_to_refuse(&self, shard: ShardId, chunks: u32, bytes: u64) -> Option<Refusal> {
        let open = self.receiving.iter().filter(|(other, receiving)| **other != shard && receiving.is_open()).count();
        if !Receiving::is_well_formed(chunks, bytes) {
            Some(Refusal::Malformed)
        } else if bytes > self.config.staged {
            Some(Refusal::TooLarge)
        } else if self.is_draining {
            Some(Refusal::Draining)
        } else if self.unready.contains(&shard) {
            Some(Refusal::NotReady)
        } else {
            (open >= self.config.receiving.max(1)).then_some(Refusal::Busy)
        }
    }

    fn handle_tell(&mut self, now: Duration, from: &NodeId, id: &HandoffId, answer: Tell) {
        let shard = id.claim.shard;
        let is_it = |sending: &&mut Sending| sending.id == *id && sending.to == *from;
        if self.sending.get_mut(&shard).filter(is_it).is_some() {
            self.with_sending(now, id, |sending, config, steps| sending.handle_tell(now, answer, config, steps));
        } else if id.claim.epoch.owner == self.me && !matches!(answer, Tell::Refused(_) | Tell::Taken) {
            // It was cancelled, and the receiver has not heard of that.
            let message = HandoffMessage::Ask(id.clone(), Ask::Cancel);
            self.steps.push_back(Step::Send { to: from.clone(), message });
        }
    }

    /// This claim is known: handoffs of the shard under a lesser epoch are over.
    pub fn handle_claim(&mut self, now: Duration, shard: ShardId, claims: &Claims) {
        let Some(known) = claims.epoch(shard) else {
            return;
        };
        if self.failing.get(&shard).is_some_and(|failing| failing.claim.epoch < *known) {
            self.failing.remove(&shard);
        }
        let queued = self.waiting(shard).is_some_and(|waiting| waiting.claim.epoch < *known);
        if queued || self.sending.get(&shard).is_some_and(|sending| sending.id.claim.epoch < *known) {
            self.drop_sending(shard, true);
            self.advance(now);
        }
        if self.receiving.get(&shard).is_some_and(|receiving| receiving.id.claim.epoch < *known) {
            self.drop_receiving(shard);
        }
    }

    /// The members have changed.
    pub fn handle_sight(&mut self, sight: &Sight) {
        self.is_draining = sight.is_draining(&self.me.name);
        let gone = self.receiving.values().filter(|receiving| !sight.is_up(&receiving.from));
        let gone: Vec<_> = gone.map(|receiving| receiving.id.claim.shard).collect();
        gone.into_iter().for_each(|shard| self.drop_receiving(shard));
    }

    /// The node has sent so many bytes of other things, by which the share of handoffs is reckoned.
    pub fn handle_moved(&mut self, now: Duration, bytes: u64) {
        self.budget.handle_moved(now, bytes);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        let idle =
            self.receiving.values().filter(|receiving| receiving.due(&self.config).is_some_and(|due| now >= due));
        let idle: Vec<_> = idle.map(|receiving| receiving.id.claim.shard).collect();
        idle.into_iter().for_each(|shard| self.drop_receiving(shard));
        self.advance(now);
        for waiting in self.queue.values_mut() {
            if !waiting.is_stuck && now >= waiting.since + self.config.alarm {
                waiting.is_stuck = true;
                if !mutated(Mutation::QuietAlarm) {
                    self.steps.push_back(Step::Alarm(waiting.progress().into()));
                }
            }
        }
        for (shard, sending) in &mut self.sending {
            if sending.gets_stuck(now, &self.config) {
                if let Some(failing) = self.failing.get_mut(shard) {
                    failing.is_reported = true;
                }
                if !mutated(Mutation::QuietAlarm) {
                    self.steps.push_back(Step::Alarm(sending.progress().into()));
                }
            }
        }
    }

    // ---- outputs --------------------------------------------------------------------------------------------------

    /// What is to be done next, in order.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// When [`Desk::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let sending = self.sending.values().filter_map(|sending| sending.due(&self.budget, &self.config));
        let waiting = self.queue.values().filter(|waiting| !waiting.is_stuck);
        let waiting = waiting.map(|waiting| waiting.since + self.config.alarm);
        let receiving = self.receiving.values().filter_map(|receiving| receiving.due(&self.config));
        sending.chain(waiting).chain(receiving).min()
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Duration) {
        let shards: Vec<_> = self.sending.keys().copied().collect();
        for shard in shards {
            if let Some(sending) = self.sending.get_mut(&shard) {
                let outcome = sending.advance(now, &mut self.budget, &self.config, &mut self.steps);
                self.conclude(shard, outcome);
            }
        }
        let is_busy = |sending: &&Sending| !sending.is_let_go() && !sending.is_waiting_for_receiver();
        while self.sending.values().filter(is_busy).count() < self.config.sending.max(1) {
            let Some((_, Waiting { claim, to, .. })) = self.queue.pop_first() else {
                break;
            };
            self.places.remove(&claim.shard);
            self.attempts = self.attempts.saturating_add(1);
            let id = HandoffId { claim, attempt: self.attempts };
            let failing = self.failing.get(&id.claim.shard).map(|failing| (failing.since, failing.is_reported));
            self.sending.insert(id.claim.shard, Sending::new(now, id, to, failing, &mut self.steps));
        }
    }
}

impl Waiting {
    fn progress(&self) -> Progress {
        Progress {
            id: HandoffId { claim: self.claim.clone(), attempt: 0 },
            direction: Direction::Sending,
            peer: self.to.clone(),
            chunks: (0, 0),
            bytes: (0, 0),
            since: self.since,
            waits_for: WaitsFor::Turn,
        }
    }
}

#[cfg(test)]
mod tests;
