//! What every [`Engine`] must do, as a test of any: [`check`].
//!
//! The test needs a [`World`] in which it can close what it has opened, open it again, and cut the power in between. The
//! engines of this library pass it, and so should yours:
//!
//! ```
//! use std::sync::Arc;
//! use polity_cluster::BoxFuture;
//! use polity_kv::engine::conformance::{Keeps, World, check};
//! use polity_kv::engine::{Engine, EngineError, MemoryEngine};
//! use polity_shard::ShardCount;
//!
//! struct InMemory;
//!
//! impl World for InMemory {
//!     fn open(&mut self, shards: ShardCount) -> BoxFuture<'_, Result<Arc<dyn Engine>, EngineError>> {
//!         Box::pin(async move { Ok(Arc::new(MemoryEngine::new(shards)) as Arc<dyn Engine>) })
//!     }
//!     fn keeps(&self) -> Keeps {
//!         Keeps::Nothing
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! check(InMemory).await.unwrap();
//! # });
//! ```

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::future::join_all;
use polity_cluster::BoxFuture;
use polity_shard::{ShardCount, ShardId};

use super::{Change, Commit, Engine, EngineError};

/// How many shards the engines have that are tested.
const SHARDS: u32 = 4;
/// Shards of other numbers of replicas: the first and last of the class of one, and of that of the most.
const OTHERS: [u32; 4] = [1 << 16, (1 << 16) + SHARDS - 1, 16 << 16, (16 << 16) + SHARDS - 1];
/// How often the power is cut.
const CUTS: u64 = 12;
/// How many write at once, and how often each.
const THREADS: u32 = SHARDS;
const WRITES_A_THREAD: u32 = 400;
/// A record as large as any that a store writes by default.
const LARGE: usize = 3 << 20;
/// A key as long as any that a store allows by default.
const LONG: usize = 4 << 10;

/// What of an engine outlives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing: each that is opened is empty.
    Nothing,
    /// What was durable, and perhaps more.
    Durable,
}

/// Where an implementation keeps its records, in the hands of the test.
pub trait World: Send {
    /// Opens what is there. At first that is nothing. The engine that was opened before has been dropped.
    fn open(&mut self, shards: ShardCount) -> BoxFuture<'_, Result<Arc<dyn Engine>, EngineError>>;

    /// What is there when an engine is opened again.
    fn keeps(&self) -> Keeps;

    /// Cuts the power of the engine that was opened last, which is dropped then: what was not durable may be lost.
    /// Returns whether this world can do that; if not, an engine is only closed.
    fn cut_power(&mut self) -> bool {
        false
    }
}

/// What an implementation did not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
#[non_exhaustive]
pub struct Breach {
    /// Which rule it breaks.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
}

fn breach(rule: &'static str, what: impl Into<String>) -> Breach {
    Breach { rule, what: what.into() }
}

/// Tests an implementation. Must be called in a tokio runtime.
///
/// # Errors
/// The first rule that is broken.
pub async fn check(world: impl World) -> Result<(), Breach> {
    let mut test = Test { world, engine: None };
    test.open().await?;
    test.finds_what_was_written()?;
    test.scans_in_order()?;
    test.keeps_shards_apart()?;
    test.keeps_meta_apart()?;
    test.batches_are_one()?;
    test.makes_durable().await?;
    test.keeps_what_was_durable().await?;
    test.invents_nothing().await?;
    test.serves_many_threads().await
}

/// A key and its shard.
type ShardKey = (u32, Vec<u8>);

/// All records of an engine, by shard and key.
type Content = BTreeMap<ShardKey, Vec<u8>>;

/// A key and its record.
type Record = (Vec<u8>, Vec<u8>);

struct Test<W> {
    world: W,
    engine: Option<Arc<dyn Engine>>,
}

fn shards() -> ShardCount {
    ShardCount::new(SHARDS).expect("a power of two")
}

fn all_shards() -> impl Iterator<Item = u32> {
    (0..SHARDS).chain(OTHERS)
}

