//! Which writes may have been replaced by which: what tells a lost value from a superseded one.
//!
//! The clients do not look into causal contexts, so the checkers judge the store without believing it. A read *accounts
//! for* a write if it found it, or if what it found may have replaced it. Replacing takes time, and that is what bounds
//! it: whoever is seen at one moment has chosen before that moment what it replaces. So each step has a *horizon*:
//!
//! - A read accounts for what it found, and for every delete that began before it ended, which leaves nothing to be
//!   seen; up to the horizon of its own end.
//! - A write without a context, up to a horizon, accounts for every write that began before both the horizon and its own
//!   end. It ends when its caller is told, or when a first read has found it, whichever is earlier; one whose outcome is
//!   unknown and that nobody has found may end at any time.
//! - A write with the context of an operation accounts for what that operation's caller saw, which is what the read
//!   returned, or the write; up to the horizon of that operation's end.
//!
//! # How it is found quickly
//! A read lacks something if and only if it lacks one of the newest: of the writes that were acknowledged before it, those
//! that no other of them replaces which began later, be it by way of others. There are as many of them as there are siblings. Only for a read
//! that lacks one are all others looked at.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Basis, Op, OpId, Outcome};

/// The operations on registers of a history, by key.
#[derive(Debug)]
pub struct Causality<'a> {
    ops: &'a BTreeMap<OpId, Op>,
    registers: BTreeMap<&'a str, Register<'a>>,
    /// When the first read that found a value ended, as the index of an entry.
    seen: BTreeMap<OpId, usize>,
}

/// One key. Everything is in the order in which it began.
#[derive(Debug, Default)]
struct Register<'a> {
    /// Writes that may have been applied.
    writes: Vec<&'a Op>,
    /// Reads that succeeded.
    reads: Vec<&'a Op>,
    /// Deletes with a context.
    deletes: Vec<&'a Op>,
    /// For each delete without a context: when it began, and the latest end of it and those before.
    blind: Vec<(usize, usize)>,
}

impl<'a> Causality<'a> {
    /// Orders the operations of a history.
    #[must_use]
    pub fn new(ops: &'a BTreeMap<OpId, Op>) -> Self {
        let mut registers: BTreeMap<&str, Register<'a>> = BTreeMap::new();
        let mut seen: BTreeMap<OpId, usize> = BTreeMap::new();
        for op in ops.values() {
            // A write that was not applied covers nothing. (That it is never seen is another promise, K6.)
            if op.is_write() && op.outcome != Outcome::NotApplied {
                registers.entry(&op.key).or_default().writes.push(op);
            }
            if let (Action::Get, Some(found), Some(end)) = (op.action, op.found(), op.returned) {
                registers.entry(&op.key).or_default().reads.push(op);
                for value in found {
                    seen.entry(*value).and_modify(|first| *first = end.min(*first)).or_insert(end);
                }
            }
        }
        let mut causality = Self { ops, registers: BTreeMap::new(), seen };
        for register in registers.values_mut() {
            let deletes = register.writes.iter().filter(|write| matches!(write.action, Action::Delete(_)));
            let (blind, deletes): (Vec<_>, _) = deletes.partition(|op| op.action.basis() == Some(Basis::Quorum));
            register.deletes = deletes;
            let mut latest = 0;
            for delete in blind {
                latest = causality.end(delete).max(latest);
                register.blind.push((delete.invoked, latest));
            }
        }
        causality.registers = registers;
        causality
    }

    /// Whether `newer` may have replaced `older`, a write to the same key, by itself.
    #[must_use]
    pub fn may_cover(&self, newer: &Op, older: &Op) -> bool {
        match newer.action.basis() {
            None => false,
            Some(Basis::Quorum) => newer.id != older.id && older.invoked < self.end(newer),
            Some(Basis::Of(seen)) => self.context(seen).any(|id| id == older.id),
        }
    }

