//! What happened in a run, in order: what the checkers judge.
//!
//! A history holds faults, lives of processes, what nodes saw of each other, and operations with their outcomes, each
//! with its simulated time. It is complete: whatever a checker needs is here, so a checker is a pure function and can
//! be tested with a history written by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{as_text, hex, micros, millis};

/// A machine of the world, `n0`, `n1` and so on, on which processes of one node name live one after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub u8);

impl Host {
    /// From this number on, hosts are strangers: they do not know the cluster's secret, or belong to another cluster.
    pub const FIRST_STRANGER: u8 = 100;

    /// Whether it must not be let in.
    #[must_use]
    pub fn is_stranger(self) -> bool {
        self.0 >= Self::FIRST_STRANGER
    }

    /// The host of a node's name, if it is one of the world's.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        name.strip_prefix('n')?.parse().ok().map(Self)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of_name(text).ok_or_else(|| format!("{text:?} is no host: n0, n1 and so on"))
    }
}

as_text!(Host);

/// An operation, numbered in the order in which they begin. A put writes its own number, so values are unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub u64);

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One life of a process: what the cluster calls a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Life {
    /// Its generation.
    pub generation: u64,
    /// Its random part; 32 hexadecimal digits in a file.
    #[serde(with = "hex")]
    pub nonce: u128,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.generation, (self.nonce >> 96) as u32)
    }
}

/// Whether a member is there, as another sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It answers.
    Alive,
    /// It is doubted, and counts as there.
    Suspect,
    /// It is taken for dead.
    Down,
    /// It left.
    Left,
}

impl Standing {
    /// Alive or suspect.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A member as another sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its newest life.
    pub life: Life,
    /// Whether it is there.
    pub standing: Standing,
    /// How often this life was declared down and came back.
    pub rejoin: u32,
}

/// A member list.
pub type MemberList = BTreeMap<Host, Seen>;

/// What a write replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// What a quorum of replicas knows when the write is carried out.
    Quorum,
    /// Exactly what the context that this operation returned covers.
    Of(OpId),
}

/// How many replicas take part in an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// One.
    One,
    /// A majority.
    Quorum,
    /// All.
    All,
}

/// What a key of a bucket holds, by rising precedence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Values side by side.
    Causal,
    /// The latest value.
    LastWriterWins,
    /// A number.
    Counter,
    /// Elements.
    Set,
    /// Fields.
    Map,
}

/// What a client does. Every operation is at quorum, but for those that say at which level they are.
///
/// The first three are of registers: a put writes the number of its operation. Those that follow are of values that clients
/// read, change and write back with the context of their read; siblings are merged by the readers. The last ones, from
/// [`Action::Write`] on, are of keys of buckets of any kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Reads a register.
    Get,
    /// Writes the operation's number.
    Put(Basis),
    /// Deletes a register.
    Delete(Basis),
    /// Adds the operation's number to a set.
    Add,
    /// Reads the numbers in a set.
    Elements,
    /// Adds so much to a counter.
    Count(u32),
    /// Adds so much to a counter under an idempotency key, which many operations share.
    Once {
        /// The key: what is added under one counts once.
        id: u64,
        /// How much; the same for all that share the key.
        by: u32,
    },
    /// Reads a counter.
    Total,
    /// Carries out a command, which is known by the number of the operation that tried it first.
    Order(OpId),
    /// Reads the commands that were carried out.
    Orders,
    /// Takes one from the allowance that this host has in a budget.
    Spend,
    /// Writes the operation's number, to expire after so many milliseconds.
    Lease(u32),
    /// Lets what is there expire after so many milliseconds, or never.
    Expire(Option<u32>),
    /// Deletes what was leased.
    End,
    /// Reads what is leased.
    Look,
    /// Writes the operation's number, as something of this kind: a value, an element, a field; or adds 1 to a counter.
    Write {
        /// Of what kind.
        kind: Kind,
        /// At which level.
        level: Level,
        /// Whether it is to expire some time.
        expires: bool,
    },
    /// Deletes what is there, of whatever kind.
    Erase(Level),
    /// Reads what is there, of whatever kind.
    Read(Level),
    /// Reads all keys that begin so.
    Scan,
    /// Counts the keys that begin so.
    Len,
    /// Adds an element to a set, or a field to a map, which others add and remove too.
    Insert {
        /// Which.
        element: u64,
        /// Whether under an idempotency key: that of this element.
        once: bool,
    },
    /// Removes one.
    Remove(u64),
    /// Reads them.
    Members,
    /// Adds the operation's number to a set, or 1 to a counter.
    Fade {
        /// After so many milliseconds all of it expires; `None`: when it did anyway.
        ms: Option<u32>,
        /// At which level.
        level: Level,
    },
    /// Reads what has not expired of that.
    Faded,
}

