//! What the checkers of sets and of commands share: both are read as lists of numbers that only grow.

use std::collections::BTreeMap;

use super::Facts;
use crate::history::{Action, Op, OpId, Outcome};

/// A number that clients have tried to put into a list.
#[derive(Debug)]
pub(super) struct Number {
    /// What it is known by.
    pub(super) id: OpId,
    /// When it was tried first.
    pub(super) tried: usize,
    /// When an attempt was acknowledged first.
    pub(super) acknowledged: Option<usize>,
    /// Whether any attempt may have been applied, as those who tried were told.
    pub(super) is_possible: bool,
}

/// The list under one key.
#[derive(Debug, Default)]
pub(super) struct List<'f> {
    /// In order.
    pub(super) numbers: Vec<Number>,
    /// The reads that succeeded, in the order in which they began.
    pub(super) reads: Vec<&'f Op>,
}

/// Gathers the lists that are read by `read`. `number` says what an operation tries to put in, if it is a write.
pub(super) fn lists<'f>(
    facts: &'f Facts<'_>,
    read: Action,
    number: fn(&Op) -> Option<OpId>,
) -> BTreeMap<&'f str, List<'f>> {
    let mut lists: BTreeMap<&str, (BTreeMap<OpId, Number>, Vec<&Op>)> = BTreeMap::new();
    for op in facts.ops.values() {
        if let Some(id) = number(op) {
            let (numbers, _) = lists.entry(&op.key).or_default();
            let new = || Number { id, tried: op.invoked, acknowledged: None, is_possible: false };
            let number = numbers.entry(id).or_insert_with(new);
            number.is_possible |= op.outcome != Outcome::NotApplied;
            if let (Outcome::Done(_), Some(at)) = (&op.outcome, op.returned) {
                number.acknowledged = Some(number.acknowledged.map_or(at, |first| first.min(at)));
            }
        } else if op.action == read && op.found().is_some() {
            lists.entry(&op.key).or_default().1.push(op);
        }
    }
    let list = |(numbers, reads): (BTreeMap<_, _>, _)| List { numbers: numbers.into_values().collect(), reads };
    lists.into_iter().map(|(key, parts)| (key, list(parts))).collect()
}

/// What a read says of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is there once.
    There,
    /// It is there more than once.
    Repeated,
    /// It is not there.
    Absent,
    /// It is there, and nobody has tried to put it in.
    Stray(OpId),
}

/// Compares a read with the numbers of its list, both in order. The index is that of the number; for a stray one, of the
/// next greater.
pub(super) fn compare(numbers: &[Number], read: &Op, mut each: impl FnMut(usize, Said)) {
    let mut sorted;
    let mut found = read.found().unwrap_or_default();
    if !found.is_sorted() {
        sorted = found.to_vec();
        sorted.sort_unstable();
        found = &sorted;
    }
    let mut found = found.iter().copied().peekable();
    for (index, number) in numbers.iter().enumerate() {
        while let Some(stray) = found.next_if(|id| *id < number.id) {
            each(index, Said::Stray(stray));
        }
        let mut said = Said::Absent;
        while found.next_if_eq(&number.id).is_some() {
            said = if said == Said::Absent { Said::There } else { Said::Repeated };
        }
        each(index, said);
    }
    found.for_each(|stray| each(numbers.len(), Said::Stray(stray)));
}
