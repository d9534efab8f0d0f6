//! A wall clock is wrong: it jumps, drifts, or strobes between two times. Monotonic clocks are never touched.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Stage, Step, Timeline, ms};
use crate::history::Host;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockFault {
    host: Host,
    skew_ms: i64,
    drift_ppm: i64,
    /// It is wrong for so many milliseconds, right for as long, and so on; 0 if it is wrong throughout.
    strobe_ms: u64,
}

/// The farthest jump: an hour, as by a wrong time zone.
const MAX_JUMP_MS: i64 = 3_600_000;
/// The fastest drift: a second in ten.
const MAX_DRIFT_PPM: i64 = 100_000;

pub(super) const CLASSES: &[Class] = &[
    class("clock-jump", "a wall clock jumps by up to an hour", |rng, stage| {
        let fault = ClockFault { host: stage.any(rng), skew_ms: off(rng, MAX_JUMP_MS), drift_ppm: 0, strobe_ms: 0 };
        (Fault::Clock(fault), ms(rng, 1000..=20_000))
    }),
    class("clock-drift", "a wall clock runs up to a tenth too fast or slow", |rng, stage| {
        let drift_ppm = off(rng, MAX_DRIFT_PPM);
        (Fault::Clock(ClockFault { host: stage.any(rng), skew_ms: 0, drift_ppm, strobe_ms: 0 }), ms(rng, 5000..=20_000))
    }),
    class("clock-strobe", "a wall clock jumps to and fro", |rng, stage| {
        let (skew_ms, strobe_ms) = (off(rng, 10_000), rng.random_range(5..=500));
        (Fault::Clock(ClockFault { host: stage.any(rng), skew_ms, drift_ppm: 0, strobe_ms }), ms(rng, 1000..=10_000))
    }),
];

const fn class(name: &'static str, about: &'static str, draw: fn(&mut StdRng, &Stage) -> (Fault, Duration)) -> Class {
    Class { name, about, moves: false, draw }
}

/// Up to so much in either direction, small distances as likely as large ones; never nothing.
fn off(rng: &mut StdRng, most: i64) -> i64 {
    let far = (most as f64).powf(rng.random_range(0.0..1.0)) as i64;
    far.max(1) * if rng.random() { 1 } else { -1 }
}

impl Family for ClockFault {
    fn class(&self) -> &'static str {
        match (self.strobe_ms, self.drift_ppm) {
            (0, 0) => "clock-jump",
            (0, _) => "clock-drift",
            _ => "clock-strobe",
        }
    }

    fn what(&self) -> String {
        let Self { host, skew_ms, drift_ppm, strobe_ms } = self;
        match (strobe_ms, drift_ppm) {
            (0, 0) => format!("the clock of {host} is {skew_ms} ms off"),
            (0, _) => format!("the clock of {host} gains {drift_ppm} ppm"),
            _ => format!("the clock of {host} jumps by {skew_ms} ms and back every {strobe_ms} ms"),
        }
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let wrong = Step::Clock(self.host, self.skew_ms, self.drift_ppm);
        let right = Step::Clock(self.host, 0, 0);
        let mut timeline = vec![(Duration::ZERO, wrong.clone())];
        if let Some(strobe) = Some(Duration::from_millis(self.strobe_ms)).filter(|strobe| !strobe.is_zero()) {
            let times = std::iter::successors(Some(strobe), |at| Some(*at + strobe)).take_while(|at| *at < lasts);
            timeline.extend(times.zip([&right, &wrong].into_iter().cycle()).map(|(at, step)| (at, step.clone())));
        }
        timeline.push((lasts, right));
        timeline
    }

    fn disturbs(&self) -> bool {
        false
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Clock(self.clone()))
    }
}
