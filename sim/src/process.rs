//! What runs on a host: a process with one whole node in it, and its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use polity::{Env, Memory, Node, Preset, Simulated, Status, StopReason, Tap, View};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::history::{Event, Host, Life, MemberList, Seen, Standing};
use crate::recorder::Recorder;
use crate::settings::Settings;
use crate::workload;

/// The port on which every node listens.
const PORT: u16 = 7946;
/// How long a process waits before it tries again to start its node.
const START_AGAIN: Duration = Duration::from_millis(500);

/// What the world asks of a process.
#[derive(Clone, Debug)]
pub enum Command {
    /// Say when the store is settled.
    Settle,
    /// Leave within this time.
    Leave(Duration),
    /// Read all keys until each succeeds.
    ReadAll,
}

/// What a process is given.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) host: Host,
    pub(crate) settings: Arc<Settings>,
    /// Of this process alone.
    pub(crate) seed: u64,
    /// Whether it is the first on its host: only that one waits before it launches.
    pub(crate) first: bool,
    pub(crate) memory: Arc<Memory>,
    pub(crate) machine_seed: u64,
    pub(crate) tap: Tap,
    pub(crate) recorder: Recorder,
    /// Whether clients are to work.
    pub(crate) work: watch::Receiver<bool>,
}

/// Runs a process until its node leaves or stops.
pub(crate) async fn run(given: Given, mut commands: mpsc::UnboundedReceiver<Command>) -> turmoil::Result {
    let (host, recorder) = (given.host, given.recorder.clone());
    let mut rng = StdRng::seed_from_u64(given.seed);
    if given.first {
        let wait = rng.random_range(Duration::ZERO..=given.settings.launch_within);
        tokio::time::sleep(wait).await;
    }
    recorder.event(Event::Launched { host });
    let node = loop {
        match start(&given).await {
            Ok(node) => break node,
            Err(error) if error.is_retryable() => {
                tracing::info!(%error, "start again");
                tokio::time::sleep(START_AGAIN).await;
            }
            Err(error) => {
                recorder.event(Event::StartFailed { host, reason: error.to_string() });
                return Ok(());
            }
        }
    };
    recorder.event(Event::Ready { host, life: life(node.id().boot) });

    let mut tasks = JoinSet::new();
    tasks.spawn(watch_members(host, node.clone(), recorder.clone()));
    workload::spawn(&mut tasks, host, &node, &given, &mut rng);
    loop {
        tokio::select! {
            biased;
            Some(command) = commands.recv() => match command {
                Command::Settle => {
                    let (node, recorder) = (node.clone(), recorder.clone());
                    tasks.spawn(async move {
                        node.kv().settled().await;
                        recorder.event(Event::Settled { host });
                    });
                }
                Command::ReadAll => {
                    tasks.spawn(workload::read_all(host, node.clone(), recorder.clone()));
                }
                Command::Leave(within) => {
                    recorder.event(Event::Leaving { host });
                    // The clients of a process that leaves end first, as an orderly shutdown does.
                    tasks.shutdown().await;
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
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn start(given: &Given) -> Result<Node, polity::Error> {
    let ground = Simulated::new(given.machine_seed, given.memory.clone()).tap(given.tap.clone());
    let settings = &given.settings;
    let mut builder = Node::builder(given.host.to_string())
        .cluster("sim")
        .listen(addr_of(given.host))
        .seeds((0..settings.seeds).map(|host| addr_of(Host(host))))
        .secret([7; 32])
        .zone(format!("z{}", given.host.0 % settings.zones.max(1)))
        .preset(Preset::Lan)
        .kv(settings.kv())
        .env(Env::new(ground));
    if settings.disk {
        builder = builder.data_dir("/var/lib/polity");
    }
    builder.start().await
}

fn addr_of(host: Host) -> SocketAddr {
    SocketAddr::new(turmoil::lookup(host.to_string()), PORT)
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

/// Records what a node sees whenever that changes, for as long as the process lives.
async fn watch_members(host: Host, node: Node, recorder: Recorder) {
    let mut subscription = node.members().subscribe();
    let mut last = None;
    loop {
        subscription.next().await;
        while subscription.try_next().is_some() {}
        let members = list(&node.members().snapshot());
        if last.as_ref() != Some(&members) {
            recorder.event(Event::View { host, members: members.clone() });
            last = Some(members);
        }
    }
}
