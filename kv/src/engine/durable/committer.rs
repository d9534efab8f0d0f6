//! Makes durable what was written, for all who wait at once.
//!
//! One thread takes all that has been submitted since it looked last, writes it as one batch of the library, syncs the
//! journal once, and announces the last commit of it. What is submitted meanwhile is the next batch. Nobody who submits
//! waits for it: the locks here are held for the time of a few instructions.

use std::collections::BTreeMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode, Slice};
use polity_shard::{ShardCount, ShardId};
use tokio::sync::watch;

use super::journal::{STAMP_KEY, Stamp};
use super::pending::{Key, Pending, Value};
use super::tables::Tables;
use super::{engine_error, panic_text};
use crate::engine::by_shard::ByShard;
use crate::engine::{Commit, EngineError};

/// What may wait for the disk in memory: some seconds of what a slow one takes. Beyond that nothing is taken.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// One batch of the library. A longer one would delay who waits for its beginning.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// What one change costs beside its bytes.
const CHANGE_BYTES: usize = 96;
/// How many removals of a shard that is cleared are one batch.
const MAX_REMOVALS: usize = 16 << 10;

/// What is submitted.
pub(super) enum Op {
    Write { shard: ShardId, changes: Vec<(Key, Value)> },
    Clear { shard: ShardId },
    Meta { name: Arc<str>, value: Slice },
}

impl Op {
    fn bytes(&self) -> usize {
        let change = |(key, value): &(Key, Value)| CHANGE_BYTES + key.len() + value.as_ref().map_or(0, |v| v.len());
        match self {
            Self::Write { changes, .. } => changes.iter().map(change).sum(),
            Self::Clear { .. } => CHANGE_BYTES,
            Self::Meta { name, value } => CHANGE_BYTES + name.len() + value.len(),
        }
    }
}

#[derive(Default)]
struct Queue {
    ops: Vec<(Commit, Op)>,
    /// Of what is in it, and of what the thread is at.
    bytes: usize,
    last: Commit,
    failed: Option<EngineError>,
    stopped: bool,
}

type Progress = (Commit, Option<EngineError>);

struct Shared {
    folder: PathBuf,
    shards: ByShard<RwLock<Pending>>,
    meta: RwLock<BTreeMap<Arc<str>, (Commit, Slice)>>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The queue and its thread.
pub(super) struct Committer {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(
        folder: &Path,
        shards: ShardCount,
        database: Database,
        tables: Tables,
        meta: Keyspace,
        stamp: Stamp,
    ) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            shards: ByShard::new(shards, RwLock::default),
            meta: RwLock::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
        });
        let (announce, progress) = watch::channel((Commit::NONE, None));
        let worker = Worker { shared: shared.clone(), announce, database, tables, meta, stamp };
        let thread = std::thread::Builder::new().name("polity-commit".to_owned()).spawn(move || worker.run());
        let thread = thread.map_err(|error| EngineError::of_io("started its thread", folder, &error))?;
        Ok(Self { shared, progress, thread: Some(thread) })
    }

    /// What of a shard is not in the tables yet.
    pub(super) fn pending(&self, shard: ShardId) -> RwLockReadGuard<'_, Pending> {
        self.shared.shards.of(shard).read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pending_meta(&self, name: &str) -> Option<Slice> {
        let meta = self.shared.meta.read().unwrap_or_else(PoisonError::into_inner);
        meta.get(name).map(|(_, value)| value.clone())
    }

    /// Lets readers see it from now on, and hands it to the thread.
    pub(super) fn submit(&self, op: Op) -> Result<Commit, EngineError> {
        // The shard stays locked until its commit has a number, so that both go in one order.
        match &op {
            Op::Write { shard, changes } => {
                let (shard, changes) = (*shard, changes.clone());
                let mut pending = self.shared.pending_mut(shard);
                let at = self.shared.enqueue(op)?;
                changes.into_iter().for_each(|(key, value)| pending.change(at, key, value));
                Ok(at)
            }
            Op::Clear { shard } => {
                let mut pending = self.shared.pending_mut(*shard);
                let at = self.shared.enqueue(op)?;
                pending.clear(at);
                Ok(at)
            }
            Op::Meta { name, value } => {
                let (name, value) = (name.clone(), value.clone());
                let mut meta = self.shared.meta.write().unwrap_or_else(PoisonError::into_inner);
                let at = self.shared.enqueue(op)?;
                meta.insert(name, (at, value));
                Ok(at)
            }
        }
    }

    /// Waits until a commit is durable.
    pub(super) async fn durable(&self, upto: Commit) -> Result<(), EngineError> {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|(durable, failed)| *durable >= upto || failed.is_some()).await;
        match reached.as_deref() {
            Ok((durable, _)) if *durable >= upto => Ok(()),
            Ok((_, Some(error))) => Err(error.clone()),
            Ok((_, None)) | Err(_) => Err(EngineError::Failed { cause: "its thread has ended".to_owned() }),
        }
    }

    /// What made the thread end.
    pub(super) fn failure(&self) -> Option<EngineError> {
        self.progress.borrow().1.clone()
    }

    /// Writes what waits, and ends the thread.
    pub(super) fn stop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending_mut(&self, shard: ShardId) -> RwLockWriteGuard<'_, Pending> {
        self.shards.of(shard).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, op: Op) -> Result<Commit, EngineError> {
        let mut queue = self.lock();
        if let Some(error) = &queue.failed {
            return Err(match error {
                EngineError::Failed { .. } | EngineError::Full { .. } => error.clone(),
                error => EngineError::Failed { cause: error.to_string() },
            });
        }
        let bytes = op.bytes();
        if queue.bytes > 0 && queue.bytes + bytes > MAX_WAITING_BYTES {
            return Err(EngineError::Overloaded { waiting: queue.bytes });
        }
        queue.bytes += bytes;
        queue.last.0 += 1;
        let at = queue.last;
        queue.ops.push((at, op));
        // The thread looks again before it sleeps, so only the first of a batch has to wake it.
        if queue.ops.len() == 1 {
            self.wake.notify_one();
        }
        Ok(at)
    }
}

