//! One node's part in ownership, whole: its claims and its handoffs, wired together. Pure.
//!
//! [`Core`] decides what should be owned and moved, [`Desk`] moves it. The steward passes between them what each has
//! to say to the other, and leaves to its driver what needs the world: epochs, the document of claims, messages, the state
//! itself, the journal.
//!
//! A claim may come faster than the document of claims: with an effect, or a refusal. Whoever stops because of it knows
//! something that others may never hear of if its maker dies now: they would take a shard for owned by one that has
//! stopped. So a claim that the document does not show after [`ClaimConfig::retry`] is *relayed* into it.
//!
//! Feed it, carry out its [`Command`]s in order, and call [`Steward::handle_timeout`] when it says so.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use polity_cluster::NodeId;
use polity_cluster::rpc::Blob;

use crate::claims::{Action, Claim, ClaimConfig, Claims, Core, Fence, Hold, Sight, Superseded};
use crate::explain::{Explanation, explain};
use crate::handoff::{Desk, HandoffConfig, HandoffId, HandoffMessage, Refusal, Step, Tell};
use crate::{Epoch, EpochError, ShardCount, ShardId};

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Ask the authority for an epoch above `after`, and tell [`Steward::handle_epoch`] what it says.
    Seek {
        /// The shard.
        shard: ShardId,
        /// The greatest epoch that is known.
        after: Option<Epoch>,
    },
    /// This node owns the shard from now on: write the claim for all to see, and serve.
    Own(Claim),
    /// A claim of another has come otherwise than by the document of claims, some time ago: write it there, if it is not there.
    Relay(Claim),
    /// Stop serving: the shard was handed over to `to`. Keep its state until [`Command::Superseded`].
    Release {
        /// The claim under which it was owned.
        claim: Claim,
        /// Who has it now.
        to: NodeId,
    },
    /// Stop serving at once: another owns the shard.
    Superseded {
        /// The claim that is over.
        claim: Claim,
        /// The one in its place.
        by: Epoch,
    },
    /// Record in the journal, here and at the winner, that two owned the shard at once, with the state of both.
    Conflict {
        /// This node's claim.
        lost: Claim,
        /// The greater one.
        won: Epoch,
    },
    /// Something about a handoff: any but [`Step::Acknowledged`], [`Step::Failed`], [`Step::NotTaken`] and
    /// [`Step::Received`], which are settled here.
    Handoff(Step),
}

/// How a steward is set up. All nodes must agree on the number of shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StewardConfig {
    /// How many shards there are.
    pub shards: ShardCount,
    /// How long claims wait.
    pub claims: ClaimConfig,
    /// The limits of handoffs.
    pub handoff: HandoffConfig,
}

/// The claims and handoffs of one boot.
#[derive(Debug)]
pub struct Steward {
    core: Core,
    desk: Desk,
    relay_after: Duration,
    /// Claims that came otherwise than by the document, and when.
    unseen: BTreeMap<ShardId, (Epoch, Duration)>,
    commands: VecDeque<Command>,
}

impl Steward {
    /// The steward of boot `me`. It knows nobody yet, and no claims but those of `fence`.
    #[must_use]
    pub fn new(me: NodeId, config: StewardConfig, fence: Fence) -> Self {
        let StewardConfig { shards, claims, handoff } = config;
        Self {
            core: Core::new(me.clone(), shards, claims, fence),
            desk: Desk::new(me, shards, handoff),
            relay_after: claims.retry,
            unseen: BTreeMap::new(),
            commands: VecDeque::new(),
        }
    }

    /// What it claims and why.
    #[must_use]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Its handoffs.
    #[must_use]
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Who owns a shard, why, and what that waits for, as this node knows it.
    #[must_use]
    pub fn explain(&self, now: Duration, shard: ShardId) -> Explanation {
        explain(&self.core, &self.desk, now, shard)
    }

    // ---- inputs about claims --------------------------------------------------------------------------------------

