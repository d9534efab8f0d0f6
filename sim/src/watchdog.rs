//! Ends the program when a run hangs.
//!
//! A task of a node that spins without ever waiting stops simulated time, and nothing inside of the simulation can
//! notice. A thread watches the world's steps; if there are none for [`PATIENCE`] of real time, it says which run it was
//! and ends the process, since a thread that spins cannot be ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::case::Case;
use crate::run::replay;

/// A step is milliseconds of simulated time and takes far less than a second, on a loaded machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// The exit status: that of a broken promise.
const FAILED: i32 = 1;

/// Watches a run until it is dropped.
pub(crate) struct Watchdog {
    /// Dropped to end the thread.
    _over: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches the steps of a run of this case.
    pub(crate) fn watch(case: &Case, steps: Arc<AtomicU64>) -> Self {
        let (replay, scenario, seed) = (replay(case), case.scenario.clone(), case.seed);
        let (over, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let mut before = steps.load(Ordering::Relaxed);
            while ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let now = steps.load(Ordering::Relaxed);
                if now == before {
                    println!("  a node spins at one instant: after step {now} there was none for {PATIENCE:?}");
                    println!("  replay: {replay}");
                    println!("scenario={scenario} seed={seed} trace={:016x} verdict=FAIL(hang)", 0);
                    std::process::exit(FAILED);
                }
                before = now;
            }
        });
        Self { _over: over }
    }
}
