//! Who passes a change on to whom.
//!
//! All replicas that are up, in the order of their ids, beginning with the origin of a change and going round: position `i`
//! passes it on to positions `fan_out·i + 1` to `fan_out·i + fan_out`. So each origin has a tree of its own in which every
//! other replica has one parent, and everybody does about the same share of all passing on. Replicas that see different
//! members miss a change or get it twice; rounds repair the former, and the latter is harmless.

use std::collections::BTreeMap;

use crate::ReplicaId;

/// The trees as one replica sees them.
#[derive(Debug)]
pub(super) struct Tree {
    own: ReplicaId,
    fan_out: usize,
    /// All that are up, our own replica among them, sorted.
    up: Vec<ReplicaId>,
    /// Our children in the tree of each origin that was asked for.
    children: BTreeMap<ReplicaId, Vec<ReplicaId>>,
}

impl Tree {
    pub(super) fn new(own: ReplicaId, fan_out: usize) -> Self {
        Self { own, fan_out: fan_out.max(1), up: vec![own], children: BTreeMap::new() }
    }

    /// `others` are up now.
    pub(super) fn set_up(&mut self, others: impl Iterator<Item = ReplicaId>) {
        self.up = others.chain([self.own]).collect();
        self.up.sort_unstable();
        self.up.dedup();
        self.children.clear();
    }

    /// To whom we pass on what `origin` has changed: nobody, if we do not know it.
    pub(super) fn children(&mut self, origin: ReplicaId) -> &[ReplicaId] {
        let Self { own, fan_out, up, children } = self;
        let count = up.len();
        // Nothing is kept of an origin that is not known: anybody can name as many as they like.
        let (Ok(root), Ok(own)) = (up.binary_search(&origin), up.binary_search(own)) else { return &[] };
        children.entry(origin).or_insert_with(|| {
            let position = (own + count - root) % count;
            let first = position.saturating_mul(*fan_out).saturating_add(1);
            (first..first.saturating_add(*fan_out))
                .take_while(|at| *at < count)
                .map(|at| up[(root + at) % count])
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_reaches_everyone_once_and_never_its_origin() {
        for count in [1, 2, 3, 33, 34, 100, 1000] {
            let ids: Vec<_> = (0..count).map(|i| ReplicaId(i * 7 + 3)).collect();
            for origin in [0, count / 2, count - 1] {
                let mut got = BTreeMap::new();
                for own in &ids {
                    let mut tree = Tree::new(*own, 32);
                    tree.set_up(ids.iter().copied());
                    let children = tree.children(ids[origin as usize]);
                    assert!(children.len() <= 32);
                    children.iter().for_each(|child| *got.entry(*child).or_insert(0) += 1);
                }
                assert_eq!(got.len() as u64, count - 1);
                assert!(got.values().all(|times| *times == 1) && !got.contains_key(&ids[origin as usize]));
            }
        }
    }

    #[test]
    fn what_a_stranger_changed_is_not_passed_on() {
        let mut tree = Tree::new(ReplicaId(1), 32);
        tree.set_up([ReplicaId(2)].into_iter());
        (3..100).for_each(|stranger| assert!(tree.children(ReplicaId(stranger)).is_empty()));
        assert!(tree.children.is_empty(), "and nothing is kept of them");
        assert_eq!(tree.children(ReplicaId(1)), [ReplicaId(2)]);
    }
}
