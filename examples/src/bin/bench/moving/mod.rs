//! `bench move`: what callers notice while a node joins a cluster of five that holds a million keys, and while one leaves.
//!
//! Six processes; four of the nodes, which stay, put and get at fixed times, well below what they could do. Their times in a
//! quiet window come first, then the sixth node joins, until everything is settled; another quiet window, and one leaves. The
//! floor of what has to be moved is the keys and values of the records on the node that joined or left.

pub(crate) mod node;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::Options;
use crate::figures::Figures;
use crate::load::Sample;
use crate::process::{self, Process};

const NODES: usize = 5;
/// The nodes that calls are made at.
const CALLERS: usize = 4;
/// Calls a second in all: half of them puts.
const RATE: f64 = 2_000.0;
/// What bounds a move.
const PATIENCE: Duration = Duration::from_secs(300);
const VALUE_BYTES: usize = 100;
const KEY_BYTES: usize = 12;

fn key(at: u64) -> String {
    format!("key:{at:08}")
}

/// What callers saw in some time.
#[derive(Debug)]
struct Window {
    failed: u64,
    puts: Sample,
    gets: Sample,
}

/// What is known of a move while it goes on.
#[derive(Debug, Clone, Copy)]
struct Progress {
    pending: u64,
    moved: u64,
    done: bool,
}

struct Cluster {
    nodes: Vec<Process>,
    started: usize,
    seed: String,
}

impl Cluster {
    fn start(&mut self) -> Result<()> {
        let mut node = Process::start(process::node("move-node", self.started, &self.seed)?)?;
        // It says first where it listens.
        let addr = node.line()?;
        if self.started == 0 {
            self.seed = addr;
        }
        self.started += 1;
        self.nodes.push(node);
        Ok(())
    }

    fn last(&mut self) -> &mut Process {
        self.nodes.last_mut().expect("there are nodes")
    }

    /// Starts something that takes a while at the last node.
    fn begin(&mut self, order: &str) -> Result<()> {
        ensure!(self.last().ask(order)? == "begun", "it does not begin");
        Ok(())
    }

    fn progress(&mut self) -> Result<Progress> {
        let mut all = Progress { pending: 0, moved: 0, done: false };
        for node in &mut self.nodes {
            let line = node.ask("progress")?;
            let [pending, moved, done] = line.split(' ').collect::<Vec<_>>()[..] else {
                anyhow::bail!("no progress: {line:?}");
            };
            all.pending += pending.parse::<u64>()?;
            all.moved += moved.parse::<u64>()?;
            // The last one's is the last one's.
            all.done = done.parse()?;
        }
        Ok(all)
    }

