//! How much of a node's time repair may take.
//!
//! A node has one thread for its transport and its store ([`polity_cluster::rpc::Rpc::serve`]), so what repair does on it is
//! time that calls wait. Work is done in pieces, one after the other, each of which takes a few hundred microseconds; after each of
//! them nothing is done for repair until it has taken its share of the time at most.
//!
//! Times are those of the node's clock, so what else the machine does counts as well. And where a piece of work begins later
//! than it might, because calls or other processes come first, repair steps back further (ADR 0032). In the simulator work
//! takes no time, and nobody waits.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The share of the time: one part of so many. A record costs some microseconds on either side, so a node that has little else to
/// do repairs some ten thousand of them a second.
const ONE_OF: u32 = 8;

/// What is ready when a piece might begin goes first. If that takes a while, the node or the machine has much to do, and what
/// follows waits this many times as long. So repair takes what callers leave.
const LATE_TIMES: u32 = 64;

/// However late it is, repair gets one part of so many of the time: a node that is always busy must catch up too.
const ONE_OF_AT_LEAST: u32 = 64;

/// So much is saved up at most while nothing is done: the runtime's clock ticks in milliseconds, and a piece may be shorter.
const SAVED: Duration = Duration::from_millis(4);

/// How many records are merged in one piece.
pub(crate) const RECORDS_A_PIECE: usize = 64;

/// Lets one piece of work after the other.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When all work until now has taken its share.
    free: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { free: Mutex::new(Instant::now()) }
    }

    /// How long to wait after a look for work that took so long: to look is not to repair.
    pub(crate) fn after_look(took: Duration) -> Duration {
        took * ONE_OF_AT_LEAST / 2
    }

    /// Waits until a piece of work may be done; it is over when what this returns is dropped, which must not be held while
    /// anything is waited for. First come, first served. Cancel safe.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let free = self.free.lock().await;
        tokio::time::sleep_until(*free).await;
        let ready = Instant::now();
        tokio::task::yield_now().await;
        let began = Instant::now();
        Turn { free, began, late: began - ready }
    }
}

/// A piece of work that is being done.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    free: MutexGuard<'a, Instant>,
    began: Instant,
    late: Duration,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let from = self.began.checked_sub(SAVED).map_or(self.began, |earliest| earliest.max(*self.free));
        let took = self.began.elapsed();
        *self.free = from + (took * ONE_OF + self.late * LATE_TIMES).min(took * ONE_OF_AT_LEAST);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_takes_its_share_of_the_time() {
        let pace = Pace::new();
        let began = Instant::now();
        let mut worked = Duration::ZERO;
        while began.elapsed() < Duration::from_secs(10) {
            let turn = pace.turn().await;
            // Nothing else runs meanwhile, as if this were work.
            tokio::time::advance(Duration::from_millis(1)).await;
            worked += Duration::from_millis(1);
            drop(turn);
        }
        let share = began.elapsed().as_secs_f64() / worked.as_secs_f64();
        assert!((share - f64::from(ONE_OF)).abs() < 0.1, "one of {share}");
    }

    #[tokio::test(start_paused = true)]
    async fn repair_steps_back_where_others_come_first() {
        let pace = Pace::new();
        // Whenever something else may run, this does.
        let mut others = tokio::task::JoinSet::new();
        others.spawn(async {
            loop {
                tokio::time::advance(Duration::from_micros(500)).await;
            }
        });
        let mut began = Vec::new();
        for _ in 0..3 {
            let turn = pace.turn().await;
            began.push(Instant::now());
            tokio::time::advance(Duration::from_millis(1)).await;
            drop(turn);
        }
        drop(others);
        let pause = began[2] - began[1];
        let (alone, most) = (Duration::from_millis(1) * ONE_OF, Duration::from_millis(2) * ONE_OF_AT_LEAST);
        assert!(pause > 3 * alone && pause < most, "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_no_time_does_not_wait() {
        let pace = Pace::new();
        let began = Instant::now();
        for _ in 0..1000 {
            drop(pace.turn().await);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
