//! When all that a counter, set or map holds expires.
//!
//! Its parts cannot be written again with another time, as a causal or last value can. So a time to live is a removal that is *due*: it
//! names the writes that it covers, as a removal does ([`Due`]), and when its time has come just these are gone. What was added by who
//! had not heard of it stays, as with any removal (K3). Who has heard of it covers what it adds, too ([`Until::extend`]).
//!
//! Of times that were given concurrently the latest holds: one before it counts once the latest is over, for what only that covers.

use polity_crdt::{Dot, LwwRegister, PnCounter, VersionVector};
use serde::{Deserialize, Serialize};

use super::Millis;
use super::origin::Origins;
use super::stored::Stored;
use super::update::{Refused, Writing};

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

    /// When all of these writes have gone; `None`: never.
    pub(super) fn last(&self, mut live: VersionVector) -> Option<Millis> {
        let mut last = 0;
        for (_, due) in self.0.value().standing() {
            last = last.max(due.at?);
            live = live.difference(&due.covers);
            if live.is_empty() {
                return Some(last);
            }
        }
        None
    }

    /// Whether the latest is over.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        self.0.value().standing().first().is_some_and(|(_, due)| due.is_over(now))
    }

    /// Takes out those that are over, and no later one is not.
    pub(super) fn take(&mut self, now: Millis) -> Vec<Due> {
        let standing = self.0.value().standing();
        let over = standing.into_iter().take_while(|(_, due)| due.is_over(now));
        let over: Vec<(Dot, Due)> = over.map(|(dot, due)| (dot, due.clone())).collect();
        self.0.kill(&over.iter().map(|(dot, _)| *dot).collect());
        over.into_iter().map(|(_, due)| due).collect()
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
