//! Records in a folder: what was durable is there after a crash of the process or of the machine.
//!
//! The library `fjall` keeps the records: a journal that is synced, and sorted tables that are written later. It is never
//! written to by whoever calls [`Engine::write`], because its writers wait for each other's syncs. Instead a change goes
//! into a [`pending`] map that readers look into first, and into the [`committer`]'s queue; the committer's thread writes
//! all that waits as one batch, syncs it once, and wakes all who wait for it. So a write costs no more than memory, and
//! however many wait, they share one sync.
//!
//! Should a batch or a sync fail, nothing more is taken: after a failed sync nobody knows what the disk has, and another
//! that succeeds would say nothing about it (Rebello and others, "Can applications recover from fsync failures?", ATC
//! 2020). Opened anew, the engine goes on with what was durable. Bytes on disk: `docs/STORAGE.md`.
//!
//! Reads that the library's cache does not have, and the scan of a shard, read the disk in the caller's thread.

mod blocks;
mod committer;
mod folder;
mod journal;
#[cfg(test)]
mod library;
mod manifests;
mod pending;
mod salvage;
mod tables;

use std::fmt;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Slice};
use polity_cluster::{BoxFuture, NodeName};
use polity_shard::{ShardCount, ShardId};

use self::committer::{Committer, Op};
use self::folder::Folder;
use self::journal::Stamp;
use self::pending::Found;
use self::tables::{MAX_PREFIX_BYTES, Tables, key_of, prefix_bytes};
use super::{Change, Commit, Engine, EngineError, Visit};

/// The library's limit, less the shard that each of its keys begins with.
pub const MAX_KEY_BYTES: usize = u16::MAX as usize - MAX_PREFIX_BYTES;

/// How many files of tables stay open, at most, once they have been read.
pub const MAX_CACHED_FILES: usize = 256;

/// The library's cache of blocks that were read. Few: the system caches files too.
const CACHE_BYTES: u64 = 64 << 20;
/// Flushes and compactions that run at a time; neither is waited for by a write that is in memory.
const WORKERS: usize = 2;
/// What is written before a table is made of it. Restart replays up to twice that.
const MEMTABLE_BYTES: u64 = 64 << 20;

/// Whose folder it is, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster's name.
    pub cluster: String,
    /// The node's.
    pub node: NodeName,
    /// The shards of its store ([`KvConfig::shards`](crate::KvConfig::shards)).
    pub shards: ShardCount,
}

/// Keeps records in a folder of its own.
///
/// [`Engine::durable`] returns when the journal was synced with `fdatasync`. Dropped, it writes what still waits, and
/// returns when the folder may be opened again.
pub struct DurableEngine {
    folder: PathBuf,
    tables: Tables,
    meta: Keyspace,
    damage: Option<String>,
    committer: Committer,
    /// The library's own threads end with the last handle of it.
    _database: Database,
    /// Locked as long as the engine is open; last, so that it is free only when nothing writes any more.
    _lock: Folder,
}

