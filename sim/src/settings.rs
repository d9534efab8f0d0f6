//! How a world is built: drawn from the seed within the ranges that a scenario allows.

use std::time::Duration;

use polity::shard::{ReplicaCount, ShardCount};
use polity::{KvConfig, Owners, Preset, Timings};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::{Deserialize, Serialize};

use crate::history::{Bounds, Host};
use crate::text::millis;
use crate::workload::{self, Workload};

/// The most hosts of a world, strangers not counted.
pub const MAX_HOSTS: u8 = 30;

/// Somebody who must not be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stranger {
    /// It has another secret.
    WrongSecret,
    /// It has the secret, and belongs to another cluster.
    OtherCluster,
    /// It divides its keys into another number of shards.
    OtherShards,
}

/// The configuration of the stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Into how many shards the keys are divided: a power of two.
    pub shards: u32,
    /// How many nodes hold each key.
    pub replicas: u8,
    /// How many nodes hold each key of some buckets ([`workload::OTHERS`]), if that is another number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_replicas: Option<u8>,
    /// How long an operation may take.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// How long a read waits before it asks more replicas.
    #[serde(rename = "hedge_after_ms", with = "millis")]
    pub hedge_after: Duration,
    /// How often replicas compare what they hold.
    #[serde(rename = "patrol_interval_ms", with = "millis")]
    pub patrol_interval: Duration,
    /// How often work that could not be done is tried again.
    #[serde(rename = "upkeep_interval_ms", with = "millis")]
    pub upkeep_interval: Duration,
}

/// The network and the nodes of a world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many hosts there are: 1 to [`MAX_HOSTS`].
    pub hosts: u8,
    /// How many of them, the last ones, are not started with the others: a fault lets them join.
    pub late: u8,
    /// How many of them, from the first on, everyone greets as seeds.
    pub seeds: u8,
    /// Nodes are launched at random within this time from the start.
    #[serde(rename = "launch_within_ms", with = "millis")]
    pub launch_within: Duration,
    /// How long a datagram takes. The same for all, so that a link by itself does not reorder.
    #[serde(rename = "latency_ms", with = "millis")]
    pub latency: Duration,
    /// The simulation's step: what happens within it happens at once.
    #[serde(rename = "tick_ms", with = "millis")]
    pub tick: Duration,
    /// Whether nodes have a folder in which they remember their generation.
    pub disk: bool,
    /// Whether the stores keep their records on that disk, too.
    #[serde(default)]
    pub durable: bool,
    /// Into how many zones the nodes are divided.
    pub zones: u8,
    /// The times of membership in percent of those of the preset for a data centre.
    pub pace: u16,
    /// Whether a process that is started again listens on another port than the last.
    pub moving: bool,
    /// Whether the first process of each host is of the build before, and those that follow are of this one.
    #[serde(default)]
    pub upgrade: bool,
    /// Whether an operator changes the cluster's secret again and again.
    #[serde(default)]
    pub rotating: bool,
    /// The stores.
    pub store: Store,
    /// What the clients do, by name: see [`workload::ALL`].
    pub workloads: Vec<String>,
    /// Who knocks at the door.
    pub strangers: Vec<Stranger>,
    /// The bounds that the run is judged by.
    pub bounds: Bounds,
}

impl Settings {
    /// A quiet world of five: links of 20 ms, three replicas, the first clients.
    #[must_use]
    pub fn quiet() -> Self {
        let store = KvConfig::default();
        let quiet = Self {
            hosts: 5,
            late: 0,
            seeds: 3,
            launch_within: Duration::from_millis(200),
            latency: Duration::from_millis(20),
            tick: Duration::from_millis(2),
            disk: false,
            durable: false,
            zones: 1,
            pace: 100,
            moving: false,
            upgrade: false,
            rotating: false,
            store: Store {
                shards: 64,
                replicas: store.replicas.get(),
                other_replicas: None,
                timeout: store.timeout,
                hedge_after: store.hedge_after,
                patrol_interval: store.patrol_interval,
                upkeep_interval: store.upkeep_interval,
            },
            workloads: vec![workload::ALL[0].name.to_owned(), workload::ALL[1].name.to_owned()],
            strangers: Vec::new(),
            bounds: Bounds {
                detection: Duration::ZERO,
                convergence: Duration::ZERO,
                comeback: Duration::ZERO,
                repair: Duration::ZERO,
            },
        };
        quiet.bounded()
    }

