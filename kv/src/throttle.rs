//! How fast repair may move records, beside what callers do.
//!
//! Two limits hold at once ([`polity_shard::handoff::Budget`]): bytes a second, and a share of all that the node moves. A message
//! is sent while both are open, and paid for when its size is known, so what runs beside each other may overdraw by one page
//! each, and waits for it afterwards. What this node moves for the repair of others is neither paid for here, for they do that,
//! nor does it count as traffic of callers.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polity_shard::handoff::{Budget, BudgetConfig};
use tokio::time::Instant;

use crate::sync::{AtomicU64, Mutex};

/// What is known of the node's traffic.
#[derive(Debug)]
struct Ledger {
    budget: Budget,
    /// All that the node had moved when that was looked at last.
    moved: u64,
    /// What repair has moved since then, of this node and of others.
    repair: u64,
}

impl Ledger {
    /// The node has moved so many bytes in all. Returns until when to wait, if that is not now.
    fn look(&mut self, now: Duration, moved: u64) -> Option<Duration> {
        let fresh = moved.saturating_sub(self.moved);
        self.moved = self.moved.max(moved);
        // Bytes of repair may be paid for before the transport counts them.
        let others = fresh.saturating_sub(self.repair);
        self.repair = self.repair.saturating_sub(fresh);
        self.budget.handle_moved(now, others);
        if self.budget.is_open(now) { None } else { Some(self.budget.opens_at()) }
    }
}

/// Holds repair to its budget.
#[derive(Debug)]
pub(crate) struct Throttle {
    ledger: Mutex<Ledger>,
    began: Instant,
    waiting: AtomicU64,
}

impl Throttle {
    pub(crate) fn new(config: BudgetConfig) -> Self {
        let ledger = Ledger { budget: Budget::new(config), moved: 0, repair: 0 };
        Self { ledger: Mutex::new(ledger), began: Instant::now(), waiting: AtomicU64::new(0) }
    }

    /// Waits until the next message may be sent. `moved` says how many bytes the node has moved in all.
    pub(crate) async fn open(&self, moved: impl Fn() -> u64 + Send) {
        let mut waits = None;
        while let Some(until) = self.look(moved()) {
            waits.get_or_insert_with(|| Waits::begin(&self.waiting));
            tokio::time::sleep_until(self.began + until).await;
        }
    }

    fn look(&self, moved: u64) -> Option<Duration> {
        let now = Instant::now().saturating_duration_since(self.began);
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).look(now, moved)
    }

    /// Repair of this node has moved so many bytes.
    pub(crate) fn spend(&self, bytes: u64) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.budget.spend(bytes);
        ledger.repair = ledger.repair.saturating_add(bytes);
    }

    /// So many bytes were moved for the repair of others.
    pub(crate) fn pass(&self, bytes: u64) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.repair = ledger.repair.saturating_add(bytes);
    }

    /// What repair of this node has moved.
    pub(crate) fn spent(&self) -> u64 {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).budget.spent()
    }

    /// How many conversations wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Counts one that waits, until it does no more or is given up.
struct Waits<'a>(&'a AtomicU64);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicU64) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    const KB: u64 = 1_000;

    fn config(share_percent: u8) -> BudgetConfig {
        BudgetConfig { bytes_per_second: 100 * KB, share_percent, least: KB, burst: 10 * KB }
    }

    /// How much is spent in 100 seconds, by one that always has 1 kB to send, while the node moves `others` bytes each second
    /// for callers and `served` for the repair of others.
    async fn spent(config: BudgetConfig, others: u64, served: u64) -> u64 {
        let throttle = Throttle::new(config);
        let began = Instant::now();
        let seconds = || Instant::now().duration_since(began).as_secs();
        let noted = AtomicU64::new(0);
        let moved = || {
            let now = seconds();
            throttle.pass((now - noted.swap(now, Ordering::Relaxed)) * served);
            now * (others + served) + throttle.spent()
        };
        while seconds() < 100 {
            throttle.open(moved).await;
            throttle.spend(KB);
        }
        throttle.spent()
    }

    fn is_near(value: u64, wanted: u64) -> bool {
        value.abs_diff(wanted) * 5 <= wanted
    }

    #[tokio::test(start_paused = true)]
    async fn repair_keeps_within_both_budgets() {
        let silent = spent(config(50), 0, 0).await;
        assert!(is_near(silent, 100 * KB), "the least: {silent}");
        let busy = spent(config(50), 20 * KB, 0).await;
        assert!(is_near(busy, 1_100 * KB), "half of what callers do, and the least: {busy}");
        let serving = spent(config(50), 0, 20 * KB).await;
        assert!(is_near(serving, 100 * KB), "repair of others earns nothing: {serving}");
        let free = spent(config(100), 0, 0).await;
        assert!(is_near(free, 10_000 * KB), "the absolute one: {free}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_counted_until_it_gives_up() {
        let throttle = Throttle::new(config(50));
        throttle.open(|| 0).await;
        throttle.spend(1_000 * KB);
        let waits = tokio::time::timeout(Duration::from_secs(1), throttle.open(|| 0));
        let (gave_up, waiting) = tokio::join!(waits, async {
            tokio::task::yield_now().await;
            throttle.waiting()
        });
        assert!(gave_up.is_err());
        assert_eq!((waiting, throttle.waiting()), (1, 0));
    }
}
