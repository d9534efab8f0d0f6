//! The members change on purpose: one leaves and comes back, a new one joins, or one takes another share.

use std::time::Duration;

use polity::cluster::Weight;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Step, Timeline, ms};
use crate::history::Host;

/// A node is asked to leave, and is started again when the fault ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leave {
    host: Host,
    /// How long it may take to hand over what it has.
    within_ms: u64,
}

impl Leave {
    /// See [`Leave`].
    #[must_use]
    pub fn of(host: Host, within: Duration) -> Fault {
        Fault::Leave(Self { host, within_ms: within.as_millis() as u64 })
    }
}

/// A node joins that was not there before, and stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    host: Host,
}

/// A node has another weight for some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weigh {
    host: Host,
    weight: u16,
}

/// The weights that are drawn: from next to nothing to most of all.
const WEIGHTS: [u16; 5] = [1, 10, 30, 300, 1_000];

pub(super) const CLASSES: &[Class] = &[
    Class {
        name: "leave",
        about: "a node hands over and leaves, and comes back later",
        moves: true,
        draw: |rng, stage| {
            let within = ms(rng, 1000..=5000);
            (Leave::of(stage.mortal, within), ms(rng, 2000..=15_000))
        },
    },
    Class {
        name: "join",
        about: "a node joins that was not there before",
        moves: true,
        draw: |rng, stage| {
            let host = match stage.late.len() {
                0 => stage.mortal,
                late => stage.late[rng.random_range(0..late)],
            };
            (Fault::Join(Join { host }), ms(rng, 100..=2000))
        },
    },
    Class {
        name: "weigh",
        about: "a node takes another share of the shards, and its old one again",
        moves: true,
        draw: |rng, stage| {
            let (host, weight) = (stage.any(rng), WEIGHTS[rng.random_range(0..WEIGHTS.len())]);
            (Fault::Weigh(Weigh { host, weight }), ms(rng, 500..=10_000))
        },
    },
];

impl Family for Leave {
    fn class(&self) -> &'static str {
        "leave"
    }

    fn what(&self) -> String {
        format!("{} leaves within {} ms, and comes back", self.host, self.within_ms)
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let leave = Step::Leave(self.host, Duration::from_millis(self.within_ms));
        vec![(Duration::ZERO, leave), (lasts, Step::Start(self.host))]
    }

    fn disturbs(&self) -> bool {
        false
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Leave(self.clone()))
    }
}

impl Family for Join {
    fn class(&self) -> &'static str {
        "join"
    }

    fn what(&self) -> String {
        format!("{} joins", self.host)
    }

    fn timeline(&self, _lasts: Duration) -> Timeline {
        vec![(Duration::ZERO, Step::Start(self.host))]
    }

    fn disturbs(&self) -> bool {
        false
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Join(self.clone()))
    }
}

impl Family for Weigh {
    fn class(&self) -> &'static str {
        "weigh"
    }

    fn what(&self) -> String {
        format!("{} has weight {} instead of {}", self.host, self.weight, Weight::default().get())
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let before = Weight::default().get();
        vec![(Duration::ZERO, Step::Weigh(self.host, self.weight)), (lasts, Step::Weigh(self.host, before))]
    }

    fn disturbs(&self) -> bool {
        false
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Weigh(self.clone()))
    }
}
