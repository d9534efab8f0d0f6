//! Sets and counters to which all clients add, and which expire as a whole: what has expired by all clocks before somebody adds again
//! does not come back with that (K5), and what has expired by none is there (K3).
//!
//! An add fixes by its caller's wall clock when all of it expires. Whoever looks judges by its own, and any clock may have removed what
//! was over by it.
//!
//! 1. What is found was added, or may have been (K6).
//! 2. An add that was acknowledged is *gone* if at a moment after that, and before a read begins, all that had been begun by then was over
//!    by every clock: what is added from then on begins anew. The read does not find it (K5).
//! 3. An add that was acknowledged before a read begins is found, if until that has ended it was over by no clock, and neither was any that
//!    may have been done later: the time that was given last counts, and a late add gives an early one (K1 in the end, K3 before).

use std::collections::BTreeMap;

use super::clocks::{Clocks, TICKS_MS, Wall};
use super::{Facts, Violation, violation};
use crate::history::{Action, Op, OpId, Outcome};

/// Longer than the clocks of those are apart that add.
const APART_MS: Wall = 250;

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let clocks = Clocks::of(facts.history);
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for op in facts.ops.values().filter(|op| !op.is_refused()) {
        let key = || Key { facts, clocks: &clocks, adds: Vec::new(), reads: Vec::new() };
        match op.action {
            Action::Fade(_) => keys.entry(&op.key).or_insert_with(key).adds.push(op),
            Action::Faded => keys.entry(&op.key).or_insert_with(key).reads.push(op),
            _ => {}
        }
    }
    let of_key = |(name, key): (&str, Key<'_>)| {
        let broken = key.reads.iter().filter_map(|read| Some((*read, key.problem(read)?)));
        let told = broken.map(|(read, (promise, what))| {
            let text = format!("{} on {} reads {name}: {what}", read.id, read.host);
            violation(promise, facts.at(read.invoked), text)
        });
        told.collect::<Vec<_>>()
    };
    keys.into_iter().flat_map(of_key).collect()
}

/// What was added to a key, in the order in which it began, and what was read of it.
struct Key<'f> {
    facts: &'f Facts<'f>,
    clocks: &'f Clocks,
    adds: Vec<&'f Op>,
    reads: Vec<&'f Op>,
}

