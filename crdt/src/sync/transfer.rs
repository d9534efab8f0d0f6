//! Sending a replica everything that lies above its context, in the order of dots.
//!
//! First all keys are looked through, some at a time, for live dots that the other lacks. Then chunks go out: each claims
//! the next interval of the dots that were missing, and brings those of them that are live now. So each chunk is true by
//! itself, the receiver's context stays a few intervals at every moment, and what changes meanwhile is the log's business:
//! a peer's cursor is set before its transfer begins.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::mutation::{Mutation, mutated};
use crate::store::{Crdt, Delta};
use crate::{Dot, Replica, ReplicaId, VersionVector};

/// How many keys are looked at in one go: some hundreds of microseconds.
const SLICE: usize = 4096;

/// How many dots are added to a chunk before its size is looked at: by so many of the largest values it can be too large.
pub(super) const BATCH: usize = 64;

#[derive(Debug)]
pub(super) struct Transfer<K> {
    /// The dots that are still to be claimed.
    claim: VersionVector,
    /// Up to which key the search has come; `None` when it is done.
    searching: Option<Bound<K>>,
    /// The live ones among them with their keys; sorted, the next one last, when the search is done.
    found: Vec<(Dot, K)>,
    pub(super) in_flight: usize,
}

impl<K: Ord + Clone> Transfer<K> {
    pub(super) fn new(claim: VersionVector) -> Self {
        Self { claim, searching: Some(Bound::Unbounded), found: Vec::new(), in_flight: 0 }
    }

    /// Whether all has been sent and answered.
    pub(super) fn is_done(&self) -> bool {
        self.is_sent() && self.in_flight == 0
    }

    pub(super) fn is_sent(&self) -> bool {
        self.claim.is_empty()
    }

    /// Claims nothing more of an actor, no dot of which is live.
    pub(super) fn forget(&mut self, actor: ReplicaId) {
        self.claim.remove_replica(actor);
        self.found.retain(|(dot, _)| dot.replica != actor);
    }

    /// Looks through some keys. Returns whether the search is done.
    pub(super) fn search<T: Crdt<Key = K>>(&mut self, replica: &Replica<T>) -> bool {
        let Some(from) = self.searching.take() else { return true };
        let mut left = SLICE;
        let mut last = None;
        replica.visit(from.as_ref(), &mut |key, dots| {
            self.found.extend(dots.filter(|dot| self.claim.contains(*dot)).map(|dot| (dot, key.clone())));
            left -= 1;
            if left == 0 {
                last = Some(key.clone());
            }
            left > 0
        });
        self.searching = last.map(Bound::Excluded);
        if self.searching.is_none() {
            self.found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        }
        self.searching.is_none()
    }

    /// The next chunk; what it says is true of the replica as it is now.
    pub(super) fn chunk<T: Crdt<Key = K>>(
        &mut self,
        replica: &Replica<T>,
        max_items: usize,
        max_bytes: usize,
    ) -> T::Delta {
        let (mut parts, mut items, mut bytes, mut last) = (Vec::new(), 0, 0, None);
        while items < max_items.max(1) && (items == 0 || bytes < max_bytes) && !self.found.is_empty() {
            let mut wanted: BTreeMap<K, VersionVector> = BTreeMap::new();
            let batch = BATCH.min(max_items.max(1) - items).min(self.found.len());
            for (dot, key) in self.found.drain(self.found.len() - batch..).rev() {
                last = Some(dot);
                wanted.entry(key).or_default().insert(dot);
            }
            let part = replica.pick(wanted.into_iter().collect());
            items += batch;
            bytes += part.encode().len();
            parts.push(part);
        }
        let mut delta = unite_all(parts);
        let claim = match last {
            Some(_) if mutated(Mutation::ClaimsAhead) => self.claim.clone(),
            Some(last) if !self.found.is_empty() => self.claim.take_up_to(last),
            _ => std::mem::take(&mut self.claim),
        };
        let dead = claim.difference(&delta.context());
        if !dead.is_empty() {
            delta.kill(&dead);
        }
        delta
    }
}

/// Unites deltas two by two, so that each entry is moved a few times only.
pub(super) fn unite_all<D: Delta>(mut parts: Vec<D>) -> D {
    while parts.len() > 1 {
        let mut pairs = parts.into_iter();
        parts = Vec::new();
        while let Some(mut part) = pairs.next() {
            if let Some(other) = pairs.next() {
                part.unite(other);
            }
            parts.push(part);
        }
    }
    parts.pop().unwrap_or_default()
}