    /// The writes to the key of a read that were acknowledged before it began, and that it does not account for.
    #[must_use]
    pub fn missing(&self, read: &Op) -> Vec<&'a Op> {
        let Some(register) = self.registers.get(read.key.as_str()) else { return Vec::new() };
        let acknowledged_before = |write: &&&'a Op| is_acknowledged_put(write) && write.returned < Some(read.invoked);
        let mut open: Vec<&Op> = register.writes.iter().filter(acknowledged_before).copied().collect();
        self.account(register, read, &mut open);
        open
    }

    /// Whether a read accounts for a write to its key.
    #[must_use]
    pub fn accounts_for(&self, read: &Op, write: &'a Op) -> bool {
        let mut open = vec![write];
        if let Some(register) = self.registers.get(read.key.as_str()) {
            self.account(register, read, &mut open);
        }
        open.is_empty()
    }

    /// The reads that lack something, with all that [`Causality::missing`] says of them.
    #[must_use]
    pub fn lacking(&self) -> Vec<(&'a Op, Vec<&'a Op>)> {
        let mut lacking = Vec::new();
        for register in self.registers.values() {
            let mut acknowledged: Vec<&Op> =
                register.writes.iter().filter(|write| write.is_acknowledged_write()).copied().collect();
            acknowledged.sort_by_key(|write| write.returned);
            let mut acknowledged = acknowledged.into_iter().peekable();
            let (mut newest, mut open) = (Newest::default(), Vec::new());
            for read in &register.reads {
                while let Some(write) = acknowledged.next_if(|write| write.returned < Some(read.invoked)) {
                    newest.take(self, write);
                }
                open.clone_from(&newest.writes);
                self.account(register, read, &mut open);
                if !open.is_empty() {
                    lacking.push((*read, self.missing(read)));
                }
            }
        }
        lacking
    }

    /// Removes from `open` what a read accounts for.
    fn account(&self, register: &Register<'a>, read: &Op, open: &mut Vec<&'a Op>) {
        let (Some(found), Some(end)) = (read.found(), read.returned) else { return open.clear() };
        open.retain(|write| !found.contains(&write.id));
        let before = register.blind.partition_point(|(begun, _)| *begun < end);
        if let Some(last) = before.checked_sub(1) {
            let (_, reach) = register.blind[last];
            open.retain(|write| write.invoked >= reach.min(end));
        }
        let Some(oldest) = open.iter().map(|write| write.invoked).min() else { return };
        // A delete with a context saw nothing that began after it.
        let deletes = &register.deletes;
        let deletes = deletes.iter().skip(deletes.partition_point(|delete| delete.invoked < oldest));
        let deletes = deletes.take_while(|delete| delete.invoked < end).copied();
        let found = found.iter().filter_map(|id| self.ops.get(id));
        let mut reached: Vec<(&Op, usize)> = found.chain(deletes).map(|write| (write, end)).collect();
        let mut met = BTreeSet::new();
        while let Some((write, horizon)) = reached.pop() {
            open.retain(|older| older.id != write.id);
            match write.action.basis() {
                None => {}
                Some(Basis::Quorum) => {
                    let reach = self.end(write).min(horizon);
                    open.retain(|older| older.invoked >= reach);
                }
                Some(Basis::Of(seen)) => {
                    let horizon = self.ops.get(&seen).and_then(|seen| seen.returned).unwrap_or(0);
                    if horizon > oldest && met.insert(write.id) {
                        let next = self.context(seen).filter_map(|id| self.ops.get(&id));
                        reached.extend(next.filter(|next| next.key == read.key).map(|next| (next, horizon)));
                    }
                }
            }
            if open.is_empty() {
                return;
            }
        }
    }

    /// The writes that the context of an operation names.
    fn context(&self, of: OpId) -> impl Iterator<Item = OpId> + use<'a> {
        let op = self.ops.get(&of);
        let (found, own) = match op {
            Some(read) if read.action == Action::Get => (read.found().unwrap_or_default(), None),
            other => (&[][..], other.map(|write| write.id)),
        };
        found.iter().copied().chain(own)
    }

    /// The index of the entry from which on a write replaces nothing more.
    fn end(&self, write: &Op) -> usize {
        let told = if write.outcome == Outcome::Unknown { None } else { write.returned };
        let seen = self.seen.get(&write.id).copied();
        told.into_iter().chain(seen).min().unwrap_or(usize::MAX)
    }
}

/// Of the writes that were acknowledged so far, those that no other of them replaces which began later, be it by way of
/// others that were seen and whose callers may not know it.
#[derive(Default)]
struct Newest<'a> {
    writes: Vec<&'a Op>,
    /// When the last of those without a context began that replace what was before.
    blind: usize,
    /// What those with a context replace.
    replaced: BTreeSet<OpId>,
}

impl<'a> Newest<'a> {
    /// Another one is acknowledged.
    fn take(&mut self, causality: &Causality<'a>, write: &'a Op) {
        let mut next = vec![write.id];
        while let Some(write) = next.pop().and_then(|id| causality.ops.get(&id)) {
            match write.action.basis() {
                Some(Basis::Of(seen)) => {
                    // What was replaced before has passed on what it replaces.
                    next.extend(causality.context(seen).filter(|older| self.replaced.insert(*older)));
                }
                Some(Basis::Quorum) => self.blind = self.blind.max(write.invoked),
                None => {}
            }
        }
        if is_acknowledged_put(&write) {
            self.writes.push(write);
        }
        let (blind, replaced) = (self.blind, &self.replaced);
        self.writes.retain(|older| older.invoked >= blind && !replaced.contains(&older.id));
    }
}

