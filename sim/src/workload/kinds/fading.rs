//! A set and a counter, `ks0` and `kn0`, to which all clients add for some time, again and again, and which expire as a whole in between.
//! Once they have, something is added to them that does not expire until the next time. In every third span half is added at level `One`, to
//! expire soon: one that is cut off gives a time of which others hear when it is over.

use std::time::Duration;

use polity::kv::{Bucket, Counter, Put};
use rand::RngExt as _;

use super::super::{Client, Pace, outcome_of};
use super::latest::clock_is_right;
use super::members::members;
use super::{consistency, number, told};
use crate::history::{Action, Level, OpId, Outcome};

/// The set, and the counter.
const KEYS: [&str; 2] = ["ks0", "kn0"];
/// They are added to at the beginning of each span; what was added under the last deadline of one has expired before the next.
const SPAN: Duration = Duration::from_secs(7);

/// How a span goes.
struct Phases {
    /// How soon what is added expires, with all that is there, in milliseconds.
    soon_ms: u32,
    /// For so long it is added to.
    added: Duration,
    /// From then on all has expired.
    over: Duration,
    /// Of what is added so much is at level `One`.
    alone: f64,
}

const SLOW: Phases = Phases { soon_ms: 2000, added: Duration::from_secs(2), over: Duration::from_secs(5), alone: 0.0 };
const FAST: Phases =
    Phases { soon_ms: 800, added: Duration::from_secs(1), over: Duration::from_millis(2500), alone: 0.5 };
/// Nothing is added from then on.
const LAST: Duration = Duration::from_secs(6);

pub(super) fn keys() -> Vec<String> {
    KEYS.map(str::to_owned).to_vec()
}

pub(super) fn counters(client: &Client) -> Bucket<Counter> {
    client.node.kv().bucket("counters").expect("it is declared")
}

pub(super) fn is_counter(key: &str) -> bool {
    key == KEYS[1]
}

pub(super) async fn act(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = KEYS[pace.rng.random_range(0..KEYS.len())];
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let (span, of_span) = (now.as_nanos() / SPAN.as_nanos(), now.as_nanos() % SPAN.as_nanos());
        let of_span = Duration::from_nanos(of_span as u64);
        let Phases { soon_ms, added, over, alone } = if span % 3 == 2 { FAST } else { SLOW };
        // Who is early or late by hours would let all of it last as long.
        if of_span < added && pace.rng.random_range(0..3) > 0 && clock_is_right(&client) {
            let level = if pace.rng.random_bool(alone) { Level::One } else { Level::Quorum };
            add(&client, key, Some(soon_ms), level).await;
        } else if (over..LAST).contains(&of_span) && pace.rng.random_range(0..3) == 0 {
            add(&client, key, None, Level::Quorum).await;
        } else {
            read(&client, key).await;
        }
    }
}

async fn add(client: &Client, key: &str, soon_ms: Option<u32>, level: Level) {
    let op = client.recorder.invoke(client.host, key, Action::Fade { ms: soon_ms, level });
    let ttl = soon_ms.map(|ms| Duration::from_millis(ms.into()));
    let added = match is_counter(key) {
        true => timed(counters(client).add(key, 1), ttl).consistency(consistency(level)).await.map(drop),
        false => {
            let members = members(client);
            let add = members.update(key, |set| set.add(op.0.to_be_bytes()));
            timed(add, ttl).consistency(consistency(level)).await.map(drop)
        }
    };
    client.recorder.returned(op, told(op, added));
}

fn timed<T>(put: Put<'_, T>, ttl: Option<Duration>) -> Put<'_, T> {
    match ttl {
        Some(ttl) => put.ttl(ttl),
        None => put,
    }
}

/// Reads a key. Returns whether it succeeded.
pub(super) async fn read(client: &Client, key: &str) -> bool {
    let op = client.recorder.invoke(client.host, key, Action::Faded);
    let read = if is_counter(key) {
        counters(client).get(key).await.map(|total| Outcome::Total(u64::try_from(total).unwrap_or(u64::MAX)))
    } else {
        members(client).get(key).await.map(|set| {
            let mut found: Vec<OpId> = set.iter().filter_map(|element| number(element).map(OpId)).collect();
            found.sort_unstable();
            Outcome::Done(found)
        })
    };
    let is_read = read.is_ok();
    client.recorder.returned(op, read.unwrap_or_else(|error| outcome_of(op, &error)));
    is_read
}
