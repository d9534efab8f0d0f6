//! The program `polity-sim`: what its arguments mean, and what it prints.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};

use crate::case::Case;
use crate::checker::{Violation, judge};
use crate::coverage::Coverage;
use crate::history::History;
use crate::run::{Report, run};
use crate::scenario::{self, Scenario};
use crate::shrink::shrink;
use crate::soak::soak;
use crate::swarm::{Plan, swarm};
use crate::{journal, lean, report};

/// How to call it.
pub const USAGE: &str = "polity-sim list
polity-sim run SCENARIO --seed S [--events] [--history FILE] [--case FILE]
polity-sim replay CASE [--events] [--history FILE]
polity-sim swarm SCENARIO|all [--seeds A..B|today] [--budget SECONDS | --minutes MINUTES] [--stop]
polity-sim coverage SCENARIO|all [--seeds A..B]
polity-sim shrink SCENARIO --seed S | CASE [--runs N] [--into FILE]
polity-sim report SCENARIO --seed S | CASE | HISTORY [--into FILE]
polity-sim judge HISTORY
polity-sim lean [--nodes N] [--seconds S] [--seed S]
polity-sim presence-soak [--hours H] [--seed S]

CASE is a .json file as `run --case` and `shrink` write it, HISTORY a .jsonl file as `run --history` writes it.
Exit status: 0 if all promises were kept, 1 if one was broken, 2 if the call makes no sense.";

/// The exit status of a run, or of a swarm, that broke a promise.
const FAILED: u8 = 1;
/// The exit status of a call that makes no sense.
const MISUSED: u8 = 2;
/// The seeds of a swarm that names none, and has no budget.
const DEFAULT_SEEDS: Range<u64> = 0..200;
/// The seeds of a coverage table that names none.
const COVERED_SEEDS: Range<u64> = 0..1000;
/// How many seeds each day of the year has for itself.
const SEEDS_OF_A_DAY: u64 = 1_000_000;
/// How many nodes the lean event loop may have.
const LEAN_NODES: std::ops::RangeInclusive<usize> = 2..=10_000;
/// How many hours presence is soaked for.
const SOAK_HOURS: u32 = 24;
/// How many runs shrinking may take.
const SHRINK_RUNS: u32 = 400;
/// How many violations of a run are shown.
const SHOWN: usize = 10;

/// What is asked for.
#[derive(Debug)]
enum Call {
    Help,
    List,
    Run { case: Box<Case>, events: bool, history: Option<String>, into: Option<String> },
    Swarm(Plan),
    Coverage { scenarios: Vec<Scenario>, seeds: Range<u64> },
    Shrink { case: Box<Case>, runs: u32, into: Option<String> },
    Report { of: Source, into: Option<String> },
    Judge(Box<History>),
    Lean { nodes: usize, seconds: u64, seed: u64 },
    Soak { hours: u32, seed: u64 },
}

/// What a report is of.
#[derive(Debug)]
enum Source {
    Case(Box<Case>),
    History(Box<History>),
}

