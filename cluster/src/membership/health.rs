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
//! - That many others fall silent at once is not their failure: who is cut off from them suspects them, keeps that to itself, and
//!   waits with the verdict. If it hears anybody again, its suspicions begin anew.
//! - A timer that is late is the best evidence of a process that stood still; see `Core::handle_timeout`.

use std::time::Duration;

use crate::mutation::{Mutation, mutated};

/// The greatest score: everything takes eight times as long then (the paper's S).
const MAX_SCORE: u32 = 7;
/// How many probe periods without any datagram mean that this node is cut off.
const SILENT_PERIODS: u32 = 6;
/// How many of them a node that is cut off from many waits before it believes that they are all down: 40 s in a data centre,
/// where a port that comes up again, a machine that is moved or a queue that is stuck takes up to 30 s.
const CUT_OFF_PERIODS: u32 = 80;
/// How many others that is. That fewer are down at once does happen, and is to be noticed soon.
const MANY: usize = 10;

/// The score of this node, 0 if it keeps up.
#[derive(Debug, Default)]
pub(super) struct Health {
    score: u32,
    heard: Duration,
    /// When it ran last, on time.
    awake: Duration,
}

impl Health {
    /// A datagram has arrived.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    /// This node runs.
    pub(super) fn awake(&mut self, now: Duration) {
        self.awake = now;
    }

    /// This node stood still for so long, and could not hear.
    pub(super) fn stood_still(&mut self, by: Duration) {
        self.heard += by;
        self.worsen();
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

    /// Whether nothing was heard for long although this node was running.
    pub(super) fn was_deaf(&self, period: Duration) -> bool {
        self.is_deaf(self.awake, period)
    }

    /// Whether nothing was heard from so many others for long although this node was running, so that it is cut off from them.
    pub(super) fn is_cut_off(&self, period: Duration, others: usize) -> bool {
        others >= MANY && self.was_deaf(period)
    }

    /// When a verdict that is due at some time is spoken: later, if this node hears none of so many others by then, or by
    /// now, if accusers have made the verdict due in the past.
    pub(super) fn speaks_at(&self, due: Duration, period: Duration, others: usize) -> Duration {
        let cut_off = others >= MANY && self.is_deaf(due.max(self.awake), period) && !mutated(Mutation::NoLocalHealth);
        if cut_off { due.max(self.heard + period * CUT_OFF_PERIODS) } else { due }
    }

    /// By how much everything that probes wait for is stretched.
    pub(super) fn multiplier(&self, now: Duration, period: Duration) -> u32 {
        if self.is_deaf(now, period) || mutated(Mutation::NoLocalHealth) { 1 } else { 1 + self.score }
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

    #[test]
    fn who_is_cut_off_from_many_waits_with_its_verdicts() {
        let (mut health, due) = (Health::default(), PERIOD * 20);
        health.heard(PERIOD);
        assert_eq!(health.speaks_at(PERIOD * 5, PERIOD, MANY), PERIOD * 5, "it was heard from someone just now");
        assert_eq!(health.speaks_at(due, PERIOD, MANY - 1), due, "so few may be down");
        assert_eq!(health.speaks_at(due, PERIOD, MANY), PERIOD * (1 + CUT_OFF_PERIODS));
        assert_eq!(health.speaks_at(due * 9, PERIOD, MANY), due * 9, "in the end it believes it");
        assert!(!health.is_cut_off(PERIOD, MANY), "it did not run meanwhile");
        health.awake(due);
        let early = health.speaks_at(PERIOD * 5, PERIOD, MANY);
        assert_eq!(early, PERIOD * (1 + CUT_OFF_PERIODS), "that it became due earlier makes no difference");
        assert!(health.is_cut_off(PERIOD, MANY) && !health.is_cut_off(PERIOD, MANY - 1));
        health.stood_still(due);
        assert!(!health.is_cut_off(PERIOD, MANY));
    }
}
