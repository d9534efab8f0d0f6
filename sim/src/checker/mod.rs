//! The checkers: one promise of `docs/SEMANTICS.md` a file, each a pure function over a history.
//!
//! To add one, write its file and name it in [`ALL`]. Its tests hand it a good history and a bad one.

pub mod bounds;
pub mod k1_durable;
pub mod k3_read_your_writes;
pub mod k6_honest_outcomes;
pub mod m1_complete;
pub mod m3_convergent;
pub mod m4_identity;

use std::fmt;
use std::time::Duration;

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
pub type Checker = fn(&History) -> Vec<Violation>;

/// All of them.
pub const ALL: [Checker; 7] = [
    bounds::check,
    m1_complete::check,
    m3_convergent::check,
    m4_identity::check,
    k1_durable::check,
    k3_read_your_writes::check,
    k6_honest_outcomes::check,
];

/// What all checkers find in a history.
#[must_use]
pub fn judge(history: &History) -> Vec<Violation> {
    ALL.iter().flat_map(|check| check(history)).collect()
}

fn violation(promise: &str, at: Duration, text: String) -> Violation {
    Violation { promise: promise.to_owned(), at, text }
}

/// A history of three hosts and one key, for tests.
#[cfg(test)]
pub(crate) fn by_hand(entries: Vec<crate::history::Entry>) -> History {
    let bounds = crate::settings::Settings::quiet().bounds;
    History { hosts: 3, bounds, keys: vec!["k".to_owned()], entries }
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
}
