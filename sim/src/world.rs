//! A world: hosts with whole nodes, their network, their faults and their clients, all from one seed.
//!
//! Time passes only in the calls that say so. What is demanded within a bound is demanded through the world, so that the
//! history tells what was missed.
//!
//! A world runs a [`Program`] on every host. [`World::new`] takes any: that is how an application is simulated with its
//! own code (see `sim/examples/your_program.rs`). [`World::standard`] runs a node with the clients of
//! [`workload`](crate::workload), which the scenarios use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity::kv::engine::Disk;
use polity::{Gate, Memory};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};

use crate::case::Case;
use crate::fault::{Fault, Step};
use crate::history::{Event, History, Host};
use crate::network::Network;
use crate::process::{Command, Given, Program, Standard};
use crate::recorder::{Now, Record, Recorder};
use crate::rotation::Secrets;
use crate::settings::Settings;
use crate::workload::seed_of;

/// More datagrams than can be under way to one socket: turmoil's default of 64 drops bulk transfers.
const UDP_CAPACITY: usize = 65_536;
/// Longer than any run: turmoil's own limit is not used.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long a supervisor waits before it starts again what has stopped by itself.
const RESTARTED_AFTER: Duration = Duration::from_secs(1);
/// How long stores may take to settle when nothing fails: repair of every shard, and a patrol interval.
pub const SETTLE_BOUND: Duration = Duration::from_secs(30);
/// How long the final reads may take: some dozens of keys, a round trip or two each.
const READ_BOUND: Duration = Duration::from_secs(15);

type Shared<T> = Arc<std::sync::Mutex<T>>;