impl fmt::Debug for DurableEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableEngine").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl DurableEngine {
    /// Opens a folder, or makes it. Blocks while the journal is replayed: about a second for a full one.
    ///
    /// # Errors
    /// [`EngineError`]: the folder cannot be used, is not this owner's, is open already, or is damaged. Nothing that was
    /// acknowledged is changed.
    pub fn open(folder: impl AsRef<Path>, owner: &Owner) -> Result<Self, EngineError> {
        let path = folder.as_ref().to_owned();
        let lock = Folder::lock(&path, owner)?;
        let (stamp, mut salvaged) = (lock.stamp()?, None);
        let data = lock.prepare(|fresh, damaged| {
            let opened = open_database(fresh)?;
            if let Some(damaged) = damaged {
                salvaged = Some(salvage::salvage(damaged, fresh, stamp, lock.has_classes(), &opened)?);
            }
            drop(opened);
            folder::sync_tables(fresh)
        })?;
        let damage = salvaged.map(|records| format!("{records} records could be read and are here"));
        let written = journal::mend(&data, stamp)?;
        manifests::check(&data, &written)?;
        let suspects = blocks::suspects(&data)?;
        let opened = open_database(&data);
        // The library has removed by now what a process that was killed had not finished. What it finds damaged it does not name.
        if matches!(opened, Ok(_) | Err(EngineError::Damaged { .. }))
            && let Some(damaged) = suspects.into_iter().find(blocks::Suspect::is_there)
        {
            return Err(damaged.into_error());
        }
        let (database, records, meta) = opened?;
        let classes = lock.has_classes().then(|| made_classes(&path, &database)).transpose()?;
        let make = {
            let (path, owner, database) = (path.clone(), owner.clone(), database.clone());
            move || {
                folder::begin_classes(&path, &owner)?;
                made_classes(&path, &database)
            }
        };
        let tables = Tables::new(records, classes, make);
        let stamp = match stamp {
            Some(stamp) => stamp,
            None => {
                let drawn = Stamp::draw();
                lock.keep_stamp(drawn)?;
                drawn
            }
        };
        let committer = Committer::start(&path, owner.shards, database.clone(), tables.clone(), meta.clone(), stamp)?;
        Ok(Self { folder: path, tables, meta, damage, committer, _database: database, _lock: lock })
    }

    /// Opens a folder as [`DurableEngine::open`] does, if there are other replicas of what is in it: should the data be damaged,
    /// they are put aside, and the engine begins with what can be read of them ([`Engine::damage`]). It says nothing of whose it
    /// was then, so the store on it counts as one whose memory is lost, and fetches the rest from the others.
    ///
    /// # Errors
    /// [`EngineError`] as of [`DurableEngine::open`]; [`EngineError::Damaged`], if data that were put aside before are there yet.
    pub fn open_or_set_aside(folder: impl AsRef<Path>, owner: &Owner) -> Result<Self, EngineError> {
        let folder = folder.as_ref();
        let data = folder.join(folder::DATA);
        // Without a place it is what the library does not understand, whatever the reason.
        let (file, offset, cause) = match Self::open(folder, owner) {
            Err(EngineError::Damaged { file, offset: offset @ Some(_), cause }) if file.starts_with(&data) => {
                (file, offset, cause)
            }
            opened => return opened,
        };
        let aside = Folder::lock(folder, owner)?.set_aside()?;
        // The file is there in the end.
        let file = file.strip_prefix(&data).map_or_else(|_| file.clone(), |file| aside.join(file));
        let error = EngineError::Damaged { file, offset, cause };
        tracing::error!(%error, "the data are put aside, and what cannot be read is fetched from the other replicas");
        let mut engine = Self::open(folder, owner)?;
        engine.damage = Some(format!("{error}; {}", engine.damage.take().unwrap_or_default()));
        Ok(engine)
    }

    /// Runs what reads tables. The library checks each block that it reads; should one be damaged in a way that it does
    /// not expect, it may panic, and that must not reach whoever reads.
    fn read<T>(&self, what: impl FnOnce() -> fjall::Result<T>) -> Result<T, EngineError> {
        guarded(&self.folder, "read", what)
    }
}

fn guarded<T>(folder: &Path, action: &'static str, what: impl FnOnce() -> fjall::Result<T>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(what)) {
        Ok(result) => result.map_err(|error| engine_error(folder, action, &error)),
        Err(panic) => Err(EngineError::Damaged { file: folder.to_owned(), offset: None, cause: panic_text(&*panic) }),
    }
}

/// What is in a folder, in order; nothing, if it is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |error: io::Error| EngineError::of_io("read its folder", folder, &error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let entries = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort();
    Ok(entries)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it could not be understood".to_owned())
}

type Opened = (Database, Keyspace, Keyspace);

fn open_database(path: &Path) -> Result<Opened, EngineError> {
    guarded(path, "opened its folder", || {
        let builder = Database::builder(path).cache_size(CACHE_BYTES).worker_threads(WORKERS);
        let database = builder.max_cached_files(Some(MAX_CACHED_FILES)).manual_journal_persist(true).open()?;
        let records = database.keyspace("records", options)?;
        let meta = database.keyspace("meta", options)?;
        Ok((database, records, meta))
    })
}

fn open_classes(path: &Path, database: &Database) -> Result<Keyspace, EngineError> {
    guarded(path, "opened the shards of other replica counts", || database.keyspace("classes", options))
}

/// The same of an engine's folder. Whoever was to make it before may have been interrupted, so it may be made here.
fn made_classes(path: &Path, database: &Database) -> Result<Keyspace, EngineError> {
    let classes = open_classes(path, database)?;
    folder::sync_tables(&path.join(folder::DATA))?;
    Ok(classes)
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(MEMTABLE_BYTES)
}

