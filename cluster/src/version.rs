//! Which versions of the wire protocol a node speaks, and what it can do that another build may not.
//!
//! Two adjacent versions run together, so that a cluster can be upgraded node by node. A build speaks a range of versions,
//! and two nodes that meet speak the newest that both do. What a build can do beyond that is a set of capabilities, which
//! stands in the hello and in node state: whoever wants to use one looks whether the others have it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::identity::NodeId;
use crate::state::Table;

/// The key of what a node speaks, in node state.
pub(crate) const WIRE_KEY: &str = ".wire";

/// The first version that has capabilities.
const WITH_CAPABILITIES: u16 = 2;

/// The versions that a node speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl VersionRange {
    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// What a build can do that others may not: a set. Bits that this build does not know are kept, and mean nothing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Nothing in particular.
    pub const NONE: Self = Self(0);
    /// Topics.
    pub const TOPICS: Self = Self(1);
    /// Presence.
    pub const PRESENCE: Self = Self(1 << 1);
    /// Keys that are rotated while the cluster runs.
    pub const KEYS: Self = Self(1 << 2);
    /// What this build can do.
    pub const ALL: Self = Self(Self::TOPICS.0 | Self::PRESENCE.0 | Self::KEYS.0);

    /// Whether all of these are among them.
    #[must_use]
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 == these.0
    }
}

/// What a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaks {
    /// The versions of the protocol.
    pub versions: VersionRange,
    /// What it can do.
    pub capabilities: Capabilities,
}

impl Speaks {
    /// This build.
    pub const CURRENT: Self = Self { versions: VersionRange { min: 1, max: 2 }, capabilities: Capabilities::ALL };
    /// A build that says nothing of itself.
    const FIRST: Self = Self { versions: VersionRange { min: 1, max: 1 }, capabilities: Capabilities::NONE };

    /// This build as if it spoke these versions only.
    pub(crate) fn only(versions: VersionRange) -> Self {
        let can = versions.max >= WITH_CAPABILITIES;
        Self { versions, capabilities: if can { Capabilities::ALL } else { Capabilities::NONE } }
    }

    /// Whether it says what it speaks in node state.
    pub(crate) fn says_so(self) -> bool {
        self.versions.max >= WITH_CAPABILITIES
    }
}

impl Table {
    /// What this life of a node speaks.
    pub(crate) fn speaks(&self, node: &NodeId) -> Speaks {
        self.value(node, WIRE_KEY).and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or(Speaks::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> VersionRange {
        VersionRange { min, max }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(range(1, 2).common(range(1, 1)), Some(1));
        assert_eq!(range(1, 2).common(range(2, 3)), Some(2));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
    }

    #[test]
    fn an_unknown_capability_is_no_harm() {
        let later = Capabilities(1 << 40 | Capabilities::TOPICS.0);
        assert!(later.has(Capabilities::TOPICS) && !later.has(Capabilities::ALL) && later.has(Capabilities::NONE));
        assert!(!Speaks::only(range(1, 1)).says_so() && Speaks::only(range(1, 1)) == Speaks::FIRST);
        assert_eq!(Speaks::only(range(1, 2)), Speaks::CURRENT);
    }
}
