//! How fast handoffs may send: at most so many bytes a second, and at most a share of all that the node sends.
//!
//! **Model.** Two token buckets, in bytes, and a chunk may be sent while both are above zero. It is paid for when its size
//! is known, so a bucket may be below zero by what was begun meanwhile, and pays that off first. The *absolute* one is
//! filled by time. The *relative* one is filled by what the node sends for others: with a share of one fifth, every four
//! bytes of others allow one of a handoff. Who sends nothing else would never hand anything over, so it is also filled
//! by a trickle of time ([`BudgetConfig::least`]). On a running node [`Ownership`](crate::Ownership) tells the budget what the
//! transport has sent beside handoffs.
//!
//! Source: token buckets as in RFC 2697 (A single rate three color marker), with debt instead of peeking at sizes.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// How fast handoffs may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetConfig {
    /// At most so many bytes a second. Default: 64 MiB, half of what a 1 Gbit/s link carries.
    pub bytes_per_second: u64,
    /// At most this share of all that the node sends, in percent, from 1 to 100, at which it does not bind. Default: 50.
    pub share_percent: u8,
    /// But so many bytes a second whatever else is sent, within `bytes_per_second`. Default: 8 MiB: a shard of 1 GiB moves
    /// within about two minutes on a node that sends nothing else.
    pub least: u64,
    /// How much may be sent at once after a time of silence. Default: 1 MiB, four chunks.
    pub burst: u64,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self { bytes_per_second: 64 << 20, share_percent: 50, least: 8 << 20, burst: 1 << 20 }
    }
}

/// In billionths of a byte, so that no time is lost to rounding.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: i128,
    rate: u64,
}

impl Bucket {
    fn fill(&mut self, nano_bytes: u128, burst: u64) {
        let most = (u128::from(burst) * NANOS) as i128;
        let added = i128::try_from(nano_bytes).unwrap_or(i128::MAX);
        self.tokens = self.tokens.saturating_add(added).min(most);
    }

    /// How long time alone takes to bring it above zero.
    fn wait(&self) -> Duration {
        if self.tokens > 0 {
            return Duration::ZERO;
        }
        let nanos = self.tokens.unsigned_abs() / u128::from(self.rate.max(1)) + 1;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The two buckets.
#[derive(Clone, Debug)]
pub struct Budget {
    config: BudgetConfig,
    absolute: Bucket,
    relative: Bucket,
    at: Duration,
    spent: u64,
}

impl Budget {
    /// Full buckets. What is out of range in `config` counts as the nearest that is not.
    #[must_use]
    pub fn new(config: BudgetConfig) -> Self {
        let rate = config.bytes_per_second.max(1);
        let config = BudgetConfig {
            bytes_per_second: rate,
            share_percent: config.share_percent.clamp(1, 100),
            least: config.least.clamp(1, rate),
            burst: config.burst.max(1),
        };
        let bucket = |rate| Bucket { tokens: (u128::from(config.burst) * NANOS) as i128, rate };
        Self { config, absolute: bucket(rate), relative: bucket(config.least), at: Duration::ZERO, spent: 0 }
    }

    /// Time has passed.
    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        let burst = self.config.burst;
        for bucket in [&mut self.absolute, &mut self.relative] {
            let added = passed.saturating_mul(u128::from(bucket.rate));
            bucket.fill(added, burst);
        }
    }

    /// The node has sent so many bytes of other things.
    pub fn handle_moved(&mut self, now: Duration, bytes: u64) {
        self.advance(now);
        let share = u128::from(self.config.share_percent);
        let earned = match 100 - share {
            0 => u128::MAX,
            others => u128::from(bytes) * NANOS * share / others,
        };
        self.relative.fill(earned, self.config.burst);
    }

    /// Whether something may be sent now.
    pub fn is_open(&mut self, now: Duration) -> bool {
        self.advance(now);
        self.absolute.tokens > 0 && (self.relative.tokens > 0 || self.config.share_percent == 100)
    }

    /// When something may be sent, if nothing else is sent until then.
    #[must_use]
    pub fn opens_at(&self) -> Duration {
        let relative = if self.config.share_percent == 100 { Duration::ZERO } else { self.relative.wait() };
        self.at.saturating_add(self.absolute.wait().max(relative))
    }

    /// A handoff has sent so many bytes.
    pub fn spend(&mut self, bytes: u64) {
        self.spent = self.spent.saturating_add(bytes);
        let nano_bytes = (u128::from(bytes) * NANOS) as i128;
        self.absolute.tokens = self.absolute.tokens.saturating_sub(nano_bytes);
        self.relative.tokens = self.relative.tokens.saturating_sub(nano_bytes);
    }

    /// How many bytes handoffs have sent.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much a handoff sends in ten seconds that always has a chunk of 1,000 bytes ready, while the node sends `others`
    /// bytes each millisecond.
    fn sent(config: BudgetConfig, others: u64) -> u64 {
        let mut budget = Budget::new(config);
        for ms in 0..10_000 {
            let now = Duration::from_millis(ms);
            budget.handle_moved(now, others);
            while budget.is_open(now) {
                budget.spend(1_000);
            }
            assert!(budget.opens_at() > now);
        }
        budget.spent()
    }

    fn is_near(value: u64, wanted: u64) -> bool {
        value.abs_diff(wanted) * 20 <= wanted
    }

    #[test]
    fn the_absolute_budget_holds() {
        let config = BudgetConfig { bytes_per_second: 100_000, share_percent: 100, least: 1, burst: 1_000 };
        assert!(is_near(sent(config, 0), 1_000_000));
        assert!(is_near(sent(config, 1_000_000), 1_000_000));
    }

    #[test]
    fn the_relative_budget_holds_and_idle_nodes_trickle() {
        let config = BudgetConfig { bytes_per_second: 10_000_000, share_percent: 20, least: 10_000, burst: 1_000 };
        assert!(is_near(sent(config, 0), 100_000), "the trickle alone");
        // 400 bytes a millisecond of others allow 100.
        assert!(is_near(sent(config, 400), 1_100_000), "a fifth of all, and the trickle");
    }

    #[test]
    fn debts_are_paid_off_first() {
        let mut budget = Budget::new(BudgetConfig { bytes_per_second: 1_000, share_percent: 100, least: 1, burst: 10 });
        assert!(budget.is_open(Duration::ZERO));
        budget.spend(5_010);
        assert_eq!(budget.opens_at().as_secs(), 5);
        assert!(!budget.is_open(Duration::from_secs(5)));
        assert!(budget.is_open(budget.opens_at()));
    }

    #[test]
    fn nothing_overflows() {
        let most = BudgetConfig { bytes_per_second: u64::MAX, share_percent: 255, least: u64::MAX, burst: u64::MAX };
        let mut budget = Budget::new(most);
        budget.handle_moved(Duration::MAX, u64::MAX);
        budget.spend(u64::MAX);
        budget.handle_moved(Duration::ZERO, u64::MAX);
        let none = BudgetConfig { bytes_per_second: 0, share_percent: 0, least: 0, burst: 0 };
        let mut budget = Budget::new(none);
        budget.spend(u64::MAX);
        assert!(!budget.is_open(Duration::from_secs(1)));
        assert!(budget.opens_at() > Duration::from_secs(1));
    }
}