/// Does what the arguments ask for, prints to `out`, and returns the exit status: 0, 1 if a promise was broken, 2 if
/// the arguments make no sense.
///
/// # Errors
/// `out`, or a file that was asked for, cannot be written.
pub fn main(args: &[String], out: &mut (impl Write + Send)) -> io::Result<u8> {
    match parse(args) {
        Err(problem) => {
            eprintln!("polity-sim: {problem}");
            Ok(MISUSED)
        }
        Ok(Call::Help) => writeln!(out, "{USAGE}").map(|()| 0),
        Ok(Call::List) => list(out).map(|()| 0),
        Ok(Call::Run { case, events, history, into }) => one(&case, events, history.as_deref(), into.as_deref(), out),
        Ok(Call::Swarm(plan)) => many(&plan, out),
        Ok(Call::Coverage { scenarios, seeds }) => writeln!(out, "{}", Coverage::of(&scenarios, seeds)).map(|()| 0),
        Ok(Call::Shrink { case, runs, into }) => smaller(&case, runs, into, out),
        Ok(Call::Report { of, into }) => page(of, into, out),
        Ok(Call::Soak { hours, seed }) => match soak(seed, Duration::from_secs(3600) * hours) {
            Ok(soaked) => writeln!(out, "presence-soak: hours={hours} seed={seed} {soaked:?}").map(|()| 0),
            Err(what) => writeln!(out, "presence-soak: hours={hours} seed={seed} FAIL: {what}").map(|()| FAILED),
        },
        Ok(Call::Lean { nodes, seconds, seed }) => writeln!(out, "{}", lean::measure(nodes, seconds, seed)).map(|()| 0),
        Ok(Call::Judge(history)) => {
            let found = judge(&history);
            violations(&found, out)?;
            writeln!(
                out,
                "history of scenario={} seed={}: {} violations",
                history.scenario,
                history.seed,
                found.len()
            )?;
            Ok(if found.is_empty() { 0 } else { FAILED })
        }
    }
}

fn list(out: &mut impl Write) -> io::Result<()> {
    let width = scenario::ALL.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    for Scenario { name, about, .. } in &scenario::ALL {
        writeln!(out, "{name:width$}  {about}")?;
    }
    Ok(())
}

fn create(path: &str) -> io::Result<BufWriter<File>> {
    File::create(path).map(BufWriter::new).map_err(|cause| io::Error::other(format!("cannot write {path}: {cause}")))
}

fn one(case: &Case, events: bool, history: Option<&str>, into: Option<&str>, out: &mut impl Write) -> io::Result<u8> {
    if let Some(path) = into {
        create(path)?.write_all(case.to_json().as_bytes())?;
    }
    let report = run(case);
    if events {
        for entry in &report.history.entries {
            writeln!(out, "{:>9.3} {:?}", entry.at.as_secs_f64(), entry.event)?;
        }
    }
    if let Some(path) = history {
        let mut file = create(path)?;
        journal::write(&report.history, &mut file)?;
        file.flush()?;
    }
    violations(&report.violations, out)?;
    writeln!(out, "{report}")?;
    Ok(if report.is_ok() { 0 } else { FAILED })
}

fn violations(violations: &[Violation], out: &mut impl Write) -> io::Result<()> {
    for violation in violations.iter().take(SHOWN) {
        writeln!(out, "  {violation}")?;
    }
    let more = violations.len().saturating_sub(SHOWN);
    if more > 0 {
        writeln!(out, "  and {more} more")?;
    }
    Ok(())
}

fn many(plan: &Plan, out: &mut (impl Write + Send)) -> io::Result<u8> {
    let (mut written, mut failed) = (Ok(()), Vec::new());
    let bar = bar(plan);
    let sum = swarm(plan, |report| {
        failed.extend((!report.is_ok()).then(|| report.replay()));
        bar.inc(1);
        bar.set_message(format!("{} failed", failed.len()));
        let write = || told(report, out);
        if written.is_ok() {
            written = bar.suspend(write);
        }
    });
    bar.finish_and_clear();
    written?;
    // Again, where they are found: what was told of each is far above.
    for replay in failed {
        writeln!(out, "failed: {replay}")?;
    }
    let real = sum.real.as_secs_f64();
    writeln!(
        out,
        "swarm: runs={} failed={} seconds={real:.1} seeds_per_second={:.2} simulated_seconds_per_second={:.1}",
        sum.runs,
        sum.failed,
        sum.runs as f64 / real.max(f64::EPSILON),
        sum.simulated.as_secs_f64() / real.max(f64::EPSILON)
    )?;
    Ok(if sum.failed == 0 { 0 } else { FAILED })
}

fn told(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if !report.is_ok() {
        violations(&report.violations, out)?;
        writeln!(out, "  replay: {}", report.replay())?;
    }
    writeln!(out, "{report}")
}

