//! What runs on a host: a process with a program in it.
//!
//! A [`Program`] gets a [`Process`], which knows how a node is started in this world. The program of an application is
//! its own code; `Standard` is the one that the scenarios run.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use polity::kv::EngineError;
use polity::kv::engine::faulty::Fault;
use polity::kv::engine::{Disk, FaultyEngine};
use polity::{
    Builder, Env, Gate, Member, MemberEvent, Memory, Node, NodeName, Simulated, Status, StopReason, VersionRange, View,
    Wire,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::history::{Event, Host, Life, MemberList, Seen, Standing};
use crate::recorder::Recorder;
use crate::rotation::{Secrets, rotate};
use crate::settings::{Settings, Stranger};
use crate::workload::{self, Client, Paces, Workload};

/// The port on which every node listens, or the first of them where they move.
const PORT: u16 = 7946;
/// How many ports a node that moves takes in turn.
const PORTS: u64 = 5;
/// How long a process waits before it tries again to start its node.
const START_AGAIN: Duration = Duration::from_millis(500);

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the processes of a world run.
///
/// A closure is one: `|process: Process| async move { … }`. It must take time from `tokio::time` and randomness from
/// [`Process::rng`] alone, or a seed is no longer a run.
pub trait Program: Send + Sync + 'static {
    /// Runs one life of a process; it has ended when the future has. Dropped when the process is killed.
    fn run(&self, process: Process) -> LocalFuture<anyhow::Result<()>>;
}

impl<F, R> Program for F
where
    F: Fn(Process) -> R + Send + Sync + 'static,
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    fn run(&self, process: Process) -> LocalFuture<anyhow::Result<()>> {
        Box::pin(self(process))
    }
}

/// What the world asks of a process.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Say when the store is settled.
    Settle,
    /// Leave within this time.
    Leave(Duration),
    /// Take this share.
    Weigh(u16),
    /// Say what you hold, and read all keys until each succeeds.
    ReadAll,
}

/// What a process is given.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) host: Host,
    pub(crate) settings: Arc<Settings>,
    /// Of this process alone.
    pub(crate) seed: u64,
    /// How many processes ran on its host before.
    pub(crate) start: u64,
    pub(crate) memory: Arc<Memory>,
    /// On which its store keeps its records, if the settings say so.
    pub(crate) disk: Disk,
    pub(crate) machine_seed: u64,
    pub(crate) wire: Wire,
    pub(crate) gate: Gate,
    pub(crate) recorder: Recorder,
    pub(crate) secrets: Arc<Secrets>,
    /// Whether clients are to work.
    pub(crate) work: watch::Receiver<bool>,
}

impl Given {
    /// The same for the next process.
    pub(crate) fn with(&self, seed: u64, start: u64, gate: Gate) -> Self {
        Self { seed, start, gate, ..self.clone() }
    }

    /// Runs a process until its program ends.
    pub(crate) async fn run(
        self,
        program: Arc<dyn Program>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> turmoil::Result {
        let (gate, host, recorder) = (self.gate.clone(), self.host, self.recorder.clone());
        let mut rng = StdRng::seed_from_u64(self.seed);
        if self.start == 0 {
            tokio::time::sleep(rng.random_range(Duration::ZERO..=self.settings.launch_within)).await;
        }
        if !host.is_stranger() {
            recorder.event(Event::Launched { host });
        }
        let process = Process { given: self, rng, commands, tasks: JoinSet::new() };
        let ended = gate.pass(program.run(process)).await;
        if host.is_stranger() {
            return Ok(());
        }
        if let Err(error) = ended {
            recorder.event(Event::StartFailed { host, reason: format!("{error:#}") });
        } else if recorder.lock().hosts().get(&host).is_some_and(|now| now.running) {
            recorder.event(Event::Stopped { host, superseded: false });
        }
        Ok(())
    }
}

/// One life of a process on a host.
pub struct Process {
    given: Given,
    rng: StdRng,
    commands: mpsc::UnboundedReceiver<Command>,
    tasks: JoinSet<()>,
}

impl Process {
    /// Where it runs.
    #[must_use]
    pub fn host(&self) -> Host {
        self.given.host
    }

    /// What kind of stranger it is, if it is one.
    fn stranger(&self) -> Option<Stranger> {
        let which = self.host().0.checked_sub(Host::FIRST_STRANGER)?;
        Some(self.settings().strangers[usize::from(which)])
    }

    /// Randomness that follows from the world's seed, and differs from process to process.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// How the world was built.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.given.settings
    }

