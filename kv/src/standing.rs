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
//! What is heard counts only if it was asked for after the last fence and the last move ([`Standing::round`]): since then
//! the other may have acknowledged something under the roster that fenced us.
//!
//! A boot that is *gone*, because its node runs under a newer boot or has left, cannot be heard from again. If fewer than
//! a quorum of a roster's boots are left, either more failures happened than K1 promises to survive, and waiting would
//! bring nothing back, or the roster was succeeded by others before its boots went, which this node slept through. So
//! then all that are left must be heard, and everybody who could know better: every member that is up, and the newer
//! boots of those that are gone. A boot that is only down is waited for.

use std::collections::BTreeSet;

use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};

use crate::roster::Roster;

/// The most rosters that may be owed. One is added by each change of placement that comes before the last one is covered.
/// Past this bound a shard stays unready, and says so, rather than forget one.
pub(crate) const MAX_OWED: usize = 64;

/// What is known of boots, from the members.
pub(crate) trait Fates {
    /// It can never be heard again: its node runs under a newer boot, or has left.
    fn is_gone(&self, node: &NodeId) -> bool;
    /// It is a member that is up.
    fn is_up(&self, node: &NodeId) -> bool;
    /// The newest boot of its name, if it is another one and has not left.
    fn successor(&self, node: &NodeId) -> Option<NodeId>;
    /// All members that are up.
    fn up(&self) -> Vec<NodeId>;
}

/// Whether fewer than a quorum of a roster's boots are left.
fn is_bereft(roster: &Roster, fates: &impl Fates) -> bool {
    roster.nodes().iter().filter(|node| !fates.is_gone(node)).count() < roster.quorum()
}

