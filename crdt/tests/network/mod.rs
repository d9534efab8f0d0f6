//! Replicas on a bad network, and what must be true of them whatever happens.
//!
//! A *history* is a function of its seed: a few replicas write, requests and answers are lost, doubled, delayed and
//! overtake each other, links are cut, replicas crash and others take their place, configuration is drawn. Then faults
//! end, and within a bound all replicas must be equal and nothing lost or resurrected.
//!
//! The judge knows deltas, not types. A write adds the dots that are live in its delta and removes those that are dead. In
//! the end a dot that a survivor added and nobody removed is live, and one that a survivor removed is not. What only a
//! replica knew that has crashed may be either.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use polity_crdt::sync::{AntiEntropy, Outgoing, SyncConfig};
use polity_crdt::{Change, Crdt, Delta, Dot, ReplicaId, VersionVector, Writer};

/// What a write of a history does to a `T`: all randomness comes from the number.
pub(crate) trait Written: Crdt {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self>;
}

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request { to: ReplicaId, from: ReplicaId, id: u64, bytes: Vec<u8>, answer: bool },
    Answer { to: ReplicaId, id: u64, bytes: Option<Vec<u8>> },
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) delay_ms: u64,
}

pub(crate) const CALM: Weather = Weather { lost: 0, doubled: 0, delay_ms: 1 };

pub(crate) struct World<T: Crdt> {
    pub(crate) now: Duration,
    pub(crate) replicas: BTreeMap<ReplicaId, AntiEntropy<T>>,
    pub(crate) weather: Weather,
    pub(crate) random: Random,
    config: SyncConfig,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    order: u64,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    next_replica: u64,
    crashed: BTreeSet<ReplicaId>,
    pub(crate) departed: BTreeSet<ReplicaId>,
    added: BTreeSet<Dot>,
    /// Who removed a dot.
    removed: BTreeMap<Dot, BTreeSet<ReplicaId>>,
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
}

fn dots(set: &VersionVector) -> impl Iterator<Item = Dot> {
    set.iter().flat_map(|(replica, runs)| runs.flatten().map(move |counter| Dot { replica, counter }))
}

