//! M4, identity: a boot is one life of a process and is never reused; a process keeps its boot through all rejoins; a
//! name that was restarted comes back at once.
//!
//! 1. The boots of a host only grow, from process to process.
//! 2. Nobody lists a boot that no process of that host ever had.
//! 3. A node never takes a host's older boot for its newest again.
//! 4. No process is told that a newer one has its name while it is the newest.
//! 5. A restarted node is listed as up by every member that is ready and alive from its launch to the comeback bound,
//!    if it lives that long and no link is cut in that time.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, violation};
use crate::history::{Event, History, Host, Life, Process};

/// See the [module](self).
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let processes = history.processes();
    let mut violations = boots_grow(&processes);
    violations.extend(lists_are_true(history, &processes));
    violations.extend(the_newest_stays(history, &processes));
    violations.extend(comes_back(history, &processes));
    violations
}

fn boots_grow(processes: &[Process]) -> Vec<Violation> {
    let mut newest: BTreeMap<Host, Life> = BTreeMap::new();
    let mut violations = Vec::new();
    for process in processes {
        let Some((at, life)) = process.ready else { continue };
        if let Some(before) = newest.insert(process.host, life)
            && before >= life
        {
            let text = format!("{} started as {life:?} after it had been {before:?}", process.host);
            violations.push(violation("M4", at, text));
        }
    }
    violations
}

fn lists_are_true(history: &History, processes: &[Process]) -> Vec<Violation> {
    let mut lives: BTreeSet<(Host, Life)> = BTreeSet::new();
    // A process that died before it had started may have been seen; what its boot was, the history does not know.
    let mut unknown: BTreeSet<Host> = BTreeSet::new();
    for process in processes {
        match process.ready {
            Some((_, life)) => drop(lives.insert((process.host, life))),
            None => drop(unknown.insert(process.host)),
        }
    }
    let mut newest: BTreeMap<(Host, Host), Life> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in &history.entries {
        match &entry.event {
            Event::Launched { host } => newest.retain(|(observer, _), _| observer != host),
            Event::View { host: observer, members } => {
                for (host, seen) in members {
                    if !lives.contains(&(*host, seen.life)) && !unknown.contains(host) {
                        let text = format!("{observer} lists {host} as {:?}, which it never was", seen.life);
                        violations.push(violation("M4", entry.at, text));
                    }
                    let before = newest.entry((*observer, *host)).or_insert(seen.life);
                    if *before > seen.life {
                        let text = format!("{observer} lists {host} as {:?} after {before:?}", seen.life);
                        violations.push(violation("M4", entry.at, text));
                    }
                    *before = seen.life;
                }
            }
            _ => {}
        }
    }
    violations
}

fn the_newest_stays(history: &History, processes: &[Process]) -> Vec<Violation> {
    let told = history.entries.iter().filter_map(|entry| match entry.event {
        Event::Stopped { host, superseded: true } => Some((entry.at, host)),
        _ => None,
    });
    let is_newest =
        |(at, host): &(_, Host)| !processes.iter().any(|process| process.host == *host && process.launched > *at);
    // Processes of a host live one after the other here, so whoever is running is the newest.
    told.filter(is_newest)
        .map(|(at, host)| violation("M4", at, format!("{host} was told that a newer process has its name")))
        .collect()
}

fn comes_back(history: &History, processes: &[Process]) -> Vec<Violation> {
    let mut started: BTreeSet<Host> = BTreeSet::new();
    let views = history.views();
    let mut violations = Vec::new();
    for process in processes {
        let (from, to) = (process.launched, process.launched + history.bounds.comeback);
        let judged = !started.insert(process.host)
            && to <= history.end()
            && process.ended.is_none_or(|(ended, _)| ended > to)
            && !history.is_cut_between(from, to);
        if !judged {
            continue;
        }
        let others = processes.iter().filter(|observer| observer.host != process.host);
        for observer in others.filter(|observer| observer.is_ready_throughout(from, to)) {
            let views = views.get(&observer.host).map_or(&[][..], Vec::as_slice);
            let is_there = views.iter().any(|(at, list)| {
                let seen = list.get(&process.host).filter(|seen| seen.standing.is_up());
                *at >= from
                    && *at <= to
                    && seen.is_some_and(|seen| process.ready.is_some_and(|(_, life)| life == seen.life))
            });
            if !is_there {
                let text = format!(
                    "{}, restarted at {:.3} s, is not back at {}",
                    process.host,
                    from.as_secs_f64(),
                    observer.host
                );
                violations.push(violation("M4", to, text));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{at, start, view};
    use crate::history::{Entry, Standing};

    /// Host 1 restarts at 2 s, and host 0 sees it by the given views. The run lasts 20 s.
    fn restarted(generation: u64, views: Vec<Entry>) -> History {
        let mut entries = Vec::new();
        entries.extend(start(0, 0, 1));
        entries.extend(start(0, 1, 1));
        entries.push(view(10, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Alive)]));
        entries.push(at(1000, Event::Crashed { host: Host(1), wiped: false }));
        entries.extend(start(2000, 1, generation));
        entries.extend(views);
        entries.push(at(20_000, Event::Healed));
        by_hand(entries)
    }

    fn back(ms: u64, generation: u64) -> Entry {
        view(ms, 0, &[(0, 1, Standing::Alive), (1, generation, Standing::Alive)])
    }

    #[test]
    fn a_newer_boot_that_is_back_at_once_is_good() {
        assert_eq!(check(&restarted(2, vec![back(2500, 2)])), []);
    }

    #[test]
    fn a_boot_that_is_used_twice_or_shrinks_is_bad() {
        assert!(!check(&restarted(1, vec![back(2500, 1)])).is_empty());
        assert!(!check(&restarted(0, vec![back(2500, 0)])).is_empty());
    }

    #[test]
    fn a_boot_that_nobody_had_is_bad() {
        assert_eq!(check(&restarted(2, vec![back(2500, 2), back(3000, 3)])).len(), 1);
    }

    #[test]
    fn going_back_to_an_older_boot_is_bad() {
        assert_eq!(check(&restarted(2, vec![back(2500, 2), back(3000, 1)])).len(), 1);
    }

    #[test]
    fn one_that_comes_back_late_or_never_is_bad() {
        assert_eq!(check(&restarted(2, vec![])).len(), 1);
        assert_eq!(check(&restarted(2, vec![back(9000, 2)])).len(), 1);
        let down = view(2500, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Down)]);
        assert_eq!(check(&restarted(2, vec![down])).len(), 1);
    }

    #[test]
    fn the_newest_process_must_not_be_sent_away() {
        let stopped = at(3000, Event::Stopped { host: Host(1), superseded: true });
        assert_eq!(check(&restarted(2, vec![back(2500, 2), stopped])).len(), 1);
    }
}