fn is_acknowledged_put(write: &&Op) -> bool {
    matches!(write.action, Action::Put(_)) && write.is_done()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::StdRng;
    use rand::seq::{IndexedRandom as _, IteratorRandom as _};
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::history::{Entry, Event, Host};

    fn entry(event: Event) -> Entry {
        Entry { at: Duration::ZERO, event }
    }

    fn begin(op: u64, action: Action) -> Entry {
        entry(Event::Invoked { op: OpId(op), host: Host(0), key: "k".to_owned(), action })
    }

    fn end(op: u64, outcome: Outcome) -> Entry {
        entry(Event::Returned { op: OpId(op), outcome })
    }

    /// `(op, action, outcome)`: begins and ends at once, in this order.
    fn history(ops: &[(u64, Action, Outcome)]) -> BTreeMap<OpId, Op> {
        let entries = ops.iter().flat_map(|(op, action, outcome)| [begin(*op, *action), end(*op, outcome.clone())]);
        crate::checker::by_hand(entries.collect()).ops()
    }

    fn read(values: &[u64]) -> Outcome {
        Outcome::Done(values.iter().copied().map(OpId).collect())
    }

    const PUT: Action = Action::Put(Basis::Quorum);

    fn missing_of(ops: &BTreeMap<OpId, Op>, read: u64) -> Vec<u64> {
        let causality = Causality::new(ops);
        let missing: Vec<u64> = causality.missing(&ops[&OpId(read)]).iter().map(|op| op.id.0).collect();
        let lacks = causality.lacking().iter().any(|(lacking, _)| lacking.id == OpId(read));
        assert_eq!(lacks, !missing.is_empty(), "the quick way says the same");
        missing
    }

    fn missing(ops: &[(u64, Action, Outcome)], read: u64) -> Vec<u64> {
        missing_of(&history(ops), read)
    }

    #[test]
    fn a_later_write_accounts_for_an_earlier_and_not_the_other_way() {
        let done = || read(&[]);
        assert!(missing(&[(0, PUT, done()), (1, PUT, done()), (2, Action::Get, read(&[1]))], 2).is_empty());
        assert_eq!(missing(&[(0, PUT, done()), (1, PUT, done()), (2, Action::Get, read(&[0]))], 2), [1]);
        assert_eq!(missing(&[(0, PUT, done()), (1, PUT, done()), (2, Action::Get, read(&[]))], 2), [0, 1]);
    }

    #[test]
    fn a_write_with_a_context_accounts_for_what_its_reader_saw_only() {
        let with = |op| Action::Put(Basis::Of(OpId(op)));
        let seen = [
            (0, PUT, read(&[])),
            (1, Action::Get, read(&[0])),
            (2, PUT, read(&[])),
            (3, with(1), read(&[])),
            (4, Action::Get, read(&[3])),
        ];
        assert_eq!(missing(&seen, 4), [2], "the reader had not seen 2");
        let chain = [(0, PUT, read(&[])), (1, with(0), read(&[])), (2, Action::Get, read(&[1]))];
        assert!(missing(&chain, 2).is_empty(), "the context of a write covers it");
    }

    #[test]
    fn an_unknown_write_accounts_for_others_only_if_it_is_seen() {
        let seen = [(0, PUT, Outcome::Unknown), (1, PUT, read(&[])), (2, Action::Get, read(&[0]))];
        assert!(missing(&seen, 2).is_empty(), "it may have come late");
        let unseen = [(0, PUT, read(&[])), (1, PUT, Outcome::Unknown), (2, Action::Get, read(&[]))];
        assert_eq!(missing(&unseen, 2), [0], "nothing that was found covers it");
    }

    #[test]
    fn an_unknown_write_accounts_for_nothing_that_began_after_it_was_seen_or_replaced() {
        let seen = [
            (0, PUT, Outcome::Unknown),
            (1, Action::Get, read(&[0])),
            (2, PUT, read(&[])),
            (3, Action::Get, read(&[0])),
        ];
        assert_eq!(missing(&seen, 3), [2], "it was there before 2 began");
        let replaced =
            [(0, PUT, Outcome::Unknown), (1, PUT, read(&[])), (2, PUT, read(&[])), (3, Action::Get, read(&[1]))];
        assert_eq!(missing(&replaced, 3), [2], "if 1 has replaced it, it was there before 2 began");
    }

    #[test]
    fn a_delete_accounts_for_what_it_may_cover_unless_it_was_not_applied() {
        let delete = Action::Delete(Basis::Quorum);
        assert!(
            missing(&[(0, PUT, read(&[])), (1, delete, Outcome::Unknown), (2, Action::Get, read(&[]))], 2).is_empty()
        );
        let not_applied = [(0, PUT, read(&[])), (1, delete, Outcome::NotApplied), (2, Action::Get, read(&[]))];
        assert_eq!(missing(&not_applied, 2), [0]);
        let of_nothing = [
            (0, Action::Get, read(&[])),
            (1, PUT, read(&[])),
            (2, Action::Delete(Basis::Of(OpId(0))), read(&[])),
            (3, Action::Get, read(&[])),
        ];
        assert_eq!(missing(&of_nothing, 3), [1], "the delete had seen nothing");
    }

    /// The definition of the module's text, step by step.
    fn plainly_missing<'a>(ops: &'a BTreeMap<OpId, Op>, read: &Op) -> Vec<&'a Op> {
        let causality = Causality::new(ops);
        let end_of = |write: &Op| causality.end(write);
        let writes = || ops.values().filter(|op| op.is_write() && op.outcome != Outcome::NotApplied);
        let (found, end) = (read.found().expect("it succeeded"), read.returned.expect("it ended"));
        let is_delete = |op: &Op| matches!(op.action, Action::Delete(_));
        let mut steps: Vec<(OpId, usize)> = found.iter().map(|value| (*value, end)).collect();
        steps.extend(writes().filter(|op| is_delete(op) && op.invoked < end).map(|op| (op.id, end)));
        let mut at = 0;
        while at < steps.len() {
            let (write, horizon) = (&ops[&steps[at].0], steps[at].1);
            let next: Vec<(OpId, usize)> = match write.action.basis().expect("a write") {
                Basis::Quorum => {
                    let reach = end_of(write).min(horizon);
                    writes().filter(|older| older.invoked < reach).map(|older| (older.id, reach)).collect()
                }
                Basis::Of(seen) => {
                    let seen = &ops[&seen];
                    let horizon = seen.returned.expect("it ended");
                    let values = if seen.is_write() { vec![seen.id] } else { seen.found().expect("a read").to_vec() };
                    values.into_iter().map(|value| (value, horizon)).collect()
                }
            };
            for step in next {
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
            at += 1;
        }
        let is_open = |op: &&Op| {
            is_acknowledged_put(op) && op.returned < Some(read.invoked) && steps.iter().all(|(id, _)| *id != op.id)
        };
        ops.values().filter(is_open).collect()
    }

    /// Any history of one key that a client could have met: contexts and values come from the past.
    fn drawn(rng: &mut StdRng) -> BTreeMap<OpId, Op> {
        let (mut entries, mut open): (Vec<Entry>, Vec<(u64, bool)>) = (Vec::new(), Vec::new());
        let (mut begun, mut contexts): (Vec<OpId>, Vec<OpId>) = (Vec::new(), Vec::new());
        let blind = rng.random_range(0.0..1.0);
        for op in 0..rng.random_range(3..30) {
            let basis = match contexts.choose(rng) {
                Some(seen) if !rng.random_bool(blind) => Basis::Of(*seen),
                _ => Basis::Quorum,
            };
            let action = match rng.random_range(0..10) {
                0 => Action::Delete(basis),
                1..5 => Action::Put(basis),
                _ => Action::Get,
            };
            entries.push(begin(op, action));
            open.push((op, action == Action::Get));
            if matches!(action, Action::Put(_)) {
                begun.push(OpId(op));
            }
            while !open.is_empty() && rng.random_bool(0.6) {
                let (op, is_read) = open.swap_remove(rng.random_range(0..open.len()));
                let recent = begun.iter().copied().skip(begun.len().saturating_sub(4));
                let several = rng.random_range(0..3);
                let outcome = match rng.random_range(0..8) {
                    0 => Outcome::Unknown,
                    1 => Outcome::NotApplied,
                    _ if is_read => Outcome::Done(recent.sample(rng, several)),
                    _ => Outcome::Done(Vec::new()),
                };
                if matches!(outcome, Outcome::Done(_)) {
                    contexts.push(OpId(op));
                }
                entries.push(end(op, outcome));
            }
        }
        crate::checker::by_hand(entries).ops()
    }

    #[test]
    fn the_quick_way_finds_what_the_definition_says() {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut reads, mut lacking) = (0, 0);
        for round in 0..4000 {
            let ops = drawn(&mut rng);
            for read in ops.values().filter(|op| op.action == Action::Get && op.found().is_some()) {
                let plainly: Vec<u64> = plainly_missing(&ops, read).iter().map(|op| op.id.0).collect();
                assert_eq!(missing_of(&ops, read.id.0), plainly, "round {round}, {:?} of {ops:#?}", read.id);
                reads += 1;
                lacking += usize::from(!plainly.is_empty());
            }
        }
        assert!(lacking > 1000 && reads > lacking * 2, "both happen: {lacking} of {reads}");
    }
}
