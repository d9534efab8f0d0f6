//! Counters: a total is a sum of adds, each of which counts once if it was acknowledged, and at most once otherwise.
//!
//! What many operations add under one idempotency key counts as one add: acknowledged, if one of them was.
//!
//! 1. In the end every total is one of S: the sum of the acknowledged adds, plus that of any of unknown outcome (the
//!    counter checker of Jepsen, made exact). One that is too small has lost an add (K1); one that is none of S, or too
//!    great, counts what was reported as not applied, or counts twice (K6).
//! 2. No total ever is greater than the sum of the adds that had begun by its end and were acknowledged or unknown (K6).
//! 3. No total is smaller than what was acknowledged before it began (K3), but for clusters that were founded apart.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{Action, Op, Outcome};

/// Beyond so many steps, S is taken to be all that is neither too small nor too great: more adds than a run has.
const MAX_STEPS: u64 = 1 << 24;

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut counters: BTreeMap<&str, Counter> = BTreeMap::new();
    for op in facts.ops.values() {
        match (op.action, &op.outcome) {
            // A total of spends is the budget's.
            (Action::Spend, _) => counters.entry(&op.key).or_default().is_budget = true,
            (Action::Count(_) | Action::Once { .. }, Outcome::NotApplied) => {}
            (Action::Count(by), _) => counters.entry(&op.key).or_default().adds.push(Add::of(op, by)),
            (Action::Once { id, by }, _) => counters.entry(&op.key).or_default().add_once(id, Add::of(op, by)),
            (Action::Total, Outcome::Total(total)) => {
                counters.entry(&op.key).or_default().reads.push((op.clone(), *total))
            }
            _ => {}
        }
    }
    let counters = counters.into_iter().filter(|(_, counter)| !counter.is_budget);
    counters.flat_map(|(key, counter)| counter.judge(facts, key)).collect()
}

/// What may have been added, once.
struct Add {
    by: u64,
    /// The index at which it was first asked for.
    begun: usize,
    /// The index at which it was first acknowledged.
    done: Option<usize>,
}

impl Add {
    fn of(op: &Op, by: u32) -> Self {
        Self { by: by.into(), begun: op.invoked, done: op.returned.filter(|_| op.is_done()) }
    }
}

/// One key. Everything is in the order in which it began.
#[derive(Default)]
struct Counter {
    is_budget: bool,
    /// The adds that may have been applied.
    adds: Vec<Add>,
    /// Which of them are under which idempotency key.
    once: BTreeMap<u64, usize>,
    /// The reads that succeeded, and what they found.
    reads: Vec<(Op, u64)>,
}

impl Counter {
    /// Adds under an idempotency key.
    fn add_once(&mut self, id: u64, add: Add) {
        let at = *self.once.entry(id).or_insert(self.adds.len());
        match self.adds.get_mut(at) {
            Some(same) => same.done = same.done.into_iter().chain(add.done).min(),
            None => self.adds.push(add),
        }
    }

    fn judge(&self, facts: &Facts<'_>, key: &str) -> Vec<Violation> {
        let reachable = self.reachable();
        let most = self.running(|add| Some(add.begun));
        let least = self.running(|add| add.done);
        let mut violations = Vec::new();
        for (read, total) in &self.reads {
            let (total, is_final) = (*total, facts.is_final(read));
            let (most, least) = (at(&most, read.returned), at(&least, Some(read.invoked)));
            let (promise, what) = if total > most {
                ("K6", format!("more than {most}, all that was added or may have been"))
            } else if total < least && is_final {
                ("K1", format!("less than {least}, all that was acknowledged"))
            } else if total < least && !facts.is_apart(read.invoked) {
                ("K3", format!("less than {least}, all that had been acknowledged"))
            } else if is_final && !reachable.contains(total) {
                ("K6", "which is no sum of what was added".to_owned())
            } else {
                continue;
            };
            let text = format!("{} on {} finds {total} in {key}, {what}", read.id, read.host);
            violations.push(violation(promise, facts.at(read.invoked), text));
        }
        violations
    }

    /// The sums up to each add, in the order of when they count.
    fn running(&self, counts_from: impl Fn(&Add) -> Option<usize>) -> Vec<(usize, u64)> {
        let mut sums: Vec<(usize, u64)> =
            self.adds.iter().filter_map(|add| Some((counts_from(add)?, add.by))).collect();
        sums.sort_unstable();
        let mut sum = 0;
        for (_, by) in &mut sums {
            sum += *by;
            *by = sum;
        }
        sums
    }

