//! Figures of a cluster that forms and then lives with churn.
#![allow(clippy::disallowed_methods, reason = "how fast the simulation is, is a question of real time")]

use std::fmt;
use std::time::Duration;

use super::cluster::{Cluster, Mistakes};
use super::net::Weather;

/// How long a cluster may take to form.
const FORMATION: Duration = Duration::from_secs(300);
/// The share of datagrams that are lost once it has formed.
const LOSS: f64 = 0.01;
/// How often a node is killed.
const KILL_EVERY: Duration = Duration::from_secs(10);
/// How long a cluster lives in peace before its quiet life is measured: what it said at first has been said by then.
const SETTLING: Duration = Duration::from_secs(20);
/// How many nodes join together at the beginning of the churn: one for so many that are there.
const WAVE: usize = 20;

/// What [`measure`] found.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How many nodes there were at first.
    pub nodes: usize,
    /// From the start of all nodes until all agreed; `None` if they did not.
    pub formation: Option<Duration>,
    /// From the start of the joining wave until all agreed.
    pub wave: Option<Duration>,
    /// How much time was simulated after the formation.
    pub simulated: Duration,
    /// How much faster than real time the cluster's quiet life was simulated, for as long as the churn: nobody comes or
    /// goes, and nothing is lost.
    pub quiet_speed: f64,
    /// Datagrams that a node sent in a second of its quiet life.
    pub quiet_datagrams: f64,
    /// Real time for the formation.
    pub formation_took: Duration,
    /// Real time for what came after it.
    pub took: Duration,
    /// How many were killed.
    pub killed: usize,
    /// From a kill to the first that saw it: the longest.
    pub first_down: Duration,
    /// From a kill to the last of the others that saw it: the longest.
    pub last_down: Duration,
    /// How many kills were seen by all the others.
    pub complete: usize,
    /// Who was taken for dead wrongly.
    pub mistakes: Mistakes,
    /// Datagrams that a node sent in a second.
    pub datagrams: f64,
    /// Their bytes.
    pub datagram_bytes: f64,
    /// Calls that a node made in a second.
    pub calls: f64,
    /// The bytes of its calls and of its answers to others.
    pub call_bytes: f64,
    /// How many events were handled after the formation.
    pub events: u64,
    /// A hash of all that happened.
    pub trace: u64,
}

impl Figures {
    /// How much faster than real time the churn was simulated.
    #[must_use]
    pub fn speed(&self) -> f64 {
        self.simulated.as_secs_f64() / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_never = |time: Option<Duration>| time.map_or("never".to_owned(), |time| format!("{time:.1?}"));
        write!(
            f,
            "nodes={} agreed_after={} wave_agreed_after={} simulated={:.0?} took={:.2?} speed={:.1} \
             quiet_speed={:.1} quiet_datagrams={:.1}/s formation_took={:.2?} killed={} first_down={:.1?} last_down={:.1?} complete={} false_seen={} \
             false_raised={} false_by_healthy={} rejoins={} suspected={} datagrams={:.1}/s {:.0}B/s calls={:.2}/s \
             {:.0}B/s events={} trace={:016x}",
            self.nodes,
            or_never(self.formation),
            or_never(self.wave),
            self.simulated,
            self.took,
            self.speed(),
            self.quiet_speed,
            self.quiet_datagrams,
            self.formation_took,
            self.killed,
            self.first_down,
            self.last_down,
            self.complete,
            self.mistakes.seen,
            self.mistakes.raised,
            self.mistakes.by_healthy,
            self.mistakes.rejoins,
            self.mistakes.suspected,
            self.datagrams,
            self.datagram_bytes,
            self.calls,
            self.call_bytes,
            self.events,
            self.trace,
        )
    }
}

/// Lets so many nodes form a cluster, then lets it live for so many seconds in peace, and as long with a wave of nodes that join at the
/// beginning, one datagram in a hundred lost, and a node killed every ten seconds.
#[must_use]
pub fn measure(nodes: usize, seconds: u64, seed: u64) -> Figures {
    let begin = std::time::Instant::now();
    let mut cluster = Cluster::of(nodes, seed, Weather::default());
    let formation = cluster.run_until_agreed(FORMATION);
    let formation_took = begin.elapsed();

    let simulated = Duration::from_secs(seconds);
    cluster.run(SETTLING);
    let (before, begin) = (cluster.traffic(), std::time::Instant::now());
    cluster.run(simulated);
    let quiet_speed = simulated.as_secs_f64() / begin.elapsed().as_secs_f64().max(f64::EPSILON);
    let quiet = cluster.traffic().datagrams - before.datagrams;
    let quiet_datagrams = quiet as f64 / nodes.max(1) as f64 / simulated.as_secs_f64().max(f64::EPSILON);

    let begin = std::time::Instant::now();
    let (before, events) = (cluster.traffic(), cluster.net().events());
    cluster.weather().loss = LOSS;
    for _ in 0..nodes / WAVE {
        cluster.join();
    }
    let end = cluster.now() + Duration::from_secs(seconds);
    let wave = cluster.run_until_agreed(KILL_EVERY.min(end - cluster.now()));
    let mut kills = Vec::new();
    // Nodes are killed from the last seed on: seeds stay, as an operator would have it.
    let mut next = nodes / 2;
    while cluster.now() < end {
        let until = (cluster.now() + KILL_EVERY).min(end);
        // Nobody is killed too late to be noticed.
        if end - cluster.now() >= KILL_EVERY && cluster.net().member(next).is_some() {
            kills.push(cluster.hosts().len() - 1);
            cluster.crash(next);
            next += 1;
        }
        let step = until - cluster.now();
        cluster.run(step);
    }
    let took = begin.elapsed();

    let traffic = cluster.traffic();
    let per_node = |amount: u64| amount as f64 / (cluster.hosts().len().max(1) as f64) / simulated.as_secs_f64();
    let longest = |times: &mut dyn Iterator<Item = Option<Duration>>| times.flatten().max().unwrap_or_default();
    Figures {
        nodes,
        formation,
        wave,
        simulated,
        quiet_speed,
        quiet_datagrams,
        formation_took,
        took,
        killed: kills.len(),
        first_down: longest(&mut cluster.detections().map(|crash| crash.first)),
        last_down: longest(&mut cluster.detections().map(|crash| crash.last)),
        complete: cluster
            .detections()
            .zip(&kills)
            .filter(|(crash, others)| crash.seen >= **others - kills.len())
            .count(),
        mistakes: cluster.mistakes(),
        datagrams: per_node(traffic.datagrams - before.datagrams),
        datagram_bytes: per_node(traffic.datagram_bytes - before.datagram_bytes),
        calls: per_node(traffic.calls - before.calls),
        call_bytes: per_node(traffic.call_bytes - before.call_bytes),
        events: cluster.net().events() - events,
        trace: cluster.net().trace(),
    }
}
