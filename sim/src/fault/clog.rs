//! Swizzle-clog: the links of a random set of hosts stop one by one, and are released in another random order.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Step, Timeline, ms, names};
use crate::history::Host;
use crate::network::{Effect, Harm, Scope};

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clog {
    /// The hosts in the order in which their links stop.
    stop: Vec<Host>,
    /// The same in the order in which they are released.
    release: Vec<Host>,
}

pub(super) const CLASSES: &[Class] = &[Class {
    name: "clog",
    about: "hosts lose all their links one by one, and get them back in another order",
    moves: false,
    draw: |rng, stage| {
        let mut stop = stage.hosts.clone();
        stop.shuffle(rng);
        stop.truncate(rng.random_range(1..=stop.len()));
        let mut release = stop.clone();
        release.shuffle(rng);
        (Fault::Clog(Clog { stop, release }), lasts(rng))
    },
}];

fn lasts(rng: &mut StdRng) -> Duration {
    ms(rng, 1000..=15_000)
}

impl Family for Clog {
    fn class(&self) -> &'static str {
        "clog"
    }

    fn what(&self) -> String {
        format!("{} stop one by one, and go on as {}", names(self.stop.clone()), names(self.release.clone()))
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let mut stopped: Vec<Host> = Vec::new();
        let effects = |stopped: &[Host]| {
            let clogged = stopped.iter().map(|host| Effect { scope: Scope::Around(*host), harm: Harm::Cut });
            Step::Links(clogged.collect())
        };
        let pause = lasts / (self.stop.len() as u32 * 2).max(1);
        let mut timeline = Timeline::new();
        for (i, host) in self.stop.iter().enumerate() {
            stopped.push(*host);
            timeline.push((pause * i as u32, effects(&stopped)));
        }
        for (i, host) in self.release.iter().enumerate() {
            stopped.retain(|other| other != host);
            timeline.push((pause * (self.stop.len() + i) as u32, effects(&stopped)));
        }
        timeline.push((lasts, Step::Links(Vec::new())));
        timeline
    }

    fn disturbs(&self) -> bool {
        true
    }

    fn hosts(&self) -> Vec<Host> {
        self.stop.clone()
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        let rest = |hosts: &[Host]| hosts.iter().copied().filter(|host| !gone(*host)).collect::<Vec<_>>();
        let (stop, release) = (rest(&self.stop), rest(&self.release));
        (!stop.is_empty()).then_some(Fault::Clog(Self { stop, release }))
    }
}
