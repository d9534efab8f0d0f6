//! Closed-loop load: so many callers, each of which calls again as soon as it has its answer.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Sample {
    /// Of the sorted times of all calls, and how long all of it took.
    pub(crate) fn of(nanos: &[u32], elapsed: Duration) -> Self {
        let quantile = |q: f64| match nanos.len() {
            0 => f64::NAN,
            n => f64::from(nanos[((n - 1) as f64 * q) as usize]) / 1_000.0,
        };
        Self { per_second: nanos.len() as f64 / elapsed.as_secs_f64(), p50_us: quantile(0.5), p99_us: quantile(0.99) }
    }
}

/// One caller of many.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// Makes one call and checks its answer.
    fn call(&self) -> impl Future<Output = ()> + Send;
}

/// Runs `concurrency` callers for `duration` on the current runtime.
pub(crate) async fn run(concurrency: usize, duration: Duration, caller: &impl Caller) -> Sample {
    let (nanos, elapsed) = gather(concurrency, duration, caller).await;
    Sample::of(&nanos, elapsed)
}

/// Runs `concurrency` callers for `duration`. Returns how long each call took, sorted, and how long all of it.
pub(crate) async fn gather(concurrency: usize, duration: Duration, caller: &impl Caller) -> (Vec<u32>, Duration) {
    let started = Instant::now();
    let end = started + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..concurrency {
        let caller = caller.clone();
        tasks.spawn(async move {
            let mut nanos: Vec<u32> = Vec::with_capacity(1 << 16);
            let mut before = Instant::now();
            while before < end {
                caller.call().await;
                let after = Instant::now();
                nanos.push(u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX));
                before = after;
            }
            nanos
        });
    }
    let mut all: Vec<u32> = Vec::new();
    while let Some(nanos) = tasks.join_next().await {
        all.extend(nanos.expect("a caller does not panic"));
    }
    let elapsed = started.elapsed();
    all.sort_unstable();
    (all, elapsed)
}

/// The median of each figure.
pub(crate) fn median(samples: &[Sample]) -> Sample {
    let middle = |figure: fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Sample { per_second: middle(|s| s.per_second), p50_us: middle(|s| s.p50_us), p99_us: middle(|s| s.p99_us) }
}
