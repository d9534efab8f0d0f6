//! How one node stands to one shard: which roster it believes in, and which earlier ones it still owes an account of.
//! Pure.
//!
//! # The protocol
//!
//! No two nodes see the members change at the same moment, and a node that restarts has forgotten everything. Quorums
//! stay true through both by these rules (after the joint quorums of RAMBO, Lynch and Shvartsman 2002, and the
//! view-by-view covering of DynaStore, Aguilera et al. 2009, without their consensus: promise K3 asks only for nodes
//! that agree on the placement).
//!
//! - Every node keeps for every shard its *current* roster, which is what placement says, and the rosters that it
//!   *owes*: those that may have acknowledged writes which the current one might lack.
//! - When placement changes, the roster that was current becomes owed.
//! - A replica *covers* an owed roster by hearing from a quorum of its boots. Each of them, when it is asked, first takes
//!   the asker's current roster into what *it* owes (the *fence*), and then brings all that it has, and the rosters
//!   that it owes itself. So knowledge of every roster that matters spreads with the data.
//! - Whoever answers an operation says which rosters it stands for: its current one and those that it owes. An operation
//!   is done when, for each roster that any answer named, a quorum of that roster has answered ([`crate::tally`]).
//!   A replica that owes nothing is *ready*, and a quorum of ready ones suffices alone.
//!
//! # Why it holds
//!
//! Let S come before T, and let a replica of T be ready. Then a quorum of S was fenced with T. A quorum of S that does not
//! know T can no longer be found, so no operation is done under S alone any more; and every operation that was done
//! under S alone was known to one of the boots that were heard from. An operation under S and T together has a quorum of
//! each, so it meets those under S alone and those under T alone.
//!
//! A boot that is *gone*, because its node runs under a newer boot or has left, cannot be heard from again. If fewer than
//! a quorum of a roster's boots are left, those that are left suffice: more failures happened than K1 promises to
//! survive, and waiting would bring nothing back. A boot that is only down is waited for.

use std::collections::BTreeSet;

use polity_cluster::NodeId;

use crate::roster::Roster;

/// The most rosters that may be owed. One is added by each change of placement that comes before the last one is covered.
/// Past this bound a shard stays unready, and says so, rather than forget one.
pub(crate) const MAX_OWED: usize = 64;

/// One node's standing to one shard.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    current: Roster,
    owed: BTreeSet<Roster>,
    /// Rosters that were covered under the current one: hearing of them again is no news.
    covered: BTreeSet<Roster>,
    /// The boots that were heard from under the current roster since the last fence.
    heard: BTreeSet<NodeId>,
    /// The boots that could not be asked under the current roster.
    deaf: BTreeSet<NodeId>,
    /// Something was owed that found no room. Never ready again under this boot.
    overflowed: bool,
}

impl Standing {
    pub(crate) fn new(current: Roster, owed: impl IntoIterator<Item = Roster>) -> Self {
        let mut standing = Self {
            current,
            owed: BTreeSet::new(),
            covered: BTreeSet::new(),
            heard: BTreeSet::new(),
            deaf: BTreeSet::new(),
            overflowed: false,
        };
        for roster in owed {
            standing.learn(roster);
        }
        standing
    }

    pub(crate) fn current(&self) -> &Roster {
        &self.current
    }

    pub(crate) fn owed(&self) -> impl Iterator<Item = &Roster> {
        self.owed.iter()
    }

    /// All rosters that this node stands for: the current one, then those that it owes.
    pub(crate) fn rosters(&self) -> impl Iterator<Item = &Roster> {
        std::iter::once(&self.current).chain(&self.owed)
    }

    /// Whether the current roster is all that it stands for.
    pub(crate) fn is_ready(&self) -> bool {
        self.owed.is_empty() && !self.overflowed
    }

