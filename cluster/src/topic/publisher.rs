//! What a node has published and others have not acknowledged yet.
//!
//! Each topic has its own count of messages on each boot, from 1. For each subscribed node there is a *session* for each of
//! its topics, and one queue for all of them. What is in the queue is sent in batches, several at a time, and stays until it
//! is acknowledged; an answer that is missing, or that says that something is missing there, makes everything be sent again
//! from the front. The receiver takes messages in order only and knows doubles by their number, so that is all the order
//! and certainty there is need of.
//!
//! A queue is bounded. A publisher waits for a peer whose queue is full as long as that acknowledges something; for one
//! that stands still the oldest messages are dropped, and the session's *floor* tells the subscriber how many.
//!
//! A pure state machine: time is handed in, and requests are handed out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::message::{Ack, BATCH_BYTES, Batch, Item, MAX_ITEMS, MAX_MESSAGES};
use crate::identity::NodeId;

/// How many messages wait for one peer at most.
const PEER_MESSAGES: usize = 8192;
/// And how many bytes: with a hundred peers that all stand still, 800 MB if they share no message.
const PEER_BYTES: usize = 8 << 20;
/// How many topics are known of that others subscribe to, about, if they say so themselves.
const MAX_KNOWN: usize = 1 << 20;
/// How many batches may be under way to a peer: with 64 KiB each, 2.5 MB/s at a round trip of 100 ms.
const WINDOW: usize = 4;
/// How long a publisher waits for a peer that does not acknowledge anything: longer than a lost datagram costs.
const STALL: Duration = Duration::from_millis(500);
/// The first pause after a failure; it doubles.
const RETRY: Duration = Duration::from_millis(50);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long the directory has to confirm what a peer says itself, before the peer is asked again: three times what it may
/// take after heal.
const ASK_AFTER: Duration = Duration::from_secs(60);

/// What waits for one peer at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages: PEER_MESSAGES, bytes: PEER_BYTES }
    }
}

/// A batch for a peer. Its driver says what came of it, by its number.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) to: NodeId,
    pub(super) id: u64,
    pub(super) batch: Batch,
}

#[derive(Debug, Default)]
struct Topic {
    /// The sequence of the last message.
    last: u64,
    sessions: BTreeMap<NodeId, Session>,
}

#[derive(Debug)]
struct Session {
    epoch: u64,
    begin: u64,
    floor: u64,
    /// All below this has been taken there.
    acked: u64,
    /// The peer has to hear of the session or its floor, whether there is a message for it or not.
    is_news: bool,
    /// The peer says that there is no such subscription.
    is_closed: bool,
    /// The peer has said itself that it subscribes, and the directory does not know yet: when it is to be asked whether it
    /// still does.
    hint: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    topic: Arc<str>,
    sequence: u64,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Peer {
    /// Tells it from one that was there before it went down.
    number: u64,
    sessions: BTreeSet<Arc<str>>,
    queue: VecDeque<Entry>,
    bytes: usize,
    /// How many from the front on are under way.
    sent: usize,
    /// The topics of which it has to hear something.
    news: BTreeSet<Arc<str>>,
    under_way: usize,
    /// Grows whenever everything is sent again.
    generation: u64,
    failures: u32,
    not_before: Duration,
    /// When it has last acknowledged something, or began to have something to acknowledge.
    progress: Duration,
}

impl Peer {
    fn has_work(&self) -> bool {
        self.under_way < WINDOW && (self.sent < self.queue.len() || !self.news.is_empty())
    }

    fn is_full(&self, more: usize, limits: &Limits) -> bool {
        !self.queue.is_empty() && (self.queue.len() >= limits.messages || self.bytes + more > limits.bytes)
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.bytes -= entry.body.len();
        self.sent = self.sent.saturating_sub(1);
        Some(entry)
    }

    fn forget(&mut self, topic: &str) {
        self.sessions.remove(topic);
        self.news.remove(topic);
        let (mut at, mut sent, mut bytes) = (0, self.sent, 0);
        self.queue.retain(|entry| {
            at += 1;
            let keep = &*entry.topic != topic;
            if !keep {
                bytes += entry.body.len();
                sent -= usize::from(at <= self.sent);
            }
            keep
        });
        self.sent = sent;
        self.bytes -= bytes;
    }

