//! What a storage engine cannot do.

use std::io;
use std::path::{Path, PathBuf};

/// Why an engine could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    // Retry.
    /// More waits for the disk than is kept in memory for it. Nothing was stored; a moment later it may be.
    #[error("{waiting} bytes wait for the disk, which is too slow for what is written")]
    Overloaded {
        /// How many.
        waiting: usize,
    },

    // Reject: something outside of the engine must change.
    /// No room is left. An engine on disk takes nothing more until it is opened anew, with room.
    #[error("no room is left on the disk ({action})")]
    Full {
        /// What it was doing.
        action: &'static str,
    },
    /// The folder, or something in it, cannot be written.
    #[error("{} cannot be written: {cause}", path.display())]
    ReadOnly {
        /// What.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// The folder is that of another node. Nothing in it was touched.
    #[error("{} belongs to {whose}, not to {own}", folder.display())]
    NotOurs {
        /// Which folder.
        folder: PathBuf,
        /// Whose it is.
        whose: String,
        /// Who wanted it.
        own: String,
    },
    /// Another process, or another node of this one, uses the folder. Nothing in it was touched.
    #[error("{} is in use", folder.display())]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
    /// The folder was written for another number of shards. Nothing in it was touched.
    #[error("{} holds {found} shards, and this node has {expected}", folder.display())]
    OtherShards {
        /// Which folder.
        folder: PathBuf,
        /// How many it was written for.
        found: u32,
        /// How many are configured.
        expected: u32,
    },
    /// The keys of a bucket are held with another number of replicas than is configured now. Nothing was touched.
    #[error(
        "the bucket {bucket:?} holds keys with {found} replicas, and is configured with {expected}: the number is for the life of \
         what it holds"
    )]
    OtherReplicas {
        /// Which; the one without a name is the store's own.
        bucket: String,
        /// With how many they are held.
        found: u8,
        /// How many are configured: the store's own number, if the bucket is not declared, or says nothing else.
        expected: u8,
    },
    /// The folder was written by a build whose format this one does not know. Nothing in it was touched.
    #[error("{} has format {found}, and this build reads {readable}", folder.display())]
    Version {
        /// Which folder.
        folder: PathBuf,
        /// What it says.
        found: String,
        /// What this build reads.
        readable: &'static str,
    },
    /// A key is longer than the engine can store. Nothing was stored.
    #[error("a key of {bytes} bytes: this engine takes at most {limit}")]
    KeyTooLong {
        /// The key's length.
        bytes: usize,
        /// The longest key.
        limit: usize,
    },

    // Give up.
    /// What was stored is not what is there. Nothing was repaired, because acknowledged records may be affected.
    #[error("{} is damaged{}: {cause}", file.display(), at(*offset))]
    Damaged {
        /// The file, or the folder if no more is known.
        file: PathBuf,
        /// Where in the file, if that is known.
        offset: Option<u64>,
        /// What does not fit.
        cause: String,
    },
    /// It failed before, and takes nothing more: what the disk has of the writes before is not known. Opened anew, it
    /// goes on with what was durable.
    #[error("the storage engine has failed before: {cause}")]
    Failed {
        /// How.
        cause: String,
    },
    /// Anything else.
    #[error("the storage engine failed while it {action}: {cause}")]
    Other {
        /// What it was doing.
        action: &'static str,
        /// What went wrong.
        cause: String,
    },
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default()
}

impl EngineError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Overloaded { .. })
    }

    /// What an error of the system at a path means.
    #[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "only engines on disk have paths"))]
    pub(crate) fn of_io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { action }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly { path: path.to_owned(), cause: error.to_string() }
            }
            _ => Self::Other { action, cause: format!("{}: {error}", path.display()) },
        }
    }
}
