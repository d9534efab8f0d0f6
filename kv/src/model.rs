//! A model of the quorum protocol: real stores, standings, tallies and maps of a few nodes, and everything between them
//! (messages, views, crashes, errands) in an order that a seed decides. Looks for schedules that break K1 or K3, or that
//! never settle. One shard; no time: whatever can happen next may happen next.
//!
//! What `coordinator`, `upkeep` and `serve` do is mirrored here step by step, because they wait and the model must not.
//!
//! `POLITY_MODEL_SEEDS` sets how many seeds each test runs, `POLITY_MODEL_SEED` runs one and prints what happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use polity_cluster::{Boot, NodeId, NodeName, Status};
use polity_crdt::{Dot, VersionVector};
use polity_shard::{Candidate, Placement, ReplicaCount, ShardCount, ShardId};

use crate::config::{Consistency, KvConfig};
use crate::digest::{Buckets, Digest};
use crate::engine::MemoryEngine;
use crate::record::{self, Blob, Record};
use crate::roster::{Roster, RosterId};
use crate::store::Store;
use crate::tally::{Tally, Verdict, Vouch};

const SHARD: ShardId = ShardId(0);

// ---- what is varied -----------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Views {
    /// All nodes see the same views, each at its own pace.
    Common,
    /// Each node believes what it believes.
    Apart,
}

/// What is broken on purpose, to see whether the model notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    Nothing,
    /// An account is given without a fence.
    NoFence,
    /// The answer of a replica that has just started counts.
    Amnesiac,
    /// Nothing is owed after a change of placement.
    NothingOwed,
    /// Relieved without asking.
    Relieved,
    /// Heard without fetching.
    NotFetched,
}

/// What is changed against the production code, to see whether it helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Mended {
    /// What was asked before a fence or a move does not count after it.
    late_hear: bool,
    /// A replica that could not be asked is not taken as met.
    deaf: bool,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    views: Views,
    broken: Broken,
    mended: Mended,
    /// Whether nodes may be destroyed without repair between. Then only liveness is checked.
    careless: bool,
    steps: usize,
    lossy: bool,
}

// ---- randomness ---------------------------------------------------------------------------------------------------

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

// ---- messages -----------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Request {
    Read { named: RosterId, key: Vec<u8> },
    Merge { named: RosterId, key: Vec<u8>, record: Vec<u8> },
    Account { under: Roster, total: u64 },
    Fetch { buckets: Buckets, after: Option<Vec<u8>> },
    Offer { records: Vec<(Blob, Blob)> },
    Ready { rosters: Vec<Roster> },
    Introduce,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a test moves few of them")]
enum Answer {
    Vouched { vouch: Vouch, record: Option<Vec<u8>>, current: Roster },
    Account(Option<(Option<Digest>, Vec<Roster>)>),
    Page { records: Vec<(Blob, Blob)>, more: bool },
    Taken,
    Ready(bool),
    Introduced(Option<Vec<Roster>>),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a test moves few of them")]
enum Leg {
    Out(Request),
    Back(Result<Answer, ()>),
}

#[derive(Debug)]
struct Call {
    from: NodeId,
    to: NodeId,
    /// `None` when the caller has given up.
    task: Option<usize>,
    leg: Leg,
    /// Not delivered before.
    due: usize,
}

// ---- tasks --------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    Introduce,
    Cover(NodeId),
    Relieve,
    HandOver,
}

/// `Coordinator::collect`.
struct Collect {
    map: Arc<Map>,
    tally: Tally,
    candidates: VecDeque<NodeId>,
    at_first: usize,
    pending: usize,
    hedged: bool,
    request: Request,
    /// The current rosters of those that served.
    served: BTreeSet<Roster>,
}

struct ReadOp {
    collect: Collect,
    key: usize,
    merged: Record,
    began: usize,
    level: Consistency,
    /// The write whose context this read is to find.
    then: Option<WritePlan>,
}

#[derive(Clone)]
struct WritePlan {
    key: usize,
    level: Consistency,
    rosters: Vec<Roster>,
    target: Roster,
    map: Arc<Map>,
}

struct WriteOp {
    collect: Collect,
    key: usize,
    level: Consistency,
    dot: Dot,
}

enum Task {
    Read(ReadOp),
    Write(WriteOp),
    Cover {
        peer: NodeId,
        under: Roster,
        epoch: u64,
    },
    Relieve {
        current: Roster,
        owed: Vec<Roster>,
        left: usize,
        ready: usize,
    },
    HandOver {
        current: Roster,
        given: Digest,
        up: Vec<NodeId>,
        at: usize,
        taken: usize,
        buckets: Buckets,
        after: Option<Vec<u8>>,
        more: bool,
    },
    Introduce {
        left: usize,
        all_new: bool,
        smallest: bool,
        known: bool,
    },
}

struct Entry {
    owner: NodeId,
    errand: Option<Errand>,
    task: Task,
}

// ---- the world ----------------------------------------------------------------------------------------------------

/// What one node believes of all names: the boot's generation and its status.
type Seen = Vec<Option<(u64, Status)>>;

struct Proc {
    id: NodeId,
    alive: bool,
    left: bool,
    store: Store,
    map: Arc<Map>,
    seen: Seen,
    at: usize,
    under_way: BTreeSet<Errand>,
    /// Counts what makes worthless what was heard.
    epoch: u64,
}

#[derive(Clone, Debug)]
struct Ack {
    at: usize,
    key: usize,
    dot: Dot,
    level: Consistency,
    served: BTreeSet<Roster>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    /// A read missed an acknowledged write; whether all that served both had the same roster.
    Stale {
        agreed: bool,
    },
    /// An acknowledged write was missing after repair.
    Lost,
    /// Replicas differ after a comparison of each with each.
    Unequal,
    Unsettled,
}

struct World {
    plan: Plan,
    dice: Dice,
    procs: Vec<Proc>,
    common: Vec<Seen>,
    cut: BTreeSet<(usize, usize)>,
    net: Vec<Call>,
    tasks: BTreeMap<usize, Entry>,
    next_task: usize,
    now: usize,
    acks: Vec<Ack>,
    /// A node was destroyed, and not all is repaired since.
    damaged: bool,
    wrong: Vec<Wrong>,
    trace: Option<Vec<String>>,
    values: u64,
    crashes: usize,
    reads: usize,
    lossless: bool,
    /// How often each kind of event happens in this run.
    odds: [usize; 12],
    /// How slowly each node follows the views, in percent.
    lag: Vec<usize>,
    /// How often a message is late, in percent, and by how much at most.
    late: (usize, usize),
    keys: usize,
}

fn name(at: usize) -> NodeName {
    NodeName::new(&"abcdef"[at..=at]).expect("valid")
}

fn boot(at: usize, generation: u64) -> NodeId {
    NodeId { name: name(at), boot: Boot { generation, nonce: at as u128 } }
}

fn place_of(node: &NodeId) -> usize {
    (node.name.as_str().as_bytes()[0] - b'a') as usize
}

fn short(node: &NodeId) -> String {
    format!("{}{}", node.name, node.boot.generation)
}

fn text(roster: &Roster) -> String {
    let all: Vec<_> = roster.nodes().iter().map(short).collect();
    format!("{{{}}}", all.join(" "))
}

fn texts<'a>(rosters: impl IntoIterator<Item = &'a Roster>) -> String {
    rosters.into_iter().map(text).collect::<Vec<_>>().join(",")
}

