//! The presets and what they set. Each figure states its reason; the builder checks the ranges once.

use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Where the nodes of a cluster are in relation to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Preset {
    /// All on one machine. May run without a secret, on loopback only.
    Local,
    /// In one data centre: round trips under 20 ms. The default.
    #[default]
    Lan,
    /// Across regions: round trips to 300 ms.
    Wan,
}

/// The times of membership. A member that dies is Down everywhere after about one probe period to reach it, one to
/// find it silent, the suspicion, and some gossip intervals.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Timings {
    /// How often a node probes another (SWIM's protocol period). 50 ms to 60 s.
    pub probe_period: Duration,
    /// How long it waits for a direct answer before it asks others to probe; less than half of the period.
    pub probe_timeout: Duration,
    /// How long a suspect has to refute; at least one period.
    pub suspicion: Duration,
    /// How often news is gossiped to three members.
    pub gossip_interval: Duration,
    /// How often the whole state is exchanged with one random member.
    pub push_pull_interval: Duration,
    /// How often seeds that are not members are greeted again, for ever.
    pub announce_interval: Duration,
    /// How often members that are down are told that we are here, so that the halves of a partition meet again.
    pub announce_to_down_interval: Duration,
    /// How long a member that is down is remembered: longer than any partition that should heal by itself.
    pub forget_down_after: Duration,
    /// How long a node that starts waits for one of its seeds to answer before it goes on alone.
    pub solo_after: Duration,
}

impl Timings {
    /// The times of a preset.
    #[must_use]
    pub const fn preset(preset: Preset) -> Self {
        match preset {
            // Loopback answers in microseconds; what is slow is a machine with more processes than cores, so the
            // timeouts allow for a process that is not scheduled for some hundred milliseconds.
            Preset::Local => Self {
                probe_period: ms(400),
                probe_timeout: ms(150),
                suspicion: ms(1500),
                gossip_interval: ms(100),
                push_pull_interval: ms(2_000),
                announce_interval: ms(1_000),
                announce_to_down_interval: ms(2_000),
                forget_down_after: Duration::from_secs(24 * 3600),
                solo_after: ms(1_000),
            },
            // Detection: the first of the others probes within three periods (in 1 of 1,000 cases it takes longer), finds
            // silence after one more, waits for the suspicion, and spreads the news in 0.4 s: 3.9 s, and 5 s at the worst.
            Preset::Lan => Self {
                probe_period: ms(500),
                probe_timeout: ms(200),
                suspicion: ms(1_500),
                gossip_interval: ms(150),
                push_pull_interval: ms(4_000),
                announce_interval: ms(2_000),
                announce_to_down_interval: ms(3_000),
                forget_down_after: Duration::from_secs(24 * 3600),
                solo_after: ms(2_000),
            },
            Preset::Wan => Self {
                probe_period: ms(3_000),
                probe_timeout: ms(1_000),
                suspicion: ms(12_000),
                gossip_interval: ms(500),
                push_pull_interval: ms(15_000),
                announce_interval: ms(10_000),
                announce_to_down_interval: ms(15_000),
                forget_down_after: Duration::from_secs(72 * 3600),
                solo_after: ms(8_000),
            },
        }
    }

    /// Checks that the times fit together.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        if self.probe_period < ms(50) || self.probe_period > ms(60_000) {
            return Err("probe_period is between 50 ms and 60 s");
        }
        if self.probe_timeout.is_zero() || self.probe_timeout * 2 > self.probe_period {
            return Err("probe_timeout is more than nothing and at most half of probe_period");
        }
        if self.suspicion < self.probe_period {
            return Err("suspicion lasts at least one probe_period");
        }
        if self.forget_down_after < self.suspicion * 4 {
            return Err("forget_down_after is at least four times suspicion");
        }
        let intervals = [
            self.gossip_interval,
            self.push_pull_interval,
            self.announce_interval,
            self.announce_to_down_interval,
            self.solo_after,
        ];
        if intervals.iter().any(|interval| *interval < ms(10)) {
            return Err("intervals are at least 10 ms");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_nonsense_is_not() {
        for preset in [Preset::Local, Preset::Lan, Preset::Wan] {
            assert_eq!(Timings::preset(preset).validate(), Ok(()));
        }
        let lan = Timings::preset(Preset::Lan);
        assert!(Timings { probe_timeout: ms(400), ..lan.clone() }.validate().is_err());
        assert!(Timings { suspicion: ms(100), ..lan.clone() }.validate().is_err());
        assert!(Timings { gossip_interval: Duration::ZERO, ..lan }.validate().is_err());
    }
}
