//! The clients: small loops inside of the processes, which use the store as an application does, and have it recorded.
//!
//! A workload is a kind of client with keys of its own, and is composed with others at will. To add one, write its file
//! and name it in [`ALL`]; a checker judges what it records.
//!
//! A put of a register writes the number of its operation, so every value of a run is unique and says who wrote it. The
//! other workloads keep small maps, which their clients read, change, and write back with the context of the read;
//! siblings are merged by the greater value of each entry.

mod buckets;
mod budgets;
mod counters;
pub(crate) mod deletes;
mod documents;
mod edits;
pub(crate) mod kinds;
pub(crate) mod leases;
mod map;
mod orders;
pub(crate) mod owners;
mod presence;
mod races;
mod registers;
pub(crate) mod repeats;
mod sets;
mod topics;
pub(crate) mod watches;

use std::time::Duration;

use bytes::Bytes;
use polity::cluster::BoxFuture;
use polity::shard::ReplicaCount;
use polity::{Context, KvConfig, KvError, Node, Outcome as KvOutcome};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;

use crate::history::{Action, Basis, Event, Host, OpId, Outcome};
use crate::recorder::Recorder;
use map::MaxMap;

/// The longest register in bytes beside its number.
const MAX_PADDING: usize = 2048;
/// How long a final read waits before it tries again.
const READ_AGAIN: Duration = Duration::from_millis(100);
/// How many keys of a kind are shared by the clients of all hosts.
const SHARED: u8 = 3;

/// A kind of client.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// What it is called.
    pub name: &'static str,
    /// What its clients do, in one sentence.
    pub about: &'static str,
    /// Its keys in a world of so many hosts.
    pub keys: fn(u8) -> Vec<String>,
    /// The clients of one process: endless tasks.
    pub(crate) clients: fn(&Client, &mut Paces) -> Vec<BoxFuture<'static, ()>>,
    /// What records without taking part: endless tasks that go on while the process leaves.
    pub(crate) observers: fn(&Client) -> Vec<BoxFuture<'static, ()>>,
    /// Reads one of its keys. Returns whether it succeeded.
    pub(crate) read: for<'a> fn(&'a Client, &'a str) -> BoxFuture<'a, bool>,
}

/// All workloads.
pub const ALL: [Workload; 17] = [
    registers::WORKLOAD,
    edits::WORKLOAD,
    races::WORKLOAD,
    sets::WORKLOAD,
    counters::WORKLOAD,
    orders::WORKLOAD,
    budgets::WORKLOAD,
    documents::WORKLOAD,
    presence::WORKLOAD,
    topics::WORKLOAD,
    buckets::WORKLOAD,
    owners::WORKLOAD,
    watches::WORKLOAD,
    leases::WORKLOAD,
    deletes::WORKLOAD,
    repeats::WORKLOAD,
    kinds::WORKLOAD,
];

/// How many of them, from the first on, worlds are drawn from. Those that came later are drawn each by itself, so that a seed
/// keeps its case.
pub(crate) const DRAWN: usize = 11;

/// The workload whose keys are all in buckets.
pub(crate) const BUCKETS: Workload = buckets::WORKLOAD;

/// The buckets that can have another number of replicas than the store: two that share it, beside two that do not.
pub const OTHERS: [&str; 2] = ["sets", "leases"];

/// Declares the buckets of all workloads, [`OTHERS`] with that number of replicas.
pub(crate) fn declare(config: KvConfig, others: Option<ReplicaCount>) -> KvConfig {
    let buckets = buckets::BUCKETS.into_iter().chain(leases::BUCKETS).chain(kinds::BUCKETS);
    buckets.fold(config, |config, (name, bucket)| match others.filter(|_| OTHERS.contains(&name)) {
        Some(replicas) => config.bucket(name, bucket.replicas(replicas)),
        None => config.bucket(name, bucket),
    })
}

/// Keys that the clients of all hosts share: `s0`, `s1` and so on.
fn shared(prefix: char) -> Vec<String> {
    (0..SHARED).map(|i| format!("{prefix}{i}")).collect()
}

/// One of them.
fn one_of(prefix: char, rng: &mut StdRng) -> String {
    format!("{prefix}{}", rng.random_range(0..SHARED))
}

