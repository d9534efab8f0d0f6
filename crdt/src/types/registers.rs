//! Registers.

use std::cmp::Reverse;

use crate::hlc::Timestamp;
use crate::mutation::{Mutation, mutated};
use crate::store::{Delta, DotFun, DotFunDelta, Value};
use crate::types::is_store;
use crate::{Dot, Error, VersionVector, Writer};

/// A register of which the latest write wins, by hybrid logical clock; among equal timestamps the one with the greater
/// dot. Neither the order of boots nor a clock of one process decides.
///
/// A write is stamped later than everything that its writer had seen, so the choice is only ever made among concurrent
/// writes. The losers are kept until the next write has seen them: should an [`OrMap`](crate::OrMap) remove the winner
/// alone, the next one stands. There is at most one for each replica that writes.
#[derive(Clone, PartialEq, Debug)]
pub struct LwwRegister<V>(DotFun<(Timestamp, V)>);
is_store!([V: Value] LwwRegister<V> = DotFun<(Timestamp, V)>);

/// A register that keeps all values that were written concurrently, until a write has seen them.
///
/// The same idea as a [`DvvSet`](crate::DvvSet), as a store that has deltas and can be nested.
#[derive(Clone, PartialEq, Debug)]
pub struct MvRegister<V>(DotFun<V>);
is_store!([V: Value] MvRegister<V> = DotFun<V>);

impl<V> Default for LwwRegister<V> {
    fn default() -> Self {
        Self(DotFun::default())
    }
}

impl<V> Default for MvRegister<V> {
    fn default() -> Self {
        Self(DotFun::default())
    }
}

impl<V> LwwRegister<V> {
    /// The value that won, if any was written.
    #[must_use]
    pub fn value(&self) -> Option<&V> {
        self.entry().map(|(_, value)| value)
    }

    /// The value that won and its timestamp.
    #[must_use]
    pub fn entry(&self) -> Option<(Timestamp, &V)> {
        self.latest().map(|(_, at, value)| (at, value))
    }

    /// The same with its dot.
    pub(crate) fn latest(&self) -> Option<(Dot, Timestamp, &V)> {
        let latest = self.0.iter().max_by_key(|(dot, (at, _))| Self::order(*dot, *at));
        latest.map(|(dot, (at, value))| (dot, *at, value))
    }

    /// What was written concurrently and that no write has seen since, with its dots: what won comes first, then what would win without
    /// that, and so on.
    #[must_use]
    pub fn standing(&self) -> Vec<(Dot, Timestamp, &V)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_unstable_by_key(|(dot, (at, _))| Reverse(Self::order(*dot, *at)));
        all.into_iter().map(|(dot, (at, value))| (dot, *at, value)).collect()
    }

    fn order(dot: Dot, at: Timestamp) -> (Timestamp, Dot) {
        (if mutated(Mutation::IgnoresTime) { Timestamp::default() } else { at }, dot)
    }
}

impl<V: Value> LwwRegister<V> {
    /// Writes, at `now` or just after what is seen, whichever is later. See [`HybridClock`](crate::HybridClock).
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn set(
        &self,
        w: &mut Writer<'_>,
        now: Timestamp,
        value: V,
    ) -> Result<Option<DotFunDelta<(Timestamp, V)>>, Error> {
        let seen = self.0.iter().map(|(_, (at, _))| *at).max();
        let at = seen.map_or(now, |seen| now.max(seen.next()));
        Ok(Some(DotFunDelta::write(w.dot()?, (at, value), self.0.dots())))
    }
}

impl<V: Value> LwwRegister<V> {
    /// Writes something in place of what stands, as of the same time: among concurrent writes it counts as that one. Does
    /// nothing if nothing stands.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn restate(&self, w: &mut Writer<'_>, value: V) -> Result<Option<DotFunDelta<(Timestamp, V)>>, Error> {
        let Some((at, _)) = self.entry() else { return Ok(None) };
        Ok(Some(DotFunDelta::write(w.dot()?, (at, value), self.0.dots())))
    }
}

impl<V: Value> LwwRegister<V> {
    /// Writes something in place of some of those that stand ([`LwwRegister::standing`]), as of a time. The others stand as before.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn replace(
        &self,
        w: &mut Writer<'_>,
        replaced: VersionVector,
        at: Timestamp,
        value: V,
    ) -> Result<Option<DotFunDelta<(Timestamp, V)>>, Error> {
        Ok(Some(DotFunDelta::write(w.dot()?, (at, value), replaced)))
    }
}

impl<V> MvRegister<V> {
    /// All values that no write has replaced, in the order of their dots.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The value, if there is exactly one.
    #[must_use]
    pub fn value(&self) -> Option<&V> {
        let mut values = self.values();
        values.next().filter(|_| values.len() == 0)
    }
}

impl<V: Value> MvRegister<V> {
    /// Writes in place of all values that are seen.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn set(&self, w: &mut Writer<'_>, value: V) -> Result<Option<DotFunDelta<V>>, Error> {
        Ok(Some(DotFunDelta::write(w.dot()?, value, self.0.dots())))
    }

    /// Takes away all values that are seen; nothing, if there is none.
    #[must_use]
    pub fn clear(&self) -> Option<DotFunDelta<V>> {
        if self.0.is_empty() {
            return None;
        }
        let mut delta = DotFunDelta::default();
        delta.kill(&self.0.dots());
        Some(delta)
    }
}
