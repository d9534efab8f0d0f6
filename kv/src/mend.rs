//! What a read or a write leaves to be mended, and the task that sees it through.
//!
//! A *read* whose answers differ sends the merge to those that had less. A *write* that is done without some of its replicas
//! goes on with those: whoever of them does not take it is remembered ([`mod@crate::hints`]), and upkeep gives it the record
//! when it answers again. Nobody waits for either.

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::{Call, RpcError};
use polity_shard::ShardId;
use tokio::sync::{Notify, mpsc};

use crate::hints::{Hints, Marks, Missed};
use crate::record::Blob;
use crate::stats::KvStats;
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use crate::wire::MergeAnswer;

/// How many repairs of reads may be on their way. A hot key is repaired once at a time, so these are different keys; what is
/// not repaired now is by the next read, or by a comparison.
const MAX_REPAIRS: usize = 256;

/// And how large they are together: two of the largest records by default.
const MAX_REPAIR_BYTES: usize = 8 << 20;

/// How many calls of writes are waited for beyond the end of their writes. A replica that answers does so within
/// milliseconds; beyond this it is taken for one that does not.
const MAX_STRAGGLERS: u64 = 4_096;

/// How long they are left alone. Nearly all have been answered by then, and none of those has woken anybody: a task that
/// awaits each of them costs a write more than sending it does.
const STRAGGLING: Duration = Duration::from_millis(5);

/// Whether a deliberate fault is to be judged that this would make up for.
pub(crate) fn is_off() -> bool {
    mutated(Mutation::NeverPatrols) || mutated(Mutation::FetchesNothing)
}

/// Repairs that are on their way.
#[derive(Debug, Default)]
struct Repairs {
    of: BTreeSet<(NodeId, Blob)>,
    bytes: usize,
}

/// A call whose end matters.
#[derive(Debug)]
struct Awaited {
    node: NodeId,
    call: Call<MergeAnswer>,
    key: Blob,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Repair { bytes: usize },
    Write { shard: ShardId },
}

/// What waits to be mended.
#[derive(Debug)]
pub(crate) struct Mending {
    hints: Mutex<Hints>,
    /// For how many targets there are hints: every answer looks at this.
    targets: AtomicU64,
    repairs: Mutex<Repairs>,
    /// Bounded by [`MAX_REPAIRS`].
    queue: mpsc::UnboundedSender<Awaited>,
    /// Calls of writes that are left alone for a moment.
    late: Mutex<Vec<Awaited>>,
    is_late: Notify,
    /// All calls of writes that are under way.
    stragglers: AtomicU64,
    wake: Arc<Notify>,
    repaired: AtomicU64,
    skipped: AtomicU64,
    delivered: AtomicU64,
}