    /// A world of 4 to 6 as drawn: everything that is a matter of configuration is drawn within its range.
    #[must_use]
    pub fn drawn(rng: &mut StdRng) -> Self {
        let hosts = rng.random_range(4..=6);
        let one_of = |rng: &mut StdRng, from: &[u64]| Duration::from_millis(*from.choose(rng).expect("some"));
        let store = Store {
            shards: 1 << rng.random_range(3..=6),
            replicas: *[2, 3, 3, 3, 4].choose(rng).expect("some"),
            other_replicas: None,
            timeout: one_of(rng, &[1000, 2000, 2000, 4000]),
            hedge_after: one_of(rng, &[10, 50, 50, 200]),
            patrol_interval: one_of(rng, &[1000, 5000, 10_000]),
            upkeep_interval: one_of(rng, &[20, 50, 50, 100]),
        };
        let several = rng.random_range(2..=4);
        let names = workload::ALL[..workload::DRAWN].iter().map(|workload| workload.name.to_owned());
        let mut workloads: Vec<String> = rand::seq::IteratorRandom::sample(names, rng, several);
        workloads.sort();
        let strangers = [Stranger::WrongSecret, Stranger::OtherCluster, Stranger::OtherShards];
        let strangers = if rng.random_bool(0.1) { vec![*strangers.choose(rng).expect("some")] } else { Vec::new() };
        let drawn = Self {
            hosts,
            latency: one_of(rng, &[1, 5, 10, 20]),
            disk: rng.random(),
            zones: rng.random_range(1..=3),
            pace: *[100, 100, 100, 70, 150].choose(rng).expect("some"),
            moving: rng.random_bool(0.2),
            store,
            workloads,
            strangers,
            ..Self::quiet()
        };
        drawn.bounded()
    }

    /// The same with the bounds that follow from its pace.
    #[must_use]
    pub fn bounded(self) -> Self {
        let (timings, slow) = (self.timings(), f64::from(self.pace.max(100)) / 100.0);
        // C1: some rounds, each with a peer that is drawn. W1: a message that did not arrive, and leases that are renewed.
        let has_documents =
            self.workloads().any(|workload| ["documents", "presence", "owners", "watches"].contains(&workload.name));
        let documents = if has_documents { Duration::from_secs(20) } else { Duration::ZERO };
        let bounds = Bounds {
            // Three periods until somebody probes, one to find silence, the suspicion, and the news must spread: with
            // room for the rare cases, 5 s as the preset promises.
            detection: timings.probe_period * 6 + timings.suspicion + Duration::from_millis(500),
            convergence: Duration::from_secs(15).mul_f64(slow),
            // As long as a formation takes.
            comeback: Duration::from_secs(5).mul_f64(slow),
            // In turn every node compares what it holds with each of the others.
            repair: (self.store.patrol_interval * u32::from(self.hosts) + Duration::from_secs(1)).max(documents),
        };
        Self { bounds, ..self }
    }

