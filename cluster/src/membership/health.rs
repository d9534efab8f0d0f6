//! How well this node itself keeps up: the local health multiplier of Lifeguard (Dadgar, Phillips, Currey 2018, section
//! IV-A).
//!
//! A member that is slow takes others for dead. So whatever suggests that it is this node that is slow raises a score,
//! and every probe that is answered lowers it. Probes get `1 + score` times as long and are sent that much rarer, so that a
//! node that cannot keep up accuses less.
//!
//! Deviations from the paper:
//! - A failed probe counts if none of those who were asked to help is heard in time, not if one is missing: whoever hears one
//!   of them is not slow. At a split, half of them are missing.
//! - Whoever hears nothing at all is not slow but cut off, and must notice that: while nothing arrives the multiplier is 1.
//! - A timer that is late is the best evidence of a process that stood still; see `Core::handle_timeout`.

use std::time::Duration;

/// The greatest score: everything takes eight times as long then (the paper's S).
const MAX_SCORE: u32 = 7;
/// How many probe periods without any datagram mean that this node is cut off.
const SILENT_PERIODS: u32 = 6;

/// The score of this node, 0 if it keeps up.
#[derive(Debug, Default)]
pub(super) struct Health {
    score: u32,
    heard: Duration,
}

impl Health {
    /// A datagram has arrived.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    /// Something suggests that this node is slow.
    pub(super) fn worsen(&mut self) {
        self.score = (self.score + 1).min(MAX_SCORE);
    }

    /// A probe was answered.
    pub(super) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    pub(super) fn score(&self) -> u32 {
        self.score
    }

    /// Whether this node hears nobody.
    pub(super) fn is_deaf(&self, now: Duration, period: Duration) -> bool {
        now.saturating_sub(self.heard) > period * SILENT_PERIODS
    }

    /// By how much everything that probes wait for is stretched.
    pub(super) fn multiplier(&self, now: Duration, period: Duration) -> u32 {
        if self.is_deaf(now, period) { 1 } else { 1 + self.score }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(500);

    #[test]
    fn it_stretches_up_to_eight_times_and_recovers() {
        let (mut health, mut now) = (Health::default(), Duration::ZERO);
        for _ in 0..20 {
            health.worsen();
        }
        assert_eq!(health.multiplier(now, PERIOD), 8);
        for _ in 0..3 {
            health.improve();
        }
        assert_eq!(health.multiplier(now, PERIOD), 5);
        now += PERIOD * (SILENT_PERIODS + 1);
        assert_eq!(health.multiplier(now, PERIOD), 1, "who hears nothing is cut off, not slow");
        health.heard(now);
        assert_eq!(health.multiplier(now, PERIOD), 5);
    }
}
