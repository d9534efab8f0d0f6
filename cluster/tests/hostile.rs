//! What strangers can do to a cluster: nothing but cost it some packets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use polity_cluster::rpc::{Lane, Method, Peer};
use polity_cluster::{DropReason, Node, Preset};
use tokio::net::UdpSocket;

const ECHO: Method<Vec<u8>, Vec<u8>> = Method::new(1_024, "test.echo", Lane::Call);

async fn start(cluster: &str, name: &str, seeds: &[SocketAddr]) -> Node {
    let builder = Node::builder(name).cluster(cluster).preset(Preset::Local).no_discovery().secret([7; 32]);
    let serve = |node: &Node| node.rpc().serve(ECHO, |_, request, reply| reply.send(&request));
    builder.listen("127.0.0.1:0").seeds(seeds).start_with(serve).await.expect("starts").0
}

/// Makes first packets of handshakes as a client of the same protocol does, one for each that is asked for.
struct Client {
    endpoint: quinn::Endpoint,
    captured: UdpSocket,
}

impl Client {
    async fn new() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let mut tls =
            tls.expect("TLS 1.3").with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        tls.alpn_protocols = vec![b"polity/1".to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC's suites");
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a port");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        Self { endpoint, captured: UdpSocket::bind("127.0.0.1:0").await.expect("a port") }
    }

    async fn initial(&self) -> Vec<u8> {
        let to = self.captured.local_addr().expect("bound");
        let dialled = self.endpoint.connect(to, "polity").expect("dials");
        let mut bytes = vec![0; 2_000];
        let (len, _) = self.captured.recv_from(&mut bytes).await.expect("a packet");
        drop(dialled);
        // What is still sent to close it is of no use.
        bytes.truncate(len);
        bytes
    }
}

/// Whether a datagram begins a handshake, and does not end one.
fn is_initial(bytes: &[u8]) -> bool {
    bytes.len() >= 1_200 && bytes[0] & 0xf0 == 0xc0
}

#[tokio::test]
async fn a_cluster_goes_on_while_strangers_flood_it() {
    let cluster = format!("flooded-{}", std::process::id());
    let a = start(&cluster, "a", &[]).await;
    let seeds = [a.addr()];
    let (b, c) = tokio::join!(start(&cluster, "b", &seeds), start(&cluster, "c", &seeds));
    let nodes = [a, b, c];
    for node in &nodes {
        let mut changes = node.members().subscribe();
        while node.members().snapshot().up().count() < 3 {
            changes.next().await;
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flooded = Arc::new(AtomicU64::new(0));
    let targets: Vec<_> = nodes.iter().map(Node::addr).collect();
    let flood = {
        let (stop, flooded) = (stop.clone(), flooded.clone());
        std::thread::spawn(move || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
            // It waits for answers between two rounds, which is its pace.
            socket.set_read_timeout(Some(Duration::from_micros(500))).expect("it can be");
            let (mut answer, mut gossip_answers) = ([0; 2_000], 0u64);
            let mut random = 1u64;
            while !stop.load(Ordering::Relaxed) {
                for target in &targets {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let fill = (random >> 32) as u8;
                    let mut forged = vec![fill; 60 + (random >> 40) as usize % 1_000];
                    // Gossip under the cluster's key and a boot that is anybody's, and a long header of QUIC with nothing
                    // that fits behind it.
                    forged[..5].copy_from_slice(&[1, 0x92, 0xe8, 0x6b, 0x38]);
                    forged[36] = 1;
                    let mut initial = vec![fill; 1_200];
                    initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
                    initial[14] = 0;
                    for bytes in [&forged, &initial] {
                        flooded.fetch_add(u64::from(socket.send_to(bytes, target).is_ok()), Ordering::Relaxed);
                    }
                }
                while let Ok((len, _)) = socket.recv_from(&mut answer) {
                    gossip_answers += u64::from(len > 0 && answer[0] & 0xc0 == 0);
                }
            }
            gossip_answers
        })
    };
    // As long as it takes until each node has probed each other some times.
    let probed = |node: &Node| node.membership_stats().received;
    let before: Vec<_> = nodes.iter().map(probed).collect();
    let mut called = 0u32;
    while nodes.iter().zip(&before).any(|(node, before)| probed(node) < before + 40) {
        for from in &nodes {
            for to in &nodes {
                let peer = Peer { node: to.id().clone(), addr: to.addr() };
                let answer = from.rpc().call(&peer, &ECHO, &vec![called as u8; 100], Duration::from_secs(5)).await;
                assert_eq!(answer.expect("it is answered"), vec![called as u8; 100]);
                called += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(flood.join().expect("it ends"), 0, "what does not open is answered by nobody");
    assert!(flooded.load(Ordering::Relaxed) > 1_000);
    for node in &nodes {
        let stats = node.membership_stats();
        assert_eq!((stats.suspicions_raised, stats.declared_down), (0, 0), "{stats:?}");
        assert_eq!(node.members().snapshot().up().count(), 3);
        let drops = node.dropped_datagrams();
        assert!(drops[&DropReason::Unauthentic] > 100, "{drops:?}");
        assert_eq!(drops[&DropReason::Replayed] + drops[&DropReason::Malformed], 0, "{drops:?}");
    }
}

#[tokio::test]
async fn who_does_not_show_its_address_gets_three_times_what_it_sends_at_most_and_keeps_nobody_out() {
    let cluster = format!("amplified-{}", std::process::id());
    let node = start(&cluster, "a", &[]).await;
    let client = Client::new().await;
    // Some more than may be under way before all must show their address.
    let mut strangers = Vec::new();
    let mut retried = 0;
    while retried < 8 {
        let initial = client.initial().await;
        if !is_initial(&initial) {
            continue;
        }
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.send_to(&initial, node.addr()).await.expect("sent");
        // It never answers, as one that has given another's address.
        strangers.push((socket, initial.len(), 0));
        tokio::task::yield_now().await;
        retried = node.transport_stats().retries.value() + node.transport_stats().handshakes_shed.value();
        assert!(strangers.len() < 500, "nobody was asked to show its address");
    }
    // Somebody who belongs here comes in all the same.
    let member = start(&cluster, "b", &[node.addr()]).await;
    assert_eq!(member.members().snapshot().up().count(), 2);
    // Until the last of the handshakes was given up, with all that was sent again meanwhile.
    let failed = strangers.len() as u64 - retried;
    while node.transport_stats().handshake_failures.value() < failed.min(16) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = [0; 2_000];
    for (socket, sent, received) in &mut strangers {
        while let Ok(len) = socket.try_recv(&mut answer) {
            *received += len;
        }
        assert!(*received <= 3 * *sent, "{received} bytes for {sent}");
    }
    assert!(strangers.iter().any(|(_, _, received)| *received > 0), "some were answered");
}
