//! The model notices what it is for: with each deliberate fault some schedule fails, and the same schedule is in order
//! without it (promise D2).

mod model;

use model::run;
use polity_shard::mutation::{Mutation, set};

fn fault(seed: u64, mutation: Option<Mutation>) -> Option<String> {
    set(mutation);
    let result = run(seed);
    set(None);
    result.err()
}

#[test]
fn every_fault_is_noticed_and_nothing_else() {
    let rows = [
        (Mutation::AcksBeforeInstall, "effects"),
        (Mutation::LetsGoUnacknowledged, "effects"),
        (Mutation::ServesSuperseded, "on the same side"),
        (Mutation::OpenFence, "takes an effect"),
        (Mutation::ForgetsEpochs, "a second time"),
        (Mutation::ClaimsUnlearned, "greater epoch for long"),
        (Mutation::QuietLoser, "has not written it down"),
        (Mutation::KeepsForGood, "in the end"),
    ];
    let mut noticed = Vec::new();
    for (mutation, wanted) in rows {
        let found = (0..300).find(|seed| fault(*seed, Some(mutation)).is_some_and(|what| what.contains(wanted)));
        noticed.push((mutation, found));
    }
    let others: Vec<_> = noticed.iter().filter_map(|(_, seed)| *seed).filter_map(|seed| fault(seed, None)).collect();
    println!("{noticed:?}");
    assert!(noticed.iter().all(|(_, seed)| seed.is_some()), "{noticed:?}");
    assert!(others.is_empty(), "without a fault: {others:?}");
}
