//! The program `polity-sim`: what its arguments mean, and what it prints.

use std::io::{self, Write};
use std::ops::Range;
use std::time::Duration;

use crate::run::{Report, run};
use crate::scenario::{self, Scenario};
use crate::swarm::{Plan, swarm};

/// How to call it.
pub const USAGE: &str = "polity-sim list
polity-sim run SCENARIO --seed S [--events]
polity-sim swarm SCENARIO|all [--seeds A..B] [--budget SECONDS | --minutes MINUTES]";

/// The exit status of a run, or of a swarm, that broke a promise.
const FAILED: u8 = 1;
/// The exit status of a call that makes no sense.
const MISUSED: u8 = 2;
/// The seeds of a swarm that names none, and has no budget.
const DEFAULT_SEEDS: Range<u64> = 0..200;
/// How many violations of a run are shown.
const SHOWN: usize = 10;

/// What is asked for.
#[derive(Debug)]
enum Call {
    Help,
    List,
    Run { scenario: Scenario, seed: u64, events: bool },
    Swarm(Plan),
}

/// Does what the arguments ask for, prints to `out`, and returns the exit status: 0, 1 if a promise was broken, 2 if
/// the arguments make no sense.
///
/// # Errors
/// `out` cannot be written.
pub fn main(args: &[String], out: &mut (impl Write + Send)) -> io::Result<u8> {
    match parse(args) {
        Err(problem) => {
            eprintln!("polity-sim: {problem}");
            Ok(MISUSED)
        }
        Ok(Call::Help) => writeln!(out, "{USAGE}").map(|()| 0),
        Ok(Call::List) => {
            let width = scenario::ALL.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
            for Scenario { name, about, .. } in &scenario::ALL {
                writeln!(out, "{name:width$}  {about}")?;
            }
            Ok(0)
        }
        Ok(Call::Run { scenario, seed, events }) => one(&scenario, seed, events, out),
        Ok(Call::Swarm(plan)) => many(&plan, out),
    }
}

fn one(scenario: &Scenario, seed: u64, events: bool, out: &mut impl Write) -> io::Result<u8> {
    let report = run(scenario, seed);
    if events {
        for entry in &report.history.entries {
            writeln!(out, "{:>9.3} {:?}", entry.at.as_secs_f64(), entry.event)?;
        }
    }
    violations(&report, out)?;
    writeln!(out, "{report}")?;
    Ok(if report.is_ok() { 0 } else { FAILED })
}

fn violations(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for violation in report.violations.iter().take(SHOWN) {
        writeln!(out, "  {violation}")?;
    }
    let more = report.violations.len().saturating_sub(SHOWN);
    if more > 0 {
        writeln!(out, "  and {more} more")?;
    }
    Ok(())
}

fn many(plan: &Plan, out: &mut (impl Write + Send)) -> io::Result<u8> {
    let mut written = Ok(());
    let sum = swarm(plan, |report| {
        let mut write = || {
            if !report.is_ok() {
                violations(report, out)?;
                writeln!(out, "  replay: {}", report.replay())?;
            }
            writeln!(out, "{report}")
        };
        if written.is_ok() {
            written = write();
        }
    });
    written?;
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

fn parse(args: &[String]) -> Result<Call, String> {
    let mut args = args.iter().map(String::as_str);
    match args.next() {
        None | Some("help" | "--help" | "-h") => Ok(Call::Help),
        Some("list") => match args.next() {
            None => Ok(Call::List),
            Some(extra) => Err(format!("list takes no arguments, not {extra:?}")),
        },
        Some("run") => parse_run(args),
        Some("swarm") => parse_swarm(args),
        Some(other) => Err(format!("list, run or swarm, not {other:?}")),
    }
}

fn find(name: &str) -> Result<Scenario, String> {
    scenario::find(name).ok_or_else(|| format!("no scenario is called {name:?}: see `polity-sim list`"))
}

fn number<T: std::str::FromStr>(option: &str, value: Option<&str>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    value.parse().map_err(|_| format!("{option} needs a number, not {value:?}"))
}

fn parse_run<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Call, String> {
    let scenario = find(args.next().ok_or("run needs the name of a scenario")?)?;
    let (mut seed, mut events) = (None, false);
    while let Some(option) = args.next() {
        match option {
            "--seed" => seed = Some(number(option, args.next())?),
            "--events" => events = true,
            other => return Err(format!("run knows --seed and --events, not {other:?}")),
        }
    }
    Ok(Call::Run { scenario, seed: seed.ok_or("run needs --seed S")?, events })
}

fn parse_swarm<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Call, String> {
    let scenarios = match args.next().ok_or("swarm needs the name of a scenario, or all")? {
        "all" => scenario::ALL.to_vec(),
        name => vec![find(name)?],
    };
    let (mut seeds, mut budget) = (None, None);
    while let Some(option) = args.next() {
        match option {
            "--seeds" => seeds = Some(range(args.next())?),
            "--budget" => budget = Some(Duration::from_secs(number(option, args.next())?)),
            "--minutes" => {
                let minutes: u32 = number(option, args.next())?;
                budget = Some(Duration::from_secs(60) * minutes);
            }
            other => return Err(format!("swarm knows --seeds, --budget and --minutes, not {other:?}")),
        }
    }
    let seeds = seeds.unwrap_or(if budget.is_some() { 0..u64::MAX } else { DEFAULT_SEEDS });
    Ok(Call::Swarm(Plan { scenarios, seeds, budget }))
}

fn range(text: Option<&str>) -> Result<Range<u64>, String> {
    let text = text.ok_or("--seeds needs A..B")?;
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.filter(|range| !range.is_empty()).ok_or_else(|| format!("--seeds needs A..B with A below B, not {text:?}"))
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
        assert!(matches!(parsed("run kill --seed 7"), Ok(Call::Run { seed: 7, events: false, .. })));
        assert!(matches!(parsed("swarm kill --seeds 3..9"), Ok(Call::Swarm(plan)) if plan.seeds == (3..9)));
        let all = parsed("swarm all --budget 30");
        assert!(matches!(all, Ok(Call::Swarm(plan)) if plan.scenarios.len() == scenario::ALL.len()));
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
            "swarm",
            "swarm kill --seeds 5",
            "swarm kill --seeds 5..5",
            "swarm kill --seeds 1..x",
            "swarm kill --budget soon",
        ] {
            let problem = parsed(text).err().unwrap_or_else(|| panic!("{text:?} was understood"));
            assert_eq!(problem.lines().count(), 1, "{text:?}");
        }
    }
}