/// Keys that are easily confused or put in a wrong order.
fn awkward_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        &b"\0"[..],
        b"\0\0",
        b"\0\xff",
        b"a",
        b"a\0",
        b"a\0\0",
        b"aa",
        b"ab",
        b"b",
        b"identity",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\0",
        b"\xff\xff",
        b"\xff\xff\xff",
    ]
    .iter()
    .map(|key| key.to_vec())
    .collect();
    keys.push(vec![0xff; LONG]);
    keys.push(vec![b'a'; LONG]);
    keys
}

/// A small generator of numbers (xorshift): the test is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn page(engine: &dyn Engine, shard: u32, after: Option<&[u8]>, most: usize) -> Result<Vec<Record>, EngineError> {
    let mut page = Vec::new();
    engine.scan(ShardId(shard), after, &mut |key, record| {
        page.push((key.to_vec(), record.to_vec()));
        if page.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(page)
}

fn content(engine: &dyn Engine) -> Result<Content, EngineError> {
    let mut content = Content::new();
    for shard in all_shards() {
        content.extend(page(engine, shard, None, usize::MAX)?.into_iter().map(|(key, record)| ((shard, key), record)));
    }
    Ok(content)
}

/// The same by a visit, which may come in any order: by rising key, so that a record that is visited twice is there twice.
fn visited(engine: &dyn Engine) -> Result<Vec<(ShardKey, Vec<u8>)>, EngineError> {
    let mut visited = Vec::new();
    for shard in all_shards() {
        engine.visit(ShardId(shard), &mut |key, record| {
            visited.push(((shard, key.to_vec()), record.to_vec()));
            ControlFlow::Continue(())
        })?;
    }
    visited.sort();
    Ok(visited)
}

impl<W: World> Test<W> {
    fn engine(&self) -> &dyn Engine {
        &**self.engine.as_ref().expect("opened")
    }

    async fn open(&mut self) -> Result<(), Breach> {
        self.engine = None;
        let opened = self.world.open(shards()).await;
        self.engine = Some(opened.map_err(|error| breach("opens", error.to_string()))?);
        Ok(())
    }

    fn expect<T>(rule: &'static str, result: Result<T, EngineError>) -> Result<T, Breach> {
        result.map_err(|error| breach(rule, format!("it failed: {error}")))
    }

    /// Compares with what must be there, by scan, by visit and by load.
    fn compare(&self, rule: &'static str, expected: &Content) -> Result<(), Breach> {
        let found = Self::expect(rule, content(self.engine()))?;
        if found != *expected {
            return Err(breach(rule, difference(&found, expected)));
        }
        let visited = Self::expect(rule, visited(self.engine()))?;
        if !visited.iter().map(|(key, record)| (key, record)).eq(expected) {
            return Err(breach(rule, format!("a visit finds {} records, not these {}", visited.len(), expected.len())));
        }
        for ((shard, key), record) in expected {
            let found = Self::expect(rule, self.engine().load(ShardId(*shard), key))?;
            if found.as_ref() != Some(record) {
                return Err(breach(rule, format!("a scan finds a key that a load does not: {}", short(key))));
            }
        }
        Ok(())
    }

    fn empty(&self) -> Result<(), Breach> {
        for shard in all_shards() {
            Self::expect("clears", self.engine().clear(ShardId(shard)))?;
        }
        self.compare("clears", &Content::new())
    }

    fn finds_what_was_written(&self) -> Result<(), Breach> {
        let rule = "finds what was written last";
        let (engine, mut expected) = (self.engine(), Content::new());
        let large = vec![7; LARGE];
        for records in [[&b"1"[..], b"", &large], [b"", b"longer than before", b"2"]] {
            for (at, key) in awkward_keys().iter().enumerate() {
                let record = records[at % records.len()];
                Self::expect(rule, engine.store(ShardId(1), key, record))?;
                if Self::expect(rule, engine.load(ShardId(1), key))?.as_deref() != Some(record) {
                    return Err(breach(rule, format!("not the record of {}", short(key))));
                }
                expected.insert((1, key.clone()), record.to_vec());
            }
            self.compare(rule, &expected)?;
        }
        if Self::expect(rule, engine.load(ShardId(1), b"never written"))?.is_some() {
            return Err(breach(rule, "found what was never written"));
        }
        self.empty()
    }

    fn scans_in_order(&self) -> Result<(), Breach> {
        let rule = "scans by rising key, page by page";
        let mut keys = awkward_keys();
        keys.extend((0..200u32).map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes().to_vec()));
        for key in &keys {
            Self::expect(rule, self.engine().store(ShardId(2), key, b"record"))?;
        }
        keys.sort();
        keys.dedup();
        for most in [1, 7, keys.len() + 1] {
            let (mut seen, mut after): (Vec<Vec<u8>>, Option<Vec<u8>>) = (Vec::new(), None);
            loop {
                let page = Self::expect(rule, page(self.engine(), 2, after.as_deref(), most))?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                seen.extend(page.into_iter().map(|(key, _)| key));
                if seen.len() > keys.len() {
                    break;
                }
            }
            if seen != keys {
                return Err(breach(rule, format!("in pages of {most}: {} keys, not these {}", seen.len(), keys.len())));
            }
        }
        let mut visits = 0;
        let visit = self.engine().visit(ShardId(2), &mut |_, _| {
            visits += 1;
            if visits == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        Self::expect(rule, visit)?;
        if visits != 3 {
            return Err(breach(rule, format!("a visit that was to end after 3 records went on to {visits}")));
        }
        // What begins after a key that is not there.
        for after in [&b"a\0\0\0"[..], b"", b"aab", b"\xfe"] {
            let expected = keys.iter().find(|key| key[..] > *after);
            let found = Self::expect(rule, page(self.engine(), 2, Some(after), 1))?;
            if found.first().map(|(key, _)| key) != expected {
                return Err(breach(rule, format!("not what follows {}", short(after))));
            }
        }
        self.empty()
    }

    fn keeps_shards_apart(&self) -> Result<(), Breach> {
        let rule = "keeps shards apart";
        let (engine, mut expected) = (self.engine(), Content::new());
        for shard in all_shards() {
            for key in awkward_keys() {
                let record = [&shard.to_be_bytes()[..], &key].concat();
                Self::expect(rule, engine.store(ShardId(shard), &key, &record))?;
                expected.insert((shard, key), record);
            }
        }
        self.compare(rule, &expected)?;
        for cleared in [1, SHARDS - 1, 0, OTHERS[0], OTHERS[3]] {
            Self::expect(rule, engine.clear(ShardId(cleared)))?;
            expected.retain(|(shard, _), _| *shard != cleared);
            self.compare(rule, &expected)?;
            Self::expect(rule, engine.store(ShardId(cleared), b"after", b"1"))?;
            expected.insert((cleared, b"after".to_vec()), b"1".to_vec());
            self.compare(rule, &expected)?;
        }
        self.empty()
    }

    fn keeps_meta_apart(&self) -> Result<(), Breach> {
        let rule = "keeps values by name, beside all records";
        let engine = self.engine();
        for value in [&b"1"[..], b"", b"another"] {
            for name in ["a", "identity", "a.b/c"] {
                Self::expect(rule, engine.put_meta(name, value))?;
                Self::expect(rule, engine.store(ShardId(0), name.as_bytes(), b"record"))?;
                Self::expect(rule, engine.clear(ShardId(0)))?;
                if Self::expect(rule, engine.meta(name))?.as_deref() != Some(value) {
                    return Err(breach(rule, format!("not the value of {name}")));
                }
            }
        }
        if Self::expect(rule, engine.meta("never"))?.is_some() {
            return Err(breach(rule, "found a name that was never used"));
        }
        self.empty()
    }

    fn batches_are_one(&self) -> Result<(), Breach> {
        let rule = "makes all changes of a batch in their order, or none";
        let (engine, shard) = (self.engine(), ShardId(3));
        let put = |key, record| Change::Put { key, record };
        Self::expect(rule, engine.write(shard, &[]))?;
        Self::expect(rule, engine.store(shard, b"old", b"0"))?;
        let changes = [
            put(b"x", b"1"),
            put(b"y", b"1"),
            put(b"x", b"2"),
            Change::Remove { key: b"y" },
            Change::Remove { key: b"never" },
            Change::Remove { key: b"z" },
            put(b"z", b"3"),
            Change::Remove { key: b"old" },
        ];
        Self::expect(rule, engine.write(shard, &changes))?;
        let entry = |key: &[u8], record: &[u8]| ((3, key.to_vec()), record.to_vec());
        let expected = Content::from([entry(b"x", b"2"), entry(b"z", b"3")]);
        self.compare(rule, &expected)?;
        if let Some(length) = engine.max_key_bytes().checked_add(1) {
            let (longest, too_long) = (vec![1; length - 1], vec![1; length]);
            if engine.write(shard, &[put(b"w", b"1"), put(&too_long, b"1")]).is_ok() {
                return Err(breach(rule, "took a key longer than it says it does"));
            }
            self.compare(rule, &expected)?;
            Self::expect(rule, engine.store(shard, &longest, b"1"))?;
            if Self::expect(rule, engine.load(shard, &longest))?.is_none() {
                return Err(breach(rule, "lost the longest key that it says it takes"));
            }
        }
        self.empty()
    }

    async fn makes_durable(&self) -> Result<(), Breach> {
        let rule = "makes durable, for all who wait";
        let engine = self.engine();
        Self::expect(rule, engine.durable(Commit::NONE).await)?;
        let mut commits = Vec::new();
        for number in 0..64u32 {
            commits.push(Self::expect(rule, engine.store(ShardId(number % SHARDS), &number.to_be_bytes(), b"1"))?);
        }
        if !commits.is_sorted() {
            return Err(breach(rule, "a later commit is not greater"));
        }
        let keeps = self.world.keeps() == Keeps::Durable;
        if engine.is_durable() != keeps || (!keeps && commits.iter().any(|commit| *commit != Commit::NONE)) {
            return Err(breach(rule, "it says otherwise whether anything outlives it"));
        }
        // One that is given up, and the others in any order.
        drop(engine.durable(commits[5]));
        let waits = commits.iter().rev().map(|commit| engine.durable(*commit));
        for durable in join_all(waits).await {
            Self::expect(rule, durable)?;
        }
        Self::expect(rule, engine.durable(commits[0]).await)?;
        self.empty()
    }

    async fn keeps_what_was_durable(&mut self) -> Result<(), Breach> {
        let rule = "keeps what was durable";
        let mut expected = Content::new();
        let mut last = Commit::NONE;
        for shard in all_shards() {
            for key in awkward_keys() {
                Self::expect(rule, self.engine().store(ShardId(shard), &key, b"old"))?;
                last = Self::expect(rule, self.engine().store(ShardId(shard), &key, &key))?;
                expected.insert((shard, key.clone()), key);
            }
        }
        last = last.max(Self::expect(rule, self.engine().clear(ShardId(1)))?);
        expected.retain(|(shard, _), _| *shard != 1);
        last = last.max(Self::expect(rule, self.engine().put_meta("name", b"value"))?);
        last = last.max(Self::expect(rule, self.engine().write(ShardId(2), &[Change::Remove { key: b"a" }]))?);
        expected.remove(&(2, b"a".to_vec()));
        Self::expect(rule, self.engine().durable(last).await)?;
        for cuts in [false, true, false] {
            if cuts {
                self.world.cut_power();
            }
            self.open().await?;
            let meta = Self::expect(rule, self.engine().meta("name"))?;
            if self.world.keeps() == Keeps::Nothing {
                self.compare("keeps nothing", &Content::new())?;
            } else if meta.as_deref() != Some(b"value") {
                return Err(breach(rule, "a name is lost"));
            } else {
                self.compare(rule, &expected)?;
            }
        }
        self.empty()
    }

    /// After each power cut there is what was written up to some point, which is not before what was durable.
    async fn invents_nothing(&mut self) -> Result<(), Breach> {
        let rule = "has what was written up to some point, and nothing else";
        if self.world.keeps() == Keeps::Nothing {
            return Ok(());
        }
        let mut dice = Dice(0x5eed);
        let shards: Vec<u32> = all_shards().collect();
        let mut state = Content::new();
        let cleared = Self::expect(rule, self.engine().clear(ShardId(0)))?;
        Self::expect(rule, self.engine().durable(cleared).await)?;
        for round in 0..CUTS {
            let mut states = vec![state.clone()];
            let mut durable = 0;
            for number in 0..dice.roll(60) {
                let shard = shards[dice.roll(shards.len() as u64) as usize];
                let (first, second) = ([dice.roll(9) as u8], [dice.roll(9) as u8]);
                let record = [&round.to_be_bytes()[..], &number.to_be_bytes()].concat();
                let put = Change::Put { key: &first, record: &record };
                let other = match dice.roll(4) {
                    0 => Change::Remove { key: &second },
                    _ => Change::Put { key: &second, record: &record },
                };
                let commit = Self::expect(rule, self.engine().write(ShardId(shard), &[put, other]))?;
                state.insert((shard, first.to_vec()), record.clone());
                match other {
                    Change::Put { .. } => state.insert((shard, second.to_vec()), record),
                    Change::Remove { .. } => state.remove(&(shard, second.to_vec())),
                };
                states.push(state.clone());
                if dice.roll(8) == 0 {
                    Self::expect(rule, self.engine().durable(commit).await)?;
                    durable = states.len() - 1;
                }
            }
            if round % 4 != 3 {
                self.world.cut_power();
            }
            self.open().await?;
            state = Self::expect(rule, content(self.engine()))?;
            if !states[durable..].contains(&state) {
                let lost = if states.contains(&state) { "what was durable is lost" } else { "this was never there" };
                return Err(breach(rule, format!("{lost}: {}", difference(&state, &states[durable]))));
            }
        }
        self.empty()
    }

    /// One thread writes each shard, as the store does; all read all.
    async fn serves_many_threads(&mut self) -> Result<(), Breach> {
        let rule = "serves many threads at once";
        let engine = self.engine.clone().expect("opened");
        let key = |number: u32| (number % 50).to_be_bytes();
        let work = |own: u32| -> Result<Commit, EngineError> {
            let mut last = Commit::NONE;
            for number in 0..WRITES_A_THREAD {
                last = engine.store(ShardId(own), &key(number), &number.to_be_bytes())?;
                let other = (own + number) % THREADS;
                let _ = engine.load(ShardId(other), &key(number / 2))?;
                if number % 100 == 99 {
                    let page = page(&*engine, other, None, usize::MAX)?;
                    assert!(page.is_sorted(), "a scan beside writes is out of order");
                }
            }
            Ok(last)
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|own| scope.spawn(move || work(own))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let mut last = Commit::NONE;
        for outcome in outcomes {
            let outcome = outcome.map_err(|_| breach(rule, "it panicked, or a scan was out of order"))?;
            last = last.max(Self::expect(rule, outcome)?);
        }
        Self::expect(rule, engine.durable(last).await)?;
        drop(engine);
        let numbers = WRITES_A_THREAD - 50..WRITES_A_THREAD;
        let records = numbers.flat_map(|n| (0..THREADS).map(move |s| ((s, key(n).to_vec()), n.to_be_bytes().to_vec())));
        let expected = records.collect();
        self.compare(rule, &expected)?;
        if self.world.keeps() == Keeps::Durable {
            self.world.cut_power();
            self.open().await?;
            self.compare(rule, &expected)?;
        }
        Ok(())
    }
}

fn short(key: &[u8]) -> String {
    format!("{:?} ({} bytes)", &key[..key.len().min(8)], key.len())
}

/// The first key in which two contents differ.
fn difference(found: &Content, expected: &Content) -> String {
    let keys = found.keys().chain(expected.keys());
    let differs = keys.filter(|key| found.get(*key) != expected.get(*key)).min();
    let record = |record: Option<&Vec<u8>>| record.map_or_else(|| "nothing".to_owned(), |record| short(record));
    differs.map_or_else(String::new, |key| {
        let (found, expected) = (record(found.get(key)), record(expected.get(key)));
        format!("shard {}, key {}: {found}, and not {expected}", key.0, short(&key.1))
    })
}
