//! What has changed here and has not been told to everyone: a log of dots, each at its latest change.
//!
//! An entry says that something happened to a dot under a key; what that was, live or dead, is looked up when it is sent.
//! So a dot has one entry at most. One that came and went before its coming was sent to anybody needs no key any more: it
//! joins the *void*, a set of intervals, so a key that is overwritten a million times while a window is full costs one entry
//! and one interval.

use std::collections::BTreeMap;

use crate::store::Fate;
use crate::{Dot, ReplicaId, VersionVector};

#[derive(Debug, Clone)]
pub(super) struct Item<K> {
    pub(super) key: K,
    pub(super) dot: Dot,
    /// Where the change was made.
    pub(super) origin: ReplicaId,
}

#[derive(Debug)]
pub(super) struct Log<K> {
    entries: BTreeMap<u64, Item<K>>,
    at: BTreeMap<Dot, u64>,
    /// Dots that came and went unsent, with where that was, under the number of the last such change.
    void: BTreeMap<u64, (ReplicaId, VersionVector)>,
    /// Into which void the next such dot of an origin goes: the one that has been sent to nobody.
    open: BTreeMap<ReplicaId, u64>,
    /// The number of the last change.
    last: u64,
    /// Up to here something was sent to somebody.
    sent: u64,
}

impl<K> Log<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            at: BTreeMap::new(),
            void: BTreeMap::new(),
            open: BTreeMap::new(),
            last: 0,
            sent: 0,
        }
    }

    /// The number of the last change: the cursor of a peer that lacks nothing.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.void.values().map(|(_, dots)| dots.interval_count()).sum::<usize>()
    }

    /// Notes a change.
    pub(super) fn note(&mut self, key: K, dot: Dot, fate: Fate, origin: ReplicaId) {
        self.last += 1;
        let before = self.at.remove(&dot);
        if let Some(before) = before {
            self.entries.remove(&before);
        }
        if fate == Fate::Went && before.is_some_and(|before| before > self.sent) {
            let open = self.open.insert(origin, self.last).and_then(|open| self.void.remove(&open));
            let (_, mut dots) = open.unwrap_or((origin, VersionVector::new()));
            dots.insert(dot);
            self.void.insert(self.last, (origin, dots));
            return;
        }
        self.at.insert(dot, self.last);
        self.entries.insert(self.last, Item { key, dot, origin });
    }

    /// The changes after a cursor, oldest first, with their numbers.
    pub(super) fn after(&self, cursor: u64) -> impl Iterator<Item = (u64, &Item<K>)> {
        self.entries.range(cursor + 1..).map(|(number, item)| (*number, item))
    }

    /// What came and went unsent after a cursor: numbers, origins and dots, oldest first.
    pub(super) fn void_after(&self, cursor: u64) -> impl Iterator<Item = (u64, ReplicaId, &VersionVector)> {
        self.void.range(cursor + 1..).map(|(number, (origin, dots))| (*number, *origin, dots))
    }

    /// Changes up to here are on their way to somebody.
    pub(super) fn mark_sent(&mut self, number: u64) {
        self.sent = self.sent.max(number);
        self.open.retain(|_, open| *open > number);
    }

    /// Nobody needs changes up to here any more.
    pub(super) fn cut(&mut self, number: u64) {
        let kept = self.entries.split_off(&(number + 1));
        for item in std::mem::replace(&mut self.entries, kept).into_values() {
            self.at.remove(&item.dot);
        }
        self.void = self.void.split_off(&(number + 1));
        self.open.retain(|_, open| *open > number);
    }

    /// Drops all that was noted of an actor's dots: it is not spoken of any more.
    pub(super) fn forget(&mut self, actor: ReplicaId) {
        let dots = Dot { replica: actor, counter: 0 }..=Dot { replica: actor, counter: u64::MAX };
        let numbers: Vec<(Dot, u64)> = self.at.range(dots).map(|(dot, number)| (*dot, *number)).collect();
        for (dot, number) in numbers {
            self.at.remove(&dot);
            self.entries.remove(&number);
        }
        self.void.retain(|_, (_, dots)| {
            dots.remove_replica(actor);
            !dots.is_empty()
        });
        self.open.retain(|_, open| self.void.contains_key(open));
    }

    /// The number of the entry that `keep` entries follow, if there are that many.
    pub(super) fn back(&self, keep: usize) -> Option<u64> {
        self.entries.keys().rev().nth(keep).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);

    fn dot(counter: u64) -> Dot {
        Dot { replica: A, counter }
    }

    fn numbers(log: &Log<u8>, cursor: u64) -> Vec<u64> {
        log.after(cursor).map(|(_, item)| item.dot.counter).collect()
    }

    #[test]
    fn a_key_that_is_overwritten_unsent_costs_one_entry_and_one_interval() {
        let mut log = Log::new();
        log.note(7, dot(1), Fate::Came, A);
        for counter in 2..10_000 {
            log.note(7, dot(counter - 1), Fate::Went, A);
            log.note(7, dot(counter), Fate::Came, A);
        }
        assert_eq!(log.len(), 2);
        assert_eq!(numbers(&log, 0), [9_999]);
        assert_eq!(log.void_after(0).map(|(_, _, dots)| dots.dot_count()).collect::<Vec<_>>(), [9_998]);
    }

    #[test]
    fn what_was_sent_is_told_of_again_when_it_goes() {
        let mut log = Log::new();
        log.note(7, dot(1), Fate::Came, A);
        log.mark_sent(log.last());
        let cursor = log.last();
        log.note(7, dot(1), Fate::Went, A);
        assert_eq!(numbers(&log, cursor), [1]);
        assert_eq!(log.void_after(cursor).count(), 0);
        log.cut(log.last());
        assert_eq!(log.len(), 0);
    }

    #[test]
    fn what_was_noted_of_a_forgotten_actor_is_dropped() {
        let mut log = Log::new();
        let other = |counter| Dot { replica: ReplicaId(2), counter };
        log.note(1, dot(1), Fate::Came, A);
        log.note(2, other(1), Fate::Came, A);
        for dot in [dot(2), other(2)] {
            log.note(3, dot, Fate::Came, A);
            log.note(3, dot, Fate::Went, A);
        }
        log.forget(ReplicaId(2));
        assert_eq!(log.after(0).map(|(_, item)| item.dot).collect::<Vec<_>>(), [dot(1)]);
        assert_eq!(log.void_after(0).map(|(_, _, dots)| dots.clone()).collect::<Vec<_>>(), [dot(2).into()]);
        log.forget(A);
        assert_eq!((log.len(), log.open.len()), (0, 0));
    }
}
