//! K6, honest outcomes: no read ever returns a value whose write was reported as not applied, nor one that nobody
//! wrote to that key, nor bytes that no client writes.
//!
//! This is of registers. Sets, counters, commands and budgets have checkers of their own.

use super::{Facts, Violation, violation};
use crate::history::{Action, Event, Outcome};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let Facts { history, ops, .. } = facts;
    let mut violations = Vec::new();
    for entry in &history.entries {
        if let Event::Garbage { host, key } = &entry.event {
            violations.push(violation("K6", entry.at, format!("{host} reads what nobody wrote in {key}")));
        }
    }
    for read in ops.values().filter(|op| op.action == Action::Get) {
        for value in read.found().unwrap_or_default() {
            let at = history.entries[read.invoked].at;
            let what = match ops.get(value) {
                Some(write) if write.key != read.key || !matches!(write.action, Action::Put(_)) => {
                    "which is not its own"
                }
                Some(write) if read.returned.is_some_and(|end| write.invoked > end) => "before it was written",
                Some(write) if write.outcome == Outcome::NotApplied => "which was reported as not applied",
                Some(_) => continue,
                None => "which nobody wrote",
            };
            let text = format!("{} on {} finds {value} in {}, {what}", read.id, read.host, read.key);
            violations.push(violation("K6", at, text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op};
    use crate::checker::judged;
    use crate::history::{Basis, Host};

    const PUT: Action = Action::Put(Basis::Quorum);

    fn found_after(outcome: Outcome, found: &[u64]) -> Vec<Violation> {
        let mut entries = op(10, 20, 1, PUT, outcome).to_vec();
        entries.extend(op(30, 40, 2, Action::Get, done(found)));
        judged(check, entries)
    }

    #[test]
    fn what_was_written_or_may_have_been_is_good() {
        assert_eq!(found_after(done(&[]), &[1]), []);
        assert_eq!(found_after(Outcome::Unknown, &[1]), []);
        assert_eq!(found_after(Outcome::NotApplied, &[]), []);
    }

    #[test]
    fn what_was_not_applied_is_bad_to_see() {
        assert_eq!(found_after(Outcome::NotApplied, &[1]).len(), 1);
    }

    #[test]
    fn what_nobody_wrote_is_bad_to_see() {
        assert_eq!(found_after(done(&[]), &[1, 9]).len(), 1);
        assert_eq!(found_after(done(&[]), &[1, 2]).len(), 1, "a read writes nothing");
        let garbage = Event::Garbage { host: Host(0), key: "k".into() };
        assert_eq!(judged(check, vec![at(1, garbage)]).len(), 1);
    }
}
