//! The ground a node stands on: sockets, clocks, randomness, files and an executor.
//!
//! Nothing above this module reads a clock, a random source or a file of its own. Monotonic time is `tokio::time`,
//! which the simulator and paused tests control; all else enters through [`Env`]. So a simulated run is a function of
//! its seed, and a fault of the ground (a clock that jumps, a disk that fails) is made here and nowhere else.

mod executor;
mod gate;
mod real;
#[cfg(feature = "turmoil")]
mod simulated;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use executor::Executor;
pub use gate::Gate;
#[cfg(feature = "turmoil")]
pub use simulated::{Carriage, DiskFault, Memory, Simulated, Wire};

/// A boxed future, as trait objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a node asks of the world. The real implementation is [`Env::real`]; the simulator's is `Simulated`.
///
/// Implementations must be deterministic where they claim to be: the simulator compares runs to the byte.
pub trait Ground: Send + Sync + fmt::Debug + 'static {
    /// Opens a UDP socket on `addr`. Called on the node's executor.
    ///
    /// # Errors
    /// Those of the operating system: the port is in use, or the address is not ours.
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>>;

    /// Resolves `host:port` to addresses, in a stable order.
    ///
    /// # Errors
    /// The name does not resolve.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;

    /// The wall clock. It may jump and drift; nothing but the stamps shown to people may depend on its being right.
    fn wall_clock(&self) -> SystemTime;

    /// 32 fresh random bytes, from which a node seeds all its randomness.
    fn seed(&self) -> [u8; 32];

    /// The whole content of a file, or `None` if there is none.
    ///
    /// # Errors
    /// Those of the file system.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a file's content at once: after a crash it holds the old bytes or the new ones, and after a return the
    /// new ones. Parent folders are made.
    ///
    /// # Errors
    /// Those of the file system; the file then holds its old content.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Opens a socket on any port of this address, which sends multicast from there to the LAN, one hop far, and to
    /// this machine. `None` if there is no multicast here, as in a simulator.
    ///
    /// # Errors
    /// Those of the operating system.
    fn multicast_sender(&self, _interface: Ipv4Addr) -> io::Result<Option<UdpSocket>> {
        Ok(None)
    }

    /// Opens a socket that hears what is sent to this group at the interface of this address. Several processes may hear
    /// the same group. `None` if there is no multicast here.
    ///
    /// # Errors
    /// Those of the operating system.
    fn multicast_receiver(&self, _group: SocketAddrV4, _interface: Ipv4Addr) -> io::Result<Option<UdpSocket>> {
        Ok(None)
    }

    /// Whether a node should run its transport and membership on a thread of its own. The simulator says no.
    fn own_thread(&self) -> bool;

    /// The algorithms and the randomness of TLS.
    fn crypto(&self) -> rustls::crypto::CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    /// What every task of the node passes when it is polled: a way to let the process stand still. Real ground has none.
    fn gate(&self) -> Gate {
        Gate::default()
    }
}

/// A handle to a [`Ground`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Env(Arc<dyn Ground>);

impl Env {
    /// The operating system's sockets, clocks, random source and files.
    #[must_use]
    pub fn real() -> Self {
        Self(Arc::new(real::Real))
    }

    /// A ground of the caller's, for simulators and tests.
    #[must_use]
    pub fn new(ground: impl Ground) -> Self {
        Self(Arc::new(ground))
    }

    /// The ground itself.
    #[must_use]
    pub fn ground(&self) -> &dyn Ground {
        &*self.0
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::real()
    }
}
