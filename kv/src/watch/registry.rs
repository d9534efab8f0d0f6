//! Who wants to be told which changes of what this node holds: the replica's side of watches. Pure.
//!
//! A watcher's node registers each watch at every replica that concerns it, and renews the lease. A change of a record
//! makes its key *wait* for every watch that it concerns: once, however often it changes. What waits is taken in batches;
//! one batch of a watch is under way at a time. Whatever cannot be told (no room, or a batch that did not arrive) is
//! remembered as *missed*, in one bit, and the next batch that arrives says so: the watcher then looks for itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use polity_cluster::NodeId;

use super::interest::Interest;
use crate::record::Blob;
use crate::wire::PAGE_BYTES;

/// The most watches that this node keeps for one other: all that a node may have.
pub(crate) const MAX_WATCHES_A_NODE: usize = 1024;
/// The most watches that this node keeps for all: 8 nodes may have all of theirs here. A watch takes a key and some 200 bytes.
pub(crate) const MAX_WATCHES_HELD: usize = 8 * MAX_WATCHES_A_NODE;
/// The most bytes of the keys and prefixes that these are about: what 8,192 of the longest keys by default take.
pub(crate) const MAX_HELD_BYTES: usize = MAX_WATCHES_HELD * (4 << 10);
/// The most bytes of keys in one batch: a page. With all that are under way at a time, 8 MiB.
pub(crate) const MAX_BATCH_BYTES: usize = PAGE_BYTES;
/// The most bytes of keys that wait to be told. What finds no room is missed.
pub(crate) const MAX_WAITING_BYTES: usize = 16 << 20;
/// What a key that waits takes beside its bytes.
const WAITING_OVERHEAD_BYTES: usize = 64;

/// A watch: whose it is, and which of theirs.
pub(crate) type Watch = (NodeId, u64);

/// What one watch is to be told now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) watch: Watch,
    pub(crate) places: Vec<Blob>,
    /// Whether there was more that could not be told.
    pub(crate) missed: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It has arrived.
    Arrived,
    /// It has arrived where nobody watches any more.
    Over,
    /// It may not have arrived.
    Failed,
}

#[derive(Debug)]
struct Lease {
    interest: Interest,
    until: Duration,
    waiting: BTreeSet<Blob>,
    missed: bool,
    /// Whether it is in the queue, or a batch is under way.
    is_busy: bool,
    /// Not before: after a batch that has failed.
    not_before: Duration,
}

impl Lease {
    fn has_news(&self) -> bool {
        self.missed || !self.waiting.is_empty()
    }
}

/// The watches of all nodes on what this one holds.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    leases: BTreeMap<Watch, Lease>,
    held: BTreeMap<NodeId, usize>,
    of_keys: BTreeMap<Bytes, BTreeSet<Watch>>,
    of_prefixes: BTreeMap<Bytes, BTreeSet<Watch>>,
    /// How many of those prefixes have each length.
    lengths: BTreeMap<usize, usize>,
    queue: VecDeque<Watch>,
    held_bytes: usize,
    waiting_bytes: usize,
}

impl Registry {
    /// Registers a watch or renews it. Says whether it was known; `None`: there is no room for it.
    pub(crate) fn register(&mut self, watch: Watch, interest: Interest, until: Duration) -> Option<bool> {
        if let Some(lease) = self.leases.get_mut(&watch)
            && lease.interest == interest
        {
            lease.until = until;
            return Some(true);
        }
        self.end(&watch);
        let held = self.held.get(&watch.0).copied().unwrap_or_default();
        let held_bytes = self.held_bytes + interest.place.0.len();
        if held >= MAX_WATCHES_A_NODE || self.leases.len() >= MAX_WATCHES_HELD || held_bytes > MAX_HELD_BYTES {
            return None;
        }
        self.held_bytes = held_bytes;
        self.held.insert(watch.0.clone(), held + 1);
        let index = if interest.exact { &mut self.of_keys } else { &mut self.of_prefixes };
        let watches = index.entry(interest.place.0.clone()).or_default();
        if watches.is_empty() && !interest.exact {
            *self.lengths.entry(interest.place.0.len()).or_default() += 1;
        }
        watches.insert(watch.clone());
        let (waiting, not_before) = (BTreeSet::new(), Duration::ZERO);
        self.leases.insert(watch, Lease { interest, until, waiting, missed: false, is_busy: false, not_before });
        Some(false)
    }

