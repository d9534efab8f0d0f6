//! Ownership under random schedules of partitions, crashes, pauses, drains and lost messages: promises H3, H4 and H5.

mod model;

use model::{Summary, number, run, told};

/// How many schedules are run; each takes some milliseconds.
const SCHEDULES: u64 = 400;

#[test]
fn no_schedule_breaks_a_promise() {
    let first = number("POLITY_MODEL_FIRST", 0);
    if let Some(seed) = std::env::var("POLITY_MODEL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let (trace, result) = told(seed);
        trace.iter().for_each(|line| println!("{line}"));
        println!("{result:#?}");
        assert!(result.is_ok(), "POLITY_MODEL_SEED={seed}");
        return;
    }
    let count = number("POLITY_MODEL_SEEDS", SCHEDULES);
    let results: Vec<_> = (first..first + count).map(run).collect();
    let faults: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(
        faults.is_empty(),
        "{} of {count} fail; the first ones: {:#?}",
        faults.len(),
        &faults[..faults.len().min(5)]
    );
    // The schedules do what they are for.
    let sum = |of: fn(&Summary) -> u64| results.iter().flatten().map(of).sum::<u64>();
    println!(
        "{count} schedules: {} claims, {} handoffs, {} cancelled, {} entries of journals, {} answered, {} effects, {} refused",
        sum(|s| s.made as u64),
        sum(|s| s.handoffs as u64),
        sum(|s| s.cancelled),
        sum(|s| s.conflicts as u64),
        sum(|s| s.answered as u64),
        sum(|s| s.effects),
        sum(|s| s.refused)
    );
    assert!(sum(|s| s.handoffs as u64) > count && sum(|s| s.conflicts as u64) > count / 2 && sum(|s| s.refused) > 0);
    assert!(sum(|s| s.answered as u64) > count / 4 && sum(|s| s.cancelled) > count / 4);
}

#[test]
fn the_same_schedule_gives_the_same_owners() {
    for seed in 0..10 {
        assert_eq!(told(seed), told(seed), "seed {seed}");
    }
}
