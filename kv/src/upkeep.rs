//! The one task that keeps a node's shards where they belong.
//!
//! It follows the members, and does what the standing of each shard asks for (see [`crate::standing`]):
//!
//! | this node | does |
//! |---|---|
//! | has just started | learns the rosters of the shards of which it has kept none; the first of all founds them |
//! | is a replica and owes rosters | hears from their boots: fetches what it lacks |
//! | is no replica and owes rosters | asks the replicas whether they are ready, and tells them what it owes |
//! | is no replica and holds records | gives them to the replicas once none counts on it, then drops them |
//! | knows who has missed a write, and that answers again | gives it what it has missed |
//! | holds what has expired | removes it |
//! | holds tombstones that have lain for long enough | has all drop them, if nobody has anything else ([`mod@crate::tombstones`]) |
//! | has nothing to do | compares its shards with one other replica now and then |
//!
//! Errands run beside each other, one of each kind per peer at most, and are simply done again when they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::Peer;
use polity_cluster::{BoxFuture, Members, Node, NodeId, NodeName};
use polity_shard::ShardId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::errands::{self, Ask, Shards};
use crate::map::{Map, Sight};
use crate::pace::Pace;
use crate::reconcile::Purpose;
use crate::roster::Roster;
use crate::standing::Standing;
use crate::tombstones;

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    Introduce,
    Cover(NodeId),
    Mend(NodeId),
    Relieve,
    HandOver,
    Collect,
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
    /// When the store is half of the time older that tombstones lie.
    next_age: Instant,
    /// Who keeps tombstones from being collected, as was last reported.
    blocked_by: Option<NodeName>,
    waits: Waits,
}

/// What shards waited for at the last look. One that has not changed since waits for the same, so that looking again and
/// again at many shards that wait is cheap.
#[derive(Default)]
struct Waits {
    /// The members as they were.
    sight: Sight,
    shards: BTreeMap<ShardId, Wait>,
}

struct Wait {
    /// How often the standing of the shard had changed.
    news: u64,
    /// Whom it asked.
    asked: Arc<BTreeSet<NodeId>>,
}

