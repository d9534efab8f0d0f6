//! What the handles of topics, their driver and the peers share.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polity_crdt::OwnerMap;
use polity_crdt::sync::SyncConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::driver::Driver;
use super::message::{Ack, Batch, Subscribed, TOPIC, TOPIC_SUBSCRIBED};
use super::publisher::{Outgoing, Publisher, Room};
use super::subscriber::{Event, Subscriber};
use super::{MAX_TOPIC_NAME_BYTES, MAX_TOPICS, Topic, TopicError, TopicStats};
use crate::document::{Document, Opening};
use crate::identity::NodeId;
use crate::membership::view::Members;
use crate::node::Node;
use crate::rpc::{Failure, Peer, Rpc, RpcErrorKind};

/// The directory: topics, and under each the nodes that subscribe, with the epoch of their subscription.
pub(super) type Directory = OwnerMap<String, u64>;
/// Its document.
const DOCUMENT: &str = ".topics";
/// After how long a boot that is not listed any more is departed, and how long a retired one is remembered: as for presence.
const DEPARTS_AFTER: Duration = Duration::from_secs(3600);
const RETIRE_GRACE: Duration = Duration::from_secs(600);

/// How long a publisher waits for nodes that take messages slowly: longer than a node can stand still before it is down.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer has to say that it knows of a subscription. It is asked again.
const ESTABLISH_WITHIN: Duration = Duration::from_secs(2);
/// How long after a failure.
const ESTABLISH_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Hub {
    pub(super) node: NodeId,
    pub(super) rpc: Rpc,
    pub(super) members: Members,
    pub(super) directory: Document<Directory>,
    started: Instant,
    core: Mutex<Core>,
    /// Wakes the driver.
    pub(super) wake: Notify,
    /// Whether it is known who subscribes.
    pub(super) is_warm: watch::Sender<bool>,
    /// Counts the answers of peers, for those who wait for room.
    answered: watch::Sender<u64>,
}

#[derive(Default)]
struct Core {
    publisher: Publisher,
    subscriber: Subscriber,
    wakers: BTreeMap<u64, Arc<Notify>>,
    types: BTreeMap<Arc<str>, TypeId>,
    stopped: bool,
}

impl Core {
    /// Wakes those who have got something.
    fn wake(&mut self) {
        for number in self.subscriber.take_touched() {
            if let Some(waker) = self.wakers.get(&number) {
                waker.notify_one();
            }
        }
    }
}