impl Action {
    /// What a write to a register replaces; `None` for everything else.
    #[must_use]
    pub fn basis(self) -> Option<Basis> {
        match self {
            Self::Put(basis) | Self::Delete(basis) => Some(basis),
            _ => None,
        }
    }
}

/// What a subscriber to a topic, or a watch, is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It has subscribed.
    Begun,
    /// All nodes that its node saw when it had subscribed know of it.
    Established,
    /// It has ended.
    Over,
}

/// An epoch of a shard: who owns it under it. The greater counter comes later, then the greater name, then the greater life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reign {
    /// Grows from owner to owner.
    pub counter: u64,
    /// The owner.
    pub owner: Host,
    /// Which of its lives.
    pub life: Life,
}

impl Ord for Reign {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |reign: &Self| (reign.counter, reign.owner.to_string(), reign.life);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Reign {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Reign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{:?}", self.counter, self.owner, self.life)
    }
}

/// What has happened to the ownership of a shard, on one node, about one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// This node owns the shard from now on.
    Claimed,
    /// This is the greatest epoch that the node knows, and was not before.
    Known,
    /// What belongs to the shard is here, for this node to own it when its owner under this epoch has let go.
    Installed,
    /// This node has let go, for that one to claim.
    Released(Host),
    /// This node owned the shard, and hears that it is owned under this other epoch.
    Superseded(Reign),
    /// The node's journal says that the shard was owned under both.
    Recorded(Reign),
    /// The node reports that the shard's handoff does not go on.
    Alarmed,
    /// A client finds that it does not.
    Stuck,
    /// An effect under this epoch may take place here.
    Accepted,
    /// It may not.
    Refused,
}

/// Who owns a shard, as one node knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The shard.
    pub shard: u32,
    /// The greatest epoch, if there is any.
    pub epoch: Option<Reign>,
    /// Whether the node itself owns it.
    pub is_here: bool,
    /// Who should own it: the first that placement names.
    pub preferred: Option<Host>,
}

/// What the caller was told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done. For a read, what was found, in order: the puts, adds or commands; of [`Action::Members`], the elements.
    Done(Vec<OpId>),
    /// It was done, and this is the total that was found.
    Total(u64),
    /// It was done, and this is what is there: something of this kind, the writes that are found in it, and what a counter
    /// stands at.
    Held {
        /// Of what kind.
        kind: Kind,
        /// By which operations, in order. None of a counter.
        found: Vec<OpId>,
        /// 0 of anything but a counter.
        total: u64,
    },
    /// The key holds something of this kind, which is another one: nothing was done.
    OtherKind(Kind),
    /// The budget is spent: nothing was done.
    Exhausted,
    /// It was not done, and never will be.
    NotApplied,
    /// It may have been done, or may be yet.
    Unknown,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say what their fields mean")]
