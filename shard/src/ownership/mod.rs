//! Ownership of shards on a running node: what carries the commands of a [`Steward`] out.
//!
//! Claims are the document [`DOCUMENT`]; handoffs and conflicts are calls. The state of shards, and what it means to own one,
//! is the business of an [`Estate`]. There is one `Ownership` on a node, and all nodes of a cluster that have one must agree on
//! the number of shards.
//!
//! # What it waits for when it starts
//! Before it claims anything its node is a member ([`Node::ready`]), and it has asked every member that is up what claims it
//! knows ([`CLAIMS`]): it goes on when all of them have answered, have no ownership, or are not up any more.

mod driver;
mod estate;
mod traffic;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polity_cluster::document::Document;
use polity_cluster::rpc::{Blob, Lane, Method};
use polity_cluster::{DocumentError, Env, Members, Node, NodeId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::estate::Estate;
use self::watch::Told;
pub use self::watch::{MAX_EVENTS, OwnershipEvent, OwnershipWatch};
use crate::claims::{Claim, ClaimBook, Core, Fence, Superseded, claims_of};
use crate::handoff::{HandoffId, HandoffMessage, Progress, Stuck};
use crate::journal::{Conflict, Journal, JournalConfig, Snapshot};
use crate::{Epoch, EpochAuthority, Explanation, ReplicaCount, ShardId, Steward, StewardConfig};

/// The document of claims.
pub const DOCUMENT: &str = ".claims";
/// A message of a handoff, in either direction.
pub const HANDOFF: Method<HandoffMessage, ()> = Method::new(48, "shard.handoff", Lane::Call);
/// A chunk of a handoff.
pub const HANDOFF_CHUNK: Method<HandoffMessage, ()> = Method::new(49, "shard.handoff_chunk", Lane::Bulk);
/// A conflict, told by its loser; the answer is the state of the winner.
pub const CONFLICT: Method<Conflict, Snapshot> = Method::new(50, "shard.conflict", Lane::Call);
/// Which claims are known, of the shards from this one on; the answer has at most [`CLAIMS_AT_ONCE`].
pub const CLAIMS: Method<ShardId, Vec<Claim>> = Method::new(51, "shard.claims", Lane::Call);
/// The most claims in an answer: some 100 bytes each, so half a MiB.
pub const CLAIMS_AT_ONCE: usize = 4_096;

/// How ownership is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnershipConfig {
    /// Shards, patience, and the limits of handoffs.
    pub steward: StewardConfig,
    /// How long preference lists are. The first of each owns the shard.
    pub replicas: ReplicaCount,
    /// The bounds of the journal.
    pub journal: JournalConfig,
}

/// What this node owns, and who owns what else. Cheap to clone; the last clone that is dropped ends it, and what the node
/// owned stays claimed until others take it for down.
#[derive(Clone)]
pub struct Ownership {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership").field("node", &self.inner.shared.me).finish_non_exhaustive()
    }
}

struct Shared {
    me: NodeId,
    env: Env,
    members: Members,
    document: Document<ClaimBook>,
    config: OwnershipConfig,
    authority: Arc<dyn EpochAuthority>,
    estate: Arc<dyn Estate>,
    started: Instant,
    wake: Notify,
    /// Counts what the driver has seen to.
    turns: tokio::sync::watch::Sender<u64>,
    state: Mutex<State>,
}

struct State {
    steward: Steward,
    /// Whether the driver has seen to all that followed from the last input.
    is_at_rest: bool,
    journal: Journal,
    told: Told,
    /// What is read for handoffs.
    sources: BTreeMap<HandoffId, Vec<Blob>>,
    /// What has come by handoffs, and is not installed.
    staged: BTreeMap<HandoffId, Vec<Blob>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Gives the steward an input, and lets the driver see to what follows.
    fn with<R>(&self, act: impl FnOnce(&mut Steward, Duration) -> R) -> R {
        let now = self.now();
        let mut state = self.lock();
        state.is_at_rest = false;
        let result = act(&mut state.steward, now);
        drop(state);
        self.wake.notify_one();
        result
    }
}

