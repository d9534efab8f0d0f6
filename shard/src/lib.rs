//! From key to shard to owners: where data should be, who owns it, and how that changes.
//!
//! A key belongs to one of a fixed number of [shards](ShardCount), by its hash. A [`Placement`] says for each shard
//! which nodes should hold it, in order of preference: the *preference list*. Both are functions of their arguments
//! alone, so nodes that know the same members need no word between them to agree on every owner, and a node that is
//! started again under its name gets the same shards back.
//!
//! While member lists differ, placements differ. Where it matters that one node at a time acts for a shard, there are
//! *claims* ([`claims`]): the first of the preference list owns the shard under an [`Epoch`] that is greater than all before,
//! what it does carries that epoch, and who knows a greater one refuses it. When the first of the list is another, the shard's
//! state is handed over before ownership moves ([`handoff`]). Two sides of a split may both own a shard; when they meet, the
//! greater epoch goes on, and the conflict is written down ([`journal`]). A [`Steward`] is one node's part in all this,
//! and says of each shard who owns it, why, and what that waits for ([`Explanation`]).
//!
//! The crate knows no values: the state of a shard is chunks of bytes. All but [`Ownership`], which drives a steward on a
//! running node, is pure: it is handed time, members and messages.
//!
//! # Example
//!
//! ```
//! use polity_cluster::NodeName;
//! use polity_shard::{Candidate, Placement, ReplicaCount, ShardCount};
//!
//! let members = ["ada", "bob", "cyd", "dan"].map(|name| NodeName::new(name).map(Candidate::new));
//! let members = members.into_iter().collect::<Result<Vec<_>, _>>()?;
//! let placement = Placement::compute(&members, ShardCount::default(), ReplicaCount::default())?;
//!
//! let shard = placement.shards().shard_of(b"cart/4711");
//! let owners: Vec<_> = placement.preference_list(shard).map(NodeName::as_str).collect();
//! assert_eq!(owners, ["ada", "bob", "cyd"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A node that is alone claims what it is the first to own, after a moment of patience:
//!
//! ```
//! use std::time::Duration;
//! use polity_cluster::{Boot, NodeId, NodeName};
//! use polity_shard::claims::{Fence, Sight};
//! use polity_shard::{Candidate, Command, Epoch, Placement, ReplicaCount, ShardId, Steward, StewardConfig};
//!
//! let ada = NodeId { name: NodeName::new("ada")?, boot: Boot { generation: 1, nonce: 7 } };
//! let config = StewardConfig::default();
//! let placement = Placement::compute(&[Candidate::new(ada.name.clone())], config.shards, ReplicaCount::default())?;
//! let mut steward = Steward::new(ada.clone(), config, Fence::default());
//! steward.handle_sight(Duration::ZERO, Sight::new([ada.clone()], [], placement));
//! steward.handle_learned(Duration::ZERO); // there is nobody to learn from
//!
//! let now = steward.poll_timeout().expect("it waits for others to appear");
//! steward.handle_timeout(now);
//! while let Some(command) = steward.poll_command() {
//!     if let Command::Seek { shard, after } = command {
//!         steward.handle_epoch(now, shard, Ok(Epoch::next(after.as_ref(), &ada).expect("the first")));
//!     }
//! }
//! let epoch = steward.core().owns(ShardId(3)).expect("it owns all shards").clone();
//! assert!(steward.handle_effect(now, ShardId(3), &epoch).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candidate;
pub mod claims;
mod epoch;
mod error;
mod explain;
pub mod handoff;
pub mod journal;
#[doc(hidden)]
pub mod mutation;
pub mod ownership;
mod placement;
mod rendezvous;
mod shard_id;
mod steward;

pub use candidate::Candidate;
pub use epoch::{Epoch, EpochAuthority, EpochError, LocalAuthority};
pub use error::Error;
pub use explain::{Blocker, Explanation, Place, Why};
pub use ownership::{Estate, Ownership, OwnershipConfig, OwnershipEvent, OwnershipWatch};
pub use placement::{MAX_NODES, NodeIndex, Placement, ReplicaCount};
pub use polity_cluster::{Weight, Zone};
pub use shard_id::{ShardCount, ShardId};
pub use steward::{Command, Steward, StewardConfig};