/// Shows how far a swarm is, where somebody looks.
fn bar(plan: &Plan) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let seeds = plan.seeds.end - plan.seeds.start;
    let (bar, template) = match plan.budget {
        // How many there will be, nobody knows.
        Some(_) => (ProgressBar::no_length(), "{elapsed} {spinner} {pos} runs, {per_sec}, {msg}"),
        None => (
            ProgressBar::new(seeds * plan.scenarios.len() as u64),
            "{elapsed} {wide_bar} {pos}/{len} runs, {per_sec}, {msg}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn smaller(case: &Case, runs: u32, into: Option<String>, out: &mut impl Write) -> io::Result<u8> {
    let mut written = Ok(());
    let found = shrink(case, runs, |smaller| {
        let faults: Vec<&str> = smaller.faults().map(|timed| timed.fault.class()).collect();
        let line =
            format!("  {} hosts, {} acts, faults: {}", smaller.settings.hosts, smaller.acts.len(), faults.join(" "));
        if written.is_ok() {
            written = writeln!(out, "{line}");
        }
    });
    written?;
    let Some(found) = found else {
        writeln!(out, "scenario={} seed={} breaks no promise: nothing to shrink", case.scenario, case.seed)?;
        return Ok(0);
    };
    let path = into.unwrap_or_else(|| format!("{}-{}.json", case.scenario, case.seed));
    create(&path)?.write_all(found.case.to_json().as_bytes())?;
    writeln!(out, "shrunk in {} runs, still breaks {}", found.runs, found.promise)?;
    writeln!(out, "  replay: cargo run --release -p polity-sim -- replay {path}")?;
    Ok(FAILED)
}

fn page(of: Source, into: Option<String>, out: &mut impl Write) -> io::Result<u8> {
    let (history, found, replay) = match of {
        Source::Case(case) => {
            let report = run(&case);
            let replay = report.replay();
            (report.history, report.violations, replay)
        }
        Source::History(history) => {
            let found = judge(&history);
            let replay =
                format!("cargo run --release -p polity-sim -- run {} --seed {}", history.scenario, history.seed);
            (*history, found, replay)
        }
    };
    let path = into.unwrap_or_else(|| format!("{}-{}.html", history.scenario.replace(' ', "-"), history.seed));
    let mut file = create(&path)?;
    report::write(&history, &found, &replay, &mut file)?;
    file.flush()?;
    writeln!(out, "wrote {path}: {} violations", found.len())?;
    Ok(if found.is_empty() { 0 } else { FAILED })
}

// ---- what the arguments mean -----------------------------------------------------------------------------------------

fn parse(args: &[String]) -> Result<Call, String> {
    let mut args = Args(args.iter().map(String::as_str).peekable());
    match args.0.next() {
        None | Some("help" | "--help" | "-h") => Ok(Call::Help),
        Some("list") => args.options(&[]).map(|_| Call::List),
        Some("run") => {
            let scenario = args.scenario()?;
            let options = args.options(&["--seed", "--events", "--history", "--case"])?;
            let seed = options.number("--seed")?.ok_or("run needs --seed S")?;
            Ok(Call::Run {
                case: Box::new(scenario.case(seed)),
                events: options.has("--events"),
                history: options.text("--history"),
                into: options.text("--case"),
            })
        }
        Some("replay") => {
            let case = read_case(args.0.next().ok_or("replay needs the file of a case")?)?;
            let options = args.options(&["--events", "--history"])?;
            let (events, history) = (options.has("--events"), options.text("--history"));
            Ok(Call::Run { case: Box::new(case), events, history, into: None })
        }
        Some("swarm") => {
            let scenarios = args.scenarios()?;
            let options = args.options(&["--seeds", "--budget", "--minutes", "--stop"])?;
            let minutes = options.number("--minutes")?.map(|minutes: u32| Duration::from_secs(60) * minutes);
            let budget = options.number("--budget")?.map(Duration::from_secs).or(minutes);
            let all = if budget.is_some() { 0..u64::MAX } else { DEFAULT_SEEDS };
            let seeds = options.seeds()?.unwrap_or(all);
            Ok(Call::Swarm(Plan { scenarios, seeds, budget, stop: options.has("--stop") }))
        }
        Some("coverage") => {
            let scenarios = args.scenarios()?;
            let options = args.options(&["--seeds"])?;
            Ok(Call::Coverage { scenarios, seeds: options.seeds()?.unwrap_or(COVERED_SEEDS) })
        }
        Some("shrink") => {
            let (of, options) = args.source(&["--runs", "--into"])?;
            let Source::Case(case) = of else { return Err("a history cannot be shrunk: name its case".to_owned()) };
            let runs = options.number("--runs")?.unwrap_or(SHRINK_RUNS);
            Ok(Call::Shrink { case, runs, into: options.text("--into") })
        }
        Some("report") => {
            let (of, options) = args.source(&["--into"])?;
            Ok(Call::Report { of, into: options.text("--into") })
        }
        Some("judge") => {
            let path = args.0.next().ok_or("judge needs the file of a history")?;
            args.options(&[])?;
            read_history(path).map(|history| Call::Judge(Box::new(history)))
        }
        Some("lean") => {
            let options = args.options(&["--nodes", "--seconds", "--seed"])?;
            let nodes = options.number("--nodes")?.unwrap_or(1000);
            if !LEAN_NODES.contains(&nodes) {
                return Err(format!("--nodes is between {} and {}", LEAN_NODES.start(), LEAN_NODES.end()));
            }
            let seconds = options.number("--seconds")?.unwrap_or(60);
            Ok(Call::Lean { nodes, seconds, seed: options.number("--seed")?.unwrap_or(1) })
        }
        Some("presence-soak") => {
            let options = args.options(&["--hours", "--seed"])?;
            let hours: u32 = options.number("--hours")?.unwrap_or(SOAK_HOURS);
            Ok(Call::Soak { hours, seed: options.number("--seed")?.unwrap_or(1) })
        }
        Some(other) => Err(format!("{other:?} is no command: see `polity-sim help`")),
    }
}

/// The arguments that have not been understood yet.
struct Args<'a, I: Iterator<Item = &'a str>>(std::iter::Peekable<I>);

/// Options and their values; those that take none have an empty one.
struct Options<'a>(Vec<(&'a str, &'a str)>);

/// Options that take no value.
const FLAGS: [&str; 2] = ["--events", "--stop"];

impl<'a, I: Iterator<Item = &'a str>> Args<'a, I> {
    fn scenario(&mut self) -> Result<Scenario, String> {
        find(self.0.next().ok_or("the name of a scenario is missing: see `polity-sim list`")?)
    }

    fn scenarios(&mut self) -> Result<Vec<Scenario>, String> {
        match self.0.next().ok_or("the name of a scenario is missing, or all: see `polity-sim list`")? {
            "all" => Ok(scenario::ALL.to_vec()),
            name => Ok(vec![find(name)?]),
        }
    }

    /// A scenario and a seed, or a file.
    fn source(&mut self, known: &[&'static str]) -> Result<(Source, Options<'a>), String> {
        let name = self.0.next().ok_or("a scenario or a file is missing")?;
        match Path::new(name).extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok((Source::Case(Box::new(read_case(name)?)), self.options(known)?)),
            Some("jsonl") => Ok((Source::History(Box::new(read_history(name)?)), self.options(known)?)),
            _ => {
                let scenario = find(name)?;
                let options = self.options(&[known, &["--seed"]].concat())?;
                let seed = options.number("--seed")?.ok_or("a scenario needs --seed S")?;
                Ok((Source::Case(Box::new(scenario.case(seed))), options))
            }
        }
    }

    fn options(&mut self, known: &[&'static str]) -> Result<Options<'a>, String> {
        let mut options = Vec::new();
        while let Some(option) = self.0.next() {
            if !known.contains(&option) {
                let allowed = if known.is_empty() { "nothing".to_owned() } else { known.join(" ") };
                return Err(format!("{option:?} makes no sense here; what does: {allowed}"));
            }
            let value =
                if FLAGS.contains(&option) { "" } else { self.0.next().ok_or(format!("{option} needs a value"))? };
            options.push((option, value));
        }
        Ok(Options(options))
    }
}

impl Options<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(option, _)| *option == name).map(|(_, value)| *value)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("{name} needs a number, not {value:?}"))
    }

    /// `A..B`, or the seeds that belong to this day of the year.
    fn seeds(&self) -> Result<Option<Range<u64>>, String> {
        match self.get("--seeds") {
            None => Ok(None),
            Some("today") => {
                let first = today() * SEEDS_OF_A_DAY;
                Ok(Some(first..first + SEEDS_OF_A_DAY))
            }
            Some(text) => {
                let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
                let range = parsed.filter(|range: &Range<u64>| !range.is_empty());
                range.map(Some).ok_or_else(|| format!("--seeds needs A..B with A below B, or today, not {text:?}"))
            }
        }
    }
}