/// One node's standing to one shard.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    current: Roster,
    owed: BTreeSet<Roster>,
    /// Rosters that were covered under the current one: hearing of them again is no news.
    covered: BTreeSet<Roster>,
    /// The boots that were heard from in this round.
    heard: BTreeSet<NodeId>,
    /// The boots that answered in this round that they have just started, and know nothing.
    mute: BTreeSet<NodeId>,
    /// Counts what makes worthless what was heard: moves and fences.
    round: u64,
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
            mute: BTreeSet::new(),
            round: 0,
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
        self.begin_round();
        self.owed.remove(&self.current);
        self.owe(before);
    }

    fn begin_round(&mut self) {
        self.heard.clear();
        self.mute.clear();
        self.round += 1;
    }

    /// The round in which an account is asked for. Must be taken before it is.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// A replica of `by` asks for all that we have: from now on no operation may be done here without it.
    ///
    /// What we heard from others before may have been overtaken under `by`, so it is asked for again.
    pub(crate) fn fence(&mut self, by: &Roster) {
        if *by == self.current || by.is_empty() {
            return;
        }
        self.covered.remove(by);
        self.begin_round();
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

    /// All that `node` has was merged here; it was asked for in `round`.
    pub(crate) fn hear(&mut self, node: &NodeId, round: u64) {
        if round == self.round {
            self.heard.insert(node.clone());
        }
    }

    /// `node` answered that it has just started and knows nothing; it was asked in `round`.
    pub(crate) fn find_mute(&mut self, node: &NodeId, round: u64) {
        if round == self.round {
            self.mute.insert(node.clone());
        }
    }

    /// The boots that should be asked: those of the owed rosters and of the current one that were not heard yet; and
    /// every member, if an owed roster has lost its quorum for good.
    pub(crate) fn to_ask(&self, own: &NodeId, fates: &impl Fates) -> BTreeSet<NodeId> {
        let mut ask: BTreeSet<NodeId> = self.rosters().flat_map(Roster::nodes).cloned().collect();
        if self.owed.iter().any(|roster| is_bereft(roster, fates)) {
            ask.extend(fates.up());
        }
        ask.retain(|node| node != own && !self.heard.contains(node));
        ask
    }

    /// Whether everything owed is covered; if so, nothing is owed any more. `own` has always been heard.
    ///
    /// Those of the current roster that are up are waited for too: two clusters that were founded apart and have met know
    /// nothing of each other's rosters.
    pub(crate) fn settle(&mut self, own: &NodeId, fates: &impl Fates) -> bool {
        if mutated(Mutation::ReadyAtOnce) {
            self.covered.append(&mut self.owed);
        }
        if self.is_ready() {
            return true;
        }
        let heard = |node: &NodeId| node == own || self.heard.contains(node);
        let met = |node: &NodeId| heard(node) || self.mute.contains(node);
        let covered = |roster: &Roster| {
            if is_bereft(roster, fates) {
                // All that are left, whoever came after those that are not, and everybody else who is there.
                roster.nodes().iter().all(|node| match fates.successor(node) {
                    Some(newer) => met(&newer),
                    None => heard(node) || fates.is_gone(node),
                }) && fates.up().iter().all(met)
            } else {
                roster.nodes().iter().filter(|node| heard(node)).count() >= roster.quorum()
            }
        };
        let current_met = self.current.nodes().iter().all(|node| met(node) || !fates.is_up(node));
        if self.overflowed || !current_met || !self.owed.iter().all(covered) {
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

    /// Boots that are up, by name; a greater generation of a name is up instead of the smaller ones.
    struct Up(&'static str);

    impl Fates for Up {
        fn is_gone(&self, node: &NodeId) -> bool {
            self.successor(node).is_some()
        }
        fn is_up(&self, node: &NodeId) -> bool {
            self.up().contains(node)
        }
        fn successor(&self, node: &NodeId) -> Option<NodeId> {
            self.up().into_iter().find(|other| other.name == node.name && other.boot > node.boot)
        }
        fn up(&self) -> Vec<NodeId> {
            self.0.split_whitespace().map(boot).collect()
        }
    }

    /// Nobody is up, and nobody is gone.
    const NOBODY: Up = Up("");

    fn hear(standing: &mut Standing, nodes: &[&str]) {
        let round = standing.round();
        nodes.iter().for_each(|node| standing.hear(&boot(node), round));
    }

    #[test]
    fn a_replica_is_ready_after_a_quorum_of_the_roster_before() {
        let mut standing = Standing::new(roster("b1 c1 d1"), [roster("a1 b1 c1")]);
        let own = boot("d1");
        assert!(!standing.settle(&own, &NOBODY));
        hear(&mut standing, &["a1"]);
        assert!(!standing.settle(&own, &NOBODY));
        hear(&mut standing, &["b1"]);
        assert!(standing.settle(&own, &NOBODY));
        assert!(standing.is_ready());
    }

    #[test]
    fn members_of_the_current_roster_are_met_too_if_they_are_up() {
        let mut standing = Standing::new(roster("a1 b1"), [roster("a1")]);
        let own = boot("a1");
        assert!(!standing.settle(&own, &Up("a1 b1")), "b1 may have been founded apart");
        standing.find_mute(&boot("b1"), standing.round());
        assert!(standing.settle(&own, &Up("a1 b1")));
    }

    #[test]
    fn a_minority_of_the_roster_before_never_becomes_ready() {
        let mut standing = Standing::new(roster("c1 d1 e1"), [roster("a1 b1 c1")]);
        hear(&mut standing, &["c1", "d1", "e1"]);
        assert!(!standing.settle(&boot("d1"), &NOBODY));
    }

    #[test]
    fn once_a_quorum_is_gone_all_that_are_left_and_all_that_are_up_are_enough() {
        let own = boot("a2");
        let up = Up("a2 b2 c1 d1");
        let mut standing = Standing::new(roster("a2 b2 c1"), [roster("a1 b1 c1")]);
        assert!(standing.to_ask(&own, &up).contains(&boot("d1")), "d1 may know a roster that came between");
        hear(&mut standing, &["c1", "d1"]);
        assert!(!standing.settle(&own, &up), "b2 may know one, too");
        standing.find_mute(&boot("b2"), standing.round());
        assert!(standing.settle(&own, &up));
    }

    #[test]
    fn one_restart_still_needs_both_of_the_others() {
        let own = boot("a2");
        let up = Up("a2 b1 c1");
        let mut standing = Standing::new(roster("a2 c1"), [roster("a1 b1 c1")]);
        hear(&mut standing, &["c1"]);
        assert!(!standing.settle(&own, &up), "c1 alone may lack what a1 and b1 acknowledged");
        hear(&mut standing, &["b1"]);
        assert!(standing.settle(&own, &up));
    }

    #[test]
    fn one_that_slept_while_others_restarted_waits_for_them() {
        // c1 knows the roster of before; a and b have moved on with d, and run under newer boots. a2 is down now.
        struct Fate;
        impl Fates for Fate {
            fn is_gone(&self, node: &NodeId) -> bool {
                self.successor(node).is_some()
            }
            fn is_up(&self, node: &NodeId) -> bool {
                self.up().contains(node)
            }
            fn successor(&self, node: &NodeId) -> Option<NodeId> {
                ["a2", "b3"].map(boot).into_iter().find(|newer| newer.name == node.name && newer.boot > node.boot)
            }
            fn up(&self) -> Vec<NodeId> {
                ["b3", "c1"].map(boot).to_vec()
            }
        }
        let mut standing = Standing::new(roster("b3 c1"), [roster("a1 b1 c1")]);
        standing.find_mute(&boot("b3"), standing.round());
        assert!(!standing.settle(&boot("c1"), &Fate), "a2 may hold what was acknowledged meanwhile");
    }

    #[test]
    fn a_fence_makes_what_was_heard_or_asked_before_worthless() {
        let mut standing = Standing::new(roster("b1 c1 d1"), [roster("a1 b1 c1")]);
        hear(&mut standing, &["a1"]);
        let before = standing.round();
        standing.fence(&roster("a1 b1 e1"));
        hear(&mut standing, &["b1"]);
        standing.hear(&boot("a1"), before);
        assert!(!standing.settle(&boot("d1"), &NOBODY), "a1 may have acknowledged under a1 b1 e1 since");
        hear(&mut standing, &["a1"]);
        assert!(standing.settle(&boot("d1"), &NOBODY));
    }

    #[test]
    fn what_was_asked_for_before_a_move_does_not_count() {
        let mut standing = Standing::new(roster("a1 b1 c1"), []);
        standing.move_to(roster("b1 c1 d1"));
        let before = standing.round();
        standing.move_to(roster("b1 c1 e1"));
        standing.move_to(roster("b1 c1 d1"));
        standing.hear(&boot("a1"), before);
        standing.hear(&boot("c1"), before);
        assert!(!standing.settle(&boot("b1"), &NOBODY));
        assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a1 b1 c1"), roster("b1 c1 e1")]);
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
        hear(&mut standing, &["b1"]);
        assert!(standing.settle(&boot("a1"), &Up("a1 b1")));
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
        assert!(!standing.settle(&boot("b1"), &NOBODY));
        let owed: Vec<_> = standing.owed().cloned().collect();
        standing.relieve(&roster("b1"), &owed);
        assert!(standing.owed().next().is_none() && !standing.is_ready());
    }
}
