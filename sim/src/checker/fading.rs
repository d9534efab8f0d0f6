//! Sets and counters to which all clients add, and which expire as a whole: what has expired by all clocks before somebody adds again
//! does not come back with that (K5), and what has expired by none is there (K3).
//!
//! An add fixes by its caller's wall clock when all of it expires, or says nothing of that, and expires with the rest. Whoever looks judges
//! by its own, and any clock may have removed what was over by it.
//!
//! 1. What is found was added, or may have been (K6).
//! 2. An add that was acknowledged is *gone* if at a moment after that, and before a read begins, all that had been begun by then was over
//!    by every clock: what is added from then on begins anew. So is one that says nothing, if one that came after it is gone. The read does
//!    not find it (K5).
//! 3. An add that was acknowledged before a read begins is found, if until that has ended it was over by no clock, and neither was any that
//!    may have been done later: the last one says when all expires, and of those at the same time any may be that (K1 in the end, K3
//!    before). One that says nothing is over when what came before is, unless that was over by all clocks before it began. What was over by all clocks before an add began says nothing of it, though its
//!    outcome is unknown.
//!
//! An add at level `One` may be done later, as one of unknown outcome. Should it give all that it finds a time when others have seen that
//! gone, that is there again until then: while it is not over, nothing is known to be gone.

use std::collections::BTreeMap;

use super::clocks::{Clocks, TICKS_MS, Wall};
use super::{Facts, Violation, violation};
use crate::history::{Action, Level, Op, OpId, Outcome};

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
            Action::Fade { ms, level } => keys.entry(&op.key).or_insert_with(key).add(op, ms, level),
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
    adds: Vec<Add<'f>>,
    reads: Vec<&'f Op>,
}

#[derive(Clone, Copy)]
struct Add<'f> {
    op: &'f Op,
    is_quorum: bool,
    /// When all is over that it has found or made, by its caller's clock, at the earliest and the latest: that may jump in the moment of
    /// the call. `None`: when it was anyway.
    expires: Option<(Wall, Wall)>,
    /// The latest of that, and of all that began before.
    latest: Wall,
}

impl Add<'_> {
    /// When it was acknowledged by a quorum.
    fn done(&self) -> Option<usize> {
        self.op.returned.filter(|_| self.op.is_done() && self.is_quorum)
    }

    /// Whether it may be done after this entry.
    fn may_follow(&self, entry: usize) -> bool {
        self.done().is_none_or(|done| done > entry)
    }
}

impl<'f> Key<'f> {
    fn add(&mut self, op: &'f Op, ms: Option<u32>, level: Level) {
        let at = self.facts.at(op.invoked);
        let (least, most) = self.clocks.of_host(op.host, at, at);
        let expires = ms.map(|ms| (least + Wall::from(ms), most + Wall::from(ms)));
        let before = self.adds.last().map_or(Wall::MIN, |before| before.latest);
        let is_quorum = level != Level::One;
        self.adds.push(Add {
            op,
            is_quorum,
            expires,
            latest: expires.map_or(before, |(_, latest)| before.max(latest)),
        });
    }

