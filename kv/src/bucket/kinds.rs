//! The kinds of buckets, as types: what a key of each gives.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use self::sealed::{Finished, Found, Sealed};
use crate::kv::{Context, Entry};
use crate::record::Kind;

/// Values that were written at the same time stay side by side: see [`Kind::Causal`]. A multi-value register (Shapiro and
/// others 2011).
#[derive(Debug, Clone, Copy)]
pub struct Causal;
/// The latest value stays: see [`Kind::LastWriterWins`]. A last-writer-wins register (Shapiro and others 2011).
#[derive(Debug, Clone, Copy)]
pub struct LastWriterWins;
/// A number to which is added: see [`Kind::Counter`].
#[derive(Debug, Clone, Copy)]
pub struct Counter;
/// A set of elements: see [`Kind::Set`].
#[derive(Debug, Clone, Copy)]
pub struct Set;
/// A map from fields to values: see [`Kind::Map`].
#[derive(Debug, Clone, Copy)]
pub struct Map;
/// The first write to a key says of which kind it is, until nothing is there any more.
#[derive(Debug, Clone, Copy)]
pub struct Any;

/// The kinds of buckets.
///
/// | kind | [`Value`](Self::Value) | [`Read`](Self::Read) | [`Deleted`](Self::Deleted) |
/// |---|---|---|---|
/// | [`Causal`] | [`Entry`] | [`Entry`], empty if nothing is there | [`Context`] |
/// | [`LastWriterWins`] | [`Bytes`] | `Option<Bytes>` | whether anything was there |
/// | [`Counter`] | `i128` | `i128`, 0 if nothing is there | whether anything was there |
/// | [`Set`] | `BTreeSet<Bytes>` | the same, empty if nothing is there | whether anything was there |
/// | [`Map`] | `BTreeMap<Bytes, Bytes>` | the same, empty if nothing is there | whether anything was there |
/// | [`Any`] | [`Value`] | `Option<Value>` | whether anything was there |
pub trait BucketKind: Sealed {
    /// What is under a key, if anything is.
    type Value: Send + 'static;
    /// What a read gives.
    type Read: Send + 'static;
    /// What a delete gives.
    type Deleted: Send + 'static;

    #[doc(hidden)]
    fn value(found: Found<'_>) -> Option<Self::Value>;
    #[doc(hidden)]
    fn read(found: Found<'_>) -> Self::Read;
    #[doc(hidden)]
    fn deleted(finished: Finished) -> Self::Deleted;
}

/// What is under a key of a bucket of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Value {
    /// Values side by side.
    Causal(Entry),
    /// The latest value.
    LastWriterWins(Bytes),
    /// What a counter stands at.
    Counter(i128),
    /// The elements of a set.
    Set(BTreeSet<Bytes>),
    /// The fields of a map.
    Map(BTreeMap<Bytes, Bytes>),
}

impl Value {
    /// Of which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Causal(_) => Kind::Causal,
            Self::LastWriterWins(_) => Kind::LastWriterWins,
            Self::Counter(_) => Kind::Counter,
            Self::Set(_) => Kind::Set,
            Self::Map(_) => Kind::Map,
        }
    }
}

pub(super) mod sealed {
    use crate::coordinator::Done;
    use crate::record::{Kind, Record};

    pub trait Sealed {
        /// `None`: any.
        const KIND: Option<Kind>;
    }

    /// What a key holds.
    #[derive(Debug)]
    pub struct Found<'a>(pub(crate) &'a Record);

    impl Found<'_> {
        /// Whether there is something of this kind.
        pub(super) fn is(&self, kind: Kind) -> bool {
            self.0.is_live() && self.0.kind() == kind
        }
    }

    /// What a write has done.
    #[derive(Debug)]
    pub struct Finished(pub(crate) Done);
}

/// Whether a delete has removed anything.
fn has_removed(Finished(done): Finished) -> bool {
    done.changed > 0
}