    /// A node as the world wants it: named after its host, on the simulated network, with the world's seeds and secret.
    /// Change what you like. If the stores are on disk, a second node of the process takes it from the first.
    ///
    /// # Panics
    /// If what was durable on the disk is damaged: nothing in the world does that.
    pub fn builder(&self) -> Builder {
        let Given { host, settings, memory, machine_seed, wire, gate, start, .. } = &self.given;
        let ground = Simulated::new(*machine_seed, memory.clone()).wire(wire.clone()).gated(gate.clone());
        // Seeds stay where they are found.
        let moved = if settings.moving && host.0 >= settings.seeds { (start % PORTS) as u16 } else { 0 };
        let mut builder = Node::builder(host.to_string())
            .cluster("sim")
            .listen(SocketAddr::new(turmoil::lookup(host.to_string()), PORT + moved))
            .seeds((0..settings.seeds).map(|host| SocketAddr::new(turmoil::lookup(Host(host).to_string()), PORT)))
            .zone(format!("z{}", host.0 % settings.zones.max(1)))
            .timings(settings.timings())
            .kv(settings.kv())
            .env(Env::new(ground));
        if let Some(owners) = settings.owners() {
            builder = builder.ownership(owners);
        }
        builder = match self.stranger() {
            Some(Stranger::WrongSecret) => builder.secret([8; 32]),
            _ => self.given.secrets.give(builder),
        };
        if settings.disk {
            builder = builder.data_dir("/var/lib/polity");
        }
        if settings.durable && !host.is_stranger() {
            // What a disk forgets that was synced, no engine can keep: those faults are of the other files only.
            let fails = memory.disk() == polity::DiskFault::Fails;
            self.given.disk.set_fault(if fails { Fault::Write } else { Fault::None });
            let engine = FaultyEngine::open(&self.given.disk).expect("all that was durable is whole");
            builder = builder.engine(Arc::new(engine));
        }
        if settings.upgrade && *start == 0 {
            builder = builder.speak_only(VersionRange { min: 1, max: 1 });
        }
        builder
    }

    /// Starts a node, and records that it has started and what it sees from then on.
    ///
    /// # Errors
    /// Those of [`Builder::start`].
    pub async fn start(&mut self, builder: Builder) -> Result<Node, polity::Error> {
        let node = builder.start().await?;
        let (host, recorder) = (self.host(), self.given.recorder.clone());
        recorder.event(Event::Ready { host, life: life(node.id().boot) });
        self.spawn(watch_members(host, node.clone(), recorder));
        Ok(node)
    }

    /// Starts a task that lives as long as this process and stands still while it is paused. Tasks that a program starts
    /// itself go on while it is paused.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(self.given.gate.clone().pass(task))
    }

    /// Says something in the history.
    pub fn note(&self, text: impl Into<String>) {
        self.given.recorder.event(Event::Note { host: self.host(), text: text.into() });
    }

    /// Records whatever else happens.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.given.recorder
    }
}

/// A node with the clients of the world's workloads, which does what the world asks.
pub(crate) struct Standard;

impl Program for Standard {
    fn run(&self, process: Process) -> LocalFuture<anyhow::Result<()>> {
        match process.stranger() {
            None => Box::pin(standard(process)),
            Some(stranger) => Box::pin(strange(process, stranger)),
        }
    }
}

/// The disk of the store has failed, or is full: the next start finds another, or room.
fn is_of_the_disk(error: &polity::Error) -> bool {
    use EngineError::{Failed, Full, Other};
    matches!(error, polity::Error::Engine(Full { .. } | Failed { .. } | Other { .. }))
}

