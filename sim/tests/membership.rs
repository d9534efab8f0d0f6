//! Membership of whole nodes in a simulated network, where the lean event loop is not the place: what happens between the
//! start of a process and the first exchange.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity::{Capabilities, Preset, Timings};
use polity_sim::history::{Event, Host};
use polity_sim::process::Process;
use polity_sim::run::run;
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

/// What a process sees of the versions that the members speak: of each, the newest.
type Versions = Arc<Mutex<BTreeMap<Host, (BTreeMap<String, u16>, bool)>>>;

/// Two adjacent versions run together, and everybody knows who speaks what.
#[test]
fn a_cluster_is_upgraded_node_by_node() {
    let versions = Versions::default();
    let shared = versions.clone();
    let program = move |mut process: Process| {
        let shared = shared.clone();
        async move {
            let (node, host) = (process.start(process.builder()).await?, process.host());
            let mut changes = node.members().subscribe();
            loop {
                changes.next().await;
                let view = node.members().snapshot();
                let seen = view.up().map(|member| (member.id.name.to_string(), member.speaks.versions.max)).collect();
                let can = view.all_can(Capabilities::ALL);
                shared.lock().expect("no test panicked").insert(host, (seen, can));
            }
        }
    };
    let mut world = World::new(6, Settings { hosts: 4, upgrade: true, ..Settings::quiet() }, program);
    world.run_for(Duration::from_secs(5));
    for upgraded in 0..=4u8 {
        if let Some(host) = upgraded.checked_sub(1) {
            world.crash(Host(host), false);
            world.start(Host(host));
            world.run_for(Duration::from_secs(10));
        }
        let expected: BTreeMap<String, u16> =
            (0..4u8).map(|host| (Host(host).to_string(), if host < upgraded { 2 } else { 1 })).collect();
        for (host, seen) in versions.lock().expect("no test panicked").iter() {
            assert_eq!(seen, &(expected.clone(), upgraded == 4), "{host} after {upgraded} were upgraded");
        }
    }
}

/// The scenario is about something: in every world the secret is changed, however often its nodes fail meanwhile.
#[test]
fn the_secret_is_changed_whatever_happens() {
    let scenario = polity_sim::scenario::find("rotation").expect("it is listed");
    for seed in 0..3 {
        let history = run(&scenario.case(seed)).history;
        let is_change = |event: &Event| matches!(event, Event::Note { text, .. } if text == "the secret was changed");
        assert!(history.entries.iter().any(|entry| is_change(&entry.event)), "seed {seed}");
    }
}
