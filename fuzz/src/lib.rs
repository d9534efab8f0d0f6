//! What the targets check: the same as the tests of the crate.

#[path = "../../crdt/tests/hostile/mod.rs"]
pub mod hostile;
