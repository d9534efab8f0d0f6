//! P2: presence lists exactly the live entries after heal, and a dead node's entries vanish within the detection bound.
//!
//! An entry is live if its guard is, and the process of its guard. What subscribers are told must make up what is listed;
//! nobody may be told of a number that nobody has said; and when the bound has passed after a process has ended, counted as
//! for M1, no subscriber may still see what it said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host};

/// The document that the entries are told of as.
const NAME: &str = "presence";

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = vanished(facts);
    // Who says what now, by host; what the subscriber of a host sees now; and what is listed in the end.
    let (mut said, mut seen): (BTreeMap<Host, BTreeSet<u64>>, BTreeMap<Host, BTreeSet<u64>>) = Default::default();
    let mut ever: BTreeSet<u64> = BTreeSet::new();
    let mut listed = Vec::new();
    for entry in &facts.history.entries {
        match &entry.event {
            Event::Launched { host }
            | Event::Crashed { host, .. }
            | Event::Left { host }
            | Event::Stopped { host, .. } => {
                said.remove(host);
                seen.remove(host);
            }
            Event::Edited { host, document, added, removed } if document == NAME => {
                let said = said.entry(*host).or_default();
                said.retain(|number| !removed.contains(number));
                said.extend(added);
                ever.extend(added);
            }
            Event::Sighted { host, number, here } => {
                let seen = seen.entry(*host).or_default();
                if *here {
                    seen.insert(*number)
                } else {
                    seen.remove(number)
                };
                // A subscriber on the same node is told before the client has said what it did.
                if *here && !ever.contains(number) && !is_said_at(facts, entry.at, *number) {
                    violations.push(violation(
                        "P2",
                        entry.at,
                        format!("{host} sees {number:x}, which nobody has said"),
                    ));
                }
            }
            Event::Shows { host, document, holds } if document == NAME => {
                listed.push((entry.at, *host, holds));
            }
            _ => {}
        }
    }
    if !facts.is_repaired() {
        return violations;
    }
    let live: BTreeSet<u64> = said.into_values().flatten().collect();
    // In a world with presence all that run say whom they list.
    if !ever.is_empty() || !listed.is_empty() {
        let running = facts.processes.iter().filter(|process| process.ready.is_some() && process.ended.is_none());
        for host in running.map(|process| process.host) {
            if listed.iter().all(|(_, other, _)| *other != host) {
                violations.push(violation("P2", facts.history.end(), format!("{host} does not say whom it lists")));
            }
        }
    }
    for (at, host, listed) in listed {
        let holds: BTreeSet<u64> = listed.iter().copied().collect();
        if holds.len() < listed.len() {
            violations.push(violation("P2", at, format!("{host} lists an entry more than once")));
        }
        let mut differs = |what: &str, number: &u64| {
            violations.push(violation("P2", at, format!("{host}: {number:x} {what}")));
        };
        live.difference(&holds).for_each(|number| differs("is live and not listed", number));
        holds.difference(&live).for_each(|number| differs("is listed and not live", number));
        let told = seen.get(&host).cloned().unwrap_or_default();
        holds.symmetric_difference(&told).for_each(|number| differs("is not as its subscriber was told", number));
    }
    violations
}

/// Whether a number is said at this time.
fn is_said_at(facts: &Facts<'_>, at: Duration, number: u64) -> bool {
    let same_time = facts.history.entries.iter().filter(|entry| entry.at == at);
    let mut edits = same_time.filter_map(|entry| match &entry.event {
        Event::Edited { document, added, .. } if document == NAME => Some(added),
        _ => None,
    });
    edits.any(|added| added.contains(&number))
}

