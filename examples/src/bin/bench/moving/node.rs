//! One node of the benchmark: does what it is told in lines on its standard input, and answers in lines.

use std::io::BufRead as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use polity::shard::ShardCount;
use polity::{Kv, KvConfig, Node, Preset};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{PATIENCE, VALUE_BYTES, key};
use crate::figures::Figures;

/// How many keys are written in one call when the store is filled.
const FILLED_AT_ONCE: u64 = 10_000;

/// Prints where it listens, then one answer for every order, until its standard input closes.
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut arg = || args.next().context("usage: move-node NAME SEED");
    let (name, seed) = (arg()?, arg()?);
    let (send, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let builder = Node::builder(name).cluster("bench-move").preset(Preset::Local).no_discovery().secret([7; 32]);
        let seeds: Vec<&str> = if seed == "-" { Vec::new() } else { vec![&seed] };
        // About a thousand keys each: a look at all of a shard is one piece of work.
        let mut kv = KvConfig::default();
        kv.shards = ShardCount::new(1024)?;
        let node = builder.kv(kv).listen("127.0.0.1:0").seeds(seeds).start().await?;
        println!("{}", node.addr());
        let load = Load { kv: node.kv().clone(), window: Arc::default() };
        let done = Arc::new(AtomicBool::new(false));
        while let Some(order) = orders.recv().await {
            let words: Vec<&str> = order.split(' ').collect();
            match words[..] {
                ["fill", first, count] => {
                    fill(node.kv(), first.parse()?, count.parse()?).await?;
                    println!("filled");
                }
                ["load", per_second, keys] => {
                    load.begin(per_second.parse()?, keys.parse()?);
                    println!("begun");
                }
                ["window"] => load.window.lock().unwrap_or_else(PoisonError::into_inner).print(),
                ["settle", members] => {
                    let (node, members, done) = (node.clone(), members.parse::<usize>()?, done.clone());
                    done.store(false, Ordering::Relaxed);
                    tokio::spawn(async move {
                        while node.members().snapshot().up().count() != members {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        node.kv().settled().await;
                        done.store(true, Ordering::Relaxed);
                    });
                    println!("begun");
                }
                ["leave"] => {
                    let (node, done) = (node.clone(), done.clone());
                    done.store(false, Ordering::Relaxed);
                    tokio::spawn(async move {
                        let left = node.leave(PATIENCE).await;
                        done.store(left.is_ok(), Ordering::Relaxed);
                    });
                    println!("begun");
                }
                ["progress"] => {
                    let moved = node.kv().stats().repair_bytes;
                    println!("{} {moved} {}", node.kv().pending_shards(), done.load(Ordering::Relaxed));
                }
                ["records"] => println!("{}", node.kv().local_records()?),
                _ => bail!("not an order: {order:?}"),
            }
        }
        Ok(())
    })
}

async fn fill(kv: &Kv, first: u64, count: u64) -> Result<()> {
    let mut from = first;
    while from < first + count {
        let to = (from + FILLED_AT_ONCE).min(first + count);
        let results = kv.put_many((from..to).map(|at| (key(at), vec![1; VALUE_BYTES]))).await;
        for result in results {
            result?;
        }
        from = to;
    }
    Ok(())
}

/// Calls that are made at fixed times, however long the ones before take.
#[derive(Clone)]
struct Load {
    kv: Kv,
    window: Arc<Mutex<Window>>,
}

/// What was measured since it was asked for last.
#[derive(Default)]
struct Window {
    since: Option<Instant>,
    puts: Vec<u32>,
    gets: Vec<u32>,
    failed: u64,
}

impl Window {
    fn print(&mut self) {
        let Self { since, mut puts, mut gets, failed } = std::mem::take(self);
        self.since = Some(Instant::now());
        let seconds = since.map_or(f64::NAN, |since| since.elapsed().as_secs_f64());
        println!("{failed}");
        for nanos in [&mut puts, &mut gets] {
            nanos.sort_unstable();
            println!("{}", Figures::new(nanos, seconds));
        }
    }
}

impl Load {
    /// Puts and gets in turn, so many of them a second, timed by a thread: the runtime's clock ticks in milliseconds.
    fn begin(&self, per_second: f64, keys: u64) {
        let (load, runtime) = (self.clone(), Handle::current());
        let pause = Duration::from_secs_f64(1.0 / per_second);
        std::thread::spawn(move || {
            let mut next = Instant::now();
            for at in 0_u64.. {
                next += pause;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let (load, due) = (load.clone(), next);
                // Odd, and so no multiple of a divisor of what it is taken modulo.
                let key = key(at.wrapping_mul(48_271) % keys);
                runtime.spawn(async move { load.call(key, at % 2 == 0, due).await });
            }
        });
    }

    async fn call(&self, key: String, puts: bool, due: Instant) {
        let is_well = if puts {
            self.kv.put(key, vec![2; VALUE_BYTES]).await.map(|_| true)
        } else {
            self.kv.get(key).await.map(|found| !found.is_empty())
        };
        let nanos = u32::try_from(due.elapsed().as_nanos()).unwrap_or(u32::MAX);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(is_well, Ok(true)) {
            eprintln!("failed: {is_well:?}");
            window.failed += 1;
        }
        if puts { window.puts.push(nanos) } else { window.gets.push(nanos) }
    }
}
