//! The folder of an engine: whose it is, and that nobody else is in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::Owner;
use super::journal::Stamp;
use crate::engine::EngineError;

/// The format of a folder all of whose shards have the store's own number of replicas. One before kept no standing: a build of
/// it would write records past what is kept.
const FORMAT: &str = "3";
/// The format of one that has had others: a build that reads [`FORMAT`] only would look for their keys elsewhere.
const WITH_CLASSES: &str = "4";
const READABLE: &str = "3 and 4";
const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
const STAMP: &str = "stamp";
const PROBE: &str = "probe";
/// More than is left of a disk that is full to the last few blocks.
const PROBE_BYTES: usize = 256 << 10;
pub(super) const DATA: &str = "data";
/// Where the data are made. It becomes [`DATA`] when they can be opened.
const FRESH: &str = "data.new";
/// What was [`DATA`] until it was found damaged, as long as what can be read of it is not in the new data.
const SALVAGED: &str = "data.salvage";
/// The same afterwards: nobody reads it any more.
const ASIDE: &str = "data.damaged";

/// A folder that is locked, and whose owner is who opened it.
pub(super) struct Folder {
    path: PathBuf,
    has_classes: bool,
    lock: File,
}

impl Folder {
    /// Takes a folder for its owner; makes it if there is none.
    pub(super) fn lock(path: &Path, owner: &Owner) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::of_io("opened its folder", path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        let foreign = || EngineError::NotOurs {
            folder: path.to_owned(),
            whose: "somebody who left no `identity` in it".to_owned(),
            own: text_of(owner),
        };
        let format = || match fs::read(path.join(IDENTITY)) {
            Ok(bytes) => check(path, &bytes, owner).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        };
        // Nothing is left in a folder that is somebody else's.
        if format()?.is_none() && path.join(DATA).exists() {
            return Err(foreign());
        }
        let lock = OpenOptions::new().create(true).append(true).open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(EngineError::InUse { folder: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // As it is now that nobody else has it.
        let format = format()?;
        if format.is_none() {
            write(path, IDENTITY, describe(FORMAT, owner).as_bytes()).map_err(failed)?;
        }
        let has_classes = format == Some(WITH_CLASSES);
        Ok(Self { path: path.to_owned(), has_classes, lock })
    }

    /// Whether it has had shards of other numbers of replicas than the store's own, when it was locked.
    pub(super) fn has_classes(&self) -> bool {
        self.has_classes
    }

    /// By what the batches of its journals are known. Nothing, if only builds that had none have written to it; one that is not
    /// whole is none, and costs nothing but that.
    pub(super) fn stamp(&self) -> Result<Option<Stamp>, EngineError> {
        match fs::read(self.path.join(STAMP)) {
            Ok(bytes) => Ok(stamp_of(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError::of_io("read its stamp", &self.path, &error)),
        }
    }

    pub(super) fn keep_stamp(&self, stamp: Stamp) -> Result<(), EngineError> {
        let failed = |error: io::Error| EngineError::of_io("kept its stamp", &self.path, &error);
        write(&self.path, STAMP, describe_stamp(stamp).as_bytes()).map_err(failed)
    }

    /// The folder of the data, which `make` makes in another place if there are none: a start that was interrupted leaves
    /// nothing that looks like data. If there are some that were found damaged, `make` is told where.
    pub(super) fn prepare(
        &self,
        make: impl FnOnce(&Path, Option<&Path>) -> Result<(), EngineError>,
    ) -> Result<PathBuf, EngineError> {
        let failed = |error: io::Error| EngineError::of_io("made its folder", &self.path, &error);
        let (data, fresh, salvaged) = (self.path.join(DATA), self.path.join(FRESH), self.path.join(SALVAGED));
        let is_damaged = salvaged.try_exists().map_err(failed)?;
        if !data.try_exists().map_err(failed)? {
            if fresh.try_exists().map_err(failed)? {
                fs::remove_dir_all(&fresh).map_err(failed)?;
            }
            make(&fresh, is_damaged.then_some(&salvaged))?;
            fs::rename(&fresh, &data).map_err(failed)?;
            sync_folder(&self.path).map_err(failed)?;
        }
        // The library does not open data without it, and nothing is in it.
        OpenOptions::new().create(true).append(true).open(data.join(LOCK)).map_err(failed)?;
        if is_damaged {
            fs::rename(&salvaged, self.path.join(ASIDE)).map_err(failed)?;
            sync_folder(&self.path).map_err(failed)?;
        }
        Ok(data)
    }

    /// Puts damaged data aside, to be read once more by the next [`Folder::prepare`]. Returns where they will be in the end.
    pub(super) fn set_aside(&self) -> Result<PathBuf, EngineError> {
        let failed = |error: io::Error| EngineError::of_io("put its data aside", &self.path, &error);
        let aside = self.path.join(ASIDE);
        if aside.try_exists().map_err(failed)? {
            let cause = "it was put aside when its disk was found damaged, and now the disk is so again: look at the disk, and \
                         remove this";
            return Err(EngineError::Damaged { file: aside, offset: None, cause: cause.to_owned() });
        }
        fs::rename(self.path.join(DATA), self.path.join(SALVAGED)).map_err(failed)?;
        sync_folder(&self.path).map_err(failed)?;
        Ok(aside)
    }
}

/// To close the file is not enough: a process that is being started has it open, too, until it runs its program.
impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, folder = %self.path.display(), "the folder stays locked until its file is closed");
        }
    }
}

