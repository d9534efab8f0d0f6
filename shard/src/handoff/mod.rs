//! Handing the state of a shard over: the explicit state machine of promise H5. Pure.
//!
//! | module | idea |
//! |---|---|
//! | `message` | what the two sides say |
//! | `send` | the side that owns the shard |
//! | `receive` | the side that will |
//! | `budget` | how fast |
//! | `desk` | all handoffs of a node, in both directions |
//!
//! # The steps
//!
//! ```text
//! owner:    wait its turn ─ open ─ prepare ─ chunks ─ (catch up ─ chunks) … ─ pause ─ chunks ─ install ─ let go ─ release
//! receiver:                        accept ─ stage …                                            install, acknowledge ─ take ─ claim
//! ```
//!
//! The owner serves until it *pauses*: everything that was there when the handoff was opened has arrived by then. What has
//! changed meanwhile is asked for and sent in rounds, each shorter than the one before, until it fits into the window. The pause
//! is there so that nothing changes between the last chunk and the acknowledgement. Nothing waits for the budget in it, and
//! the owner goes on serving if it takes longer than [`HandoffConfig::pause`].
//!
//! # What holds
//! - **Acknowledged after install.** The receiver says *installed* when its driver has said so, and the owner lets go when it
//!   has heard that. The receiver claims only when it has been told of the release, or when the owner is down.
//! - **Keyed by epoch.** Messages name the claim and the attempt. A greater epoch ends a handoff on both sides.
//! - **Cancellable at every step before the release,** by either side: the owner goes on as if nothing had been. After the
//!   release it takes the shard back only under a greater epoch.
//! - **Resumed or abandoned.** A receiver that is unreachable for a while is asked what it has, and the rest is sent. One that
//!   is down, or has begun anew, is given up. A receiver drops what it has staged when the owner's boot is not up any more, a
//!   greater epoch is known, or nothing was heard for [`HandoffConfig::idle`].
//! - **Bounded.** So many handoffs at a time in each direction, so many chunks under way; the rest waits for its turn, at most
//!   one for each shard. Bytes are never kept here: chunks are read when they are sent, and staged as they come.
//! - **Visible.** [`Desk::progress`] tells how far each is and what it waits for; one that has not moved for
//!   [`HandoffConfig::alarm`] is reported as [`Stuck`], once each time that it gets stuck. Attempts that fail one after the
//!   other are no progress: what they are about has not gone on since the first of them began.
//!
//! # What to install means
//! To *merge*: what was installed and then not taken, because the handoff was cancelled after all, must do no harm later,
//! when the receiver owns the shard for another reason. Replicated types and records with versions merge so.
//!
//! Source: the rounds of copying while serving, and the short pause for the rest, are those of live migration: Clark et al.,
//! "Live migration of virtual machines" (NSDI 2005), section 3. That the new owner acknowledges after install is what users
//! of other systems missed.

mod budget;
mod desk;
mod message;
mod receive;
mod send;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use polity_cluster::NodeId;
use polity_cluster::rpc::Blob;

pub use self::budget::{Budget, BudgetConfig};
pub use self::desk::Desk;
pub use self::message::{Ask, HandoffId, HandoffMessage, MAX_CHUNK_BYTES, MAX_CHUNKS, Refusal, Tell};

/// The limits of handoffs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandoffConfig {
    /// How fast they may send. The rest of what the node sends is what its transport counts of calls and answers, without
    /// gossip.
    pub budget: BudgetConfig,
    /// How many shards are sent at a time, without those whose receivers are not ready. Default: 4, which keep the budget
    /// busy while one waits for an answer.
    pub sending: usize,
    /// How many are received at a time; others are told to come again. Default: 8.
    pub receiving: usize,
    /// How many bytes of one handoff are kept until they are installed; a state that is larger is refused. Default: 64 MiB, which
    /// for eight shards are 512.
    pub staged: u64,
    /// How many chunks of one handoff may be under way. Default: 4, together 1 MiB.
    pub window: u32,
    /// After how long what was not answered is sent again. Default: 500 ms, a few round trips on slow links.
    pub resend: Duration,
    /// After how long a receiver drops what it has staged if it hears nothing. Default: 60 s, longer than it takes to find
    /// out that the sender is down.
    pub idle: Duration,
    /// For how long an owner does not serve a shard for the sake of a handoff. Default: 2 s.
    pub pause: Duration,
    /// After how long without progress a handoff is stuck. Default: 10 s.
    pub alarm: Duration,
}

impl Default for HandoffConfig {
    fn default() -> Self {
        Self {
            budget: BudgetConfig::default(),
            sending: 4,
            receiving: 8,
            staged: 64 << 20,
            window: 4,
            resend: Duration::from_millis(500),
            idle: Duration::from_secs(60),
            pause: Duration::from_secs(2),
            alarm: Duration::from_secs(10),
        }
    }
}

