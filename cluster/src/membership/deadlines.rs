//! Times by name, the earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::buckets::NameKey;

/// At most one time for each name.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    times: BTreeMap<NameKey, Duration>,
    order: BTreeSet<(Duration, NameKey)>,
}

impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    pub(super) fn get(&self, key: NameKey) -> Option<Duration> {
        self.times.get(&key).copied()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = NameKey> {
        self.times.keys().copied()
    }

    pub(super) fn set(&mut self, key: NameKey, at: Duration) {
        self.remove(key);
        self.times.insert(key, at);
        self.order.insert((at, key));
    }

    pub(super) fn remove(&mut self, key: NameKey) {
        if let Some(at) = self.times.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// The earliest.
    pub(super) fn first(&self) -> Option<(Duration, NameKey)> {
        self.order.first().copied()
    }

    /// Takes the earliest out if it is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<NameKey> {
        let (_, key) = self.first().filter(|(at, _)| *at <= now)?;
        self.remove(key);
        Some(key)
    }
}
