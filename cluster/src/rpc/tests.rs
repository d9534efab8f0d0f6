//! Calls over real sockets on loopback.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::Runtime;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::*;
use crate::hello::{Hello, HelloAnswer, HelloPolicy, judge};
use crate::identity::{Boot, Identity, NodeName};
use crate::secure::tls::TlsIdentity;
use crate::transport::config::TransportConfig;
use crate::transport::socket::GossipSink;
use crate::transport::tasks::lock;
use crate::transport::{CLOSE_MALFORMED, Transport, TransportParts};
use crate::version::Speaks;

const ECHO: Method<String, String> = Method::new(1, "echo", Lane::Call);
const KEEP: Method<String, String> = Method::new(2, "keep", Lane::Call);
const BULK: Method<Vec<u8>, u64> = Method::new(3, "bulk", Lane::Bulk);
const GROW: Method<u32, Vec<u8>> = Method::new(4, "grow", Lane::Call);
const SLOW: Method<(), ()> = Method::new(5, "slow", Lane::Call);
const UNSERVED: Method<(), ()> = Method::new(9, "unserved", Lane::Call);

/// Far beyond what any step here takes; a test that reaches it fails.
const LONG: Duration = Duration::from_secs(20);

struct Setup {
    name: &'static str,
    /// The name in the certificate, if it is another.
    certified: Option<&'static str>,
    nonce: u128,
    secret: u8,
    cluster: &'static str,
    shards: &'static str,
    bind: SocketAddr,
    config: TransportConfig,
}

impl Setup {
    fn new(name: &'static str) -> Self {
        let config =
            TransportConfig { connect_timeout: Duration::from_secs(10), hello_timeout: LONG, ..Default::default() };
        Self {
            name,
            certified: None,
            nonce: 1,
            secret: 1,
            cluster: "test",
            shards: "64",
            bind: "127.0.0.1:0".parse().expect("an address"),
            config,
        }
    }
}

struct TestNode {
    transport: Transport,
    rpc: Rpc,
    peer: Peer,
    kept: Arc<Mutex<Vec<Reply<String>>>>,
    gossip: mpsc::UnboundedReceiver<Vec<u8>>,
}

struct Sink(mpsc::UnboundedSender<Vec<u8>>);

impl GossipSink for Sink {
    fn datagram(&self, _from: SocketAddr, bytes: &[u8]) {
        let _ = self.0.send(bytes.to_vec());
    }
}

struct Policy(Hello);

impl HelloPolicy for Policy {
    fn hello(&self, expects: Option<&NodeId>) -> Hello {
        Hello { expects: expects.cloned(), ..self.0.clone() }
    }

    fn admit(&self, hello: &Hello, _from: SocketAddr) -> HelloAnswer {
        match judge(&self.0, hello) {
            Ok(protocol) => HelloAnswer::Welcome(Welcome {
                protocol,
                id: Identity { node: self.0.node().expect("a boot"), rejoin: 0, addr: self.0.addr },
                your_generation: 3,
                cluster_id: None,
            }),
            Err(refusal) => HelloAnswer::Refused(refusal),
        }
    }

    fn distrusted(&self, _: SocketAddr, _: &str) {}
}

fn start(setup: Setup) -> TestNode {
    start_on(UdpSocket::bind(setup.bind).expect("a free port"), setup)
}

