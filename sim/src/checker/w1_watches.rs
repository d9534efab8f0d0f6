//! W1, watches: what a watch gives was written, never goes back, begins with all that had been acknowledged, and ends at what a
//! quorum read finds.
//!
//! - Nothing is invented: each value is a put to that key that had begun, and that was not reported as not applied.
//! - Nothing comes back: neither what the watch was not told of any more, nor what had been seen by the writer of a value that it
//!   was told of, and replaced with that context.
//! - When it is said to be current, it accounts for every write that was acknowledged before it began, as a read would
//!   (see [`crate::causality`]), but for clusters that were founded apart.
//! - In the end, when the replicas have become equal, each watch of a process that runs is current, and what it was told last of each
//!   key is what the same node reads; but for what was never acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Violation, violation};
use crate::causality::Causality;
use crate::history::{Action, Basis, Event, Host, Op, OpId, Outcome, Stage};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let (mut watches, mut first): (BTreeMap<u64, Watch<'_>>, Vec<Op>) = Default::default();
    let mut violations = Vec::new();
    for (index, entry) in facts.history.entries.iter().enumerate() {
        match &entry.event {
            Event::Watching { host, watch, key, prefix, stage } => match stage {
                Stage::Begun => {
                    let begun = Watch { host: *host, key, prefix: *prefix, begun: index, ..Watch::default() };
                    watches.insert(*watch, begun);
                }
                Stage::Established => {
                    if let Some(watch) = watches.get_mut(watch) {
                        watch.is_current = true;
                        first.extend(watch.first(facts, index));
                    }
                }
                Stage::Over => drop(watches.remove(watch)),
            },
            Event::Told { host, watch, key, found } => {
                let told = match watches.get_mut(watch) {
                    Some(watch) if watch.host == *host && watch.concerns(key) => watch.told(facts, index, key, found),
                    _ => Err(format!("of {key}, which it is not about")),
                };
                if let Err(problem) = told {
                    violations.push(violation("W1", entry.at, format!("watch {watch:x} on {host} is told {problem}")));
                }
            }
            // A watch ends with its process.
            Event::Launched { host }
            | Event::Crashed { host, .. }
            | Event::Left { host }
            | Event::Stopped { host, .. } => watches.retain(|_, watch| watch.host != *host),
            _ => {}
        }
    }
    violations.extend(lacking(facts, first));
    if facts.is_repaired() {
        violations.extend(watches.iter().flat_map(|(id, watch)| watch.ends_well(facts, *id)));
    }
    violations
}

/// A watch, and what it was told so far.
struct Watch<'f> {
    host: Host,
    key: &'f str,
    prefix: bool,
    /// The index of the entry with which it begins.
    begun: usize,
    is_current: bool,
    shown: BTreeMap<&'f str, &'f [OpId]>,
    /// What must not come any more.
    gone: BTreeSet<OpId>,
}

impl Default for Watch<'_> {
    fn default() -> Self {
        let (shown, gone) = (BTreeMap::new(), BTreeSet::new());
        Self { host: Host(0), key: "", prefix: false, begun: 0, is_current: false, shown, gone }
    }
}

impl<'f> Watch<'f> {
    fn concerns(&self, key: &str) -> bool {
        if self.prefix { key.starts_with(self.key) } else { key == self.key }
    }

    fn told(&mut self, facts: &Facts<'_>, index: usize, key: &'f str, found: &'f [OpId]) -> Result<(), String> {
        let before = self.shown.insert(key, found).unwrap_or_default();
        self.gone.extend(before.iter().filter(|value| !found.contains(value)));
        for value in found {
            self.replaced_by(facts, *value);
        }
        for value in found {
            let was_written = facts.ops.get(value).is_some_and(|op| {
                let is_put = op.key == key && matches!(op.action, Action::Put(_));
                is_put && op.invoked < index && op.outcome != Outcome::NotApplied
            });
            if !was_written {
                return Err(format!("of {value} in {key}, which nobody had written"));
            }
            if self.gone.contains(value) {
                return Err(format!("of {value} in {key}, which is gone"));
            }
        }
        Ok(())
    }

