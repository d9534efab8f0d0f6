//! What was written and what the clients were told, and whether what is read agrees with it.
//!
//! The ledger is kept outside of the cluster. Every attempt to write is entered before it is sent, under a stamp of its
//! own, and closed with what the client was told. Its clock counts entries, so "before" and "after" are those of this one
//! process.
//!
//! Every value names the values that it replaced. A write is *covered* by what a read returns if it is among the values,
//! or was replaced by one that is covered. An acknowledged write that is not covered is missing. After the last fault has
//! been repaired a missing write is lost; before, it makes a read stale.
//!
//! Of a write with an unknown outcome that no read has returned we do not know what it replaced. Then a write that was
//! acknowledged before that one was begun counts as covered; one that ran beside it is counted as unclear, apart from all
//! others.

use std::collections::{BTreeMap, BTreeSet};

use crate::value::{self, Stamp, Stored};

/// What the client was told of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    UnderWay,
    Acknowledged,
    /// It may have been applied.
    Unknown,
    /// It was not applied, and never will be.
    NotApplied,
}

#[derive(Debug)]
struct Write {
    key: u32,
    size: u32,
    begun: u64,
    ended: u64,
    fate: Fate,
    /// What it replaced, as far as it is known.
    replaced: Option<Vec<Stamp>>,
    /// Whether a read has returned it.
    seen: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    clock: u64,
    writes: Vec<Write>,
    by_key: BTreeMap<u32, Vec<Stamp>>,
}

/// What a read of one key shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Acknowledged writes that are not covered.
    pub(crate) missing: usize,
    /// Acknowledged writes that may or may not be covered.
    pub(crate) unclear: usize,
    /// Values that nobody wrote to this key like this.
    pub(crate) damaged: usize,
}

impl Ledger {
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    pub(crate) fn begin(&mut self, key: u32, size: u32) -> Stamp {
        self.clock += 1;
        let stamp = self.writes.len() as Stamp;
        let (begun, fate) = (self.clock, Fate::UnderWay);
        self.writes.push(Write { key, size, begun, ended: u64::MAX, fate, replaced: None, seen: false });
        self.by_key.entry(key).or_default().push(stamp);
        stamp
    }

    /// `replaced` is what the write is known to have replaced.
    pub(crate) fn end(&mut self, stamp: Stamp, fate: Fate, replaced: Option<Vec<Stamp>>) {
        self.clock += 1;
        let write = &mut self.writes[stamp as usize];
        (write.ended, write.fate) = (self.clock, fate);
        if replaced.is_some() {
            write.replaced = replaced;
        }
    }

