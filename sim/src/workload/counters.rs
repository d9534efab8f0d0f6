//! Shared counters, `n<i>`: the sum of what each process has added, which it counts itself.

use std::collections::BTreeMap;

use rand::RngExt as _;

use super::map::MaxMap;
use super::{Client, Pace, Workload, one_of, shared};
use crate::history::{Action, Outcome};

pub(super) const WORKLOAD: Workload = Workload {
    name: "counters",
    about: "every client adds to shared counters, and reads their totals",
    keys: |_| shared('n'),
    clients: |client, paces| vec![Box::pin(count(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(client.look(key, Action::Total, total)),
};

/// The sum of a map's values.
pub(super) fn total(map: &MaxMap) -> Outcome {
    Outcome::Total(map.0.values().sum())
}

async fn count(client: Client, mut pace: Pace) {
    // What this process has added to each counter, or may have: only what was reported as not applied is taken back.
    let mut added: BTreeMap<String, u64> = BTreeMap::new();
    while pace.next().await {
        let key = one_of('n', &mut pace.rng);
        if pace.rng.random_bool(0.3) {
            client.look(&key, Action::Total, total).await;
            continue;
        }
        let by = pace.rng.random_range(1..=9);
        let sum = added.get(&key).copied().unwrap_or(0) + u64::from(by);
        let process = client.process;
        let add = |_, map: &mut MaxMap| {
            map.0.insert(process, sum);
            Ok(())
        };
        let (_, outcome) = client.change(&key, |_| Action::Count(by), add).await;
        if outcome != Outcome::NotApplied {
            added.insert(key, sum);
        }
    }
}
