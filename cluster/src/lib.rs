//! A node of a `polity` cluster.

mod identity;

pub use identity::{Boot, Identity, MAX_NAME_BYTES, NameError, NodeId, NodeName};
