//! The scenarios, one a file: how a world is drawn, and what befalls it.
//!
//! To add one, write its file and name it in [`ALL`].

pub mod alone;
pub mod away;
pub mod disks;
pub mod formation;
pub mod kill;
pub mod kinds;
pub mod mix;
pub mod outage;
pub mod pairs;
pub mod partition;
pub mod restart;
pub mod rolling;
pub mod rotation;
pub mod upgrade;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::case::{Act, Case, Timed};
use crate::fault::{Class, Stage};
use crate::history::Host;
use crate::settings::Settings;
use crate::workload::{self, Workload, seed_of};

/// What a world goes through.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What happens, in one sentence.
    pub about: &'static str,
    /// Draws a world and what befalls it. The seed is given too, for scenarios that go through all of something.
    pub draw: fn(&mut StdRng, u64) -> (Settings, Vec<Act>),
}

impl Scenario {
    /// The case of a seed.
    #[must_use]
    pub fn case(&self, seed: u64) -> Case {
        let mut rng = StdRng::seed_from_u64(seed_of(seed, self.name, 0));
        let (settings, acts) = (self.draw)(&mut rng, seed);
        // Each from a stream of its own: all else is drawn as if there were none of them.
        let settings = (1..).zip(LATER).fold(settings, |settings, (stream, (workload, share))| {
            let is_drawn = StdRng::seed_from_u64(seed_of(seed, self.name, stream)).random_bool(*share);
            // The build before knows no owners, and nodes that have them would refuse it.
            let is_possible = workload.name != workload::owners::WORKLOAD.name || !settings.upgrade;
            if is_drawn && is_possible { settings.and(workload) } else { settings }
        });
        let others = &mut StdRng::seed_from_u64(seed_of(seed, self.name, OTHER_REPLICAS));
        // The build before refuses nodes that have such buckets.
        let has_others = others.random_bool(WITH_OTHER_REPLICAS) && !settings.upgrade;
        let settings = if has_others { settings.with_other_replicas(others) } else { settings };
        Case::new(self.name, seed, settings, acts)
    }
}

/// All scenarios, in the order in which they are listed.
pub const ALL: [Scenario; 14] = [
    formation::SCENARIO,
    kill::SCENARIO,
    partition::SCENARIO,
    restart::SCENARIO,
    rolling::SCENARIO,
    upgrade::SCENARIO,
    rotation::SCENARIO,
    alone::SCENARIO,
    pairs::SCENARIO,
    mix::SCENARIO,
    outage::SCENARIO,
    disks::SCENARIO,
    away::SCENARIO,
    kinds::SCENARIO,
];

/// The workloads that came after the others, and in how many worlds there are.
const LATER: &[(Workload, f64)] = &[
    (workload::owners::WORKLOAD, 0.4),
    (workload::watches::WORKLOAD, 0.2),
    (workload::leases::WORKLOAD, 0.2),
    (workload::deletes::WORKLOAD, 0.3),
    (workload::repeats::WORKLOAD, 0.2),
];

/// The stream from which it is drawn whether some buckets have another number of replicas, and in how many worlds they have.
const OTHER_REPLICAS: u64 = 100;
const WITH_OTHER_REPLICAS: f64 = 0.25;

/// The scenario of a name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.into_iter().find(|scenario| scenario.name == name)
}

/// A time of that many milliseconds.
fn ms(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// One of the first `hosts` hosts.
fn host(rng: &mut StdRng, hosts: u8) -> Host {
    Host(rng.random_range(0..hosts))
}

/// A drawn world for faults of these classes, in which all of them can happen.
fn settings_for(rng: &mut StdRng, classes: &[&Class]) -> Settings {
    let settings = Settings::drawn(rng);
    let joins = classes.iter().any(|class| class.name == "join");
    let durable = settings.durable || classes.iter().any(|class| class.name.starts_with("store"));
    let disk = settings.disk || durable || classes.iter().any(|class| class.name.starts_with("disk"));
    let late = u8::from(joins);
    Settings { hosts: settings.hosts + late, late, disk, durable, ..settings }
}

/// An act in which these classes strike so that they overlap, and in which one host may lose its memory.
fn act_of(rng: &mut StdRng, settings: &Settings, classes: &[&Class]) -> Act {
    let hosts: Vec<Host> = settings.early().collect();
    let mortal = hosts[rng.random_range(0..hosts.len())];
    let stage = Stage { hosts, late: settings.late().collect(), mortal, seeds: settings.seeds };
    let drawn: Vec<_> = classes.iter().map(|class| (class.draw)(rng, &stage)).collect();
    // Whatever lasts the shortest falls into all the others.
    let shortest = drawn.iter().map(|(_, lasts)| *lasts).min().unwrap_or_default();
    let meet = ms(rng, 500..4000);
    let timed = drawn.into_iter().map(|(fault, lasts)| {
        let slack = (lasts - shortest).as_millis() as u64;
        let before = Duration::from_millis(rng.random_range(0..=slack)).min(meet);
        let late = Duration::from_millis(rng.random_range(0..=shortest.as_millis() as u64 / 2));
        Timed { from: meet - before + late, lasts, fault }
    });
    Act::new(timed.collect()).and_then(Duration::from_millis(rng.random_range(0..4000)))
}

/// A class by which the members change.
fn a_move(rng: &mut StdRng) -> &'static Class {
    crate::fault::classes().filter(|class| class.moves).choose(rng).expect("there are some")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_built_and_survives_a_file() {
        for scenario in ALL {
            for seed in 0..100 {
                let case = scenario.case(seed);
                assert_eq!(case, scenario.case(seed));
                assert_eq!(case.settings.problem(), None, "{} {seed}", scenario.name);
                assert_eq!(Case::from_json(&case.to_json()).expect("it is one"), case);
            }
        }
    }

    #[test]
    fn only_one_host_of_an_act_loses_its_memory() {
        use crate::fault::{Fault, Step};
        for case in ALL.iter().flat_map(|scenario| (0..100).map(|seed| scenario.case(seed))) {
            for act in &case.acts {
                // An outage destroys nothing: the stores are on disk then.
                let is_outage = |timed: &&Timed| matches!(timed.fault, Fault::Outage(_));
                assert!(case.settings.durable || !act.faults.iter().any(|timed| is_outage(&timed)));
                let others = act.faults.iter().filter(|timed| !is_outage(timed));
                let steps = others.flat_map(|timed| timed.fault.timeline(timed.lasts));
                let mortal: std::collections::BTreeSet<Host> = steps
                    .filter_map(|(_, step)| match step {
                        Step::Crash(host, _) | Step::Leave(host, _) => Some(host),
                        _ => None,
                    })
                    .collect();
                assert!(mortal.len() <= 1, "{} {}: {mortal:?}", case.scenario, case.seed);
            }
        }
    }
}
