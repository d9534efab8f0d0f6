//! H5, handoff: an owner lets go only after the next one has what belongs to the shard, and a handoff that does not go on
//! is reported.

use std::collections::BTreeSet;
use std::time::Duration;

use super::tenures::{Said, goes_on, said};
use super::{Facts, Violation, violation};
use crate::history::{Deed, Host, Reign};

/// By then what a node reports has reached its clients.
const WITHIN: Duration = Duration::from_secs(1);

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let said = said(facts);
    let mut violations = Vec::new();
    let mut installed: BTreeSet<(Host, u32, Reign)> = BTreeSet::new();
    for now in said.iter().copied() {
        let Said { at, process, host, shard, epoch, deed, .. } = now;
        match deed {
            Deed::Installed => drop(installed.insert((host, shard, epoch))),
            Deed::Released(to) if !installed.contains(&(to, shard, epoch)) => {
                let text = format!("{host} lets shard {shard} under {epoch} go, and {to} has not what belongs to it");
                violations.push(violation("H5", at, text));
            }
            Deed::Stuck => {
                let is_it = |other: &Said| {
                    let is_same = (other.process, other.shard, other.epoch) == (process, shard, epoch);
                    is_same && other.deed == Deed::Alarmed && other.at <= at + WITHIN
                };
                if goes_on(facts, process, at, WITHIN) && !said.iter().any(is_it) {
                    let text =
                        format!("{host} does not report that the handoff of shard {shard} under {epoch} is stuck");
                    violations.push(violation("H5", at, text));
                }
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, life, start};
    use crate::checker::judged;
    use crate::history::{Entry, Event};

    fn did(ms: u64, host: u8, deed: Deed) -> Entry {
        let epoch = Reign { counter: 1, owner: Host(0), life: life(1) };
        at(ms, Event::Ownership { host: Host(host), shard: 3, epoch, deed })
    }

    fn judge(middle: Vec<Entry>) -> usize {
        let starts = [start(0, 0, 1), start(0, 1, 2)].concat();
        judged(check, [starts, middle, vec![at(90_000, Event::Healed)]].concat()).len()
    }

    #[test]
    fn nobody_lets_go_before_the_next_has_it() {
        let go = || did(20, 0, Deed::Released(Host(1)));
        assert_eq!(judge(vec![did(10, 1, Deed::Installed), go()]), 0);
        assert_eq!(judge(vec![go(), did(30, 1, Deed::Installed)]), 1);
        assert_eq!(judge(vec![did(10, 2, Deed::Installed), go()]), 1, "of another");
    }

    #[test]
    fn what_is_stuck_is_reported() {
        let stuck = || did(10, 0, Deed::Stuck);
        assert_eq!(judge(vec![stuck(), did(500, 0, Deed::Alarmed)]), 0);
        assert_eq!(judge(vec![did(5, 0, Deed::Alarmed), stuck()]), 0);
        assert_eq!(judge(vec![stuck()]), 1);
        assert_eq!(judge(vec![stuck(), did(5_000, 0, Deed::Alarmed)]), 1, "too late");
    }
}
