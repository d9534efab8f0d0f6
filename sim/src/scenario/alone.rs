//! One fault of one class, each class in its turn as the seeds go by.

use rand::rngs::StdRng;

use super::{Scenario, act_of, settings_for};
use crate::case::Act;
use crate::fault::{Class, classes};
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario { name: "alone", about: "one fault alone, of every class in turn", draw };

fn draw(rng: &mut StdRng, seed: u64) -> (Settings, Vec<Act>) {
    let all: Vec<&'static Class> = classes().collect();
    let class = [all[(seed % all.len() as u64) as usize]];
    let settings = settings_for(rng, &class);
    let act = act_of(rng, &settings, &class);
    (settings, vec![act])
}
