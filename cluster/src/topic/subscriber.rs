//! What a node gets of the topics that it subscribes to.
//!
//! For each topic there is one subscription of the node, with an *epoch* of its own, and for each publisher the sequence that
//! is expected next: what is below it was delivered, what is above it comes too early and is asked for again, and what the
//! publisher says will never come is a gap. Below that there are the queues of the subscribers in this process. A queue is
//! bounded: what does not fit is counted, and its subscriber is told of the gap in the place where it is.
//!
//! A pure state machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::GapCause;
use super::message::{Ack, Item};
use crate::identity::NodeId;
use crate::mutation::{Mutation, mutated};

/// How many events wait for a subscriber that does not take them, unless it says otherwise.
pub(super) const QUEUE_EVENTS: usize = 1024;
/// And how many bytes.
const QUEUE_BYTES: usize = 8 << 20;
/// How many publishers of a topic are remembered: enough for a large cluster in which every node restarts many times.
const MAX_PUBLISHERS: usize = 65_536;

/// What a subscriber gets, with the message as it was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Message { publisher: NodeId, sequence: u64, body: Bytes },
    Gap { publisher: NodeId, missed: u64, cause: GapCause },
}

/// The events of one subscriber in this process.
#[derive(Debug)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    limit: usize,
    /// What did not fit, by publisher. It comes after all that is in the queue.
    missed: BTreeMap<NodeId, u64>,
}

impl Queue {
    fn push(&mut self, event: Event) {
        let (Event::Message { publisher, .. } | Event::Gap { publisher, .. }) = &event;
        let (publisher, length) = (publisher.clone(), event.length());
        let is_full = self.events.len() + 1 >= self.limit || self.bytes + length > QUEUE_BYTES;
        if is_full && !self.events.is_empty() {
            let count = match event {
                Event::Message { .. } => 1,
                Event::Gap { missed, .. } => missed,
            };
            let missed = self.missed.entry(publisher).or_default();
            *missed = missed.saturating_add(count);
            return;
        }
        if let Some(missed) = self.missed.remove(&publisher) {
            self.events.push_back(Event::Gap { publisher, missed, cause: GapCause::Slow });
        }
        self.bytes += length;
        self.events.push_back(event);
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if let Some(event) = &event {
            self.bytes -= event.length();
        }
        event.or_else(|| {
            let (publisher, missed) = self.missed.pop_first()?;
            Some(Event::Gap { publisher, missed, cause: GapCause::Slow })
        })
    }
}

impl Event {
    fn length(&self) -> usize {
        match self {
            Self::Message { body, .. } => body.len(),
            Self::Gap { .. } => 0,
        }
    }
}

#[derive(Debug)]
struct Topic {
    epoch: u64,
    /// The sequence that is expected next of each publisher.
    publishers: BTreeMap<NodeId, u64>,
    queues: BTreeMap<u64, Queue>,
}

