//! What can go wrong with an operation, and whether it may have happened all the same.

use crate::config::ConfigError;
use crate::engine::EngineError;
use crate::record::Kind;

/// Why a store did not start. Nothing is left running.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A limit or time is outside of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The storage engine could not be opened or read.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Whether an operation that failed may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has not, and will not.
    NotApplied,
    /// It may have, now or later: a reader may see it.
    Unknown,
}

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    // Reject: the call must change.
    /// The key is over the limit. Nothing was written.
    #[error("a key has 1 to {limit} bytes, and this one has {bytes}; nothing was done")]
    KeySize {
        /// The key's length.
        bytes: usize,
        /// The longest key.
        limit: usize,
    },
    /// The value is over the limit. Nothing was written.
    #[error("a value has at most {limit} bytes, and this one has {bytes}; nothing was written")]
    ValueTooLarge {
        /// The value's length.
        bytes: usize,
        /// The largest value.
        limit: usize,
    },
    /// The key has too many concurrent values. Nothing was written. Read them, merge them, and write the result with
    /// the context of the read.
    #[error(
        "the key has {siblings} concurrent values, and no room for another; nothing was written: read, merge, and write with the \
         context"
    )]
    TooManySiblings {
        /// How many.
        siblings: usize,
    },
    /// All that is under the key would be more than a key may hold. Nothing was written. Of concurrent values: read them, merge
    /// them, and write the result with the context of the read. Of a set or a map: remove enough in one update, delete the key, or
    /// use more keys.
    #[error("all that is under the key would take {bytes} bytes, and a key holds at most {limit}; nothing was written")]
    RecordTooLarge {
        /// What it would take.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// The store's configuration declares no such bucket.
    #[error("no bucket {name:?} is declared; those that are: {declared:?}")]
    UnknownBucket {
        /// What was asked for.
        name: String,
        /// What there is.
        declared: Vec<String>,
    },
    /// The bucket is declared to be of another kind.
    #[error("the bucket {name:?} is declared as {}, and was asked for as {}", kind_text(*declared), kind_text(*asked))]
    BucketKind {
        /// Which.
        name: String,
        /// What the configuration says; `None`: keys of any kind.
        declared: Option<Kind>,
        /// What it was opened as; `None`: keys of any kind.
        asked: Option<Kind>,
    },
    /// The node has as many watches as it may. Nothing was begun: drop one, or watch a prefix in the place of many keys.
    #[error("a node has at most {limit} watches; none was begun")]
    TooManyWatches {
        /// The most.
        limit: usize,
    },
    /// The update does too much at once. Nothing was written.
    #[error("an update has at most {limit} steps, and this one has {steps}; nothing was written")]
    TooManySteps {
        /// How many it has.
        steps: usize,
        /// The most.
        limit: usize,
    },
    /// The idempotency key of a write is older than the window, or newer, by the clock of whoever would have coordinated it. This
    /// attempt wrote nothing; whether an earlier one did is to be read.
    #[error("the idempotency key is not of the last or next {window:?}; this attempt wrote nothing")]
    IdempotencyKeyOutOfWindow {
        /// For how long a key counts.
        window: std::time::Duration,
    },
    /// Too many writes to the key have had idempotency keys, which are kept for twice the window. Nothing was written: write without, to
    /// other keys, or later.
    #[error("a key takes {limit} writes under idempotency keys within twice their window; nothing was written")]
    TooManyIdempotencyKeys {
        /// The most.
        limit: usize,
    },
    /// The key holds something of another kind. Nothing was written.
    #[error("the key holds a {found} value, and this is for a {wanted} one; nothing was done")]
    WrongKind {
        /// What it holds.
        found: Kind,
        /// What the call is for.
        wanted: Kind,
    },

    // Retry.
    /// It could not be written before the time had passed that it was to live for. Nothing was written: give it more time, or see whether
    /// the replicas can be reached and no clock is wrong.
    #[error("the time passed that it was to live for before it was written; nothing was written")]
    Expired,
    /// Too few replicas could be reached for this level of consistency, or they are not ready yet, or too few have confirmed a write:
    /// of one that was made and that the disk of its own coordinator has not confirmed, that is 0 of 1.
    #[error("{what}: {answered} of {needed} replicas answered ({reason}); {}", outcome_text(*outcome))]
    NotEnoughReplicas {
        /// What was tried.
        what: &'static str,
        /// How many answered.
        answered: usize,
        /// How many must.
        needed: usize,
        /// What the others said, or why they were not asked.
        reason: String,
        /// Whether a write may have taken effect.
        outcome: Outcome,
    },
    /// A replica that would have coordinated the write failed in the midst of it.
    #[error("the replica that coordinated the write failed ({reason}); the write may have been applied")]
    CoordinatorLost {
        /// What is known of it.
        reason: String,
    },

    // Give up.
    /// So many replicas of the key have no room left on their disks that the others are too few for this level of consistency.
    /// Nothing was written. Make room there, and start again those whose folder was full: until then they take nothing.
    #[error("{full} of {replicas} replicas have no room ({reason}); nothing was written")]
    NoRoom {
        /// How many have none.
        full: usize,
        /// How many replicas the key has.
        replicas: usize,
        /// What each said, the others as well.
        reason: String,
    },
    /// The storage engine of this node failed while it was asked what it holds itself ([`Kv::local`](crate::Kv::local)). Nothing
    /// was changed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store has stopped. Nothing was done.
    #[error("the store has stopped; nothing was done")]
    Stopped,
}

fn kind_text(kind: Option<Kind>) -> String {
    kind.map_or_else(|| "any".to_owned(), |kind| kind.to_string())
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplied => "nothing was changed",
        Outcome::Unknown => "a write may have been applied",
    }
}

impl KvError {
    /// Whether the operation may have taken effect. Of a read, always [`Outcome::NotApplied`].
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotEnoughReplicas { outcome, .. } => *outcome,
            Self::CoordinatorLost { .. } => Outcome::Unknown,
            _ => Outcome::NotApplied,
        }
    }

    /// Whether the same call may succeed later. A write whose outcome is unknown may then take effect twice: an addition to a counter
    /// counts twice, and the same causal value with the same context is there twice, as siblings. Under an
    /// [`IdempotencyKey`](crate::IdempotencyKey) it takes effect once.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Expired | Self::NotEnoughReplicas { .. } | Self::CoordinatorLost { .. })
    }
}
