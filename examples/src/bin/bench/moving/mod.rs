//! `bench move`: what callers notice while a node joins a cluster of five that holds a million keys, and while one leaves.
//!
//! Six processes; five of the nodes put and get at fixed times, well below what they could do. The times of those that stay in a
//! quiet window come first, then the sixth node joins, until everything is settled; another quiet window, and one leaves. The
//! floor of what has to be moved is the keys and values of the records on the node that joined or left.
//!
//! Calls at the node that comes or goes are counted apart. The one that joins is called from when it is a member until a quiet
//! window after all is settled, the one that leaves until its leave has returned. What began since the node was ready, and before
//! `leave` was called, should not fail. What began before or later may be refused, with an error that says that it was not applied;
//! whatever else became of it counts as failed, also an error that leaves open whether it was.

mod counts;
pub(crate) mod node;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::counts::{Counts, Passing};
use crate::Options;
use crate::figures::Figures;
use crate::load::Sample;
use crate::process::{self, Process};
use crate::stores;

/// How many nodes there are before one joins and after one has left. They come first of all.
const NODES: usize = 5;
/// Calls a second at all of these together: half of them puts.
const RATE: f64 = 2_000.0;
/// What bounds a move.
const PATIENCE: Duration = Duration::from_secs(300);
/// Calls that have begun have ended by then: the store lets none take longer than 2 s.
const CALLS_END_WITHIN: Duration = Duration::from_secs(3);

/// What callers saw in some time.
#[derive(Debug)]
struct Window {
    counts: Counts,
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
    /// How often a node calls, and over how many keys, as it is told.
    load: String,
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

    /// What was seen at all that stay.
    fn window(&mut self) -> Result<Window> {
        window(&mut self.nodes[..NODES])
    }

    /// What was seen at the one that comes or goes.
    fn window_of_last(&mut self) -> Result<Window> {
        window(std::slice::from_mut(self.last()))
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

fn window(nodes: &mut [Process]) -> Result<Window> {
    let (mut counts, mut puts, mut gets) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        counts.push(node.ask("window")?.parse()?);
        puts.push(node.line()?.parse()?);
        gets.push(node.line()?.parse()?);
    }
    Ok(Window { counts: Counts::sum(counts), puts: Figures::sample(&puts), gets: Figures::sample(&gets) })
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// One node joins or leaves.
struct Move {
    what: &'static str,
    quiet: Window,
    during: Window,
    /// At the node itself.
    mover: Window,
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
        let Self { what, quiet, during, mover, seconds, moved, floor } = self;
        let (ratio, times) = (self.ratio(), *moved as f64 / *floor as f64);
        let (calls, failed) = (during.counts.calls(), quiet.counts.failed + during.counts.failed);
        let at_mover = mover.counts;
        let Passing { served, refused, failed: passing_failed } = at_mover.passing;
        if options.json {
            println!(
                "{{\"bench\":\"move\",\"what\":\"{what}\",\"quiet_put_p99_us\":{:.0},\"quiet_get_p99_us\":{:.0},\
                 \"put_p99_us\":{:.0},\"get_p99_us\":{:.0},\"p99_ratio\":{ratio:.2},\"calls\":{calls},\"failed\":{failed},\
                 \"mover_calls\":{},\"mover_failed\":{},\"mover_passing_served\":{served},\
                 \"mover_passing_refused\":{refused},\"mover_passing_failed\":{passing_failed},\
                 \"seconds\":{seconds:.1},\"moved_bytes\":{moved},\"floor_bytes\":{floor}}}",
                quiet.puts.p99_us,
                quiet.gets.p99_us,
                during.puts.p99_us,
                during.gets.p99_us,
                at_mover.calls(),
                at_mover.failed,
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
        println!("  p99 of the quiet one {ratio:.2}, failed {failed}, of {calls} while moving");
        show("itself", mover);
        let (here, passing) = match *what {
            "join" => ("since it is ready", "before that"),
            _ => ("before leave()", "from then on"),
        };
        println!(
            "  itself  {here}: failed {} of {}; {passing}: served {served}, refused {refused}, failed {passing_failed}",
            at_mover.failed,
            at_mover.calls()
        );
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
    cluster.begin(&format!("join {}", cluster.load))?;
    cluster.begin(&format!("settle {}", NODES + 1))?;
    let (seconds, moved) = cluster.until_done(before, options)?;
    let during = cluster.window()?;
    let floor = stores::payload(cluster.records()?);
    std::thread::sleep(Duration::from_secs_f64(options.seconds));
    let mover = cluster.window_of_last()?;
    Ok(Move { what: "join", quiet, during, mover, seconds, moved, floor })
}

fn leave(cluster: &mut Cluster, options: Options) -> Result<Move> {
    // One that has been there from the beginning.
    let at = cluster.nodes.len() - 2;
    let leaver = cluster.nodes.remove(at);
    cluster.nodes.push(leaver);
    let floor = stores::payload(cluster.records()?);
    cluster.window_of_last()?;
    let quiet = cluster.quiet(options)?;
    let before = cluster.progress()?;
    cluster.window()?;
    let stayed = cluster.window_of_last()?;
    cluster.begin("leave")?;
    let (seconds, moved) = cluster.until_done(before, options)?;
    let during = cluster.window()?;
    std::thread::sleep(CALLS_END_WITHIN);
    let mut mover = cluster.window_of_last()?;
    mover.counts = Counts::sum([stayed.counts, mover.counts]);
    cluster.nodes.pop();
    Ok(Move { what: "leave", quiet, during, mover, seconds, moved, floor })
}

pub(crate) fn run(options: Options) -> Result<()> {
    let share = options.keys.div_ceil(NODES as u64);
    let load = format!("{} {}", RATE / NODES as f64, share * NODES as u64);
    let mut cluster = Cluster { nodes: Vec::new(), started: 0, seed: "-".to_owned(), load };
    for _ in 0..NODES {
        cluster.start()?;
    }
    cluster.begin(&format!("settle {NODES}"))?;
    let nothing = cluster.progress()?;
    cluster.until_done(nothing, options)?;
    let began = Instant::now();
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        node.tell(&format!("fill {} {share}", at as u64 * share))?;
    }
    for node in &mut cluster.nodes {
        ensure!(node.line()? == "filled", "a node does not fill");
    }
    if !options.json {
        let seconds = began.elapsed().as_secs_f64();
        println!("{NODES} processes hold {} keys, written in {seconds:.1} s; {RATE} calls a second", options.keys);
    }
    for node in &mut cluster.nodes {
        ensure!(node.ask(&format!("call {}", cluster.load))? == "begun", "a node does not call");
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
