//! Presence over many hours: nothing leaks (promises P2 and C4).
//!
//! `cargo run --release -p polity-sim -- presence-soak` is the longer mode, a day.

use std::time::Duration;

use polity_sim::soak::soak;

#[test]
fn after_hours_of_churn_live_equals_listed_and_little_is_remembered() {
    for seed in 0..2 {
        let soaked = soak(seed, Duration::from_secs(5 * 3600)).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(soaked.checks == 5 && soaked.boots > 100 && soaked.tracked > 5_000, "{soaked:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hour = Duration::from_secs(3600);
    assert_eq!(soak(7, hour), soak(7, hour));
}
