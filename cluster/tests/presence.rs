//! Presence over real sockets on loopback.

use std::time::Duration;

use polity_cluster::presence::{MAX_PRESENCE_KEY_BYTES, MAX_PRESENCE_META_BYTES};
use polity_cluster::{Node, Presence, PresenceEntry, PresenceError, PresenceEvent, Preset};

async fn start(name: &str, seed: Option<&Node>) -> Node {
    let builder = Node::builder(name).cluster("presence").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    builder.seeds(seed.map(Node::addr)).start().await.expect("the node starts")
}

fn shown(presence: &Presence<u32>) -> Vec<(String, String, u32)> {
    let entry = |entry: PresenceEntry<u32>| (entry.key, entry.node.name.to_string(), entry.meta);
    let mut shown: Vec<_> = presence.list().into_iter().map(entry).collect();
    shown.sort();
    shown
}

/// Waits until a presence lists this: key, node, metadata.
async fn until(presence: &Presence<u32>, expected: &[(&str, &str, u32)]) {
    let expected: Vec<_> =
        expected.iter().map(|(key, node, meta)| (key.to_string(), node.to_string(), *meta)).collect();
    let mut events = presence.subscribe();
    let waiting = async {
        while shown(presence) != expected {
            events.next().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waited.unwrap_or_else(|_| panic!("{expected:?} is not listed, but {:?}", shown(presence)));
}

#[tokio::test]
async fn all_see_who_is_here_and_a_dead_node_takes_its_entries_with_it() {
    let first = start("n1", None).await;
    let second = start("n2", Some(&first)).await;
    let (here, there) = (first.presence::<u32>("p").expect("open"), second.presence::<u32>("p").expect("open"));
    let eve = here.track("eve", &1).expect("tracked");
    let eve_again = here.track("eve", &2).expect("tracked");
    let eve_there = there.track("eve", &3).expect("tracked");
    let _adam = there.track("adam", &4).expect("tracked");
    for presence in [&here, &there] {
        until(presence, &[("adam", "n2", 4), ("eve", "n1", 1), ("eve", "n1", 2), ("eve", "n2", 3)]).await;
    }
    assert_eq!(here.get("eve").len(), 3);
    eve_again.untrack();
    eve.update(&7).expect("changed");
    drop(eve_there);
    for presence in [&here, &there] {
        until(presence, &[("adam", "n2", 4), ("eve", "n1", 7)]).await;
    }
    second.stop().await;
    until(&here, &[("eve", "n1", 7)]).await;
    let third = start("n3", Some(&first)).await;
    let late = third.presence::<u32>("p").expect("open");
    until(&late, &[("eve", "n1", 7)]).await;
}

#[tokio::test]
async fn one_that_comes_back_under_a_newer_boot_does_not_bring_the_older_ones_entries() {
    let first = start("n1", None).await;
    let here = first.presence::<u32>("p").expect("open");
    let second = start("n2", Some(&first)).await;
    let _guard = second.presence::<u32>("p").expect("open").track("eve", &1).expect("tracked");
    until(&here, &[("eve", "n2", 1)]).await;
    drop(second);
    let second = start("n2", Some(&first)).await;
    let there = second.presence::<u32>("p").expect("open");
    let _guard = there.track("eve", &2).expect("tracked");
    for presence in [&here, &there] {
        until(presence, &[("eve", "n2", 2)]).await;
    }
    let dropped = async {
        while here.stats().live_dots != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped)
        .await
        .expect("what a superseded boot has tracked is dropped");
}

#[tokio::test]
async fn a_subscriber_gets_a_snapshot_and_then_changes() {
    let node = start("n1", None).await;
    let presence = node.presence::<u32>("p").expect("open");
    let eve = presence.track("eve", &1).expect("tracked");
    let mut events = presence.subscribe();
    let PresenceEvent::Snapshot { version, entries } = events.next().await else { panic!("a snapshot comes first") };
    assert_eq!(entries.len(), 1);
    assert_eq!(events.try_next(), None);
    eve.update(&2).expect("changed");
    let PresenceEvent::Changed { version: next, entry } = events.next().await else { panic!("a change") };
    assert_eq!((next, entry.meta, entry.number), (version + 1, 2, eve.number()));
    drop(eve);
    let event = events.next().await;
    assert!(matches!(event, PresenceEvent::Left { entry, .. } if entry.key == "eve" && entry.meta == 2));
}

#[tokio::test]
async fn misuse_is_refused_and_changes_nothing() {
    let node = start("n1", None).await;
    assert_eq!(node.presence::<u32>("").err(), Some(PresenceError::Name(0)));
    let presence = node.presence::<String>("p").expect("open");
    assert_eq!(node.presence::<u32>("p").err(), Some(PresenceError::OtherType("p".to_owned())));
    let long = "x".repeat(MAX_PRESENCE_KEY_BYTES + 1);
    assert_eq!(presence.track(&*long, &String::new()).err(), Some(PresenceError::Key(long.len())));
    let large = "x".repeat(MAX_PRESENCE_META_BYTES);
    assert!(matches!(presence.track("k", &large).err(), Some(PresenceError::Meta(_))));
    assert!(presence.list().is_empty());
    let guard = presence.track("k", &String::new()).expect("tracked");
    node.stop().await;
    node.stopped().await;
    let stopped = async {
        while presence.flushed().await != Err(PresenceError::Stopped) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it stops");
    assert_eq!(guard.update(&String::new()), Err(PresenceError::Stopped));
    assert_eq!(presence.track("k", &String::new()).err(), Some(PresenceError::Stopped));
}

#[tokio::test]
async fn thousands_of_entries_of_a_node_reach_the_others() {
    let first = start("n1", None).await;
    let here = first.presence::<u32>("p").expect("open");
    let guards: Vec<_> = (0..5_000).map(|n| here.track(format!("user-{n}"), &n).expect("tracked")).collect();
    let second = start("n2", Some(&first)).await;
    let there = second.presence::<u32>("p").expect("open");
    let mut events = there.subscribe();
    let came = async {
        while there.list().len() < guards.len() {
            events.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), came).await.expect("all come");
    drop(guards);
    let went = async {
        while !there.list().is_empty() {
            events.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), went).await.expect("all go");
}
