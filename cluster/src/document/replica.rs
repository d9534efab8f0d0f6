//! Which replica of a document a boot is.
//!
//! The id follows from the document's name, the boot, and a count of how often that boot had to begin anew because it had
//! been forgotten. So everybody can name the replica of a member that has never been heard of before.

use polity_crdt::ReplicaId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::identity::NodeId;

/// Who holds a replica: what travels as its tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) life: u32,
}

impl Holder {
    pub(super) fn tag(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a name and some numbers encode")
    }

    pub(super) fn from_tag(tag: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(tag) {
            Ok((holder, [])) => Some(holder),
            _ => None,
        }
    }

    pub(super) fn replica(&self, document: &str) -> ReplicaId {
        ReplicaId(xxh3_64_with_seed(&self.tag(), xxh3_64(document.as_bytes())))
    }
}
