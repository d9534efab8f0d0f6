//! Models of the places where the node's own thread and those of the application share state: `shuttle` runs the real
//! code of a module and decides at each lock, atomic and task who goes next. Run them with
//! `cargo test -p polity-cluster --features shuttle races`.
//!
//! | models | what is shared |
//! |---|---|
//! | `transport::link::races` | the calls that wait, the queues of requests, deadlines, the end of a connection |
//! | `transport::inbound::races` | the requests in hand, their answers and the tasks that work on them |
//! | `transport::tasks::races` | what may still start while all is being stopped |
//! | `transport::races` | the tables of links, inbound connections and handlers |
//! | `doorman::races` | whom to let in |
//! | `membership::view::races` | what subscribers have seen of the members |
//!
//! Calls of a node to itself take the whole path of a call but the network, so most models are made of them. No time
//! passes in a model: what is due at once fires, and nothing else does. Schedules are drawn from a fixed seed, so that a
//! run is the same each time; `SHUTTLE_RANDOM_SEED` sets another, and `POLITY_RACE_RUNS` how many there are of each kind.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use tokio::runtime::{Builder, Runtime};

use crate::ground::Gate;
use crate::identity::{Boot, NodeId, NodeName};
use crate::rpc::solo::{Alone, NoGossip};
use crate::rpc::{Peer, Rpc};
use crate::secure::tls::TlsIdentity;
use crate::transport::config::TransportConfig;
use crate::transport::{Transport, TransportParts};

/// How many schedules of each kind are tried: as many as find every deliberate mistake, several times over.
const RUNS: usize = 4000;

/// How many preemptions the second kind of schedule may need to find a mistake.
const DEPTH: usize = 3;

/// Longer than any model: such a deadline never passes.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// Runs a model under many schedules.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let runs = std::env::var("POLITY_RACE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    // Timers need a runtime to belong to. Nobody drives it, so its clock stands still; and it never ends, because it would
    // wake tasks of models that are over.
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = || Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let _inside = RUNTIME.get_or_init(runtime).enter();
    let model = Arc::new(model);
    let mut config = Config::new();
    // Keys and certificates are made on the stack.
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    let again = Arc::clone(&model);
    let by_chance = Runner::new(RandomScheduler::new_from_seed(1, runs), config.clone()).run(move || model());
    let by_priority = Runner::new(PctScheduler::new_from_seed(1, DEPTH, runs), config).run(move || again());
    assert_eq!((by_chance, by_priority), (runs, runs));
}

/// A node that stands alone, without a network.
pub(crate) struct Lone {
    pub(crate) transport: Transport,
    pub(crate) rpc: Rpc,
    /// The node itself, as it is called.
    pub(crate) me: Peer,
}

impl Lone {
    pub(crate) fn start(config: TransportConfig) -> Self {
        static TLS: OnceLock<TlsIdentity> = OnceLock::new();
        let tls = TLS.get_or_init(|| TlsIdentity::from_ca_seed(&[1; 32], &name("me"), &[2; 32]).expect("certificates"));
        let me = peer("me");
        let transport = Transport::start(TransportParts {
            socket: Arc::new(NoSocket),
            held: tokio::sync::oneshot::channel().0,
            rng_seed: [3; 32],
            tls: tls.clone(),
            reset_key: [4; 32].into(),
            config,
            policy: Arc::new(Alone { node: me.node.clone(), addr: me.addr }),
            gossip: Arc::new(NoGossip),
            gate: Gate::default(),
        });
        let transport = transport.expect("a transport");
        transport.set_local(me.node.clone());
        let rpc = Rpc::new(Arc::clone(transport.shared()));
        Self { transport, rpc, me }
    }
}

fn name(name: &str) -> NodeName {
    NodeName::new(name).expect("valid")
}

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

pub(crate) fn peer(text: &str) -> Peer {
    Peer { node: NodeId { name: name(text), boot: Boot { generation: 1, nonce: 1 } }, addr: addr() }
}

/// Sends nowhere and receives nothing.
struct NoSocket;

impl fmt::Debug for NoSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoSocket")
    }
}

impl UdpPoller for NoSocket {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for NoSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Self)
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [io::IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr())
    }
}