fn start_on(socket: UdpSocket, setup: Setup) -> TestNode {
    let name = NodeName::new(setup.name).expect("a valid name");
    let certified = NodeName::new(setup.certified.unwrap_or(setup.name)).expect("a valid name");
    let addr = socket.local_addr().expect("bound");
    let boot = Boot { generation: 1, nonce: setup.nonce };
    let node = NodeId { name: name.clone(), boot };
    let mut seed = [setup.secret; 32];
    seed[0] = setup.nonce as u8;
    let hello = Hello {
        protocol: Speaks::CURRENT.versions,
        cluster: setup.cluster.to_owned(),
        settings: BTreeMap::from([("shards".to_owned(), setup.shards.to_owned())]),
        name: name.clone(),
        boot: Some(boot),
        addr,
        expects: None,
        cluster_id: None,
        keys: Vec::new(),
        capabilities: Speaks::CURRENT.capabilities,
        extensions: BTreeMap::new(),
    };
    let (sink, gossip) = mpsc::unbounded_channel();
    let transport = Transport::start(TransportParts {
        socket: quinn::TokioRuntime.wrap_udp_socket(socket).expect("a socket"),
        held: tokio::sync::oneshot::channel().0,
        rng_seed: seed,
        tls: TlsIdentity::from_ca_seed(&[setup.secret; 32], &certified, &seed).expect("certificates"),
        reset_key: [setup.name.len() as u8; 32].into(),
        config: setup.config,
        policy: Arc::new(Policy(hello)),
        gossip: Arc::new(Sink(sink)),
        gate: crate::ground::Gate::default(),
    })
    .expect("a transport");
    transport.set_local(node.clone());
    let rpc = Rpc::new(Arc::clone(transport.shared()));
    let kept = Arc::new(Mutex::new(Vec::new()));
    rpc.serve(ECHO, |_, text, reply| reply.send(&text));
    let keep = Arc::clone(&kept);
    rpc.serve(KEEP, move |_, _, reply| lock(&keep).push(reply));
    rpc.serve(BULK, |_, bytes, reply| reply.send(&(bytes.len() as u64)));
    rpc.serve(GROW, |_, size, reply| reply.send(&vec![0; size as usize]));
    TestNode { transport, rpc, peer: Peer { node, addr }, kept, gossip }
}

impl TestNode {
    async fn echo(&self, to: &Peer, text: &str) -> Result<String, RpcError> {
        self.rpc.call(to, &ECHO, text, LONG).await
    }

    /// Waits until a handler of this node has kept so many requests.
    async fn until_kept(&self, count: usize) {
        while lock(&self.kept).len() < count {
            tokio::task::yield_now().await;
        }
    }
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("the test takes far less than its limit")
}

fn text(error: &RpcError) -> String {
    error.to_string()
}

