//! The side of a handoff that owns the shard.

use std::time::Duration;

use polity_cluster::NodeId;
use polity_cluster::rpc::Blob;

use super::message::{Ask, HandoffId, HandoffMessage, MAX_CHUNK_BYTES, MAX_CHUNKS, Refusal, Tell};
use super::{Budget, Direction, HandoffConfig, HandoffError, Progress, Step, Steps, WaitsFor};
use crate::mutation::{Mutation, mutated};

/// How often the owner is asked for what has changed before it is paused. Each round is shorter than the one before by the
/// ratio of how fast the shard changes to how fast it is sent, so a shard that eight of them do not bring down changes as fast
/// as it is sent.
const MAX_ROUNDS: u32 = 8;

/// How far it is. The order is that of the steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Opening,
    Preparing,
    Sending,
    /// Asked what has changed meanwhile, while it goes on changing.
    CatchingUp,
    /// Paused, and asked what has changed.
    Pausing,
    /// Paused, and sending what has changed.
    SendingChanges,
    Installing,
    /// Acknowledged; to be let go.
    LettingGo,
    Releasing,
    /// The receiver knows of the release.
    Released,
}

/// Whether it goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    GoesOn,
    /// It came to nothing.
    Fails(HandoffError),
    /// It was released, and the receiver knows nothing of it.
    NotTaken,
}

#[derive(Debug)]
pub(super) struct Sending {
    pub(super) id: HandoffId,
    pub(super) to: NodeId,
    stage: Stage,
    chunks: u32,
    bytes: u64,
    /// Below this the receiver has all chunks.
    arrived: u32,
    arrived_bytes: u64,
    /// The next chunk to be read, and the sizes of those that are under way before it.
    next: u32,
    under_way: std::collections::VecDeque<u32>,
    is_reading: bool,
    is_starved: bool,
    /// When what was not answered is sent again.
    resend_at: Duration,
    paused_at: Option<Duration>,
    /// How many chunks were added last, and how often they were asked for without a pause.
    added: u32,
    rounds: u32,
    /// When it began.
    pub(super) began: Duration,
    /// When it last went on.
    since: Duration,
    /// Since when attempts have failed, if this is not the first.
    failing_since: Option<Duration>,
    is_stuck: bool,
    refusal: Option<Refusal>,
}

impl Sending {
    /// `failing_since`: when the first of the attempts began that have failed before this one, and whether that was
    /// reported.
    pub(super) fn new(
        now: Duration,
        id: HandoffId,
        to: NodeId,
        failing_since: Option<(Duration, bool)>,
        steps: &mut Steps,
    ) -> Self {
        steps.push_back(Step::Open(id.clone()));
        Self {
            id,
            to,
            stage: Stage::Opening,
            chunks: 0,
            bytes: 0,
            arrived: 0,
            arrived_bytes: 0,
            next: 0,
            under_way: Default::default(),
            is_reading: false,
            is_starved: false,
            resend_at: now,
            paused_at: None,
            added: 0,
            rounds: 0,
            began: now,
            since: now,
            failing_since: failing_since.map(|(since, _)| since),
            is_stuck: failing_since.is_some_and(|(_, is_reported)| is_reported),
            refusal: None,
        }
    }

    /// Whether the shard was let go.
    pub(super) fn is_let_go(&self) -> bool {
        self.stage >= Stage::Releasing
    }

    /// Whether it waits for a receiver that is not ready: it costs nothing meanwhile.
    pub(super) fn is_waiting_for_receiver(&self) -> bool {
        self.stage == Stage::Preparing && self.refusal == Some(Refusal::NotReady)
    }

    pub(super) fn waits_for_budget(&self) -> bool {
        self.is_starved && matches!(self.stage, Stage::Sending | Stage::SendingChanges)
    }

    fn moved(&mut self, now: Duration) {
        self.since = now;
        self.is_stuck &= self.failing_since.is_some();
    }

    /// Since when it has not gone on.
    fn still_since(&self) -> Duration {
        self.failing_since.unwrap_or(self.since)
    }

    fn enter(&mut self, now: Duration, stage: Stage) {
        self.stage = stage;
        self.resend_at = now;
        self.moved(now);
    }

    // ---- inputs ---------------------------------------------------------------------------------------------------

    pub(super) fn handle_opened(&mut self, now: Duration, chunks: u32, bytes: u64) -> Outcome {
        if self.stage != Stage::Opening {
            return Outcome::GoesOn;
        }
        if chunks > MAX_CHUNKS || bytes > u64::from(chunks) * MAX_CHUNK_BYTES as u64 {
            return Outcome::Fails(HandoffError::Source("there is more than a handoff can carry".to_owned()));
        }
        (self.chunks, self.bytes, self.added) = (chunks, bytes, chunks);
        self.enter(now, Stage::Preparing);
        Outcome::GoesOn
    }

