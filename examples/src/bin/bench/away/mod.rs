//! `bench away`: what it takes to make a replica equal again that was away while some of a million keys were overwritten.
//!
//! Three processes with a folder each, three replicas, so every node holds all keys. One is away, in each of two ways: killed
//! with SIGKILL and started again with its folder, which makes it a new boot that has what its predecessor had; or stopped with
//! SIGSTOP until the others take it for down, and continued. Meanwhile the other two overwrite so many keys, spread over all,
//! each half of them. It is back when it starts, or is continued. It is *repaired* when it holds the last value of each of those
//! keys itself; all is *settled* when every node says so (`Kv::settled`). Then a sample is read on it at `Consistency::One`, and
//! a fingerprint of all that it holds must be that of the others.
//!
//! What is counted, from just before it is back until all is settled:
//! - *repair*: `KvStats::repair_bytes` of all three nodes: records, and what tells them apart (coded symbols, tags), both ways,
//!   each message at the node that has asked for it or sent it on its own, also what was remembered as missed (hints).
//! - *sent*: all that the three nodes have sent each other in frames, whatever for: besides repair the accounts of shards that
//!   are compared, rosters, and the questions of `settled`. Gossip and the headers of QUIC are not in it.
//!
//! The floor is the payload: the keys and values that it has missed, once. *Less 64 KiB* is the ratio of the target, at most
//! 2.2, which allows as much beside: `(repair - 64 KiB) / payload`.

pub(crate) mod node;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::Options;
use crate::folder::Folder;
use crate::process::{self, Process};
use crate::stores;

const NODES: usize = 3;
/// The one that goes away: not the seed of the others.
const AWAY: usize = NODES - 1;
/// How many keys it misses.
const COUNTS: [u64; 4] = [100, 1_000, 10_000, 100_000];
/// What may be spent whatever the difference is.
const ALLOWANCE: u64 = 64 << 10;
const TARGET: f64 = 2.2;
/// What bounds each step.
const PATIENCE: Duration = Duration::from_secs(600);

/// The numbers of the keys that are overwritten: spread over all.
fn overwritten(count: u64, keys: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| at * (keys / count))
}

/// How a node is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Killed,
    Stopped,
}

impl Way {
    fn text(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
        }
    }
}

/// What nodes have moved.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    repair: u64,
    sent: u64,
}

struct Cluster {
    nodes: Vec<Process>,
    seed: String,
    // After the nodes, which are ended first.
    folder: Folder,
}

