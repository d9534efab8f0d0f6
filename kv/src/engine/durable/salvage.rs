//! What can be read of a folder of data that is damaged goes into a new one.
//!
//! What comes along is as it was when the damage was found, or it does not come: an older state of a record could bring back what
//! was deleted since (K5). So nothing comes along if the journal is damaged, or what says which tables there are: that may matter to
//! any record. A damaged block of a table holds records between two keys: what is before them and behind them, and is read without
//! an error, is as it was.
//!
//! How the node stood to its shards, and whose boots these records were, does not come along: it is not true any more.

use std::path::Path;

use fjall::{Database, Keyspace, PersistMode, Slice};

use super::journal::{STAMP_KEY, Stamp};
use super::{Opened, engine_error, guarded, journal, manifests, open_classes, open_database};
use crate::engine::EngineError;
use crate::kept;

/// Copies what can be read. Returns how many records that were. Any other failure than damage is returned, to be done again.
pub(super) fn salvage(
    from: &Path,
    into: &Path,
    stamp: Option<Stamp>,
    has_classes: bool,
    made: &Opened,
) -> Result<u64, EngineError> {
    let opened = journal::mend(from, stamp)
        .and_then(|written| manifests::check(from, &written))
        .and_then(|()| open_database(from));
    let Some((old, old_records, old_meta)) = unless_damaged(opened)? else { return Ok(0) };
    let (new, records, meta) = made;
    let mut count = copy(from, &old_records, into, records)?;
    if has_classes && let Some(classes) = unless_damaged(open_classes(from, &old))? {
        count += copy(from, &classes, into, &open_classes(into, new)?)?;
    }
    if let Some(Some(classes)) = unless_damaged(guarded(from, "read", || old_meta.get(kept::CLASSES)))? {
        guarded(into, "wrote", || meta.insert(kept::CLASSES, classes))?;
    }
    sync(into, new)?;
    Ok(count)
}

fn unless_damaged<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(read) => Ok(Some(read)),
        Err(EngineError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn sync(into: &Path, database: &Database) -> Result<(), EngineError> {
    database.persist(PersistMode::SyncAll).map_err(|error| engine_error(into, "synced", &error))
}

/// From both ends up to the first error.
fn copy(from: &Path, old: &Keyspace, into: &Path, new: &Keyspace) -> Result<u64, EngineError> {
    let mut count = 0;
    let mut put = |key: &Slice, record: Slice| {
        if key[..] == *STAMP_KEY {
            return Ok(());
        }
        count += 1;
        guarded(into, "wrote", || new.insert(key.clone(), record))
    };
    let read = |next: &mut dyn FnMut() -> Option<fjall::Guard>| {
        unless_damaged(guarded(from, "read", || next().map(fjall::Guard::into_inner).transpose()))
    };
    let mut forward = old.iter();
    let mut last = None;
    while let Some(next) = read(&mut || forward.next())? {
        let Some((key, record)) = next else { return Ok(count) };
        put(&key, record)?;
        last = Some(key);
    }
    let mut backward = old.iter();
    while let Some(Some((key, record))) = read(&mut || backward.next_back())?
        && last.as_ref().is_none_or(|last| key > *last)
    {
        put(&key, record)?;
    }
    Ok(count)
}
