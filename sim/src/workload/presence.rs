//! Presence: on every node somebody comes, says something else, and goes.
//!
//! All that is said is a number that is unique in the run, so an entry is told of as if it were an element of a document:
//! whoever comes adds a number, an update puts another in its place, whoever goes takes it away.

use std::collections::BTreeSet;

use polity::{Presence, PresenceEntry, PresenceEvent, PresenceGuard};
use rand::RngExt as _;

use super::{Client, Pace, Workload, seed_of};
use crate::history::Event;

pub(super) const WORKLOAD: Workload = Workload {
    name: "presence",
    about: "on every node some come, say something else, and go; a subscriber follows who is there",
    keys: |_| Vec::new(),
    clients: |client, paces| {
        vec![Box::pin(come_and_go(client.clone(), paces.next())), Box::pin(follow(client.clone()))]
    },
    observers: |_| Vec::new(),
    read: |_, _| Box::pin(async { true }),
};

const NAME: &str = "presence";
/// How many are there at once on a node.
const MOST: usize = 6;
/// How many keys there are: some are there on several nodes, and more than once on one.
const KEYS: u8 = 8;

fn open(client: &Client) -> Option<Presence<u64>> {
    client.node.presence::<u64>("lobby").ok()
}

async fn come_and_go(client: Client, mut pace: Pace) {
    // The node may have stopped, and then its process is about to end.
    let Some(presence) = open(&client) else { return };
    let mut guards: Vec<(PresenceGuard<u64>, u64)> = Vec::new();
    let mut said = 0;
    let edited = |added: Vec<u64>, removed: Vec<u64>| {
        client.recorder.event(Event::Edited { host: client.host, document: NAME.to_owned(), added, removed });
    };
    while pace.next().await {
        said += 1;
        let number = seed_of(client.process, NAME, said);
        let at = pace.rng.random_range(0..=MOST);
        let Some((guard, before)) = guards.get_mut(at) else {
            let key = format!("user-{}", pace.rng.random_range(0..KEYS));
            if let Ok(guard) = presence.track(key, &number) {
                edited(vec![number], Vec::new());
                guards.push((guard, number));
            }
            continue;
        };
        if pace.rng.random_bool(0.5) {
            if guard.update(&number).is_ok() {
                edited(vec![number], vec![*before]);
                *before = number;
            }
        } else {
            let (guard, number) = guards.swap_remove(at);
            drop(guard);
            edited(Vec::new(), vec![number]);
        }
    }
}

async fn follow(client: Client) {
    let Some(presence) = open(&client) else { return };
    let mut events = presence.subscribe();
    // By node and number of the entry, what it says.
    let mut seen: std::collections::BTreeMap<_, u64> = std::collections::BTreeMap::new();
    let name = |entry: &PresenceEntry<u64>| (entry.node.clone(), entry.number);
    loop {
        let before: BTreeSet<u64> = seen.values().copied().collect();
        match events.next().await {
            PresenceEvent::Snapshot { entries, .. } => {
                seen = entries.iter().map(|entry| (name(entry), entry.meta)).collect();
            }
            PresenceEvent::Joined { entry, .. } | PresenceEvent::Changed { entry, .. } => {
                seen.insert(name(&entry), entry.meta);
            }
            PresenceEvent::Left { entry, .. } => drop(seen.remove(&name(&entry))),
            _ => {}
        }
        let after: BTreeSet<u64> = seen.values().copied().collect();
        for number in before.symmetric_difference(&after) {
            let here = after.contains(number);
            client.recorder.event(Event::Sighted { host: client.host, number: *number, here });
        }
    }
}

/// Says whom this node lists.
pub(super) fn tell(client: &Client) {
    if let Some(presence) = open(client) {
        let mut holds: Vec<u64> = presence.list().iter().map(|entry| entry.meta).collect();
        holds.sort_unstable();
        client.recorder.event(Event::Shows { host: client.host, document: NAME.to_owned(), holds });
    }
}