    /// Placement says that the shard belongs to `roster` now.
    pub(crate) fn move_to(&mut self, roster: Roster) {
        if roster == self.current || roster.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.current, roster);
        self.covered.clear();
        self.heard.clear();
        self.deaf.clear();
        self.owed.remove(&self.current);
        self.owe(before);
    }

    /// A replica of `by` asks for all that we have: from now on no operation may be done here without it.
    ///
    /// What we heard from others before may have been overtaken under `by`, so it is asked for again.
    pub(crate) fn fence(&mut self, by: &Roster) {
        if *by == self.current || by.is_empty() {
            return;
        }
        self.covered.remove(by);
        self.heard.clear();
        self.owe(by.clone());
    }

    /// Another node stands for `roster`.
    pub(crate) fn learn(&mut self, roster: Roster) {
        if roster != self.current && !roster.is_empty() && !self.covered.contains(&roster) {
            self.owe(roster);
        }
    }

    fn owe(&mut self, roster: Roster) {
        if self.owed.len() < MAX_OWED || self.owed.contains(&roster) {
            self.owed.insert(roster);
        } else {
            self.overflowed = true;
        }
    }

    /// All that `node` has was merged here, after it was fenced with `under`.
    pub(crate) fn hear(&mut self, node: &NodeId, under: &Roster) {
        if *under == self.current {
            self.heard.insert(node.clone());
        }
    }

    /// `node` could not be asked.
    pub(crate) fn miss(&mut self, node: &NodeId) {
        self.deaf.insert(node.clone());
    }

    /// The boots that should be asked: those of the owed rosters and of the current one that were not heard yet.
    pub(crate) fn to_ask(&self, own: &NodeId) -> BTreeSet<NodeId> {
        let all = self.rosters().flat_map(Roster::nodes);
        all.filter(|node| *node != own && !self.heard.contains(*node)).cloned().collect()
    }

    /// Whether everything owed is covered; if so, nothing is owed any more.
    ///
    /// `own` has always been heard. `gone` tells which boots can never be heard again, `up` which are members now: those
    /// of the current roster are waited for too, unless they could not be asked, since two clusters that were founded
    /// apart and have met know nothing of each other's rosters.
    pub(crate) fn settle(
        &mut self,
        own: &NodeId,
        gone: impl Fn(&NodeId) -> bool,
        up: impl Fn(&NodeId) -> bool,
    ) -> bool {
        if self.is_ready() {
            return true;
        }
        let heard = |node: &NodeId| node == own || self.heard.contains(node);
        let covered = |roster: &Roster| {
            let left = roster.nodes().iter().filter(|node| !gone(node)).count();
            let heard = roster.nodes().iter().filter(|node| heard(node)).count();
            heard >= roster.quorum().min(left)
        };
        let met = |node: &NodeId| heard(node) || self.deaf.contains(node) || !up(node);
        if self.overflowed || !self.owed.iter().all(covered) || !self.current.nodes().iter().all(met) {
            return false;
        }
        self.covered.append(&mut self.owed);
        true
    }

    /// A quorum of `current` is ready and was told of `owed`: if that is still all, nothing needs to be owed here.
    pub(crate) fn relieve(&mut self, current: &Roster, owed: &[Roster]) {
        if *current == self.current && self.owed.iter().all(|roster| owed.contains(roster)) {
            self.covered.append(&mut self.owed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::{boot, roster};

    fn never(_: &NodeId) -> bool {
        false
    }

    fn always(_: &NodeId) -> bool {
        true
    }

    #[test]
    fn a_replica_is_ready_after_a_quorum_of_the_roster_before() {
        let mut standing = Standing::new(roster("b1 c1 d1"), [roster("a1 b1 c1")]);
        let own = boot("d1");
        assert!(!standing.settle(&own, never, never));
        standing.hear(&boot("a1"), &roster("b1 c1 d1"));
        assert!(!standing.settle(&own, never, never));
        standing.hear(&boot("b1"), &roster("b1 c1 d1"));
        assert!(standing.settle(&own, never, never));
        assert!(standing.is_ready());
    }

    #[test]
    fn members_of_the_current_roster_are_heard_too_if_they_can_be() {
        let mut standing = Standing::new(roster("a1 b1"), [roster("a1")]);
        let own = boot("a1");
        assert!(!standing.settle(&own, never, always), "b1 may have been founded apart");
        standing.miss(&boot("b1"));
        assert!(standing.settle(&own, never, always));
    }

    #[test]
    fn a_minority_of_the_roster_before_never_becomes_ready() {
        let mut standing = Standing::new(roster("c1 d1 e1"), [roster("a1 b1 c1")]);
        for heard in ["c1", "d1", "e1"] {
            standing.hear(&boot(heard), &roster("c1 d1 e1"));
        }
        assert!(!standing.settle(&boot("d1"), never, never));
    }

    #[test]
    fn a_boot_that_is_gone_is_not_waited_for_once_a_quorum_is_impossible() {
        let own = boot("a2");
        let gone = |node: &NodeId| *node == boot("a1") || *node == boot("b1");
        let mut standing = Standing::new(roster("a2 b2 c1"), [roster("a1 b1 c1")]);
        assert!(!standing.settle(&own, gone, never));
        standing.hear(&boot("c1"), &roster("a2 b2 c1"));
        assert!(standing.settle(&own, gone, never));
    }

    #[test]
    fn one_restart_still_needs_both_of_the_others() {
        let own = boot("a2");
        let gone = |node: &NodeId| *node == boot("a1");
        let mut standing = Standing::new(roster("a2 b1 c1"), [roster("a1 b1 c1")]);
        standing.hear(&boot("c1"), &roster("a2 b1 c1"));
        assert!(!standing.settle(&own, gone, never), "c1 alone may lack what a1 and b1 acknowledged");
        standing.hear(&boot("b1"), &roster("a2 b1 c1"));
        assert!(standing.settle(&own, gone, never));
    }

    #[test]
    fn a_fence_makes_what_was_heard_before_worthless() {
        let mut standing = Standing::new(roster("b1 c1 d1"), [roster("a1 b1 c1")]);
        standing.hear(&boot("a1"), &roster("b1 c1 d1"));
        standing.fence(&roster("a1 b1 e1"));
        standing.hear(&boot("b1"), &roster("b1 c1 d1"));
        assert!(!standing.settle(&boot("d1"), never, never), "a1 may have acknowledged under a1 b1 e1 since");
        standing.hear(&boot("a1"), &roster("b1 c1 d1"));
        assert!(standing.settle(&boot("d1"), never, never));
    }

    #[test]
    fn what_was_heard_under_an_older_roster_does_not_count() {
        let mut standing = Standing::new(roster("a1 b1 c1"), []);
        standing.move_to(roster("b1 c1 d1"));
        standing.move_to(roster("b1 c1 e1"));
        standing.hear(&boot("a1"), &roster("b1 c1 d1"));
        standing.hear(&boot("c1"), &roster("b1 c1 d1"));
        assert!(!standing.settle(&boot("b1"), never, never));
        assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a1 b1 c1"), roster("b1 c1 d1")]);
    }

    #[test]
    fn going_back_owes_what_was_in_between() {
        let mut standing = Standing::new(roster("a1 b1"), []);
        standing.move_to(roster("a1 c1"));
        standing.move_to(roster("a1 b1"));
        assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a1 c1")]);
    }

    #[test]
    fn what_was_covered_is_no_news_until_it_fences() {
        let mut standing = Standing::new(roster("a1 b1"), [roster("a1")]);
        standing.hear(&boot("b1"), &roster("a1 b1"));
        assert!(standing.settle(&boot("a1"), never, always));
        standing.learn(roster("a1"));
        assert!(standing.is_ready());
        standing.fence(&roster("a1"));
        assert!(!standing.is_ready());
    }

    #[test]
    fn past_the_bound_a_shard_stays_unready_rather_than_forget() {
        let owed = (0..=MAX_OWED as u64).map(|i| {
            let mut node = boot("a1");
            node.boot.generation = i + 2;
            Roster::new([node])
        });
        let mut standing = Standing::new(roster("b1"), owed);
        assert!(!standing.settle(&boot("b1"), always, never));
        let owed: Vec<_> = standing.owed().cloned().collect();
        standing.relieve(&roster("b1"), &owed);
        assert!(standing.owed().next().is_none() && !standing.is_ready());
    }
}
