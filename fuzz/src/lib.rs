//! What the targets check: the same as the tests of the crate.

#[path = "../../crdt/tests/outside/mod.rs"]
pub mod outside;
