//! Promise P1 over a network that loses, doubles, delays and reorders, in which nodes stand still and take each other for
//! down: thousands of small histories of whole publishers and subscribers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::message::{Ack, Batch};
use super::publisher::{Limits, Publisher, Room};
use super::subscriber::{Event, Subscriber};
use crate::identity::{Boot, NodeId, NodeName};

const NODES: usize = 3;
const TOPICS: [&str; 2] = ["a", "b"];
/// The longest that a request is waited for.
const TIMEOUT: Duration = Duration::from_millis(500);

fn node(at: usize) -> NodeId {
    let name = NodeName::new(&format!("n{at}")).expect("valid");
    NodeId { name, boot: Boot { generation: 1, nonce: at as u128 } }
}

/// What happens.
#[derive(Clone, Debug)]
enum Op {
    Publish {
        at: usize,
        topic: usize,
        count: usize,
    },
    Subscribe {
        at: usize,
        topic: usize,
        limit: usize,
    },
    Unsubscribe {
        which: usize,
    },
    /// A subscriber takes some events.
    Take {
        which: usize,
        count: usize,
    },
    /// A node hears of all subscriptions.
    Learn {
        at: usize,
    },
    /// A node tells another of its subscriptions itself, and perhaps hears of the answer.
    Establish {
        from: usize,
        to: usize,
        hears: bool,
    },
    /// A node takes another for down or for up.
    View {
        at: usize,
        of: usize,
        up: bool,
    },
    Weather {
        lost: u64,
        doubled: u64,
        delay_ms: u64,
    },
    /// A node does nothing for a while.
    Pause {
        at: usize,
        ms: u64,
    },
    Run {
        ms: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (at, topic) = (0..NODES, 0..TOPICS.len());
    let op = prop_oneof![
        6 => (at.clone(), topic.clone(), 1..12_usize).prop_map(|(at, topic, count)| Op::Publish { at, topic, count }),
        3 => (at.clone(), topic, 2..40_usize).prop_map(|(at, topic, limit)| Op::Subscribe { at, topic, limit }),
        1 => (0..8_usize).prop_map(|which| Op::Unsubscribe { which }),
        2 => (0..8_usize, 1..20_usize).prop_map(|(which, count)| Op::Take { which, count }),
        4 => at.clone().prop_map(|at| Op::Learn { at }),
        2 => (at.clone(), at.clone(), any::<bool>()).prop_map(|(from, to, hears)| Op::Establish { from, to, hears }),
        2 => (at.clone(), at.clone(), any::<bool>()).prop_map(|(at, of, up)| Op::View { at, of, up }),
        1 => (0..60_u64, 0..40_u64, 1..400_u64)
            .prop_map(|(lost, doubled, delay_ms)| Op::Weather { lost, doubled, delay_ms }),
        1 => (at, 1..2_000_u64).prop_map(|(at, ms)| Op::Pause { at, ms }),
        6 => (1..600_u64).prop_map(|ms| Op::Run { ms }),
    ];
    proptest::collection::vec(op, 5..80)
}

#[derive(Debug)]
enum What {
    Request { from: usize, to: usize, id: u64, batch: Batch, answer: bool },
    Answer { to: usize, id: u64, acks: Option<Vec<Ack>> },
}

/// A subscriber, and what it must get next of each publisher of whom it has heard.
struct Listener {
    at: usize,
    topic: usize,
    number: u64,
    expected: BTreeMap<NodeId, u64>,
    /// Those of whom it has heard of a gap before any message: only the message after it shows where that is.
    unplaced: BTreeSet<NodeId>,
    is_over: bool,
}

struct World {
    now: Duration,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    listeners: Vec<Listener>,
    up: Vec<BTreeSet<usize>>,
    paused_until: Vec<Duration>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, What>,
    order: u64,
    random: u64,
    weather: (u64, u64, u64),
}

impl World {
    fn new(random: u64) -> Self {
        let limits = Limits { messages: 24, bytes: 200 };
        Self {
            now: Duration::ZERO,
            publishers: (0..NODES).map(|_| Publisher::within(limits)).collect(),
            subscribers: (0..NODES).map(|_| Subscriber::default()).collect(),
            listeners: Vec::new(),
            up: vec![(0..NODES).collect(); NODES],
            paused_until: vec![Duration::ZERO; NODES],
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            order: 0,
            random,
            weather: (0, 0, 1),
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn post(&mut self, at: Duration, what: What) {
        self.order += 1;
        self.events.push(Reverse((at, self.order)));
        self.what.insert(self.order, what);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(1 + self.below(self.weather.2))
    }

    fn send_all(&mut self) {
        for from in 0..NODES {
            while self.paused_until[from] <= self.now
                && let Some(out) = self.publishers[from].poll_batch(self.now)
            {
                let to = (0..NODES).find(|at| node(*at) == out.to).expect("a node");
                let (lost, doubled, _) = self.weather;
                if self.below(100) < lost {
                    self.post(self.now + TIMEOUT, What::Answer { to: from, id: out.id, acks: None });
                    continue;
                }
                if self.below(100) < doubled {
                    let late = self.now + self.delay() * 3;
                    let batch = out.batch.clone();
                    self.post(late, What::Request { from, to, id: out.id, batch, answer: false });
                }
                let at = self.now + self.delay();
                self.post(at, What::Request { from, to, id: out.id, batch: out.batch, answer: true });
            }
        }
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Request { to, .. } | What::Answer { to, .. } if self.paused_until[to] > self.now => {
                let at = self.paused_until[to];
                self.post(at, what);
            }
            What::Request { from, to, id, batch, answer } => {
                // As it goes over the wire.
                let bytes = postcard::to_allocvec(&batch).expect("it encodes");
                let batch: Batch = postcard::from_bytes(&bytes).expect("it decodes");
                let subscriber = &mut self.subscribers[to];
                let acks = batch.items.iter().map(|item| subscriber.handle_item(&node(from), item));
                let acks: Vec<Ack> = acks.collect::<Option<_>>().expect("it makes sense");
                if answer {
                    let is_lost = self.below(100) < self.weather.0;
                    let at = self.now + if is_lost { TIMEOUT } else { self.delay() };
                    self.post(at, What::Answer { to: from, id, acks: (!is_lost).then_some(acks) });
                }
            }
            What::Answer { to, id, acks } => self.publishers[to].handle_answer(self.now, id, acks.as_deref()),
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            self.send_all();
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let timers =
                (0..NODES).filter_map(|at| Some(self.publishers[at].poll_timeout()?.max(self.paused_until[at])));
            let next = event.into_iter().chain(timers).min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            while let Some(Reverse((at, order))) =
                self.events.peek().copied().filter(|Reverse((at, _))| *at <= self.now)
            {
                let _ = (self.events.pop(), at);
                let what = self.what.remove(&order).expect("it was posted");
                self.handle(what);
            }
        }
        self.now = end;
    }

    /// A node knows of all subscriptions of those that are up.
    fn learn(&mut self, at: usize) {
        for topic in TOPICS {
            let of = |other: usize| {
                let epoch = self.subscribers[other].subscriptions().find(|(name, _)| &***name == topic)?.1;
                Some((node(other), epoch))
            };
            let others = self.up[at].iter().copied().filter(|other| *other != at);
            let nodes = others.filter_map(of).collect();
            self.publishers[at].handle_subscribers(topic, &nodes);
        }
    }

    fn publish(&mut self, at: usize, topic: usize, count: usize) {
        for _ in 0..count {
            let length = self.below(20) as usize;
            if self.publishers[at].room(self.now, TOPICS[topic], length) != Room::Enough {
                return;
            }
            let body = Bytes::from(vec![0; length]);
            let sequence = self.publishers[at].publish(self.now, TOPICS[topic], &body);
            self.subscribers[at].handle_own(TOPICS[topic], &node(at), sequence, &body);
        }
    }

    fn subscribe(&mut self, at: usize, topic: usize, limit: usize) {
        let (number, ..) = self.subscribers[at].subscribe(TOPICS[topic], limit);
        let expected = self.subscribers[at].expected(TOPICS[topic]);
        self.listeners.push(Listener { at, topic, number, expected, unplaced: BTreeSet::new(), is_over: false });
    }

    /// Takes events, and judges them: of each publisher the messages in order, each once, and gaps that say exactly how many
    /// are missing.
    fn take(&mut self, which: usize, count: usize) {
        let Some(listener) = self.listeners.get_mut(which).filter(|listener| !listener.is_over) else { return };
        for _ in 0..count {
            let Some(event) = self.subscribers[listener.at].pop(TOPICS[listener.topic], listener.number) else {
                return;
            };
            match event {
                Event::Message { publisher, sequence, .. } => {
                    let expected = listener.expected.entry(publisher.clone()).or_insert(sequence);
                    assert_eq!(sequence, *expected, "of {publisher}");
                    *expected += 1;
                }
                Event::Gap { publisher, missed, .. } => {
                    assert!(missed > 0);
                    match listener.expected.get_mut(&publisher) {
                        Some(expected) => *expected += missed,
                        None => drop(listener.unplaced.insert(publisher)),
                    }
                }
            }
        }
    }

    fn establish(&mut self, from: usize, to: usize, hears: bool) {
        if from == to || !self.up[to].contains(&from) {
            return;
        }
        let subscriptions: Vec<_> =
            self.subscribers[from].subscriptions().map(|(topic, epoch)| (topic.to_string(), epoch)).collect();
        for (topic, epoch) in subscriptions {
            let begin = self.publishers[to].handle_hint(self.now, &topic, &node(from), epoch);
            if !hears {
                continue;
            }
            let is_new = !self.subscribers[from].expected(&topic).contains_key(&node(to));
            self.subscribers[from].handle_begun(&topic, epoch, &node(to), begin);
            let listeners = self.listeners.iter_mut().filter(|listener| is_new && listener.at == from);
            for listener in listeners.filter(|listener| TOPICS[listener.topic] == topic && !listener.is_over) {
                listener.expected.entry(node(to)).or_insert(begin);
            }
        }
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Publish { at, topic, count } => self.publish(at, topic, count),
            Op::Subscribe { at, topic, limit } => self.subscribe(at, topic, limit),
            Op::Unsubscribe { which } => {
                if let Some(listener) = self.listeners.get_mut(which).filter(|listener| !listener.is_over) {
                    listener.is_over = true;
                    self.subscribers[listener.at].unsubscribe(TOPICS[listener.topic], listener.number);
                }
            }
            Op::Take { which, count } => self.take(which, count),
            Op::Learn { at } => self.learn(at),
            Op::Establish { from, to, hears } => self.establish(from, to, hears),
            Op::View { at, of, up } if at != of => {
                if up {
                    self.up[at].insert(of)
                } else {
                    self.up[at].remove(&of)
                };
                let nodes = self.up[at].iter().copied().map(node).collect();
                self.publishers[at].handle_up(&nodes);
                self.learn(at);
            }
            Op::View { .. } => {}
            Op::Weather { lost, doubled, delay_ms } => self.weather = (lost, doubled, delay_ms),
            Op::Pause { at, ms } => {
                self.paused_until[at] = self.paused_until[at].max(self.now + Duration::from_millis(ms));
            }
            Op::Run { ms } => self.run(ms),
        }
    }

    /// All faults have ended: everyone gets the rest.
    fn finish(&mut self) {
        self.weather = (0, 0, 1);
        for at in 0..NODES {
            self.up[at] = (0..NODES).collect();
            self.learn(at);
        }
        self.run(20_000);
        for which in 0..self.listeners.len() {
            self.take(which, usize::MAX);
        }
        for listener in self.listeners.iter().filter(|listener| !listener.is_over) {
            for publisher in (0..NODES).filter(|publisher| *publisher != listener.at) {
                let standing = self.publishers[publisher].standing(TOPICS[listener.topic], &node(listener.at));
                let (begin, acked, after) = standing.expect("everybody has learned of it");
                assert_eq!(acked, after, "all is acknowledged");
                match listener.expected.get(&node(publisher)) {
                    Some(expected) => assert_eq!(*expected, after, "the tail of {publisher} is missing"),
                    None if listener.unplaced.contains(&node(publisher)) => {}
                    None => assert_eq!(begin, after, "of {publisher} nothing came"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn messages_come_in_order_once_or_as_a_gap(ops in ops(), random: u64) {
        let mut world = World::new(random);
        for op in ops {
            world.carry_out(op);
        }
        world.finish();
    }
}
