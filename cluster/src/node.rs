//! The handle to a running node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use polity_crdt::Crdt;
use polity_crdt::sync::SyncConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::discovery::{Counts, DiscoveryStats};
use crate::document::{Document, DocumentError, Documents, Opening};
use crate::driver::{Command, Drops};
use crate::error::Error;
use crate::formation::{Charter, ClusterId};
use crate::ground::{Env, Executor};
use crate::health::Health;
use crate::identity::NodeId;
use crate::keyring::Keyring;
use crate::membership::core::SharedTable;
use crate::membership::stats::MembershipStats;
use crate::membership::view::{Members, Status};
use crate::presence::{Meta, Presence, PresenceError, Presences};
use crate::rpc::{Rpc, TransportStats};
use crate::secure::envelope::DropReason;
use crate::state::{Entry, LOAD_KEY, PROFILE_KEY, Profile, StateError, Weight, WeightError};
use crate::stop::StopReason;
use crate::topic::{Topic, TopicError, Topics};
use crate::transport::Transport;

/// A running node. Cheap to clone; when the last clone is dropped, the node stops without a farewell, as if it had
/// crashed.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) cluster: String,
    pub(crate) env: Env,
    pub(crate) members: Members,
    pub(crate) rpc: Rpc,
    pub(crate) transport: Arc<Transport>,
    pub(crate) table: SharedTable,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) discovery: Arc<Counts>,
    pub(crate) charter: Charter,
    pub(crate) documents: Arc<Documents>,
    pub(crate) presences: Presences,
    pub(crate) topics: Arc<Topics>,
    pub(crate) keyring: Keyring,
    pub(crate) stop: Arc<watch::Sender<Option<StopReason>>>,
    pub(crate) joined: Arc<watch::Sender<bool>>,
    pub(crate) stats: Arc<watch::Sender<MembershipStats>>,
    pub(crate) driver: JoinHandle<()>,
    pub(crate) executor: Executor,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(StopReason::Stopped);
            first
        });
        self.driver.abort();
        self.topics.stop();
        self.presences.stop();
        self.documents.stop();
    }
}

