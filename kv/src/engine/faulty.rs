//! Records on a simulated disk that loses power, tears what was being written, and fails when a test says so.
//!
//! A [`Disk`] outlives the engines that are opened on it, as a machine's disk outlives its processes. It is one log, of
//! which a part is synced. What is written is in the log at once; [`Engine::durable`] takes simulated time, drawn from the
//! disk's seed, and then has synced what was in the log when it began. All who wait for the same sync share it. A power cut
//! keeps the synced part and any part of the rest, up to a byte in the midst of a batch. Opening reads the log as a real
//! engine must: a tail that is not whole was never acknowledged and is dropped, and damage before it is reported.
//!
//! The same calls in the same order give the same result: there are no threads, no files, and no clock but tokio's.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use polity_cluster::BoxFuture;
use polity_shard::{ShardCount, ShardId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Change, Commit, Engine, EngineError, Visit};
use crate::kept;
use crate::sync::{Mutex, MutexGuard};

/// What an engine is told by its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing is wrong.
    #[default]
    None,
    /// Each write fails, and leaves nothing.
    Write,
    /// Each write fails for want of room, and leaves nothing.
    Full,
    /// Each sync fails. What was not synced then may be lost in a power cut, whatever is synced later; so an engine that
    /// has seen it takes nothing more.
    Sync,
    /// What is read is not what was written, as where a block of a real disk has rotted; what is written is.
    Unreadable,
    /// A sync returns without having synced, as a disk does that lies about its cache. No engine can keep its promise on
    /// it: for tests that must notice.
    Lies,
}

/// How long a sync takes.
const SYNC_TIME: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(10));
/// The length and the hash before each frame of the log.
const HEADER: usize = size_of::<u32>() + size_of::<u64>();

/// A disk with one log. Cheap to clone: it stays the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

struct State {
    log: Vec<u8>,
    synced: usize,
    fault: Fault,
    rng: StdRng,
    sync_time: (Duration, Duration),
    /// How many times the disk was opened or lost its power: what was opened before is dead.
    life: u64,
    syncs: u64,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Disk").field("bytes", &state.log.len()).field("synced", &state.synced).finish_non_exhaustive()
    }
}

impl Disk {
    /// An empty disk, whose times and losses follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            log: Vec::new(),
            synced: 0,
            fault: Fault::None,
            rng: StdRng::seed_from_u64(seed),
            sync_time: SYNC_TIME,
            life: 0,
            syncs: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is wrong with it.
    pub fn set_fault(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    /// From now on a sync takes from `least` to `most`.
    pub fn set_sync_time(&self, least: Duration, most: Duration) {
        self.lock().sync_time = (least, most.max(least));
    }

    /// Cuts the power: any part of what was not synced is lost, and the engine that is open is dead. Where the log is cut
    /// follows from the seed; unless `tears`, it is cut between two batches.
    pub fn cut_power(&self, tears: bool) {
        let mut state = self.lock();
        let (synced, end) = (state.synced, state.log.len());
        let mut cut = state.rng.random_range(synced..=end);
        if !tears {
            let mut boundary = synced;
            while let Some((_, next)) = frame(&state.log, boundary)
                && next <= cut
            {
                boundary = next;
            }
            cut = boundary;
        }
        state.log.truncate(cut);
        state.synced = cut;
        state.life += 1;
    }

    /// Cuts the power so that exactly `unsynced` bytes of what was not synced are kept.
    pub fn cut_power_after(&self, unsynced: usize) {
        let mut state = self.lock();
        let cut = (state.synced + unsynced).min(state.log.len());
        state.log.truncate(cut);
        state.synced = cut;
        state.life += 1;
    }

    /// Another disk with the same content, which goes its own way from now on.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.lock();
        let (log, rng) = (state.log.clone(), StdRng::seed_from_u64(state.log.len() as u64));
        Self(Arc::new(Mutex::new(State { log, rng, ..*state })))
    }

