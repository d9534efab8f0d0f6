//! Who is in the cluster and who is alive: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018).
//!
//! | module | idea |
//! |---|---|
//! | [`core`] | the failure detector and gossip of one node, a state machine |
//! | `health`, `suspicion` | Lifeguard: how slow we are ourselves; how long a suspect has |
//! | `lineup`, `probes` | whom to probe next; whose answer is awaited |
//! | `rumors`, `deadlines` | what is being spread; when suspects and the dead are due |
//! | `member`, [`handle`] | what is known of a member, and which of two sayings holds |
//! | `message` | bytes of datagrams |
//! | [`agent`] | push-pull, seeds, farewells and node state around the core; the node's driver carries it out |
//! | [`view`] | what subscribers see |
//! | `stats` | what was decided, in numbers |

pub(crate) mod agent;
pub(crate) mod core;
mod deadlines;
pub(crate) mod handle;
mod health;
#[cfg(feature = "lean")]
pub mod lean;
mod lineup;
pub(crate) mod member;
mod message;
mod probes;
mod rumors;
pub(crate) mod stats;
mod suspicion;
#[cfg(test)]
mod tests;
pub(crate) mod view;