/// What an operation on a register writes: its number, then padding that follows from it.
fn value_of(op: OpId) -> Bytes {
    let hash = op.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // One value in eight is large.
    let padding = if hash >> 61 == 0 { (hash >> 32) as usize % MAX_PADDING } else { 0 };
    let mut bytes = op.0.to_be_bytes().to_vec();
    bytes.resize(8 + padding, hash as u8);
    bytes.into()
}

/// The operation that wrote a register's value; `None` if none can have.
fn writer_of(value: &[u8]) -> Option<OpId> {
    let (number, _) = value.split_first_chunk::<8>()?;
    let op = OpId(u64::from_be_bytes(*number));
    (value_of(op) == value).then_some(op)
}

/// One client of a node.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) host: Host,
    pub(crate) hosts: u8,
    /// Tells this life of the process from all others.
    pub(crate) process: u64,
    pub(crate) node: Node,
    pub(crate) recorder: Recorder,
}

impl Client {
    /// Reads a register. Returns the operation and what a write needs to replace what it saw, if it succeeded.
    async fn get(&self, key: &str) -> Option<(OpId, Context)> {
        let op = self.recorder.invoke(self.host, key, Action::Get);
        match self.node.kv().get(key).await {
            Ok(entry) => {
                let mut values: Vec<_> = entry.values().iter().filter_map(|value| writer_of(value)).collect();
                if values.len() < entry.values().len() {
                    self.garbage(key);
                }
                values.sort_unstable();
                self.recorder.returned(op, Outcome::Done(values));
                Some((op, entry.context().clone()))
            }
            Err(error) => {
                self.recorder.returned(op, outcome_of(op, &error));
                None
            }
        }
    }

    /// Writes the operation's own number to a register, or deletes it. Returns the context that covers it, if it
    /// succeeded.
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
                self.recorder.returned(op, outcome_of(op, &error));
                None
            }
        }
    }

    /// Reads a map, its siblings merged, and what a write needs to replace them.
    async fn map(&self, key: &str) -> Result<(MaxMap, Context), KvError> {
        let entry = self.node.kv().get(key).await?;
        let mut merged = MaxMap::default();
        for value in entry.values() {
            match MaxMap::decode(value) {
                Some(map) => merged.merge(map),
                None => self.garbage(key),
            }
        }
        Ok((merged, entry.context().clone()))
    }

    /// Reads a map, changes it, and writes it back. `change` returns what to say if there is nothing to write.
    async fn change(
        &self,
        key: &str,
        action: impl FnOnce(OpId) -> Action,
        change: impl FnOnce(OpId, &mut MaxMap) -> Result<(), Outcome>,
    ) -> (OpId, Outcome) {
        let op = self.recorder.invoke_as(self.host, key, action);
        let outcome = match self.map(key).await {
            // A read that failed has written nothing.
            Err(_) => Outcome::NotApplied,
            Ok((mut map, context)) => match change(op, &mut map) {
                Err(outcome) => outcome,
                Ok(()) => match self.node.kv().put(key, map.encode()).context(&context).await {
                    Ok(_) => Outcome::Done(Vec::new()),
                    Err(error) => outcome_of(op, &error),
                },
            },
        };
        self.recorder.returned(op, outcome.clone());
        (op, outcome)
    }

    /// Reads a map, and tells what was found in it. Returns whether it succeeded.
    async fn look(&self, key: &str, action: Action, found: fn(&MaxMap) -> Outcome) -> bool {
        let op = self.recorder.invoke(self.host, key, action);
        let read = self.map(key).await;
        let outcome = read.as_ref().map_or_else(|error| outcome_of(op, error), |(map, _)| found(map));
        self.recorder.returned(op, outcome);
        read.is_ok()
    }

    fn garbage(&self, key: &str) {
        self.recorder.event(Event::Garbage { host: self.host, key: key.to_owned() });
    }
}

fn outcome_of(op: OpId, error: &KvError) -> Outcome {
    tracing::debug!(%op, %error, "failed");
    match error.outcome() {
        KvOutcome::NotApplied => Outcome::NotApplied,
        KvOutcome::Unknown => Outcome::Unknown,
    }
}