    /// Loses all, as a disk that is replaced does; the engine that is open is dead.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.log.clear();
        state.synced = 0;
        state.life += 1;
    }

    /// Leaves what an engine leaves of damaged data that it has put aside: the records but for those between two keys, which follow
    /// from the seed, and nothing that says whose they were. The engine that is open is dead.
    pub fn put_aside(&self) {
        let mut state = self.lock();
        let (mut content, mut at) = (Content::default(), 0);
        while let Some((body, next)) = frame(&state.log, at) {
            content.apply(postcard::from_bytes(body).expect("it was written so"));
            at = next;
        }
        let count = content.records.len();
        let (one, other) = (state.rng.random_range(0..=count), state.rng.random_range(0..=count));
        let lost = one.min(other)..one.max(other);
        state.log.clear();
        for (_, ((shard, key), record)) in content.records.into_iter().enumerate().filter(|(at, _)| !lost.contains(at))
        {
            Entry::Write(shard, vec![(key, Some(record))]).append_to(&mut state.log);
        }
        if let Some(classes) = content.meta.remove(kept::CLASSES) {
            Entry::Meta(kept::CLASSES.to_owned(), classes).append_to(&mut state.log);
        }
        state.synced = state.log.len();
        state.life += 1;
    }

    /// Ends the process: the system keeps what was written, and the engine that is open is dead.
    pub fn kill_process(&self) {
        self.lock().life += 1;
    }

    /// Inverts bits of a byte of the log.
    pub fn flip(&self, at: usize, bits: u8) {
        if let Some(byte) = self.lock().log.get_mut(at) {
            *byte ^= bits;
        }
    }

    /// How long the log is, and how much of it is synced.
    #[must_use]
    pub fn bytes(&self) -> (usize, usize) {
        let state = self.lock();
        (state.log.len(), state.synced)
    }

    /// How often it was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }
}

/// One entry of the log.
#[derive(Serialize, Deserialize)]
enum Entry {
    Write(u32, Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Clear(u32),
    Meta(String, Vec<u8>),
}

impl Entry {
    fn append_to(&self, log: &mut Vec<u8>) {
        let body = postcard::to_allocvec(self).expect("it encodes into a growing buffer");
        let length = u32::try_from(body.len()).expect("an entry has less than 4 GiB");
        log.extend_from_slice(&length.to_le_bytes());
        log.extend_from_slice(&xxh3_64(&body).to_le_bytes());
        log.extend_from_slice(&body);
    }
}

/// The body of the frame at this place of the log, and where the next begins. `None` if it is not whole.
fn frame(log: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (length, rest) = log.get(at..)?.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length)?;
    (xxh3_64(body) == u64::from_le_bytes(*hash)).then_some((body, at + HEADER + length))
}

#[derive(Default)]
struct Content {
    records: BTreeMap<(u32, Vec<u8>), Vec<u8>>,
    meta: BTreeMap<String, Vec<u8>>,
    /// The end of the log after the last entry, which is its commit.
    end: u64,
    failed: Option<EngineError>,
}

impl Content {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Write(shard, changes) => {
                for (key, record) in changes {
                    match record {
                        Some(record) => self.records.insert((shard, key), record),
                        None => self.records.remove(&(shard, key)),
                    };
                }
            }
            Entry::Clear(shard) => self.records.retain(|(at, _), _| *at != shard),
            Entry::Meta(name, value) => drop(self.meta.insert(name, value)),
        }
    }
}

