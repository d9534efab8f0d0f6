//! Anti-entropy: how the replicas of one object become equal, at a cost that follows what has changed.
//!
//! [`AntiEntropy`] holds one replica and says what to ask of whom. It is a pure state machine: its driver hands it the
//! time, updates, the requests and answers of others, and carries out what it asks for. It needs no order and no
//! reliability: every request may be lost, late or doubled.
//!
//! # Rule zero
//! **A message claims only the dots it carries.** A push claims the dots that were touched, a chunk of a transfer claims an
//! interval of dots in which it brings all that is live. So whatever arrives, in whatever order, a replica's context
//! never covers something that it has not been told of; a transfer that breaks off leaves a replica that knows exactly
//! what it has.
//!
//! # Four ways, from cheap to thorough
//! 1. **Push.** What changes here is noted in a log of dots, which coalesces: a dot is noted once, and one that came and went
//!    before anybody was told becomes a number in an interval. Each peer has a cursor into it and a window of requests under way.
//!    A change travels down a tree of up to [`SyncConfig::fan_out`] children a node, whose root is where it was made
//!    (module `tree`), so nobody gets it twice and nothing returns to its origin.
//! 2. **Exchange.** Now and then, and when a peer appears, two replicas compare a few numbers (a *round*). If their contexts
//!    differ they swap them, and each sends what lies above the other's: a transfer in the order of dots, in chunks.
//! 3. **Reconciliation.** If contexts are equal and live dots are not (a removal was lost), coded symbols of the live dots
//!    tell which, at a size that follows the difference ([`crate::sketch`]). A dot that one side lacks was removed there if
//!    its context covers it, and is missing otherwise.
//! 4. **Retirement.** The actors that will never write again leave the context once everybody has heard all of them
//!    (module `roster`).
//!
//! Sources: Almeida, Shoker, Baquero, "Delta state replicated data types" (JPDC 2018), section 5; Yang, Gilad and Alizadeh,
//! "Practical rateless set reconciliation" (SIGCOMM 2024).
//!
//! # What is bounded, and by what
//! The log by the live dots plus [`SyncConfig::log_entries`]: a peer that falls behind it is repaired by a round instead.
//! Requests under way by [`SyncConfig::window`] a peer and kind. Transfers by [`MAX_TRANSFERS`]; each holds the dots and keys
//! that it has to send. A message by [`SyncConfig::chunk_bytes`] plus the largest value.

mod engine;
mod log;
mod message;
mod push;
mod roster;
mod round;
mod transfer;
mod tree;

use std::sync::Arc;
use std::time::Duration;

pub use self::engine::AntiEntropy;
pub use self::message::{decode_answer, decode_request};
use crate::sketch::mix;
use crate::{Dot, ReplicaId};

/// How many peers are sent what they lack at the same time; others are asked to come back.
pub const MAX_TRANSFERS: usize = 4;

/// The pace and the limits of [`AntiEntropy`]. Zeros that would stand still or run hot count as the least that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// How long a push waits for more changes after another push to the same peer. 1 ms: a tenth of what a person could
    /// notice, and enough to put thousands of changes into one message.
    pub coalesce: Duration,
    /// Into how many peers a node sends a change: up to 33 nodes everyone gets it directly, up to 1,057 at second hand.
    pub fan_out: usize,
    /// How many requests of one kind may be under way to a peer: enough to fill a link of 100 ms and 100 Mbit/s.
    pub window: usize,
    /// The most dots of a message.
    pub chunk_items: usize,
    /// How many bytes a message should have at most; a single larger item is sent alone.
    pub chunk_bytes: usize,
    /// The time between two rounds, as a mean: one costs about 200 bytes when there is nothing to do.
    pub round_interval: Duration,
    /// How long a round may stand still before it is given up.
    pub patience: Duration,
    /// How many changes the log holds beyond the live dots before peers that are behind are left to rounds.
    pub log_entries: usize,
    /// How long a retired actor's dots are remembered after everybody has retired it, at 24 bytes: longer than any message
    /// can be under way, a pause of its receiver included (some minutes), and longer than a newcomer can be cut off whom only
    /// replicas know that have departed since (a day, by default).
    pub retire_grace: Duration,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            coalesce: Duration::from_millis(1),
            fan_out: 32,
            window: 8,
            chunk_items: 4096,
            chunk_bytes: 64 << 10,
            round_interval: Duration::from_secs(5),
            patience: Duration::from_secs(5),
            log_entries: 4096,
            retire_grace: Duration::from_secs(24 * 3600),
        }
    }
}

impl SyncConfig {
    /// The same with what would stand still or run hot raised to the least that works: a window, a message and a fan-out
    /// of one, and ten milliseconds between rounds.
    fn workable(self) -> Self {
        Self {
            fan_out: self.fan_out.max(1),
            window: self.window.max(1),
            chunk_items: self.chunk_items.max(1),
            round_interval: self.round_interval.max(Duration::from_millis(10)),
            ..self
        }
    }
}

/// A request to a peer. Its driver delivers the answer, or that there will be none, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whom.
    pub to: ReplicaId,
    /// Names the request in [`AntiEntropy::handle_answer`].
    pub id: u64,
    /// Whether it is a part of a larger transfer, which must not delay others.
    pub is_bulk: bool,
    /// What.
    pub bytes: Arc<[u8]>,
}

/// What a replica has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Pushes that were sent.
    pub pushes: u64,
    /// Chunks of transfers that were sent.
    pub chunks: u64,
    /// Bytes of all requests that were sent.
    pub sent_bytes: u64,
    /// Bytes of all requests that were received.
    pub received_bytes: u64,
    /// Rounds that were begun.
    pub rounds: u64,
    /// Rounds in which contexts differed.
    pub exchanges: u64,
    /// Rounds in which live dots were reconciled.
    pub reconciliations: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Times that the log was cut and peers were left to rounds.
    pub overruns: u64,
    /// Actors that were retired.
    pub retired: u64,
}

/// The hash of a dot in a sketch.
fn dot_hash(dot: Dot, salt: u64) -> u64 {
    mix(mix(dot.replica.0 ^ salt).wrapping_add(dot.counter))
}
