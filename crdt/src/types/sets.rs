//! Sets.

use std::borrow::Borrow;

use crate::store::{Crdt, Delta, DotFun, DotFunDelta, DotMap, DotMapDelta, Key};
use crate::types::is_store;
use crate::{Error, VersionVector, Writer};

/// A set that only grows.
#[derive(Clone, PartialEq, Debug)]
pub struct GSet<E>(DotMap<E, DotFun<()>>);
is_store!([E: Key] GSet<E> = DotMap<E, DotFun<()>>);

/// A set in which an element that is added and removed concurrently stays: an observed-remove set.
#[derive(Clone, PartialEq, Debug)]
pub struct AwSet<E>(DotMap<E, DotFun<()>>);
is_store!([E: Key] AwSet<E> = DotMap<E, DotFun<()>>);

/// A set in which an element that is added and removed concurrently goes.
///
/// A remove leaves a mark, which an add that has seen it takes away. Marks that every replica has seen are dropped (see
/// [`crate::sync`]); until then an element that was removed costs as much as one that is there.
#[derive(Clone, PartialEq, Debug)]
pub struct RwSet<E>(DotMap<E, DotFun<bool>>);
is_store!([E: Key] RwSet<E> = DotMap<E, DotFun<bool>>;
    const LEAVES_MARKS: bool = true;

    fn marks(&self) -> impl Iterator<Item = VersionVector> {
        self.0.iter().filter(|(_, marks)| !is_in(marks)).map(|(_, marks)| marks.dots())
    }

    // The writer of an add that lies beside a remove has had both live: the remove beats it, and it goes too. An add that
    // comes later is of a writer who had the remove, or had heard of what replaced it.
    fn collect(&self, stable: &VersionVector) -> Option<Self::Delta> {
        let done = self.0.iter().filter(|(_, marks)| !is_in(marks) && stable.covers(&marks.dots()));
        let parts = done.map(|(element, marks)| {
            let mut part = DotFunDelta::default();
            part.kill(&marks.dots());
            (element.clone(), part)
        });
        let parts: Vec<_> = parts.collect();
        (!parts.is_empty()).then(|| DotMapDelta::of(parts))
    }
);

impl<E> Default for GSet<E> {
    fn default() -> Self {
        Self(DotMap::default())
    }
}

impl<E> Default for AwSet<E> {
    fn default() -> Self {
        Self(DotMap::default())
    }
}

impl<E> Default for RwSet<E> {
    fn default() -> Self {
        Self(DotMap::default())
    }
}

type SetDelta<E, V> = DotMapDelta<E, DotFunDelta<V>>;

/// A fresh dot under an element, in place of those that are seen.
fn mark<E: Key, V: crate::store::Value>(
    entries: &DotMap<E, DotFun<V>>,
    w: &mut Writer<'_>,
    element: E,
    mark: V,
) -> Result<Option<SetDelta<E, V>>, Error> {
    let seen = entries.get(&element).map(DotFun::dots).unwrap_or_default();
    Ok(Some(DotMapDelta::at(element, DotFunDelta::write(w.dot()?, mark, seen))))
}

impl<E: Key> GSet<E> {
    /// Whether an element is in it.
    pub fn contains<Q: Ord + ?Sized>(&self, element: &Q) -> bool
    where
        E: Borrow<Q>,
    {
        self.0.get(element).is_some()
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &E> {
        self.0.iter().map(|(element, _)| element)
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an element. One that is there already changes nothing.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn add(&self, w: &mut Writer<'_>, element: E) -> Result<Option<SetDelta<E, ()>>, Error> {
        if self.contains(&element) { Ok(None) } else { mark(&self.0, w, element, ()) }
    }
}

impl<E: Key> AwSet<E> {
    /// Whether an element is in it.
    pub fn contains<Q: Ord + ?Sized>(&self, element: &Q) -> bool
    where
        E: Borrow<Q>,
    {
        self.0.get(element).is_some()
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &E> {
        self.0.iter().map(|(element, _)| element)
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an element: also if it is there already, because a concurrent remove shall lose. The state does not grow by
    /// that.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn add(&self, w: &mut Writer<'_>, element: E) -> Result<Option<SetDelta<E, ()>>, Error> {
        mark(&self.0, w, element, ())
    }

    /// The writes that an element is there by; `None` if it is not there.
    #[must_use]
    pub fn dots<Q: Ord + ?Sized>(&self, element: &Q) -> Option<VersionVector>
    where
        E: Borrow<Q>,
    {
        self.0.get(element).map(DotFun::dots)
    }

    /// Removes an element as far as it is seen; nothing, if it is not there.
    #[must_use]
    pub fn remove<Q: Ord + ?Sized>(&self, element: &Q) -> Option<SetDelta<E, ()>>
    where
        E: Borrow<Q>,
    {
        let (element, marks) = self.0.get_key_value(element)?;
        let mut part = DotFunDelta::default();
        part.kill(&marks.dots());
        Some(DotMapDelta::at(element.clone(), part))
    }
}

impl<E: Key> RwSet<E> {
    /// Whether an element is in it.
    pub fn contains<Q: Ord + ?Sized>(&self, element: &Q) -> bool
    where
        E: Borrow<Q>,
    {
        self.0.get(element).is_some_and(is_in)
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.0.iter().filter(|(_, marks)| is_in(marks)).map(|(element, _)| element)
    }

    /// How many elements there are. Looks at everything.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Adds an element, in spite of the removes that are seen.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn add(&self, w: &mut Writer<'_>, element: E) -> Result<Option<SetDelta<E, bool>>, Error> {
        mark(&self.0, w, element, true)
    }

    /// Removes an element: also if it is not there, because a concurrent add shall lose.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn remove(&self, w: &mut Writer<'_>, element: E) -> Result<Option<SetDelta<E, bool>>, Error> {
        mark(&self.0, w, element, false)
    }

    /// How many elements are kept for the sake of their removes.
    #[must_use]
    pub fn removed(&self) -> usize {
        self.0.iter().filter(|(_, marks)| !is_in(marks)).count()
    }
}

/// An element with marks is in the set if none of them is of a remove.
fn is_in(marks: &DotFun<bool>) -> bool {
    marks.iter().all(|(_, added)| *added) && !marks.is_bottom()
}
