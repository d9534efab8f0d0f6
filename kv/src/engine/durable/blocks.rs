//! Looks at the library's tables, block by block, when a folder is opened.
//!
//! The library notices that a block is not what was written when it reads it, which may be long after, and does not say where
//! it is. Here all tables are read at once, when their folder is opened: so damage is known with file and offset before any of
//! it is served.
//!
//! A process that was killed leaves tables that are not whole and that nothing refers to; the library removes them when it
//! opens the folder. So a table that does not look whole is a [`Suspect`], and damaged if it is there afterwards.
//!
//! The format is that of lsm-tree 3 (`src/table/block/header.rs` there) in an archive of sfa 1: blocks one behind the other, a
//! byte that is a version between them, then a table of contents and a trailer. A block has a header (a magic; its type; the
//! hash of its data, 16 bytes; how long its data is, and how long uncompressed; 4 bytes of the hash of all that) and its data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_128;

use crate::engine::EngineError;

const MAGIC: &[u8] = b"LSM\x03";
/// The version of a table, which stands between its blocks.
const VERSION: u8 = 3;
/// What of a header its own hash is of.
const HASHED: usize = 4 + 1 + 16 + 4 + 4;
const HEADER: usize = HASHED + 4;
const CONTENTS: &[u8] = b"TOC!";
const TRAILER_MAGIC: &[u8] = b"SFA!\x01\0";
const TRAILER: usize = TRAILER_MAGIC.len() + 16 + 8 + 8;

/// A table that does not look whole.
#[derive(Debug)]
pub(super) struct Suspect {
    file: PathBuf,
    offset: usize,
    cause: String,
    was: Option<(u64, SystemTime)>,
}

impl Suspect {
    /// Whether the same file is there yet.
    pub(super) fn is_there(&self) -> bool {
        state_of(&self.file) == self.was
    }

    pub(super) fn into_error(self) -> EngineError {
        EngineError::Damaged { file: self.file, offset: Some(self.offset as u64), cause: self.cause }
    }
}

fn state_of(file: &Path) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// The tables of a folder of data that do not look whole. None, if no table looks like one: then another version of the library
/// has written them, which is for the library to say.
pub(super) fn suspects(data: &Path) -> Result<Vec<Suspect>, EngineError> {
    let (mut suspects, mut is_known) = (Vec::new(), false);
    for keyspace in entries(&data.join("keyspaces"))? {
        for file in entries(&keyspace.join("tables"))? {
            let (offset, cause) = match fs::read(&file) {
                Ok(bytes) => {
                    is_known |= bytes.starts_with(MAGIC);
                    match damaged_at(&bytes) {
                        None => continue,
                        Some(offset) => (offset, "a block is not what was written".to_owned()),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(EngineError::of_io("read its tables", &file, &error));
                }
                Err(error) => (0, error.to_string()),
            };
            let was = state_of(&file);
            suspects.push(Suspect { file, offset, cause, was });
        }
    }
    Ok(if is_known { suspects } else { Vec::new() })
}

/// What is in a folder, in order; nothing, if it is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |error: io::Error| EngineError::of_io("read its tables", folder, &error);
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

/// Where a table is not what was written, for the first time.
fn damaged_at(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        if rest.starts_with(MAGIC) {
            match block(rest) {
                Some(length) => at += length,
                None => return Some(at),
            }
        } else if rest.first() == Some(&VERSION) && rest[1..].starts_with(MAGIC) {
            at += 1;
        } else {
            return if is_end(rest, at) { None } else { Some(at) };
        }
    }
}

/// The length of the block that begins here, if it is whole.
fn block(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if number(HASHED)? != xxh3_128(&header[..HASHED]) as u32 {
        return None;
    }
    let hash = u128::from_le_bytes(header[5..21].try_into().ok()?);
    let length = HEADER + number(21)? as usize;
    (xxh3_128(bytes.get(HEADER..length)?) == hash).then_some(length)
}

/// Whether this is the table of contents, at this place of the file, and the trailer.
fn is_end(bytes: &[u8], at: usize) -> bool {
    let Some(length) = bytes.len().checked_sub(TRAILER).filter(|_| bytes.starts_with(CONTENTS)) else { return false };
    let (contents, trailer) = bytes.split_at(length);
    let Some(numbers) = trailer.strip_prefix(TRAILER_MAGIC) else { return false };
    let expected = [&xxh3_128(contents).to_le_bytes()[..], &(at as u64).to_le_bytes(), &(length as u64).to_le_bytes()];
    numbers == expected.concat()
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    /// What the library has written, so that a change of its format is noticed before a release.
    #[test]
    fn every_byte_of_a_table_of_the_library_is_guarded() {
        let folder = std::env::temp_dir().join(format!("polity-blocks-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let options = || KeyspaceCreateOptions::default().manual_journal_persist(true);
        let database = Database::builder(&folder).open().expect("opens");
        let records = database.keyspace("records", options).expect("opens");
        for number in 0..400_u64 {
            records.insert(number.to_be_bytes(), number.to_le_bytes().repeat(20)).expect("writes");
        }
        database.persist(PersistMode::SyncAll).expect("syncs");
        records.rotate_memtable_and_wait().expect("a table is made");
        drop((records, database));
        assert!(suspects(&folder).expect("reads").is_empty(), "the format: this file's head");
        let keyspaces = entries(&folder.join("keyspaces")).expect("reads");
        let tables: Vec<PathBuf> =
            keyspaces.iter().flat_map(|keyspace| entries(&keyspace.join("tables")).expect("reads")).collect();
        let largest = tables.iter().max_by_key(|file| state_of(file).map(|(length, _)| length)).expect("there is one");
        let whole = fs::read(largest).expect("reads");
        assert!(whole.len() > 60_000 && damaged_at(&whole).is_none());
        for at in (0..whole.len()).step_by(97).chain(whole.len() - 100..whole.len()) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            let found = damaged_at(&flipped).unwrap_or_else(|| panic!("byte {at} of {}", whole.len()));
            assert!(found <= at, "{found} for {at}");
            assert!(damaged_at(&whole[..at]).is_some(), "cut at {at}");
        }
        let _ = fs::remove_dir_all(&folder);
    }
}
