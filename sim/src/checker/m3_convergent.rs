//! M3, convergent: from the bound after the heal on, all live members hold the same member list: exactly the live
//! members, each in its newest life, as up.
//!
//! Judged from the bound to the end of the history, in which nothing fails.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Violation, violation};
use crate::history::{Event, History, Host, Life, MemberList};

/// See the [module](self).
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let Some(healed) = history.healed() else { return Vec::new() };
    let live: BTreeMap<Host, Option<Life>> = history
        .processes()
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
    violations
}

/// When, at or after `from`, a host's list was not what it should be, and what it was.
fn differs(
    history: &History,
    host: Host,
    live: &BTreeMap<Host, Option<Life>>,
    from: Duration,
) -> Option<(Duration, MemberList)> {
    let mut last = MemberList::new();
    let is_right = |list: &MemberList| {
        let up = list.iter().filter(|(_, seen)| seen.standing.is_up());
        up.map(|(host, seen)| (*host, Some(seen.life))).eq(live.clone())
    };
    for entry in &history.entries {
        if let Event::View { host: observer, members } = &entry.event
            && *observer == host
        {
            if entry.at > from && !is_right(&last) {
                return Some((from, last));
            }
            last.clone_from(members);
            if entry.at > from && !is_right(&last) {
                return Some((entry.at, last));
            }
        }
    }
    (!is_right(&last)).then_some((from, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{at, start, view};
    use crate::history::{Entry, Standing};

    fn healed(views: Vec<Entry>) -> History {
        let mut entries = Vec::new();
        entries.extend(start(0, 0, 1));
        entries.extend(start(0, 1, 2));
        entries.push(at(1000, Event::Healed));
        entries.extend(views);
        entries.push(at(20_000, Event::FinalReads));
        by_hand(entries)
    }

    const BOTH: [(u8, u64, Standing); 2] = [(0, 1, Standing::Alive), (1, 2, Standing::Suspect)];

    #[test]
    fn equal_lists_are_good() {
        assert!(check(&healed(vec![view(2000, 0, &BOTH), view(9000, 1, &BOTH)])).is_empty());
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
            assert_eq!(check(&healed(vec![view(2000, 0, list), view(2000, 1, &BOTH)])).len(), 1, "{list:?}");
        }
        assert_eq!(check(&healed(vec![view(2000, 0, &BOTH)])).len(), 1, "host 1 sees nobody");
    }

    #[test]
    fn agreement_that_comes_late_or_goes_again_is_bad() {
        assert_eq!(check(&healed(vec![view(2000, 0, &BOTH), view(19_000, 1, &BOTH)])).len(), 1);
        let lost = view(18_000, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Down)]);
        let again = view(18_100, 0, &BOTH);
        assert_eq!(check(&healed(vec![view(2000, 0, &BOTH), view(2000, 1, &BOTH), lost, again])).len(), 1);
    }
}
