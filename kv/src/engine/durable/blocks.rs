//! Looks at the library's tables, block by block, when a folder is opened.
//!
//! The library notices that a block is not what was written when it reads it, which may be long after, and does not say where
//! it is. Here all tables are read at once, when their folder is opened: so damage is known with file and offset before any of
//! it is served.
//!
//! A process that was killed leaves tables that are not whole and that nothing refers to; the library removes them when it
//! opens the folder. So a table that does not look whole is a [`Suspect`], and damaged if it is there afterwards.
//!
//! The format is that of lsm-tree 3 (`src/table/block/header.rs` there) in an archive of sfa 1: sections, a table of contents, and
//! a trailer. All sections but a few bytes are blocks, one behind the other. A block has a header (a magic; its type; the hash of
//! its data, 16 bytes; how long its data is, and how long uncompressed; 4 bytes of the hash of all that) and its data.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_128;

use super::entries;
use crate::engine::EngineError;

pub(super) const TABLES: &str = "tables";
const MAGIC: &[u8] = b"LSM\x03";
/// What of a header its own hash is of.
const HASHED: usize = 4 + 1 + 16 + 4 + 4;
const HEADER: usize = HASHED + 4;
/// The sections that are blocks. Others are left to the library.
const OF_BLOCKS: [&[u8]; 6] = [b"data", b"tli", b"index", b"filter", b"filter_tli", b"meta"];
const CONTENTS: &[u8] = b"TOC!";
const TRAILER_MAGIC: &[u8] = b"SFA!\x01\0";
const TRAILER: usize = TRAILER_MAGIC.len() + 16 + 8 + 8;
/// What the system says of a sector that cannot be read (`EIO`).
const UNREADABLE: i32 = 5;

/// A table that does not look whole.
#[derive(Debug)]
pub(super) struct Suspect {
    file: PathBuf,
    offset: usize,
    cause: String,
    was: (u64, SystemTime),
}

impl Suspect {
    /// Whether the same file is there yet.
    pub(super) fn is_there(&self) -> bool {
        state_of(&self.file) == Some(self.was)
    }

    pub(super) fn into_error(self) -> EngineError {
        EngineError::Damaged { file: self.file, offset: Some(self.offset as u64), cause: self.cause }
    }
}

fn state_of(file: &Path) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// The tables of a keyspace. They are numbered: whatever else is there is not the library's.
pub(super) fn tables(keyspace: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let mut files = entries(&keyspace.join(TABLES))?;
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().parse::<u64>().is_ok()));
    Ok(files)
}

/// The tables of a folder of data that do not look whole. None, if no table looks like one: then another version of the library
/// has written them, which is for the library to say.
pub(super) fn suspects(data: &Path) -> Result<Vec<Suspect>, EngineError> {
    let (mut suspects, mut is_known) = (Vec::new(), false);
    for keyspace in entries(&data.join("keyspaces"))? {
        for file in tables(&keyspace)? {
            let (offset, cause) = match fs::read(&file) {
                Ok(bytes) => {
                    is_known |= bytes.starts_with(MAGIC);
                    match damaged_at(&bytes) {
                        None => continue,
                        Some(offset) => (offset, "a block is not what was written".to_owned()),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.raw_os_error() == Some(UNREADABLE) => (0, error.to_string()),
                Err(error) => return Err(EngineError::of_io("read its tables", &file, &error)),
            };
            // One that is gone by now nothing refers to.
            if let Some(was) = state_of(&file) {
                suspects.push(Suspect { file, offset, cause, was });
            }
        }
    }
    Ok(if is_known { suspects } else { Vec::new() })
}

/// Where a table is not what was written, for the first time.
fn damaged_at(bytes: &[u8]) -> Option<usize> {
    match sections(bytes) {
        Some(sections) => {
            let of_blocks = sections.into_iter().filter(|(name, _)| OF_BLOCKS.contains(name));
            of_blocks.into_iter().find_map(|(_, section)| unlike_blocks(bytes, section))
        }
        // Cut off, or damaged at its end: the blocks go on to where it is.
        None => Some(unlike_blocks(bytes, 0..bytes.len()).unwrap_or(bytes.len())),
    }
}

/// The names of an archive's sections, and where they lie, if the table of contents is whole.
pub(super) fn sections(bytes: &[u8]) -> Option<Vec<(&[u8], Range<usize>)>> {
    let end = bytes.len().checked_sub(TRAILER)?;
    let numbers = bytes[end..].strip_prefix(TRAILER_MAGIC)?;
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?) as usize);
    let (begin, length) = (number(&numbers[16..24])?, number(&numbers[24..])?);
    let contents = bytes.get(begin..end).filter(|contents| contents.len() == length)?;
    if numbers[..16] != xxh3_128(contents).to_le_bytes() {
        return None;
    }
    let mut rest = contents.strip_prefix(CONTENTS)?.get(4..)?;
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let (at, length) = (number(rest.get(..8)?)?, number(rest.get(8..16)?)?);
        let name_length = usize::from(u16::from_le_bytes(rest.get(16..18)?.try_into().ok()?));
        let name = rest.get(18..18 + name_length)?;
        sections.push((name, at..at.checked_add(length).filter(|end| *end <= begin)?));
        rest = &rest[18 + name_length..];
    }
    Some(sections)
}

