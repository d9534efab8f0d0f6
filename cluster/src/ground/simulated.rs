//! The ground of the `turmoil` network simulator.
//!
//! What turmoil lacks is added here, so that a simulated node runs the same code as a real one: a socket that quinn can
//! drive, a wall clock that can be skewed, seeds, and files in memory that outlive a crash of their host.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use quinn::udp::{RecvMeta, Transmit};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{BoxFuture, Ground};

/// Called for every datagram that a node sends: source, target and bytes. The simulator builds its trace from it, and
/// a `false` drops the datagram.
pub type Tap = Arc<dyn Fn(SocketAddr, SocketAddr, &[u8]) -> bool + Send + Sync>;

/// What a simulated machine keeps when its process dies: its files, its clock's skew, and how often it has started.
#[derive(Default)]
pub struct Memory {
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    skew_ms: AtomicI64,
    starts: AtomicU64,
}

impl Memory {
    /// Sets the wall clock's distance from the simulation's time.
    pub fn skew(&self, ms: i64) {
        self.skew_ms.store(ms, Ordering::Relaxed);
    }

    /// Forgets all files, as a replaced disk does.
    pub fn wipe(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A ground inside a turmoil simulation. Must be used from a host of it.
#[derive(Clone)]
pub struct Simulated {
    seed: u64,
    memory: Arc<Memory>,
    tap: Option<Tap>,
}

impl Simulated {
    /// A ground whose randomness follows from `seed`, the number of starts counted in `memory` included.
    #[must_use]
    pub fn new(seed: u64, memory: Arc<Memory>) -> Self {
        Self { seed, memory, tap: None }
    }

    /// Shows every datagram that leaves the node to `tap`.
    #[must_use]
    pub fn tap(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Ground for Simulated {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        // turmoil hosts bind the unspecified address; the host's own address is the one that others see.
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
        let mut binding = Box::pin(turmoil::net::UdpSocket::bind(unspecified));
        match binding.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(socket) => Ok(Arc::new(Socket {
                inner: Arc::new(socket?),
                reading: Mutex::new(None),
                local: addr,
                tap: self.tap.clone(),
            })),
            Poll::Pending => Err(io::Error::other("a simulated socket binds at once")),
        }
    }

    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let parsed = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        let found = match parsed {
            Some((name, port)) => match name.parse() {
                Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
                Err(_) => Ok(vec![SocketAddr::new(turmoil::lookup(name), port)]),
            },
            None => Err(io::Error::other(format!("not HOST:PORT: {host}"))),
        };
        Box::pin(std::future::ready(found))
    }

    fn wall_clock(&self) -> SystemTime {
        let since_epoch = turmoil::since_epoch().unwrap_or_default();
        let skew = self.memory.skew_ms.load(Ordering::Relaxed);
        let distance = Duration::from_millis(skew.unsigned_abs());
        let time = SystemTime::UNIX_EPOCH + since_epoch;
        if skew < 0 { time.checked_sub(distance).unwrap_or(SystemTime::UNIX_EPOCH) } else { time + distance }
    }

    fn seed(&self) -> [u8; 32] {
        let start = self.memory.starts.fetch_add(1, Ordering::Relaxed);
        let mut seed = [0; 32];
        StdRng::seed_from_u64(self.seed ^ start.wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill_bytes(&mut seed);
        seed
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.memory.files.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned())
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut files = self.memory.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path.to_owned(), content.to_owned());
        Ok(())
    }

    fn own_thread(&self) -> bool {
        false
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A turmoil socket as quinn wants it. turmoil has no `poll_recv`, so the `readable()` future is kept and polled before
/// each try: it holds the waker.
struct Socket {
    inner: Arc<turmoil::net::UdpSocket>,
    reading: Mutex<Option<Readable>>,
    local: SocketAddr,
    tap: Option<Tap>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).finish_non_exhaustive()
    }
}

/// A simulated socket can always be written.
#[derive(Debug)]
struct AlwaysWritable;

impl quinn::UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl quinn::AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(tap) = &self.tap
            && !tap(self.local, transmit.destination, transmit.contents)
        {
            return Ok(());
        }
        match self.inner.try_send_to(transmit.contents, transmit.destination) {
            // Nobody listens there now: as on a network, the sender is not told.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let readable = reading.get_or_insert_with(|| {
                let socket = self.inner.clone();
                Box::pin(async move { socket.readable().await })
            });
            let ready = ready!(readable.as_mut().poll(cx));
            *reading = None;
            ready?;
            match self.inner.try_recv_from(buf) {
                Ok((len, addr)) => {
                    *meta = RecvMeta { len, stride: len, addr, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
