//! Deliberate faults of anti-entropy and of the types, one at a time: each is a bug that such a thing could have, and has had
//! elsewhere, and that a test must catch: `crdt/tests/mutations.rs`, or the simulator.
//!
//! Without the feature `mutations` [`mutated`] is `false` when the code is compiled, and nothing is left of it.

#[cfg(feature = "mutations")]
use std::cell::Cell;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// The first chunk of a transfer claims all that the transfer will bring (against rule zero).
    ClaimsAhead,
    /// Content is taken in although its dot has been heard of: what was removed comes back.
    ForgetsContext,
    /// After a few rounds there are no more.
    NeverCompares,
    /// Of values that were written to a last-writer-wins register at the same time the greatest dot wins, whatever the clocks say.
    IgnoresTime,
    /// An actor is retired without regard to what others have heard of it.
    RetiresAlone,
}

#[cfg(feature = "mutations")]
thread_local! {
    static CURRENT: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Sets what is wrong on this thread from now on.
#[cfg(feature = "mutations")]
pub fn set(mutation: Option<Mutation>) {
    CURRENT.set(mutation);
}

/// Whether this is what is wrong.
#[cfg(feature = "mutations")]
#[must_use]
pub fn mutated(mutation: Mutation) -> bool {
    CURRENT.get() == Some(mutation)
}

/// Whether this is what is wrong: never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn mutated(_: Mutation) -> bool {
    false
}