    /// What the writer of a value had seen is gone, and what those had seen whom it saw.
    fn replaced_by(&mut self, facts: &Facts<'_>, value: OpId) {
        let mut todo = vec![value];
        while let Some(op) = todo.pop() {
            let Some(Basis::Of(seen)) = facts.ops.get(&op).and_then(|op| op.action.basis()) else { continue };
            let replaced = match facts.ops.get(&seen) {
                Some(read) if read.action == Action::Get => read.found().unwrap_or_default().to_vec(),
                _ => vec![seen],
            };
            todo.extend(replaced.into_iter().filter(|older| self.gone.insert(*older)));
        }
    }

    /// What it was told before it was current, as a read of each key that began and ended with it.
    fn first(&self, facts: &Facts<'_>, index: usize) -> Vec<Op> {
        let keys = facts.history.keys.iter().filter(|key| self.concerns(key));
        let first = keys.map(|key| Op {
            id: OpId(u64::MAX),
            host: self.host,
            key: key.clone(),
            action: Action::Get,
            invoked: self.begun,
            returned: Some(index),
            outcome: Outcome::Done(self.shown.get(key.as_str()).copied().unwrap_or_default().to_vec()),
        });
        first.collect()
    }

    /// Whether it has heard of all that the same node finds in the end.
    fn ends_well(&self, facts: &Facts<'_>, id: u64) -> Vec<Violation> {
        let Some(begin) = facts.final_reads else { return Vec::new() };
        // One that has begun just before may still be reading.
        if facts.at(self.begun) + facts.history.bounds.repair > facts.at(begin) {
            return Vec::new();
        }
        let (end, mut violations) = (facts.history.end(), Vec::new());
        if !self.is_current {
            violations.push(violation("W1", end, format!("watch {id:x} on {} is never current", self.host)));
        }
        let reads = facts.ops.values().filter(|op| facts.is_final(op) && op.host == self.host);
        for read in reads.filter(|op| op.action == Action::Get && self.concerns(&op.key)) {
            let shown = self.shown.get(read.key.as_str()).copied().unwrap_or_default();
            let Some(found) = read.found() else { continue };
            // What was never acknowledged may have been lost with the only replica that had it, after that had told of it.
            let may_be_lost = |value: &OpId| facts.ops.get(value).is_some_and(|op| !op.is_done());
            let is_behind = found.iter().any(|value| !shown.contains(value));
            if is_behind || shown.iter().any(|value| !found.contains(value) && !may_be_lost(value)) {
                let text = format!(
                    "watch {id:x} on {} was told last of {shown:?} in {}, and {} finds {found:?}",
                    self.host, read.key, read.id
                );
                violations.push(violation("W1", end, text));
            }
        }
        violations
    }
}

