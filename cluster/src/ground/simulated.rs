//! The ground of the `turmoil` network simulator.
//!
//! What turmoil lacks is added here, so that a simulated node runs the same code as a real one: a socket that quinn can
//! drive, datagrams that are delayed, doubled, reordered or damaged one by one, a process that can be paused, a wall
//! clock that can be skewed, seeds, and files in memory that outlive a crash of their host and can be lost or torn in it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{BoxFuture, Gate, Ground};

/// What becomes of a datagram that a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// It goes on its way as it is.
    Whole,
    /// It is lost.
    Lost,
    /// These go on their way in its place, each after this time: copies, late ones, damaged ones.
    Instead(Vec<(Duration, Bytes)>),
}

/// Called for every datagram that a node sends: source, target and bytes. The simulator builds its trace from it, and
/// decides here what its links do.
pub type Wire = Arc<dyn Fn(SocketAddr, SocketAddr, &[u8]) -> Carriage + Send + Sync>;

/// What a simulated disk does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFault {
    /// Nothing.
    #[default]
    None,
    /// Reads and writes fail.
    Fails,
    /// A crash loses what was written since the fault began, although it was said to be durable.
    Forgets,
    /// A crash leaves half of what was written since the fault began.
    Tears,
}

/// What a simulated machine keeps when its process dies: its files, its wall clock, and how often it has started.
#[derive(Default)]
pub struct Memory(Mutex<Machine>);

#[derive(Default)]
struct Machine {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// What the files that were written since the disk's fault began held before.
    before: BTreeMap<PathBuf, Option<Vec<u8>>>,
    disk: DiskFault,
    clock: Clock,
    starts: u64,
}

/// How a wall clock is wrong.
#[derive(Default)]
struct Clock {
    skew_ms: i64,
    drift_ppm: i64,
    /// The simulation's time in milliseconds at which the drift began.
    since_ms: i64,
}

impl Clock {
    /// What it shows at a time of the simulation, which began at the epoch.
    fn at(&self, epoch: Duration, now: Duration) -> Duration {
        let now_ms = now.as_millis() as i64;
        let drift_ms = (now_ms - self.since_ms) * self.drift_ppm / 1_000_000;
        let off_ms = self.skew_ms.saturating_add(drift_ms);
        (epoch + Duration::from_millis(now_ms.unsigned_abs()))
            .saturating_add(Duration::from_millis(off_ms.max(0).unsigned_abs()))
            .saturating_sub(Duration::from_millis(off_ms.min(0).unsigned_abs()))
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the wall clock's distance from the simulation's time, and what it gains from `now` on in parts per million.
    pub fn set_clock(&self, now: Duration, skew_ms: i64, drift_ppm: i64) {
        self.lock().clock = Clock { skew_ms, drift_ppm, since_ms: now.as_millis() as i64 };
    }

    /// Sets what the disk does wrong from now on. What was written before is safe.
    pub fn set_disk(&self, fault: DiskFault) {
        let mut machine = self.lock();
        machine.disk = fault;
        machine.before.clear();
    }

    /// What the disk does wrong now.
    #[must_use]
    pub fn disk(&self) -> DiskFault {
        self.lock().disk
    }

    /// Does to the files what a crash does.
    pub fn crash(&self) {
        let mut machine = self.lock();
        let Machine { files, before, disk, .. } = &mut *machine;
        for (path, old) in std::mem::take(before) {
            match (*disk, old) {
                (DiskFault::Forgets, Some(old)) => drop(files.insert(path, old)),
                (DiskFault::Forgets, None) => drop(files.remove(&path)),
                (DiskFault::Tears, _) => {
                    let content = files.entry(path).or_default();
                    content.truncate(content.len() / 2);
                }
                (DiskFault::None | DiskFault::Fails, _) => {}
            }
        }
    }

    /// Forgets all files, as a replaced disk does.
    pub fn wipe(&self) {
        let mut machine = self.lock();
        machine.files.clear();
        machine.before.clear();
    }
}

/// A ground inside a turmoil simulation. Must be used from a host of it.
#[derive(Clone)]
pub struct Simulated {
    seed: u64,
    memory: Arc<Memory>,
    wire: Option<Wire>,
    gate: Gate,
}

impl Simulated {
    /// A ground whose randomness follows from `seed`, the number of starts counted in `memory` included.
    #[must_use]
    pub fn new(seed: u64, memory: Arc<Memory>) -> Self {
        Self { seed, memory, wire: None, gate: Gate::default() }
    }

    /// Lets `wire` see every datagram that leaves the node, and decide what becomes of it.
    #[must_use]
    pub fn wire(mut self, wire: Wire) -> Self {
        self.wire = Some(wire);
        self
    }

