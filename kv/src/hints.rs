//! What this node has written and others have missed: marks, and no copies. Pure.
//!
//! Whoever coordinates a write holds the record itself. So when a replica does not take the write, it is enough to remember
//! which key that was: once the replica answers again it gets what is there *then*. A mark counts for nothing else: a write
//! is acknowledged by those that have it (promise K1).
//!
//! A target is *due* when it has answered anything since it last failed. That keeps a node that is away from being tried
//! again and again.
//!
//! # Bounds
//! The keys of one target take [`Limits::target_bytes`], those of all [`Limits::bytes`]. Where a key finds no room, the keys of
//! its shard are forgotten, and the shard is to be compared as a whole instead. So there are never more marks than shards
//! times targets beside that; and a target is forgotten with its boot.

use std::collections::{BTreeMap, BTreeSet};

use polity_cluster::NodeId;
use polity_shard::ShardId;

use crate::record::Blob;

/// What a mark takes beside its key: places in two trees, about.
const MARK_BYTES: usize = 64;

/// How much may be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of one target.
    pub(crate) target_bytes: usize,
    /// Of all.
    pub(crate) bytes: usize,
}

impl Default for Limits {
    /// 1 MiB for a target is some ten thousand keys: more than that is found as fast by a comparison. 8 MiB in all.
    fn default() -> Self {
        Self { target_bytes: 1 << 20, bytes: 8 << 20 }
    }
}

/// What a target has missed of a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Missed {
    Keys(BTreeSet<Blob>),
    /// So much that it is to be compared.
    Whole,
}

/// What a target has missed.
pub(crate) type Marks = BTreeMap<ShardId, Missed>;

#[derive(Debug, Default)]
struct Target {
    marks: Marks,
    bytes: usize,
    /// It has answered something since it last failed.
    is_due: bool,
}

/// Who has missed what.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    targets: BTreeMap<NodeId, Target>,
    bytes: usize,
    limits: Limits,
}

impl Hints {
    #[cfg(test)]
    fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A target has missed a write. Returns whether that made its shard one to be compared.
    pub(crate) fn note(&mut self, target: &NodeId, shard: ShardId, key: &Blob) -> bool {
        let of = self.targets.entry(target.clone()).or_default();
        of.is_due = false;
        let missed = of.marks.entry(shard).or_insert_with(|| Missed::Keys(BTreeSet::new()));
        let Missed::Keys(keys) = missed else { return false };
        if keys.contains(key) {
            return false;
        }
        let bytes = cost(key);
        if of.bytes + bytes > self.limits.target_bytes || self.bytes + bytes > self.limits.bytes {
            let freed: usize = keys.iter().map(cost).sum();
            *missed = Missed::Whole;
            of.bytes -= freed;
            self.bytes -= freed;
            return true;
        }
        keys.insert(key.clone());
        of.bytes += bytes;
        self.bytes += bytes;
        false
    }

    /// A target has missed a shard, or failed while it was compared.
    pub(crate) fn note_whole(&mut self, target: &NodeId, shard: ShardId) {
        let of = self.targets.entry(target.clone()).or_default();
        of.is_due = false;
        if let Some(Missed::Keys(keys)) = of.marks.insert(shard, Missed::Whole) {
            let freed: usize = keys.iter().map(cost).sum();
            of.bytes -= freed;
            self.bytes -= freed;
        }
    }

    /// A target has answered something. Returns whether that makes it due.
    pub(crate) fn handle_answer(&mut self, target: &NodeId) -> bool {
        self.targets.get_mut(target).is_some_and(|of| !std::mem::replace(&mut of.is_due, true))
    }

    /// The targets that are to be given what they have missed.
    pub(crate) fn due(&self) -> Vec<NodeId> {
        self.targets.iter().filter(|(_, of)| of.is_due).map(|(node, _)| node.clone()).collect()
    }

    /// Takes all marks of a target, to act upon them. What fails is noted again.
    pub(crate) fn take(&mut self, target: &NodeId) -> Marks {
        let Some(of) = self.targets.remove(target) else { return Marks::new() };
        self.bytes -= of.bytes;
        of.marks
    }

