//! Membership of whole nodes in a simulated network, where the lean event loop is not the place: what happens between the
//! start of a process and the first exchange.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity::{Preset, Timings};
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

/// Those that start at once and all find each other need not wait for somebody who may be a member.
#[test]
fn nodes_that_start_at_once_found_a_cluster_without_waiting() {
    let solo_after = Duration::from_secs(60);
    let ready = Arc::new(Mutex::new(Vec::new()));
    let shared = ready.clone();
    let program = move |mut process: Process| {
        let shared = shared.clone();
        async move {
            let mut timings = Timings::preset(Preset::Lan);
            timings.solo_after = solo_after;
            let node = process.start(process.builder().timings(timings)).await?;
            shared.lock().expect("no test panicked").push(node.id().boot.generation);
            node.stopped().await;
            anyhow::Ok(())
        }
    };
    let mut world = World::new(5, Settings { hosts: 4, ..Settings::quiet() }, program);
    world.run_for(solo_after / 12);
    assert_eq!(*ready.lock().expect("no test panicked"), [1; 4], "all are ready, each in its first life");
}