fn text_of(owner: &Owner) -> String {
    format!("node {} of cluster {}", owner.node, owner.cluster)
}

/// The file that says whose a folder is. Its format is in `docs/STORAGE.md`.
fn describe(format: &str, owner: &Owner) -> String {
    let Owner { cluster, node, shards } = owner;
    let cluster = cluster.escape_default();
    format!("polity-kv {format}\nshards {}\nnode {node}\ncluster {cluster}\n", shards.get())
}

/// Which format it has.
fn check(path: &Path, bytes: &[u8], owner: &Owner) -> Result<&'static str, EngineError> {
    let damaged = |cause: &str| EngineError::Damaged {
        file: path.join(IDENTITY),
        offset: None,
        cause: format!("{cause}: {:?}", String::from_utf8_lossy(bytes)),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let format = field("polity-kv").ok_or_else(|| damaged("it does not begin with `polity-kv`"))?;
    let Some(format) = [FORMAT, WITH_CLASSES].into_iter().find(|known| *known == format) else {
        return Err(EngineError::Version { folder: path.to_owned(), found: format.to_owned(), readable: READABLE });
    };
    let shards = field("shards").and_then(|shards| shards.parse::<u32>().ok()).ok_or_else(|| damaged("no shards"))?;
    let node = field("node").ok_or_else(|| damaged("no node"))?;
    let cluster = field("cluster").ok_or_else(|| damaged("no cluster"))?;
    if node != owner.node.as_str() || cluster != owner.cluster.escape_default().to_string() {
        let whose = format!("node {node} of cluster {cluster}");
        return Err(EngineError::NotOurs { folder: path.to_owned(), whose, own: text_of(owner) });
    }
    let expected = owner.shards.get();
    if shards != expected {
        return Err(EngineError::OtherShards { folder: path.to_owned(), found: shards, expected });
    }
    Ok(format)
}

/// The file of a stamp, and the hash by which one is known that is not whole.
fn describe_stamp(Stamp(bytes): Stamp) -> String {
    format!("{:032x} {:016x}\n", u128::from_le_bytes(bytes), xxh3_64(&bytes))
}

fn stamp_of(bytes: &[u8]) -> Option<Stamp> {
    let text = std::str::from_utf8(bytes).ok()?;
    let stamp = Stamp(u128::from_str_radix(text.get(..32)?, 16).ok()?.to_le_bytes());
    (text == describe_stamp(stamp)).then_some(stamp)
}

/// Says in a folder that from now on it has shards of other numbers of replicas.
pub(super) fn begin_classes(path: &Path, owner: &Owner) -> Result<(), EngineError> {
    let failed = |error: io::Error| EngineError::of_io("changed the format of its folder", path, &error);
    write(path, IDENTITY, describe(WITH_CLASSES, owner).as_bytes()).map_err(failed)
}

/// Writes a file at once: after a crash it is there as a whole or not at all.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = folder.join(format!("{name}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(name))?;
    sync_folder(folder)
}

