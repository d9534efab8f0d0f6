//! M3, convergent: after the heal all live members hold the same member list.
//!
//! 1. From the bound on to the end, in which nothing fails, everyone's list shows as up exactly the live members, each in
//!    its newest life.
//! 2. In the end the lists are equal: they also agree on who is down, who has left, and how often each has come back. Whether
//!    one that is up is doubted for a moment may differ. Only whom some have forgotten already may be missing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Facts, Violation, violation};
use crate::history::{Event, History, Host, Life, MemberList, Seen, Standing};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let history = facts.history;
    let Some(healed) = history.healed() else { return Vec::new() };
    let live: BTreeMap<Host, Option<Life>> = facts
        .processes
        .iter()
        .filter(|process| process.ended.is_none())
        .map(|process| (process.host, process.ready.map(|(_, life)| life)))
        .collect();
    let judged = (healed + history.bounds.convergence).min(history.end());
    let mut violations = Vec::new();
    for host in live.keys() {
        if let Some((at, list)) = differs(history, *host, &live, judged) {
            let text = format!("{host} lists {list:?}, where these live: {live:?}");
            violations.push(violation("M3", at, text));
        }
    }
    // Of lists that are wrong anyway it need not be said how they differ.
    if violations.is_empty() {
        violations.extend(disagree(history, &live));
    }
    violations
}

/// When, at or after `from`, a host's list was not what it should be, and what it was.
fn differs(
    history: &History,
    host: Host,
    live: &BTreeMap<Host, Option<Life>>,
    from: Duration,
) -> Option<(Duration, MemberList)> {
    let empty = MemberList::new();
    let mut last = &empty;
    let is_right = |list: &MemberList| {
        let up = list.iter().filter(|(_, seen)| seen.standing.is_up()).map(|(host, seen)| (*host, Some(seen.life)));
        up.eq(live.iter().map(|(host, life)| (*host, *life)))
    };
    for entry in &history.entries {
        if let Event::View { host: observer, members } = &entry.event
            && *observer == host
        {
            if entry.at > from && !is_right(last) {
                return Some((from, last.clone()));
            }
            last = members;
            if entry.at > from && !is_right(last) {
                return Some((entry.at, last.clone()));
            }
        }
    }
    (!is_right(last)).then(|| (from, last.clone()))
}

/// Two live members whose lists differ in the end.
fn disagree(history: &History, live: &BTreeMap<Host, Option<Life>>) -> Option<Violation> {
    let known = |seen: &Seen| {
        let standing = if seen.standing.is_up() { Standing::Alive } else { seen.standing };
        Seen { standing, ..*seen }
    };
    let mut agreed: BTreeMap<Host, (Host, Seen)> = BTreeMap::new();
    for (observer, views) in history.views() {
        let Some((_, list)) = views.last().filter(|_| live.contains_key(&observer)) else { continue };
        for (host, seen) in list.iter().map(|(host, seen)| (*host, known(seen))) {
            let (first, first_seen) = *agreed.entry(host).or_insert((observer, seen));
            if first_seen != seen {
                let text = format!("in the end {host} is {first_seen:?} at {first}, and {seen:?} at {observer}");
                return Some(violation("M3", history.end(), text));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, start, view};
    use crate::checker::judged;
    use crate::history::Entry;

    fn healed(views: Vec<Entry>) -> Vec<Violation> {
        let mut entries = Vec::new();
        entries.extend(start(0, 0, 1));
        entries.extend(start(0, 1, 2));
        entries.push(at(1000, Event::Healed));
        entries.extend(views);
        entries.push(at(20_000, Event::FinalReads));
        judged(check, entries)
    }

    const BOTH: [(u8, u64, Standing); 2] = [(0, 1, Standing::Alive), (1, 2, Standing::Suspect)];

    #[test]
    fn equal_lists_are_good() {
        assert!(healed(vec![view(2000, 0, &BOTH), view(9000, 1, &BOTH)]).is_empty());
        let alive = [(0, 1, Standing::Suspect), (1, 2, Standing::Alive)];
        assert!(healed(vec![view(2000, 0, &BOTH), view(9000, 1, &alive)]).is_empty(), "doubts pass");
    }

    #[test]
    fn one_that_misses_a_member_or_lists_an_old_life_or_a_dead_one_is_bad() {
        let bad: [&[(u8, u64, Standing)]; 4] = [
            &[(0, 1, Standing::Alive)],
            &[(0, 1, Standing::Alive), (1, 1, Standing::Alive)],
            &[(0, 1, Standing::Alive), (1, 2, Standing::Down)],
            &[(0, 1, Standing::Alive), (1, 2, Standing::Alive), (2, 1, Standing::Alive)],
        ];
        for list in bad {
            assert_eq!(healed(vec![view(2000, 0, list), view(2000, 1, &BOTH)]).len(), 1, "{list:?}");
        }
        assert_eq!(healed(vec![view(2000, 0, &BOTH)]).len(), 1, "host 1 sees nobody");
    }

    #[test]
    fn agreement_that_comes_late_or_goes_again_is_bad() {
        assert_eq!(healed(vec![view(2000, 0, &BOTH), view(19_000, 1, &BOTH)]).len(), 1);
        let lost = view(18_000, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Down)]);
        let again = view(18_100, 0, &BOTH);
        assert_eq!(healed(vec![view(2000, 0, &BOTH), view(2000, 1, &BOTH), lost, again]).len(), 1);
    }

    #[test]
    fn lists_that_differ_in_who_is_down_or_how_often_one_came_back_are_bad() {
        let third = |standing| [BOTH[0], BOTH[1], (2, 1, standing)];
        let lists = |a: &[_], b: &[_]| healed(vec![view(2000, 0, a), view(2000, 1, b)]).len();
        assert_eq!(lists(&third(Standing::Down), &third(Standing::Down)), 0);
        assert_eq!(lists(&third(Standing::Down), &third(Standing::Left)), 1);
        assert_eq!(lists(&third(Standing::Down), &BOTH), 0, "one has forgotten it");
        let mut again = view(2000, 1, &BOTH);
        if let Event::View { members, .. } = &mut again.event {
            members.values_mut().for_each(|seen| seen.rejoin = 1);
        }
        assert_eq!(healed(vec![view(2000, 0, &BOTH), again]).len(), 1);
    }
}
