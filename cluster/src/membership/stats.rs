//! What the failure detector has decided, as numbers.

use std::time::Duration;

/// How many stretches of time the churn is counted in, and how long each is: a minute in all.
const STRETCHES: usize = 6;
const STRETCH: Duration = Duration::from_secs(10);

/// What one node's membership has done since it started, and how it fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MembershipStats {
    /// Members that are up, this node among them.
    pub up: u64,
    /// Of them, those that are suspected.
    pub suspects: u64,
    /// Members that are down or left and not forgotten yet.
    pub down: u64,
    /// How slow this node finds itself: 0 if it keeps up, at most 7. Its probes take `1 + local_health` times as long.
    pub local_health: u32,
    /// Whether no datagram has arrived for six probe periods although there should have.
    pub deaf: bool,
    /// Probes that were begun.
    pub probes: u64,
    /// Of them, those that checked the accusation of another member.
    pub confirming_probes: u64,
    /// Probes for which others were asked because no direct answer came in time.
    pub indirect_probes: u64,
    /// Probes that nobody could get an answer to.
    pub failed_probes: u64,
    /// Answers that came when their probe was over.
    pub late_acks: u64,
    /// Suspicions that this node was the first to raise, as far as it knows.
    pub suspicions_raised: u64,
    /// Suspicions that it heard of.
    pub suspicions_heard: u64,
    /// Suspicions that ended because the suspect refuted them.
    pub suspicions_refuted: u64,
    /// Suspicions of this node itself, which it refuted.
    pub refuted_own: u64,
    /// Members that this node has declared down because their time was over.
    pub declared_down: u64,
    /// How often this node was declared down and came back.
    pub rejoins: u64,
    /// How often its process stood still for longer than a probe may take.
    pub stalls: u64,
    /// Datagrams of gossip that it has sent.
    pub sent: u64,
    /// Those that it has taken.
    pub received: u64,
    /// Rounds of push-pull that it has begun.
    pub push_pulls: u64,
    /// Of them, those that found a difference.
    pub differences: u64,
    /// Members that came up or went down during the last minute.
    pub churn_per_minute: u64,
}

impl MembershipStats {
    /// Whether the cluster is unsettled: during the last minute more members came or went than half of those that are up,
    /// and at least ten. A sign of overload, of a network that flaps, or of two processes under one name.
    #[must_use]
    pub fn storm(&self) -> bool {
        self.churn_per_minute >= 10 && self.churn_per_minute * 2 > self.up
    }
}

/// Counts what comes and goes, a minute long.
#[derive(Debug, Default)]
pub(super) struct Churn {
    counts: [u64; STRETCHES],
    /// Which stretch is counted now.
    at: u64,
}

impl Churn {
    pub(super) fn count(&mut self, now: Duration) {
        self.pass(now);
        self.counts[(self.at % STRETCHES as u64) as usize] += 1;
    }

    pub(super) fn last_minute(&mut self, now: Duration) -> u64 {
        self.pass(now);
        self.counts.iter().sum()
    }

    fn pass(&mut self, now: Duration) {
        let at = now.as_secs() / STRETCH.as_secs();
        for passed in (self.at + 1..=at).take(STRETCHES) {
            self.counts[(passed % STRETCHES as u64) as usize] = 0;
        }
        self.at = at.max(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn churn_is_of_the_last_minute() {
        let mut churn = Churn::default();
        let secs = Duration::from_secs;
        for second in 0..60 {
            churn.count(secs(second));
        }
        assert_eq!(churn.last_minute(secs(59)), 60);
        assert_eq!(churn.last_minute(secs(75)), 40, "the first two stretches have passed");
        assert_eq!(churn.last_minute(secs(1000)), 0);
    }

    #[test]
    fn a_storm_is_many_for_the_size_of_the_cluster() {
        let stats = |up, churn_per_minute| MembershipStats { up, churn_per_minute, ..Default::default() };
        assert!(!stats(3, 4).storm() && stats(3, 12).storm());
        assert!(!stats(100, 40).storm() && stats(100, 60).storm());
    }
}
