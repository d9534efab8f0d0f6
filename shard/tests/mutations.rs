//! The model notices what it is for: with each deliberate fault some schedule fails, and the same schedule is in order
//! without it (promise D2).

mod model;

use std::time::Duration;

use model::run;
use polity_cluster::{Boot, NodeId, NodeName};
use polity_shard::claims::Claim;
use polity_shard::handoff::{Desk, HandoffConfig, Step};
use polity_shard::mutation::{Mutation, set};
use polity_shard::{Epoch, ShardCount, ShardId};

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
        (Mutation::ForgetsTheWinner, "lacks what the winner had"),
        (Mutation::SwapsStates, "lacks what the loser had"),
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

/// How often a handoff is reported that has just come to its alarm, while another waits for its turn.
fn alarms(mutation: Option<Mutation>) -> usize {
    let node = |name| NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 1, nonce: 7 } };
    let config = HandoffConfig { sending: 1, ..HandoffConfig::default() };
    let mut desk = Desk::new(node("a"), ShardCount::new(8).expect("valid"), config);
    for shard in [0, 1] {
        let claim = Claim { shard: ShardId(shard), epoch: Epoch { counter: 1, owner: node("a") } };
        desk.begin(Duration::ZERO, claim, node("b"));
    }
    set(mutation);
    desk.handle_timeout(config.alarm);
    set(None);
    std::iter::from_fn(|| desk.poll_step()).filter(|step| matches!(step, Step::Alarm(_))).count()
}

#[test]
fn a_handoff_that_does_not_go_on_is_reported_but_for_the_fault() {
    assert_eq!((alarms(None), alarms(Some(Mutation::QuietAlarm))), (2, 0));
}
