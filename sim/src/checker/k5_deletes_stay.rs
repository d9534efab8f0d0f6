//! K5, deletes stay: what was surely replaced or deleted is never found again.
//!
//! A write or delete that was acknowledged has surely replaced
//!
//! - with the context of an operation: what that operation's caller saw, and whatever that had surely replaced, whether
//!   its own caller was told or not, because it was there to be seen;
//! - without a context: every value that was acknowledged before it began, because a quorum told it of that.
//!
//! A read that begins after the acknowledgement must not find any of it. While clusters that were founded apart meet,
//! reads may be stale (see K3), and a write without a context may not have been told of what the other had acknowledged.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{Action, Basis, Op, OpId};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut registers: BTreeMap<&str, Register<'_>> = BTreeMap::new();
    for op in facts.ops.values() {
        if op.is_acknowledged_write() {
            registers.entry(&op.key).or_default().acknowledged.push(op);
        } else if op.action == Action::Get && op.found().is_some_and(|found| !found.is_empty()) {
            registers.entry(&op.key).or_default().reads.push(op);
        }
    }
    registers.into_values().flat_map(|register| register.judge(facts)).collect()
}

/// One key.
#[derive(Default)]
struct Register<'f> {
    /// The writes that were acknowledged.
    acknowledged: Vec<&'f Op>,
    /// The reads that found something, in the order in which they began.
    reads: Vec<&'f Op>,
}

impl<'f> Register<'f> {
    fn judge(mut self, facts: &'f Facts<'_>) -> Vec<Violation> {
        self.acknowledged.sort_by_key(|write| write.returned);
        let mut replaced = Replaced { facts, acknowledged: &self.acknowledged, blindly: 0, by: BTreeMap::new() };
        let mut writes = self.acknowledged.iter().peekable();
        let mut violations = Vec::new();
        for read in &self.reads {
            while let Some(write) = writes.next_if(|write| write.returned < Some(read.invoked)) {
                replaced.take(write);
            }
            if facts.is_apart(read.invoked) {
                continue;
            }
            for value in read.found().unwrap_or_default() {
                let Some(by) = replaced.by.get(value) else { continue };
                let what = if matches!(facts.ops[by].action, Action::Delete(_)) { "deleted" } else { "replaced" };
                let at = facts.at(facts.ops[by].returned.unwrap_or(usize::MAX)).as_secs_f64();
                let text = format!(
                    "{} on {} finds {value} in {}, which {by} had {what} at {at:.3} s",
                    read.id, read.host, read.key
                );
                violations.push(violation("K5", facts.at(read.invoked), text));
            }
        }
        violations
    }
}

/// What was surely replaced so far, and by whom.
struct Replaced<'f> {
    facts: &'f Facts<'f>,
    /// In the order of their acknowledgements.
    acknowledged: &'f [&'f Op],
    /// So many of them, from the first on, were replaced without a context.
    blindly: usize,
    by: BTreeMap<OpId, OpId>,
}

impl Replaced<'_> {
    /// A write has been acknowledged.
    fn take(&mut self, write: &Op) {
        let mut todo = vec![write.id];
        while let Some(op) = todo.pop() {
            let Some(op) = self.facts.ops.get(&op) else { continue };
            let now = match op.action.basis() {
                None => Vec::new(),
                Some(Basis::Of(seen)) => match self.facts.ops.get(&seen) {
                    Some(read) if read.action == Action::Get => read.found().unwrap_or_default().to_vec(),
                    _ => vec![seen],
                },
                Some(Basis::Quorum) if self.facts.is_apart(op.invoked) => Vec::new(),
                Some(Basis::Quorum) => {
                    let from = self.blindly;
                    while self.acknowledged.get(self.blindly).is_some_and(|older| older.returned < Some(op.invoked)) {
                        self.blindly += 1;
                    }
                    self.acknowledged[from..self.blindly].iter().map(|older| older.id).collect()
                }
            };
            // What was replaced before has passed on what it had replaced.
            todo.extend(now.into_iter().filter(|older| self.by.insert(*older, write.id).is_none()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{done, op, start, view};
    use crate::checker::judged;
    use crate::history::{Entry, Outcome, Standing};

    const PUT: Action = Action::Put(Basis::Quorum);
    const DELETE: Action = Action::Delete(Basis::Quorum);

    fn with(seen: u64) -> Basis {
        Basis::Of(OpId(seen))
    }

    /// Each begins when the one before has ended.
    fn one_by_one(ops: &[(Action, Outcome)]) -> Vec<Entry> {
        let timed = (1..).zip(ops);
        timed.flat_map(|(id, (action, outcome))| op(id * 10, id * 10 + 5, id, *action, outcome.clone())).collect()
    }

    fn found(ops: &[(Action, Outcome)]) -> usize {
        judged(check, one_by_one(ops)).len()
    }

    #[test]
    fn what_was_read_and_replaced_or_deleted_does_not_return() {
        for write in [Action::Put(with(2)), Action::Delete(with(2))] {
            let ops = |told, again: &[u64]| {
                let read = (Action::Get, done(&[1]));
                [(PUT, Outcome::Unknown), read, (write, told), (Action::Get, done(again))]
            };
            assert_eq!(found(&ops(done(&[]), &[3])), 0);
            assert_eq!(found(&ops(done(&[]), &[1])), 1);
            assert_eq!(found(&ops(Outcome::Unknown, &[1])), 0, "it may not have been applied");
        }
    }

    #[test]
    fn what_was_acknowledged_before_a_blind_delete_or_put_began_does_not_return() {
        for write in [DELETE, PUT] {
            assert_eq!(found(&[(PUT, done(&[])), (write, done(&[])), (Action::Get, done(&[1]))]), 1);
            assert_eq!(found(&[(PUT, Outcome::Unknown), (write, done(&[])), (Action::Get, done(&[1]))]), 0);
        }
        let [begin, end] = op(1, 50, 9, PUT, done(&[]));
        let mut entries = vec![begin];
        entries.extend(one_by_one(&[(DELETE, done(&[]))]));
        entries.push(end);
        entries.extend(op(60, 70, 10, Action::Get, done(&[9])));
        assert_eq!(judged(check, entries), [], "they were concurrent");
    }

    #[test]
    fn what_was_replaced_by_what_was_replaced_does_not_return_either() {
        let ops = [
            (PUT, Outcome::Unknown),
            (Action::Get, done(&[1])),
            (Action::Put(with(2)), Outcome::Unknown),
            (Action::Get, done(&[3])),
            (Action::Delete(with(4)), done(&[])),
            (Action::Get, done(&[1])),
        ];
        assert_eq!(found(&ops), 1);
        assert_eq!(found(&[&ops[..3], &[(Action::Get, done(&[1]))]].concat()), 0, "nobody was told of 3, or saw it");
    }

    #[test]
    fn a_cluster_that_was_founded_apart_may_find_it_until_they_have_met() {
        let mut entries = start(0, 0, 1).to_vec();
        entries.push(view(0, 0, &[(0, 1, Standing::Alive)]));
        entries.extend(op(1, 2, 1, PUT, done(&[])));
        entries.extend(op(3, 4, 2, DELETE, done(&[])));
        entries.extend(start(5, 1, 1));
        entries.push(view(6, 1, &[(1, 1, Standing::Alive), (2, 1, Standing::Alive)]));
        entries.extend(op(7, 8, 3, Action::Get, done(&[1])));
        assert_eq!(judged(check, entries), []);
    }
}