impl<T: Crdt> World<T> {
    pub(crate) fn new(seed: u64, replicas: u64, config: SyncConfig) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            replicas: BTreeMap::new(),
            weather: CALM,
            random: Random::new(seed),
            config,
            events: BinaryHeap::new(),
            order: 0,
            cut: BTreeSet::new(),
            next_replica: 0,
            crashed: BTreeSet::new(),
            departed: BTreeSet::new(),
            added: BTreeSet::new(),
            removed: BTreeMap::new(),
            bytes: 0,
            requests: 0,
        };
        for _ in 0..replicas {
            world.start();
        }
        world
    }

    /// A replica that knows nothing joins.
    pub(crate) fn start(&mut self) -> ReplicaId {
        self.next_replica += 1;
        // Not in the order of their starts.
        let id = ReplicaId(self.next_replica.wrapping_mul(0xd134_2543_de82_ef95) | 1);
        let tag = self.next_replica.to_le_bytes().to_vec();
        let replica = AntiEntropy::new(id, tag, self.random.next(), self.config.clone());
        self.replicas.insert(id, replica);
        self.tell_who_is_up();
        id
    }

    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.replicas.keys().copied().collect()
    }

    /// Each hears of those that it can reach, and of those that are gone for good.
    pub(crate) fn tell_who_is_up(&mut self) {
        self.tell(&self.ids());
    }

    /// These hear of those that they can reach, and of those that are gone for good.
    fn tell(&mut self, listeners: &[ReplicaId]) {
        let ids = self.ids();
        for id in listeners {
            let up = ids.iter().copied().filter(|other| !self.cut.contains(&(*id, *other))).collect();
            let replica = self.replicas.get_mut(id).expect("it is there");
            let known: BTreeSet<ReplicaId> =
                replica.replicas().map(|(id, _)| id).chain(replica.live_actors()).collect();
            let departed = self.departed.intersection(&known).copied().collect();
            replica.handle_departed(self.now, departed);
            replica.handle_up(self.now, up);
        }
    }

    pub(crate) fn set_cut(&mut self, a: ReplicaId, b: ReplicaId, cut: bool) {
        for pair in [(a, b), (b, a)] {
            if cut {
                self.cut.insert(pair);
            } else {
                self.cut.remove(&pair);
            }
        }
    }

    /// The replica's process ends, with its memory. Others learn sooner or later that it will not be back.
    pub(crate) fn crash(&mut self, id: ReplicaId) {
        self.replicas.remove(&id);
        self.crashed.insert(id);
        self.departed.insert(id);
    }

    pub(crate) fn write_with(&mut self, at: ReplicaId, write: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>) -> bool {
        let replica = self.replicas.get_mut(&at).expect("it is there");
        let Ok(Some(delta)) = replica.update(self.now, write) else { return false };
        self.added.extend(dots(&delta.live()));
        for dot in dots(&delta.dead()) {
            self.removed.entry(dot).or_default().insert(at);
        }
        self.collect();
        true
    }

    fn post(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now + after, self.order, event)));
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(1 + self.random.below(self.weather.delay_ms * 1000))
    }

    /// Takes what all replicas want to send.
    fn collect(&mut self) {
        for id in self.ids() {
            while let Some(out) = self.replicas.get_mut(&id).and_then(|replica| replica.poll_request(self.now)) {
                self.send(id, out);
            }
        }
    }

    fn send(&mut self, from: ReplicaId, out: Outgoing) {
        self.bytes += out.bytes.len() as u64;
        self.requests += 1;
        let Outgoing { to, id, bytes, .. } = out;
        let bytes = bytes.to_vec();
        if self.cut.contains(&(from, to)) || self.random.chance(self.weather.lost) {
            return self.post(Duration::from_millis(500), Event::Answer { to: from, id, bytes: None });
        }
        if self.random.chance(self.weather.doubled) {
            let late = self.delay() * 4;
            self.post(late, Event::Request { to, from, id, bytes: bytes.clone(), answer: false });
        }
        let delay = self.delay();
        self.post(delay, Event::Request { to, from, id, bytes, answer: true });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { to, from, id, bytes, answer } => {
                let answered = self
                    .replicas
                    .get_mut(&to)
                    .map(|replica| replica.handle_request(self.now, &bytes).expect("replicas understand each other"));
                self.bytes += answered.as_ref().map_or(0, Vec::len) as u64;
                if answer {
                    let lost = self.cut.contains(&(to, from)) || self.random.chance(self.weather.lost);
                    let bytes = answered.filter(|_| !lost);
                    let delay = if bytes.is_some() { self.delay() } else { Duration::from_millis(500) };
                    self.post(delay, Event::Answer { to: from, id, bytes });
                }
            }
            Event::Answer { to, id, bytes } => {
                if let Some(replica) = self.replicas.get_mut(&to) {
                    replica.handle_answer(self.now, id, bytes.as_deref());
                }
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, during: Duration) {
        let end = self.now + during;
        self.collect();
        loop {
            let timeout = self.replicas.values().filter_map(AntiEntropy::poll_timeout).min();
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let next = timeout.into_iter().chain(event).min().unwrap_or(end).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            if event == Some(next) || event.is_some_and(|at| at <= next) {
                let Reverse((_, _, event)) = self.events.pop().expect("it was just looked at");
                self.handle(event);
            } else if timeout.is_none() {
                break;
            } else {
                for replica in self.replicas.values_mut() {
                    replica.handle_timeout(next);
                }
                if self.replicas.values().filter_map(AntiEntropy::poll_timeout).min().is_some_and(|due| due <= next) {
                    // Whatever is due at once is asked for below; time must not stand still.
                    self.now += Duration::from_micros(1);
                }
            }
            self.collect();
        }
        self.now = end;
    }

    /// Faults end: everything is delivered, everyone is reached, and everyone knows who is gone.
    pub(crate) fn heal(&mut self) {
        self.weather = CALM;
        self.cut.clear();
        self.tell_who_is_up();
    }

    pub(crate) fn are_equal(&self) -> bool {
        let mut replicas = self.replicas.values();
        let Some(first) = replicas.next() else { return true };
        replicas.all(|other| other.replica() == first.replica())
    }

    /// Runs until all replicas are equal, at most for so long.
    pub(crate) fn settle(&mut self, within: Duration) -> bool {
        let end = self.now + within;
        while self.now < end {
            self.run(Duration::from_millis(250));
            // Of some that are gone it is heard only now.
            self.tell_who_is_up();
            if self.are_equal() {
                return true;
            }
        }
        false
    }

    /// Those that were told that they had been forgotten begin anew.
    fn replace_forgotten(&mut self) {
        for id in self.ids() {
            if self.replicas.get_mut(&id).expect("it is there").take_export().is_some() {
                self.replicas.remove(&id);
                self.departed.insert(id);
                self.start();
            }
        }
    }

    /// Two groups that do not reach each other, or one again.
    fn split(&mut self, groups: u64, whole: bool) {
        let ids = self.ids();
        for (a, first) in ids.iter().enumerate() {
            for (b, second) in ids.iter().enumerate().skip(a + 1) {
                self.set_cut(*first, *second, !whole && (groups >> a & 1) != (groups >> b & 1));
            }
        }
    }

    fn picture(&self) -> String {
        let of = |(id, sync): (&ReplicaId, &AntiEntropy<T>)| {
            let replica = sync.replica();
            let rest = (sync.blocked(), sync.replicas().map(|(id, _)| id).collect::<Vec<_>>(), sync.stats());
            format!("\n{id}: {:?}\n  context {:?}\n  {rest:?}", **replica, replica.context())
        };
        self.replicas.iter().map(of).chain([format!("\ngone: {:?}", self.departed)]).collect()
    }

    /// What C1 and C2 demand once faults have ended and replicas are equal.
    pub(crate) fn check(&self) {
        let survivor = |id: &ReplicaId| !self.crashed.contains(id);
        let Some(replica) = self.replicas.values().next() else { return };
        let live: BTreeSet<Dot> = dots(&replica.replica().live()).collect();
        for dot in &live {
            assert!(self.added.contains(dot), "{dot} was never written");
            let removers = self.removed.get(dot);
            assert!(!removers.is_some_and(|ids| ids.iter().any(survivor)), "{dot} was removed and is back");
            assert!(!T::GOES_WITH_ITS_WRITER || !self.departed.contains(&dot.replica), "{dot} has outlived its writer");
        }
        for dot in self.added.iter().filter(|dot| survivor(&dot.replica)) {
            // A mark goes with the removes that it beats or is beaten by, once all have seen them.
            assert!(T::LEAVES_MARKS || live.contains(dot) || self.removed.contains_key(dot), "{dot} is lost");
        }
        for replica in self.replicas.values() {
            let live = replica.replica().live();
            assert!(replica.replica().context().covers(&live), "what is live was heard of");
        }
    }
}

