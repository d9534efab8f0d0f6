//! From where on the total of each replica counts.
//!
//! Each replica keeps what it has added to a counter as one total, and adding puts a greater one in its place ([`PnCounter`]). Who
//! removes a counter has seen some total of each replica; one that adds at the same time, and has not heard of it, puts a total in its
//! place that what was removed is part of. So a removal keeps what it has taken away ([`Origins::remove`]), and only what a total
//! has grown by since counts. A replica that adds after it has heard of a removal begins at 0, and keeps that, too ([`Origins::begin`]).
//!
//! Of two origins of a replica the later holds: one replica writes all of its totals, one after the other, so their dots say which
//! that is. (The problem is that of Baquero, Almeida and Lerche, "The problem with embedded CRDT counters and a solution", PaPoC 2016;
//! the solution is another.)

use std::collections::BTreeMap;

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::types::Total;
use polity_crdt::{Dot, PnCounter, ReplicaId, VersionVector};
use serde::{Deserialize, Serialize};

/// Where a total counts from.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Origin {
    /// Twice the number of the write that it is about, and one more if that was removed: a beginning comes before the removal of what
    /// it began.
    mark: u64,
    /// What the total was then.
    total: Total,
}

/// Of each replica that has counted.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "InOrder", try_from = "InOrder")]
pub(super) struct Origins(BTreeMap<ReplicaId, Origin>);

/// By rising replica.
type InOrder = Vec<(ReplicaId, Origin)>;

impl From<Origins> for InOrder {
    fn from(Origins(all): Origins) -> Self {
        all.into_iter().collect()
    }
}

impl TryFrom<InOrder> for Origins {
    type Error = &'static str;

    fn try_from(all: InOrder) -> Result<Self, Self::Error> {
        let is_sorted = all.is_sorted_by(|(one, _), (other, _)| one < other);
        if is_sorted { Ok(Self(all.into_iter().collect())) } else { Err("the origins of a counter are not in order") }
    }
}

impl Origins {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of what all replicas have counted since.
    pub(super) fn sum(&self, counter: &PnCounter) -> i128 {
        counter.totals().map(|(dot, total)| self.since(dot, total)).sum()
    }

    fn since(&self, dot: Dot, total: Total) -> i128 {
        let value = |total: Total| i128::from(total.added) - i128::from(total.taken);
        match self.0.get(&dot.replica).filter(|_| !mutated(Mutation::BringsBackCounts)) {
            // It was replaced by what was removed.
            Some(origin) if origin.mark > dot.counter.saturating_mul(2) => 0,
            Some(origin) => value(total) - value(origin.total),
            None => value(total),
        }
    }

    /// A replica begins at 0 with this write.
    pub(super) fn begin(&mut self, dot: Dot) {
        self.raise(dot.replica, Origin { mark: dot.counter.saturating_mul(2), total: Total::default() });
    }

    /// All that is there is removed.
    pub(super) fn remove(&mut self, counter: &PnCounter) {
        for (dot, total) in counter.totals() {
            self.raise(dot.replica, Origin { mark: dot.counter.saturating_mul(2).saturating_add(1), total });
        }
    }

    /// Joins those of another copy. Returns whether any was new.
    pub(super) fn merge(&mut self, other: Self) -> bool {
        other.0.into_iter().fold(false, |is_new, (replica, origin)| self.raise(replica, origin) | is_new)
    }

    fn raise(&mut self, replica: ReplicaId, origin: Origin) -> bool {
        match self.0.get(&replica) {
            Some(held) if held.mark >= origin.mark => false,
            _ => {
                self.0.insert(replica, origin);
                true
            }
        }
    }

    /// All writes of these replicas, whichever.
    pub(super) fn replicas(&self) -> VersionVector {
        let mut all = VersionVector::new();
        for replica in self.0.keys() {
            all.insert_up_to(*replica, u64::MAX);
        }
        all
    }

    /// Those of the replicas that have written some of these.
    pub(super) fn of(mut self, writes: &VersionVector) -> Self {
        self.0.retain(|replica, _| writes.max(*replica) > 0);
        self
    }

    /// Those that others have none of which is as late.
    pub(super) fn later_than(mut self, others: &Self) -> Self {
        self.0.retain(|replica, origin| others.0.get(replica).is_none_or(|held| held.mark < origin.mark));
        self
    }

    /// Those of replicas of which others have none.
    pub(super) fn without(mut self, other: &Self) -> Self {
        self.0.retain(|replica, _| !other.0.contains_key(replica));
        self
    }

    /// What a removal of all that is there would leave, and nothing else.
    pub(super) fn after(counter: &PnCounter) -> Self {
        let mut origins = Self::default();
        origins.remove(counter);
        origins
    }
}