const KEYS: [&[u8]; 3] = [b"x", b"y", b"z"];

fn config() -> KvConfig {
    KvConfig {
        shards: ShardCount::new(1).expect("one"),
        replicas: ReplicaCount::new(3).expect("three"),
        max_siblings: 1000,
        ..KvConfig::default()
    }
}

/// What `crate::map::Map` is, of members that only the cluster crate can make.
struct Map {
    seen: Seen,
    preferred: Vec<NodeId>,
}

fn map_of(seen: &Seen) -> Map {
    let is_up = |at: &usize| seen[*at].is_some_and(|(_, status)| status.is_up());
    let candidates: Vec<Candidate> = (0..seen.len()).filter(is_up).map(|at| Candidate::new(name(at))).collect();
    let config = config();
    let placement = Placement::compute(&candidates, config.shards, config.replicas).expect("few nodes");
    let boot_of = |name: &NodeName| {
        let at = (name.as_str().as_bytes()[0] - b'a') as usize;
        boot(at, seen[at].expect("known").0)
    };
    Map { preferred: placement.preference_list(SHARD).map(boot_of).collect(), seen: seen.clone() }
}

impl Map {
    fn preference_list(&self, _: ShardId) -> Vec<NodeId> {
        self.preferred.clone()
    }

    fn roster(&self, _: ShardId) -> Roster {
        Roster::new(self.preferred.iter().cloned())
    }

    fn knows(&self, node: &NodeId) -> Option<(u64, Status)> {
        self.seen[place_of(node)]
    }

    fn peer(&self, node: &NodeId) -> Option<()> {
        self.knows(node).filter(|(generation, _)| *generation == node.boot.generation).map(|_| ())
    }

    fn up(&self) -> impl Iterator<Item = NodeId> {
        self.seen.iter().enumerate().filter_map(|(at, seen)| seen.filter(|(_, s)| s.is_up()).map(|(g, _)| boot(at, g)))
    }

    fn is_up(&self, node: &NodeId) -> bool {
        self.knows(node).is_some_and(|(generation, status)| generation == node.boot.generation && status.is_up())
    }

    fn is_gone(&self, node: &NodeId) -> bool {
        self.knows(node).is_some_and(|(generation, status)| {
            generation > node.boot.generation || (generation == node.boot.generation && status == Status::Left)
        })
    }

    /// Who is up, which is what tells two views apart.
    fn digest(&self) -> Vec<NodeId> {
        self.up().collect()
    }
}

fn new_store(id: NodeId) -> Store {
    let config = config();
    Store::new(id, &config, Arc::new(MemoryEngine::new(config.shards)))
}

macro_rules! log {
    ($self:ident, $($arg:tt)*) => {
        if let Some(trace) = &mut $self.trace { let line = format!($($arg)*); trace.push(format!("{:5} {line}", $self.now)); }
    };
}

impl World {
    fn new(seed: u64, plan: Plan, traced: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let count = 4 + dice.below(3);
        let mut between = |low: usize, high: usize| low + dice.below(high - low + 1);
        let rare = |n: usize| if n > 20 { 0 } else { n };
        let odds = [
            between(200, 1000),
            between(30, 300),
            between(5, 100),
            between(5, 100),
            between(5, 100),
            rare(between(0, 30)),
            between(1, 30),
            rare(between(0, 30)),
            between(1, 20),
            between(0, 15),
            between(1, 15),
            between(0, 10),
        ];
        let lag = (0..count).map(|_| if between(0, 1) == 0 { 0 } else { between(0, 98) }).collect();
        let late = (if between(0, 1) == 0 { 0 } else { between(1, 40) }, between(10, 300));
        let keys = between(1, 3);
        let seen: Seen = (0..count).map(|_| Some((1, Status::Alive))).collect();
        let map = Arc::new(map_of(&seen));
        let procs = (0..count).map(|at| {
            let id = boot(at, 1);
            let store = new_store(id.clone());
            store.place(SHARD, map.roster(SHARD));
            store.introduce(SHARD, Vec::new());
            Proc {
                id,
                alive: true,
                left: false,
                store,
                map: map.clone(),
                seen: seen.clone(),
                at: 0,
                under_way: BTreeSet::new(),
                epoch: 0,
            }
        });
        Self {
            plan,
            procs: procs.collect(),
            dice,
            common: vec![seen],
            cut: BTreeSet::new(),
            net: Vec::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            now: 0,
            acks: Vec::new(),
            damaged: false,
            wrong: Vec::new(),
            trace: traced.then(Vec::new),
            values: 0,
            crashes: 0,
            reads: 0,
            lossless: false,
            odds,
            lag,
            late,
            keys,
        }
    }

    fn living(&self, node: &NodeId) -> Option<usize> {
        let at = place_of(node);
        (self.procs[at].alive && self.procs[at].id == *node).then_some(at)
    }

