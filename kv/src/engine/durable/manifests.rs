//! Looks at which tables there are, before the library does.
//!
//! The library keeps that in a manifest, and its hash in the file that names the manifest, but does not compare them. One that has
//! lost a table would be taken for what it says: the table is removed, and what was acknowledged is gone without a word. A
//! keyspace of which nothing says that is taken for one that was never made, and removed.
//!
//! The format is that of lsm-tree 3 (`src/version` there): `current` has the number of the manifest, its hash, 16 bytes, and a byte
//! that says which hash that is. The manifest is `v` and that number, an archive ([`blocks`](super::blocks)) whose section `tables` has
//! the number of levels (a byte); of each its number of runs (a byte); of each of those its number of tables (4 bytes), and of each table
//! its number (8 bytes), its hash and a sequence number (25 bytes).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::blocks::{self, TABLES};
use super::entries;
use crate::engine::EngineError;

/// What the library wants to find first. Without it, it would make a new database.
const VERSION: &str = "version";
const KEYSPACES: &str = "keyspaces";
/// The numbers of the keyspaces that every folder of data has: the library's own, `records` and `meta`.
const ALWAYS: [u64; 3] = [0, 1, 2];
const CURRENT: &str = "current";
const LENGTH: usize = 8 + 16 + 1;
/// The only hash that there is.
const XXH3: u8 = 0;
/// What is said of a table behind its number.
const OF_TABLE: usize = 1 + 16 + 8;

/// Compares the manifests of a folder of data with their hashes, and what is there with what they say. `written` are the keyspaces of which
/// it is known that they are written to.
pub(super) fn check(data: &Path, written: &BTreeSet<u64>) -> Result<(), EngineError> {
    let version = data.join(VERSION);
    if !version.try_exists().map_err(|error| EngineError::of_io("looked for its version", data, &error))? {
        return Err(missing(version, "it says in which format the data are, and is not there"));
    }
    let keyspaces = data.join(KEYSPACES);
    let made: BTreeSet<_> = ALWAYS.iter().chain(written).map(|number| keyspaces.join(number.to_string())).collect();
    for keyspace in &made {
        if !check_keyspace(keyspace)? {
            return Err(missing(keyspace.join(CURRENT), "it says which manifest counts, and is not there"));
        }
    }
    for keyspace in entries(&keyspaces)?.into_iter().filter(|keyspace| !made.contains(keyspace)) {
        // Without tables it was being made, or is none.
        if !check_keyspace(&keyspace)? && !blocks::tables(&keyspace)?.is_empty() {
            return Err(missing(keyspace.join(CURRENT), "it says which manifest counts, and is not there"));
        }
    }
    Ok(())
}

fn missing(file: PathBuf, cause: &str) -> EngineError {
    EngineError::Damaged { file, offset: Some(0), cause: cause.to_owned() }
}

/// Says whether there is a manifest.
fn check_keyspace(keyspace: &Path) -> Result<bool, EngineError> {
    let file = keyspace.join(CURRENT);
    let failed = |error: io::Error| EngineError::of_io("read which tables it has", keyspace, &error);
    let current = match fs::read(&file) {
        Ok(current) => current,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(failed(error)),
    };
    let damaged_at = |offset: usize| {
        let cause = "it does not say which manifest counts".to_owned();
        EngineError::Damaged { file: file.clone(), offset: Some(offset as u64), cause }
    };
    let length = current.len();
    let current = <[u8; LENGTH]>::try_from(current).map_err(|_| damaged_at(length.min(LENGTH)))?;
    if current[LENGTH - 1] != XXH3 {
        return Err(damaged_at(LENGTH - 1));
    }
    let number = u64::from_le_bytes(current[..8].try_into().expect("8 bytes"));
    let manifest = keyspace.join(format!("v{number}"));
    let bytes = match fs::read(&manifest) {
        Ok(bytes) if xxh3_128(&bytes).to_le_bytes() == current[8..24] => bytes,
        Ok(_) => return Err(missing(manifest, "which tables there are is not what was written")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(missing(manifest, "it says which tables there are, and is not there"));
        }
        Err(error) => return Err(failed(error)),
    };
    // One of a format that is not known is left to the library.
    for number in tables(&bytes).unwrap_or_default() {
        let table = keyspace.join(TABLES).join(number.to_string());
        if !table.try_exists().map_err(failed)? {
            return Err(missing(table, "it is one of the tables, and is not there"));
        }
    }
    Ok(true)
}