    /// The members have changed, as this node sees them.
    pub fn handle_sight(&mut self, now: Duration, sight: Sight) {
        self.desk.handle_sight(&sight);
        self.core.handle_sight(now, sight);
        self.pump(now);
    }

    /// What others have claimed is known now.
    pub fn handle_learned(&mut self, now: Duration) {
        self.core.handle_learned(now);
        self.pump(now);
    }

    /// The document of claims says this.
    pub fn handle_claims(&mut self, now: Duration, claims: &Claims) {
        self.unseen.retain(|shard, (epoch, _)| claims.epoch(*shard).is_none_or(|shown| shown < epoch));
        for (shard, epoch) in claims.iter() {
            if self.core.claims().epoch(shard).is_none_or(|known| known < epoch) {
                self.core.handle_claim(now, Claim { shard, epoch: epoch.clone() });
                self.desk.handle_claim(now, shard, self.core.claims());
            }
        }
        self.pump(now);
    }

    /// Another node knows these claims.
    pub fn handle_known(&mut self, now: Duration, claims: &Claims) {
        for (shard, epoch) in claims.iter() {
            self.hear(now, shard, epoch);
        }
        self.pump(now);
    }

    /// A claim has come in another way.
    fn hear(&mut self, now: Duration, shard: ShardId, epoch: &Epoch) {
        let is_news = self.core.claims().epoch(shard).is_none_or(|known| known < epoch);
        if is_news && self.core.shards().contains(shard) {
            self.unseen.insert(shard, (epoch.clone(), now));
            self.core.handle_claim(now, Claim { shard, epoch: epoch.clone() });
            self.desk.handle_claim(now, shard, self.core.claims());
        }
    }

    /// An effect of an owner is to take place here. If its epoch was not known, it is now.
    ///
    /// # Errors
    /// [`Superseded`]: the epoch is over, and the effect must not take place.
    pub fn handle_effect(&mut self, now: Duration, shard: ShardId, epoch: &Epoch) -> Result<(), Superseded> {
        self.core.fence().check(shard, epoch)?;
        self.hear(now, shard, epoch);
        self.pump(now);
        Ok(())
    }

    /// The authority was asked for an epoch, and says this.
    pub fn handle_epoch(&mut self, now: Duration, shard: ShardId, answer: Result<Epoch, EpochError>) {
        if let Err(EpochError::Granted(epoch)) = &answer {
            self.hear(now, shard, epoch);
        }
        self.core.handle_epoch(now, shard, answer);
        self.pump(now);
    }

    // ---- inputs about handoffs ------------------------------------------------------------------------------------

    /// Whether this node is ready to be given a shard. It is, unless this has said otherwise.
    pub fn handle_ready(&mut self, shard: ShardId, is_ready: bool) {
        self.desk.handle_ready(shard, is_ready);
    }

    /// A message of `from` has come.
    pub fn handle_message(&mut self, now: Duration, from: &NodeId, message: HandoffMessage) {
        if let HandoffMessage::Tell(HandoffId { claim, .. }, Tell::Refused(Refusal::Superseded(epoch))) = &message {
            self.hear(now, claim.shard, epoch);
        }
        self.desk.handle_message(now, from, message, self.core.claims());
        self.pump(now);
    }

    /// The snapshot of [`Step::Open`] was taken: so many chunks, of so many bytes together.
    pub fn handle_opened(&mut self, now: Duration, id: &HandoffId, chunks: u32, bytes: u64) {
        self.desk.handle_opened(now, id, chunks, bytes);
        self.pump(now);
    }

    /// The chunk of [`Step::Read`].
    pub fn handle_chunk(&mut self, now: Duration, id: &HandoffId, index: u32, bytes: Blob) {
        self.desk.handle_chunk(now, id, index, bytes);
        self.pump(now);
    }

    /// After [`Step::CatchUp`] or [`Step::Pause`]: so much was appended to the snapshot.
    pub fn handle_changes(&mut self, now: Duration, id: &HandoffId, chunks: u32, bytes: u64) {
        self.desk.handle_changes(now, id, chunks, bytes);
        self.pump(now);
    }

