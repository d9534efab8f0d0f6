//! 5 to 10 nodes and one seed node, over links of 20 ms: all know each other within 5 s.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::Scenario;
use crate::settings::{MAX_HOSTS, Settings};
use crate::world::World;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "formation",
    about: "5 to 10 nodes find each other through one seed node within 5 s",
    settings,
    script,
};

fn settings(rng: &mut StdRng) -> Settings {
    let hosts = rng.random_range(5..=MAX_HOSTS);
    // All at once, or one after the other in any order, the seed node perhaps last.
    let launch_within = Duration::from_millis(if rng.random() { 0 } else { 1000 });
    Settings { hosts, seeds: 1, launch_within, zones: rng.random_range(1..=3), ..Settings::quiet() }
}

fn script(world: &mut World) {
    world.form();
    world.run_for(Duration::from_secs(3));
    world.finish();
}
