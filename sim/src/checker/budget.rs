//! Budgets: each host may spend its allowance of a key once, whichever of its processes spends, and no more.
//!
//! 1. The acknowledged spends of a host never pass the allowance (K3: each spend reads what was spent before it).
//! 2. A host is told that it is exhausted only if what it has spent, or may have, reaches the allowance (K6).
//! 3. In the end the total is between what was acknowledged (K1) and that plus what may have been spent (K6).
//!
//! While clusters that were founded apart meet, a host may not hear of what it had spent. What it then spends again
//! merges with that into the greater number, so of such a host nothing is known but that it is within its allowance.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{ALLOWANCE, Action, Host, Op, Outcome};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut budgets: BTreeMap<&str, Budget<'_>> = BTreeMap::new();
    for op in facts.ops.values() {
        match (op.action, &op.outcome) {
            (Action::Spend, _) => budgets.entry(&op.key).or_default().spends.entry(op.host).or_default().push(op),
            (Action::Total, Outcome::Total(total)) => budgets.entry(&op.key).or_default().reads.push((op, *total)),
            _ => {}
        }
    }
    let budgets = budgets.into_iter().filter(|(_, budget)| !budget.spends.is_empty());
    budgets.flat_map(|(key, budget)| budget.judge(facts, key)).collect()
}

/// One key. Everything is in the order in which it began.
#[derive(Default)]
struct Budget<'f> {
    spends: BTreeMap<Host, Vec<&'f Op>>,
    /// The totals that were read.
    reads: Vec<(&'f Op, u64)>,
}

impl Budget<'_> {
    fn judge(&self, facts: &Facts<'_>, key: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        let (mut least, mut most) = (0, 0);
        for (host, spends) in &self.spends {
            let (mut done, mut possible) = (0_u64, 0_u64);
            let apart = spends.iter().any(|spend| facts.is_apart(spend.invoked));
            for spend in spends {
                let text = match spend.outcome {
                    Outcome::Done(_) => {
                        (done, possible) = (done + 1, possible + 1);
                        (done == ALLOWANCE + 1)
                            .then(|| ("K3", format!("{host} has spent more than {ALLOWANCE} of {key}")))
                    }
                    Outcome::Unknown => {
                        possible += 1;
                        None
                    }
                    Outcome::Exhausted => (possible < ALLOWANCE).then(|| {
                        (
                            "K6",
                            format!("{host} is told that {key} is exhausted, and has spent at most {possible} of it"),
                        )
                    }),
                    _ => None,
                };
                if let Some((promise, text)) = text.filter(|_| !apart) {
                    violations.push(violation(promise, facts.at(spend.invoked), text));
                }
            }
            least += if apart { 0 } else { done };
            most += possible.min(ALLOWANCE);
        }
        for (read, total) in self.reads.iter().filter(|(read, _)| facts.is_final(read)) {
            let (promise, what) = match total {
                total if *total < least => ("K1", format!("less than the {least} that were acknowledged")),
                total if *total > most => ("K6", format!("more than the {most} that may have been spent")),
                _ => continue,
            };
            let text = format!("{} finds {total} spent of {key} in the end, {what}", read.host);
            violations.push(violation(promise, facts.at(read.invoked), text));
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op, start, view};
    use crate::checker::judged;
    use crate::history::{Entry, Event, Standing};

    /// So many spends that were acknowledged, then these, then the total in the end.
    fn spent(acknowledged: u64, then: &[Outcome], total: u64) -> Vec<Entry> {
        let outcomes = (0..acknowledged).map(|_| done(&[])).chain(then.iter().cloned());
        let mut entries: Vec<Entry> = (1..)
            .zip(outcomes)
            .flat_map(|(id, outcome)| op(id * 10, id * 10 + 5, id, Action::Spend, outcome))
            .collect();
        entries.push(at(5000, Event::FinalReads));
        entries.extend(op(5001, 5002, 999, Action::Total, Outcome::Total(total)));
        entries
    }

    fn broken(entries: Vec<Entry>) -> Vec<String> {
        judged(check, entries).into_iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn an_allowance_that_is_spent_once_is_good() {
        assert!(broken(spent(25, &[Outcome::Exhausted], 25)).is_empty());
        assert!(broken(spent(24, &[Outcome::Unknown, Outcome::Exhausted], 24)).is_empty());
        assert!(broken(spent(23, &[Outcome::Unknown], 24)).is_empty());
    }

    #[test]
    fn spending_too_much_and_refusing_too_soon_are_bad() {
        assert_eq!(broken(spent(26, &[], 26)), ["K3", "K6"]);
        assert_eq!(broken(spent(23, &[Outcome::Unknown, Outcome::Exhausted], 24)), ["K6"]);
    }

    #[test]
    fn a_total_that_lost_or_invented_a_spend_is_bad() {
        assert_eq!(broken(spent(10, &[], 9)), ["K1"]);
        assert_eq!(broken(spent(10, &[Outcome::Unknown, Outcome::NotApplied], 12)), ["K6"]);
    }

    #[test]
    fn a_host_may_spend_again_what_it_spent_in_a_cluster_that_was_founded_apart() {
        let mut entries = start(0, 1, 1).to_vec();
        entries.push(view(0, 1, &[(1, 1, Standing::Alive)]));
        entries.extend(start(1, 0, 2));
        entries.push(view(2, 0, &[(0, 2, Standing::Alive), (2, 2, Standing::Alive)]));
        entries.extend(spent(26, &[], 25));
        assert!(broken(entries).is_empty());
    }
}
