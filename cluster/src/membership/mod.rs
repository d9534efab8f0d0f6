//! Who is in the cluster and who is alive: SWIM (Das, Gupta, Motivala 2002), with `foca` as its engine.
//!
//! [`core`] is the sans-IO state machine around foca, [`codec`] its bytes, [`view`] what subscribers see. What foca
//! lacks and a cluster needs is added around it: a guard for a fault of foca 2.0.0 (in `core`), and push-pull, join
//! retry and re-announcing (in the node's driver).

mod codec;
pub(crate) mod core;
#[cfg(test)]
mod tests;
pub(crate) mod view;