/// What a handoff waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Others to be done: only so many are sent at a time.
    Turn,
    /// The state to be opened or read on this node.
    Source,
    /// The receiver to say that it takes the shard. The last thing that it said against it, if any.
    Acceptance(Option<Refusal>),
    /// The budget.
    Budget,
    /// The receiver to say that it has what was sent.
    Arrival,
    /// What has changed meanwhile to be told, on this node, with the shard paused.
    Changes,
    /// The receiver to install it.
    Install,
    /// The receiver to say that it knows of the release.
    Taking,
    /// The claim of the receiver.
    Claim,
    /// The sender to go on.
    Sender,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn => "its turn",
            Self::Source => "the state to be read",
            Self::Acceptance(Some(refusal)) => return write!(f, "the receiver to take it: {refusal}"),
            Self::Acceptance(None) => "the receiver to take it",
            Self::Budget => "the budget of handoffs",
            Self::Arrival => "chunks to arrive",
            Self::Changes => "what has changed meanwhile",
            Self::Install => "the receiver to install it",
            Self::Taking => "the receiver to hear of the release",
            Self::Claim => "the receiver's claim",
            Self::Sender => "the sender",
        })
    }
}

/// In which direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// This node gives the shard away.
    Sending,
    /// This node is given it.
    Receiving,
}

/// How far a handoff is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Which one; its attempt is 0 while it waits for its turn.
    pub id: HandoffId,
    /// In which direction.
    pub direction: Direction,
    /// The other side.
    pub peer: NodeId,
    /// How many chunks have arrived, and of how many that are known of.
    pub chunks: (u32, u32),
    /// The same in bytes.
    pub bytes: (u64, u64),
    /// When it last went on.
    pub since: Duration,
    /// What it waits for.
    pub waits_for: WaitsFor,
}

/// A handoff has not gone on for too long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// Which one.
    pub id: HandoffId,
    /// The other side.
    pub peer: NodeId,
    /// When it last went on.
    pub since: Duration,
    /// What it waits for.
    pub waits_for: WaitsFor,
}

impl From<Progress> for Stuck {
    fn from(Progress { id, peer, since, waits_for, .. }: Progress) -> Self {
        Self { id, peer, since, waits_for }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the handoff of {} with {} waits for {}", self.id, self.peer, self.waits_for)
    }
}

/// Why an attempt came to nothing. The owner goes on, and may begin another.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoffError {
    /// The receiver said no.
    #[error("the receiver refused: {0}")]
    Refused(Refusal),
    /// The receiver did not install it before the owner had to serve again.
    #[error("it was not installed in time")]
    TooSlow,
    /// The state could not be read.
    #[error("the state could not be read: {0}")]
    Source(String),
}

/// What the driver of handoffs is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send a message, or lose it.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: HandoffMessage,
    },
    /// Take a snapshot of the shard that can be read in chunks, and call [`Desk::handle_opened`].
    Open(HandoffId),
    /// Read a chunk and call [`Desk::handle_chunk`]. A chunk may be asked for again, and is the same then.
    Read {
        /// Of which handoff.
        id: HandoffId,
        /// Which chunk, from 0.
        index: u32,
    },
    /// Append what has changed since the snapshot, or since this was last asked, as further chunks, and call
    /// [`Desk::handle_changes`]. The shard goes on changing.
    CatchUp(HandoffId),
    /// Let nothing change in the shard, finish what has begun, and then the same for the last time.
    Pause(HandoffId),
    /// Serve the shard again.
    Resume(HandoffId),
    /// The snapshot is not read any more.
    Close(HandoffId),
    /// The receiver has installed and acknowledged everything: let the shard go, and call [`Desk::handle_let_go`].
    Acknowledged {
        /// Which handoff.
        id: HandoffId,
        /// Who has the shard.
        by: NodeId,
    },
    /// An attempt came to nothing. The shard is owned as before.
    Failed {
        /// Which.
        id: HandoffId,
        /// Why.
        error: HandoffError,
    },
    /// The receiver says, after the release, that it knows nothing of it.
    NotTaken(HandoffId),
    /// Keep a chunk of a shard that may become ours. They come in order, each once.
    Stage {
        /// Of which handoff.
        id: HandoffId,
        /// Which chunk.
        index: u32,
        /// Its bytes.
        bytes: Blob,
    },
    /// Merge what was staged into this node's state, and call [`Desk::handle_installed`] when that is so.
    Install(HandoffId),
    /// Drop what was staged.
    Discard(HandoffId),
    /// The owner has let the shard go, and this node has its state: claim it.
    Received(HandoffId),
    /// One does not go on.
    Alarm(Stuck),
}

type Steps = VecDeque<Step>;
