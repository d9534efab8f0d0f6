//! One operation from its call to its answer: whom to ask, and when enough have answered.
//!
//! A read is coordinated where it is called, a write by a replica of its key ([`mod@write`]).

mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::{Call, Peer, Rpc, RpcError};
use polity_cluster::{Env, Node, NodeId};
use polity_crdt::VersionVector;
use polity_shard::ShardId;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::config::{Consistency, KvConfig};
use crate::engine::EngineError;
use crate::error::{KvError, Outcome};
use crate::map::{Map, Sight};
use crate::mend::{self, Mending};
use crate::newcomers::Newcomers;
use crate::pace::Pace;
use crate::record::{self, Blob, Record, Update};
use crate::roster::{Roster, RosterId};
use crate::scan::Pages;
use crate::store::{Store, millis};
use crate::sync::RwLock;
use crate::tally::{Tally, Verdict, Vouch};
use crate::throttle::Throttle;
use crate::underway::Underway;
use crate::wire::{MERGE, Merge, PAGE_BYTES, READ, Read, SCAN, Scan, Vouched};

/// Carries out operations.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) node: NodeId,
    pub(crate) rpc: Rpc,
    pub(crate) store: Arc<Store>,
    pub(crate) map: RwLock<Arc<Map>>,
    pub(crate) config: KvConfig,
    pub(crate) mending: Arc<Mending>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) pace: Pace,
    pub(crate) underway: Underway,
    pub(crate) newcomers: Newcomers,
    env: Env,
}

/// A write that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) update: Update,
    /// What it replaces of a causal key. `None`: what a quorum knows.
    pub(crate) context: Option<VersionVector>,
    pub(crate) level: Consistency,
}

/// What came of a write.
#[derive(Debug)]
pub(crate) struct Done {
    /// It covers what was written.
    pub(crate) context: VersionVector,
    pub(crate) changed: u32,
    pub(crate) total: i128,
}

/// Why an operation did not get enough answers.
struct TooFew {
    answered: usize,
    needed: usize,
    reason: String,
    /// Whether it may get them in a moment, with the members as they are.
    again: bool,
}

impl TooFew {
    fn error(self, what: &'static str, outcome: Outcome) -> KvError {
        let Self { answered, needed, reason, .. } = self;
        KvError::NotEnoughReplicas { what, answered, needed, reason, outcome }
    }
}

impl Coordinator {
    pub(crate) fn new(node: &Node, store: Arc<Store>, config: KvConfig, mending: Arc<Mending>) -> Self {
        let (id, rpc, env) = (node.id().clone(), node.rpc().clone(), node.env().clone());
        let throttle = Arc::new(Throttle::new(config.repair));
        Self {
            node: id,
            rpc,
            store,
            map: RwLock::default(),
            config,
            mending,
            throttle,
            pace: Pace::new(),
            underway: Underway::default(),
            newcomers: Newcomers::default(),
            env,
        }
    }

    pub(crate) fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The map, and who is whose heir.
    pub(crate) fn sight(&self) -> Sight {
        Sight { map: self.map(), heirs: self.store.heirs() }
    }

    pub(crate) fn set_map(&self, map: Map) {
        self.store.forget_lineages(|name| map.has_member(name));
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }

    /// The wall clock, since the Unix epoch.
    pub(crate) fn wall(&self) -> Duration {
        self.env.ground().wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// Waits until the budget of repair allows the next message.
    pub(crate) async fn until_affordable(&self) {
        let stats = self.rpc.stats();
        self.throttle.open(|| stats.bytes_in.value() + stats.bytes_out.value()).await;
    }

    // ---- read -----------------------------------------------------------------------------------------------------

    /// Reads a key: the merge of what enough replicas have.
    pub(crate) async fn read(&self, key: &Blob, level: Consistency, within: Duration) -> Result<Record, KvError> {
        let deadline = Instant::now() + within;
        loop {
            match self.gather(key, level, deadline).await {
                Ok(mut gathered) => {
                    let now = millis(self.wall());
                    gathered.merged.forget_keys(now);
                    self.mend(key, &gathered);
                    let mut record = gathered.merged;
                    if !mutated(Mutation::ShowsExpired) {
                        record.latch(now);
                    }
                    return Ok(record);
                }
                Err(few) if few.again && self.pause(deadline).await => {}
                Err(few) => return Err(few.error("a read", Outcome::NotApplied)),
            }
        }
    }

    /// Sends the merge of what was read to the replicas that had less. Nobody waits for it.
    fn mend(&self, key: &Blob, Gathered { merged, answers }: &Gathered) {
        let equal = answers.windows(2).all(|pair| content(&pair[0].1) == content(&pair[1].1));
        if equal || !merged.is_written() || mend::is_off() {
            return;
        }
        let record = Blob::from(record::encode(merged));
        let (shard, map) = (self.store.shard_of(&key.0), self.map());
        let placed = self.store.placed(shard);
        let all = record::content(&record.0);
        let had_less = |(node, held): &&(NodeId, Option<Blob>)| content(held) != Some(all) && placed.contains(node);
        for (node, _) in answers.iter().filter(had_less) {
            if *node == self.node {
                match self.store.merge(shard, &key.0, &record.0, placed.id()) {
                    Ok(_) => self.mending.repaired_here(),
                    Err(error) => tracing::warn!(%error, "what was read was not merged here"),
                }
            } else if let Some(peer) = map.peer(node) {
                let (key, record) = (key.clone(), record.clone());
                let merge = Merge { shard: shard.0, named: placed.id(), key: key.clone(), record, before: None };
                let bytes = key.0.len() + merge.record.0.len();
                let send = || self.rpc.call(&peer, &MERGE, &merge, self.config.timeout);
                self.mending.repair(node, &key, bytes, send);
            }
        }
    }

    /// Waits a moment before what was not applied is tried again: replicas that have just started, or just got a shard,
    /// are ready soon. Returns whether there is time left.
    pub(crate) async fn pause(&self, deadline: Instant) -> bool {
        let until = Instant::now() + self.config.upkeep_interval / 2;
        if until >= deadline || self.rpc.is_stopped() {
            return false;
        }
        tokio::time::sleep_until(until).await;
        true
    }

    /// Reads a page of a shard: the records whose keys begin with `prefix`, after a key, and where to go on.
    pub(crate) async fn read_page(
        &self,
        shard: ShardId,
        prefix: &Blob,
        after: Option<&Blob>,
        level: Consistency,
    ) -> Result<(BTreeMap<Blob, Record>, Option<Blob>), KvError> {
        let deadline = Instant::now() + self.config.timeout;
        loop {
            match self.gather_page(shard, prefix, after, level, deadline).await {
                Ok((mut records, next)) => {
                    let now = millis(self.wall());
                    for record in records.values_mut() {
                        record.latch(now);
                    }
                    return Ok((records, next));
                }
                Err(few) if few.again && self.pause(deadline).await => {}
                Err(few) => return Err(few.error("a scan", Outcome::NotApplied)),
            }
        }
    }

    async fn gather_page(
        &self,
        shard: ShardId,
        prefix: &Blob,
        after: Option<&Blob>,
        level: Consistency,
        deadline: Instant,
    ) -> Result<(BTreeMap<Blob, Record>, Option<Blob>), TooFew> {
        let mut pages = Pages::default();
        let scan = |named| Scan { shard: shard.0, named, prefix: prefix.clone(), after: after.cloned() };
        let local = |named| {
            let after = after.map(|key| &key.0[..]);
            self.store.page_of(shard, &prefix.0, after, PAGE_BYTES, named)
        };
        let ask = |peer: &Peer, scan: Scan, within| self.rpc.call(peer, &SCAN, &scan, within);
        let take = |_: &NodeId, page: Result<_, String>| pages.add(page?).map_err(|error| error.to_string());
        self.gather_from(shard, level, deadline, scan, local, ask, take).await?;
        Ok(pages.finish())
    }

    /// Until when what is read now may be written somewhere else: nothing on its way is older than a tombstone that is dropped.
    fn fresh_until(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.config.tombstone_grace / 2)
    }

    async fn gather(&self, key: &Blob, level: Consistency, deadline: Instant) -> Result<Gathered, TooFew> {
        let deadline = self.fresh_until(deadline);
        let shard = self.store.shard_of(&key.0);
        let (mut merged, mut answers) = (Record::default(), Vec::<(NodeId, Option<Blob>)>::new());
        let read = |named| Read { shard: shard.0, named, key: key.clone() };
        let local = |named| {
            let (record, vouch) = self.store.read(shard, &key.0, named)?;
            Ok((record.map(Blob::from), vouch))
        };
        let ask = |peer: &Peer, read: Read, within| self.rpc.call(peer, &READ, &read, within);
        let take = |node: &NodeId, record: Result<Option<Blob>, String>| {
            let record = record?;
            // Most replicas say the same.
            if let Some(bytes) = &record
                && !answers.iter().any(|(_, held)| *held == record)
            {
                merged.merge(record::decode(&bytes.0).map_err(|error| error.to_string())?);
            }
            answers.push((node.clone(), record));
            Ok(())
        };
        self.gather_from(shard, level, deadline, read, local, ask, take).await?;
        if Instant::now() > deadline {
            // The process stood still in between.
            let reason = "what was read is too old".to_owned();
            return Err(TooFew { answered: answers.len(), needed: answers.len(), reason, again: true });
        }
        Ok(Gathered { merged, answers })
    }