/// Tries whether there is room on the disk, with a file that is removed again.
pub(super) fn probe(folder: &Path) -> Result<(), EngineError> {
    let path = folder.join(PROBE);
    let probed = File::create(&path).and_then(|mut file| {
        file.write_all(&[1; PROBE_BYTES])?;
        file.sync_all()
    });
    let _ = fs::remove_file(&path);
    probed.map_err(|error| EngineError::of_io("wrote a table", folder, &error))
}

/// Makes durable which tables there are: the library makes a folder for each, and does not wait for that.
pub(super) fn sync_tables(data: &Path) -> Result<(), EngineError> {
    let tables = data.join("keyspaces");
    sync_folder(&tables).map_err(|error| EngineError::of_io("made its folder", &tables, &error))
}

/// Makes the names in a folder durable, where the system can do that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use polity_cluster::NodeName;
    use polity_shard::ShardCount;

    use super::*;

    /// A process that is being started has all files of this one until it runs its program.
    #[test]
    fn a_folder_is_free_at_once_whoever_still_has_its_file_open() {
        let path = std::env::temp_dir().join(format!("polity-locked-{}", std::process::id()));
        let node = NodeName::new("n1").expect("valid");
        let owner = Owner { cluster: "shop".to_owned(), node, shards: ShardCount::new(256).expect("valid") };
        let folder = Folder::lock(&path, &owner).expect("it is free");
        assert!(matches!(Folder::lock(&path, &owner), Err(EngineError::InUse { .. })));
        let inherited = folder.lock.try_clone().expect("duplicates");
        drop(folder);
        drop(Folder::lock(&path, &owner).expect("it is free again"));
        drop(inherited);
        fs::remove_dir_all(&path).expect("removes");
    }

    #[test]
    fn golden_bytes() {
        let node = NodeName::new("n1").expect("valid");
        let owner = Owner { cluster: "shop".to_owned(), node, shards: ShardCount::new(256).expect("valid") };
        let text = describe(FORMAT, &owner);
        assert_eq!(text, "polity-kv 3\nshards 256\nnode n1\ncluster shop\n", "the format: docs/STORAGE.md");
        let check = |text: &str| check(Path::new("f"), text.as_bytes(), &owner);
        assert_eq!(check(&text), Ok(FORMAT));
        let newer = describe(WITH_CLASSES, &owner);
        assert_eq!(newer, text.replace("kv 3", "kv 4"), "the format: docs/STORAGE.md");
        assert_eq!(check(&newer), Ok(WITH_CLASSES));
        assert!(matches!(check(&text.replace("n1", "n2")), Err(EngineError::NotOurs { .. })));
        assert!(matches!(check(&text.replace("shop", "shops")), Err(EngineError::NotOurs { .. })));
        assert!(matches!(check(&text.replace("256", "16")), Err(EngineError::OtherShards { found: 16, .. })));
        assert!(matches!(check(&text.replace("kv 3", "kv 2")), Err(EngineError::Version { .. })));
        for length in 0..text.len() - 1 {
            assert!(check(&text[..length]).is_err(), "{length}");
        }
    }

    /// What is written to in place of the probe takes nothing.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_table_that_could_not_be_written_because_the_disk_is_full_is_told_from_others() {
        use super::super::engine_error;
        let folder = std::env::temp_dir().join(format!("polity-probe-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("makes");
        let poisoned = || engine_error(&folder, "wrote its journal", &fjall::Error::Poisoned);
        assert!(matches!(poisoned(), EngineError::Failed { .. }), "{:?}", poisoned());
        std::os::unix::fs::symlink("/dev/full", folder.join(PROBE)).expect("links");
        assert_eq!(poisoned(), EngineError::Full { action: "wrote a table" });
        assert_eq!(fs::read_dir(&folder).expect("reads").count(), 0, "nothing is left");
        fs::remove_dir_all(&folder).expect("it was ours");
    }

    #[test]
    fn golden_bytes_of_a_stamp() {
        let stamp = Stamp(std::array::from_fn(|at| at as u8));
        let text = describe_stamp(stamp);
        assert_eq!(text, "0f0e0d0c0b0a09080706050403020100 8355e3a6f61770db\n", "the format: docs/STORAGE.md");
        assert_eq!(stamp_of(text.as_bytes()), Some(stamp));
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            assert_eq!((stamp_of(&flipped), stamp_of(&text.as_bytes()[..at])), (None, None), "byte {at}");
        }
        assert_ne!(Stamp::draw(), Stamp::draw());
    }
}
