//! Keeps the watches of this node registered where they concern somebody, and looks for what they may have missed: the task
//! of the watcher's node.
//!
//! | a watch | then |
//! |---|---|
//! | is not registered at a member that concerns it, or its lease there is to be renewed | registers it |
//! | was not known there, or missed something | reads the shards of that member from a quorum |
//! | has not compared for a while | reads all of its shards so |
//! | holds what has expired | removes it |
//! | is over | is ended at all members at which it was registered |
//!
//! What concerns a watch is each replica of its key, or, of a prefix, each member that is up. A shard is read only after a
//! registration has been answered, so whatever a replica takes in after it was read is told. What was in one replica
//! only, and was not read, is told by the replicas that get it from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::Peer;
use polity_cluster::{BoxFuture, NodeId};
use polity_shard::ShardId;
use tokio::time::Instant;

use super::interest::Interest;
use super::registry::MAX_WATCHES_A_NODE;
use super::{Watcher, Watches};
use crate::config::Consistency;
use crate::coordinator::Coordinator;
use crate::errands::PATIENCE;
use crate::error::KvError;
use crate::map::Map;
use crate::record::Blob;
use crate::store::millis;
use crate::wire::{MAX_WATCHES_A_MESSAGE, PAGE_BYTES, WATCH, Watch};

/// How often it is looked whether there is something to do, while there are watches.
const TICK: Duration = Duration::from_millis(250);
/// How many shards of one watch are read at a time.
const SHARDS_AT_ONCE: usize = 8;
/// How many watches are read for at a time.
const SCANS_AT_ONCE: usize = 8;
/// A watch is compared with the replicas after so many patrols, although nothing says that it missed anything.
const PATROLS_A_COMPARISON: u32 = 6;
/// A lease outlives so many renewals that failed.
const RENEWALS_A_LEASE: u32 = 3;

/// What has come to its end.
enum Done {
    Registered { peer: NodeId, ids: Vec<u64>, known: Option<Vec<Option<bool>>> },
    Scanned { id: u64, unread: BTreeSet<ShardId> },
}

/// When a watch is registered at a member next.
#[derive(Debug, Clone, Copy)]
struct Place {
    is_registered: bool,
    next: Instant,
}

/// A watch, and how far it is.
struct Kept {
    watcher: Arc<Watcher>,
    places: BTreeMap<NodeId, Place>,
    /// The shards that are to be read.
    to_read: BTreeSet<ShardId>,
    /// The shards that were never read.
    unread: BTreeSet<ShardId>,
    is_reading: bool,
    /// Not before: after a read that has failed, perhaps at once.
    next_read: Instant,
    next_comparison: Instant,
}

pub(super) struct Keeper {
    here: Arc<Coordinator>,
    watches: Arc<Watches>,
    kept: BTreeMap<u64, Kept>,
    /// The watches that are over, by the members that may not know it.
    over: BTreeMap<NodeId, BTreeSet<u64>>,
    /// The members with whom a registration is under way.
    calling: BTreeSet<NodeId>,
    scans: usize,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.watches.close();
    }
}

impl Keeper {
    pub(super) fn new(here: Arc<Coordinator>, watches: Arc<Watches>) -> Self {
        let (kept, over, calling) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { here, watches, kept, over, calling, scans: 0, under_way: FuturesUnordered::new() }
    }

    /// Runs until the store has stopped.
    pub(super) async fn run(mut self) {
        while !self.here.rpc.is_stopped() {
            self.look();
            let busy = !self.kept.is_empty() || !self.over.is_empty();
            tokio::select! {
                biased;
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.done(done),
                () = self.watches.wake.notified() => {}
                () = tokio::time::sleep(TICK), if busy => {}
            }
        }
    }

    /// Finds what is to be done, and begins it.
    fn look(&mut self) {
        self.take_stock();
        let map = self.here.map();
        let now = Instant::now();
        let mut due: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
        for (id, kept) in &mut self.kept {
            let concerned = concerned(&self.here, &map, &kept.watcher);
            kept.places.retain(|node, _| concerned.contains(node));
            for node in concerned {
                if kept.places.get(&node).is_none_or(|place| place.next <= now) {
                    due.entry(node).or_default().push(*id);
                }
            }
        }
        // Whoever is not a member any more keeps no leases.
        self.over.retain(|node, _| map.peer(node).is_some());
        let silent: Vec<NodeId> = self.over.keys().filter(|node| !due.contains_key(*node)).cloned().collect();
        due.extend(silent.into_iter().map(|node| (node, Vec::new())));
        for (node, ids) in due {
            if let Some(peer) = map.peer(&node).filter(|_| !self.calling.contains(&node)) {
                self.register(&peer, ids);
            }
        }
        self.read(&map, now);
    }

