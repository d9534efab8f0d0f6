//! The transport: one UDP port for gossip and QUIC, one QUIC connection per peer and direction, three lanes on each.
//!
//! A lane is a long-lived stream that carries frames of many calls at once. Lanes have priorities, so that bulk does not
//! hold up calls, and a flow-control window each that together stay below the connection's, so that one lane cannot take
//! all of it. Frames are appended to a buffer per lane; one task per lane drains it in batches and parses whatever has
//! arrived. Nothing on this path starts a task or a timer per call.
//!
//! Modules, upwards: [`frame`] (bytes), [`bounds`] and [`ledger`] (what strangers may cost), [`pending`] and [`queue`] (what waits), [`lane`], [`greeting`] (admission), [`link`]
//! (outbound) and [`inbound`], and this one, which owns the endpoint. All tasks run on the runtime in which
//! [`Transport::start`] was called and end with [`Transport::shutdown`].

pub(crate) mod bounds;
pub(crate) mod config;
pub(crate) mod error;
pub(crate) mod frame;
pub(crate) mod greeting;
pub(crate) mod inbound;
pub(crate) mod lane;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod pending;
pub(crate) mod queue;
#[cfg(all(test, feature = "shuttle"))]
mod races;
pub(crate) mod socket;
pub(crate) mod stats;
pub(crate) mod tasks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    NoneTokenStore, Runtime, ServerConfig, TimeSource, TokioRuntime, ValidationTokenConfig, VarInt,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use ring::{hkdf, hmac};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use self::bounds::Places;
use self::config::TransportConfig;
use self::error::RpcErrorKind;
use self::inbound::{Inbound, RawReply, Request};
use self::ledger::{Proof, Watch};
use self::link::Link;
use self::socket::{DemuxSocket, GossipSink};
use self::stats::TransportStats;
use self::tasks::{Tasks, lock};
use crate::ground::Gate;
use crate::hello::HelloPolicy;
use crate::identity::NodeId;
use crate::secure::tls::TlsIdentity;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, RwLock, thread_local};

/// Why a connection was closed, as its peer sees it.
pub(crate) const CLOSE_SHUTDOWN: VarInt = VarInt::from_u32(1);
pub(crate) const CLOSE_MALFORMED: VarInt = VarInt::from_u32(2);
pub(crate) const CLOSE_IDLE: VarInt = VarInt::from_u32(3);
pub(crate) const CLOSE_SUPERSEDED: VarInt = VarInt::from_u32(4);
pub(crate) const CLOSE_REFUSED: VarInt = VarInt::from_u32(5);
pub(crate) const CLOSE_SHED: VarInt = VarInt::from_u32(6);

/// The most streams that a peer may open: three lanes, with room to grow. QUIC allocates for each in advance.
const MAX_STREAMS: u32 = 8;
/// What a peer may send on one lane before it is read.
const STREAM_WINDOW: u32 = 4 << 20;
/// What a peer may send on one connection before it is read, and what is sent before it is acknowledged.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// All lanes together cannot exhaust the connection's window, so no lane waits for another's reader.
const _: () = assert!(STREAM_WINDOW * 3 < CONNECTION_WINDOW);

/// The length of this node's connection ids: 8 bytes, which is what an initial id must have at least.
const CONNECTION_ID_BYTES: usize = 8;

/// How many links a calling thread remembers, so that most calls need not look into the common table.
const RECENT_LINKS: usize = 8;

thread_local! {
    static RECENT: RefCell<[Weak<Link>; RECENT_LINKS]> = const { RefCell::new([const { Weak::new() }; RECENT_LINKS]) };
}

/// A peer: a life of a node, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its address.
    pub addr: SocketAddr,
}

/// Who sent a request: the node, as its hello said, and the address where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// Its address.
    pub addr: SocketAddr,
}

