//! The first coded symbols of a shard's records, kept up to date for as long as replicas ask for them.
//!
//! To make symbols takes a look at every record, and whoever has come to a shard, or leaves it, compares it with several
//! others, twice with each, while it is written to: then only a few records differ, and the looks would be all the work.
//! So the symbols of the first look stay, and follow the records as a [`Digest`](crate::digest::Digest) does, until nobody
//! has asked for some time. Writes pay for that meanwhile, and only then.

use std::ops::ControlFlow;

use polity_crdt::sketch::{Sketch, Symbol};
use polity_shard::ShardId;

use super::Store;
use crate::digest::{element, next_salt};
use crate::engine::EngineError;

/// How many symbols are kept: enough for about eighty records that differ. 3 kB.
pub(crate) const KEPT: usize = 128;

/// For how many patrols they stay although nobody asks: a node that comes asks for all of its shards, in turn.
const IDLE: u32 = 6;

/// What is kept of one shard: for the two rounds of a comparison, each of which has a salt of its own.
#[derive(Debug, Default)]
pub(super) struct Sketches {
    kept: Vec<(u64, Sketch)>,
    /// For how many patrols nobody has asked.
    idle: u32,
}

impl Sketches {
    /// The record of `key` has changed from `old` to `new`.
    pub(super) fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        for (salt, sketch) in &mut self.kept {
            old.into_iter().for_each(|old| sketch.change(element(key, old, *salt), -1));
            new.into_iter().for_each(|new| sketch.change(element(key, new, *salt), 1));
        }
    }

    fn get(&mut self, salt: u64) -> Option<&[Symbol]> {
        let (_, sketch) = self.kept.iter().find(|(kept, _)| *kept == salt)?;
        self.idle = 0;
        Some(sketch.as_slice())
    }

    /// Another patrol begins.
    pub(super) fn age(&mut self) {
        self.idle += 1;
        if self.idle > IDLE {
            *self = Self::default();
        }
    }
}

impl Store {
    /// Symbols of a shard, and the total of its digest as of which they are; `None` if that has changed meanwhile.
    pub(crate) fn symbols(
        &self,
        shard: ShardId,
        salt: u64,
        from: usize,
        count: usize,
    ) -> Result<(Option<u64>, Vec<Symbol>), EngineError> {
        let end = from.saturating_add(count);
        if end > KEPT {
            let before = self.digest(shard);
            let mut sketch = [(salt, Sketch::new(from as u64, count))];
            self.look(shard, &mut sketch)?;
            let as_of = (before == self.digest(shard)).then(|| before.total());
            let [(_, sketch)] = sketch;
            return Ok((as_of, sketch.symbols()));
        }
        let mut guard = self.shard(shard);
        let total = guard.digest.total();
        if let Some(kept) = guard.sketches.get(salt) {
            return Ok((Some(total), kept[from..end].to_vec()));
        }
        let mut kept = vec![(salt, Sketch::new(0, KEPT)), (next_salt(salt), Sketch::new(0, KEPT))];
        self.look(shard, &mut kept)?;
        let symbols = kept[0].1.as_slice()[from..end].to_vec();
        guard.sketches = Sketches { kept, idle: 0 };
        Ok((Some(total), symbols))
    }

    /// Whether these symbols need no look at the records.
    pub(super) fn keeps(&self, shard: ShardId, salt: u64, end: usize) -> bool {
        end <= KEPT && self.shard(shard).sketches.kept.iter().any(|(kept, _)| *kept == salt)
    }

    /// Fills sketches in, each under its salt.
    fn look(&self, shard: ShardId, sketches: &mut [(u64, Sketch)]) -> Result<(), EngineError> {
        self.engine.visit(shard, &mut |key, record| {
            sketches.iter_mut().for_each(|(salt, sketch)| sketch.change(element(key, record, *salt), 1));
            ControlFlow::Continue(())
        })
    }

    /// Drops the symbols that nobody has asked for in the last [`IDLE`] patrols.
    pub(crate) fn drop_idle_sketches(&self) {
        self.shard_ids().for_each(|shard| self.shard(shard).sketches.age());
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use polity_shard::ShardCount;

    use super::*;
    use crate::config::KvConfig;
    use crate::engine::MemoryEngine;
    use crate::record::{Blob, Kind, Update};
    use crate::roster::tests::{boot, roster};
    use crate::store::Write;

    const SHARD: ShardId = ShardId(0);

    fn store() -> Store {
        let config = KvConfig { shards: ShardCount::new(1).expect("one"), ..KvConfig::default() };
        Store::new(boot("a1"), &config, Arc::new(MemoryEngine::new(config.shards))).expect("an empty engine")
    }

    fn put(store: &Store, key: &str, value: Option<&str>) {
        let update = Update::put(Kind::Causal, value.map(|value| Blob::from(value.as_bytes().to_vec())));
        let write = Write { update: &update, context: None, known: None, wall: Duration::ZERO };
        store.write(SHARD, key.as_bytes(), write, roster("a1").id()).expect("there is room");
    }

    /// What is kept, and what a look at the records gives.
    fn kept_and_seen(store: &Store, salt: u64) -> (Vec<Symbol>, Vec<Symbol>) {
        assert!(store.keeps(SHARD, salt, KEPT));
        let (as_of, kept) = store.symbols(SHARD, salt, 0, KEPT).expect("works");
        assert_eq!(as_of, Some(store.digest(SHARD).total()));
        let mut seen = [(salt, Sketch::new(0, KEPT))];
        store.look(SHARD, &mut seen).expect("works");
        (kept, seen[0].1.as_slice().to_vec())
    }

    #[test]
    fn what_is_kept_follows_the_records() {
        let store = store();
        put(&store, "before", Some("1"));
        store.symbols(SHARD, 5, 0, 6).expect("works");
        let check = || {
            for salt in [5, next_salt(5)] {
                let (kept, seen) = kept_and_seen(&store, salt);
                assert_eq!(kept, seen);
            }
        };
        check();
        (0..300).for_each(|at| put(&store, &format!("key {}", at % 70), Some("value")));
        check();
        (0..30).for_each(|at| put(&store, &format!("key {at}"), None));
        check();
        (0..4).for_each(|_| store.grow_older());
        for tombstone in store.ripe(SHARD, None).expect("works").0 {
            assert_eq!(store.bury(&tombstone, Duration::ZERO), Ok(true));
        }
        assert_eq!(store.digest(SHARD).count(), 41);
        check();
    }

    #[test]
    fn what_nobody_asks_for_is_dropped() {
        let store = store();
        put(&store, "key", Some("1"));
        store.symbols(SHARD, 5, 0, 6).expect("works");
        (0..IDLE).for_each(|_| store.drop_idle_sketches());
        assert!(store.keeps(SHARD, 5, 6) && !store.keeps(SHARD, 5, KEPT + 1) && !store.keeps(SHARD, 6, 6));
        store.symbols(SHARD, 5, 0, 6).expect("works");
        (0..=IDLE).for_each(|_| store.drop_idle_sketches());
        assert!(!store.keeps(SHARD, 5, 6));
    }
}
