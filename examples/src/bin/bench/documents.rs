//! `bench documents`: a replicated map on three nodes over loopback, each with its own thread, in one process, so that
//! their times can be compared.
//!
//! Keys have 12 bytes and values 16. Beside each figure stands its floor in the same run: a call between the same two
//! nodes, which wakes one thread more than an update does; or the bytes of keys and values.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use polity::cluster::rpc::{Lane, Method, Peer};
use polity::crdt::{MvRegister, OrMap};
use polity::{Document, Node, Preset};

use crate::Options;

type Map = OrMap<String, MvRegister<String>>;

const PAYLOAD_BYTES: f64 = 28.0;
const PING: Method<(), ()> = Method::new(2_000, "ping", Lane::Call);
/// Longer than any figure that would be acceptable.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many single updates are timed.
const UPDATES: usize = 2_000;
/// The pause between two updates.
const QUIET: Duration = Duration::from_millis(2);
/// How many keys the document has that an empty node joins.
const LARGE: usize = 1_000_000;

async fn start(name: &str, seeds: &[&Node]) -> Result<Node> {
    let builder = Node::builder(name).cluster("bench").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    Ok(builder.seeds(seeds.iter().map(|node| node.addr())).start().await?)
}

fn put(document: &Document<Map>, key: usize, value: usize) -> Result<()> {
    let (key, value) = (format!("key-{key:08}"), format!("value-{value:010}"));
    document.update(|map, w| map.update(w, key, |register, w| register.set(w, value)))?;
    Ok(())
}

async fn until(document: &Document<Map>, shows: impl Fn(&Map) -> bool) -> Result<()> {
    let mut watch = document.watch();
    // The first event is the whole state, and is not needed.
    watch.next().await;
    let waiting = async {
        while !document.read(&shows) {
            watch.next().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.context("a replica did not become equal")
}

fn quantile(times: &mut [Duration], q: f64) -> f64 {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3
}

struct Row {
    what: String,
    figure: f64,
    unit: &'static str,
    target: &'static str,
    floor: String,
}

impl Row {
    fn print(&self, json: bool) {
        if json {
            println!("{{\"what\":{:?},\"figure\":{:.4},\"unit\":{:?}}}", self.what, self.figure, self.unit);
        } else {
            println!("{:44} {:>10.3} {:9} {:22} {}", self.what, self.figure, self.unit, self.target, self.floor);
        }
    }
}

pub(crate) fn run(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if !options.json {
            println!("{:44} {:>10} {:9} {:22} floor or minimum", "", "figure", "unit", "target (star)");
        }
        for keys in [10_000, 50_000] {
            bulk(keys, options).await?;
        }
        updates(options).await?;
        join(options).await
    })
}

/// Many keys on one node, to two empty replicas that are connected.
async fn bulk(keys: usize, options: Options) -> Result<()> {
    let first = start("n1", &[]).await?;
    let second = start("n2", &[&first]).await?;
    let third = start("n3", &[&first, &second]).await?;
    let documents = [&first, &second, &third].map(|node| node.document::<Map>("d"));
    let [here, there, yonder] = documents;
    let (here, there, yonder) = (here?, there?, yonder?);
    for document in [&here, &there, &yonder] {
        let known = async {
            while document.stats().replicas < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.context("the replicas did not meet")?;
    }
    let before = here.stats().sync.sent_bytes;
    let begun = Instant::now();
    for key in 0..keys {
        put(&here, key, key)?;
    }
    let written = begun.elapsed();
    tokio::try_join!(until(&there, |map| map.len() == keys), until(&yonder, |map| map.len() == keys))?;
    let elapsed = begun.elapsed();
    here.flushed().await?;
    let bytes = (here.stats().sync.sent_bytes - before) as f64 / keys as f64;
    Row {
        what: format!("bulk load of {keys} keys, two empty replicas"),
        figure: elapsed.as_secs_f64() * 1e3,
        unit: "ms",
        target: if keys == 10_000 { "100 (30)" } else { "400 (150)" },
        floor: format!("{:.1} ms: the writes alone", written.as_secs_f64() * 1e3),
    }
    .print(options.json);
    Row {
        what: format!("bytes per key of that, to both ({keys})"),
        figure: bytes,
        unit: "B",
        target: "112 (78)",
        floor: format!("{} B of payload: x {:.2}", 2.0 * PAYLOAD_BYTES, bytes / 2.0 / PAYLOAD_BYTES),
    }
    .print(options.json);
    Ok(())
}

/// One update at a time, until a watcher at the peer has seen it; then nothing at all.
async fn updates(options: Options) -> Result<()> {
    let first = start("n1", &[]).await?;
    let second = start("n2", &[&first]).await?;
    second.rpc().serve(PING, |_, (), reply| reply.send(&()));
    let (here, there) = (first.document::<Map>("d")?, second.document::<Map>("d")?);
    put(&here, 0, 0)?;
    until(&there, |map| map.len() == 1).await?;

    let peer = Peer { node: second.id().clone(), addr: second.addr() };
    let mut floor = Vec::new();
    for _ in 0..UPDATES {
        let begun = Instant::now();
        first.rpc().call(&peer, &PING, &(), PATIENCE).await?;
        floor.push(begun.elapsed());
        tokio::time::sleep(QUIET).await;
    }
    let mut watch = there.watch();
    watch.next().await;
    let mut times = Vec::new();
    for number in 0..UPDATES {
        let begun = Instant::now();
        put(&here, number, number)?;
        watch.next().await;
        times.push(begun.elapsed());
        // The next one comes when all is quiet, and every thread has to be woken again.
        here.flushed().await?;
        tokio::time::sleep(QUIET).await;
    }
    for (q, target) in [(0.5, "1 (0.15)"), (0.99, "5 (2)")] {
        let floor = quantile(&mut floor, q);
        let figure = quantile(&mut times, q);
        Row {
            what: format!("one update visible at a peer, p{}", q * 100.0),
            figure,
            unit: "ms",
            target,
            floor: format!("{floor:.3} ms: a call with the same pauses, x {:.2}", figure / floor),
        }
        .print(options.json);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sent = || (here.stats().sync.sent_bytes + there.stats().sync.sent_bytes) as f64;
    let (before, idle) = (sent(), Duration::from_secs_f64(20.0 * options.seconds));
    tokio::time::sleep(idle).await;
    Row {
        what: "idle, per directed pair".to_owned(),
        figure: (sent() - before) / 2.0 / idle.as_secs_f64(),
        unit: "B/s",
        target: "200 (100)",
        floor: "0 B/s".to_owned(),
    }
    .print(options.json);
    Ok(())
}

/// An empty node joins one that has a large document.
async fn join(options: Options) -> Result<()> {
    let first = start("n1", &[]).await?;
    let here = first.document::<Map>("d")?;
    for key in 0..LARGE {
        put(&here, key, key)?;
    }
    let second = start("n2", &[&first]).await?;
    let before = here.stats().sync.sent_bytes;
    let begun = Instant::now();
    let there = second.document::<Map>("d")?;
    until(&there, |map| map.len() == LARGE).await?;
    let elapsed = begun.elapsed();
    let bytes = (here.stats().sync.sent_bytes - before) as f64 / LARGE as f64;
    Row {
        what: "an empty node joins 1M keys".to_owned(),
        figure: elapsed.as_secs_f64(),
        unit: "s",
        target: "5 (2)",
        floor: format!("{bytes:.1} B a key: x {:.2} of the payload", bytes / PAYLOAD_BYTES),
    }
    .print(options.json);
    Ok(())
}
