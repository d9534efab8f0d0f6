//! Owners of shards in worlds of their own: what they cost a cluster in which nothing happens.

use std::time::Duration;

use polity::Owners;
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

const NODES: u8 = 5;

/// How many datagrams are sent until then, by nodes that do nothing.
fn datagrams(has_owners: bool, until: Duration) -> u64 {
    let settings = Settings { workloads: Vec::new(), hosts: NODES, ..Settings::quiet() };
    let mut world = World::new(7, settings, move |mut process: Process| async move {
        let builder = process.builder();
        let node = process.start(if has_owners { builder.ownership(Owners::default()) } else { builder }).await?;
        node.ready().await?;
        node.stopped().await;
        Ok(())
    });
    world.run_for(until);
    world.end().2
}

#[test]
fn owners_cost_an_idle_cluster_a_round_of_their_document_and_nothing_else() {
    let (from, to) = (Duration::from_secs(60), Duration::from_secs(160));
    let [without, with] = [false, true].map(|has_owners| {
        let sent = datagrams(has_owners, to) - datagrams(has_owners, from);
        sent as f64 / f64::from(NODES) / (to - from).as_secs_f64()
    });
    println!("datagrams of a node in a second: {without:.2} without owners, {with:.2} with them");
    // One round in five seconds, of two requests and their answers, which are acknowledged on both sides.
    assert!(with - without < 2.0, "{without:.2} without, {with:.2} with");
}
