//! M4, identity: a boot is one life of a process and is never reused; a process keeps its boot through all rejoins; a
//! name that was restarted comes back at once.
//!
//! 1. No boot of a host is used twice, and they grow from process to process. Only one that founds a cluster apart from
//!    the other may not know what its host was before; or one that was let in by a member that had not seen the newest.
//! 2. Nobody lists a boot that no process of that host ever had. While a process starts it may have several, and be
//!    ready with the last: what is first seen meanwhile may be one of them.
//! 3. A node never takes a host's older boot for its newest again; nor, of one boot, an older rejoin; and what it has once
//!    taken for down comes back under the next rejoin only. So a restart is seen as down and then up, or as the newer
//!    boot in the place of the older.
//! 4. No process is told that a newer one has its name while it is the newest.
//! 5. A restarted node is listed as up by every member that is ready and alive from its launch to the comeback bound,
//!    if it lives that long. What disturbs the members puts off the bound, as for M1.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host, Life, Seen, view_at};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = boots_grow(facts);
    violations.extend(lists_are_true(facts));
    violations.extend(the_newest_stays(facts));
    violations.extend(comes_back(facts));
    violations
}

fn boots_grow(facts: &Facts<'_>) -> Vec<Violation> {
    let mut lives: BTreeMap<Host, BTreeSet<Life>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, process) in facts.processes.iter().enumerate() {
        let Some((at, life)) = process.ready else { continue };
        let before = lives.entry(process.host).or_default();
        let is_newest = before.last().is_none_or(|newest| *newest < life);
        let may_not_know =
            || facts.founders.contains(&index) || !was_let_in_by_one_that_knew(facts, process.host, (at, life), before);
        if before.contains(&life) || !(is_newest || may_not_know()) {
            let text = format!("{} started as {life:?} after it had been {before:?}", process.host);
            violations.push(violation("M4", at, text));
        }
        before.insert(life);
    }
    violations
}

/// Whether all those that a process lists as up when it is ready have listed a boot of its host that is newer than its own: then
/// whoever let it in had. Or it cannot be said whom it had met.
fn was_let_in_by_one_that_knew(
    facts: &Facts<'_>,
    host: Host,
    (ready, life): (Duration, Life),
    before: &BTreeSet<Life>,
) -> bool {
    let mut knew: BTreeSet<Host> = BTreeSet::new();
    for entry in &facts.history.entries {
        match &entry.event {
            Event::Launched { host: observer } => drop(knew.remove(observer)),
            Event::View { host: observer, members } if *observer == host && entry.at >= ready => {
                let mut others =
                    members.iter().filter(|(other, seen)| **other != host && seen.standing.is_up()).peekable();
                return others.peek().is_some() && others.all(|(other, _)| knew.contains(other));
            }
            Event::View { host: observer, members } => {
                let is_newer = |seen: &Seen| seen.life > life && before.contains(&seen.life);
                if members.iter().any(|(other, seen)| *other == host && is_newer(seen)) {
                    knew.insert(*observer);
                }
            }
            _ => {}
        }
    }
    true
}

fn lists_are_true(facts: &Facts<'_>) -> Vec<Violation> {
    let mut lives: BTreeSet<(Host, Life)> = BTreeSet::new();
    // A process that died before it had started may have been seen; what its boot was, the history does not know.
    let mut unknown: BTreeSet<Host> = BTreeSet::new();
    let mut starts: BTreeMap<Host, Vec<(Duration, Duration)>> = BTreeMap::new();
    for process in &facts.processes {
        match process.ready {
            Some((ready, life)) => {
                lives.insert((process.host, life));
                starts.entry(process.host).or_default().push((process.launched, ready));
            }
            None => drop(unknown.insert(process.host)),
        }
    }
    let starts = |host: &Host, at: Duration| {
        starts.get(host).into_iter().flatten().any(|(from, to)| (*from..=*to).contains(&at))
    };
    let mut newest: BTreeMap<(Host, Host), Seen> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in &facts.history.entries {
        match &entry.event {
            Event::Launched { host } => newest.retain(|(observer, _), _| observer != host),
            // Whom strangers see is M5's.
            Event::View { host: observer, members } if !observer.is_stranger() => {
                for (host, seen) in members.iter().filter(|(host, _)| !host.is_stranger()) {
                    let is_known = unknown.contains(host) || lives.contains(&(*host, seen.life));
                    if !is_known && starts(host, entry.at) {
                        lives.insert((*host, seen.life));
                    } else if !is_known {
                        let text = format!("{observer} lists {host} as {:?}, which it never was", seen.life);
                        violations.push(violation("M4", entry.at, text));
                    }
                    let before = newest.insert((*observer, *host), *seen).unwrap_or(*seen);
                    let came_back = seen.standing.is_up() && !before.standing.is_up();
                    let (is, was) = ((seen.life, seen.rejoin), (before.life, before.rejoin));
                    if is < was || (is == was && came_back) {
                        let text = format!("{observer} lists {host} as {seen:?} after {before:?}");
                        violations.push(violation("M4", entry.at, text));
                    }
                }
            }
            _ => {}
        }
    }
    violations
}

