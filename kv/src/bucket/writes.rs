//! What can be written to the keys of each kind.

use bytes::Bytes;

use super::Bucket;
use super::kinds::{Any, Causal, Counter, LastWriterWins, Map, Set};
use crate::call::{Get, Put, PutMany};
use crate::kv::Context;
use crate::record::{Blob, Kind, Step, Update};

impl Bucket<Causal> {
    /// Writes a value. Unless it is given a [`Put::context`], it replaces what a quorum knows when it is called.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put<'_, Context> {
        self.write(key, put(Kind::Causal, value), Context::of)
    }

    /// Writes many values, each as [`Bucket::put`] does without a context. See [`PutMany`].
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put_many<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> PutMany<'_, Context> {
        let updates = values.into_iter().map(|(key, value)| (key, put(Kind::Causal, value)));
        self.write_many(updates, Context::of)
    }
}

impl Bucket<LastWriterWins> {
    /// Writes a value, in the place of all that were written before.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put<'_, ()> {
        self.write(key, put(Kind::LastWriterWins, value), drop)
    }

    /// Writes many values, each as [`Bucket::put`] does. See [`PutMany`].
    #[must_use = "a write does nothing until it is awaited"]
    pub fn put_many<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> PutMany<'_, ()> {
        let updates = values.into_iter().map(|(key, value)| (key, put(Kind::LastWriterWins, value)));
        self.write_many(updates, drop)
    }
}

impl Bucket<Counter> {
    /// Adds to a counter. Returns what it stands at then, as far as a quorum knows: two that add at the same time may be
    /// told the same, so it is no unique number.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn add(&self, key: impl AsRef<[u8]>, by: i64) -> Put<'_, i128> {
        self.write(key, Update::of(Kind::Counter, vec![Step::Add(by)]), |done| done.total)
    }

    /// Adds to many counters, to each as [`Bucket::add`] does. See [`PutMany`].
    #[must_use = "a write does nothing until it is awaited"]
    pub fn add_many<K: AsRef<[u8]>>(&self, numbers: impl IntoIterator<Item = (K, i64)>) -> PutMany<'_, i128> {
        let add = |by| Update::of(Kind::Counter, vec![Step::Add(by)]);
        self.write_many(numbers.into_iter().map(|(key, by)| (key, add(by))), |done| done.total)
    }
}

/// What is to be done with a set, in this order.
#[derive(Debug, Default)]
#[must_use = "an update does nothing until it is returned"]
pub struct SetUpdate(Vec<Step>);

impl SetUpdate {
    /// Adds an element.
    #[allow(clippy::should_implement_trait, reason = "it is what one does with a set")]
    pub fn add(mut self, element: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Insert(element.as_ref().to_vec().into()));
        self
    }

    /// Removes an element. One that is added at the same time elsewhere stays.
    pub fn remove(mut self, element: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Remove(element.as_ref().to_vec().into()));
        self
    }
}

impl Bucket<Set> {
    /// Changes a set, as one write. Returns how many elements were new or are gone, as far as a quorum knows.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn update(&self, key: impl AsRef<[u8]>, change: impl FnOnce(SetUpdate) -> SetUpdate) -> Put<'_, u32> {
        let update = change(SetUpdate::default());
        self.write(key, Update::of(Kind::Set, update.0), |done| done.changed)
    }
}

/// What is to be done with a map, in this order.
#[derive(Debug, Default)]
#[must_use = "an update does nothing until it is returned"]
pub struct MapUpdate(Vec<Step>);

impl MapUpdate {
    /// Sets a field, in the place of what was set before.
    pub fn set(mut self, field: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.0.push(Step::Set(field.as_ref().to_vec().into(), Blob(value.into())));
        self
    }

    /// Removes a field. One that is set at the same time elsewhere stays.
    pub fn remove(mut self, field: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Remove(field.as_ref().to_vec().into()));
        self
    }
}

impl Bucket<Map> {
    /// Changes a map, as one write. Returns how many fields were new or are gone, as far as a quorum knows.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn update(&self, key: impl AsRef<[u8]>, change: impl FnOnce(MapUpdate) -> MapUpdate) -> Put<'_, u32> {
        let update = change(MapUpdate::default());
        self.write(key, Update::of(Kind::Map, update.0), |done| done.changed)
    }
}

/// Views of one kind each. To read or write a key that holds another kind fails with
/// [`KvError::WrongKind`](crate::KvError::WrongKind). A scan passes over such keys, to a watch nothing is under them, and
/// [`Bucket::len`] counts the keys of all kinds.
impl Bucket<Any> {
    /// Of which kind a key is; `None` if nothing is there, so that the next write says it.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn kind(&self, key: impl AsRef<[u8]>) -> Get<'_, Option<Kind>> {
        self.read(key, |record| record.is_live().then(|| record.kind()))
    }

    /// The keys that hold values side by side.
    #[must_use]
    pub fn causal(&self) -> Bucket<Causal> {
        self.view()
    }

    /// The keys that hold their latest value.
    #[must_use]
    pub fn last_writer_wins(&self) -> Bucket<LastWriterWins> {
        self.view()
    }

    /// The keys that hold counters.
    #[must_use]
    pub fn counters(&self) -> Bucket<Counter> {
        self.view()
    }

    /// The keys that hold sets.
    #[must_use]
    pub fn sets(&self) -> Bucket<Set> {
        self.view()
    }

    /// The keys that hold maps.
    #[must_use]
    pub fn maps(&self) -> Bucket<Map> {
        self.view()
    }
}

fn put(kind: Kind, value: impl Into<Bytes>) -> Update {
    Update::put(kind, Some(Blob(value.into())))
}
