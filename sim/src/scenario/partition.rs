//! Links are cut while clients work: a minority from the rest, one half from the other, or in one direction only.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::Scenario;
use crate::history::Host;
use crate::settings::Settings;
use crate::world::World;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "partition",
    about: "a minority, a half, or one direction is cut off under load, and heals",
    settings,
    script,
};

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Fewer than half are cut off from the others.
    Minority,
    /// Half of them are.
    Halves,
    /// Some are not heard by the others, and hear them.
    OneWay,
}

fn settings(rng: &mut StdRng) -> Settings {
    Settings { hosts: rng.random_range(4..=7), ..Settings::drawn(rng) }
}

fn script(world: &mut World) {
    world.form();
    let rounds = world.rng().random_range(1..=2);
    for _ in 0..rounds {
        let before = world.rng().random_range(500..3000);
        world.run_for(Duration::from_millis(before));
        cut(world);
        // From shorter than suspicion lasts to well past detection.
        let apart = world.rng().random_range(500..15_000);
        world.run_for(Duration::from_millis(apart));
        world.mend();
        let after = world.rng().random_range(0..5000);
        world.run_for(Duration::from_millis(after));
    }
    world.finish();
}

fn cut(world: &mut World) {
    let mut hosts: Vec<Host> = world.hosts().collect();
    let kind = [Kind::Minority, Kind::Halves, Kind::OneWay][world.rng().random_range(0..3)];
    hosts.shuffle(world.rng());
    let size = match kind {
        Kind::Minority => world.rng().random_range(1..=(hosts.len() - 1) / 2),
        Kind::Halves => hosts.len() / 2,
        Kind::OneWay => world.rng().random_range(1..hosts.len()),
    };
    let (here, there) = hosts.split_at(size);
    for a in here {
        for b in there {
            world.cut(*a, *b);
            if !matches!(kind, Kind::OneWay) {
                world.cut(*b, *a);
            }
        }
    }
}
