//! The side of a handoff that will own the shard.

use std::time::Duration;

use polity_cluster::NodeId;

use super::message::{Ask, HandoffId, HandoffMessage, MAX_CHUNK_BYTES, MAX_CHUNKS, Refusal, Tell};
use super::{Direction, HandoffConfig, Progress, Step, Steps, WaitsFor};
use crate::mutation::{Mutation, mutated};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Staging,
    Installing,
    Installed,
    /// The owner has let go; this node is to claim.
    Taken,
}

#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) id: HandoffId,
    pub(super) from: NodeId,
    stage: Stage,
    chunks: u32,
    bytes: u64,
    next: u32,
    staged_bytes: u64,
    /// The most bytes that are kept.
    limit: u64,
    /// When the sender was last heard.
    heard: Duration,
    since: Duration,
}

impl Receiving {
    /// What was asked for is taken on.
    pub(super) fn new(now: Duration, id: HandoffId, from: NodeId, (chunks, bytes): (u32, u64), limit: u64) -> Self {
        let stage = Stage::Staging;
        Self { id, from, stage, chunks, bytes, next: 0, staged_bytes: 0, limit, heard: now, since: now }
    }

    pub(super) fn is_well_formed(chunks: u32, bytes: u64) -> bool {
        chunks <= MAX_CHUNKS && bytes <= u64::from(chunks) * MAX_CHUNK_BYTES as u64
    }

    /// Whether it takes up one of the places: what is installed keeps nothing here.
    pub(super) fn is_open(&self) -> bool {
        self.stage < Stage::Installed
    }

    /// Whether the shard is to be claimed.
    pub(super) fn is_taken(&self) -> bool {
        self.stage == Stage::Taken
    }

    fn enter(&mut self, now: Duration, stage: Stage) {
        (self.stage, self.since) = (stage, now);
    }

    fn have(&self) -> Tell {
        Tell::Have { next: self.next }
    }

    /// The answer; `Err` if it ends here.
    pub(super) fn handle_ask(&mut self, now: Duration, ask: Ask, steps: &mut Steps) -> Result<Option<Tell>, Refusal> {
        self.heard = now;
        match ask {
            Ask::Prepare { .. } => Ok((self.stage == Stage::Staging).then(|| self.have())),
            Ask::Chunk { index, bytes } => {
                if bytes.0.len() > MAX_CHUNK_BYTES || index >= MAX_CHUNKS {
                    return Err(Refusal::Malformed);
                }
                if self.stage != Stage::Staging {
                    return Ok(None);
                }
                if index == self.next {
                    let staged = self.staged_bytes + bytes.0.len() as u64;
                    if staged > self.limit {
                        return Err(Refusal::TooLarge);
                    }
                    self.next += 1;
                    self.staged_bytes = staged;
                    self.since = now;
                    // Changes follow what was there when it was prepared.
                    self.chunks = self.chunks.max(self.next);
                    self.bytes = self.bytes.max(self.staged_bytes);
                    steps.push_back(Step::Stage { id: self.id.clone(), index, bytes });
                }
                Ok(Some(self.have()))
            }
            Ask::Install { chunks, bytes } => self.handle_install(now, chunks, bytes, steps),
            Ask::Release if self.stage == Stage::Taken => Ok(Some(Tell::Taken)),
            Ask::Release if self.stage == Stage::Installed || mutated(Mutation::LetsGoUnacknowledged) => {
                self.enter(now, Stage::Taken);
                steps.push_back(Step::Received(self.id.clone()));
                Ok(Some(Tell::Taken))
            }
            Ask::Release if mutated(Mutation::AcksBeforeInstall) => {
                self.enter(now, Stage::Taken);
                steps.push_back(Step::Received(self.id.clone()));
                Ok(Some(Tell::Taken))
            }
            // The owner has let go of what was never acknowledged: it is to take it back.
            Ask::Release => Err(Refusal::Unknown),
            Ask::Cancel => Ok(None),
        }
    }

    fn handle_install(
        &mut self,
        now: Duration,
        chunks: u32,
        bytes: u64,
        steps: &mut Steps,
    ) -> Result<Option<Tell>, Refusal> {
        match self.stage {
            Stage::Staging if self.next < chunks => Ok(Some(self.have())),
            Stage::Staging if self.next > chunks || self.staged_bytes != bytes => Err(Refusal::Malformed),
            Stage::Staging => {
                self.enter(now, Stage::Installing);
                steps.push_back(Step::Install(self.id.clone()));
                Ok(Some(if mutated(Mutation::AcksBeforeInstall) { Tell::Installed } else { Tell::Installing }))
            }
            Stage::Installing => Ok(Some(Tell::Installing)),
            Stage::Installed => Ok(Some(Tell::Installed)),
            Stage::Taken => Ok(Some(Tell::Taken)),
        }
    }

    /// The state is installed. Returns what to tell the sender.
    pub(super) fn handle_installed(&mut self, now: Duration) -> Option<Tell> {
        (self.stage == Stage::Installing).then(|| {
            self.enter(now, Stage::Installed);
            Tell::Installed
        })
    }

    /// It ends here, before or after all.
    pub(super) fn end(&self, steps: &mut Steps) {
        if self.is_open() {
            steps.push_back(Step::Discard(self.id.clone()));
        }
    }

    /// When it is dropped if nothing is heard.
    pub(super) fn due(&self, config: &HandoffConfig) -> Option<Duration> {
        (self.stage == Stage::Staging).then_some(self.heard + config.idle)
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            id: self.id.clone(),
            direction: Direction::Receiving,
            peer: self.from.clone(),
            chunks: (self.next, self.chunks),
            bytes: (self.staged_bytes, self.bytes),
            since: self.since,
            waits_for: match self.stage {
                Stage::Staging | Stage::Installed => WaitsFor::Sender,
                Stage::Installing => WaitsFor::Install,
                Stage::Taken => WaitsFor::Claim,
            },
        }
    }
}

/// What the receiver says.
pub(super) fn tell(id: HandoffId, to: NodeId, tell: Tell) -> Step {
    Step::Send { to, message: HandoffMessage::Tell(id, tell) }
}
