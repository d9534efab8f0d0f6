//! Watching keys: first what is there, then changes, on any node, wherever the keys live.
//!
//! | module | idea | kind |
//! |---|---|---|
//! | [`mod@interest`] | what a watch is about | pure |
//! | [`mod@view`] | what a watcher knows, and what its reader is still to be given | pure |
//! | [`mod@registry`] | who wants to be told what, at a replica | pure |
//! | [`mod@keeper`] | keeps watches registered, and looks for what they missed | driver |
//! | [`mod@pump`] | tells watchers what has changed | driver |
//!
//! A watch is registered at all replicas that concern it, under leases. A replica tells what changes in it; what it cannot
//! tell, it remembers as missed. The watcher merges all that it hears, and reads from quorums whenever it may have missed
//! something: at the beginning, when a replica did not know it, when one says so, and from time to time.

#[cfg(all(test, not(feature = "shuttle")))]
mod hostile;
mod interest;
mod keeper;
mod pump;
mod registry;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::Stream;
use polity_cluster::NodeId;
use polity_cluster::rpc::{Caller, Failure, Reply};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::interest::Interest;
use self::keeper::Keeper;
use self::registry::{MAX_WATCHES_A_NODE, Registry};
use self::view::{Given, View};
use crate::coordinator::Coordinator;
use crate::error::KvError;
use crate::kv::Kv;
use crate::place;
use crate::record::{self, Blob, Millis, Record};
use crate::serve::Limits;
use crate::store::millis;
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use crate::wire::{NEWS, News, WATCH};

/// The longest lease that a node gives: twice that of a patrol of five minutes.
const MAX_LEASE: Duration = Duration::from_secs(1800);

/// What a [`Watch`] gives.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WatchEvent<T> {
    /// What is under a key.
    Key {
        /// Which.
        key: Bytes,
        /// What it holds now; `None`: nothing, or nothing of the watched kind any more.
        value: Option<T>,
    },
    /// All that was acknowledged before the watch began has been given, or something newer. Given once.
    Current,
}

/// Watches a key, or all keys that begin alike: [`Bucket::watch`](crate::Bucket::watch). It is a stream too.
///
/// # Guarantees
/// While its node is connected, what it gives ends at the latest state of every key: the merge of what the replicas have,
/// which in the end is what a quorum read finds (W1). It never goes backwards, and may skip states in between; a state may
/// be given twice. It shows what a replica has, so also a write that is not acknowledged yet.
///
/// A reader that is slow is given the latest, and holds nobody up. A watch holds the records of all keys that it is about,
/// traces of deletes included, in memory. What it has cost elsewhere ends when it is dropped, or, should that not be
/// heard, when its leases run out.
pub struct Watch<T> {
    kv: Kv,
    id: u64,
    watcher: Arc<Watcher>,
    make: fn(&Record) -> Option<T>,
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("interest", &self.watcher.interest).finish_non_exhaustive()
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.kv.watches().end(self.id);
    }
}

impl<T> Watch<T> {
    pub(crate) fn new(
        kv: &Kv,
        place: Blob,
        exact: bool,
        max_key_bytes: usize,
        make: fn(&Record) -> Option<T>,
    ) -> Result<Self, KvError> {
        let bytes = place::key_in(&place).len();
        if (exact && bytes == 0) || bytes > max_key_bytes {
            return Err(KvError::KeySize { bytes, limit: max_key_bytes });
        }
        let (id, watcher) = kv.watches().begin(Interest { place, exact })?;
        Ok(Self { kv: kv.clone(), id, watcher, make })
    }

    /// Waits for what is next. Cancel safe.
    ///
    /// # Errors
    /// [`KvError::Stopped`]: the node has stopped, and nothing will come any more.
    pub async fn next(&mut self) -> Result<WatchEvent<T>, KvError> {
        poll_fn(|context| self.poll(context)).await.ok_or(KvError::Stopped)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<WatchEvent<T>>> {
        let now = millis(self.kv.coordinator().wall());
        let mut state = self.watcher.state();
        let event = match state.view.take(now, self.make) {
            Some(Given::Key(place, value)) => {
                WatchEvent::Key { key: Bytes::copy_from_slice(place::key_in(&place)), value }
            }
            Some(Given::Current) => WatchEvent::Current,
            None if state.is_closed => return Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
        };
        Poll::Ready(Some(event))
    }
}

impl<T> Stream for Watch<T> {
    type Item = WatchEvent<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(context)
    }
}

/// One watch of this node, between its reader and the task that feeds it.
#[derive(Debug)]
pub(crate) struct Watcher {
    interest: Interest,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    view: View,
    /// Members that had something to tell, and could not.
    missed: BTreeSet<NodeId>,
    reader: Option<Waker>,
    is_closed: bool,
}

