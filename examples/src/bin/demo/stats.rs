//! How requests went, counted apart for every phase of the demonstration.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Done, Ended, Failure};

/// How many different reasons of failures are kept to be shown.
const KEPT_REASONS: usize = 5;

#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    began: Instant,
    ended: Option<Instant>,
    took_us: Vec<u32>,
    pub(crate) failed: usize,
    pub(crate) unknown: usize,
    pub(crate) retried: usize,
    pub(crate) missed: usize,
    pub(crate) stale: usize,
    pub(crate) damaged: usize,
}

impl Phase {
    fn new(name: &'static str) -> Self {
        let began = Instant::now();
        Self {
            name,
            began,
            ended: None,
            took_us: Vec::new(),
            failed: 0,
            unknown: 0,
            retried: 0,
            missed: 0,
            stale: 0,
            damaged: 0,
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.took_us.len()
    }

    pub(crate) fn lasted(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.began
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.requests() as f64 / self.lasted().as_secs_f64().max(1e-9)
    }

    /// What this share of the requests did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        quantile(&mut self.took_us.clone(), share)
    }

    fn count(&mut self, ended: &Ended) {
        self.took_us.push(u32::try_from(ended.took.as_micros()).unwrap_or(u32::MAX));
        self.retried += usize::from(ended.retries > 0);
        match &ended.result {
            Ok(Done::Read(values, finding)) => {
                self.missed += usize::from(*values == 0);
                self.stale += usize::from(finding.missing > 0);
                self.damaged += finding.damaged;
            }
            Ok(_) => {}
            Err(failure) => {
                self.failed += 1;
                self.unknown += usize::from(matches!(failure, Failure::Unknown(_)));
            }
        }
    }
}

fn quantile(took_us: &mut [u32], share: f64) -> Duration {
    if took_us.is_empty() {
        return Duration::ZERO;
    }
    let at = ((took_us.len() - 1) as f64 * share).round() as usize;
    let (_, found, _) = took_us.select_nth_unstable(at);
    Duration::from_micros(u64::from(*found))
}

/// All phases. A request counts in the one in which it ends.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    phases: Vec<Phase>,
    reasons: BTreeMap<String, usize>,
}

impl Stats {
    /// Ends the phase before, if there is one.
    pub(crate) fn begin(&mut self, name: &'static str) {
        self.end();
        self.phases.push(Phase::new(name));
    }

    pub(crate) fn end(&mut self) {
        if let Some(last) = self.phases.last_mut() {
            last.ended.get_or_insert_with(Instant::now);
        }
    }

    pub(crate) fn count(&mut self, ended: &Ended) {
        if let Some(phase) = self.phases.last_mut() {
            phase.count(ended);
        }
        if let Err(Failure::NotApplied(reason) | Failure::Unknown(reason)) = &ended.result {
            // What follows in brackets names ports and times, and differs from request to request.
            let gist = reason.split_once(" (").map_or(reason.as_str(), |(gist, _)| gist);
            if self.reasons.len() < KEPT_REASONS || self.reasons.contains_key(gist) {
                *self.reasons.entry(gist.to_owned()).or_default() += 1;
            }
        }
    }

    pub(crate) fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Why requests failed, and how many for each reason, as far as they were kept.
    pub(crate) fn reasons(&self) -> &BTreeMap<String, usize> {
        &self.reasons
    }

    pub(crate) fn sum(&self, of: impl Fn(&Phase) -> usize) -> usize {
        self.phases.iter().map(of).sum()
    }

    /// Over all phases.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut all: Vec<u32> = self.phases.iter().flat_map(|phase| &phase.took_us).copied().collect();
        quantile(&mut all, share)
    }

    pub(crate) fn per_second(&self) -> f64 {
        let lasted: Duration = self.phases.iter().map(Phase::lasted).sum();
        self.sum(Phase::requests) as f64 / lasted.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut took: Vec<u32> = (1..=101).rev().collect();
        assert_eq!(quantile(&mut took, 0.5), Duration::from_micros(51));
        assert_eq!(quantile(&mut took, 0.99), Duration::from_micros(100));
        assert_eq!(quantile(&mut took, 1.0), Duration::from_micros(101));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
