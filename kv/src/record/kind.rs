//! What a key holds: by which rule its copies become one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How what is written to a key at the same time in different places becomes one.
///
/// A bucket declares it once. The order is the precedence: where a key got two kinds on two sides of a split, the greater
/// one shows, and the other once that is gone. A delete removes both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// Values that were written at the same time stay side by side, until a writer that has seen them replaces them.
    Causal,
    /// The latest of them stays, by hybrid logical clocks: the others are lost, and that is the user's choice.
    LastWriterWins,
    /// A number to which is added.
    Counter,
    /// A set of elements: one that is added at the same time as it is removed stays.
    Set,
    /// A map from fields to values: of a field the latest value stays; one that is written at the same time as it is
    /// removed stays.
    Map,
}

impl Kind {
    /// All, by rising precedence.
    pub(crate) const ALL: [Self; 5] = [Self::Causal, Self::LastWriterWins, Self::Counter, Self::Set, Self::Map];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Causal => "causal",
            Self::LastWriterWins => "last-writer-wins",
            Self::Counter => "counter",
            Self::Set => "set",
            Self::Map => "map",
        })
    }
}
