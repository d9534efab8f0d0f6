//! Topics: on every node messages are published, and subscribers come and go, one of them slow.
//!
//! A message says of which process it is and which of its messages, so that one in the wrong place would be noticed.

use std::time::Duration;

use polity::cluster::Capabilities;
use polity::{GapCause, Topic, TopicEvent};
use rand::RngExt as _;

use super::{Client, Pace, Workload, seed_of};
use crate::history::{Event, Host, Life, Stage};

pub(super) const WORKLOAD: Workload = Workload {
    name: "topics",
    about: "every node publishes messages on topics, to subscribers that come and go, some of them slow",
    keys: |_| Vec::new(),
    clients: |client, paces| {
        let mut clients: Vec<polity::cluster::BoxFuture<'static, ()>> = Vec::new();
        for topic in TOPICS {
            clients.push(Box::pin(publish(client.clone(), topic, paces.next())));
        }
        clients.push(Box::pin(subscribe(client.clone(), TOPICS[0], false, paces.next())));
        clients.push(Box::pin(subscribe(client.clone(), TOPICS[1], client.host.0 % 2 == 0, paces.next())));
        clients
    },
    observers: |_| Vec::new(),
    read: |_, _| Box::pin(async { true }),
};

const TOPICS: [&str; 2] = ["news", "weather"];
/// How many events a slow subscriber lets wait.
const FEW: usize = 4;
/// How many events a subscriber takes before another one takes its place.
const EVENTS: std::ops::Range<u32> = 50..400;

/// The random part of the publisher's boot, and the sequence.
type Message = (u128, u64);

/// A topic, unless the node stands for a build that has none: it serves none, so what it published would be heard by those
/// only of whom it has read.
fn open(client: &Client, topic: &str) -> Option<Topic<Message>> {
    let view = client.node.members().snapshot();
    let own = view.members.get(&client.node.id().name)?;
    if !own.speaks.capabilities.has(Capabilities::TOPICS) {
        return None;
    }
    client.node.topic::<Message>(topic).ok()
}

async fn publish(client: Client, name: &str, mut pace: Pace) {
    // The node may have stopped, and then its process is about to end.
    let Some(topic) = open(&client, name) else { return };
    let mut last = 0;
    while pace.next().await {
        for _ in 0..pace.rng.random_range(0..4) {
            // No other client of this process publishes here.
            let Ok(sequence) = topic.publish(&(client.node.id().boot.nonce, last + 1)).await else { return };
            last = sequence;
            client.recorder.event(Event::Published { host: client.host, topic: name.to_owned(), sequence });
        }
    }
}

async fn subscribe(client: Client, name: &'static str, slow: bool, mut pace: Pace) {
    let Some(topic) = open(&client, name) else { return };
    for number in 0.. {
        let subscriber = seed_of(client.process, name, number);
        let subscribed = if slow { topic.subscribe_within(FEW) } else { topic.subscribe() };
        let Ok(mut events) = subscribed else { return };
        let say = |stage| {
            let (host, topic) = (client.host, name.to_owned());
            client.recorder.event(Event::Subscriber { host, topic, subscriber, stage, slow });
        };
        say(Stage::Begun);
        let mut left = pace.rng.random_range(EVENTS);
        if events.established().await.is_err() {
            return;
        }
        say(Stage::Established);
        // When there is no more work the last of them goes on, to hear of what is on its way.
        while left > 0 || !*pace.work.borrow() {
            let event = events.next().await;
            tell(&client, name, subscriber, event);
            left = left.saturating_sub(1);
            if slow {
                tokio::time::sleep(Duration::from_millis(pace.rng.random_range(0..200))).await;
            }
        }
        drop(events);
        say(Stage::Over);
    }
}

fn tell(client: &Client, topic: &str, subscriber: u64, event: TopicEvent<Message>) {
    let of = |node: &polity::NodeId| {
        let life = Life { generation: node.boot.generation, nonce: node.boot.nonce };
        Some((Host::of_name(node.name.as_str())?, life))
    };
    let host = client.host;
    match event {
        TopicEvent::Received { publisher, sequence, value } => {
            if value != (publisher.boot.nonce, sequence) {
                client.garbage(topic);
            }
            if let Some((publisher, life)) = of(&publisher) {
                client.recorder.event(Event::Got { host, subscriber, publisher, life, sequence });
            }
        }
        TopicEvent::Gap { publisher, missed, cause } => {
            if let Some((publisher, life)) = of(&publisher) {
                let slow = cause == GapCause::Slow;
                client.recorder.event(Event::Lacks { host, subscriber, publisher, life, missed, slow });
            }
        }
        _ => {}
    }
}
