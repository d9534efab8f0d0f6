//! One replica of a replicated object: a state under its causal context, and who writes here.

use std::ops::{Bound, Deref};

use crate::mutation::{Mutation, mutated};
use crate::store::{Crdt, Delta, Fate};
use crate::{Dot, Error, ReplicaId, VersionVector};

/// What a mutator returns: the delta, none if nothing changed, or why it was refused. Nothing is applied yet.
pub type Change<T> = Result<Option<<T as Crdt>::Delta>, Error>;

/// The right to write as one replica: gives out fresh dots.
#[derive(Debug)]
pub struct Writer<'a> {
    replica: ReplicaId,
    seen: &'a VersionVector,
    last: Option<u64>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(replica: ReplicaId, seen: &'a VersionVector) -> Self {
        Self { replica, seen, last: None }
    }

    /// Who writes.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// A dot that has never been used.
    pub(crate) fn dot(&mut self) -> Result<Dot, Error> {
        let last = self.last.unwrap_or_else(|| self.seen.max(self.replica));
        let counter = last.checked_add(1).ok_or(Error::Exhausted(self.replica))?;
        self.last = Some(counter);
        Ok(Dot { replica: self.replica, counter })
    }
}

/// One replica of a `T`: the state, its causal context, and the id under which it writes.
///
/// Reading goes through [`Deref`] and costs nothing. Writing goes through [`Replica::update`], which returns the delta to
/// hand to the others; they [`Replica::merge`] it, in any order, any number of times. Replicas that have merged the same
/// deltas are equal (C1), whatever was lost in between was made good by a later delta or by the full state.
///
/// ```
/// use polity_crdt::{AwSet, Replica, ReplicaId};
///
/// let mut here = Replica::<AwSet<String>>::new(ReplicaId(1));
/// let mut there = Replica::<AwSet<String>>::new(ReplicaId(2));
/// let added = here.update(|set, w| set.add(w, "tea".to_owned()))?.expect("an add is always a change");
/// there.merge(added);
/// assert!(there.contains("tea"));
/// assert_eq!(there.update(|set, _| Ok(set.remove("coffee")))?, None, "what changes nothing makes no delta");
/// # Ok::<(), polity_crdt::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Replica<T> {
    id: ReplicaId,
    seen: VersionVector,
    state: T,
}

/// Equal if they hold the same state and have heard of the same dots, whoever they are.
impl<T: PartialEq> PartialEq for Replica<T> {
    fn eq(&self, other: &Self) -> bool {
        self.seen == other.seen && self.state == other.state
    }
}

impl<T> Deref for Replica<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T: Crdt> Replica<T> {
    /// A replica that has heard of nothing.
    ///
    /// `id` must belong to this life of this replica alone (see [`ReplicaId`]): two that write under one id corrupt each
    /// other without notice.
    #[must_use]
    pub fn new(id: ReplicaId) -> Self {
        Self { id, seen: VersionVector::new(), state: T::default() }
    }

    /// The replica that a saved full state belongs to: `state` is the [`Replica::full`] of its last moment. It goes on
    /// under the same id only if nothing that it wrote later has left it.
    #[must_use]
    pub fn restore(id: ReplicaId, state: T::Delta) -> Self {
        let mut replica = Self::new(id);
        replica.merge(state);
        replica
    }

    /// Under which id it writes.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// All dots that it has heard of.
    #[must_use]
    pub fn context(&self) -> &VersionVector {
        &self.seen
    }

    /// Writes: hands the state and the right to write to `mutate`, applies the delta that it returns, and returns it.
    ///
    /// # Errors
    /// Those of the mutator. Nothing was changed then.
    pub fn update(&mut self, mutate: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>) -> Change<T> {
        self.update_with(mutate, &mut |_, _, _| ())
    }

    /// As [`Replica::update`], but writes under another id: for a state whose writer changes from time to time, as that of a
    /// stored record does. What [`Replica::new`] says of ids holds for this one.
    ///
    /// # Errors
    /// Those of the mutator. Nothing was changed then.
    pub fn update_as(&mut self, id: ReplicaId, mutate: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>) -> Change<T> {
        let delta = mutate(&self.state, &mut Writer::new(id, &self.seen))?;
        if let Some(delta) = &delta {
            self.merge(delta.clone());
        }
        Ok(delta)
    }

    /// As [`Replica::update`], and tells `observe` what came and went.
    ///
    /// # Errors
    /// Those of the mutator. Nothing was changed then.
    pub fn update_with(
        &mut self,
        mutate: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>,
        observe: &mut dyn FnMut(&T::Key, Dot, Fate),
    ) -> Change<T> {
        let delta = mutate(&self.state, &mut Writer::new(self.id, &self.seen))?;
        if let Some(delta) = &delta {
            self.merge_with(delta.clone(), observe);
        }
        Ok(delta)
    }

    /// Takes over what a delta says. Returns whether anything was new. Costs what the delta holds, unless it claims dots
    /// dead that were live here without saying where.
    pub fn merge(&mut self, delta: T::Delta) -> bool {
        self.merge_with(delta, &mut |_, _, _| ())
    }

    /// As [`Replica::merge`], and tells `observe` what came and went.
    pub fn merge_with(&mut self, delta: T::Delta, observe: &mut dyn FnMut(&T::Key, Dot, Fate)) -> bool {
        // Most deltas bring one dot, which needs no list.
        let (mut first, mut live, mut dead) = (None, Vec::new(), VersionVector::new());
        delta.visit_live(&mut |dot| {
            if !self.seen.contains(dot) {
                if first.is_none() {
                    first = Some(dot);
                } else {
                    live.push(dot);
                }
            }
        });
        delta.visit_dead(&mut |dots| {
            if !self.seen.covers(dots) {
                dead.merge(dots);
            }
        });
        let mut changed = first.is_some() || !dead.is_empty();
        let nothing = VersionVector::new();
        let seen = if mutated(Mutation::ForgetsContext) { &nothing } else { &self.seen };
        self.state.apply(delta, seen, &mut |key, dot, fate| {
            changed = true;
            observe(key, dot, fate);
        });
        if live.is_empty() {
            first.map(|dot| self.seen.insert(dot));
        } else {
            self.seen.merge(&live.into_iter().chain(first).collect());
        }
        self.seen.merge(&dead);
        changed
    }

    /// The whole state as a delta: what a replica that knows nothing needs, and what a saved state is.
    #[must_use]
    pub fn full(&self) -> T::Delta {
        let mut delta = self.state.everything();
        let dead = self.seen.difference(&delta.live());
        delta.kill(&dead);
        delta
    }

    /// What became of all dots that are not in `known`: for a replica that has heard of those. Says nothing of what was
    /// removed among `known`. Looks at everything.
    #[must_use]
    pub fn since(&self, known: &VersionVector) -> T::Delta {
        let news = self.seen.difference(known);
        let mut delta = self.state.restrict(&news);
        let dead = news.difference(&delta.live());
        delta.kill(&dead);
        delta
    }

    /// All live dots.
    #[must_use]
    pub fn live(&self) -> VersionVector {
        let mut live = Vec::new();
        self.state.visit(Bound::Unbounded, &mut |_, dots| {
            live.extend(dots);
            true
        });
        live.into_iter().collect()
    }

    /// Forgets that a replica ever wrote. Sound only when no dot of it is live anywhere and none can arrive any more: see
    /// [`crate::sync`].
    pub(crate) fn forget(&mut self, replica: ReplicaId) {
        self.seen.remove_replica(replica);
    }
}
