//! Two faults at the same time, each pair of classes in its turn as the seeds go by, while the members change.

use rand::rngs::StdRng;

use super::{Scenario, a_move, act_of, settings_for};
use crate::case::Act;
use crate::fault::{Class, classes};
use crate::settings::Settings;

/// See the [module](self).
pub const SCENARIO: Scenario = Scenario {
    name: "pairs",
    about: "two faults at once, of every pair of classes in turn, while the members change",
    draw,
};

fn draw(rng: &mut StdRng, seed: u64) -> (Settings, Vec<Act>) {
    let all: Vec<&'static Class> = classes().collect();
    let pairs = (0..all.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    let count = all.len() * (all.len() - 1) / 2;
    // A step that has no divisor in common with the number of pairs goes through all of them, and mixes them well.
    let (a, b) = pairs.into_iter().nth((seed % count as u64 * 101 % count as u64) as usize).expect("less than count");
    let mut struck = vec![all[a], all[b]];
    if !struck.iter().any(|class| class.moves) {
        struck.push(a_move(rng));
    }
    let settings = settings_for(rng, &struck);
    let act = act_of(rng, &settings, &struck);
    (settings, vec![act])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_go_through_all_pairs() {
        let count = classes().count() as u64;
        let count = count * (count - 1) / 2;
        let met: std::collections::BTreeSet<u64> = (0..count).map(|seed| seed * 101 % count).collect();
        assert_eq!(met.len() as u64, count);
    }
}
