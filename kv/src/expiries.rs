//! Which keys of a shard hold something that expires, and when. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Millis;

/// The keys with the times at which the next of what they hold expires.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    by_time: BTreeSet<(Millis, Box<[u8]>)>,
    by_key: BTreeMap<Box<[u8]>, Millis>,
}

impl Expiries {
    /// When the next of what a key holds expires; `None`: never.
    pub(crate) fn set(&mut self, key: &[u8], at: Option<Millis>) {
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

    /// At most so many keys that hold something that has expired.
    pub(crate) fn due(&self, now: Millis, at_most: usize) -> Vec<Box<[u8]>> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).take(at_most).map(|(_, key)| key.clone()).collect()
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
        let mut expiries = Expiries::default();
        expiries.set(b"a", Some(10));
        expiries.set(b"b", Some(20));
        expiries.set(b"a", Some(30));
        assert!(expiries.due(10, 9).is_empty());
        assert_eq!(expiries.due(20, 9), [b"b".as_slice().into()]);
        assert_eq!(expiries.due(30, 9).len(), 2);
        assert_eq!(expiries.due(30, 1).len(), 1);
        expiries.set(b"b", None);
        assert_eq!(expiries.due(30, 9), [b"a".as_slice().into()]);
        expiries.clear();
        assert!(expiries.due(u64::MAX, 9).is_empty() && expiries.by_key.is_empty());
    }
}
