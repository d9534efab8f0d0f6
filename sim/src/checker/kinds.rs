//! Keys of buckets of one kind or of any: what is there is what was written, of the kind and of the writes that K2 says.
//!
//! A write or delete at quorum asks a quorum what is there. So it *follows* every write that a quorum had acknowledged before
//! it began, and:
//!
//! 1. A read finds only what was written, of the kind that it says, and may have been done (K6).
//! 2. A value that an acknowledged write or delete follows is not found by any read that begins later, and of a set, map or counter
//!    nothing that a delete follows (K5). Between two last values of which none follows the other hybrid clocks decide (K2): the older one is not
//!    found if every wall clock had, up to its acknowledgement, shown less than any did while the other was written.
//! 3. What was acknowledged is found by each read that begins later, or a value that does not precede it, or something of a greater kind
//!    (K1 in the end, K3 before), unless a delete, or a write that expires, came at the same time or later.
//! 4. A write that follows one of another kind which is there is refused, unless something of its own kind, which is the greater one, was
//!    written at the same time as that (K2), and whoever is told of another kind is told of one that was
//!    written (K6).
//! 5. In the end all reads find the same, and a count is that of the keys that are found (K4).
//!
//! A read, write or scan at level `One` promises nothing but 1. While clusters that were founded apart meet, a quorum may not know what
//! the other had acknowledged. A scan is a read of every key of its bucket. When what is written to expire does so is judged by
//! `k5_expiry`, of other keys.

use std::collections::{BTreeMap, BTreeSet};

use super::clocks::{Clocks, TICKS_MS};
use super::{Facts, Violation, violation};
use crate::history::{Action, Kind, Level, Op, OpId, Outcome};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    let mut scans = Vec::new();
    for op in facts.ops.values() {
        match (op.action, &op.outcome) {
            (Action::Write { kind, level, expires }, _) => {
                let write = Write { op, kind, expires, is_quorum: level != Level::One };
                keys.entry(&op.key).or_default().writes.push(write);
            }
            (Action::Erase(level), _) if !op.is_refused() => {
                keys.entry(&op.key).or_default().erases.push((op, level != Level::One));
            }
            (Action::Read(level), Outcome::Held { kind, found, total }) => {
                let there = Some(There { kind: *kind, found: found.clone(), total: *total });
                keys.entry(&op.key).or_default().reads.push(Read { op, there, is_quorum: level != Level::One });
            }
            (Action::Read(level), Outcome::Done(_)) => {
                keys.entry(&op.key).or_default().reads.push(Read { op, there: None, is_quorum: level != Level::One });
            }
            (Action::Scan, Outcome::Done(found)) => scans.push((op, found)),
            _ => {}
        }
    }
    let (clocks, mut violations) = (Clocks::of(facts.history), counts(facts, &scans));
    for (scan, found) in scans {
        let key_of = |value: &&OpId| facts.ops.get(value).map(|write| &write.key[..]);
        if let Some(stray) = found.iter().find(|value| key_of(value).is_none_or(|key| !keys.contains_key(key))) {
            violations.push(violation(
                "K6",
                facts.at(scan.invoked),
                format!("{} finds {stray}, which nobody wrote", scan.id),
            ));
        }
        for (key, of_key) in keys.iter_mut().filter(|(key, _)| key.starts_with(&scan.key)) {
            let found: Vec<OpId> = found.iter().filter(|value| key_of(value) == Some(*key)).copied().collect();
            let kind = Kind::LastWriterWins;
            let there = (!found.is_empty()).then_some(There { kind, found, total: 0 });
            of_key.reads.push(Read { op: scan, there, is_quorum: true });
        }
    }
    for (name, key) in keys {
        key.judge(facts, &clocks, name, &mut violations);
    }
    violations
}

/// A write that was tried.
struct Write<'f> {
    op: &'f Op,
    kind: Kind,
    expires: bool,
    /// Whether it is at quorum, or at more.
    is_quorum: bool,
}

