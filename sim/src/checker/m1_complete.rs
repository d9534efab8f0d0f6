//! M1, complete: a process that has ended is Down (or Left, or superseded, or forgotten) at every connected live member
//! within the detection bound.
//!
//! While something disturbs what members see of each other, nothing is promised about how soon. So the bound begins when
//! the process has ended, or when the last disturbance has that would fall into it. A member is judged if it was ready
//! and alive from then to the bound; and so is one that became a member meanwhile, because nobody may tell it that the dead
//! one lives.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{Host, view_at};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let views = facts.history.views();
    let detection = facts.history.bounds.detection;
    let mut violations = Vec::new();
    // A newer process of the host ends the matter.
    let mut next: BTreeMap<Host, _> = BTreeMap::new();
    for dead in facts.processes.iter().rev() {
        let until = next.insert(dead.host, dead.launched);
        let (Some((_, life)), Some((ended, how))) = (dead.ready, dead.ended) else { continue };
        let Some(calm) = facts.calm_from(ended, detection) else { continue };
        let judged = calm + detection;
        if until.is_some_and(|launched| launched + detection <= judged) {
            continue;
        }
        for observer in facts.processes.iter().filter(|process| process.is_ready_throughout(calm, judged)) {
            let view = views.get(&observer.host).and_then(|views| view_at(views, judged));
            let seen = view.and_then(|view| view.get(&dead.host));
            if let Some(seen) = seen.filter(|seen| seen.life == life && seen.standing.is_up()) {
                let text = format!(
                    "{} ({how:?} at {:.3} s) is still {:?} at {}",
                    dead.host,
                    ended.as_secs_f64(),
                    seen.standing,
                    observer.host
                );
                violations.push(violation("M1", judged, text));
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
    use crate::history::{Entry, Event, Standing};

    fn killed(then: Vec<Entry>) -> Vec<Violation> {
        let mut entries = Vec::new();
        entries.extend(start(0, 0, 1));
        entries.extend(start(0, 1, 1));
        entries.push(view(10, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Alive)]));
        entries.push(at(1000, Event::Crashed { host: Host(1), wiped: false }));
        entries.extend(then);
        entries.push(at(12_000, Event::Healed));
        judged(check, entries)
    }

    #[test]
    fn one_that_is_seen_down_in_time_is_good() {
        let seen = view(5000, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Down)]);
        assert!(killed(vec![seen]).is_empty());
    }

    #[test]
    fn one_that_is_never_seen_down_or_too_late_is_bad() {
        assert_eq!(killed(vec![]).len(), 1);
        let late = view(7000, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Down)]);
        assert_eq!(killed(vec![late]).len(), 1);
        let doubted = view(5000, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Suspect)]);
        assert_eq!(killed(vec![doubted]).len(), 1);
    }

    #[test]
    fn a_newer_life_in_its_place_is_good() {
        let mut then = start(2000, 1, 2).to_vec();
        then.push(view(2500, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Alive)]));
        assert!(killed(then).is_empty());
    }

    #[test]
    fn behind_a_cut_nothing_is_promised_and_the_bound_begins_when_it_is_gone() {
        let (class, what) = ("partition".to_owned(), String::new());
        let cut = at(2000, Event::Began { fault: 0, class, what, disturbs: true, hosts: Vec::new() });
        assert!(killed(vec![cut.clone()]).is_empty());
        let gone = at(3000, Event::Ended { fault: 0 });
        assert_eq!(killed(vec![cut.clone(), gone.clone()]).len(), 1);
        let seen = view(7500, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Down)]);
        assert!(killed(vec![cut, gone, seen]).is_empty());
    }
}