    pub(super) fn handle_chunk(
        &mut self,
        now: Duration,
        index: u32,
        bytes: Blob,
        config: &HandoffConfig,
        steps: &mut Steps,
    ) -> Outcome {
        if !self.is_reading || index != self.next {
            self.is_reading = false;
            return Outcome::GoesOn;
        }
        if bytes.0.len() > MAX_CHUNK_BYTES {
            return Outcome::Fails(HandoffError::Source(format!("chunk {index} is too large")));
        }
        self.is_reading = false;
        self.next += 1;
        self.under_way.push_back(bytes.0.len() as u32);
        if self.under_way.len() == 1 {
            self.resend_at = now + config.resend;
        }
        self.say(Ask::Chunk { index, bytes }, steps);
        Outcome::GoesOn
    }

    /// This has changed since it was opened or asked for last.
    pub(super) fn handle_changes(&mut self, now: Duration, chunks: u32, bytes: u64) -> Outcome {
        let next = match self.stage {
            Stage::CatchingUp => Stage::Sending,
            Stage::Pausing => Stage::SendingChanges,
            _ => return Outcome::GoesOn,
        };
        let all = self.chunks.saturating_add(chunks);
        if all > MAX_CHUNKS || bytes > u64::from(chunks) * MAX_CHUNK_BYTES as u64 {
            return Outcome::Fails(HandoffError::Source("more has changed than a handoff can carry".to_owned()));
        }
        (self.chunks, self.added) = (all, chunks);
        self.bytes += bytes;
        self.enter(now, next);
        Outcome::GoesOn
    }

    pub(super) fn handle_let_go(&mut self, now: Duration) {
        if self.stage == Stage::LettingGo {
            self.enter(now, Stage::Releasing);
        }
    }

    pub(super) fn handle_tell(
        &mut self,
        now: Duration,
        tell: Tell,
        config: &HandoffConfig,
        steps: &mut Steps,
    ) -> Outcome {
        match tell {
            Tell::Have { next } => self.handle_have(now, next, config),
            Tell::Installing if self.stage == Stage::Installing => self.resend_at = now + config.resend,
            Tell::Installed if self.stage == Stage::Installing => self.let_go(now, steps),
            Tell::Taken if self.stage == Stage::Releasing => self.enter(now, Stage::Released),
            Tell::Refused(refusal) => return self.handle_refusal(now, refusal, config),
            Tell::Installing | Tell::Installed | Tell::Taken => {}
        }
        Outcome::GoesOn
    }

    fn let_go(&mut self, now: Duration, steps: &mut Steps) {
        self.failing_since = None;
        self.enter(now, Stage::LettingGo);
        steps.push_back(Step::Acknowledged { id: self.id.clone(), by: self.to.clone() });
    }

    fn handle_have(&mut self, now: Duration, next: u32, config: &HandoffConfig) {
        if !matches!(self.stage, Stage::Preparing | Stage::Sending | Stage::SendingChanges | Stage::Installing)
            || next > self.chunks
        {
            return;
        }
        if self.stage == Stage::Preparing {
            // It may have some of an earlier time. What it says of bytes is not asked: only our own count is shown.
            self.enter(now, Stage::Sending);
            self.refusal = None;
            (self.arrived, self.next) = (next, next);
            return;
        }
        if next < self.arrived || next > self.next {
            return;
        }
        let news = next - self.arrived;
        self.arrived_bytes += self.under_way.drain(..news as usize).map(u64::from).sum::<u64>();
        self.arrived = next;
        if news > 0 {
            self.moved(now);
            self.resend_at = now + config.resend;
        }
        if self.stage == Stage::Installing && next < self.chunks {
            self.stage = Stage::SendingChanges;
            self.go_back();
        }
    }

    fn handle_refusal(&mut self, now: Duration, refusal: Refusal, config: &HandoffConfig) -> Outcome {
        match self.stage {
            Stage::Preparing if matches!(refusal, Refusal::Busy | Refusal::NotReady) => {
                self.refusal = Some(refusal);
                self.resend_at = now + config.resend;
                Outcome::GoesOn
            }
            Stage::Opening | Stage::LettingGo | Stage::Released => Outcome::GoesOn,
            // Others are about what was said before.
            Stage::Releasing if refusal == Refusal::Unknown => Outcome::NotTaken,
            Stage::Releasing => Outcome::GoesOn,
            _ => Outcome::Fails(HandoffError::Refused(refusal)),
        }
    }

    // ---- outputs --------------------------------------------------------------------------------------------------