/// Where the first thing is in a part of a table that is no whole block.
fn unlike_blocks(bytes: &[u8], part: Range<usize>) -> Option<usize> {
    let mut at = part.start;
    while at < part.end {
        match block(&bytes[at..part.end]) {
            Some(length) => at += length,
            None => return Some(at),
        }
    }
    None
}

/// The length of the block that begins here, if it is whole.
fn block(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if !header.starts_with(MAGIC) || number(HASHED)? != xxh3_128(&header[..HASHED]) as u32 {
        return None;
    }
    let hash = u128::from_le_bytes(header[5..21].try_into().ok()?);
    let length = HEADER + number(21)? as usize;
    (xxh3_128(bytes.get(HEADER..length)?) == hash).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::durable::library::written;

    /// What the library has written, so that a change of its format is noticed before a release.
    #[test]
    fn every_byte_of_a_table_of_the_library_is_guarded() {
        let folder = written("blocks", 400);
        assert!(suspects(&folder).expect("reads").is_empty(), "the format: this file's head");
        let keyspaces = entries(&folder.join("keyspaces")).expect("reads");
        let tables: Vec<PathBuf> =
            keyspaces.iter().flat_map(|keyspace| entries(&keyspace.join("tables")).expect("reads")).collect();
        let largest = tables.iter().max_by_key(|file| state_of(file).map(|(length, _)| length)).expect("there is one");
        let whole = fs::read(largest).expect("reads");
        assert!(whole.len() > 60_000 && damaged_at(&whole).is_none());
        let mut unseen = 0;
        for at in (0..whole.len()).step_by(97).chain(whole.len() - 1_000..whole.len()) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            let found = damaged_at(&flipped);
            unseen += usize::from(found.is_none());
            // Damage of the end is found where the blocks end.
            assert!(found.is_none_or(|found| found <= at), "{found:?} for {at} of {}", whole.len());
            assert!(damaged_at(&whole[..at]).is_some_and(|found| found <= at), "cut at {at}");
        }
        assert!(unseen <= 1, "the version of the table");

        // Files that are not the library's are none of ours.
        for name in ["._7", ".DS_Store", ".nfs0001"] {
            fs::write(largest.with_file_name(name), "not a table").expect("writes");
        }
        assert!(suspects(&folder).expect("reads").is_empty());
        fs::write(largest.with_file_name("4711"), &whole[..1_000]).expect("writes");
        let found = suspects(&folder).expect("reads");
        assert!(found.len() == 1 && found[0].is_there() && found[0].file.ends_with("4711"), "{found:?}");
        fs::remove_file(largest.with_file_name("4711")).expect("removes");
        assert!(!found[0].is_there());
        let _ = fs::remove_dir_all(&folder);
    }
}
