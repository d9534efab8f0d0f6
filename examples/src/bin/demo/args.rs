//! The command line.

use std::fmt::Display;
use std::str::FromStr;

pub(crate) const USAGE: &str = "usage: demo [--rows N] [--seed S]
  --rows N  how many requests of the recorded trace are replayed, 1 to 1000000 (default 300000)
  --seed S  what the operations, their nodes and the victim are drawn from (default 1)";

/// The whole trace.
const MAX_ROWS: usize = 1_000_000;
/// Takes about half a minute on two cores.
const DEFAULT_ROWS: usize = 300_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) rows: usize,
    pub(crate) seed: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Demo(Options),
    /// One node of the cluster: what the demonstration starts itself as.
    Node,
    Help,
}

impl Command {
    /// Understands the arguments after the program's name. The error is one line.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Options { rows: DEFAULT_ROWS, seed: 1 };
        let mut args = args.into_iter();
        let mut first = true;
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            match name {
                "node" if first && value.is_none() => match args.next() {
                    None => return Ok(Self::Node),
                    Some(other) => return Err(format!("unknown argument {other:?} (try --help)")),
                },
                "--help" | "-h" => return Ok(Self::Help),
                "--rows" => options.rows = number(name, value.or_else(|| args.next()))?,
                "--seed" => options.seed = number(name, value.or_else(|| args.next()))?,
                _ => return Err(format!("unknown argument {arg:?} (try --help)")),
            }
            first = false;
        }
        if options.rows == 0 || options.rows > MAX_ROWS {
            return Err(format!("--rows takes 1 to {MAX_ROWS}, not {}", options.rows));
        }
        Ok(Self::Demo(options))
    }
}

fn number<T: FromStr<Err: Display>>(name: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{name} takes a number"))?;
    value.parse().map_err(|error| format!("{name} takes a number, not {value:?} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Command, String> {
        Command::parse(args.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_refused_in_one_line() {
        assert_eq!(parse(""), Ok(Command::Demo(Options { rows: DEFAULT_ROWS, seed: 1 })));
        assert_eq!(parse("--rows 7 --seed=9"), Ok(Command::Demo(Options { rows: 7, seed: 9 })));
        assert_eq!(parse("node"), Ok(Command::Node));
        assert_eq!(parse("--help"), Ok(Command::Help));
        for wrong in ["--rows", "--rows x", "--rows 0", "--rows 1000001", "--seed -1", "--fast", "5", "node x"] {
            let problem = parse(wrong).expect_err(wrong);
            assert!(!problem.contains('\n'), "{problem}");
        }
    }
}
