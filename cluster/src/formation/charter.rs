//! The id of a cluster, and what one node knows of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The entry of node state that holds the id of the cluster which a node belongs to.
pub(crate) const CLUSTER_KEY: &str = ".cluster";

/// Tells a cluster from all others, also from those of the same name and secret: 128 random bits, written as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(u128);

impl ClusterId {
    pub(crate) fn new(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`ClusterId::to_bytes`]; `None` if there are not 16 bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a [`ClusterId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a cluster is 32 hexadecimal digits, in groups of 8, 4, 4, 4 and 12")]
pub struct ClusterIdError;

impl FromStr for ClusterId {
    type Err = ClusterIdError;
    fn from_str(text: &str) -> Result<Self, ClusterIdError> {
        let id = u128::from_str_radix(&text.replace('-', ""), 16).map(Self).map_err(|_| ClusterIdError)?;
        if id.to_string().eq_ignore_ascii_case(text) { Ok(id) } else { Err(ClusterIdError) }
    }
}

/// The id of our cluster, once there is one. It never changes then. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Charter(Arc<watch::Sender<Option<ClusterId>>>);

impl Charter {
    pub(crate) fn get(&self) -> Option<ClusterId> {
        *self.0.borrow()
    }

    /// Takes an id over if there is none yet. Returns the one that holds now.
    pub(crate) fn adopt(&self, id: ClusterId) -> ClusterId {
        let mut holds = id;
        self.0.send_if_modified(|known| {
            let news = known.is_none();
            holds = *known.get_or_insert(id);
            news
        });
        holds
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<ClusterId>> {
        self.0.subscribe()
    }
}
