//! Links are cut while clients work, in one shape after the other, and healed.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use super::{Scenario, ms};
use crate::case::{Act, Timed};
use crate::fault::{Stage, classes};
use crate::history::Host;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario =
    Scenario { name: "partition", about: "links are cut under load in any of eight shapes, and heal", draw };

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let settings = Settings { hosts: rng.random_range(3..=7), ..Settings::drawn(rng) };
    let hosts: Vec<Host> = settings.early().collect();
    let stage = Stage { hosts, late: Vec::new(), mortal: Host(0), seeds: settings.seeds };
    let (mut faults, mut from) = (Vec::new(), Duration::ZERO);
    for _ in 0..rng.random_range(1..=2) {
        from += ms(rng, 500..3000);
        let shapes = classes().filter(|class| class.name.starts_with("partition"));
        let (fault, lasts) = (shapes.choose(rng).expect("there are some").draw)(rng, &stage);
        faults.push(Timed { from, lasts, fault });
        from += lasts;
    }
    (settings, vec![Act::new(faults).and_then(ms(rng, 0..5000))])
}
