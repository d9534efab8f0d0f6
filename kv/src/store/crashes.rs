//! The store on a disk that loses its power at every point: no write is lost that was durable, and none is invented.

use std::collections::BTreeSet;
use std::sync::Arc;

use polity_crdt::Dot;
use polity_shard::ShardCount;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::engine::faulty::Fault;
use crate::engine::{Disk, FaultyEngine};
use crate::record::{Blob, Kind, Update, Writing};
use crate::roster::tests::{boot, roster};
use polity_crdt::VersionVector;

const SHARDS: u32 = 2;
/// Lives of the node in each run, and what it does in each.
const LIVES: usize = 4;
const STEPS: usize = 25;
const SEEDS: u64 = 60;

/// All records of all shards.
type Content = Vec<Vec<(Blob, Blob)>>;

fn config() -> KvConfig {
    KvConfig { shards: ShardCount::new(SHARDS).expect("valid"), max_siblings: 1024, ..KvConfig::default() }
}

fn open(life: usize, disk: &Disk) -> Store {
    let engine = FaultyEngine::open(disk).expect("an incomplete tail is no damage");
    let store = Store::new(boot(&format!("a{}", life + 1)), &config(), Arc::new(engine)).expect("reads");
    for shard in store.shard_ids() {
        store.place(shard, roster("a1 b1 c1"));
        store.introduce(shard, Vec::new());
    }
    store
}

fn content(store: &Store) -> Content {
    let all = |shard| {
        let (mut records, mut digest) = (Vec::new(), Digest::default());
        let visited = store.engine.scan(shard, None, &mut |key, record| {
            digest.change(key, None, Some(record));
            records.push((key.to_vec().into(), record.to_vec().into()));
            ControlFlow::Continue(())
        });
        visited.expect("reads");
        assert_eq!(store.digest(shard), digest, "the digest is that of the records");
        assert_eq!(store.holds_records(shard), !records.is_empty());
        records
    };
    store.shard_ids().map(all).collect()
}

fn dots(content: &Content) -> BTreeSet<Dot> {
    let mut dots = BTreeSet::new();
    for (_, bytes) in content.iter().flatten() {
        let record = record::decode(&bytes.0).expect("a record");
        for (replica, counters) in record.context().iter() {
            dots.extend(counters.flatten().map(|counter| Dot { replica, counter }));
        }
    }
    dots
}

/// Puts a value over what was seen, or deletes that.
fn put(store: &Store, key: &[u8], value: Option<Blob>, seen: &VersionVector) -> Result<Written, WriteError> {
    let shard = store.shard_of(key);
    let update = Update::put(Kind::Causal, value);
    let write = Write { update: &update, context: Some(seen), known: None, wall: Duration::ZERO };
    store.write(shard, key, write, store.placed(shard).id())
}

/// One step of a node: a write, a delete, or a merge of what another made.
fn step(store: &Store, rng: &mut StdRng, number: u64) {
    let key = [b'a' + rng.random_range(0..6u8)];
    let shard = store.shard_of(&key);
    let named = store.placed(shard).id();
    let value = Blob::from(number.to_be_bytes().to_vec());
    let seen = store.local(&key).expect("reads").map(|record| record.context().clone()).unwrap_or_default();
    match rng.random_range(0..4u8) {
        0 => drop(put(store, &key, None, &seen).expect("writes")),
        1 => drop(put(store, &key, Some(value), &VersionVector::new()).expect("writes")),
        2 => drop(put(store, &key, Some(value), &seen).expect("writes")),
        _ => {
            let mut record = Record::default();
            let (replica, at) = (ReplicaId(1_000_000 + number), polity_crdt::Timestamp::default());
            let writing = Writing { replica, above: 0, context: Some(&seen), at, window: 0 };
            record.apply(&Update::put(Kind::Causal, Some(value)), &writing).expect("room");
            store.merge(shard, &key, &record::encode(&record), named).expect("merges");
        }
    }
}

/// What the node has been, from what was durable on.
struct Past {
    states: Vec<Content>,
    durable: usize,
}

impl Past {
    /// A disk that has lost its power has one of these states.
    fn check(&self, disk: &Disk, life: usize, at: &str) {
        let found = content(&open(life + 1, disk));
        let position = self.states.iter().rposition(|state| *state == found);
        match position {
            None => panic!("{at}: this was never there"),
            Some(position) => assert!(position >= self.durable, "{at}: a durable write is lost"),
        }
    }
}

