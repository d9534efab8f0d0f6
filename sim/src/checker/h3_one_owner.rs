//! H3, one owner: what a node knows of epochs only grows, and its claims are above that; two owners overlap for a bounded
//! time; in the end there is one, the first of the preference list, and all name it; and effects under epochs that are over
//! are refused by everyone who knows that.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tenures::{Said, Tenure, said, tenures};
use super::{Facts, Violation, violation};
use crate::history::{Deed, Event, Host, Named, Reign};

/// Patience, and the way of a claim when nothing is wrong: it is pushed at once, on a lane that says what was lost again.
const HANDOVER: Duration = Duration::from_millis(2_500);
/// C1: how long a document takes after a disturbance.
const PROPAGATION: Duration = Duration::from_secs(20);

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let said = said(facts);
    let mut violations = growth(facts, &said);
    violations.extend(effects(&said));
    violations.extend(learned(facts, &said));
    violations.extend(overlap(facts, &tenures(facts, &said)));
    violations.extend(in_the_end(facts));
    violations
}

/// What a process knows only grows; what it claims is above that, and names it.
fn growth(facts: &Facts<'_>, said: &[Said]) -> Vec<Violation> {
    let mut known: BTreeMap<(usize, u32), Reign> = BTreeMap::new();
    let mut claimed: BTreeMap<(usize, u32), Reign> = BTreeMap::new();
    let mut violations = Vec::new();
    for Said { at, process, host, shard, epoch, deed, .. } in said.iter().copied() {
        let key = (process, shard);
        let mut broken = |what: String| violations.push(violation("H3", at, format!("{host}, shard {shard}: {what}")));
        match deed {
            Deed::Known => {
                if let Some(before) = known.insert(key, epoch).filter(|before| *before >= epoch) {
                    broken(format!("it knows {epoch} after {before}"));
                }
            }
            Deed::Claimed => {
                let life = facts.processes[process].ready.map(|(_, life)| life);
                if epoch.owner != host || Some(epoch.life) != life {
                    broken(format!("it claims under {epoch}, which is not its own"));
                }
                let before = [known.get(&key), claimed.get(&key)].into_iter().flatten().max().copied();
                if let Some(before) = before.filter(|before| *before >= epoch) {
                    broken(format!("it claims under {epoch}, and knew {before}"));
                }
                claimed.insert(key, epoch);
            }
            _ => {}
        }
    }
    violations
}

/// Nobody lets an effect take place under an epoch that he knows to be over.
fn effects(said: &[Said]) -> Vec<Violation> {
    let mut greatest: BTreeMap<(usize, u32), Reign> = BTreeMap::new();
    let mut let_go: BTreeMap<(usize, u32), Reign> = BTreeMap::new();
    let mut violations = Vec::new();
    for Said { at, process, host, shard, epoch, deed, .. } in said.iter().copied() {
        let key = (process, shard);
        match deed {
            Deed::Accepted => {
                let over = greatest.get(&key).filter(|known| **known > epoch);
                let over = over.or(let_go.get(&key).filter(|let_go| **let_go >= epoch));
                if let Some(over) = over {
                    let text = format!(
                        "{host} lets an effect on shard {shard} take place under {epoch}, and {over} is known or over"
                    );
                    violations.push(violation("H3", at, text));
                }
            }
            Deed::Released(_) => drop(let_go.insert(key, epoch)),
            Deed::Known | Deed::Claimed => {}
            _ => continue,
        }
        let known = greatest.entry(key).or_insert(epoch);
        *known = epoch.max(*known);
    }
    violations
}

/// Who starts claims nothing below what all that it could reach had known before.
fn learned(facts: &Facts<'_>, said: &[Said]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut known: BTreeMap<u32, Vec<Said>> = BTreeMap::new();
    for now in said.iter().copied() {
        match now.deed {
            Deed::Known => known.entry(now.shard).or_default().push(now),
            Deed::Claimed => {
                let launched = facts.processes[now.process].launched;
                let since = launched.saturating_sub(wide(facts));
                if facts.history.is_disturbed_between(since, now.at) || facts.is_apart(now.index) {
                    continue;
                }
                let others = known.get(&now.shard).into_iter().flatten();
                let better = others.filter(|other| other.at <= launched && other.epoch >= now.epoch);
                let reachable = |other: &&Said| facts.processes[other.process].is_ready_throughout(launched, now.at);
                if let Some(other) = better.filter(|other| other.process != now.process).find(reachable) {
                    let Said { host, shard, epoch, .. } = now;
                    let text = format!(
                        "{host} claims shard {shard} under {epoch}, and {} had known {} when it started",
                        other.host, other.epoch
                    );
                    violations.push(violation("H3", now.at, text));
                }
            }
            _ => {}
        }
    }
    violations
}

/// How long owners may overlap after a disturbance: member lists become equal, and then the claims.
fn wide(facts: &Facts<'_>) -> Duration {
    facts.history.bounds.convergence + PROPAGATION
}