    fn any_alive(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.procs.len()).filter(|at| self.procs[*at].alive).collect();
        (!alive.is_empty()).then(|| alive[self.dice.below(alive.len())])
    }

    // ---- views ----------------------------------------------------------------------------------------------------

    /// `Upkeep::place`.
    fn see(&mut self, at: usize, seen: Seen) {
        let map = Arc::new(map_of(&seen));
        let proc = &mut self.procs[at];
        let roster = map.roster(SHARD);
        if proc.map.roster(SHARD) != roster {
            proc.epoch += 1;
        }
        proc.store.place(SHARD, roster.clone());
        if self.plan.broken == Broken::NothingOwed {
            proc.store.with_standing(SHARD, |s| {
                let (current, owed) = (s.current().clone(), s.owed().cloned().collect::<Vec<_>>());
                s.relieve(&current, &owed);
            });
        }
        proc.map = map;
        proc.seen = seen;
        log!(self, "{} sees {}", short(&boot(at, self.procs[at].id.boot.generation)), text(&roster));
    }

    fn truth(&self) -> Seen {
        let one = |proc: &Proc| {
            let status = match (proc.alive, proc.left) {
                (true, _) => Status::Alive,
                (false, true) => Status::Left,
                (false, false) => Status::Down,
            };
            Some((proc.id.boot.generation, status))
        };
        self.procs.iter().map(one).collect()
    }

    fn change_view(&mut self) {
        match self.plan.views {
            Views::Common => {
                if self.dice.chance(80) {
                    // Somebody catches up.
                    let Some(at) = self.any_alive() else { return };
                    if self.dice.chance(self.lag[at]) {
                        return;
                    }
                    let last = self.common.len() - 1;
                    if self.procs[at].at < last {
                        let to = self.procs[at].at + 1 + self.dice.below(last - self.procs[at].at);
                        self.procs[at].at = to;
                        let seen = self.common[to].clone();
                        self.see(at, seen);
                    }
                } else if self.common.len() < 30 {
                    let mut next = self.common.last().expect("never empty").clone();
                    let at = self.dice.below(self.procs.len());
                    let proc = &self.procs[at];
                    let (generation, status) = next[at].expect("known");
                    next[at] = Some(match (proc.alive, generation == proc.id.boot.generation) {
                        (true, true) if status.is_up() => (generation, Status::Down),
                        (true, _) => (proc.id.boot.generation, Status::Alive),
                        (false, _) if proc.left => (generation, Status::Left),
                        (false, _) => (generation, Status::Down),
                    });
                    if next.iter().flatten().any(|(_, status)| status.is_up()) {
                        self.common.push(next);
                    }
                }
            }
            Views::Apart => {
                let Some(at) = self.any_alive() else { return };
                let mut seen = self.procs[at].seen.clone();
                let truth = self.truth();
                if self.dice.chance(30) {
                    seen = truth;
                } else {
                    let of = self.dice.below(seen.len());
                    if of == at {
                        return;
                    }
                    let (known, status) = seen[of].expect("known");
                    let (newest, real) = truth[of].expect("known");
                    seen[of] = Some(if known < newest && self.dice.chance(60) {
                        (newest, if real == Status::Down { Status::Alive } else { real })
                    } else if status == Status::Left {
                        (known, status)
                    } else if status.is_up() {
                        (known, Status::Down)
                    } else {
                        (known, Status::Alive)
                    });
                }
                self.see(at, seen);
            }
        }
    }

    fn crash(&mut self, left: bool) {
        let Some(at) = self.any_alive() else { return };
        if !self.plan.careless && self.damaged {
            let settled = (0..self.procs.len()).any(|here| self.procs[here].alive && self.is_settled(here));
            if !settled {
                return;
            }
            self.damaged = false;
        }
        if self.crashes >= 6 || self.procs.iter().filter(|proc| proc.alive).count() <= 2 {
            return;
        }
        self.crashes += 1;
        self.damaged = true;
        let proc = &mut self.procs[at];
        proc.alive = false;
        proc.left = left;
        log!(
            self,
            "{} {}",
            short(&boot(at, self.procs[at].id.boot.generation)),
            if left { "leaves" } else { "crashes" }
        );
    }

    fn restart(&mut self) {
        let dead: Vec<usize> = (0..self.procs.len()).filter(|at| !self.procs[*at].alive).collect();
        if dead.is_empty() {
            return;
        }
        let at = dead[self.dice.below(dead.len())];
        self.restart_at(at);
    }

    fn restart_at(&mut self, at: usize) {
        let id = boot(at, self.procs[at].id.boot.generation + 1);
        let mut seen = match self.plan.views {
            Views::Common => self.common.last().expect("never empty").clone(),
            Views::Apart => self.truth(),
        };
        seen[at] = Some((id.boot.generation, Status::Alive));
        self.common.push(seen.clone());
        let map = Arc::new(map_of(&seen));
        let store = new_store(id.clone());
        log!(self, "{} starts and sees {}", short(&id), text(&map.roster(SHARD)));
        store.place(SHARD, map.roster(SHARD));
        self.procs[at] = Proc {
            id,
            alive: true,
            left: false,
            store,
            map,
            seen,
            at: self.common.len() - 1,
            under_way: BTreeSet::new(),
            epoch: 0,
        };
    }

    // ---- calls ----------------------------------------------------------------------------------------------------

    fn send(&mut self, task: usize, from: &NodeId, to: &NodeId, request: Request) {
        let due = self.due();
        self.net.push(Call { from: from.clone(), to: to.clone(), task: Some(task), leg: Leg::Out(request), due });
    }

    fn due(&mut self) -> usize {
        let (often, by) = self.late;
        if self.dice.chance(often) { self.now + self.dice.below(by) } else { self.now }
    }

    fn deliver(&mut self, at: usize) {
        let call = self.net.swap_remove(at);
        let Call { from, to, task, leg, .. } = call;
        let (a, b) = (place_of(&from), place_of(&to));
        let lost = !self.lossless && self.plan.lossy && self.dice.chance(4);
        match leg {
            Leg::Out(request) => {
                let reached = self.living(&to).is_some() && !self.cut.contains(&(a, b)) && !lost;
                let back = if reached { self.serve(b, &request) } else { Err(()) };
                let due = self.due();
                self.net.push(Call { from, to, task, leg: Leg::Back(back), due });
            }
            Leg::Back(answer) => {
                let answer = if self.cut.contains(&(b, a)) || lost { Err(()) } else { answer };
                if let Some(task) = task
                    && self.living(&from).is_some()
                {
                    self.resume(task, &to, answer);
                }
            }
        }
    }

    /// What `serve` does.
    fn serve(&mut self, at: usize, request: &Request) -> Result<Answer, ()> {
        let broken = self.plan.broken;
        let proc = &mut self.procs[at];
        let store = &proc.store;
        let current = store.placed(SHARD);
        let vouch = |vouch| if vouch == Vouch::Nothing && broken == Broken::Amnesiac { Vouch::Agree } else { vouch };
        Ok(match request {
            Request::Read { named, key } => {
                let (record, vouched) = store.read(SHARD, key, *named).map_err(|_| ())?;
                Answer::Vouched { vouch: vouch(vouched), record, current }
            }
            Request::Merge { named, key, record } => {
                let vouched = store.merge(SHARD, key, record, *named).map_err(|_| ())?;
                Answer::Vouched { vouch: vouch(vouched), record: None, current }
            }
            Request::Account { under, total } => {
                let account = if broken == Broken::NoFence {
                    store.rosters(SHARD).map(|rosters| (store.digest(SHARD), rosters))
                } else {
                    store.account(SHARD, under).map(|account| (account.digest, account.rosters))
                };
                if account.is_some() && *under != current {
                    proc.epoch += 1;
                }
                let account = account.map(|(digest, rosters)| ((digest.total() != *total).then_some(digest), rosters));
                log!(
                    self,
                    "   {} fenced by {}: now {}",
                    short(&boot(at, self.procs[at].id.boot.generation)),
                    text(under),
                    texts(self.procs[at].store.rosters(SHARD).iter().flatten())
                );
                Answer::Account(account)
            }
            Request::Fetch { buckets, after } => {
                let (records, more) = store.page(SHARD, *buckets, after.as_deref(), 1).map_err(|_| ())?;
                Answer::Page { records, more }
            }
            Request::Offer { records } => {
                for (key, record) in records {
                    store.merge(SHARD, &key.0, &record.0, Roster::new([]).id()).map_err(|_| ())?;
                }
                Answer::Taken
            }
            Request::Ready { rosters } => {
                let own = store.own().clone();
                let mut rosters = rosters.iter().cloned();
                let theirs = rosters.next().ok_or(())?;
                let ready = store.with_standing(SHARD, |standing| {
                    rosters.for_each(|roster| standing.learn(roster));
                    standing.is_ready() && *standing.current() == theirs && theirs.contains(&own)
                });
                Answer::Ready(ready.unwrap_or(false))
            }
            Request::Introduce => Answer::Introduced(store.rosters(SHARD)),
        })
    }

    fn finish(&mut self, task: usize) {
        if let Some(entry) = self.tasks.remove(&task)
            && let (Some(at), Some(errand)) = (self.living(&entry.owner), entry.errand)
        {
            self.procs[at].under_way.remove(&errand);
        }
        for call in &mut self.net {
            if call.task == Some(task) {
                call.task = None;
            }
        }
    }

    fn begin(&mut self, owner: &NodeId, errand: Option<Errand>, task: Task) -> usize {
        let id = self.next_task;
        self.next_task += 1;
        self.tasks.insert(id, Entry { owner: owner.clone(), errand, task });
        id
    }

    // ---- operations -----------------------------------------------------------------------------------------------

    /// `Coordinator::by_preference`.
    fn by_preference(&mut self, at: usize, map: &Map) -> VecDeque<NodeId> {
        let mut nodes = map.preference_list(SHARD);
        self.dice.shuffle(&mut nodes);
        let own = &self.procs[at].id;
        nodes.sort_by_key(|node| {
            if node == own {
                0
            } else if !map.is_up(node) {
                3
            } else {
                1
            }
        });
        nodes.into()
    }

    /// `Coordinator::is_possible`.
    fn is_possible(map: &Map, rosters: &[Roster], level: Consistency) -> bool {
        rosters.iter().all(|roster| {
            let needed = match level {
                Consistency::One => return true,
                Consistency::Quorum => roster.quorum(),
                Consistency::All => roster.len(),
            };
            roster.nodes().iter().filter(|node| map.is_up(node)).count() >= needed
        })
    }

    /// `Coordinator::gather`, up to its loop.
    fn start_read(&mut self, at: usize, key: usize, level: Consistency, then: Option<WritePlan>) {
        let map = self.procs[at].map.clone();
        if let Some(rosters) = self.procs[at].store.rosters(SHARD)
            && !Self::is_possible(&map, &rosters, level)
        {
            return;
        }
        let mut tally = Tally::new(self.procs[at].store.placed(SHARD), level);
        let named = tally.target_id();
        let mut candidates = self.by_preference(at, &map);
        let at_first = tally.needed_of_target();
        let owner = self.procs[at].id.clone();
        let request = Request::Read { named, key: KEYS[key].to_vec() };
        let mut merged = Record::default();
        let mut served = BTreeSet::from([self.procs[at].store.placed(SHARD)]);
        if let Some(own) = candidates.iter().position(|node| *node == owner) {
            candidates.remove(own);
            tally.asked(&owner);
            if let Ok(Answer::Vouched { vouch, record, current }) = self.serve(at, &request) {
                if let Some(bytes) = record {
                    merged.merge_owned(record::decode(&bytes).expect("ours"));
                }
                tally.answered(owner.clone(), vouch);
                served.insert(current);
            }
        }
        let collect = Collect { map, tally, candidates, at_first, pending: 0, hedged: false, request, served };
        let began = self.now;
        let task = self.begin(&owner, None, Task::Read(ReadOp { collect, key, merged, began, level, then }));
        log!(
            self,
            "{} begins read {task} of {key} with {}",
            short(&owner),
            texts(self.procs[at].store.rosters(SHARD).iter().flatten())
        );
        self.advance(task);
    }

    /// `Coordinator::coordinate`.
    fn start_write(&mut self, at: usize) {
        let key = self.dice.below(self.keys);
        let level = if self.dice.chance(80) {
            Consistency::Quorum
        } else if self.dice.chance(50) {
            Consistency::All
        } else {
            Consistency::One
        };
        let proc = &self.procs[at];
        let map = proc.map.clone();
        let target = proc.store.placed(SHARD);
        if !target.contains(&proc.id) {
            return;
        }
        let Some(rosters) = proc.store.rosters(SHARD) else { return };
        if !Self::is_possible(&map, &rosters, level) {
            return;
        }
        let plan = WritePlan { key, level, rosters, target, map };
        if self.dice.chance(30) {
            self.start_read(at, key, level, Some(plan));
        } else {
            self.write(at, plan, &VersionVector::new());
        }
    }

    fn write(&mut self, at: usize, plan: WritePlan, context: &VersionVector) {
        let WritePlan { key, level, rosters, target, map } = plan;
        let mut tally = Tally::new(target, level);
        let named = tally.target_id();
        self.values += 1;
        let value = Blob::from(self.values.to_be_bytes().to_vec());
        let proc = &self.procs[at];
        let owner = proc.id.clone();
        let served = BTreeSet::from([proc.store.placed(SHARD)]);
        let written = proc.store.write(SHARD, KEYS[key], Some(&value), context, named).expect("room");
        tally.asked(&owner);
        tally.answered(owner.clone(), written.vouch);
        let record = record::decode(&written.record).expect("ours");
        let dot = record.siblings().find(|(_, v)| **v == value).expect("just written").0;
        let request = Request::Merge { named, key: KEYS[key].to_vec(), record: written.record };
        let mut all: Vec<NodeId> = rosters.iter().flat_map(Roster::nodes).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|node| *node != owner);
        let collect = Collect {
            map,
            tally,
            candidates: all.into(),
            at_first: usize::MAX,
            pending: 0,
            hedged: false,
            request,
            served,
        };
        let task = self.begin(&owner, None, Task::Write(WriteOp { collect, key, level, dot }));
        log!(
            self,
            "{} begins write {task} of {key} with {}",
            short(&owner),
            texts(self.procs[at].store.rosters(SHARD).iter().flatten())
        );
        self.advance(task);
    }

    /// One turn of the loop in `Coordinator::collect`: asks whom it must, and ends the operation if it is over.
    fn advance(&mut self, task: usize) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let owner = entry.owner.clone();
        let collect = match &mut entry.task {
            Task::Read(op) => &mut op.collect,
            Task::Write(op) => &mut op.collect,
            _ => return,
        };
        let mut to_send = Vec::new();
        let over = 'over: {
            let wanted = match collect.tally.verdict() {
                Verdict::Done => break 'over Some(true),
                Verdict::Ask(nodes) => nodes,
            };
            let mut start = |collect: &mut Collect, node: NodeId| {
                collect.tally.asked(&node);
                if collect.map.peer(&node).is_some() {
                    collect.pending += 1;
                    to_send.push(node);
                }
            };
            for node in wanted {
                if !collect.candidates.contains(&node) {
                    start(collect, node);
                }
            }
            while (collect.hedged
                || collect.pending == 0
                || collect.pending + collect.tally.answers() < collect.at_first)
                && let Some(node) = collect.candidates.pop_front()
            {
                start(collect, node);
            }
            (collect.pending == 0).then_some(false)
        };
        let request = collect.request.clone();
        for node in to_send {
            self.send(task, &owner, &node, request.clone());
        }
        match over {
            None => {}
            Some(false) => self.finish(task),
            Some(true) => self.done(task),
        }
    }

    fn done(&mut self, task: usize) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let owner = entry.owner.clone();
        let Some(at) = self.living(&owner) else { return };
        match &entry.task {
            Task::Write(op) => {
                let mut served = op.collect.served.clone();
                served.insert(self.procs[at].store.placed(SHARD));
                let ack = Ack { at: self.now, key: op.key, dot: op.dot, level: op.level, served };
                log!(
                    self,
                    "{} acknowledges write {task} of {} at {:?} ({:?}), served under {}",
                    short(&owner),
                    ack.key,
                    ack.level,
                    ack.dot,
                    texts(&ack.served)
                );
                self.acks.push(ack);
                self.finish(task);
            }
            Task::Read(op) => {
                let mut served = op.collect.served.clone();
                served.insert(self.procs[at].store.placed(SHARD));
                let (merged, key, began, then, level) =
                    (op.merged.clone(), op.key, op.began, op.then.clone(), op.level);
                self.finish(task);
                self.reads += 1;
                log!(self, "{} ends read {task} of {key}, served under {}", short(&owner), texts(&served));
                if level != Consistency::One && !self.plan.careless {
                    self.check_read(key, began, &merged, &served);
                }
                if let Some(plan) = then {
                    self.write(at, plan, merged.context());
                }
            }
            _ => {}
        }
    }

    fn check_read(&mut self, key: usize, began: usize, merged: &Record, served: &BTreeSet<Roster>) {
        let missed: Vec<Ack> = self
            .acks
            .iter()
            .filter(|ack| {
                ack.key == key && ack.at < began && ack.level != Consistency::One && !merged.context().contains(ack.dot)
            })
            .cloned()
            .collect();
        for ack in missed {
            // Within each operation everybody was of one mind.
            let agreed = served.len() == 1 && ack.served.len() == 1;
            log!(
                self,
                "STALE: missed {:?}, acknowledged at {} under {}; read under {}",
                ack.dot,
                ack.at,
                texts(&ack.served),
                texts(served)
            );
            self.wrong.push(Wrong::Stale { agreed });
        }
    }

    // ---- errands --------------------------------------------------------------------------------------------------

    /// `Upkeep::work`, once.
    fn work(&mut self, at: usize) {
        let own = self.procs[at].id.clone();
        let map = self.procs[at].map.clone();
        if !self.procs[at].store.is_introduced(SHARD) {
            if self.procs[at].under_way.insert(Errand::Introduce) {
                self.introduce(at);
            }
            return;
        }
        let standing = self.procs[at].store.with_standing(SHARD, |s| {
            let current = s.current().clone();
            if !current.contains(&own) {
                return (s.is_ready(), current, None);
            }
            if s.settle(&own, |node| map.is_gone(node), |node| map.is_up(node)) {
                return (true, current, Some(BTreeSet::new()));
            }
            (false, current, Some(s.to_ask(&own)))
        });
        let Some((ready, current, ask)) = standing else { return };
        match ask {
            Some(ask) => {
                for node in ask.iter().filter(|node| map.is_up(node)) {
                    if map.peer(node).is_some() {
                        self.cover(at, node, &current);
                    }
                }
            }
            None if !ready => {
                if self.plan.broken == Broken::Relieved {
                    self.procs[at].store.with_standing(SHARD, |s| {
                        let owed: Vec<_> = s.owed().cloned().collect();
                        s.relieve(&current, &owed);
                    });
                } else if self.procs[at].under_way.insert(Errand::Relieve) {
                    self.relieve(at);
                }
            }
            None => {
                if self.procs[at].store.holds_records(SHARD) && self.procs[at].under_way.insert(Errand::HandOver) {
                    self.hand_over(at, current);
                }
            }
        }
    }

    fn introduce(&mut self, at: usize) {
        let proc = &self.procs[at];
        let own = proc.id.clone();
        let up: Vec<NodeId> = proc.map.up().filter(|id| *id != own).collect();
        let smallest = up.iter().all(|node| own.name < node.name);
        let known = proc.map.is_up(&own);
        let task = self.begin(
            &own,
            Some(Errand::Introduce),
            Task::Introduce { left: up.len(), all_new: true, smallest, known },
        );
        for node in &up {
            self.send(task, &own, node, Request::Introduce);
        }
        if up.is_empty() {
            self.introduced(task, None);
        }
    }

    fn introduced(&mut self, task: usize, answer: Option<Result<Option<Vec<Roster>>, ()>>) {
        let nobody = self.procs.iter().filter(|proc| proc.alive).all(|proc| !proc.store.is_introduced(SHARD));
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let Task::Introduce { left, all_new, smallest, known } = &mut entry.task else { return };
        let Some(at) = ({
            let owner = &entry.owner;
            (self.procs[place_of(owner)].id == *owner).then_some(place_of(owner))
        }) else {
            return;
        };
        match answer {
            Some(Ok(Some(rosters))) => {
                log!(self, "{} introduced: {}", short(&self.procs[at].id), texts(&rosters));
                self.procs[at].store.introduce(SHARD, rosters);
                return self.finish(task);
            }
            Some(Ok(None)) => *left -= 1,
            Some(Err(())) => {
                *left -= 1;
                *all_new = false;
            }
            None => {}
        }
        if *left == 0 {
            // Founding apart is another story: only when everything was lost.
            if *all_new && *smallest && *known && nobody {
                self.procs[at].store.introduce(SHARD, Vec::new());
            }
            self.finish(task);
        }
    }

    fn cover(&mut self, at: usize, peer: &NodeId, under: &Roster) {
        if !self.procs[at].under_way.insert(Errand::Cover(peer.clone())) {
            return;
        }
        let own = self.procs[at].id.clone();
        let total = self.procs[at].store.digest(SHARD).total();
        let epoch = self.procs[at].epoch;
        let task = self.begin(
            &own,
            Some(Errand::Cover(peer.clone())),
            Task::Cover { peer: peer.clone(), under: under.clone(), epoch },
        );
        log!(self, "{} asks {} for an account under {}", short(&own), short(peer), text(under));
        self.send(task, &own, peer, Request::Account { under: under.clone(), total });
    }

    fn heard(&mut self, task: usize, at: usize, peer: &NodeId, under: &Roster, epoch: u64) {
        if !self.plan.mended.late_hear || self.procs[at].epoch == epoch {
            self.procs[at].store.with_standing(SHARD, |s| s.hear(peer, under));
            log!(self, "{} has heard {} under {}", short(&self.procs[at].id), short(peer), text(under));
        }
        self.finish(task);
    }

    fn relieve(&mut self, at: usize) {
        let own = self.procs[at].id.clone();
        let map = self.procs[at].map.clone();
        let standing =
            self.procs[at].store.with_standing(SHARD, |s| (s.current().clone(), s.owed().cloned().collect::<Vec<_>>()));
        let (current, owed) = standing.expect("introduced");
        let peers: Vec<NodeId> = current.nodes().iter().filter(|node| map.peer(node).is_some()).cloned().collect();
        let rosters: Vec<Roster> = std::iter::once(&current).chain(&owed).cloned().collect();
        let task =
            self.begin(&own, Some(Errand::Relieve), Task::Relieve { current, owed, left: peers.len(), ready: 0 });
        for peer in &peers {
            self.send(task, &own, peer, Request::Ready { rosters: rosters.clone() });
        }
        if peers.is_empty() {
            self.finish(task);
        }
    }

    fn hand_over(&mut self, at: usize, current: Roster) {
        let proc = &self.procs[at];
        let (own, map) = (proc.id.clone(), proc.map.clone());
        let given = proc.store.digest(SHARD);
        let up = current.nodes().iter().filter(|node| map.is_up(node)).cloned().collect();
        let task = self.begin(
            &own,
            Some(Errand::HandOver),
            Task::HandOver {
                current,
                given,
                up,
                at: 0,
                taken: 0,
                buckets: Buckets::default(),
                after: None,
                more: false,
            },
        );
        self.give_next(task);
    }

    fn give_next(&mut self, task: usize) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let own = entry.owner.clone();
        let Task::HandOver { current, given, up, at, taken, .. } = &entry.task else { return };
        if let Some(peer) = up.get(*at) {
            let request = Request::Account { under: current.clone(), total: given.total() };
            let peer = peer.clone();
            return self.send(task, &own, &peer, request);
        }
        if *taken == up.len() && *taken >= current.quorum() {
            let released = self.procs[place_of(&own)].store.release(SHARD, given).expect("works");
            let to = text(current);
            log!(self, "{} handed over to {to}, released: {released}", short(&own));
        }
        self.finish(task);
    }

    /// One turn of the loop in `give`. Whether it goes on.
    fn give_page(&mut self, task: usize) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let own = entry.owner.clone();
        let Task::HandOver { up, at, taken, buckets, after, more, .. } = &mut entry.task else { return };
        let page = self.procs[place_of(&own)].store.page(SHARD, *buckets, after.as_deref(), 1).expect("works");
        let (records, and_more) = page;
        *more = and_more && !records.is_empty();
        *after = records.last().map(|(key, _)| key.0.to_vec());
        if records.is_empty() {
            *taken += 1;
            *at += 1;
            return self.give_next(task);
        }
        let peer = up[*at].clone();
        self.send(task, &own, &peer, Request::Offer { records });
    }

    /// An answer arrived, or will not.
    fn resume(&mut self, task: usize, from: &NodeId, answer: Result<Answer, ()>) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let owner = entry.owner.clone();
        let here = place_of(&owner);
        match &mut entry.task {
            Task::Read(ReadOp { collect, merged, .. }) => {
                collect.pending -= 1;
                if let Ok(Answer::Vouched { vouch, record, current }) = answer {
                    if let Some(bytes) = record {
                        merged.merge_owned(record::decode(&bytes).expect("ours"));
                    }
                    collect.tally.answered(from.clone(), vouch);
                    collect.served.insert(current);
                }
                self.advance(task);
            }
            Task::Write(WriteOp { collect, .. }) => {
                collect.pending -= 1;
                if let Ok(Answer::Vouched { vouch, current, .. }) = answer {
                    collect.tally.answered(from.clone(), vouch);
                    collect.served.insert(current);
                }
                self.advance(task);
            }
            Task::Cover { peer, under, epoch } => {
                let (peer, under, epoch) = (peer.clone(), under.clone(), *epoch);
                let deaf = !self.plan.mended.deaf;
                let store = &self.procs[here].store;
                let fetch = match answer {
                    Err(()) => {
                        if deaf {
                            store.with_standing(SHARD, |s| s.miss(&peer));
                            log!(self, "{} could not ask {}", short(&owner), short(&peer));
                        }
                        return self.finish(task);
                    }
                    Ok(Answer::Account(None)) => {
                        store.with_standing(SHARD, |s| s.miss(&peer));
                        return self.finish(task);
                    }
                    Ok(Answer::Account(Some((theirs, rosters)))) => {
                        store.with_standing(SHARD, |s| rosters.into_iter().for_each(|roster| s.learn(roster)));
                        let buckets = theirs.map(|theirs| store.digest(SHARD).difference(&theirs)).unwrap_or_default();
                        if buckets.is_empty() || self.plan.broken == Broken::NotFetched {
                            return self.heard(task, here, &peer, &under, epoch);
                        }
                        Request::Fetch { buckets, after: None }
                    }
                    Ok(Answer::Page { records, more }) => {
                        for (key, record) in &records {
                            store.merge(SHARD, &key.0, &record.0, Roster::new([]).id()).expect("works");
                        }
                        match records.last() {
                            // The buckets of the first request: asking for all is the same.
                            Some((key, _)) if more => {
                                Request::Fetch { buckets: all_buckets(), after: Some(key.0.to_vec()) }
                            }
                            _ => return self.heard(task, here, &peer, &under, epoch),
                        }
                    }
                    Ok(_) => return,
                };
                self.send(task, &owner, &peer, fetch);
            }
            Task::Relieve { current, owed, left, ready } => {
                *left -= 1;
                *ready += usize::from(matches!(answer, Ok(Answer::Ready(true))));
                if *left == 0 {
                    if *ready >= current.quorum() {
                        self.procs[here].store.with_standing(SHARD, |s| s.relieve(current, owed));
                        log!(
                            self,
                            "{} relieved: {}",
                            short(&owner),
                            texts(self.procs[here].store.rosters(SHARD).iter().flatten())
                        );
                    }
                    self.finish(task);
                }
            }
            Task::HandOver { at, taken, buckets, given, after, more, .. } => match answer {
                Ok(Answer::Account(Some((Some(theirs), _)))) => {
                    *buckets = given.difference(&theirs);
                    (*after, *more) = (None, false);
                    self.give_page(task);
                }
                Ok(Answer::Account(Some((None, _)))) => {
                    *taken += 1;
                    *at += 1;
                    self.give_next(task);
                }
                Ok(Answer::Taken) if *more => self.give_page(task),
                Ok(Answer::Taken) => {
                    *taken += 1;
                    *at += 1;
                    self.give_next(task);
                }
                _ => {
                    *at += 1;
                    self.give_next(task);
                }
            },
            Task::Introduce { .. } => {
                let answer = match answer {
                    Ok(Answer::Introduced(rosters)) => Ok(rosters),
                    _ => Err(()),
                };
                self.introduced(task, Some(answer));
            }
        }
    }

    // ---- settled --------------------------------------------------------------------------------------------------

    /// `upkeep::progress`.
    fn progress(&self, at: usize) -> (Vec<NodeId>, bool) {
        let proc = &self.procs[at];
        let done = proc.store.with_standing(SHARD, |s| (s.is_ready(), s.current().contains(&proc.id)));
        let done = done.is_some_and(|(ready, ours)| ready && (ours || !proc.store.holds_records(SHARD)));
        (proc.map.digest(), done)
    }

    /// `upkeep::is_settled`, in one moment.
    fn is_settled(&self, here: usize) -> bool {
        let ours = self.progress(here);
        ours.1
            && self.procs[here].map.up().all(|member| {
                let there = place_of(&member);
                self.living(&member).is_some()
                    && !self.cut.contains(&(here, there))
                    && !self.cut.contains(&(there, here))
                    && self.progress(there) == ours
            })
    }

    // ---- the run --------------------------------------------------------------------------------------------------

    fn step(&mut self) {
        self.now += 1;
        let total: usize = self.odds.iter().sum();
        let mut roll = self.dice.below(total);
        let event = self.odds.iter().position(|odds| {
            let here = roll < *odds;
            roll = roll.wrapping_sub(*odds);
            here
        });
        let Some(at) = self.any_alive() else { return };
        match event.expect("below the total") {
            0 => {
                let due: Vec<usize> = (0..self.net.len()).filter(|at| self.net[*at].due <= self.now).collect();
                if !due.is_empty() {
                    let at = due[self.dice.below(due.len())];
                    self.deliver(at);
                }
            }
            1 => self.work(at),
            2 => self.start_write(at),
            3 => {
                let key = self.dice.below(self.keys);
                self.start_read(at, key, Consistency::Quorum, None);
            }
            4 => self.change_view(),
            5 => {
                let left = self.dice.chance(20);
                self.crash(left);
            }
            6 => self.restart(),
            7 if self.plan.lossy => {
                let (a, b) = (self.dice.below(self.procs.len()), self.dice.below(self.procs.len()));
                if a != b && self.cut.len() < 6 {
                    self.cut.insert((a, b));
                    if self.dice.chance(70) {
                        self.cut.insert((b, a));
                    }
                }
            }
            8 => self.cut.clear(),
            9 => self.give_up(),
            10 => {
                // Hedging.
                let ops: Vec<usize> =
                    self.tasks.iter().filter(|(_, e)| e.errand.is_none()).map(|(id, _)| *id).collect();
                if !ops.is_empty() {
                    let task = ops[self.dice.below(ops.len())];
                    if let Some(Entry { task: Task::Read(op), .. }) = self.tasks.get_mut(&task) {
                        op.collect.hedged = true;
                    }
                    self.advance(task);
                }
            }
            _ => self.patrol(at),
        }
    }

    /// Somebody's time is over; what it sent may still arrive.
    fn give_up(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.dice.below(self.net.len());
        let call = &mut self.net[at];
        let (from, to, task) = (call.from.clone(), call.to.clone(), call.task.take());
        if let Some(task) = task
            && self.living(&from).is_some()
        {
            self.resume(task, &to, Err(()));
        }
    }

    /// `Upkeep::patrol` with any peer.
    fn patrol(&mut self, at: usize) {
        let proc = &self.procs[at];
        let own = proc.id.clone();
        let up: Vec<NodeId> = proc.map.up().filter(|id| *id != own).collect();
        let Some(under) = proc.store.with_standing(SHARD, |s| s.current().clone()) else { return };
        if !under.contains(&own) || up.is_empty() {
            return;
        }
        let peer = up[self.dice.below(up.len())].clone();
        if under.contains(&peer) {
            self.cover(at, &peer, &under);
        }
    }

    fn drain(&mut self) {
        while !self.net.is_empty() {
            self.now += 1;
            let at = self.dice.below(self.net.len());
            self.deliver(at);
        }
    }

    fn heal(&mut self) {
        log!(self, "--- heal");
        self.lossless = true;
        self.cut.clear();
        for at in 0..self.procs.len() {
            if !self.procs[at].alive && !self.procs[at].left {
                self.restart_at(at);
            }
        }
        let truth = self.truth();
        self.common.push(truth.clone());
        let mut order: Vec<usize> = (0..self.procs.len()).collect();
        self.dice.shuffle(&mut order);
        for at in order {
            if self.procs[at].alive {
                self.procs[at].at = self.common.len() - 1;
                self.see(at, truth.clone());
            }
        }
        for _ in 0..60 {
            let alive: Vec<usize> = (0..self.procs.len()).filter(|at| self.procs[*at].alive).collect();
            if self.net.is_empty() && alive.iter().all(|at| self.is_settled(*at)) {
                break;
            }
            for at in alive {
                self.work(at);
            }
            self.drain();
        }
    }

    fn check_end(&mut self) {
        let alive: Vec<usize> = (0..self.procs.len()).filter(|at| self.procs[*at].alive).collect();
        if !alive.iter().all(|at| self.is_settled(*at)) {
            for at in &alive {
                log!(
                    self,
                    "UNSETTLED {}: {}",
                    short(&self.procs[*at].id),
                    texts(self.procs[*at].store.rosters(SHARD).iter().flatten())
                );
            }
            self.wrong.push(Wrong::Unsettled);
            return;
        }
        if self.plan.careless {
            return;
        }
        // What a quorum read finds.
        self.now += 1;
        let before = self.wrong.len();
        for at in &alive {
            for key in 0..KEYS.len() {
                self.start_read(*at, key, Consistency::Quorum, None);
            }
        }
        self.drain();
        let stale = self.wrong.len() > before;
        // Each compares with each, twice.
        let roster = self.procs[alive[0]].map.roster(SHARD);
        for _ in 0..2 {
            for node in roster.nodes() {
                for peer in roster.nodes() {
                    if node != peer {
                        self.cover(place_of(node), peer, &roster);
                        self.drain();
                    }
                }
            }
        }
        for node in roster.nodes() {
            for ack in self.acks.clone() {
                if ack.level == Consistency::One {
                    continue;
                }
                let bytes = self.procs[place_of(node)].store.read(SHARD, KEYS[ack.key], roster.id()).expect("works").0;
                let record = bytes.map(|bytes| record::decode(&bytes).expect("ours")).unwrap_or_default();
                if !record.context().contains(ack.dot) {
                    log!(self, "LOST at {}: {:?} acknowledged at {}", short(node), ack.dot, ack.at);
                    self.wrong.push(Wrong::Lost);
                }
            }
        }
        let digests: BTreeSet<u64> =
            roster.nodes().iter().map(|n| self.procs[place_of(n)].store.digest(SHARD).total()).collect();
        if digests.len() > 1 && !stale {
            self.wrong.push(Wrong::Unequal);
        }
    }

    fn tell(&self) {
        if std::env::var_os("POLITY_MODEL_SEED").is_some() {
            eprintln!("{}", self.trace.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\n"));
        }
    }

    fn run(&mut self) {
        for _ in 0..self.plan.steps {
            self.step();
            if !self.wrong.is_empty() {
                return;
            }
        }
        self.heal();
        self.check_end();
    }
}