struct Worker {
    shared: Arc<Shared>,
    announce: watch::Sender<Progress>,
    database: Database,
    tables: Tables,
    meta: Keyspace,
    stamp: Stamp,
}

/// A batch of the library that begins with a stamp.
struct Stamped {
    batch: OwnedWriteBatch,
    stamp: Stamp,
}

impl Stamped {
    /// Where a change of this keyspace is put. The stamp goes to the same, so that it keeps no journal from being deleted.
    fn of(&mut self, keyspace: &Keyspace) -> &mut OwnedWriteBatch {
        if self.batch.is_empty() {
            self.batch.insert(keyspace, STAMP_KEY, &self.stamp.0[..]);
        }
        &mut self.batch
    }

    fn commit(self) -> fjall::Result<()> {
        self.batch.commit()
    }
}

impl Worker {
    fn run(self) {
        while let Some(ops) = self.take() {
            let worked = catch_unwind(AssertUnwindSafe(|| self.commit(ops)));
            let error = match worked {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(panic) => EngineError::Failed { cause: panic_text(&*panic) },
            };
            tracing::error!(%error, folder = %self.shared.folder.display(), "the storage engine takes nothing more");
            self.shared.lock().failed = Some(error.clone());
            self.announce.send_modify(|(_, failed)| *failed = Some(error));
            return;
        }
    }

    /// All that waits; `None` if nothing does and nothing more will.
    fn take(&self) -> Option<Vec<(Commit, Op)>> {
        let mut queue = self.shared.lock();
        while queue.ops.is_empty() {
            if queue.stopped {
                return None;
            }
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Some(mem::take(&mut queue.ops))
    }

    fn batch(&self) -> Stamped {
        Stamped { batch: self.database.batch().durability(Some(PersistMode::SyncData)), stamp: self.stamp }
    }

    fn commit(&self, ops: Vec<(Commit, Op)>) -> Result<(), EngineError> {
        let failed = |error: fjall::Error| engine_error(&self.shared.folder, "wrote its journal", &error);
        let mut batch = self.batch();
        let (mut done, mut bytes) = (Vec::new(), 0);
        for (at, op) in ops {
            match &op {
                Op::Write { shard, changes } => {
                    let records = self.tables.made_for(*shard)?;
                    for (key, value) in changes {
                        match value {
                            Some(record) => batch.of(records).insert(records, key.clone(), record.clone()),
                            None => batch.of(records).remove(records, key.clone()),
                        }
                    }
                }
                Op::Meta { name, value } => batch.of(&self.meta).insert(&self.meta, name.as_bytes(), value.clone()),
                Op::Clear { shard } => {
                    mem::replace(&mut batch, self.batch()).commit().map_err(failed)?;
                    self.clear(*shard).map_err(failed)?;
                }
            }
            bytes += op.bytes();
            done.push((at, op));
            if bytes >= MAX_BATCH_BYTES {
                mem::replace(&mut batch, self.batch()).commit().map_err(failed)?;
                self.settle(mem::take(&mut done), mem::take(&mut bytes));
            }
        }
        batch.commit().map_err(failed)?;
        self.settle(done, bytes);
        Ok(())
    }

    /// Removes all records of a shard that are in the tables. Synced batch by batch: a crash leaves some of them.
    fn clear(&self, shard: ShardId) -> fjall::Result<()> {
        let mut batch = self.batch();
        let Some(records) = self.tables.of(shard) else { return Ok(()) };
        for entry in self.tables.scan(shard, None) {
            batch.of(records).remove(records, entry.key()?);
            if batch.batch.len() >= MAX_REMOVALS {
                mem::replace(&mut batch, self.batch()).commit()?;
            }
        }
        batch.commit()
    }

    /// These are durable and in the tables: readers find them there, and whoever waits goes on.
    fn settle(&self, done: Vec<(Commit, Op)>, bytes: usize) {
        let Some((last, _)) = done.last() else { return };
        // Those who wait need not wait for what follows.
        self.shared.lock().bytes -= bytes;
        self.announce.send_modify(|(durable, _)| *durable = *last);
        for (at, op) in &done {
            match op {
                Op::Write { shard, changes } => {
                    let mut pending = self.shared.pending_mut(*shard);
                    changes.iter().for_each(|(key, _)| pending.settle(*at, key));
                }
                Op::Clear { shard } => self.shared.pending_mut(*shard).settle_clear(*at),
                Op::Meta { name, .. } => {
                    let mut meta = self.shared.meta.write().unwrap_or_else(PoisonError::into_inner);
                    if meta.get(name).is_some_and(|(newest, _)| newest == at) {
                        meta.remove(name);
                    }
                }
            }
        }
    }
}
