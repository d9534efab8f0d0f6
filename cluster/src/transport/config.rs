//! The limits and times of the transport.

use std::time::Duration;

/// Requests in flight on one link fit into the index part of a request id, see [`super::pending`].
pub(crate) const MAX_IN_FLIGHT_LIMIT: usize = 1 << super::pending::INDEX_BITS;

/// The greatest allowed `max_frame_bytes`. A frame's length is a `u32` and one frame is held in memory whole.
pub(crate) const MAX_FRAME_LIMIT: usize = 64 << 20;

/// Limits and times of the transport. Every queue and table of the transport is bounded by one of these.
#[derive(Debug, Clone)]
pub(crate) struct TransportConfig {
    /// How long a call may take when its caller does not say. 5 s: longer than a connect and a hello together.
    pub(crate) call_timeout: Duration,
    /// The largest body of a request or an answer. 4 MiB: one stream window, so that a frame never waits for itself.
    pub(crate) max_frame_bytes: usize,
    /// Requests in flight to one peer; past it calls fail with `Overloaded`. 4,096 is the most that ids can tell apart.
    pub(crate) max_in_flight: usize,
    /// Bytes that wait in one lane of one connection. 8 MiB: two of the largest frames.
    pub(crate) max_queued_bytes: usize,
    /// Bytes of answers on one link that no caller has taken yet. 64 MiB: eight full lanes.
    pub(crate) max_unread_bytes: usize,
    /// From the first packet to the end of the QUIC handshake. 3 s: several retransmissions of each flight.
    pub(crate) connect_timeout: Duration,
    /// From the end of the handshake to the end of the hello, on both sides. 2 s.
    pub(crate) hello_timeout: Duration,
    /// A connection on which nothing arrives for so long is dead. 10 s: three keep-alives.
    pub(crate) idle_timeout: Duration,
    /// How often an otherwise silent connection sends something. 3 s.
    pub(crate) keep_alive: Duration,
    /// A link without a call for so long closes its connection. 60 s.
    pub(crate) link_idle: Duration,
    /// The first wait after a failed connect. 100 ms: a few round trips of a handshake.
    pub(crate) backoff_min: Duration,
    /// The longest wait between two connects. 5 s: a peer that comes back is seen at most so much later.
    pub(crate) backoff_max: Duration,
    /// A link that received nothing for so long after a request was sent counts as stalled. 300 ms.
    pub(crate) stall_after: Duration,
    /// How exact deadlines are. 5 ms.
    pub(crate) sweep: Duration,
    /// Inbound connections that have not finished their hello: see [`super::bounds`].
    pub(crate) max_handshakes: usize,
    /// Inbound connections in all. 4,096, at 45 KiB each when idle.
    pub(crate) max_connections: usize,
    /// Links to peers in all, idle ones included. 4,096.
    pub(crate) max_links: usize,
    /// What QUIC assumes of the round trip before it has measured one. 20 ms: a lost first packet is sent again after
    /// three times this.
    pub(crate) initial_rtt: Duration,
    /// How long a shutdown waits until peers have heard of it. 500 ms.
    pub(crate) shutdown_grace: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(5),
            max_frame_bytes: 4 << 20,
            max_in_flight: MAX_IN_FLIGHT_LIMIT,
            max_queued_bytes: 8 << 20,
            max_unread_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(3),
            hello_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            link_idle: Duration::from_secs(60),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            stall_after: Duration::from_millis(300),
            sweep: Duration::from_millis(5),
            max_handshakes: super::bounds::MOST,
            max_connections: 4_096,
            max_links: 4_096,
            initial_rtt: Duration::from_millis(20),
            shutdown_grace: Duration::from_millis(500),
        }
    }
}

impl TransportConfig {
    /// Says what is wrong with the limits, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.max_in_flight == 0 || self.max_in_flight > MAX_IN_FLIGHT_LIMIT {
            return Err(format!("max_in_flight must be from 1 to {MAX_IN_FLIGHT_LIMIT}, not {}", self.max_in_flight));
        }
        if self.max_frame_bytes < 1_024 || self.max_frame_bytes > MAX_FRAME_LIMIT {
            return Err(format!(
                "max_frame_bytes must be from 1024 to {MAX_FRAME_LIMIT}, not {}",
                self.max_frame_bytes
            ));
        }
        if self.max_queued_bytes < self.max_frame_bytes {
            return Err("max_queued_bytes must hold at least one frame of max_frame_bytes".to_owned());
        }
        if self.max_unread_bytes < self.max_frame_bytes {
            return Err("max_unread_bytes must hold at least one frame of max_frame_bytes".to_owned());
        }
        if self.keep_alive >= self.idle_timeout {
            return Err("keep_alive must be shorter than idle_timeout".to_owned());
        }
        if self.backoff_min.is_zero() || self.backoff_min > self.backoff_max {
            return Err("backoff_min must be positive and at most backoff_max".to_owned());
        }
        Ok(())
    }
}
