//! Keys of any kind, `ka<i>`: each in its span of time gets something of another kind from every host at the same moment, and more
//! later; some are deleted, and begin anew.

use std::time::Duration;

use polity::kv::{Any, Bucket, Value};
use polity::{Bucket as Of, KvError};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::super::{Client, Pace, outcome_of, value_of, writer_of};
use super::{consistency, level, number, span, told};
use crate::history::{Action, Kind, Level, OpId, Outcome};

/// For how long a key is written, and how many there are: they begin again when that is over.
const SPAN: Duration = Duration::from_secs(3);
const KEYS: u64 = 16;
const KINDS: [Kind; 5] = [Kind::Causal, Kind::LastWriterWins, Kind::Counter, Kind::Set, Kind::Map];

pub(super) fn keys() -> Vec<String> {
    (0..KEYS).map(key).collect()
}

fn key(span: u64) -> String {
    format!("ka{}", span % KEYS)
}

pub(super) fn bucket(client: &Client) -> Bucket<Any> {
    client.node.kv().bucket("anything").expect("it is declared")
}

/// Writes to each key as soon as its span begins, as all others do.
pub(super) async fn race(client: Client, mut pace: Pace) {
    while pace.next().await {
        let next = span(SPAN) + 1;
        let now = turmoil::sim_elapsed().unwrap_or_default();
        tokio::time::sleep((SPAN * next as u32).saturating_sub(now)).await;
        let level = level(&mut pace.rng);
        write(&client, &key(span(SPAN)), kind(&mut pace.rng), level).await;
    }
}

fn kind(rng: &mut StdRng) -> Kind {
    KINDS[rng.random_range(0..KINDS.len())]
}

pub(super) async fn act(client: Client, mut pace: Pace) {
    while pace.next().await {
        // What was before is found again.
        let key = key(span(SPAN).saturating_sub(pace.rng.random_range(0..2)));
        let level = level(&mut pace.rng);
        match pace.rng.random_range(0..30) {
            0 => {
                let op = client.recorder.invoke(client.host, &key, Action::Erase(level));
                let erased = bucket(&client).delete(&key).consistency(consistency(level)).await;
                client.recorder.returned(op, told(op, erased));
            }
            1..13 => write(&client, &key, kind(&mut pace.rng), level).await,
            _ => drop(read(&client, &key, level).await),
        }
    }
}

async fn write(client: &Client, key: &str, kind: Kind, level: Level) {
    let action = Action::Write { kind, level, expires: false };
    let op = client.recorder.invoke(client.host, key, action);
    let written = put(&bucket(client), key, op, kind, level).await;
    client.recorder.returned(op, told(op, written));
}

async fn put(bucket: &Of<Any>, key: &str, op: OpId, kind: Kind, level: Level) -> Result<(), KvError> {
    let (level, name, value) = (consistency(level), op.0.to_be_bytes(), value_of(op));
    match kind {
        Kind::Causal => bucket.causal().put(key, value).consistency(level).await.map(drop),
        Kind::LastWriterWins => bucket.last_writer_wins().put(key, value).consistency(level).await,
        Kind::Counter => bucket.counters().add(key, 1).consistency(level).await.map(drop),
        Kind::Set => bucket.sets().update(key, |set| set.add(name)).consistency(level).await.map(drop),
        Kind::Map => bucket.maps().update(key, |map| map.set(name, value)).consistency(level).await.map(drop),
    }
}

/// Reads a key. Returns whether it succeeded.
pub(super) async fn read(client: &Client, key: &str, level: Level) -> bool {
    let op = client.recorder.invoke(client.host, key, Action::Read(level));
    let read = bucket(client).get(key).consistency(consistency(level)).await;
    let is_read = read.is_ok();
    let outcome = match read {
        Ok(None) => Outcome::Done(Vec::new()),
        Ok(Some(value)) => held(&value).unwrap_or_else(|| {
            client.garbage(key);
            Outcome::NotApplied
        }),
        Err(error) => outcome_of(op, &error),
    };
    client.recorder.returned(op, outcome);
    is_read
}

/// What a value holds; `None` if no client can have written it.
fn held(value: &Value) -> Option<Outcome> {
    let kind = super::kind_of(value.kind());
    let (found, total): (Option<Vec<OpId>>, u64) = match value {
        Value::Causal(entry) => (entry.values().iter().map(|value| writer_of(value)).collect(), 0),
        Value::LastWriterWins(value) => (writer_of(value).map(|op| vec![op]), 0),
        Value::Counter(total) => (Some(Vec::new()), u64::try_from(*total).ok()?),
        Value::Set(elements) => (elements.iter().map(|element| number(element).map(OpId)).collect(), 0),
        Value::Map(fields) => {
            let written = |(name, value): (&bytes::Bytes, &bytes::Bytes)| {
                writer_of(value).filter(|op| number(name) == Some(op.0))
            };
            (fields.iter().map(written).collect(), 0)
        }
        _ => return None,
    };
    let mut found = found?;
    found.sort_unstable();
    Some(Outcome::Held { kind, found, total })
}
