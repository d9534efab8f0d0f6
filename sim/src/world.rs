//! A world: hosts with whole nodes, their network, their faults and their clients, all from one seed.
//!
//! A scenario is a straight line of calls on a [`World`]: each that takes simulated time says so. What it demands
//! within a bound, it demands through the world, so that the history tells what was missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity::Memory;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};

use crate::history::{Event, History, Host};
use crate::network::Network;
use crate::process::{self, Command, Given};
use crate::recorder::{Record, Recorder};
use crate::settings::Settings;
use crate::workload::{self, seed_of};

/// More datagrams than can be under way to one socket: turmoil's default of 64 drops bulk transfers.
const UDP_CAPACITY: usize = 65_536;
/// Longer than any run: turmoil's own limit is not used.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long stores may take to settle when nothing fails: repair of every shard, and a patrol interval.
pub const SETTLE_BOUND: Duration = Duration::from_secs(30);
/// How long open operations may take to end: their own timeout of 2 s, and as much again.
const DRAIN_BOUND: Duration = Duration::from_secs(4);
/// How long the final reads may take: some dozens of keys, a round trip or two each.
const READ_BOUND: Duration = Duration::from_secs(15);

type Commands = Arc<std::sync::Mutex<BTreeMap<Host, mpsc::UnboundedSender<Command>>>>;

/// See the [module](self).
pub struct World {
    sim: turmoil::Sim<'static>,
    settings: Arc<Settings>,
    recorder: Recorder,
    network: Network,
    commands: Commands,
    memories: BTreeMap<Host, Arc<Memory>>,
    work: watch::Sender<bool>,
    rng: StdRng,
    failed: Option<String>,
    steps: Arc<AtomicU64>,
}

