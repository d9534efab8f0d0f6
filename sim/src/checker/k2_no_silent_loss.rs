//! K2, no silent loss: concurrent writes stay side by side until a write replaces them that has seen them. Never a choice
//! that the user did not make.
//!
//! [`crate::causality`] knows what a write may have seen, so a read that lacks an acknowledged write breaks this promise,
//! or K1's or K3's, whatever the reason. It is told apart by what is there instead. This checker judges final reads:
//!
//! 1. An acknowledged write is missing, and one stands there that neither had seen it nor was replaced by it: the store
//!    has chosen. (If only older values stand there, or none, the write is lost: K1.)
//! 2. A value was found once whose write was never acknowledged, and is missing. It may be lost with a replica; but if
//!    every process has lived on since, somebody holds it, and after repair everybody does.
//! 3. One write stands there once: its value is not its own sibling.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::causality::Causality;
use crate::history::{Action, Op, OpId, Outcome};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (read, lost, sibling) in lost_in_the_end(facts) {
        if let Some(kept) = sibling {
            let text = format!(
                "{} of {} was acknowledged, and {kept}, which had not seen it, stands there without it at {}",
                lost.id, read.key, read.host
            );
            violations.push(violation("K2", facts.at(read.invoked), text));
        }
    }
    violations.extend(seen_is_kept(facts));
    violations.extend(stands_once(facts));
    violations
}

/// Final reads and the acknowledged writes that they miss; and what stands there that has not seen the write, and that the
/// write has not replaced, if anything does.
pub(super) fn lost_in_the_end<'f>(facts: &'f Facts<'_>) -> Vec<(&'f Op, &'f Op, Option<OpId>)> {
    let finals = facts.lacking.iter().map(|(read, missing)| (&facts.ops[read], missing));
    let finals: Vec<_> = finals.filter(|(read, _)| facts.is_final(read)).collect();
    if finals.is_empty() {
        return Vec::new();
    }
    let causality = Causality::new(&facts.ops);
    let mut all = Vec::new();
    for (read, missing) in finals {
        for lost in missing.iter().map(|lost| &facts.ops[lost]) {
            let is_sibling = |kept: &&OpId| {
                facts.ops.get(kept).is_some_and(|kept| kept.is_write() && !causality.may_cover(lost, kept))
            };
            let sibling = read.found().unwrap_or_default().iter().find(is_sibling);
            all.push((read, lost, sibling.copied()));
        }
    }
    all
}

fn seen_is_kept(facts: &Facts<'_>) -> Vec<Violation> {
    // What was found of writes that were never acknowledged, and where it was found last.
    let mut seen: BTreeMap<OpId, usize> = BTreeMap::new();
    let gets = || facts.ops.values().filter(|op| op.action == Action::Get);
    for read in gets().filter(|read| !facts.is_final(read)) {
        for value in read.found().unwrap_or_default() {
            if facts.ops.get(value).is_some_and(|write| write.is_write() && write.outcome == Outcome::Unknown) {
                seen.insert(*value, read.invoked);
            }
        }
    }
    seen.retain(|_, index| facts.all_is_kept_from(*index));
    if seen.is_empty() {
        return Vec::new();
    }
    let causality = Causality::new(&facts.ops);
    let finals: Vec<&Op> = gets().filter(|read| facts.is_final(read) && read.found().is_some()).collect();
    let mut violations = Vec::new();
    for (value, index) in &seen {
        let write = &facts.ops[value];
        let lacks = |read: &&&Op| read.key == write.key && !causality.accounts_for(read, write);
        if let Some(read) = finals.iter().find(lacks) {
            let (key, at) = (&read.key, facts.at(*index).as_secs_f64());
            let text =
                format!("{value} of {key}, found at {at:.3} s, is gone at {}, and nothing replaced it", read.host);
            violations.push(violation("K2", facts.at(read.invoked), text));
        }
    }
    violations
}

fn stands_once(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for read in facts.ops.values().filter(|op| op.action == Action::Get) {
        let found = read.found().unwrap_or_default();
        // Found values are told in order.
        if let Some(twice) = found.windows(2).find(|pair| pair[0] == pair[1]) {
            let text = format!("{} on {} finds {} twice in {}", read.id, read.host, twice[0], read.key);
            violations.push(violation("K2", facts.at(read.invoked), text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op, repaired, start};
    use crate::checker::{judged, k1_durable};
    use crate::history::{Basis, Entry, Event, Host};

    /// Two clients read nothing, and both write with the context of that.
    fn raced(found: &[u64]) -> Vec<Entry> {
        let with = |op| Action::Put(Basis::Of(OpId(op)));
        let mut entries = start(0, 0, 1).to_vec();
        entries.extend(op(10, 11, 1, Action::Get, done(&[])));
        entries.extend(op(12, 13, 2, Action::Get, done(&[])));
        entries.extend(op(14, 15, 3, with(1), done(&[])));
        entries.extend(op(16, 17, 4, with(2), done(&[])));
        entries.push(at(50, Event::FinalReads));
        entries.extend(op(60, 70, 5, Action::Get, done(found)));
        entries
    }

    #[test]
    fn siblings_are_good_and_one_of_them_is_a_choice() {
        assert_eq!(judged(check, raced(&[3, 4])), []);
        assert_eq!(judged(check, raced(&[3])).len(), 1);
        assert_eq!(judged(check, raced(&[4])).len(), 1);
    }

    #[test]
    fn what_is_passed_over_is_not_judged_as_lost_too_and_the_other_way() {
        assert_eq!(judged(k1_durable::check, raced(&[3])), []);
        assert_eq!(judged(check, raced(&[])), []);
        assert_eq!(judged(k1_durable::check, raced(&[])).len(), 2);
    }

    #[test]
    fn one_write_does_not_stand_there_twice() {
        assert_eq!(judged(check, raced(&[3, 3, 4])).len(), 1);
    }

    /// A value of unknown outcome was found, and then this happened.
    fn found_once(then: Option<Event>, finally: &[u64]) -> Vec<Violation> {
        let mut entries = start(0, 0, 1).to_vec();
        entries.extend(op(10, 11, 1, Action::Put(Basis::Quorum), Outcome::Unknown));
        entries.extend(op(12, 13, 2, Action::Get, done(&[1])));
        entries.extend(then.map(|event| at(20, event)));
        entries.extend(repaired(30));
        entries.extend(op(90_000, 90_001, 3, Action::Get, done(finally)));
        judged(check, entries)
    }

    #[test]
    fn what_was_found_once_stays_unless_a_replica_may_have_been_lost() {
        assert_eq!(found_once(None, &[1]), []);
        assert_eq!(found_once(None, &[]).len(), 1);
        assert_eq!(found_once(Some(Event::Crashed { host: Host(0), wiped: false }), &[]), []);
    }
}
