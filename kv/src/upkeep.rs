//! The one task that keeps a node's shards where they belong.
//!
//! It follows the members, and does what the standing of each shard asks for (see [`crate::standing`]):
//!
//! | this node | does |
//! |---|---|
//! | has just started | learns the rosters of all shards from one that knows them; the first of all founds them |
//! | is a replica and owes rosters | hears from their boots: fetches what it lacks |
//! | is no replica and owes rosters | asks the replicas whether they are ready, and tells them what it owes |
//! | is no replica and holds records | gives them to the replicas, then drops them |
//! | has nothing to do | compares its shards with one other replica now and then |
//!
//! Errands run beside each other, one of each kind per peer at most, and are simply done again when they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::rpc::{Peer, RpcError};
use polity_cluster::{BoxFuture, Members, Node, NodeId};
use polity_shard::ShardId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::digest::{Buckets, Digest};
use crate::map::Map;
use crate::record::Blob;
use crate::roster::Roster;
use crate::serve::PAGE_BYTES;
use crate::wire::{
    ACCOUNT, AccountRequest, FETCH, Fetch, INTRODUCE, MAX_SHARDS_A_MESSAGE, OFFER, Offer, PROGRESS, Progress, READY,
    ReadyRequest, Rosters,
};

/// How long one message of upkeep may take. Longer than an operation: nobody waits for it, and a page is large.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    Introduce,
    Cover(NodeId),
    Relieve,
    HandOver,
}

pub(crate) struct Upkeep {
    members: Members,
    ready: BoxFuture<'static, bool>,
    here: Arc<Coordinator>,
    wake: Arc<Notify>,
    errands: JoinSet<Errand>,
    under_way: BTreeSet<Errand>,
    introduced: bool,
    next_patrol: Instant,
    patrols: usize,
}

/// How much this node has to do before its shards are settled.
pub(crate) fn progress(here: &Coordinator) -> Progress {
    let store = &here.store;
    let pending = store.shard_ids().filter(|shard| {
        let settled = store.with_standing(*shard, |s| (s.is_ready(), s.current().contains(&here.node)));
        !settled.is_some_and(|(ready, ours)| ready && (ours || !store.holds_records(*shard)))
    });
    Progress { view: here.map().digest(), pending: pending.count() as u32 }
}