impl World {
    /// Builds a world. Its nodes launch as soon as its time runs.
    #[must_use]
    pub fn new(seed: u64, settings: Settings) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed_of(seed, "turmoil", 0))
            .enable_random_order()
            .epoch(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .simulation_duration(NO_LIMIT)
            .tick_duration(settings.tick)
            .min_message_latency(settings.latency)
            .max_message_latency(settings.latency)
            .udp_capacity(UDP_CAPACITY)
            .build();
        let keys = workload::keys(settings.hosts);
        let recorder = Recorder::new(settings.hosts, settings.bounds.clone(), keys);
        let network = Network::new(seed_of(seed, "links", 0), settings.loss);
        let tap = network.tap(&recorder);
        let commands = Commands::default();
        let settings = Arc::new(settings);
        let work = watch::Sender::new(false);
        let mut memories = BTreeMap::new();
        for host in (0..settings.hosts).map(Host) {
            let memory = Arc::new(Memory::default());
            memories.insert(host, memory.clone());
            let starts = std::cell::Cell::new(0);
            let given = Given {
                host,
                settings: settings.clone(),
                seed: 0,
                first: true,
                memory,
                machine_seed: seed_of(seed, "machine", host.0.into()),
                tap: tap.clone(),
                recorder: recorder.clone(),
                work: work.subscribe(),
            };
            let commands = commands.clone();
            sim.host(host.to_string(), move || {
                let start = starts.replace(starts.get() + 1);
                let seed = seed_of(seed, "process", u64::from(host.0) << 32 | start);
                let given = Given { seed, first: start == 0, ..given.clone() };
                let (sender, receiver) = mpsc::unbounded_channel();
                commands.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(host, sender);
                process::run(given, receiver)
            });
            network.lock().place(host, sim.lookup(host.to_string()));
        }
        let rng = StdRng::seed_from_u64(seed_of(seed, "script", 0));
        Self { sim, settings, recorder, network, commands, memories, work, rng, failed: None, steps: Arc::default() }
    }

    /// How this world was built.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.settings.hosts).map(Host)
    }

    /// The script's randomness.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    /// Counts the steps of the simulation, for whom wants to know that it goes on.
    #[must_use]
    pub fn steps(&self) -> Arc<AtomicU64> {
        self.steps.clone()
    }

    fn step(&mut self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if self.failed.is_none()
            && let Err(error) = self.sim.step()
        {
            self.failed = Some(error.to_string());
            self.recorder.event(Event::Panicked { message: error.to_string() });
        }
        self.recorder.lock().set_clock(self.sim.elapsed());
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until && self.failed.is_none() {
            self.step();
        }
    }

    /// Lets time pass until something is so. Returns `false` if it is not within the bound.
    pub fn run_until(&mut self, within: Duration, mut so: impl FnMut(&Record) -> bool) -> bool {
        let until = self.sim.elapsed() + within;
        loop {
            if so(&self.recorder.lock()) {
                return true;
            }
            if self.sim.elapsed() >= until || self.failed.is_some() {
                return false;
            }
            self.step();
        }
    }

    /// Lets time pass until something is so. If it is not within the bound, the promise is broken, and the history
    /// says so.
    pub fn demand(&mut self, promise: &str, demand: &str, within: Duration, so: impl FnMut(&Record) -> bool) -> bool {
        let met = self.run_until(within, so);
        if !met {
            let (promise, demand) = (promise.to_owned(), format!("{demand} within {within:?}"));
            self.recorder.event(Event::Missed { promise, demand });
        }
        met
    }

    // ---- processes ------------------------------------------------------------------------------------------------

    /// Kills a process. What it had in memory is gone; its files too if `wipe`.
    pub fn crash(&mut self, host: Host, wipe: bool) {
        self.sim.crash(host.to_string());
        if wipe {
            self.memories[&host].wipe();
        }
        self.recorder.event(Event::Crashed { host, wiped: wipe });
    }

    /// Starts a new process on a host whose last one has ended.
    pub fn bounce(&mut self, host: Host) {
        self.sim.bounce(host.to_string());
    }

    /// Asks a node to leave, and lets time pass until its process has ended.
    pub fn leave(&mut self, host: Host, within: Duration) -> bool {
        self.tell(host, Command::Leave(within));
        // A leave takes its time to hand over, and as long to say so.
        let bound = within * 2 + Duration::from_secs(2);
        self.demand("M4", &format!("{host} leaves"), bound, |record| !record.hosts()[&host].running)
    }

    fn tell(&self, host: Host, command: Command) {
        let commands = self.commands.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(commands) = commands.get(&host) {
            // A process that has ended hears nothing; the demand that follows says so.
            let _ = commands.send(command);
        }
    }

    // ---- links ----------------------------------------------------------------------------------------------------

    /// Drops whatever is sent from one host to another from now on.
    pub fn cut(&mut self, from: Host, to: Host) {
        if self.network.lock().cut(from, to) {
            self.recorder.event(Event::Cut { from, to });
        }
    }

    /// Makes all links whole and lossless.
    pub fn mend(&mut self) {
        let mended = self.network.lock().mend();
        for (from, to) in mended {
            self.recorder.event(Event::Mended { from, to });
        }
    }

    // ---- clients --------------------------------------------------------------------------------------------------

    /// Lets the clients work.
    pub fn start_work(&mut self) {
        self.work.send_replace(true);
    }

    /// Stops the clients, and lets time pass until their operations have ended.
    pub fn stop_work(&mut self) {
        self.work.send_replace(false);
        self.demand("K6", "every operation ends", DRAIN_BOUND, |record| {
            record.hosts().values().all(|now| now.open == 0)
        });
    }

    /// Lets time pass until all running nodes have started and list each other.
    pub fn converge(&mut self, within: Duration) -> bool {
        self.demand("M3", "all nodes list each other", within, Record::is_converged)
    }

    /// Lets time pass until all running nodes say that their stores are settled.
    pub fn settle(&mut self) -> bool {
        self.recorder.lock().clear_settled();
        let running: Vec<Host> = self.running();
        for host in &running {
            self.tell(*host, Command::Settle);
        }
        self.demand("K1", "all stores settle", SETTLE_BOUND, |record| {
            running.iter().all(|host| record.hosts()[host].settled)
        })
    }

    /// The hosts on which a process runs.
    #[must_use]
    pub fn running(&self) -> Vec<Host> {
        self.recorder.lock().hosts().iter().filter(|(_, now)| now.running).map(|(host, _)| *host).collect()
    }

    // ---- from beginning to end ------------------------------------------------------------------------------------

    /// How every scenario but the formation begins: the nodes form a cluster and settle, and the clients begin.
    pub fn form(&mut self) {
        let all = usize::from(self.settings.hosts);
        let within = self.settings.launch_within + Duration::from_secs(5);
        self.demand("M3", "all nodes list each other", within, |record| {
            record.hosts().values().filter(|now| now.running).count() == all && record.is_converged()
        });
        self.settle();
        self.start_work();
    }

    /// How every scenario ends: no more faults; the clients end; all converges within its bound; all is read back.
    pub fn finish(&mut self) {
        self.mend();
        self.recorder.event(Event::Healed);
        self.run_for(Duration::from_secs(1));
        self.stop_work();
        self.converge(self.settings.bounds.convergence);
        self.settle();
        self.recorder.event(Event::FinalReads);
        let running = self.running();
        for host in &running {
            self.tell(*host, Command::ReadAll);
        }
        self.demand("K1", "all nodes read all keys", READ_BOUND, |record| {
            running.iter().all(|host| record.hosts()[host].read_all)
        });
    }

    /// Records an event that the world did not see happen.
    pub fn record(&mut self, event: Event) {
        self.recorder.event(event);
    }

    /// Ends the world, and returns what happened in it, the trace and the number of datagrams.
    #[must_use]
    pub fn end(self) -> (History, u64, u64) {
        let record = self.recorder.lock();
        (record.history().clone(), record.trace(), record.datagrams())
    }
}
