//! What all of a node's start costs with so many records, which an earlier life of it has put: opening its folder; reading and
//! decoding all of them for digests, times to live and counts (`Kv::start_on`); and becoming a member, the only one there is.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polity_cluster::{Node, Preset};
use polity_kv::engine::DurableEngine;
use polity_kv::{EngineError, Kv, KvConfig};

use super::owner;
use crate::{key, row};

const VALUE_BYTES: usize = 100;
/// How many puts are under way at once.
const PUT_AT_ONCE: usize = 10_000;
/// How often the node is started again.
const STARTS: usize = 2;

/// A node that has started, and how long the parts of that took.
struct Started {
    node: Node,
    kv: Kv,
    open: Duration,
    read: Duration,
    all: Duration,
}

pub(super) fn run(path: &Path, entries: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
    runtime.block_on(async {
        let began = Instant::now();
        fill(path, entries).await;
        let filled = began.elapsed();
        for _ in 0..STARTS {
            let started = start(path).await;
            let Started { kv, open, read, all, .. } = &started;
            assert_eq!(kv.local_records().expect("works"), entries, "all of them");
            let [open, read, all, filled] = [*open, *read, *all, filled].map(|time| time.as_secs_f64());
            let beside = format!("of it {open:.2} s to open, {read:.2} s to read; {filled:.1} s to put them");
            row(&format!("start of a node, {entries} records"), &format!("{all:.2} s"), "3 s for 1M", &beside);
            started.node.stop().await;
        }
    });
}

async fn fill(path: &Path, entries: u64) {
    let started = start(path).await;
    let kv = &started.kv;
    kv.settled().await;
    let mut numbers = (0..entries).peekable();
    while numbers.peek().is_some() {
        let some = numbers.by_ref().take(PUT_AT_ONCE);
        let puts = kv.put_many(some.map(|number| (key(number), vec![number as u8; VALUE_BYTES]))).await;
        puts.into_iter().for_each(|put| drop(put.expect("works")));
    }
    started.node.stop().await;
}

async fn start(path: &Path) -> Started {
    let (engine, began) = open(path).await;
    let open = began.elapsed();
    let mut read = Duration::ZERO;
    let builder = Node::builder("bench").cluster("bench").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    let prepare = |node: &Node| {
        let began = Instant::now();
        let kv = Kv::start_on(node, KvConfig::default(), engine.clone());
        read = began.elapsed();
        kv
    };
    let (node, kv) = builder.start_with(prepare).await.expect("starts");
    Started { node, kv: kv.expect("reads what it has kept"), open, read, all: began.elapsed() }
}

/// Opens the folder, and says when that began: tasks of the node before let go of it a little after that has stopped.
async fn open(path: &Path) -> (Arc<DurableEngine>, Instant) {
    loop {
        let began = Instant::now();
        match DurableEngine::open(path, &owner()) {
            Ok(engine) => return (Arc::new(engine), began),
            Err(EngineError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}