/// What was acknowledged before a watch began, and neither told nor replaced when it was current.
fn lacking(facts: &Facts<'_>, first: Vec<Op>) -> Vec<Violation> {
    if first.is_empty() {
        return Vec::new();
    }
    let causality = Causality::new(&facts.ops);
    let is_apart = |read: &Op| (read.invoked..=read.returned.unwrap_or(read.invoked)).any(|at| facts.is_apart(at));
    let judged = first.into_iter().filter(|read| !is_apart(read));
    let lacking = judged.map(|read| (causality.missing(&read), read)).filter(|(missing, _)| !missing.is_empty());
    let violations = lacking.map(|(missing, read)| {
        let missing: Vec<OpId> = missing.iter().map(|write| write.id).collect();
        let text = format!(
            "a watch on {} is current with {:?} in {}, and without {missing:?}, which it began after",
            read.host,
            read.found().unwrap_or_default(),
            read.key
        );
        violation("W1", facts.at(read.returned.unwrap_or(usize::MAX)), text)
    });
    violations.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op, start};
    use crate::checker::judged;
    use crate::history::Entry;

    const PUT: Action = Action::Put(Basis::Quorum);

    fn watching(ms: u64, stage: Stage) -> Entry {
        at(ms, Event::Watching { host: Host(0), watch: 7, key: "k".to_owned(), prefix: true, stage })
    }

    fn told(ms: u64, found: &[u64]) -> Entry {
        let found = found.iter().copied().map(OpId).collect();
        at(ms, Event::Told { host: Host(0), watch: 7, key: "k".to_owned(), found })
    }

    /// A watch begins after one put, and is told something, current or not.
    fn judge(middle: Vec<Entry>, last: &[u64]) -> Vec<String> {
        let mut entries = start(0, 0, 1).to_vec();
        entries.extend(op(1, 2, 1, PUT, done(&[])));
        entries.push(watching(3, Stage::Begun));
        entries.extend(middle);
        entries.extend([at(1_000, Event::Healed), at(1_010, Event::Settled { host: Host(0) })]);
        entries.push(at(101_000, Event::FinalReads));
        entries.extend(op(101_010, 101_020, 99, Action::Get, done(last)));
        judged(check, entries).into_iter().map(|violation| violation.text).collect()
    }

    fn current() -> Vec<Entry> {
        vec![told(4, &[1]), watching(5, Stage::Established)]
    }

    #[test]
    fn one_that_is_told_what_is_there_and_what_comes_is_good() {
        let mut entries = current();
        let [begin, end] = op(10, 30, 2, PUT, done(&[]));
        entries.extend([begin, told(20, &[2]), end]);
        assert_eq!(judge(entries, &[2]), Vec::<String>::new());
        let mut skips = current();
        skips.extend(op(10, 20, 2, PUT, done(&[])));
        skips.extend(op(30, 40, 3, Action::Delete(Basis::Quorum), done(&[])));
        skips.push(told(50, &[]));
        assert_eq!(judge(skips, &[]), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_invented() {
        let with = |value: u64| [current(), vec![told(20, &[value])]].concat();
        assert!(judge(with(8), &[1])[0].ends_with("which nobody had written"));
        let mut denied = current();
        denied.extend(op(10, 20, 2, PUT, Outcome::NotApplied));
        denied.extend([told(30, &[2]), told(40, &[])]);
        assert!(judge(denied, &[])[0].ends_with("which nobody had written"));
        let other = at(20, Event::Told { host: Host(0), watch: 7, key: "other".to_owned(), found: Vec::new() });
        assert!(judge([current(), vec![other]].concat(), &[1])[0].ends_with("which it is not about"));
    }

    #[test]
    fn nothing_comes_back() {
        let mut entries = current();
        entries.extend(op(10, 20, 2, PUT, done(&[])));
        entries.extend([told(30, &[2]), told(40, &[1]), told(50, &[2])]);
        let texts = judge(entries, &[2]);
        assert!(texts.len() == 2 && texts.iter().all(|text| text.ends_with("which is gone")), "{texts:?}");
        // What was replaced with a context need not have been shown.
        let mut unseen = vec![told(4, &[1]), watching(5, Stage::Established)];
        unseen.extend(op(10, 20, 2, PUT, done(&[])));
        unseen.extend(op(30, 40, 3, Action::Get, done(&[2])));
        unseen.extend(op(50, 60, 4, Action::Put(Basis::Of(OpId(3))), Outcome::Unknown));
        unseen.extend([told(70, &[4]), told(80, &[2, 4])]);
        assert!(judge(unseen, &[2, 4])[0].ends_with("#2 in k, which is gone"));
    }

    #[test]
    fn one_that_is_current_has_told_all_that_was_acknowledged() {
        let texts = judge(vec![watching(5, Stage::Established), told(6, &[1])], &[1]);
        assert!(texts.len() == 1 && texts[0].contains("without [#1]"), "{texts:?}");
        let mut newer = op(4, 8, 2, PUT, Outcome::Unknown).to_vec();
        newer.extend([told(9, &[2]), watching(10, Stage::Established)]);
        assert_eq!(judge(newer, &[2]), Vec::<String>::new());
    }

    #[test]
    fn one_that_is_behind_in_the_end_or_never_current_is_bad() {
        let mut behind = current();
        behind.extend(op(10, 20, 2, PUT, done(&[])));
        assert!(judge(behind.clone(), &[2])[0].contains("was told last of [#1] in k"));
        assert!(judge(vec![told(4, &[1])], &[1])[0].ends_with("is never current"));
        // One that was over, or whose process was killed, or that has just begun, need not.
        for end in [watching(30, Stage::Over), at(30, Event::Crashed { host: Host(0), wiped: false })] {
            assert_eq!(judge([behind.clone(), vec![end]].concat(), &[2]), Vec::<String>::new());
        }
    }
}
