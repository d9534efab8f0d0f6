//! What happened in a run, in order: what the checkers judge.
//!
//! A history holds faults, lives of processes, what nodes saw of each other, and operations with their outcomes, each
//! with its simulated time. It is complete: whatever a checker needs is here, so a checker is a pure function and can
//! be tested with a history written by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A machine of the world, `n0` to `n9`, on which processes of one node name live one after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub u8);

impl Host {
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

/// An operation, numbered in the order in which they begin. A put writes its own number, so values are unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Its generation.
    pub generation: u64,
    /// Its random part.
    pub nonce: u128,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.generation, (self.nonce >> 96) as u32)
    }
}

/// Whether a member is there, as another sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Basis {
    /// What a quorum of replicas knows when the write is carried out.
    Quorum,
    /// Exactly what the context that this operation returned covers.
    Of(OpId),
}

/// What is done to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Reads it at quorum.
    Get,
    /// Writes the operation's number at quorum.
    Put(Basis),
    /// Deletes it at quorum.
    Delete(Basis),
}

impl Action {
    /// What a write replaces; `None` for a read.
    #[must_use]
    pub fn basis(self) -> Option<Basis> {
        match self {
            Self::Get => None,
            Self::Put(basis) | Self::Delete(basis) => Some(basis),
        }
    }
}

/// What the caller was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done. For a read, the values found: the puts that wrote them, in order.
    Done(Vec<OpId>),
    /// It was not done, and never will be.
    NotApplied,
    /// It may have been done, or may be yet.
    Unknown,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// Datagrams from one host to another are dropped from now on.
    Cut { from: Host, to: Host },
    /// They are no longer.
    Mended { from: Host, to: Host },
    /// All faults have been removed; there will be no more.
    Healed,
    /// What a node sees of its cluster, whenever that changes.
    View { host: Host, members: MemberList },
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
    /// The scenario demanded something within a bound of simulated time, and it did not happen.
    Missed { promise: String, demand: String },
    /// Code of a node or of the world panicked.
    Panicked { message: String },
}

/// An event and its simulated time since the start of the run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When.
    pub at: Duration,
    /// What.
    pub event: Event,
}

/// The bounds that a run is judged by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// M1: how long after its end a process may be taken for alive.
    pub detection: Duration,
    /// M3: how long after the heal member lists may differ.
    pub convergence: Duration,
    /// M4: how long after its launch a restarted node may be missing from a list.
    pub comeback: Duration,
}

/// Everything that happened in a run, in order.
#[derive(Clone, Debug)]
pub struct History {
    /// How many hosts there are.
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
            (Action::Get, Outcome::Done(values)) => Some(values),
            _ => None,
        }
    }

    /// Whether it is a put or a delete.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.action != Action::Get
    }

    /// Whether it is a write whose caller was told that it was done.
    #[must_use]
    pub fn is_acknowledged_write(&self) -> bool {
        self.is_write() && matches!(self.outcome, Outcome::Done(_))
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

    /// Whether some link was cut at some time between these two.
    #[must_use]
    pub fn is_cut_between(&self, from: Duration, to: Duration) -> bool {
        let mut cut: BTreeMap<(Host, Host), Duration> = BTreeMap::new();
        for entry in &self.entries {
            match entry.event {
                Event::Cut { from, to } => {
                    cut.entry((from, to)).or_insert(entry.at);
                }
                Event::Mended { from: a, to: b } => {
                    if let Some(since) = cut.remove(&(a, b))
                        && since <= to
                        && entry.at >= from
                    {
                        return true;
                    }
                }
                _ => {}
            }
        }
        cut.values().any(|since| *since <= to)
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
    fn cuts_are_found_in_the_window() {
        let (from, to) = (Host(0), Host(1));
        let history = crate::checker::by_hand(vec![
            at(100, Event::Cut { from, to }),
            at(200, Event::Mended { from, to }),
            at(900, Event::Cut { from, to }),
        ]);
        let ms = Duration::from_millis;
        assert!(!history.is_cut_between(ms(0), ms(50)));
        assert!(history.is_cut_between(ms(150), ms(160)));
        assert!(history.is_cut_between(ms(150), ms(500)));
        assert!(!history.is_cut_between(ms(201), ms(500)));
        assert!(history.is_cut_between(ms(1000), ms(2000)));
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
