//! One node of the benchmark: does what it is told in lines on its standard input, and answers in lines.

use std::io::BufRead as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use polity::{Consistency, Kv, Node, Preset};

use super::NODES;
use super::bare::{Bare, BareGet, BarePut};
use super::workload::{Keys, VALUE_BYTES, Work};
use crate::figures::Figures;
use crate::load::{self, Caller};

/// Prints where it listens, then `settled`, then [`Figures`] for every line `WORK CALLERS SECONDS`; until its standard
/// input closes.
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut arg = || args.next().context("usage: kv-node NAME SEED");
    let (name, seed) = (arg()?, arg()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let builder = Node::builder(name).cluster("bench-kv").preset(Preset::Local).no_discovery().secret([7; 32]);
        let seeds: Vec<&str> = if seed == "-" { Vec::new() } else { vec![&seed] };
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
        let keys = Keys::new();
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let [work, callers, seconds] = line.split(' ').collect::<Vec<_>>()[..] else {
                anyhow::bail!("not an order: {line:?}");
            };
            let (work, callers, seconds) = (work.parse()?, callers.parse()?, seconds.parse()?);
            println!("{}", measure(&node, &bare, &keys, work, callers, Duration::from_secs_f64(seconds)).await);
        }
        Ok(())
    })
}

async fn measure(node: &Node, bare: &Bare, keys: &Keys, work: Work, callers: usize, duration: Duration) -> Figures {
    let (kv, keys) = (node.kv().clone(), keys.clone());
    let (nanos, elapsed) = match work {
        Work::BarePut => load::gather(callers, duration, &BarePut { bare: bare.clone(), keys }).await,
        Work::BareGet => load::gather(callers, duration, &BareGet { bare: bare.clone(), keys }).await,
        Work::Put => load::gather(callers, duration, &Put { kv, keys }).await,
        Work::Get => load::gather(callers, duration, &Get { kv, keys, level: Consistency::Quorum }).await,
        Work::GetOne => load::gather(callers, duration, &Get { kv, keys, level: Consistency::One }).await,
    };
    Figures::new(&nanos, elapsed.as_secs_f64())
}

#[derive(Clone)]
struct Put {
    kv: Kv,
    keys: Keys,
}

impl Caller for Put {
    async fn call(&self) {
        self.kv.put(self.keys.next(), vec![1; VALUE_BYTES]).await.expect("a put of a cluster without faults");
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
        assert!(found.values().iter().all(|value| value.len() == VALUE_BYTES));
    }
}
