//! Push-pull: two members find out in what they differ, and exchange that.
//!
//! The first message brings digests of all that the asker knows, some 500 bytes whatever the size of the cluster. The answer
//! brings what the other knows where they differ; if that is nothing, they are done. [`TELL`] then brings what the other
//! lacks, and its answer what the asker lacks of node state.

use serde::{Deserialize, Serialize};

use crate::buckets::{Digests, Which};
use crate::membership::member::Member;
use crate::rpc::{Lane, Method};
use crate::state::{Entry, Reads};

/// Asks in what the other differs.
pub(crate) const PUSH_PULL: Method<PushPull, PushPullAnswer> = Method::new(1, "cluster.push_pull", Lane::Control);
/// Brings what the receiver lacks, and asks for what the sender does.
pub(crate) const TELL: Method<Tell, TellAnswer> = Method::new(2, "cluster.tell", Lane::Control);

/// What is told of a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) member: Member,
    /// For how long it has been down, rounded up.
    pub(crate) down_secs: u32,
    /// Whether it is down because it said so itself.
    pub(crate) left: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PushPull {
    pub(crate) own: Member,
    pub(crate) members: Digests,
    pub(crate) state: Digests,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PushPullAnswer {
    /// Which buckets of members differ, and all that is known of the members in them.
    pub(crate) which: Which,
    pub(crate) members: Vec<Told>,
    /// How far node state was read where that differs.
    pub(crate) reads: Reads,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tell {
    pub(crate) members: Vec<Told>,
    pub(crate) entries: Vec<Entry>,
    /// How far the sender has read, of those whose state it wants.
    pub(crate) reads: Reads,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct TellAnswer {
    pub(crate) entries: Vec<Entry>,
}