impl Hub {
    fn open(node: &Node) -> Result<Self, TopicError> {
        let sync = SyncConfig { retire_grace: RETIRE_GRACE, ..SyncConfig::default() };
        let opening = Opening { sync, departs_after: Some(DEPARTS_AFTER) };
        let directory = node.open_internal(DOCUMENT, opening).map_err(|_| TopicError::Stopped)?;
        Ok(Self {
            node: node.id().clone(),
            rpc: node.rpc().clone(),
            members: node.members().clone(),
            directory,
            started: Instant::now(),
            core: Mutex::default(),
            wake: Notify::new(),
            is_warm: watch::Sender::new(false),
            answered: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's stop counts from when it has stopped, and not from when the driver has heard of it.
    fn check_running(&self, core: &Core) -> Result<(), TopicError> {
        if core.stopped || self.rpc.is_stopped() { Err(TopicError::Stopped) } else { Ok(()) }
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    // For publishers.

    pub(super) async fn publish(&self, topic: &str, body: &Bytes) -> Result<u64, TopicError> {
        // The sender lives in `self`.
        let _ = self.is_warm.subscribe().wait_for(|warm| *warm).await;
        let mut answered = self.answered.subscribe();
        let give_up = self.now() + PATIENCE;
        loop {
            answered.borrow_and_update();
            let until = {
                let (now, mut core) = (self.now(), self.lock());
                self.check_running(&core)?;
                match core.publisher.room(now, topic, body.len()) {
                    Room::Enough => {
                        let sequence = core.publisher.publish(now, topic, body);
                        core.subscriber.handle_own(topic, &self.node, sequence, body);
                        core.wake();
                        drop(core);
                        self.wake.notify_one();
                        return Ok(sequence);
                    }
                    Room::Wait(_) if now >= give_up => return Err(TopicError::Overloaded),
                    Room::Wait(until) => until.min(give_up),
                }
            };
            tokio::select! {
                biased;
                _ = answered.changed() => {}
                () = tokio::time::sleep_until(self.started + until) => {}
            }
        }
    }

    pub(super) async fn flushed(&self) -> Result<(), TopicError> {
        let mut answered = self.answered.subscribe();
        loop {
            answered.borrow_and_update();
            {
                let core = self.lock();
                self.check_running(&core)?;
                if core.publisher.waiting() == 0 {
                    return Ok(());
                }
            }
            let _ = answered.changed().await;
        }
    }

    pub(super) fn stats(&self) -> TopicStats {
        let core = self.lock();
        TopicStats { waiting: core.publisher.waiting(), dropped: core.publisher.dropped() }
    }

    // For subscribers.

    /// The number of the new subscriber, the epoch of the node's subscription, and what wakes the subscriber.
    pub(super) fn subscribe(&self, topic: &str, limit: usize) -> Result<(u64, u64, Arc<Notify>), TopicError> {
        let mut core = self.lock();
        self.check_running(&core)?;
        let (number, epoch, is_new) = core.subscriber.subscribe(topic, limit);
        if is_new {
            let put = self.directory.update(|map, w| map.put(w, topic.to_owned(), epoch));
            if put.is_err() {
                core.subscriber.unsubscribe(topic, number);
                return Err(TopicError::Stopped);
            }
        }
        let waker = Arc::new(Notify::new());
        core.wakers.insert(number, waker.clone());
        Ok((number, epoch, waker))
    }

    pub(super) fn unsubscribe(&self, topic: &Arc<str>, number: u64) {
        let mut core = self.lock();
        core.wakers.remove(&number);
        if core.subscriber.unsubscribe(topic, number) {
            // It fails only if the node has stopped.
            let _ = self.directory.update(|map, w| map.remove(w, w.replica(), &topic.to_string()));
        }
    }

    pub(super) fn pop(&self, topic: &str, number: u64) -> Option<Event> {
        self.lock().subscriber.pop(topic, number)
    }

    pub(super) async fn established(&self, topic: &str, epoch: u64) -> Result<(), TopicError> {
        let is_wanted = |node: &NodeId| *node != self.node;
        let up = self.members.snapshot();
        let mut peers: Vec<Peer> =
            up.up().filter(|member| is_wanted(&member.id)).map(|m| Peer { node: m.id.clone(), addr: m.addr }).collect();
        let request = Subscribed { topic: topic.to_owned(), epoch };
        loop {
            self.check_running(&self.lock())?;
            let call = |peer: Peer| (self.rpc.call(&peer, &TOPIC_SUBSCRIBED, &request, ESTABLISH_WITHIN), peer);
            let calls: Vec<_> = peers.drain(..).map(call).collect();
            for (call, peer) in calls {
                match call.await {
                    Ok(begin) => self.lock().subscriber.handle_begun(topic, epoch, &peer.node, begin),
                    // A build without topics publishes nothing.
                    Err(error) if *error.kind() == RpcErrorKind::NoSuchMethod => {}
                    Err(error) => {
                        tracing::debug!(%error, "a peer does not know of a subscription yet");
                        peers.push(peer);
                    }
                }
            }
            let view = self.members.snapshot();
            peers.retain(|peer| view.up().any(|member| member.id == peer.node));
            if peers.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(ESTABLISH_AGAIN).await;
        }
    }

    // For peers.

    /// Takes a batch that is within the limits.
    fn handle_batch(&self, from: &NodeId, batch: &Batch) -> Option<Vec<Ack>> {
        let mut core = self.lock();
        // Looked at under the lock: once it is known here, what was expected of the superseded may be forgotten, and what
        // they say would be taken for new.
        if is_superseded(&self.members, from) {
            return Some(vec![Ack::Unknown; batch.items.len()]);
        }
        let acks = batch.items.iter().map(|item| core.subscriber.handle_item(from, item)).collect();
        core.wake();
        acks
    }

    pub(super) fn handle_subscribed(&self, from: &NodeId, request: &Subscribed) -> Option<u64> {
        let is_name = (1..=MAX_TOPIC_NAME_BYTES).contains(&request.topic.len());
        let (now, mut core) = (self.now(), self.lock());
        // Who is not up here is sent nothing, and asks again.
        let is_up = self.members.snapshot().up().any(|member| member.id == *from);
        if !is_name || !is_up || !core.publisher.has_room_for(&request.topic) {
            return None;
        }
        let begin = core.publisher.handle_hint(now, &request.topic, from, request.epoch);
        drop(core);
        self.wake.notify_one();
        Some(begin)
    }

    // For the driver.

    /// Writes what is subscribed here into the directory: its replica has begun anew.
    pub(super) fn write_all(&self) {
        let core = self.lock();
        for (topic, epoch) in core.subscriber.subscriptions() {
            if self.directory.update(|map, w| map.put(w, topic.to_string(), epoch)).is_err() {
                return;
            }
        }
    }

    /// These topics have these subscribers now, and these nodes are up.
    pub(super) fn follow(&self, subscribers: Vec<(String, BTreeMap<NodeId, u64>)>, up: Option<&BTreeSet<NodeId>>) {
        let mut core = self.lock();
        if let Some(up) = up {
            core.publisher.handle_up(up);
            let view = self.members.snapshot();
            let newest = |node: &NodeId| view.members.get(&node.name).map(|member| &member.id);
            let is_superseded = |node: &NodeId| newest(node).is_some_and(|newest| newest.boot > node.boot);
            core.subscriber.handle_members(is_superseded, |node| newest(node) == Some(node));
        }
        for (topic, nodes) in subscribers {
            core.publisher.handle_subscribers(&topic, &nodes);
        }
        drop(core);
        // Who is down is waited for no longer.
        self.answered.send_modify(|count| *count += 1);
    }

    /// Takes what is to be sent. Returns when there will be more.
    pub(super) fn advance(&self, batches: &mut Vec<Outgoing>) -> Option<Instant> {
        let (now, mut core) = (self.now(), self.lock());
        while let Some(batch) = core.publisher.poll_batch(now) {
            batches.push(batch);
        }
        core.publisher.poll_timeout().map(|due| self.started + due)
    }

    pub(super) fn handle_answer(&self, id: u64, answer: Option<&[Ack]>) {
        let now = self.now();
        self.lock().publisher.handle_answer(now, id, answer);
        self.answered.send_modify(|count| *count += 1);
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.is_warm.send_replace(true);
        self.answered.send_modify(|count| *count += 1);
    }
}

/// Whether a newer boot has this node's name.
fn is_superseded(members: &Members, node: &NodeId) -> bool {
    members.snapshot().members.get(&node.name).is_some_and(|member| member.id.boot > node.boot)
}

/// The topics of a node: nothing, until it uses one.
#[derive(Default)]
pub(crate) struct Topics {
    open: Mutex<Option<(Arc<Hub>, JoinHandle<()>)>>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// Lets peers reach them.
    pub(crate) fn serve(self: &Arc<Self>, rpc: &Rpc) {
        let topics = self.clone();
        rpc.serve(TOPIC, move |caller, batch: Batch, reply| {
            let acks = match topics.hub() {
                _ if !batch.is_within_limits() => None,
                Some(hub) => hub.handle_batch(&caller.node, &batch),
                None => Some(vec![Ack::Unknown; batch.items.len()]),
            };
            match acks {
                Some(acks) => reply.send(&acks),
                None => reply.fail(Failure::not_applied("the batch makes no sense")),
            }
        });
        let topics = self.clone();
        rpc.serve(TOPIC_SUBSCRIBED, move |caller, request: Subscribed, reply| {
            let begin = match topics.hub() {
                Some(hub) => hub.handle_subscribed(&caller.node, &request),
                // Nothing was published here, and before that happens it is asked who subscribes.
                None => Some(1),
            };
            match begin {
                Some(begin) => reply.send(&begin),
                None => reply.fail(Failure::not_applied("the name of the topic or its subscriber is not accepted now")),
            }
        });
    }

    fn hub(&self) -> Option<Arc<Hub>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(hub, _)| hub.clone())
    }

    /// The topic of this name.
    pub(crate) fn open<T: 'static>(&self, node: &Node, name: &str) -> Result<Topic<T>, TopicError> {
        if name.is_empty() || name.len() > MAX_TOPIC_NAME_BYTES {
            return Err(TopicError::Name(name.len()));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let hub = match &*open {
            Some((hub, _)) => hub.clone(),
            None => {
                if node.rpc().is_stopped() {
                    return Err(TopicError::Stopped);
                }
                let hub = Arc::new(Hub::open(node)?);
                let driver = node.spawn_internal(Driver::new(hub.clone(), node).run());
                open.insert((hub.clone(), driver)).0.clone()
            }
        };
        drop(open);
        let name: Arc<str> = Arc::from(name);
        let mut core = hub.lock();
        let is_known = core.types.contains_key(&name);
        if !is_known && core.types.len() >= MAX_TOPICS {
            return Err(TopicError::TooMany);
        }
        if *core.types.entry(name.clone()).or_insert(TypeId::of::<T>()) != TypeId::of::<T>() {
            return Err(TopicError::OtherType(name.to_string()));
        }
        drop(core);
        Ok(Topic { hub, name, types: std::marker::PhantomData })
    }

    /// Ends them, and lets go of them: they hold the transport, which holds this.
    pub(crate) fn stop(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((hub, driver)) = open {
            driver.abort();
            hub.stop();
        }
    }
}
