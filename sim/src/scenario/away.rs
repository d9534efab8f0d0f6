//! A node is away, in whatever way, for longer than deleted keys leave a trace where nobody is missing; then it comes back with all
//! that it knew.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use super::{Scenario, host, ms};
use crate::case::Act;
use crate::fault::{Outage, Pause, Stage, classes};
use crate::history::Host;
use crate::settings::Settings;
use crate::workload::deletes;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "away",
    about: "a node is cut off, stands still or is off for long while keys are deleted, and comes back with what it knew",
    draw,
};

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let settings = Settings { disk: true, durable: rng.random(), ..Settings::drawn(rng) }.and(&deletes::WORKLOAD);
    let hosts: Vec<Host> = settings.early().collect();
    let (before, lasts) = (ms(rng, 5000..20_000), ms(rng, 16_000..40_000));
    let fault = match rng.random_range(0..3) {
        0 if settings.durable => Outage::of(rng, hosts, 1),
        1 => Pause::of(host(rng, settings.hosts)),
        _ => {
            let stage = Stage { hosts, late: Vec::new(), mortal: Host(0), seeds: settings.seeds };
            let shapes = classes().filter(|class| class.name.starts_with("partition"));
            (shapes.choose(rng).expect("there are some").draw)(rng, &stage).0
        }
    };
    (settings, vec![Act::of(before, lasts, fault).and_then(ms(rng, 5000..20_000))])
}
