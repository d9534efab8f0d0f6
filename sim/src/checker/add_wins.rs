//! Sets, and the fields of maps, to which all clients add the same elements, and from which they remove them: what is added while it is removed
//! stays (K2), what was removed does not come back (K5), and what is added under an idempotency key is added once (K6).
//!
//! A remove takes away what a quorum knows when it is carried out: every add that was acknowledged before it began, and none that
//! begins after it has ended. An add under an idempotency key is *void* if another under that key was acknowledged before it began.
//!
//! 1. An element that is found was added, or may have been (K6).
//! 2. What was acknowledged is found by each read that begins later, unless a remove may have seen it, or an earlier add under its
//!    key (K1 in the end, K3 before).
//! 3. It is not found by a read that begins after the acknowledgement of a remove, if each add that may have been done by then had been
//!    acknowledged before that remove began (K5), or is void (K6).
//!
//! While clusters that were founded apart meet, a quorum may not know what the other had acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Violation, violation};
use crate::history::{Action, Op, OpId, Outcome};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut sets: BTreeMap<&str, Set<'_>> = BTreeMap::new();
    for op in facts.ops.values() {
        match (op.action, &op.outcome) {
            (Action::Insert { element, once }, _) if !op.is_refused() => {
                let element = sets.entry(&op.key).or_default().elements.entry(element).or_default();
                if once { element.once.push(op) } else { element.adds.push(op) }
            }
            (Action::Remove(element), _) if !op.is_refused() => {
                sets.entry(&op.key).or_default().elements.entry(element).or_default().removes.push(op);
            }
            (Action::Members, Outcome::Done(found)) => sets.entry(&op.key).or_default().reads.push((op, found)),
            _ => {}
        }
    }
    let mut violations = Vec::new();
    for (key, set) in sets {
        for (read, found) in &set.reads {
            let found: BTreeSet<u64> = found.iter().map(|OpId(element)| *element).collect();
            let strays = found.iter().filter(|element| !set.elements.contains_key(element));
            let strays = strays.map(|element| (*element, ("K6", "which nobody added".to_owned())));
            let broken = set
                .elements
                .iter()
                .filter_map(|(number, element)| Some((*number, element.problem(facts, read, found.contains(number))?)));
            for (number, (promise, what)) in strays.chain(broken) {
                let text = format!("{} on {} reads {key}: element {number}, {what}", read.id, read.host);
                violations.push(violation(promise, facts.at(read.invoked), text));
            }
        }
    }
    violations
}

#[derive(Default)]
struct Set<'f> {
    elements: BTreeMap<u64, Element<'f>>,
    reads: Vec<(&'f Op, &'f Vec<OpId>)>,
}

/// What may have been done about an element. Everything is in the order in which it began.
#[derive(Default)]
struct Element<'f> {
    adds: Vec<&'f Op>,
    /// The adds under its idempotency key.
    once: Vec<&'f Op>,
    removes: Vec<&'f Op>,
}

/// When an operation was acknowledged.
fn acknowledged(op: &Op) -> Option<usize> {
    op.returned.filter(|_| op.is_done())
}

/// Whether an operation had been acknowledged before another began.
fn is_over_before(op: &Op, later: &Op) -> bool {
    acknowledged(op).is_some_and(|at| at < later.invoked)
}