    /// A watch is over.
    pub(crate) fn end(&mut self, watch: &Watch) {
        let Some(lease) = self.leases.remove(watch) else { return };
        self.held_bytes -= lease.interest.place.0.len();
        self.waiting_bytes -= lease.waiting.iter().map(weight).sum::<usize>();
        if let Some(held) = self.held.get_mut(&watch.0) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&watch.0);
            }
        }
        let Interest { place, exact } = &lease.interest;
        let index = if *exact { &mut self.of_keys } else { &mut self.of_prefixes };
        let is_last = index.get_mut(&place.0).is_some_and(|watches| {
            watches.remove(watch);
            watches.is_empty()
        });
        if is_last {
            index.remove(&place.0);
            if !*exact && let Some(count) = self.lengths.get_mut(&place.0.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&place.0.len());
                }
            }
        }
        self.queue.retain(|queued| queued != watch);
    }

    /// Ends those that were not renewed in time.
    pub(crate) fn expire(&mut self, now: Duration) {
        let over = self.leases.iter().filter(|(_, lease)| lease.until <= now).map(|(watch, _)| watch.clone());
        for watch in over.collect::<Vec<_>>() {
            self.end(&watch);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    /// A record has changed. Returns whether anybody is to be told.
    pub(crate) fn note(&mut self, place: &[u8]) -> bool {
        let mut concerned: Vec<Watch> = Vec::new();
        concerned.extend(self.of_keys.get(place).into_iter().flatten().cloned());
        for length in self.lengths.range(..=place.len()).map(|(length, _)| *length) {
            concerned.extend(self.of_prefixes.get(&place[..length]).into_iter().flatten().cloned());
        }
        if concerned.is_empty() {
            return false;
        }
        let place = Blob::from(place.to_vec());
        for watch in concerned {
            let lease = self.leases.get_mut(&watch).expect("what is indexed is held");
            if self.waiting_bytes + weight(&place) > MAX_WAITING_BYTES {
                lease.missed = true;
            } else if lease.waiting.insert(place.clone()) {
                self.waiting_bytes += weight(&place);
            }
            if !lease.is_busy && lease.not_before.is_zero() {
                lease.is_busy = true;
                self.queue.push_back(watch);
            }
        }
        true
    }

    /// Lets those whose last batch has failed try again, when it is time.
    pub(crate) fn retry(&mut self, now: Duration) {
        for (watch, lease) in &mut self.leases {
            if !lease.not_before.is_zero() && lease.not_before <= now {
                lease.not_before = Duration::ZERO;
                if lease.has_news() && !lease.is_busy {
                    lease.is_busy = true;
                    self.queue.push_back(watch.clone());
                }
            }
        }
    }

    /// What is to be told next, as far as a batch goes; its end is told with [`Registry::told`].
    pub(crate) fn take(&mut self) -> Option<Batch> {
        let watch = self.queue.pop_front()?;
        let lease = self.leases.get_mut(&watch).expect("what is queued is held");
        let (mut places, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_BATCH_BYTES
            && let Some(place) = lease.waiting.pop_first()
        {
            bytes += weight(&place);
            places.push(place);
        }
        self.waiting_bytes -= bytes;
        Some(Batch { watch, places, missed: std::mem::take(&mut lease.missed) })
    }

    /// What became of a batch; of `rest` nothing was sent yet.
    pub(crate) fn told(&mut self, watch: &Watch, told: Told, rest: Vec<Blob>, retry_at: Duration) {
        if told == Told::Over {
            return self.end(watch);
        }
        let Some(lease) = self.leases.get_mut(watch) else { return };
        lease.is_busy = false;
        if told == Told::Failed {
            lease.missed = true;
            lease.not_before = retry_at;
        }
        for place in rest {
            if self.waiting_bytes + weight(&place) > MAX_WAITING_BYTES {
                lease.missed = true;
            } else {
                let bytes = weight(&place);
                if lease.waiting.insert(place) {
                    self.waiting_bytes += bytes;
                }
            }
        }
        if lease.has_news() && lease.not_before.is_zero() {
            lease.is_busy = true;
            self.queue.push_back(watch.clone());
        }
    }
}

fn weight(place: &Blob) -> usize {
    place.0.len() + WAITING_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::boot;

    const SOON: Duration = Duration::from_secs(1);

    fn blob(text: &str) -> Blob {
        Blob::from(text.as_bytes().to_vec())
    }

    fn interest(text: &str) -> Interest {
        match text.strip_suffix('*') {
            Some(prefix) => Interest { place: blob(prefix), exact: false },
            None => Interest { place: blob(text), exact: true },
        }
    }

    fn registry(watches: &[&str]) -> Registry {
        let mut registry = Registry::default();
        for (id, text) in watches.iter().enumerate() {
            assert_eq!(registry.register((boot("a1"), id as u64), interest(text), SOON), Some(false));
        }
        registry
    }

    /// The next batch: of which watch, which keys, and whether something was missed.
    fn take(registry: &mut Registry) -> Option<(u64, String, bool)> {
        let batch = registry.take()?;
        let texts: Vec<_> = batch.places.iter().map(|place| String::from_utf8_lossy(&place.0).into_owned()).collect();
        Some((batch.watch.1, texts.join(" "), batch.missed))
    }

    fn told(registry: &mut Registry, id: u64, told: Told) {
        registry.told(&(boot("a1"), id), told, Vec::new(), SOON);
    }

    #[test]
    fn each_watch_is_told_what_concerns_it_once() {
        let mut registry = registry(&["ab", "a*", "b*", "*"]);
        for place in ["ab", "ac", "ab", "c"] {
            assert!(registry.note(place.as_bytes()));
        }
        assert_eq!(take(&mut registry), Some((0, "ab".to_owned(), false)));
        assert_eq!(take(&mut registry), Some((3, "ab ac c".to_owned(), false)));
        assert_eq!(take(&mut registry), Some((1, "ab ac".to_owned(), false)));
        assert_eq!((take(&mut registry), registry.waiting_bytes), (None, 0));
        // One batch at a time; what comes meanwhile goes with the next.
        registry.note(b"ab");
        assert_eq!(take(&mut registry), None);
        told(&mut registry, 1, Told::Arrived);
        assert_eq!((take(&mut registry), take(&mut registry)), (Some((1, "ab".to_owned(), false)), None));
    }

    #[test]
    fn nobody_is_told_what_concerns_nobody() {
        let mut registry = registry(&["ab", "b*"]);
        assert!(!registry.note(b"a") && !registry.note(b"abc") && !registry.note(b""));
        assert_eq!(take(&mut registry), None);
    }

    #[test]
    fn what_did_not_arrive_is_missed_and_said_later() {
        let mut registry = registry(&["a*"]);
        registry.note(b"ab");
        take(&mut registry).expect("a batch");
        told(&mut registry, 0, Told::Failed);
        registry.note(b"ac");
        assert_eq!(take(&mut registry), None, "not at once");
        registry.retry(SOON / 2);
        assert_eq!(take(&mut registry), None);
        registry.retry(SOON);
        assert_eq!(take(&mut registry), Some((0, "ac".to_owned(), true)));
        told(&mut registry, 0, Told::Arrived);
        assert_eq!(take(&mut registry), None);
    }

    #[test]
    fn what_finds_no_room_is_missed() {
        let mut registry = registry(&["a*"]);
        let large = vec![b'a'; 4096];
        for at in 0..MAX_WAITING_BYTES / 4096 + 9 {
            let mut place = large.clone();
            place.extend(at.to_be_bytes());
            registry.note(&place);
        }
        assert!(registry.waiting_bytes <= MAX_WAITING_BYTES);
        let batch = registry.take().expect("a batch");
        assert!(batch.missed && !batch.places.is_empty());
        // What was not sent of it waits again, as far as there is room.
        registry.told(&batch.watch, Told::Arrived, batch.places.clone(), SOON);
        let again = registry.take().expect("a batch");
        assert_eq!((again.places, again.missed), (batch.places, false));
    }

    #[test]
    fn what_waits_is_told_a_page_at_a_time() {
        let mut registry = registry(&["a*"]);
        let large = vec![b'a'; 4096];
        let places: Vec<Blob> = (0..1000_u32).map(|at| [&large[..], &at.to_be_bytes()].concat().into()).collect();
        assert!(places.iter().all(|place| registry.note(&place.0)));
        let mut taken = Vec::new();
        while let Some(batch) = registry.take() {
            let bytes: usize = batch.places.iter().map(weight).sum();
            assert!(!batch.missed && bytes < MAX_BATCH_BYTES + 2 * large.len(), "{bytes}");
            registry.told(&batch.watch, Told::Arrived, Vec::new(), SOON);
            taken.extend(batch.places);
        }
        assert_eq!((taken, registry.waiting_bytes), (places, 0));
    }

    #[test]
    fn there_is_room_for_so_many_bytes_of_keys() {
        let mut registry = Registry::default();
        let long = Interest { place: vec![b'a'; 1 << 20].into(), exact: true };
        for id in 0..MAX_HELD_BYTES >> 20 {
            assert_eq!(registry.register((boot("a1"), id as u64), long.clone(), SOON), Some(false));
        }
        assert_eq!(registry.register((boot("b1"), 0), interest("a"), SOON), None);
        // Another interest takes the place of the one before.
        assert_eq!(registry.register((boot("a1"), 0), interest("a"), SOON), Some(false));
        assert_eq!(registry.register((boot("b1"), 0), interest("a"), SOON), Some(false));
    }

    #[test]
    fn a_watch_ends_by_silence_by_a_word_or_by_an_answer() {
        let mut registry = registry(&["a*", "a", "b*"]);
        assert_eq!(registry.register((boot("a1"), 1), interest("a"), 3 * SOON), Some(true));
        registry.note(b"a");
        registry.expire(SOON);
        assert_eq!(registry.len(), 1);
        assert_eq!((take(&mut registry), take(&mut registry)), (Some((1, "a".to_owned(), false)), None));
        told(&mut registry, 1, Told::Over);
        assert_eq!(registry.len(), 0);
        assert_eq!(registry.register((boot("a1"), 1), interest("a*"), SOON), Some(false));
        registry.note(b"ab");
        registry.end(&(boot("a1"), 1));
        let Registry { leases, held, of_keys, of_prefixes, lengths, queue, held_bytes, waiting_bytes } = &registry;
        assert!(leases.is_empty() && held.is_empty() && of_keys.is_empty() && of_prefixes.is_empty());
        assert!(lengths.is_empty() && queue.is_empty() && (*held_bytes, *waiting_bytes) == (0, 0));
    }

    #[test]
    fn there_is_room_for_so_many_of_a_node_and_of_all() {
        let mut registry = Registry::default();
        let mut register = |node: &str, id| registry.register((boot(node), id), interest("a*"), SOON);
        for id in 0..MAX_WATCHES_A_NODE as u64 {
            assert_eq!(register("a1", id), Some(false));
        }
        assert_eq!((register("a1", u64::MAX), register("a1", 0)), (None, Some(true)));
        for node in ["b1", "c1", "d1", "e1", "f1", "g1", "h1"] {
            for id in 0..MAX_WATCHES_A_NODE as u64 {
                assert_eq!(register(node, id), Some(false));
            }
        }
        assert_eq!(register("i1", 0), None);
        registry.end(&(boot("b1"), 0));
        assert_eq!(registry.register((boot("i1"), 0), interest("b"), SOON), Some(false));
    }
}
