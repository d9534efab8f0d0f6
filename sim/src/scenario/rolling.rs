//! Every node in turn leaves or is killed, and is started again; the next follows when the stores have settled.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::{Scenario, ms};
use crate::case::Act;
use crate::fault::{Crash, Leave};
use crate::history::Host;
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "rolling",
    about: "every node in turn leaves or is killed and is started again, under load",
    draw,
};

/// How long a node may take to hand over what it has when it leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    let settings = Settings::drawn(rng);
    let mut hosts: Vec<Host> = settings.early().collect();
    hosts.shuffle(rng);
    let acts = hosts.into_iter().map(|host| {
        let (from, away) = (ms(rng, 100..1000), ms(rng, 10..4000));
        let act = if rng.random() {
            Act::of(from, LEAVE_WITHIN + away, Leave::of(host, LEAVE_WITHIN))
        } else {
            Act::of(from, away, Crash::once(host, false))
        };
        act.and_then(Duration::from_millis(100))
    });
    let acts = acts.collect();
    (settings, acts)
}
