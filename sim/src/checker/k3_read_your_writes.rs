//! K3, read your writes: a quorum read that begins after a write was acknowledged sees it, or something that may have
//! replaced it, in the sense of [`crate::causality`].
//!
//! The promise allows for staleness while member lists differ, for a bounded time after a change. The protocol aims to
//! do without, and this checker makes no allowance. Of a register with one writer the rule says: the value is at least
//! as new as the newest that was acknowledged before the read began.

use super::{Violation, violation};
use crate::causality::Causality;
use crate::history::History;

/// See the [module](self).
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let ops = history.ops();
    let causality = Causality::new(&ops);
    // Reads in the end are K1's.
    let end = history.final_reads().unwrap_or(history.entries.len());
    let mut violations = Vec::new();
    for read in ops.values().filter(|op| op.invoked < end) {
        for missed in causality.missing(read) {
            let acknowledged = missed.returned.map_or_else(|| history.end(), |i| history.entries[i].at);
            let text = format!(
                "{} on {} finds {:?} in {}, and not the {:?} {} that {} was told of at {:.3} s",
                read.id,
                read.host,
                read.found().unwrap_or_default(),
                read.key,
                missed.action,
                missed.id,
                missed.host,
                acknowledged.as_secs_f64()
            );
            violations.push(violation("K3", history.entries[read.invoked].at, text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{done, op};
    use crate::history::{Action, Basis, Outcome};

    const PUT: Action = Action::Put(Basis::Quorum);

    fn read_after(second: Outcome, found: &[u64]) -> Vec<Violation> {
        let mut entries = Vec::new();
        entries.extend(op(10, 20, 1, PUT, done(&[])));
        entries.extend(op(30, 40, 2, PUT, second));
        entries.extend(op(50, 60, 3, Action::Get, done(found)));
        check(&by_hand(entries))
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
        assert_eq!(check(&by_hand(entries)), []);
    }
}
