//! How figures come from the nodes to who asked for them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};

use crate::load::Sample;

/// Calls of one node: how many in which time, and how long they took, as a thousand quantiles.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures {
    calls: usize,
    seconds: f64,
    nanos: Vec<u32>,
}

const QUANTILES: usize = 1000;

impl Figures {
    /// Of the sorted times of all calls.
    pub(crate) fn new(nanos: &[u32], seconds: f64) -> Self {
        let quantiles = (0..QUANTILES).filter_map(|at| nanos.get(at * nanos.len() / QUANTILES).copied());
        Self { calls: nanos.len(), seconds, nanos: quantiles.collect() }
    }

    /// Of all nodes together.
    pub(crate) fn sample(all: &[Self]) -> Sample {
        let per_second = all.iter().map(|figures| figures.calls as f64 / figures.seconds).sum();
        let weighed = |figures: &Self| {
            let weight = figures.calls as f64 / figures.nanos.len().max(1) as f64;
            figures.nanos.iter().map(move |nanos| (*nanos, weight)).collect::<Vec<_>>()
        };
        let mut nanos: Vec<(u32, f64)> = all.iter().flat_map(weighed).collect();
        nanos.sort_unstable_by_key(|(nanos, _)| *nanos);
        let total: f64 = nanos.iter().map(|(_, weight)| weight).sum();
        let quantile = |q: f64| {
            let mut seen = 0.0;
            let found = nanos.iter().find(|(_, weight)| {
                seen += weight;
                seen >= q * total
            });
            found.map_or(f64::NAN, |(nanos, _)| f64::from(*nanos) / 1e3)
        };
        Sample { per_second, p50_us: quantile(0.5), p99_us: quantile(0.99) }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.calls, self.seconds)?;
        self.nanos.iter().try_for_each(|nanos| write!(f, " {nanos}"))
    }
}

impl FromStr for Figures {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next().with_context(|| format!("no figures: {line:?}"));
        let (calls, seconds) = (next()?.parse()?, next()?.parse()?);
        Ok(Self { calls, seconds, nanos: words.map(str::parse).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_survive_the_way_and_weigh_by_their_calls() {
        let few = Figures::new(&[1_000; 10], 1.0);
        let many = Figures::new(&[3_000; 990], 1.0);
        assert_eq!(few, few.to_string().parse().expect("figures"));
        let all = Figures::sample(&[few, many]);
        assert_eq!((all.per_second, all.p50_us), (1_000.0, 3.0));
    }
}
