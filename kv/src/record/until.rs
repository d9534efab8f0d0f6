//! When all that a counter, set or map holds expires.
//!
//! Its parts cannot be written again with another time, as a causal or last value can. So a time to live is a removal that is *due*: it
//! names the writes that it covers, as a removal does ([`Due`]), and when its time has come just these are gone. What was added by who
//! had not heard of it stays, as with any removal (K3). Who has heard of it lets it cover what it adds ([`Until::extend`]), and that goes
//! with it, also if one that lasts longer has taken its place meanwhile ([`Standing`]).
//!
//! Of removals that were decided concurrently the latest holds for what it covers, and an earlier one for what only that covers. What a
//! replica has counted has no names apart from its total, so of a counter a removal covers all that the replicas have counted which it
//! names, or nothing of it while a later one that names them is not over. It says nothing about what they count once that is gone.

use std::borrow::Cow;
use std::cmp::Reverse;

use polity_crdt::{Dot, LwwRegister, PnCounter, ReplicaId, Timestamp, VersionVector};
use serde::{Deserialize, Serialize};

use super::Millis;
use super::origin::Origins;
use super::stored::Stored;
use super::update::{Refused, Writing};

/// The most that were decided concurrently and that a record may have: looking at them takes time by how many there are and how much
/// they cover.
pub(crate) const MAX_DUE: usize = 64;

/// What a removal takes away.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Due {
    /// The writes of the value that are gone then.
    pub(super) covers: VersionVector,
    /// The marks of a counter that are.
    pub(super) marks: VersionVector,
    /// From where on a counter counts then.
    pub(super) origins: Origins,
}

impl Due {
    /// Of writes of a value, and of the marks of what was added to a counter under idempotency keys.
    pub(super) fn of(covers: VersionVector, marks: VersionVector, counter: Option<&PnCounter>) -> Self {
        let origins = counter.map(Origins::after).unwrap_or_default();
        Self { covers, marks, origins }
    }

    pub(super) fn join(&mut self, other: Self) {
        self.covers.merge(&other.covers);
        self.marks.merge(&other.marks);
        self.origins.merge(other.origins);
    }

    /// All writes of the value about which it decides, of those that anybody knows of.
    fn reach(&self) -> VersionVector {
        let mut reach = self.origins.replicas();
        reach.merge(&self.covers);
        reach
    }

    /// What of it another does not decide about.
    fn without(&self, other: &Self) -> Self {
        let marks = self.marks.difference(&other.marks).difference(&other.origins.replicas());
        let origins = self.origins.clone().without(&other.origins);
        Self { covers: self.covers.difference(&other.reach()), marks, origins }
    }
}

/// A removal as it was decided, or as it is since another has let it cover more.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Decided {
    /// The write that has decided it; `None`: this one.
    of: Option<Dot>,
    /// Those that stood before, and of which it takes the place, with all of which they did.
    replaces: VersionVector,
    /// `None`: never.
    at: Option<Millis>,
    due: Due,
}

/// When it is over.
fn end(at: Option<Millis>) -> Millis {
    at.unwrap_or(Millis::MAX)
}

/// A decision that stands, with all that was let be covered by it, and by those that would be over earlier and of which it has taken the
/// place.
struct Standing<'a> {
    of: Dot,
    as_of: Timestamp,
    replaces: &'a VersionVector,
    at: Option<Millis>,
    /// What it is kept as.
    dots: VersionVector,
    due: Cow<'a, Due>,
}

/// When something is to go, if it is, by which decision.
#[derive(Clone, Copy)]
pub(super) struct Decision {
    of: Dot,
    as_of: Timestamp,
    at: Option<Millis>,
}

impl Decision {
    pub(super) fn is_timed(&self) -> bool {
        self.at.is_some()
    }
}

/// The removals that are due, and which were decided and are not any more.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Until(Stored<LwwRegister<Decided>>);

impl Until {
    /// `None`: there are too many.
    pub(super) fn of(stored: Stored<LwwRegister<Decided>>) -> Option<Self> {
        (stored.value().standing().len() <= MAX_DUE).then_some(Self(stored))
    }

    pub(super) fn stored(&self) -> &Stored<LwwRegister<Decided>> {
        &self.0
    }

    /// Whether there ever was one.
    pub(super) fn is_written(&self) -> bool {
        !self.0.context().is_empty()
    }

    /// Whether any stands, of what is to expire or never.
    pub(super) fn stands(&self) -> bool {
        !self.0.is_bottom()
    }

    /// Whether one is due, at whatever time.
    pub(super) fn is_timed(&self) -> bool {
        self.times().next().is_some()
    }

    /// The times at which some are due, in no order.
    pub(super) fn times(&self) -> impl Iterator<Item = Millis> {
        self.decisions().into_iter().filter_map(|one| one.at)
    }

    /// As of when the latest was decided.
    pub(super) fn stamp(&self) -> Option<Timestamp> {
        self.0.value().entry().map(|(at, _)| at)
    }

    /// What it is kept as, the latest decision first, and of those as of one time that which is due last: what extends one changes nothing
    /// of that.
    fn in_order(&self) -> Vec<(Dot, Timestamp, &Decided)> {
        let mut all = self.0.value().standing();
        all.sort_by_key(|(dot, as_of, decided)| Reverse((*as_of, end(decided.at), *dot)));
        all
    }

