//! Who wrote, and which of its writes: the name of one event.
//!
//! A *dot* is a pair of a replica and a counter; the replica's first write has counter 1. Dots are unique as long as
//! no two lives share a [`ReplicaId`] and no life forgets a counter that it has used. The term is from Almeida,
//! Baquero, Gonçalves, Preguiça and Fonte, "Scalable and accurate causality tracking for eventually consistent
//! stores" (DAIS 2014), section 3.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

/// One life of one replica.
///
/// 64 bits, which the user derives from what identifies the life: a stable name, and whatever tells this life from
/// earlier ones. A replica that has lost its memory has forgotten which counters it used, so it **must** come back
/// under another id; one that restarts with its disk intact may keep it.
///
/// Ids drawn uniformly, as by a good hash, collide with a probability of at most n² / 2⁶⁵ for n lives (the birthday
/// bound): 3·10⁻⁸ for a million lives. Only lives that write the same object have to differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One write: the `counter`th of `replica`. Ordered by replica, then counter, which says nothing about time.
///
/// Counters begin at 1. A dot with counter 0 names no event: no set contains it, and decoding refuses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(ReplicaId, u64)", try_from = "(ReplicaId, u64)")]
pub struct Dot {
    /// Who wrote.
    pub replica: ReplicaId,
    /// Which of its writes, from 1.
    pub counter: u64,
}

impl From<Dot> for (ReplicaId, u64) {
    fn from(dot: Dot) -> Self {
        (dot.replica, dot.counter)
    }
}

impl TryFrom<(ReplicaId, u64)> for Dot {
    type Error = Error;
    fn try_from((replica, counter): (ReplicaId, u64)) -> Result<Self, Error> {
        if counter == 0 { Err(Error::ZeroCounter) } else { Ok(Self { replica, counter }) }
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replica, self.counter)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
