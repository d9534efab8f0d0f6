//! Maps.

use std::borrow::Borrow;
use std::ops::RangeBounds;

use crate::store::{Crdt, Delta, DotFun, DotFunDelta, DotMap, DotMapDelta, Key, Value};
use crate::types::{Nestable, is_store};
use crate::{Change, Error, ReplicaId, VersionVector, Writer};

/// A map of replicated values. A key is there while its value holds something live; an update of a value wins over a
/// concurrent remove of its key, as far as that has not seen it; and what two replicas do to one value joins as its type
/// says.
///
/// All values share one causal context, so that a key that comes back is not mistaken for one that was never there.
#[derive(Clone, PartialEq, Debug)]
pub struct OrMap<K, V>(DotMap<K, V>);
is_store!([K: Key, V: Nestable] OrMap<K, V> = DotMap<K, V>;
    const LEAVES_MARKS: bool = V::LEAVES_MARKS;

    fn marks(&self) -> impl Iterator<Item = VersionVector> {
        self.iter().flat_map(|(_, value)| value.marks())
    }

    fn collect(&self, stable: &VersionVector) -> Option<Self::Delta> {
        let parts = self.iter().filter_map(|(key, value)| Some((key.clone(), value.collect(stable)?)));
        let parts: Vec<_> = parts.collect();
        (!parts.is_empty()).then(|| DotMapDelta::of(parts))
    }
);

impl<K, V> Default for OrMap<K, V> {
    fn default() -> Self {
        Self(DotMap::default())
    }
}

impl<K: Key, V: Nestable> OrMap<K, V> {
    /// The value under a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// Whether a key is there.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The keys with their values, in the order of keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.0.iter()
    }

    /// The keys within a range with their values, in order.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.range(range)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes the value under a key, which is an empty one if the key is not there.
    ///
    /// ```
    /// # use polity_crdt::{OrMap, PnCounter, Replica, ReplicaId};
    /// let mut cart = Replica::<OrMap<String, PnCounter>>::new(ReplicaId(1));
    /// cart.update(|cart, w| cart.update(w, "apples".to_owned(), |quantity, w| quantity.add(w, 3)))?;
    /// assert_eq!(cart.get("apples").map(PnCounter::value), Some(3));
    /// # Ok::<(), polity_crdt::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the value's mutator.
    pub fn update(
        &self,
        w: &mut Writer<'_>,
        key: K,
        mutate: impl FnOnce(&V, &mut Writer<'_>) -> Change<V>,
    ) -> Result<Option<DotMapDelta<K, V::Delta>>, Error> {
        let part = match self.get(&key) {
            Some(value) => mutate(value, w)?,
            None => mutate(&V::default(), w)?,
        };
        Ok(part.filter(|part| !part.is_empty()).map(|part| DotMapDelta::at(key, part)))
    }

    /// Removes a key as far as it is seen; nothing, if it is not there.
    #[must_use]
    pub fn remove<Q: Ord + ?Sized>(&self, key: &Q) -> Option<DotMapDelta<K, V::Delta>>
    where
        K: Borrow<Q>,
    {
        let (key, value) = self.0.get_key_value(key)?;
        Some(DotMapDelta::at(key.clone(), removal(value)))
    }
}

/// The delta that removes all that is live.
fn removal<V: Crdt>(value: &V) -> V::Delta {
    let mut part = V::Delta::default();
    part.kill(&value.everything().live());
    part
}

/// A map in which each entry belongs to the replica that put it there, and no other writes it: for presence and
/// registries. Under one key there is at most one entry for each replica; an entry's version is the counter of its dot.
///
/// Whose an entry is follows from its dot, so an owner costs nothing beside it. An entry does not outlive its owner: in
/// [`AntiEntropy`](crate::sync::AntiEntropy), those of a departed actor go, and everyone concludes that by himself. Without
/// it, anybody may drop them ([`OwnerMap::drop_owner`]).
#[derive(Clone, PartialEq, Debug)]
pub struct OwnerMap<K, V>(DotMap<K, DotFun<V>>);
is_store!([K: Key, V: Value] OwnerMap<K, V> = DotMap<K, DotFun<V>>;
    const GOES_WITH_ITS_WRITER: bool = true;
);

impl<K, V> Default for OwnerMap<K, V> {
    fn default() -> Self {
        Self(DotMap::default())
    }
}

type OwnerDelta<K, V> = DotMapDelta<K, DotFunDelta<V>>;