    /// The decisions that stand, the latest first.
    fn decisions(&self) -> Vec<Standing<'_>> {
        let mut all: Vec<Standing<'_>> = Vec::new();
        for (dot, as_of, Decided { of, replaces, at, due }) in self.in_order() {
            let (of, at) = (of.unwrap_or(dot), *at);
            let has_taken = |one: &Standing<'_>| one.replaces.contains(of) && end(one.at) >= end(at);
            if let Some(one) = all.iter_mut().find(|one| one.of == of || has_taken(one)) {
                one.dots.insert(dot);
                one.due.to_mut().join(due.clone());
            } else {
                all.push(Standing {
                    of,
                    as_of,
                    replaces,
                    at,
                    dots: [dot].into_iter().collect(),
                    due: Cow::Borrowed(due),
                });
            }
        }
        all
    }

    /// The same where this is what of a counter is gone, each without what it says of counts that are, or of which a later one says
    /// as much.
    fn standing(&self, gone: &Origins) -> Vec<Standing<'_>> {
        let (mut all, mut said) = (self.decisions(), gone.clone());
        for Standing { due, .. } in all.iter_mut().filter(|one| !one.due.origins.is_empty()) {
            let origins = due.origins.clone().later_than(&said);
            said.merge(origins.clone());
            due.to_mut().origins = origins;
        }
        all
    }

    /// When the last of these writes goes; `None`: never.
    pub(super) fn last(&self, mut live: VersionVector, gone: &Origins) -> Option<Millis> {
        let mut last = 0;
        for Standing { at, due, .. } in self.standing(gone) {
            if live.intersects(&due.reach()) {
                last = last.max(at?);
                live = live.difference(&due.covers);
            }
        }
        live.is_empty().then_some(last)
    }

    /// The latest decision about some of these writes, if there is any, and when they are to go.
    pub(super) fn latest_of(&self, live: &VersionVector, gone: &Origins) -> Option<Decision> {
        let latest = self.standing(gone).into_iter().find(|one| live.intersects(&one.due.reach()));
        latest.map(|Standing { of, as_of, at, .. }| Decision { of, as_of, at })
    }

    /// Those of these writes of which none says anything.
    pub(super) fn beyond(&self, writes: VersionVector) -> VersionVector {
        self.0.value().standing().into_iter().fold(writes, |left, (.., one)| left.difference(&one.due.covers))
    }

    /// Whether one is over.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        self.times().any(|at| at <= now)
    }

    /// Takes out those that are over. Returns what has gone with them: what no later one keeps; and whether any was taken out. One stays
    /// that has more of a total to take away than the later one that keeps it.
    pub(super) fn take(&mut self, now: Millis, gone: &Origins) -> (Due, bool) {
        let (mut dots, mut taken, mut kept) = (VersionVector::new(), Due::default(), Due::default());
        for Standing { dots: kept_as, at, due, .. } in self.standing(gone) {
            if at.is_some_and(|at| at <= now) {
                let of_it = due.without(&kept);
                if of_it.origins == due.origins {
                    dots.merge(&kept_as);
                }
                taken.join(of_it);
            } else {
                kept.join(due.into_owned());
            }
        }
        (taken, self.0.kill(&dots))
    }

    /// Joins a copy. Returns whether anything was new.
    pub(super) fn merge(&mut self, other: Self) -> bool {
        let is_new = self.0.merge(other.0);
        // Who decides takes the place of all that it has heard of. What only the earliest cover stays without a time.
        let too_early = self.in_order().into_iter().skip(MAX_DUE).map(|(dot, ..)| dot).collect();
        self.0.kill(&too_early);
        is_new
    }

    /// None is due any more. Returns whether any was.
    pub(super) fn clear(&mut self) -> bool {
        self.0.clear()
    }

    /// All that a replica has counted up to here is known. Returns what of that it has not counted here since it began: no decision has any
    /// of these names, and with them those of which one takes the place stay few intervals.
    fn claim(&mut self, replica: ReplicaId, above: u64) -> VersionVector {
        let last = self.0.context().max(replica);
        self.0.claim(replica, above);
        let known = VersionVector::up_to(replica, if last == 0 { above } else { last });
        VersionVector::up_to(replica, above).difference(&known)
    }

    /// Decides. Returns what others need to know of it.
    pub(super) fn decide(&mut self, expires: Option<Millis>, due: Due, writing: &Writing<'_>) -> Result<Self, Refused> {
        let Writing { replica, above, at, .. } = *writing;
        let mut replaces = self.claim(replica, above);
        for (dot, _, one) in self.0.value().standing() {
            replaces.merge(&one.replaces);
            replaces.insert(one.of.unwrap_or(dot));
            replaces.insert(dot);
        }
        let decided = Decided { of: None, replaces, at: expires, due };
        Ok(Self(self.0.update(replica, |state, w| state.set(w, at, decided))?.map(Stored::of).unwrap_or_default()))
    }

    /// Lets a decision cover this, too. What several have let it cover at the same time becomes one. Returns what others need to know of it.
    pub(super) fn extend(&mut self, decision: Decision, more: Due, writing: &Writing<'_>) -> Result<Self, Refused> {
        let Writing { replica, above, .. } = *writing;
        let mut replaces = self.claim(replica, above);
        let Decision { of, as_of, at } = decision;
        let (mut replaced, mut due) = (VersionVector::new(), more);
        let standing = self.0.value().standing().into_iter();
        for (dot, _, one) in standing.filter(|(dot, _, one)| one.of.unwrap_or(*dot) == of) {
            replaced.insert(dot);
            replaces.merge(&one.replaces);
            due.join(one.due.clone());
        }
        // Extensions are none that others extend: they are among those so that these are few intervals.
        replaces.merge(&replaced);
        let decided = Decided { of: Some(of), replaces, at, due };
        let extended = self.0.update(replica, |state, w| state.replace(w, replaced, as_of, decided))?;
        Ok(Self(extended.map(Stored::of).unwrap_or_default()))
    }
}