    /// Which watches there are, and what they have missed.
    fn take_stock(&mut self) {
        let watchers = self.watches.watchers();
        let gone: Vec<u64> = self.kept.keys().filter(|id| !watchers.contains_key(id)).copied().collect();
        for (id, kept) in gone.into_iter().filter_map(|id| Some((id, self.kept.remove(&id)?))) {
            for node in kept.places.into_keys() {
                self.over.entry(node).or_default().insert(id);
            }
        }
        let wall = millis(self.here.wall());
        for (id, watcher) in watchers {
            watcher.expire(wall);
            let kept = self.kept.entry(id).or_insert_with(|| Kept {
                unread: shards(&self.here, &watcher),
                watcher,
                places: BTreeMap::new(),
                to_read: BTreeSet::new(),
                is_reading: false,
                next_read: Instant::now(),
                next_comparison: Instant::now() + self.here.config.patrol_interval * PATROLS_A_COMPARISON,
            });
            for node in kept.watcher.take_missed() {
                kept.to_read.extend(shards_of(&self.here, &kept.watcher, &node));
            }
        }
    }

    fn register(&mut self, peer: &Peer, ids: Vec<u64>) {
        let config = &self.here.config;
        let interests: Vec<(u64, &Interest)> = ids.iter().map(|id| (*id, &self.kept[id].watcher.interest)).collect();
        let watches = message_of(&interests);
        let ids: Vec<u64> = watches.iter().map(|(id, ..)| *id).collect();
        let lease = config.patrol_interval * RENEWALS_A_LEASE + PATIENCE;
        let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        let mut over = self.over.remove(&peer.node).unwrap_or_default();
        let later = over.iter().nth(MAX_WATCHES_A_NODE).copied().map(|id| over.split_off(&id));
        self.over.extend(later.map(|later| (peer.node.clone(), later)));
        let asked = Watch { watches, over: over.into_iter().collect(), lease_ms };
        let answer = self.here.rpc.call(peer, &WATCH, &asked, config.timeout);
        let peer = peer.node.clone();
        self.calling.insert(peer.clone());
        self.under_way.push(async move { Done::Registered { peer, ids, known: answer.await.ok() } }.boxed());
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Registered { peer, ids, known } => {
                self.calling.remove(&peer);
                let known = known.unwrap_or_default();
                for (at, id) in ids.into_iter().enumerate() {
                    let Some(kept) = self.kept.get_mut(&id) else {
                        // It has ended while it was registered.
                        self.over.entry(peer.clone()).or_default().insert(id);
                        continue;
                    };
                    let answer = known.get(at).copied().flatten();
                    let place = kept.places.entry(peer.clone()).or_insert(Place { is_registered: false, next: now });
                    let is_new = answer.is_some() && !(place.is_registered && answer == Some(true));
                    place.is_registered |= answer.is_some();
                    place.next = now + if answer.is_some() { self.here.config.patrol_interval } else { TICK };
                    if is_new {
                        kept.to_read.extend(shards_of(&self.here, &kept.watcher, &peer));
                    }
                }
            }
            Done::Scanned { id, unread } => {
                self.scans -= 1;
                if let Some(kept) = self.kept.get_mut(&id) {
                    kept.is_reading = false;
                    if !unread.is_empty() {
                        kept.next_read = now + TICK;
                    }
                    kept.to_read.extend(unread);
                    if kept.unread.is_empty() && kept.to_read.is_empty() {
                        kept.watcher.is_current();
                    }
                }
            }
        }
    }

    /// Begins to read what is to be read, of watches whose registrations are answered.
    fn read(&mut self, map: &Map, now: Instant) {
        for (id, kept) in &mut self.kept {
            if kept.next_comparison <= now {
                kept.next_comparison = now + self.here.config.patrol_interval * PATROLS_A_COMPARISON;
                kept.to_read.extend(shards(&self.here, &kept.watcher));
            }
            let is_due = !kept.is_reading && !kept.to_read.is_empty() && kept.next_read <= now;
            if !is_due || self.scans >= SCANS_AT_ONCE {
                continue;
            }
            if concerned(&self.here, map, &kept.watcher).iter().any(|node| !kept.places.contains_key(node)) {
                continue;
            }
            kept.is_reading = true;
            self.scans += 1;
            let mut shards = std::mem::take(&mut kept.to_read);
            if mutated(Mutation::NeverLooksAgain) {
                shards.retain(|shard| kept.unread.contains(shard));
            }
            kept.unread.retain(|shard| !shards.contains(shard));
            let (here, watcher, id) = (self.here.clone(), kept.watcher.clone(), *id);
            self.under_way
                .push(async move { Done::Scanned { id, unread: scan(&here, &watcher, shards).await } }.boxed());
        }
    }
}

