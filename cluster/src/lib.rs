//! A node of a `polity` cluster: identity, wire, transport, membership, node state and calls between nodes.
//!
//! This crate knows who is in the cluster and how to reach them. It knows no shards and no keys.
//!
//! | module | idea |
//! |---|---|
//! | `ground` | what a node stands on: socket, clocks, randomness, files, executor ([`Env`]) |
//! | `secure` | the secrets, the keys that follow from them, sealed datagrams, certificates |
//! | [`keyring`] | changing the secret while the cluster runs |
//! | `transport` | one UDP port for gossip and QUIC, one connection per peer and direction |
//! | [`rpc`] | typed calls over the transport |
//! | `membership` | SWIM with Lifeguard, and the view that subscribers see |
//! | `state` | what each node says of itself |
//! | `driver` | the one task that drives membership and node state |
//! | [`discovery`] | where others are |
//! | `formation` | how nodes that start choose the id of their cluster |
//! | [`document`] | replicated objects that every node holds |
//! | [`presence`] | who is here, on which nodes |
//! | [`topic`] | messages from publishers to subscribers |
//!
//! # Example
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use polity_cluster::{Node, Preset};
//!
//! // On one machine nodes find each other by themselves; this example would rather be alone.
//! let node = |name| Node::builder(name).cluster("shop").preset(Preset::Local).no_discovery();
//! let first = node("n1").listen("127.0.0.1:0").start().await?;
//! let second = node("n2").listen("127.0.0.1:0").seeds([first.addr()]).start().await?;
//! assert_eq!(second.members().snapshot().up().count(), 2);
//! # Ok::<(), polity_cluster::Error>(()) }).unwrap();
//! ```

mod buckets;
mod builder;
mod config;
pub mod discovery;
pub mod document;
mod doorman;
mod driver;
mod error;
mod exchange;
mod formation;
#[cfg(feature = "lean")]
#[doc(hidden)]
pub mod fuzzing;
mod ground;
mod health;
mod hello;
mod identity;
pub mod keyring;
mod membership;
#[doc(hidden)]
pub mod mutation;
mod node;
pub mod presence;
#[cfg(all(test, feature = "shuttle"))]
mod races;
pub mod rpc;
mod secure;
mod state;
mod stop;
mod sync;
pub mod topic;
mod transport;
mod version;

pub use builder::Builder;
pub use config::{Preset, Timings};
pub use document::{Document, DocumentError, DocumentEvent};
pub use error::Error;
pub use formation::{ClusterId, ClusterIdError, MAX_EXPECTED};
pub use ground::{BoxFuture, Env, Gate, Ground};
#[cfg(feature = "turmoil")]
pub use ground::{Carriage, DiskFault, Memory, Simulated, Wire};
pub use health::Health;
pub use identity::{Boot, Identity, MAX_NAME_BYTES, NameError, NodeId, NodeName};
pub use keyring::{Keyring, KeyringError};
#[cfg(feature = "lean")]
#[doc(hidden)]
pub use membership::lean;
pub use membership::stats::MembershipStats;
pub use membership::view::{Member, MemberEvent, Members, Status, Subscription, View};
pub use node::Node;
pub use presence::{Presence, PresenceEntry, PresenceError, PresenceEvent, PresenceGuard, PresenceSubscription};
pub use secure::envelope::DropReason;
#[cfg(feature = "turmoil")]
pub use secure::simulated::seed_keys;
pub use secure::{
    Certificates, CertificatesError, KeyId, MAX_KEYS_OF_RING, MAX_SECRET_BYTES, MIN_SECRET_BYTES, Secret, SecretError,
};
pub use state::{MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES, Profile, StateError, Weight, WeightError, Zone};
pub use stop::StopReason;
pub use topic::{GapCause, Topic, TopicError, TopicEvent, TopicSubscription};
pub use version::{Capabilities, Speaks, VersionRange};
