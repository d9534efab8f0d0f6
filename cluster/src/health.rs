//! How a node fares, in one word.

use crate::membership::stats::MembershipStats;
use crate::stop::StopReason;

/// How a node fares, as it finds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It has not exchanged its state with a member yet.
    Joining,
    /// It takes part, and keeps up.
    Healthy,
    /// It does not keep up: its probes take `1 + score` times as long, so that it does not take others for dead (Lifeguard).
    Slow {
        /// 1 to 7.
        score: u32,
    },
    /// Members come and go as if the network or several processes were failing ([`MembershipStats::storm`]).
    Unsettled,
    /// It hears nobody although it should: it is cut off, or all the others are gone.
    CutOff,
    /// It has stopped.
    Stopped(StopReason),
}

impl Health {
    /// `away` says how many members are down without having left.
    pub(crate) fn of(stats: &MembershipStats, joined: bool, away: usize, stopped: Option<StopReason>) -> Self {
        match stopped {
            Some(reason) => Self::Stopped(reason),
            None if !joined => Self::Joining,
            None if stats.deaf || (stats.up == 1 && away > 0) => Self::CutOff,
            None if stats.storm() => Self::Unsettled,
            None if stats.local_health > 0 => Self::Slow { score: stats.local_health },
            None => Self::Healthy,
        }
    }

    /// Whether the node can do its work: healthy, slow or unsettled.
    #[must_use]
    pub const fn is_serving(self) -> bool {
        matches!(self, Self::Healthy | Self::Slow { .. } | Self::Unsettled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_said() {
        let well = MembershipStats { up: 3, ..Default::default() };
        let of = |stats: MembershipStats, away| Health::of(&stats, true, away, None);
        assert_eq!(Health::of(&well, false, 0, None), Health::Joining);
        assert_eq!(Health::of(&well, true, 0, Some(StopReason::Left)), Health::Stopped(StopReason::Left));
        assert_eq!(of(well, 1), Health::Healthy);
        assert_eq!(of(MembershipStats { local_health: 2, ..well }, 0), Health::Slow { score: 2 });
        assert_eq!(of(MembershipStats { churn_per_minute: 20, local_health: 2, ..well }, 0), Health::Unsettled);
        assert_eq!(of(MembershipStats { up: 1, ..well }, 2), Health::CutOff);
        assert_eq!(of(MembershipStats { up: 1, ..well }, 0), Health::Healthy, "the only one of its cluster");
        assert!(of(MembershipStats { deaf: true, ..well }, 0) == Health::CutOff && !Health::CutOff.is_serving());
    }
}
