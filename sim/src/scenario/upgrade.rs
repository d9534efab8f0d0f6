//! A rolling upgrade: all nodes are of the build before, and each in turn is started again as one of this build.

use rand::rngs::StdRng;

use super::{Scenario, rolling};
use crate::case::Act;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "upgrade",
    about: "every node in turn is replaced by one of the next version of the protocol, under load",
    draw,
};

fn draw(rng: &mut StdRng, seed: u64) -> (Settings, Vec<Act>) {
    let (settings, acts) = (rolling::SCENARIO.draw)(rng, seed);
    (Settings { upgrade: true, ..settings }, acts)
}
