//! One node of the benchmark: does what it is told in lines on its standard input, and answers in lines.

use std::io::BufRead as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::stream::{self, StreamExt as _};
use polity::{Consistency, Kv, Node, Preset};

use super::NODES;
use super::bare::{Bare, BareGet, BarePut};
use super::workload::{self, Keys, VALUE_BYTES, Work};
use crate::figures::Figures;
use crate::load::{self, Caller};

/// How many writes are under way at each node while it is filled. That is not measured: as many as make it quick, on a disk
/// too.
const FILLERS: usize = 100;

/// Prints where it listens, then `settled`; then, until its standard input closes, for every line `fill` or `fill-bare`
/// that it is `filled`, and for every line `WORK CALLERS SECONDS` [`Figures`].
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut arg = || args.next().context("usage: kv-node NAME SEED [FOLDER]");
    let (name, seed, folder) = (arg()?, arg()?, arg().ok());
    let at = name.trim_start_matches('n').parse().context("a node's name is n and its number")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut builder = Node::builder(name).cluster("bench-kv").preset(Preset::Local).no_discovery().secret([7; 32]);
        let seeds: Vec<&str> = if seed == "-" { Vec::new() } else { vec![&seed] };
        if let Some(folder) = folder {
            builder = builder.durable(folder);
        }
        let node = builder.listen("127.0.0.1:0").seeds(seeds).start().await?;
        let bare = Bare::serve(&node);
        println!("{}", node.addr());
        while node.members().snapshot().up().count() < NODES {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.kv().settled().await;
        println!("settled");
        // The last node says where it listens only when it is one; so the others know all by now, too.
        let bare = bare.with_peers(&node);
        let (keys, new_keys) = (Keys::there(at, NODES), Keys::new_at(at));
        let worker = Worker { kv: node.kv().clone(), bare, at, keys, new_keys };
        for line in std::io::stdin().lock().lines() {
            println!("{}", worker.obey(&line?).await?);
        }
        Ok(())
    })
}

struct Worker {
    kv: Kv,
    bare: Bare,
    at: usize,
    keys: Keys,
    new_keys: Keys,
}

impl Worker {
    async fn obey(&self, order: &str) -> Result<String> {
        let share = stream::iter(workload::share(self.at, NODES));
        match order.split(' ').collect::<Vec<_>>()[..] {
            ["fill"] => share.for_each_concurrent(FILLERS, |key| put(&self.kv, key)).await,
            ["fill-bare"] => share.for_each_concurrent(FILLERS, |key| self.bare.put(key)).await,
            [work, callers, seconds] => {
                let duration = Duration::from_secs_f64(seconds.parse()?);
                return Ok(self.measure(work.parse()?, callers.parse()?, duration).await.to_string());
            }
            _ => bail!("not an order: {order:?}"),
        }
        Ok("filled".to_owned())
    }

    async fn measure(&self, work: Work, callers: usize, duration: Duration) -> Figures {
        let (kv, bare, keys) = (self.kv.clone(), self.bare.clone(), self.keys.clone());
        let (nanos, elapsed) = match work {
            Work::BarePut => load::gather(callers, duration, &BarePut { bare, keys }).await,
            Work::BareGet => load::gather(callers, duration, &BareGet { bare, keys }).await,
            Work::Put => load::gather(callers, duration, &Put { kv, keys }).await,
            Work::PutNew => load::gather(callers, duration, &Put { kv, keys: self.new_keys.clone() }).await,
            Work::Get => load::gather(callers, duration, &Get { kv, keys, level: Consistency::Quorum }).await,
            Work::GetOne => load::gather(callers, duration, &Get { kv, keys, level: Consistency::One }).await,
        };
        Figures::new(&nanos, elapsed.as_secs_f64())
    }
}

async fn put(kv: &Kv, key: String) {
    kv.put(key, vec![1; VALUE_BYTES]).await.expect("a put of a cluster without faults");
}

#[derive(Clone)]
struct Put {
    kv: Kv,
    keys: Keys,
}

impl Caller for Put {
    async fn call(&self) {
        put(&self.kv, self.keys.next()).await;
    }
}

#[derive(Clone)]
struct Get {
    kv: Kv,
    keys: Keys,
    level: Consistency,
}

impl Caller for Get {
    async fn call(&self) {
        let found = self.kv.get(self.keys.next()).consistency(self.level).await;
        let found = found.expect("a get of a cluster without faults");
        // Every key was written, and a quorum knows it. One replica may not.
        assert!(self.level == Consistency::One || !found.values().is_empty());
        assert!(found.values().iter().all(|value| value.len() == VALUE_BYTES));
    }
}
