//! How the wall clocks of a world went, gathered from a history for the checkers of what they decide.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Event, History, Host};

/// A moment of a wall clock, in milliseconds.
pub(super) type Wall = i64;

/// The steps in which time passes, and what is rounded.
pub(super) const TICKS_MS: Wall = 20;

/// How the wall clocks went.
pub(super) struct Clocks(BTreeMap<Host, Vec<Span>>);

/// From a time on, a clock is so far off and gains so much.
#[derive(Clone, Copy)]
struct Span {
    from: Duration,
    skew_ms: i64,
    drift_ppm: i64,
}

impl Span {
    fn at(&self, time: Duration) -> Wall {
        let ms = |time: Duration| time.as_millis() as i64;
        ms(time) + self.skew_ms + (ms(time) - ms(self.from)) * self.drift_ppm / 1_000_000
    }
}

impl Clocks {
    pub(super) fn of(history: &History) -> Self {
        let right = Span { from: Duration::ZERO, skew_ms: 0, drift_ppm: 0 };
        let mut clocks: BTreeMap<Host, Vec<Span>> = (0..history.hosts).map(|host| (Host(host), vec![right])).collect();
        for entry in &history.entries {
            if let Event::Clock { host, skew_ms, drift_ppm } = entry.event {
                let span = Span { from: entry.at, skew_ms, drift_ppm };
                clocks.entry(host).or_insert_with(|| vec![right]).push(span);
            }
        }
        Self(clocks)
    }

    /// The least and the greatest that a host's clock showed between two times.
    pub(super) fn of_host(&self, host: Host, from: Duration, to: Duration) -> (Wall, Wall) {
        let spans = self.0.get(&host).map(Vec::as_slice).unwrap_or_default();
        let ends = spans.iter().skip(1).map(|next| next.from).chain([Duration::MAX]);
        let lasting = spans.iter().zip(ends).filter(|(span, end)| span.from <= to && *end >= from);
        let shown = lasting.flat_map(|(span, end)| [span.at(span.from.max(from)), span.at(end.min(to))]);
        shown.fold((Wall::MAX, Wall::MIN), |(least, most), wall| (least.min(wall), most.max(wall)))
    }

    /// The greatest that any clock showed.
    pub(super) fn latest(&self, from: Duration, to: Duration) -> Wall {
        self.0.keys().map(|host| self.of_host(*host, from, to).1).max().unwrap_or(Wall::MIN)
    }

    /// The least that any clock showed.
    pub(super) fn earliest(&self, from: Duration, to: Duration) -> Wall {
        self.0.keys().map(|host| self.of_host(*host, from, to).0).min().unwrap_or(Wall::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::at;

    #[test]
    fn a_clock_that_drifts_passes_the_time_sooner() {
        let drift = at(100, Event::Clock { host: Host(0), skew_ms: 0, drift_ppm: 100_000 });
        let clocks = Clocks::of(&crate::checker::by_hand(vec![drift]));
        let second = Duration::from_secs(1);
        assert_eq!(clocks.of_host(Host(0), second, second), (1090, 1090));
        assert_eq!(clocks.of_host(Host(0), Duration::ZERO, second), (0, 1090));
        assert_eq!(
            (clocks.latest(Duration::ZERO, second), clocks.of_host(Host(1), second, second)),
            (1090, (1000, 1000))
        );
        assert_eq!(clocks.earliest(second, second), 1000);
    }
}
