//! What placement knows of a node: its name, how much it can take, and what it shares a fate with.

use std::fmt;
use std::sync::Arc;

use polity_cluster::NodeName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The longest name of a zone, in bytes: as for the name of a node, so that node state stays small.
pub const MAX_ZONE_BYTES: usize = 64;

/// A node that shards may be placed on.
///
/// Which life of the node it is does not enter: a node that is started again keeps its shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub name: NodeName,
    /// How large its share is.
    pub weight: Weight,
    /// The zone that it fails with; a node without one is a zone of its own.
    pub zone: Option<Zone>,
}

impl Candidate {
    /// A node of default weight, without a zone.
    #[must_use]
    pub fn new(name: NodeName) -> Self {
        Self { name, weight: Weight::default(), zone: None }
    }

    /// The same node with this weight.
    #[must_use]
    pub fn with_weight(self, weight: Weight) -> Self {
        Self { weight, ..self }
    }

    /// The same node in this zone.
    #[must_use]
    pub fn with_zone(self, zone: Zone) -> Self {
        Self { zone: Some(zone), ..self }
    }
}

/// The share of a node relative to the others, from 1 to 1,000, by default 100.
///
/// With one replica, a node of weight 200 holds twice the shards of one of weight 100. With more it holds less than
/// that, because no node holds a shard twice: with as many replicas as nodes each node holds every shard, whatever it
/// weighs. A node that shall hold nothing is no candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct Weight(u16);

impl Weight {
    /// The greatest weight. Machines of one cluster differ by less than 1,000 times, and hashes tell such shares apart.
    pub const MAX: u16 = 1_000;

    /// Checks and takes a weight.
    ///
    /// # Errors
    /// [`Error::Weight`] if it is not from 1 to [`Weight::MAX`].
    pub const fn new(weight: u16) -> Result<Self, Error> {
        if 1 <= weight && weight <= Self::MAX { Ok(Self(weight)) } else { Err(Error::Weight(weight)) }
    }

    /// The weight.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    /// 100: shares can be set in per cent of a usual node.
    fn default() -> Self {
        Self(100)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl TryFrom<u16> for Weight {
    type Error = Error;
    fn try_from(weight: u16) -> Result<Self, Error> {
        Self::new(weight)
    }
}

/// A failure domain, such as a rack or a datacentre: 1 to 64 bytes of UTF-8 without control characters or white space
/// at its ends. Nodes with equal zones are expected to fail together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

impl Zone {
    /// Checks and takes the name of a zone.
    ///
    /// # Errors
    /// [`Error::ZoneEmpty`], [`Error::ZoneTooLong`] or [`Error::ZoneBadCharacter`].
    pub fn new(name: &str) -> Result<Self, Error> {
        if name.is_empty() {
            return Err(Error::ZoneEmpty);
        }
        if name.len() > MAX_ZONE_BYTES {
            return Err(Error::ZoneTooLong(name.len()));
        }
        if name.chars().any(char::is_control) || name.trim() != name {
            return Err(Error::ZoneBadCharacter(name.to_owned()));
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for Zone {
    type Error = Error;
    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Zone;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a zone")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Zone, E> {
                Zone::new(name).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
