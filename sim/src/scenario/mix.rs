//! Swarm testing: a random choice of classes for each seed, in one to three acts, while the members change.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use super::{Scenario, a_move, act_of, settings_for};
use crate::case::Act;
use crate::fault::{Class, classes};
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "mix",
    about: "a random mix of two to six faults at once, in one to three acts, while the members change",
    draw,
};

fn draw(rng: &mut StdRng, _seed: u64) -> (Settings, Vec<Act>) {
    // What is left out matters as much as what is there: some faults hide what others would show.
    let several = rng.random_range(2..=6);
    let mut struck: Vec<&'static Class> = classes().sample(rng, several);
    if !struck.iter().any(|class| class.moves) {
        struck.push(a_move(rng));
    }
    let settings = settings_for(rng, &struck);
    let acts = (0..rng.random_range(1..=3)).map(|_| act_of(rng, &settings, &struck)).collect();
    (settings, acts)
}
