//! Presence for a day: whether entries leak, or what remembers them grows.
//!
//! The pure parts of a presence alone, the replicas of its document and what nodes see of it, for some dozen nodes that
//! join, leave, die, are started again, and are cut off from each other, while guards come and go. Members are an oracle
//! with a delay. Now and then all is quiet for a while, and then every node must list exactly the live entries, and its
//! document must hold little more than those: what was published of such systems is that they leak.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use polity::cluster::presence::roll::{Map, Place, Roll};
use polity::cluster::rpc::Blob;
use polity::crdt::sync::{AntiEntropy, Outgoing, SyncConfig};
use polity::crdt::{Delta as _, ReplicaId};
use polity::{Boot, NodeId, NodeName};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::workload::seed_of;

/// How many names there are, at most as many of whose nodes run.
const NAMES: u64 = 16;
/// How long it takes until a node hears of what has happened to another.
const HEARD_WITHIN_MS: u64 = 5_000;
/// How long a request is waited for.
const TIMEOUT: Duration = Duration::from_millis(500);
/// After how long one that has died and was not started again is departed: when the members have forgotten it.
const DEPARTED_AFTER: Duration = Duration::from_secs(2 * 3600);
/// How often all is quiet.
const CHECK_EVERY: Duration = Duration::from_secs(3600);
/// For how long, before it is judged.
const QUIET: Duration = Duration::from_secs(120);
/// How long actors that were retired are remembered.
const RETIRE_GRACE: Duration = Duration::from_secs(600);

/// How long it may take until all have heard of a departure, and have told each other.
const SLACK: Duration = Duration::from_secs(900);

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Soaked {
    /// How often all nodes were judged.
    pub checks: u64,
    /// How many nodes were started.
    pub boots: u64,
    /// How many guards were made.
    pub tracked: u64,
    /// The largest document at a check, in bytes, and how many entries it had.
    pub largest: (usize, usize),
    /// The most actors that a document remembered at a check, the live ones among them.
    pub actors: usize,
}

struct Node {
    id: NodeId,
    engine: AntiEntropy<Map>,
    roll: Roll,
    guards: BTreeMap<u64, String>,
    last: u64,
}

#[derive(Debug)]
enum Event {
    Request {
        from: ReplicaId,
        to: ReplicaId,
        out: Outgoing,
    },
    Answer {
        to: ReplicaId,
        id: u64,
        bytes: Option<Vec<u8>>,
    },
    /// A node hears of the members.
    Hear(ReplicaId),
    /// A node's own time has come.
    Wake(ReplicaId),
    /// Something befalls the nodes, or a guard.
    Node,
    Guard,
}

struct World {
    now: Duration,
    rng: StdRng,
    nodes: BTreeMap<ReplicaId, Node>,
    /// All boots that ever were and do not run, with the time when they are departed.
    gone: BTreeMap<ReplicaId, Duration>,
    /// The last boot of each name.
    newest: BTreeMap<u64, ReplicaId>,
    generation: u64,
    /// Names below are cut off from those above.
    cut: Option<u64>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, Event>,
    order: u64,
    wakes: BTreeMap<ReplicaId, Duration>,
    is_quiet: bool,
    soaked: Soaked,
}

/// Lets time pass, and judges. The same seed gives the same run.
///
/// # Errors
/// What was not as it must be.
pub fn soak(seed: u64, during: Duration) -> Result<Soaked, String> {
    let mut world = World {
        now: Duration::ZERO,
        rng: StdRng::seed_from_u64(seed_of(seed, "soak", 0)),
        nodes: BTreeMap::new(),
        gone: BTreeMap::new(),
        newest: BTreeMap::new(),
        generation: 0,
        cut: None,
        events: BinaryHeap::new(),
        what: BTreeMap::new(),
        order: 0,
        wakes: BTreeMap::new(),
        is_quiet: false,
        soaked: Soaked::default(),
    };
    for name in 0..NAMES - 4 {
        world.start(name);
    }
    world.post(Duration::from_secs(10), Event::Node);
    world.post(Duration::from_secs(1), Event::Guard);
    while world.now < during {
        let busy = world.now + CHECK_EVERY - QUIET;
        world.run(busy);
        world.is_quiet = true;
        world.cut = None;
        world.tell_all();
        world.run(busy + QUIET);
        world.check()?;
        world.is_quiet = false;
    }
    Ok(world.soaked)
}

