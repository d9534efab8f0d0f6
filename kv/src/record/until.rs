//! When all that a counter, set or map holds expires.
//!
//! Its parts cannot be written again with another time, as a causal or last value can. So a time to live is a removal that is *due*: it
//! names the writes that it covers, as a removal does ([`Due`]), and when its time has come just these are gone. What was added by who
//! had not heard of it stays, as with any removal (K3). Who has heard of it covers what it adds, too ([`Until::extend`]).
//!
//! Of removals that were decided concurrently the latest holds for what it covers, and an earlier one for what only that covers. Of the
//! total of a replica that several cover, all of it goes with the latest: what it has counted between two of them has no name.

use polity_crdt::{LwwRegister, PnCounter, VersionVector};
use serde::{Deserialize, Serialize};

use super::Millis;
use super::origin::Origins;
use super::stored::Stored;
use super::update::{Refused, Writing};

/// The most that were decided concurrently and that a record may have. Each is of another replica, and looking at them takes time in the
/// square of how many there are.
pub(crate) const MAX_DUE: usize = 1024;

/// A removal at a time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Due {
    /// `None`: never.
    pub(super) at: Option<Millis>,
    /// The writes of the value that are gone then.
    pub(super) covers: VersionVector,
    /// The marks of a counter that are.
    pub(super) marks: VersionVector,
    /// From where on a counter counts then.
    pub(super) origins: Origins,
}

impl Due {
    /// Of all that is known of a value, and of the marks of what was added to a counter under idempotency keys.
    pub(super) fn of(covers: &VersionVector, marks: &VersionVector, counter: Option<&PnCounter>) -> Self {
        let origins = counter.map(Origins::after).unwrap_or_default();
        Self { at: None, covers: covers.clone(), marks: marks.clone(), origins }
    }

    fn is_over(&self, now: Millis) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    fn join(&mut self, other: Self) {
        self.covers.merge(&other.covers);
        self.marks.merge(&other.marks);
        self.origins.merge(other.origins);
    }

    /// What of it another does not cover.
    fn without(self, other: &Self) -> Self {
        let mut covers = self.covers.difference(&other.covers);
        for replica in other.origins.replicas() {
            covers.remove_replica(replica);
        }
        let (marks, origins) = (self.marks.difference(&other.marks), self.origins.without(&other.origins));
        Self { covers, marks, origins, ..self }
    }
}

/// The removals that are due, and which were decided and are not any more.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Until(pub(super) Stored<LwwRegister<Due>>);

impl Until {
    /// Whether there ever was one.
    pub(super) fn is_written(&self) -> bool {
        !self.0.context().is_empty()
    }

    /// Whether one is due, at whatever time.
    pub(super) fn is_timed(&self) -> bool {
        self.times().next().is_some()
    }

    /// The times at which some are due, in no order.
    pub(super) fn times(&self) -> impl Iterator<Item = Millis> {
        self.0.value().standing().into_iter().filter_map(|(_, due)| due.at)
    }

    /// When the last of these writes goes; `None`: never.
    pub(super) fn last(&self, mut live: VersionVector) -> Option<Millis> {
        let mut last = 0;
        for (_, due) in self.0.value().standing() {
            if live.intersects(&due.covers) {
                last = last.max(due.at?);
                live = live.difference(&due.covers);
            }
        }
        live.is_empty().then_some(last)
    }

    /// Whether one is over.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        self.times().any(|at| at <= now)
    }

    /// Takes out those that are over. Returns what has gone with them: what no later one keeps. One stays that has more of a total to take
    /// away than the later one that keeps it.
    pub(super) fn take(&mut self, now: Millis) -> Due {
        let (mut dots, mut gone, mut kept) = (VersionVector::new(), Due::default(), Due::default());
        for (dot, due) in self.0.value().standing() {
            if due.is_over(now) {
                let taken = due.clone().without(&kept);
                if taken.origins == due.origins {
                    dots.insert(dot);
                }
                gone.join(taken);
            } else {
                kept.join(due.clone());
            }
        }
        self.0.kill(&dots);
        gone
    }

    /// Decides. Returns what others need to know of it.
    pub(super) fn decide(
        &mut self,
        due: Due,
        writing: &Writing<'_>,
    ) -> Result<Option<Stored<LwwRegister<Due>>>, Refused> {
        let Writing { replica, above, at, .. } = *writing;
        self.0.claim(replica, above);
        Ok(self.0.update(replica, |state, w| state.set(w, at, due))?.map(Stored::of))
    }

    /// Lets the latest, if it is due, cover this much, as of the time at which it was decided. Returns what others need to know of it.
    pub(super) fn extend(
        &mut self,
        due: Due,
        writing: &Writing<'_>,
    ) -> Result<Option<Stored<LwwRegister<Due>>>, Refused> {
        let Writing { replica, above, .. } = *writing;
        let Some(at) = self.0.value().value().and_then(|due| due.at) else { return Ok(None) };
        self.0.claim(replica, above);
        let due = Due { at: Some(at), ..due };
        Ok(self.0.update(replica, |state, w| state.restate(w, due))?.map(Stored::of))
    }
}