    fn begin_again(&mut self) {
        self.sent = 0;
        self.generation += 1;
    }
}

#[derive(Debug)]
struct UnderWay {
    to: NodeId,
    number: u64,
    generation: u64,
    /// Of each item the topic, the epoch, and the sequence after its last message.
    items: Vec<(Arc<str>, u64, u64)>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Publisher {
    limits: Limits,
    topics: BTreeMap<Arc<str>, Topic>,
    peers: BTreeMap<NodeId, Peer>,
    under_way: BTreeMap<u64, UnderWay>,
    next_id: u64,
    /// The peers for whom there may be something to send.
    ready: BTreeSet<NodeId>,
    dropped: u64,
    /// The sessions that the directory does not know yet, by when they are to be asked for.
    hints: BTreeSet<(Duration, NodeId, Arc<str>)>,
}

/// Whether a message may be published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    Enough,
    /// A peer is behind and acknowledges what it gets. Ask again when it has, or at this time.
    Wait(Duration),
}

impl Publisher {
    #[cfg(test)]
    pub(super) fn within(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether one more topic may be known, or this one is.
    pub(super) fn has_room_for(&self, topic: &str) -> bool {
        self.topics.len() < MAX_KNOWN || self.topics.contains_key(topic)
    }

    /// What a peer has not acknowledged of a topic: the sequence since which it is known there, the one that is expected
    /// next, and the one after the last.
    #[cfg(test)]
    pub(super) fn standing(&self, topic: &str, node: &NodeId) -> Option<(u64, u64, u64)> {
        let topic = self.topics.get(topic)?;
        let session = topic.sessions.get(node)?;
        Some((session.begin, session.acked, topic.last + 1))
    }

    /// How many messages were dropped because a peer stood still.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many messages wait to be acknowledged, over all peers.
    pub(super) fn waiting(&self) -> usize {
        self.peers.values().map(|peer| peer.queue.len()).sum()
    }

    /// Whether there is room for a message of this length at all who should get it.
    pub(super) fn room(&self, now: Duration, topic: &str, length: usize) -> Room {
        let sessions = self.topics.get(topic).into_iter().flat_map(|topic| &topic.sessions);
        let open = sessions.filter(|(_, session)| !session.is_closed);
        let full = open.filter_map(|(node, _)| self.peers.get(node)).filter(|peer| peer.is_full(length, &self.limits));
        let moving = full.map(|peer| peer.progress + STALL).filter(|until| now < *until);
        moving.min().map_or(Room::Enough, Room::Wait)
    }

    /// Publishes a message. Returns its sequence.
    pub(super) fn publish(&mut self, now: Duration, topic: &str, body: &Bytes) -> u64 {
        let (name, state) = entry(&mut self.topics, topic);
        state.last += 1;
        let sequence = state.last;
        let mut late = Vec::new();
        for (node, _) in state.sessions.iter().filter(|(_, session)| !session.is_closed) {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            while peer.is_full(body.len(), &self.limits) {
                late.extend(peer.pop().map(|entry| (node.clone(), entry)));
            }
            if peer.queue.is_empty() {
                peer.progress = now;
            }
            peer.bytes += body.len();
            peer.queue.push_back(Entry { topic: name.clone(), sequence, body: body.clone() });
            self.ready.insert(node.clone());
        }
        for (node, entry) in late {
            self.lose(&node, &entry);
        }
        sequence
    }

    /// A message will not reach a peer any more: its session says so.
    fn lose(&mut self, node: &NodeId, entry: &Entry) {
        self.dropped += 1;
        let session = self.topics.get_mut(&entry.topic).and_then(|topic| topic.sessions.get_mut(node));
        if let (Some(session), Some(peer)) = (session, self.peers.get_mut(node)) {
            session.floor = session.floor.max(entry.sequence + 1);
            session.is_news = true;
            peer.news.insert(entry.topic.clone());
        }
    }

    /// These nodes are up and subscribe to the topic, each under this epoch, as the directory says.
    pub(super) fn handle_subscribers(&mut self, topic: &str, nodes: &BTreeMap<NodeId, u64>) {
        if nodes.is_empty() && !self.topics.contains_key(topic) {
            return;
        }
        let (_, state) = entry(&mut self.topics, topic);
        let is_gone = |node: &NodeId, session: &Session| session.hint.is_none() && !nodes.contains_key(node);
        let gone = state.sessions.iter().filter(|(node, session)| is_gone(node, session)).map(|(node, _)| node.clone());
        for node in gone.collect::<Vec<_>>() {
            self.end(topic, &node);
        }
        for (node, epoch) in nodes {
            self.begin(topic, node, *epoch, None);
        }
    }

    /// A node says itself that it subscribes. Returns from which sequence on it gets what is published.
    pub(super) fn handle_hint(&mut self, now: Duration, topic: &str, node: &NodeId, epoch: u64) -> u64 {
        self.begin(topic, node, epoch, Some(now + ASK_AFTER));
        self.topics.get(topic).and_then(|topic| topic.sessions.get(node)).map_or(1, |session| session.begin)
    }

    /// Only these nodes are up.
    pub(super) fn handle_up(&mut self, up: &BTreeSet<NodeId>) {
        let down: Vec<NodeId> = self.peers.keys().filter(|node| !up.contains(*node)).cloned().collect();
        for node in down {
            let topics = self.peers.get(&node).map(|peer| peer.sessions.clone()).unwrap_or_default();
            topics.iter().for_each(|topic| self.end(topic, &node));
        }
    }

    fn begin(&mut self, topic: &str, node: &NodeId, epoch: u64, hint: Option<Duration>) {
        let (name, state) = entry(&mut self.topics, topic);
        let begin = state.last + 1;
        if let Some(session) = state.sessions.get_mut(node) {
            if session.epoch >= epoch {
                if hint.is_none()
                    && session.epoch == epoch
                    && let Some(due) = session.hint.take()
                {
                    self.hints.remove(&(due, node.clone(), name));
                }
                return;
            }
            self.end(topic, node);
        }
        let (_, state) = entry(&mut self.topics, topic);
        let is_news = begin > 1;
        let session = Session { epoch, begin, floor: begin, acked: begin, is_news, is_closed: false, hint };
        state.sessions.insert(node.clone(), session);
        self.hints.extend(hint.map(|due| (due, node.clone(), name.clone())));
        self.next_id += 1;
        let number = self.next_id;
        let peer = self.peers.entry(node.clone()).or_insert_with(|| Peer { number, ..Peer::default() });
        peer.sessions.insert(name.clone());
        if is_news {
            peer.news.insert(name);
            self.ready.insert(node.clone());
        }
    }

    fn end(&mut self, topic: &str, node: &NodeId) {
        if let Some(state) = self.topics.get_mut(topic) {
            if let Some(due) = state.sessions.remove(node).and_then(|session| session.hint) {
                self.hints.remove(&(due, node.clone(), Arc::from(topic)));
            }
            if state.last == 0 && state.sessions.is_empty() {
                self.topics.remove(topic);
            }
        }
        if let Some(peer) = self.peers.get_mut(node) {
            peer.forget(topic);
            if peer.sessions.is_empty() {
                self.peers.remove(node);
                self.ready.remove(node);
            }
        }
    }

    /// Asks those whom the directory has not confirmed for long whether they subscribe: they may have ceased to before the
    /// directory heard of it, and then it never says so. An item without messages is the question.
    fn ask(&mut self, now: Duration) {
        while self.hints.first().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, node, name)) = self.hints.pop_first() else { return };
            let session = self.topics.get_mut(&name).and_then(|topic| topic.sessions.get_mut(&node));
            let Some(session) = session else { continue };
            session.hint = Some(now + ASK_AFTER);
            session.is_news = true;
            self.hints.insert((now + ASK_AFTER, node.clone(), name.clone()));
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.news.insert(name);
                self.ready.insert(node);
            }
        }
    }

    /// The next batch to send.
    pub(super) fn poll_batch(&mut self, now: Duration) -> Option<Outgoing> {
        self.ask(now);
        let is_due =
            |node: &&NodeId| self.peers.get(*node).is_some_and(|peer| peer.has_work() && peer.not_before <= now);
        let node = self.ready.iter().find(is_due)?.clone();
        let peer = self.peers.get_mut(&node)?;
        let mut messages: BTreeMap<Arc<str>, (u64, Vec<Bytes>)> = BTreeMap::new();
        let (mut bytes, mut count) = (0, 0);
        for entry in peer.queue.range(peer.sent..) {
            let is_new = !messages.contains_key(&entry.topic);
            let is_full = bytes + entry.body.len() > BATCH_BYTES || count == MAX_MESSAGES;
            if count > 0 && (is_full || is_new && messages.len() == MAX_ITEMS) {
                break;
            }
            bytes += entry.body.len();
            count += 1;
            messages.entry(entry.topic.clone()).or_insert((entry.sequence, Vec::new())).1.push(entry.body.clone());
        }
        peer.sent += count;
        while messages.len() < MAX_ITEMS {
            let Some(topic) = peer.news.pop_first() else { break };
            messages.entry(topic).or_default();
        }
        let mut items = Vec::new();
        let mut under_way = Vec::new();
        for (topic, (first, bodies)) in messages {
            let Some(session) = self.topics.get(&topic).and_then(|topic| topic.sessions.get(&node)) else { continue };
            if session.is_closed {
                continue;
            }
            let after = if bodies.is_empty() { session.floor } else { first + bodies.len() as u64 };
            items.push(Item::new(&topic, session.epoch, session.begin, session.floor, first, &bodies));
            under_way.push((topic, session.epoch, after));
            peer.news.remove(&under_way[under_way.len() - 1].0);
        }
        peer.under_way += 1;
        self.next_id += 1;
        let (number, generation) = (peer.number, peer.generation);
        if !peer.has_work() {
            self.ready.remove(&node);
        }
        self.under_way.insert(self.next_id, UnderWay { to: node.clone(), number, generation, items: under_way });
        Some(Outgoing { to: node, id: self.next_id, batch: Batch { items } })
    }

    /// When [`Publisher::poll_batch`] has something, if nothing happens before.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let waiting = self.ready.iter().filter_map(|node| self.peers.get(node)).filter(|peer| peer.has_work());
        let asking = self.hints.first().map(|(due, ..)| *due);
        waiting.map(|peer| peer.not_before).chain(asking).min()
    }

    /// The answer to a batch, or its absence.
    pub(super) fn handle_answer(&mut self, now: Duration, id: u64, answer: Option<&[Ack]>) {
        let Some(UnderWay { to, number, generation, items }) = self.under_way.remove(&id) else { return };
        let answer = answer.filter(|acks| acks.len() == items.len());
        let (mut is_whole, mut closed) = (answer.is_some(), Vec::new());
        for ((topic, epoch, after), ack) in items.iter().zip(answer.unwrap_or_default()) {
            let session = self.topics.get_mut(topic).and_then(|topic| topic.sessions.get_mut(&to));
            let Some(session) = session.filter(|session| session.epoch == *epoch) else { continue };
            match ack {
                Ack::Next(next) => {
                    session.acked = session.acked.max(*next);
                    // Not `acked`, which begins at what it has yet to hear: this may answer what an ended session has said.
                    session.is_news &= *next < session.floor;
                    is_whole &= next >= after;
                }
                Ack::Unknown => closed.push(topic),
                Ack::Busy => is_whole = false,
            }
        }
        for topic in closed {
            self.close(topic, &to);
        }
        // It may have gone down since, and come back.
        let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.number == number) else { return };
        peer.under_way = peer.under_way.saturating_sub(1);
        let is_taken = |entry: &Entry, topics: &BTreeMap<Arc<str>, Topic>| {
            let session = topics.get(&entry.topic).and_then(|topic| topic.sessions.get(&to));
            session.is_none_or(|session| entry.sequence < session.acked)
        };
        while peer.queue.front().is_some_and(|entry| is_taken(entry, &self.topics)) {
            peer.pop();
            peer.progress = now;
        }
        if is_whole {
            peer.failures = 0;
        } else {
            if peer.generation == generation {
                peer.begin_again();
            }
            let open = |topic: &&Arc<str>| {
                let session = self.topics.get(*topic).and_then(|topic| topic.sessions.get(&to));
                session.is_some_and(|session| session.is_news && !session.is_closed)
            };
            peer.news.extend(items.iter().map(|(topic, ..)| topic).filter(open).cloned());
            peer.not_before = now + RETRY_MAX.min(RETRY * 2_u32.pow(peer.failures.min(8)));
            peer.failures += 1;
        }
        self.ready.insert(to);
    }

    /// There is no such subscription: nothing more is sent until there is a newer one.
    fn close(&mut self, topic: &str, node: &NodeId) {
        let Some(session) = self.topics.get_mut(topic).and_then(|topic| topic.sessions.get_mut(node)) else { return };
        if session.hint.is_some() {
            return self.end(topic, node);
        }
        session.is_closed = true;
        if let Some(peer) = self.peers.get_mut(node) {
            peer.forget(topic);
            // It is remembered until the directory says that it is gone.
            peer.sessions.insert(Arc::from(topic));
        }
    }
}

fn entry<'a>(topics: &'a mut BTreeMap<Arc<str>, Topic>, topic: &str) -> (Arc<str>, &'a mut Topic) {
    let name = topics.get_key_value(topic).map_or_else(|| Arc::from(topic), |(name, _)| name.clone());
    let state = topics.entry(name.clone()).or_default();
    (name, state)
}
