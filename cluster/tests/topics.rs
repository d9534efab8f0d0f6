//! Topics over real sockets on loopback.

use std::time::Duration;

use polity_cluster::topic::MAX_MESSAGE_BYTES;
use polity_cluster::{GapCause, Node, Preset, TopicError, TopicEvent, TopicSubscription};

async fn start(name: &str, seed: Option<&Node>) -> Node {
    let builder = Node::builder(name).cluster("topics").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    builder.seeds(seed.map(Node::addr)).start().await.expect("the node starts")
}

/// The next event: the publisher's name, the sequence, the value.
async fn next(events: &mut TopicSubscription<u32>) -> (String, u64, u32) {
    let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("it comes in time");
    match event {
        TopicEvent::Received { publisher, sequence, value } => (publisher.name.to_string(), sequence, value),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_subscriber_gets_every_message_once_and_in_order() {
    let first = start("n1", None).await;
    let second = start("n2", Some(&first)).await;
    let third = start("n3", Some(&first)).await;
    let topics: Vec<_> = [&first, &second, &third].map(|node| node.topic::<u32>("t").expect("open")).into();
    // Two on one node, one on another, none on the third.
    let mut events: Vec<_> =
        [0, 0, 1].map(|at: usize| topics[at].subscribe_within(2_000).expect("subscribed")).into_iter().collect();
    for events in &events {
        events.established().await.expect("the node runs");
    }
    for value in 0..500 {
        for (at, topic) in topics.iter().enumerate() {
            let sequence = topic.publish(&(value * 10 + at as u32)).await.expect("published");
            assert_eq!(sequence, u64::from(value) + 1);
        }
    }
    for events in &mut events {
        let mut last = [0; 3];
        for _ in 0..1_500 {
            let (publisher, sequence, value) = next(events).await;
            let at: usize = publisher[1..].parse::<usize>().expect("a number") - 1;
            last[at] += 1;
            assert_eq!((sequence, value), (last[at], (last[at] as u32 - 1) * 10 + at as u32));
        }
        assert_eq!(events.try_next(), None);
    }
    for topic in &topics {
        topic.flushed().await.expect("the node runs");
        assert_eq!((topic.stats().waiting, topic.stats().dropped), (0, 0));
    }
}

#[tokio::test]
async fn a_message_that_is_published_as_soon_as_a_node_is_there_reaches_who_has_subscribed_before() {
    let first = start("n1", None).await;
    let mut events = first.topic::<u32>("t").expect("open").subscribe().expect("subscribed");
    for round in 0..5 {
        let name = format!("late-{round}");
        let late = start(&name, Some(&first)).await;
        late.topic::<u32>("t").expect("open").publish(&round).await.expect("published");
        assert_eq!(next(&mut events).await, (name, 1, round));
        late.stop().await;
    }
}

#[tokio::test]
async fn a_slow_subscriber_is_told_how_much_it_has_missed_and_holds_nobody_up() {
    let first = start("n1", None).await;
    let second = start("n2", Some(&first)).await;
    let (here, there) = (first.topic::<u32>("t").expect("open"), second.topic::<u32>("t").expect("open"));
    let mut slow = there.subscribe_within(10).expect("subscribed");
    slow.established().await.expect("the node runs");
    for value in 0..5_000 {
        here.publish(&value).await.expect("published");
    }
    here.flushed().await.expect("the node runs");
    let mut next = 1;
    let mut gaps = 0;
    while next <= 5_000 {
        match slow.next().await {
            TopicEvent::Received { sequence, .. } => {
                assert_eq!(sequence, next);
                next += 1;
            }
            TopicEvent::Gap { missed, cause, .. } => {
                assert_eq!(cause, GapCause::Slow);
                (next, gaps) = (next + missed, gaps + 1);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, gaps > 0), (5_001, true));
}

#[tokio::test]
async fn misuse_is_refused_and_publishes_nothing() {
    let node = start("n1", None).await;
    assert_eq!(node.topic::<u32>("").err(), Some(TopicError::Name(0)));
    let topic = node.topic::<Vec<u8>>("t").expect("open");
    assert_eq!(node.topic::<u32>("t").err(), Some(TopicError::OtherType("t".to_owned())));
    let large = topic.publish(&vec![0; MAX_MESSAGE_BYTES]).await;
    assert!(matches!(large, Err(TopicError::TooLarge(_))));
    assert_eq!(topic.publish(&vec![1]).await, Ok(1));
    node.stop().await;
    node.stopped().await;
    let stopped = async {
        while topic.publish(&vec![2]).await != Err(TopicError::Stopped) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it stops");
    assert_eq!(topic.subscribe().err(), Some(TopicError::Stopped));
}