impl Cluster {
    fn start() -> Result<Self> {
        let mut cluster = Self { nodes: Vec::new(), seed: "-".to_owned(), folder: Folder::new("away")? };
        for at in 0..NODES {
            let mut node = cluster.spawn(at)?;
            let addr = node.line()?;
            if at == 0 {
                cluster.seed = addr;
            }
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    fn spawn(&self, at: usize) -> Result<Process> {
        let mut command = process::node("away-node", at, &self.seed)?;
        command.arg(self.folder.path().join(format!("n{at}")));
        Process::start(command)
    }

    /// Has these do something at the same time.
    fn all(&mut self, of: std::ops::Range<usize>, order: impl Fn(usize) -> String) -> Result<()> {
        for at in of.clone() {
            self.nodes[at].tell(&order(at))?;
        }
        for at in of {
            ensure!(self.nodes[at].line()? == "done", "a node does not do it: {}", order(at));
        }
        Ok(())
    }

    fn settle(&mut self, nodes: usize) -> Result<()> {
        self.all(0..nodes, |_| format!("settle {nodes}"))
    }

    /// What these have moved.
    fn moved(&mut self, of: std::ops::Range<usize>) -> Result<Moved> {
        let mut sum = Moved::default();
        for node in &mut self.nodes[of] {
            let line = node.ask("moved")?;
            let (repair, sent) = line.split_once(' ').with_context(|| format!("not moved: {line:?}"))?;
            sum.repair += repair.parse::<u64>()?;
            sum.sent += sent.parse::<u64>()?;
        }
        Ok(sum)
    }

    fn check_equal(&mut self, keys: u64) -> Result<()> {
        let order = format!("fingerprint {keys}");
        self.nodes.iter_mut().try_for_each(|node| node.tell(&order))?;
        let all = self.nodes.iter_mut().map(Process::line).collect::<Result<Vec<_>>>()?;
        ensure!(all.windows(2).all(|pair| pair[0] == pair[1]), "the replicas do not hold the same: {all:?}");
        Ok(())
    }
}

/// What it took.
struct Repair {
    way: Way,
    count: u64,
    moved: Moved,
    /// Since it is back: until it is a member again, where it has to start; until it is repaired; until all is settled.
    member_s: Option<f64>,
    repaired_s: f64,
    settled_s: f64,
}

fn round(cluster: &mut Cluster, way: Way, count: u64, keys: u64, stamp: u8) -> Result<Repair> {
    // What a process that is not there any more had moved does not count.
    let own = if way == Way::Stopped { cluster.moved(AWAY..NODES)? } else { Moved::default() };
    match way {
        Way::Killed => cluster.nodes[AWAY].kill()?,
        Way::Stopped => signal(&cluster.nodes[AWAY], "STOP")?,
    }
    cluster.settle(AWAY)?;
    cluster.all(0..AWAY, |at| format!("overwrite {at} {AWAY} {count} {keys} {stamp}"))?;
    cluster.settle(AWAY)?;
    let others = cluster.moved(0..AWAY)?;

    let back = Instant::now();
    let mut member_s = None;
    match way {
        Way::Killed => {
            cluster.nodes[AWAY] = cluster.spawn(AWAY)?;
            cluster.nodes[AWAY].line()?;
            member_s = Some(back.elapsed().as_secs_f64());
        }
        Way::Stopped => signal(&cluster.nodes[AWAY], "CONT")?,
    }
    cluster.all(AWAY..NODES, |_| format!("hold {count} {keys} {stamp}"))?;
    let repaired_s = back.elapsed().as_secs_f64();
    cluster.settle(NODES)?;
    let settled_s = back.elapsed().as_secs_f64();
    let now = cluster.moved(0..NODES)?;
    let moved = Moved { repair: now.repair - others.repair - own.repair, sent: now.sent - others.sent - own.sent };
    cluster.all(AWAY..NODES, |_| format!("read {count} {keys} {stamp}"))?;
    cluster.check_equal(keys)?;
    Ok(Repair { way, count, moved, member_s, repaired_s, settled_s })
}

/// Sends a process a signal, by the program for that.
fn signal(node: &Process, signal: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(node.id().to_string()).status()?;
    ensure!(status.success(), "no signal could be sent");
    Ok(())
}

impl Repair {
    fn report(&self, options: Options) {
        let Self { way, count, moved, member_s, repaired_s, settled_s } = self;
        let (way, floor) = (way.text(), stores::payload(*count));
        let of_floor = |bytes: u64| bytes as f64 / floor as f64;
        let ratio = of_floor(moved.repair.saturating_sub(ALLOWANCE));
        if options.json {
            let member_s = member_s.map_or_else(|| "null".to_owned(), |member_s| format!("{member_s:.2}"));
            println!(
                "{{\"bench\":\"away\",\"keys\":{},\"missed\":{count},\"way\":\"{way}\",\"floor_bytes\":{floor},\
                 \"repair_bytes\":{},\"less_allowance\":{ratio:.2},\"sent_bytes\":{},\"member_s\":{member_s},\
                 \"repaired_s\":{repaired_s:.2},\"settled_s\":{settled_s:.2}}}",
                options.keys, moved.repair, moved.sent
            );
            return;
        }
        let member_s = member_s.map_or_else(|| "-".to_owned(), |member_s| format!("{member_s:.2}"));
        println!(
            "{count:>7} {way:<7} {floor:>10} {:>10} {:>6.2} {ratio:>11.2} {:>10} {:>6.2} {member_s:>8} {repaired_s:>10.2} {settled_s:>9.2}",
            moved.repair,
            of_floor(moved.repair),
            moved.sent,
            of_floor(moved.sent)
        );
    }
}

pub(crate) fn run(options: Options) -> Result<()> {
    ensure!(options.keys >= COUNTS[0], "at least {} keys", COUNTS[0]);
    let share = options.keys.div_ceil(NODES as u64);
    let keys = share * NODES as u64;
    let mut cluster = Cluster::start()?;
    cluster.settle(NODES)?;
    let began = Instant::now();
    cluster.all(0..NODES, |at| format!("fill {} {share}", at as u64 * share))?;
    cluster.settle(NODES)?;
    if !options.json {
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{NODES} processes hold {keys} keys on disk, written in {seconds:.1} s; repair less 64 KiB: at most {TARGET} of the floor"
        );
        println!(
            "{:>7} {:<7} {:>10} {:>10} {:>6} {:>11} {:>10} {:>6} {:>8} {:>10} {:>9}",
            "missed",
            "way",
            "floor B",
            "repair B",
            "ratio",
            "less 64 KiB",
            "sent B",
            "ratio",
            "member s",
            "repaired s",
            "settled s"
        );
    }
    // Each round writes other values than all before it.
    let mut stamps = 1..=u8::MAX;
    for _ in 0..options.rounds {
        for count in COUNTS.into_iter().filter(|count| *count <= keys) {
            for way in [Way::Killed, Way::Stopped] {
                let stamp = stamps.next().context("as many rounds as a byte can tell apart")?;
                round(&mut cluster, way, count, keys, stamp)?.report(options);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn as_many_keys_are_overwritten_as_is_said() {
        for (count, keys) in [(100, 100), (100, 250), (1_000, 1_000_002)] {
            let all: BTreeSet<u64> = overwritten(count, keys).collect();
            assert_eq!(all.len() as u64, count);
            assert!(all.iter().all(|at| *at < keys));
        }
    }
}
