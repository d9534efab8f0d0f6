//! Whom to probe next, and whom to pick by chance: the others that are up.
//!
//! Members are probed in rounds, each once a round, in an order that is shuffled anew every round; who joins comes at a
//! random place of what is left of the round (SWIM, section 4.3). So a member is probed within two rounds at the latest.

use std::collections::BTreeMap;

use rand::{Rng, RngExt as _, seq::SliceRandom as _};

use crate::buckets::NameKey;

/// How often is drawn for each that is picked: if half of them fit, one in a million picks fails.
const DRAWS: usize = 20;

/// The others that are up, in the order of this round.
#[derive(Debug, Default)]
pub(super) struct Lineup {
    order: Vec<NameKey>,
    places: BTreeMap<NameKey, usize>,
    /// Those before it had their turn.
    next: usize,
}

impl Lineup {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn has(&self, key: NameKey) -> bool {
        self.places.contains_key(&key)
    }

    pub(super) fn add(&mut self, key: NameKey, rng: &mut impl Rng) {
        if self.has(key) {
            return;
        }
        self.order.push(key);
        let last = self.order.len() - 1;
        self.places.insert(key, last);
        let at = rng.random_range(self.next.min(last)..=last);
        self.swap(at, last);
    }

    pub(super) fn remove(&mut self, key: NameKey) {
        let Some(mut at) = self.places.get(&key).copied() else { return };
        if at < self.next {
            // Those that had their turn stay before those that did not.
            self.next -= 1;
            self.swap(at, self.next);
            at = self.next;
        }
        self.swap(at, self.order.len() - 1);
        self.order.pop();
        self.places.remove(&key);
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.order.swap(one, other);
        self.places.insert(self.order[one], one);
        self.places.insert(self.order[other], other);
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Option<NameKey> {
        if self.next >= self.order.len() {
            self.next = 0;
            self.order.shuffle(rng);
            self.places = self.order.iter().enumerate().map(|(at, key)| (*key, at)).collect();
        }
        let key = self.order.get(self.next).copied()?;
        self.next += 1;
        Some(key)
    }

    /// So many of them by chance, of those that `fit`. Fewer if few of them do: each is drawn, not sought.
    pub(super) fn pick(&self, count: usize, fit: impl Fn(NameKey) -> bool, rng: &mut impl Rng) -> Vec<NameKey> {
        let mut picked: Vec<NameKey> = Vec::with_capacity(count);
        if self.order.is_empty() {
            return picked;
        }
        for _ in 0..count * DRAWS {
            let key = self.order[rng.random_range(0..self.order.len())];
            if !picked.contains(&key) && fit(key) {
                picked.push(key);
                if picked.len() == count {
                    break;
                }
            }
        }
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use std::collections::BTreeSet;

    fn key(at: u8) -> NameKey {
        NameKey::of(&at.to_string())
    }

    proptest! {
        /// Whoever stays has a turn in every round, whoever comes and goes meanwhile.
        #[test]
        fn each_has_its_turn(steps in prop::collection::vec((0u8..20, any::<bool>()), 1..60), seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut lineup, mut model) = (Lineup::default(), BTreeSet::new());
            for (at, comes) in steps {
                if comes {
                    lineup.add(key(at), &mut rng);
                    model.insert(key(at));
                } else {
                    lineup.remove(key(at));
                    model.remove(&key(at));
                }
                lineup.next(&mut rng);
                prop_assert_eq!(lineup.len(), model.len());
                prop_assert!(lineup.places.iter().all(|(key, at)| lineup.order[*at] == *key && model.contains(key)));
            }
            let rest = lineup.len() - lineup.next;
            (0..rest).for_each(|_| assert!(lineup.next(&mut rng).is_some()));
            let round: BTreeSet<_> = (0..model.len()).filter_map(|_| lineup.next(&mut rng)).collect();
            prop_assert_eq!(&round, &model);
            let but = model.first().copied();
            let picked = lineup.pick(3, |key| Some(key) != but, &mut rng);
            let different: BTreeSet<_> = picked.iter().collect();
            prop_assert_eq!(different.len(), 3.min(model.len().saturating_sub(1)));
            prop_assert!(picked.iter().all(|key| Some(*key) != but));
        }
    }
}
