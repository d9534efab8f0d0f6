//! K1, durable: no acknowledged write is lost.
//!
//! In the end every live node reads every key. Each read must return every value whose write was acknowledged, or
//! something that may have replaced it, in the sense of [`crate::causality`]. A read that did not succeed is no read:
//! each live node must have one of every key. Scenarios destroy fewer than a write quorum of any key's replicas before
//! repair has completed; beyond that nothing is promised. (The set-full analysis of Jepsen, restricted to final reads.)

use std::collections::BTreeSet;

use super::{Violation, violation};
use crate::causality::Causality;
use crate::history::History;

/// See the [module](self).
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let Some(begin) = history.final_reads() else {
        return vec![violation("K1", history.end(), "the run ended without final reads".to_owned())];
    };
    let ops = history.ops();
    let causality = Causality::new(&ops);
    let mut violations = Vec::new();
    let mut unread: BTreeSet<_> = history
        .processes()
        .iter()
        .filter(|process| process.ended.is_none())
        .flat_map(|process| history.keys.iter().map(|key| (process.host, key.as_str())))
        .collect();
    for read in ops.values().filter(|op| op.invoked > begin && op.found().is_some()) {
        unread.remove(&(read.host, read.key.as_str()));
        for lost in causality.missing(read) {
            let text = format!(
                "the acknowledged {:?} {} of {} is lost: {} finds {:?} in the end",
                lost.action,
                lost.id,
                read.key,
                read.host,
                read.found().unwrap_or_default()
            );
            violations.push(violation("K1", history.entries[read.invoked].at, text));
        }
    }
    for (host, key) in unread {
        violations.push(violation("K1", history.end(), format!("{host} could not read {key} in the end")));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{at, done, op, start};
    use crate::history::{Action, Basis, Event, Outcome};

    const PUT: Action = Action::Put(Basis::Quorum);

    fn finally(found: Outcome) -> History {
        let mut entries = start(0, 0, 1).to_vec();
        entries.extend(op(10, 20, 1, PUT, done(&[])));
        entries.extend(op(30, 40, 2, PUT, done(&[])));
        entries.push(at(50, Event::FinalReads));
        entries.extend(op(60, 70, 3, Action::Get, found));
        by_hand(entries)
    }

    #[test]
    fn the_newest_value_or_siblings_with_it_are_good() {
        assert_eq!(check(&finally(done(&[2]))), []);
        assert_eq!(check(&finally(done(&[1, 2]))), []);
    }

    #[test]
    fn an_older_value_or_none_is_bad() {
        assert_eq!(check(&finally(done(&[1]))).len(), 1);
        assert_eq!(check(&finally(done(&[]))).len(), 2);
    }

    #[test]
    fn a_final_read_that_did_not_succeed_is_not_taken_for_good() {
        assert_eq!(check(&finally(Outcome::NotApplied)).len(), 1);
        assert_eq!(check(&finally(Outcome::Unknown)).len(), 1);
        assert_eq!(check(&by_hand(start(0, 0, 1).to_vec())).len(), 1);
    }
}
