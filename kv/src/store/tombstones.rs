//! The traces of deletes, and what has expired, as one node has them: which have lain long enough, and how they are dropped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polity_shard::ShardId;

use super::{Shard, Store, millis};
use crate::agenda::Due;
use crate::engine::{Change, EngineError};
use crate::record::{self, Record};
use crate::wire::{MAX_TOMBSTONES, PAGE_BYTES, Tombstone};

/// How often the store must have grown older until a tombstone has lain for twice the time in between at least.
pub(super) const RIPE: u64 = 3;

impl Store {
    /// Half of the time has passed that tombstones are to lie.
    pub(crate) fn grow_older(&self) {
        self.age.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn age(&self) -> u64 {
        self.age.load(Ordering::Relaxed)
    }

    /// How many tombstones there are, and how many were dropped.
    pub(crate) fn tombstones(&self) -> (usize, u64) {
        let here = self.shard_ids().map(|shard| self.shard(shard).tombstones.len()).sum();
        (here, self.collected.load(Ordering::Relaxed))
    }

    /// A page of a shard's tombstones that have lain for long enough, and where the next one begins.
    pub(crate) fn ripe(
        &self,
        shard: ShardId,
        from: Option<&Due>,
    ) -> Result<(Vec<Tombstone>, Option<Due>), EngineError> {
        let guard = self.shard(shard);
        let (mut ripe, mut bytes) = (Vec::new(), 0);
        for due in guard.tombstones.due_from(self.age(), from) {
            if ripe.len() >= MAX_TOMBSTONES || bytes >= PAGE_BYTES {
                return Ok((ripe, Some(due.clone())));
            }
            let key = &due.1;
            if let Some(record) = self.engine.load(shard, key)? {
                bytes += key.len();
                ripe.push(Tombstone { key: key.to_vec().into(), hash: record::hash(&record) });
            }
        }
        Ok((ripe, None))
    }

    /// Whether this node has just this tombstone, for long enough, or nothing under its key.
    pub(crate) fn has_nothing_but(&self, tombstone: &Tombstone, wall: Duration) -> Result<bool, EngineError> {
        let shard = self.shard_of(&tombstone.key.0);
        let guard = self.shard(shard);
        let Some(bytes) = self.engine.load(shard, &tombstone.key.0)? else { return Ok(true) };
        Ok(self.to_bury(&guard, tombstone, &bytes, wall).is_some())
    }

    /// Drops this tombstone, if it is what is there and has lain for long enough.
    pub(crate) fn bury(&self, tombstone: &Tombstone, wall: Duration) -> Result<bool, EngineError> {
        let key = &tombstone.key.0;
        let shard = self.shard_of(key);
        let mut guard = self.shard(shard);
        let Some(bytes) = self.engine.load(shard, key)? else { return Ok(false) };
        let Some(record) = self.to_bury(&guard, tombstone, &bytes, wall) else { return Ok(false) };
        // What has expired is still in it, and when. Now that all have just this it goes; what is left is dropped later, or one that
        // was not reached would keep more than the names of writes.
        let mut bare = record.clone();
        bare.clear();
        if bare != record {
            let old = guard.old(key, Some(&bytes), &record);
            self.put_record(&mut guard, shard, key, old, &bare)?;
            return Ok(true);
        }
        guard.commit = self.engine.write(shard, &[Change::Remove { key }])?;
        guard.change(key, Some(&bytes), None);
        guard.note(key, false, None, self.age());
        // The key may be written again, and no number of a write is used twice.
        guard.counted = guard.counted.max(record.counted(guard.replica));
        self.collected.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The record of a tombstone that has lain for long enough, if it is this one. What has expired may be there again, if the clock was
    /// set back.
    fn to_bury(&self, shard: &Shard, tombstone: &Tombstone, bytes: &[u8], wall: Duration) -> Option<Record> {
        let is_ripe = shard.tombstones.of(&tombstone.key.0).is_some_and(|ripe| ripe <= self.age());
        let record = record::decode(bytes).ok().filter(|_| is_ripe && record::hash(bytes) == tombstone.hash)?;
        record.seen_at(millis(wall)).is_tombstone().then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::KvConfig;
    use crate::engine::MemoryEngine;
    use crate::record::{Blob, Kind, Step, Update};
    use crate::roster::tests::{boot, roster};
    use crate::store::Write;

    const KEY: &[u8] = b"key";
    /// Later than anything expires.
    const NOW: Duration = Duration::from_secs(3600);

    fn store(name: &str) -> Store {
        let config = KvConfig::default();
        Store::new(boot(name), &config, Arc::new(MemoryEngine::new(config.shards))).expect("an empty engine")
    }

    fn write(store: &Store, update: &Update) {
        let write = Write { update, context: None, known: None, wall: Duration::ZERO };
        store.write(store.shard_of(KEY), KEY, write, roster("a1 b2").id()).expect("there is room");
    }

    fn put(store: &Store, value: &str) {
        write(store, &Update::put(Kind::Causal, Some(Blob::from(value.as_bytes().to_vec()))));
    }

    fn delete(store: &Store) {
        write(store, &Update::put(Kind::Causal, None));
    }

    fn bytes(store: &Store) -> Option<Vec<u8>> {
        store.local(KEY).expect("works").map(|record| record::encode(&record))
    }

    fn take(store: &Store, bytes: &[u8]) {
        store.merge(store.shard_of(KEY), KEY, bytes, roster("a1 b2").id()).expect("a record");
    }

    fn ripe(store: &Store) -> Vec<Tombstone> {
        store.ripe(store.shard_of(KEY), None).expect("works").0
    }

    fn grow_ripe(store: &Store) {
        (0..RIPE).for_each(|_| store.grow_older());
    }

    #[test]
    fn a_tombstone_is_ripe_after_it_has_lain_unchanged_for_two_halves_of_the_time() {
        let a = store("a1");
        put(&a, "v");
        delete(&a);
        a.grow_older();
        a.grow_older();
        assert_eq!((ripe(&a), a.tombstones()), (Vec::new(), (1, 0)));
        put(&a, "w");
        delete(&a);
        a.grow_older();
        assert_eq!(ripe(&a), Vec::new(), "it is another one");
        grow_ripe(&a);
        assert_eq!(ripe(&a).len(), 1);
        put(&a, "x");
        assert_eq!((ripe(&a), a.tombstones()), (Vec::new(), (0, 0)));
    }

    #[test]
    fn only_one_that_has_nothing_else_agrees() {
        let (a, b) = (store("a1"), store("b2"));
        put(&a, "v");
        let before = bytes(&a).expect("a record");
        delete(&a);
        let tombstone = bytes(&a).expect("a record");
        grow_ripe(&a);
        let [asked] = &ripe(&a)[..] else { panic!("there is one") };
        assert!(
            a.has_nothing_but(asked, NOW).expect("works") && b.has_nothing_but(asked, NOW).expect("works"),
            "b has nothing"
        );
        take(&b, &before);
        grow_ripe(&b);
        assert!(!b.has_nothing_but(asked, NOW).expect("works"), "what was deleted");
        take(&b, &tombstone);
        assert!(!b.has_nothing_but(asked, NOW).expect("works"), "not for long enough");
        grow_ripe(&b);
        assert!(b.has_nothing_but(asked, NOW).expect("works"));
        put(&b, "w");
        assert!(!b.has_nothing_but(asked, NOW).expect("works") && !b.bury(asked, NOW).expect("works"));
        delete(&b);
        grow_ripe(&b);
        assert!(!b.bury(asked, NOW).expect("works"), "another one");
    }

    #[test]
    fn nothing_but_a_tombstone_is_dropped_whatever_a_peer_says() {
        let a = store("a1");
        put(&a, "v");
        grow_ripe(&a);
        let hash = record::hash(&bytes(&a).expect("a record"));
        assert!(!a.bury(&Tombstone { key: Blob::from(KEY.to_vec()), hash }, NOW).expect("works"));
        assert!(bytes(&a).is_some());
    }

    #[test]
    fn what_is_written_where_it_was_dropped_is_not_taken_for_what_was_deleted() {
        let (a, b) = (store("a1"), store("b2"));
        for value in ["1", "2", "3"] {
            put(&a, value);
        }
        delete(&a);
        let tombstone = bytes(&a).expect("a record");
        take(&b, &tombstone);
        grow_ripe(&a);
        let [asked] = &ripe(&a)[..] else { panic!("there is one") };
        assert!(a.bury(asked, NOW).expect("works") && !a.bury(asked, NOW).expect("works"));
        let shard = a.shard_of(KEY);
        assert_eq!((a.digest(shard), a.holds_records(shard), a.tombstones()), (Default::default(), false, (0, 1)));
        put(&a, "new");
        // One that has not dropped it hears of the write, and the writer of the tombstone again.
        take(&b, &bytes(&a).expect("a record"));
        take(&a, &tombstone);
        for store in [&a, &b] {
            let record = store.local(KEY).expect("works").expect("a record");
            assert_eq!(record.values(), [&Blob::from(b"new".to_vec())]);
        }
    }

    /// What has expired is still there, with its time, until all agree on that: first it goes, and its trace afterwards. One that was not
    /// reached has then nothing that would come back, or hide what is written anew.
    #[test]
    fn what_has_expired_goes_before_its_trace() {
        let insert = |text: &str| Update::of(Kind::Set, vec![Step::Insert(Blob::from(text.as_bytes().to_vec()))]);
        let remove = Update::of(Kind::Set, vec![Step::Remove(Blob::from(b"old".to_vec()))]);
        let timed = Update { expires: Some(Some(50)), ..insert("old") };
        for removed in [None, Some(remove)] {
            let (a, b) = (store("a1"), store("b2"));
            write(&a, &timed);
            removed.iter().for_each(|remove| write(&a, remove));
            take(&b, &bytes(&a).expect("a record"));
            for store in [&a, &b] {
                store.expire(Duration::from_millis(60));
                grow_ripe(store);
            }
            let [asked] = &ripe(&a)[..] else { panic!("there is one") };
            assert!(b.has_nothing_but(asked, NOW).expect("works"));
            for store in [&a, &b] {
                assert!(store.bury(asked, NOW).expect("works") && !store.bury(asked, NOW).expect("works"));
                assert_eq!(store.tombstones(), (1, 0));
            }
            assert_eq!(bytes(&a), bytes(&b));
            grow_ripe(&a);
            let [asked] = &ripe(&a)[..] else { panic!("there is one") };
            assert!(a.bury(asked, NOW).expect("works"));
            assert_eq!((bytes(&a), a.tombstones()), (None, (0, 1)));
            // The other keeps its trace.
            write(&a, &insert("new"));
            take(&b, &bytes(&a).expect("a record"));
            let record = b.local(KEY).expect("works").expect("a record");
            assert_eq!((record.elements().count(), record.expires()), (1, None));
        }
    }

    /// One of the clocks was set back.
    #[test]
    fn what_has_not_expired_after_all_is_kept() {
        let a = store("a1");
        let update =
            Update { expires: Some(Some(50)), ..Update::of(Kind::Set, vec![Step::Insert(Blob::from(b"x".to_vec()))]) };
        write(&a, &update);
        a.expire(Duration::from_millis(60));
        grow_ripe(&a);
        let [asked] = &ripe(&a)[..] else { panic!("there is one") };
        for (wall, is_over) in [(Duration::from_millis(49), false), (NOW, true)] {
            assert_eq!(a.has_nothing_but(asked, wall), Ok(is_over));
            assert_eq!(a.bury(asked, wall), Ok(is_over));
        }
    }

    #[test]
    fn tombstones_come_in_pages() {
        let a = store("a1");
        let shard = a.shard_of(KEY);
        let keys = (0_u32..).map(|at| at.to_le_bytes()).filter(|key| a.shard_of(key) == shard);
        let keys: Vec<_> = keys.take(MAX_TOMBSTONES + 1).collect();
        for key in &keys {
            let update = Update::of(Kind::Set, vec![Step::Insert(Blob::from(b"x".to_vec()))]);
            let write = |update| Write { update, context: None, known: None, wall: Duration::ZERO };
            a.write(shard, key, write(&update), roster("a1").id()).expect("there is room");
            let clear = Update { clears: true, ..Update::any() };
            a.write(shard, key, write(&clear), roster("a1").id()).expect("there is room");
        }
        grow_ripe(&a);
        let (first, next) = a.ripe(shard, None).expect("works");
        let (second, end) = a.ripe(shard, next.as_ref()).expect("works");
        assert_eq!((first.len(), second.len(), end), (MAX_TOMBSTONES, 1, None));
    }
}
