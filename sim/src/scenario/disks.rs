//! The stores are on disk, whatever else happens: a random mix of faults, see [`mix`].

use rand::rngs::StdRng;

use super::{Scenario, mix};
use crate::case::Act;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario =
    Scenario { name: "disks", about: "a random mix of faults at once, with the stores on disk", draw };

fn draw(rng: &mut StdRng, seed: u64) -> (Settings, Vec<Act>) {
    let (settings, acts) = (mix::SCENARIO.draw)(rng, seed);
    (Settings { disk: true, durable: true, ..settings }, acts)
}