impl Node {
    /// Starts to describe a node. Its name is stable: the node that is started again under it is the same node.
    pub fn builder(name: impl Into<String>) -> crate::Builder {
        crate::Builder::new(name.into())
    }

    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// This life of this node.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.inner.id
    }

    /// Where it listens: with port 0, the port that the operating system chose.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// The name of its cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// The id of its cluster, if that has one: see [`Builder::expect`](crate::Builder::expect). It never changes.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.inner.charter.get()
    }

    /// What it stands on.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Who is there.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.inner.members
    }

    /// Typed calls between nodes.
    #[must_use]
    pub fn rpc(&self) -> &Rpc {
        &self.inner.rpc
    }

    /// The cluster's secrets, and how to change them while it runs.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    /// Waits until the node has exchanged all state with a member, or knows that it is the first; and, if it
    /// [expects](crate::Builder::expect) others, until the cluster has formed. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Stopped`] or [`Error::NameTaken`] if the node has stopped.
    pub fn ready(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (mut joined, mut stop) = (self.inner.joined.subscribe(), self.inner.stop.subscribe());
        async move {
            tokio::select! {
                biased;
                reason = async { stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason) } => {
                    Err(stopped_error(reason))
                }
                joined = async { joined.wait_for(|joined| *joined).await.is_ok() } => {
                    if joined { Ok(()) } else { Err(Error::Stopped) }
                }
            }
        }
    }

    fn stopped_error(&self) -> Error {
        stopped_error(*self.inner.stop.borrow())
    }

    /// The document of this name: this node's replica of it, which is opened with the first call. All nodes must open
    /// it as the same type.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use polity_cluster::{Node, Preset};
    /// use polity_crdt::{OrMap, PnCounter};
    ///
    /// let node = Node::builder("n1").cluster("shop").preset(Preset::Local).no_discovery().start().await?;
    /// let stock = node.document::<OrMap<String, PnCounter>>("stock")?;
    /// stock.update(|stock, w| stock.update(w, "apples".to_owned(), |count, w| count.add(w, 40)))?;
    /// assert_eq!(stock.read(|stock| stock.get("apples").map(PnCounter::value)), Some(40));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`DocumentError::Name`], [`DocumentError::Reserved`], [`DocumentError::OtherType`], [`DocumentError::Stopped`].
    pub fn document<T: Crdt>(&self, name: &str) -> Result<Document<T>, DocumentError> {
        self.document_with(name, SyncConfig::default())
    }

    /// As [`Node::document`], at another pace or within other limits. Those of the first call stand.
    ///
    /// # Errors
    /// As there.
    pub fn document_with<T: Crdt>(&self, name: &str, config: SyncConfig) -> Result<Document<T>, DocumentError> {
        self.inner.documents.open_named(self, name, config)
    }

    /// A document of a floor above, which is the library's own: its name begins with a dot.
    ///
    /// # Errors
    /// Those of [`Node::document`] but for `Reserved`.
    #[doc(hidden)]
    pub fn internal_document<T: Crdt>(&self, name: &str) -> Result<Document<T>, DocumentError> {
        debug_assert!(name.starts_with('.'), "names without a dot are the application's");
        self.open_internal(name, Opening { sync: SyncConfig::default(), departs_after: None })
    }

    /// A document of the library's own.
    pub(crate) fn open_internal<T: Crdt>(&self, name: &str, opening: Opening) -> Result<Document<T>, DocumentError> {
        self.inner.documents.open(self, name, opening)
    }

    /// The presence of this name: who is here, on which nodes. `M` is what is said with each entry; all nodes must open it
    /// with the same type.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use polity_cluster::{Node, Preset};
    ///
    /// let node = Node::builder("n1").cluster("shop").preset(Preset::Local).no_discovery().start().await?;
    /// let lobby = node.presence::<String>("lobby")?;
    /// let here = lobby.track("user-42", &"reads".to_owned())?;
    /// here.update(&"types".to_owned())?;
    /// assert_eq!(lobby.get("user-42")[0].meta, "types");
    /// drop(here);
    /// assert!(lobby.list().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`PresenceError::Name`], [`PresenceError::OtherType`], [`PresenceError::Stopped`].
    pub fn presence<M: Meta>(&self, name: &str) -> Result<Presence<M>, PresenceError> {
        self.inner.presences.open(self, name)
    }

    /// The topic of this name, to publish and to subscribe. All nodes must use it for messages of the same type.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use polity_cluster::{Node, Preset, TopicEvent};
    ///
    /// let node = Node::builder("n1").cluster("shop").preset(Preset::Local).no_discovery().start().await?;
    /// let orders = node.topic::<String>("orders")?;
    /// let mut events = orders.subscribe()?;
    /// events.established().await?;
    /// orders.publish(&"three apples".to_owned()).await?;
    /// let TopicEvent::Received { publisher, sequence, value } = events.next().await else { panic!("a message") };
    /// assert_eq!((&publisher, sequence, &value[..]), (node.id(), 1, "three apples"));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TopicError::Name`], [`TopicError::OtherType`], [`TopicError::TooMany`], [`TopicError::Stopped`].
    pub fn topic<T: Serialize + DeserializeOwned + 'static>(&self, name: &str) -> Result<Topic<T>, TopicError> {
        self.inner.topics.open(self, name)
    }

    /// Says when the node has stopped, and why, without keeping it running.
    #[doc(hidden)]
    pub fn stop_signal(&self) -> watch::Receiver<Option<StopReason>> {
        self.inner.stop.subscribe()
    }

    /// Writes one entry of this node's state, which all members will see as [`Member::state`](crate::Member).
    ///
    /// # Errors
    /// [`StateError`] if the key or the value is over its limit. Nothing was changed then.
    pub fn set_state(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), StateError> {
        if key.is_empty() || key.len() > crate::MAX_KEY_BYTES || key.starts_with('.') {
            return Err(StateError::Key(key.to_owned()));
        }
        self.write_state(key, value.into())
    }

    /// Says how much of what this node can do it does, in thousandths; more than 1,000 is too much. The others see it as
    /// [`Member::load`](crate::Member). What is said is spread to every node, so say it when it has changed by a tenth, not by
    /// a thousandth.
    pub fn set_load(&self, thousandths: u16) {
        let bytes = postcard::to_allocvec(&thousandths).expect("a number encodes");
        self.write_state(LOAD_KEY, bytes).expect("there is room for all keys of the library");
    }

    fn write_state(&self, key: &str, value: Vec<u8>) -> Result<(), StateError> {
        let entry = self.inner.table.lock().unwrap_or_else(PoisonError::into_inner).set(key, value)?;
        self.spread(entry);
        Ok(())
    }

    fn spread(&self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            // If the driver's queue is full the hint is lost, and push-pull spreads the entry.
            let _ = self.inner.commands.try_send(Command::Spread(entry));
        }
    }

    /// Two changes at the same time are one after the other: neither is undone.
    fn change_profile(&self, change: impl FnOnce(&mut Profile)) {
        let mut table = self.inner.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = table.value(&self.inner.id, PROFILE_KEY);
        let mut profile: Profile = now.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        change(&mut profile);
        let bytes = postcard::to_allocvec(&profile).expect("a profile encodes");
        let entry = table.set(PROFILE_KEY, bytes);
        drop(table);
        self.spread(entry.expect("a profile is within the limits: the builder checked its parts"));
    }

    /// Changes this node's share of the work, in proportion to the others': what is placed on it moves to or from the others
    /// while all serve. For this boot: a later one begins with what its builder says ([`Builder::weight`](crate::Builder::weight)).
    ///
    /// # Errors
    /// [`WeightError`]: it is not from 1 to 1,000. Nothing was changed then.
    pub fn set_weight(&self, weight: u16) -> Result<(), WeightError> {
        let weight = Weight::new(weight)?;
        self.change_profile(|profile| profile.weight = weight);
        Ok(())
    }

    /// Says to all that this node is about to leave: it goes on serving, and nothing new is placed on it.
    pub fn drain(&self) {
        self.change_profile(|profile| profile.draining = true);
    }

    /// Leaves: tells the others, then stops. They see [`Status::Left`](crate::Status) at once, not a failure. The name
    /// may come back at any time.
    ///
    /// Takes `within` at most; who was not told by then finds out by probing. Dropped before it returns, the node
    /// will stop.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it had stopped before.
    pub async fn leave(&self, within: Duration) -> Result<(), Error> {
        // Room first: dropped while it waits for that, nothing has been said.
        let room = self.inner.commands.reserve().await.map_err(|_| self.stopped_error())?;
        self.change_profile(|profile| {
            profile.draining = true;
            profile.left = true;
        });
        let (done, left) = oneshot::channel();
        room.send(Command::Leave(within, done));
        left.await.map_err(|_| self.stopped_error())?;
        self.inner.transport.shutdown().await;
        Ok(())
    }

    /// Stops without a farewell. Peers see a connection that was closed, and then a member that does not answer.
    pub async fn stop(&self) {
        self.inner.stop.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(StopReason::Stopped);
            first
        });
        self.inner.transport.shutdown().await;
    }

    /// Waits until the node has stopped, and says why. Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.inner.stop.subscribe();
        let reason = stop.wait_for(Option::is_some).await.map(|reason| *reason);
        // The sender lives in `self`.
        reason.ok().flatten().unwrap_or(StopReason::Stopped)
    }

    /// What membership has decided since the start, in numbers, and how this node fares.
    #[must_use]
    pub fn membership_stats(&self) -> MembershipStats {
        *self.inner.stats.borrow()
    }

    /// How this node fares, in one word: for a health check, say.
    #[must_use]
    pub fn health(&self) -> Health {
        let away = self.members().snapshot().members.values().filter(|member| member.status == Status::Down).count();
        Health::of(&self.membership_stats(), *self.inner.joined.borrow(), away, *self.inner.stop.borrow())
    }

    /// Gossip datagrams that were dropped since the start, by reason.
    #[must_use]
    pub fn dropped_datagrams(&self) -> BTreeMap<DropReason, u64> {
        self.inner.drops.snapshot()
    }

    /// What the node's discoveries have done since the start.
    #[must_use]
    pub fn discovery_stats(&self) -> DiscoveryStats {
        self.inner.discovery.snapshot()
    }

    /// What the transport has counted since the start.
    #[must_use]
    pub fn transport_stats(&self) -> &TransportStats {
        self.inner.transport.stats()
    }

    /// Starts a task on the executor that the node's own tasks run on: for the floors above, never for application
    /// code. The caller keeps the handle and aborts it.
    #[doc(hidden)]
    pub fn spawn_internal<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.executor.spawn(task)
    }
}

fn stopped_error(reason: Option<StopReason>) -> Error {
    match reason {
        Some(StopReason::NameTaken { by }) => Error::NameTaken { by },
        _ => Error::Stopped,
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[tokio::test]
    async fn a_leave_that_is_dropped_before_it_begins_says_nothing() {
        let builder = Node::builder("n1").cluster("leave").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
        let node = builder.start().await.expect("the node starts");
        let profile = || {
            let table = node.inner.table.lock().unwrap_or_else(PoisonError::into_inner);
            table.value(node.id(), PROFILE_KEY).map(<[u8]>::to_vec)
        };
        let before = profile();
        let commands = node.inner.commands.clone();
        let all = commands.reserve_many(commands.max_capacity()).await.expect("the node runs");
        let leave = tokio::time::timeout(Duration::from_millis(50), node.leave(Duration::from_secs(1)));
        assert!(leave.await.is_err(), "there is no room for the command");
        assert_eq!(profile(), before);
        drop(all);
        node.leave(Duration::from_secs(1)).await.expect("it leaves");
    }
}
