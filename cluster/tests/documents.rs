//! Documents over real sockets on loopback.

use std::time::Duration;

use polity_cluster::{Document, DocumentError, DocumentEvent, Node, Preset};
use polity_crdt::{AwSet, Crdt, MvRegister, OrMap};

type Map = OrMap<String, MvRegister<String>>;

async fn start(name: &str, seed: Option<&Node>) -> Node {
    let builder = Node::builder(name).cluster("docs").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    builder.seeds(seed.map(Node::addr)).start().await.expect("the node starts")
}

/// Waits until a document shows something, as told of by its watch.
async fn until<T: Crdt>(document: &Document<T>, shows: impl Fn(&T) -> bool) {
    let mut watch = document.watch();
    let waiting = async {
        while !document.read(&shows) {
            watch.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it is shown in time");
}

fn put(document: &Document<Map>, key: &str, value: &str) {
    let (key, value) = (key.to_owned(), value.to_owned());
    let put = document.update(|map, w| map.update(w, key, |register, w| register.set(w, value)));
    assert_eq!(put, Ok(true));
}

fn value<'a>(map: &'a Map, key: &str) -> Option<&'a str> {
    map.get(key)?.value().map(String::as_str)
}

#[tokio::test]
async fn what_one_node_writes_all_others_read_and_late_comers_too() {
    let first = start("n1", None).await;
    let second = start("n2", Some(&first)).await;
    let (here, there) = (first.document::<Map>("d").expect("open"), second.document::<Map>("d").expect("open"));
    put(&here, "a", "1");
    until(&there, |map| value(map, "a") == Some("1")).await;
    put(&there, "a", "2");
    put(&there, "b", "3");
    until(&here, |map| value(map, "a") == Some("2") && value(map, "b") == Some("3")).await;
    assert_eq!(here.update(|map, _| Ok(map.remove("a"))), Ok(true));
    assert_eq!(here.update(|map, _| Ok(map.remove("a"))), Ok(false), "it is gone");
    until(&there, |map| value(map, "a").is_none()).await;
    there.flushed().await.expect("the node runs");

    let third = start("n3", Some(&second)).await;
    let late = third.document::<Map>("d").expect("open");
    until(&late, |map| value(map, "b") == Some("3")).await;
    put(&late, "c", "4");
    until(&here, |map| value(map, "c") == Some("4")).await;
    until(&there, |map| value(map, "c") == Some("4")).await;
    assert_eq!(late.stats().replicas, 3);
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_names_what_changes() {
    let node = start("n1", None).await;
    let document = node.document::<Map>("d").expect("open");
    put(&document, "a", "1");
    let mut watch = document.watch();
    let DocumentEvent::Snapshot(state) = watch.next().await else { panic!("a snapshot comes first") };
    assert_eq!(value(&state, "a"), Some("1"));
    assert_eq!(watch.try_next(), None);
    put(&document, "b", "2");
    put(&document, "a", "3");
    put(&document, "b", "4");
    let DocumentEvent::Changed(keys) = watch.next().await else { panic!("then changes") };
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(watch.try_next(), None);
}

#[tokio::test]
async fn a_large_document_comes_in_chunks() {
    let first = start("n1", None).await;
    let here = first.document::<Map>("d").expect("open");
    for number in 0..20_000 {
        put(&here, &format!("key-{number:08}"), "sixteen bytes...");
    }
    let second = start("n2", Some(&first)).await;
    let there = second.document::<Map>("d").expect("open");
    until(&there, |map| map.len() == 20_000).await;
    assert!(here.stats().sync.chunks > 5);
}

#[tokio::test]
async fn misuse_is_refused_and_changes_nothing() {
    let node = start("n1", None).await;
    assert_eq!(node.document::<Map>("").err(), Some(DocumentError::Name(0)));
    assert_eq!(node.document::<Map>(&"x".repeat(65)).err(), Some(DocumentError::Name(65)));
    let document = node.document::<Map>("d").expect("open");
    assert_eq!(node.document::<AwSet<u8>>("d").err(), Some(DocumentError::OtherType("d".to_owned())));
    let large = "x".repeat(2 << 20);
    let refused = document.update(|map, w| map.update(w, "k".to_owned(), |register, w| register.set(w, large)));
    assert!(matches!(refused, Err(DocumentError::Refused(polity_crdt::Error::TooLarge { .. }))), "{refused:?}");
    assert!(document.read(|map| map.is_empty()));
    assert_eq!(document.forget(node.id()), Err(DocumentError::IsUp(node.id().clone())));
    node.stop().await;
    node.stopped().await;
    let refused = document.flushed().await;
    assert_eq!(refused, Err(DocumentError::Stopped));
    assert_eq!(document.update(|map, _| Ok(map.remove("k"))), Err(DocumentError::Stopped));
}

/// Before its driver has heard of it: here nothing else has run since.
#[tokio::test]
async fn a_document_says_so_as_soon_as_its_node_stops() {
    let node = start("n1", None).await;
    let document = node.document::<Map>("d").expect("open");
    let mut stop = std::pin::pin!(node.stop());
    let begin = std::future::poll_fn(|cx| std::task::Poll::Ready(stop.as_mut().poll(cx).is_ready()));
    let is_over = begin.await;
    assert_eq!(document.update(|map, _| Ok(map.remove("k"))), Err(DocumentError::Stopped));
    if !is_over {
        stop.await;
    }
}

#[tokio::test]
async fn a_type_that_differs_is_noticed() {
    let first = start("n1", None).await;
    let second = start("n2", Some(&first)).await;
    let here = first.document::<Map>("d").expect("open");
    put(&here, "a", "1");
    let there = second.document::<AwSet<u8>>("d").expect("open");
    let noticed = async {
        while here.stats().malformed + there.stats().malformed == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), noticed).await.expect("it is counted");
    assert!(there.read(AwSet::is_empty));
}