impl Waits {
    /// What is still known now.
    fn shards_under(self, sight: &Sight) -> BTreeMap<ShardId, Wait> {
        if self.sight.is_same(sight) { self.shards } else { BTreeMap::new() }
    }
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
            next_age: Instant::now(),
            blocked_by: None,
            waits: Waits::default(),
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut changes = self.members.subscribe();
        let joined = (&mut self.ready).await;
        self.next_patrol = Instant::now() + self.here.config.patrol_interval;
        self.next_age = Instant::now() + self.here.config.tombstone_grace / 2;
        // Work is looked for when something has happened, and from time to time while some is left; but never more often
        // than this, because an errand may fail at once, and again, and again.
        let least = self.here.config.upkeep_interval / 4;
        let mut next_look = Instant::now();
        let mut earliest = next_look;
        loop {
            if Instant::now() >= next_look {
                let began = Instant::now();
                let busy = self.work(joined);
                let pause = if busy { self.here.config.upkeep_interval } else { self.here.config.patrol_interval };
                earliest = Instant::now() + least.max(Pace::after_look(began.elapsed()));
                next_look = (Instant::now() + pause).min(self.next_patrol).min(self.next_age).max(earliest);
            }
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
                () = tokio::time::sleep_until(next_look) => continue,
            }
            next_look = next_look.min(earliest);
        }
    }

    /// The members have changed.
    fn place(&self) {
        let map = Map::new(&self.members.snapshot(), self.here.store.layout());
        let before = self.here.map();
        let has_come_back = map.has_come_back(&self.here.node, &before);
        for shard in self.here.store.shard_ids() {
            if has_come_back {
                self.here.store.with_standing(shard, Standing::come_back);
            }
            self.here.store.place(shard, map.roster(shard));
        }
        self.here.mending.follow(|node| map.is_up(node) && !before.is_up(node), |node| map.may_return(node));
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
                    self.start(Errand::Introduce, async move { errands::introduce(&here).await });
                }
                // Those that it knows from before it started need not wait for the others.
                let store = &self.here.store;
                if !store.shard_ids().any(|shard| store.is_introduced(shard)) {
                    return true;
                }
            }
        }
        let is_more = self.here.store.expire(self.here.wall());
        let todo = self.sort_out();
        let busy = is_more || !todo.is_empty() || !self.introduced;
        for (peer, shards) in todo.cover {
            let here = self.here.clone();
            let errand = Errand::Cover(peer.node.clone());
            self.start(errand, async move {
                errands::cover(&here, &peer, shards, Purpose::Learn).await;
            });
        }
        if !todo.relieve.is_empty() {
            let here = self.here.clone();
            self.start(Errand::Relieve, async move { errands::relieve(&here, &todo.relieve).await });
        }
        if !todo.hand_over.is_empty() {
            let here = self.here.clone();
            self.start(Errand::HandOver, async move { errands::hand_over(&here, todo.hand_over).await });
        }
        let map = self.here.map();
        for peer in self.here.mending.due().iter().filter(|node| map.is_up(node)).filter_map(|node| map.peer(node)) {
            let here = self.here.clone();
            self.start(Errand::Mend(peer.node.clone()), async move { errands::mend(&here, &peer).await });
        }
        if Instant::now() >= self.next_patrol {
            self.next_patrol = Instant::now() + self.here.config.patrol_interval;
            self.here.store.drop_idle_sketches();
            self.patrol();
        }
        if Instant::now() >= self.next_age {
            self.next_age = Instant::now() + self.here.config.tombstone_grace / 2;
            self.collect();
        }
        busy
    }

    /// Collects the tombstones of the shards of which this node is the first replica.
    fn collect(&mut self) {
        let here = self.here.clone();
        here.store.grow_older();
        let map = here.map();
        let blocked_by = tombstones::blocked_by(&map).cloned();
        if let Some(member) = &blocked_by
            && self.blocked_by != blocked_by
        {
            tracing::warn!(
                %member, "tombstones are not collected while this member is down: have it come back, or replace it by a node of its name"
            );
        }
        self.blocked_by = blocked_by;
        if self.blocked_by.is_some() {
            return;
        }
        let is_first = |shard: &ShardId| map.preference_list(*shard).first() == Some(&here.node);
        let is_settled = |shard: &ShardId| {
            here.store.with_standing(*shard, |standing| standing.is_ready() && standing.rosters().count() == 1)
        };
        let shards: Vec<ShardId> =
            here.store.shard_ids().filter(|shard| is_first(shard) && is_settled(shard) == Some(true)).collect();
        let here = self.here.clone();
        self.start(Errand::Collect, async move { tombstones::collect(&here, shards).await });
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
    fn sort_out(&mut self) -> Lists {
        let (sight, own) = (self.here.sight(), &self.here.node);
        let map = &sight.map;
        let before = std::mem::take(&mut self.waits).shards_under(&sight);
        self.waits.sight = sight.clone();
        let mut todo = Todo::default();
        // Before the members are known, what it stood for when it stopped is all it knows.
        let placed = self.here.store.shard_ids().filter(|shard| !self.here.store.placed(*shard).is_empty());
        for shard in placed {
            let known = before.get(&shard);
            let step = self.here.store.with_standing(shard, |standing| match standing.current().contains(own) {
                true => match known.filter(|wait| wait.news == standing.news()) {
                    None if standing.settle(own, &sight) => Step::Nothing,
                    known => {
                        let look = || Arc::new(standing.to_ask(own, &sight));
                        let asked = known.map_or_else(look, |wait| wait.asked.clone());
                        let ask = Ask { shard, round: standing.round() };
                        Step::Cover(Wait { news: standing.news(), asked }, ask)
                    }
                },
                false if standing.is_ready() => Step::HandOver(standing.current().clone()),
                false => Step::Relieve,
            });
            match step.unwrap_or(Step::Nothing) {
                Step::Nothing => {}
                Step::Cover(wait, ask) => {
                    todo.waiting = true;
                    for peer in wait.asked.iter().filter(|node| map.is_up(node)).filter_map(|node| map.peer(node)) {
                        let (_, shards) = todo.cover.entry(peer.node.clone()).or_insert_with(|| (peer, Vec::new()));
                        shards.push(ask);
                    }
                    self.waits.shards.insert(shard, wait);
                }
                Step::Relieve => todo.relieve.push(shard),
                Step::HandOver(to) if self.here.store.holds_records(shard) => todo.hand_over.push((shard, to)),
                Step::HandOver(_) => {}
            }
        }
        todo.into_lists()
    }

    /// Compares what this node holds with one other replica: what messages lost on the way is repaired so.
    fn patrol(&mut self) {
        let map = self.here.map();
        let peers: Vec<Peer> = map
            .up_members()
            .filter(|member| member.id != self.here.node)
            .map(|member| Peer { node: member.id.clone(), addr: member.addr })
            .collect();
        if peers.is_empty() || mutated(Mutation::NeverPatrols) {
            return;
        }
        self.patrols += 1;
        let peer = peers[self.patrols % peers.len()].clone();
        let store = &self.here.store;
        let shared = store.shard_ids().filter_map(|shard| {
            let ask = |standing: &mut Standing| {
                let is_ours = [&self.here.node, &peer.node].iter().all(|node| standing.current().contains(node));
                is_ours.then(|| Ask { shard, round: standing.round() })
            };
            store.with_standing(shard, ask).flatten()
        });
        let (shards, here) = (shared.collect(), self.here.clone());
        self.start(Errand::Cover(peer.node.clone()), async move {
            errands::cover(&here, &peer, shards, Purpose::Equalise).await;
        });
    }
}

enum Step {
    Nothing,
    Cover(Wait, Ask),
    Relieve,
    HandOver(Roster),
}

#[derive(Default)]
struct Todo {
    waiting: bool,
    cover: BTreeMap<NodeId, (Peer, Vec<Ask>)>,
    relieve: Vec<ShardId>,
    hand_over: Shards,
}

struct Lists {
    waiting: bool,
    cover: Vec<(Peer, Vec<Ask>)>,
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
