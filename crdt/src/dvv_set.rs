//! A register that keeps what was written concurrently.
//!
//! A read returns the live values and the [`VersionVector`] of all that they stand on, the *context*. A write passes
//! back the context of the read that it followed: the new value replaces everything that the writer had seen, and
//! nothing else. Values that no writer has replaced are *siblings*. So a write costs one dot, whoever the client is,
//! and a replica never has to choose among values on its own.
//!
//! Source: Almeida, Baquero, Gonçalves, Preguiça and Fonte, "Scalable and accurate causality tracking for eventually
//! consistent stores" (DAIS 2014), sections 4 and 5: `sync` is [`DvvSet::merge`]; `update` is [`DvvSet::put`].
//!
//! # Invariant
//! The set is a *dot store under a causal context*: `siblings`, each under the dot of its write, sorted by dot, and
//! `context`, which holds every dot that this state has heard of. Every sibling's dot is in the context. A dot in the
//! context without a sibling was replaced or deleted; a dot outside of the context is news.
//!
//! # Where it deviates from the paper
//! The paper stores, for each replica, one counter n and a list of values, whose dots are implied: the last ones up to
//! n. That needs contexts without gaps. Ours may have them: who has read one of two siblings knows `1..=3` and `5`. So
//! each value carries its dot and the context is a vector with exceptions. The usual state, one value whose dot is the
//! last of its replica, is encoded as compactly as the paper's.
//!
//! # Why a write learns its context
//! `update` of the paper syncs with the context before it adds the value, and so do we: dots of the context that this
//! state had not seen enter its history, without values. Were they left out, a replica that still holds one of those
//! values would bring it back in the next merge, as a sibling of the value that its writer had written *over* it. It is
//! safe, because the new value carries the same claim: whoever gets this state gets the value that replaces them.
//! The same holds for [`DvvSet::delete`], where nothing replaces them and the context alone is the tombstone.

use crate::{Dot, Error, ReplicaId, VersionVector};

/// A set of concurrent values under a causal context: a dotted version vector set.
///
/// Two states that have heard of the same writes hold the same values. [`DvvSet::merge`] is commutative, associative
/// and idempotent, provided that no dot is given to two writes (see [`ReplicaId`]).
///
/// The contexts that [`DvvSet::put`] and [`DvvSet::delete`] take must come from reads of the same object. They may be
/// stale and may be unions; they may not be made up, because a context is a promise that its reader has seen what it
/// names: the object forgets those values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DvvSet<V> {
    context: VersionVector,
    siblings: Vec<(Dot, V)>,
}

impl<V> DvvSet<V> {
    /// The object before its first write.
    #[must_use]
    pub const fn new() -> Self {
        Self { context: VersionVector::new(), siblings: Vec::new() }
    }

    /// All dots that this state has seen: what a reader passes back when it writes.
    #[must_use]
    pub fn context(&self) -> &VersionVector {
        &self.context
    }

    /// The live values, in the order of their dots.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.siblings.iter().map(|(_, value)| value)
    }

    /// The live values with the dots of their writes, in the order of dots.
    pub fn siblings(&self) -> impl ExactSizeIterator<Item = (Dot, &V)> {
        self.siblings.iter().map(|(dot, value)| (*dot, value))
    }

    /// How many values are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.siblings.len()
    }

    /// Whether no value is live: it was never written, or is a tombstone (see [`DvvSet::is_bottom`]).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.siblings.is_empty()
    }

    /// Whether this state has heard of no write at all. Merging it changes nothing.
    #[must_use]
    pub fn is_bottom(&self) -> bool {
        self.context.is_empty()
    }

    /// Writes `value` at `replica`, in place of all values that `context` covers; the others stay as its siblings.
    ///
    /// `context` is that of the read that the writer has based its value on: empty if it has read nothing. Returns the
    /// dot of the write, which is greater than any dot of `replica` that this state or the context has.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if `replica` has no counter left. The state is then unchanged.
    pub fn put(&mut self, replica: ReplicaId, context: &VersionVector, value: V) -> Result<Dot, Error> {
        let used = self.context.max(replica).max(context.max(replica));
        let counter = used.checked_add(1).ok_or(Error::Exhausted(replica))?;
        let dot = Dot { replica, counter };
        self.delete(context);
        self.context.insert(dot);
        if self.siblings.is_empty() {
            // Most objects have one value and never a second at once.
            self.siblings.reserve_exact(1);
        }
        let at = self.siblings.partition_point(|(other, _)| *other < dot);
        self.siblings.insert(at, (dot, value));
        Ok(dot)
    }

    /// Deletes all values that `context` covers, here and, once merged, wherever else they are. Values that it does
    /// not cover stay. Returns whether this changed the state.
    pub fn delete(&mut self, context: &VersionVector) -> bool {
        let before = self.siblings.len();
        self.siblings.retain(|(dot, _)| !context.contains(*dot));
        self.context.merge(context) | (self.siblings.len() != before)
    }

    /// Takes over what `other` knows: its new values come in, the values that it knows to be replaced or deleted go.
    /// Returns whether this changed the state.
    ///
    /// If `V::clone` panics the state is unchanged.
    pub fn merge(&mut self, other: &Self) -> bool
    where
        V: Clone,
    {
        let news = other.siblings.iter().filter(|(dot, _)| !self.context.contains(*dot)).cloned().collect();
        let lost = self.drop_replaced(other);
        self.learn(&other.context, news) | lost
    }

    /// The same as [`DvvSet::merge`], but moves the values.
    pub fn merge_owned(&mut self, other: Self) -> bool {
        let lost = self.drop_replaced(&other);
        let Self { context, siblings: mut news } = other;
        news.retain(|(dot, _)| !self.context.contains(*dot));
        self.learn(&context, news) | lost
    }

    /// Drops the values that `other` has seen and no longer holds. Returns whether there were any.
    fn drop_replaced(&mut self, other: &Self) -> bool {
        let before = self.siblings.len();
        self.siblings.retain(|(dot, _)| !other.context.contains(*dot) || other.holds(*dot));
        self.siblings.len() != before
    }

    /// Takes in a context and those of its values that are new here. Returns whether this changed the state.
    fn learn(&mut self, context: &VersionVector, mut news: Vec<(Dot, V)>) -> bool {
        if self.siblings.is_empty() {
            news.shrink_to_fit();
            self.siblings = news;
        } else if !news.is_empty() {
            self.siblings.extend(news);
            self.siblings.sort_unstable_by_key(|(dot, _)| *dot);
        }
        self.context.merge(context)
    }

    fn holds(&self, dot: Dot) -> bool {
        self.siblings.binary_search_by_key(&dot, |(other, _)| *other).is_ok()
    }

    /// Takes parts that satisfy the invariant.
    pub(crate) fn from_parts(context: VersionVector, siblings: Vec<(Dot, V)>) -> Self {
        debug_assert!(siblings.windows(2).all(|pair| pair[0].0 < pair[1].0));
        debug_assert!(siblings.iter().all(|(dot, _)| context.contains(*dot)));
        Self { context, siblings }
    }
}

impl<V> Default for DvvSet<V> {
    fn default() -> Self {
        Self::new()
    }
}
