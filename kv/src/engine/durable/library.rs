//! Folders as the library writes them, for tests of what is known of its formats.

use std::path::PathBuf;

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

/// A folder of so many records of 160 bytes, in a table.
pub(super) fn written(name: &str, records: u64) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("polity-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let options = || KeyspaceCreateOptions::default().manual_journal_persist(true);
    let database = Database::builder(&folder).open().expect("opens");
    let keyspace = database.keyspace("records", options).expect("opens");
    for number in 0..records {
        keyspace.insert(number.to_be_bytes(), number.to_le_bytes().repeat(20)).expect("writes");
    }
    database.keyspace("meta", options).expect("opens");
    database.persist(PersistMode::SyncAll).expect("syncs");
    keyspace.rotate_memtable_and_wait().expect("a table is made");
    folder
}