async fn standard(mut process: Process) -> anyhow::Result<()> {
    let (host, recorder) = (process.host(), process.given.recorder.clone());
    let node = loop {
        match process.start(process.builder()).await {
            Ok(node) => break node,
            // Whoever watches over the process starts it again and again, with what the operator has changed meanwhile.
            Err(error)
                if error.is_retryable()
                    || process.given.memory.disk() == polity::DiskFault::Fails
                    || is_of_the_disk(&error)
                    || process.settings().rotating =>
            {
                tracing::info!(%error, "start again");
                tokio::time::sleep(START_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let client = Client {
        host,
        hosts: process.settings().hosts,
        process: process.given.seed,
        node: node.clone(),
        recorder: recorder.clone(),
    };
    let workloads: Vec<&'static Workload> = process.settings().workloads().collect();
    let mut paces = Paces { work: process.given.work.clone(), rng: StdRng::from_rng(process.rng()) };
    let mut clients = JoinSet::new();
    for task in workloads.iter().flat_map(|workload| (workload.clients)(&client, &mut paces)) {
        clients.spawn(process.given.gate.clone().pass(task));
    }
    for task in workloads.iter().flat_map(|workload| (workload.observers)(&client)) {
        process.spawn(task);
    }
    if process.settings().rotating && host == Host(0) {
        let (hosts, rng) = ((0..client.hosts).map(Host).collect(), StdRng::from_rng(process.rng()));
        let secrets = process.given.secrets.clone();
        process.spawn(rotate(node.clone(), secrets, hosts, recorder.clone(), rng));
    }
    loop {
        tokio::select! {
            biased;
            Some(command) = process.commands.recv() => match command {
                Command::Settle => {
                    let (node, recorder) = (node.clone(), recorder.clone());
                    process.spawn(async move {
                        node.kv().settled().await;
                        recorder.event(Event::Settled { host });
                    });
                }
                Command::ReadAll => {
                    workload::tell_holdings(&client, &recorder.keys());
                    workload::tell_documents(&client, &workloads);
                    process.spawn(workload::read_all(client.clone(), workloads.clone()));
                }
                Command::Weigh(weight) => node.set_weight(weight).expect("it was drawn in range"),
                Command::Leave(within) => {
                    recorder.event(Event::Leaving { host });
                    // The clients of a process that leaves end first, as an orderly shutdown does. Who records goes on.
                    clients.shutdown().await;
                    if let Err(error) = node.leave(within).await {
                        tracing::warn!(%error, "could not leave");
                    }
                    recorder.event(Event::Left { host });
                    return Ok(());
                }
            },
            reason = node.stopped() => {
                let superseded = matches!(reason, StopReason::NameTaken { .. });
                recorder.event(Event::Stopped { host, superseded });
                return Ok(());
            }
            Some(_) = process.tasks.join_next() => {}
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Knocks again and again. Whom it sees is recorded; that it must see nobody is promise M5.
async fn strange(mut process: Process, stranger: Stranger) -> anyhow::Result<()> {
    loop {
        let builder = match stranger {
            Stranger::WrongSecret => process.builder(),
            Stranger::OtherCluster => process.builder().cluster("another"),
            Stranger::OtherShards => {
                let mut kv = process.settings().kv();
                let shards = if kv.shards.get() == 8 { 16 } else { 8 };
                kv.shards = polity::shard::ShardCount::new(shards).expect("a power of two");
                process.builder().kv(kv)
            }
        };
        if let Ok(node) = builder.start().await {
            let (host, recorder) = (process.host(), process.given.recorder.clone());
            process.spawn(watch_members(host, node.clone(), recorder));
            node.stopped().await;
            process.tasks.abort_all();
        }
        tokio::time::sleep(START_AGAIN).await;
    }
}

fn life(boot: polity::Boot) -> Life {
    Life { generation: boot.generation, nonce: boot.nonce }
}

fn list(view: &View) -> MemberList {
    let members = view.members.values().filter_map(|member| {
        let standing = match member.status {
            Status::Alive => Standing::Alive,
            Status::Suspect => Standing::Suspect,
            Status::Down => Standing::Down,
            Status::Left => Standing::Left,
        };
        let seen = Seen { life: life(member.id.boot), standing, rejoin: member.rejoin };
        Some((Host::of_name(member.id.name.as_str())?, seen))
    });
    members.collect()
}

/// What a subscriber makes of what it is told.
#[derive(Default)]
struct Copy {
    view: Option<View>,
}

impl Copy {
    /// Applies an event. Says what is wrong with it, if anything is.
    fn apply(&mut self, event: MemberEvent) -> Result<(), String> {
        match event {
            MemberEvent::Snapshot(view) => self.view = Some(View::clone(&view)),
            MemberEvent::Changed { version, member } => self.change(version, member.id.name.clone(), Some(member))?,
            MemberEvent::Forgotten { version, name } => self.change(version, name, None)?,
        }
        Ok(())
    }

    fn change(&mut self, version: u64, name: NodeName, member: Option<Member>) -> Result<(), String> {
        let view = self.view.as_mut().ok_or("a change came before any snapshot")?;
        if version != view.version + 1 {
            return Err(format!("version {version} came after {}", view.version));
        }
        view.version = version;
        match member {
            Some(member) => drop(view.members.insert(name, member)),
            None => drop(view.members.remove(&name)),
        }
        Ok(())
    }
}

/// Records what a node sees whenever that changes, for as long as the process lives, and whether what a subscriber is
/// told makes it up.
async fn watch_members(host: Host, node: Node, recorder: Recorder) {
    let mut subscription = node.members().subscribe();
    let (mut copy, mut last) = (Copy::default(), None);
    loop {
        let mut event = Some(subscription.next().await);
        while let Some(next) = event {
            if let Err(what) = copy.apply(next) {
                recorder.event(Event::Gap { host, what });
            }
            event = subscription.try_next();
        }
        let view = node.members().snapshot();
        let Some(told) = &copy.view else { continue };
        // More may have happened since the last event was taken.
        if told.version == view.version && *told != *view {
            recorder.event(Event::Gap { host, what: format!("at version {} the lists differ", view.version) });
        }
        let members = list(told);
        if last.as_ref() != Some(&members) {
            recorder.event(Event::View { host, members: members.clone() });
            last = Some(members);
        }
    }
}
