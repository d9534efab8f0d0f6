//! One UDP socket for gossip and QUIC.
//!
//! The two top bits of a datagram's first byte tell them apart: gossip has `00`, and QUIC always sets `0x40`, provided
//! that nobody greases the bit. Gossip is taken out in place, segment by segment, of what the system received as one
//! buffer: a receive task with a channel of its own, or a socket that hides the system's batching, costs a factor of
//! five in throughput.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::oneshot;

use super::ledger::Ledger;
use super::stats::TransportStats;

/// The bits of a datagram's first byte that are zero in gossip and not in QUIC.
const KIND_BITS: u8 = 0b1100_0000;

/// How many receives in a row may contain nothing but gossip before the endpoint's task lets others run: each is a
/// batch of up to 32 buffers.
const GOSSIP_ROUNDS: usize = 8;

/// How many buffers of a receive are left for packets of handshakes that came together with others, see [`part`]. The
/// longest flight of ours is three packets.
const SPARE_BUFFERS: usize = 8;

/// Takes the gossip that arrives.
pub(crate) trait GossipSink: Send + Sync {
    /// Called on the library's executor for each datagram; must not block.
    fn datagram(&self, from: SocketAddr, bytes: &[u8]);
}

/// The socket that QUIC sees: the node's socket without the gossip.
pub(crate) struct DemuxSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    is_ipv6: bool,
    gossip: Arc<dyn GossipSink>,
    stats: Arc<TransportStats>,
    pub(crate) ledger: Ledger,
    /// Dropped after `inner`: its port is free then.
    _held: oneshot::Sender<()>,
}

impl DemuxSocket {
    /// A socket over `inner`. `held` is dropped once nobody holds either any more.
    pub(crate) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        gossip: Arc<dyn GossipSink>,
        stats: Arc<TransportStats>,
        held: oneshot::Sender<()>,
    ) -> io::Result<Self> {
        let is_ipv6 = inner.local_addr()?.is_ipv6();
        Ok(Self { inner, is_ipv6, gossip, stats, ledger: Ledger::default(), _held: held })
    }

    /// Sends one gossip datagram, or drops and counts it if the socket is not ready. Says whether it was sent. A socket
    /// becomes ready only once the runtime has looked at it, so what is sent before the caller first waits is dropped.
    pub(crate) fn send_gossip(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        debug_assert!(is_gossip(bytes), "the first byte of gossip has two zero bits on top");
        let destination = match to.ip() {
            IpAddr::V4(ip) if self.is_ipv6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let transmit = Transmit { destination, ecn: None, contents: bytes, segment_size: None, src_ip: None };
        let sent = self.inner.try_send(&transmit).is_ok();
        if sent {
            self.stats.gossip_out.inc()
        } else {
            self.stats.gossip_dropped.inc()
        }
        sent
    }
}

impl fmt::Debug for DemuxSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DemuxSocket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Waits for `inner`, and holds the socket for as long as that does.
#[derive(Debug)]
struct Poller {
    inner: Pin<Box<dyn UdpPoller>>,
    _socket: Arc<DemuxSocket>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_writable(cx)
    }
}