impl Topic {
    fn deliver(&mut self, event: &Event, touched: &mut BTreeSet<u64>) {
        for (number, queue) in &mut self.queues {
            queue.push(event.clone());
            touched.insert(*number);
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    topics: BTreeMap<Arc<str>, Topic>,
    last_epoch: u64,
    last_queue: u64,
    /// The queues that have got something since this was last taken.
    touched: BTreeSet<u64>,
}

impl Subscriber {
    /// The subscriptions, with their epochs.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.topics.iter().map(|(topic, state)| (topic, state.epoch))
    }

    /// Adds a subscriber in this process. Returns its number, and the epoch of the subscription, and whether that is new.
    pub(super) fn subscribe(&mut self, topic: &str, limit: usize) -> (u64, u64, bool) {
        let is_new = !self.topics.contains_key(topic);
        if is_new {
            self.last_epoch += 1;
            let epoch = self.last_epoch;
            let state = Topic { epoch, publishers: BTreeMap::new(), queues: BTreeMap::new() };
            self.topics.insert(Arc::from(topic), state);
        }
        self.last_queue += 1;
        let queue = Queue { events: VecDeque::new(), bytes: 0, limit: limit.max(2), missed: BTreeMap::new() };
        let state = self.topics.get_mut(topic).expect("it was just put there");
        state.queues.insert(self.last_queue, queue);
        (self.last_queue, state.epoch, is_new)
    }

    /// What is expected next of each publisher.
    #[cfg(test)]
    pub(super) fn expected(&self, topic: &str) -> BTreeMap<NodeId, u64> {
        self.topics.get(topic).map(|topic| topic.publishers.clone()).unwrap_or_default()
    }

    /// Takes one away. Returns whether it was the last one of the topic.
    pub(super) fn unsubscribe(&mut self, topic: &str, number: u64) -> bool {
        let Some(state) = self.topics.get_mut(topic) else { return false };
        state.queues.remove(&number);
        let is_last = state.queues.is_empty();
        if is_last {
            self.topics.remove(topic);
        }
        is_last
    }

    /// The next event of a subscriber.
    pub(super) fn pop(&mut self, topic: &str, number: u64) -> Option<Event> {
        self.topics.get_mut(topic)?.queues.get_mut(&number)?.pop()
    }

    /// The queues that have got something since the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.touched)
    }

    /// What this node itself has published.
    pub(super) fn handle_own(&mut self, topic: &str, own: &NodeId, sequence: u64, body: &Bytes) {
        if let Some(state) = self.topics.get_mut(topic) {
            let event = Event::Message { publisher: own.clone(), sequence, body: body.clone() };
            state.deliver(&event, &mut self.touched);
        }
    }

    /// A publisher sends from this sequence on, for a subscription of this epoch.
    pub(super) fn handle_begun(&mut self, topic: &str, epoch: u64, publisher: &NodeId, begin: u64) {
        if let Some(state) = self.topics.get_mut(topic).filter(|state| state.epoch == epoch)
            && state.publishers.len() < MAX_PUBLISHERS
        {
            state.publishers.entry(publisher.clone()).or_insert(begin);
        }
    }

    /// Takes an item. `None` if it makes no sense.
    pub(super) fn handle_item(&mut self, publisher: &NodeId, item: &Item) -> Option<Ack> {
        let Some(state) = self.topics.get_mut(item.topic.as_str()).filter(|state| state.epoch == item.epoch) else {
            return Some(Ack::Unknown);
        };
        let messages = item.messages()?;
        if !state.publishers.contains_key(publisher) && state.publishers.len() >= MAX_PUBLISHERS {
            return Some(Ack::Busy);
        }
        let mut next = *state.publishers.entry(publisher.clone()).or_insert(item.begin);
        if item.floor > next {
            let gap = Event::Gap { publisher: publisher.clone(), missed: item.floor - next, cause: GapCause::Lost };
            if !mutated(Mutation::QuietGaps) {
                state.deliver(&gap, &mut self.touched);
            }
            next = item.floor;
        }
        for (sequence, body) in (item.first..u64::MAX).zip(messages) {
            let is_double = sequence < next && !mutated(Mutation::DeliversTwice);
            if is_double {
                continue;
            }
            if sequence > next {
                break;
            }
            state.deliver(&Event::Message { publisher: publisher.clone(), sequence, body }, &mut self.touched);
            next = next.max(sequence + 1);
        }
        state.publishers.insert(publisher.clone(), next);
        Some(Ack::Next(next))
    }

    /// The superseded will say nothing any more. Those that are not listed, because they have been down for very long, are
    /// remembered too, unless there are too many.
    pub(super) fn handle_members(
        &mut self,
        is_superseded: impl Fn(&NodeId) -> bool,
        is_listed: impl Fn(&NodeId) -> bool,
    ) {
        for state in self.topics.values_mut() {
            let is_crowded = state.publishers.len() > MAX_PUBLISHERS / 2;
            state.publishers.retain(|node, _| !is_superseded(node) && (!is_crowded || is_listed(node)));
        }
    }
}