    /// The hosts that are started with the world.
    pub fn early(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.hosts.saturating_sub(self.late)).map(Host)
    }

    /// Those that are not.
    pub fn late(&self) -> impl Iterator<Item = Host> + use<> {
        (self.hosts.saturating_sub(self.late)..self.hosts).map(Host)
    }

    /// The clients' workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &'static Workload> {
        workload::ALL.iter().filter(|workload| self.workloads.iter().any(|name| name == workload.name))
    }

    /// The times of membership.
    #[must_use]
    pub fn timings(&self) -> Timings {
        let mut timings = Timings::preset(Preset::Lan);
        let scale = |time: &mut Duration| *time = *time * u32::from(self.pace) / 100;
        let all = [
            &mut timings.probe_period,
            &mut timings.probe_timeout,
            &mut timings.suspicion,
            &mut timings.gossip_interval,
            &mut timings.push_pull_interval,
            &mut timings.announce_interval,
            &mut timings.announce_to_down_interval,
        ];
        all.into_iter().for_each(scale);
        timings
    }

    /// The configuration of the nodes' stores.
    ///
    /// # Panics
    /// If the numbers of shards or replicas are none that a store can have; [`Settings::problem`] tells before.
    #[must_use]
    pub fn kv(&self) -> KvConfig {
        let count = |count| ReplicaCount::new(count).expect("a possible number of replicas");
        let mut config = workload::declare(KvConfig::default(), self.store.other_replicas.map(count));
        config.shards = ShardCount::new(self.store.shards).expect("a possible number of shards");
        config.replicas = count(self.store.replicas);
        config.timeout = self.store.timeout;
        config.hedge_after = self.store.hedge_after;
        config.patrol_interval = self.store.patrol_interval;
        config.upkeep_interval = self.store.upkeep_interval;
        // The shortest that there is, so that a run sees many collected.
        config.tombstone_grace = Duration::from_secs(10);
        // Longer than two clocks are ever apart.
        config.idempotency_window = Duration::from_secs(3 * 3600);
        config
    }

    /// How shards have owners, if they have.
    #[must_use]
    pub fn owners(&self) -> Option<Owners> {
        let has_owners = self.workloads().any(|workload| workload.name == workload::owners::WORKLOAD.name);
        has_owners.then(|| {
            let mut owners = Owners::default();
            // Short, so that a run shows what happens when they are over.
            owners.handoff.alarm = Duration::from_secs(2);
            owners.handoff.pause = Duration::from_millis(500);
            owners
        })
    }

    /// The same with this workload too.
    #[must_use]
    pub fn and(mut self, workload: &Workload) -> Self {
        if !self.workloads.iter().any(|name| name == workload.name) {
            self.workloads.push(workload.name.to_owned());
        }
        self.bounded()
    }

    /// The same in which the keys of some buckets are on another number of nodes, drawn from those that lose nothing with one.
    #[must_use]
    pub(crate) fn with_other_replicas(mut self, rng: &mut StdRng) -> Self {
        let others = [2, 4, 5].into_iter().filter(|count| *count != self.store.replicas);
        self.store.other_replicas = rand::seq::IteratorRandom::choose(others, rng);
        self.and(&workload::BUCKETS)
    }

    /// Why no world can be built so; `None` if one can.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let unknown = self.workloads.iter().find(|name| !workload::ALL.iter().any(|known| known.name == **name));
        if let Some(unknown) = unknown {
            return Some(format!("no workload is called {unknown:?}"));
        }
        if self.hosts == 0 || self.hosts > MAX_HOSTS || self.late >= self.hosts {
            return Some(format!("there are 1 to {MAX_HOSTS} hosts, and not all of them are late"));
        }
        if self.durable && !self.disk {
            return Some("a store is durable on a disk only".to_owned());
        }
        if self.tick.is_zero() || self.pace == 0 {
            return Some("a tick and a pace are more than nothing".to_owned());
        }
        let mut counts = [self.store.replicas].into_iter().chain(self.store.other_replicas);
        if ShardCount::new(self.store.shards).is_err() || counts.any(|count| ReplicaCount::new(count).is_err()) {
            return Some("the numbers of shards and replicas are none that a store can have".to_owned());
        }
        self.kv().validate().err().map(|error| error.to_string())
    }
}
