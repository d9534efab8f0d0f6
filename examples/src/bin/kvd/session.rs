//! What the program knows of one client, and what all clients share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use polity::Node;
use tokio::time::Instant;

use crate::keyspace::Keyspace;
use crate::reply::Version;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: Node,
    pub(crate) keyspace: Keyspace,
    pub(crate) is_durable: bool,
    pub(crate) max_connections: usize,
    pub(crate) started: Instant,
    /// How many clients are connected.
    connected: AtomicUsize,
    /// The id of the connection that came last.
    newest: AtomicU64,
}

impl Shared {
    pub(crate) fn new(node: Node, keyspace: Keyspace, is_durable: bool, max_connections: usize) -> Self {
        let (connected, newest) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { node, keyspace, is_durable, max_connections, started: Instant::now(), connected, newest }
    }

    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }
}

/// One client, for as long as it is connected.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    /// Empty, unless the client has given itself one.
    pub(crate) name: Bytes,
    pub(crate) version: Version,
    /// Whether the connection ends after what has been answered.
    pub(crate) is_over: bool,
    pub(crate) shared: Arc<Shared>,
}

impl Session {
    /// `None` if there are as many clients as there may be.
    pub(crate) fn new(shared: Arc<Shared>) -> Option<Self> {
        if shared.connected.fetch_add(1, Ordering::Relaxed) >= shared.max_connections {
            shared.connected.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let id = shared.newest.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Self { id, name: Bytes::new(), version: Version::default(), is_over: false, shared })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.connected.fetch_sub(1, Ordering::Relaxed);
    }
}