async fn run(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = Disk::new(seed);
    let (mut checked, mut used) = (0, BTreeSet::new());
    for life in 0..LIVES {
        let store = open(life, &disk);
        let mut past = Past { states: vec![content(&store)], durable: 0 };
        let before = dots(&past.states[0]);
        for number in 0..STEPS {
            step(&store, &mut rng, (life * STEPS + number) as u64);
            past.states.push(content(&store));
            if rng.random_bool(0.2) {
                store.all_durable(store.shard_ids()).await.expect("syncs");
                past.durable = past.states.len() - 1;
            }
            // A cut in each byte of what is not synced, in some runs; in the others, here and there.
            let (written, synced) = disk.bytes();
            let every = if seed.is_multiple_of(10) { 1 } else { rng.random_range(20..400) };
            for kept in (0..=written - synced).step_by(every) {
                let copy = disk.copy();
                copy.cut_power_after(kept);
                past.check(&copy, life, &format!("seed {seed}, life {life}, step {number}, {kept} bytes kept"));
                checked += 1;
            }
        }
        let own: BTreeSet<_> = dots(past.states.last().expect("one")).difference(&before).copied().collect();
        assert!(
            own.iter().all(|dot| used.insert(*dot) || dot.replica.0 >= 1_000_000),
            "seed {seed}: a dot was used twice"
        );
        match rng.random_range(0..3u8) {
            0 => disk.kill_process(),
            tears => disk.cut_power(tears == 1),
        }
    }
    checked
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_survives_and_nothing_is_invented() {
    let mut checked = 0;
    for seed in 0..SEEDS {
        checked += run(seed).await;
    }
    assert!(checked > 10_000, "only {checked} power cuts");
}

/// A disk that says it has synced, and has not, is found out by the test above.
#[tokio::test(start_paused = true)]
#[should_panic(expected = "a durable write is lost")]
async fn a_disk_that_lies_is_found_out() {
    let disk = Disk::new(1);
    disk.set_fault(Fault::Lies);
    let store = open(0, &disk);
    let mut past = Past { states: vec![content(&store)], durable: 0 };
    step(&store, &mut StdRng::seed_from_u64(1), 1);
    past.states.push(content(&store));
    store.all_durable(store.shard_ids()).await.expect("it lies");
    past.durable = 1;
    disk.cut_power_after(0);
    past.check(&disk, 0, "lies");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_and_changes_nothing() {
    let disk = Disk::new(1);
    let store = open(0, &disk);
    let mut rng = StdRng::seed_from_u64(1);
    step(&store, &mut rng, 0);
    let before = content(&store);
    let write = || put(&store, b"k", Some(Blob::from(vec![1])), &VersionVector::new());
    for (fault, full) in [(Fault::Write, false), (Fault::Full, true)] {
        disk.set_fault(fault);
        let error = write().expect_err("fails");
        assert!(matches!(error, WriteError::Engine(error) if matches!(error, EngineError::Full { .. }) == full));
        assert_eq!(content(&store), before);
    }
    disk.set_fault(Fault::Sync);
    write().expect("it is in the log");
    let commit = store.commit(store.shard_ids()).expect("nothing else to keep");
    assert!(matches!(store.durable(commit).await, Err(EngineError::Failed { .. })));
    disk.set_fault(Fault::None);
    assert!(store.durable(commit).await.is_err(), "a later sync says nothing about what was lost before");
    assert!(write().is_err());
    disk.kill_process();
    assert_eq!(content(&open(1, &disk)).concat().len(), before.concat().len() + 1);
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_a_sync_and_damage_is_reported() {
    let disk = Disk::new(7);
    let store = open(0, &disk);
    let mut rng = StdRng::seed_from_u64(7);
    for number in 0..64 {
        step(&store, &mut rng, number);
    }
    let (_, synced) = disk.bytes();
    let waits = (0..64).map(|_| store.all_durable(store.shard_ids()));
    assert!(futures_util::future::join_all(waits).await.iter().all(Result::is_ok));
    assert_eq!(disk.syncs(), 1);
    let end = disk.bytes().0;
    for number in 0..4 {
        step(&store, &mut rng, 64 + number);
    }
    for at in synced..end {
        let copy = disk.copy();
        copy.flip(at, 1 << rng.random_range(0..8u8));
        match FaultyEngine::open(&copy) {
            Err(EngineError::Damaged { offset: Some(offset), .. }) => assert!(offset as usize <= at),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}
