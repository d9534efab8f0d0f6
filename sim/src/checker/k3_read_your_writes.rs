//! K3, read your writes: a quorum read that begins after a write was acknowledged sees it, or something that may have
//! replaced it, in the sense of [`crate::causality`].
//!
//! The promise allows for staleness while member lists differ, for a bounded time after a change. The protocol aims to
//! do without, and this checker makes no allowance for it; only for clusters that were founded apart, as when nodes that
//! start meet each other and are cut off from all others: until the clusters have met and settled, a read may miss what
//! the other had acknowledged. Of a register with one writer the rule says: the value is at least as new as the newest that was
//! acknowledged before the read began.
//!
//! The final reads are K1's and K2's. Sets, counters and commands have checkers of their own.

use super::{Facts, Violation, violation};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (read, missing) in &facts.lacking {
        let read = &facts.ops[read];
        if facts.is_final(read) || facts.is_apart(read.invoked) {
            continue;
        }
        for missed in missing.iter().map(|missed| &facts.ops[missed]) {
            let text = format!(
                "{} on {} finds {:?} in {}, and not the {:?} {} that {} was told of at {:.3} s",
                read.id,
                read.host,
                read.found().unwrap_or_default(),
                read.key,
                missed.action,
                missed.id,
                missed.host,
                facts.at(missed.returned.unwrap_or(usize::MAX)).as_secs_f64()
            );
            violations.push(violation("K3", facts.at(read.invoked), text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op, start, view};
    use crate::checker::judged;
    use crate::history::{Action, Basis, Event, Host, Outcome, Standing};

    const PUT: Action = Action::Put(Basis::Quorum);

    fn read_after(second: Outcome, found: &[u64]) -> Vec<Violation> {
        let mut entries = Vec::new();
        entries.extend(op(10, 20, 1, PUT, done(&[])));
        entries.extend(op(30, 40, 2, PUT, second));
        entries.extend(op(50, 60, 3, Action::Get, done(found)));
        judged(check, entries)
    }

    #[test]
    fn a_fresh_read_is_good_and_a_stale_one_is_bad() {
        assert_eq!(read_after(done(&[]), &[2]), []);
        assert_eq!(read_after(done(&[]), &[1]).len(), 1);
        assert_eq!(read_after(done(&[]), &[]).len(), 2);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_seen_or_not() {
        assert_eq!(read_after(Outcome::Unknown, &[1]), []);
        assert_eq!(read_after(Outcome::Unknown, &[2]), []);
        assert_eq!(read_after(Outcome::Unknown, &[]).len(), 1);
    }

    #[test]
    fn a_read_at_the_same_time_as_a_write_may_miss_it() {
        let [begin, end] = op(30, 60, 2, PUT, done(&[]));
        let mut entries = op(10, 20, 1, PUT, done(&[])).to_vec();
        entries.push(begin);
        entries.extend(op(40, 50, 3, Action::Get, done(&[1])));
        entries.push(end);
        assert_eq!(judged(check, entries), []);
    }

    #[test]
    fn a_cluster_that_was_founded_apart_may_be_missed_until_it_has_met_the_others_and_settled() {
        let read_at = |ms| {
            let mut entries = op(10, 20, 1, PUT, done(&[])).to_vec();
            entries.extend(start(1, 0, 1));
            entries.push(view(2, 0, &[(0, 1, Standing::Alive)]));
            entries.extend(start(30, 1, 2));
            entries.push(view(40, 1, &[(1, 2, Standing::Alive), (2, 3, Standing::Alive)]));
            entries.extend([0, 1].map(|host| at(60, Event::Settled { host: Host(host) })));
            entries.extend(op(ms, ms, 3, Action::Get, done(&[])));
            entries.sort_by_key(|entry| entry.at);
            judged(check, entries).len()
        };
        assert_eq!([read_at(25), read_at(50), read_at(70)], [1, 0, 1]);
    }
}
