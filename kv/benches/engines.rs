//! What the engines do beside what they stand on: `cargo bench -p polity-kv --bench engines [--features durable]`, a
//! hundredth of it with `-- --quick`, and the disk only with `-- --disk`. The
//! folder is made in `POLITY_BENCH_FOLDER`, or where temporary files are.
//!
//! In memory: a million entries of 116 bytes (key 16, value 100) at two threads, against shards of a `RwLock<HashMap>`, which
//! know no versions. On disk: a put that is durable, against an append and an `fdatasync` for all who wait, which is all that
//! a log can do; and a restart. Nothing is asserted. Each figure is the best of several rounds: this measures the code, not
//! what else the machine does.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use polity_crdt::{DvvSet, ReplicaId, VersionVector};
use polity_kv::{Engine, MemoryEngine};
use polity_shard::{ShardCount, ShardId};

const PAYLOAD: usize = 116;
const THREADS: u64 = 2;
const ROUNDS: usize = 5;

#[cfg(feature = "durable")]
mod on_disk;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let entries: u64 = if quick { 10_000 } else { 1_000_000 };
    println!("| | figure | target | beside |");
    println!("|---|---|---|---|");
    if !std::env::args().any(|arg| arg == "--disk") {
        in_memory(entries);
    }
    #[cfg(feature = "durable")]
    on_disk::run(entries, quick);
}

fn row(name: &str, figure: &str, target: &str, beside: &str) {
    println!("| {name} | {figure} | {target} | {beside} |");
}

/// Distinct keys of 16 bytes, in no order.
fn key(number: u64) -> [u8; 16] {
    let hex = format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hex.as_bytes().try_into().expect("16 digits")
}

/// A record as the store keeps it: a value of 100 bytes with its history.
fn record(number: u64) -> Vec<u8> {
    // A value with the time at which it expires, under the head of a causal record.
    let mut record = DvvSet::<(Option<u64>, Vec<u8>)>::default();
    let value = number.to_le_bytes().repeat(13)[..100].to_vec();
    record.put(ReplicaId(0x1234_5678_9abc_def0), &VersionVector::new(), (None, value)).expect("room");
    postcard::to_extend(&record, vec![2, 0, 0, 0, 0, 0]).expect("encodes")
}

// ---- in memory ---------------------------------------------------------------------------------------------------------

/// Something that can be got from and put to.
trait Map: Sync {
    fn new() -> Self;
    fn put(&self, key: &[u8], record: &[u8]);
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;
}

type Records = HashMap<Box<[u8]>, Box<[u8]>>;

struct Floor(Vec<RwLock<Records>>);

impl Map for Floor {
    fn new() -> Self {
        Self((0..ShardCount::default().get()).map(|_| RwLock::default()).collect())
    }

    fn put(&self, key: &[u8], record: &[u8]) {
        let shard = ShardCount::default().shard_of(key);
        let mut map = self.0[shard.0 as usize].write().expect("no panics");
        match map.get_mut(key) {
            Some(old) => *old = record.into(),
            None => drop(map.insert(key.into(), record.into())),
        }
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let shard = ShardCount::default().shard_of(key);
        self.0[shard.0 as usize].read().expect("no panics").get(key).map(|record| record.to_vec())
    }
}

impl Map for MemoryEngine {
    fn new() -> Self {
        MemoryEngine::new(ShardCount::default())
    }

    fn put(&self, key: &[u8], record: &[u8]) {
        self.store(ShardCount::default().shard_of(key), key, record).expect("works");
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.load(ShardCount::default().shard_of(key), key).expect("works")
    }
}

/// Operations a second of `work`, which is given each of the numbers once, on all threads together.
fn rate(numbers: u64, work: impl Fn(u64) + Sync) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let work = &work;
                // In an order that has nothing to do with that of the keys or of their making.
                scope
                    .spawn(move || (thread..numbers).step_by(THREADS as usize).for_each(|n| work(n * 7_919 % numbers)));
            }
        });
        best = best.min(began.elapsed());
    }
    numbers as f64 / best.as_secs_f64()
}

struct Speeds {
    get: f64,
    put: f64,
    fill: f64,
    bytes: f64,
}

fn speeds<M: Map>(entries: u64, records: &[Vec<u8>]) -> Speeds {
    let keys: Vec<_> = (0..entries).map(key).collect();
    let record = |n: u64| &records[n as usize % records.len()];
    let mut made = None;
    let heap = measure(|| {
        let map = M::new();
        (0..entries).for_each(|n| map.put(&keys[n as usize], record(n)));
        made = Some(map);
    });
    let map = made.expect("made");
    let get = rate(entries, |n| drop(black_box(map.get(&keys[n as usize]).expect("it is there"))));
    let put = rate(entries, |n| map.put(&keys[n as usize], record(n + 1)));
    drop(map);
    let mut fill = 0.0_f64;
    for _ in 0..ROUNDS {
        let map = M::new();
        let began = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (map, keys) = (&map, &keys);
                let numbers = (thread..entries).step_by(THREADS as usize);
                scope.spawn(move || numbers.for_each(|n| map.put(&keys[n as usize], record(n))));
            }
        });
        fill = fill.max(entries as f64 / began.elapsed().as_secs_f64());
    }
    Speeds { get, put, fill, bytes: heap.bytes_current as f64 / entries as f64 }
}

fn in_memory(entries: u64) {
    let records: Vec<_> = (0..1_000).map(record).collect();
    let (floor, ours) = (speeds::<Floor>(entries, &records), speeds::<MemoryEngine>(entries, &records));
    let compare = |name: &str, ours: f64, floor: f64| {
        let beside = format!("sharded RwLock<HashMap> {:.2} M/s: {:.2} of it", floor / 1e6, ours / floor);
        row(name, &format!("{:.2} M/s", ours / 1e6), "0.7 of it", &beside);
    };
    println!("| *in memory, {entries} entries, {THREADS} threads, record {} bytes* | | | |", records[0].len());
    compare("get", ours.get, floor.get);
    compare("put over an old record", ours.put, floor.put);
    compare("put of a new key", ours.fill, floor.fill);
    let beside = format!("{:.2} x the payload; the map {:.0}", ours.bytes / PAYLOAD as f64, floor.bytes);
    row("heap an entry", &format!("{:.0} B", ours.bytes), "2.0 x", &beside);

    let engine = MemoryEngine::new(ShardCount::default());
    (0..entries).for_each(|n| engine.put(&key(n), &records[0]));
    let first = scan(&engine, ShardCount::default().get(), usize::MAX);
    let again = scan(&engine, ShardCount::default().get(), usize::MAX);
    let one = MemoryEngine::new(ShardCount::new(1).expect("valid"));
    (0..entries).for_each(|n| drop(one.store(ShardId(0), &key(n), &records[0])));
    let (largest, page) = (scan(&one, 1, usize::MAX), scan(&one, 1, 500));
    let text = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let beside = format!("first {}, in one shard {}, there a page of 500 {}", text(first), text(largest), text(page));
    row("scan of all", &text(again), "", &beside);
}

/// How long it takes to visit all records of so many shards, or so many records of each.
fn scan(engine: &dyn Engine, shards: u32, most: usize) -> Duration {
    let began = Instant::now();
    for shard in (0..shards).map(ShardId) {
        let mut seen = 0;
        let visited = engine.scan(shard, None, &mut |key, record| {
            black_box((key, record));
            seen += 1;
            if seen == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        visited.expect("works");
    }
    began.elapsed()
}
