//! Counters of a bucket, `rn<i>`, to which all clients add under the same idempotency keys: each write is asked for by many, at the
//! same time and again, on both sides of splits, and counts once.

use std::time::Duration;

use rand::RngExt as _;

use super::buckets::{counters, total};
use super::{Client, Pace, Workload, outcome_of};
use crate::history::{Action, Outcome};

/// How many counters there are.
const COUNTERS: u64 = 2;
/// A key is new for so long.
const SPAN: Duration = Duration::from_millis(1500);
/// How many keys are asked for at a time.
const KEYS: u64 = 4;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "repeats",
    about: "all clients add the same under the same idempotency keys, and read the totals",
    keys: |_| (0..COUNTERS).map(|i| format!("rn{i}")).collect(),
    clients: |client, paces| vec![Box::pin(repeat(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(total(client, key)),
};

async fn repeat(client: Client, mut pace: Pace) {
    while pace.next().await {
        let newest = turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64 / SPAN.as_millis() as u64;
        let id = newest.saturating_sub(pace.rng.random_range(0..KEYS));
        if pace.rng.random_bool(0.3) {
            total(&client, &format!("rn{}", pace.rng.random_range(0..COUNTERS))).await;
            continue;
        }
        let (key, by) = (format!("rn{}", id % COUNTERS), (id % 9 + 1) as u32);
        let op = client.recorder.invoke(client.host, &key, Action::Once { id, by });
        let name = client.node.kv().idempotency_key(id.to_be_bytes());
        let added = counters(&client).add(&key, by.into()).idempotency_key(name).await;
        let outcome = added.map_or_else(|error| outcome_of(op, &error), |_| Outcome::Done(Vec::new()));
        client.recorder.returned(op, outcome);
    }
}
