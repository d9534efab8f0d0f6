//! Whole nodes on loopback that form a cluster together, keep its id, and refuse those of another.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use polity_cluster::rpc::Refusal;
use polity_cluster::{Builder, Error, Node, Preset, View};

fn builder(name: &str) -> Builder {
    Node::builder(name).cluster("formed").preset(Preset::Local).no_discovery().secret([7; 32]).listen("127.0.0.1:0")
}

async fn until(node: &Node, mut seen: impl FnMut(&View) -> bool) {
    let mut changes = node.members().subscribe();
    while !seen(&node.members().snapshot()) {
        changes.next().await;
    }
}

/// Ports that the system gives to nobody by itself, and that differ from process to process as far as they can.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 300) as u16 * 40;
    (0..count).map(|_| SocketAddr::from(([127, 0, 0, 1], base + NEXT.fetch_add(1, Ordering::Relaxed)))).collect()
}

async fn form(names: &[&str], expected: usize) -> Vec<Node> {
    let ports = free_ports(names.len());
    let start = |at: usize| builder(names[at]).listen(ports[at]).seeds(&ports).expect(expected).start();
    futures_util::future::try_join_all((0..names.len()).map(start)).await.expect("all start")
}

#[tokio::test]
async fn those_that_start_choose_one_id_and_who_joins_takes_it() {
    let nodes = form(&["a", "b", "c", "d", "e"], 3).await;
    let id = nodes[0].cluster_id().expect("it has formed");
    assert!(nodes.iter().all(|node| node.cluster_id() == Some(id)));
    let late = builder("late").seeds([nodes[3].addr()]).start().await.expect("starts");
    assert_eq!(late.cluster_id(), Some(id));
    for node in nodes.iter().chain([&late]) {
        until(node, |view| view.up().count() == 6).await;
    }
}

#[tokio::test]
async fn too_few_are_not_ready_and_become_it_when_enough_are_there() {
    let ports = free_ports(3);
    let start = |at: usize| builder(&format!("n{at}")).listen(ports[at]).seeds(&ports).expect(3).start();
    let two = futures_util::future::join(start(0), start(1));
    let mut two = std::pin::pin!(two);
    let waited = tokio::time::timeout(Duration::from_millis(2500), &mut two).await;
    assert!(waited.is_err(), "two of three are ready");
    let ((a, b), third) = futures_util::future::join(two, start(2)).await;
    let third = third.expect("starts");
    let id = third.cluster_id().expect("it has formed");
    assert_eq!([a, b].map(|node| node.expect("starts").cluster_id()), [Some(id); 2]);
}

#[tokio::test]
async fn clusters_that_were_formed_apart_refuse_each_other_and_one_without_an_id_takes_it() {
    let (ours, theirs) = (form(&["a", "b"], 2).await, form(&["c", "d"], 2).await);
    let (id, other) = (ours[0].cluster_id().expect("formed"), theirs[0].cluster_id().expect("formed"));
    assert_ne!(id, other);

    // A whole cluster without an id that is led to one with an id.
    let plain = builder("p").start().await.expect("starts");
    let fellow = builder("q").seeds([plain.addr()]).start().await.expect("starts");
    until(&plain, |view| view.up().count() == 2).await;
    assert_eq!((plain.cluster_id(), fellow.cluster_id()), (None, None));
    let bridge = builder("r").seeds([plain.addr(), ours[0].addr()]).start().await.expect("starts");
    for node in [&plain, &fellow, &bridge, &ours[0], &ours[1]] {
        until(node, |view| view.up().count() == 5).await;
        assert_eq!(node.cluster_id(), Some(id));
    }
    assert_eq!(theirs[0].members().snapshot().up().count(), 2);
}

#[tokio::test]
async fn an_id_is_kept_in_the_data_folder_and_refused_by_others() {
    let folder = std::env::temp_dir().join(format!("polity-formation-{}", std::process::id()));
    let place = |name: &str| folder.join(name);
    let start = |at: usize, ports: &[SocketAddr]| {
        let name = format!("n{at}");
        builder(&name).listen(ports[at]).seeds(ports).expect(2).data_dir(place(&name)).start()
    };
    let ports = free_ports(2);
    let (a, b) = futures_util::future::try_join(start(0, &ports), start(1, &ports)).await.expect("both start");
    let id = a.cluster_id().expect("formed");
    // Whoever is ready would find it again.
    assert!((0..2).all(|at| place(&format!("n{at}")).join("cluster").exists()));
    futures_util::future::join(a.stop(), b.stop()).await;
    drop((a, b));
    // Elsewhere: what they listened on is free only when their threads have ended.
    let ports = free_ports(2);
    let (a, b) = futures_util::future::try_join(start(0, &ports), start(1, &ports)).await.expect("both start again");
    assert_eq!([a, b].map(|node| node.cluster_id()), [Some(id); 2]);

    let others = form(&["c", "d"], 2).await;
    let error = builder("n0").data_dir(place("n0")).seeds([others[0].addr()]).start().await.expect_err("refused");
    assert!(matches!(error, Error::Refused { refusal: Refusal::OtherFormation { .. }, .. }), "{error}");
    assert!(!error.is_retryable() && error.to_string().contains(&id.to_string()), "{error}");
    std::fs::remove_dir_all(folder).expect("removable");
}
