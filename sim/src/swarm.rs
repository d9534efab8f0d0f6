//! Many seeds on all cores.
#![allow(clippy::disallowed_methods, reason = "a swarm's budget is of real time; no simulated code reads it")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::run::{Report, run};
use crate::scenario::Scenario;

/// How many seeds of each scenario are run even if the budget does not suffice.
pub const MIN_SEEDS: u64 = 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenarios. They take turns, so that a budget is shared.
    pub scenarios: Vec<Scenario>,
    /// The seeds of each.
    pub seeds: Range<u64>,
    /// How much real time may be spent before no new run begins. At least [`MIN_SEEDS`] of each scenario are run.
    pub budget: Option<Duration>,
    /// Whether no new run begins after the first that failed.
    pub stop: bool,
}

/// How many runs there were, how many of them failed, and how long they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Runs that ended.
    pub runs: u64,
    /// Runs that broke a promise.
    pub failed: u64,
    /// Simulated time of all.
    pub simulated: Duration,
    /// Real time from beginning to end.
    pub real: Duration,
}

/// Runs a plan. `each` sees every report, one at a time, in the order in which they end.
pub fn swarm(plan: &Plan, each: impl FnMut(&Report) + Send) -> Sum {
    let begin = Instant::now();
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let state = Mutex::new((Sum::default(), each));
    let work = || {
        while !over.load(Ordering::Relaxed)
            && let Some((scenario, seed)) = take(plan, &next, begin)
        {
            let report = run(&scenario.case(seed));
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (sum, each) = &mut *state;
            sum.runs += 1;
            sum.failed += u64::from(!report.is_ok());
            if plan.stop && !report.is_ok() {
                over.store(true, Ordering::Relaxed);
            }
            sum.simulated += report.simulated();
            each(&report);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (mut sum, _) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.real = begin.elapsed();
    sum
}

fn take(plan: &Plan, next: &AtomicUsize, begin: Instant) -> Option<(Scenario, u64)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    let round = (i / plan.scenarios.len().max(1)) as u64;
    let seed = plan.seeds.start.checked_add(round).filter(|seed| *seed < plan.seeds.end)?;
    let is_over = plan.budget.is_some_and(|budget| begin.elapsed() >= budget);
    if is_over && round >= MIN_SEEDS {
        return None;
    }
    plan.scenarios.get(i % plan.scenarios.len()).map(|scenario| (*scenario, seed))
}
