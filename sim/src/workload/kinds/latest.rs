//! Last values, `kl<i>`, which all clients write, delete, read, scan and count, each mostly in its span of time, so that what a split has
//! left of it is found; and others, `kt<i>`, that expire.

use std::time::Duration;

use polity::kv::{Bucket, LastWriterWins};
use rand::RngExt as _;

use super::super::{Client, Pace, outcome_of, value_of, writer_of};
use super::{consistency, level, span, told};
use crate::history::{Action, Kind, Level, Outcome};

/// How many keys there are that do not expire, and that do.
const KEYS: u8 = 12;
const FADING: u8 = 2;
/// For how long a key is written; they begin again when that is over.
const SPAN: Duration = Duration::from_secs(4);
/// What begins the keys that do not expire: it stands for all of them.
pub(super) const ALL: &str = "kl";
/// How soon a value expires, in milliseconds.
const SOON: std::ops::Range<u64> = 100..3000;
/// Longer than a run, and than any clock is off.
const LATE: Duration = Duration::from_secs(3 * 3600);
/// How long a client scans: less than what it may take until all clients have ended.
const SCANS_WITHIN: Duration = Duration::from_millis(2500);

pub(super) fn keys() -> Vec<String> {
    let keys = (0..KEYS).map(|i| format!("{ALL}{i}")).chain((0..FADING).map(|i| format!("kt{i}")));
    keys.chain([ALL.to_owned()]).collect()
}

pub(super) fn bucket(client: &Client, key: &str) -> Bucket<LastWriterWins> {
    let name = if key.starts_with(ALL) { "latest" } else { "fading" };
    client.node.kv().bucket(name).expect("it is declared")
}

pub(super) async fn act(client: Client, mut pace: Pace) {
    while pace.next().await {
        let (rng, now) = (&mut pace.rng, (span(SPAN) % u64::from(KEYS)) as u8);
        let (level, any) = (level(rng), rng.random_range(0..KEYS));
        let key = |at: u8| format!("{ALL}{at}");
        match rng.random_range(0..20) {
            0 => {
                // One that is given up has found nothing out.
                let op = client.recorder.invoke(client.host, ALL, Action::Scan);
                let scanned = tokio::time::timeout(SCANS_WITHIN, scan(&client)).await;
                client.recorder.returned(op, scanned.unwrap_or(Outcome::NotApplied));
            }
            1 => drop(count(&client).await),
            2 => {
                let stays = key(now);
                let op = client.recorder.invoke(client.host, &stays, Action::Erase(level));
                let erased = bucket(&client, &stays).delete(&stays).consistency(consistency(level)).await;
                client.recorder.returned(op, told(op, erased));
            }
            3..5 => {
                let fades = format!("kt{}", rng.random_range(0..FADING));
                let soon = Duration::from_millis(rng.random_range(SOON));
                // Of a clock that is wrong nobody knows when it will be so late.
                write(&client, &fades, level, Some(if clock_is_right(&client) { soon } else { LATE })).await;
                read(&client, &fades, level).await;
            }
            5..12 => write(&client, &key(now), level, None).await,
            12..16 => drop(read(&client, &key(now), level).await),
            _ => drop(read(&client, &key(any), level).await),
        }
    }
}

/// Whether the wall clock of this host shows the time.
pub(super) fn clock_is_right(client: &Client) -> bool {
    let time = turmoil::since_epoch().unwrap_or_default();
    client.node.kv().idempotency_key([]).since().abs_diff(time) < Duration::from_millis(100)
}

async fn write(client: &Client, key: &str, level: Level, ttl: Option<Duration>) {
    let action = Action::Write { kind: Kind::LastWriterWins, level, expires: ttl.is_some() };
    let op = client.recorder.invoke(client.host, key, action);
    let bucket = bucket(client, key);
    let put = bucket.put(key, value_of(op)).consistency(consistency(level));
    let put = match ttl {
        Some(ttl) => put.ttl(ttl).await,
        None => put.await,
    };
    client.recorder.returned(op, told(op, put));
}

/// Reads a key. Returns whether it succeeded.
pub(super) async fn read(client: &Client, key: &str, level: Level) -> bool {
    let op = client.recorder.invoke(client.host, key, Action::Read(level));
    let read = bucket(client, key).get(key).consistency(consistency(level)).await;
    let outcome = match &read {
        Ok(None) => Outcome::Done(Vec::new()),
        Ok(Some(value)) => {
            let found = writer_of(value).into_iter().collect::<Vec<_>>();
            if found.is_empty() {
                client.garbage(key);
            }
            Outcome::Held { kind: Kind::LastWriterWins, found, total: 0 }
        }
        Err(error) => outcome_of(op, error),
    };
    client.recorder.returned(op, outcome);
    read.is_ok()
}

/// Goes through all keys that do not expire.
async fn scan(client: &Client) -> Outcome {
    let (bucket, mut found) = (bucket(client, ALL), Vec::new());
    let mut scan = bucket.scan(ALL);
    loop {
        match scan.next().await {
            Ok(None) => break,
            Ok(Some((_, value))) => match writer_of(&value) {
                Some(op) => found.push(op),
                None => client.garbage(ALL),
            },
            Err(_) => return Outcome::NotApplied,
        }
    }
    found.sort_unstable();
    Outcome::Done(found)
}

async fn count(client: &Client) -> bool {
    let op = client.recorder.invoke(client.host, ALL, Action::Len);
    let len = bucket(client, ALL).len().await;
    let outcome = len.as_ref().map_or_else(|error| outcome_of(op, error), |len| Outcome::Total(*len));
    client.recorder.returned(op, outcome);
    len.is_ok()
}

/// Returns whether both succeeded.
pub(super) async fn scan_and_count(client: &Client) -> bool {
    let op = client.recorder.invoke(client.host, ALL, Action::Scan);
    let outcome = scan(client).await;
    let is_done = matches!(outcome, Outcome::Done(_));
    client.recorder.returned(op, outcome);
    is_done && count(client).await
}
