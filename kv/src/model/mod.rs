//! A model of the quorum protocol: real stores, standings, tallies and digests of a few nodes, and everything between
//! them (messages, views, crashes, errands) in an order that a seed decides. Looks for schedules that break K1 or K3, or
//! that never settle. One shard; no time: whatever can happen next may happen next.
//!
//! What `coordinator`, `upkeep`, `errands`, `serve` and `settled` do is mirrored here step by step, because they wait and
//! the model must not. Clusters that are founded apart and meet are left out.
//!
//! | file | idea |
//! |---|---|
//! | this one | what there is: plans, messages, tasks, nodes |
//! | `views` | who believes what of whom; crashes, restarts and leaves |
//! | `disk` | what outlives a process |
//! | `calls` | messages on their way, and what is answered to them |
//! | `operations` | reads and writes, and what a read must find |
//! | `errands` | introducing, covering, relieving, handing over, settling |
//! | `run` | one run: random events, then healing, then what must be true |
//! | `explore` | many runs |
//! | `schedules` | runs that are told by hand |
//!
//! `POLITY_MODEL_SEEDS` sets how many seeds each test runs, `POLITY_MODEL_FIRST` the first of them;
//! `POLITY_MODEL_SEED` runs one and prints what happened.

/// Notes what happens, if anybody wants to know.
macro_rules! log {
    ($self:ident, $($arg:tt)*) => {
        if let Some(trace) = &mut $self.trace { let line = format!($($arg)*); trace.push(format!("{:5} {line}", $self.now)); }
    };
}

mod calls;
mod disk;
mod errands;
mod explore;
mod operations;
mod run;
mod schedules;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use polity_cluster::{Boot, NodeId, NodeName, Status};
use polity_crdt::Dot;
use polity_shard::{Candidate, Placement, ReplicaCount, ShardCount, ShardId};

use self::disk::Disk;
use crate::config::{Consistency, KvConfig};
use crate::digest::Digest;
use crate::engine::{Commit, Engine, MemoryEngine};
use crate::lineage::{Heirs, Lineage};
use crate::reconcile::{self, Purpose, Reconciliation};
use crate::record::{Blob, Record};
use crate::roster::{Roster, RosterId};
use crate::standing::Fates;
use crate::store::Store;
use crate::tally::{Tally, Vouch};
use crate::wire::Page;

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
    /// What was asked before a fence counts after it.
    LateHear,
    /// One that could not be asked is taken for one that has nothing to tell.
    Deaf,
    /// When a roster has lost its quorum for good, those of it that are left suffice.
    Heedless,
    /// What is to be handed over is dropped, whoever has taken it.
    Dropped,
    /// An account is given before the fence is on the disk.
    FenceNotKept,
    /// A sketch tells of what is not on the disk yet.
    SketchNotKept,
    /// One with an empty folder is taken for an heir.
    FalseHeirs,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    views: Views,
    broken: Broken,
    /// Whether nodes may be destroyed without repair between. Then only liveness is checked.
    careless: bool,
    steps: usize,
    lossy: bool,
    /// Whether one node has slept through restarts of others before all else begins.
    slept: bool,
    /// Whether views stay apart for a while before they heal, with nothing else going wrong.
    lull: bool,
    /// Whether nodes have disks, and their power fails: of one, of some, of all at once.
    disks: bool,
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
    Account { under: Roster, owed: Vec<Roster>, ours: Digest },
    Repair(reconcile::Ask),
    Ready { rosters: Vec<Roster> },
    Introduce,
    Progress,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a test moves few of them")]
enum Answer {
    Vouched { vouch: Vouch, record: Option<Vec<u8>>, current: Roster },
    Account(Option<(Option<Digest>, Vec<Roster>)>, Lineage),
    Sketched(Vec<reconcile::Sketched>),
    Pulled(reconcile::Pulled),
    Page(Page),
    Offered(reconcile::Offered),
    Ready(bool),
    Introduced(Option<Vec<Roster>>),
    Progress(Progress),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a test moves few of them")]
enum Leg {
    Out(Request),
    /// An answer, and what must be durable where it was given before it is sent.
    Back(Result<Answer, ()>, Commit),
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
    /// Somebody waits for `Kv::settled` here.
    Settle,
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
    /// `None` if it deletes.
    dot: Option<Dot>,
}

enum Task {
    Read(ReadOp),
    Write(WriteOp),
    Cover {
        peer: NodeId,
        under: Roster,
        round: u64,
        reconciliation: Option<Reconciliation>,
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
        reconciliation: Option<Reconciliation>,
    },
    Introduce {
        left: usize,
        all_new: bool,
        smallest: bool,
        known: bool,
        /// What those that answered know; `None` if none of them knows anything.
        rosters: Option<Vec<Roster>>,
    },
    Settle {
        left: usize,
        ours: Progress,
        /// How often something had been destroyed when this began.
        damages: usize,
    },
}

struct Entry {
    owner: NodeId,
    errand: Option<Errand>,
    task: Task,
}

// ---- the world ----------------------------------------------------------------------------------------------------

/// What one node believes of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Sight {
    generation: u64,
    status: Status,
    draining: bool,
}