impl AsyncUdpSocket for DemuxSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(Poller { inner, _socket: self })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self.ledger.may_send(transmit.destination, transmit.contents.len()) {
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let filled = bufs.len().saturating_sub(SPARE_BUFFERS).max(1);
        for _ in 0..GOSSIP_ROUNDS {
            let received = match self.inner.poll_recv(cx, &mut bufs[..filled], &mut meta[..filled]) {
                Poll::Ready(Ok(received)) => received,
                other => return other,
            };
            let mut kept_bytes = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(received) {
                let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                let taken = take_gossip(buf, meta, |datagram| self.gossip.datagram(from, datagram));
                if taken > 0 {
                    self.stats.gossip_in.add(taken);
                }
                kept_bytes += meta.len;
                self.ledger.received(meta.addr, meta.len);
            }
            if kept_bytes > 0 {
                return Poll::Ready(Ok(part(bufs, meta, received)));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

fn is_gossip(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & KIND_BITS == 0)
}

/// Hands the gossip segments of a received buffer to `sink` and moves the others together, in order. Returns how many
/// were gossip. Only the last segment may be shorter than the stride, and that stays so.
fn take_gossip(buf: &mut [u8], meta: &mut RecvMeta, mut sink: impl FnMut(&[u8])) -> u64 {
    let len = meta.len.min(buf.len());
    let stride = if meta.stride == 0 { len.max(1) } else { meta.stride };
    let (mut kept, mut at, mut taken) = (0, 0, 0);
    while at < len {
        let end = (at + stride).min(len);
        if is_gossip(&buf[at..end]) {
            sink(&buf[at..end]);
            taken += 1;
        } else {
            if kept != at {
                buf.copy_within(at..end, kept);
            }
            kept += end - at;
        }
        at = end;
    }
    meta.len = kept;
    taken
}

/// Gives each packet of a handshake a buffer of its own, and returns how many buffers are filled now. The order stays.
///
/// QUIC keeps a whole buffer for as long as it keeps any packet that was in it, so a stranger could have it keep 64 KiB
/// for each packet. What finds no buffer is dropped as if it were lost, which takes more than a handshake ever sends at
/// once. Where the system fills one buffer at a time they stay together.
fn part(bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], mut filled: usize) -> usize {
    let mut at = 0;
    while at < filled && bufs.len() > 1 {
        let RecvMeta { len, stride, .. } = meta[at];
        if let Some(first) = first_run(&bufs[at][..len], stride) {
            if filled < bufs.len() {
                bufs[at + 1..=filled].rotate_right(1);
                meta[at + 1..=filled].rotate_right(1);
                let (before, after) = bufs.split_at_mut(at + 1);
                after[0][..len - first].copy_from_slice(&before[at][first..len]);
                meta[at + 1] = RecvMeta { len: len - first, ..meta[at] };
                filled += 1;
            }
            meta[at].len = first;
        }
        at += 1;
    }
    filled
}

/// Where the first packet of a handshake ends, or begins if others come before it. `None` if the buffer need not be parted.
fn first_run(buf: &[u8], stride: usize) -> Option<usize> {
    let stride = if stride == 0 { buf.len().max(1) } else { stride };
    match buf.chunks(stride).position(is_of_handshake)? {
        0 => Some(stride).filter(|end| *end < buf.len()),
        before => Some(before * stride),
    }
}

/// Whether a packet of QUIC has a long header (RFC 9000, 17.2).
fn is_of_handshake(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter over segments and returns what stayed and what was gossip.
    fn filter(segments: &[&[u8]], stride: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut buf = segments.concat();
        let mut meta = RecvMeta { len: buf.len(), stride, ..RecvMeta::default() };
        buf.extend_from_slice(b"left over from an earlier receive");
        let mut gossip = Vec::new();
        let taken = take_gossip(&mut buf, &mut meta, |datagram| gossip.push(datagram.to_vec()));
        assert_eq!(taken as usize, gossip.len());
        (buf[..meta.len].to_vec(), gossip)
    }

    #[test]
    fn gossip_is_taken_out_of_a_mixed_buffer() {
        let (quic, gossip) = filter(&[b"\x00ab", b"\x41cd", b"\x3fef", b"\xc0gh", b"\x01i"], 3);
        assert_eq!(quic, b"\x41cd\xc0gh");
        assert_eq!(gossip, [b"\x00ab".to_vec(), b"\x3fef".to_vec(), b"\x01i".to_vec()]);
    }

    #[test]
    fn a_short_last_segment_stays_whole() {
        let (quic, gossip) = filter(&[b"\x00ab", b"\x41cd", b"\x42"], 3);
        assert_eq!(quic, b"\x41cd\x42");
        assert_eq!(gossip, [b"\x00ab".to_vec()]);
    }

    #[test]
    fn pure_buffers_are_left_alone_or_emptied() {
        assert_eq!(filter(&[b"\x41cd", b"\x80ef"], 3), (b"\x41cd\x80ef".to_vec(), vec![]));
        assert_eq!(filter(&[b"\x01cd", b"\x00ef"], 3).0, b"");
    }

    /// Parts buffers of segments of three bytes among `room` buffers, and returns what each filled one holds then.
    fn parted(received: &[&[u8]], room: usize) -> Vec<Vec<u8>> {
        let mut memory = vec![[0; 64]; room];
        let mut bufs: Vec<_> = memory.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let mut meta = vec![RecvMeta::default(); room];
        for ((buf, meta), bytes) in bufs.iter_mut().zip(&mut meta).zip(received) {
            buf[..bytes.len()].copy_from_slice(bytes);
            (meta.len, meta.stride) = (bytes.len(), 3);
        }
        let filled = part(&mut bufs, &mut meta, received.len());
        assert!(meta[..filled].iter().all(|meta| meta.stride == 3));
        (0..filled).map(|at| bufs[at][..meta[at].len].to_vec()).collect()
    }

    #[test]
    fn a_packet_of_a_handshake_has_a_buffer_of_its_own() {
        assert_eq!(parted(&[b"\x41ab\x42c", b"\xc0d"], 4), [&b"\x41ab\x42c"[..], b"\xc0d"]);
        let all = parted(&[b"\xc0ab\xc1cd\x41ef\x42gh\xc2ij\x43k", b"\x44lm"], 8);
        assert_eq!(all, [&b"\xc0ab"[..], b"\xc1cd", b"\x41ef\x42gh", b"\xc2ij", b"\x43k", b"\x44lm"]);
    }

    #[test]
    fn what_finds_no_buffer_is_lost_and_nothing_else() {
        let some = parted(&[b"\xc0ab\xc1cd\xc2ef\x41gh", b"\x42ij"], 3);
        assert_eq!(some, [&b"\xc0ab"[..], b"\xc1cd", b"\x42ij"]);
        assert_eq!(parted(&[b"\xc0ab\xc1cd"], 1), [b"\xc0ab\xc1cd"]);
    }

    #[test]
    fn an_empty_datagram_is_nobodys() {
        assert_eq!(filter(&[], 0), (vec![], vec![]));
        assert_eq!(filter(&[b"\x00abc"], 0).1, [b"\x00abc".to_vec()]);
    }
}
