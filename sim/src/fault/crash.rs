//! A process is killed: once, with its disk, or again and again.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Stage, Step, Timeline, ms};
use crate::history::Host;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crash {
    host: Host,
    /// Whether its disk is lost too.
    wipe: bool,
    /// After its first crash, so often it is started and killed again before it stays.
    again: u8,
}

impl Crash {
    /// One crash; the process is started again when the fault ends.
    #[must_use]
    pub fn once(host: Host, wipe: bool) -> Fault {
        Fault::Crash(Self { host, wipe, again: 0 })
    }

    /// So many crashes, evenly over the time of the fault.
    #[must_use]
    pub fn storm(host: Host, wipe: bool, times: u8) -> Fault {
        Fault::Crash(Self { host, wipe, again: times.saturating_sub(1) })
    }
}

pub(super) const CLASSES: &[Class] = &[
    class("crash", "a process is killed, and started again", |rng, stage| {
        (Crash::once(stage.mortal, false), away(rng))
    }),
    class("crash-wiped", "a process is killed, its disk is lost, and it is started again", |rng, stage| {
        (Crash::once(stage.mortal, true), away(rng))
    }),
    class("restart-storm", "a process is killed and started again and again", |rng, stage| {
        let times = rng.random_range(2..=5);
        (Crash::storm(stage.mortal, rng.random(), times), ms(rng, 1000..=15_000))
    }),
];

const fn class(name: &'static str, about: &'static str, draw: fn(&mut StdRng, &Stage) -> (Fault, Duration)) -> Class {
    Class { name, about, moves: true, draw }
}

/// Shorter than a suspicion lasts, or longer than detection takes, so that shards move.
fn away(rng: &mut StdRng) -> Duration {
    if rng.random() { ms(rng, 10..=1500) } else { ms(rng, 5000..=12_000) }
}

impl Family for Crash {
    fn class(&self) -> &'static str {
        match (self.again, self.wipe) {
            (0, false) => "crash",
            (0, true) => "crash-wiped",
            _ => "restart-storm",
        }
    }

    fn what(&self) -> String {
        let times = if self.again > 0 { format!(" {} times", self.again + 1) } else { String::new() };
        let disk = if self.wipe { ", its disk is lost" } else { "" };
        format!("{} is killed{times}{disk}", self.host)
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        // Away, there, away, there: as long each time, and at last there.
        let part = lasts / (u32::from(self.again) * 2 + 1);
        let mut timeline = Timeline::new();
        for i in 0..=u32::from(self.again) {
            timeline.push((part * (2 * i), Step::Crash(self.host, self.wipe)));
            let there = if i == u32::from(self.again) { lasts } else { part * (2 * i + 1) };
            timeline.push((there, Step::Start(self.host)));
        }
        timeline
    }

    fn disturbs(&self) -> bool {
        false
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Crash(self.clone()))
    }
}
