//! 5 to 10 nodes and one seed node, over links of 20 ms: all know each other within 5 s.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::Scenario;
use crate::case::Act;
use crate::settings::Settings;

/// The most nodes that find each other.
const MAX_NODES: u8 = 10;

/// See the [module](self).
pub const SCENARIO: Scenario =
    Scenario { name: "formation", about: "5 to 10 nodes find each other through one seed node within 5 s", draw };

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let hosts = rng.random_range(5..=MAX_NODES);
    // All at once, or one after the other in any order, the seed node perhaps last.
    let launch_within = Duration::from_millis(if rng.random() { 0 } else { 1000 });
    let settings = Settings { hosts, seeds: 1, launch_within, zones: rng.random_range(1..=3), ..Settings::quiet() };
    (settings, vec![Act::default().and_then(Duration::from_secs(3))])
}
