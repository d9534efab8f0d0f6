//! Counters.
//!
//! Each replica keeps its total under one dot, and counting puts a new total under a new dot in its place: a state has one
//! entry for each replica that has counted. When an [`OrMap`](crate::OrMap) removes a counter, the totals that it has seen
//! go; a replica that counts concurrently brings its whole total back, not only what it has just counted, because
//! its total is one piece. (Baquero, Almeida and Lerche, "The problem with embedded CRDT counters and a solution",
//! PaPoC 2016, describes this; their way out costs an entry for every increment that was shared.)
//!
//! While the delta between is late, an old total and the latest of the same replica are both live here. A read takes the
//! latest of each replica: the old one is replaced for sure, because a replica always sees its own. So no amount is ever
//! counted twice, and no gift of rights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::{Crdt, DotFun, DotFunDelta};
use crate::types::is_store;
use crate::{Dot, Error, ReplicaId, Writer};

/// A type whose meaning survives the removal of what it is nested in: everything but the [`BoundedCounter`], whose bound
/// rests on rights that a removal would destroy.
pub trait Nestable: Crdt {}

/// A counter that only grows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GCounter(DotFun<u64>);
is_store!([] GCounter = DotFun<u64>);

/// What one replica has added and taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Total {
    /// The sum of what it has added.
    pub added: u64,
    /// The sum of what it has taken.
    pub taken: u64,
}

/// A counter that grows and shrinks.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PnCounter(DotFun<Total>);
is_store!([] PnCounter = DotFun<Total>);

/// The latest entry of each replica.
fn latest<V>(entries: &DotFun<V>) -> impl Iterator<Item = (Dot, &V)> {
    let mut entries = entries.iter().peekable();
    std::iter::from_fn(move || {
        let (mut dot, mut value) = entries.next()?;
        // The entries of a replica follow each other, the latest last.
        while let Some(later) = entries.next_if(|(later, _)| later.replica == dot.replica) {
            (dot, value) = later;
        }
        Some((dot, value))
    })
}

/// The value of one replica's entry and the delta that puts another in its place.
fn replace<V: crate::store::Value>(
    entries: &DotFun<V>,
    w: &mut Writer<'_>,
    change: impl FnOnce(Option<&V>) -> Result<V, Error>,
) -> Result<Option<DotFunDelta<V>>, Error> {
    let own = || entries.iter().filter(|(dot, _)| dot.replica == w.replica());
    let value = change(own().map(|(_, value)| value).last())?;
    let seen = own().map(|(dot, _)| dot).collect();
    Ok(Some(DotFunDelta::write(w.dot()?, value, seen)))
}

impl GCounter {
    /// The count.
    #[must_use]
    pub fn value(&self) -> u128 {
        latest(&self.0).map(|(_, total)| u128::from(*total)).sum()
    }

    /// Adds. Adding 0 changes nothing.
    ///
    /// # Errors
    /// [`Error::CountOverflow`] if this replica's own total would pass 2⁶⁴ - 1; [`Error::Exhausted`].
    pub fn add(&self, w: &mut Writer<'_>, more: u64) -> Result<Option<DotFunDelta<u64>>, Error> {
        if more == 0 {
            return Ok(None);
        }
        let overflow = Error::CountOverflow(w.replica());
        replace(&self.0, w, |total| total.copied().unwrap_or(0).checked_add(more).ok_or(overflow))
    }

    #[cfg(feature = "crdts")]
    pub(crate) fn totals(&self) -> impl Iterator<Item = (ReplicaId, u64)> {
        latest(&self.0).map(|(dot, total)| (dot.replica, *total))
    }
}

impl PnCounter {
    /// The count.
    #[must_use]
    pub fn value(&self) -> i128 {
        latest(&self.0).map(|(_, total)| i128::from(total.added) - i128::from(total.taken)).sum()
    }

    /// Adds, or takes if `by` is negative. Adding 0 changes nothing.
    ///
    /// # Errors
    /// [`Error::CountOverflow`] if what this replica has added or taken would pass 2⁶⁴ - 1; [`Error::Exhausted`].
    pub fn add(&self, w: &mut Writer<'_>, by: i64) -> Result<Option<DotFunDelta<Total>>, Error> {
        if by == 0 {
            return Ok(None);
        }
        let overflow = Error::CountOverflow(w.replica());
        replace(&self.0, w, |total| {
            let mut total = total.copied().unwrap_or_default();
            let side = if by > 0 { &mut total.added } else { &mut total.taken };
            *side = side.checked_add(by.unsigned_abs()).ok_or(overflow)?;
            Ok(total)
        })
    }