pub enum Event {
    /// A process begins to start.
    Launched { host: Host },
    /// The node has started: it is a member.
    Ready { host: Host, life: Life },
    /// The node could not start.
    StartFailed { host: Host, reason: String },
    /// The node stopped by itself. `superseded`: it was told that a newer process has its name.
    Stopped { host: Host, superseded: bool },
    /// The process was killed; its memory is lost, and its disk too if `wiped`.
    Crashed { host: Host, wiped: bool },
    /// The node was asked to leave.
    Leaving { host: Host },
    /// It has left, and its process has ended.
    Left { host: Host },
    /// A fault begins. `disturbs`: while it lasts, nothing is promised about how soon members see each other.
    Began { fault: u32, class: String, what: String, disturbs: bool, hosts: Vec<Host> },
    /// The fault with this number has ended.
    Ended { fault: u32 },
    /// All faults have been removed; there will be no more.
    Healed,
    /// What a node sees of its cluster, whenever that changes.
    View { host: Host, members: MemberList },
    /// What a subscriber was told of the members does not make up what the node sees.
    Gap { host: Host, what: String },
    /// The node says that its store is settled.
    Settled { host: Host },
    /// An operation begins.
    Invoked { op: OpId, host: Host, key: String, action: Action },
    /// An operation ends.
    Returned { op: OpId, outcome: Outcome },
    /// A read of this key found bytes that no client can have written.
    Garbage { host: Host, key: String },
    /// All workload has ended. Reads that begin from now on are final: all live nodes read all keys until each succeeds.
    FinalReads,
    /// A host has read all keys.
    FinalReadsDone { host: Host },
    /// Before the final reads: on which hosts a node believes a key's replicas to be, and a hash of its own copy if it
    /// has one.
    Holds { host: Host, key: String, replicas: Vec<Host>, copy: Option<u64> },
    /// A client has changed a document on its own node: these numbers were added, and these were there and removed.
    Edited { host: Host, document: String, added: Vec<u64>, removed: Vec<u64> },
    /// Before the final reads: the numbers that a node's replica of a document holds, in rising order.
    Shows { host: Host, document: String, holds: Vec<u64> },
    /// A subscriber to the presence on this node is told that it can be seen here, or not any more, who says this number.
    Sighted { host: Host, number: u64, here: bool },
    /// What a subscriber to a topic is about. Its number tells it from all others of the run. `slow`: it means to be slow.
    Subscriber {
        host: Host,
        topic: String,
        subscriber: u64,
        stage: Stage,
        #[serde(default)]
        slow: bool,
    },
    /// A client has published a message.
    Published { host: Host, topic: String, sequence: u64 },
    /// A subscriber has got a message.
    Got { host: Host, subscriber: u64, publisher: Host, life: Life, sequence: u64 },
    /// A subscriber was told that messages will not come. `slow`: because it was slow itself.
    Lacks { host: Host, subscriber: u64, publisher: Host, life: Life, missed: u64, slow: bool },
    /// What a watch is about: of a key, or of all that begin so (`prefix`). Its number tells it from all others of the run. It
    /// is established when it was told that all that was there has been given.
    Watching { host: Host, watch: u64, key: String, prefix: bool, stage: Stage },
    /// A watch was told what is under a key: the puts of its siblings, in order.
    Told { host: Host, watch: u64, key: String, found: Vec<OpId> },
    /// From now on a wall clock is so far off, and gains so many parts per million.
    Clock { host: Host, skew_ms: i64, drift_ppm: i64 },
    /// Something about the owners of a shard.
    Ownership { host: Host, shard: u32, epoch: Reign, deed: Deed },
    /// Before the final reads: who owns what, as this node knows it, of all shards.
    Owners { host: Host, shards: Vec<Named> },
    /// The scenario demanded something within a bound of simulated time, and it did not happen.
    Missed { promise: String, demand: String },
    /// Code of a node or of the world panicked.
    Panicked { message: String },
    /// A program says something, for its own checkers and for whoever reads the report.
    Note { host: Host, text: String },
}

/// An event and its simulated time since the start of the run; in microseconds in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    #[serde(rename = "at_us", with = "micros")]
    pub at: Duration,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The bounds that a run is judged by; in milliseconds in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// M1: how long after its end a process may be taken for alive.
    #[serde(with = "millis")]
    pub detection: Duration,
    /// M3: how long after the heal member lists may differ.
    #[serde(with = "millis")]
    pub convergence: Duration,
    /// M4: how long after its launch a restarted node may be missing from a list.
    #[serde(with = "millis")]
    pub comeback: Duration,
    /// K4: how long after the heal, counted from when all stores have settled, the replicas of a key may differ.
    #[serde(with = "millis")]
    pub repair: Duration,
}

/// What may be spent of a budget by each host: see [`Action::Spend`].
pub const ALLOWANCE: u64 = 25;

