//! Hybrid logical clocks: timestamps that follow the wall clock and never contradict causality.
//!
//! A timestamp is a physical time in milliseconds and a logical counter. A clock gives timestamps that only grow, and
//! that are greater than every timestamp it has observed; so what was written after something was read is stamped
//! later, even by a machine whose clock is behind. The clock reads no time: it is handed the wall clock's.
//!
//! Source: Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical physical clocks" (OPODIS 2014), figure 5. Deviations: a
//! counter that is used up borrows a millisecond from the future instead of overflowing, and a timestamp that is further
//! ahead than a stated bound is refused, so that one wrong clock cannot drag all others along (section 4.3 of the paper
//! asks for that without saying how).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;

/// When something was written: by the wall clock first, then by causality. Ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Milliseconds since the Unix epoch, or since whatever the wall clock counts from.
    pub millis: u64,
    /// Tells timestamps of one millisecond apart.
    pub logical: u32,
}

impl Timestamp {
    /// The time at which a wall clock stands.
    #[must_use]
    pub fn from_wall(since_epoch: Duration) -> Self {
        Self { millis: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX), logical: 0 }
    }

    /// The least timestamp above this one. The greatest has none above it and is returned itself.
    #[must_use]
    pub fn next(self) -> Self {
        match (self.logical.checked_add(1), self.millis.checked_add(1)) {
            (Some(logical), _) => Self { logical, ..self },
            (None, Some(millis)) => Self { millis, logical: 0 },
            (None, None) => self,
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis, self.logical)
    }
}

/// A hybrid logical clock.
///
/// ```
/// use std::time::Duration;
/// use polity_crdt::HybridClock;
///
/// let (mut ahead, mut behind) = (HybridClock::new(), HybridClock::new());
/// let sent = ahead.now(Duration::from_millis(1_000));
/// // The other machine's clock is 400 ms behind, which it tolerates.
/// behind.observe(sent, Duration::from_millis(600), Duration::from_millis(500))?;
/// assert!(behind.now(Duration::from_millis(601)) > sent);
/// # Ok::<(), polity_crdt::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HybridClock {
    last: Timestamp,
}

impl HybridClock {
    /// A clock that has given and seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: Timestamp { millis: 0, logical: 0 } }
    }

    /// A timestamp for an event that happens when the wall clock stands at `wall`: greater than all that this clock has
    /// given or observed.
    pub fn now(&mut self, wall: Duration) -> Timestamp {
        self.last = Timestamp::from_wall(wall).max(self.last.next());
        self.last
    }

    /// Takes note of a timestamp that came from elsewhere when the wall clock stood at `wall`.
    ///
    /// # Errors
    /// [`Error::ClockAhead`] if it is more than `tolerance` ahead of `wall`. The clock is then unchanged.
    pub fn observe(&mut self, seen: Timestamp, wall: Duration, tolerance: Duration) -> Result<(), Error> {
        let limit = Timestamp::from_wall(wall.saturating_add(tolerance)).millis;
        if seen.millis > limit {
            return Err(Error::ClockAhead { by_ms: seen.millis - Timestamp::from_wall(wall).millis });
        }
        self.last = self.last.max(seen);
        Ok(())
    }

    /// The greatest timestamp that this clock has given or observed.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn timestamps_grow_while_the_wall_clock_stands_jumps_back_or_forward() {
        let mut clock = HybridClock::new();
        let mut last = Timestamp::default();
        for wall in [5, 5, 5, 3, 0, 9, 9, 8, 10] {
            let now = clock.now(ms(wall));
            assert!(now > last && now.millis >= wall);
            last = now;
        }
        assert_eq!(last, Timestamp { millis: 10, logical: 0 });
    }

    #[test]
    fn what_is_observed_is_passed_and_what_is_far_ahead_is_refused() {
        let mut clock = HybridClock::new();
        let seen = Timestamp { millis: 150, logical: 7 };
        assert_eq!(clock.observe(seen, ms(100), ms(50)), Ok(()));
        assert_eq!(clock.now(ms(100)), Timestamp { millis: 150, logical: 8 });
        let before = clock.clone();
        let far = Timestamp { millis: 151, logical: 0 };
        assert_eq!(clock.observe(far, ms(100), ms(50)), Err(Error::ClockAhead { by_ms: 51 }));
        assert_eq!(clock, before);
    }

    #[test]
    fn a_counter_that_is_used_up_borrows_a_millisecond() {
        let full = Timestamp { millis: 7, logical: u32::MAX };
        assert_eq!(full.next(), Timestamp { millis: 8, logical: 0 });
        let last = Timestamp { millis: u64::MAX, logical: u32::MAX };
        assert_eq!(last.next(), last);
    }
}