    /// What each replica has counted, under its last write.
    pub fn totals(&self) -> impl Iterator<Item = (Dot, Total)> {
        latest(&self.0).map(|(dot, total)| (dot, *total))
    }
}

/// What one replica has made of its rights.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rights {
    /// What it has added: each unit is a right to take one.
    added: u64,
    /// What it has taken.
    taken: u64,
    /// What it has given to others.
    given: BTreeMap<ReplicaId, u64>,
}

/// A counter that never falls below 0, without asking anybody.
///
/// Whoever adds gains the right to take as much. A replica takes from its own rights alone, so whatever happens elsewhere
/// at the same time, all together never take more than was added. Rights can be given to another replica. A replica that
/// lacks rights refuses, although the count may be high enough: ask one that has them for a transfer. For another lower
/// bound add it to what is read; for an upper bound count what is left.
///
/// The rights of a replica that is gone for good are gone too; the count keeps them.
///
/// Source: Balegas, Serra, Duarte, Ferreira, Shapiro, Rodrigues and Preguiça, "Extending eventually consistent cloud
/// databases for enforcing numeric invariants" (SRDS 2015), section 4. Deviation: a replica's row of the matrix is one
/// value under its dot.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BoundedCounter(DotFun<Rights>);
is_store!([] BoundedCounter = DotFun<Rights>);

impl BoundedCounter {
    /// The count: never negative.
    ///
    /// What was taken of rights whose gift has not arrived here yet is not counted until that has.
    #[must_use]
    pub fn value(&self) -> u128 {
        let sum = |of: fn(&Rights) -> u64| latest(&self.0).map(|(_, rights)| u128::from(of(rights))).sum::<u128>();
        sum(|rights| rights.added).saturating_sub(sum(|rights| rights.taken))
    }

    /// How much this replica may take.
    #[must_use]
    pub fn rights(&self, of: ReplicaId) -> u64 {
        let (mut gained, mut spent) = (0_u128, 0_u128);
        for (Dot { replica, .. }, rights) in latest(&self.0) {
            gained += u128::from(rights.given.get(&of).copied().unwrap_or(0));
            if replica == of {
                gained += u128::from(rights.added);
                spent += u128::from(rights.taken);
                spent += rights.given.values().map(|given| u128::from(*given)).sum::<u128>();
            }
        }
        u64::try_from(gained.saturating_sub(spent)).unwrap_or(u64::MAX)
    }

    /// Adds, and gains the right to take as much. Adding 0 changes nothing.
    ///
    /// # Errors
    /// [`Error::CountOverflow`]; [`Error::Exhausted`].
    pub fn add(&self, w: &mut Writer<'_>, more: u64) -> Result<Option<DotFunDelta<Rights>>, Error> {
        self.change(w, more, |rights| &mut rights.added)
    }

    /// Takes. Taking 0 changes nothing.
    ///
    /// # Errors
    /// [`Error::Bound`] if this replica has no right to so much; [`Error::CountOverflow`]; [`Error::Exhausted`].
    pub fn take(&self, w: &mut Writer<'_>, less: u64) -> Result<Option<DotFunDelta<Rights>>, Error> {
        self.check(w, less)?;
        self.change(w, less, |rights| &mut rights.taken)
    }

    /// Gives rights to another replica. Giving 0, or to itself, changes nothing.
    ///
    /// # Errors
    /// [`Error::Bound`] if this replica has no right to so much; [`Error::CountOverflow`]; [`Error::Exhausted`].
    pub fn give(&self, w: &mut Writer<'_>, to: ReplicaId, amount: u64) -> Result<Option<DotFunDelta<Rights>>, Error> {
        if to == w.replica() {
            return Ok(None);
        }
        self.check(w, amount)?;
        self.change(w, amount, |rights| rights.given.entry(to).or_default())
    }

    fn check(&self, w: &Writer<'_>, wanted: u64) -> Result<(), Error> {
        let available = self.rights(w.replica());
        if wanted > available { Err(Error::Bound { wanted, available }) } else { Ok(()) }
    }

    fn change(
        &self,
        w: &mut Writer<'_>,
        by: u64,
        what: impl FnOnce(&mut Rights) -> &mut u64,
    ) -> Result<Option<DotFunDelta<Rights>>, Error> {
        if by == 0 {
            return Ok(None);
        }
        let overflow = Error::CountOverflow(w.replica());
        replace(&self.0, w, |rights| {
            let mut rights = rights.cloned().unwrap_or_default();
            let count = what(&mut rights);
            *count = count.checked_add(by).ok_or(overflow)?;
            Ok(rights)
        })
    }
}
