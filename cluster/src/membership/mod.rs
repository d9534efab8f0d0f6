//! Who is in the cluster and who is alive: SWIM (Das, Gupta, Motivala 2002), with `foca` as its engine.
//!
//! [`core`] is the sans-IO state machine around foca, [`codec`] its bytes, [`handle`] what it carries of a member, and
//! [`view`] what subscribers see. What foca lacks and a cluster needs is added around it: a guard for a fault of foca
//! 2.0.0 (in `core`), and push-pull, join retry and re-announcing (in [`agent`], which the node's driver carries out).

pub(crate) mod agent;
mod codec;
pub(crate) mod core;
pub(crate) mod handle;
#[cfg(feature = "lean")]
pub mod lean;
#[cfg(test)]
mod tests;
pub(crate) mod view;
