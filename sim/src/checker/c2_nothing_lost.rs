//! C2, nothing lost, nothing resurrected: what a process has added to a document that lives to the end is there in the end,
//! unless it was removed; what such a process has removed is not; and nothing is there that nobody added.
//!
//! What only a process knew that has died since may be lost with it: then neither is demanded. Numbers are unique, so each
//! is added once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Violation, violation};
use crate::history::{Event, Host};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    if !facts.is_repaired() {
        return Vec::new();
    }
    // Since when each host's last process has lived, if it lives to the end.
    let mut alive: BTreeMap<Host, std::time::Duration> = BTreeMap::new();
    for process in &facts.processes {
        match process.ended {
            None => alive.insert(process.host, process.launched),
            Some(_) => alive.remove(&process.host),
        };
    }
    let mut documents: BTreeMap<&str, Numbers> = BTreeMap::new();
    for entry in &facts.history.entries {
        match &entry.event {
            Event::Edited { host, document, added, removed } => {
                let numbers = documents.entry(document).or_default();
                let survives = alive.get(host).is_some_and(|launched| *launched <= entry.at);
                numbers.added.extend(added);
                numbers.removed.extend(removed);
                if survives {
                    numbers.kept.extend(added);
                    numbers.gone.extend(removed);
                }
            }
            Event::Shows { host, document, holds } => {
                documents.entry(document).or_default().shown.push((*host, holds.iter().copied().collect()));
            }
            _ => {}
        }
    }
    let end = facts.history.end();
    let judge = |(document, numbers): (&str, Numbers)| {
        let mut violations = Vec::new();
        for (host, holds) in &numbers.shown {
            let mut broken = |what: &str, number: &u64| {
                violations.push(violation("C2", end, format!("{document} on {host}: {number:x} {what}")));
            };
            let lost = numbers.kept.difference(holds).filter(|number| !numbers.removed.contains(number));
            lost.for_each(|number| broken("is lost", number));
            holds.intersection(&numbers.gone).for_each(|number| broken("was removed and is back", number));
            holds.difference(&numbers.added).for_each(|number| broken("was never added", number));
        }
        violations
    };
    documents.into_iter().flat_map(judge).collect()
}

/// What became of the numbers of a document.
#[derive(Default)]
struct Numbers {
    added: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    /// Those that were added, and removed, by processes that live to the end.
    kept: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    shown: Vec<(Host, BTreeSet<u64>)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, start};
    use crate::checker::judged;
    use crate::history::Entry;

    fn edited(ms: u64, host: u8, added: &[u64], removed: &[u64]) -> Entry {
        let (added, removed) = (added.to_vec(), removed.to_vec());
        at(ms, Event::Edited { host: Host(host), document: "d".to_owned(), added, removed })
    }

    fn judge(middle: Vec<Entry>, holds: &[u64]) -> Vec<String> {
        let mut entries = start(0, 0, 1).to_vec();
        entries.extend(start(0, 1, 1));
        entries.extend(middle);
        entries.push(at(1_000, Event::Healed));
        entries.push(at(1_010, Event::Settled { host: Host(0) }));
        entries.push(at(90_000, Event::FinalReads));
        entries.push(at(90_000, Event::Shows { host: Host(0), document: "d".to_owned(), holds: holds.to_vec() }));
        judged(check, entries).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn what_is_lost_back_or_made_up_is_found() {
        let middle = || vec![edited(10, 0, &[1], &[]), edited(20, 1, &[2], &[]), edited(30, 0, &[], &[2])];
        assert!(judge(middle(), &[1]).is_empty());
        assert!(judge(middle(), &[])[0].ends_with("1 is lost"));
        assert!(judge(middle(), &[1, 2])[0].ends_with("2 was removed and is back"));
        assert!(judge(middle(), &[1, 3])[0].ends_with("3 was never added"));
    }

    #[test]
    fn what_only_the_dead_knew_may_be_either() {
        let died = at(40, Event::Crashed { host: Host(1), wiped: false });
        let middle =
            || vec![edited(10, 1, &[1], &[]), edited(20, 0, &[2], &[]), edited(30, 1, &[], &[2]), died.clone()];
        for holds in [&[][..], &[1], &[2], &[1, 2]] {
            assert_eq!(judge(middle(), holds), Vec::<String>::new());
        }
    }
}
