//! What sets and maps hold. In the maps `kf<i>`, each mostly in its span of time, every field is set once, and stays. To the set `kc0` and
//! the map `kc1` all clients add the same elements and fields, one after the other as time goes by, as they like or under the
//! idempotency key of the element; and they remove them.

use std::time::Duration;

use bytes::Bytes;
use polity::kv::{Bucket, Map, Set};
use rand::RngExt as _;

use super::super::{Client, Pace, outcome_of, value_of, writer_of};
use super::{number, span, told};
use crate::history::{Action, OpId, Outcome};

/// What begins the maps whose fields stay, how many there are, and for how long each is written: they begin again when that is over.
const STAYS: &str = "kf";
const MAPS: u64 = 12;
const MAP_SPAN: Duration = Duration::from_secs(6);
/// The set and the map that are added to and removed from.
const CHANGES: [&str; 2] = ["kc0", "kc1"];
/// An element is new for so long.
const SPAN: Duration = Duration::from_millis(1500);
/// How many are added and removed at a time.
const ELEMENTS: u64 = 4;
/// A field that is set and removed beside those that stay.
const MARK: u64 = u64::MAX;

pub(super) fn keys() -> Vec<String> {
    (0..MAPS).map(stays).chain(CHANGES.map(str::to_owned)).collect()
}

fn stays(span: u64) -> String {
    format!("{STAYS}{}", span % MAPS)
}

pub(super) fn fields(client: &Client) -> Bucket<Map> {
    client.node.kv().bucket("fields").expect("it is declared")
}

pub(super) fn members(client: &Client) -> Bucket<Set> {
    client.node.kv().bucket("members").expect("it is declared")
}

pub(super) fn is_map(key: &str) -> bool {
    key != CHANGES[0]
}

pub(super) async fn add(client: Client, mut pace: Pace) {
    while pace.next().await {
        // What was before is found again.
        let (now, before) = (span(MAP_SPAN), pace.rng.random_range(0..3));
        let key = stays(now);
        match pace.rng.random_range(0..10) {
            0..3 => drop(read(&client, &stays(now.saturating_sub(before))).await),
            // Nobody waits for what becomes of it.
            3 => drop(fields(&client).update(&key, |map| map.set(MARK.to_be_bytes(), Bytes::new())).await),
            4 => drop(fields(&client).update(&key, |map| map.remove(MARK.to_be_bytes())).await),
            _ => {
                let op = client.recorder.invoke(client.host, &key, Action::Add);
                let set = fields(&client).update(&key, |map| map.set(op.0.to_be_bytes(), value_of(op))).await;
                client.recorder.returned(op, told(op, set));
            }
        }
    }
}

pub(super) async fn change(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = CHANGES[pace.rng.random_range(0..CHANGES.len())];
        let element = span(SPAN).saturating_sub(pace.rng.random_range(0..ELEMENTS));
        // Of every second element it matters how often it is added.
        let once = element % 2 == 0;
        match pace.rng.random_range(0..10) {
            0..3 => drop(read(&client, key).await),
            3..5 => {
                let op = client.recorder.invoke(client.host, key, Action::Remove(element));
                let name = element.to_be_bytes();
                let removed = match is_map(key) {
                    true => fields(&client).update(key, |map| map.remove(name)).await,
                    false => members(&client).update(key, |set| set.remove(name)).await,
                };
                client.recorder.returned(op, told(op, removed));
            }
            _ => insert(&client, key, element, once).await,
        }
    }
}

async fn insert(client: &Client, key: &str, element: u64, once: bool) {
    let op = client.recorder.invoke(client.host, key, Action::Insert { element, once });
    let (name, value, kv) = (element.to_be_bytes(), value_of(op), client.node.kv());
    let id = kv.idempotency_key([key.as_bytes(), &name].concat());
    let (fields, members) = (fields(client), members(client));
    let change = match is_map(key) {
        true => fields.update(key, |map| map.set(name, value)),
        false => members.update(key, |set| set.add(name)),
    };
    let changed = if once { change.idempotency_key(id).await } else { change.await };
    client.recorder.returned(op, told(op, changed));
}

/// Reads a key. Returns whether it succeeded.
pub(super) async fn read(client: &Client, key: &str) -> bool {
    let action = if key.starts_with(STAYS) { Action::Elements } else { Action::Members };
    let op = client.recorder.invoke(client.host, key, action);
    // Each element or field, and whether a client can have written what it holds.
    let read: Result<Vec<(Option<u64>, bool)>, _> = if is_map(key) {
        let read = fields(client).get(key).await;
        read.map(|map| map.iter().map(|(name, value)| (number(name), is_written(key, name, value))).collect())
    } else {
        members(client).get(key).await.map(|set| set.iter().map(|element| (number(element), true)).collect())
    };
    let outcome = match &read {
        Ok(found) => {
            if found.iter().any(|(number, is_written)| number.is_none() || !is_written) {
                client.garbage(key);
            }
            let numbers = found.iter().filter_map(|(number, _)| *number);
            Outcome::Done(numbers.filter(|number| *number != MARK).map(OpId).collect())
        }
        Err(error) => outcome_of(op, error),
    };
    client.recorder.returned(op, outcome);
    read.is_ok()
}

/// Whether a client can have set a field to this value.
fn is_written(key: &str, name: &[u8], value: &[u8]) -> bool {
    match number(name) {
        Some(MARK) => value.is_empty(),
        // The field is named after the operation that has set it.
        Some(number) if key.starts_with(STAYS) => writer_of(value) == Some(OpId(number)),
        _ => writer_of(value).is_some(),
    }
}
