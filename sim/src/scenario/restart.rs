//! A node is killed and started again faster than it can be suspected to the end, without memory, and that repeatedly.
//!
//! As long as it is the same node, it can be as often as one likes: only its replicas are lost. Before it is another's
//! turn, the stores settle.

use std::time::Duration;

use rand::RngExt as _;

use super::Scenario;
use crate::history::Host;
use crate::settings::Settings;
use crate::world::World;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "restart",
    about: "a node is killed and started again within the suspicion timeout, repeatedly and without memory",
    settings: Settings::drawn,
    script,
};

fn script(world: &mut World) {
    world.form();
    let hosts = world.settings().hosts;
    let victims = world.rng().random_range(1..=2);
    for _ in 0..victims {
        let victim = Host(world.rng().random_range(0..hosts));
        let times = world.rng().random_range(1..=4);
        for _ in 0..times {
            // Sometimes before it has even joined again.
            let between = world.rng().random_range(100..4000);
            world.run_for(Duration::from_millis(between));
            let wipe = world.rng().random();
            world.crash(victim, wipe);
            let away = world.rng().random_range(10..1500);
            world.run_for(Duration::from_millis(away));
            world.bounce(victim);
        }
        world.run_for(Duration::from_millis(100));
        world.settle();
    }
    world.finish();
}