    /// S.
    fn reachable(&self) -> Reachable {
        let (done, unknown): (Vec<_>, Vec<_>) = self.adds.iter().partition(|add| add.done.is_some());
        let (base, more) = (done.iter().map(|add| add.by).sum(), unknown.iter().map(|add| add.by).sum::<u64>());
        let steps = (unknown.len() as u64).saturating_mul(more);
        if steps > MAX_STEPS {
            return Reachable { base, sums: None };
        }
        let mut sums = vec![false; more as usize + 1];
        sums[0] = true;
        for add in &unknown {
            let by = add.by as usize;
            for sum in (by..sums.len()).rev() {
                sums[sum] |= sums[sum - by];
            }
        }
        Reachable { base, sums: Some(sums) }
    }
}

/// S: a base, and which sums there are on top of it; any, if there are too many to tell.
struct Reachable {
    base: u64,
    sums: Option<Vec<bool>>,
}

impl Reachable {
    fn contains(&self, total: u64) -> bool {
        let above = total.checked_sub(self.base);
        let is_sum = |sums: &Vec<bool>, above: u64| sums.get(above as usize).copied().unwrap_or(false);
        above.is_some_and(|above| self.sums.as_ref().is_none_or(|sums| is_sum(sums, above)))
    }
}

/// The sum of what counts before an entry; of everything, if there is none.
fn at(running: &[(usize, u64)], before: Option<usize>) -> u64 {
    let counted = before.map_or(running.len(), |before| running.partition_point(|(from, _)| *from < before));
    counted.checked_sub(1).map_or(0, |last| running[last].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op};
    use crate::checker::judged;
    use crate::history::Event;

    /// 5 is added, 2 and 4 may have been, 1 was not.
    fn totals(before: u64, finally: u64) -> Vec<String> {
        let mut entries = op(10, 15, 1, Action::Count(5), done(&[])).to_vec();
        entries.extend(op(20, 25, 2, Action::Count(2), Outcome::Unknown));
        entries.extend(op(30, 35, 3, Action::Total, Outcome::Total(before)));
        entries.extend(op(40, 45, 4, Action::Count(4), Outcome::Unknown));
        entries.extend(op(40, 45, 5, Action::Count(1), Outcome::NotApplied));
        entries.push(at(50, Event::FinalReads));
        entries.extend(op(60, 65, 6, Action::Total, Outcome::Total(finally)));
        judged(check, entries).into_iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn sums_of_what_was_or_may_have_been_added_are_good() {
        for (before, finally) in [(5, 5), (5, 7), (7, 9), (5, 11)] {
            assert!(totals(before, finally).is_empty(), "{before} {finally}");
        }
    }

    #[test]
    fn too_little_too_much_and_what_is_no_sum_are_bad() {
        assert_eq!(totals(5, 4), ["K1"]);
        assert_eq!(totals(4, 5), ["K3"]);
        assert_eq!(totals(5, 12), ["K6"]);
        assert_eq!(totals(5, 6), ["K6"], "only what was not applied makes 6");
        assert_eq!(totals(9, 9), ["K6"], "4 had not begun");
    }

    #[test]
    fn what_is_added_under_one_key_counts_once_and_is_acknowledged_when_the_first_is() {
        let add = |from, to, id, outcome| op(from, to, id, Action::Once { id: 7, by: 5 }, outcome);
        let judge = |before: u64, finally: u64| -> Vec<String> {
            let mut entries = add(10, 15, 1, Outcome::Unknown).to_vec();
            entries.extend(op(16, 18, 2, Action::Total, Outcome::Total(5)));
            entries.extend(add(20, 25, 3, done(&[])));
            entries.extend(op(30, 35, 4, Action::Total, Outcome::Total(before)));
            entries.extend(add(40, 45, 5, done(&[])));
            entries.push(at(50, Event::FinalReads));
            entries.extend(op(60, 65, 6, Action::Total, Outcome::Total(finally)));
            judged(check, entries).into_iter().map(|violation| violation.promise).collect()
        };
        assert!(judge(5, 5).is_empty());
        assert_eq!(judge(0, 5), ["K3"]);
        assert_eq!(judge(5, 0), ["K1"]);
        assert_eq!(judge(10, 10), ["K6", "K6"], "it counts twice");
    }

    #[test]
    fn an_add_that_runs_beside_a_read_may_count() {
        let [begin, end] = op(10, 50, 1, Action::Count(5), done(&[]));
        for (total, bad) in [(0, 0), (5, 0), (6, 1)] {
            let mut entries = vec![begin.clone()];
            entries.extend(op(20, 25, 2, Action::Total, Outcome::Total(total)));
            entries.push(end.clone());
            assert_eq!(judged(check, entries).len(), bad, "{total}");
        }
    }
}