impl Upkeep {
    /// Holds no handle of the node, so that it does not keep the node running.
    pub(crate) fn new(node: &Node, here: Arc<Coordinator>, wake: Arc<Notify>) -> Self {
        let ready = node.ready();
        Self {
            members: node.members().clone(),
            ready: Box::pin(async move { ready.await.is_ok() }),
            here,
            wake,
            errands: JoinSet::new(),
            under_way: BTreeSet::new(),
            introduced: false,
            next_patrol: Instant::now(),
            patrols: 0,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut changes = self.members.subscribe();
        let joined = (&mut self.ready).await;
        self.next_patrol = Instant::now() + self.here.config.patrol_interval;
        let mut next_try = Instant::now();
        loop {
            let busy = self.work(joined);
            let pause = if busy { self.here.config.upkeep_interval } else { self.here.config.patrol_interval };
            let due = (Instant::now() + pause).min(self.next_patrol).max(next_try);
            tokio::select! {
                biased;
                _ = changes.next() => {
                    while changes.try_next().is_some() {}
                    self.place();
                }
                Some(done) = self.errands.join_next(), if !self.errands.is_empty() => {
                    // An errand that panicked is a bug; it must not keep its kind from ever running again.
                    match done {
                        Ok(errand) => { self.under_way.remove(&errand); }
                        Err(error) => {
                            tracing::error!(%error, "an errand of the store's upkeep failed");
                            self.under_way.clear();
                        }
                    }
                }
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            }
            // Whatever woke us, the same work is not tried more often than this.
            next_try = Instant::now() + self.here.config.upkeep_interval / 4;
        }
    }

    /// The members have changed.
    fn place(&self) {
        let config = &self.here.config;
        let map = Map::new(&self.members.snapshot(), config.shards, config.replicas);
        for shard in self.here.store.shard_ids() {
            self.here.store.place(shard, map.roster(shard));
        }
        self.here.set_map(map);
    }

    /// Starts what is to be done. Returns whether anything is.
    fn work(&mut self, joined: bool) -> bool {
        if !self.introduced {
            let store = &self.here.store;
            self.introduced = store.shard_ids().all(|shard| store.is_introduced(shard));
            if !self.introduced {
                if joined {
                    let here = self.here.clone();
                    self.start(Errand::Introduce, async move { introduce(&here).await });
                }
                return true;
            }
        }
        let todo = self.sort_out();
        let busy = !todo.is_empty();
        for (at, (peer, shards)) in todo.cover.into_iter().enumerate() {
            let here = self.here.clone();
            let errand = Errand::Cover(peer.node.clone());
            self.start(errand, async move { cover(&here, &peer, shards, at).await });
        }
        if !todo.relieve.is_empty() {
            let here = self.here.clone();
            self.start(Errand::Relieve, async move { relieve(&here, &todo.relieve).await });
        }
        if !todo.hand_over.is_empty() {
            let here = self.here.clone();
            self.start(Errand::HandOver, async move { hand_over(&here, todo.hand_over).await });
        }
        if Instant::now() >= self.next_patrol {
            self.next_patrol = Instant::now() + self.here.config.patrol_interval;
            self.patrol();
        }
        busy
    }

    fn start(&mut self, errand: Errand, task: impl Future<Output = ()> + Send + 'static) {
        if self.under_way.insert(errand.clone()) {
            self.errands.spawn(async move {
                task.await;
                errand
            });
        }
    }

    /// What each shard asks for.
    fn sort_out(&self) -> Lists {
        let (map, own) = (self.here.map(), &self.here.node);
        let mut todo = Todo::default();
        for shard in self.here.store.shard_ids() {
            let asked = self.here.store.with_standing(shard, |standing| {
                if !standing.current().contains(own) {
                    let kind = if standing.is_ready() { Step::HandOver } else { Step::Relieve };
                    return (kind, standing.current().clone(), BTreeSet::new());
                }
                if standing.settle(own, |node| map.is_gone(node), |node| map.is_up(node)) {
                    return (Step::Nothing, standing.current().clone(), BTreeSet::new());
                }
                (Step::Cover, standing.current().clone(), standing.to_ask(own))
            });
            let Some((step, under, ask)) = asked else { continue };
            match step {
                Step::Nothing => {}
                Step::Cover => {
                    todo.waiting = true;
                    for node in ask.iter().filter(|node| map.is_up(node)) {
                        if let Some(peer) = map.peer(node) {
                            let (_, shards) = todo.cover.entry(node.clone()).or_insert_with(|| (peer, Vec::new()));
                            shards.push((shard, under.clone()));
                        }
                    }
                }
                Step::Relieve => todo.relieve.push(shard),
                Step::HandOver if self.here.store.holds_records(shard) => todo.hand_over.push((shard, under)),
                Step::HandOver => {}
            }
        }
        todo.into_lists()
    }

    /// Compares what this node holds with one other replica: what messages lost on the way is repaired so.
    fn patrol(&mut self) {
        let map = self.here.map();
        let peers: Vec<Peer> = map
            .up()
            .filter(|member| member.id != self.here.node)
            .map(|member| Peer { node: member.id.clone(), addr: member.addr })
            .collect();
        if peers.is_empty() {
            return;
        }
        self.patrols += 1;
        let peer = peers[self.patrols % peers.len()].clone();
        let store = &self.here.store;
        let shared = store.shard_ids().filter_map(|shard| {
            let under = store.with_standing(shard, |standing| standing.current().clone())?;
            (under.contains(&self.here.node) && under.contains(&peer.node)).then_some((shard, under))
        });
        let (shards, here) = (shared.collect(), self.here.clone());
        self.start(Errand::Cover(peer.node.clone()), async move { cover(&here, &peer, shards, 0).await });
    }
}

enum Step {
    Nothing,
    Cover,
    Relieve,
    HandOver,
}

type Shards = Vec<(ShardId, Roster)>;

#[derive(Default)]
struct Todo {
    waiting: bool,
    cover: BTreeMap<NodeId, (Peer, Shards)>,
    relieve: Vec<ShardId>,
    hand_over: Shards,
}

struct Lists {
    waiting: bool,
    cover: Vec<(Peer, Shards)>,
    relieve: Vec<ShardId>,
    hand_over: Shards,
}

impl Todo {
    fn into_lists(self) -> Lists {
        Lists {
            waiting: self.waiting,
            cover: self.cover.into_values().collect(),
            relieve: self.relieve,
            hand_over: self.hand_over,
        }
    }
}

impl Lists {
    fn is_empty(&self) -> bool {
        !self.waiting && self.relieve.is_empty() && self.hand_over.is_empty()
    }
}

/// Learns the rosters of all shards from the first member that knows them. If none does, and none has a smaller name
/// than this node, it founds them: whoever has just started and sees no other has nothing to catch up with.
async fn introduce(here: &Coordinator) {
    let map = here.map();
    let mut asked = FuturesUnordered::new();
    let mut smallest = true;
    for member in map.up().filter(|member| member.id != here.node) {
        smallest &= here.node.name < member.id.name;
        let peer = Peer { node: member.id.clone(), addr: member.addr };
        asked.push(here.rpc.call(&peer, &INTRODUCE, &(), PATIENCE));
    }
    let mut all_new = true;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(Some(rosters)) => {
                for (at, shard) in here.store.shard_ids().enumerate() {
                    here.store.introduce(shard, rosters.list(at));
                }
                return;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a member did not introduce this node");
                all_new = false;
            }
        }
    }
    let known = map.up().any(|member| member.id == here.node);
    if all_new && smallest && known {
        tracing::info!("no member knows of any shards: this node founds them");
        for shard in here.store.shard_ids() {
            here.store.introduce(shard, Vec::new());
        }
    }
}

