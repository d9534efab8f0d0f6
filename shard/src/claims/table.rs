//! The claims that are known.
//!
//! **Model.** For each shard a register that holds the greatest epoch that was ever put into it; the table is the
//! product of these. A join-semilattice: [`Claims::join`] is associative, commutative and idempotent, so tables that have
//! joined the same claims are equal, in whatever order and however often. A delta is a table too: that of the entries that
//! have changed, and joining it does what joining the whole would have done.
//!
//! **Nothing is taken out.** A claim whose owner is dead stays, because the next one must be above it. There are at most as
//! many claims as shards.
//!
//! Source: Shapiro, Preguiça, Baquero and Zawirski, "A comprehensive study of convergent and commutative replicated data
//! types" (INRIA 7506, 2011), section 3.2.1, with epochs in the place of timestamps.

use std::collections::BTreeMap;
use std::fmt;

use polity_cluster::NodeId;
use serde::{Deserialize, Serialize};

use crate::{Epoch, ShardId};

/// That a boot owns a shard, under an epoch, which names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// What is owned.
    pub shard: ShardId,
    /// Since when, in the order of owners, and by whom.
    pub epoch: Epoch,
}

impl Claim {
    /// Who owns it.
    #[must_use]
    pub fn owner(&self) -> &NodeId {
        &self.epoch.owner
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} under {}", self.shard, self.epoch)
    }
}

/// Of each shard the claim of the greatest epoch that is known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Claims(BTreeMap<ShardId, Epoch>);

impl Claims {
    /// No claims.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The greatest epoch of a shard.
    #[must_use]
    pub fn epoch(&self, shard: ShardId) -> Option<&Epoch> {
        self.0.get(&shard)
    }

    /// Who owns a shard, as far as is known.
    #[must_use]
    pub fn owner(&self, shard: ShardId) -> Option<&NodeId> {
        self.epoch(shard).map(|epoch| &epoch.owner)
    }

    /// All claims, in the order of shards.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ShardId, &Epoch)> {
        self.0.iter().map(|(shard, epoch)| (*shard, epoch))
    }

    /// The claims of the shards from this one on, in order.
    pub fn from(&self, shard: ShardId) -> impl Iterator<Item = (ShardId, &Epoch)> {
        self.0.range(shard..).map(|(shard, epoch)| (*shard, epoch))
    }

    /// How many shards are claimed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a claim in. Returns whether it is the greatest now and was not before.
    pub fn learn(&mut self, claim: Claim) -> bool {
        let Claim { shard, epoch } = claim;
        match self.0.get_mut(&shard) {
            Some(known) if *known >= epoch => false,
            Some(known) => {
                *known = epoch;
                true
            }
            None => {
                self.0.insert(shard, epoch);
                true
            }
        }
    }

    /// Takes all claims of another table in. Returns the delta: those that have changed this one.
    pub fn join(&mut self, other: &Self) -> Self {
        let news = other.iter().filter(|(shard, epoch)| self.epoch(*shard).is_none_or(|known| known < *epoch));
        let news = Self(news.map(|(shard, epoch)| (shard, epoch.clone())).collect());
        self.0.extend(news.0.clone());
        news
    }
}

impl FromIterator<Claim> for Claims {
    fn from_iter<I: IntoIterator<Item = Claim>>(claims: I) -> Self {
        let mut table = Self::new();
        for claim in claims {
            table.learn(claim);
        }
        table
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::epoch::tests::boot;

    /// Any claims of a few shards by a few boots, so that they meet.
    pub(crate) fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let claim = (0..4u32, 1..5u64, 0..3usize, 1..3u64).prop_map(|(shard, counter, name, generation)| {
            let owner = boot(&format!("{}{generation}", ["a", "b", "c"][name]));
            Claim { shard: ShardId(shard), epoch: Epoch { counter, owner } }
        });
        prop::collection::vec(claim, 0..12)
    }

    fn joined(a: &Claims, b: &Claims) -> Claims {
        let mut all = a.clone();
        all.join(b);
        all
    }

    proptest! {
        #[test]
        fn join_is_associative_commutative_and_idempotent(a in claims(), b in claims(), c in claims()) {
            let [a, b, c] = [a, b, c].map(Claims::from_iter);
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&a, &a), a);
        }

        #[test]
        fn a_delta_does_what_the_whole_does(a in claims(), b in claims(), c in claims()) {
            let [a, b, c] = [a, b, c].map(Claims::from_iter);
            // Whoever has joined `a` and the delta of joining `b` to it has joined both, whatever else it knows.
            let mut whole = a.clone();
            let delta = whole.join(&b);
            prop_assert_eq!(joined(&joined(&c, &a), &delta), joined(&joined(&c, &a), &b));
            prop_assert_eq!(joined(&a, &delta), whole.clone());
            prop_assert!(whole.join(&delta).is_empty(), "no news twice");
        }

        #[test]
        fn every_order_gives_the_greatest((claims, shuffled) in claims().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle()))) {
            let table = Claims::from_iter(claims.clone());
            prop_assert_eq!(&table, &Claims::from_iter(shuffled));
            for shard in (0..4).map(ShardId) {
                let greatest = claims.iter().filter(|claim| claim.shard == shard).map(|claim| &claim.epoch).max();
                prop_assert_eq!(table.epoch(shard), greatest);
            }
        }

        #[test]
        fn learning_says_whether_it_was_news(a in claims(), b in claims()) {
            let mut table = Claims::from_iter(a);
            for claim in b {
                let before = table.clone();
                let is_news = table.learn(claim.clone());
                prop_assert_eq!(is_news, table != before);
                prop_assert!(table.epoch(claim.shard) >= before.epoch(claim.shard), "epochs only grow");
            }
        }
    }
}
