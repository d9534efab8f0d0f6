//! One node is killed while clients work; the others see it Down in time and go on; later it is started again.

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Scenario, host, ms};
use crate::case::Act;
use crate::fault::Crash;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario =
    Scenario { name: "kill", about: "one node is killed under load, is seen down in time, and comes back empty", draw };

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let settings = Settings::drawn(rng);
    let crash = Crash::once(host(rng, settings.hosts), rng.random());
    // Longer than detection takes, so that its shards are moved.
    let dead = ms(rng, 6000..12_000);
    let act = Act::of(ms(rng, 500..3000), dead, crash).and_then(ms(rng, 1000..6000));
    (settings, vec![act])
}
