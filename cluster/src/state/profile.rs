//! What every node says of itself.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::identity::{NameError, NodeName};

/// The key of the [`Profile`] in node state. Keys of the library begin with a dot; the application's must not.
pub(crate) const PROFILE_KEY: &str = ".profile";

/// The share of a node relative to the others, from 1 to 1,000, by default 100: per cent of a usual node.
///
/// With one replica, a node of weight 200 holds twice the shards of one of weight 100. With more it holds less than
/// that, because no node holds a shard twice: with as many replicas as nodes each node holds every shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(NonZeroU16);

/// A weight that is not between 1 and 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node's weight is between 1 and {max}; this one is {0}", max = Weight::MAX)]
pub struct WeightError(u16);

impl Weight {
    /// The greatest weight. A ratio of 1,000 between two nodes is more than any placement can follow.
    pub const MAX: u16 = 1000;

    /// Checks and takes a weight.
    ///
    /// # Errors
    /// [`WeightError`] outside 1 to 1,000.
    pub const fn new(weight: u16) -> Result<Self, WeightError> {
        match NonZeroU16::new(weight) {
            Some(w) if weight <= Self::MAX => Ok(Self(w)),
            _ => Err(WeightError(weight)),
        }
    }

    /// The weight as a number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(NonZeroU16::new(100).expect("not zero"))
    }
}

impl TryFrom<u16> for Weight {
    type Error = WeightError;
    fn try_from(weight: u16) -> Result<Self, WeightError> {
        Self::new(weight)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> u16 {
        weight.get()
    }
}

/// A failure domain, such as a rack or a datacentre: named like a node. Nodes of one zone are expected to fail together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Zone(NodeName);

impl Zone {
    /// Checks and takes a name: 1 to 64 bytes of UTF-8 without control characters or white space at its ends.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        NodeName::new(name).map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What every node says of itself: what placement needs, and whether it is about to go.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Profile {
    /// Its share of the work.
    pub weight: Weight,
    /// Its failure domain, such as a rack or an availability zone.
    pub zone: Option<Zone>,
    /// Free words for the application, such as `"worker"`.
    pub roles: Vec<String>,
    /// It is leaving: it still serves, and nothing new should be placed on it.
    pub draining: bool,
    /// It has left on purpose: when it falls silent, that is no failure.
    pub left: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_bounds_on_the_wire_too() {
        assert!(Weight::new(0).is_err() && Weight::new(1001).is_err() && Weight::new(1000).is_ok());
        let wire = postcard::to_allocvec(&2000u16).expect("encodes");
        assert!(postcard::from_bytes::<Weight>(&wire).is_err());
    }
}