    pub(crate) fn keys(&self) -> Vec<u32> {
        self.by_key.keys().copied().collect()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| write.fate == Fate::Acknowledged).count()
    }

    /// Writes that a read has returned although their clients were told that they were not applied.
    pub(crate) fn ghosts(&self) -> usize {
        self.writes.iter().filter(|write| write.fate == Fate::NotApplied && write.seen).count()
    }

    /// Compares what a read that began at `as_of` has returned with what was acknowledged by then.
    pub(crate) fn inspect(&mut self, key: u32, as_of: u64, values: &[Stored]) -> Finding {
        let mut finding = Finding::default();
        let mut found = Vec::new();
        for stored in values {
            match stored.stamp().filter(|stamp| self.wrote(key, *stamp, &stored.body)) {
                Some(stamp) => {
                    found.push(stamp);
                    let write = &mut self.writes[stamp as usize];
                    write.seen = true;
                    write.replaced.get_or_insert_with(|| stored.replaced.clone());
                }
                None => finding.damaged += 1,
            }
        }
        let due: Vec<Stamp> = self.by_key.get(&key).into_iter().flatten().copied().collect();
        let due = due.into_iter().filter(|stamp| {
            let write = &self.writes[*stamp as usize];
            write.fate == Fate::Acknowledged && write.ended <= as_of && !found.contains(stamp)
        });
        let mut due = due.peekable();
        if due.peek().is_none() {
            return finding;
        }
        let (covered, obscure_since) = self.cover(&found);
        for stamp in due.filter(|stamp| !covered.contains(stamp)) {
            match obscure_since {
                Some(begun) if begun > self.writes[stamp as usize].ended => {}
                Some(_) => finding.unclear += 1,
                None => finding.missing += 1,
            }
        }
        finding
    }

    fn wrote(&self, key: u32, stamp: Stamp, body: &[u8]) -> bool {
        usize::try_from(stamp)
            .ok()
            .and_then(|at| self.writes.get(at))
            .is_some_and(|write| write.key == key && value::body(stamp, write.size) == body)
    }

    /// All that these cover, and when the newest of those began of which it is not known what they replaced.
    fn cover(&self, found: &[Stamp]) -> (BTreeSet<Stamp>, Option<u64>) {
        let (mut covered, mut obscure_since) = (BTreeSet::new(), None);
        let mut next = found.to_vec();
        while let Some(stamp) = next.pop() {
            let Some(write) = self.writes.get(stamp as usize) else { continue };
            if !covered.insert(stamp) {
                continue;
            }
            match &write.replaced {
                Some(replaced) => next.extend(replaced),
                None => obscure_since = obscure_since.max(Some(write.begun)),
            }
        }
        (covered, obscure_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(ledger: &mut Ledger, replaced: &[Stamp]) -> Stamp {
        let stamp = ledger.begin(1, 20);
        ledger.end(stamp, Fate::Acknowledged, Some(replaced.to_vec()));
        stamp
    }

    fn stored(stamp: Stamp, replaced: &[Stamp]) -> Stored {
        Stored { replaced: replaced.to_vec(), body: value::body(stamp, 20) }
    }

    fn inspect(ledger: &mut Ledger, values: &[Stored]) -> Finding {
        ledger.inspect(1, ledger.now(), values)
    }

    #[test]
    fn what_is_there_or_was_replaced_by_what_is_there_is_covered() {
        let mut ledger = Ledger::default();
        let a = acknowledged(&mut ledger, &[]);
        let b = acknowledged(&mut ledger, &[a]);
        let c = acknowledged(&mut ledger, &[b]);
        assert_eq!(inspect(&mut ledger, &[stored(c, &[b])]), Finding::default());
        assert_eq!(inspect(&mut ledger, &[stored(b, &[a])]).missing, 1);
        assert_eq!(inspect(&mut ledger, &[]).missing, 3);
    }

    #[test]
    fn a_later_write_that_did_not_replace_it_does_not_excuse_a_lost_one() {
        let mut ledger = Ledger::default();
        acknowledged(&mut ledger, &[]);
        let b = acknowledged(&mut ledger, &[]);
        assert_eq!(inspect(&mut ledger, &[stored(b, &[])]).missing, 1);
    }

    #[test]
    fn what_a_write_of_unknown_outcome_replaced_is_learnt_or_unclear() {
        let mut ledger = Ledger::default();
        let a = acknowledged(&mut ledger, &[]);
        let beside = ledger.begin(1, 20);
        let unknown = ledger.begin(1, 20);
        ledger.end(beside, Fate::Acknowledged, Some(vec![a]));
        ledger.end(unknown, Fate::Unknown, None);
        let last = acknowledged(&mut ledger, &[unknown]);
        let read = [stored(last, &[unknown])];
        assert_eq!(inspect(&mut ledger, &read), Finding { unclear: 1, ..Finding::default() });
        inspect(&mut ledger, &[stored(unknown, &[beside])]);
        assert_eq!(inspect(&mut ledger, &read), Finding::default());
    }

    #[test]
    fn a_read_owes_only_what_was_acknowledged_before_it_began() {
        let mut ledger = Ledger::default();
        let began = ledger.now();
        acknowledged(&mut ledger, &[]);
        assert_eq!(ledger.inspect(1, began, &[]), Finding::default());
    }

    #[test]
    fn what_nobody_wrote_and_what_was_refused_is_found() {
        let mut ledger = Ledger::default();
        let a = acknowledged(&mut ledger, &[]);
        let mut damaged = stored(a, &[]);
        damaged.body[15] ^= 1;
        assert_eq!(inspect(&mut ledger, &[damaged]), Finding { missing: 1, damaged: 1, unclear: 0 });
        assert_eq!(inspect(&mut ledger, &[stored(a, &[]), stored(99, &[])]).damaged, 1);
        let refused = ledger.begin(1, 20);
        ledger.end(refused, Fate::NotApplied, None);
        assert_eq!(ledger.ghosts(), 0);
        inspect(&mut ledger, &[stored(a, &[]), stored(refused, &[])]);
        assert_eq!(ledger.ghosts(), 1);
    }
}
