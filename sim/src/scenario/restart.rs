//! A node is killed and started again faster than it can be suspected to the end, without memory, and that repeatedly.
//!
//! As long as it is the same node, it can be as often as one likes: only its replicas are lost. Before it is another's
//! turn, the stores settle.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Scenario, host, ms};
use crate::case::{Act, Timed};
use crate::fault::Crash;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "restart",
    about: "a node is killed and started again within the suspicion timeout, repeatedly and without memory",
    draw,
};

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let settings = Settings::drawn(rng);
    let victims = rng.random_range(1..=2);
    let acts = (0..victims).map(|_| {
        let victim = host(rng, settings.hosts);
        let (mut faults, mut from) = (Vec::new(), Duration::ZERO);
        for _ in 0..rng.random_range(1..=4) {
            // Sometimes before it has even joined again.
            from += ms(rng, 100..4000);
            let (lasts, fault) = (ms(rng, 10..1500), Crash::once(victim, rng.random()));
            faults.push(Timed { from, lasts, fault });
            from += lasts;
        }
        Act::new(faults).and_then(Duration::from_millis(100))
    });
    let acts = acts.collect();
    (settings, acts)
}
