//! How a world is built: drawn from the seed within the ranges that a scenario allows.

use std::time::Duration;

use polity::KvConfig;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::history::Bounds;

/// The most hosts of a world.
pub const MAX_HOSTS: u8 = 10;

/// The network and the nodes of a world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many nodes there are: 1 to [`MAX_HOSTS`].
    pub hosts: u8,
    /// How many of them, from the first on, everyone greets as seeds.
    pub seeds: u8,
    /// Nodes are launched at random within this time from the start.
    pub launch_within: Duration,
    /// How long a datagram takes. The same for all, so that a link does not reorder.
    pub latency: Duration,
    /// The simulation's step: what happens within it happens at once.
    pub tick: Duration,
    /// The share of all datagrams that are lost while faults last.
    pub loss: f64,
    /// Whether nodes have a folder in which they remember their generation.
    pub disk: bool,
    /// Into how many zones the nodes are divided.
    pub zones: u8,
    /// Into how many shards the keys are divided: a power of two.
    pub shards: u32,
    /// The bounds that the run is judged by.
    pub bounds: Bounds,
}

impl Settings {
    /// A quiet world of five: links of 20 ms, no losses.
    #[must_use]
    pub fn quiet() -> Self {
        Self {
            hosts: 5,
            seeds: 3,
            launch_within: Duration::from_millis(200),
            latency: Duration::from_millis(20),
            tick: Duration::from_millis(2),
            loss: 0.0,
            disk: false,
            zones: 1,
            shards: 64,
            bounds: Bounds {
                // What the preset `lan` promises.
                detection: Duration::from_secs(5),
                convergence: Duration::from_secs(15),
                // As long as a formation takes.
                comeback: Duration::from_secs(5),
            },
        }
    }

    /// A world of 4 to 6 as drawn: other latencies, a few losses in half of all worlds, zones, disks.
    #[must_use]
    pub fn drawn(rng: &mut StdRng) -> Self {
        let quiet = Self::quiet();
        Self {
            hosts: rng.random_range(4..=6),
            latency: Duration::from_millis([1, 5, 10, 20][rng.random_range(0..4)]),
            loss: if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..0.02) },
            disk: rng.random(),
            zones: rng.random_range(1..=3),
            shards: 1 << rng.random_range(3..=6),
            ..quiet
        }
    }

    /// The configuration of the nodes' stores.
    ///
    /// # Panics
    /// If the number of shards is none that a store can have: a mistake in a scenario.
    #[must_use]
    pub fn kv(&self) -> KvConfig {
        let shards = polity::shard::ShardCount::new(self.shards).expect("scenarios name possible numbers of shards");
        let mut config = KvConfig::default();
        config.shards = shards;
        config
    }
}
