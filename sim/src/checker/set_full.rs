//! Sets: no element is lost (K1, K2), stale (K3), there twice (K2) or there without having been added (K6).
//!
//! This is the set-full analysis of Jepsen (`jepsen.checker/set-full`) with two differences. It counts an element twice
//! if it is found more than once; the published one compares with less than one, and so never does. And a store that
//! promises K3 may not even miss an element for a while.
//!
//! An element is *known* from the acknowledgement of its add on, or from the first read on that returned it. It is *lost*
//! if it is known, and the last read that missed it began after it was known and after the last read that saw it. It is
//! *stable* when the last read that saw it began after the last that missed it. An element that is known from reads
//! alone may be lost with a replica: it is judged only if every process has lived on since.
//!
//! That every live node reads every set in the end is K1's.

use std::time::Duration;

use super::numbers::{List, Said, compare, lists};
use super::{Facts, Violation, violation};
use crate::history::{Action, History, Op, OpId};

/// The quantiles that [`stable_latencies`] tells.
pub const QUANTILES: [f64; 5] = [0.0, 0.5, 0.95, 0.99, 1.0];

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let sets = lists(facts, Action::Elements, added);
    sets.into_iter().flat_map(|(key, set)| judge(facts, key, &set)).collect()
}

/// How long after it was known an element was still missed by a read: the [`QUANTILES`] over all elements that are stable
/// in the end. `None` if there are none.
#[must_use]
pub fn stable_latencies(history: &History) -> Option<[Duration; 5]> {
    let facts = Facts::of(history);
    let mut all: Vec<Duration> = Vec::new();
    for set in lists(&facts, Action::Elements, added).values() {
        let fates = fates(set, |_, _, _| ());
        let stable = fates.iter().filter(|fate| fate.last_seen > fate.last_missed && fate.last_seen.is_some());
        all.extend(stable.filter_map(|fate| {
            let missed = fate.last_missed.map_or(Duration::ZERO, |index| facts.at(index));
            Some(missed.saturating_sub(facts.at(fate.known()?)))
        }));
    }
    all.sort_unstable();
    let last = all.len().checked_sub(1)?;
    Some(QUANTILES.map(|quantile| all[(last as f64 * quantile).round() as usize]))
}

fn added(op: &Op) -> Option<OpId> {
    (op.action == Action::Add).then_some(op.id)
}

/// What became of an element; the indices are those of entries.
#[derive(Clone, Debug, Default)]
struct Fate {
    acknowledged: Option<usize>,
    /// When the first read that saw it ended.
    first_seen: Option<usize>,
    /// When the last read that saw it began.
    last_seen: Option<usize>,
    /// When the last read that missed it began.
    last_missed: Option<usize>,
}

impl Fate {
    fn known(&self) -> Option<usize> {
        self.acknowledged.into_iter().chain(self.first_seen).min()
    }

    fn is_lost(&self) -> bool {
        self.known().is_some_and(|known| self.last_missed > self.last_seen.max(Some(known)))
    }
}

/// Follows the elements of a set through its reads. `each` gets every read, the index of an element, and what the read says.
fn fates(set: &List<'_>, mut each: impl FnMut(&Op, usize, Said)) -> Vec<Fate> {
    let fate = |acknowledged| Fate { acknowledged, ..Fate::default() };
    let mut fates: Vec<Fate> = set.numbers.iter().map(|number| fate(number.acknowledged)).collect();
    for read in &set.reads {
        let (begun, ended) = (Some(read.invoked), read.returned);
        compare(&set.numbers, read, |index, said| {
            match said {
                Said::There | Said::Repeated => {
                    let fate = &mut fates[index];
                    fate.first_seen = fate.first_seen.map_or(ended, |first| ended.min(Some(first)));
                    fate.last_seen = begun;
                }
                Said::Absent => fates[index].last_missed = begun,
                Said::Stray(_) => {}
            }
            each(read, index, said);
        });
    }
    fates
}