/// What runs the requests of one method. Called on the library's executor; must not block.
pub(crate) trait Handler: Send + Sync {
    fn handle(&self, caller: &Caller, request: Request<'_>, reply: RawReply);
}

/// The handlers by method.
pub(crate) type HandlerTable = BTreeMap<u16, Arc<dyn Handler>>;

/// What a transport is started with.
pub(crate) struct TransportParts {
    /// The node's socket. On real ground from [`quinn::TokioRuntime`], in a simulation the simulator's.
    pub(crate) socket: Arc<dyn AsyncUdpSocket>,
    /// Dropped once nobody holds the socket any more.
    pub(crate) held: oneshot::Sender<()>,
    /// All randomness of the transport but that of the key exchanges.
    pub(crate) rng_seed: [u8; 32],
    /// The node's certificates.
    pub(crate) tls: TlsIdentity,
    /// From which stateless resets are made. The same after a restart of the node, different for every node.
    pub(crate) reset_key: Zeroizing<[u8; 32]>,
    /// Limits and times.
    pub(crate) config: TransportConfig,
    /// How the node introduces itself, and whom it admits.
    pub(crate) policy: Arc<dyn HelloPolicy>,
    /// Takes the gossip.
    pub(crate) gossip: Arc<dyn GossipSink>,
    /// What all tasks of the transport pass.
    pub(crate) gate: Gate,
}

/// Why a transport did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StartError {
    #[error("the transport is configured wrongly: {0}")]
    Config(String),
    #[error("the node's socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    #[error("the TLS library lacks QUIC's initial cipher suite: {0}")]
    Crypto(#[from] NoInitialCipherSuite),
}

/// A running transport. Dropped, it stops without telling its peers.
pub(crate) struct Transport {
    shared: Arc<Shared>,
}

/// What the parts of a transport share.
pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
    dialling: Dialling,
    client_config: RwLock<ClientConfig>,
    /// What the endpoint was started with: all but the certificates stays.
    server_config: ServerConfig,
    pub(crate) config: TransportConfig,
    pub(crate) policy: Arc<dyn HelloPolicy>,
    pub(crate) stats: Arc<TransportStats>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) handshakes: Places,
    pub(crate) inbound_open: AtomicUsize,
    socket: Arc<DemuxSocket>,
    local: OnceLock<NodeId>,
    handlers: RwLock<Arc<HandlerTable>>,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    inbounds: Mutex<(u64, BTreeMap<u64, Arc<Inbound>>)>,
    rng: Mutex<StdRng>,
    is_stopping: AtomicBool,
}

impl Transport {
    /// Starts a transport on the current runtime.
    pub(crate) fn start(parts: TransportParts) -> Result<Self, StartError> {
        let TransportParts { socket, held, rng_seed, tls, reset_key, config, policy, gossip, gate } = parts;
        config.validate().map_err(StartError::Config)?;
        let mut rng = StdRng::from_seed(rng_seed);
        let stats = Arc::new(TransportStats::default());
        let tasks = Arc::new(Tasks::on_current_runtime(gate));
        let socket = Arc::new(DemuxSocket::new(socket, gossip, Arc::clone(&stats), held)?);
        let transport = Arc::new(quic_config(&config)?);
        let mut to_strangers = quic_config(&config)?;
        bounds::limit_strangers(&mut to_strangers);

        let dialling =
            Dialling { quic: Arc::clone(&transport), initial_ids: Arc::new(Mutex::new(SeededIds::new(&mut rng))) };
        let client_config = dialling.client_config(tls.client)?;

        let mut token_key = [0; 32];
        rng.fill_bytes(&mut token_key);
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&token_key);
        let crypto = Arc::new(QuicServerConfig::try_from(tls.server)?);
        let mut server_config = ServerConfig::new(crypto, Arc::new(token_key));
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        server_config
            .transport_config(Arc::new(to_strangers))
            .validation_token_config(tokens)
            .time_source(Arc::new(RunTime(Instant::now())))
            .migration(false)
            .max_incoming(bounds::MAX_INCOMING)
            .incoming_buffer_size(bounds::INCOMING_BYTES)
            .incoming_buffer_size_total(bounds::INCOMING_BYTES_TOTAL);

