//! Links that are there, and bad: they lose datagrams, deliver them late, twice, out of order, or damaged.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Link, Stage, Step, Timeline, ms};
use crate::history::Host;
use crate::network::{Effect, Harm, Scope};
use crate::text::links;

/// The most datagrams that may be lost while members are still expected to see each other in time.
const LIGHT_LOSS: f64 = 0.02;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weather {
    harm: Harm,
    /// The links that are bad.
    #[serde(with = "links")]
    links: Vec<Link>,
}

pub(super) const CLASSES: &[Class] = &[
    class("loss", "datagrams are lost", |rng, stage| {
        // Light or heavy: both kinds find faults of their own.
        let share = if rng.random() { rng.random_range(0.001..LIGHT_LOSS) } else { rng.random_range(0.05..0.4) };
        drawn(Harm::Loss { share }, rng, stage)
    }),
    class("delay", "datagrams are late", |rng, stage| {
        let ms = rng.random_range(5..=400);
        drawn(Harm::Delay { ms, jitter_ms: 0 }, rng, stage)
    }),
    class("jitter", "datagrams are late, each in its own way", |rng, stage| {
        let jitter_ms = rng.random_range(5..=200);
        drawn(Harm::Delay { ms: 0, jitter_ms }, rng, stage)
    }),
    class("duplication", "datagrams arrive twice, the second time late", |rng, stage| {
        let (share, ms) = (rng.random_range(0.01..0.5), rng.random_range(1..=2000));
        drawn(Harm::Duplication { share, ms }, rng, stage)
    }),
    class("reordering", "some datagrams are overtaken by others", |rng, stage| {
        let (share, ms) = (rng.random_range(0.01..0.5), rng.random_range(1..=100));
        drawn(Harm::Reordering { share, ms }, rng, stage)
    }),
    class("corruption", "bytes of datagrams are damaged", |rng, stage| {
        let share = rng.random_range(0.001..0.2);
        drawn(Harm::Corruption { share }, rng, stage)
    }),
];

const fn class(name: &'static str, about: &'static str, draw: fn(&mut StdRng, &Stage) -> (Fault, Duration)) -> Class {
    Class { name, about, moves: false, draw }
}

fn drawn(harm: Harm, rng: &mut StdRng, stage: &Stage) -> (Fault, Duration) {
    let hosts: Vec<Host> = stage.hosts.iter().chain(&stage.late).copied().collect();
    let all = hosts.iter().flat_map(|a| hosts.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
    // Everywhere, around one host, or here and there.
    let middle = stage.any(rng);
    let links: Vec<Link> = match rng.random_range(0..3) {
        0 => all.collect(),
        1 => all.filter(|(a, b)| *a == middle || *b == middle).collect(),
        _ => all.filter(|(a, _)| *a == middle || rng.random_bool(0.3)).collect(),
    };
    (Fault::Weather(Weather { harm, links }), ms(rng, 1000..=20_000))
}

impl Family for Weather {
    fn class(&self) -> &'static str {
        match self.harm {
            Harm::Cut => "partition-one-way",
            Harm::Loss { .. } => "loss",
            Harm::Delay { jitter_ms: 0, .. } => "delay",
            Harm::Delay { .. } => "jitter",
            Harm::Duplication { .. } => "duplication",
            Harm::Reordering { .. } => "reordering",
            Harm::Corruption { .. } => "corruption",
        }
    }

    fn what(&self) -> String {
        format!("{} on {} links", self.harm, self.links.len())
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let effect = Effect { scope: Scope::Links(self.links.clone()), harm: self.harm };
        vec![(Duration::ZERO, Step::Links(vec![effect])), (lasts, Step::Links(Vec::new()))]
    }

    fn disturbs(&self) -> bool {
        !matches!(self.harm, Harm::Loss { share } | Harm::Corruption { share } if share <= LIGHT_LOSS)
    }

    fn hosts(&self) -> Vec<Host> {
        let all: BTreeSet<Host> = self.links.iter().flat_map(|(from, to)| [*from, *to]).collect();
        all.into_iter().collect()
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        let links: Vec<Link> = self.links.iter().copied().filter(|(from, to)| !gone(*from) && !gone(*to)).collect();
        (!links.is_empty()).then_some(Fault::Weather(Self { links, harm: self.harm }))
    }
}