    /// Pauses the node's tasks while this gate is closed.
    #[must_use]
    pub fn gated(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("seed", &self.seed).finish_non_exhaustive()
    }
}

fn disk_error() -> io::Error {
    io::Error::other("the simulated disk fails")
}

impl Ground for Simulated {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        // turmoil hosts bind the unspecified address; the host's own address is the one that others see.
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
        let mut binding = Box::pin(turmoil::net::UdpSocket::bind(unspecified));
        let inner = match binding.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(socket) => Arc::new(socket?),
            Poll::Pending => return Err(io::Error::other("a simulated socket binds at once")),
        };
        let (late, arriving) = mpsc::unbounded_channel();
        let mut sending = JoinSet::new();
        sending.spawn(send_late(Arc::downgrade(&inner), arriving));
        let (reading, wire) = (Mutex::new(None), self.wire.clone());
        Ok(Arc::new(Socket { inner, reading, local: addr, wire, late, _sending: sending }))
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
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let epoch = turmoil::since_epoch().unwrap_or_default().saturating_sub(now);
        SystemTime::UNIX_EPOCH + self.memory.lock().clock.at(epoch, now)
    }

    fn seed(&self) -> [u8; 32] {
        let mut machine = self.memory.lock();
        let start = machine.starts;
        machine.starts += 1;
        let mut seed = [0; 32];
        StdRng::seed_from_u64(self.seed ^ start.wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill_bytes(&mut seed);
        seed
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let machine = self.memory.lock();
        if machine.disk == DiskFault::Fails { Err(disk_error()) } else { Ok(machine.files.get(path).cloned()) }
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut machine = self.memory.lock();
        if machine.disk == DiskFault::Fails {
            return Err(disk_error());
        }
        let old = machine.files.insert(path.to_owned(), content.to_owned());
        if machine.disk != DiskFault::None {
            machine.before.entry(path.to_owned()).or_insert(old);
        }
        Ok(())
    }

    fn own_thread(&self) -> bool {
        false
    }

    fn crypto(&self) -> rustls::crypto::CryptoProvider {
        crate::secure::simulated::provider()
    }

    fn gate(&self) -> Gate {
        self.gate.clone()
    }
}

/// A datagram that is to be sent later: when, where to, and what.
type Late = (Instant, SocketAddr, Bytes);

/// Sends what is late when its time has come: in the order of their times, those of one time in the order in which they
/// came.
async fn send_late(socket: Weak<turmoil::net::UdpSocket>, mut arriving: mpsc::UnboundedReceiver<Late>) {
    let mut waiting: BTreeMap<(Instant, u64), (SocketAddr, Bytes)> = BTreeMap::new();
    let mut count = 0;
    loop {
        let due = waiting.first_key_value().map(|((at, _), _)| *at);
        tokio::select! {
            biased;
            late = arriving.recv() => match late {
                Some((at, to, bytes)) => {
                    count += 1;
                    waiting.insert((at, count), (to, bytes));
                }
                None => return,
            },
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                while let Some(first) = waiting.first_entry()
                    && first.key().0 <= Instant::now()
                {
                    let (to, bytes) = first.remove();
                    // A datagram that cannot be sent is a datagram lost.
                    let _ = socket.upgrade().map(|socket| socket.try_send_to(&bytes, to));
                }
            }
        }
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A turmoil socket as quinn wants it. turmoil has no `poll_recv`, so the `readable()` future is kept and polled before
/// each try: it holds the waker.
struct Socket {
    inner: Arc<turmoil::net::UdpSocket>,
    reading: Mutex<Option<Readable>>,
    local: SocketAddr,
    wire: Option<Wire>,
    late: mpsc::UnboundedSender<Late>,
    /// What is late is lost with the socket.
    _sending: JoinSet<()>,
}

impl Socket {
    fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match self.inner.try_send_to(bytes, to) {
            // Nobody listens there now: as on a network, the sender is not told.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            sent => sent.map(|_| ()),
        }
    }
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
        let (to, bytes) = (transmit.destination, transmit.contents);
        let Some(wire) = &self.wire else { return self.send(to, bytes) };
        match wire(self.local, to, bytes) {
            Carriage::Whole => self.send(to, bytes),
            Carriage::Lost => Ok(()),
            Carriage::Instead(copies) => {
                for (after, bytes) in copies {
                    if after.is_zero() {
                        self.send(to, &bytes)?;
                    } else {
                        // The receiver ends with the socket only.
                        let _ = self.late.send((Instant::now() + after, to, bytes));
                    }
                }
                Ok(())
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(memory: &Arc<Memory>) -> Simulated {
        Simulated::new(1, memory.clone())
    }

    #[test]
    fn a_disk_keeps_forgets_tears_or_fails() {
        let memory = Arc::new(Memory::default());
        let (ground, path) = (ground(&memory), Path::new("/a"));
        let content = || ground.read(path).expect("readable");
        ground.write(path, b"safe").expect("writable");
        memory.crash();
        assert_eq!(content().as_deref(), Some(&b"safe"[..]));

        memory.set_disk(DiskFault::Forgets);
        ground.write(path, b"lost").expect("writable");
        ground.write(path, b"lost too").expect("writable");
        assert_eq!(content().as_deref(), Some(&b"lost too"[..]));
        memory.crash();
        assert_eq!(content().as_deref(), Some(&b"safe"[..]));

        memory.set_disk(DiskFault::Tears);
        ground.write(path, b"torn").expect("writable");
        memory.crash();
        assert_eq!(content().as_deref(), Some(&b"to"[..]));

        memory.set_disk(DiskFault::Fails);
        assert!(ground.read(path).is_err() && ground.write(path, b"no").is_err());
        memory.set_disk(DiskFault::None);
        assert_eq!(content().as_deref(), Some(&b"to"[..]));
    }

    #[test]
    fn a_clock_jumps_and_drifts() {
        let epoch = Duration::from_secs(100);
        let at = |skew_ms, drift_ppm| Clock { skew_ms, drift_ppm, since_ms: 1_000 }.at(epoch, Duration::from_secs(11));
        assert_eq!(at(0, 0), Duration::from_secs(111));
        assert_eq!(at(-4_000, 0), Duration::from_secs(107));
        assert_eq!(at(-40_000, 0), Duration::from_secs(71), "it goes on also before the simulation began");
        assert_eq!(at(-200_000, 0), Duration::ZERO);
        assert_eq!(at(0, 100_000), Duration::from_secs(112));
    }
}