/// Hears from one boot: asks for its account of these shards, fetches what differs, and learns its rosters. `turn` lets
/// several such errands begin with different shards, so that what one has fetched the other need not.
async fn cover(here: &Coordinator, peer: &Peer, mut shards: Shards, turn: usize) {
    if !shards.is_empty() {
        let by = turn * 7919 % shards.len();
        shards.rotate_left(by);
    }
    for some in shards.chunks(MAX_SHARDS_A_MESSAGE) {
        if let Err(error) = cover_some(here, peer, some).await {
            tracing::debug!(%error, "a replica gave no account");
            for (shard, _) in some {
                here.store.with_standing(*shard, |standing| standing.miss(&peer.node));
            }
        }
    }
}

async fn cover_some(here: &Coordinator, peer: &Peer, shards: &[(ShardId, Roster)]) -> Result<(), RpcError> {
    let store = &here.store;
    let request = AccountRequest {
        shards: shards.iter().map(|(shard, _)| (shard.0, store.digest(*shard).total())).collect(),
        rosters: Rosters::new(&shards.iter().map(|(_, under)| vec![under.clone()]).collect::<Vec<_>>()),
    };
    let answer = here.rpc.call(peer, &ACCOUNT, &request, PATIENCE).await?;
    for (at, (shard, under)) in shards.iter().enumerate() {
        let Some(Some(account)) = answer.accounts.get(at) else {
            store.with_standing(*shard, |standing| standing.miss(&peer.node));
            continue;
        };
        let rosters = answer.rosters.list(at);
        store.with_standing(*shard, |standing| rosters.into_iter().for_each(|roster| standing.learn(roster)));
        if let Some(theirs) = account
            && !fetch(here, peer, *shard, store.digest(*shard).difference(theirs)).await?
        {
            continue;
        }
        store.with_standing(*shard, |standing| standing.hear(&peer.node, under));
    }
    Ok(())
}

/// Fetches some buckets of a shard and merges them. Returns whether all of it could be merged.
async fn fetch(here: &Coordinator, peer: &Peer, shard: ShardId, buckets: Buckets) -> Result<bool, RpcError> {
    if buckets.is_empty() {
        return Ok(true);
    }
    let mut after: Option<Blob> = None;
    loop {
        let fetch = Fetch { shard: shard.0, buckets, after: after.take() };
        let page = here.rpc.call(peer, &FETCH, &fetch, PATIENCE).await?;
        for (key, record) in &page.records {
            if here.store.shard_of(&key.0) != shard {
                tracing::warn!(%shard, peer = %peer.node, "a fetched key belongs to another shard");
                return Ok(false);
            }
            if let Err(error) = here.store.merge(shard, &key.0, &record.0, Roster::new([]).id()) {
                tracing::error!(?error, %shard, peer = %peer.node, "a fetched record was not merged");
                return Ok(false);
            }
        }
        match page.records.last() {
            Some((key, _)) if page.more => after = Some(key.clone()),
            _ => return Ok(true),
        }
    }
}

