//! `polity` is an embedded cluster library: link it, start a node, and your processes become one cluster, with no
//! server beside it.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use polity::{Consistency, Node, Preset};
//!
//! // In a real cluster each of these is a process of its own, and `secret` is set.
//! // On one machine nodes find each other by themselves; this example would rather be alone.
//! let node = |name| Node::builder(name).cluster("shop").preset(Preset::Local).no_discovery();
//! let first = node("n1").start().await?;
//! let second = node("n2").seeds([first.addr()]).start().await?;
//!
//! first.kv().put("user-42", "three apples").await?;
//! let entry = second.kv().get("user-42").await?;
//! assert_eq!(entry.value().map(|value| &value[..]), Some(&b"three apples"[..]));
//!
//! // Read, change, write: exactly what was read is replaced, and a concurrent write stays beside it.
//! second.kv().put("user-42", "four apples").context(entry.context()).consistency(Consistency::All).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! # The floors
//!
//! | crate | what it knows | what it does not know |
//! |---|---|---|
//! | [`crdt`] | clocks, causal histories, replicated data types | network, time |
//! | [`cluster`] | nodes: identity, transport, membership, calls | shards, keys |
//! | [`shard`] | from key to shard to owners | values |
//! | [`kv`] | values on replicas, quorums, repair | workers, limits |
//!
//! This crate re-exports what a program needs first, and wires the floors together.

mod explain;
mod node;
mod ownership;

pub use explain::{KeyExplanation, Owner, Replica, Wait};
pub use node::{Builder, Error, Node};
pub use ownership::Owners;
pub use polity_cluster::{
    Boot, Capabilities, Certificates, CertificatesError, ClusterId, Document, DocumentError, DocumentEvent, Env,
    GapCause, Gate, Ground, Health, Keyring, KeyringError, Member, MemberEvent, Members, MembershipStats, NodeId,
    NodeName, Presence, PresenceEntry, PresenceError, PresenceEvent, PresenceGuard, PresenceSubscription, Preset,
    Profile, Secret, SecretError, Speaks, Status, StopReason, Subscription, Timings, Topic, TopicError, TopicEvent,
    TopicSubscription, VersionRange, View,
};
#[cfg(feature = "turmoil")]
pub use polity_cluster::{Carriage, DiskFault, Memory, Simulated, Wire, seed_keys};
pub use polity_kv::{Bucket, BucketConfig, Consistency, Context, Entry, Kv, KvConfig, KvError, Outcome};
pub use polity_shard::{Epoch, EpochAuthority, Ownership, OwnershipEvent, OwnershipWatch, ShardId};

pub use polity_cluster as cluster;
pub use polity_crdt as crdt;
pub use polity_kv as kv;
pub use polity_shard as shard;