/// Draws a configuration.
pub(crate) fn config(random: &mut Random) -> SyncConfig {
    SyncConfig {
        coalesce: Duration::from_micros(random.below(2_000)),
        fan_out: 1 + random.below(4) as usize,
        window: 1 + random.below(4) as usize,
        chunk_items: 1 + random.below(6) as usize,
        chunk_bytes: 1 + random.below(300) as usize,
        round_interval: Duration::from_millis(200 + random.below(2_000)),
        patience: Duration::from_millis(600 + random.below(2_000)),
        log_entries: random.below(12) as usize,
        // Longer than any message of a history is under way.
        retire_grace: Duration::from_secs(4),
    }
}

/// A history, from its seed to its end. Returns the world for more checks.
pub(crate) fn history<T: Written>(seed: u64) -> World<T> {
    let mut random = Random::new(seed ^ 0xabcd);
    let config = config(&mut random);
    let mut world = World::<T>::new(seed, 2 + random.below(3), config);
    world.weather = Weather {
        lost: [0, 10, 30][random.below(3) as usize],
        doubled: [0, 20][random.below(2) as usize],
        delay_ms: [1, 20, 300][random.below(3) as usize],
    };
    for _ in 0..4 + random.below(24) {
        let ids = world.ids();
        let at = ids[random.below(ids.len() as u64) as usize];
        let other = ids[random.below(ids.len() as u64) as usize];
        match random.below(100) {
            0..70 => {
                let number = random.next();
                world.write_with(at, |state, w| state.write(w, number));
            }
            70..80 => {
                let cut = random.chance(70);
                world.set_cut(at, other, cut);
                if random.chance(50) {
                    world.tell_who_is_up();
                }
            }
            80..84 if ids.len() > 1 => {
                world.crash(at);
                if random.chance(50) {
                    world.tell_who_is_up();
                }
                world.start();
            }
            84..86 if ids.len() < 5 => {
                world.start();
            }
            // Long enough for those that have departed to be retired by whoever can.
            86..89 => {
                world.tell_who_is_up();
                world.run(Duration::from_secs(random.below(16)));
            }
            _ => world.run(Duration::from_millis(random.below(400))),
        }
    }
    world.heal();
    assert!(world.settle(Duration::from_secs(120)), "replicas do not become equal: {}", world.picture());
    world.check();
    world
}