    fn problem(&self, read: &Op) -> Option<(&'static str, String)> {
        let end = read.returned.filter(|_| !self.facts.is_apart(read.invoked))?;
        let begun = &self.adds[..self.adds.partition_point(|add| add.op.invoked < end)];
        let alone = |anew: &usize| begun.iter().any(|add| !add.is_quorum && add.op.invoked >= *anew);
        let anew = self.begun_anew(read, end).filter(|anew| !alone(anew));
        let is_over = |add: &Add<'_>| add.done().is_some_and(|done| anew.is_some_and(|anew| done <= anew));
        let is_gone = |add: &Add<'_>| match (add.expires, add.done()) {
            (Some(_), _) => is_over(add),
            (None, done) => done.is_some_and(|done| {
                begun.iter().any(|later| later.expires.is_some() && later.op.invoked > done && is_over(later))
            }),
        };
        let must = || begun.iter().filter(|add| !is_gone(add) && self.is_there(add, begun, read, end));
        let lost = if self.facts.is_final(read) { "K1" } else { "K3" };
        match &read.outcome {
            Outcome::Done(found) => {
                let of = |id: &OpId| begun.iter().find(|add| add.op.id == *id);
                let stray = found.iter().find_map(|id| match of(id) {
                    None => Some(("K6", format!("{id} was not added, or not done"))),
                    Some(add) => is_gone(add).then(|| ("K5", format!("{id} had expired by all clocks"))),
                });
                let missing = || must().map(|add| add.op.id).find(|id| !found.contains(id));
                stray.or_else(|| Some((lost, format!("{} is not there, and had expired by no clock", missing()?))))
            }
            Outcome::Total(total) => {
                let (most, least) = (begun.iter().filter(|add| !is_gone(add)).count() as u64, must().count() as u64);
                let more = || ("K5", format!("a total of {total}, and {most} had not expired by all clocks"));
                let less = || (lost, format!("a total of {total}, and {least} had expired by no clock"));
                (*total > most).then(more).or_else(|| (*total < least).then(less))
            }
            _ => None,
        }
    }

    /// The last moment before a read begins at which all that had been begun by then was over by every clock, and stays so until
    /// the read has ended.
    fn begun_anew(&self, read: &Op, end: usize) -> Option<usize> {
        let until = self.facts.at(end);
        let before = self.adds.partition_point(|add| add.op.invoked < read.invoked);
        let moments = self.adds[..before].iter().map(|add| add.op.invoked).chain([read.invoked]);
        let is_over = |(begun, moment): &(usize, usize)| {
            let latest = begun.checked_sub(1).map(|last| self.adds[last].latest);
            latest.is_none_or(|latest| {
                latest.saturating_add(TICKS_MS) < self.clocks.earliest(self.facts.at(*moment), until)
            }) && !self.facts.is_apart(*moment)
        };
        let moments: Vec<(usize, usize)> = moments.enumerate().collect();
        moments.into_iter().rev().find(is_over).map(|(_, moment)| moment)
    }

    /// Whether an add must be found.
    fn is_there(&self, add: &Add<'_>, begun: &[Add<'_>], read: &Op, end: usize) -> bool {
        let lasts = |other: &Add<'_>, shown: Wall| {
            other.expires.is_none_or(|(earliest, _)| shown + TICKS_MS + APART_MS < earliest)
        };
        let is_done = add.done().is_some_and(|done| done < read.invoked);
        // Most are over long since.
        if !is_done || !lasts(add, self.clocks.latest(self.facts.at(end), self.facts.at(end))) {
            return false;
        }
        let shown = self.clocks.latest(self.facts.at(add.op.invoked), self.facts.at(end));
        // One that says nothing expires with what was there, if that is not over by some clock.
        let matters = |other: &&Add<'_>| add.expires.is_none() || other.may_follow(add.op.invoked);
        let mut others = begun.iter().filter(matters);
        let least = self.clocks.earliest(self.facts.at(add.op.invoked), self.facts.at(end));
        // Nobody takes it any more, and who has it knows that it is over.
        let is_past = |other: &Add<'_>| other.expires.is_some_and(|(_, latest)| latest + TICKS_MS + APART_MS < least);
        others.all(|other| lasts(other, shown) || is_past(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op};
    use crate::checker::judged;
    use crate::history::{Entry, Event, Host};

    fn add(ms: u64, id: u64) -> [Entry; 2] {
        op(ms, ms + 5, id, fade(Some(1000), Level::Quorum), done(&[]))
    }

    fn fade(ms: Option<u32>, level: Level) -> Action {
        Action::Fade { ms, level }
    }

    fn add_to_the_rest(ms: u64, id: u64) -> [Entry; 2] {
        op(ms, ms + 5, id, fade(None, Level::Quorum), done(&[]))
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
    fn what_is_added_without_a_time_once_all_is_over_stays_until_the_next() {
        let lost = op(300, 305, 2, fade(Some(1000), Level::Quorum), Outcome::Unknown);
        let all = [add(100, 1), lost, add_to_the_rest(2000, 3)];
        assert!(read(&all, 9000, done(&[3])).is_empty() && read(&all, 9000, Outcome::Total(1)).is_empty());
        assert_eq!(read(&all, 9000, done(&[])), ["K3"]);
        assert_eq!(read(&all, 9000, done(&[1, 3])), ["K5"]);
        // It goes with what is added in time, and is not claimed before.
        let more = |at| [add(100, 1), add_to_the_rest(2000, 3), add(at, 4)];
        assert_eq!(read(&more(2500), 9000, done(&[3])), ["K5"]);
        assert!(read(&more(2500), 3300, done(&[4])).is_empty() && read(&more(2500), 3300, done(&[3, 4])).is_empty());
        assert_eq!(read(&more(2500), 2600, done(&[4])), ["K3"]);
        // One that is not over may take it along, though nobody knows of it.
        let lost = op(1900, 1905, 2, fade(Some(1000), Level::Quorum), Outcome::Unknown);
        assert!(read(&[add(100, 1), lost, add_to_the_rest(2000, 3)], 9000, done(&[])).is_empty());
    }

    #[test]
    fn what_is_added_at_one_may_be_heard_of_later_and_shows_what_was_gone_until_it_is_over() {
        let alone = |at| op(at, at + 5, 2, fade(Some(1000), Level::One), done(&[]));
        let all = [add(100, 1), alone(200), add_to_the_rest(2000, 3)];
        assert!(read(&all, 9000, done(&[3])).is_empty());
        assert_eq!(read(&all, 9000, done(&[])), ["K3"], "it was over before");
        assert_eq!(read(&all, 9000, done(&[1, 3])), ["K5"]);
        let all = [add(100, 1), add_to_the_rest(1500, 3), alone(2000)];
        assert!(read(&all, 2100, done(&[1, 2, 3])).is_empty() && read(&all, 2100, done(&[3])).is_empty());
        assert_eq!(read(&all, 2100, done(&[1, 2])), ["K3"]);
        assert!(read(&all, 9000, done(&[])).is_empty() && read(&all, 9000, done(&[3])).is_empty());
        assert_eq!(read(&all, 9000, done(&[1])), ["K5"], "all is over");
    }

    #[test]
    fn clocks_that_differ_allow_for_both() {
        let clock = |skew_ms| [at(50, Event::Clock { host: Host(1), skew_ms, drift_ppm: 0 })];
        let with = |skew_ms, all: &[[Entry; 2]], ms, found: &[u64]| {
            promises(&[&clock(skew_ms), &all.concat(), &op(ms, ms + 5, 99, Action::Faded, done(found))])
        };
        assert!(with(-5_000, &[add(100, 1), add(1500, 2)], 1600, &[1, 2]).is_empty(), "by one clock it is there still");
        assert!(with(5_000, &[add(100, 1)], 300, &[]).is_empty(), "by one clock it is over");
        let more = [add(100, 1), add_to_the_rest(1500, 2)];
        assert!(with(-5_000, &more, 9000, &[]).is_empty(), "it was added to what is not over by one clock");
        assert_eq!(with(-100, &more, 9000, &[]), ["K3"]);
        // The writer's jumps in the moment of the add, and back: the time counts from either.
        let jump =
            [(100, 5_000), (150, 0)].map(|(ms, skew_ms)| at(ms, Event::Clock { host: Host(0), skew_ms, drift_ppm: 0 }));
        for found in [&[1, 2][..], &[2]] {
            let read = op(1600, 1605, 99, Action::Faded, done(found));
            assert!(promises(&[&jump[..1], &add(100, 1), &jump[1..], &add(1500, 2), &read]).is_empty(), "{found:?}");
        }
    }
}
