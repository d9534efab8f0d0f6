//! Many runs.

use super::*;

#[derive(Default, Debug)]
struct Outcome {
    seeds: u64,
    steps: u64,
    acks: usize,
    reads: usize,
    crashes: usize,
    cuts: usize,
    leaves: usize,
    /// How often it happened, and the first seed that it happened with.
    stuck: BTreeMap<&'static str, (usize, u64)>,
    wrong: BTreeMap<String, (usize, u64)>,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn seeds(ordinary: u64) -> u64 {
    number("POLITY_MODEL_SEEDS").unwrap_or(ordinary)
}

/// Runs so many seeds, or until the first that finds something.
fn explore(plan: Plan, count: u64, first: bool) -> Outcome {
    if let Some(seed) = number("POLITY_MODEL_SEED") {
        let mut world = World::new(seed, plan, true);
        world.run();
        world.tell();
        eprintln!("{:?}", world.wrong);
        return Outcome::default();
    }
    let mut outcome = Outcome::default();
    let begin = number("POLITY_MODEL_FIRST").unwrap_or(0);
    for seed in begin..begin + count {
        let mut world = World::new(seed, plan, false);
        world.run();
        outcome.seeds += 1;
        outcome.steps += world.now as u64;
        outcome.acks += world.acks.len();
        outcome.reads += world.reads;
        outcome.crashes += world.crashes;
        outcome.cuts += world.cuts;
        outcome.leaves += world.leaves;
        if let Some(stuck) = world.stuck {
            outcome.stuck.entry(stuck).or_insert((0, seed)).0 += 1;
        }
        for wrong in &world.wrong {
            outcome.wrong.entry(format!("{wrong:?}")).or_insert((0, seed)).0 += 1;
        }
        if first && !outcome.wrong.is_empty() {
            break;
        }
    }
    eprintln!("{plan:?}\n  {outcome:?}");
    outcome
}

pub(super) const PLAN: Plan = Plan {
    views: Views::Common,
    broken: Broken::Nothing,
    careless: false,
    steps: 400,
    lossy: true,
    slept: false,
    lull: false,
    disks: false,
};

#[test]
fn with_common_views_nothing_is_stale_or_lost() {
    assert_eq!(explore(PLAN, seeds(1500), false).wrong, BTreeMap::new());
}

#[test]
fn with_views_of_their_own_nothing_is_stale_or_lost() {
    assert_eq!(explore(Plan { views: Views::Apart, ..PLAN }, seeds(1500), false).wrong, BTreeMap::new());
}

#[test]
fn one_that_has_slept_long_makes_nothing_stale_or_lost() {
    for views in [Views::Common, Views::Apart] {
        assert_eq!(explore(Plan { views, slept: true, ..PLAN }, seeds(500), false).wrong, BTreeMap::new());
    }
}

#[test]
fn whatever_is_destroyed_all_settles() {
    let plan = Plan { careless: true, views: Views::Apart, ..PLAN };
    assert_eq!(explore(plan, seeds(1000), false).wrong, BTreeMap::new());
}

/// The rarer ones have schedules of their own.
#[test]
fn what_is_broken_is_noticed() {
    for broken in [Broken::NoFence, Broken::Amnesiac, Broken::NothingOwed, Broken::Relieved, Broken::NotFetched] {
        let outcome = explore(Plan { broken, ..PLAN }, seeds(20_000).max(20_000), true);
        assert!(!outcome.wrong.is_empty(), "{broken:?} was not noticed in {} seeds", outcome.seeds);
    }
}

#[test]
fn however_long_views_differ_all_settles_when_they_agree() {
    let plan = Plan { views: Views::Apart, lull: true, ..PLAN };
    assert_eq!(explore(plan, seeds(300), false).wrong, BTreeMap::new());
}

const DISKS: Plan = Plan { disks: true, ..PLAN };

#[test]
fn with_disks_nothing_is_stale_or_lost_whatever_loses_its_power() {
    for views in [Views::Common, Views::Apart] {
        assert_eq!(explore(Plan { views, ..DISKS }, seeds(1500), false).wrong, BTreeMap::new());
    }
}

#[test]
fn with_disks_one_that_has_slept_long_makes_nothing_stale_or_lost() {
    let plan = Plan { views: Views::Apart, slept: true, ..DISKS };
    assert_eq!(explore(plan, seeds(500), false).wrong, BTreeMap::new());
}

#[test]
fn with_disks_all_settles_whatever_is_destroyed() {
    let plan = Plan { careless: true, views: Views::Apart, ..DISKS };
    assert_eq!(explore(plan, seeds(1000), false).wrong, BTreeMap::new());
}
