//! The one keyspace that clients see: a bucket of any kind.
//!
//! The first write to a key says of which kind it is, and the store refuses every other kind while anything is there. Nobody
//! here remembers kinds. All that the program asks the store for, it asks here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use polity::kv::{Any, Bucket, BucketConfig, Counter, Kind, LastWriterWins, Map, Set, Value};
use polity::{Kv, KvConfig, KvError};

/// The bucket.
const BUCKET: &str = "redis";

type Result<T> = std::result::Result<T, KvError>;

/// A store that has the keyspace.
pub(crate) fn config() -> KvConfig {
    KvConfig::default().bucket(BUCKET, BucketConfig::any())
}

/// What a command for strings finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Bytes(Bytes),
    Number(i128),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Keyspace {
    keys: Bucket<Any>,
    strings: Bucket<LastWriterWins>,
    counters: Bucket<Counter>,
    sets: Bucket<Set>,
    maps: Bucket<Map>,
}

impl Keyspace {
    /// Of a store that was started with [`config`].
    pub(crate) fn new(kv: &Kv) -> Result<Self> {
        let keys: Bucket<Any> = kv.bucket(BUCKET)?;
        let (strings, counters) = (keys.last_writer_wins(), keys.counters());
        let (sets, maps) = (keys.sets(), keys.maps());
        Ok(Self { keys, strings, counters, sets, maps })
    }

    /// Of which kind a key is; `None` if nothing is there.
    pub(crate) async fn kind(&self, key: &Bytes) -> Result<Option<Kind>> {
        self.keys.kind(key).await
    }

    /// Deletes a key, of whatever kind. Says whether anything was there.
    pub(crate) async fn delete(&self, key: &Bytes) -> Result<bool> {
        self.keys.delete(key).await
    }

    /// When a key expires, as a time since the Unix epoch: `Some(None)` if never, `None` if nothing is there.
    pub(crate) async fn expires(&self, key: &Bytes) -> Result<Option<Option<Duration>>> {
        match self.keys.expires(key).await? {
            None => Ok(self.keys.exists(key).await?.then_some(None)),
            expires => Ok(Some(expires)),
        }
    }

    /// Sets when a key expires, of whatever kind: after this time, or never. Says whether anything was there.
    pub(crate) async fn expire(&self, key: &Bytes, after: Option<Duration>) -> Result<bool> {
        match self.keys.expire(key, after).await {
            Err(KvError::Expired) => self.delete(key).await,
            done => done,
        }
    }

    /// A string, or what a counter stands at.
    pub(crate) async fn get(&self, key: &Bytes) -> Result<Option<Text>> {
        match self.keys.get(key).await? {
            None => Ok(None),
            Some(Value::LastWriterWins(bytes)) => Ok(Some(Text::Bytes(bytes))),
            Some(Value::Counter(total)) => Ok(Some(Text::Number(total))),
            Some(other) => Err(KvError::WrongKind { found: other.kind(), wanted: Kind::LastWriterWins }),
        }
    }

    pub(crate) async fn set(&self, key: &Bytes, value: Bytes, ttl: Option<Duration>) -> Result<()> {
        let put = self.strings.put(key, value);
        let put = match ttl {
            Some(ttl) => put.ttl(ttl),
            None => put,
        };
        match put.await {
            Err(KvError::Expired) => self.delete(key).await.map(drop),
            done => done,
        }
    }

    /// What a counter stands at; 0 if nothing is there.
    pub(crate) async fn total(&self, key: &Bytes) -> Result<i128> {
        self.counters.get(key).await
    }

    /// Adds to a counter, and returns what it stands at then, as far as a quorum knows.
    pub(crate) async fn add(&self, key: &Bytes, by: i64) -> Result<i128> {
        self.counters.add(key, by).await
    }

    pub(crate) async fn members(&self, key: &Bytes) -> Result<BTreeSet<Bytes>> {
        self.sets.get(key).await
    }

    /// Returns how many were new.
    pub(crate) async fn add_members(&self, key: &Bytes, members: &[Bytes]) -> Result<u32> {
        self.sets.update(key, |set| members.iter().fold(set, |set, member| set.add(member))).await
    }

    /// Returns how many are gone.
    pub(crate) async fn remove_members(&self, key: &Bytes, members: &[Bytes]) -> Result<u32> {
        self.sets.update(key, |set| members.iter().fold(set, |set, member| set.remove(member))).await
    }

    pub(crate) async fn fields(&self, key: &Bytes) -> Result<BTreeMap<Bytes, Bytes>> {
        self.maps.get(key).await
    }

    /// Sets fields, each followed by its value. Returns how many were new.
    pub(crate) async fn set_fields(&self, key: &Bytes, pairs: &[Bytes]) -> Result<u32> {
        let (pairs, _) = pairs.as_chunks::<2>();
        let set =
            self.maps.update(key, |map| pairs.iter().fold(map, |map, [field, value]| map.set(field, value.clone())));
        set.await
    }

    /// Returns how many are gone.
    pub(crate) async fn remove_fields(&self, key: &Bytes, fields: &[Bytes]) -> Result<u32> {
        self.maps.update(key, |map| fields.iter().fold(map, |map, field| map.remove(field))).await
    }
}
