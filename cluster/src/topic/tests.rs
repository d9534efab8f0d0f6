//! Directed histories of publishers and subscribers, each of one thing that has gone wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::message::Ack;
use super::publisher::Publisher;
use crate::identity::{Boot, NodeId, NodeName};

fn node(name: &str) -> NodeId {
    NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 1, nonce: 1 } }
}

#[test]
fn a_subscription_that_ended_before_the_directory_told_of_it_is_asked_for_and_forgotten() {
    let (mut publisher, peer) = (Publisher::default(), node("a"));
    assert_eq!(publisher.handle_hint(Duration::ZERO, "t", &peer, 1), 1);
    let mut now = Duration::ZERO;
    for (round, ack) in [Ack::Next(1), Ack::Unknown].into_iter().enumerate() {
        assert!(publisher.poll_batch(now).is_none(), "there is nothing to say before round {round}");
        now = publisher.poll_timeout().expect("it will ask");
        let out = publisher.poll_batch(now).expect("it asks");
        assert_eq!((out.batch.items.len(), &*out.batch.items[0].topic), (1, "t"));
        publisher.handle_answer(now, out.id, Some(&[ack]));
    }
    assert_eq!(publisher.standing("t", &peer), None);
    assert_eq!((publisher.poll_batch(now).is_none(), publisher.poll_timeout()), (true, None));
}

#[test]
fn a_subscription_that_the_directory_confirms_is_not_asked_for() {
    let (mut publisher, peer) = (Publisher::default(), node("a"));
    publisher.publish(Duration::ZERO, "t", &Bytes::from_static(b"before"));
    assert_eq!(publisher.handle_hint(Duration::ZERO, "t", &peer, 1), 2);
    let out = publisher.poll_batch(Duration::ZERO).expect("the beginning is news");
    publisher.handle_answer(Duration::ZERO, out.id, Some(&[Ack::Next(2)]));
    publisher.handle_subscribers("t", &BTreeMap::from([(peer.clone(), 1)]));
    assert_eq!(publisher.poll_timeout(), None);
    publisher.handle_subscribers("t", &BTreeMap::new());
    assert_eq!(publisher.standing("t", &peer), None);
}