#[tokio::test]
async fn calls_are_answered() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    b.rpc.serve_async(SLOW, |caller: Caller, ()| async move {
        assert_eq!(caller.node.name.as_str(), "a");
        Err(Failure::not_applied("not today"))
    });
    bounded(async {
        assert_eq!(a.echo(&b.peer, "hello").await.expect("an answer"), "hello");
        assert_eq!(b.echo(&a.peer, "back").await.expect("an answer"), "back");
        let failed = a.rpc.call(&b.peer, &SLOW, &(), LONG).await.expect_err("a failure");
        assert_eq!(failed.outcome(), Outcome::NotApplied);
        assert!(text(&failed).contains("not today"), "{failed}");
        let unserved = a.rpc.call(&b.peer, &UNSERVED, &(), LONG).await.expect_err("unserved");
        assert_eq!((unserved.kind(), unserved.outcome()), (&RpcErrorKind::NoSuchMethod, Outcome::NotApplied));
        let wrong: Method<Vec<u8>, String> = Method::new(1, "echo", Lane::Call);
        let wrong = a.rpc.call(&b.peer, &wrong, &[0xff_u8, 0xff].as_slice(), LONG).await.expect_err("undecodable");
        assert!(matches!(wrong.kind(), RpcErrorKind::BadRequest(_)), "{wrong}");
        let wrong: Method<String, u64> = Method::new(1, "echo", Lane::Call);
        let wrong = a.rpc.call(&b.peer, &wrong, "123", LONG).await.expect_err("undecodable");
        assert!(matches!(wrong.kind(), RpcErrorKind::BadAnswer(_)), "{wrong}");
        assert_eq!(wrong.outcome(), Outcome::Unknown);
        assert_eq!(a.transport.stats().connections_out.value(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_node_calls_itself_without_the_network() {
    let a = start(Setup::new("a"));
    bounded(async {
        for i in 0..100 {
            assert_eq!(a.echo(&a.peer, &i.to_string()).await.expect("an answer"), i.to_string());
        }
        let kept = a.rpc.call(&a.peer, &KEEP, "x", LONG);
        let dropped = async {
            a.until_kept(1).await;
            lock(&a.kept).clear();
        };
        let (kept, ()) = tokio::join!(kept, dropped);
        assert_eq!(kept.expect_err("no answer").kind(), &RpcErrorKind::HandlerDropped);
        let late = a.rpc.call(&a.peer, &KEEP, "x", Duration::from_millis(20)).await.expect_err("no answer");
        assert_eq!((late.kind(), late.phase()), (&RpcErrorKind::TimedOut, Phase::Sent));
        assert_eq!(a.transport.stats().connections_out.value(), 0);
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_calls_at_once_find_their_callers() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    let mut tasks = JoinSet::new();
    for caller in 0..2_500 {
        let (rpc, to) = (a.rpc.clone(), b.peer.clone());
        tasks.spawn(async move {
            for round in 0..4 {
                let request = format!("{caller}.{round}");
                assert_eq!(rpc.call(&to, &ECHO, &request, LONG).await.expect("an answer"), request);
            }
        });
    }
    bounded(async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no panic");
        }
    })
    .await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_cancels_it_there() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        a.echo(&b.peer, "connect").await.expect("an answer");
        let late = a.rpc.call(&b.peer, &KEEP, "x", Duration::from_millis(50)).await.expect_err("no answer");
        assert_eq!((late.kind(), late.phase()), (&RpcErrorKind::TimedOut, Phase::Sent));
        assert_eq!(late.outcome(), Outcome::Unknown);
        assert!(late.age() >= Duration::from_millis(50));
        // The cancel travels before the next request on the same lane.
        a.echo(&b.peer, "after").await.expect("an answer");
        let reply = lock(&b.kept).pop().expect("kept");
        assert!(!reply.is_wanted());
        reply.send(&"nobody".to_owned());
        assert_eq!(a.echo(&b.peer, "still").await.expect("an answer"), "still");
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_aborts_its_handler() {
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    let (started, aborted) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let notify = (Arc::clone(&started), Arc::clone(&aborted));
    b.rpc.serve_async(SLOW, move |_, ()| {
        let (started, aborted) = notify.clone();
        async move {
            let _guard = OnDrop(aborted);
            started.notify_one();
            std::future::pending().await
        }
    });
    bounded(async {
        let call = a.rpc.call(&b.peer, &SLOW, &(), LONG);
        started.notified().await;
        drop(call);
        aborted.notified().await;
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_dropped_before_it_was_sent_never_runs() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        // Nothing has been sent before this test first waits.
        drop(a.rpc.call(&b.peer, &KEEP, "x", LONG));
        let kept = a.rpc.call(&b.peer, &KEEP, "y", LONG);
        a.echo(&b.peer, "after").await.expect("an answer");
        assert_eq!(lock(&b.kept).len(), 1);
        drop(kept);
    })
    .await;
}

#[tokio::test]
async fn too_many_requests_are_refused_on_either_side() {
    let mut few = Setup::new("a");
    few.config.max_in_flight = 3;
    let (a, mut fewer) = (start(few), Setup::new("b"));
    fewer.config.max_in_flight = 2;
    let b = start(fewer);
    bounded(async {
        let _kept: Vec<_> = (0..2).map(|_| a.rpc.call(&b.peer, &KEEP, "x", LONG)).collect();
        let there = a.rpc.call(&b.peer, &KEEP, "x", LONG);
        let here = a.rpc.call(&b.peer, &KEEP, "x", LONG).await.expect_err("full here");
        assert!(matches!(here.kind(), RpcErrorKind::Overloaded(_)), "{here}");
        let there = there.await.expect_err("full there");
        assert_eq!(there.kind(), &RpcErrorKind::PeerOverloaded);
        assert!(here.outcome() == Outcome::NotApplied && there.outcome() == Outcome::NotApplied);
        assert!(here.is_retryable() && there.is_retryable());
        assert_eq!((a.rpc.stats().overloads.value(), b.rpc.stats().overloads.value()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn queued_bytes_are_bounded() {
    let mut small = Setup::new("a");
    small.config.max_frame_bytes = 10_000;
    small.config.max_queued_bytes = 10_000;
    let (a, b) = (start(small), start(Setup::new("b")));
    let first = a.rpc.call(&b.peer, &BULK, &vec![0_u8; 6_000], LONG);
    let second = a.rpc.call(&b.peer, &BULK, &vec![0_u8; 6_000], LONG);
    bounded(async {
        assert!(matches!(second.await.expect_err("no room").kind(), RpcErrorKind::Overloaded(_)));
        assert_eq!(first.await.expect("an answer"), 6_000);
    })
    .await;
}

#[tokio::test]
async fn frames_that_are_too_large_are_refused_on_either_side() {
    let (a, mut small) = (start(Setup::new("a")), Setup::new("b"));
    small.config.max_frame_bytes = 10_000;
    small.config.backoff_min = Duration::from_millis(1);
    let b = start(small);
    bounded(async {
        let here = b.rpc.call(&a.peer, &BULK, &vec![0_u8; 20_000], LONG).await.expect_err("too large");
        assert!(matches!(here.kind(), RpcErrorKind::RequestTooLarge { limit: 10_000, .. }), "{here}");
        assert_eq!(here.outcome(), Outcome::NotApplied);
        let answer = a.rpc.call(&b.peer, &GROW, &20_000, LONG).await.expect_err("too large");
        assert_eq!((answer.kind(), answer.outcome()), (&RpcErrorKind::AnswerTooLarge, Outcome::Unknown));
        // A peer that does not keep to the limit loses its connection, and nothing else.
        let kept = b.rpc.call(&a.peer, &KEEP, "x", LONG);
        a.until_kept(1).await;
        let there = a.rpc.call(&b.peer, &BULK, &vec![0_u8; 20_000], LONG).await.expect_err("too large");
        assert!(matches!(there.kind(), RpcErrorKind::ConnectionLost(_)), "{there}");
        assert_eq!(there.outcome(), Outcome::Unknown);
        assert_eq!(b.transport.stats().malformed.value(), 1);
        lock(&a.kept).pop().expect("kept").send(&"fine".to_owned());
        assert_eq!(kept.await.expect("an answer"), "fine");
    })
    .await;
}

#[tokio::test]
async fn whoever_says_another_name_than_its_certificate_carries_is_refused_by_both_sides() {
    let (a, mut impostor) = (start(Setup::new("a")), Setup::new("b"));
    impostor.certified = Some("c");
    let b = start(impostor);
    bounded(async {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let error = from.echo(&to.peer, "x").await.expect_err("refused");
            let RpcErrorKind::Refused(Refusal::NotCertified { name }) = error.kind() else { panic!("{error}") };
            assert_eq!(name.as_str(), "b");
            assert!(text(&error).contains("does not carry this name"), "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied);
            assert!(from.rpc.greet(to.peer.addr, LONG).await.is_err());
        }
    })
    .await;
}

#[cfg(feature = "mutations")]
#[tokio::test]
async fn the_test_of_names_catches_a_node_that_believes_them() {
    use crate::mutation::{Mutation, set};
    set(Some(Mutation::BelievesNames));
    let (a, mut impostor) = (start(Setup::new("a")), Setup::new("b"));
    impostor.certified = Some("c");
    let b = start(impostor);
    let answer = bounded(a.echo(&b.peer, "x")).await;
    set(None);
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn another_secret_is_not_trusted() {
    let (a, mut stranger) = (start(Setup::new("a")), Setup::new("b"));
    stranger.secret = 2;
    let b = start(stranger);
    bounded(async {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let error = from.echo(&to.peer, "x").await.expect_err("untrusted");
            assert!(matches!(error.kind(), RpcErrorKind::Untrusted(_)), "{error}");
            assert!(text(&error).contains("same secret"), "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied);
            let error = from.rpc.greet(to.peer.addr, LONG).await.expect_err("untrusted");
            assert!(matches!(error.kind(), RpcErrorKind::Untrusted(_)), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_only_the_acceptor_rejects_is_reported_as_untrusted() {
    let a = start(Setup::new("a"));
    let mut stranger = Setup::new("b");
    stranger.secret = 2;
    let b = start(stranger);
    // A dialler that trusts everybody is as far as TLS 1.3 lets a client get.
    let name = NodeName::new("c").expect("a valid name");
    let own = TlsIdentity::from_ca_seed(&[2; 32], &name, &[9; 32]).expect("certificates");
    let trusted = TlsIdentity::from_ca_seed(&[1; 32], &name, &[9; 32]).expect("certificates");
    let mut mixed = (*trusted.client).clone();
    mixed.client_auth_cert_resolver = Arc::clone(&own.client.client_auth_cert_resolver);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let boot = Some(Boot { generation: 1, nonce: 5 });
    let hello = Hello {
        protocol: Speaks::CURRENT.versions,
        cluster: "test".to_owned(),
        settings: BTreeMap::new(),
        name,
        boot,
        addr: socket.local_addr().expect("bound"),
        expects: None,
        cluster_id: None,
        keys: Vec::new(),
        capabilities: Speaks::CURRENT.capabilities,
        extensions: BTreeMap::new(),
    };
    let (sink, _gossip) = mpsc::unbounded_channel();
    let transport = Transport::start(TransportParts {
        socket: quinn::TokioRuntime.wrap_udp_socket(socket).expect("a socket"),
        held: tokio::sync::oneshot::channel().0,
        rng_seed: [3; 32],
        tls: TlsIdentity { client: Arc::new(mixed), ..own },
        reset_key: [3; 32].into(),
        config: TransportConfig::default(),
        policy: Arc::new(Policy(hello)),
        gossip: Arc::new(Sink(sink)),
        gate: crate::ground::Gate::default(),
    })
    .expect("a transport");
    let rpc = Rpc::new(Arc::clone(transport.shared()));
    bounded(async {
        let error = rpc.call(&a.peer, &ECHO, "x", LONG).await.expect_err("untrusted");
        assert!(matches!(error.kind(), RpcErrorKind::Untrusted(_)), "{error}");
        assert_eq!((error.phase(), error.outcome()), (Phase::Greeting, Outcome::NotApplied));
        drop(b);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_names_the_difference() {
    let a = start(Setup::new("a"));
    let b = start(Setup { cluster: "other", ..Setup::new("b") });
    let c = start(Setup { shards: "128", ..Setup::new("c") });
    bounded(async {
        let error = b.echo(&a.peer, "x").await.expect_err("refused");
        assert!(matches!(error.kind(), RpcErrorKind::Refused(Refusal::WrongCluster { .. })), "{error}");
        assert!(text(&error).contains("belongs to the cluster \"test\" and this node to \"other\""), "{error}");
        assert_eq!((error.phase(), error.outcome()), (Phase::Greeting, Outcome::NotApplied));
        let error = c.rpc.greet(a.peer.addr, LONG).await.expect_err("refused");
        assert!(text(&error).contains("shards is 64 there and 128 here"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_greeting_tells_who_is_there() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    let welcome = bounded(a.rpc.greet(b.peer.addr, LONG)).await.expect("a welcome");
    assert_eq!((welcome.id.node, welcome.your_generation), (b.peer.node.clone(), 3));
}

#[tokio::test]
async fn another_life_at_the_address_is_not_the_peer() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    let mut earlier = b.peer.clone();
    earlier.node.boot.nonce = 99;
    let error = bounded(a.echo(&earlier, "x")).await.expect_err("refused");
    let actual = b.peer.node.clone();
    assert_eq!(error.kind(), &RpcErrorKind::Refused(Refusal::NotMe { actual }));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn nobody_at_the_address_fails_calls_and_then_fails_them_at_once() {
    let mut setup = Setup::new("a");
    setup.config.connect_timeout = Duration::from_millis(100);
    setup.config.backoff_min = Duration::from_secs(5);
    let a = start(setup);
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let node = NodeId { name: NodeName::new("b").expect("valid"), boot: Boot { generation: 1, nonce: 1 } };
    let peer = Peer { node, addr: silent.local_addr().expect("bound") };
    bounded(async {
        let patient = a.rpc.call(&peer, &ECHO, "x", LONG);
        let late = a.rpc.call(&peer, &ECHO, "x", Duration::from_millis(10)).await.expect_err("silence");
        assert_eq!((late.kind(), late.phase()), (&RpcErrorKind::TimedOut, Phase::Connecting));
        assert_eq!(late.outcome(), Outcome::NotApplied);
        let error = patient.await.expect_err("silence");
        assert!(matches!(error.kind(), RpcErrorKind::Unreachable { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
        let again = a.rpc.call(&peer, &ECHO, "x", LONG).await.expect_err("backing off");
        assert!(again.age() < Duration::from_millis(100) && again.is_retryable());
        assert!(text(&again).contains("ms ago"), "{again}");
    })
    .await;
}

/// Binds the port of a node that was dropped, once its last task has let go of it.
async fn bind_again(addr: SocketAddr) -> UdpSocket {
    loop {
        match UdpSocket::bind(addr) {
            Ok(socket) => return socket,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn a_peer_that_dies_leaves_unknown_outcomes_and_is_found_again() {
    let mut setup = Setup::new("a");
    setup.config.keep_alive = Duration::from_millis(50);
    let (a, b) = (start(setup), start(Setup::new("b")));
    bounded(async {
        a.echo(&b.peer, "connect").await.expect("an answer");
        let call = a.rpc.call(&b.peer, &KEEP, "x", LONG);
        b.until_kept(1).await;
        let addr = b.peer.addr;
        lock(&b.kept).iter().for_each(|reply| assert!(reply.is_wanted()));
        let kept = Arc::clone(&b.kept);
        // Dropped without a word, as if it were killed; its replies go with it.
        let TestNode { transport, rpc, .. } = b;
        drop((transport, rpc));
        lock(&kept).clear();
        let b = start_on(bind_again(addr).await, Setup { nonce: 2, ..Setup::new("b") });
        let lost = call.await.expect_err("the peer died");
        assert!(matches!(lost.kind(), RpcErrorKind::ConnectionLost(_)), "{lost}");
        assert_eq!((lost.phase(), lost.outcome()), (Phase::Sent, Outcome::Unknown));
        assert!(lost.age() < Duration::from_secs(5), "the restart was seen before the idle timeout: {lost}");
        assert_eq!(a.echo(&b.peer, "again").await.expect("an answer"), "again");
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_is_told_and_ends_everything() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        let at_b = a.rpc.call(&b.peer, &KEEP, "x", LONG);
        b.until_kept(1).await;
        let at_a = b.rpc.call(&a.peer, &KEEP, "x", LONG);
        a.until_kept(1).await;
        b.transport.shutdown().await;
        let lost = at_b.await.expect_err("shut down");
        assert!(text(&lost).contains("the peer shut down"), "{lost}");
        let own = at_a.await.expect_err("shut down");
        assert_eq!((own.kind(), own.outcome()), (&RpcErrorKind::ShutDown, Outcome::Unknown));
        let after = b.echo(&a.peer, "x").await.expect_err("shut down");
        assert_eq!((after.kind(), after.outcome()), (&RpcErrorKind::ShutDown, Outcome::NotApplied));
        lock(&b.kept).clear();
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_fails_calls_and_the_next_call_dials_again() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        let call = a.rpc.call(&b.peer, &KEEP, "x", LONG);
        b.until_kept(1).await;
        a.transport.disconnect(&b.peer.node, "it is down");
        let gone = call.await.expect_err("gone");
        assert_eq!((gone.kind(), gone.outcome()), (&RpcErrorKind::PeerGone("it is down".to_owned()), Outcome::Unknown));
        assert_eq!(a.echo(&b.peer, "again").await.expect("an answer"), "again");
    })
    .await;
}

#[tokio::test]
async fn garbage_from_a_greeted_peer_closes_only_its_connection() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        for garbage in [&[0xff; 40][..], &[1, 0, 0, 0, 77], &[0, 0, 0, 0], &[6, 0, 0, 0, 2, 0, 0, 0, 0, 0]] {
            let before = b.transport.stats().malformed.value();
            a.echo(&b.peer, "before").await.expect("an answer");
            let hello = a.rpc.shared.policy.hello(None);
            let dialled = greeting::dial(&a.rpc.shared, b.peer.addr, &hello, || ()).await;
            let mut dialled = dialled.unwrap_or_else(|(_, kind)| panic!("{kind}"));
            dialled.control.0.write_all(garbage).await.expect("the connection stands");
            let closed = dialled.connection.closed().await;
            let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
            assert_eq!(close.error_code, CLOSE_MALFORMED);
            assert_eq!(b.transport.stats().malformed.value(), before + 1);
            a.echo(&b.peer, "after").await.expect("an answer");
        }
        assert_eq!(a.transport.stats().connections_out.value(), 1);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_served_before_the_hello() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        let shared = &a.rpc.shared;
        let connecting =
            shared.endpoint.connect_with(shared.client_config(), b.peer.addr, crate::secure::tls::SERVER_NAME);
        let connection = connecting.expect("an attempt").await.expect("a connection");
        let (mut send, _recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&[Lane::Call.to_byte()]).await.expect("the connection stands");
        let closed = connection.closed().await;
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
        assert_eq!(b.transport.stats().handshake_failures.value(), 1);
    })
    .await;
}

#[tokio::test]
async fn bulk_does_not_hold_up_calls() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        a.echo(&b.peer, "connect").await.expect("an answer");
        let order = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..2 {
            let call = a.rpc.call(&b.peer, &BULK, &vec![7_u8; 3 << 20], LONG);
            let order = Arc::clone(&order);
            tasks.spawn(async move {
                assert_eq!(call.await.expect("an answer"), 3 << 20);
                assert!(order.fetch_add(1, Ordering::Relaxed) > 0, "bulk that was queued first came first");
            });
        }
        // Queued after six megabytes of bulk, and answered before them.
        a.echo(&b.peer, "small").await.expect("an answer");
        order.fetch_add(1, Ordering::Relaxed);
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no panic");
        }
    })
    .await;
}

#[tokio::test]
async fn a_panicking_handler_fails_its_call_only() {
    let (a, b) = (start(Setup::new("a")), start(Setup::new("b")));
    b.rpc.serve(UNSERVED, |_, (), _reply| panic!("a fault of the application"));
    bounded(async {
        let error = a.rpc.call(&b.peer, &UNSERVED, &(), LONG).await.expect_err("a panic");
        assert_eq!(error.kind(), &RpcErrorKind::HandlerDropped);
        assert_eq!(a.echo(&b.peer, "after").await.expect("an answer"), "after");
        assert_eq!(b.rpc.stats().handler_panics.value(), 1);
    })
    .await;
}

#[tokio::test]
async fn silence_of_a_peer_with_requests_in_hand_is_noticed() {
    let mut setup = Setup::new("a");
    setup.config.stall_after = Duration::from_millis(20);
    let (a, b) = (start(setup), start(Setup::new("b")));
    bounded(async {
        a.echo(&b.peer, "connect").await.expect("an answer");
        assert!(!a.rpc.is_stalled(&b.peer.node));
        let late = a.rpc.call(&b.peer, &KEEP, "x", LONG);
        while !a.rpc.is_stalled(&b.peer.node) {
            tokio::task::yield_now().await;
        }
        lock(&b.kept).pop().expect("kept").send(&"now".to_owned());
        late.await.expect("an answer");
        assert!(!a.rpc.is_stalled(&b.peer.node));
    })
    .await;
}

#[tokio::test]
async fn an_unused_link_closes_and_opens_again() {
    let mut setup = Setup::new("a");
    setup.config.link_idle = Duration::from_millis(30);
    let (a, b) = (start(setup), start(Setup::new("b")));
    bounded(async {
        a.echo(&b.peer, "one").await.expect("an answer");
        while a.transport.shared().link(&b.peer).is_ok_and(|link| link.is_up()) {
            tokio::task::yield_now().await;
        }
        a.echo(&b.peer, "two").await.expect("an answer");
        assert_eq!(a.transport.stats().connections_out.value(), 2);
    })
    .await;
}

#[tokio::test]
async fn links_that_rest_make_room_for_others() {
    let mut setup = Setup::new("a");
    setup.config.max_links = 1;
    setup.config.backoff_min = Duration::from_millis(1);
    setup.config.backoff_max = Duration::from_millis(1);
    let (a, b, c) = (start(setup), start(Setup::new("b")), start(Setup::new("c")));
    bounded(async {
        a.echo(&b.peer, "x").await.expect("an answer");
        let full = a.echo(&c.peer, "x").await.expect_err("one link");
        assert!(matches!(full.kind(), RpcErrorKind::Overloaded(_)), "{full}");
        b.transport.shutdown().await;
        while a.transport.shared().link(&b.peer).is_ok_and(|link| link.is_up()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(a.echo(&c.peer, "x").await.expect("an answer"), "x");
    })
    .await;
}

#[tokio::test]
async fn gossip_and_calls_share_the_port() {
    let (a, mut b) = (start(Setup::new("a")), start(Setup::new("b")));
    bounded(async {
        for i in 0..50_u8 {
            a.echo(&b.peer, "x").await.expect("an answer");
            assert!(a.transport.send_gossip(b.peer.addr, &[0x3f, i]));
            assert_eq!(b.gossip.recv().await.expect("a datagram"), [0x3f, i]);
        }
        assert_eq!((a.rpc.stats().gossip_out.value(), b.rpc.stats().gossip_in.value()), (50, 50));
    })
    .await;
}