    /// Asks as many replicas of a shard as the level demands, this node first, and takes what they have.
    #[allow(clippy::too_many_arguments, reason = "what differs between a read of a key and one of a page")]
    async fn gather_from<Q, R: Vouched>(
        &self,
        shard: ShardId,
        level: Consistency,
        deadline: Instant,
        question: impl Fn(RosterId) -> Q,
        local: impl FnOnce(RosterId) -> Result<(R::Brought, Vouch), EngineError>,
        ask: impl Fn(&Peer, Q, Duration) -> Call<R>,
        mut take: impl FnMut(&NodeId, Result<R::Brought, String>) -> Result<(), String>,
    ) -> Result<(), TooFew> {
        let (map, placed) = (self.map(), self.store.placed(shard));
        if let Some(rosters) = self.store.rosters(shard).filter(|_| !placed.is_empty()) {
            self.is_possible(&map, &rosters, level)?;
        }
        let level = if mutated(Mutation::ReadsOne) { Consistency::One } else { level };
        let mut tally = Tally::new(placed, level);
        let named = tally.target_id();
        let mut candidates = self.by_preference(&map, shard);
        let first = tally.needed_of_target();
        let mut errors = Errors::default();
        if let Some(at) = candidates.iter().position(|node| *node == self.node) {
            candidates.remove(at);
            tally.asked(&self.node);
            let own = local(named).map_err(|error| error.to_string());
            let taken = own.and_then(|(answer, vouch)| take(&self.node, Ok(answer)).map(|()| vouch));
            errors.note(&self.node, taken.map(|vouch| tally.answered(self.node.clone(), vouch)));
        }
        let ask = |peer: &Peer, within| ask(peer, question(named), within);
        self.collect(&map, &mut tally, candidates, first, deadline, ask, take, errors).await?.forget();
        Ok(())
    }

    /// The boots of a shard in the order in which they are asked: this node, those that answer, those that have not
    /// answered lately, those that are not up.
    pub(crate) fn by_preference(&self, map: &Map, shard: ShardId) -> VecDeque<NodeId> {
        let mut nodes = map.preference_list(shard);
        nodes.sort_by_key(|node| {
            if *node == self.node {
                0
            } else if !map.is_up(node) {
                3
            } else if self.rpc.is_stalled(node) {
                2
            } else {
                1
            }
        });
        nodes.into()
    }

