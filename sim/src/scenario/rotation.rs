//! The secret is changed again and again, whatever else happens: a random mix of faults, see [`mix`].

use rand::rngs::StdRng;

use super::{Scenario, mix};
use crate::case::Act;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "rotation",
    about: "the cluster's secret is changed again and again during a random mix of faults",
    draw,
};

fn draw(rng: &mut StdRng, seed: u64) -> (Settings, Vec<Act>) {
    let (settings, acts) = (mix::SCENARIO.draw)(rng, seed);
    (Settings { rotating: true, ..settings }, acts)
}
