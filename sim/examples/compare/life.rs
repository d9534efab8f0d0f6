//! The undisturbed life of a cluster: it forms, is quiet, and loses members one by one.

use std::time::Duration;

use rand::RngExt as _;

use crate::arena::{Arena, Detection};
use crate::peers::Library;
use crate::trouble::{Load, since};

/// How long a cluster may take to form.
pub(crate) const FORMATION: Duration = Duration::from_secs(300);
/// How long it settles before its quiet life is measured.
const SETTLING: Duration = Duration::from_secs(20);
/// How long that is.
const QUIET: Duration = Duration::from_secs(60);
/// How long a kill may go unseen.
pub(crate) const DETECTION: Duration = Duration::from_secs(60);
/// How long the members have between two kills.
const PAUSE: Duration = Duration::from_secs(10);

/// How much of it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many members.
    pub(crate) nodes: usize,
    /// How many clusters.
    pub(crate) runs: u64,
    /// How many members of each are killed.
    pub(crate) kills: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// From the start of all until all agreed, of each cluster; `None` if they did not.
    pub(crate) formations: Vec<Option<Duration>>,
    /// What was sent while nothing happened.
    pub(crate) quiet: Load,
    /// How the kills were seen; `None` if not by all.
    pub(crate) kills: Vec<Option<Detection>>,
}

/// Lets clusters live.
pub(crate) fn live<L: Library>(library: L, plan: Plan, seed: u64) -> Life {
    let mut life = Life::default();
    for run in 0..plan.runs {
        let (mut arena, formation) = Arena::formed(library, plan.nodes, seed + run, FORMATION);
        life.formations.push(formation);
        arena.run(SETTLING);
        let before = arena.traffic();
        arena.run(QUIET);
        let member_seconds = plan.nodes as f64 * QUIET.as_secs_f64();
        let traffic = since(before, arena.traffic());
        life.quiet.pool(&Load { traffic, member_seconds, ..Load::default() });
        for kill in 0..plan.kills {
            // Not in step with the probes, and none of those that everyone greets.
            let apart = PAUSE + Duration::from_millis(arena.rng().random_range(0..1000));
            arena.run(apart);
            life.kills.push(arena.kill(plan.nodes - 1 - kill, DETECTION));
        }
    }
    life
}