/// Who has ended and is still seen when the bound has passed.
fn vanished(facts: &Facts<'_>) -> Vec<Violation> {
    let detection = facts.history.bounds.detection;
    let mut violations = Vec::new();
    for dead in &facts.processes {
        let (Some(_), Some((ended, _))) = (dead.ready, dead.ended) else { continue };
        let Some(calm) = facts.calm_from(ended, detection) else { continue };
        let judged = calm + detection;
        let mut said = BTreeSet::new();
        let mut seen: BTreeMap<Host, BTreeSet<u64>> = BTreeMap::new();
        for entry in facts.history.entries.iter().take_while(|entry| entry.at <= judged) {
            match &entry.event {
                Event::Edited { host, document, added, .. }
                    if document == NAME && *host == dead.host && dead.launched <= entry.at && entry.at <= ended =>
                {
                    said.extend(added);
                }
                Event::Launched { host } => drop(seen.remove(host)),
                Event::Sighted { host, number, here } => {
                    let seen = seen.entry(*host).or_default();
                    if *here {
                        seen.insert(*number)
                    } else {
                        seen.remove(number)
                    };
                }
                _ => {}
            }
        }
        for observer in facts.processes.iter().filter(|process| process.is_ready_throughout(calm, judged)) {
            let still = seen.get(&observer.host).and_then(|seen| seen.intersection(&said).next());
            if let Some(number) = still {
                let text =
                    format!("{} still sees {number:x} of {}, which ended at {ended:?}", observer.host, dead.host);
                violations.push(violation("P2", judged, text));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, start};
    use crate::checker::judged;
    use crate::history::Entry;

    fn said(ms: u64, host: u8, added: &[u64], removed: &[u64]) -> Entry {
        let (added, removed) = (added.to_vec(), removed.to_vec());
        at(ms, Event::Edited { host: Host(host), document: NAME.to_owned(), added, removed })
    }

    fn sighted(ms: u64, host: u8, number: u64, here: bool) -> Entry {
        at(ms, Event::Sighted { host: Host(host), number, here })
    }

    fn shows(host: u8, holds: &[u64]) -> Entry {
        at(120_000, Event::Shows { host: Host(host), document: NAME.to_owned(), holds: holds.to_vec() })
    }

    /// Host 1, while it runs, sees and lists what host 0 does.
    fn judge(middle: Vec<Entry>, holds: &[u64]) -> Vec<String> {
        let hosts = if middle.iter().any(|entry| matches!(entry.event, Event::Crashed { .. })) { 0..1 } else { 0..2 };
        judge_shown(middle, hosts.map(|host| shows(host, holds)).collect())
    }

    fn judge_shown(middle: Vec<Entry>, shown: Vec<Entry>) -> Vec<String> {
        let mut entries = [start(0, 0, 1), start(0, 1, 1)].concat();
        let as_seen_by_the_other = |entry: &Entry| match entry.event {
            Event::Sighted { host: Host(0), number, here } => {
                Some(Entry { at: entry.at, event: Event::Sighted { host: Host(1), number, here } })
            }
            _ => None,
        };
        let mirrored = middle.iter().flat_map(|entry| [Some(entry.clone()), as_seen_by_the_other(entry)]);
        entries.extend(mirrored.flatten());
        entries.extend([at(20_000, Event::Healed), at(20_010, Event::Settled { host: Host(0) })]);
        entries.push(at(120_000, Event::FinalReads));
        entries.extend(shown);
        judged(check, entries).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn what_is_listed_is_what_is_live_and_what_was_told() {
        let middle = || vec![said(10, 1, &[5], &[]), sighted(20, 0, 5, true)];
        assert_eq!(judge(middle(), &[5]), Vec::<String>::new());
        assert!(judge(middle(), &[])[0].ends_with("5 is live and not listed"));
        assert!(judge(middle()[..1].to_vec(), &[5])[0].ends_with("not as its subscriber was told"));
        let gone = || [middle(), vec![said(30, 1, &[], &[5]), sighted(40, 0, 5, false)]].concat();
        assert_eq!(judge(gone(), &[]), Vec::<String>::new());
        assert!(judge(gone(), &[5])[0].ends_with("5 is listed and not live"));
        assert!(
            judge(vec![sighted(20, 0, 7, true), sighted(21, 0, 7, false)], &[])[0].ends_with("which nobody has said")
        );
    }

    #[test]
    fn everybody_lists_each_entry_once() {
        let middle = || vec![said(10, 1, &[5], &[]), sighted(20, 0, 5, true)];
        assert_eq!(judge_shown(middle(), vec![shows(0, &[5]), shows(1, &[5])]), Vec::<String>::new());
        let twice = judge_shown(middle(), vec![shows(0, &[5, 5]), shows(1, &[5])]);
        assert_eq!(twice, ["n0 lists an entry more than once"]);
        assert_eq!(judge_shown(middle(), vec![shows(0, &[5])]), ["n1 does not say whom it lists"]);
    }

    #[test]
    fn the_dead_vanish_within_the_bound() {
        let died = || {
            vec![
                said(10, 1, &[5], &[]),
                sighted(20, 0, 5, true),
                at(30, Event::Crashed { host: Host(1), wiped: false }),
            ]
        };
        let vanish = |ms| [died(), vec![sighted(ms, 0, 5, false)]].concat();
        assert_eq!(judge(vanish(4_000), &[]), Vec::<String>::new());
        assert!(judge(vanish(15_000), &[])[0].contains("n0 still sees 5 of n1"));
    }
}
