//! Changing the cluster's secret while the cluster runs.
//!
//! Every node holds a ring of up to four secrets. It seals with the primary one and accepts all. A rotation is three
//! steps, each asked of any one node: [`Keyring::install`] a new secret on all members, [`Keyring::use_key`] as the
//! primary, [`Keyring::remove`] the old one. A step is refused while a live member would be cut off by it, and returns
//! when every live member shows that it has followed.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use polity_cluster::{Node, Preset, Secret};
//!
//! let node = Node::builder("n1").cluster("shop").preset(Preset::Local).no_discovery().secret([7; 32]).start().await?;
//! let old = node.keyring().status().own().expect("its own").primary;
//! let new = node.keyring().install(Secret::new([8; 32])?).await?;
//! node.keyring().use_key(new).await?;
//! node.keyring().remove(old).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! Rings live in memory: change what nodes are started with too, before the old secret is removed. A node that was away
//! during the whole rotation shares no key with the others; it is refused, says so in its log, and comes back when it is
//! started with the new secret.

mod debts;
mod driver;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use tokio::sync::{mpsc, oneshot};

pub(crate) use self::driver::{Keeper, Order, QUEUE as ORDERS, Step};
use crate::identity::{NodeId, NodeName};
use crate::membership::core::SharedTable;
use crate::membership::view::Members;
use crate::secure::Secret;
use crate::secure::ring::{KEYS_KEY, KeyId, MAX_KEYS_OF_RING, Shown};

/// Why a step of a rotation was refused, or is not finished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    // Nothing was changed.
    /// Members do not show that they hold the key, and the one before is still in use. They are being sent it: ask again.
    #[error("the key {key} cannot be used yet: {} not shown that it is held there; ask again", have(members))]
    NotHeld {
        /// The key that was to be used.
        key: KeyId,
        /// Who does not show it.
        members: Vec<NodeName>,
    },
    /// Members have the key as their primary, or do not show their keys yet; nothing was changed. Use another key first.
    #[error(
        "the key {key} cannot be removed yet: {} not shown another primary key; use another, or ask again",
        have(members)
    )]
    InUse {
        /// The key that was to be removed.
        key: KeyId,
        /// Who may still seal with it.
        members: Vec<NodeName>,
    },
    /// It is this node's primary key; nothing was changed. Use another first.
    #[error("the key {key} is this node's primary key: use another before it is removed")]
    IsPrimary {
        /// The key that was to be removed.
        key: KeyId,
    },
    /// This node does not hold such a key; nothing was changed. Install the secret first.
    #[error("there is no key {key} here: install its secret first")]
    Unknown {
        /// The key.
        key: KeyId,
    },
    /// The key was removed for good. Make a new secret.
    #[error("the key {key} was removed, and a removed key does not come back: make a new secret")]
    Removed {
        /// The key.
        key: KeyId,
    },
    /// The ring has no room; nothing was changed. Remove a key first.
    #[error("a node holds at most {MAX_KEYS_OF_RING} keys: remove one first")]
    Full,

    // It goes on by itself.
    /// The step was accepted, and these members have not shown yet that they follow. They will while they are members:
    /// look at [`Keyring::status`], or ask for the same step again to wait for it.
    #[error("the step was accepted for the key {key}, and {} not shown yet that they follow", have(members))]
    Unfinished {
        /// The key.
        key: KeyId,
        /// Who has not followed yet.
        members: Vec<NodeName>,
    },
    /// Too many steps are under way on this node; nothing was changed.
    #[error("too many steps are under way on this node")]
    Busy,
    /// The node has stopped. What came of the step is to be seen on another.
    #[error("the node has stopped")]
    Stopped,
}

impl KeyringError {
    /// Whether the same step may be accepted, or finish, later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotHeld { .. } | Self::InUse { .. } | Self::Unfinished { .. } | Self::Busy)
    }
}

fn have(members: &[NodeName]) -> String {
    let names: Vec<_> = members.iter().map(NodeName::as_str).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "has" } else { "have" })
}

/// The keys of one member, by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberKeys {
    /// The key that it seals with.
    pub primary: KeyId,
    /// All that it accepts, the primary among them.
    pub held: Vec<KeyId>,
}

/// Which live member holds which keys, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyringStatus {
    own: NodeName,
    /// By name, this node among them; `None` if it is not known yet.
    pub members: BTreeMap<NodeName, Option<MemberKeys>>,
}

impl KeyringStatus {
    /// What this node itself has said last.
    #[must_use]
    pub fn own(&self) -> Option<&MemberKeys> {
        self.members.get(&self.own).and_then(Option::as_ref)
    }
}

/// A node's ring of secrets, and through it the cluster's. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    own: NodeId,
    members: Members,
    table: SharedTable,
    orders: mpsc::Sender<Order>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("own", &self.status().own()).finish_non_exhaustive()
    }
}

impl Keyring {
    pub(crate) fn new(own: NodeId, members: Members, table: SharedTable, orders: mpsc::Sender<Order>) -> Self {
        Self { own, members, table, orders }
    }

    /// Gives all live members a secret: they accept it from then on. Returns when each shows that it holds it, after 10
    /// seconds at most. Members that join or come back later are given it too. Installing a secret again does no harm.
    ///
    /// Cancel safe: once accepted, the step goes on.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn install(&self, secret: Secret) -> Result<KeyId, KeyringError> {
        let key = secret.id();
        self.order(Step::Install(secret)).await.map(|()| key)
    }

    /// Makes a key the primary of all members. Refused unless every live member shows that it holds the key; a suspect
    /// one counts as live. Returns when each shows that it is its primary, after 10 seconds at most.
    ///
    /// Cancel safe: once accepted, the step goes on.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn use_key(&self, key: KeyId) -> Result<(), KeyringError> {
        self.order(Step::Use(key)).await
    }

    /// Removes a key from all members, for good. Refused while a live member has it as its primary. Returns when none
    /// shows it any more, after 10 seconds at most. Members that are down and hold no other key are shut out.
    ///
    /// Cancel safe: once accepted, the step goes on.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn remove(&self, key: KeyId) -> Result<(), KeyringError> {
        self.order(Step::Remove(key)).await
    }

    /// Which live member holds which keys, as this node sees it now.
    #[must_use]
    pub fn status(&self) -> KeyringStatus {
        let view = self.members.snapshot();
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |node: &NodeId| {
            let shown = table.value(node, KEYS_KEY).and_then(Shown::from_bytes)?;
            Some(MemberKeys { primary: shown.primary.key, held: shown.held.into_keys().collect() })
        };
        let mut members: BTreeMap<_, _> = view.up().map(|member| (member.id.name.clone(), of(&member.id))).collect();
        members.insert(self.own.name.clone(), of(&self.own));
        KeyringStatus { own: self.own.name.clone(), members }
    }

    async fn order(&self, step: Step) -> Result<(), KeyringError> {
        let (done, outcome) = oneshot::channel();
        self.orders.send(Order { step, done }).await.map_err(|_| KeyringError::Stopped)?;
        outcome.await.unwrap_or(Err(KeyringError::Stopped))
    }
}
