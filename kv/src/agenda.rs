//! Which keys of a shard something is to be done about, and when. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// When a key is due, and the key.
pub(crate) type Due = (u64, Box<[u8]>);

/// Keys, each with the time at which it is due.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    by_time: BTreeSet<Due>,
    by_key: BTreeMap<Box<[u8]>, u64>,
}

impl Agenda {
    /// When a key is due; `None`: never.
    pub(crate) fn set(&mut self, key: &[u8], at: Option<u64>) {
        let before = match at {
            Some(at) => self.by_key.insert(key.into(), at),
            None if self.by_key.is_empty() => None,
            None => self.by_key.remove(key),
        };
        if before != at {
            if let Some(before) = before {
                self.by_time.remove(&(before, key.into()));
            }
            self.by_time.extend(at.map(|at| (at, key.into())));
        }
    }

    /// At most so many keys that are due.
    pub(crate) fn due(&self, now: u64, at_most: usize) -> Vec<Box<[u8]>> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).take(at_most).map(|(_, key)| key.clone()).collect()
    }

    /// All keys that are due, in order, from one on.
    pub(crate) fn due_from(&self, now: u64, from: Option<&Due>) -> impl Iterator<Item = &Due> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        self.by_time.range((from, Bound::Unbounded)).take_while(move |(at, _)| *at <= now)
    }

    /// When a key is due.
    pub(crate) fn of(&self, key: &[u8]) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    /// How many keys are on it.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_due_once_at_the_time_that_was_said_last() {
        let mut agenda = Agenda::default();
        agenda.set(b"a", Some(10));
        agenda.set(b"b", Some(20));
        agenda.set(b"a", Some(30));
        assert!(agenda.due(10, 9).is_empty());
        assert_eq!(agenda.due(20, 9), [b"b".as_slice().into()]);
        assert_eq!(agenda.due(30, 9).len(), 2);
        assert_eq!(agenda.due(30, 1).len(), 1);
        agenda.set(b"b", None);
        assert_eq!(agenda.due(30, 9), [b"a".as_slice().into()]);
        agenda.clear();
        assert!(agenda.due(u64::MAX, 9).is_empty() && agenda.by_key.is_empty());
    }
}