    /// The state cannot be read.
    pub fn handle_source_failed(&mut self, now: Duration, id: &HandoffId, why: &str) {
        self.desk.handle_source_failed(now, id, why);
        self.pump(now);
    }

    /// After [`Step::Install`]: whether the state is installed now.
    pub fn handle_installed(&mut self, now: Duration, id: &HandoffId, is_installed: bool) {
        self.desk.handle_installed(now, id, is_installed);
        self.pump(now);
    }

    /// Breaks off the handoff of a shard that this node owns, which it goes on owning. Another is begun after
    /// [`ClaimConfig::retry`], if another node should own the shard then. Returns whether there was one: what was let go stays so.
    pub fn cancel(&mut self, now: Duration, shard: ShardId) -> bool {
        let Some((Hold::HandingOver(_), epoch, _)) = self.core.hold(shard) else {
            return false;
        };
        let claim = Claim { shard, epoch: epoch.clone() };
        self.desk.cancel(now, &claim);
        self.core.handle_failed(now, &claim);
        self.pump(now);
        true
    }

    /// The node has sent so many bytes of other things than handoffs.
    pub fn handle_moved(&mut self, now: Duration, bytes: u64) {
        self.desk.handle_moved(now, bytes);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.core.handle_timeout(now);
        self.desk.handle_timeout(now);
        self.unseen.retain(|shard, (epoch, since)| {
            let is_due = now >= *since + self.relay_after;
            if is_due {
                self.commands.push_back(Command::Relay(Claim { shard: *shard, epoch: epoch.clone() }));
            }
            !is_due
        });
        self.pump(now);
    }

    // ---- outputs --------------------------------------------------------------------------------------------------

    /// What is to be done next, in order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether there is a command to be carried out.
    #[must_use]
    pub fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// A shard of which a greater epoch is known than when this was last said of it.
    pub fn poll_news(&mut self) -> Option<ShardId> {
        self.core.poll_news()
    }

    /// When [`Steward::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let relay = self.unseen.values().map(|(_, since)| *since + self.relay_after);
        relay.chain(self.core.poll_timeout()).chain(self.desk.poll_timeout()).min()
    }

    /// Lets the two say to each other what they have to say.
    fn pump(&mut self, now: Duration) {
        loop {
            if let Some(action) = self.core.poll_action() {
                self.settle_action(now, action);
            } else if let Some(step) = self.desk.poll_step() {
                self.settle_step(now, step);
            } else {
                break;
            }
        }
    }

    fn settle_action(&mut self, now: Duration, action: Action) {
        let command = match action {
            Action::HandOver { claim, to } => return self.desk.begin(now, claim, to),
            Action::CancelHandOver(claim) => return self.desk.cancel(now, &claim),
            Action::Seek { shard, after } => Command::Seek { shard, after },
            Action::Claim(claim) => {
                self.desk.handle_claim(now, claim.shard, self.core.claims());
                Command::Own(claim)
            }
            Action::Release { claim, to } => Command::Release { claim, to },
            Action::Superseded { claim, by } => Command::Superseded { claim, by },
            Action::Conflict { lost, won } => Command::Conflict { lost, won },
        };
        self.commands.push_back(command);
    }

    fn settle_step(&mut self, now: Duration, step: Step) {
        match step {
            Step::Acknowledged { id, by } => {
                if self.core.handle_acknowledged(now, &id.claim, &by) {
                    self.desk.handle_let_go(now, &id);
                } else {
                    self.desk.cancel(now, &id.claim);
                }
            }
            Step::Failed { id, .. } => self.core.handle_failed(now, &id.claim),
            Step::NotTaken(id) => self.core.handle_refused(now, &id.claim),
            Step::Received(id) => {
                self.hear(now, id.claim.shard, &id.claim.epoch);
                self.core.handle_received(now, &id.claim);
            }
            step => self.commands.push_back(Command::Handoff(step)),
        }
    }
}

#[cfg(test)]
mod tests;