fn the_newest_stays(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    // The newest boot of each host that anybody has listed: a process may have been seen and have died before it was ready.
    let mut newest: BTreeMap<Host, Life> = BTreeMap::new();
    for entry in &facts.history.entries {
        if let Event::View { host: observer, members } = &entry.event
            && !observer.is_stranger()
        {
            for (host, seen) in members {
                newest.entry(*host).and_modify(|life| *life = seen.life.max(*life)).or_insert(seen.life);
            }
        }
        let Event::Stopped { host, superseded: true } = entry.event else { continue };
        // Processes of a host live one after the other here, so whoever is running is the newest; but for one that could
        // not know what its host was before, and chose a boot that is older.
        let until = facts.processes.iter().filter(|process| process.host == host && process.launched <= entry.at);
        let mut lives = until.rev().map(|process| process.ready.map(|(_, life)| life));
        let own = lives.next().flatten();
        if lives.chain([newest.get(&host).copied()]).all(|other| other <= own) {
            violations.push(violation("M4", entry.at, format!("{host} was told that a newer process has its name")));
        }
    }
    violations
}

fn comes_back(facts: &Facts<'_>) -> Vec<Violation> {
    let mut started: BTreeSet<Host> = BTreeSet::new();
    let views = facts.history.views();
    let comeback = facts.history.bounds.comeback;
    let mut violations = Vec::new();
    for process in &facts.processes {
        if started.insert(process.host) {
            continue;
        }
        let Some(from) = facts.calm_from(process.launched, comeback) else { continue };
        let to = from + comeback;
        if process.ended.is_some_and(|(ended, _)| ended <= to) {
            continue;
        }
        let others = facts.processes.iter().filter(|observer| observer.host != process.host);
        for observer in others.filter(|observer| observer.is_ready_throughout(from, to)) {
            let views = views.get(&observer.host).map_or(&[][..], Vec::as_slice);
            let is_back =
                |seen: &&Seen| seen.standing.is_up() && process.ready.is_some_and(|(_, life)| life == seen.life);
            let now = view_at(views, from);
            let then = views.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, list)| *list);
            if !now.into_iter().chain(then).any(|list| list.get(&process.host).filter(is_back).is_some()) {
                let launched = process.launched.as_secs_f64();
                let text = format!("{}, restarted at {launched:.3} s, is not back at {}", process.host, observer.host);
                violations.push(violation("M4", to, text));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, start, view};
    use crate::checker::judged;
    use crate::history::{Entry, Standing};

    /// Host 1 restarts at 2 s, and host 0 sees it by the given views. The run lasts 20 s.
    fn restarted(generation: u64, views: Vec<Entry>) -> Vec<Violation> {
        let mut entries = Vec::new();
        entries.extend(start(0, 0, 1));
        entries.extend(start(0, 1, 1));
        entries.push(view(10, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Alive)]));
        entries.push(at(1000, Event::Crashed { host: Host(1), wiped: false }));
        entries.extend(start(2000, 1, generation));
        entries.extend(views);
        entries.push(at(20_000, Event::Healed));
        judged(check, entries)
    }

    fn back(ms: u64, generation: u64) -> Entry {
        view(ms, 0, &[(0, 1, Standing::Alive), (1, generation, Standing::Alive)])
    }

    #[test]
    fn a_newer_boot_that_is_back_at_once_is_good() {
        assert_eq!(restarted(2, vec![back(2500, 2)]), []);
    }

    #[test]
    fn a_boot_that_is_used_twice_or_shrinks_is_bad() {
        assert!(!restarted(1, vec![back(2500, 1)]).is_empty());
        assert!(!restarted(0, vec![back(2500, 0)]).is_empty());
    }

    #[test]
    fn a_boot_that_shrinks_is_good_if_one_that_may_have_let_it_in_did_not_know_the_newer() {
        // Host 0 has seen boot 3 of host 1, and host 2 has seen boot 1 only.
        let again = |met: &[(u8, u64, Standing)]| {
            let mut entries = [start(0, 0, 1), start(0, 2, 1), start(0, 1, 1)].concat();
            let all = [(0, 1, Standing::Alive), (1, 1, Standing::Alive), (2, 1, Standing::Alive)];
            entries.extend([view(10, 0, &all), view(10, 2, &all)]);
            entries.push(at(100, Event::Crashed { host: Host(1), wiped: false }));
            entries.extend(start(200, 1, 3));
            entries.push(view(210, 0, &[(0, 1, Standing::Alive), (1, 3, Standing::Alive)]));
            entries.push(at(300, Event::Crashed { host: Host(1), wiped: false }));
            entries.extend(start(400, 1, 2));
            entries.push(view(400, 1, met));
            judged(boots_grow, entries).len()
        };
        let (own, known, unknown) = ((1, 2, Standing::Alive), (0, 1, Standing::Alive), (2, 1, Standing::Alive));
        assert_eq!([again(&[own]), again(&[own, unknown]), again(&[own, unknown, known])], [0, 0, 0]);
        assert_eq!(again(&[own, known]), 1);
    }

    #[test]
    fn a_boot_that_nobody_had_is_bad() {
        assert_eq!(restarted(2, vec![back(2500, 2), back(3000, 3)]).len(), 1);
    }

    #[test]
    fn a_boot_that_was_tried_before_the_last_is_good_if_it_was_seen_then() {
        let tried = |seen_ms, ready_ms| {
            let ready = at(ready_ms, Event::Ready { host: Host(2), life: crate::checker::hand::life(3) });
            let launched = at(2050, Event::Launched { host: Host(2) });
            let mut views = vec![back(2055, 2), launched];
            let seen = view(seen_ms, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Alive), (2, 2, Standing::Alive)]);
            let now = view(9000, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Alive), (2, 3, Standing::Alive)]);
            views.extend(if seen_ms < ready_ms { [seen, ready] } else { [ready, seen] });
            views.push(now);
            restarted(2, views).len()
        };
        assert_eq!([tried(2100, 2300), tried(2300, 2100)], [0, 1]);
    }

    #[test]
    fn going_back_to_an_older_boot_is_bad() {
        assert_eq!(restarted(2, vec![back(2500, 2), back(3000, 1)]).len(), 1);
    }

    #[test]
    fn one_that_comes_back_late_or_never_is_bad() {
        assert_eq!(restarted(2, vec![]).len(), 1);
        assert_eq!(restarted(2, vec![back(9000, 2)]).len(), 1);
        let down = view(2500, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Down)]);
        assert_eq!(restarted(2, vec![down]).len(), 1);
    }

    #[test]
    fn one_that_founds_a_cluster_apart_may_choose_a_smaller_boot_and_is_sent_away_for_it() {
        let apart = |generation| view(2100, 1, &[(1, generation, Standing::Alive), (2, 1, Standing::Alive)]);
        let launched = at(2050, Event::Launched { host: Host(2) });
        let stopped = at(3000, Event::Stopped { host: Host(1), superseded: true });
        assert_eq!(restarted(0, vec![launched.clone(), apart(0), stopped]), []);
        assert!(!restarted(1, vec![launched, apart(1), back(2500, 1)]).is_empty(), "a boot is never used twice");
        let alone = view(2100, 1, &[(1, 0, Standing::Alive)]);
        assert!(!restarted(0, vec![alone, back(2500, 0)]).is_empty(), "alone it founds nothing");
    }

    #[test]
    fn what_was_down_comes_back_under_the_next_rejoin_only() {
        let rejoined = |rejoin| {
            let mut back = back(4000, 2);
            if let Event::View { members, .. } = &mut back.event {
                members.get_mut(&Host(1)).expect("it is listed").rejoin = rejoin;
            }
            let down = view(3000, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Down)]);
            restarted(2, vec![super::tests::back(2500, 2), down, back]).len()
        };
        assert_eq!([rejoined(0), rejoined(1)], [1, 0]);
    }

    #[test]
    fn the_bound_of_a_comeback_begins_when_nothing_disturbs_any_more() {
        let (class, what) = ("partition".to_owned(), String::new());
        let began = at(2100, Event::Began { fault: 0, class, what, disturbs: true, hosts: Vec::new() });
        let ended = at(9000, Event::Ended { fault: 0 });
        assert_eq!(restarted(2, vec![began.clone(), ended.clone()]).len(), 1);
        assert_eq!(restarted(2, vec![began.clone(), ended, back(12_000, 2)]), []);
        assert_eq!(restarted(2, vec![began]), []);
    }

    #[test]
    fn the_newest_process_must_not_be_sent_away() {
        let stopped = at(3000, Event::Stopped { host: Host(1), superseded: true });
        assert_eq!(restarted(2, vec![back(2500, 2), stopped.clone()]).len(), 1);
        let again = [vec![back(2500, 2), stopped], start(4000, 1, 3).to_vec(), vec![back(4500, 3)]].concat();
        assert_eq!(restarted(2, again).len(), 1, "whatever runs there later");
    }

    #[test]
    fn one_may_be_sent_away_for_a_newer_one_that_was_seen_and_never_ready() {
        let seen = |generation| {
            let mut entries = [start(0, 0, 1), start(0, 1, 1)].concat();
            entries.push(at(100, Event::Crashed { host: Host(1), wiped: false }));
            entries.extend([at(200, Event::Launched { host: Host(1) }), back(210, generation)]);
            entries.push(at(300, Event::Crashed { host: Host(1), wiped: false }));
            entries.extend(start(400, 1, 3));
            entries.push(at(500, Event::Stopped { host: Host(1), superseded: true }));
            judged(the_newest_stays, entries).len()
        };
        assert_eq!([seen(7), seen(2)], [0, 1]);
    }
}