/// The digest of a shard with something in every bucket, against an empty one.
fn all_buckets() -> Buckets {
    let mut full = Digest::default();
    for i in 0..400u32 {
        full.change(&i.to_be_bytes(), None, b"1");
    }
    full.difference(&Digest::default())
}

// ---- tests --------------------------------------------------------------------------------------------------------

#[derive(Default, Debug)]
struct Outcome {
    seeds: u64,
    steps: u64,
    acks: usize,
    reads: usize,
    crashes: usize,
    wrong: BTreeMap<String, (usize, u64)>,
}

fn seeds(ordinary: u64) -> u64 {
    std::env::var("POLITY_MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ordinary)
}

/// Runs so many seeds, or until the first that finds something.
fn explore(plan: Plan, count: u64, first: bool) -> Outcome {
    if let Some(seed) = std::env::var("POLITY_MODEL_SEED").ok().and_then(|text| text.parse().ok()) {
        let mut world = World::new(seed, plan, true);
        world.run();
        world.tell();
        eprintln!("{:?}", world.wrong);
        return Outcome::default();
    }
    let mut outcome = Outcome::default();
    for seed in 0..count {
        let mut world = World::new(seed, plan, false);
        world.run();
        outcome.seeds += 1;
        outcome.steps += world.now as u64;
        outcome.acks += world.acks.len();
        outcome.reads += world.reads;
        outcome.crashes += world.crashes;
        for wrong in &world.wrong {
            outcome.wrong.entry(format!("{wrong:?}")).or_insert((0, seed)).0 += 1;
        }
        if first && !outcome.wrong.is_empty() {
            break;
        }
    }
    eprintln!("{plan:?}\n  {outcome:?}");
    outcome
}

const PLAN: Plan = Plan {
    views: Views::Common,
    broken: Broken::Nothing,
    mended: Mended { late_hear: false, deaf: false },
    careless: false,
    steps: 400,
    lossy: true,
};

#[test]
fn with_common_views_nothing_is_stale_or_lost() {
    assert_eq!(explore(PLAN, seeds(1500), false).wrong, BTreeMap::new());
}

#[test]
fn with_views_of_their_own_nothing_is_stale_or_lost() {
    assert_eq!(explore(Plan { views: Views::Apart, ..PLAN }, seeds(1500), false).wrong, BTreeMap::new());
}

#[test]
fn what_is_mended_breaks_nothing() {
    let mended = Mended { late_hear: true, deaf: true };
    for views in [Views::Common, Views::Apart] {
        assert_eq!(explore(Plan { mended, views, ..PLAN }, seeds(700), false).wrong, BTreeMap::new());
    }
}

#[test]
fn whatever_is_destroyed_all_settles() {
    let plan = Plan { careless: true, views: Views::Apart, ..PLAN };
    assert_eq!(explore(plan, seeds(1000), false).wrong, BTreeMap::new());
}

#[test]
fn what_is_broken_is_noticed() {
    for broken in [Broken::NoFence, Broken::Amnesiac, Broken::NothingOwed, Broken::Relieved, Broken::NotFetched] {
        let outcome = explore(Plan { broken, ..PLAN }, seeds(20_000).max(20_000), true);
        assert!(!outcome.wrong.is_empty(), "{broken:?} was not noticed in {} seeds", outcome.seeds);
    }
}

// ---- schedules ----------------------------------------------------------------------------------------------------

impl World {
    /// Four nodes and nothing by chance: the three that hold the shard, and the fourth.
    fn by_hand(mended: Mended) -> (Self, [usize; 4]) {
        let mut world = World::new(0, Plan { lossy: false, mended, ..PLAN }, true);
        world.lossless = true;
        world.late = (0, 1);
        world.keys = 1;
        let seen: Seen = (0..4).map(|_| Some((1, Status::Alive))).collect();
        world.procs.truncate(4);
        world.procs.iter_mut().for_each(|proc| {
            let id = proc.id.clone();
            proc.store = new_store(id);
            proc.seen = seen.clone();
            proc.map = Arc::new(map_of(&seen));
            proc.store.place(SHARD, proc.map.roster(SHARD));
            proc.store.introduce(SHARD, Vec::new());
        });
        let mut order: Vec<usize> = world.procs[0].map.preference_list(SHARD).iter().map(place_of).collect();
        order.extend((0..4).filter(|at| !order.contains(at)).collect::<Vec<_>>());
        (world, order.try_into().expect("four"))
    }

    /// Delivers one leg between two nodes, the oldest first.
    fn pass(&mut self, from: usize, to: usize, out: bool) {
        self.now += 1;
        let fits = |call: &Call| {
            place_of(&call.from) == from && place_of(&call.to) == to && matches!(call.leg, Leg::Out(_)) == out
        };
        let at = self.net.iter().position(fits).expect("such a message is under way");
        let call = self.net.remove(at);
        self.net.push(call);
        self.deliver(self.net.len() - 1);
    }

    fn both(&mut self, from: usize, to: usize) {
        self.pass(from, to, true);
        self.pass(from, to, false);
    }
}

fn an_account_from_before_a_fence(mended: Mended) -> Vec<Wrong> {
    let (mut world, [old, both, other, new]) = World::by_hand(mended);
    // `old` is not up any more, as `other` and `new` see it; `old` and `both` do not see that yet.
    let mut later = world.procs[0].seen.clone();
    later[old] = Some((1, Status::Down));
    world.see(new, later.clone());
    world.see(other, later.clone());
    for at in [new, other] {
        world.work(at);
        world.pass(at, both, true);
    }
    // Both answers of `both` are slow. It was fenced, and covers that: it is ready under the old roster again.
    world.work(both);
    world.both(both, other);
    world.both(both, new);
    world.both(both, old);
    world.work(both);
    assert!(world.procs[both].store.with_standing(SHARD, |s| s.is_ready()).expect("introduced"));
    // A write under the old roster alone.
    let plan = {
        let proc = &world.procs[old];
        let target = proc.store.placed(SHARD);
        WritePlan { key: 0, level: Consistency::Quorum, rosters: vec![target.clone()], target, map: proc.map.clone() }
    };
    world.write(old, plan, &VersionVector::new());
    world.both(old, both);
    assert_eq!(world.acks.len(), 1);
    // Now the answers arrive.
    for at in [new, other] {
        world.pass(at, both, false);
    }
    world.both(new, other);
    world.both(other, new);
    for at in [new, other, new, other] {
        world.work(at);
    }
    world.now += 1;
    // A read asks one of the two others: the one that asks `other`.
    while !world.net.iter().any(|call| place_of(&call.from) == new && place_of(&call.to) == other) {
        world.start_read(new, 0, Consistency::Quorum, None);
    }
    world.both(new, other);
    world.tell();
    world.wrong
}

#[test]
fn what_was_asked_before_a_fence_must_not_count_after_it() {
    assert_eq!(an_account_from_before_a_fence(Mended::default()), [Wrong::Stale { agreed: true }]);
    assert_eq!(an_account_from_before_a_fence(Mended { late_hear: true, ..Mended::default() }), []);
}

impl World {
    fn quiesce(&mut self, nodes: &[usize]) {
        for _ in 0..20 {
            for at in nodes {
                self.work(*at);
            }
            self.drain();
        }
        assert!(nodes.iter().all(|at| self.is_settled(*at)));
    }

    fn destroy(&mut self, at: usize) {
        self.procs[at].alive = false;
        log!(self, "{} crashes", short(&self.procs[at].id));
        self.restart_at(at);
    }
}

fn one_that_slept(mended: Mended) -> Vec<Wrong> {
    let (mut world, [first, second, sleeper, spare]) = World::by_hand(mended);
    let awake = [first, second, spare];
    let cut: Vec<_> = awake.iter().flat_map(|at| [(*at, sleeper), (sleeper, *at)]).collect();
    // The sleeper is cut off; the others go on without it, and two of them restart, one after the other.
    world.cut.extend(&cut);
    let mut seen = world.procs[0].seen.clone();
    seen[sleeper] = Some((1, Status::Down));
    for restarts in [None, Some(first), Some(second)] {
        if let Some(at) = restarts {
            world.common.push(seen.clone());
            world.destroy(at);
            seen[at] = Some((2, Status::Alive));
        }
        for at in awake {
            world.see(at, seen.clone());
        }
        world.quiesce(&awake);
    }
    let plan = {
        let proc = &world.procs[second];
        let target = proc.store.placed(SHARD);
        WritePlan { key: 0, level: Consistency::Quorum, rosters: vec![target.clone()], target, map: proc.map.clone() }
    };
    world.write(second, plan, &VersionVector::new());
    world.drain();
    assert_eq!(world.acks.len(), 1);
    world.quiesce(&awake);
    // All is settled. The sleeper is back, and one node is destroyed.
    world.cut.clear();
    seen[sleeper] = Some((1, Status::Alive));
    world.common.push(seen.clone());
    world.destroy(first);
    seen[first] = Some((3, Status::Alive));
    world.work(first);
    // The sleeper, which has not seen anything yet, is the first to introduce it.
    world.both(first, sleeper);
    for at in 0..4 {
        world.see(at, seen.clone());
    }
    // One message of each of the two to `second` is lost.
    world.cut.extend([(first, second), (sleeper, second)]);
    for at in [first, sleeper, first, sleeper] {
        world.work(at);
        let calls = world.net.len();
        for _ in 0..2 * calls {
            let next = world.net.iter().position(|c| [first, sleeper].contains(&place_of(&c.from)));
            if let Some(next) = next {
                world.deliver(next);
            }
        }
    }
    world.now += 1;
    world.start_read(sleeper, 0, Consistency::Quorum, None);
    world.drain();
    if world.wrong.is_empty() {
        world.cut.clear();
        world.now += 1;
        for _ in 0..20 {
            (0..4).for_each(|at| world.work(at));
            world.drain();
        }
        world.start_read(sleeper, 0, Consistency::Quorum, None);
        world.drain();
        assert!((0..4).all(|at| world.is_settled(at)));
    }
    world.tell();
    world.wrong
}

#[test]
fn one_that_slept_must_hear_from_those_that_did_not() {
    assert_eq!(one_that_slept(Mended::default()), [Wrong::Stale { agreed: true }]);
    assert_eq!(one_that_slept(Mended { deaf: true, ..Mended::default() }), []);
}
