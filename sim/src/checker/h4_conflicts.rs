//! H4, no conflict unrecorded: an owner that hears of a greater epoch without having let go writes that into its journal,
//! at once; and nothing is written there that was not so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::tenures::{Said, goes_on, said};
use super::{Facts, Violation, violation};
use crate::history::{Deed, Reign};

/// By then a client that looks at the journal has seen what was written.
const WITHIN: Duration = Duration::from_secs(1);

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let said = said(facts);
    let mut violations = Vec::new();
    // What each process owns, and what it was superseded in without having let go. The journal may be seen before the news.
    let mut owns: BTreeMap<(usize, u32), Reign> = BTreeMap::new();
    let mut lost: BTreeSet<(usize, u32, Reign, Reign)> = BTreeSet::new();
    let mut recorded = Vec::new();
    for now in said.iter().copied() {
        let Said { at, process, host, shard, epoch, deed, .. } = now;
        let is_its_own = owns.get(&(process, shard)) == Some(&epoch);
        match deed {
            Deed::Claimed => drop(owns.insert((process, shard), epoch)),
            Deed::Released(_) if is_its_own => drop(owns.remove(&(process, shard))),
            Deed::Superseded(by) if is_its_own => {
                owns.remove(&(process, shard));
                lost.insert((process, shard, epoch, by));
                let is_it = |other: &Said| {
                    let is_same = (other.process, other.shard, other.epoch) == (process, shard, epoch);
                    is_same && other.deed == Deed::Recorded(by) && other.at <= at + WITHIN
                };
                if goes_on(facts, process, at, WITHIN) && !said.iter().any(is_it) {
                    let text =
                        format!("{host} owned shard {shard} under {epoch} beside {by}, and its journal has nothing");
                    violations.push(violation("H4", at, text));
                }
            }
            Deed::Recorded(by) if epoch.owner == host => recorded.push((now, by)),
            _ => {}
        }
    }
    for (Said { at, process, host, shard, epoch, .. }, by) in recorded {
        // What an earlier life of this node has lost is told by nobody.
        let is_of_this_life = facts.processes[process].ready.is_some_and(|(_, life)| life == epoch.life);
        let is_so = lost.contains(&(process, shard, epoch, by)) || !goes_on(facts, process, at, WITHIN);
        if is_of_this_life && !is_so {
            let text = format!("the journal of {host} has {by} beside {epoch} of shard {shard}, which was not so");
            violations.push(violation("H4", at, text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, life, start};
    use crate::checker::judged;
    use crate::history::{Entry, Event, Host};

    fn reign(counter: u64, host: u8) -> Reign {
        Reign { counter, owner: Host(host), life: life(u64::from(host) + 1) }
    }

    fn did(ms: u64, deed: Deed) -> Entry {
        at(ms, Event::Ownership { host: Host(0), shard: 3, epoch: reign(1, 0), deed })
    }

    fn judge(middle: Vec<Entry>) -> usize {
        let entries = [start(0, 0, 1).to_vec(), middle, vec![at(90_000, Event::Healed)]].concat();
        judged(check, entries).len()
    }

    #[test]
    fn who_is_superseded_without_having_let_go_writes_it_down() {
        let over = || vec![did(10, Deed::Claimed), did(20, Deed::Superseded(reign(2, 1)))];
        assert_eq!(judge([over(), vec![did(20, Deed::Recorded(reign(2, 1)))]].concat()), 0);
        assert_eq!(judge(over()), 1);
        assert_eq!(judge([over(), vec![did(20, Deed::Recorded(reign(3, 1)))]].concat()), 2, "another conflict");
        assert_eq!(judge([over(), vec![did(9_000, Deed::Recorded(reign(2, 1)))]].concat()), 1, "too late");
        let dies = at(30, Event::Crashed { host: Host(0), wiped: false });
        assert_eq!(judge([over(), vec![dies]].concat()), 0, "who dies at once writes nothing");
    }

    #[test]
    fn what_was_let_go_is_no_conflict() {
        let handed_over = || vec![did(10, Deed::Claimed), did(20, Deed::Released(Host(1)))];
        assert_eq!(judge(handed_over()), 0);
        assert_eq!(judge([handed_over(), vec![did(30, Deed::Recorded(reign(2, 1)))]].concat()), 1);
    }
}
