//! The engine in a folder, beside a bare log.

mod start;

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use polity_cluster::NodeName;
use polity_kv::Engine;
use polity_kv::engine::durable::Owner;
use polity_kv::engine::{Change, DurableEngine};
use polity_shard::{ShardCount, ShardId};
use tokio::sync::watch;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{key, record, row};

const WRITERS: [usize; 3] = [1, 10, 64];
const ROUNDS: usize = 3;
/// What the library that keeps the records makes its journals of.
const JOURNAL_BYTES: u64 = 64 << 20;

pub(super) fn run(entries: u64, quick: bool) {
    let folder = std::env::var_os("POLITY_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("polity-engines-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let time = if quick { Duration::from_millis(100) } else { Duration::from_secs(2) };
    println!("| *on disk, record {} bytes* | | | |", record(0).len());
    for writers in WRITERS {
        let (mut floor, mut ours) = (0.0_f64, 0.0_f64);
        for _ in 0..ROUNDS {
            floor = floor.max(puts(&Wal::open(&folder.join("log")), writers, time));
            let engine = open(&folder.join("engine"));
            ours = ours.max(puts(&engine, writers, time));
        }
        let beside = format!("append + fdatasync {:.1} k/s: {:.2} of it", floor / 1e3, ours / floor);
        let target = if writers == 64 { "0.7 of it" } else { "" };
        row(&format!("durable put, {writers} writers"), &format!("{:.1} k/s", ours / 1e3), target, &beside);
    }
    restart(&folder.join("restart"), entries);
    start::run(&folder.join("start"), entries);
    fs::remove_dir_all(&folder).expect("it was ours");
}

fn open(path: &Path) -> DurableEngine {
    DurableEngine::open(path, &owner()).expect("opens")
}

fn owner() -> Owner {
    let node = NodeName::new("bench").expect("valid");
    Owner { cluster: "bench".to_owned(), node, shards: ShardCount::default() }
}

/// Somewhere that a put can be made durable.
trait Log {
    async fn put(&self, key: &[u8], record: &[u8]);
}

impl Log for DurableEngine {
    async fn put(&self, key: &[u8], record: &[u8]) {
        let commit = self.store(ShardCount::default().shard_of(key), key, record).expect("works");
        self.durable(commit).await.expect("works");
    }
}

/// Durable puts a second of so many writers, each of which waits for one before the next, on one thread of a runtime.
fn puts(log: &impl Log, writers: usize, time: Duration) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let (began, records) = (Instant::now(), (0..100).map(record).collect::<Vec<_>>());
    let writer = |own: usize| {
        let records = &records;
        async move {
            let mut done = 0;
            while began.elapsed() < time {
                let number = done * writers + own;
                log.put(&key(number as u64), &records[number % records.len()]).await;
                done += 1;
            }
            done
        }
    };
    let done: usize = runtime.block_on(futures_util::future::join_all((0..writers).map(writer))).iter().sum();
    done as f64 / began.elapsed().as_secs_f64()
}

/// A log and nothing else: what waits is appended at once and synced once.
struct Wal {
    queue: Arc<(Mutex<Queue>, Condvar)>,
    durable: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    last: u64,
    stopped: bool,
}

impl Wal {
    fn open(path: &Path) -> Self {
        let mut file: File = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("a file");
        file.set_len(JOURNAL_BYTES).expect("room");
        file.sync_all().expect("syncs");
        let queue = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let (announce, durable) = watch::channel(0);
        let shared = queue.clone();
        let thread = std::thread::spawn(move || {
            loop {
                let (bytes, last) = {
                    let mut queue = shared.0.lock().expect("no panics");
                    while queue.bytes.is_empty() {
                        if queue.stopped {
                            return;
                        }
                        queue = shared.1.wait(queue).expect("no panics");
                    }
                    (std::mem::take(&mut queue.bytes), queue.last)
                };
                file.write_all(&bytes).expect("room");
                file.sync_data().expect("syncs");
                announce.send_replace(last);
            }
        });
        Self { queue, durable, thread: Some(thread) }
    }
}

impl Log for Wal {
    async fn put(&self, key: &[u8], record: &[u8]) {
        let at = {
            let mut queue = self.queue.0.lock().expect("no panics");
            queue.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            queue.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
            queue.bytes.extend_from_slice(&xxh3_64(record).to_le_bytes());
            queue.bytes.extend_from_slice(key);
            queue.bytes.extend_from_slice(record);
            queue.last += 1;
            self.queue.1.notify_one();
            queue.last
        };
        self.durable.clone().wait_for(|durable| *durable >= at).await.expect("it runs");
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.queue.0.lock().expect("no panics").stopped = true;
        self.queue.1.notify_one();
        let _ = self.thread.take().expect("once").join();
    }
}

/// What the engine's part of a start costs with so many records: opening, and reading all of them for the digests of their
/// shards.
fn restart(path: &Path, entries: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let engine = open(path);
    let records: Vec<_> = (0..100).map(record).collect();
    let began = Instant::now();
    let mut last = polity_kv::Commit::NONE;
    for number in 0..entries {
        let key = key(number);
        let put = Change::Put { key: &key, record: &records[number as usize % records.len()] };
        let shard = ShardCount::default().shard_of(&key);
        last = match engine.write(shard, &[put]) {
            Ok(commit) => commit,
            Err(error) if error.is_retryable() => {
                runtime.block_on(engine.durable(last)).expect("works");
                engine.write(shard, &[put]).expect("works")
            }
            Err(error) => panic!("{error}"),
        };
    }
    runtime.block_on(engine.durable(last)).expect("works");
    let filled = began.elapsed();
    drop(engine);
    for again in ["restart", "restart once more"] {
        let began = Instant::now();
        let engine = open(path);
        let opened = began.elapsed();
        let (mut sum, mut count) = (0_u64, 0_u64);
        for shard in (0..ShardCount::default().get()).map(ShardId) {
            let visited = engine.scan(shard, None, &mut |key, record| {
                black_box(xxh3_64_with_seed(key, 1));
                sum = sum.wrapping_add(xxh3_64_with_seed(record, xxh3_64(key)));
                count += 1;
                ControlFlow::Continue(())
            });
            visited.expect("works");
        }
        assert_eq!(count, entries, "all of them: {sum}");
        let all = began.elapsed();
        let beside =
            format!("of it {:.2} s to open; {:.1} s to write them", opened.as_secs_f64(), filled.as_secs_f64());
        row(&format!("{again}, {entries} records"), &format!("{:.2} s", all.as_secs_f64()), "3 s for 1M", &beside);
    }
}
