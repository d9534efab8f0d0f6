//! Links are cut, in one of the shapes in which networks break.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Link, Stage, Step, Timeline, ms, names};
use crate::history::Host;
use crate::network::{Effect, Harm, Scope};
use crate::text::links;

/// The shape of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Shape {
    /// One node is alone.
    One,
    /// Fewer than half are cut off, without the first seed.
    Minority,
    /// More than half are cut off from the first seed.
    Majority,
    /// Half of them are.
    Halves,
    /// Two halves that only one node sees both of.
    Bridge,
    /// Each sees its neighbours in a ring: each sees a majority, and no two see the same one.
    Ring,
    /// Some are not heard by the others, and hear them.
    OneWay,
    /// Two sides whose links come and go.
    Flapping,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    shape: Shape,
    /// The links that are cut, by direction.
    #[serde(with = "links")]
    cut: Vec<Link>,
    /// Cut for so many milliseconds, whole for as long, and so on; 0 if they are cut throughout.
    period_ms: u64,
}

pub(super) const CLASSES: &[Class] = &[
    class("partition-one", "one node is cut off", |rng, stage| drawn(Shape::One, rng, stage)),
    class("partition-minority", "fewer than half are cut off", |rng, stage| drawn(Shape::Minority, rng, stage)),
    class("partition-majority", "more than half are cut off from the seed", |rng, stage| {
        drawn(Shape::Majority, rng, stage)
    }),
    class("partition-halves", "one half is cut off from the other", |rng, stage| drawn(Shape::Halves, rng, stage)),
    class("partition-bridge", "two halves that one node sees both of", |rng, stage| drawn(Shape::Bridge, rng, stage)),
    class("partition-ring", "each node sees another majority", |rng, stage| drawn(Shape::Ring, rng, stage)),
    class("partition-one-way", "some hear the others and are not heard", |rng, stage| drawn(Shape::OneWay, rng, stage)),
    class("partition-flapping", "links between two sides come and go", |rng, stage| drawn(Shape::Flapping, rng, stage)),
];

const fn class(name: &'static str, about: &'static str, draw: fn(&mut StdRng, &Stage) -> (Fault, Duration)) -> Class {
    Class { name, about, moves: false, draw }
}

fn drawn(shape: Shape, rng: &mut StdRng, stage: &Stage) -> (Fault, Duration) {
    let mut hosts: Vec<Host> = stage.hosts.iter().chain(&stage.late).copied().collect();
    hosts.shuffle(rng);
    let all = hosts.len();
    let few = (all - 1) / 2;
    let is_first = |host: &Host| *host == Host(0);
    let cut = match shape {
        Shape::One => both(&hosts[..1], &hosts[1..]),
        Shape::Minority | Shape::Majority => {
            // The first seed comes last, and so stays with the others.
            hosts.sort_by_key(is_first);
            let size = if shape == Shape::Minority { rng.random_range(1..=few.max(1)) } else { all - few.max(1) };
            both(&hosts[..size.min(all - 1)], &hosts[size.min(all - 1)..])
        }
        Shape::Halves | Shape::Flapping => both(&hosts[..all / 2], &hosts[all / 2..]),
        Shape::Bridge => both(&hosts[1..=(all - 1) / 2], &hosts[(all - 1) / 2 + 1..]),
        Shape::Ring => ring(&hosts),
        Shape::OneWay => {
            let size = rng.random_range(1..all);
            across(&hosts[..size], &hosts[size..])
        }
    };
    let period_ms = if shape == Shape::Flapping { rng.random_range(50..2000) } else { 0 };
    // From shorter than a suspicion lasts to well past detection.
    (Fault::Partition(Partition { shape, cut, period_ms }), ms(rng, 500..=15_000))
}

fn across(from: &[Host], to: &[Host]) -> Vec<Link> {
    from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))).collect()
}

fn both(here: &[Host], there: &[Host]) -> Vec<Link> {
    [across(here, there), across(there, here)].concat()
}

/// Each sees as many neighbours on both sides as make up a majority with it.
fn ring(hosts: &[Host]) -> Vec<Link> {
    let all = hosts.len();
    let reach = (all / 2).div_ceil(2).max(1);
    let distance = |a: usize, b: usize| (a.abs_diff(b)).min(all - a.abs_diff(b));
    let pairs = (0..all).flat_map(|a| (0..all).map(move |b| (a, b)));
    let cut: Vec<Link> = pairs.filter(|(a, b)| distance(*a, *b) > reach).map(|(a, b)| (hosts[a], hosts[b])).collect();
    // Three or fewer are all neighbours: then one pair does not see each other.
    if cut.is_empty() { both(&hosts[..1], &hosts[1..2]) } else { cut }
}

impl Family for Partition {
    fn class(&self) -> &'static str {
        match self.shape {
            Shape::One => "partition-one",
            Shape::Minority => "partition-minority",
            Shape::Majority => "partition-majority",
            Shape::Halves => "partition-halves",
            Shape::Bridge => "partition-bridge",
            Shape::Ring => "partition-ring",
            Shape::OneWay => "partition-one-way",
            Shape::Flapping => "partition-flapping",
        }
    }

    fn what(&self) -> String {
        let mut by_source: Vec<(Host, Vec<Host>)> = Vec::new();
        for (from, to) in &self.cut {
            match by_source.iter_mut().find(|(source, _)| source == from) {
                Some((_, targets)) => targets.push(*to),
                None => by_source.push((*from, vec![*to])),
            }
        }
        let cuts: Vec<_> = by_source.into_iter().map(|(from, to)| format!("{from} -/-> {}", names(to))).collect();
        let flaps = if self.period_ms > 0 { format!(", every {} ms", self.period_ms) } else { String::new() };
        format!("{}{flaps}", cuts.join(", "))
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let cut = Step::Links(vec![Effect { scope: Scope::Links(self.cut.clone()), harm: Harm::Cut }]);
        let whole = Step::Links(Vec::new());
        let mut timeline = vec![(Duration::ZERO, cut.clone())];
        if let Some(period) = Some(Duration::from_millis(self.period_ms)).filter(|period| !period.is_zero()) {
            let times = std::iter::successors(Some(period), |at| Some(*at + period)).take_while(|at| *at < lasts);
            timeline.extend(times.zip([&whole, &cut].into_iter().cycle()).map(|(at, step)| (at, step.clone())));
        }
        timeline.push((lasts, whole));
        timeline
    }

    fn disturbs(&self) -> bool {
        true
    }

    fn hosts(&self) -> Vec<Host> {
        let all: BTreeSet<Host> = self.cut.iter().flat_map(|(from, to)| [*from, *to]).collect();
        all.into_iter().collect()
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        let cut: Vec<Link> = self.cut.iter().copied().filter(|(from, to)| !gone(*from) && !gone(*to)).collect();
        (!cut.is_empty()).then(|| Fault::Partition(Self { cut, ..self.clone() }))
    }
}
