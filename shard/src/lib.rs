//! From key to shard to owners: where data should be.
//!
//! A key belongs to one of a fixed number of [shards](ShardCount), by its hash. A [`Placement`] says for each shard
//! which nodes should hold it, in order of preference: the *preference list*. Both are functions of their arguments
//! alone, so nodes that know the same members need no word between them to agree on every owner, and a node that is
//! started again under its name gets the same shards back. While member lists differ, placements differ; who owns a
//! shard *then* is not decided here.
//!
//! The crate knows no values and no IO. It also knows no boots: placement looks at names, weights and zones only.
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

mod candidate;
pub mod claims;
mod epoch;
mod error;
mod explain;
pub mod handoff;
pub mod journal;
#[doc(hidden)]
pub mod mutation;
mod placement;
mod rendezvous;
mod shard_id;
mod steward;

pub use candidate::Candidate;
pub use epoch::{Epoch, EpochAuthority, EpochError, LocalAuthority};
pub use error::Error;
pub use explain::{Blocker, Explanation, Place, Why};
pub use placement::{MAX_NODES, NodeIndex, Placement, ReplicaCount};
pub use polity_cluster::{Weight, Zone};
pub use shard_id::{ShardCount, ShardId};
pub use steward::{Command, Steward, StewardConfig};
