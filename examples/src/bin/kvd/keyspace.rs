//! The one keyspace that clients see: where it is in the store, and how a key's kind is found.
//!
//! The first write to a key says of which kind it is, and the store refuses every other kind while anything is there. Nobody
//! here remembers kinds: a call says which it is for, and what the store answers says which there is. All that the program
//! asks the store for, it asks here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use polity::kv::{Bucket, Causal, Counter, Kind, LastWriterWins, Map, Set};
use polity::{Kv, KvError};

/// The bucket.
const BUCKET: &str = "redis";
/// How often a key is looked at again that was deleted, and written as another kind, between two looks.
const MAX_LOOKS: usize = 4;

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Others changed the key's kind as often as it was looked at. Nothing was written.
    #[error("the key changed its kind whenever it was looked at; nothing was written")]
    Restless,
}

type Result<T> = std::result::Result<T, KeyError>;

/// What a command for strings finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Bytes(Bytes),
    Number(i128),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Keyspace {
    strings: Bucket<LastWriterWins>,
    counters: Bucket<Counter>,
    sets: Bucket<Set>,
    maps: Bucket<Map>,
    /// Nothing is ever written through it: what it refuses to read is of the kind that it then names.
    probe: Bucket<Causal>,
}

impl Keyspace {
    pub(crate) fn new(kv: &Kv) -> std::result::Result<Self, KvError> {
        Ok(Self {
            strings: kv.bucket(BUCKET)?.last_writer_wins(),
            counters: kv.bucket(BUCKET)?.counter(),
            sets: kv.bucket(BUCKET)?.set(),
            maps: kv.bucket(BUCKET)?.map(),
            probe: kv.bucket(BUCKET)?.causal(),
        })
    }

    /// Of which kind a key is; `None` if nothing is there.
    pub(crate) async fn kind(&self, key: &Bytes) -> Result<Option<Kind>> {
        match self.probe.get(key).await {
            Ok(_) => Ok(None),
            Err(KvError::WrongKind { found, .. }) => Ok(Some(found)),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a key, of whatever kind. Says whether anything was there.
    pub(crate) async fn delete(&self, key: &Bytes) -> Result<bool> {
        let mut kind = Kind::LastWriterWins;
        for _ in 0..MAX_LOOKS {
            let deleted = match kind {
                Kind::Counter => self.counters.delete(key).await,
                Kind::Set => self.sets.delete(key).await,
                Kind::Map => self.maps.delete(key).await,
                _ => self.strings.delete(key).await,
            };
            match deleted {
                Err(KvError::WrongKind { found, .. }) => kind = found,
                deleted => return Ok(deleted?),
            }
        }
        Err(KeyError::Restless)
    }

    /// When a key expires, as a time since the Unix epoch: `Some(None)` if never, `None` if nothing is there.
    pub(crate) async fn expires(&self, key: &Bytes) -> Result<Option<Option<Duration>>> {
        for _ in 0..MAX_LOOKS {
            let expires = match self.kind(key).await? {
                None => return Ok(None),
                Some(Kind::Counter) => self.counters.expires(key).await,
                Some(Kind::Set) => self.sets.expires(key).await,
                Some(Kind::Map) => self.maps.expires(key).await,
                Some(_) => self.strings.expires(key).await,
            };
            match expires {
                Err(KvError::WrongKind { .. }) => {}
                expires => return Ok(Some(expires?)),
            }
        }
        Err(KeyError::Restless)
    }

    /// Sets when a key expires, of whatever kind: after this time, or never. Says whether anything was there.
    pub(crate) async fn expire(&self, key: &Bytes, after: Option<Duration>) -> Result<bool> {
        for _ in 0..MAX_LOOKS {
            let expired = match self.kind(key).await? {
                None => return Ok(false),
                Some(Kind::Counter) => self.counters.expire(key, after).await,
                Some(Kind::Set) => self.sets.expire(key, after).await,
                Some(Kind::Map) => self.maps.expire(key, after).await,
                Some(_) => self.strings.expire(key, after).await,
            };
            match expired {
                Err(KvError::WrongKind { .. }) => {}
                expired => return Ok(expired.map(|()| true)?),
            }
        }
        Err(KeyError::Restless)
    }

    /// A string, or what a counter stands at.
    pub(crate) async fn get(&self, key: &Bytes) -> Result<Option<Text>> {
        match self.strings.get(key).await {
            Ok(value) => Ok(value.map(Text::Bytes)),
            Err(KvError::WrongKind { found: Kind::Counter, .. }) => match self.counters.get(key).await? {
                // Nothing reads as 0 too: it may have gone since.
                0 if self.kind(key).await?.is_none() => Ok(None),
                total => Ok(Some(Text::Number(total))),
            },
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn set(&self, key: &Bytes, value: Bytes, ttl: Option<Duration>) -> Result<()> {
        let put = self.strings.put(key, value);
        let put = match ttl {
            Some(ttl) => put.ttl(ttl),
            None => put,
        };
        Ok(put.await?)
    }

    /// Adds to a counter, and returns what it stands at then, as far as a quorum knows.
    pub(crate) async fn add(&self, key: &Bytes, by: i64) -> Result<i128> {
        Ok(self.counters.add(key, by).await?)
    }

    pub(crate) async fn members(&self, key: &Bytes) -> Result<BTreeSet<Bytes>> {
        Ok(self.sets.get(key).await?)
    }

    /// Returns how many were new.
    pub(crate) async fn add_members(&self, key: &Bytes, members: &[Bytes]) -> Result<u32> {
        Ok(self.sets.update(key, |set| members.iter().fold(set, |set, member| set.add(member))).await?)
    }

    /// Returns how many are gone.
    pub(crate) async fn remove_members(&self, key: &Bytes, members: &[Bytes]) -> Result<u32> {
        Ok(self.sets.update(key, |set| members.iter().fold(set, |set, member| set.remove(member))).await?)
    }

    pub(crate) async fn fields(&self, key: &Bytes) -> Result<BTreeMap<Bytes, Bytes>> {
        Ok(self.maps.get(key).await?)
    }

    /// Sets fields, each followed by its value. Returns how many were new.
    pub(crate) async fn set_fields(&self, key: &Bytes, pairs: &[Bytes]) -> Result<u32> {
        let (pairs, _) = pairs.as_chunks::<2>();
        let set =
            self.maps.update(key, |map| pairs.iter().fold(map, |map, [field, value]| map.set(field, value.clone())));
        Ok(set.await?)
    }

    /// Returns how many are gone.
    pub(crate) async fn remove_fields(&self, key: &Bytes, fields: &[Bytes]) -> Result<u32> {
        Ok(self.maps.update(key, |map| fields.iter().fold(map, |map, field| map.remove(field))).await?)
    }
}