/// Asks the replicas of shards that are not ours whether they are ready and know what we owe; then we need not.
async fn relieve(here: &Coordinator, shards: &[ShardId]) {
    let (store, map) = (&here.store, here.map());
    let mut asked: BTreeMap<ShardId, (Roster, Vec<Roster>, usize)> = BTreeMap::new();
    let mut by_peer: BTreeMap<NodeId, (Peer, Vec<ShardId>)> = BTreeMap::new();
    for shard in shards.iter().take(MAX_SHARDS_A_MESSAGE) {
        let standing = store.with_standing(*shard, |s| (s.current().clone(), s.owed().cloned().collect::<Vec<_>>()));
        let Some((current, owed)) = standing else { continue };
        for node in current.nodes() {
            if let Some(peer) = map.peer(node) {
                by_peer.entry(node.clone()).or_insert_with(|| (peer, Vec::new())).1.push(*shard);
            }
        }
        asked.insert(*shard, (current, owed, 0));
    }
    let calls: FuturesUnordered<_> = by_peer
        .into_values()
        .map(|(peer, shards)| {
            let rosters = shards.iter().filter_map(|shard| asked.get(shard));
            let rosters: Vec<Vec<Roster>> =
                rosters.map(|(current, owed, _)| std::iter::once(current).chain(owed).cloned().collect()).collect();
            let request =
                ReadyRequest { shards: shards.iter().map(|shard| shard.0).collect(), rosters: Rosters::new(&rosters) };
            let call = here.rpc.call(&peer, &READY, &request, PATIENCE);
            async move { (shards, call.await) }
        })
        .collect();
    let answers: Vec<_> = calls.collect().await;
    for (shards, answer) in answers {
        for (shard, ready) in shards.iter().zip(answer.unwrap_or_default()) {
            if let Some((_, _, count)) = asked.get_mut(shard) {
                *count += usize::from(ready);
            }
        }
    }
    for (shard, (current, owed, ready)) in asked {
        if ready >= current.quorum() {
            store.with_standing(shard, |standing| standing.relieve(&current, &owed));
        }
    }
}

/// Gives the records of shards that are not ours to those whose they are, and drops them once all have them.
async fn hand_over(here: &Coordinator, shards: Shards) {
    let map = here.map();
    for (shard, current) in shards {
        let given = here.store.digest(shard);
        let up: Vec<Peer> =
            current.nodes().iter().filter(|node| map.is_up(node)).filter_map(|node| map.peer(node)).collect();
        let mut taken = 0;
        for peer in &up {
            match give(here, peer, shard, &current, &given).await {
                Ok(true) => taken += 1,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, %shard, "records were not handed over"),
            }
        }
        if taken == up.len() && taken >= current.quorum() {
            if let Err(error) = here.store.release(shard, &given) {
                tracing::error!(%error, %shard, "records that were handed over were not dropped");
            }
        } else {
            // The others would not do better now.
            return;
        }
    }
}

/// Gives one replica what it lacks of a shard. Returns whether it has all of it.
async fn give(
    here: &Coordinator,
    peer: &Peer,
    shard: ShardId,
    under: &Roster,
    given: &Digest,
) -> Result<bool, RpcError> {
    let request =
        AccountRequest { shards: vec![(shard.0, given.total())], rosters: Rosters::new(&[vec![under.clone()]]) };
    let answer = here.rpc.call(peer, &ACCOUNT, &request, PATIENCE).await?;
    let theirs = match answer.accounts.into_iter().next() {
        Some(Some(Some(theirs))) => theirs,
        Some(Some(None)) => return Ok(true),
        _ => return Ok(false),
    };
    let buckets = given.difference(&theirs);
    let mut after: Option<Blob> = None;
    loop {
        let page = here.store.page(shard, buckets, after.as_ref().map(|key| &key.0[..]), PAGE_BYTES);
        let Ok((records, more)) = page else { return Ok(false) };
        let last = records.last().map(|(key, _)| key.clone());
        if !records.is_empty() {
            here.rpc.call(peer, &OFFER, &Offer { shard: shard.0, records }, PATIENCE).await?;
        }
        if !more || last.is_none() {
            return Ok(true);
        }
        after = last;
    }
}

/// Waits until every member sees the same members and has nothing left to do.
pub(crate) async fn settled(here: &Coordinator) {
    loop {
        if is_settled(here).await {
            return;
        }
        tokio::time::sleep(here.config.upkeep_interval).await;
    }
}

async fn is_settled(here: &Coordinator) -> bool {
    let ours = progress(here);
    if ours.pending > 0 {
        return false;
    }
    let map = here.map();
    let mut asked: FuturesUnordered<_> = map
        .up()
        .filter(|member| member.id != here.node)
        .map(|member| {
            let peer = Peer { node: member.id.clone(), addr: member.addr };
            here.rpc.call(&peer, &PROGRESS, &(), PATIENCE)
        })
        .collect();
    while let Some(theirs) = asked.next().await {
        if !theirs.is_ok_and(|theirs| theirs == ours) {
            return false;
        }
    }
    here.map().digest() == ours.view
}