impl Write<'_> {
    /// When a quorum had acknowledged it.
    fn acknowledged(&self) -> Option<usize> {
        self.op.returned.filter(|_| self.is_quorum && self.op.is_done())
    }

    /// Whether it follows another: a quorum had acknowledged that, and told this one.
    fn follows(&self, other: &Self, facts: &Facts<'_>) -> bool {
        self.is_quorum && other.is_over_before(self.op) && !facts.is_apart(self.op.invoked)
    }

    /// Whether a quorum had acknowledged it before another operation began.
    fn is_over_before(&self, later: &Op) -> bool {
        self.acknowledged().is_some_and(|at| at < later.invoked)
    }
}

/// What a read found.
#[derive(Clone, PartialEq, Eq)]
struct There {
    kind: Kind,
    found: Vec<OpId>,
    total: u64,
}

struct Read<'f> {
    op: &'f Op,
    there: Option<There>,
    is_quorum: bool,
}

/// Everything is in the order in which it began, but for scans, which come after the other reads.
#[derive(Default)]
struct Key<'f> {
    writes: Vec<Write<'f>>,
    /// The deletes that may have been done, and whether they are at quorum.
    erases: Vec<(&'f Op, bool)>,
    reads: Vec<Read<'f>>,
}

impl Key<'_> {
    fn judge(&self, facts: &Facts<'_>, clocks: &Clocks, name: &str, violations: &mut Vec<Violation>) {
        for write in &self.writes {
            if let Some((promise, what)) = self.misled(facts, write) {
                let text = format!("{} on {} of {name} {what}", write.op.id, write.op.host);
                violations.push(violation(promise, facts.at(write.op.invoked), text));
            }
        }
        for read in &self.reads {
            if let Some((promise, what)) = self.problem(facts, clocks, read) {
                let text = format!("{} on {} finds in {name} {what}", read.op.id, read.op.host);
                violations.push(violation(promise, facts.at(read.op.invoked), text));
            }
        }
        let expires = self.writes.iter().any(|write| write.expires);
        let last: Vec<&Read<'_>> = self.reads.iter().filter(|read| facts.is_final(read.op) && read.is_quorum).collect();
        if facts.is_repaired()
            && !expires
            && let Some(pair) = last.windows(2).find(|pair| pair[0].there != pair[1].there)
        {
            let text = format!("in the end {} and {} do not find the same in {name}", pair[0].op.id, pair[1].op.id);
            violations.push(violation("K4", facts.history.end(), text));
        }
    }

    /// What is wrong with what a writer was told of kinds.
    fn misled(&self, facts: &Facts<'_>, write: &Write<'_>) -> Option<(&'static str, String)> {
        let end = write.op.returned?;
        match write.op.outcome {
            Outcome::OtherKind(kind) if kind == write.kind || self.of_kind(kind, end).next().is_none() => {
                Some(("K6", format!("was told of a {kind:?}, which nobody had written")))
            }
            Outcome::Done(_) => self.refusing(facts, write).map(|other| ("K2", format!("was done, and {other}"))),
            _ => None,
        }
    }

    /// Why a write was to be refused, if it was: what of another kind was there all the time.
    fn refusing(&self, facts: &Facts<'_>, write: &Write<'_>) -> Option<String> {
        let mut others = self.in_the_way(facts, write).peekable();
        others.peek()?;
        let is_founder = |other: &Write<'_>| self.in_the_way(facts, other).next().is_none();
        // Where two kinds were begun at the same time, more is written of the one that shows.
        let founded = self.of_kind(write.kind, self.end(write)).any(is_founder);
        let other = others.find(|other| other.kind > write.kind || !founded)?;
        Some(format!("{} was there, a {:?}", other.op.id, other.kind))
    }

    /// What a write follows that is of another kind, and was there all the time.
    fn in_the_way<'a>(&'a self, facts: &'a Facts<'_>, write: &'a Write<'_>) -> impl Iterator<Item = &'a Write<'a>> {
        let end = self.end(write);
        let others = self.writes.iter().filter(move |other| other.kind != write.kind && write.follows(other, facts));
        others.filter(move |other| !self.may_be_gone(other, end))
    }

    /// When a write was done, at the latest.
    fn end(&self, write: &Write<'_>) -> usize {
        write.op.returned.filter(|_| write.op.is_done()).unwrap_or(usize::MAX)
    }

    /// The writes of a kind that may have been done before this entry.
    fn of_kind(&self, kind: Kind, before: usize) -> impl Iterator<Item = &Write<'_>> {
        let writes = self.writes.iter();
        writes.filter(move |write| write.kind == kind && !write.op.is_refused() && write.op.invoked < before)
    }

    /// Whether what was written may have been removed before this entry.
    fn may_be_gone(&self, write: &Write<'_>, before: usize) -> bool {
        // A delete that was over had nothing to remove.
        let is_over = |erase: &Op| erase.is_done() && erase.returned < Some(write.op.invoked);
        let mut erases = self.erases.iter().filter(|(erase, _)| erase.invoked < before);
        let mut expiring = self.writes.iter().filter(|other| other.expires && other.op.invoked < before);
        write.expires
            || erases.any(|(erase, _)| !is_over(erase))
            || expiring.any(|other| !other.op.is_refused() && !other.is_over_before(write.op))
    }

    fn problem(&self, facts: &Facts<'_>, clocks: &Clocks, read: &Read<'_>) -> Option<(&'static str, String)> {
        let end = read.op.returned?;
        let nothing = Vec::new();
        let (kind, found) = match &read.there {
            Some(there) => (Some(there.kind), &there.found),
            None => (None, &nothing),
        };
        if let Some(there) = &read.there {
            let possible: BTreeSet<OpId> = self.of_kind(there.kind, end).map(|write| write.op.id).collect();
            if possible.is_empty() {
                return Some(("K6", format!("a {:?}, and nobody had written one", there.kind)));
            }
            if let Some(stray) = found.iter().find(|value| !possible.contains(value)) {
                return Some(("K6", format!("{stray}, which was not written there, or not done")));
            }
            if there.total > possible.len() as u64 {
                return Some(("K6", format!("{}, and so much was not added", there.total)));
            }
        }
        if !read.is_quorum || facts.is_apart(read.op.invoked) {
            return None;
        }
        let values = matches!(kind, Some(Kind::LastWriterWins | Kind::Causal));
        let found: Vec<&Write<'_>> = self.writes.iter().filter(|write| found.contains(&write.op.id)).collect();
        for write in &found {
            if let Some(other) = self.refusing(facts, write) {
                return Some(("K2", format!("{}, and {other}", write.op.id)));
            }
            if let Some(by) = self.gone_by(facts, write, read.op, values) {
                return Some(("K5", format!("{}, which {by} had replaced or deleted", write.op.id)));
            }
            if kind == Some(Kind::LastWriterWins)
                && let Some(by) = self.later(facts, clocks, write, read.op, end)
            {
                return Some(("K2", format!("{}, and {by} was later by every clock", write.op.id)));
            }
        }
        if kind == Some(Kind::LastWriterWins) && found.len() > 1 {
            return Some(("K2", "more than one value".to_owned()));
        }
        let missing = self.missing(facts, read, kind, &found, end)?;
        Some((if facts.is_final(read.op) { "K1" } else { "K3" }, missing))
    }

    /// What was acknowledged and is not there.
    fn missing(
        &self,
        facts: &Facts<'_>,
        read: &Read<'_>,
        kind: Option<Kind>,
        found: &[&Write<'_>],
        end: usize,
    ) -> Option<String> {
        let stands = |write: &&Write<'_>| write.is_over_before(read.op) && !self.may_be_gone(write, end);
        let standing: Vec<&Write<'_>> = self.writes.iter().filter(stands).collect();
        let is_missing = |write: &&&Write<'_>| match write.kind {
            of if kind != Some(of) => kind < Some(of),
            Kind::Set | Kind::Map => found.iter().all(|other| other.op.id != write.op.id),
            Kind::Causal | Kind::LastWriterWins => {
                let precedes = |other: &&Write<'_>| other.op.id != write.op.id && write.follows(other, facts);
                found.iter().all(precedes)
            }
            Kind::Counter => false,
        };
        if let Some(missing) = standing.iter().find(is_missing) {
            return Some(format!("not {}, a {:?} that had been acknowledged", missing.op.id, missing.kind));
        }
        let there = read.there.as_ref().filter(|there| there.kind == Kind::Counter)?;
        let least = standing.iter().filter(|write| write.kind == Kind::Counter).count() as u64;
        (there.total < least).then(|| format!("{}, less than {least}, which had been acknowledged", there.total))
    }

    /// What had surely removed a write before a read began: a delete, or another value if they replace each other.
    fn gone_by(&self, facts: &Facts<'_>, write: &Write<'_>, read: &Op, are_values: bool) -> Option<OpId> {
        let erases = self.erases.iter().filter(|(erase, is_quorum)| {
            *is_quorum
                && erase.is_done()
                && erase.returned < Some(read.invoked)
                && write.is_over_before(erase)
                && !facts.is_apart(erase.invoked)
        });
        let values = self.writes.iter().filter(|other| {
            are_values && other.kind == write.kind && other.is_over_before(read) && other.follows(write, facts)
        });
        erases.map(|(erase, _)| erase.id).chain(values.map(|other| other.op.id)).next()
    }

    /// A write that was there when a read began, and later than this one by every clock.
    fn later(&self, facts: &Facts<'_>, clocks: &Clocks, write: &Write<'_>, read: &Op, end: usize) -> Option<OpId> {
        let returned = write.op.returned.filter(|_| write.op.is_done())?;
        let latest = clocks.latest(std::time::Duration::ZERO, facts.at(returned));
        let is_later = |other: &&Write<'_>| {
            let to = facts.at(other.op.returned.unwrap_or(usize::MAX));
            other.kind == write.kind
                && other.is_over_before(read)
                && clocks.earliest(facts.at(other.op.invoked), to) > latest + TICKS_MS
        };
        // A delete may have removed the later one alone.
        let mut later = self.writes.iter().filter(|other| is_later(other) && !self.may_be_gone(other, end));
        later.next().map(|other| other.op.id)
    }
}