        let mut endpoint_config =
            EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key.as_slice())));
        let id_seed: [u8; 32] = rng.random();
        endpoint_config
            .grease_quic_bit(false)
            .rng_seed(Some(rng.random()))
            .cid_generator(move || Box::new(SeededIds(StdRng::from_seed(id_seed))));
        let runtime = Arc::new(TrackedRuntime(Arc::clone(&tasks)));
        let abstract_socket: Arc<dyn AsyncUdpSocket> = Arc::clone(&socket) as _;
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint_config, Some(server_config.clone()), abstract_socket, runtime)?;

        let handshakes = Places::new(config.max_handshakes);
        let shared = Arc::new(Shared {
            endpoint,
            dialling,
            client_config: RwLock::new(client_config),
            server_config,
            config,
            policy,
            stats,
            tasks,
            handshakes,
            inbound_open: AtomicUsize::new(0),
            socket,
            local: OnceLock::new(),
            handlers: RwLock::default(),
            links: Mutex::default(),
            inbounds: Mutex::default(),
            rng: Mutex::new(rng),
            is_stopping: AtomicBool::new(false),
        });
        shared.tasks.spawn(inbound::accept_for_ever(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// What calls and handlers need.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tells the transport who this node is, once its boot is chosen: calls to it then stay in the process. Later
    /// tellings are ignored.
    pub(crate) fn set_local(&self, node: NodeId) {
        self.shared.local.get_or_init(|| node);
    }

    /// Sends a gossip datagram, or drops and counts it. Says whether it was sent.
    pub(crate) fn send_gossip(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        self.shared.socket.send_gossip(to, bytes)
    }

    /// Shows and trusts other certificates from now on. Connections that stand are not touched.
    pub(crate) fn set_tls(&self, tls: TlsIdentity) -> Result<(), NoInitialCipherSuite> {
        let client_config = self.shared.dialling.client_config(tls.client)?;
        let mut server_config = self.shared.server_config.clone();
        server_config.crypto = Arc::new(QuicServerConfig::try_from(tls.server)?);
        self.shared.endpoint.set_server_config(Some(server_config));
        *self.shared.client_config.write().unwrap_or_else(PoisonError::into_inner) = client_config;
        Ok(())
    }

    /// What has happened so far.
    pub(crate) fn stats(&self) -> &Arc<TransportStats> {
        &self.shared.stats
    }

    /// Closes the connections with a node that is down or superseded. Calls in flight to it end with `PeerGone`; a later
    /// call dials again.
    pub(crate) fn disconnect(&self, node: &NodeId, cause: &str) {
        self.shared.disconnect(node, cause);
    }

    /// Stops: fails the calls in flight, closes all connections, tells the peers within the configured grace, and ends
    /// every task. Cancelled, it has stopped all but the telling.
    pub(crate) async fn shutdown(&self) {
        self.shared.stop();
        self.shared.endpoint.close(CLOSE_SHUTDOWN, b"shutting down");
        // Peers that do not answer learn of it by a reset or a timeout.
        let _ = timeout(self.shared.config.shutdown_grace, self.shared.endpoint.wait_idle()).await;
        self.shared.tasks.stop().await;
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.stop();
        self.shared.endpoint.close(CLOSE_SHUTDOWN, b"shutting down");
        self.shared.tasks.abort();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("stats", &self.shared.stats).finish_non_exhaustive()
    }
}

impl Shared {
    /// How peers are dialled now.
    pub(crate) fn client_config(&self) -> ClientConfig {
        self.client_config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has what is sent to an address limited until it is shown to be the dialler's.
    pub(crate) fn watch(&self, addr: SocketAddr) -> Watch {
        self.socket.ledger.watch(addr)
    }

    /// Has what is sent to an address not limited, because there is a connection to it.
    pub(crate) fn prove(&self, addr: SocketAddr) -> Proof {
        self.socket.ledger.prove(addr)
    }

    /// Whether this node is meant.
    pub(crate) fn is_local(&self, node: &NodeId) -> bool {
        self.local.get() == Some(node)
    }

    /// The link to a peer; a new one if there is none, or none to this address.
    pub(crate) fn link(self: &Arc<Self>, peer: &Peer) -> Result<Arc<Link>, RpcErrorKind> {
        let place = peer.node.boot.nonce as usize % RECENT_LINKS;
        // Nothing but the look itself happens while the thread's table is borrowed: wakers and drops may call again.
        if let Some(link) = RECENT.with(|recent| recent.borrow()[place].upgrade())
            && Arc::ptr_eq(&link.shared, self)
            && link.peer == *peer
            && !link.is_closed()
        {
            return Ok(link);
        }
        let link = self.find_link(peer)?;
        RECENT.with(|recent| recent.borrow_mut()[place] = Arc::downgrade(&link));
        Ok(link)
    }

    fn find_link(self: &Arc<Self>, peer: &Peer) -> Result<Arc<Link>, RpcErrorKind> {
        let mut links = lock(&self.links);
        if let Some(link) = links.get(&peer.node)
            && link.peer.addr == peer.addr
        {
            return Ok(Arc::clone(link));
        }
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(RpcErrorKind::ShutDown);
        }
        if links.len() >= self.config.max_links {
            // One that is forgotten here while a thread remembers it would live beside its successor, so it is closed.
            links.retain(|_, link| !link.retire());
            if links.len() >= self.config.max_links {
                self.stats.overloads.inc();
                return Err(RpcErrorKind::Overloaded("peers that are called at once"));
            }
        }
        let link = Arc::new(Link::new(peer.clone(), Arc::clone(self)));
        let moved = links.insert(peer.node.clone(), Arc::clone(&link));
        drop(links);
        if let Some(moved) = moved {
            moved.close(RpcErrorKind::PeerGone(format!("it listens at {} now", peer.addr)));
        }
        Ok(link)
    }

    pub(crate) fn is_stalled(&self, node: &NodeId) -> bool {
        let link = lock(&self.links).get(node).map(Arc::clone);
        link.is_some_and(|link| link.is_stalled())
    }

    fn disconnect(&self, node: &NodeId, cause: &str) {
        let link = lock(&self.links).remove(node);
        if let Some(link) = link {
            link.close(RpcErrorKind::PeerGone(cause.to_owned()));
        }
        let from_it: Vec<_> =
            lock(&self.inbounds).1.values().filter(|inbound| inbound.caller.node == *node).map(Arc::clone).collect();
        for inbound in from_it {
            inbound.close(CLOSE_SUPERSEDED, b"the membership says that this node is gone");
        }
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        let links = std::mem::take(&mut *lock(&self.links));
        for link in links.into_values() {
            link.close(RpcErrorKind::ShutDown);
        }
        let inbounds = std::mem::take(&mut lock(&self.inbounds).1);
        for inbound in inbounds.into_values() {
            inbound.close(CLOSE_SHUTDOWN, b"shutting down");
        }
        self.inbound_open.store(0, Ordering::Relaxed);
        // Handlers may hold handles of this very transport.
        *self.handlers.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Keeps an accepted connection among those that are open; `None` once the transport is stopping.
    pub(crate) fn register_inbound(&self, inbound: &Arc<Inbound>) -> Option<u64> {
        let mut inbounds = lock(&self.inbounds);
        // Asked under the lock, which `stop` takes after it has said so.
        if self.is_stopping() {
            return None;
        }
        inbounds.0 += 1;
        let serial = inbounds.0;
        inbounds.1.insert(serial, Arc::clone(inbound));
        self.inbound_open.store(inbounds.1.len(), Ordering::Relaxed);
        Some(serial)
    }

    pub(crate) fn forget_inbound(&self, serial: u64) {
        let mut inbounds = lock(&self.inbounds);
        inbounds.1.remove(&serial);
        self.inbound_open.store(inbounds.1.len(), Ordering::Relaxed);
    }

    /// Whether the transport has been told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// The handlers as they are now.
    pub(crate) fn handlers(&self) -> Arc<HandlerTable> {
        Arc::clone(&self.handlers.read().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn unserve(&self, method: u16) {
        let mut table = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut table).remove(&method);
    }

    /// Serves a method; false if it is already served. Once the transport is stopping, nobody calls any more, and a
    /// handler that may hold a handle of this very transport is not kept.
    pub(crate) fn serve(&self, method: u16, handler: Arc<dyn Handler>) -> bool {
        let mut table = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            return true;
        }
        if table.contains_key(&method) {
            return false;
        }
        Arc::make_mut(&mut table).insert(method, handler);
        true
    }

    /// How long to wait after so many failures in a row: doubling, and somewhere in the upper half of that, so that
    /// nodes that lost the same peer do not come back together.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let longest = self.config.backoff_min.saturating_mul(1 << doublings).min(self.config.backoff_max);
        longest.mul_f64(lock(&self.rng).random_range(0.5..=1.0))
    }
}

/// What stays the same in all connections that this node opens.
struct Dialling {
    quic: Arc<quinn::TransportConfig>,
    initial_ids: Arc<Mutex<SeededIds>>,
}

impl Dialling {
    fn client_config(&self, tls: Arc<rustls::ClientConfig>) -> Result<ClientConfig, NoInitialCipherSuite> {
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::clone(&self.quic)).token_store(Arc::new(NoneTokenStore));
        let initial_ids = Arc::clone(&self.initial_ids);
        config.initial_dst_cid_provider(Arc::new(move || lock(&initial_ids).generate_cid()));
        Ok(config)
    }
}