impl Ownership {
    /// Takes part in ownership. `authority` gives out epochs: [`LocalAuthority`](crate::LocalAuthority) for available ownership.
    ///
    /// # Errors
    /// [`DocumentError::OtherType`], [`DocumentError::Stopped`].
    ///
    /// # Panics
    /// If the node has an ownership already.
    pub fn start(
        node: &Node,
        config: OwnershipConfig,
        authority: Arc<dyn EpochAuthority>,
        estate: Arc<dyn Estate>,
    ) -> Result<Self, DocumentError> {
        let document = node.internal_document::<ClaimBook>(DOCUMENT)?;
        let claims = document.read(|book| claims_of(book, config.steward.shards));
        let me = node.id().clone();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                steward: Steward::new(me.clone(), config.steward, Fence::new(claims)),
                is_at_rest: false,
                journal: Journal::new(config.journal),
                told: Told::new(),
                sources: BTreeMap::new(),
                staged: BTreeMap::new(),
            }),
            me,
            env: node.env().clone(),
            members: node.members().clone(),
            document,
            config,
            authority,
            estate,
            started: Instant::now(),
            wake: Notify::new(),
            turns: tokio::sync::watch::Sender::new(0),
        });
        driver::serve(node.rpc(), &shared);
        let driver = node.spawn_internal(driver::Driver::new(shared.clone(), node).run());
        Ok(Self { inner: Arc::new(Inner { shared, driver }) })
    }

    /// The epoch under which this node owns a shard now.
    #[must_use]
    pub fn owns(&self, shard: ShardId) -> Option<Epoch> {
        self.inner.shared.lock().steward.core().owns(shard).cloned()
    }

    /// The shards that this node owns, with their epochs.
    #[must_use]
    pub fn owned(&self) -> BTreeMap<ShardId, Epoch> {
        let state = self.inner.shared.lock();
        state.steward.core().owned().map(|(shard, epoch)| (shard, epoch.clone())).collect()
    }

    /// The greatest epoch that is known of a shard: it names the owner.
    #[must_use]
    pub fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.inner.shared.lock().steward.core().claims().epoch(shard).cloned()
    }

    /// Whether an effect under this epoch may take place here. One that is greater than was known is known from now on.
    ///
    /// # Errors
    /// [`Superseded`]: it must not take place, and names whom to ask.
    pub fn admit(&self, shard: ShardId, epoch: &Epoch) -> Result<(), Superseded> {
        // The common case leaves the driver asleep.
        let state = self.inner.shared.lock();
        if state.steward.core().claims().epoch(shard) == Some(epoch) {
            return state.steward.core().fence().check(shard, epoch);
        }
        drop(state);
        self.inner.shared.with(|steward, now| steward.handle_effect(now, shard, epoch))
    }

    /// Who owns a shard, why, and what that waits for, as this node knows it.
    #[must_use]
    pub fn explain(&self, shard: ShardId) -> Explanation {
        self.inner.shared.lock().steward.explain(self.inner.shared.now(), shard)
    }

    /// Follows what this node owns, and who owns what else, from now on.
    #[must_use]
    pub fn watch(&self) -> OwnershipWatch {
        OwnershipWatch::new(self.inner.shared.clone())
    }

    /// Waits until every shard is owned by the node that should own it, as this node knows it. Cancel safe. Never returns while
    /// nobody can own one, or after the node has stopped.
    pub async fn settled(&self) {
        self.until(Core::is_settled).await;
    }

    /// Waits until this node owns all that it should own, and nothing that another should own, as it knows it. Cancel safe.
    /// Waits for as long as a failure keeps it from that, and never returns after the node has stopped.
    pub async fn caught_up(&self) {
        self.until(Core::is_caught_up).await;
    }

    /// Waits until this node owns nothing that another could own: for one that drains. Cancel safe. Never returns while this
    /// node is among those that should own shards, or after it has stopped.
    pub async fn handed_over(&self) {
        self.until(Core::is_handed_over).await;
    }

    async fn until(&self, is_so: fn(&Core) -> bool) {
        let mut turns = self.inner.shared.turns.subscribe();
        let holds = |state: &State| state.is_at_rest && is_so(state.steward.core());
        while !holds(&self.inner.shared.lock()) {
            // The sender lives in `self`, so this cannot fail.
            let _ = turns.changed().await;
        }
    }

    /// How far the handoffs of this node are.
    #[must_use]
    pub fn handoffs(&self) -> Vec<Progress> {
        self.inner.shared.lock().steward.desk().all().collect()
    }

    /// The handoffs that do not go on.
    #[must_use]
    pub fn stuck(&self) -> Vec<Stuck> {
        let now = self.inner.shared.now();
        self.inner.shared.lock().steward.desk().stuck(now).collect()
    }

    /// Breaks off the handoff of a shard that this node owns and is about to give away. Returns whether there was one. This
    /// node goes on owning the shard, under the epoch that it has, and serves it again if it was paused; the other drops what
    /// it was sent. As long as another node should own the shard, another handoff is begun after
    /// [`ClaimConfig::retry`](crate::claims::ClaimConfig::retry) (1 s), from the start. To keep it here, change what the placement
    /// follows, such as the weights of nodes. What was let go already stays so, and what others hand to this node is theirs
    /// to cancel.
    ///
    /// ```
    /// # fn f(owners: &polity_shard::Ownership) {
    /// for stuck in owners.stuck() {
    ///     println!("{stuck}");
    ///     owners.cancel(stuck.id.claim.shard);
    /// }
    /// # }
    /// ```
    pub fn cancel(&self, shard: ShardId) -> bool {
        self.inner.shared.with(|steward, now| steward.cancel(now, shard))
    }

    /// Shows the journal of conflicts.
    pub fn journal<R>(&self, look: impl FnOnce(&Journal) -> R) -> R {
        look(&self.inner.shared.lock().journal)
    }
}
