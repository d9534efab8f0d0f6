//! Looks at which tables there are, before the library does.
//!
//! The library keeps that in a manifest, and its hash in the file that names the manifest, but does not compare them. One that has
//! lost a table would be taken for what it says: the table is removed, and what was acknowledged is gone without a word.
//!
//! The format is that of lsm-tree 3 (`src/version/persist.rs` there): `current` has the number of the manifest, its hash, 16 bytes,
//! and a byte that says which hash that is. The manifest is `v` and that number.

use std::fs;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::entries;
use crate::engine::EngineError;

const CURRENT: &str = "current";
const LENGTH: usize = 8 + 16 + 1;
/// The only hash that there is.
const XXH3: u8 = 0;

/// Compares the manifests of a folder of data with their hashes.
pub(super) fn check(data: &Path) -> Result<(), EngineError> {
    for keyspace in entries(&data.join("keyspaces"))? {
        let file = keyspace.join(CURRENT);
        let failed = |error: io::Error| EngineError::of_io("read which tables it has", &keyspace, &error);
        let current = match fs::read(&file) {
            Ok(current) => current,
            // It is being made, or is none.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
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
        let damaged =
            |cause: &str| EngineError::Damaged { file: manifest.clone(), offset: Some(0), cause: cause.to_owned() };
        match fs::read(&manifest) {
            Ok(bytes) if xxh3_128(&bytes).to_le_bytes() == current[8..24] => {}
            Ok(_) => return Err(damaged("which tables there are is not what was written")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it says which tables there are, and is not there"));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::durable::library::written;

    /// What the library has written, so that a change of its format is noticed before a release.
    #[test]
    fn every_byte_of_a_manifest_of_the_library_is_guarded() {
        let folder = written("manifests", 40);
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
}
