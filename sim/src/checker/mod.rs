//! The checkers: one promise of `docs/SEMANTICS.md` a file, each a pure function over a history.
//!
//! To add one, write its file and name it in [`ALL`]. Its tests hand it a good history and a bad one. What more than one
//! of them gathers from a history is in [`Facts`].
//!
//! Registers are judged by K1, K2, K3, K5 and K6. Sets, commands, counters, budgets, and keys of buckets of any kind have one
//! checker each, which knows what its clients do, and names the promise that they saw broken.

pub mod add_wins;
pub mod bounds;
pub mod budget;
pub mod c1_convergent;
pub mod c2_nothing_lost;
mod clocks;
pub mod commands;
pub mod counter;
mod facts;
pub mod fading;
pub mod h1_one_map;
pub mod h3_one_owner;
pub mod h4_conflicts;
pub mod h5_handoff;
pub mod k1_durable;
pub mod k2_no_silent_loss;
pub mod k3_read_your_writes;
pub mod k4_repair;
pub mod k5_deletes_stay;
pub mod k5_expiry;
pub mod k6_honest_outcomes;
pub mod kinds;
pub mod m1_complete;
pub mod m3_convergent;
pub mod m4_identity;
pub mod m5_admission;
pub mod m6_views;
mod numbers;
pub mod p1_topics;
pub mod p2_presence;
pub mod set_full;
mod tenures;
pub mod w1_watches;

use std::fmt;
use std::time::Duration;

pub use facts::Facts;

use crate::history::History;

/// A promise that was broken, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The promise's number.
    pub promise: String,
    /// When it was seen to be broken.
    pub at: Duration,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken at {:.3} s: {}", self.promise, self.at.as_secs_f64(), self.text)
    }
}

/// A judge of histories.
#[derive(Clone, Copy, Debug)]
pub struct Checker {
    /// The name of its file.
    pub name: &'static str,
    /// What it finds in a history.
    pub check: fn(&Facts<'_>) -> Vec<Violation>,
}

/// All of them.
pub const ALL: [Checker; 29] = [
    Checker { name: "bounds", check: bounds::check },
    Checker { name: "m1_complete", check: m1_complete::check },
    Checker { name: "m3_convergent", check: m3_convergent::check },
    Checker { name: "m4_identity", check: m4_identity::check },
    Checker { name: "m5_admission", check: m5_admission::check },
    Checker { name: "m6_views", check: m6_views::check },
    Checker { name: "c1_convergent", check: c1_convergent::check },
    Checker { name: "c2_nothing_lost", check: c2_nothing_lost::check },
    Checker { name: "h1_one_map", check: h1_one_map::check },
    Checker { name: "h3_one_owner", check: h3_one_owner::check },
    Checker { name: "h4_conflicts", check: h4_conflicts::check },
    Checker { name: "h5_handoff", check: h5_handoff::check },
    Checker { name: "k1_durable", check: k1_durable::check },
    Checker { name: "k2_no_silent_loss", check: k2_no_silent_loss::check },
    Checker { name: "k3_read_your_writes", check: k3_read_your_writes::check },
    Checker { name: "k4_repair", check: k4_repair::check },
    Checker { name: "k5_deletes_stay", check: k5_deletes_stay::check },
    Checker { name: "k5_expiry", check: k5_expiry::check },
    Checker { name: "k6_honest_outcomes", check: k6_honest_outcomes::check },
    Checker { name: "w1_watches", check: w1_watches::check },
    Checker { name: "p1_topics", check: p1_topics::check },
    Checker { name: "p2_presence", check: p2_presence::check },
    Checker { name: "set_full", check: set_full::check },
    Checker { name: "counter", check: counter::check },
    Checker { name: "commands", check: commands::check },
    Checker { name: "budget", check: budget::check },
    Checker { name: "kinds", check: kinds::check },
    Checker { name: "add_wins", check: add_wins::check },
    Checker { name: "fading", check: fading::check },
];

/// What all checkers find in a history.
#[must_use]
pub fn judge(history: &History) -> Vec<Violation> {
    let facts = Facts::of(history);
    ALL.iter().flat_map(|checker| (checker.check)(&facts)).collect()
}

fn violation(promise: &str, at: Duration, text: String) -> Violation {
    Violation { promise: promise.to_owned(), at, text }
}

/// A history of three hosts and one key, for tests.
#[cfg(test)]
pub(crate) fn by_hand(entries: Vec<crate::history::Entry>) -> History {
    let bounds = crate::settings::Settings::quiet().bounds;
    let (scenario, keys) = ("by hand".to_owned(), vec!["k".to_owned()]);
    History { scenario, seed: 0, hosts: 3, bounds, keys, entries }
}

/// What one checker finds in such a history.
#[cfg(test)]
fn judged(check: fn(&Facts<'_>) -> Vec<Violation>, entries: Vec<crate::history::Entry>) -> Vec<Violation> {
    check(&Facts::of(&by_hand(entries)))
}

/// Building blocks for histories written by hand.
#[cfg(test)]
pub(crate) mod hand {
    use std::time::Duration;

    use crate::history::{Action, Entry, Event, Host, Life, OpId, Outcome, Seen, Standing};

    pub(crate) fn at(ms: u64, event: Event) -> Entry {
        Entry { at: Duration::from_millis(ms), event }
    }

    pub(crate) fn life(generation: u64) -> Life {
        Life { generation, nonce: u128::from(generation) }
    }

    pub(crate) fn start(ms: u64, host: u8, generation: u64) -> [Entry; 2] {
        let host = Host(host);
        [at(ms, Event::Launched { host }), at(ms, Event::Ready { host, life: life(generation) })]
    }

    /// `seen`: host, generation, standing.
    pub(crate) fn view(ms: u64, host: u8, seen: &[(u8, u64, Standing)]) -> Entry {
        let seen = seen
            .iter()
            .map(|(host, generation, standing)| {
                (Host(*host), Seen { life: life(*generation), standing: *standing, rejoin: 0 })
            })
            .collect();
        at(ms, Event::View { host: Host(host), members: seen })
    }

    /// An operation that begins at one time and ends at another, as two entries.
    pub(crate) fn op(from: u64, to: u64, op: u64, action: Action, outcome: Outcome) -> [Entry; 2] {
        let (op, host, key) = (OpId(op), Host(0), "k".to_owned());
        [at(from, Event::Invoked { op, host, key, action }), at(to, Event::Returned { op, outcome })]
    }

    pub(crate) fn done(values: &[u64]) -> Outcome {
        Outcome::Done(values.iter().copied().map(OpId).collect())
    }

    pub(crate) fn holds(ms: u64, host: u8, replicas: &[u8], copy: Option<u64>) -> Entry {
        let replicas = replicas.iter().copied().map(Host).collect();
        at(ms, Event::Holds { host: Host(host), key: "k".to_owned(), replicas, copy })
    }

    /// The heal, and the final reads after more than the bound for repair.
    pub(crate) fn repaired(ms: u64) -> [Entry; 3] {
        let settled = Event::Settled { host: Host(0) };
        [at(ms, Event::Healed), at(ms, settled), at(ms + 80_000, Event::FinalReads)]
    }
}