    /// Forgets targets that will never be there again.
    pub(crate) fn retain(&mut self, mut may_return: impl FnMut(&NodeId) -> bool) {
        self.targets.retain(|node, _| may_return(node));
        self.bytes = self.targets.values().map(|of| of.bytes).sum();
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = &NodeId> {
        self.targets.keys()
    }

    /// How many keys are remembered, and how many shards that are to be compared.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let marks = self.targets.values().flat_map(|of| of.marks.values());
        marks.fold((0, 0), |(keys, wholes), missed| match missed {
            Missed::Keys(some) => (keys + some.len(), wholes),
            Missed::Whole => (keys, wholes + 1),
        })
    }
}

fn cost(key: &Blob) -> usize {
    key.0.len() + MARK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::boot;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    fn key(at: usize) -> Blob {
        format!("{at:036}").into_bytes().into()
    }

    /// Room for `target` keys of one target and `all` of all.
    fn hints(target: usize, all: usize) -> Hints {
        Hints::new(Limits { target_bytes: target * 100, bytes: all * 100 })
    }

    #[test]
    fn a_mark_waits_until_its_target_has_answered() {
        let mut hints = hints(10, 10);
        hints.note(&boot("a1"), A, &key(1));
        hints.note(&boot("a1"), A, &key(1));
        hints.note(&boot("b1"), A, &key(2));
        assert_eq!((hints.counts(), hints.due()), ((2, 0), vec![]));
        assert!(hints.handle_answer(&boot("a1")) && !hints.handle_answer(&boot("a1")));
        assert!(!hints.handle_answer(&boot("c1")), "it has missed nothing");
        assert_eq!(hints.due(), [boot("a1")]);
        hints.note(&boot("a1"), B, &key(3));
        assert_eq!(hints.due(), [], "it has failed again");
        let taken = hints.take(&boot("a1"));
        let keys = |at| Missed::Keys(BTreeSet::from([key(at)]));
        assert_eq!(taken, Marks::from([(A, keys(1)), (B, keys(3))]));
        assert_eq!((hints.counts(), hints.bytes), ((1, 0), 100));
    }

    #[test]
    fn beyond_the_bound_of_a_target_a_shard_is_compared() {
        let mut hints = hints(3, 100);
        (0..2).for_each(|at| assert!(!hints.note(&boot("a1"), A, &key(at))));
        assert!(!hints.note(&boot("a1"), B, &key(2)));
        assert!(hints.note(&boot("a1"), A, &key(3)));
        assert_eq!((hints.counts(), hints.bytes), ((1, 1), 100), "its keys make room");
        assert!(!hints.note(&boot("a1"), A, &key(4)), "it covers all that comes");
        assert!(!hints.note(&boot("b1"), A, &key(5)), "others have their own room");
        assert_eq!(hints.take(&boot("a1"))[&A], Missed::Whole);
    }

    #[test]
    fn the_bound_of_all_holds_too() {
        let mut hints = hints(3, 4);
        for name in ["a1", "b1", "c1", "d1"] {
            (0..9).for_each(|at| {
                hints.note(&boot(name), A, &key(at));
                assert!(hints.bytes <= 400);
            });
        }
        assert_eq!(hints.counts(), (0, 4));
        hints.note(&boot("a1"), B, &key(1));
        hints.note_whole(&boot("a1"), B);
        assert_eq!((hints.counts(), hints.bytes), ((0, 5), 0));
    }

    #[test]
    fn a_boot_that_is_gone_is_forgotten() {
        let mut hints = hints(10, 10);
        hints.note(&boot("a1"), A, &key(1));
        hints.note(&boot("b1"), A, &key(1));
        hints.retain(|node| *node == boot("b1"));
        assert_eq!((hints.counts(), hints.bytes), ((1, 0), 100));
        assert_eq!(hints.targets().collect::<Vec<_>>(), [&boot("b1")]);
    }
}
