//! How a node learns where others are: from a list, a name, a file, a closure, or by asking the LAN.
//!
//! A [`Discovery`] is asked when the node starts and then for ever, every `announce_interval` or so. What all of them
//! find together are the node's seeds: who is not up at one of these addresses is greeted, again and again, so a node
//! that has lost everyone finds them again even if none of them is where it was.
//!
//! | | finds | fails if |
//! |---|---|---|
//! | [`StaticList`] ([`Builder::seeds`](crate::Builder::seeds)) | all addresses of each `HOST:PORT` | a name does not resolve |
//! | [`DnsName`] | all addresses of one name | it does not resolve |
//! | [`WatchedFile`] | what stands in a file, one `HOST:PORT` a line | it is missing or bad |
//! | [`from_fn`], [`from_async_fn`] | what a closure says | it says so |
//! | [`Multicast`] | nodes of this cluster on the same LAN | there is no multicast |
//! //!
//! # Whom to trust
//! An address is a place to knock, and nothing more: whoever answers there must hold the secret and belong to the same
//! cluster. A wrong address costs a handshake now and then.

mod asker;
mod closure;
pub mod conformance;
mod file;
mod list;
mod memory;
mod multicast;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

pub use self::asker::DiscoveryStats;
pub(crate) use self::asker::{Asker, Counts, First};
pub use self::closure::{FromAsyncFn, FromFn, from_async_fn, from_fn};
pub use self::file::WatchedFile;
pub use self::list::{DnsName, StaticList};
pub(crate) use self::memory::{Memory, write};
pub use self::multicast::Multicast;
use crate::ground::{BoxFuture, Env};
use crate::secure::Secret;
use crate::secure::ring::Ring;

/// The most addresses that count at a time, of what all discoveries find together: more are not more certain, and each
/// is greeted for ever.
pub const MAX_SEEDS: usize = 64;
/// The most addresses with which one discovery answers: of more than [`MAX_SEEDS`] a node draws some by chance each time,
/// so all have their turn.
pub const MAX_FOUND: usize = 1024;
/// The most discoveries that a node may have.
pub const MAX_DISCOVERIES: usize = 16;

/// Finds addresses at which members may be.
///
/// An implementation is asked on the node's own thread: it must not block. Its future may be dropped at any time, and
/// it may be asked again before the last answer has come. [`conformance`] tests any implementation.
pub trait Discovery: Send + Sync + fmt::Debug + 'static {
    /// All addresses at which members may be now, this node's own perhaps among them. An answer replaces the one
    /// before: an empty one says that nobody is there. At most [`MAX_FOUND`].
    ///
    /// A node all of whose discoveries answer, and name nobody but itself, takes itself for the first of its cluster. So
    /// an implementation that does not know must not answer with nothing, but fail.
    ///
    /// # Errors
    /// [`DiscoveryError`] if they cannot be told, with those that can be ([`DiscoveryError::with_found`]). What was
    /// found before then goes on to count.
    fn find<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>>;

    /// What is done for as long as the node runs so that others find it; by default nothing. Begun when the node is
    /// about to become a member, and dropped when it stops.
    fn announce(&self, _context: Context) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// For whom something is to be found.
#[derive(Clone, Debug)]
pub struct Context {
    env: Env,
    cluster: Arc<str>,
    /// As it is now: keys change while the node runs.
    ring: watch::Receiver<Arc<Ring>>,
    addr: SocketAddr,
}

impl Context {
    /// A node of the cluster of this name and secret, which others reach at `addr`. The node makes its own; this is for
    /// tests of implementations.
    #[must_use]
    pub fn new(env: Env, cluster: &str, secret: Secret, addr: SocketAddr) -> Self {
        let ring = Ring::new(secret, []).expect("one key is not too many");
        Self::with_ring(env, cluster, watch::channel(Arc::new(ring)).1, addr)
    }

    pub(crate) fn with_ring(env: Env, cluster: &str, ring: watch::Receiver<Arc<Ring>>, addr: SocketAddr) -> Self {
        Self { env, cluster: cluster.into(), ring, addr }
    }

    /// What the node stands on: names are resolved, and files read, through it.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The name of its cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Where others reach the node.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Why the addresses of members cannot be told now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {source}")]
pub struct DiscoveryError {
    what: String,
    source: Arc<dyn std::error::Error + Send + Sync>,
    found: BTreeSet<SocketAddr>,
}

impl DiscoveryError {
    /// `what` names the source of addresses and what was tried, such as `cannot resolve the seed "db:7946"`.
    pub fn new(what: impl Into<String>, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Arc::from(cause.into()), found: BTreeSet::new() }
    }

    /// The same, with what was found nevertheless.
    #[must_use]
    pub fn with_found(mut self, found: BTreeSet<SocketAddr>) -> Self {
        self.found = found;
        self
    }

    /// What was tried.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What was found nevertheless.
    #[must_use]
    pub fn found(&self) -> &BTreeSet<SocketAddr> {
        &self.found
    }
}

impl From<std::io::Error> for DiscoveryError {
    fn from(cause: std::io::Error) -> Self {
        Self::new("cannot find members", cause)
    }
}

impl From<std::net::AddrParseError> for DiscoveryError {
    fn from(cause: std::net::AddrParseError) -> Self {
        Self::new("cannot read the address of a member", cause)
    }
}

/// Whether a text is `HOST:PORT` with a port that can be listened on.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    parts.is_some_and(|(host, port)| !host.is_empty() && port != 0)
}
