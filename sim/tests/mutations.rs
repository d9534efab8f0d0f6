//! Promise D2: every checker catches a deliberate fault of the system, and says nothing of the system without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use polity::cluster::mutation::{self, Mutation};
use polity_sim::case::Case;
use polity_sim::checker::{self, Facts};
use polity_sim::run::{run, run_mutated};
use polity_sim::scenario;

/// A fault, the checker that must catch it, the promise that it must name, and in which cases, until it does.
struct Row {
    mutation: Mutation,
    checker: &'static str,
    promise: &'static str,
    cases: &'static [(&'static str, u64)],
}

const fn row(
    mutation: Mutation,
    checker: &'static str,
    promise: &'static str,
    cases: &'static [(&'static str, u64)],
) -> Row {
    Row { mutation, checker, promise, cases }
}

const ROWS: &[Row] = &[
];
