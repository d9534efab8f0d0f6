//! Conversions from and to the types of the [`crdts`] crate, for who moves from one library to the other.
//!
//! An actor is a `u64` there and a [`ReplicaId`] here. Types that live under a causal context are converted from and to a
//! [`Replica`], which holds it; where one is made, `id` is under which it goes on writing, by the rule of [`ReplicaId`].
//!
//! # What is lost
//! | type | to `crdts` | from `crdts` |
//! |---|---|---|
//! | [`VersionVector`] | refused if it has gaps | nothing |
//! | [`GCounter`], [`PnCounter`] | which write each total is of | nothing; a total stands for as many writes as it counts |
//! | [`GSet`] | who added what | who added what: `id` has |
//! | [`AwSet`] | nothing; refused if the history has gaps | refused if removes wait for adds, or two elements share a dot |
//! | [`MvRegister`] | which other values each had seen, beyond what tells them apart; all, if it is empty | who wrote each value, where its clock allows for several |
//! | [`LwwRegister`] | values that a later one beats but had not seen | nothing |
//!
//! # Convert once
//! A conversion makes up what the other library does not keep. So one copy is to be converted, after a merge of all
//! copies, and spread from there; copies that were converted apart may take each other's writes for their own past.
//!
//! ```
//! use crdts::{CmRDT, Orswot};
//! use polity_crdt::{ReplicaId, interop};
//!
//! let mut old = Orswot::<String, u64>::new();
//! old.apply(old.add("tea".to_owned(), old.read_ctx().derive_add_ctx(7)));
//! let mut new = interop::from_orswot(ReplicaId(8), &old)?;
//! new.update(|set, w| set.add(w, "coffee".to_owned()))?;
//! assert_eq!(new.iter().collect::<Vec<_>>(), ["coffee", "tea"]);
//! assert!(interop::to_orswot(&new)?.contains(&"tea".to_owned()).val);
//! # Ok::<(), polity_crdt::Error>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::ops::Bound;

use crdts::{CmRDT, LWWReg, MVReg, Orswot, PNCounter, VClock, mvreg, orswot, pncounter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Crdt, Delta, DotFunDelta, DotMapDelta, Key, Value};
use crate::types::Total;
use crate::{
    AwSet, Dot, Error, GCounter, GSet, LwwRegister, MvRegister, PnCounter, Replica, ReplicaId, Timestamp, VersionVector,
};

/// As a version vector without exceptions.
///
/// # Errors
/// [`Error::Gap`].
pub fn to_vclock(dots: &VersionVector) -> Result<VClock<u64>, Error> {
    let mut clock = VClock::new();
    for (replica, mut runs) in dots.iter() {
        match (runs.next(), runs.next()) {
            (Some(run), None) if *run.start() == 1 => clock.apply(crdts::Dot::new(replica.0, *run.end())),
            _ => return Err(Error::Gap(replica)),
        }
    }
    Ok(clock)
}

/// All dots that a vector clock stands for.
#[must_use]
pub fn from_vclock(clock: &VClock<u64>) -> VersionVector {
    let mut dots = VersionVector::new();
    for dot in clock.iter() {
        dots.insert_up_to(ReplicaId(*dot.actor), dot.counter);
    }
    dots
}

/// The totals, without the dots that they are under.
#[must_use]
pub fn to_gcounter(counter: &Replica<GCounter>) -> crdts::GCounter<u64> {
    let mut converted = crdts::GCounter::new();
    for (replica, total) in counter.totals() {
        converted.apply(crdts::Dot::new(replica.0, total));
    }
    converted
}

/// A counter whose totals count as many writes as they count.
#[must_use]
pub fn from_gcounter(id: ReplicaId, counter: &crdts::GCounter<u64>) -> Replica<GCounter> {
    let totals: BTreeMap<u64, u64> = view(counter);
    let entries = totals.into_iter().map(|(actor, total)| (Dot { replica: ReplicaId(actor), counter: total }, total));
    latest_writes(id, entries)
}

/// The totals, without the dots that they are under.
#[must_use]
pub fn to_pncounter(counter: &Replica<PnCounter>) -> PNCounter<u64> {
    let mut converted = PNCounter::new();
    for (dot, total) in counter.totals() {
        for (count, dir) in [(total.added, pncounter::Dir::Pos), (total.taken, pncounter::Dir::Neg)] {
            converted.apply(pncounter::Op { dot: crdts::Dot::new(dot.replica.0, count), dir });
        }
    }
    converted
}

