//! Which writes may have been replaced by which: what tells a lost value from a superseded one.
//!
//! The clients do not look into causal contexts, so the checkers judge the store without believing it. A write *may
//! cover* another if what its caller knew, or could have made a quorum tell, includes it:
//!
//! - with the context of an operation: what that operation's caller saw, which is what the read returned, or the write;
//! - without a context: every write that began before this one ended. A write whose outcome is unknown has no end.
//!
//! A value that is not there is accounted for if something that may cover it is there, or is itself accounted for, or
//! is a delete, which leaves nothing to be seen. The chain must end in what was found: two writes that may cover each
//! other do not account for each other's loss.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Basis, Op, OpId, Outcome};

/// The operations of a history, by key.
#[derive(Debug)]
pub struct Causality<'a> {
    ops: &'a BTreeMap<OpId, Op>,
    writes: BTreeMap<&'a str, Vec<&'a Op>>,
}

impl<'a> Causality<'a> {
    /// Orders the operations of a history.
    #[must_use]
    pub fn new(ops: &'a BTreeMap<OpId, Op>) -> Self {
        let mut writes: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        // A write that was not applied covers nothing. (That it is never seen is another promise, K6.)
        for op in ops.values().filter(|op| op.is_write() && op.outcome != Outcome::NotApplied) {
            writes.entry(&op.key).or_default().push(op);
        }
        Self { ops, writes }
    }

    /// Whether `newer` may have replaced `older`, a write to the same key.
    #[must_use]
    pub fn may_cover(&self, newer: &Op, older: &Op) -> bool {
        if newer.id == older.id {
            return false;
        }
        match newer.action.basis() {
            None => false,
            Some(Basis::Quorum) => newer.end().is_none_or(|end| older.invoked < end),
            Some(Basis::Of(seen)) => match self.ops.get(&seen) {
                Some(seen) if seen.action == Action::Get => seen.found().is_some_and(|found| found.contains(&older.id)),
                Some(seen) => seen.id == older.id,
                None => false,
            },
        }
    }

    /// The writes to the key of a read that the read must account for, and does not: those that were acknowledged
    /// before it began.
    #[must_use]
    pub fn missing(&self, read: &Op) -> Vec<&'a Op> {
        let (Some(found), Some(end)) = (read.found(), read.returned) else { return Vec::new() };
        let Some(writes) = self.writes.get(read.key.as_str()) else { return Vec::new() };
        // What began after the read had ended cannot have changed what it saw.
        let writes: Vec<&Op> = writes.iter().copied().filter(|write| write.invoked < end).collect();
        let mut missing: BTreeMap<OpId, &Op> = writes.iter().map(|write| (write.id, *write)).collect();
        let mut reached: Vec<&Op> = Vec::new();
        let found: BTreeSet<&OpId> = found.iter().collect();
        missing.retain(|id, write| {
            let there = found.contains(id) || matches!(write.action, Action::Delete(_));
            if there {
                reached.push(write);
            }
            !there
        });
        while let Some(newer) = reached.pop() {
            missing.retain(|_, older| {
                let covered = self.may_cover(newer, older);
                if covered {
                    reached.push(older);
                }
                !covered
            });
        }
        let acknowledged_before = |write: &&Op| {
            write.is_acknowledged_write() && write.returned.is_some_and(|returned| returned < read.invoked)
        };
        missing.into_values().filter(acknowledged_before).collect()
    }
}

impl Op {
    /// The index of the entry after which it has no more effect; `None` if it may have one at any time.
    fn end(&self) -> Option<usize> {
        if self.outcome == Outcome::Unknown { None } else { self.returned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Entry, Event, Host};
    use std::time::Duration;

    /// `(op, action, outcome)`: begins and ends at once, in this order.
    fn history(ops: &[(u64, Action, Outcome)]) -> BTreeMap<OpId, Op> {
        let entry = |event| Entry { at: Duration::ZERO, event };
        let mut entries = Vec::new();
        for (op, action, outcome) in ops {
            let (op, host, key) = (OpId(*op), Host(0), "k".to_owned());
            entries.push(entry(Event::Invoked { op, host, key, action: *action }));
            entries.push(entry(Event::Returned { op, outcome: outcome.clone() }));
        }
        crate::checker::by_hand(entries).ops()
    }

    fn read(values: &[u64]) -> Outcome {
        Outcome::Done(values.iter().copied().map(OpId).collect())
    }

    const PUT: Action = Action::Put(Basis::Quorum);

    fn missing(ops: &[(u64, Action, Outcome)], read: u64) -> Vec<u64> {
        let ops = history(ops);
        Causality::new(&ops).missing(&ops[&OpId(read)]).iter().map(|op| op.id.0).collect()
    }

    #[test]
    fn a_later_write_accounts_for_an_earlier_and_not_the_other_way() {
        let done = || read(&[]);
        assert!(missing(&[(0, PUT, done()), (1, PUT, done()), (2, Action::Get, read(&[1]))], 2).is_empty());
        assert_eq!(missing(&[(0, PUT, done()), (1, PUT, done()), (2, Action::Get, read(&[0]))], 2), [1]);
        assert_eq!(missing(&[(0, PUT, done()), (1, PUT, done()), (2, Action::Get, read(&[]))], 2), [0, 1]);
    }

    #[test]
    fn a_write_with_a_context_accounts_for_what_its_reader_saw_only() {
        let with = |op| Action::Put(Basis::Of(OpId(op)));
        let seen = [
            (0, PUT, read(&[])),
            (1, Action::Get, read(&[0])),
            (2, PUT, read(&[])),
            (3, with(1), read(&[])),
            (4, Action::Get, read(&[3])),
        ];
        assert_eq!(missing(&seen, 4), [2], "the reader had not seen 2");
        let chain = [(0, PUT, read(&[])), (1, with(0), read(&[])), (2, Action::Get, read(&[1]))];
        assert!(missing(&chain, 2).is_empty(), "the context of a write covers it");
    }

    #[test]
    fn an_unknown_write_accounts_for_others_only_if_it_is_seen() {
        let seen = [(0, PUT, Outcome::Unknown), (1, PUT, read(&[])), (2, Action::Get, read(&[0]))];
        assert!(missing(&seen, 2).is_empty(), "it may have come late");
        let unseen = [(0, PUT, read(&[])), (1, PUT, Outcome::Unknown), (2, Action::Get, read(&[]))];
        assert_eq!(missing(&unseen, 2), [0], "nothing that was found covers it");
    }

    #[test]
    fn a_delete_accounts_for_what_it_may_cover_unless_it_was_not_applied() {
        let delete = Action::Delete(Basis::Quorum);
        assert!(
            missing(&[(0, PUT, read(&[])), (1, delete, Outcome::Unknown), (2, Action::Get, read(&[]))], 2).is_empty()
        );
        let not_applied = [(0, PUT, read(&[])), (1, delete, Outcome::NotApplied), (2, Action::Get, read(&[]))];
        assert_eq!(missing(&not_applied, 2), [0]);
        let of_nothing = [
            (0, Action::Get, read(&[])),
            (1, PUT, read(&[])),
            (2, Action::Delete(Basis::Of(OpId(0))), read(&[])),
            (3, Action::Get, read(&[])),
        ];
        assert_eq!(missing(&of_nothing, 3), [1], "the delete had seen nothing");
    }
}
