//! What can go wrong. None of it goes away by trying again.

use crate::ReplicaId;

/// Why a write was refused, or why bytes are not a value.
///
/// Errors that answer a call leave everything as it was. The others describe malformed input; decoding yields no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Answers to calls.
    /// The history already holds the last counter of this replica, so it has no dot left to give. Writing once a
    /// nanosecond reaches it after 584 years: the context was made up, not read.
    #[error("replica {0} has used its last counter")]
    Exhausted(ReplicaId),
    /// A counter's total passes what its type holds. Nothing was counted.
    #[error("the count of replica {0} overflows")]
    CountOverflow(ReplicaId),
    /// A bounded counter may not go so far here: this replica holds rights to `available` only. Another may hold more;
    /// ask for a transfer.
    #[error("{wanted} would cross the bound: this replica may take {available}")]
    Bound {
        /// What was asked for.
        wanted: u64,
        /// What this replica may take.
        available: u64,
    },
    /// The entry belongs to another replica, and only its owner may write it.
    #[error("replica {writer} may not write an entry of replica {owner}")]
    NotOwner {
        /// Whose the entry is.
        owner: ReplicaId,
        /// Who tried.
        writer: ReplicaId,
    },
    /// One update is larger than what may be sent at once. Divide it.
    #[error("an update of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// How large it would be.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A timestamp is further ahead of the wall clock than is tolerated.
    #[error("a timestamp is {by_ms} ms ahead of this wall clock")]
    ClockAhead {
        /// How far.
        by_ms: u64,
    },

    // Conversions from and to other libraries.
    /// A history has a gap, and the other library can only say "all up to here". Merge what is missing first.
    #[error("the history of replica {0} has a gap")]
    Gap(ReplicaId),
    /// A state of the other library, or for it, means something that the other side has no form for.
    #[error("it cannot be taken over: {0}")]
    Foreign(&'static str),

    // Malformed input.
    /// A dot has counter 0; counters begin at 1.
    #[error("the counter of a dot is at least 1")]
    ZeroCounter,
    /// An entry of a replica holds no dot.
    #[error("the entry of replica {0} is empty")]
    EmptyEntry(ReplicaId),
    /// Entries are out of order, or a replica has two.
    #[error("the entry of replica {0} is out of order")]
    Unsorted(ReplicaId),
    /// An interval, a gap or a step of length 0: the same set has a shorter form, which is the only one accepted.
    #[error("the entry of replica {0} is not in its shortest form")]
    NotCanonical(ReplicaId),
    /// A counter passes 2⁶⁴ - 1.
    #[error("a counter of replica {0} overflows")]
    Overflow(ReplicaId),
    /// A live value has a dot that its own causal history lacks.
    #[error("a value of replica {0} lies outside of its own history")]
    Uncovered(ReplicaId),
    /// Bytes that are not an encoding.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Why bytes are not a delta or a message of this crate. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// Bytes are left over.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// The first byte names a format that this version does not know.
    #[error("unknown format {0}")]
    Format(u8),
    /// A number does not fit its type, or is not in its shortest form.
    #[error("a malformed number")]
    Number,
    /// A kind of message or a form that does not exist.
    #[error("an unknown tag")]
    Tag,
    /// A replica is named by a number that the message has not introduced.
    #[error("a replica that was not introduced")]
    UnknownReplica,
    /// A replica is introduced a second time.
    #[error("a replica that was introduced before")]
    KnownReplica,
    /// A set of dots, keys or entries is not sorted, or not in its only form.
    #[error("entries are out of order or not in their shortest form")]
    Order,
    /// A dot is there twice, or is both live and dead.
    #[error("a dot is claimed twice")]
    Twice,
    /// A key or a value does not decode as its type, or is not in its only form.
    #[error("a key or a value does not decode")]
    Content,
    /// More than a stated limit.
    #[error("over a limit")]
    Limit,
}
