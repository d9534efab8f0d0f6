//! Presence: who is here, on which nodes, for as long as the processes that say so live.
//!
//! Whoever is here is *tracked* on a node under a key, with metadata; a [`PresenceGuard`] keeps the entry alive, and the
//! entry goes when the guard is dropped, when the node leaves, or when it is taken for dead. Every node lists all entries of
//! all nodes without asking anybody.
//!
//! | module | idea |
//! |---|---|
//! | `roll` | which entries can be seen, and what changes among them: pure |
//! | `shared` | what handles, guards and the keeper share: the document, the roll, this node's own entries |
//! | `subscription` | a snapshot, then changes |
//! | `directory` | the presences of a node by name |
//!
//! The entries are a replicated document, an owner map: each is written by the boot that tracks it and by no other. What
//! follows from the members is not written at all. An entry is *shown* while its owner is up here, so it needs no
//! message to vanish or to come back; and it is *dropped* by everyone alike when its owner is departed: when it has left,
//! when a newer boot has its name, or when it has not been a member for an hour. Should a node find that an entry of a guard
//! of its own is missing, because others took it to be departed, it writes it again.
//!
//! # Guarantees
//! P2 in `docs/SEMANTICS.md`: after heal, exactly the live entries are listed, and those of a dead node vanish within the
//! detection bound.

mod directory;
#[doc(hidden)]
pub mod roll;
mod shared;
mod subscription;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::directory::Presences;
use self::roll::Row;
use self::shared::Shared;
pub use self::subscription::{PresenceEvent, PresenceSubscription};
use crate::document::DocumentStats;
use crate::identity::NodeId;

/// The longest name of a presence, in bytes: with what stands before it, that of a document.
pub const MAX_PRESENCE_NAME_BYTES: usize = 54;
/// The longest key, in bytes: the name of a user, a session, a device.
pub const MAX_PRESENCE_KEY_BYTES: usize = 256;
/// The largest metadata of an entry, in bytes, encoded: every node holds the metadata of all.
pub const MAX_PRESENCE_META_BYTES: usize = 4096;
/// The most entries of a presence that one node tracks at a time: with the largest metadata 256 MiB on every node.
pub const MAX_TRACKED: usize = 65_536;

/// What can be the metadata of entries: `()` if a key says all.
pub trait Meta: Serialize + DeserializeOwned + Send + 'static {}
impl<M: Serialize + DeserializeOwned + Send + 'static> Meta for M {}

/// What a presence would not do. It is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The name is empty or too long.
    #[error("the name of a presence has 1 to {MAX_PRESENCE_NAME_BYTES} bytes; this one has {0}")]
    Name(usize),
    /// The node has a presence of this name, with metadata of another type.
    #[error("the presence {0:?} is open with metadata of another type")]
    OtherType(String),
    /// The key is empty or too long.
    #[error("a key has 1 to {MAX_PRESENCE_KEY_BYTES} bytes; this one has {0}")]
    Key(usize),
    /// The metadata do not encode, or are too large.
    #[error("metadata: {0}")]
    Meta(String),
    /// This node tracks as many entries as it may: drop a guard first.
    #[error("this node tracks {MAX_TRACKED} entries already")]
    TooMany,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Somebody who is here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceEntry<M> {
    /// Under which key.
    pub key: String,
    /// On which node.
    pub node: NodeId,
    /// Which of the entries that this node has made: with the node it names the entry for good.
    pub number: u64,
    /// What is said with it.
    pub meta: M,
}

impl<M: Meta> PresenceEntry<M> {
    /// `None` if the metadata are of another type there.
    fn of(row: &Row) -> Option<Self> {
        let Row { place, node, meta } = row;
        match postcard::take_from_bytes(&meta.0) {
            Ok((meta, [])) => Some(Self { key: place.key.clone(), node: node.clone(), number: place.number, meta }),
            _ => None,
        }
    }
}

/// A node's view of a presence. Cheap to clone; see [`Node::presence`](crate::Node::presence).
pub struct Presence<M> {
    shared: Arc<Shared>,
    meta: PhantomData<fn(M) -> M>,
}

