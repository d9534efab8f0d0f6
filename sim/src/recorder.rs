//! Takes down what happens: the history, and the trace that two runs of a seed are compared by.
//!
//! The trace is a hash over every datagram (its time, source, target, bytes and what became of it) and
//! every event.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polity::Carriage;
use xxhash_rust::xxh3::Xxh3;

use crate::case::Case;
use crate::history::{Action, Entry, Event, History, Host, Life, MemberList, OpId, Outcome};

/// What a recorder knows of a host now.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// Its process has been launched and has not ended.
    pub running: bool,
    /// Its node's boot, if it has started.
    pub life: Option<Life>,
    /// What it sees.
    pub view: MemberList,
    /// Its store has settled since it was last asked.
    pub settled: bool,
    /// It has done its final reads.
    pub read_all: bool,
    /// Its operations that have not ended.
    pub open: u32,
    /// When its process was told that a newer one has its name, and stopped.
    pub superseded: Option<Duration>,
}

/// The state that [`Recorder`] guards.
#[derive(Debug)]
pub struct Record {
    history: History,
    hosts: BTreeMap<Host, Now>,
    callers: BTreeMap<OpId, Host>,
    next_op: u64,
    clock: Duration,
    datagrams: u64,
    trace: Trace,
}

struct Trace(Xxh3);

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0.digest())
    }
}

/// Shared by the world and all its hosts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    /// An empty record.
    #[must_use]
    pub fn new(case: &Case, keys: Vec<String>) -> Self {
        let Case { scenario, seed, settings, .. } = case;
        let (scenario, bounds) = (scenario.clone(), settings.bounds.clone());
        let history = History { scenario, seed: *seed, hosts: settings.hosts, bounds, keys, entries: Vec::new() };
        Self(Arc::new(Mutex::new(Record {
            history,
            hosts: (0..settings.hosts).map(|host| (Host(host), Now::default())).collect(),
            callers: BTreeMap::new(),
            next_op: 0,
            clock: Duration::ZERO,
            datagrams: 0,
            trace: Trace(Xxh3::new()),
        })))
    }

    /// Looks at the record.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event at the current simulated time.
    pub fn event(&self, event: Event) {
        self.lock().event(event);
    }

    /// Records that an operation begins, and numbers it.
    pub fn invoke(&self, host: Host, key: &str, action: Action) -> OpId {
        self.invoke_as(host, key, |_| action)
    }

    /// The same for an action that depends on the operation's number.
    pub fn invoke_as(&self, host: Host, key: &str, action: impl FnOnce(OpId) -> Action) -> OpId {
        let mut record = self.lock();
        let op = OpId(record.next_op);
        record.next_op += 1;
        record.event(Event::Invoked { op, host, key: key.to_owned(), action: action(op) });
        op
    }

    /// The keys that are read in the end.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.lock().history.keys.clone()
    }

    /// Records how it ended.
    pub fn returned(&self, op: OpId, outcome: Outcome) {
        self.event(Event::Returned { op, outcome });
    }
}

impl Record {
    /// Sets the time of what happens outside of any host.
    pub fn set_clock(&mut self, now: Duration) {
        self.clock = now;
    }

    fn now(&mut self) -> Duration {
        // A host may be ahead of the world's clock within a tick. Time never runs backwards in a history.
        let now = if turmoil::in_simulation() { turmoil::sim_elapsed() } else { None };
        self.clock = self.clock.max(now.unwrap_or(self.clock));
        self.clock
    }

    /// Adds a datagram to the trace.
    pub fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], carriage: &Carriage) {
        let now = self.now().as_nanos() as u64;
        let hash = &mut self.trace.0;
        hash.update(&now.to_le_bytes());
        for addr in [from, to] {
            match addr.ip() {
                std::net::IpAddr::V4(ip) => hash.update(&ip.octets()),
                std::net::IpAddr::V6(ip) => hash.update(&ip.octets()),
            }
            hash.update(&addr.port().to_le_bytes());
        }
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
        match carriage {
            Carriage::Lost => hash.update(&[0]),
            Carriage::Whole => hash.update(&[1]),
            Carriage::Instead(copies) => {
                for (after, _) in copies {
                    hash.update(&(after.as_nanos() as u64).to_le_bytes());
                }
            }
        }
        self.datagrams += 1;
    }

    /// Adds an event to the history and to the trace.
    pub fn event(&mut self, event: Event) {
        let at = self.now();
        self.follow(&event);
        self.trace.0.update(format!("{at:?}{event:?}").as_bytes());
        tracing::debug!(?at, ?event, "history");
        self.history.entries.push(Entry { at, event });
    }

    fn follow(&mut self, event: &Event) {
        let hosts = &mut self.hosts;
        match event {
            Event::View { host, .. } if host.is_stranger() => {}
            Event::Launched { host } => {
                *hosts.entry(*host).or_default() = Now { running: true, ..Now::default() };
            }
            Event::Ready { host, life } => hosts.entry(*host).or_default().life = Some(*life),
            Event::Stopped { host, superseded } => {
                let superseded = superseded.then_some(self.clock);
                *hosts.entry(*host).or_default() = Now { superseded, ..Now::default() };
            }
            Event::Crashed { host, .. } | Event::Left { host } | Event::StartFailed { host, .. } => {
                *hosts.entry(*host).or_default() = Now::default();
            }
            Event::View { host, members } => hosts.entry(*host).or_default().view.clone_from(members),
            Event::Settled { host } => hosts.entry(*host).or_default().settled = true,
            Event::FinalReadsDone { host } => hosts.entry(*host).or_default().read_all = true,
            Event::Invoked { op, host, .. } => {
                self.callers.insert(*op, *host);
                hosts.entry(*host).or_default().open += 1;
            }
            Event::Returned { op, .. } => {
                if let Some(now) = self.callers.remove(op).and_then(|host| hosts.get_mut(&host)) {
                    now.open = now.open.saturating_sub(1);
                }
            }
            _ => {}
        }
    }

    /// What is known of each host now.
    #[must_use]
    pub fn hosts(&self) -> &BTreeMap<Host, Now> {
        &self.hosts
    }

    /// Forgets that stores have settled, before asking again.
    pub fn clear_settled(&mut self) {
        self.hosts.values_mut().for_each(|now| now.settled = false);
    }

    /// Whether every running node has started and lists exactly the running nodes as up.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        let running: BTreeMap<Host, Option<Life>> =
            self.hosts.iter().filter(|(_, now)| now.running).map(|(host, now)| (*host, now.life)).collect();
        self.hosts.values().filter(|now| now.running).all(|now| {
            let up = now.view.iter().filter(|(_, seen)| seen.standing.is_up());
            now.life.is_some() && up.map(|(host, seen)| (*host, Some(seen.life))).eq(running.clone())
        })
    }

    /// The trace so far.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.0.digest()
    }

    /// How many datagrams were sent so far.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// The history so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The history; nothing is left here.
    pub fn take_history(&mut self) -> History {
        let entries = std::mem::take(&mut self.history.entries);
        History { entries, ..self.history.clone() }
    }

    /// A process is about to be launched on this host: it counts as running before it says so itself.
    pub fn launching(&mut self, host: Host) {
        *self.hosts.entry(host).or_default() = Now { running: true, ..Now::default() };
    }
}
