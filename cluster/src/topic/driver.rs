//! The task that carries out what a node's publisher asks for, and tells it who subscribes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use polity_crdt::ReplicaId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::hub::{Directory, Hub};
use super::message::{Ack, TOPIC};
use super::publisher::Outgoing;
use crate::document::{Owners, OwnersVersion, Unseen, Watch};
use crate::identity::NodeId;
use crate::membership::view::Subscription;
use crate::node::Node;
use crate::rpc::Peer;
use crate::stop::StopReason;

/// How long a peer has for its answer. It is Down sooner if it is dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long a node that has begun to use topics asks others who subscribes before it publishes, at most: all that answer, and
/// half a second for each of up to five that are dead and not known to be.
const WARM_WITHIN: Duration = Duration::from_secs(3);

/// What came of an errand.
type Done = (u64, Option<Vec<Ack>>);

pub(super) struct Driver {
    hub: Arc<Hub>,
    members: Subscription,
    stop: watch::Receiver<Option<StopReason>>,
    watch: Watch<Directory>,
    owners: Owners,
    owners_version: Option<OwnersVersion>,
    replica: ReplicaId,
    peers: BTreeMap<NodeId, Peer>,
    errands: JoinSet<Done>,
}

impl Driver {
    /// Holds no handle of the node, so that it does not keep the node running.
    pub(super) fn new(hub: Arc<Hub>, node: &Node) -> Self {
        Self {
            members: node.members().subscribe(),
            stop: node.stop_signal(),
            watch: hub.directory.watch(),
            owners: Owners::new(),
            owners_version: None,
            replica: hub.directory.replica(),
            peers: BTreeMap::new(),
            errands: JoinSet::new(),
            hub,
        }
    }

    pub(super) async fn run(mut self) {
        let mut batches = Vec::new();
        let mut stop = self.stop.clone();
        let (mut changes, mut answers) = (self.watch.changes(), self.hub.directory.answers());
        let warm_at = tokio::time::Instant::now() + WARM_WITHIN;
        let mut is_warm = false;
        loop {
            changes.borrow_and_update();
            answers.borrow_and_update();
            self.follow();
            if !is_warm && (self.hub.directory.has_met() || tokio::time::Instant::now() >= warm_at) {
                // What the others have said is in the directory; now it is known here too.
                self.follow();
                is_warm = true;
                self.hub.is_warm.send_replace(true);
            }
            let due = self.hub.advance(&mut batches);
            for batch in batches.drain(..) {
                self.send(batch);
            }
            tokio::select! {
                biased;
                // An error means that the node is gone altogether.
                _ = stop.wait_for(Option::is_some) => break,
                _ = self.members.next() => while self.members.try_next().is_some() {},
                Some(done) = self.errands.join_next(), if !self.errands.is_empty() => {
                    self.done(done.ok());
                    while let Some(done) = self.errands.try_join_next() {
                        self.done(done.ok());
                    }
                }
                _ = changes.changed() => {}
                _ = answers.changed(), if !is_warm => {}
                () = self.hub.wake.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or(warm_at)), if due.is_some() => {}
                () = tokio::time::sleep_until(warm_at), if !is_warm => {}
            }
        }
        self.hub.stop();
        self.errands.shutdown().await;
    }

    /// Tells the publisher what has changed in the directory and among the members.
    fn follow(&mut self) {
        let directory = self.hub.directory.clone();
        let replica = directory.replica();
        if replica != self.replica {
            self.replica = replica;
            let _ = directory.take_exports();
            self.hub.write_all();
        }
        let unseen = self.watch.try_unseen();
        let version = directory.owners_version();
        let is_moved = self.owners_version != Some(version);
        if unseen.is_none() && !is_moved {
            return;
        }
        let mut moved = BTreeSet::new();
        if is_moved {
            self.owners_version = Some(version);
            let old = std::mem::replace(&mut self.owners, directory.owners());
            let new = &self.owners;
            moved.extend(old.keys().chain(new.keys()).copied().filter(|id| old.get(id) != new.get(id)));
            let view = self.hub.members.snapshot();
            let peer = |member: &crate::Member| Peer { node: member.id.clone(), addr: member.addr };
            self.peers = view.up().map(|member| (member.id.clone(), peer(member))).collect();
        }
        let subscribers = directory.read(|map| {
            let mut topics: BTreeSet<String> = match unseen {
                Some(Unseen::All) => map.iter().map(|(_, topic, _)| topic.clone()).collect(),
                Some(Unseen::Keys(topics)) => topics,
                None => BTreeSet::new(),
            };
            if !moved.is_empty() {
                topics
                    .extend(map.iter().filter(|(owner, ..)| moved.contains(owner)).map(|(_, topic, _)| topic.clone()));
            }
            topics.into_iter().map(|topic| self.subscribers(map, topic)).collect()
        });
        let up: BTreeSet<NodeId> = self.peers.keys().cloned().collect();
        self.hub.follow(subscribers, is_moved.then_some(&up));
    }

    /// Who is up and subscribes to a topic.
    fn subscribers(&self, map: &Directory, topic: String) -> (String, BTreeMap<NodeId, u64>) {
        let nodes = map.under(&topic).filter_map(|(owner, _, epoch)| Some((self.owners.get(&owner)?.clone(), *epoch)));
        let nodes = nodes.filter(|(node, _)| *node != self.hub.node).collect();
        (topic, nodes)
    }

    fn send(&mut self, Outgoing { to, id, batch }: Outgoing) {
        let Some(peer) = self.peers.get(&to) else {
            self.hub.handle_answer(id, None);
            return;
        };
        let call = self.hub.rpc.call(peer, &TOPIC, &batch, ANSWER_WITHIN);
        self.errands.spawn(async move {
            let answer = call.await.inspect_err(|error| tracing::debug!(%error, "a subscriber did not answer"));
            (id, answer.ok())
        });
    }

    fn done(&mut self, done: Option<Done>) {
        // An errand only waits; it cannot panic.
        if let Some((id, answer)) = done {
            self.hub.handle_answer(id, answer.as_deref());
        }
    }
}
