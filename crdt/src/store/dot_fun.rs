//! Values under dots: what is at the bottom of every type.

use std::ops::Bound;

use super::few::Few;
use super::{Crdt, Delta, Fate, Observer, Value, Visitor, sealed};
use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;
use crate::{Dot, VersionVector};

/// Sorted by dot; most objects have one value and never a second at once.
type Entries<V> = Few<(Dot, V)>;

/// Puts an entry in its place. Returns whether there was none with its dot.
fn insert<V>(entries: &mut Entries<V>, entry: (Dot, V)) -> bool {
    let at = entries.as_slice().binary_search_by_key(&entry.0, |(dot, _)| *dot);
    at.map_err(|at| entries.insert(at, entry)).is_err()
}

/// Drops the entries under these dots, and shows which.
fn remove<V>(entries: &mut Entries<V>, dots: &VersionVector, mut gone: impl FnMut(Dot)) {
    entries.retain_mut(|(dot, _)| {
        let dead = dots.contains(*dot);
        if dead {
            gone(*dot);
        }
        !dead
    });
}

/// Values under dots.
#[derive(Clone, PartialEq, Debug)]
pub struct DotFun<V>(Entries<V>);

impl<V> Default for DotFun<V> {
    fn default() -> Self {
        Self(Few::None)
    }
}

impl<V> DotFun<V> {
    /// The values with their dots, in the order of dots.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Dot, &V)> {
        self.0.as_slice().iter().map(|(dot, value)| (*dot, value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dots of all values.
    #[must_use]
    pub fn dots(&self) -> VersionVector {
        self.iter().map(|(dot, _)| dot).collect()
    }
}

impl<V> sealed::Sealed for DotFun<V> {}

impl<V: Value> Crdt for DotFun<V> {
    type Key = ();
    type Delta = DotFunDelta<V>;

    fn is_bottom(&self) -> bool {
        self.is_empty()
    }

    fn apply(&mut self, delta: DotFunDelta<V>, seen: &VersionVector, observe: Observer<'_, ()>) {
        if !delta.dead.is_empty() {
            self.strike(&delta.dead, observe);
        }
        for (dot, value) in delta.live {
            if !seen.contains(dot) && insert(&mut self.0, (dot, value)) {
                observe(&(), dot, Fate::Came);
            }
        }
    }

    fn strike(&mut self, dots: &VersionVector, observe: Observer<'_, ()>) {
        remove(&mut self.0, dots, |dot| observe(&(), dot, Fate::Went));
    }

    fn visit(&self, from: Bound<&()>, visit: Visitor<'_, ()>) {
        if !matches!(from, Bound::Excluded(())) && !self.is_empty() {
            visit(&(), &mut self.iter().map(|(dot, _)| dot));
        }
    }

    fn pick(&self, wanted: Vec<((), VersionVector)>) -> DotFunDelta<V> {
        let mut picked = DotFunDelta::default();
        for ((), dots) in wanted {
            picked.unite(self.restrict(&dots));
            let dead = dots.difference(&picked.live());
            picked.kill(&dead);
        }
        picked
    }

    fn restrict(&self, dots: &VersionVector) -> DotFunDelta<V> {
        let live = self.0.as_slice().iter().filter(|(dot, _)| dots.contains(*dot)).cloned().collect();
        DotFunDelta { live, dead: VersionVector::new() }
    }

    fn everything(&self) -> DotFunDelta<V> {
        DotFunDelta { live: self.0.clone(), dead: VersionVector::new() }
    }
}

/// What became of some dots of a [`DotFun`].
#[derive(Clone, PartialEq, Debug)]
pub struct DotFunDelta<V> {
    live: Entries<V>,
    dead: VersionVector,
}

impl<V> Default for DotFunDelta<V> {
    fn default() -> Self {
        Self { live: Few::None, dead: VersionVector::new() }
    }
}

impl<V> DotFunDelta<V> {
    /// A new value in place of those under `dead`.
    pub(crate) fn write(dot: Dot, value: V, dead: VersionVector) -> Self {
        Self { live: Few::One((dot, value)), dead }
    }
}

impl<V> sealed::Sealed for DotFunDelta<V> {}

impl<V: Value> Delta for DotFunDelta<V> {
    fn is_empty(&self) -> bool {
        self.live.as_slice().is_empty() && self.dead.is_empty()
    }

    fn visit_live(&self, visit: &mut dyn FnMut(Dot)) {
        self.live.as_slice().iter().for_each(|(dot, _)| visit(*dot));
    }

    fn visit_dead(&self, visit: &mut dyn FnMut(&VersionVector)) {
        visit(&self.dead);
    }

    fn kill(&mut self, dots: &VersionVector) {
        remove(&mut self.live, dots, |_| ());
        self.dead.merge(dots);
    }

    fn withdraw(&mut self, dots: &VersionVector) {
        remove(&mut self.live, dots, |_| ());
    }

    fn unite(&mut self, other: Self) {
        self.dead.merge(&other.dead);
        for entry in other.live {
            insert(&mut self.live, entry);
        }
    }

    fn split_live(self, into: &mut Vec<Self>) {
        into.extend(self.live.into_iter().map(|entry| Self { live: Few::One(entry), dead: VersionVector::new() }));
    }

    fn encode_part(&self, to: &mut Encoder) {
        let live = self.live.as_slice();
        to.number((live.len() as u64) << 1 | u64::from(!self.dead.is_empty()));
        if !self.dead.is_empty() {
            to.dots(&self.dead);
        }
        for (dot, value) in live {
            to.dot(*dot);
            to.content(value);
        }
    }

    fn decode_part(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let header = from.number()?;
        let dead = if header & 1 == 1 { from.dots()? } else { VersionVector::new() };
        if header & 1 == 1 && dead.is_empty() {
            return Err(DecodeError::Order);
        }
        let count = from.fits(header >> 1)?;
        if count == 1 {
            return Ok(Self { live: Few::One((from.dot()?, from.content()?)), dead });
        }
        let mut live: Vec<(Dot, V)> = Vec::new();
        for _ in 0..count {
            let dot = from.dot()?;
            if live.last().is_some_and(|(last, _)| *last >= dot) {
                return Err(DecodeError::Order);
            }
            live.push((dot, from.content()?));
        }
        Ok(Self { live: Few::from(live), dead })
    }
}