impl Sight {
    fn new(generation: u64, status: Status) -> Self {
        Self { generation, status, draining: false }
    }
}

/// What one node believes of all.
type Seen = Vec<Sight>;

/// `wire::Progress`: who is up, and whether nothing is left to do.
type Progress = (Vec<(NodeId, bool)>, bool);

struct Proc {
    id: NodeId,
    alive: bool,
    left: bool,
    draining: bool,
    store: Store,
    /// What its store is kept on, if the plan has disks.
    disk: Disk,
    map: Arc<Map>,
    seen: Seen,
    at: usize,
    under_way: BTreeSet<Errand>,
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
    /// One that is cut off from all others for long, and sees nothing change.
    asleep: Option<usize>,
    /// One whose answers are always late.
    slow: Option<usize>,
    /// What did not end while the views stayed apart.
    stuck: Option<&'static str>,
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
    /// How often the power of a node failed.
    cuts: usize,
    /// Up to where the disks of boots that are gone were synced in time.
    synced: BTreeMap<NodeId, Commit>,
    /// How often a node left that had handed over all it had.
    leaves: usize,
    reads: usize,
    /// How many deletes were acknowledged.
    deletes: usize,
    /// What the last read found.
    found: Record,
    lossless: bool,
    /// How often each kind of event happens in this run.
    odds: [usize; 18],
    /// How often an introduction waits for no more answers, in percent.
    hasty: usize,
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
    let is_candidate = |at: &usize| seen[*at].status.is_up() && !seen[*at].draining;
    let candidates: Vec<Candidate> = (0..seen.len()).filter(is_candidate).map(|at| Candidate::new(name(at))).collect();
    let config = config();
    let placement = Placement::compute(&candidates, config.shards, config.replicas).ok();
    let names = placement.iter().flat_map(|placement| placement.preference_list(SHARD));
    let preferred = names.map(|name| (name.as_str().as_bytes()[0] - b'a') as usize);
    Map { preferred: preferred.map(|at| boot(at, seen[at].generation)).collect(), seen: seen.clone() }
}

impl Map {
    fn roster(&self) -> Roster {
        Roster::new(self.preferred.iter().cloned())
    }

    fn sight(&self, node: &NodeId) -> Sight {
        self.seen[place_of(node)]
    }

    fn has_peer(&self, node: &NodeId) -> bool {
        self.sight(node).generation == node.boot.generation
    }

    /// Tells two views of who is up apart.
    fn digest(&self) -> Vec<(NodeId, bool)> {
        let members = self.seen.iter().enumerate().filter(|(_, sight)| sight.status.is_up());
        members.map(|(at, sight)| (boot(at, sight.generation), sight.draining)).collect()
    }
}

/// `crate::map::Sight`.
struct Fate<'a> {
    map: &'a Map,
    heirs: Arc<Heirs>,
    broken: Broken,
}

impl Map {
    fn is_up(&self, node: &NodeId) -> bool {
        self.has_peer(node) && self.sight(node).status.is_up()
    }

    fn successor(&self, node: &NodeId) -> Option<NodeId> {
        let sight = self.sight(node);
        (sight.generation > node.boot.generation && sight.status != Status::Left)
            .then(|| boot(place_of(node), sight.generation))
    }

    fn up(&self) -> Vec<NodeId> {
        self.digest().into_iter().map(|(node, _)| node).collect()
    }
}

impl Fates for Fate<'_> {
    fn is_gone(&self, node: &NodeId) -> bool {
        let sight = self.map.sight(node);
        sight.generation > node.boot.generation || (self.map.has_peer(node) && sight.status == Status::Left)
    }

    fn is_up(&self, node: &NodeId) -> bool {
        self.map.is_up(node)
    }

    fn successor(&self, node: &NodeId) -> Option<NodeId> {
        // One that is heedless asks nobody who could know better.
        if self.broken == Broken::Heedless { None } else { self.map.successor(node) }
    }

    fn up(&self) -> Vec<NodeId> {
        if self.broken == Broken::Heedless { Vec::new() } else { self.map.up() }
    }

    fn continues(&self, newer: &NodeId, older: &NodeId) -> Option<bool> {
        if self.broken == Broken::FalseHeirs { Some(true) } else { self.heirs.continues(newer, older) }
    }
}

fn new_store(id: NodeId) -> Store {
    let config = config();
    Store::new(id, &config, Arc::new(MemoryEngine::new(config.shards))).expect("memory works")
}

/// What a boot begins with.
fn open_store(plan: &Plan, id: NodeId, disk: &Disk) -> Store {
    let engine: Arc<dyn Engine> = match plan.disks {
        true => Arc::new(disk.open()),
        false => return new_store(id),
    };
    Store::new(id, &config(), engine).expect("the model's disks work")
}