impl Element<'_> {
    fn problem(&self, facts: &Facts<'_>, read: &Op, is_there: bool) -> Option<(&'static str, String)> {
        let end = read.returned?;
        if facts.is_apart(read.invoked) {
            return None;
        }
        if is_there {
            let mut adds = self.adds.iter().chain(&self.once).filter(|add| add.invoked < end).peekable();
            if adds.peek().is_none() {
                return Some(("K6", "which was not added, or not done".to_owned()));
            }
            return self.gone_by(facts, read, end);
        }
        let added = self.standing(read, end)?;
        let promise = if facts.is_final(read) { "K1" } else { "K3" };
        Some((promise, format!("which is not there, and {added} had been acknowledged")))
    }

    /// An add that was acknowledged before a read began, and that no remove can have seen.
    fn standing(&self, read: &Op, end: usize) -> Option<OpId> {
        let may_have_seen =
            |add: &Op| self.removes.iter().any(|remove| remove.invoked < end && !is_over_before(remove, add));
        let is_there = |add: &&&Op| is_over_before(add, read);
        let add = self.adds.iter().filter(is_there).find(|add| !may_have_seen(add));
        // Whichever of them was done, it was not before the first began.
        let once = self.once.iter().find(is_there).filter(|_| !may_have_seen(self.once[0]));
        add.or(once).map(|add| add.id)
    }

    /// Why an element should not be there, if it should not.
    fn gone_by(&self, facts: &Facts<'_>, read: &Op, end: usize) -> Option<(&'static str, String)> {
        let is_void =
            |add: &Op| !facts.is_apart(add.invoked) && self.once.iter().any(|other| is_over_before(other, add));
        let removes = self.removes.iter().filter(|remove| is_over_before(remove, read));
        for remove in removes.filter(|remove| !facts.is_apart(remove.invoked)) {
            let mut plain = self.adds.iter().filter(|add| add.invoked < end);
            let once: Vec<&&Op> =
                self.once.iter().filter(|add| add.invoked < end && !is_over_before(add, remove)).collect();
            if plain.all(|add| is_over_before(add, remove)) && once.iter().all(|add| is_void(add)) {
                let what = format!("which {} had removed", remove.id);
                return Some(match once.first() {
                    Some(again) => ("K6", format!("{what}, and {} was done before", again.id)),
                    None => ("K5", what),
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{done, op};
    use crate::checker::judged;
    use crate::history::Entry;

    const ADD: Action = Action::Insert { element: 7, once: false };
    const ONCE: Action = Action::Insert { element: 7, once: true };
    const REMOVE: Action = Action::Remove(7);

    /// Each begins when the one before has ended, then a read.
    fn read(ops: &[(Action, Outcome)], found: &[u64]) -> Vec<String> {
        let timed = (1..).zip(ops);
        let mut entries: Vec<Entry> =
            timed.flat_map(|(id, (action, told))| op(id * 10, id * 10 + 5, id, *action, told.clone())).collect();
        entries.extend(op(500, 505, 50, Action::Members, done(found)));
        judged(check, entries).into_iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn what_was_added_is_found_and_what_was_removed_is_not() {
        let ok = || done(&[]);
        assert!(read(&[(ADD, ok())], &[7]).is_empty());
        assert_eq!(read(&[(ADD, ok())], &[]), ["K3"]);
        assert_eq!(read(&[(ADD, Outcome::NotApplied)], &[7]), ["K6"]);
        assert_eq!(read(&[(ADD, ok())], &[7, 8]), ["K6"]);
        assert!(read(&[(ADD, ok()), (REMOVE, ok())], &[]).is_empty());
        assert_eq!(read(&[(ADD, ok()), (REMOVE, ok())], &[7]), ["K5"]);
        assert!(read(&[(ADD, Outcome::Unknown), (REMOVE, ok())], &[7]).is_empty(), "it may be done later");
        assert!(read(&[(ADD, ok()), (REMOVE, Outcome::Unknown)], &[7]).is_empty());
        assert!(read(&[(ADD, ok()), (REMOVE, Outcome::Unknown)], &[]).is_empty());
    }

    #[test]
    fn what_is_added_after_a_remove_stays() {
        let ok = || done(&[]);
        assert_eq!(read(&[(ADD, ok()), (REMOVE, ok()), (ADD, ok())], &[]), ["K3"]);
        assert!(read(&[(REMOVE, Outcome::Unknown), (ADD, ok())], &[]).is_empty(), "it may come late");
    }

    #[test]
    fn what_is_added_under_a_key_is_added_once() {
        let ok = || done(&[]);
        assert!(read(&[(ONCE, ok()), (REMOVE, ok()), (ONCE, ok())], &[]).is_empty());
        assert_eq!(read(&[(ONCE, ok()), (REMOVE, ok()), (ONCE, ok())], &[7]), ["K6"]);
        assert!(read(&[(ONCE, Outcome::Unknown), (REMOVE, ok()), (ONCE, ok())], &[7]).is_empty());
        assert!(read(&[(ONCE, Outcome::Unknown), (REMOVE, ok()), (ONCE, ok())], &[]).is_empty(), "the first was done");
        assert_eq!(read(&[(REMOVE, ok()), (ONCE, Outcome::Unknown), (ONCE, ok())], &[]), ["K3"]);
        assert!(read(&[(ONCE, ok()), (REMOVE, ok()), (ADD, ok())], &[7]).is_empty());
    }
}