impl Watcher {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in records, and wakes the reader if that is any news.
    fn merge(&self, records: impl IntoIterator<Item = (Blob, Record)>) {
        let mut state = self.state();
        let mut news = false;
        for (place, record) in records {
            news |= state.view.merge(&place, record);
        }
        if news {
            wake(state);
        }
    }

    /// All that was there when the watch began has been taken in.
    fn is_current(&self) {
        let mut state = self.state();
        state.view.is_current();
        wake(state);
    }

    /// Removes what has expired by now, and wakes the reader if anything has.
    fn expire(&self, now: Millis) {
        let mut state = self.state();
        if state.view.expire(now) {
            wake(state);
        }
    }

    fn take_missed(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.state().missed)
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        wake(state);
    }
}

/// Wakes the reader, outside of the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// The watches of this node.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    table: Mutex<Table>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Table {
    watchers: BTreeMap<u64, Arc<Watcher>>,
    begun: u64,
    is_closed: bool,
}

impl Watches {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, interest: Interest) -> Result<(u64, Arc<Watcher>), KvError> {
        let mut table = self.table();
        if table.is_closed {
            return Err(KvError::Stopped);
        }
        if table.watchers.len() >= MAX_WATCHES_A_NODE {
            return Err(KvError::TooManyWatches { limit: MAX_WATCHES_A_NODE });
        }
        table.begun += 1;
        let id = table.begun;
        let watcher = Arc::new(Watcher { interest, state: Mutex::default() });
        table.watchers.insert(id, watcher.clone());
        drop(table);
        self.wake.notify_one();
        Ok((id, watcher))
    }

    fn end(&self, id: u64) {
        self.table().watchers.remove(&id);
        self.wake.notify_one();
    }

    fn watchers(&self) -> BTreeMap<u64, Arc<Watcher>> {
        self.table().watchers.clone()
    }

    /// Nothing will come any more.
    fn close(&self) {
        let mut table = self.table();
        table.is_closed = true;
        let watchers = std::mem::take(&mut table.watchers);
        drop(table);
        watchers.values().for_each(|watcher| watcher.close());
    }

    /// A replica has news for a watch. Answers whether anybody watches.
    fn handle(&self, limits: Limits, caller: &Caller, news: News, reply: Reply<bool>) {
        let Some(watcher) = self.table().watchers.get(&news.watch).cloned() else { return reply.send(&false) };
        let decoded = news.records.into_iter().map(|(place, bytes)| {
            limits.check_record(&place, &bytes)?;
            if !watcher.interest.concerns(&place.0) {
                return Err("a record is of no concern to the watch".to_owned());
            }
            let record = record::decode(&bytes.0).map_err(|error| error.to_string())?;
            Ok((place, record))
        });
        match decoded.collect::<Result<Vec<_>, String>>() {
            Ok(records) => watcher.merge(records),
            Err(reason) => return reply.fail(Failure::not_applied(reason)),
        }
        if news.missed {
            watcher.state().missed.insert(caller.node.clone());
            self.wake.notify_one();
        }
        reply.send(&true);
    }
}

/// Who watches what this node holds.
#[derive(Debug)]
pub(crate) struct Watched {
    registry: Mutex<Registry>,
    /// How many watches there are: a change that concerns nobody takes no lock.
    count: AtomicU64,
    wake: Notify,
    began: Instant,
}

impl Default for Watched {
    fn default() -> Self {
        Self { registry: Mutex::default(), count: AtomicU64::new(0), wake: Notify::new(), began: Instant::now() }
    }
}

impl Watched {
    /// A record has changed. Called under the lock of its shard, so that whoever reads the shard after it was registered
    /// either finds the change or is told of it.
    pub(crate) fn note(&self, place: &[u8]) {
        if self.count.load(Ordering::SeqCst) > 0 && self.registry().note(place) {
            self.wake.notify_one();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since this node began.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn is_idle(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn set_count(&self, count: usize) {
        self.count.store(count as u64, Ordering::SeqCst);
    }

    /// Ends what was not renewed, and lets what has failed try again.
    fn expire(&self) {
        let now = self.now();
        let mut registry = self.registry();
        registry.expire(now);
        registry.retry(now);
        self.set_count(registry.len());
    }
}

/// Serves what replicas and watchers ask of each other, and returns the task that does the rest.
pub(crate) fn start(here: &Arc<Coordinator>, watches: &Arc<Watches>) -> impl Future<Output = ()> + Send + 'static {
    let (limits, store, table) = (Limits::new(&here.config), here.store.clone(), watches.clone());
    here.rpc.serve(WATCH, move |caller, asked, reply| pump::handle(store.watched(), limits, caller, asked, reply));
    here.rpc.serve(NEWS, move |caller, news, reply| table.handle(limits, caller, news, reply));
    let keeper = Keeper::new(here.clone(), watches.clone());
    let here = here.clone();
    async move {
        join(pump::run(here), keeper.run()).await;
    }
}