fn overlap(facts: &Facts<'_>, tenures: &[Tenure]) -> Vec<Violation> {
    let mut by_shard: BTreeMap<u32, Vec<&Tenure>> = BTreeMap::new();
    for tenure in tenures {
        by_shard.entry(tenure.shard).or_default().push(tenure);
    }
    let end = facts.history.end();
    let mut violations = Vec::new();
    for (later, earlier) in by_shard.values().flat_map(|all| {
        let pairs =
            all.iter().enumerate().flat_map(|(at, later)| all[..at].iter().map(move |earlier| (*later, *earlier)));
        pairs.collect::<Vec<_>>()
    }) {
        let until = earlier.to.unwrap_or(end).min(later.to.unwrap_or(end));
        if earlier.host == later.host || until <= later.from {
            continue;
        }
        let was_calm = !facts.history.is_disturbed_between(later.from.saturating_sub(wide(facts)), later.from);
        let is_tight = was_calm && facts.apart.is_empty();
        let bound = if is_tight { facts.history.bounds.detection + HANDOVER } else { wide(facts) };
        if facts.calm_from(later.from, bound).is_some_and(|calm| until > calm + bound) {
            let (shard, from) = (later.shard, later.from);
            let text = format!(
                "shard {shard} is owned under {} and under {} from {from:?} until {until:?}",
                earlier.epoch, later.epoch
            );
            violations.push(violation("H3", until, text));
        }
    }
    violations
}

