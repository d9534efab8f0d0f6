//! How a node ends.

use crate::identity::Boot;

/// Why a node no longer takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// [`Node::leave`](crate::Node::leave) was called.
    Left,
    /// A newer process has this node's name.
    NameTaken {
        /// Its boot.
        by: Boot,
    },
    /// [`Node::stop`](crate::Node::stop) was called, or the last handle was dropped.
    Stopped,
}