fn lock<T>(shared: &Shared<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How the world reaches the process that a host runs now.
struct Reins {
    commands: mpsc::UnboundedSender<Command>,
    gate: Gate,
}

/// See the [module](self).
pub struct World {
    sim: turmoil::Sim<'static>,
    settings: Arc<Settings>,
    recorder: Recorder,
    network: Network,
    reins: Shared<BTreeMap<Host, Reins>>,
    memories: BTreeMap<Host, Arc<Memory>>,
    disks: BTreeMap<Host, Disk>,
    work: watch::Sender<bool>,
    rng: StdRng,
    failed: bool,
    steps: Arc<AtomicU64>,
    faults: u32,
    /// Hosts that were asked to leave and have not been started since.
    leaving: BTreeSet<Host>,
    /// Late hosts that have not joined.
    out: BTreeSet<Host>,
}

impl World {
    /// Builds a world in which every host runs the program. Nodes launch as soon as the world's time runs.
    #[must_use]
    pub fn new(seed: u64, settings: Settings, program: impl Program) -> Self {
        Self::build(&Case::new("world", seed, settings, Vec::new()), Vec::new(), Arc::new(program))
    }

    /// Builds the world of a case, in which nodes run with the clients of its workloads.
    #[must_use]
    pub fn standard(case: &Case) -> Self {
        let keys = case.settings.workloads().flat_map(|workload| (workload.keys)(case.settings.hosts)).collect();
        Self::build(case, keys, Arc::new(Standard))
    }

    fn build(case: &Case, keys: Vec<String>, program: Arc<dyn Program>) -> Self {
        let seed = case.seed;
        polity::seed_keys(seed_of(seed, "keys", 0));
        let settings = Arc::new(case.settings.clone());
        let sim = turmoil::Builder::new()
            .rng_seed(seed_of(seed, "turmoil", 0))
            .enable_random_order()
            .epoch(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .simulation_duration(NO_LIMIT)
            .tick_duration(settings.tick)
            .min_message_latency(settings.latency)
            .max_message_latency(settings.latency)
            .udp_capacity(UDP_CAPACITY)
            .build();
        let mut world = Self {
            sim,
            recorder: Recorder::new(case, keys),
            network: Network::new(seed_of(seed, "links", 0)),
            reins: Shared::default(),
            memories: BTreeMap::new(),
            disks: BTreeMap::new(),
            work: watch::Sender::new(false),
            rng: StdRng::seed_from_u64(seed_of(seed, "script", 0)),
            failed: false,
            steps: Arc::default(),
            faults: 0,
            leaving: BTreeSet::new(),
            out: settings.late().collect(),
            settings: settings.clone(),
        };
        let secrets = Arc::new(Secrets::default());
        let strangers = (Host::FIRST_STRANGER..).map(Host).take(settings.strangers.len());
        for host in (0..settings.hosts).map(Host).chain(strangers) {
            world.add_host(host, seed, &program, &secrets);
        }
        for host in world.out.clone() {
            world.sim.crash(host.to_string());
        }
        world
    }

    fn add_host(&mut self, host: Host, seed: u64, program: &Arc<dyn Program>, secrets: &Arc<Secrets>) {
        let memory = Arc::new(Memory::default());
        self.memories.insert(host, memory.clone());
        let disk = Disk::new(seed_of(seed, "disk", host.0.into()));
        self.disks.insert(host, disk.clone());
        let starts = std::cell::Cell::new(0);
        let given = Given {
            host,
            settings: self.settings.clone(),
            seed: 0,
            start: 0,
            memory,
            disk,
            machine_seed: seed_of(seed, "machine", host.0.into()),
            wire: self.network.wire(&self.recorder),
            gate: Gate::default(),
            recorder: self.recorder.clone(),
            secrets: secrets.clone(),
            work: self.work.subscribe(),
        };
        let (reins, program) = (self.reins.clone(), program.clone());
        self.sim.host(host.to_string(), move || {
            let start = starts.replace(starts.get() + 1);
            let seed = seed_of(seed, "process", u64::from(host.0) << 32 | start);
            let (gate, (sender, commands)) = (Gate::new(), mpsc::unbounded_channel());
            lock(&reins).insert(host, Reins { commands: sender, gate: gate.clone() });
            given.with(seed, start, gate).run(program.clone(), commands)
        });
        let ip = self.sim.lookup(host.to_string());
        self.network.lock().place(host, ip);
    }

    /// How this world was built.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All hosts, strangers not counted.
    pub fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.settings.hosts).map(Host)
    }

    /// Randomness for whoever drives the world: it follows from the seed.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    /// The simulated time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Counts the steps of the simulation, for whoever wants to know that it goes on.
    #[must_use]
    pub fn steps(&self) -> Arc<AtomicU64> {
        self.steps.clone()
    }

    fn step(&mut self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if !self.failed
            && let Err(error) = self.sim.step()
        {
            self.failed = true;
            self.recorder.event(Event::Panicked { message: error.to_string() });
        }
        self.recorder.lock().set_clock(self.sim.elapsed());
        self.supervise();
    }

    /// Starts what has stopped because a newer process seemed to have its name, as its supervisor would: nothing else runs on
    /// its host.
    fn supervise(&mut self) {
        let due = |now: &Now| now.superseded.is_some_and(|at| self.sim.elapsed() >= at + RESTARTED_AFTER);
        let due: Vec<Host> = {
            let record = self.recorder.lock();
            record.hosts().iter().filter(|(_, now)| due(now)).map(|(host, _)| *host).collect()
        };
        due.into_iter().for_each(|host| self.start(host));
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_to(self.sim.elapsed() + time);
    }

    /// Lets time pass until then.
    pub fn run_to(&mut self, until: Duration) {
        while self.sim.elapsed() < until && !self.failed {
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
            if self.sim.elapsed() >= until || self.failed {
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

    // ---- faults ---------------------------------------------------------------------------------------------------

    /// Records that a fault begins, and numbers it. What it does is done by [`World::take`].
    pub fn begin(&mut self, fault: &Fault) -> u32 {
        self.began(fault.class(), &fault.what(), fault.disturbs(), fault.hosts())
    }

    fn began(&mut self, class: &str, what: &str, disturbs: bool, hosts: Vec<Host>) -> u32 {
        let fault = self.faults;
        self.faults += 1;
        let (class, what) = (class.to_owned(), what.to_owned());
        self.recorder.event(Event::Began { fault, class, what, disturbs, hosts });
        fault
    }

    /// Takes a step of a fault.
    pub fn take(&mut self, fault: u32, step: &Step) {
        match step {
            Step::Links(effects) => self.network.lock().harm(fault, effects.clone()),
            Step::Crash(host, wipe) => self.crash(*host, *wipe),
            Step::Start(host) => self.start(*host),
            Step::Leave(host, within) => self.ask_to_leave(*host, *within),
            Step::Pause(host) => self.with_gate(*host, Gate::close),
            Step::Resume(host) => self.with_gate(*host, Gate::open),
            Step::Clock(host, skew_ms, drift_ppm) => {
                let (host, skew_ms, drift_ppm) = (*host, *skew_ms, *drift_ppm);
                self.memories[&host].set_clock(self.sim.elapsed(), skew_ms, drift_ppm);
                self.recorder.event(Event::Clock { host, skew_ms, drift_ppm });
            }
            Step::Weigh(host, weight) => self.tell(*host, Command::Weigh(*weight)),
            Step::Disk(host, fault) => self.memories[host].set_disk(*fault),
            Step::Store(host, fault) => self.disks[host].set_fault(*fault),
            Step::PutAside(host) => self.disks[host].put_aside(),
        }
    }

    /// Records that a fault has ended. What it did to the links is undone.
    pub fn end_fault(&mut self, fault: u32) {
        self.network.lock().harm(fault, Vec::new());
        self.recorder.event(Event::Ended { fault });
    }

    /// Cuts these hosts off from those, in both directions, until [`World::end_fault`] ends it.
    pub fn partition(&mut self, here: &[Host], there: &[Host]) -> u32 {
        let both = |a: &Host, b: &Host| [(*a, *b), (*b, *a)];
        let links = here.iter().flat_map(|a| there.iter().flat_map(move |b| both(a, b))).collect();
        let what = format!("{here:?} and {there:?} do not see each other");
        let fault = self.began("partition", &what, true, here.iter().chain(there).copied().collect());
        let effect =
            crate::network::Effect { scope: crate::network::Scope::Links(links), harm: crate::network::Harm::Cut };
        self.take(fault, &Step::Links(vec![effect]));
        fault
    }

    fn with_gate(&self, host: Host, change: fn(&Gate)) {
        if let Some(reins) = lock(&self.reins).get(&host) {
            change(&reins.gate);
        }
    }

    // ---- processes ------------------------------------------------------------------------------------------------

    fn is_running(&self, host: Host) -> bool {
        self.recorder.lock().hosts().get(&host).is_some_and(|now| now.running)
    }

    /// Kills a process. What it had in memory is gone, and of what its store had not synced any part, up to a byte in the
    /// midst of a batch; its disk too if `wipe`. Nothing happens if none is running.
    pub fn crash(&mut self, host: Host, wipe: bool) {
        self.leaving.remove(&host);
        if wipe {
            self.memories[&host].wipe();
            self.disks[&host].wipe();
        }
        if self.is_running(host) {
            self.sim.crash(host.to_string());
            self.memories[&host].crash();
            self.disks[&host].cut_power(true);
            self.recorder.event(Event::Crashed { host, wiped: wipe });
        }
    }

    /// Starts a new process on a host if none is running. One that is still leaving is killed first.
    pub fn start(&mut self, host: Host) {
        if self.leaving.contains(&host) {
            self.crash(host, false);
        }
        self.leaving.remove(&host);
        self.out.remove(&host);
        if !self.is_running(host) {
            self.recorder.lock().launching(host);
            self.sim.bounce(host.to_string());
        }
    }

    /// Starts a process on every host that has none, but for those that have not joined yet.
    pub fn start_missing(&mut self) {
        for host in self.hosts().filter(|host| !self.out.contains(host)).collect::<Vec<_>>() {
            self.start(host);
        }
    }

    /// Asks a node to leave within this time.
    pub fn ask_to_leave(&mut self, host: Host, within: Duration) {
        if self.is_running(host) {
            self.leaving.insert(host);
            self.tell(host, Command::Leave(within));
        }
    }

    fn tell(&self, host: Host, command: Command) {
        if let Some(reins) = lock(&self.reins).get(&host) {
            // A process that has ended hears nothing; the demand that follows says so.
            let _ = reins.commands.send(command);
        }
    }

    /// The hosts on which a process runs.
    #[must_use]
    pub fn running(&self) -> Vec<Host> {
        self.recorder.lock().hosts().iter().filter(|(_, now)| now.running).map(|(host, _)| *host).collect()
    }

    // ---- clients --------------------------------------------------------------------------------------------------

    /// Lets the clients work.
    pub fn start_work(&mut self) {
        self.work.send_replace(true);
    }

    /// Stops the clients, and lets time pass until their operations have ended.
    pub fn stop_work(&mut self) {
        self.work.send_replace(false);
        // A read and a write that both take as long as they may, and some more.
        let bound = self.settings.store.timeout * 3;
        self.demand("K6", "every operation ends", bound, |record| record.hosts().values().all(|now| now.open == 0));
    }

    /// Lets time pass until all running nodes have started and list each other.
    pub fn converge(&mut self) -> bool {
        let within = self.settings.bounds.convergence;
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

    // ---- from beginning to end ------------------------------------------------------------------------------------

    /// How every case begins: the nodes form a cluster and settle, and the clients begin.
    pub fn form(&mut self) {
        let all = self.settings.early().count();
        let within = self.settings.launch_within + self.settings.bounds.comeback;
        self.demand("M3", "all nodes list each other", within, |record| {
            record.hosts().values().filter(|now| now.running).count() == all && record.is_converged()
        });
        self.settle();
        self.start_work();
    }

    /// How every case ends: no more faults; the clients end; all converges within its bound; all is read back.
    pub fn finish(&mut self) {
        self.recorder.event(Event::Healed);
        self.run_for(Duration::from_secs(1));
        self.stop_work();
        self.converge();
        self.settle();
        self.run_for(self.settings.bounds.repair);
        self.recorder.event(Event::FinalReads);
        let running = self.running();
        for host in &running {
            self.tell(*host, Command::ReadAll);
        }
        self.demand("K1", "all nodes read all keys", READ_BOUND, |record| {
            running.iter().all(|host| record.hosts()[host].read_all)
        });
    }

    // ---- what happened --------------------------------------------------------------------------------------------

    /// Records an event that the world did not see happen.
    pub fn record(&mut self, event: Event) {
        self.recorder.event(event);
    }

    /// What has happened so far.
    #[must_use]
    pub fn history(&self) -> History {
        self.recorder.lock().history().clone()
    }

    /// Ends the world, and returns what happened in it, the trace and the number of datagrams.
    #[must_use]
    pub fn end(self) -> (History, u64, u64) {
        let mut record = self.recorder.lock();
        (record.take_history(), record.trace(), record.datagrams())
    }
}
