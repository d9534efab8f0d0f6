//! One node of the benchmark: does what it is told in lines on its standard input, and answers in lines.

use std::io::BufRead as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use polity::kv::{KvError, Outcome};
use polity::shard::ShardCount;
use polity::{Kv, KvConfig, Node, Preset};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::PATIENCE;
use super::counts::Counts;
use crate::figures::Figures;
use crate::stores::{self, VALUE_BYTES, key};

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
        let load = Load { kv: node.kv().clone(), window: Arc::default(), stage: Arc::default() };
        let done = Arc::new(AtomicBool::new(false));
        while let Some(order) = orders.recv().await {
            let words: Vec<&str> = order.split(' ').collect();
            match words[..] {
                ["fill", first, count] => {
                    let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
                    stores::write(node.kv(), first..first + count, 1).await?;
                    println!("filled");
                }
                ["call", per_second, keys] => {
                    load.begin(per_second.parse()?, keys.parse()?);
                    println!("begun");
                }
                ["join", per_second, keys] => {
                    load.enter(Stage::Joins);
                    load.begin(per_second.parse()?, keys.parse()?);
                    let (node, load) = (node.clone(), load.clone());
                    tokio::spawn(async move {
                        if node.ready().await.is_ok() {
                            load.enter(Stage::Stays);
                        }
                    });
                    println!("begun");
                }
                ["window"] => load.window().print(),
                ["settle", members] => {
                    let (node, members, done) = (node.clone(), members.parse::<usize>()?, done.clone());
                    done.store(false, Ordering::Relaxed);
                    tokio::spawn(async move {
                        stores::settled(&node, members).await;
                        done.store(true, Ordering::Relaxed);
                    });
                    println!("begun");
                }
                ["leave"] => {
                    let (node, load, done) = (node.clone(), load.clone(), done.clone());
                    done.store(false, Ordering::Relaxed);
                    tokio::spawn(async move {
                        load.enter(Stage::Leaves);
                        let left = node.leave(PATIENCE).await;
                        load.enter(Stage::HasLeft);
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

/// How far a node is on its way in or out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// It is a member, and not ready.
    Joins,
    #[default]
    Stays,
    Leaves,
    HasLeft,
}

/// Calls that are made at fixed times, however long the ones before take, until the node has left.
#[derive(Clone)]
struct Load {
    kv: Kv,
    window: Arc<Mutex<Window>>,
    stage: Arc<Mutex<Stage>>,
}

/// What was measured since it was asked for last.
#[derive(Default)]
struct Window {
    since: Option<Instant>,
    puts: Vec<u32>,
    gets: Vec<u32>,
    counts: Counts,
}

impl Window {
    fn print(&mut self) {
        let Self { since, mut puts, mut gets, counts } = std::mem::take(self);
        self.since = Some(Instant::now());
        let seconds = since.map_or(f64::NAN, |since| since.elapsed().as_secs_f64());
        println!("{counts}");
        for nanos in [&mut puts, &mut gets] {
            nanos.sort_unstable();
            println!("{}", Figures::new(nanos, seconds));
        }
    }

    /// Counts a call that began in this stage, by what became of it.
    fn count(&mut self, stage: Stage, what: &str, ended: &Result<bool, KvError>) {
        let counts = &mut self.counts;
        let (served, failed) = match stage {
            Stage::Stays => (&mut counts.served, &mut counts.failed),
            Stage::Joins | Stage::Leaves | Stage::HasLeft => (&mut counts.passing.served, &mut counts.passing.failed),
        };
        match ended {
            Ok(true) => *served += 1,
            Err(error) if stage != Stage::Stays && error.outcome() == Outcome::NotApplied => {
                if counts.passing.refused == 0 {
                    eprintln!("a {what} is refused ({stage:?}): {error}");
                }
                counts.passing.refused += 1;
            }
            _ => {
                eprintln!("a {what} failed ({stage:?}): {ended:?}");
                *failed += 1;
            }
        }
    }
}

impl Load {
    /// Puts and gets in turn, so many of them a second, timed by a thread: the runtime's clock ticks in milliseconds.
    fn begin(&self, per_second: f64, keys: u64) {
        let (load, runtime) = (self.clone(), Handle::current());
        let pause = Duration::from_secs_f64(1.0 / per_second);
        self.window().since.get_or_insert_with(Instant::now);
        std::thread::spawn(move || {
            let mut next = Instant::now();
            for at in 0_u64.. {
                next += pause;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                if load.stage() == Stage::HasLeft {
                    return;
                }
                let (load, due) = (load.clone(), next);
                // Odd, and so no multiple of a divisor of what it is taken modulo.
                let key = key(at.wrapping_mul(48_271) % keys);
                runtime.spawn(async move { load.call(key, at % 2 == 0, due).await });
            }
        });
    }

    async fn call(&self, key: String, puts: bool, due: Instant) {
        let stage = self.stage();
        if stage == Stage::HasLeft {
            return;
        }
        let (what, ended) = if puts {
            ("put", self.kv.put(key, vec![2; VALUE_BYTES]).await.map(|_| true))
        } else {
            ("get", self.kv.get(key).await.map(|found| !found.is_empty()))
        };
        let nanos = u32::try_from(due.elapsed().as_nanos()).unwrap_or(u32::MAX);
        let mut window = self.window();
        window.count(stage, what, &ended);
        if puts { window.puts.push(nanos) } else { window.gets.push(nanos) }
    }

    fn enter(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
