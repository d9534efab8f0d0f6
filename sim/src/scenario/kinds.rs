//! Keys of buckets of every kind, whatever else happens: a random mix of faults, see [`mix`].

use rand::rngs::StdRng;

use super::{Scenario, mix};
use crate::case::Act;
use crate::settings::Settings;
use crate::workload;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "kinds",
    about: "a random mix of faults at once, while last values, maps, sets and keys of any kind are written at all levels",
    draw,
};

fn draw(rng: &mut StdRng, seed: u64) -> (Settings, Vec<Act>) {
    let (settings, acts) = (mix::SCENARIO.draw)(rng, seed);
    let workloads = vec![workload::kinds::WORKLOAD.name.to_owned()];
    (Settings { workloads, ..settings }.bounded(), acts)
}