/// A number from 1 to 366, another one on each day of a year.
#[allow(clippy::disallowed_methods, reason = "which seeds a day's swarm begins with is no matter of simulated time")]
fn today() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let days = since.as_secs() / (24 * 3600);
    days % 366 + 1
}

fn find(name: &str) -> Result<Scenario, String> {
    scenario::find(name).ok_or_else(|| format!("no scenario is called {name:?}: see `polity-sim list`"))
}

fn read_case(path: &str) -> Result<Case, String> {
    let text = std::fs::read_to_string(path).map_err(|cause| format!("cannot read {path}: {cause}"))?;
    Case::from_json(&text).map_err(|cause| format!("{path}: {cause}"))
}

fn read_history(path: &str) -> Result<History, String> {
    let file = File::open(path).map_err(|cause| format!("cannot read {path}: {cause}"))?;
    journal::read(BufReader::new(file)).map_err(|cause| format!("{path}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Call, String> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn calls_that_make_sense_are_understood() {
        assert!(matches!(parsed("list"), Ok(Call::List)));
        assert!(matches!(parsed("run kill --seed 7"), Ok(Call::Run { case, events: false, .. }) if case.seed == 7));
        assert!(matches!(parsed("swarm kill --seeds 3..9"), Ok(Call::Swarm(plan)) if plan.seeds == (3..9)));
        let all = parsed("swarm all --budget 30 --stop");
        assert!(matches!(all, Ok(Call::Swarm(plan)) if plan.scenarios.len() == scenario::ALL.len() && plan.stop));
        let today = parsed("swarm all --seeds today --minutes 1");
        assert!(matches!(today, Ok(Call::Swarm(plan)) if plan.seeds.end - plan.seeds.start == SEEDS_OF_A_DAY));
        assert!(matches!(parsed("coverage all"), Ok(Call::Coverage { seeds, .. }) if seeds == (0..1000)));
        assert!(matches!(parsed("shrink mix --seed 3 --runs 9"), Ok(Call::Shrink { runs: 9, .. })));
        assert!(matches!(parsed("report mix --seed 3"), Ok(Call::Report { of: Source::Case(_), into: None })));
    }

    #[test]
    fn calls_that_make_none_are_told_why_in_one_line() {
        for text in [
            "walk",
            "list all",
            "run",
            "run nothing --seed 1",
            "run kill",
            "run kill --seed",
            "run kill --seed x",
            "run kill --seed -1",
            "run kill --seed 1 2",
            "replay",
            "replay nothing.json",
            "swarm",
            "swarm kill --seeds 5",
            "swarm kill --seeds 5..5",
            "swarm kill --seeds 1..x",
            "swarm kill --budget soon",
            "coverage nothing",
            "shrink kill",
            "report nothing.jsonl",
            "judge nothing.jsonl",
            "judge",
            "lean --nodes 1",
            "lean --nodes many",
        ] {
            let problem = parsed(text).err().unwrap_or_else(|| panic!("{text:?} was understood"));
            assert_eq!(problem.lines().count(), 1, "{text:?}");
        }
    }
}
