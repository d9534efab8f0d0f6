//! Every node in turn leaves or is killed, and is started again; the next follows when the stores have settled.

use std::time::Duration;

use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use super::Scenario;
use crate::history::Host;
use crate::settings::Settings;
use crate::world::World;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "rolling",
    about: "every node in turn leaves or is killed and is started again, under load",
    settings: Settings::drawn,
    script,
};

/// How long a node may take to hand over what it has when it leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

fn script(world: &mut World) {
    world.form();
    let mut hosts: Vec<Host> = world.hosts().collect();
    hosts.shuffle(world.rng());
    for host in hosts {
        let before = world.rng().random_range(100..1000);
        world.run_for(Duration::from_millis(before));
        if world.rng().random() {
            world.leave(host, LEAVE_WITHIN);
        } else {
            world.crash(host, false);
        }
        let away = world.rng().random_range(10..4000);
        world.run_for(Duration::from_millis(away));
        world.bounce(host);
        world.run_for(Duration::from_millis(100));
        if !world.settle() {
            // To go on would destroy more than the store promises to survive.
            break;
        }
    }
    world.finish();
}
