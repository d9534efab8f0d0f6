//! Libraries of membership side by side, on the same simulated network: one table.
//!
//! ```text
//! cargo run --release -p polity-sim --features compare --example compare -- [--nodes 10,100,1000] [--seed S] [--quick]
//! ```
//!
//! What the words of the table mean is printed below it. A run of ours, of `foca` or of `kinship-core` is a function of its
//! seed.

mod arena;
mod life;
mod peers;
mod table;
mod trouble;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use life::{Life, Plan, live};
use peers::Library;
use peers::chitchat::Chitchat;
use peers::kinship::Kinship;
use peers::ours::Ours;
use peers::swim::Swim;
use trouble::{Load, Trouble, troubled};

const USAGE: &str = "compare [--nodes N,N,…] [--seed S] [--quick] [--only COLUMN,…]";

/// How many members there are where some are in trouble.
const TROUBLED_NODES: usize = 100;
/// How many of them are.
const SLOW: [usize; 4] = [1, 4, 16, 32];
/// The share of messages that is lost in the end.
const LOSS: f64 = 0.2;
/// How many members the slowest library here is run with: everything that it sends names them all.
const MOST_CHATTERS: usize = 100;

/// A library with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    Ours,
    /// Plain SWIM with our times.
    Swim,
    Foca,
    Kinship,
    KinshipOurTimes,
    Chitchat,
}

impl Column {
    const ALL: [Self; 6] = [Self::Ours, Self::Swim, Self::Foca, Self::KinshipOurTimes, Self::Kinship, Self::Chitchat];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "polity lan",
            Self::Swim => "SWIM, our times",
            Self::Foca => "foca lan",
            Self::Kinship => "kinship lan",
            Self::KinshipOurTimes => "kinship, our times",
            Self::Chitchat => "chitchat",
        }
    }

    fn has(self, task: Task) -> bool {
        !matches!(task, Task::Life(plan) if self == Self::Chitchat && plan.nodes > MOST_CHATTERS)
    }

    fn measure(self, task: Task, seed: u64) -> Outcome {
        match self {
            Self::Ours => measure(Ours, task, seed),
            Self::Swim => measure(Swim::OurTimes, task, seed),
            Self::Foca => measure(Swim::Lan, task, seed),
            Self::Kinship => measure(Kinship::Lan, task, seed),
            Self::KinshipOurTimes => measure(Kinship::OurTimes, task, seed),
            Self::Chitchat => measure(Chitchat, task, seed),
        }
    }
}

/// Something to be measured.
#[derive(Clone, Copy, Debug)]
enum Task {
    Life(Plan),
    Trouble { row: usize, trouble: Trouble, runs: u64, time: Duration },
}

enum Outcome {
    Life(usize, Life),
    Trouble(usize, Load),
}

fn measure<L: Library>(library: L, task: Task, seed: u64) -> Outcome {
    match task {
        Task::Life(plan) => Outcome::Life(plan.nodes, live(library, plan, seed)),
        Task::Trouble { row, trouble, runs, time } => {
            let mut load = Load::default();
            (0..runs).for_each(|run| load.pool(&troubled(library, TROUBLED_NODES, trouble, time, seed + run)));
            Outcome::Trouble(row, load)
        }
    }
}

/// All that was found of one library.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) lives: BTreeMap<usize, Life>,
    /// By the place in [`troubles`].
    pub(crate) troubles: BTreeMap<usize, Load>,
}

/// All that goes wrong, in the order of the table: what is pooled, then what stands beside it.
pub(crate) fn troubles() -> Vec<Trouble> {
    let blocked = SLOW.iter().map(|count| Trouble::Blocked(*count));
    let late = SLOW.iter().map(|count| Trouble::Late(*count));
    blocked.chain(late).chain([Trouble::Stopped(SLOW[2]), Trouble::Lossy(LOSS)]).collect()
}

struct Call {
    nodes: Vec<usize>,
    seed: u64,
    quick: bool,
    only: Option<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Call> {
    let mut call = Call { nodes: vec![10, 100, 1000], seed: 1, quick: false, only: None };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--nodes" => call.nodes = words.next()?.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?,
            "--seed" => call.seed = words.next()?.parse().ok()?,
            "--quick" => call.quick = true,
            "--only" => call.only = Some(words.next()?),
            _ => return None,
        }
    }
    call.nodes.iter().all(|nodes| (4..=10_000).contains(nodes)).then_some(call)
}

fn tasks(call: &Call) -> Vec<Task> {
    let lives = call.nodes.iter().map(|nodes| {
        let (runs, kills) = match (call.quick, *nodes > 100) {
            (true, true) => (1, 2),
            (true, false) => (2, 2),
            (false, true) => (1, 5),
            (false, false) => (5, 3),
        };
        Task::Life(Plan { nodes: *nodes, runs, kills: kills.min(nodes - 3) })
    });
    let (runs, secs) = if call.quick { (1, 60) } else { (2, 180) };
    let troubles = troubles().into_iter().enumerate().map(|(row, trouble)| match trouble {
        Trouble::Lossy(_) => {
            let time = Duration::from_secs(if call.quick { 120 } else { 600 });
            Task::Trouble { row, trouble, runs: 1, time }
        }
        _ => Task::Trouble { row, trouble, runs, time: Duration::from_secs(secs) },
    });
    // The longest first, so that no core waits for the last.
    let mut tasks: Vec<Task> = lives.chain(troubles).collect();
    tasks.sort_by_key(|task| match task {
        Task::Life(plan) => usize::MAX - plan.nodes,
        Task::Trouble { .. } => usize::MAX - TROUBLED_NODES,
    });
    tasks
}

fn main() -> ExitCode {
    let Some(call) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let wanted = |column: &Column| {
        call.only.as_ref().is_none_or(|only| only.split(',').any(|word| column.name().contains(word)))
    };
    let columns: Vec<Column> = Column::ALL.into_iter().filter(wanted).collect();
    let tasks: Vec<(Column, Task)> =
        tasks(&call).into_iter().flat_map(|task| columns.iter().map(move |column| (*column, task))).collect();
    let tasks: Vec<(Column, Task)> = tasks.into_iter().filter(|(column, task)| column.has(*task)).collect();

    let found: Mutex<BTreeMap<Column, Found>> = Mutex::default();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((column, task)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = std::time::Instant::now();
                    let outcome = column.measure(*task, call.seed);
                    eprintln!("{}: {task:?} took {:.1?}", column.name(), begin.elapsed());
                    let mut found = found.lock().expect("no worker panicked");
                    let found = found.entry(*column).or_default();
                    match outcome {
                        Outcome::Life(nodes, life) => drop(found.lives.insert(nodes, life)),
                        Outcome::Trouble(row, load) => drop(found.troubles.insert(row, load)),
                    }
                }
            });
        }
    });
    table::print(&columns, &found.into_inner().expect("no worker panicked"), &call.nodes);
    ExitCode::SUCCESS
}