/// An owner, the version of its entry, and its value.
type Owned<'a, V> = (ReplicaId, u64, &'a V);

/// The entries under one key: of each owner the latest, if it should ever have two.
fn owned<V>(store: &DotFun<V>) -> impl Iterator<Item = Owned<'_, V>> {
    let mut entries = store.iter().peekable();
    std::iter::from_fn(move || {
        let (mut dot, mut value) = entries.next()?;
        while let Some((later, newer)) = entries.next_if(|(later, _)| later.replica == dot.replica) {
            (dot, value) = (later, newer);
        }
        Some((dot.replica, dot.counter, value))
    })
}

impl<K: Key, V: Value> OwnerMap<K, V> {
    /// What a replica says under a key.
    pub fn get<Q: Ord + ?Sized>(&self, owner: ReplicaId, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.under(key).find(|(other, ..)| *other == owner).map(|(.., value)| value)
    }

    /// What all replicas say under a key: `(owner, version, value)`, by owner.
    pub fn under<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = (ReplicaId, u64, &V)>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flat_map(owned)
    }

    /// All entries `(owner, key, value)`, by key.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, &K, &V)> {
        self.0.iter().flat_map(|(key, store)| owned(store).map(move |(owner, _, value)| (owner, key, value)))
    }

    /// The entry's version: grows whenever it is written.
    pub fn version<Q: Ord + ?Sized>(&self, owner: ReplicaId, key: &Q) -> Option<u64>
    where
        K: Borrow<Q>,
    {
        self.under(key).find(|(other, ..)| *other == owner).map(|(_, version, _)| version)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes an entry of the writer's own. The same value again changes nothing.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn put(&self, w: &mut Writer<'_>, key: K, value: V) -> Result<Option<OwnerDelta<K, V>>, Error> {
        if self.get(w.replica(), &key).is_some_and(|old| *old == value) {
            return Ok(None);
        }
        let seen = self.dots_of(w.replica(), &key);
        Ok(Some(DotMapDelta::at(key, DotFunDelta::write(w.dot()?, value, seen))))
    }

    /// Removes an entry, which must be the writer's own. One that is not there changes nothing.
    ///
    /// # Errors
    /// [`Error::NotOwner`].
    pub fn remove(&self, w: &Writer<'_>, owner: ReplicaId, key: &K) -> Result<Option<OwnerDelta<K, V>>, Error> {
        if owner != w.replica() {
            return Err(Error::NotOwner { owner, writer: w.replica() });
        }
        let dots = self.dots_of(owner, key);
        Ok((!dots.is_empty()).then(|| removal_of(key.clone(), &dots)))
    }

    /// Drops all entries of a replica that will never write again; nothing, if there is none. Should it write after all,
    /// what it writes is kept.
    #[must_use]
    pub fn drop_owner(&self, owner: ReplicaId) -> Option<OwnerDelta<K, V>> {
        let parts = self.0.iter().filter_map(|(key, _)| {
            let dots = self.dots_of(owner, key);
            (!dots.is_empty()).then(|| removal_of::<K, V>(key.clone(), &dots))
        });
        parts.reduce(|mut all, part| {
            all.unite(part);
            all
        })
    }

    /// The dots of one owner under a key.
    fn dots_of(&self, owner: ReplicaId, key: &K) -> VersionVector {
        let dots = self.0.get(key).into_iter().flat_map(DotFun::iter).map(|(dot, _)| dot);
        dots.filter(|dot| dot.replica == owner).collect()
    }
}

/// The delta that removes these dots under a key.
fn removal_of<K: Key, V: Value>(key: K, dots: &VersionVector) -> OwnerDelta<K, V> {
    let mut part = DotFunDelta::default();
    part.kill(dots);
    DotMapDelta::at(key, part)
}

impl Nestable for crate::EwFlag {}
impl Nestable for crate::DwFlag {}
impl<V: Value> Nestable for crate::LwwRegister<V> {}
impl<V: Value> Nestable for crate::MvRegister<V> {}
impl Nestable for crate::GCounter {}
impl Nestable for crate::PnCounter {}
impl<E: Key> Nestable for crate::GSet<E> {}
impl<E: Key> Nestable for crate::AwSet<E> {}
impl<E: Key> Nestable for crate::RwSet<E> {}
impl<K: Key, V: Nestable> Nestable for OrMap<K, V> {}
