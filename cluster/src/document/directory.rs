//! The documents of a node by name, and what peers ask of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use polity_crdt::Crdt;
use polity_crdt::sync::SyncConfig;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::driver::Driver;
use super::shared::Shared;
use super::{Document, DocumentError, MAX_DOCUMENT_NAME_BYTES};
use crate::node::Node;
use crate::rpc::{Blob, Failure, Lane, Method, Rpc};

/// A message about a document that others should not have to wait for.
pub(crate) const DOCUMENT: Method<Message, Blob> = Method::new(3, "cluster.document", Lane::Call);
/// A part of a larger transfer.
pub(crate) const DOCUMENT_BULK: Method<Message, Blob> = Method::new(4, "cluster.document_bulk", Lane::Bulk);

/// A request of one replica to another; the answer is bytes of the same kind.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(super) document: String,
    pub(super) request: Blob,
}

/// A document without its type.
pub(super) trait Served: Send + Sync {
    /// Answers a peer; nothing if the request is none.
    fn serve(&self, request: &[u8]) -> Option<Vec<u8>>;
    /// The node has stopped.
    fn stop(&self);
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// How a document is opened.
pub(crate) struct Opening {
    /// Its pace and its limits.
    pub(crate) sync: SyncConfig,
    /// After how long a boot is taken to be departed that the members do not list any more, not even as down. `None`:
    /// never. Should it be back after all, its replica begins anew.
    pub(crate) departs_after: Option<Duration>,
}

struct Open {
    served: Arc<dyn Served>,
    driver: JoinHandle<()>,
}

/// The documents that a node has opened.
#[derive(Default)]
pub(crate) struct Documents {
    open: Mutex<BTreeMap<String, Open>>,
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").finish_non_exhaustive()
    }
}

impl Documents {
    /// Lets peers reach them.
    pub(crate) fn serve(self: &Arc<Self>, rpc: &Rpc) {
        for method in [DOCUMENT, DOCUMENT_BULK] {
            let documents = self.clone();
            rpc.serve(method, move |_, message: Message, reply| match documents.find(&message.document) {
                Some(served) => match served.serve(&message.request.0) {
                    Some(answer) => reply.send(&answer.into()),
                    None => reply.fail(Failure::not_applied("the request does not decode")),
                },
                None => reply.fail(Failure::not_applied("this document is not open here")),
            });
        }
    }

    fn find(&self, name: &str) -> Option<Arc<dyn Served>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(name).map(|open| open.served.clone())
    }

    /// The application's document of this name, opened if it is not.
    pub(crate) fn open_named<T: Crdt>(
        &self,
        node: &Node,
        name: &str,
        sync: SyncConfig,
    ) -> Result<Document<T>, DocumentError> {
        if name.starts_with('.') {
            return Err(DocumentError::Reserved(name.to_owned()));
        }
        self.open(node, name, Opening { sync, departs_after: None })
    }

    /// The node's document of this name, opened if it is not.
    pub(crate) fn open<T: Crdt>(
        &self,
        node: &Node,
        name: &str,
        opening: Opening,
    ) -> Result<Document<T>, DocumentError> {
        if name.is_empty() || name.len() > MAX_DOCUMENT_NAME_BYTES {
            return Err(DocumentError::Name(name.len()));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(name) {
            let shared = known.served.clone().into_any().downcast::<Shared<T>>();
            return shared.map(|shared| Document { shared }).map_err(|_| DocumentError::OtherType(name.to_owned()));
        }
        if node.rpc().is_stopped() {
            return Err(DocumentError::Stopped);
        }
        let shared = Arc::new(Shared::<T>::new(node, name, opening));
        let driver = node.spawn_internal(Driver::new(shared.clone(), node).run());
        open.insert(name.to_owned(), Open { served: shared.clone(), driver });
        Ok(Document { shared })
    }

    /// Ends them all, and lets go of them: they hold the transport, which holds this.
    pub(crate) fn stop(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for open in open.into_values() {
            open.driver.abort();
            open.served.stop();
        }
    }
}
