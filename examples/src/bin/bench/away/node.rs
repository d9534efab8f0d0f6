//! One node of the benchmark: does what it is told in lines on its standard input, one after the other, and answers in lines.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::BufRead as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use polity::{Consistency, Node, Preset};

use super::{PATIENCE, overwritten};
use crate::stores::{self, VALUE_BYTES, key};

/// How many keys are read back at most.
const SAMPLE: u64 = 1_000;
/// How often it is looked whether what is missing has come.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Prints where it listens, then one answer for every order, until its standard input closes.
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut arg = || args.next().context("usage: away-node NAME SEED FOLDER");
    let (name, seed, folder) = (arg()?, arg()?, arg()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let builder = Node::builder(name).cluster("bench-away").preset(Preset::Local).no_discovery().secret([7; 32]);
        let seeds: Vec<&str> = if seed == "-" { Vec::new() } else { vec![&seed] };
        let node = builder.durable(folder).listen("127.0.0.1:0").seeds(seeds).start().await?;
        println!("{}", node.addr());
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let answer = tokio::time::timeout(PATIENCE, obey(&node, &line)).await;
            println!("{}", answer.with_context(|| format!("not done in {PATIENCE:?}: {line:?}"))??);
        }
        Ok(())
    })
}

async fn obey(node: &Node, order: &str) -> Result<String> {
    let words: Vec<&str> = order.split(' ').collect();
    match words[..] {
        ["fill", first, count] => {
            let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
            stores::write(node.kv(), first..first + count, 0).await?;
        }
        ["up", members] => stores::up(node, members.parse()?).await,
        ["settle", members] => stores::settled(node, members.parse()?).await,
        ["overwrite", at, of, count, keys, stamp] => {
            let (at, of): (usize, usize) = (at.parse()?, of.parse()?);
            let own = overwritten(count.parse()?, keys.parse()?).skip(at).step_by(of);
            stores::write(node.kv(), own, stamp.parse()?).await?;
        }
        ["hold", count, keys, stamp] => hold(node, count.parse()?, keys.parse()?, stamp.parse()?).await?,
        ["read", count, keys, stamp] => read(node, count.parse()?, keys.parse()?, stamp.parse()?).await?,
        ["fingerprint", keys] => return Ok(fingerprint(node, keys.parse()?)?.to_string()),
        ["moved"] => {
            let (repair, sent) = (node.kv().stats().repair_bytes, node.transport_stats().bytes_out.value());
            return Ok(format!("{repair} {sent}"));
        }
        _ => bail!("not an order: {order:?}"),
    }
    Ok("done".to_owned())
}

/// Waits until this node itself holds all that was overwritten.
async fn hold(node: &Node, count: u64, keys: u64, stamp: u8) -> Result<()> {
    for at in overwritten(count, keys) {
        let key = key(at);
        while node
            .kv()
            .local(&key)?
            .as_ref()
            .and_then(|entry| entry.value())
            .is_none_or(|value| value[..] != [stamp; VALUE_BYTES])
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Reads some of what was overwritten, from one replica: on a node that is one, from itself.
async fn read(node: &Node, count: u64, keys: u64, stamp: u8) -> Result<()> {
    for at in overwritten(count, keys).step_by(count.div_ceil(SAMPLE) as usize) {
        let found = node.kv().get(key(at)).consistency(Consistency::One).await?;
        let is_right = found.value().is_some_and(|value| value[..] == [stamp; VALUE_BYTES]);
        ensure!(is_right, "{} is not what was written last: {found:?}", key(at));
    }
    Ok(())
}

/// Of all keys and values that this node itself holds, the same on all that hold the same.
fn fingerprint(node: &Node, keys: u64) -> Result<u64> {
    let mut sum = 0_u64;
    for at in 0..keys {
        let found = node.kv().local(key(at))?;
        let mut hasher = DefaultHasher::new();
        (at, found.as_ref().map(|entry| entry.values())).hash(&mut hasher);
        sum = sum.wrapping_add(hasher.finish());
    }
    Ok(sum)
}