/// Everything that happened in a run, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// What ran: the scenario's name.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// How many hosts there are, strangers not counted.
    pub hosts: u8,
    /// The bounds that hold for the configuration of this run.
    pub bounds: Bounds,
    /// The keys of the workload: what is read in the end.
    pub keys: Vec<String>,
    /// What happened.
    pub entries: Vec<Entry>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was killed.
    Crashed,
    /// It left.
    Left,
    /// It stopped by itself.
    Stopped,
}

/// The life of one process, gathered from a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Where it ran.
    pub host: Host,
    /// When it began to start.
    pub launched: Duration,
    /// When it had started, and its boot. `None` if it never did.
    pub ready: Option<(Duration, Life)>,
    /// When and how it ended. `None` if it runs until the end.
    pub ended: Option<(Duration, End)>,
}

impl Process {
    /// Whether it was a ready member throughout.
    #[must_use]
    pub fn is_ready_throughout(&self, from: Duration, to: Duration) -> bool {
        self.ready.is_some_and(|(ready, _)| ready <= from) && self.ended.is_none_or(|(ended, _)| ended > to)
    }
}

/// An operation, gathered from a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// Its number.
    pub id: OpId,
    /// Where it was called.
    pub host: Host,
    /// The key.
    pub key: String,
    /// What was to be done.
    pub action: Action,
    /// The index of the entry with which it begins.
    pub invoked: usize,
    /// The index of the entry with which it ends; `None` if the caller died first.
    pub returned: Option<usize>,
    /// What the caller was told; [`Outcome::Unknown`] if it died first.
    pub outcome: Outcome,
}

impl Op {
    /// What a successful read found.
    #[must_use]
    pub fn found(&self) -> Option<&[OpId]> {
        match (&self.action, &self.outcome) {
            (
                Action::Get
                | Action::Elements
                | Action::Orders
                | Action::Look
                | Action::Read(_)
                | Action::Scan
                | Action::Faded,
                Outcome::Done(values),
            ) => Some(values),
            _ => None,
        }
    }

    /// Whether it is a put or a delete of a register.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.action.basis().is_some()
    }

    /// Whether its caller was told that it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_) | Outcome::Total(_) | Outcome::Held { .. })
    }

    /// Whether its caller was told that nothing was done.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::NotApplied | Outcome::OtherKind(_) | Outcome::Exhausted)
    }

    /// Whether it is a write whose caller was told that it was done.
    #[must_use]
    pub fn is_acknowledged_write(&self) -> bool {
        self.is_write() && self.is_done()
    }
}

