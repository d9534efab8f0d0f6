//! A file that others write: an operator, a configuration system, an orchestrator.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::list::resolve_all;
use super::memory::read;
use super::{Context, Discovery, DiscoveryError, MAX_SEEDS, is_host_and_port};
use crate::ground::BoxFuture;

/// The largest file that is read: the most seeds, each with a long name and a comment of its own, several times over.
const MAX_FILE_BYTES: usize = 64 << 10;

/// A file with one `HOST:PORT` on each line. What follows a `#` is a comment; empty lines do not count. It is read anew
/// whenever it is asked, so a change takes effect within an `announce_interval`.
///
/// A file that is missing, or has a line that is something else, is an error: what it said before goes on to count. So
/// write it as a whole and rename it into its place. A file without any entry says that nobody else is there.
///
/// While a read has no end, because its disk does not answer, it is not begun again: it would take a thread each time.
#[derive(Debug, Clone)]
pub struct WatchedFile {
    path: PathBuf,
    /// Whoever holds it reads.
    reads: Arc<Mutex<()>>,
}

impl WatchedFile {
    /// The file at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), reads: Arc::default() }
    }

    async fn entries(&self, context: &Context) -> Result<Vec<String>, DiscoveryError> {
        let error = |cause: Box<dyn std::error::Error + Send + Sync>| {
            DiscoveryError::new(format!("cannot read seeds from {}", self.path.display()), cause)
        };
        let reads = self.reads.clone().lock_owned().await;
        let content = read(context.env(), self.path.clone(), reads).await.map_err(|cause| error(cause.into()))?;
        let content = content.ok_or_else(|| error("there is no such file".into()))?;
        if content.len() > MAX_FILE_BYTES {
            return Err(error(format!("it has more than {MAX_FILE_BYTES} bytes").into()));
        }
        let text = std::str::from_utf8(&content).map_err(|cause| error(cause.into()))?;
        let mut entries = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            if !is_host_and_port(entry) {
                return Err(error(format!("line {}: HOST:PORT, not {entry:?}", at + 1).into()));
            }
            if entries.len() == MAX_SEEDS {
                return Err(error(format!("line {}: more than {MAX_SEEDS} entries", at + 1).into()));
            }
            entries.push(entry.to_owned());
        }
        Ok(entries)
    }
}

impl Discovery for WatchedFile {
    fn find<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>> {
        Box::pin(async move { resolve_all(context, &self.entries(context).await?).await })
    }
}
