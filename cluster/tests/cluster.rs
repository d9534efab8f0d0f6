//! Whole nodes on loopback: that they find each other, lose each other, and say clearly why they will not have someone.

use std::time::Duration;

use polity_cluster::{DropReason, Error, Health, Node, Preset, Status, StopReason};

fn builder(name: &str) -> polity_cluster::Builder {
    Node::builder(name).cluster("test").preset(Preset::Local).no_discovery().secret([7; 32]).listen("127.0.0.1:0")
}

/// Waits until `node` sees what `seen` asks for. Bounded by the test runner alone: nothing here is about time.
async fn until(node: &Node, mut seen: impl FnMut(&polity_cluster::View) -> bool) {
    let mut changes = node.members().subscribe();
    while !seen(&node.members().snapshot()) {
        changes.next().await;
    }
}

#[tokio::test]
async fn ten_nodes_know_each_other_and_their_state() {
    let mut nodes = vec![builder("n0").zone("z0").start().await.expect("starts")];
    let seed = nodes[0].addr();
    let others = (1..10).map(|i| builder(&format!("n{i}")).seeds([seed]).zone(format!("z{i}")).start());
    for other in futures_util::future::join_all(others).await {
        nodes.push(other.expect("starts"));
    }
    nodes[3].set_state("load", b"7".to_vec()).expect("within limits");
    for node in &nodes {
        until(node, |view| {
            view.up().count() == 10
                && view.up().all(|member| {
                    let zone = member.profile.as_ref().and_then(|profile| profile.zone.as_ref());
                    zone.map(|zone| zone.as_str()) == Some(&member.id.name.as_str().replace('n', "z"))
                })
                && view.members["n3"].state.get("load").map(Vec::as_slice) == Some(b"7")
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_node_says_of_itself_is_seen_and_it_says_how_it_fares() {
    let http = "127.0.0.1:8080".parse().expect("an address");
    let first = builder("a").address("http", http).start().await.expect("starts");
    let second = builder("b").seeds([first.addr()]).start().await.expect("starts");
    assert_eq!(second.members().snapshot().members["a"].addresses.get("http"), Some(&http));
    second.set_load(650);
    until(&first, |view| view.members.get("b").is_some_and(|b| b.load == Some(650))).await;
    assert!(first.health().is_serving() && second.health().is_serving());
    // A first datagram counts once its sender has shown that it is there.
    while first.membership_stats().received == 0 {
        tokio::task::yield_now().await;
    }
    let stats = first.membership_stats();
    assert!(stats.up == 2 && stats.sent > 0 && !stats.storm(), "{stats:?}");
    second.stop().await;
    assert_eq!(second.health(), Health::Stopped(StopReason::Stopped));
    until(&first, |view| view.members["b"].status == Status::Down).await;
    while first.health() != Health::CutOff {
        tokio::task::yield_now().await;
    }
    let stats = first.membership_stats();
    assert!(stats.suspicions_raised > 0 && stats.declared_down == 1 && stats.failed_probes > 0, "{stats:?}");
}

#[tokio::test]
async fn a_node_that_leaves_is_left_and_one_that_stops_is_down() {
    let first = builder("a").start().await.expect("starts");
    let second = builder("b").seeds([first.addr()]).start().await.expect("starts");
    let third = builder("c").seeds([first.addr()]).start().await.expect("starts");
    until(&first, |view| view.up().count() == 3).await;
    second.leave(Duration::from_secs(1)).await.expect("leaves");
    assert_eq!(second.stopped().await, StopReason::Left);
    until(&first, |view| view.members["b"].status == Status::Left).await;
    until(&third, |view| view.members["b"].status == Status::Left).await;
    third.stop().await;
    until(&first, |view| view.members["c"].status == Status::Down).await;
}

#[tokio::test]
async fn a_name_comes_back_under_a_newer_boot_and_the_older_process_stops() {
    let first = builder("a").start().await.expect("starts");
    let old = builder("b").seeds([first.addr()]).start().await.expect("starts");
    let new = builder("b").seeds([first.addr()]).start().await.expect("starts");
    assert!(new.id().boot.generation > old.id().boot.generation);
    assert_eq!(old.stopped().await, StopReason::NameTaken { by: new.id().boot });
    until(&first, |view| view.members["b"].id == *new.id() && view.members["b"].status == Status::Alive).await;
}

/// Seeds that knew less than the cluster does: asked again, they would say the same.
#[tokio::test]
async fn a_node_that_is_outpaced_while_it_starts_takes_a_newer_boot() {
    let first = builder("a").start().await.expect("starts");
    let (seed, mut faster) = (first.addr(), Vec::new());
    // When the seed has said which boot is the last that it knows, and before the node says hello to anybody.
    let outpace = |_: &Node| {
        if faster.is_empty() {
            let start = async move { builder("b").seeds([seed]).start().await.expect("starts") };
            let thread = std::thread::spawn(|| tokio::runtime::Runtime::new().expect("starts").block_on(start));
            faster.push(thread.join().expect("it does not panic"));
        }
    };
    let (second, ()) = builder("b").seeds([seed]).start_with(outpace).await.expect("starts");
    let faster = faster.pop().expect("it was started");
    assert!(second.id().boot > faster.id().boot, "{} {}", second.id(), faster.id());
    assert_eq!(faster.stopped().await, StopReason::NameTaken { by: second.id().boot });
    until(&first, |view| view.members["b"].id == *second.id() && view.members["b"].status == Status::Alive).await;
}

#[tokio::test]
async fn a_stranger_is_told_why_it_may_not_join() {
    let member = builder("a").must_match("shards", 256).start().await.expect("starts");
    let seed = member.addr();
    let refusal = |builder: polity_cluster::Builder| async move {
        builder.seeds([seed]).start().await.expect_err("refused").to_string()
    };
    let text = refusal(builder("b").must_match("shards", 256).cluster("other")).await;
    assert!(text.contains("\"other\"") && text.contains("\"test\""), "{text}");
    let text = refusal(builder("b").must_match("shards", 512)).await;
    assert!(text.contains("shards") && text.contains("256") && text.contains("512"), "{text}");
    let text = refusal(builder("b").must_match("shards", 256).secret([8; 32])).await;
    assert!(text.contains("secret") && text.contains("certificate"), "{text}");
    assert_eq!(member.members().snapshot().members.len(), 1, "nobody was listed");
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_starts() {
    let error = |builder: polity_cluster::Builder| async move { builder.start().await.expect_err("refused") };
    assert!(matches!(error(builder("")).await, Error::Name(_)));
    assert!(matches!(error(builder("b").secret([1; 8])).await, Error::Secret(_)));
    assert!(matches!(error(builder("b").weight(0)).await, Error::Weight(_)));
    assert!(matches!(error(builder("b").listen("127.0.0.1:70000")).await, Error::Config { setting: "listen", .. }));
    assert!(matches!(error(builder("b").seeds(["nowhere"])).await, Error::Config { setting: "seeds", .. }));
    assert!(matches!(error(builder("b").listen("0.0.0.0:0")).await, Error::Config { setting: "advertise", .. }));
    let lan = Node::builder("b").listen("127.0.0.1:0");
    assert!(matches!(error(lan).await, Error::Config { setting: "secret", .. }));
    let taken = builder("a").start().await.expect("starts");
    let text = error(builder("b").listen(taken.addr())).await.to_string();
    assert!(text.contains(&taken.addr().to_string()), "{text}");
}

#[tokio::test]
async fn garbage_is_dropped_and_counted() {
    let node = builder("a").start().await.expect("starts");
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut sealed = [0u8; 60];
    (sealed[0], sealed[36]) = (1, 1);
    let unknown = sealed;
    // The id of the node's key: docs/WIRE.md.
    sealed[1..5].copy_from_slice(&[0x92, 0xe8, 0x6b, 0x38]);
    for datagram in [&[1u8; 10][..], &unknown, &sealed, &[1; 1300], &[9; 100]] {
        socket.send_to(datagram, node.addr()).await.expect("sent");
    }
    let wanted = [
        DropReason::Truncated,
        DropReason::UnknownKey,
        DropReason::Unauthentic,
        DropReason::Oversized,
        DropReason::Version,
    ];
    while wanted.iter().any(|reason| node.dropped_datagrams()[reason] == 0) {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.members().snapshot().members.len(), 1);
}

/// Collects the log of the thread that it is set on.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_stranger_that_keeps_trying_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let member = builder("a").on_callers_runtime().start().await.expect("starts");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let listen = socket.local_addr().expect("bound");
    drop(socket);
    for _ in 0..3 {
        let stranger = builder("b").listen(listen).secret([8; 32]).seeds([member.addr()]);
        stranger.start().await.expect_err("refused");
    }
    for _ in 0..3 {
        let stranger = builder("b").listen(listen).cluster("other").seeds([member.addr()]);
        stranger.start().await.expect_err("refused");
    }
    let text = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    let count = |word: &str| text.lines().filter(|line| line.contains(word)).count();
    assert_eq!((count("did not verify"), count("was refused")), (1, 1), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}
