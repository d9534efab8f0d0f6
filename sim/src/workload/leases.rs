//! Leases: what is written to expire, made to last longer or for ever, deleted, and looked for before and after its time.
//!
//! A key has one writer and a span of time: `c<host>-<span>` is in a causal bucket, `l<host>-<span>` in one of which the latest
//! write stays. So what a late write does to one key says nothing of the next.

use std::time::Duration;

use polity::kv::{Bucket, BucketConfig, Causal, LastWriterWins};
use rand::RngExt as _;

use super::{Client, Pace, Workload, outcome_of, value_of, writer_of};
use crate::history::{Action, Event, OpId, Outcome};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "leases",
    about: "what is written expires, is made to last longer or for ever, or is deleted, and is looked for from everywhere",
    keys: |_| Vec::new(),
    clients: |client, paces| {
        let mut tasks: Vec<polity::cluster::BoxFuture<'static, ()>> = Vec::new();
        for kind in KINDS {
            tasks.push(Box::pin(write(client.clone(), kind, paces.next())));
        }
        tasks.extend((0..2).map(|_| Box::pin(look(client.clone(), paces.next())) as _));
        tasks
    },
    observers: |_| Vec::new(),
    read: |_, _| Box::pin(async { true }),
};

/// Causal, and the latest stays.
const KINDS: [char; 2] = ['c', 'l'];
/// For how long a key is written.
const SPAN: Duration = Duration::from_secs(5);
/// How soon what is written expires, in milliseconds.
const SOON: std::ops::Range<u32> = 100..3000;

/// Its buckets.
pub(super) const BUCKETS: [(&str, BucketConfig); 2] =
    [("leases", BucketConfig::last_writer_wins()), ("causal leases", BucketConfig::causal())];

fn latest(client: &Client) -> Bucket<LastWriterWins> {
    client.node.kv().bucket("leases").expect("it is declared")
}

fn causal(client: &Client) -> Bucket<Causal> {
    client.node.kv().bucket("causal leases").expect("it is declared")
}

fn is_latest(key: &str) -> bool {
    key.starts_with('l')
}

/// In which span of the run it is now.
fn span() -> u64 {
    turmoil::sim_elapsed().unwrap_or_default().as_secs() / SPAN.as_secs()
}

async fn write(client: Client, kind: char, mut pace: Pace) {
    let mut given_up = None;
    while pace.next().await {
        let span = span();
        if given_up == Some(span) {
            continue;
        }
        let key = format!("{kind}{}-{span}", client.host.0);
        let soon = pace.rng.random_range(SOON);
        let action = match pace.rng.random_range(0..10) {
            0..5 => Action::Lease(soon),
            5..7 => Action::Expire(Some(soon)),
            7 => Action::Expire(None),
            8 => Action::End,
            _ => {
                tokio::time::sleep(Duration::from_millis(soon.into())).await;
                continue;
            }
        };
        let op = client.recorder.invoke(client.host, &key, action);
        let outcome = act(&client, &key, op, action).await;
        // What becomes of it later would leave open what is there.
        given_up = (outcome == Outcome::Unknown).then_some(span);
        client.recorder.returned(op, outcome);
    }
}

async fn act(client: &Client, key: &str, op: OpId, action: Action) -> Outcome {
    let (latest, causal, ms) = (latest(client), causal(client), |ms: u32| Duration::from_millis(ms.into()));
    let done = || Outcome::Done(Vec::new());
    let retimed = |found: bool| Outcome::Total(found.into());
    let outcome = match (action, is_latest(key)) {
        (Action::Lease(soon), true) => latest.put(key, value_of(op)).ttl(ms(soon)).await.map(|()| done()),
        (Action::Lease(soon), false) => causal.put(key, value_of(op)).ttl(ms(soon)).await.map(|_| done()),
        (Action::Expire(after), true) => latest.expire(key, after.map(ms)).await.map(retimed),
        (Action::Expire(after), false) => causal.expire(key, after.map(ms)).await.map(retimed),
        (_, true) => latest.delete(key).await.map(|_| done()),
        (_, false) => causal.delete(key).await.map(|_| done()),
    };
    outcome.unwrap_or_else(|error| outcome_of(op, &error))
}

async fn look(client: Client, mut pace: Pace) {
    while pace.next().await {
        // What is written now, what was just before, and what was at any time.
        let span = match (pace.rng.random_range(0..4), span()) {
            (0, now) => pace.rng.random_range(0..=now),
            (1, now) => now.saturating_sub(1),
            (_, now) => now,
        };
        let kind = KINDS[pace.rng.random_range(0..KINDS.len())];
        let key = format!("{kind}{}-{span}", pace.rng.random_range(0..client.hosts));
        let op = client.recorder.invoke(client.host, &key, Action::Look);
        let read = if is_latest(&key) {
            latest(&client).get(&key).await.map(|value| value.into_iter().collect::<Vec<_>>())
        } else {
            causal(&client).get(&key).await.map(|entry| entry.values().to_vec())
        };
        let outcome = match read {
            Ok(values) => {
                let mut found: Vec<OpId> = values.iter().filter_map(|value| writer_of(value)).collect();
                if found.len() < values.len() {
                    client.recorder.event(Event::Garbage { host: client.host, key });
                }
                found.sort_unstable();
                Outcome::Done(found)
            }
            Err(error) => outcome_of(op, &error),
        };
        client.recorder.returned(op, outcome);
    }
}