impl History {
    /// The time of the last entry.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.entries.last().map_or(Duration::ZERO, |entry| entry.at)
    }

    /// When all faults were removed.
    #[must_use]
    pub fn healed(&self) -> Option<Duration> {
        self.entries.iter().find(|entry| entry.event == Event::Healed).map(|entry| entry.at)
    }

    /// All processes in the order of their launch.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mut processes: Vec<Process> = Vec::new();
        let mut current: BTreeMap<Host, usize> = BTreeMap::new();
        for Entry { at, event } in &self.entries {
            match event {
                Event::Launched { host } => {
                    current.insert(*host, processes.len());
                    processes.push(Process { host: *host, launched: *at, ready: None, ended: None });
                }
                Event::Ready { host, life } => {
                    if let Some(i) = current.get(host) {
                        processes[*i].ready = Some((*at, *life));
                    }
                }
                Event::Crashed { host, .. } => end(&mut processes, &mut current, *host, *at, End::Crashed),
                Event::Left { host } => end(&mut processes, &mut current, *host, *at, End::Left),
                Event::Stopped { host, .. } | Event::StartFailed { host, .. } => {
                    end(&mut processes, &mut current, *host, *at, End::Stopped);
                }
                _ => {}
            }
        }
        processes
    }

    /// All operations in the order in which they began.
    #[must_use]
    pub fn ops(&self) -> BTreeMap<OpId, Op> {
        let mut ops = BTreeMap::new();
        for (index, entry) in self.entries.iter().enumerate() {
            match &entry.event {
                Event::Invoked { op, host, key, action } => {
                    let (id, key) = (*op, key.clone());
                    let (returned, outcome) = (None, Outcome::Unknown);
                    ops.insert(id, Op { id, host: *host, key, action: *action, invoked: index, returned, outcome });
                }
                Event::Returned { op, outcome } => {
                    if let Some(op) = ops.get_mut(op) {
                        op.returned = Some(index);
                        op.outcome = outcome.clone();
                    }
                }
                _ => {}
            }
        }
        ops
    }

    /// The index of the entry after which reads are final.
    #[must_use]
    pub fn final_reads(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.event == Event::FinalReads)
    }

    /// What each host saw, and since when.
    #[must_use]
    pub fn views(&self) -> BTreeMap<Host, Vec<(Duration, &MemberList)>> {
        let mut views: BTreeMap<Host, Vec<_>> = BTreeMap::new();
        for entry in &self.entries {
            if let Event::View { host, members } = &entry.event {
                views.entry(*host).or_default().push((entry.at, members));
            }
        }
        views
    }

    /// Whether a fault that disturbs what members see of each other lasted at some time between these two.
    #[must_use]
    pub fn is_disturbed_between(&self, from: Duration, to: Duration) -> bool {
        let mut lasting: BTreeMap<u32, Duration> = BTreeMap::new();
        for entry in &self.entries {
            match entry.event {
                Event::Began { fault, disturbs: true, .. } => {
                    lasting.insert(fault, entry.at);
                }
                Event::Ended { fault } => {
                    if let Some(since) = lasting.remove(&fault)
                        && since <= to
                        && entry.at >= from
                    {
                        return true;
                    }
                }
                _ => {}
            }
        }
        lasting.values().any(|since| *since <= to)
    }
}

fn end(processes: &mut [Process], current: &mut BTreeMap<Host, usize>, host: Host, at: Duration, how: End) {
    if let Some(i) = current.remove(&host) {
        processes[i].ended = Some((at, how));
    }
}

/// The view that holds at a time.
#[must_use]
pub fn view_at<'a>(views: &[(Duration, &'a MemberList)], at: Duration) -> Option<&'a MemberList> {
    let after = views.partition_point(|(since, _)| *since <= at);
    after.checked_sub(1).map(|i| views[i].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, event: Event) -> Entry {
        Entry { at: Duration::from_millis(ms), event }
    }

    #[test]
    fn disturbances_are_found_in_the_window() {
        let began = |fault, disturbs| {
            let (class, what) = ("partition".to_owned(), String::new());
            Event::Began { fault, class, what, disturbs, hosts: Vec::new() }
        };
        let history = crate::checker::by_hand(vec![
            at(100, began(0, true)),
            at(200, Event::Ended { fault: 0 }),
            at(400, began(1, false)),
            at(900, began(2, true)),
        ]);
        let ms = Duration::from_millis;
        assert!(!history.is_disturbed_between(ms(0), ms(50)));
        assert!(history.is_disturbed_between(ms(150), ms(160)));
        assert!(history.is_disturbed_between(ms(150), ms(500)));
        assert!(!history.is_disturbed_between(ms(201), ms(500)));
        assert!(history.is_disturbed_between(ms(1000), ms(2000)));
    }

    #[test]
    fn an_operation_without_an_end_is_unknown() {
        let action = Action::Put(Basis::Quorum);
        let invoked = Event::Invoked { op: OpId(7), host: Host(0), key: "k".into(), action };
        let ops = crate::checker::by_hand(vec![at(1, invoked)]).ops();
        assert_eq!(ops[&OpId(7)].outcome, Outcome::Unknown);
        assert_eq!(ops[&OpId(7)].returned, None);
    }

    #[test]
    fn the_view_at_a_time_is_the_last_before() {
        let (a, b) = (MemberList::new(), MemberList::new());
        let views = [(Duration::from_secs(1), &a), (Duration::from_secs(3), &b)];
        assert!(view_at(&views, Duration::ZERO).is_none());
        assert!(std::ptr::eq(view_at(&views, Duration::from_secs(2)).expect("a view"), &raw const a));
        assert!(std::ptr::eq(view_at(&views, Duration::from_secs(3)).expect("a view"), &raw const b));
    }
}
