//! One node is killed while clients work; the others see it Down in time and go on; later it is started again.

use std::time::Duration;

use rand::RngExt as _;

use super::Scenario;
use crate::history::Host;
use crate::settings::Settings;
use crate::world::World;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "kill",
    about: "one node is killed under load, is seen down in time, and comes back empty",
    settings: Settings::drawn,
    script,
};

fn script(world: &mut World) {
    world.form();
    let before = world.rng().random_range(500..3000);
    world.run_for(Duration::from_millis(before));

    let hosts = world.settings().hosts;
    let victim = Host(world.rng().random_range(0..hosts));
    let wipe = world.rng().random();
    world.crash(victim, wipe);
    // Longer than detection takes, so that its shards are moved.
    let dead = world.rng().random_range(6000..12_000);
    world.run_for(Duration::from_millis(dead));

    world.bounce(victim);
    let after = world.rng().random_range(1000..6000);
    world.run_for(Duration::from_millis(after));
    world.finish();
}
