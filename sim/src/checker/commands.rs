//! Commands: one that was acknowledged is there once, in the end and in every read that begins later; one whose attempts
//! were all reported as not applied is never there, and neither is one that nobody tried.
//!
//! A command keeps its number through all attempts, and a second attempt changes nothing. So the checker needs no
//! allowance for attempts of unknown outcome but this: the command may be there or not.

use super::numbers::{Said, compare, lists};
use super::{Facts, Violation, violation};
use crate::history::{Action, Op, OpId};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, list) in lists(facts, Action::Orders, command) {
        for read in &list.reads {
            compare(&list.numbers, read, |index, said| {
                let number = list.numbers.get(index);
                let (promise, what) = match (said, number) {
                    (Said::Stray(stray), _) => ("K6", format!("{stray}, which nobody tried")),
                    (Said::Repeated, Some(number)) => ("K2", format!("{} more than once", number.id)),
                    (Said::There, Some(number)) if !number.is_possible => {
                        ("K6", format!("{}, whose attempts were all reported as not applied", number.id))
                    }
                    (Said::There, Some(number)) if read.returned < Some(number.tried) => {
                        ("K6", format!("{} before it was tried", number.id))
                    }
                    (Said::Absent, Some(number)) if number.acknowledged.is_some_and(|at| at < read.invoked) => {
                        let promise = if facts.is_final(read) { "K1" } else { "K3" };
                        if promise == "K3" && facts.is_apart(read.invoked) {
                            return;
                        }
                        (promise, format!("not {}, which had been acknowledged", number.id))
                    }
                    _ => return,
                };
                let text = format!("{} on {} finds in {key} {what}", read.id, read.host);
                violations.push(violation(promise, facts.at(read.invoked), text));
            });
        }
    }
    violations
}

fn command(op: &Op) -> Option<OpId> {
    match op.action {
        Action::Order(id) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op};
    use crate::checker::judged;
    use crate::history::{Event, Outcome};

    /// Command 1 is tried twice with these outcomes, and read.
    fn tried(first: Outcome, second: Outcome, before: &[u64], finally: &[u64]) -> Vec<String> {
        let order = Action::Order(OpId(1));
        let mut entries = op(10, 15, 1, order, first).to_vec();
        entries.extend(op(20, 25, 2, order, second));
        entries.extend(op(30, 35, 3, Action::Orders, done(before)));
        entries.push(at(40, Event::FinalReads));
        entries.extend(op(50, 55, 4, Action::Orders, done(finally)));
        judged(check, entries).into_iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn a_command_is_there_once_if_any_attempt_was_acknowledged() {
        assert!(tried(Outcome::Unknown, done(&[]), &[1], &[1]).is_empty());
        assert_eq!(tried(Outcome::Unknown, done(&[]), &[1], &[]), ["K1"]);
        assert_eq!(tried(Outcome::Unknown, done(&[]), &[], &[1]), ["K3"]);
        assert_eq!(tried(Outcome::Unknown, done(&[]), &[1], &[1, 1]), ["K2"]);
    }

    #[test]
    fn a_command_of_unknown_outcome_may_be_there_or_not() {
        assert!(tried(Outcome::Unknown, Outcome::NotApplied, &[1], &[]).is_empty());
        assert!(tried(Outcome::NotApplied, Outcome::Unknown, &[], &[1]).is_empty());
    }

    #[test]
    fn a_command_that_was_not_applied_or_that_nobody_tried_is_bad_to_see() {
        let not = || Outcome::NotApplied;
        assert!(tried(not(), not(), &[], &[]).is_empty());
        assert_eq!(tried(not(), not(), &[], &[1]), ["K6"]);
        assert_eq!(tried(done(&[]), done(&[]), &[1], &[1, 2]), ["K6"], "2 is an attempt, not a command");
    }
}
