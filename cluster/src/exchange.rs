//! Push-pull: two members exchange all that they know of the members and of node state.
//!
//! The first message brings the asker's members and how far it has read everyone's node state; the answer brings the
//! other's members, what the asker had not read, and how far the other has read; [`TELL`] brings that the rest. Gossip
//! alone leaves late joiners ignorant for minutes (memberlist's push-pull has the same reason).

use foca::Member;
use serde::{Deserialize, Serialize};

use crate::membership::handle::{Handle, Known};
use crate::rpc::{Lane, Method};
use crate::state::{Digest, Entry};

/// Asks for everything that the asker lacks.
pub(crate) const PUSH_PULL: Method<PushPull, PushPullAnswer> = Method::new(1, "cluster.push_pull", Lane::Control);
/// Brings what the receiver lacks.
pub(crate) const TELL: Method<Tell, ()> = Method::new(2, "cluster.tell", Lane::Control);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PushPull {
    pub(crate) members: Known,
    pub(crate) read: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PushPullAnswer {
    pub(crate) members: Known,
    pub(crate) entries: Vec<Entry>,
    pub(crate) read: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tell {
    pub(crate) members: Vec<Member<Handle>>,
    pub(crate) entries: Vec<Entry>,
}
