//! A disk that keeps a log, of which a part is synced, and an engine on it. No time: a sync is when the model says so.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polity_cluster::BoxFuture;
use polity_shard::ShardId;

use crate::engine::{Change, Commit, Engine, EngineError, Visit};

type Put = (Vec<u8>, Option<Vec<u8>>);

enum Entry {
    Write(Vec<Put>),
    Clear,
    Meta(String, Vec<u8>),
}

#[derive(Default)]
struct State {
    log: Vec<Entry>,
    synced: usize,
}

/// Outlives the stores that are opened on it. Cheap to clone: it stays the same disk.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sync(&self, upto: Commit) {
        let mut state = self.state();
        state.synced = state.synced.max(upto.0 as usize);
    }

    pub(super) fn synced(&self) -> Commit {
        Commit(self.state().synced as u64)
    }

    /// How many entries are not synced.
    pub(super) fn unsynced(&self) -> usize {
        let state = self.state();
        state.log.len() - state.synced
    }

    /// The power fails: of what is not synced only so many entries are there.
    pub(super) fn cut(&self, kept: usize) {
        let mut state = self.state();
        let end = state.synced + kept;
        state.log.truncate(end);
    }

    /// Whether there is a value of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.state().log.iter().any(|entry| matches!(entry, Entry::Meta(at, _) if at == name))
    }

    /// The engine of what is there. That is synced first.
    pub(super) fn open(&self) -> DiskEngine {
        let mut content = Content::default();
        let mut state = self.state();
        state.log.iter().for_each(|entry| content.apply(entry));
        state.synced = state.log.len();
        drop(state);
        DiskEngine { disk: self.clone(), content: Mutex::new(content) }
    }
}

#[derive(Default)]
struct Content {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: BTreeMap<String, Vec<u8>>,
}

impl Content {
    fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Write(changes) => {
                for (key, record) in changes {
                    match record {
                        Some(record) => self.records.insert(key.clone(), record.clone()),
                        None => self.records.remove(key),
                    };
                }
            }
            Entry::Clear => self.records.clear(),
            Entry::Meta(name, value) => drop(self.meta.insert(name.clone(), value.clone())),
        }
    }
}

/// The records of one shard.
pub(super) struct DiskEngine {
    disk: Disk,
    content: Mutex<Content>,
}

impl fmt::Debug for DiskEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskEngine").finish_non_exhaustive()
    }
}

impl DiskEngine {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, entry: Entry) -> Result<Commit, EngineError> {
        self.content().apply(&entry);
        let mut state = self.disk.state();
        state.log.push(entry);
        Ok(Commit(state.log.len() as u64))
    }
}

impl Engine for DiskEngine {
    fn load(&self, _shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.content().records.get(key).cloned())
    }

    fn write(&self, _shard: ShardId, changes: &[Change<'_>]) -> Result<Commit, EngineError> {
        let changes = changes.iter().map(|change| match change {
            Change::Put { key, record } => (key.to_vec(), Some(record.to_vec())),
            Change::Remove { key } => (key.to_vec(), None),
        });
        self.append(Entry::Write(changes.collect()))
    }

    fn scan(&self, _shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        for (key, record) in &self.content().records {
            if after.is_none_or(|after| &key[..] > after) && visit(key, record) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self, _shard: ShardId) -> Result<Commit, EngineError> {
        self.append(Entry::Clear)
    }

    fn durable(&self, _upto: Commit) -> BoxFuture<'_, Result<(), EngineError>> {
        unreachable!("the model decides what is synced")
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.content().meta.get(name).cloned())
    }

    fn put_meta(&self, name: &str, value: &[u8]) -> Result<Commit, EngineError> {
        self.append(Entry::Meta(name.to_owned(), value.to_vec()))
    }
}