impl World {
    fn post(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now + after, self.order)));
        self.what.insert(self.order, event);
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((at, order))) = self.events.peek().copied().filter(|Reverse((at, _))| *at <= until) {
            self.events.pop();
            self.now = at;
            if let Some(event) = self.what.remove(&order) {
                self.handle(event);
            }
        }
        self.now = until;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { from, to, out } => {
                let now = self.now;
                let answer = self.nodes.get_mut(&to).and_then(|node| node.engine.handle_request(now, &out.bytes).ok());
                let lost = self.rng.random_bool(0.02) || self.is_cut(from, to);
                let after = if answer.is_none() || lost { TIMEOUT } else { self.delay() };
                self.post(after, Event::Answer { to: from, id: out.id, bytes: answer.filter(|_| !lost) });
                self.advance(to);
            }
            Event::Answer { to, id, bytes } => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.engine.handle_answer(self.now, id, bytes.as_deref());
                    self.advance(to);
                }
            }
            Event::Hear(node) => self.hear(node),
            Event::Wake(at) => {
                if self.wakes.get(&at) == Some(&self.now) {
                    self.wakes.remove(&at);
                    self.advance(at);
                }
            }
            Event::Node => {
                if !self.is_quiet {
                    self.befall();
                }
                let after = Duration::from_secs(self.rng.random_range(10..90));
                self.post(after, Event::Node);
            }
            Event::Guard => {
                if !self.is_quiet {
                    self.come_or_go();
                }
                let after = Duration::from_millis(self.rng.random_range(100..2_000));
                self.post(after, Event::Guard);
            }
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(200..20_000))
    }

    fn name_of(&self, id: ReplicaId) -> Option<u64> {
        self.newest.iter().find(|(_, newest)| **newest == id).map(|(name, _)| *name)
    }

    fn is_cut(&self, a: ReplicaId, b: ReplicaId) -> bool {
        let side = |id| self.cut.zip(self.name_of(id)).map(|(cut, name)| name < cut);
        side(a) != side(b)
    }

    // What happens to nodes.

    fn start(&mut self, name: u64) {
        self.generation += 1;
        let (generation, nonce) = (self.generation, self.rng.random());
        let node_name = NodeName::new(&format!("node-{name}")).expect("a possible name");
        let id = NodeId { name: node_name, boot: Boot { generation, nonce } };
        let replica = ReplicaId(nonce as u64);
        // Whoever had the name is superseded.
        if let Some(old) = self.newest.insert(name, replica) {
            self.gone.insert(old, self.now);
        }
        let config = SyncConfig { retire_grace: RETIRE_GRACE, ..SyncConfig::default() };
        let mut engine = AntiEntropy::new(replica, id.name.as_str().as_bytes().to_vec(), nonce as u64, config);
        engine.watch();
        let node = Node { id, engine, roll: Roll::default(), guards: BTreeMap::new(), last: 0 };
        self.nodes.insert(replica, node);
        self.soaked.boots += 1;
        self.tell_all();
        self.hear(replica);
    }

    fn end(&mut self, id: ReplicaId, departed: Duration) {
        self.nodes.remove(&id);
        self.gone.insert(id, departed);
        self.tell_all();
    }

    fn befall(&mut self) {
        let name = self.rng.random_range(0..NAMES);
        let running = self.newest.get(&name).copied().filter(|id| self.nodes.contains_key(id));
        match (running, self.rng.random_range(0..10)) {
            (None, _) => self.start(name),
            (Some(id), 0..3) if self.nodes.len() > 4 => self.end(id, self.now + DEPARTED_AFTER),
            (Some(id), 3..5) if self.nodes.len() > 4 => self.end(id, self.now),
            // Started again before anybody has missed it.
            (Some(id), 5..8) => {
                self.end(id, self.now);
                self.start(name);
            }
            _ => {
                self.cut = if self.cut.is_some() { None } else { Some(self.rng.random_range(1..NAMES)) };
                self.tell_all();
            }
        }
    }

    fn tell_all(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let after = Duration::from_millis(self.rng.random_range(0..HEARD_WITHIN_MS));
            self.post(after, Event::Hear(id));
        }
    }

    fn hear(&mut self, id: ReplicaId) {
        let reached: BTreeMap<ReplicaId, NodeId> = self
            .nodes
            .iter()
            .filter(|(other, _)| **other == id || !self.is_cut(id, **other))
            .map(|(other, node)| (*other, node.id.clone()))
            .collect();
        let now = self.now;
        let is_departed = |id: &ReplicaId| self.gone.get(id).is_some_and(|departed| *departed <= now);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let known: BTreeSet<ReplicaId> =
            node.engine.replicas().map(|(id, _)| id).chain(node.engine.live_actors()).collect();
        node.engine.handle_departed(now, known.into_iter().filter(is_departed).collect());
        node.engine.handle_up(now, reached.keys().copied().collect());
        node.roll.set_owners(reached, node.engine.replica());
        self.advance(id);
    }

    fn come_or_go(&mut self) {
        let Some(id) = self.nodes.keys().copied().choose(&mut self.rng) else { return };
        let (comes, key) = (self.rng.random_bool(0.55), format!("user-{}", self.rng.random_range(0..200)));
        let meta = Blob::from(vec![self.rng.random(); 16]);
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if comes || node.guards.is_empty() {
            node.last += 1;
            let place = Place { key: key.clone(), number: node.last };
            node.engine.update(now, |map, w| map.put(w, place, meta)).expect("there is room");
            node.guards.insert(node.last, key);
            self.soaked.tracked += 1;
        } else if let Some(number) = node.guards.keys().copied().choose(&mut self.rng) {
            let place = Place { key: node.guards.remove(&number).expect("it is there"), number };
            node.engine.update(now, |map, w| map.remove(w, w.replica(), &place)).expect("it is its own");
        }
        self.advance(id);
    }

    /// Lets a node do what is due.
    fn advance(&mut self, id: ReplicaId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.engine.handle_timeout(now);
        let mut requests = Vec::new();
        while let Some(out) = node.engine.poll_request(now) {
            requests.push(out);
        }
        let changed = node.engine.take_changed();
        node.roll.look(&changed, node.engine.replica());
        // What was not searched to its end goes on after others.
        let due = node.engine.poll_timeout().map(|due| due.max(now + Duration::from_millis(1)));
        for out in requests {
            let to = out.to;
            if self.rng.random_bool(0.02) || self.is_cut(id, to) {
                self.post(TIMEOUT, Event::Answer { to: id, id: out.id, bytes: None });
            } else {
                let after = self.delay();
                self.post(after, Event::Request { from: id, to, out });
            }
        }
        if let Some(due) = due.filter(|due| self.wakes.get(&id).is_none_or(|wake| due < wake)) {
            self.wakes.insert(id, due);
            self.post(due - now, Event::Wake(id));
        }
    }

    // What must be so.

    fn check(&mut self) -> Result<(), String> {
        self.soaked.checks += 1;
        let live: BTreeSet<(String, u64, NodeId)> = self
            .nodes
            .values()
            .flat_map(|node| node.guards.iter().map(|(number, key)| (key.clone(), *number, node.id.clone())))
            .collect();
        // Who runs or is merely down is remembered. So are those that have departed, until all have acknowledged it: those too
        // that are merely down, until they are departed themselves.
        let recent = |departed: &Duration| *departed + DEPARTED_AFTER + RETIRE_GRACE + SLACK >= self.now;
        let owed = self.nodes.len() + self.gone.values().filter(|departed| recent(departed)).count();
        for node in self.nodes.values() {
            let listed: BTreeSet<_> =
                node.roll.rows().map(|row| (row.place.key.clone(), row.place.number, row.node.clone())).collect();
            if listed != live {
                let (more, less) = (listed.difference(&live).count(), live.difference(&listed).count());
                return Err(format!("at {:?} {} lists {more} that are not live and lacks {less}", self.now, node.id));
            }
            let replica = node.engine.replica();
            let actors = replica.context().replica_count();
            if actors > owed {
                return Err(format!("at {:?} {} remembers {actors} actors of {owed}", self.now, node.id));
            }
            let bytes = replica.full().encode().len();
            self.soaked.actors = self.soaked.actors.max(actors);
            self.soaked.largest = self.soaked.largest.max((bytes, replica.len()));
            let hidden = replica.len() - listed.len();
            let is_down = |id: &ReplicaId| self.gone.get(id).is_some_and(|departed| *departed > self.now);
            if hidden > 0 && !replica.iter().any(|(owner, ..)| is_down(&owner)) {
                return Err(format!("at {:?} {} holds {hidden} entries of nobody", self.now, node.id));
            }
        }
        Ok(())
    }
}