    /// Asks `at_first` of the candidates, and more as answers fail, as rosters become known, or as time passes; until
    /// the tally is done. Returns the calls that have not ended by then.
    #[allow(clippy::too_many_arguments, reason = "the parts of one loop, which two kinds of operation share")]
    async fn collect<R: Vouched>(
        &self,
        map: &Map,
        tally: &mut Tally,
        mut candidates: VecDeque<NodeId>,
        at_first: usize,
        deadline: Instant,
        ask: impl Fn(&Peer, Duration) -> Call<R>,
        mut take: impl FnMut(&NodeId, Result<R::Brought, String>) -> Result<(), String>,
        mut errors: Errors,
    ) -> Result<Pending<R>, TooFew> {
        let mut pending = Pending(Vec::with_capacity(candidates.len()));
        // Whoever asks all at once has nobody left to ask later.
        let mut hedged = at_first >= candidates.len() + tally.answers();
        let hedge = tokio::time::sleep_until((Instant::now() + self.config.hedge_after).min(deadline));
        tokio::pin!(hedge);
        loop {
            let wanted = match tally.verdict() {
                Verdict::Done => return Ok(pending),
                Verdict::Ask(nodes) => nodes,
            };
            let mut start = |node: NodeId, tally: &mut Tally, pending: &mut Pending<R>| {
                tally.asked(&node);
                match map.peer(&node) {
                    Some(peer) => {
                        let call = ask(&peer, deadline.saturating_duration_since(Instant::now()));
                        pending.0.push((node, call));
                    }
                    None => errors.note(&node, Err("it is not a member any more".to_owned())),
                }
            };
            // The boots of rosters that came up are asked at once; those of our own in order of preference, and only as
            // many as are needed.
            for node in wanted {
                if !candidates.contains(&node) {
                    start(node, tally, &mut pending);
                }
            }
            while (hedged || pending.0.is_empty() || pending.0.len() + tally.answers() < at_first)
                && let Some(node) = candidates.pop_front()
            {
                start(node, tally, &mut pending);
            }
            if pending.0.is_empty() {
                let is_late = Instant::now() >= deadline;
                if is_late {
                    errors.note(&self.node, Err("the time was over".to_owned()));
                }
                return Err(TooFew {
                    answered: tally.answers(),
                    needed: tally.needed_of_target(),
                    reason: errors.text(),
                    again: !is_late,
                });
            }
            // Every call ends by the deadline.
            tokio::select! {
                biased;
                (node, answer) = pending.next() => {
                    let (vouch, brought) = match answer.map(R::split) {
                        Ok((vouch, brought)) => {
                            self.mending.answered(&node);
                            (vouch, Ok(brought))
                        }
                        Err(error) => (Vouch::Nothing, Err(error.to_string())),
                    };
                    let taken = take(&node, brought).map(|()| vouch);
                    let taken = taken.and_then(|vouch| match vouch {
                        Vouch::Nothing => Err("it has just started and is not ready".to_owned()),
                        vouch => {
                            tally.answered(node.clone(), vouch);
                            Ok(())
                        }
                    });
                    errors.note(&node, taken);
                }
                () = &mut hedge, if !hedged => hedged = true,
            }
        }
    }

    /// Whether enough boots of every roster are up: if not, nothing should be begun. If their heirs are, it may be in a
    /// moment.
    fn is_possible(&self, map: &Map, rosters: &[Roster], level: Consistency) -> Result<(), TooFew> {
        if level == Consistency::One {
            return Ok(());
        }
        for roster in rosters {
            let needed = roster.needed(level);
            let down: BTreeSet<&NodeId> = roster.nodes().iter().filter(|node| !map.is_up(node)).collect();
            let answered = roster.len() - down.len();
            if answered < needed {
                let heir_is_up = |node: &NodeId| map.successor(node).is_some_and(|newer| map.is_up(&newer));
                let again = answered + down.iter().filter(|node| heir_is_up(node)).count() >= needed;
                return Err(TooFew { answered, needed, reason: format!("these are not up: {down:?}"), again });
            }
        }
        Ok(())
    }
}

/// What a replica has of a key, without what replicas need not agree on.
fn content(held: &Option<Blob>) -> Option<&[u8]> {
    held.as_ref().map(|held| record::content(&held.0))
}

/// What replicas have of a key.
struct Gathered {
    merged: Record,
    /// What each has said.
    answers: Vec<(NodeId, Option<Blob>)>,
}

/// Calls of a few replicas.
struct Pending<R>(Vec<(NodeId, Call<R>)>);

impl<R: DeserializeOwned> Pending<R> {
    /// The next answer. There must be a call.
    async fn next(&mut self) -> (NodeId, Result<R, RpcError>) {
        std::future::poll_fn(|cx| {
            let done = self.0.iter_mut().enumerate().find_map(|(at, (_, call))| match Pin::new(call).poll(cx) {
                Poll::Ready(answer) => Some((at, answer)),
                Poll::Pending => None,
            });
            match done {
                Some((at, answer)) => Poll::Ready((self.0.swap_remove(at).0, answer)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Lets all go on without anybody waiting.
    fn forget(self) {
        self.0.into_iter().for_each(|(_, call)| call.forget());
    }
}

/// What went wrong with whom, for the error's text.
#[derive(Default)]
struct Errors(String);

impl Errors {
    /// The longest text: a handful of replicas, a sentence each.
    const MAX_BYTES: usize = 1024;

    fn note(&mut self, node: &NodeId, result: Result<(), String>) {
        if let Err(error) = result
            && self.0.len() < Self::MAX_BYTES
        {
            let separator = if self.0.is_empty() { "" } else { "; " };
            let _ = write!(self.0, "{separator}{node}: {error}");
        }
    }

    fn text(self) -> String {
        if self.0.is_empty() { "no others are known".to_owned() } else { self.0 }
    }
}