/// A counter whose totals count as many writes as they count, up and down.
///
/// # Errors
/// [`Error::CountOverflow`] if an actor's ups and downs are more than 2⁶⁴ - 1 together.
pub fn from_pncounter(id: ReplicaId, counter: &PNCounter<u64>) -> Result<Replica<PnCounter>, Error> {
    let (added, taken): (BTreeMap<u64, u64>, BTreeMap<u64, u64>) = view(counter);
    let actors: BTreeSet<u64> = added.keys().chain(taken.keys()).copied().collect();
    let mut entries = Vec::new();
    for actor in actors {
        let of = |side: &BTreeMap<u64, u64>| side.get(&actor).copied().unwrap_or(0);
        let (total, replica) = (Total { added: of(&added), taken: of(&taken) }, ReplicaId(actor));
        let counter = total.added.checked_add(total.taken).ok_or(Error::CountOverflow(replica))?;
        entries.push((Dot { replica, counter }, total));
    }
    Ok(latest_writes(id, entries))
}

/// The elements.
#[must_use]
pub fn to_gset<E: Key>(set: &Replica<GSet<E>>) -> crdts::GSet<E> {
    let mut converted = crdts::GSet::new();
    set.iter().for_each(|element| converted.insert(element.clone()));
    converted
}

/// The elements, added by `id`, which must not have written before.
#[must_use]
pub fn from_gset<E: Key>(id: ReplicaId, set: &crdts::GSet<E>) -> Replica<GSet<E>> {
    let dots = (1..).map(|counter| Dot { replica: id, counter });
    let entries = set.read().into_iter().zip(dots);
    let entries = entries.map(|(element, dot)| (element, DotFunDelta::write(dot, (), VersionVector::new())));
    Replica::restore(id, DotMapDelta::of(entries.collect()))
}

/// The set with its causal context.
///
/// # Errors
/// [`Error::Gap`].
pub fn to_orswot<E: Key + Hash>(set: &Replica<AwSet<E>>) -> Result<Orswot<E, u64>, Error> {
    let clock = to_vclock(set.context())?;
    let mut adds = Vec::new();
    set.visit(Bound::Unbounded, &mut |element, dots| {
        adds.extend(dots.map(|dot| (dot, element.clone())));
        true
    });
    // An add is only taken if its actor's clock is below it.
    adds.sort_by_key(|(dot, _)| *dot);
    let mut converted = Orswot::new();
    for (dot, element) in adds {
        converted.apply(orswot::Op::Add { dot: foreign(dot), members: vec![element] });
    }
    for dot in clock {
        converted.apply(orswot::Op::Add { dot, members: Vec::new() });
    }
    Ok(converted)
}

/// The set with its causal context.
///
/// # Errors
/// [`Error::Foreign`] if removes wait there for the adds that they are of, or if elements that were added together share
/// a dot.
pub fn from_orswot<E: Key + Hash>(id: ReplicaId, set: &Orswot<E, u64>) -> Result<Replica<AwSet<E>>, Error> {
    type Clock = BTreeMap<u64, u64>;
    type Deferred<E> = Vec<(Clock, Vec<E>)>;
    let (clock, entries, deferred): (VClock<u64>, BTreeMap<E, Clock>, Deferred<E>) = view(set);
    if !deferred.is_empty() {
        return Err(Error::Foreign("removes wait for their adds"));
    }
    let mut live = VersionVector::new();
    let mut parts = Vec::new();
    for (element, clock) in entries {
        for (actor, counter) in clock {
            let dot = Dot { replica: ReplicaId(actor), counter };
            if !live.insert(dot) {
                return Err(Error::Foreign("elements share a dot"));
            }
            parts.push((element.clone(), DotFunDelta::write(dot, (), VersionVector::new())));
        }
    }
    let mut delta = DotMapDelta::of(parts);
    delta.kill(&from_vclock(&clock).difference(&live));
    Ok(Replica::restore(id, delta))
}