fn judge(facts: &Facts<'_>, key: &str, set: &List<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let fates = fates(set, |read, index, said| {
        let number = set.numbers.get(index);
        let (promise, what) = match (said, number) {
            (Said::Stray(stray), _) => ("K6", format!("{stray}, which nobody added")),
            (Said::Repeated, Some(number)) => ("K2", format!("{} more than once", number.id)),
            (Said::There, Some(number)) if !number.is_possible => {
                ("K6", format!("{}, whose add was reported as not applied", number.id))
            }
            (Said::There, Some(number)) if read.returned < Some(number.tried) => {
                ("K6", format!("{} before it was added", number.id))
            }
            (Said::Absent, Some(number))
                if number.acknowledged.is_some_and(|at| at < read.invoked)
                    && !facts.is_final(read)
                    && !facts.is_apart(read.invoked) =>
            {
                ("K3", format!("not {}, whose add had been acknowledged", number.id))
            }
            _ => return,
        };
        let text = format!("{} on {} finds in {key} {what}", read.id, read.host);
        violations.push(violation(promise, facts.at(read.invoked), text));
    });
    for (number, fate) in set.numbers.iter().zip(fates) {
        let Some(missed) = fate.last_missed.filter(|_| fate.is_lost()) else { continue };
        let promise = match (fate.acknowledged, fate.first_seen) {
            // One that was missed for the last time before the end is merely stale.
            (Some(_), _) if facts.final_reads.is_some_and(|begin| missed > begin) => "K1",
            (None, Some(seen)) if number.is_possible && facts.all_is_kept_from(seen) => "K2",
            _ => continue,
        };
        let text = format!("{} is lost from {key}: known, and missed in the end", number.id);
        violations.push(violation(promise, facts.at(missed), text));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{done, op, repaired};
    use crate::checker::{by_hand, judged};
    use crate::history::{Entry, Event, Host, Outcome};

    fn add(ms: u64, id: u64, outcome: Outcome) -> [Entry; 2] {
        op(ms, ms + 5, id, Action::Add, outcome)
    }

    fn read(ms: u64, id: u64, found: &[u64]) -> [Entry; 2] {
        op(ms, ms + 5, id, Action::Elements, done(found))
    }

    /// 1 is added, 2 may have been, 3 was not; then one read before the end and one after.
    fn read_twice(before: &[u64], finally: &[u64]) -> Vec<String> {
        let mut entries = add(10, 1, done(&[])).to_vec();
        entries.extend(add(20, 2, Outcome::Unknown));
        entries.extend(add(30, 3, Outcome::NotApplied));
        entries.extend(read(40, 4, before));
        entries.extend(repaired(50));
        entries.extend(read(90_000, 5, finally));
        judged(check, entries).into_iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn what_was_added_is_there_and_what_may_have_been_may_come_late() {
        assert!(read_twice(&[1], &[1]).is_empty());
        assert!(read_twice(&[1], &[1, 2]).is_empty());
        assert!(read_twice(&[1, 2], &[1, 2]).is_empty());
    }

    #[test]
    fn what_is_lost_is_found() {
        assert_eq!(read_twice(&[1], &[]), ["K1"]);
        assert_eq!(read_twice(&[1, 2], &[1]), ["K2"], "2 was known, and nobody died");
    }

    #[test]
    fn what_is_stale_or_repeated_or_stray_is_found() {
        assert_eq!(read_twice(&[], &[1]), ["K3"]);
        assert_eq!(read_twice(&[1, 1], &[1]), ["K2"]);
        assert_eq!(read_twice(&[1, 3], &[1]), ["K6"]);
        assert_eq!(read_twice(&[1], &[1, 9]), ["K6"]);
        let mut entries = read(10, 1, &[2]).to_vec();
        entries.extend(add(20, 2, done(&[])));
        assert_eq!(judged(check, entries).len(), 1, "before it was added");
    }

    #[test]
    fn what_was_known_from_a_read_alone_may_be_lost_with_a_replica() {
        let mut entries = add(20, 2, Outcome::Unknown).to_vec();
        entries.extend(read(40, 4, &[2]));
        let crashed = Event::Crashed { host: Host(0), wiped: false };
        entries.extend(crate::checker::hand::start(0, 0, 1));
        entries.push(crate::checker::hand::at(45, crashed));
        entries.extend(repaired(50));
        entries.extend(read(90_000, 5, &[]));
        assert_eq!(judged(check, entries), []);
    }

    #[test]
    fn latencies_are_those_from_known_to_the_last_miss() {
        let mut entries = add(10, 1, done(&[])).to_vec();
        entries.extend(add(20, 2, done(&[])));
        entries.extend(read(125, 3, &[1]));
        entries.extend(read(200, 4, &[1, 2]));
        let ms = Duration::from_millis;
        let expected = [ms(0), ms(100), ms(100), ms(100), ms(100)];
        assert_eq!(stable_latencies(&by_hand(entries)), Some(expected));
        assert_eq!(stable_latencies(&by_hand(read(10, 1, &[]).to_vec())), None);
    }
}