/// Keeps records on a [`Disk`]. An engine whose disk lost its power, or was opened anew, only fails.
pub struct FaultyEngine {
    disk: Disk,
    life: u64,
    content: Mutex<Content>,
    /// Held by who syncs for all that wait.
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for FaultyEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyEngine").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl FaultyEngine {
    /// Opens what is on a disk. An incomplete tail is dropped: it was never durable.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] if there is more behind what is not whole: the disk is left as it is.
    pub fn open(disk: &Disk) -> Result<Self, EngineError> {
        let mut content = Content::default();
        let mut state = disk.lock();
        let mut at = 0;
        while at < state.log.len() {
            let damaged = |cause: &str| EngineError::Damaged {
                file: PathBuf::from("simulated disk"),
                offset: Some(at as u64),
                cause: cause.to_owned(),
            };
            let Some((body, next)) = frame(&state.log, at) else {
                // A torn tail has nothing whole behind it: the log is written from its beginning to its end.
                if (at + 1..state.log.len())
                    .any(|later| frame(&state.log, later).is_some_and(|(body, _)| !body.is_empty()))
                {
                    return Err(damaged("a batch is not what was written"));
                }
                state.log.truncate(at);
                break;
            };
            let entry = postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))?;
            content.apply(entry);
            at = next;
        }
        // What is built upon is made durable first.
        state.synced = state.log.len();
        state.life += 1;
        content.end = state.log.len() as u64;
        let life = state.life;
        drop(state);
        Ok(Self { disk: disk.clone(), life, content: Mutex::new(content), turn: tokio::sync::Mutex::default() })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.disk.lock();
        if state.life == self.life {
            Ok(state)
        } else {
            Err(EngineError::Failed { cause: "it has no disk".to_owned() })
        }
    }

    /// What can be read now.
    fn readable(&self) -> Result<MutexGuard<'_, Content>, EngineError> {
        if self.disk()?.fault == Fault::Unreadable {
            let (file, cause) = (PathBuf::from("simulated disk"), "a block is not what was written".to_owned());
            return Err(EngineError::Damaged { file, offset: None, cause });
        }
        Ok(self.content())
    }

    fn append(&self, entry: Entry) -> Result<Commit, EngineError> {
        let mut content = self.content();
        if let Some(error) = &content.failed {
            return Err(error.clone());
        }
        let mut state = self.disk()?;
        match state.fault {
            Fault::Write => return Err(EngineError::Other { action: "wrote its log", cause: "simulated".to_owned() }),
            Fault::Full => return Err(EngineError::Full { action: "wrote its log" }),
            Fault::None | Fault::Sync | Fault::Unreadable | Fault::Lies => {}
        }
        entry.append_to(&mut state.log);
        content.end = state.log.len() as u64;
        content.apply(entry);
        Ok(Commit(content.end))
    }

    async fn sync(&self, upto: Commit) -> Result<(), EngineError> {
        // The first syncs for all that have written until then; who comes meanwhile waits, and may be the next.
        let _turn = self.turn.lock().await;
        if let Some(error) = &self.content().failed {
            return Err(error.clone());
        }
        let (end, time, fault) = {
            let mut state = self.disk()?;
            if state.synced as u64 >= upto.0 {
                return Ok(());
            }
            let (least, most) = state.sync_time;
            let time = state.rng.random_range(least.as_nanos() as u64..=most.as_nanos() as u64);
            (state.log.len(), Duration::from_nanos(time), state.fault)
        };
        tokio::time::sleep(time).await;
        let mut state = self.disk()?;
        state.syncs += 1;
        match (fault, state.fault) {
            (Fault::Sync, _) | (_, Fault::Sync) => {
                let error = EngineError::Failed { cause: "a sync has failed".to_owned() };
                drop(state);
                self.content().failed = Some(error.clone());
                Err(error)
            }
            (Fault::Lies, _) => Ok(()),
            _ => {
                state.synced = state.synced.max(end);
                Ok(())
            }
        }
    }
}

impl Engine for FaultyEngine {
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.readable()?.records.get(&(shard.0, key.to_vec())).cloned())
    }

    fn write(&self, shard: ShardId, changes: &[Change<'_>]) -> Result<Commit, EngineError> {
        let changes = changes.iter().map(|change| match change {
            Change::Put { key, record } => (key.to_vec(), Some(record.to_vec())),
            Change::Remove { key } => (key.to_vec(), None),
        });
        self.append(Entry::Write(shard.0, changes.collect()))
    }

    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        let from = match after {
            Some(after) => Bound::Excluded((shard.0, after.to_vec())),
            None => Bound::Included((shard.0, Vec::new())),
        };
        let content = self.readable()?;
        let range = content.records.range((from, Bound::Unbounded));
        for ((_, key), record) in range.take_while(|((at, _), _)| *at == shard.0) {
            if visit(key, record) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self, shard: ShardId) -> Result<Commit, EngineError> {
        self.append(Entry::Clear(shard.0))
    }

    fn durable(&self, upto: Commit) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.sync(upto))
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.readable()?.meta.get(name).cloned())
    }

    fn put_meta(&self, name: &str, value: &[u8]) -> Result<Commit, EngineError> {
        self.append(Entry::Meta(name.to_owned(), value.to_vec()))
    }

    fn failure(&self) -> Option<EngineError> {
        self.content().failed.clone()
    }
}

/// Opens engines on a disk for [`conformance::check`](super::conformance::check).
#[derive(Debug)]
pub struct World {
    disk: Disk,
    tears: bool,
}

impl World {
    /// A world with an empty disk, whose power cuts tear batches or not.
    #[must_use]
    pub fn new(seed: u64, tears: bool) -> Self {
        Self { disk: Disk::new(seed), tears }
    }
}

impl super::conformance::World for World {
    fn open(&mut self, _shards: ShardCount) -> BoxFuture<'_, Result<Arc<dyn Engine>, EngineError>> {
        Box::pin(async move { Ok(Arc::new(FaultyEngine::open(&self.disk)?) as Arc<dyn Engine>) })
    }

    fn keeps(&self) -> super::conformance::Keeps {
        super::conformance::Keeps::Durable
    }

    fn cut_power(&mut self) -> bool {
        self.disk.cut_power(self.tears);
        true
    }
}
