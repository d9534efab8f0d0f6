//! Directed histories of publishers and subscribers, each of one thing that has gone wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::message::{Ack, Subscribed, TOPIC_SUBSCRIBED};
use super::publisher::Publisher;
use crate::config::Preset;
use crate::identity::{Boot, NodeId, NodeName};
use crate::node::Node;

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

/// Found by the histories of `network`: the gap was never told of.
#[test]
fn a_late_answer_to_what_an_ended_session_has_said_is_not_one_to_what_the_next_says() {
    let (mut publisher, peer, now) = (Publisher::default(), node("a"), Duration::ZERO);
    let subscribers = BTreeMap::from([(peer.clone(), 1)]);
    publisher.handle_subscribers("t", &subscribers);
    publisher.publish(now, "t", &Bytes::from_static(b"heard"));
    let heard = publisher.poll_batch(now).expect("a message");
    publisher.handle_up(&BTreeSet::new());
    publisher.publish(now, "t", &Bytes::from_static(b"missed"));
    publisher.handle_subscribers("t", &subscribers);
    let gap = publisher.poll_batch(now).expect("the new beginning");
    assert_eq!(gap.batch.items[0].floor, 3);
    publisher.handle_answer(now, heard.id, Some(&[Ack::Next(2)]));
    publisher.handle_answer(now, gap.id, None);
    let again = publisher.poll_batch(publisher.poll_timeout().expect("it tries again")).expect("the same");
    assert_eq!(again.batch.items[0].floor, 3);
    publisher.handle_answer(now, again.id, Some(&[Ack::Next(3)]));
    assert_eq!(publisher.poll_timeout(), None);
}

async fn start(name: &str, seed: Option<&Node>) -> Node {
    let builder = Node::builder(name).cluster("topics").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    builder.seeds(seed.map(Node::addr)).start().await.expect("the node starts")
}

#[tokio::test]
async fn a_build_without_topics_is_not_waited_for() {
    let old = start("old", None).await;
    old.rpc().unserve(&TOPIC_SUBSCRIBED);
    let new = start("new", Some(&old)).await;
    let events = new.topic::<u32>("t").expect("open").subscribe().expect("subscribed");
    let established = tokio::time::timeout(Duration::from_secs(20), events.established()).await;
    assert_eq!(established.expect("it does not wait for ever"), Ok(()));
}

#[tokio::test]
async fn only_who_is_up_is_taken_at_its_word() {
    let here = start("here", None).await;
    let there = start("there", Some(&here)).await;
    let topic = here.topic::<u32>("t").expect("open");
    let request = Subscribed { topic: "t".to_owned(), epoch: 1 };
    assert_eq!(topic.hub.handle_subscribed(&node("stranger"), &request), None);
    let is_up = async {
        while !here.members().snapshot().up().any(|member| member.id == *there.id()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_up).await.expect("they meet");
    assert_eq!(topic.hub.handle_subscribed(there.id(), &request), Some(1));
}