/// What an error of the library means.
fn engine_error(folder: &Path, action: &'static str, error: &fjall::Error) -> EngineError {
    use fjall::Error as E;
    let damaged = || EngineError::Damaged { file: folder.to_owned(), offset: None, cause: error.to_string() };
    match error {
        E::Io(error) | E::Storage(fjall::LsmError::Io(error)) => match error.kind() {
            // A file that is shorter than it says, or has other bytes than it must.
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData | std::io::ErrorKind::NotFound => {
                damaged()
            }
            _ => EngineError::of_io(action, folder, error),
        },
        E::Locked => EngineError::InUse { folder: folder.to_owned() },
        // It does not say why.
        E::Poisoned => match folder::probe(folder) {
            Err(full @ EngineError::Full { .. }) => full,
            _ => EngineError::Failed { cause: "a write of a table has failed".to_owned() },
        },
        E::InvalidVersion(_) | E::Storage(fjall::LsmError::InvalidVersion(_)) => {
            let found = "another format of its tables".to_owned();
            EngineError::Version { folder: folder.to_owned(), found, readable: "that of fjall 3" }
        }
        _ => damaged(),
    }
}

impl Engine for DurableEngine {
    fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let key = key_of(shard, key);
        // Looked up in a statement of its own: the disk is not read under its lock.
        let waiting = self.committer.pending(shard).get(&key);
        let record = match waiting {
            Found::Record(record) => Some(record),
            Found::Gone => None,
            Found::Below => match self.tables.of(shard) {
                Some(records) => self.read(|| records.get(&key))?,
                None => None,
            },
        };
        Ok(record.map(|record| record.to_vec()))
    }

    fn write(&self, shard: ShardId, changes: &[Change<'_>]) -> Result<Commit, EngineError> {
        let own = |change: &Change<'_>| -> Result<_, EngineError> {
            let (Change::Put { key, .. } | Change::Remove { key }) = *change;
            if key.len() > MAX_KEY_BYTES {
                return Err(EngineError::KeyTooLong { bytes: key.len(), limit: MAX_KEY_BYTES });
            }
            let record = match *change {
                Change::Put { record, .. } => Some(Slice::from(record)),
                Change::Remove { .. } => None,
            };
            Ok((key_of(shard, key), record))
        };
        let changes = changes.iter().map(own).collect::<Result<_, _>>()?;
        self.committer.submit(Op::Write { shard, changes })
    }

    fn scan(&self, shard: ShardId, after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        // What waits and what is below are taken at one moment: nothing moves from the one to the other meanwhile.
        let pending = self.committer.pending(shard);
        let waiting = pending.after(after.map(|after| key_of(shard, after)).as_deref());
        let below = if pending.is_cleared() { None } else { Some(self.tables.scan(shard, after)) };
        drop(pending);
        let mut waiting = waiting.into_iter().peekable();
        let mut below = below.into_iter().flatten();
        loop {
            let next = self.read(|| below.next().map(fjall::Guard::into_inner).transpose())?;
            // All that waits before it, and what waits in its place.
            let mut replaced = false;
            while let Some((key, record)) =
                waiting.next_if(|(key, _)| next.as_ref().is_none_or(|(next, _)| key[..] <= next[..]))
            {
                replaced |= next.as_ref().is_some_and(|(next, _)| key[..] == next[..]);
                if let Some(record) = record
                    && visit(&key[prefix_bytes(shard)..], &record) == ControlFlow::Break(())
                {
                    return Ok(());
                }
            }
            let Some((key, record)) = next else { return Ok(()) };
            if !replaced && visit(&key[prefix_bytes(shard)..], &record) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
    }

    fn clear(&self, shard: ShardId) -> Result<Commit, EngineError> {
        self.committer.submit(Op::Clear { shard })
    }

    fn durable(&self, upto: Commit) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.committer.durable(upto))
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        if let Some(value) = self.committer.pending_meta(name) {
            return Ok(Some(value.to_vec()));
        }
        Ok(self.read(|| self.meta.get(name))?.map(|value| value.to_vec()))
    }

    fn put_meta(&self, name: &str, value: &[u8]) -> Result<Commit, EngineError> {
        if name.len() > MAX_KEY_BYTES {
            return Err(EngineError::KeyTooLong { bytes: name.len(), limit: MAX_KEY_BYTES });
        }
        self.committer.submit(Op::Meta { name: name.into(), value: Slice::from(value) })
    }

    fn max_key_bytes(&self) -> usize {
        MAX_KEY_BYTES
    }

    fn failure(&self) -> Option<EngineError> {
        self.committer.failure()
    }

    fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }
}

impl Drop for DurableEngine {
    fn drop(&mut self) {
        self.committer.stop();
    }
}