impl Sealed for Causal {
    const KIND: Option<Kind> = Some(Kind::Causal);
}
impl BucketKind for Causal {
    type Value = Entry;
    type Read = Entry;
    type Deleted = Context;
    fn value(found: Found<'_>) -> Option<Entry> {
        found.is(Kind::Causal).then(|| Self::read(found))
    }
    fn read(Found(record): Found<'_>) -> Entry {
        Entry::new(record)
    }
    fn deleted(Finished(done): Finished) -> Context {
        Context::of(done)
    }
}

impl Sealed for LastWriterWins {
    const KIND: Option<Kind> = Some(Kind::LastWriterWins);
}
impl BucketKind for LastWriterWins {
    type Value = Bytes;
    type Read = Option<Bytes>;
    type Deleted = bool;
    fn value(found: Found<'_>) -> Option<Bytes> {
        if found.is(Kind::LastWriterWins) { Self::read(found) } else { None }
    }
    fn read(Found(record): Found<'_>) -> Option<Bytes> {
        record.values().first().map(|value| value.0.clone())
    }
    fn deleted(finished: Finished) -> bool {
        has_removed(finished)
    }
}

impl Sealed for Counter {
    const KIND: Option<Kind> = Some(Kind::Counter);
}
impl BucketKind for Counter {
    type Value = i128;
    type Read = i128;
    type Deleted = bool;
    fn value(found: Found<'_>) -> Option<i128> {
        found.is(Kind::Counter).then(|| Self::read(found))
    }
    fn read(Found(record): Found<'_>) -> i128 {
        record.total()
    }
    fn deleted(finished: Finished) -> bool {
        has_removed(finished)
    }
}

impl Sealed for Set {
    const KIND: Option<Kind> = Some(Kind::Set);
}
impl BucketKind for Set {
    type Value = BTreeSet<Bytes>;
    type Read = BTreeSet<Bytes>;
    type Deleted = bool;
    fn value(found: Found<'_>) -> Option<BTreeSet<Bytes>> {
        found.is(Kind::Set).then(|| Self::read(found))
    }
    fn read(Found(record): Found<'_>) -> BTreeSet<Bytes> {
        record.elements().map(|element| element.0.clone()).collect()
    }
    fn deleted(finished: Finished) -> bool {
        has_removed(finished)
    }
}

impl Sealed for Map {
    const KIND: Option<Kind> = Some(Kind::Map);
}
impl BucketKind for Map {
    type Value = BTreeMap<Bytes, Bytes>;
    type Read = BTreeMap<Bytes, Bytes>;
    type Deleted = bool;
    fn value(found: Found<'_>) -> Option<BTreeMap<Bytes, Bytes>> {
        found.is(Kind::Map).then(|| Self::read(found))
    }
    fn read(Found(record): Found<'_>) -> BTreeMap<Bytes, Bytes> {
        record.fields().map(|(field, value)| (field.0.clone(), value.0.clone())).collect()
    }
    fn deleted(finished: Finished) -> bool {
        has_removed(finished)
    }
}

impl Sealed for Any {
    const KIND: Option<Kind> = None;
}
impl BucketKind for Any {
    type Value = Value;
    type Read = Option<Value>;
    type Deleted = bool;
    fn value(found: Found<'_>) -> Option<Value> {
        if !found.0.is_live() {
            return None;
        }
        match found.0.kind() {
            Kind::Causal => Causal::value(found).map(Value::Causal),
            Kind::LastWriterWins => LastWriterWins::value(found).map(Value::LastWriterWins),
            Kind::Counter => Counter::value(found).map(Value::Counter),
            Kind::Set => Set::value(found).map(Value::Set),
            Kind::Map => Map::value(found).map(Value::Map),
        }
    }
    fn read(found: Found<'_>) -> Option<Value> {
        Self::value(found)
    }
    fn deleted(finished: Finished) -> bool {
        has_removed(finished)
    }
}
