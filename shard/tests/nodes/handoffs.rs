//! Handoffs that somebody holds up: the receiver, an operator, the budget.

use std::time::Duration;

use polity_cluster::rpc::{Blob, Lane, Method, Peer};
use polity_shard::ShardId;
use polity_shard::handoff::{BudgetConfig, HandoffConfig, WaitsFor};

use super::hosts::{Host, LONG, Marks, SHARDS, builder, host, owners, started, until};

/// A handoff of this node that waits for this.
fn one_that_waits(host: &Host, what: &WaitsFor) -> Option<ShardId> {
    let handoffs = host.ownership.handoffs();
    handoffs.into_iter().find(|progress| progress.waits_for == *what).map(|progress| progress.id.claim.shard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cancelled_leaves_the_shard_with_its_owner_who_tries_again_later() {
    let handoff = HandoffConfig { pause: 2 * LONG, ..HandoffConfig::default() };
    let n0 = started(builder("n0"), Marks::default(), handoff).await;
    owners(&[&n0]).await;
    let held_up = Marks::default();
    held_up.installs.send_replace(false);
    let n1 = started(builder("n1").seeds([n0.node.addr()]), held_up, handoff).await;
    let shard = until(|| one_that_waits(&n0, &WaitsFor::Install)).await;
    let epoch = n0.ownership.owns(shard).expect("it is not let go");
    assert!(n0.marks.is_paused(shard));

    assert!(n0.ownership.cancel(shard));
    assert_eq!(n0.ownership.owns(shard), Some(epoch.clone()));
    assert_eq!(n0.ownership.admit(shard, &epoch), Ok(()));
    assert!(!n0.ownership.cancel(shard), "it waits before it begins another");
    until(|| (!n0.marks.is_paused(shard)).then_some(())).await;
    assert_eq!(n0.ownership.owns(shard), Some(epoch.clone()));

    // Nothing keeps the next attempt from what it is for.
    n1.marks.installs.send_replace(true);
    let all = owners(&[&n0, &n1]).await;
    assert_eq!(all[&shard], *n1.node.id());
    assert!(n1.ownership.owns(shard).expect("it owns it") > epoch);
    assert!(n1.marks.all(shard).is_superset(&n0.marks.all(shard)));
    assert!(!n0.ownership.cancel(shard), "what is let go stays so");
    assert!([&n0, &n1].iter().all(|host| host.ownership.journal(|journal| journal.is_empty())));
}

const NOISE: Method<Blob, ()> = Method::new(2_000, "test.noise", Lane::Call);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_handoffs_is_that_of_what_the_node_sends() {
    // Without other traffic, a hundred kilobytes take more than a day.
    let budget = BudgetConfig { share_percent: 50, least: 1, burst: 1, ..BudgetConfig::default() };
    let n0 = started(builder("n0"), Marks::default(), HandoffConfig { budget, ..HandoffConfig::default() }).await;
    owners(&[&n0]).await;
    (0..SHARDS).for_each(|shard| n0.marks.add(ShardId(shard), "x".repeat(100_000)));
    let n1 = host("n1", &[&n0]).await;
    n1.node.rpc().serve(NOISE, |_, _, reply| reply.send(&()));
    until(|| one_that_waits(&n0, &WaitsFor::Budget)).await;

    let peer = Peer { node: n1.node.id().clone(), addr: n1.node.addr() };
    let noise = Blob(vec![7; 50_000].into());
    let hosts = [&n0, &n1];
    let mut settled = std::pin::pin!(owners(&hosts));
    let all = loop {
        tokio::select! {
            biased;
            all = &mut settled => break all,
            sent = n0.node.rpc().call(&peer, &NOISE, &noise, Duration::from_secs(5)) => sent.expect("it is served"),
        }
    };
    assert!(all.values().any(|owner| owner == n1.node.id()));
    for (shard, _) in all.iter().filter(|(_, owner)| *owner == n1.node.id()) {
        assert!(n1.marks.all(*shard).is_superset(&n0.marks.all(*shard)));
    }
}