/// The first of these watches, as many as one message registers.
fn message_of(interests: &[(u64, &Interest)]) -> Vec<(u64, Blob, bool)> {
    let (mut watches, mut bytes) = (Vec::new(), 0);
    for (id, interest) in interests.iter().take(MAX_WATCHES_A_MESSAGE) {
        bytes += interest.place.0.len();
        if bytes > PAGE_BYTES && !watches.is_empty() {
            break;
        }
        watches.push((*id, interest.place.clone(), interest.exact));
    }
    watches
}

/// Reads shards from a quorum each. Returns those that could not be read.
async fn scan(here: &Coordinator, watcher: &Watcher, shards: BTreeSet<ShardId>) -> BTreeSet<ShardId> {
    let reads = stream::iter(shards).map(|shard| async move { (shard, scan_shard(here, watcher, shard).await) });
    let read = reads.buffer_unordered(SHARDS_AT_ONCE);
    let failed = read.filter_map(|(shard, read)| async move {
        let error = read.err()?;
        tracing::debug!(%shard, %error, "a watch was not compared");
        Some(shard)
    });
    failed.collect().await
}

async fn scan_shard(here: &Coordinator, watcher: &Watcher, shard: ShardId) -> Result<(), KvError> {
    let interest = &watcher.interest;
    if interest.exact {
        let record = here.read(&interest.place, Consistency::Quorum, here.config.timeout).await?;
        watcher.merge([(interest.place.clone(), record)]);
        return Ok(());
    }
    let mut after: Option<Blob> = None;
    loop {
        let page = here.read_page(shard, &interest.place, after.as_ref(), Consistency::Quorum).await?;
        watcher.merge(page.0);
        after = page.1;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The members that can have news for a watch.
fn concerned(here: &Coordinator, map: &Map, watcher: &Watcher) -> BTreeSet<NodeId> {
    if watcher.interest.exact {
        let nodes = map.preference_list(here.store.shard_of(&watcher.interest.place.0));
        return nodes.into_iter().filter(|node| map.is_up(node)).collect();
    }
    map.up_members().map(|member| member.id.clone()).collect()
}

/// The shards that a watch is about.
fn shards(here: &Coordinator, watcher: &Watcher) -> BTreeSet<ShardId> {
    if watcher.interest.exact {
        return [here.store.shard_of(&watcher.interest.place.0)].into();
    }
    here.store.layout().shards_of_bucket(&watcher.interest.place.0).collect()
}

/// Those of which a member is a replica.
fn shards_of(here: &Coordinator, watcher: &Watcher, node: &NodeId) -> BTreeSet<ShardId> {
    let mut shards = shards(here, watcher);
    shards.retain(|shard| here.store.placed(*shard).contains(node));
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_registers_so_many_watches_or_a_page_of_keys() {
        let of = |bytes: usize| Interest { place: vec![b'a'; bytes].into(), exact: true };
        let registered = |interest: &Interest| message_of(&vec![(0, interest); 1000]).len();
        assert_eq!(registered(&of(9)), MAX_WATCHES_A_MESSAGE);
        assert_eq!(registered(&of(64 << 10)), PAGE_BYTES / (64 << 10));
        assert_eq!(registered(&of(2 * PAGE_BYTES)), 1, "the first one always goes");
        assert_eq!(message_of(&[]), []);
    }
}