    /// Waits until the last node has done what was begun. Returns how long that took, and how many bytes were moved.
    fn until_done(&mut self, before: Progress, options: Options) -> Result<(f64, u64)> {
        let began = Instant::now();
        let (mut shown, mut seconds) = (1.0, 0.0);
        while seconds < PATIENCE.as_secs_f64() {
            let now = self.progress()?;
            seconds = began.elapsed().as_secs_f64();
            let moved = now.moved - before.moved;
            if now.done {
                return Ok((seconds, moved));
            }
            if seconds >= shown && !options.json {
                println!("  {seconds:>5.1} s: {:>4} shards to do, {:>6.1} MB moved", now.pending, mega(moved));
                shown += 1.0;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("not done in {PATIENCE:?}")
    }

    fn window(&mut self) -> Result<Window> {
        let (mut failed, mut puts, mut gets) = (0, Vec::new(), Vec::new());
        for node in &mut self.nodes[..CALLERS] {
            failed += node.ask("window")?.parse::<u64>()?;
            puts.push(node.line()?.parse()?);
            gets.push(node.line()?.parse()?);
        }
        Ok(Window { failed, puts: Figures::sample(&puts), gets: Figures::sample(&gets) })
    }

    fn quiet(&mut self, options: Options) -> Result<Window> {
        self.window()?;
        std::thread::sleep(Duration::from_secs_f64(options.seconds));
        self.window()
    }

    fn records(&mut self) -> Result<u64> {
        self.last().ask("records")?.parse().context("a number of records")
    }
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// One node joins or leaves.
struct Move {
    what: &'static str,
    quiet: Window,
    during: Window,
    seconds: f64,
    moved: u64,
    floor: u64,
}

impl Move {
    fn ratio(&self) -> f64 {
        let of = |during: &Sample, quiet: &Sample| during.p99_us / quiet.p99_us;
        of(&self.during.puts, &self.quiet.puts).max(of(&self.during.gets, &self.quiet.gets))
    }

    fn report(&self, options: Options) {
        let Self { what, quiet, during, seconds, moved, floor } = self;
        let (failed, ratio, times) = (quiet.failed + during.failed, self.ratio(), *moved as f64 / *floor as f64);
        if options.json {
            println!(
                "{{\"bench\":\"move\",\"what\":\"{what}\",\"quiet_put_p99_us\":{:.0},\"quiet_get_p99_us\":{:.0},\
                 \"put_p99_us\":{:.0},\"get_p99_us\":{:.0},\"p99_ratio\":{ratio:.2},\"failed\":{failed},\
                 \"seconds\":{seconds:.1},\"moved_bytes\":{moved},\"floor_bytes\":{floor}}}",
                quiet.puts.p99_us, quiet.gets.p99_us, during.puts.p99_us, during.gets.p99_us,
            );
            return;
        }
        let show = |when: &str, window: &Window| {
            let Window { puts, gets, .. } = window;
            println!(
                "  {when:<7} put p50 {:>7.0} us, p99 {:>7.0} us; get p50 {:>7.0} us, p99 {:>7.0} us",
                puts.p50_us, puts.p99_us, gets.p50_us, gets.p99_us
            );
        };
        println!("a node {what}s");
        show("quiet", quiet);
        show("moving", during);
        println!("  p99 of the quiet one {ratio:.2}, failed {failed} of {:.0}", {
            (during.puts.per_second + during.gets.per_second) * seconds
        });
        println!(
            "  {seconds:.1} s, {:.1} MB moved, {times:.2} of the {:.1} MB of keys and values",
            mega(*moved),
            mega(*floor)
        );
    }
}

fn join(cluster: &mut Cluster, options: Options) -> Result<Move> {
    let quiet = cluster.quiet(options)?;
    let before = cluster.progress()?;
    cluster.window()?;
    cluster.start()?;
    cluster.begin(&format!("settle {}", NODES + 1))?;
    let (seconds, moved) = cluster.until_done(before, options)?;
    let during = cluster.window()?;
    let floor = cluster.records()? * (KEY_BYTES + VALUE_BYTES) as u64;
    Ok(Move { what: "join", quiet, during, seconds, moved, floor })
}

fn leave(cluster: &mut Cluster, options: Options) -> Result<Move> {
    // One that has been there from the beginning.
    let at = cluster.nodes.len() - 2;
    let leaver = cluster.nodes.remove(at);
    cluster.nodes.push(leaver);
    let floor = cluster.records()? * (KEY_BYTES + VALUE_BYTES) as u64;
    let quiet = cluster.quiet(options)?;
    let before = cluster.progress()?;
    cluster.window()?;
    cluster.begin("leave")?;
    let (seconds, moved) = cluster.until_done(before, options)?;
    let during = cluster.window()?;
    cluster.nodes.pop();
    Ok(Move { what: "leave", quiet, during, seconds, moved, floor })
}

pub(crate) fn run(options: Options) -> Result<()> {
    let mut cluster = Cluster { nodes: Vec::new(), started: 0, seed: "-".to_owned() };
    for _ in 0..NODES {
        cluster.start()?;
    }
    cluster.begin(&format!("settle {NODES}"))?;
    let nothing = cluster.progress()?;
    cluster.until_done(nothing, options)?;
    let began = Instant::now();
    let share = options.keys.div_ceil(CALLERS as u64);
    for (at, node) in cluster.nodes[..CALLERS].iter_mut().enumerate() {
        node.tell(&format!("fill {} {share}", at as u64 * share))?;
    }
    for node in &mut cluster.nodes[..CALLERS] {
        ensure!(node.line()? == "filled", "a node does not fill");
    }
    if !options.json {
        let seconds = began.elapsed().as_secs_f64();
        println!("{NODES} processes hold {} keys, written in {seconds:.1} s; {RATE} calls a second", options.keys);
    }
    for node in &mut cluster.nodes[..CALLERS] {
        let keys = share * CALLERS as u64;
        ensure!(node.ask(&format!("load {} {keys}", RATE / CALLERS as f64))? == "begun", "a node does not call");
    }
    // Every path is warm.
    cluster.quiet(options)?;
    let mut ratios = Vec::new();
    for _ in 0..options.rounds {
        for change in [join, leave] {
            let change = change(&mut cluster, options)?;
            change.report(options);
            ratios.push(change.ratio());
        }
    }
    ensure!(!ratios.is_empty(), "at least one round");
    ratios.sort_by(f64::total_cmp);
    if !options.json {
        println!(
            "p99 while moving, of the quiet one: median {:.2}, worst {:.2}",
            ratios[ratios.len() / 2],
            ratios[ratios.len() - 1]
        );
    }
    Ok(())
}