impl Mending {
    /// And the task that sees calls through, until it is dropped. `wake` makes upkeep look for work.
    pub(crate) fn new(wake: Arc<Notify>) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (queue, calls) = mpsc::unbounded_channel();
        let mending = Arc::new(Self {
            hints: Mutex::new(Hints::default()),
            targets: AtomicU64::new(0),
            repairs: Mutex::new(Repairs::default()),
            queue,
            late: Mutex::new(Vec::new()),
            is_late: Notify::new(),
            stragglers: AtomicU64::new(0),
            wake,
            repaired: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        });
        let task = see_through(mending.clone(), calls);
        (mending, task)
    }

    /// What this counts; the rest is 0.
    pub(crate) fn stats(&self) -> KvStats {
        let (hints, hinted_shards) = self.hints().counts();
        KvStats {
            read_repairs: self.repaired.load(Ordering::Relaxed),
            read_repairs_skipped: self.skipped.load(Ordering::Relaxed),
            hints,
            hinted_shards,
            hints_delivered: self.delivered.load(Ordering::Relaxed),
            ..KvStats::default()
        }
    }

    // ---- reads ------------------------------------------------------------------------------------------------------

    /// This node's own record was repaired.
    pub(crate) fn repaired_here(&self) {
        self.repaired.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a replica what it lacks of a key, unless that is under way or too much is.
    pub(crate) fn repair(&self, node: &NodeId, key: &Blob, bytes: usize, send: impl FnOnce() -> Call<MergeAnswer>) {
        {
            let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = (node.clone(), key.clone());
            if repairs.of.contains(&entry) {
                return;
            }
            let is_full = repairs.of.len() >= MAX_REPAIRS || repairs.bytes + bytes > MAX_REPAIR_BYTES;
            if is_full && !repairs.of.is_empty() {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            repairs.of.insert(entry);
            repairs.bytes += bytes;
        }
        self.repaired.fetch_add(1, Ordering::Relaxed);
        self.queue(Awaited { node: node.clone(), call: send(), key: key.clone(), what: What::Repair { bytes } });
    }

    // ---- writes -----------------------------------------------------------------------------------------------------

    /// A write has ended without these answers.
    pub(crate) fn straggle(
        &self,
        shard: ShardId,
        key: &Blob,
        calls: impl Iterator<Item = (NodeId, Call<MergeAnswer>)>,
    ) {
        for (node, call) in calls {
            if self.stragglers.load(Ordering::Relaxed) >= MAX_STRAGGLERS {
                call.forget();
                self.missed(&node, shard, key);
                continue;
            }
            self.stragglers.fetch_add(1, Ordering::Relaxed);
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            if late.is_empty() {
                self.is_late.notify_one();
            }
            late.push(Awaited { node, call, key: key.clone(), what: What::Write { shard } });
        }
    }

    /// A replica has not taken a write.
    pub(crate) fn missed(&self, node: &NodeId, shard: ShardId, key: &Blob) {
        if is_off() {
            return;
        }
        if self.hints().note(node, shard, key) {
            tracing::debug!(%node, %shard, "has missed so much that it is to be compared");
        }
    }

    /// A node has answered something.
    pub(crate) fn answered(&self, node: &NodeId) {
        if self.targets.load(Ordering::Relaxed) > 0 && self.hints().handle_answer(node) {
            self.wake.notify_one();
        }
    }

    /// The members have changed: who has come back, and who may.
    pub(crate) fn follow(&self, mut has_come_up: impl FnMut(&NodeId) -> bool, may_return: impl FnMut(&NodeId) -> bool) {
        let mut hints = self.hints();
        hints.retain(may_return);
        let up: Vec<NodeId> = hints.targets().filter(|node| has_come_up(node)).cloned().collect();
        up.iter().for_each(|node| {
            hints.handle_answer(node);
        });
    }

    /// The nodes that have missed something and answer again.
    pub(crate) fn due(&self) -> Vec<NodeId> {
        if self.targets.load(Ordering::Relaxed) == 0 { Vec::new() } else { self.hints().due() }
    }

    /// Takes what a node has missed, to give it that.
    pub(crate) fn take(&self, node: &NodeId) -> Marks {
        self.hints().take(node)
    }

    /// A node did not take what it had missed.
    pub(crate) fn put_back(&self, node: &NodeId, marks: Marks) {
        let mut hints = self.hints();
        for (shard, missed) in marks {
            match missed {
                Missed::Whole => hints.note_whole(node, shard),
                Missed::Keys(keys) => keys.iter().for_each(|key| {
                    hints.note(node, shard, key);
                }),
            }
        }
    }

    /// So many keys were given to who had missed them.
    pub(crate) fn delivered(&self, keys: usize) {
        self.delivered.fetch_add(keys as u64, Ordering::Relaxed);
    }

    /// Waits until some calls of writes have been left alone for long enough.
    async fn late(&self) -> Vec<Awaited> {
        self.is_late.notified().await;
        tokio::time::sleep(STRAGGLING).await;
        std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn hints(&self) -> Guard<'_> {
        Guard { hints: self.hints.lock().unwrap_or_else(PoisonError::into_inner), targets: &self.targets }
    }

    /// Once the task is gone the node stops, and nothing is mended by it any more.
    fn queue(&self, awaited: Awaited) {
        let _ = self.queue.send(awaited);
    }

    fn ended(&self, node: &NodeId, key: Blob, what: What, answer: &Result<MergeAnswer, RpcError>) {
        match what {
            What::Repair { bytes } => {
                let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
                repairs.of.remove(&(node.clone(), key));
                repairs.bytes -= bytes;
            }
            What::Write { shard } => {
                self.stragglers.fetch_sub(1, Ordering::Relaxed);
                if answer.is_err() {
                    self.missed(node, shard, &key);
                }
            }
        }
        if answer.is_ok() {
            self.answered(node);
        }
    }
}

/// The hints while they are locked; counts their targets when they are not any more.
struct Guard<'a> {
    hints: MutexGuard<'a, Hints>,
    targets: &'a AtomicU64,
}

impl std::ops::Deref for Guard<'_> {
    type Target = Hints;
    fn deref(&self) -> &Hints {
        &self.hints
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Hints {
        &mut self.hints
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.targets.store(self.hints.targets().count() as u64, Ordering::Relaxed);
    }
}

async fn see_through(mending: Arc<Mending>, mut calls: mpsc::UnboundedReceiver<Awaited>) {
    let mut under_way = FuturesUnordered::new();
    let end = |Awaited { node, call, key, what }| async move { (node, key, what, call.await) };
    let mut late = pin!(mending.late());
    loop {
        tokio::select! {
            biased;
            Some(awaited) = calls.recv() => under_way.push(end(awaited)),
            Some((node, key, what, answer)) = under_way.next(), if !under_way.is_empty() => {
                mending.ended(&node, key, what, &answer);
            }
            calls = &mut late => {
                for mut awaited in calls {
                    match (&mut awaited.call).now_or_never() {
                        Some(answer) => mending.ended(&awaited.node, awaited.key, awaited.what, &answer),
                        None => under_way.push(end(awaited)),
                    }
                }
                late.set(mending.late());
            }
        }
    }
}