/// Counts in the end are those of the keys that scans find then.
fn counts(facts: &Facts<'_>, scans: &[(&Op, &Vec<OpId>)]) -> Vec<Violation> {
    if !facts.is_repaired() {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for op in facts.ops.values().filter(|op| op.action == Action::Len && facts.is_final(op)) {
        let Outcome::Total(total) = op.outcome else { continue };
        let scan = scans.iter().find(|(scan, _)| facts.is_final(scan) && scan.key == op.key);
        if let Some((scan, found)) = scan.filter(|(_, found)| found.len() as u64 != total) {
            let text = format!("{} on {} counts {total} keys, and {} finds {}", op.id, op.host, scan.id, found.len());
            violations.push(violation("K4", facts.at(op.invoked), text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op, repaired};
    use crate::checker::judged;
    use crate::history::{Entry, Event, Host};

    const LAST: Kind = Kind::LastWriterWins;

    fn write(kind: Kind, level: Level) -> Action {
        Action::Write { kind, level, expires: false }
    }

    fn put() -> Action {
        write(LAST, Level::Quorum)
    }

    fn held(kind: Kind, found: &[u64]) -> Outcome {
        Outcome::Held { kind, found: found.iter().copied().map(OpId).collect(), total: 0 }
    }

    /// Each begins when the one before has ended, and they are numbered from 1.
    fn one_by_one(ops: &[(Action, Outcome)]) -> Vec<Entry> {
        let timed = (1..).zip(ops);
        timed.flat_map(|(id, (action, outcome))| op(id * 100, id * 100 + 50, id, *action, outcome.clone())).collect()
    }

    fn promises(entries: Vec<Entry>) -> Vec<String> {
        judged(check, entries).into_iter().map(|violation| violation.promise).collect()
    }

    /// What is wrong with a read at quorum after these.
    fn read(ops: &[(Action, Outcome)], outcome: Outcome) -> Vec<String> {
        promises(one_by_one(&[ops, &[(Action::Read(Level::Quorum), outcome)]].concat()))
    }

    #[test]
    fn the_last_value_is_found_and_no_other() {
        let ops = [(put(), done(&[])), (put(), done(&[]))];
        assert!(read(&ops, held(LAST, &[2])).is_empty());
        assert_eq!(read(&ops, held(LAST, &[1])), ["K5"]);
        assert_eq!(read(&ops, done(&[])), ["K3"]);
        assert_eq!(read(&ops, held(LAST, &[1, 2])), ["K5"]);
        assert_eq!(read(&ops, held(LAST, &[9])), ["K6"]);
        let one = Action::Read(Level::One);
        assert!(promises(one_by_one(&[&ops[..], &[(one, done(&[]))]].concat())).is_empty(), "it may be stale");
    }

    #[test]
    fn what_may_have_been_done_may_be_found_or_not() {
        let ops = |outcome| [(put(), done(&[])), (put(), outcome)];
        for found in [1, 2] {
            assert!(read(&ops(Outcome::Unknown), held(LAST, &[found])).is_empty());
        }
        assert_eq!(read(&ops(Outcome::NotApplied), held(LAST, &[2])), ["K6"]);
        assert_eq!(read(&ops(Outcome::Unknown), done(&[])), ["K3"]);
    }

    #[test]
    fn what_is_deleted_or_expires_need_not_be_found() {
        let erase = |outcome| [(put(), done(&[])), (Action::Erase(Level::Quorum), outcome)];
        assert!(read(&erase(Outcome::Unknown), held(LAST, &[1])).is_empty());
        assert!(read(&erase(done(&[])), done(&[])).is_empty());
        assert_eq!(read(&erase(done(&[])), held(LAST, &[1])), ["K5"]);
        let fading = Action::Write { kind: LAST, level: Level::Quorum, expires: true };
        assert!(read(&[(put(), done(&[])), (fading, done(&[]))], done(&[])).is_empty());
        assert_eq!(read(&[(Action::Erase(Level::Quorum), done(&[])), (put(), done(&[]))], done(&[])), ["K3"]);
    }

    /// A value that one replica has, then one that a quorum has and that did not see it.
    fn unseen(clock: Option<i64>, found: u64) -> Vec<String> {
        let clock = clock.map(|skew_ms| at(1, Event::Clock { host: Host(2), skew_ms, drift_ppm: 0 }));
        let mut entries: Vec<Entry> = clock.into_iter().collect();
        let ops = [(write(LAST, Level::One), done(&[])), (put(), done(&[]))];
        entries.extend(one_by_one(&[&ops[..], &[(Action::Read(Level::Quorum), held(LAST, &[found]))]].concat()));
        promises(entries)
    }

    #[test]
    fn of_two_that_did_not_see_each_other_clocks_decide() {
        assert!(unseen(None, 2).is_empty());
        assert_eq!(unseen(None, 1), ["K2"]);
        assert!(unseen(Some(1000), 1).is_empty(), "it may be by the clock that is ahead");
        assert!(unseen(Some(-1000), 1).is_empty(), "the other may be by the clock that is behind");
    }

    #[test]
    fn a_key_of_one_kind_refuses_others() {
        let set = write(Kind::Set, Level::Quorum);
        let ops = |outcome| [(put(), done(&[])), (set, outcome)];
        assert!(read(&ops(Outcome::OtherKind(LAST)), held(LAST, &[1])).is_empty());
        assert_eq!(read(&ops(Outcome::OtherKind(Kind::Map)), held(LAST, &[1])), ["K6"]);
        assert_eq!(read(&ops(done(&[])), held(Kind::Set, &[2])), ["K2", "K2"]);
        assert_eq!(read(&ops(Outcome::Unknown), held(Kind::Set, &[2])), ["K2"]);
        let erased = [(put(), done(&[])), (Action::Erase(Level::Quorum), Outcome::Unknown), (set, done(&[]))];
        assert!(read(&erased, held(Kind::Set, &[3])).is_empty());
    }

    /// A last value and a set that were written at the same time.
    fn at_once(outcome: Outcome) -> Vec<String> {
        let (mut entries, set) = (op(10, 20, 1, put(), done(&[])).to_vec(), write(Kind::Set, Level::Quorum));
        let [begin, end] = op(15, 25, 2, set, done(&[]));
        entries.insert(1, begin);
        entries.push(end);
        entries.extend(op(30, 40, 3, Action::Read(Level::Quorum), outcome));
        promises(entries)
    }

    #[test]
    fn of_two_kinds_the_greater_shows() {
        assert!(at_once(held(Kind::Set, &[2])).is_empty());
        assert_eq!(at_once(held(LAST, &[1])), ["K3"]);
        assert_eq!(at_once(held(Kind::Map, &[2])), ["K6"]);
        assert_eq!(at_once(held(Kind::Set, &[])), ["K3"]);
    }

    #[test]
    fn of_two_kinds_that_were_begun_at_once_the_greater_takes_more() {
        let set = write(Kind::Set, Level::Quorum);
        let begun = |more: Action, found: Outcome| {
            let [begin, end] = op(15, 25, 2, set, done(&[]));
            let [first, last] = op(10, 20, 1, put(), done(&[]));
            let mut entries = vec![first, begin, last, end];
            entries.extend(op(30, 40, 3, more, done(&[])));
            entries.extend(op(50, 60, 4, Action::Read(Level::Quorum), found));
            promises(entries)
        };
        assert!(begun(set, held(Kind::Set, &[2, 3])).is_empty());
        assert_eq!(begun(put(), held(Kind::Set, &[2])), ["K2"]);
        assert_eq!(begun(write(Kind::Map, Level::Quorum), held(Kind::Set, &[2])), ["K2", "K3"]);
    }

    #[test]
    fn a_counter_stands_at_what_was_added() {
        let add = write(Kind::Counter, Level::Quorum);
        let total = |total| Outcome::Held { kind: Kind::Counter, found: Vec::new(), total };
        let ops = [(add, done(&[])), (add, Outcome::Unknown)];
        assert!(read(&ops, total(1)).is_empty() && read(&ops, total(2)).is_empty());
        assert_eq!(read(&ops, total(0)), ["K3"]);
        assert_eq!(read(&ops, total(3)), ["K6"]);
    }

    /// A scan, and then a count, in the end.
    fn scanned(found: &[u64], count: u64) -> Vec<String> {
        let mut entries = one_by_one(&[(put(), done(&[])), (put(), done(&[]))]);
        entries.extend(repaired(1000));
        entries.extend(op(90_000, 90_010, 5, Action::Scan, done(found)));
        entries.extend(op(90_020, 90_030, 6, Action::Len, Outcome::Total(count)));
        promises(entries)
    }

    #[test]
    fn a_scan_finds_what_is_there_and_counts_are_those_of_scans() {
        assert!(scanned(&[2], 1).is_empty());
        assert_eq!(scanned(&[2], 2), ["K4"]);
        assert_eq!(scanned(&[], 0), ["K1"]);
        assert_eq!(scanned(&[1], 1), ["K5"]);
        assert_eq!(scanned(&[2, 9], 2), ["K6"]);
    }

    #[test]
    fn in_the_end_all_find_the_same() {
        let mut entries = one_by_one(&[(put(), done(&[])), (put(), Outcome::Unknown)]);
        entries.extend(repaired(1000));
        for (id, found) in [(5, 1), (6, 2)] {
            entries.extend(op(90_000 + id, 90_001 + id, id, Action::Read(Level::Quorum), held(LAST, &[found])));
        }
        assert_eq!(promises(entries), ["K4"]);
    }
}
