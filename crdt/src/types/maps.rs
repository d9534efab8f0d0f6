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

    fn has_marks(&self) -> bool {
        V::LEAVES_MARKS && self.iter().any(|(_, value)| value.has_marks())
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
/// registries. An entry's version is the counter of its dot.
///
/// Anybody may drop all entries of a replica that is gone.
#[derive(Clone, PartialEq, Debug)]
pub struct OwnerMap<K, V>(DotMap<(ReplicaId, K), DotFun<V>>);
is_store!([K: Key, V: Value] OwnerMap<K, V> = DotMap<(ReplicaId, K), DotFun<V>>);

impl<K, V> Default for OwnerMap<K, V> {
    fn default() -> Self {
        Self(DotMap::default())
    }
}

type OwnerDelta<K, V> = DotMapDelta<(ReplicaId, K), DotFunDelta<V>>;

impl<K: Key, V: Value> OwnerMap<K, V> {
    /// What a replica says under a key.
    pub fn get(&self, owner: ReplicaId, key: &K) -> Option<&V> {
        let entry = self.0.get(&(owner, key.clone()))?;
        entry.iter().last().map(|(_, value)| value)
    }

    /// All entries `(owner, key, value)`, by owner.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, &K, &V)> {
        let entries = self.0.iter().filter_map(|((owner, key), entry)| Some((*owner, key, entry.iter().last()?)));
        entries.map(|(owner, key, (_, value))| (owner, key, value))
    }

    /// The entry's version: grows whenever it is written.
    pub fn version(&self, owner: ReplicaId, key: &K) -> Option<u64> {
        let entry = self.0.get(&(owner, key.clone()))?;
        entry.iter().last().map(|(dot, _)| dot.counter)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
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
        let key = (w.replica(), key);
        let entry = self.0.get(&key);
        if entry.is_some_and(|entry| entry.iter().last().is_some_and(|(_, old)| *old == value)) {
            return Ok(None);
        }
        let seen = entry.map(DotFun::dots).unwrap_or_default();
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
        let key = (owner, key.clone());
        Ok(self.0.get(&key).map(removal).map(|part| DotMapDelta::at(key, part)))
    }

    /// Drops all entries of a replica that will never write again; nothing, if there is none. Should it write after all,
    /// what it writes is kept.
    #[must_use]
    pub fn drop_owner(&self, owner: ReplicaId) -> Option<OwnerDelta<K, V>> {
        let entries = self.0.iter().filter(|((whose, _), _)| *whose == owner);
        let parts = entries.map(|(key, entry)| DotMapDelta::at(key.clone(), removal(entry)));
        parts.reduce(|mut all, part| {
            all.unite(part);
            all
        })
    }
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
