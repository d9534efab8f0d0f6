//! What is being spread by gossip: news, each piggybacked on a limited number of datagrams (SWIM, section 4.1).
//!
//! What was sent least often goes first, and of that the newest. Newer news of the same subject takes the place of older.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many pieces of news one datagram is searched for: more than fit into it.
const LOOKED_AT: usize = 64;
/// How many pieces of news wait at most: what is beyond was sent most often, and push-pull brings it.
const MAX_RUMORS: usize = 8192;

/// How often it was sent, and when it came.
type Place = (u8, Reverse<u64>);

/// News by what it is about.
#[derive(Debug)]
pub(super) struct Rumors<K> {
    queue: BTreeMap<Place, (K, Arc<[u8]>)>,
    places: BTreeMap<K, Place>,
    count: u64,
}

impl<K: Ord + Clone> Rumors<K> {
    pub(super) fn new() -> Self {
        Self { queue: BTreeMap::new(), places: BTreeMap::new(), count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Spreads this from now on.
    pub(super) fn add(&mut self, about: K, bytes: Arc<[u8]>) {
        self.add_as_if_sent(about, bytes, 0);
    }

    /// Spreads this after what was sent less often, and as much less often itself.
    pub(super) fn add_as_if_sent(&mut self, about: K, bytes: Arc<[u8]>, sent: u8) {
        self.remove(&about);
        if self.queue.len() >= MAX_RUMORS
            && let Some((_, (oldest, _))) = self.queue.pop_last()
        {
            self.places.remove(&oldest);
        }
        self.count += 1;
        let place = (sent, Reverse(self.count));
        self.places.insert(about.clone(), place);
        self.queue.insert(place, (about, bytes));
    }

    pub(super) fn remove(&mut self, about: &K) {
        if let Some(place) = self.places.remove(about) {
            self.queue.remove(&place);
        }
    }

    /// Removes all that is about something from `first` on for as long as `same` holds.
    pub(super) fn remove_from(&mut self, first: &K, same: impl Fn(&K) -> bool) {
        while let Some((about, _)) = self.places.range(first..).next().filter(|(about, _)| same(about)) {
            let about = about.clone();
            self.remove(&about);
        }
    }

    /// Appends what fits into `room` bytes to `out`, but what `skip` says. What was sent `times` often is done with.
    pub(super) fn take(&mut self, room: usize, times: u8, skip: impl Fn(&K) -> bool, out: &mut Vec<u8>) {
        let end = out.len() + room;
        let mut sent = Vec::new();
        for (place, (about, bytes)) in self.queue.iter().take(LOOKED_AT) {
            if out.len() + bytes.len() <= end && !skip(about) {
                out.extend_from_slice(bytes);
                sent.push(*place);
            }
        }
        for place in sent {
            let Some((about, bytes)) = self.queue.remove(&place) else { continue };
            if place.0 + 1 < times {
                let place = (place.0 + 1, place.1);
                self.places.insert(about.clone(), place);
                self.queue.insert(place, (about, bytes));
            } else {
                self.places.remove(&about);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Arc<[u8]> {
        Arc::from(text.as_bytes())
    }

    fn take(rumors: &mut Rumors<u8>, room: usize) -> String {
        let mut out = Vec::new();
        rumors.take(room, 3, |_| false, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_was_sent_least_goes_first_and_everything_ends() {
        let mut rumors = Rumors::new();
        rumors.add(1, bytes("a"));
        rumors.add(2, bytes("b"));
        assert_eq!(take(&mut rumors, 1), "b");
        assert_eq!(take(&mut rumors, 1), "a");
        rumors.add(3, bytes("c"));
        assert_eq!(take(&mut rumors, 2), "cb");
        assert_eq!(take(&mut rumors, 9), "cab");
        assert_eq!(take(&mut rumors, 9), "ca");
        assert!(rumors.is_empty() && rumors.places.is_empty());
    }

    #[test]
    fn newer_news_takes_the_place_of_older() {
        let mut rumors = Rumors::new();
        rumors.add(1, bytes("old"));
        rumors.add(1, bytes("new"));
        rumors.add(2, bytes("x"));
        assert_eq!(take(&mut rumors, 9), "xnew");
        rumors.remove_from(&0, |about| *about < 2);
        assert_eq!(take(&mut rumors, 9), "x");
        rumors.add(4, bytes("skipped"));
        let mut out = Vec::new();
        rumors.take(9, 3, |about| *about == 4, &mut out);
        assert_eq!(out, b"x");
    }

    #[test]
    fn there_is_a_most_that_waits() {
        let mut rumors = Rumors::new();
        (0..MAX_RUMORS + 10).for_each(|at| rumors.add(at, bytes("x")));
        assert_eq!((rumors.queue.len(), rumors.places.len()), (MAX_RUMORS, MAX_RUMORS));
    }
}
