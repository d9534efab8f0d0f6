//! Deliberate faults of ownership, one at a time: each is a bug that a system like this one could have, and that the
//! model of `shard/tests/model`, the tests of placement or a checker of the simulator must catch.
//!
//! At a mutation point the code asks [`mutated`]. Without the feature `mutations` the answer is `false` when the code is
//! compiled, and nothing is left of the point. With it, it is `true` for the one fault that `set` has given to this thread.

#[cfg(feature = "mutations")]
use std::cell::Cell;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutation {
    /// A receiver acknowledges a shard before its state is installed.
    AcksBeforeInstall,
    /// A sender lets a shard go when it has sent it, whatever came of that.
    LetsGoUnacknowledged,
    /// An owner that hears of a greater epoch goes on under its own.
    ServesSuperseded,
    /// A fence lets pass what carries an old epoch.
    OpenFence,
    /// A node chooses its epoch without regard to those that it knows.
    ForgetsEpochs,
    /// A node that starts claims before it has learned what others have claimed.
    ClaimsUnlearned,
    /// Whoever has lost a shard to a greater epoch tells nobody.
    QuietLoser,
    /// A journal does not take what the winner of a conflict answers.
    ForgetsTheWinner,
    /// A journal takes what the loser of a conflict has for what the winner has.
    SwapsStates,
    /// Who owns a shard keeps it, whoever is preferred.
    KeepsForGood,
    /// A handoff that does not go on is not reported.
    QuietAlarm,
    /// A placement gives all nodes the same share.
    IgnoresWeights,
    /// A placement takes every node for a zone of its own.
    IgnoresZones,
    /// Where a shard is placed follows from the number of nodes.
    CountsNodes,
}

/// All of them.
pub const ALL: &[Mutation] = &[
    Mutation::AcksBeforeInstall,
    Mutation::LetsGoUnacknowledged,
    Mutation::ServesSuperseded,
    Mutation::OpenFence,
    Mutation::ForgetsEpochs,
    Mutation::ClaimsUnlearned,
    Mutation::QuietLoser,
    Mutation::ForgetsTheWinner,
    Mutation::SwapsStates,
    Mutation::KeepsForGood,
    Mutation::QuietAlarm,
    Mutation::IgnoresWeights,
    Mutation::IgnoresZones,
    Mutation::CountsNodes,
];

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
