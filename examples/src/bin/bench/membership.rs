//! How long ten real processes take to know each other, and to know that one of them was killed.
//!
//! Each node is a process of its own on loopback. It prints what it sees of the members; the parent takes the time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use polity::{MemberEvent, Node, Preset, Status};

use crate::Options;

/// How many nodes form the cluster.
const NODES: usize = 10;
/// Longer than any figure that would be acceptable: a round that takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that prints `addr ADDR`, then `up COUNT` and `down NAME` as it sees them, until its standard input closes.
pub(crate) fn node(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut arg = || args.next().context("usage: membership-node NAME PRESET SEED");
    let (name, preset, seed) = (arg()?, preset(&arg()?)?, arg()?);
    std::thread::spawn(|| {
        // The parent holds the other end: when it is gone, so are we.
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let builder = Node::builder(name).cluster("bench").preset(preset).no_discovery().secret([7; 32]);
        let seeds: Vec<&str> = if seed == "-" { Vec::new() } else { vec![&seed] };
        let node = builder.listen("127.0.0.1:0").seeds(seeds).start().await?;
        println!("addr {}", node.addr());
        let mut events = node.members().subscribe();
        loop {
            if let MemberEvent::Changed { member, .. } = events.next().await
                && member.status == Status::Down
            {
                println!("down {}", member.id.name);
            }
            println!("up {}", node.members().snapshot().up().count());
        }
    })
}

fn preset(name: &str) -> Result<Preset> {
    match name {
        "local" => Ok(Preset::Local),
        "lan" => Ok(Preset::Lan),
        other => bail!("no preset {other}"),
    }
}

struct Process {
    child: Child,
    /// Kept open for as long as the child should live.
    _stdin: std::process::ChildStdin,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Line = (usize, Instant, String);

fn start(at: usize, preset: &str, seed: &str, lines: &Sender<Line>) -> Result<Process> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["membership-node", &format!("n{at}"), preset, seed])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take().context("a pipe was asked for")?;
    let stdout = child.stdout.take().context("a pipe was asked for")?;
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send((at, Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    Ok(Process { child, _stdin: stdin })
}

/// Waits until every node of `who` has printed `wanted`; returns when the last did.
fn until(lines: &Receiver<Line>, mut who: Vec<usize>, wanted: &str) -> Result<Instant> {
    let mut last = Instant::now();
    while !who.is_empty() {
        let (at, when, line) =
            lines.recv_timeout(PATIENCE).with_context(|| format!("{who:?} never said {wanted:?}"))?;
        if line == wanted {
            who.retain(|waiting| *waiting != at);
            last = when;
        }
    }
    Ok(last)
}

/// Formation and detection of one cluster, in milliseconds.
fn round(preset: &str, victim: usize) -> Result<(f64, f64)> {
    let (lines_in, lines) = channel();
    let mut nodes = vec![start(0, preset, "-", &lines_in)?];
    let (_, _, line) = lines.recv_timeout(PATIENCE).context("the first node did not start")?;
    let seed = line.strip_prefix("addr ").context("the first node says where it listens")?.to_owned();

    let began = Instant::now();
    for at in 1..NODES {
        nodes.push(start(at, preset, &seed, &lines_in)?);
    }
    let formed = until(&lines, (0..NODES).collect(), &format!("up {NODES}"))?;

    // The kill comes at no particular moment of the probe periods.
    std::thread::sleep(Duration::from_millis(700 + 137 * victim as u64));
    let killed = Instant::now();
    nodes[victim].child.kill()?;
    let others = (0..NODES).filter(|at| *at != victim).collect();
    let known = until(&lines, others, &format!("down n{victim}"))?;
    let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    Ok((ms(began, formed), ms(killed, known)))
}

pub(crate) fn run(options: Options) -> Result<()> {
    for preset in ["local", "lan"] {
        let mut rounds = Vec::new();
        for at in 0..options.rounds {
            rounds.push(round(preset, 1 + at % (NODES - 1))?);
        }
        ensure!(!rounds.is_empty(), "at least one round");
        let figures = |of: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            (all[all.len() / 2], all[all.len() - 1])
        };
        let ((formed, formed_max), (known, known_max)) = (figures(|r| r.0), figures(|r| r.1));
        if options.json {
            println!(
                "{{\"preset\":\"{preset}\",\"nodes\":{NODES},\"rounds\":{},\"formation_ms\":{formed:.0},\
                 \"formation_max_ms\":{formed_max:.0},\"kill_known_ms\":{known:.0},\"kill_known_max_ms\":{known_max:.0}}}",
                rounds.len()
            );
        } else {
            println!(
                "{preset:5} {NODES} processes, {} rounds: all know all after {formed:.0} ms (worst {formed_max:.0}); \
                 a SIGKILL is known everywhere after {known:.0} ms (worst {known_max:.0})",
                rounds.len()
            );
        }
    }
    Ok(())
}
