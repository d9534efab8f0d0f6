//! What became of calls. Those that a node was asked for while it came or went are counted apart.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

/// How many calls ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) served: u64,
    pub(crate) failed: u64,
    pub(crate) passing: Passing,
}

/// Calls that began before the node was ready, or after `leave` was called and before that returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passing {
    pub(crate) served: u64,
    /// With an error that says that nothing was written, or nothing read.
    pub(crate) refused: u64,
    /// With any other, or with an answer that is wrong.
    pub(crate) failed: u64,
}

impl Counts {
    /// Of all nodes together.
    pub(crate) fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |sum, one| Self {
            served: sum.served + one.served,
            failed: sum.failed + one.failed,
            passing: Passing {
                served: sum.passing.served + one.passing.served,
                refused: sum.passing.refused + one.passing.refused,
                failed: sum.passing.failed + one.passing.failed,
            },
        })
    }

    pub(crate) fn calls(self) -> u64 {
        self.served + self.failed
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, failed, passing } = self;
        write!(f, "{served} {failed} {} {} {}", passing.served, passing.refused, passing.failed)
    }
}

impl FromStr for Counts {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [served, failed, passing @ ..] = &numbers[..] else { bail!("no counts: {line:?}") };
        let [passing_served, refused, passing_failed] = *passing else { bail!("no counts: {line:?}") };
        let passing = Passing { served: passing_served, refused, failed: passing_failed };
        Ok(Self { served: *served, failed: *failed, passing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_the_way_and_add_up() {
        let counts = Counts { served: 1, failed: 2, passing: Passing { served: 3, refused: 4, failed: 5 } };
        assert_eq!(counts, counts.to_string().parse().expect("counts"));
        let twice = Counts::sum([counts, counts]);
        assert_eq!((twice.calls(), twice.passing.refused, twice.passing.failed), (6, 8, 10));
    }
}
