//! Documents: replicated objects of which every node that opens them holds a replica.
//!
//! A document is a [`polity_crdt`] type under a name. Each node reads and writes its own replica, at once and without
//! asking anybody; what it writes goes to all others that are up, and nodes that were away are brought up to date. How is
//! told in [`polity_crdt::sync`]; here is its driver, and what it needs of a cluster: peers are members, an actor is a boot,
//! and a boot is departed when it has left, when a newer one has its name, or when an operator has forgotten it.
//!
//! | module | idea |
//! |---|---|
//! | `replica` | which replica a boot is |
//! | `shared` | what handle, driver and peers share: the replica under one lock |
//! | `driver` | the task that carries out what the replica asks for |
//! | `departures` | whose replica nobody has to wait for any more |
//! | `directory` | the documents of a node by name, and what peers ask of them |
//! | `watch` | snapshots and changes |
//!
//! # Guarantees
//! Strong eventual consistency (C1 to C5 in `docs/SEMANTICS.md`), in memory: an update that no other node has received is
//! lost with its node; [`Document::flushed`] says when others have it.

mod departures;
mod directory;
mod driver;
mod replica;
mod shared;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use polity_crdt::sync::SyncStats;
use polity_crdt::{Change, Crdt, ReplicaId, Timestamp, Writer};

pub(crate) use self::directory::{Documents, Opening};
use self::shared::Shared;
pub(crate) use self::shared::{Owners, OwnersVersion};
pub(crate) use self::watch::Unseen;
pub use self::watch::{DocumentEvent, Watch};
use crate::identity::NodeId;

/// The longest name of a document, in bytes.
pub const MAX_DOCUMENT_NAME_BYTES: usize = 64;

/// The largest update: a quarter of what fits into a frame, beside which a message always has room for something else.
pub const MAX_UPDATE_BYTES: usize = 1 << 20;

/// What a document would not do. It is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The name is empty or too long.
    #[error("the name of a document has 1 to {MAX_DOCUMENT_NAME_BYTES} bytes; this one has {0}")]
    Name(usize),
    /// Names that begin with a dot are the library's own.
    #[error("names of documents that begin with a dot are the library's: {0:?}")]
    Reserved(String),
    /// The node has a document of this name, of another type.
    #[error("the document {0:?} is open as another type")]
    OtherType(String),
    /// The mutator refused, or the update is too large.
    #[error(transparent)]
    Refused(#[from] polity_crdt::Error),
    /// A node that is up cannot be forgotten: stop it first.
    #[error("{0} is up")]
    IsUp(NodeId),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// How a document is doing here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentStats {
    /// How many dots are live: values, elements, entries.
    pub live_dots: u64,
    /// How many intervals the causal context has: 24 bytes each.
    pub context_intervals: usize,
    /// How many replicas are known, this one among them.
    pub replicas: usize,
    /// How many changes are noted that some peer has not acknowledged.
    pub unacknowledged: usize,
    /// How long the peer that lacks something for the longest time has lacked it.
    pub lag: Duration,
    /// Boots that will not come back and whose dots are kept because these replicas have not acknowledged them (C4).
    pub blocked_by: Vec<NodeId>,
    /// What has been sent, received and repaired.
    pub sync: SyncStats,
    /// Messages of peers that did not decode: is the document open as another type there?
    pub malformed: u64,
}

/// A node's replica of a document. Cheap to clone; see [`Node::document`](crate::Node::document).
pub struct Document<T: Crdt> {
    shared: Arc<Shared<T>>,
}

impl<T: Crdt> Clone for Document<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Crdt> fmt::Debug for Document<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("name", &self.shared.name()).finish_non_exhaustive()
    }
}

impl<T: Crdt> Document<T> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// Shows the state as this node knows it. Others wait meanwhile: copy what takes longer.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.shared.read(look)
    }

    /// Changes this node's replica, at once, and sends the change on its way to all others. Returns whether there was
    /// anything to change.
    ///
    /// `mutate` calls a mutator of the type and returns what that returns; a state and a right to write are handed to it.
    ///
    /// # Errors
    /// Those of the mutator; [`polity_crdt::Error::TooLarge`] beyond [`MAX_UPDATE_BYTES`]; [`DocumentError::Stopped`].
    /// Nothing was changed then.
    pub fn update(&self, mutate: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>) -> Result<bool, DocumentError> {
        self.shared.update(mutate)
    }

    /// A timestamp for a last-writer-wins register: later than all that this document has given out here.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.shared.timestamp()
    }

    /// A snapshot, then what changes: first the whole state, then the keys that have changed, as often as they do.
    #[must_use]
    pub fn watch(&self) -> Watch<T> {
        Watch::new(self.shared.clone())
    }

    /// Waits until every peer that this node sends its changes to has acknowledged all of them. One that is up and does
    /// not answer is waited for until it is Down. Cancel safe.
    ///
    /// # Errors
    /// [`DocumentError::Stopped`].
    pub async fn flushed(&self) -> Result<(), DocumentError> {
        self.shared.flushed().await
    }

    /// Says that a boot will never come back, although nothing else shows that: its machine is gone, and its name will not
    /// be used again. What is known of it stays; its actor is retired, and no longer blocks the retirement of others (C4).
    /// Should it come back all the same, nothing is taken from it: it exports what it had and begins anew
    /// ([`Document::take_exports`]).
    ///
    /// # Errors
    /// [`DocumentError::IsUp`]; [`DocumentError::Stopped`].
    pub fn forget(&self, boot: &NodeId) -> Result<(), DocumentError> {
        self.shared.forget(boot)
    }

    /// What this replica had and the others had not merged when they forgot it: once for each time. The application
    /// decides what becomes of it; [`Document::import`] merges it.
    #[must_use]
    pub fn take_exports(&self) -> Vec<T::Delta> {
        self.shared.take_exports()
    }

    /// Merges what was exported, by this node or another. Returns whether anything was new.
    ///
    /// # Errors
    /// [`DocumentError::Stopped`].
    pub fn import(&self, export: T::Delta) -> Result<bool, DocumentError> {
        self.shared.import(export)
    }

    /// Who holds which replica, of the members that are up. Of a boot that has begun anew it is the newest.
    pub(crate) fn owners(&self) -> Owners {
        self.shared.owners()
    }

    /// Whether it has been compared with those of the members that appeared, as far as they can be reached and have one.
    pub(crate) fn has_met(&self) -> bool {
        self.shared.has_met()
    }

    /// Tells of the answers of peers.
    pub(crate) fn answers(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.answers()
    }

    /// The id of this node's replica: another one when it has begun anew.
    pub(crate) fn replica(&self) -> ReplicaId {
        self.shared.replica()
    }

    /// Differs whenever [`Document::owners`] may.
    pub(crate) fn owners_version(&self) -> OwnersVersion {
        self.shared.owners_version()
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> DocumentStats {
        self.shared.stats()
    }
}