/// Gives each client its own pace.
pub(crate) struct Paces {
    pub(crate) work: watch::Receiver<bool>,
    pub(crate) rng: StdRng,
}

impl Paces {
    fn next(&mut self) -> Pace {
        Pace { work: self.work.clone(), rng: StdRng::from_rng(&mut self.rng) }
    }
}

/// When a client may work, and its randomness.
struct Pace {
    work: watch::Receiver<bool>,
    rng: StdRng,
}

impl Pace {
    /// Waits a while, and until there is work. `false` when there never will be.
    async fn next(&mut self) -> bool {
        let pause = self.rng.random_range(20..250);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.work.wait_for(|work| *work).await.is_ok()
    }
}

/// Before the last reads: says where this node believes each key to be, and what it holds of it.
pub(crate) fn tell_holdings(client: &Client, keys: &[String]) {
    for key in keys {
        let kv = client.node.kv();
        let in_bucket = buckets::held(client, key).or_else(|| kinds::held(client, key));
        let nodes = in_bucket.as_ref().map_or_else(|| kv.replicas(key), |(replicas, _)| replicas.clone());
        let mut replicas: Vec<Host> = nodes.iter().filter_map(|node| Host::of_name(node.name.as_str())).collect();
        replicas.sort_unstable();
        if let Some((_, copy)) = in_bucket {
            client.recorder.event(Event::Holds { host: client.host, key: key.clone(), replicas, copy });
            continue;
        }
        let copy = kv.local(key).ok().flatten().map(|entry| {
            let mut values: Vec<&[u8]> = entry.values().iter().map(|value| &**value).collect();
            values.sort_unstable();
            let mut hash = xxhash_rust::xxh3::Xxh3::new();
            for value in values {
                hash.update(&(value.len() as u64).to_le_bytes());
                hash.update(value);
            }
            hash.digest()
        });
        client.recorder.event(Event::Holds { host: client.host, key: key.clone(), replicas, copy });
    }
}

/// Before the last reads: says what this node's replicas of documents hold, if the world has any.
pub(crate) fn tell_documents(client: &Client, workloads: &[&'static Workload]) {
    let has = |wanted: &Workload| workloads.iter().any(|workload| workload.name == wanted.name);
    if has(&documents::WORKLOAD) {
        documents::tell(client);
    }
    if has(&presence::WORKLOAD) {
        presence::tell(client);
    }
    if has(&owners::WORKLOAD) {
        owners::tell(client);
    }
}

/// Reads every key until each read has succeeded.
pub(crate) async fn read_all(client: Client, workloads: Vec<&'static Workload>) {
    for workload in workloads {
        for key in (workload.keys)(client.hosts) {
            while !(workload.read)(&client, &key).await {
                tokio::time::sleep(READ_AGAIN).await;
            }
        }
    }
    client.recorder.event(Event::FinalReadsDone { host: client.host });
}

/// A seed for a part of the world, which follows from the run's seed and the part's name.
#[must_use]
pub fn seed_of(seed: u64, part: &str, number: u64) -> u64 {
    StdRng::seed_from_u64(seed ^ xxhash_rust::xxh3::xxh3_64_with_seed(part.as_bytes(), number)).random()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
    fn no_two_workloads_share_a_name_or_a_key() {
        let names: BTreeSet<_> = ALL.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), ALL.len());
        let keys: Vec<String> = ALL.iter().flat_map(|workload| (workload.keys)(9)).collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn two_buckets_can_have_another_number_of_replicas() {
        let text = |others: Option<u8>| {
            let others = others.map(|count| ReplicaCount::new(count).expect("a possible number"));
            declare(KvConfig::default(), others).must_match()[1].1.clone()
        };
        assert_eq!(text(None), "3");
        assert_eq!(text(Some(5)), "3, \"leases\" 5, \"sets\" 5");
    }

    #[test]
    fn seeds_of_parts_differ() {
        assert_ne!(seed_of(1, "links", 0), seed_of(2, "links", 0));
        assert_ne!(seed_of(1, "links", 0), seed_of(1, "host", 0));
        assert_ne!(seed_of(1, "host", 0), seed_of(1, "host", 1));
    }
}
