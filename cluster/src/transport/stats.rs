//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter. Readers may see counters of one moment in any order.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// The count since the node started.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the transport of a node has done since it started.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TransportStats {
    /// Gossip datagrams received.
    pub gossip_in: Counter,
    /// Gossip datagrams sent.
    pub gossip_out: Counter,
    /// Gossip datagrams dropped because the socket's buffer was full or the system refused them.
    pub gossip_dropped: Counter,
    /// Connections that this node dialled and that finished their hello.
    pub connections_out: Counter,
    /// Connections that this node accepted and that finished their hello.
    pub connections_in: Counter,
    /// Handshakes and hellos that failed, on either side.
    pub handshake_failures: Counter,
    /// Connection attempts that were turned away because too many were under way or open.
    pub handshakes_shed: Counter,
    /// Diallers that were asked to show that their address is their own, because many handshakes were under way.
    pub retries: Counter,
    /// Connections that the peer's restart or this node's loss of it ended.
    pub connections_lost: Counter,
    /// Frames received.
    pub frames_in: Counter,
    /// Bytes of lanes received.
    pub bytes_in: Counter,
    /// Requests and answers sent.
    pub frames_out: Counter,
    /// Bytes of lanes sent.
    pub bytes_out: Counter,
    /// Requests that were refused because a limit was reached, here.
    pub overloads: Counter,
    /// Answers that were dropped because a limit was reached, here.
    pub answers_dropped: Counter,
    /// Connections closed because a peer sent something that is not a frame.
    pub malformed: Counter,
    /// Calls whose deadline passed.
    pub timeouts: Counter,
    /// Handlers that panicked.
    pub handler_panics: Counter,
}