/// Each shard has one owner, the one that should own it, and all name it.
fn in_the_end(facts: &Facts<'_>) -> Vec<Violation> {
    let told = facts.history.entries.iter().filter_map(|entry| match &entry.event {
        Event::Owners { host, shards } => Some((entry.at, *host, shards)),
        _ => None,
    });
    let told: Vec<(Duration, Host, &Vec<Named>)> = told.collect();
    let Some((_, first, names)) = told.first() else {
        return Vec::new();
    };
    if !facts.is_repaired() {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let running = facts.processes.iter().filter(|process| process.ready.is_some() && process.ended.is_none());
    for process in running.filter(|process| told.iter().all(|(_, host, _)| *host != process.host)) {
        let text = format!("{} does not say who owns what", process.host);
        violations.push(violation("H3", facts.history.end(), text));
    }
    for (at, host, shards) in &told {
        let mut broken = |what: String| violations.push(violation("H3", *at, what));
        if shards.len() != names.len() {
            broken(format!("{host} names the owners of {} shards, and {first} of {}", shards.len(), names.len()));
        }
        for (named, reference) in shards.iter().zip(names.iter()) {
            let shard = named.shard;
            if named.epoch != reference.epoch {
                let of = |epoch: Option<Reign>| epoch.map_or("nobody".to_owned(), |epoch| epoch.to_string());
                broken(format!(
                    "shard {shard} is owned by {} for {host}, and by {} for {first}",
                    of(named.epoch),
                    of(reference.epoch)
                ));
            }
            let owner = named.epoch.map(|epoch| epoch.owner);
            if owner.is_none() || owner != named.preferred {
                broken(format!("{host}: shard {shard} is owned by {owner:?}, and should be by {:?}", named.preferred));
            }
            if named.is_here != (owner == Some(*host)) {
                let what = if named.is_here { "owns" } else { "does not own" };
                broken(format!("{host} {what} shard {shard}, whose owner is {owner:?}"));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, life, start};
    use crate::checker::judged;
    use crate::history::Entry;

    /// Epoch `counter` of the first process of `host`, which has life `host + 1`.
    fn reign(counter: u64, host: u8) -> Reign {
        Reign { counter, owner: Host(host), life: life(u64::from(host) + 1) }
    }

    fn did(ms: u64, host: u8, epoch: Reign, deed: Deed) -> Entry {
        at(ms, Event::Ownership { host: Host(host), shard: 3, epoch, deed })
    }

    /// Three hosts that run; long enough that all bounds have passed.
    fn judge(middle: Vec<Entry>) -> Vec<String> {
        let starts = [start(0, 0, 1), start(0, 1, 2), start(0, 2, 3)].concat();
        let entries = [starts, middle, vec![at(200_000, Event::Healed)]].concat();
        judged(check, entries).into_iter().map(|violation| violation.text).collect()
    }

    fn none() -> Vec<String> {
        Vec::new()
    }

    #[test]
    fn epochs_of_other_names_with_more_digits_are_ordered_as_names_are() {
        assert!(reign(1, 10) < reign(1, 2) && reign(2, 10) > reign(1, 2));
    }

    #[test]
    fn what_is_known_grows_and_claims_are_above_it() {
        let good = vec![
            did(10, 0, reign(1, 0), Deed::Claimed),
            did(10, 0, reign(1, 0), Deed::Known),
            did(20, 1, reign(1, 0), Deed::Known),
        ];
        assert_eq!(judge(good.clone()), none());
        let again = vec![did(30, 1, reign(1, 0), Deed::Known)];
        assert!(judge([good.clone(), again].concat())[0].contains("after"));
        let below = vec![did(30, 1, reign(1, 0), Deed::Claimed)];
        let found = judge([good.clone(), below].concat());
        assert!(found.iter().any(|text| text.contains("which is not its own")), "{found:?}");
        let known = vec![did(30, 1, reign(4, 2), Deed::Known), did(31, 1, reign(3, 1), Deed::Claimed)];
        assert!(judge([good, known].concat())[0].contains("and knew 4@n2"));
    }

    #[test]
    fn effects_under_epochs_that_are_over_are_refused() {
        let claim = || vec![did(10, 0, reign(1, 0), Deed::Claimed), did(11, 1, reign(1, 0), Deed::Accepted)];
        let greater = || vec![did(20, 1, reign(2, 2), Deed::Accepted)];
        assert_eq!(judge([claim(), greater(), vec![did(30, 1, reign(1, 0), Deed::Refused)]].concat()), none());
        let found = judge([claim(), greater(), vec![did(30, 1, reign(1, 0), Deed::Accepted)]].concat());
        assert!(found[0].contains("under 1@n0"), "{found:?}");
        assert_eq!(
            judge([claim(), greater(), vec![did(30, 2, reign(1, 0), Deed::Accepted)]].concat()),
            none(),
            "unheard"
        );
        let let_go = vec![did(20, 0, reign(1, 0), Deed::Released(Host(1))), did(30, 0, reign(1, 0), Deed::Accepted)];
        assert!(judge([claim(), let_go].concat())[0].contains("is known or over"));
    }

    #[test]
    fn owners_overlap_for_a_bounded_time() {
        let two = |until| {
            vec![
                did(100_000, 0, reign(1, 0), Deed::Claimed),
                did(100_010, 1, reign(2, 1), Deed::Claimed),
                did(until, 0, reign(1, 0), Deed::Superseded(reign(2, 1))),
            ]
        };
        assert_eq!(judge(two(102_000)), none());
        assert!(judge(two(130_000))[0].contains("is owned under 1@n0"));
        let cut = |from, to| {
            let (class, what) = ("partition".to_owned(), String::new());
            let began = Event::Began { fault: 0, class, what, disturbs: true, hosts: Vec::new() };
            [at(from, began), at(to, Event::Ended { fault: 0 })]
        };
        let during = [cut(90_000, 120_000).to_vec(), two(130_000)].concat();
        assert_eq!(judge(sorted(during)), none(), "they could not hear of each other");
        let after = [cut(90_000, 120_000).to_vec(), two(160_000)].concat();
        assert!(judge(sorted(after))[0].contains("is owned under"));
    }

    fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    #[test]
    fn who_starts_learns_first() {
        let began = vec![
            did(10, 0, reign(7, 0), Deed::Claimed),
            did(10, 0, reign(7, 0), Deed::Known),
            did(20, 1, reign(7, 0), Deed::Known),
            at(30_000, Event::Crashed { host: Host(0), wiped: true }),
            at(60_000, Event::Launched { host: Host(0) }),
            at(60_100, Event::Ready { host: Host(0), life: life(9) }),
        ];
        let claim = |counter| {
            let epoch = Reign { counter, owner: Host(0), life: life(9) };
            vec![did(61_000, 0, epoch, Deed::Claimed)]
        };
        assert_eq!(judge([began.clone(), claim(8)].concat()), none());
        let found = judge([began, claim(1)].concat());
        assert!(found[0].contains("n1 had known 7@n0"), "{found:?}");
    }

    #[test]
    fn in_the_end_all_name_one_owner_who_should_own_it() {
        let names = |host: u8, epoch: Option<Reign>, preferred: u8, is_here: bool| {
            let named = Named { shard: 3, epoch, is_here, preferred: Some(Host(preferred)) };
            at(300_000, Event::Owners { host: Host(host), shards: vec![named] })
        };
        let judge = |told: Vec<Entry>| {
            let starts = [start(0, 0, 1), start(0, 1, 2)].concat();
            let settled = Event::Settled { host: Host(0) };
            let heal = vec![at(100_000, Event::Healed), at(100_000, settled), at(290_000, Event::FinalReads)];
            let found = judged(check, [starts, heal, told].concat());
            found.into_iter().map(|violation| violation.text).collect::<Vec<_>>()
        };
        let owner = Some(reign(2, 1));
        assert_eq!(judge(vec![names(0, owner, 1, false), names(1, owner, 1, true)]), none());
        assert!(judge(vec![names(0, owner, 1, false)])[0].contains("n1 does not say"));
        let two = judge(vec![names(0, Some(reign(1, 0)), 1, true), names(1, owner, 1, true)]);
        assert!(two.iter().any(|text| text.contains("and by 1@n0")), "{two:?}");
        assert!(judge(vec![names(0, owner, 1, false), names(1, owner, 1, false)])[0].contains("does not own"));
        assert!(judge(vec![names(0, owner, 0, false), names(1, owner, 0, true)])[0].contains("should be by"));
        assert!(judge(vec![names(0, None, 1, false), names(1, None, 1, false)])[0].contains("is owned by None"));
    }
}