impl Key<'_> {
    fn problem(&self, read: &Op) -> Option<(&'static str, String)> {
        let end = read.returned.filter(|_| !self.facts.is_apart(read.invoked))?;
        let begun: Vec<&Op> = self.adds.iter().filter(|add| add.invoked < end).copied().collect();
        let (gone, may): (Vec<&Op>, Vec<&Op>) = begun.into_iter().partition(|add| self.is_gone(add, read));
        let must: Vec<&Op> = may.iter().filter(|add| self.is_there(add, read, end)).copied().collect();
        let lost = if self.facts.is_final(read) { "K1" } else { "K3" };
        match &read.outcome {
            Outcome::Done(found) => {
                let is_one = |of: &[&Op], id: OpId| of.iter().any(|add| add.id == id);
                let stray = found.iter().find(|id| !is_one(&may, **id));
                let stray = stray.map(|id| match is_one(&gone, *id) {
                    true => ("K5", format!("{id} had expired by all clocks")),
                    false => ("K6", format!("{id} was not added, or not done")),
                });
                let missing = must.iter().find(|add| !found.contains(&add.id));
                stray.or_else(|| Some((lost, format!("{} is not there, and had expired by no clock", missing?.id))))
            }
            Outcome::Total(total) if *total > may.len() as u64 => {
                Some(("K5", format!("a total of {total}, and {} had not expired by all clocks", may.len())))
            }
            Outcome::Total(total) if *total < must.len() as u64 => {
                Some((lost, format!("a total of {total}, and {} had expired by no clock", must.len())))
            }
            _ => None,
        }
    }

    /// When all is over that an add has found or made, by its caller's clock.
    fn expires(&self, add: &Op) -> Wall {
        let (Action::Fade(ms), at) = (add.action, self.facts.at(add.invoked)) else { return Wall::MAX };
        self.clocks.of_host(add.host, at, at).0 + Wall::from(ms)
    }

    fn is_gone(&self, add: &Op, read: &Op) -> bool {
        let Some(done) = add.returned.filter(|_| add.is_done()) else { return false };
        let moments = self.adds.iter().map(|later| later.invoked).chain([read.invoked]);
        let until = read.returned.unwrap_or(read.invoked);
        moments.filter(|moment| (done..=read.invoked).contains(moment)).any(|moment| self.is_all_over(moment, until))
    }

    /// Whether all that had been begun by a moment was over by every clock, then and until another.
    fn is_all_over(&self, moment: usize, until: usize) -> bool {
        let (at, until) = (self.facts.at(moment), self.facts.at(until));
        let mut begun = self.adds.iter().filter(|add| add.invoked < moment);
        begun.all(|add| self.expires(add) + TICKS_MS < self.clocks.earliest(at, until)) && !self.facts.is_apart(moment)
    }

    fn is_there(&self, add: &Op, read: &Op, end: usize) -> bool {
        let (from, to) = (self.facts.at(add.invoked), self.facts.at(end));
        let may_be_later = |other: &&&Op| other.invoked < end && other.returned.is_none_or(|at| at > add.invoked);
        let least = self.adds.iter().filter(may_be_later).map(|other| self.expires(other)).min();
        add.returned.is_some_and(|at| add.is_done() && at < read.invoked)
            && least.is_some_and(|least| self.clocks.latest(from, to) + TICKS_MS + APART_MS < least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op};
    use crate::checker::judged;
    use crate::history::{Entry, Event, Host};

    fn add(ms: u64, id: u64) -> [Entry; 2] {
        op(ms, ms + 5, id, Action::Fade(1000), done(&[]))
    }

    fn promises(entries: &[&[Entry]]) -> Vec<String> {
        judged(check, entries.concat()).into_iter().map(|violation| violation.promise).collect()
    }

    fn read(adds: &[[Entry; 2]], ms: u64, outcome: Outcome) -> Vec<String> {
        promises(&[&adds.concat(), &op(ms, ms + 5, 99, Action::Faded, outcome)])
    }

    #[test]
    fn what_has_not_expired_is_there() {
        let all = [add(100, 1), add(300, 2)];
        assert!(read(&all, 500, done(&[1, 2])).is_empty() && read(&all, 500, Outcome::Total(2)).is_empty());
        assert_eq!(read(&all, 500, done(&[2])), ["K3"]);
        assert_eq!(read(&all, 500, Outcome::Total(1)), ["K3"]);
        assert_eq!(read(&all, 500, done(&[1, 2, 3])), ["K6"]);
        assert!(read(&all, 1200, done(&[])).is_empty() && read(&all, 1200, done(&[1, 2])).is_empty(), "it is close");
    }

    #[test]
    fn what_has_expired_does_not_come_back() {
        let all = [add(100, 1), add(1500, 2)];
        assert!(read(&all, 1600, done(&[2])).is_empty() && read(&all, 1600, Outcome::Total(1)).is_empty());
        assert_eq!(read(&all, 1600, done(&[1, 2])), ["K5"]);
        assert_eq!(read(&all, 1600, Outcome::Total(2)), ["K5"]);
        assert_eq!(read(&all[..1], 1600, done(&[1])), ["K5"]);
        // Somebody has made all of it last longer in time.
        assert!(read(&[add(100, 1), add(900, 2), add(1500, 3)], 1600, done(&[1, 2, 3])).is_empty());
    }

    #[test]
    fn clocks_that_differ_allow_for_both() {
        let clock = |skew_ms| [at(50, Event::Clock { host: Host(1), skew_ms, drift_ppm: 0 })];
        let with = |skew_ms, all: &[[Entry; 2]], ms, found: &[u64]| {
            promises(&[&clock(skew_ms), &all.concat(), &op(ms, ms + 5, 99, Action::Faded, done(found))])
        };
        assert!(with(-5_000, &[add(100, 1), add(1500, 2)], 1600, &[1, 2]).is_empty(), "by one clock it is there still");
        assert!(with(5_000, &[add(100, 1)], 300, &[]).is_empty(), "by one clock it is over");
    }
}