impl<M> Clone for Presence<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), meta: PhantomData }
    }
}

impl<M> fmt::Debug for Presence<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("document", &self.shared.document.name()).finish_non_exhaustive()
    }
}

impl<M: Meta> Presence<M> {
    /// Says that somebody is here, until the guard is dropped. At once on this node, and on its way to all others. The same
    /// key may be tracked any number of times, here and elsewhere: each is an entry of its own.
    ///
    /// # Errors
    /// See [`PresenceError`]; nothing is tracked then.
    pub fn track(&self, key: impl Into<String>, meta: &M) -> Result<PresenceGuard<M>, PresenceError> {
        let key = key.into();
        if key.is_empty() || key.len() > MAX_PRESENCE_KEY_BYTES {
            return Err(PresenceError::Key(key.len()));
        }
        let number = self.shared.track(&key, encode(meta)?)?;
        Ok(PresenceGuard { shared: self.shared.clone(), key, number, meta: PhantomData })
    }

    /// Everybody who is here, by key.
    #[must_use]
    pub fn list(&self) -> Vec<PresenceEntry<M>> {
        self.shared.seen(|roll| roll.rows().filter_map(PresenceEntry::of).collect())
    }

    /// All entries of a key: one for each time that it is tracked, on whatever nodes.
    #[must_use]
    pub fn get(&self, key: &str) -> Vec<PresenceEntry<M>> {
        self.shared.seen(|roll| roll.of_key(key).filter_map(PresenceEntry::of).collect())
    }

    /// Everybody who is here, then who comes, changes and goes, in order.
    #[must_use]
    pub fn subscribe(&self) -> PresenceSubscription<M> {
        PresenceSubscription::new(self.shared.clone())
    }

    /// Waits until every peer that this node sends its changes to has what was tracked and dropped here. One that is up and
    /// does not answer is waited for until it is Down. Cancel safe.
    ///
    /// # Errors
    /// [`PresenceError::Stopped`].
    pub async fn flushed(&self) -> Result<(), PresenceError> {
        self.shared.document.flushed().await.map_err(|_| PresenceError::Stopped)
    }

    /// How the document beneath is doing: among other things what it costs to remember those who are gone.
    #[must_use]
    pub fn stats(&self) -> DocumentStats {
        self.shared.document.stats()
    }
}

fn encode<M: Meta>(meta: &M) -> Result<Vec<u8>, PresenceError> {
    let bytes = postcard::to_allocvec(meta).map_err(|error| PresenceError::Meta(error.to_string()))?;
    if bytes.len() > MAX_PRESENCE_META_BYTES {
        let problem = format!("{} bytes are over the limit of {MAX_PRESENCE_META_BYTES}", bytes.len());
        return Err(PresenceError::Meta(problem));
    }
    Ok(bytes)
}

/// Keeps an entry of a presence alive. Dropped, it takes the entry away: here at once, elsewhere as soon as the news gets
/// there; it never comes back.
#[must_use = "the entry goes when its guard is dropped"]
pub struct PresenceGuard<M: Meta> {
    shared: Arc<Shared>,
    key: String,
    number: u64,
    meta: PhantomData<fn(M)>,
}

impl<M: Meta> PresenceGuard<M> {
    /// Under which key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Which of the entries that this node has made: [`PresenceEntry::number`].
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Says something else with it.
    ///
    /// # Errors
    /// [`PresenceError::Meta`], [`PresenceError::Stopped`]; the entry says what it said before then.
    pub fn update(&self, meta: &M) -> Result<(), PresenceError> {
        self.shared.change(&self.key, self.number, encode(meta)?)
    }

    /// Takes the entry away, as a drop does.
    pub fn untrack(self) {}
}

impl<M: Meta> Drop for PresenceGuard<M> {
    fn drop(&mut self) {
        self.shared.untrack(&self.key, self.number);
    }
}

impl<M: Meta> fmt::Debug for PresenceGuard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceGuard").field("key", &self.key).field("number", &self.number).finish_non_exhaustive()
    }
}
