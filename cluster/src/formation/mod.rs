//! How a cluster comes to be one that no other can be taken for: [`Builder::expect`](crate::Builder::expect).
//!
//! Nodes that start apart and never hear of each other each found a cluster. Without `expect` that does no lasting harm:
//! clusters that meet merge. With `expect(n)` the nodes choose one [`ClusterId`] together before any of them is ready,
//! `n` of them at least, and from then on a node with another id is refused.
//!
//! - [`core`]: how `n` nodes choose one id, whoever crashes or is cut off meanwhile. Single-decree Paxos, sans-IO.
//! - [`charter`]: the id as this node knows it. Hellos, welcomes and node state carry it; who has none takes it over.
//! - [`driver`]: the task that carries out what the core asks for, and writes the id into the data folder.

mod charter;
pub(crate) mod core;
pub(crate) mod driver;
#[cfg(test)]
mod tests;

pub(crate) use self::charter::{CLUSTER_KEY, Charter};
pub use self::charter::{ClusterId, ClusterIdError};

/// The most nodes that a cluster can be told to expect: far more than need to agree, and few enough to ask at once.
pub const MAX_EXPECTED: usize = 256;
