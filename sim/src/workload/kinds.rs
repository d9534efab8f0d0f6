//! Keys of buckets of every kind, written from everywhere at all levels of consistency: see [`latest`], [`anything`],
//! [`members`] and [`fading`].

mod anything;
mod fading;
mod latest;
mod members;

use std::time::Duration;

use polity::kv::{Bucket, BucketConfig, BucketKind};
use polity::{Consistency, KvError, NodeId};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Client, Workload, outcome_of};
use crate::history::{Kind, Level, OpId, Outcome};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "kinds",
    about: "all clients write last values, maps, sets, and keys of any kind, at all levels, and read, scan and count them",
    keys: |_| [latest::keys(), anything::keys(), members::keys(), fading::keys()].concat(),
    clients: |client, paces| {
        vec![
            Box::pin(latest::act(client.clone(), paces.next())),
            Box::pin(anything::race(client.clone(), paces.next())),
            Box::pin(anything::act(client.clone(), paces.next())),
            Box::pin(members::add(client.clone(), paces.next())),
            Box::pin(members::change(client.clone(), paces.next())),
            Box::pin(fading::act(client.clone(), paces.next())),
        ]
    },
    observers: |_| Vec::new(),
    read: |client, key| {
        Box::pin(async move {
            match key.get(..2) {
                Some("ka") => anything::read(client, key, Level::Quorum).await,
                Some("kf" | "kc") => members::read(client, key).await,
                Some("ks" | "kn") => fading::read(client, key).await,
                _ if key == latest::ALL => latest::scan_and_count(client).await,
                _ => latest::read(client, key, Level::Quorum).await,
            }
        })
    },
};

/// Its buckets.
pub(super) const BUCKETS: [(&str, BucketConfig); 5] = [
    ("latest", BucketConfig::last_writer_wins()),
    ("fading", BucketConfig::last_writer_wins()),
    ("anything", BucketConfig::any()),
    ("fields", BucketConfig::map()),
    ("members", BucketConfig::set()),
];

/// Which hosts hold a key as a node believes, and a hash of its own copy; `None` if it is not one of these.
pub(super) fn held(client: &Client, key: &str) -> Option<(Vec<NodeId>, Option<u64>)> {
    fn of<K: BucketKind>(bucket: &Bucket<K>, key: &str) -> Option<(Vec<NodeId>, Option<u64>)> {
        Some((bucket.replicas(key), bucket.fingerprint(key).ok().flatten()))
    }
    match key.get(..2)? {
        "ka" => of(&anything::bucket(client), key),
        "kf" => of(&members::fields(client), key),
        "kc" if members::is_map(key) => of(&members::fields(client), key),
        "kc" => of(&members::members(client), key),
        "ks" => of(&members::members(client), key),
        "kn" => of(&fading::counters(client), key),
        "kl" | "kt" => of(&latest::bucket(client, key), key),
        _ => None,
    }
}

/// Mostly a quorum.
fn level(rng: &mut StdRng) -> Level {
    match rng.random_range(0..10) {
        0..3 => Level::One,
        3 => Level::All,
        _ => Level::Quorum,
    }
}

fn consistency(level: Level) -> Consistency {
    match level {
        Level::One => Consistency::One,
        Level::Quorum => Consistency::Quorum,
        Level::All => Consistency::All,
    }
}

/// The spans of time that have begun, of those that are so long.
fn span(length: Duration) -> u64 {
    (turmoil::sim_elapsed().unwrap_or_default().as_millis() / length.as_millis()) as u64
}

/// What the caller of a write was told.
fn told<T>(op: OpId, result: Result<T, KvError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done(Vec::new()),
        Err(KvError::WrongKind { found, .. }) => Outcome::OtherKind(kind_of(found)),
        Err(error) => outcome_of(op, &error),
    }
}

fn kind_of(kind: polity::kv::Kind) -> Kind {
    use polity::kv::Kind as Held;
    match kind {
        Held::LastWriterWins => Kind::LastWriterWins,
        Held::Counter => Kind::Counter,
        Held::Set => Kind::Set,
        Held::Map => Kind::Map,
        _ => Kind::Causal,
    }
}

/// The number that is an element's or a field's name.
fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().map(u64::from_be_bytes).ok()
}
