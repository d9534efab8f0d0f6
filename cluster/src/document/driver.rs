//! The task that carries out what a document's replica asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polity_crdt::{Crdt, ReplicaId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::directory::{DOCUMENT, DOCUMENT_BULK, Message, Served as _};
use super::shared::{Errand, ReplicasVersion, Shared};
use crate::membership::view::Subscription;
use crate::node::Node;
use crate::rpc::{Blob, Peer};
use crate::stop::StopReason;

/// How long a peer has for its answer. It is Down sooner if it is dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What came of an errand: the engine, the request, the answer.
type Done = (u64, u64, Option<Blob>);

pub(super) struct Driver<T: Crdt> {
    shared: Arc<Shared<T>>,
    changes: Subscription,
    stop: watch::Receiver<Option<StopReason>>,
    errands: JoinSet<Done>,
    addresses: BTreeMap<ReplicaId, Peer>,
    replicas_version: ReplicasVersion,
}

impl<T: Crdt> Driver<T> {
    /// Holds no handle of the node, so that it does not keep the node running.
    pub(super) fn new(shared: Arc<Shared<T>>, node: &Node) -> Self {
        let (replicas_version, addresses) = shared.addresses();
        Self {
            changes: shared.members().subscribe(),
            shared,
            stop: node.stop_signal(),
            errands: JoinSet::new(),
            addresses,
            replicas_version,
        }
    }

    pub(super) async fn run(mut self) {
        let mut requests = Vec::new();
        let mut stop = self.stop.clone();
        loop {
            if self.shared.replicas_version() != self.replicas_version {
                self.follow();
            }
            let due = self.shared.advance(&mut requests);
            for errand in requests.drain(..) {
                self.send(errand);
            }
            tokio::select! {
                biased;
                // An error means that the node is gone altogether.
                _ = stop.wait_for(Option::is_some) => break,
                _ = self.changes.next() => {
                    while self.changes.try_next().is_some() {}
                    self.follow();
                }
                Some(done) = self.errands.join_next(), if !self.errands.is_empty() => {
                    self.done(done.ok());
                    while let Some(done) = self.errands.try_join_next() {
                        self.done(done.ok());
                    }
                }
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {}
            }
        }
        self.shared.stop();
        self.errands.shutdown().await;
    }

    /// Members or replicas have changed.
    fn follow(&mut self) {
        self.shared.follow_members();
        (self.replicas_version, self.addresses) = self.shared.addresses();
    }

    fn send(&mut self, Errand { engine, out }: Errand) {
        let Some(peer) = self.addresses.get(&out.to) else {
            self.shared.handle_answer(engine, out.id, None);
            return;
        };
        let method = if out.is_bulk { DOCUMENT_BULK } else { DOCUMENT };
        let message = Message { document: self.shared.name().to_owned(), request: out.bytes.to_vec().into() };
        let call = self.shared.rpc().call(peer, &method, &message, ANSWER_WITHIN);
        self.errands.spawn(async move {
            let answer = call.await.inspect_err(|error| tracing::debug!(%error, "a replica did not answer"));
            (engine, out.id, answer.ok())
        });
    }

    fn done(&mut self, done: Option<Done>) {
        // An errand only waits; it cannot panic.
        if let Some((engine, id, answer)) = done {
            self.shared.handle_answer(engine, id, answer.as_ref().map(|blob| &blob.0[..]));
        }
    }
}
