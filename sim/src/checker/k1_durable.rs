//! K1, durable: no acknowledged write is lost.
//!
//! In the end every live node reads every key. Each read must return every value whose write was acknowledged, or
//! something that may have replaced it, in the sense of [`crate::causality`]. A read that did not succeed is no read:
//! each live node must have one of every key. Scenarios destroy fewer than a write quorum of any key's replicas before
//! repair has completed; beyond that nothing is promised.
//!
//! A write that is missing while one stands there that had not seen it was not lost, but passed over: that is K2's.
//! Sets, counters and commands have checkers of their own.

use std::collections::BTreeSet;

use super::{Facts, Violation, k2_no_silent_loss, violation};
use crate::history::Host;

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let history = facts.history;
    if facts.final_reads.is_none() {
        return vec![violation("K1", history.end(), "the run ended without final reads".to_owned())];
    }
    let mut violations = Vec::new();
    for (read, lost, sibling) in k2_no_silent_loss::lost_in_the_end(facts) {
        if sibling.is_none() {
            let text = format!(
                "the acknowledged {:?} {} of {} is lost: {} finds {:?} in the end",
                lost.action,
                lost.id,
                read.key,
                read.host,
                read.found().unwrap_or_default()
            );
            violations.push(violation("K1", facts.at(read.invoked), text));
        }
    }
    for (host, key) in unread(facts) {
        violations.push(violation("K1", history.end(), format!("{host} could not read {key} in the end")));
    }
    violations
}

/// What no final read of a live node has returned.
fn unread<'f>(facts: &'f Facts<'_>) -> BTreeSet<(Host, &'f str)> {
    let live = facts.processes.iter().filter(|process| process.ended.is_none());
    let keys = &facts.history.keys;
    let mut unread: BTreeSet<_> =
        live.flat_map(|process| keys.iter().map(|key| (process.host, key.as_str()))).collect();
    for read in facts.ops.values().rev().take_while(|op| facts.is_final(op)) {
        if !read.is_write() && read.is_done() {
            unread.remove(&(read.host, read.key.as_str()));
        }
    }
    unread
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op, start};
    use crate::checker::judged;
    use crate::history::{Action, Basis, Entry, Event, Outcome};

    const PUT: Action = Action::Put(Basis::Quorum);

    fn finally(found: Outcome) -> Vec<Entry> {
        let mut entries = start(0, 0, 1).to_vec();
        entries.extend(op(10, 20, 1, PUT, done(&[])));
        entries.extend(op(30, 40, 2, PUT, done(&[])));
        entries.push(at(50, Event::FinalReads));
        entries.extend(op(60, 70, 3, Action::Get, found));
        entries
    }

    #[test]
    fn the_newest_value_or_siblings_with_it_are_good() {
        assert_eq!(judged(check, finally(done(&[2]))), []);
        assert_eq!(judged(check, finally(done(&[1, 2]))), []);
    }

    #[test]
    fn an_older_value_or_none_is_bad() {
        assert_eq!(judged(check, finally(done(&[1]))).len(), 1);
        assert_eq!(judged(check, finally(done(&[]))).len(), 2);
    }

    #[test]
    fn a_final_read_that_did_not_succeed_is_not_taken_for_good() {
        assert_eq!(judged(check, finally(Outcome::NotApplied)).len(), 1);
        assert_eq!(judged(check, finally(Outcome::Unknown)).len(), 1);
        assert_eq!(judged(check, start(0, 0, 1).to_vec()).len(), 1);
    }
}
