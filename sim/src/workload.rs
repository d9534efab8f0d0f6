//! The clients: small loops inside of the processes, which put, get and delete, and have it recorded.
//!
//! | client | keys | what it does |
//! |---|---|---|
//! | writer | `r<host>-<i>`, its host's own registers | puts one value after the other without a context |
//! | reader | all registers | reads them |
//! | editor | `m<i>`, shared | reads, then puts or deletes with the context of the read or of its last put |
//! | racer | `c<i>`, shared | puts without a context, at the same time as others; sometimes reads or deletes |
//!
//! A put writes the number of its operation, so every value of a run is unique and says who wrote it.

use std::time::Duration;

use bytes::Bytes;
use polity::{Context, KvError, Node, Outcome as KvOutcome};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Action, Basis, Event, Host, OpId, Outcome};
use crate::process::Given;
use crate::recorder::Recorder;

/// How many registers each host writes.
const REGISTERS: u8 = 2;
/// How many keys editors share, and how many racers share.
const SHARED: u8 = 3;
/// The longest value in bytes beside its number.
const MAX_PADDING: usize = 2048;
/// How long a final read waits before it tries again.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// All keys of the workload of a world.
#[must_use]
pub fn keys(hosts: u8) -> Vec<String> {
    let registers = (0..hosts).flat_map(|host| (0..REGISTERS).map(move |i| register(Host(host), i)));
    let shared = (0..SHARED).flat_map(|i| [format!("c{i}"), format!("m{i}")]);
    registers.chain(shared).collect()
}

fn register(host: Host, i: u8) -> String {
    format!("r{}-{i}", host.0)
}

/// The value that an operation writes: its number, then padding that follows from it.
fn value_of(op: OpId) -> Bytes {
    let hash = op.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // One value in eight is large.
    let padding = if hash >> 61 == 0 { (hash >> 32) as usize % MAX_PADDING } else { 0 };
    let mut bytes = op.0.to_be_bytes().to_vec();
    bytes.resize(8 + padding, hash as u8);
    bytes.into()
}

/// The operation that wrote a value; `None` if none can have.
fn writer_of(value: &[u8]) -> Option<OpId> {
    let (number, _) = value.split_first_chunk::<8>()?;
    let op = OpId(u64::from_be_bytes(*number));
    (value_of(op) == value).then_some(op)
}

/// One client of a node.
#[derive(Clone)]
struct Client {
    host: Host,
    node: Node,
    recorder: Recorder,
}

impl Client {
    /// Reads a key. Returns the values and their context, if it succeeded.
    async fn get(&self, key: &str) -> Option<(OpId, Vec<OpId>, Context)> {
        let op = self.recorder.invoke(self.host, key, Action::Get);
        match self.node.kv().get(key).await {
            Ok(entry) => {
                let mut values: Vec<_> = entry.values().iter().filter_map(|value| writer_of(value)).collect();
                if values.len() < entry.values().len() {
                    self.recorder.event(Event::Garbage { host: self.host, key: key.to_owned() });
                }
                values.sort_unstable();
                self.recorder.returned(op, Outcome::Done(values.clone()));
                Some((op, values, entry.context().clone()))
            }
            Err(error) => {
                self.failed(op, &error);
                None
            }
        }
    }

    /// Writes the operation's own number, or deletes. Returns the context that covers it, if it succeeded.
    async fn write(&self, key: &str, delete: bool, basis: Option<(OpId, &Context)>) -> Option<(OpId, Context)> {
        let of = basis.map_or(Basis::Quorum, |(op, _)| Basis::Of(op));
        let action = if delete { Action::Delete(of) } else { Action::Put(of) };
        let op = self.recorder.invoke(self.host, key, action);
        let kv = self.node.kv();
        let write = if delete { kv.delete(key) } else { kv.put(key, value_of(op)) };
        let write = match basis {
            Some((_, context)) => write.context(context),
            None => write,
        };
        match write.await {
            Ok(context) => {
                self.recorder.returned(op, Outcome::Done(Vec::new()));
                Some((op, context))
            }
            Err(error) => {
                self.failed(op, &error);
                None
            }
        }
    }