    /// Does what can be done now.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        budget: &mut Budget,
        config: &HandoffConfig,
        steps: &mut Steps,
    ) -> Outcome {
        if self.stage < Stage::LettingGo && self.paused_at.is_some_and(|at| now >= at + config.pause) {
            return Outcome::Fails(HandoffError::TooSlow);
        }
        match self.stage {
            Stage::Opening | Stage::CatchingUp | Stage::Pausing | Stage::LettingGo | Stage::Released => {}
            Stage::Preparing => {
                let ask = Ask::Prepare { chunks: self.chunks, bytes: self.bytes };
                self.say_again(now, ask, config, steps);
            }
            Stage::Sending | Stage::SendingChanges => {
                if self.arrived == self.chunks {
                    self.all_arrived(now, config, steps);
                    if !matches!(self.stage, Stage::CatchingUp | Stage::Pausing) {
                        return self.advance(now, budget, config, steps);
                    }
                } else {
                    self.send_chunks(now, budget, config, steps);
                }
            }
            Stage::Installing => {
                let ask = Ask::Install { chunks: self.chunks, bytes: self.bytes };
                self.say_again(now, ask, config, steps);
            }
            Stage::Releasing => self.say_again(now, Ask::Release, config, steps),
        }
        Outcome::GoesOn
    }

    fn all_arrived(&mut self, now: Duration, config: &HandoffConfig, steps: &mut Steps) {
        if self.stage == Stage::Sending && self.added > config.window && self.rounds < MAX_ROUNDS {
            self.rounds += 1;
            self.enter(now, Stage::CatchingUp);
            steps.push_back(Step::CatchUp(self.id.clone()));
        } else if self.stage == Stage::Sending {
            self.enter(now, Stage::Pausing);
            self.paused_at = Some(now);
            steps.push_back(Step::Pause(self.id.clone()));
        } else if mutated(Mutation::LetsGoUnacknowledged) {
            self.let_go(now, steps);
        } else {
            self.enter(now, Stage::Installing);
        }
    }

    fn send_chunks(&mut self, now: Duration, budget: &mut Budget, config: &HandoffConfig, steps: &mut Steps) {
        if self.next > self.arrived && now >= self.resend_at {
            self.go_back();
        }
        let has_room = self.next < self.chunks && self.next - self.arrived < config.window.max(1);
        if self.is_reading || !has_room {
            self.is_starved = false;
            return;
        }
        // While the shard is paused nobody waits for the budget: what is sent is paid for later.
        self.is_starved = self.paused_at.is_none() && !budget.is_open(now);
        if !self.is_starved {
            self.is_reading = true;
            steps.push_back(Step::Read { id: self.id.clone(), index: self.next });
        }
    }

    /// Sends again from the first chunk on that has not arrived.
    fn go_back(&mut self) {
        self.next = self.arrived;
        self.under_way.clear();
    }

    fn say_again(&mut self, now: Duration, ask: Ask, config: &HandoffConfig, steps: &mut Steps) {
        if now >= self.resend_at {
            self.resend_at = now + config.resend;
            self.say(ask, steps);
        }
    }

    pub(super) fn say(&self, ask: Ask, steps: &mut Steps) {
        let message = HandoffMessage::Ask(self.id.clone(), ask);
        steps.push_back(Step::Send { to: self.to.clone(), message });
    }

    /// It ends here: the shard is served again if it was not let go.
    pub(super) fn end(&self, steps: &mut Steps) {
        if self.paused_at.is_some() && !self.is_let_go() {
            steps.push_back(Step::Resume(self.id.clone()));
        }
        steps.push_back(Step::Close(self.id.clone()));
    }

    pub(super) fn due(&self, budget: &Budget, config: &HandoffConfig) -> Option<Duration> {
        let step = match self.stage {
            Stage::Opening | Stage::CatchingUp | Stage::Pausing | Stage::LettingGo | Stage::Released => None,
            _ if self.waits_for_budget() => Some(budget.opens_at()),
            Stage::Sending | Stage::SendingChanges if self.next == self.arrived => None,
            _ => Some(self.resend_at),
        };
        let pause = self.paused_at.filter(|_| self.stage < Stage::LettingGo).map(|at| at + config.pause);
        let alarm = (!self.is_stuck).then_some(self.still_since() + config.alarm);
        step.into_iter().chain(pause).chain(alarm).min()
    }

    /// Whether it has just been found not to go on.
    pub(super) fn gets_stuck(&mut self, now: Duration, config: &HandoffConfig) -> bool {
        let is_new = !self.is_stuck && now >= self.still_since() + config.alarm;
        self.is_stuck |= is_new;
        is_new
    }

    pub(super) fn waits_for(&self) -> WaitsFor {
        match self.stage {
            Stage::Opening => WaitsFor::Source,
            Stage::Preparing => WaitsFor::Acceptance(self.refusal.clone()),
            _ if self.waits_for_budget() => WaitsFor::Budget,
            Stage::Sending | Stage::SendingChanges if self.is_reading && self.next == self.arrived => WaitsFor::Source,
            Stage::Sending | Stage::SendingChanges => WaitsFor::Arrival,
            Stage::CatchingUp | Stage::Pausing => WaitsFor::Changes,
            Stage::Installing => WaitsFor::Install,
            Stage::LettingGo | Stage::Releasing => WaitsFor::Taking,
            Stage::Released => WaitsFor::Claim,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            id: self.id.clone(),
            direction: Direction::Sending,
            peer: self.to.clone(),
            chunks: (self.arrived, self.chunks),
            bytes: (self.arrived_bytes, self.bytes),
            since: self.still_since(),
            waits_for: self.waits_for(),
        }
    }
}