/// The values, each under a clock that holds the whole history but what the others wrote.
///
/// # Errors
/// [`Error::Gap`]; [`Error::Foreign`] if two values are of one replica, which only a register that was nested can show.
pub fn to_mvreg<V: Value>(register: &Replica<MvRegister<V>>) -> Result<MVReg<V, u64>, Error> {
    let clock = to_vclock(register.context())?;
    let mut dots = Vec::new();
    register.visit(Bound::Unbounded, &mut |(), live| {
        dots.extend(live);
        true
    });
    if dots.windows(2).any(|pair| pair[0].replica == pair[1].replica) {
        return Err(Error::Foreign("two values of one replica"));
    }
    let mut converted = MVReg::new();
    for (dot, value) in dots.iter().zip(register.values()) {
        let mut own = clock.clone();
        for other in dots.iter().filter(|other| *other != dot) {
            own.dots.remove(&other.replica.0);
            own.apply(crdts::Dot::new(other.replica.0, other.counter - 1));
        }
        own.dots.insert(dot.replica.0, dot.counter);
        converted.apply(mvreg::Op::Put { clock: own, val: value.clone() });
    }
    Ok(converted)
}

/// The values, each under a dot that its clock has and no other value's, the one of the least actor if there are several.
///
/// # Errors
/// [`Error::Foreign`] if a value has no such dot; then two writes had the same.
pub fn from_mvreg<V: Value>(id: ReplicaId, register: &MVReg<V, u64>) -> Result<Replica<MvRegister<V>>, Error> {
    let values: Vec<(VClock<u64>, V)> = view(register);
    let clocks: Vec<VersionVector> = values.iter().map(|(clock, _)| from_vclock(clock)).collect();
    let mut delta = DotFunDelta::default();
    let mut history = VersionVector::new();
    for (at, (clock, value)) in values.into_iter().enumerate() {
        history.merge(&clocks[at]);
        let mut latest = clock.iter().map(|dot| Dot { replica: ReplicaId(*dot.actor), counter: dot.counter });
        let is_own = |dot: &Dot| clocks.iter().enumerate().all(|(other, dots)| other == at || !dots.contains(*dot));
        let dot = latest.find(is_own).ok_or(Error::Foreign("two writes had the same dot"))?;
        delta.unite(DotFunDelta::write(dot, value, VersionVector::new()));
    }
    let dead = history.difference(&delta.live());
    delta.kill(&dead);
    Ok(Replica::restore(id, delta))
}

/// The value that won, marked by its time and its dot, so that equal times are decided there as here; none, if nothing
/// was written.
#[must_use]
pub fn to_lwwreg<V: Value>(register: &Replica<LwwRegister<V>>) -> Option<LWWReg<V, (Timestamp, Dot)>> {
    register.latest().map(|(dot, at, value)| LWWReg { val: value.clone(), marker: (at, dot) })
}

/// The value under its dot.
#[must_use]
pub fn from_lwwreg<V: Value>(id: ReplicaId, register: &LWWReg<V, (Timestamp, Dot)>) -> Replica<LwwRegister<V>> {
    let (at, dot) = register.marker;
    latest_writes(id, [(dot, (at, register.val.clone()))])
}

/// A store of the latest write of each replica, all earlier ones of which are replaced.
fn latest_writes<T: Crdt<Delta = DotFunDelta<V>>, V: Value>(
    id: ReplicaId,
    entries: impl IntoIterator<Item = (Dot, V)>,
) -> Replica<T> {
    let mut delta = DotFunDelta::default();
    for (dot, value) in entries.into_iter().filter(|(dot, _)| dot.counter > 0) {
        let mut earlier = VersionVector::new();
        earlier.insert_up_to(dot.replica, dot.counter - 1);
        delta.unite(DotFunDelta::write(dot, value, earlier));
    }
    Replica::restore(id, delta)
}

fn foreign(dot: Dot) -> crdts::Dot<u64> {
    crdts::Dot::new(dot.replica.0, dot.counter)
}

/// The private fields of a type of the other library: what it serialises to. A map and a list of pairs are the same
/// bytes, and so are a set and a list, or a struct and a tuple of its fields.
fn view<T: Serialize, W: DeserializeOwned>(of: &T) -> W {
    let bytes = postcard::to_stdvec(of).expect("maps, sets and lists encode into a growing buffer");
    postcard::from_bytes(&bytes).expect("the fields of crdts 7 are as written here")
}