/// A longer history: splits into groups, views that differ, an operator who forgets replicas that run, and time enough
/// for actors to be retired. All reach everyone at first, newcomers too: one that only a replica knows that then crashes
/// blocks nobody's retirement, which is why the real grace time is a day and not these seconds.
pub(crate) fn long_history<T: Written>(seed: u64) -> World<T> {
    let mut random = Random::new(seed ^ 0x1_0c0d);
    let config = SyncConfig { retire_grace: Duration::from_millis(2_500), ..config(&mut random) };
    let mut world = World::<T>::new(seed, 2 + random.below(5), config);
    world.run(Duration::from_secs(6));
    world.weather = Weather {
        lost: [0, 10, 30][random.below(3) as usize],
        doubled: [0, 20][random.below(2) as usize],
        delay_ms: [1, 20, 300][random.below(3) as usize],
    };
    let longest = [400, 2_000, 12_000][random.below(3) as usize];
    let most = 4 + random.below(5) as usize;
    // Two that forget each other never speak again.
    let mut forgetter = None;
    for _ in 0..10 + random.below(90) {
        let ids = world.ids();
        let at = ids[random.below(ids.len() as u64) as usize];
        let other = ids[random.below(ids.len() as u64) as usize];
        match random.below(100) {
            0..55 => {
                for _ in 0..=random.below(3) {
                    let number = random.next();
                    world.write_with(at, |state, w| state.write(w, number));
                }
            }
            55..60 => world.set_cut(at, other, random.chance(60)),
            60..64 => world.split(random.next(), random.chance(50)),
            64..72 => world.tell(&[at]),
            72..76 => world.tell_who_is_up(),
            76..80 if ids.len() > 1 => world.crash(at),
            80..83 if ids.len() < most => {
                let lost = std::mem::take(&mut world.weather.lost);
                world.cut.clear();
                world.start();
                world.run(Duration::from_secs(6));
                world.weather.lost = lost;
            }
            83..85 if ids.len() > 2 && at != other && *forgetter.get_or_insert(at) == at => {
                let now = world.now;
                world.replicas.get_mut(&at).expect("it runs").handle_forgotten(now, BTreeSet::from([other]));
                world.crashed.insert(other);
            }
            85..86 => world.weather.lost = [0, 10, 30, 60][random.below(4) as usize],
            _ => world.run(Duration::from_millis(random.below(longest))),
        }
        world.replace_forgotten();
    }
    world.heal();
    let end = world.now + Duration::from_secs(120);
    while !world.are_equal() || world.now + Duration::from_secs(119) < end {
        assert!(world.now < end, "replicas do not become equal: {}", world.picture());
        world.run(Duration::from_millis(250));
        world.replace_forgotten();
        world.tell_who_is_up();
    }
    world.check();
    world
}
