//! The scenarios, one a file: how a world is drawn, and what befalls it.
//!
//! To add one, write its file and name it in [`ALL`].

pub mod formation;
pub mod kill;
pub mod partition;
pub mod restart;
pub mod rolling;

use rand::rngs::StdRng;

use crate::settings::Settings;
use crate::world::World;

/// What a world goes through.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What happens, in one sentence.
    pub about: &'static str,
    /// Draws the world.
    pub settings: fn(&mut StdRng) -> Settings,
    /// What happens, from the first moment to [`World::finish`].
    pub script: fn(&mut World),
}

/// All scenarios, in the order in which they are listed.
pub const ALL: [Scenario; 5] =
    [formation::SCENARIO, kill::SCENARIO, partition::SCENARIO, restart::SCENARIO, rolling::SCENARIO];

/// The scenario of a name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.into_iter().find(|scenario| scenario.name == name)
}
