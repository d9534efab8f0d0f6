//! A folder that is gone when the benchmark has ended, also by an error.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes one where `POLITY_BENCH_FOLDER` says, or else where the system keeps what is temporary. What syncs need a disk:
    /// where that is kept in memory, say another place.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let place = std::env::var_os("POLITY_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = place.join(format!("polity-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
