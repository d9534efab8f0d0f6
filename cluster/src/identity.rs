//! Who a node is: its stable name, and the one life of it that is running.
//!
//! A *name* is chosen by the operator and outlives processes. A *boot* is one life of a process under that name: a
//! generation, which grows from life to life, and 128 random bits, which tell two lives apart that were started
//! without knowing of each other. A boot is never reused and never taken from a clock. The *newest* boot of a name,
//! in the order of [`Boot`], is the one that the cluster listens to.
//!
//! [`Identity`] is what the failure detector carries: a node, the address where it listens, and `rejoin`, which grows
//! each time the node was wrongly declared down and came back. A rejoin is not a new boot: the node keeps its boot and
//! all that belongs to it.

use std::borrow::Borrow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a node, in bytes. Three identities of this length fit into one gossip datagram beside the
/// largest header, so that every message of the failure detector fits into one packet.
pub const MAX_NAME_BYTES: usize = 64;

/// The stable name of a node: 1 to 64 bytes of UTF-8 without control characters or white space at its ends.
///
/// Placement depends on names only, so a node that is started again under its name gets its shards back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

/// Why a text is not a [`NodeName`] or a [`Zone`](crate::Zone).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name is too long.
    #[error("a name is at most {MAX_NAME_BYTES} bytes long; this one has {0}")]
    TooLong(usize),
    /// The name has a control character, or white space at an end.
    #[error("a name must not contain control characters or begin or end with white space: {0:?}")]
    BadCharacter(String),
}

impl NodeName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) || name.trim() != name {
            return Err(NameError::BadCharacter(name.to_owned()));
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl TryFrom<&str> for NodeName {
    type Error = NameError;
    fn try_from(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = NodeName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a node")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<NodeName, E> {
                NodeName::new(s).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// One life of a process under a name. Ordered: the greater boot of a name supersedes the smaller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Boot {
    /// One more than the greatest generation of this name that the node's seeds knew when it started.
    pub generation: u64,
    /// Random, so that two lives that knew nothing of each other differ.
    pub nonce: u128,
}

impl Boot {
    /// The boot in 24 bytes: generation, then nonce, both big-endian, so that bytes sort as boots do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.generation.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// The inverse of [`Boot::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 24]) -> Self {
        let (mut generation, mut nonce) = ([0; 8], [0; 16]);
        generation.copy_from_slice(&bytes[..8]);
        nonce.copy_from_slice(&bytes[8..]);
        Self { generation: u64::from_be_bytes(generation), nonce: u128::from_be_bytes(nonce) }
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.generation, (self.nonce >> 96) as u32)
    }
}

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One life of a named node: what data and dots belong to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    /// The stable name.
    pub name: NodeName,
    /// The life.
    pub boot: Boot,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.boot)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the failure detector knows a node by.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// How often this boot was declared down and came back.
    pub rejoin: u32,
    /// Where it listens, for gossip and for QUIC.
    pub addr: SocketAddr,
}

impl Identity {
    /// The order in which one identity of a name supersedes another.
    #[must_use]
    pub fn precedence(&self) -> (Boot, u32) {
        (self.node.boot, self.rejoin)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}@{}", self.node, self.rejoin, self.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(generation: u64, nonce: u128) -> Boot {
        Boot { generation, nonce }
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(NodeName::new(""), Err(NameError::Empty));
        assert_eq!(NodeName::new(&"x".repeat(65)), Err(NameError::TooLong(65)));
        assert!(NodeName::new(&"x".repeat(64)).is_ok());
        assert!(matches!(NodeName::new("a\nb"), Err(NameError::BadCharacter(_))));
        assert!(matches!(NodeName::new(" a"), Err(NameError::BadCharacter(_))));
        assert!(NodeName::new("é-1").is_ok());
    }

    #[test]
    fn boots_sort_by_generation_and_survive_their_bytes() {
        assert!(boot(2, 0) > boot(1, u128::MAX));
        let b = boot(7, 0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(Boot::from_bytes(&b.to_bytes()), b);
        assert!(boot(1, 5).to_bytes() < boot(1, 6).to_bytes());
    }
}
