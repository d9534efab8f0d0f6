//! Nodes on one machine that are told nothing and find each other.

use polity_cluster::discovery::Multicast;
use polity_cluster::{Builder, Error, Node, Preset, View};

/// A cluster of this test and process alone: other nodes on this machine must not be found.
fn builder(test: &str, name: &str) -> Builder {
    Node::builder(name).cluster(format!("{test}-{}", std::process::id())).preset(Preset::Local).listen("127.0.0.1:0")
}

async fn until(node: &Node, mut seen: impl FnMut(&View) -> bool) {
    let mut changes = node.members().subscribe();
    while !seen(&node.members().snapshot()) {
        changes.next().await;
    }
}

#[tokio::test]
async fn a_node_without_seeds_joins_whom_it_finds_on_the_machine() {
    let first = builder("joins", "a").start().await.expect("starts");
    let second = builder("joins", "b").start().await.expect("starts");
    assert_eq!(second.members().snapshot().up().count(), 2, "it has joined before it is ready");
    let alone = builder("joins", "c").no_discovery().start().await.expect("starts");
    let other = builder("other", "d").start().await.expect("starts");
    until(&first, |view| view.up().count() == 2).await;
    assert_eq!([&alone, &other].map(|node| node.members().snapshot().members.len()), [1, 1]);
}

#[tokio::test]
async fn two_that_start_at_once_and_go_alone_become_one_cluster() {
    let (a, b) = (builder("at-once", "a").start(), builder("at-once", "b").start());
    let (a, b) = futures_util::future::try_join(a, b).await.expect("both start");
    until(&a, |view| view.up().count() == 2).await;
    until(&b, |view| view.up().count() == 2).await;
}

#[tokio::test]
async fn a_node_that_is_told_to_ask_the_lan_says_when_it_cannot() {
    let asks = builder("v6", "a").discover(Multicast::new()).listen("[::1]:0");
    match asks.start().await {
        Err(error @ Error::Discovery(_)) => assert!(error.to_string().contains("IPv4"), "{error}"),
        // Where there is no IPv6 at all.
        Err(Error::Listen { .. }) => {}
        other => panic!("{other:?}"),
    }
}