/// The numbers of the tables that a manifest says there are.
fn tables(manifest: &[u8]) -> Option<Vec<u64>> {
    let (_, section) = blocks::sections(manifest)?.into_iter().find(|(name, _)| *name == TABLES.as_bytes())?;
    let mut rest = manifest.get(section)?;
    let mut tables = Vec::new();
    for _ in 0..*rest.split_off_first()? {
        for _ in 0..*rest.split_off_first()? {
            for _ in 0..u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?) {
                tables.push(u64::from_le_bytes(rest.split_off(..8)?.try_into().ok()?));
                rest.split_off(..OF_TABLE)?;
            }
        }
    }
    Some(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::durable::library::written;

    /// What the library has written, so that a change of its format is noticed before a release.
    #[test]
    fn every_byte_of_a_manifest_of_the_library_is_guarded() {
        let folder = written("manifests", 40);
        let check = |folder: &Path| check(folder, &BTreeSet::new());
        check(&folder).expect("the format: this file's head");
        let mut checked = 0;
        for keyspace in entries(&folder.join("keyspaces")).expect("reads") {
            let current = fs::read(keyspace.join(CURRENT)).expect("reads");
            let number = u64::from_le_bytes(current[..8].try_into().expect("8 bytes"));
            for name in [CURRENT.to_owned(), format!("v{number}")] {
                let file = keyspace.join(&name);
                let whole = fs::read(&file).expect("reads");
                for at in 0..whole.len() {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 0x10;
                    fs::write(&file, flipped).expect("writes");
                    let found = check(&folder);
                    assert!(
                        matches!(found, Err(EngineError::Damaged { offset: Some(_), .. })),
                        "byte {at} of {name}: {found:?}"
                    );
                    fs::write(&file, &whole[..at]).expect("writes");
                    let found = check(&folder);
                    assert!(
                        matches!(&found, Err(EngineError::Damaged { file: named, offset: Some(_), .. }) if *named == file),
                        "{name} cut at {at}: {found:?}"
                    );
                    checked += 1;
                }
                fs::write(&file, whole).expect("writes");
            }
        }
        assert!(checked > 200, "{checked}");
        check(&folder).expect("it is as it was");
        let _ = fs::remove_dir_all(&folder);
    }

    #[test]
    fn what_is_not_there_is_damage_unless_it_was_being_made() {
        let folder = written("missing", 40);
        let none = BTreeSet::new();
        let keyspace = folder.join("keyspaces/1");
        let table = blocks::tables(&keyspace).expect("reads").remove(0);
        let manifest = fs::read(keyspace.join("v1")).expect("reads");
        assert_eq!(tables(&manifest).map(|tables| tables.len()), Some(1), "the format: this file's head");
        for file in [folder.join("version"), keyspace.join("current"), folder.join("keyspaces/0/current"), table] {
            let whole = fs::read(&file).expect("reads");
            fs::remove_file(&file).expect("removes");
            let found = check(&folder, &none);
            assert!(
                matches!(&found, Err(EngineError::Damaged { file: named, offset: Some(0), .. }) if *named == file),
                "{file:?}: {found:?}"
            );
            fs::write(&file, whole).expect("writes");
        }
        let made = folder.join("keyspaces/3");
        fs::create_dir_all(made.join(TABLES)).expect("makes");
        check(&folder, &none).expect("it was being made");
        let named = |found: Result<(), EngineError>| match found {
            Err(EngineError::Damaged { file, offset: Some(0), .. }) => file == made.join(CURRENT),
            _ => false,
        };
        assert!(named(check(&folder, &BTreeSet::from([3]))), "somebody has written to it");
        fs::write(made.join(TABLES).join("7"), "a table").expect("writes");
        assert!(named(check(&folder, &none)), "it has a table");
        let _ = fs::remove_dir_all(&folder);
    }
}