    fn failed(&self, op: OpId, error: &KvError) {
        tracing::debug!(%op, %error, "failed");
        let outcome = match error.outcome() {
            KvOutcome::NotApplied => Outcome::NotApplied,
            KvOutcome::Unknown => Outcome::Unknown,
        };
        self.recorder.returned(op, outcome);
    }
}

/// Starts all clients of a process.
pub(crate) fn spawn(tasks: &mut JoinSet<()>, host: Host, node: &Node, given: &Given, rng: &mut StdRng) {
    let client = Client { host, node: node.clone(), recorder: given.recorder.clone() };
    let hosts = given.settings.hosts;
    let mut rng = || StdRng::from_rng(rng);
    tasks.spawn(writer(client.clone(), Pace::new(&given.work, rng())));
    tasks.spawn(reader(client.clone(), Pace::new(&given.work, rng()), hosts));
    tasks.spawn(editor(client.clone(), Pace::new(&given.work, rng())));
    tasks.spawn(racer(client, Pace::new(&given.work, rng())));
}

/// When a client may work, and its randomness.
struct Pace {
    work: watch::Receiver<bool>,
    rng: StdRng,
}

impl Pace {
    fn new(work: &watch::Receiver<bool>, rng: StdRng) -> Self {
        Self { work: work.clone(), rng }
    }

    /// Waits a while, and until there is work. `false` when there never will be.
    async fn next(&mut self) -> bool {
        let pause = self.rng.random_range(20..250);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.work.wait_for(|work| *work).await.is_ok()
    }
}

async fn writer(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = register(client.host, pace.rng.random_range(0..REGISTERS));
        client.write(&key, false, None).await;
    }
}

async fn reader(client: Client, mut pace: Pace, hosts: u8) {
    while pace.next().await {
        let (host, i) = (pace.rng.random_range(0..hosts), pace.rng.random_range(0..REGISTERS));
        client.get(&register(Host(host), i)).await;
    }
}

async fn editor(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = format!("m{}", pace.rng.random_range(0..SHARED));
        let Some((read, _, context)) = client.get(&key).await else { continue };
        let delete = pace.rng.random_bool(0.2);
        let written = client.write(&key, delete, Some((read, &context))).await;
        if let Some((op, context)) = written
            && pace.rng.random_bool(0.3)
        {
            client.write(&key, false, Some((op, &context))).await;
        }
    }
}

async fn racer(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = format!("c{}", pace.rng.random_range(0..SHARED));
        match pace.rng.random_range(0..10) {
            0 => drop(client.write(&key, true, None).await),
            1..4 => drop(client.get(&key).await),
            _ => drop(client.write(&key, false, None).await),
        }
    }
}

/// Reads every key until each read has succeeded.
pub(crate) async fn read_all(host: Host, node: Node, recorder: Recorder) {
    let keys = recorder.lock().history().keys.clone();
    let client = Client { host, node, recorder: recorder.clone() };
    for key in keys {
        while client.get(&key).await.is_none() {
            tokio::time::sleep(READ_AGAIN).await;
        }
    }
    recorder.event(Event::FinalReadsDone { host });
}

/// A seed for a part of the world, which follows from the run's seed and the part's name.
#[must_use]
pub fn seed_of(seed: u64, part: &str, number: u64) -> u64 {
    StdRng::seed_from_u64(seed ^ xxhash_rust::xxh3::xxh3_64_with_seed(part.as_bytes(), number)).random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_writer_and_damage_is_seen() {
        for op in (0..1000).map(OpId) {
            let value = value_of(op);
            assert_eq!(writer_of(&value), Some(op));
            assert_eq!(writer_of(&value[..7]), None);
            let mut longer = value.to_vec();
            longer.push(0);
            assert_eq!(writer_of(&longer), None);
        }
    }

    #[test]
    fn seeds_of_parts_differ() {
        assert_ne!(seed_of(1, "links", 0), seed_of(2, "links", 0));
        assert_ne!(seed_of(1, "links", 0), seed_of(1, "host", 0));
        assert_ne!(seed_of(1, "host", 0), seed_of(1, "host", 1));
    }
}
