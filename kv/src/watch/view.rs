//! What a watcher knows: the merge of all that replicas have said, and what of it is still to be given to its reader. Pure.
//!
//! It only ever merges, so it never goes backwards, whatever arrives late, twice, or in another order. A key that changes
//! ten times before the reader comes is given once, as it is then.

use std::collections::{BTreeMap, BTreeSet};

use crate::agenda::Agenda;
use crate::record::{Blob, Millis, Record};

/// How many keys are looked at at once that may have expired.
const EXPIRED_AT_ONCE: usize = 1024;

/// What is known of a key.
#[derive(Debug)]
struct Held {
    record: Record,
    /// Whether the reader was last given something under it.
    is_shown: bool,
}

/// Whether the reader knows that it has been given all that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Current {
    #[default]
    NotYet,
    ToBeSaid,
    Said,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct View {
    held: BTreeMap<Blob, Held>,
    changed: BTreeSet<Blob>,
    expiries: Agenda,
    current: Current,
}

/// What is given to the reader next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Given<T> {
    /// What is under a key now; `None`: nothing any more.
    Key(Blob, Option<T>),
    /// All that was there when the watch began has been given.
    Current,
}

impl View {
    /// A replica has this under a key. Returns whether the reader has something to take.
    pub(crate) fn merge(&mut self, place: &Blob, mut record: Record) -> bool {
        // Whether a write was done twice is for the replicas to find out.
        record.forget_keys(Millis::MAX);
        let (held, is_new) = match self.held.get_mut(place) {
            Some(held) => {
                let is_new = held.record.merge(record);
                (held, is_new)
            }
            None => (self.held.entry(place.clone()).or_insert(Held { record, is_shown: false }), true),
        };
        if is_new {
            self.expiries.set(&place.0, held.record.next_expiry(0));
            self.changed.insert(place.clone());
        }
        is_new
    }

    /// Removes what has expired. Returns whether the reader has something to take.
    pub(crate) fn expire(&mut self, now: Millis) -> bool {
        let due = self.expiries.due(now, EXPIRED_AT_ONCE);
        for place in &due {
            let place = Blob::from(place.to_vec());
            let held = self.held.get_mut(&place).expect("what expires is held");
            held.record.latch_alone(now);
            self.expiries.set(&place.0, held.record.next_expiry(now));
            self.changed.insert(place);
        }
        !due.is_empty()
    }

    /// All that was there when the watch began has been merged.
    pub(crate) fn is_current(&mut self) {
        if self.current == Current::NotYet {
            self.current = Current::ToBeSaid;
        }
    }

    /// What is to be given next. `make` says what a record is to the reader; nothing, if it is none of its business.
    pub(crate) fn take<T>(&mut self, now: Millis, make: impl Fn(&Record) -> Option<T>) -> Option<Given<T>> {
        while let Some(place) = self.changed.pop_first() {
            let held = self.held.get_mut(&place).expect("what has changed is held");
            let value = make(&held.record.seen_at(now));
            // Should the clock have been set back, it expires once more.
            self.expiries.set(&place.0, held.record.next_expiry(now));
            // Of what the reader has never seen it need not hear that it is gone.
            if value.is_some() || held.is_shown {
                held.is_shown = value.is_some();
                return Some(Given::Key(place, value));
            }
        }
        if self.current == Current::ToBeSaid {
            self.current = Current::Said;
            return Some(Given::Current);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Kind, Update, Writing};
    use polity_crdt::{ReplicaId, Timestamp};

    fn blob(text: &str) -> Blob {
        Blob::from(text.as_bytes().to_vec())
    }

    fn write(record: &Record, value: Option<&str>, expires: Option<Millis>, at: u64) -> Record {
        let mut next = record.clone();
        let writing = Writing {
            replica: ReplicaId(at),
            above: 0,
            context: None,
            at: Timestamp { millis: at, logical: 0 },
            window: 0,
        };
        let update = Update { expires: Some(expires), ..Update::put(Kind::LastWriterWins, value.map(blob)) };
        next.apply(&update, &writing).expect("writes");
        next
    }

    fn take(view: &mut View, now: Millis) -> Option<Given<String>> {
        view.take(now, |record| {
            let text = |value: &&Blob| String::from_utf8_lossy(&value.0).into_owned();
            record.values().first().map(text)
        })
    }

    fn key(key: &str, value: Option<&str>) -> Option<Given<String>> {
        Some(Given::Key(blob(key), value.map(str::to_owned)))
    }

    #[test]
    fn first_what_is_there_then_changes_and_never_backwards() {
        let mut view = View::default();
        let first = write(&Record::default(), Some("1"), None, 1);
        let second = write(&first, Some("2"), None, 2);
        let third = write(&second, Some("3"), None, 3);
        assert!(view.merge(&blob("b"), first.clone()) && view.merge(&blob("a"), first.clone()));
        view.is_current();
        assert_eq!((take(&mut view, 0), take(&mut view, 0)), (key("a", Some("1")), key("b", Some("1"))));
        assert_eq!((take(&mut view, 0), take(&mut view, 0)), (Some(Given::Current), None));
        view.is_current();
        assert_eq!(take(&mut view, 0), None, "it is said once");
        // A slow reader is given the latest.
        assert!(view.merge(&blob("a"), second.clone()) && view.merge(&blob("a"), third));
        assert_eq!((take(&mut view, 0), take(&mut view, 0)), (key("a", Some("3")), None));
        // What comes late is no news.
        assert!(!view.merge(&blob("a"), second) && !view.merge(&blob("a"), first));
        assert_eq!(take(&mut view, 0), None);
    }

    #[test]
    fn what_is_gone_is_said_if_it_was_seen_and_does_not_come_back() {
        let mut view = View::default();
        let there = write(&Record::default(), Some("1"), None, 1);
        let gone = write(&there, None, None, 2);
        view.merge(&blob("seen"), there.clone());
        assert_eq!(take(&mut view, 0), key("seen", Some("1")));
        assert!(view.merge(&blob("seen"), gone.clone()));
        view.merge(&blob("unseen"), there.clone());
        view.merge(&blob("unseen"), gone);
        assert_eq!((take(&mut view, 0), take(&mut view, 0)), (key("seen", None), None));
        for place in ["seen", "unseen"] {
            assert!(!view.merge(&blob(place), there.clone()));
        }
        assert_eq!(take(&mut view, 0), None);
    }

    #[test]
    fn what_has_expired_is_gone() {
        let mut view = View::default();
        let short = write(&Record::default(), Some("1"), Some(100), 1);
        view.merge(&blob("a"), short.clone());
        view.merge(&blob("b"), short.clone());
        assert_eq!(take(&mut view, 99), key("a", Some("1")));
        assert_eq!(take(&mut view, 100), None, "it was never seen");
        assert!(!view.expire(99) && view.expire(100) && !view.expire(100));
        assert_eq!((take(&mut view, 100), take(&mut view, 100)), (key("a", None), None));
        // The clock was set back, and the time passes once more.
        view.merge(&blob("c"), short.clone());
        assert!(view.expire(100));
        assert_eq!(take(&mut view, 99), key("c", Some("1")));
        assert!(view.expire(100));
        assert_eq!(take(&mut view, 100), key("c", None));
        let mut removed = short;
        assert!(removed.latch(100));
        // Replicas that remove it later say nothing new.
        view.merge(&blob("a"), removed.clone());
        view.merge(&blob("b"), removed);
        assert_eq!(take(&mut view, 100), None);
    }
}
