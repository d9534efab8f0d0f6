//! All nodes, or several, are killed at the same moment and started again in any order. Their stores are on disk, so nothing
//! that was acknowledged is lost, and the first read that is answered is fresh.

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Scenario, ms};
use crate::case::Act;
use crate::fault::Outage;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "outage",
    about: "all nodes, or several, are killed at once and started again; their stores are on disk",
    draw,
};

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let settings = Settings { disk: true, durable: true, ..Settings::drawn(rng) };
    let acts = (0..rng.random_range(1..=3)).map(|_| {
        let outage = Outage::drawn(rng, settings.early().collect());
        // Sooner than anybody is suspected, or long enough that those who live go on without the others.
        let lasts = if rng.random() { ms(rng, 10..1500) } else { ms(rng, 3000..12_000) };
        Act::of(ms(rng, 500..4000), lasts, outage).and_then(ms(rng, 1000..6000))
    });
    let acts = acts.collect();
    (settings, acts)
}