fn quic_config(config: &TransportConfig) -> Result<quinn::TransportConfig, StartError> {
    let idle_timeout = config
        .idle_timeout
        .try_into()
        .map_err(|_| StartError::Config("idle_timeout is longer than QUIC can say".to_owned()))?;
    let mut quic = quinn::TransportConfig::default();
    quic.max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .max_idle_timeout(Some(idle_timeout))
        .keep_alive_interval(Some(config.keep_alive))
        .initial_rtt(config.initial_rtt);
    Ok(quic)
}

/// Connection ids from a seed. Any id of the right length is taken for one of ours, so that a peer that talks to an
/// earlier life of this node gets a stateless reset.
struct SeededIds(StdRng);

impl SeededIds {
    fn new(rng: &mut StdRng) -> Self {
        Self(StdRng::from_seed(rng.random()))
    }
}

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.random::<[u8; CONNECTION_ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A clock for QUIC's address tokens that starts with the transport: they are not valid beyond it anyway.
struct RunTime(Instant);

impl TimeSource for RunTime {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.elapsed()
    }
}

/// tokio, with the endpoint's and the connections' tasks among ours.
#[derive(Debug)]
struct TrackedRuntime(Arc<Tasks>);

impl Runtime for TrackedRuntime {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // Refused while the transport stops: the connection then ends at once.
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}
