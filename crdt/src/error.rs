//! What can go wrong. None of it goes away by trying again.

use crate::ReplicaId;

/// Why a write was refused, or why bytes are not a value.
///
/// [`Error::Exhausted`] is the answer to a call. All others describe malformed input; decoding passes their text to the
/// format's own error, and yields no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The history already holds the last counter of this replica, so it has no dot left to give. Writing once a
    /// nanosecond reaches it after 584 years: the context was made up, not read.
    #[error("replica {0} has used its last counter")]
    Exhausted(ReplicaId),
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
}
