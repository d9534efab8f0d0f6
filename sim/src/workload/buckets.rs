//! Buckets of sets and counters, `bs<i>` and `bn<i>`: what the other sets and counters do by hand, as single writes.

use polity::kv::{Bucket, BucketConfig, Counter, Set};
use rand::RngExt as _;

use super::{Client, Pace, Workload, outcome_of};
use crate::history::{Action, OpId, Outcome};

/// How many keys of each kind there are.
const SHARED: u8 = 2;

pub(super) const WORKLOAD: Workload = Workload {
    name: "buckets",
    about: "every client adds to sets and counters in buckets, removes, and reads them",
    keys: |_| (0..SHARED).flat_map(|i| [format!("bs{i}"), format!("bn{i}")]).collect(),
    clients: |client, paces| {
        vec![Box::pin(add(client.clone(), paces.next())), Box::pin(count(client.clone(), paces.next()))]
    },
    observers: |_| Vec::new(),
    read: |client, key| {
        Box::pin(
            async move { if key.starts_with("bs") { elements(client, key).await } else { total(client, key).await } },
        )
    },
};

/// Its buckets.
pub(super) const BUCKETS: [(&str, BucketConfig); 2] =
    [("sets", BucketConfig::set()), ("counters", BucketConfig::counter())];

pub(super) fn sets(client: &Client) -> Bucket<Set> {
    client.node.kv().bucket("sets").expect("it is declared")
}

pub(super) fn counters(client: &Client) -> Bucket<Counter> {
    client.node.kv().bucket("counters").expect("it is declared")
}

/// Which hosts hold a key as a node believes, and a hash of its own copy; `None` if it is a key of no bucket.
pub(super) fn held(client: &Client, key: &str) -> Option<(Vec<polity::NodeId>, Option<u64>)> {
    match key.get(..2)? {
        "bs" => Some((sets(client).replicas(key), sets(client).fingerprint(key).ok().flatten())),
        "bn" | "rn" => Some((counters(client).replicas(key), counters(client).fingerprint(key).ok().flatten())),
        _ => None,
    }
}

async fn elements(client: &Client, key: &str) -> bool {
    let op = client.recorder.invoke(client.host, key, Action::Elements);
    let read = sets(client).get(key).await;
    let number = |element: &bytes::Bytes| element.as_ref().try_into().map(u64::from_be_bytes).ok();
    let outcome = match &read {
        Ok(elements) => {
            let numbers: Vec<OpId> = elements.iter().filter_map(number).filter(|op| *op != MARK).map(OpId).collect();
            if numbers.len() + usize::from(elements.contains(&MARK.to_be_bytes()[..])) < elements.len() {
                client.garbage(key);
            }
            Outcome::Done(numbers)
        }
        Err(error) => outcome_of(op, error),
    };
    client.recorder.returned(op, outcome);
    read.is_ok()
}

/// An element that is added and removed again, beside the numbers: its removal must take nothing else with it.
const MARK: u64 = u64::MAX;

async fn add(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = format!("bs{}", pace.rng.random_range(0..SHARED));
        match pace.rng.random_range(0..10) {
            0..3 => drop(elements(&client, &key).await),
            // Nobody waits for what becomes of it.
            3 => drop(sets(&client).update(&key, |set| set.add(MARK.to_be_bytes())).await),
            4 => drop(sets(&client).update(&key, |set| set.remove(MARK.to_be_bytes())).await),
            _ => {
                let op = client.recorder.invoke(client.host, &key, Action::Add);
                let added = sets(&client).update(&key, |set| set.add(op.0.to_be_bytes())).await;
                let outcome = added.map_or_else(|error| outcome_of(op, &error), |_| Outcome::Done(Vec::new()));
                client.recorder.returned(op, outcome);
            }
        }
    }
}

/// Reads a counter. Returns whether it succeeded.
pub(super) async fn total(client: &Client, key: &str) -> bool {
    let op = client.recorder.invoke(client.host, key, Action::Total);
    let read = counters(client).get(key).await;
    let outcome = match &read {
        Ok(total) => Outcome::Total(u64::try_from(*total).unwrap_or(u64::MAX)),
        Err(error) => outcome_of(op, error),
    };
    client.recorder.returned(op, outcome);
    read.is_ok()
}

async fn count(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = format!("bn{}", pace.rng.random_range(0..SHARED));
        if pace.rng.random_bool(0.3) {
            total(&client, &key).await;
            continue;
        }
        let by = pace.rng.random_range(1..=9u32);
        let op = client.recorder.invoke(client.host, &key, Action::Count(by));
        let added = counters(&client).add(&key, by.into()).await;
        let outcome = added.map_or_else(|error| outcome_of(op, &error), |_| Outcome::Done(Vec::new()));
        client.recorder.returned(op, outcome);
    }
}
