//! M1, complete: a process that has ended is Down (or Left, or superseded, or forgotten) at every connected live member
//! within the detection bound.
//!
//! A member is judged if it was ready and alive all the time from the end of the other to the bound, and no link was
//! cut in that time.

use super::{Violation, violation};
use crate::history::{History, view_at};

/// See the [module](self).
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let (processes, views) = (history.processes(), history.views());
    let mut violations = Vec::new();
    for dead in &processes {
        let (Some((_, life)), Some((ended, how))) = (dead.ready, dead.ended) else { continue };
        let judged = ended + history.bounds.detection;
        if judged > history.end() || history.is_cut_between(ended, judged) {
            continue;
        }
        for observer in processes.iter().filter(|process| process.is_ready_throughout(ended, judged)) {
            let view = views.get(&observer.host).and_then(|views| view_at(views, judged));
            let seen = view.and_then(|view| view.get(&dead.host));
            if let Some(seen) = seen.filter(|seen| seen.life == life && seen.standing.is_up()) {
                let (host, standing) = (dead.host, seen.standing);
                let text = format!(
                    "{host} ({how:?} at {:.3} s) is still {standing:?} at {}",
                    ended.as_secs_f64(),
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
    use crate::checker::by_hand;
    use crate::checker::hand::{at, start, view};
    use crate::history::{Event, Host, Standing};

    fn killed(then: Vec<crate::history::Entry>) -> History {
        let mut entries = Vec::new();
        entries.extend(start(0, 0, 1));
        entries.extend(start(0, 1, 1));
        entries.push(view(10, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Alive)]));
        entries.push(at(1000, Event::Crashed { host: Host(1), wiped: false }));
        entries.extend(then);
        entries.push(at(9000, Event::Healed));
        by_hand(entries)
    }

    #[test]
    fn one_that_is_seen_down_in_time_is_good() {
        let seen = view(5000, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Down)]);
        assert!(check(&killed(vec![seen])).is_empty());
    }

    #[test]
    fn one_that_is_never_seen_down_or_too_late_is_bad() {
        assert_eq!(check(&killed(vec![])).len(), 1);
        let late = view(7000, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Down)]);
        assert_eq!(check(&killed(vec![late])).len(), 1);
        let doubted = view(5000, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Suspect)]);
        assert_eq!(check(&killed(vec![doubted])).len(), 1);
    }

    #[test]
    fn a_newer_life_in_its_place_is_good() {
        let mut then = start(2000, 1, 2).to_vec();
        then.push(view(2500, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Alive)]));
        assert!(check(&killed(then)).is_empty());
    }

    #[test]
    fn behind_a_cut_nothing_is_promised() {
        let cut = at(2000, Event::Cut { from: Host(0), to: Host(2) });
        assert!(check(&killed(vec![cut])).is_empty());
    }
}
