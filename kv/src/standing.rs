//! How one node stands to one shard: which roster it believes in, and which earlier ones it still owes an account of.
//! Pure.
//!
//! # The protocol
//!
//! No two nodes see the members change at the same moment, and a node that restarts may have forgotten everything. Quorums
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
//! What nobody can have acknowledged is not owed: a roster of which every quorum contains this node, if it was unready all the time that
//! it was current here, and had covered nothing under it. So who is cut off, and sees the others go one after the other, comes back with
//! nothing to tell of those in which it was the last or the last but one, and nobody waits for it because of them.
//!
//! Who asks tells what it owes, too. So a replica that was taken for down, and comes back under the same boot and into the same
//! roster, learns which one has served meanwhile, and fetches what it has missed, as one does that is new.
//!
//! A boot that is *gone*, because its node runs under a newer boot or has left, cannot be heard from again. If fewer than
//! a quorum of a roster's boots are left, either more failures happened than K1 promises to survive, and waiting would
//! bring nothing back, or the roster was succeeded by others before its boots went, which this node slept through. So
//! then all that are left must be heard, and everybody who could know better: every member that is up, and the newer
//! boots of those that are gone. A boot that is only down is waited for.
//!
//! # With a disk
//!
//! A boot that opens the folder of an earlier one is its *heir* ([`crate::lineage`]), and hearing an heir counts as hearing
//! its ancestors. A boot that has an heir is not lost, and until the newer boot of its name has said whether it is one, the
//! boot is waited for. For this the engine keeps every change of the standing that adds to what is owed, in one order with
//! the records, and nothing that others rely on is said before what it rests on is durable: a write, what was taken over,
//! an account, an introduction, that a shard is ready ([`READY`]), that all is settled. An engine comes back as it was at
//! one moment, and no earlier than the last of these answers.
//!
//! So let h be the heir of a boot b of roster S, and replace b by h in the argument above.
//!
//! - *b was fenced with T*: b answered, so its fence is on the disk, and h was born with it. Or h itself was: then b does
//!   nothing any more, because two boots never have one folder open, and what b had acknowledged before, h brings.
//! - *b was known to have done the write*: b acknowledged it, so it was durable, and h has it; unless b had handed it over and
//!   dropped it. But before that, b's standing came to name the roster that took it, and the disk keeps the order: an engine
//!   that lacks the records knows the roster.
//! - *b had covered S and was ready for T*: what it had heard is in the log before the removal of S is. An h that owes S
//!   again covers it again. One that does not has all that b had heard.
//! - What b did without being heard of is undone, as if it had not been: it moved to T and asked under it, and the disk does
//!   not know T. No write was acknowledged with b's part in T, and those that b fenced owe T and wait for its heirs.
//!
//! Therefore K1 and K3 hold with folders for memories: a quorum of heirs of a roster is enough to cover it, fewer are not, and
//! since all operations name what is owed, fewer serve none. A folder that is wiped has no lineage: its boot is a stranger
//! to those before, and they are lost. The operator must not bring an older state of a folder back: it would be an heir that
//! has forgotten, and nobody can tell.
//!
//! [`READY`]: crate::wire::READY

use std::collections::BTreeSet;

use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};

use crate::roster::Roster;

/// The most rosters that may be owed. One is added by each change of placement that comes before the last one is covered. At this
/// bound a shard stays under its current roster until some are covered, and no fence is taken: none may be forgotten.
pub(crate) const MAX_OWED: usize = 64;

/// At this number of owed rosters those are not learned any more that it would only be good to know. Others must find room.
const MAX_HINTED: usize = MAX_OWED / 2;

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
    /// Whether a newer boot holds all that an older one of its name had acknowledged. `None` if it has not said.
    fn continues(&self, newer: &NodeId, older: &NodeId) -> Option<bool>;
}

/// Whether a boot can neither be heard again nor has left an heir.
fn is_lost(node: &NodeId, fates: &impl Fates) -> bool {
    fates.is_gone(node) && fates.successor(node).is_none_or(|newer| fates.continues(&newer, node) == Some(false))
}

/// Whether fewer than a quorum of a roster's boots are left.
fn is_bereft(roster: &Roster, fates: &impl Fates) -> bool {
    roster.nodes().iter().filter(|node| !is_lost(node, fates)).count() < roster.quorum()
}

/// One node's standing to one shard.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    current: Roster,
    owed: BTreeSet<Roster>,
    /// Rosters that were covered under the current one: hearing of them again is no news, but after others took this node for down.
    covered: BTreeSet<Roster>,
    /// The boots that were heard from in this round.
    heard: BTreeSet<NodeId>,
    /// The boots that answered in this round that they have just started, and know nothing.
    mute: BTreeSet<NodeId>,
    /// Counts what makes worthless what was heard: moves and fences.
    round: u64,
    /// Since the current roster is that, something was owed all the time, and nothing was covered.
    is_untouched: bool,
    /// Counts the changes of what is kept on disk.
    changes: u64,
    /// Counts all changes but those of the members.
    news: u64,
}

impl Standing {
    /// `None`, if that is more than may be owed.
    pub(crate) fn new(current: Roster, owed: impl IntoIterator<Item = Roster>) -> Option<Self> {
        let mut standing = Self {
            current,
            owed: BTreeSet::new(),
            covered: BTreeSet::new(),
            heard: BTreeSet::new(),
            mute: BTreeSet::new(),
            round: 0,
            is_untouched: false,
            changes: 1,
            news: 0,
        };
        owed.into_iter().all(|roster| standing.learn(roster)).then_some(standing)
    }

    /// The standing of an ancestor, as the disk has it. It has not changed since.
    pub(crate) fn restored(current: Roster, owed: Vec<Roster>) -> Option<Self> {
        Self::new(current, owed).map(|standing| Self { changes: 0, ..standing })
    }

    /// How often what is kept of it has changed: the current roster, and those that are owed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// How often it has changed. With the same members, what has not changed waits for the same as before.
    pub(crate) fn news(&self) -> u64 {
        self.news
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
        self.owed.is_empty()
    }

    /// Placement says that the shard belongs to `roster` now. While there is no room for the one before, nothing changes.
    pub(crate) fn move_to(&mut self, roster: Roster, own: &NodeId) {
        if roster == self.current || roster.is_empty() {
            return;
        }
        let needs_all = self.current.quorum() == self.current.len() && self.current.contains(own);
        let is_moot = self.is_untouched && needs_all;
        if !is_moot && !self.has_room_for(&self.current) && !self.owed.contains(&roster) {
            return;
        }
        let before = std::mem::replace(&mut self.current, roster);
        self.covered.clear();
        self.begin_round();
        self.owed.remove(&self.current);
        self.changes += 1;
        if !is_moot {
            self.owe(before);
        }
        self.is_untouched = !self.is_ready();
    }

    /// Others took this node for down, and it is back: they have gone on without it, and what it has heard and covered is old.
    pub(crate) fn come_back(&mut self) {
        self.covered.clear();
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.heard.clear();
        self.mute.clear();
        self.round += 1;
        self.news += 1;
    }

    /// The round in which an account is asked for. Must be taken before it is.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// A replica of `by` asks for all that we have: from now on no operation may be done here without it.
    ///
    /// What we heard from others before may have been overtaken under `by`, so it is asked for again. Returns false, and nothing has
    /// changed, if there is no room for it: then it is not fenced.
    #[must_use]
    pub(crate) fn fence(&mut self, by: &Roster) -> bool {
        if *by == self.current || by.is_empty() {
            return true;
        }
        if !self.has_room_for(by) {
            return false;
        }
        self.covered.remove(by);
        self.begin_round();
        self.owe(by.clone());
        true
    }

    /// Another node stands for `roster`, which has told us what it has. Returns false if there is no room for it: then we have not
    /// heard that node.
    #[must_use]
    pub(crate) fn learn(&mut self, roster: Roster) -> bool {
        if roster == self.current || roster.is_empty() || self.covered.contains(&roster) {
            return true;
        }
        let has_room = self.has_room_for(&roster);
        if has_room {
            self.owe(roster);
        }
        has_room
    }

    /// Another node stands for `roster`. It would be good to cover it, too.
    pub(crate) fn hear_of(&mut self, roster: Roster) {
        if self.owed.len() < MAX_HINTED {
            let _ = self.learn(roster);
        }
    }

    fn has_room_for(&self, roster: &Roster) -> bool {
        self.owed.len() < MAX_OWED || self.owed.contains(roster)
    }

    fn owe(&mut self, roster: Roster) {
        self.news += 1;
        self.changes += u64::from(self.owed.insert(roster));
    }

    /// These are not owed any more.
    fn cover(&mut self, rosters: Vec<Roster>) {
        self.is_untouched &= rosters.is_empty();
        for roster in rosters {
            self.owed.remove(&roster);
            self.covered.insert(roster);
            self.changes += 1;
            self.news += 1;
        }
    }

    /// All that `node` has was merged here; it was asked for in `round`.
    pub(crate) fn hear(&mut self, node: &NodeId, round: u64) {
        if round == self.round {
            self.news += u64::from(self.heard.insert(node.clone()));
        }
    }

    /// `node` answered that it has just started and knows nothing; it was asked in `round`.
    pub(crate) fn find_mute(&mut self, node: &NodeId, round: u64) {
        if round == self.round {
            self.news += u64::from(self.mute.insert(node.clone()));
        }
    }

    /// The boots that should be asked: those of the owed rosters and of the current one that were not heard yet; whoever
    /// came after them and may be an heir; and every member, if an owed roster has lost its quorum for good.
    pub(crate) fn to_ask(&self, own: &NodeId, fates: &impl Fates) -> BTreeSet<NodeId> {
        let mut ask: BTreeSet<NodeId> = self.rosters().flat_map(Roster::nodes).cloned().collect();
        let newer = self
            .owed
            .iter()
            .flat_map(Roster::nodes)
            .filter_map(|node| fates.successor(node).filter(|newer| fates.continues(newer, node) != Some(false)));
        ask.extend(newer);
        if self.owed.iter().any(|roster| is_bereft(roster, fates)) {
            ask.extend(fates.up());
        }
        ask.retain(|node| node != own && !self.heard.contains(node));
        ask
    }

    /// Whether everything owed is covered; if so, nothing is owed any more. If only some of it is, that is not, whatever
    /// becomes of the rest: so a node that starts again and again alone owes no more each time. `own` has always been heard.
    ///
    /// Those of the current roster that are up are waited for too: two clusters that were founded apart and have met know
    /// nothing of each other's rosters.
    pub(crate) fn settle(&mut self, own: &NodeId, fates: &impl Fates) -> bool {
        if mutated(Mutation::ReadyAtOnce) {
            self.cover(self.owed.iter().cloned().collect());
        }
        if self.is_ready() {
            return true;
        }
        let met = |node: &NodeId| node == own || self.heard.contains(node) || self.mute.contains(node);
        let covered: Vec<Roster> =
            self.owed.iter().filter(|roster| self.has_covered(roster, own, fates)).cloned().collect();
        let current_met = self.current.nodes().iter().all(|node| met(node) || !fates.is_up(node));
        let all = covered.len() == self.owed.len();
        if all && !current_met {
            return false;
        }
        self.cover(covered);
        all
    }

    /// Whether enough was heard to vouch for an owed roster.
    fn has_covered(&self, roster: &Roster, own: &NodeId, fates: &impl Fates) -> bool {
        let was_asked = |node: &NodeId| node == own || self.heard.contains(node);
        let met = |node: &NodeId| was_asked(node) || self.mute.contains(node);
        let heard = |node: &NodeId| {
            let heir = || fates.successor(node).filter(|newer| fates.continues(newer, node) == Some(true));
            was_asked(node) || heir().is_some_and(|heir| was_asked(&heir))
        };
        if is_bereft(roster, fates) {
            // All that are left, whoever came after those that are not, and everybody else who is there.
            roster.nodes().iter().all(|node| match fates.successor(node) {
                Some(newer) => met(&newer),
                None => heard(node) || fates.is_gone(node),
            }) && fates.up().iter().all(met)
        } else {
            roster.nodes().iter().filter(|node| heard(node)).count() >= roster.quorum()
        }
    }

    /// A quorum of `current` is ready and was told of `owed`: if that is still all, nothing needs to be owed here.
    pub(crate) fn relieve(&mut self, current: &Roster, owed: &[Roster]) {
        if *current == self.current && self.owed.iter().all(|roster| owed.contains(roster)) {
            self.cover(self.owed.iter().cloned().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polity_cluster::Boot;

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
        fn continues(&self, _: &NodeId, _: &NodeId) -> Option<bool> {
            Some(false)
        }
    }

    /// Nobody is up, and nobody is gone.
    const NOBODY: Up = Up("");

    fn standing<const N: usize>(current: &str, owed: [&str; N]) -> Standing {
        Standing::new(roster(current), owed.map(roster)).expect("room")
    }

    fn hear(standing: &mut Standing, nodes: &[&str]) {
        let round = standing.round();
        nodes.iter().for_each(|node| standing.hear(&boot(node), round));
    }

    #[test]
    fn a_replica_is_ready_after_a_quorum_of_the_roster_before() {
        let mut standing = standing("b1 c1 d1", ["a1 b1 c1"]);
        let own = boot("d1");
        assert!(!standing.settle(&own, &NOBODY));
        hear(&mut standing, &["a1"]);
        assert!(!standing.settle(&own, &NOBODY));
        hear(&mut standing, &["b1"]);
        assert!(standing.settle(&own, &NOBODY));
        assert!(standing.is_ready());
    }

    #[test]
    fn one_that_was_taken_for_down_covers_again_what_it_has_covered_before() {
        let own = boot("c1");
        let mut standing = standing("a1 b1 c1", ["a1 b1"]);
        hear(&mut standing, &["a1", "b1"]);
        assert!(standing.settle(&own, &NOBODY));
        assert!(standing.learn(roster("a1 b1")));
        assert!(standing.is_ready(), "it has covered that");
        standing.come_back();
        assert!(standing.is_ready(), "and owes nothing while it is told nothing");
        assert!(standing.learn(roster("a1 b1")));
        assert!(!standing.settle(&own, &NOBODY), "what it has heard is old");
        hear(&mut standing, &["a1", "b1"]);
        assert!(standing.settle(&own, &NOBODY));
    }

    #[test]
    fn members_of_the_current_roster_are_met_too_if_they_are_up() {
        let mut standing = standing("a1 b1", ["a1"]);
        let own = boot("a1");
        assert!(!standing.settle(&own, &Up("a1 b1")), "b1 may have been founded apart");
        standing.find_mute(&boot("b1"), standing.round());
        assert!(standing.settle(&own, &Up("a1 b1")));
    }

    #[test]
    fn a_minority_of_the_roster_before_never_becomes_ready() {
        let mut standing = standing("c1 d1 e1", ["a1 b1 c1"]);
        hear(&mut standing, &["c1", "d1", "e1"]);
        assert!(!standing.settle(&boot("d1"), &NOBODY));
    }

    #[test]
    fn once_a_quorum_is_gone_all_that_are_left_and_all_that_are_up_are_enough() {
        let own = boot("a2");
        let up = Up("a2 b2 c1 d1");
        let mut standing = standing("a2 b2 c1", ["a1 b1 c1"]);
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
        let mut standing = standing("a2 c1", ["a1 b1 c1"]);
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
            fn continues(&self, _: &NodeId, _: &NodeId) -> Option<bool> {
                Some(false)
            }
        }
        let mut standing = standing("b3 c1", ["a1 b1 c1"]);
        standing.find_mute(&boot("b3"), standing.round());
        assert!(!standing.settle(&boot("c1"), &Fate), "a2 may hold what was acknowledged meanwhile");
    }

    #[test]
    fn a_fence_makes_what_was_heard_or_asked_before_worthless() {
        let mut standing = standing("b1 c1 d1", ["a1 b1 c1"]);
        hear(&mut standing, &["a1"]);
        let before = standing.round();
        assert!(standing.fence(&roster("a1 b1 e1")));
        hear(&mut standing, &["b1"]);
        standing.hear(&boot("a1"), before);
        assert!(!standing.settle(&boot("d1"), &NOBODY), "a1 may have acknowledged under a1 b1 e1 since");
        hear(&mut standing, &["a1"]);
        assert!(standing.settle(&boot("d1"), &NOBODY));
    }

    #[test]
    fn what_was_asked_for_before_a_move_does_not_count() {
        let mut standing = standing("a1 b1 c1", []);
        standing.move_to(roster("b1 c1 d1"), &boot("b1"));
        let before = standing.round();
        standing.move_to(roster("b1 c1 e1"), &boot("b1"));
        standing.move_to(roster("b1 c1 d1"), &boot("b1"));
        standing.hear(&boot("a1"), before);
        standing.hear(&boot("c1"), before);
        assert!(!standing.settle(&boot("b1"), &NOBODY));
        assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a1 b1 c1"), roster("b1 c1 e1")]);
    }

    #[test]
    fn going_back_owes_what_was_in_between() {
        let mut standing = standing("a1 b1", []);
        standing.move_to(roster("a1 c1"), &boot("b1"));
        standing.move_to(roster("a1 b1"), &boot("b1"));
        assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a1 c1")]);
    }

    #[test]
    fn what_was_covered_is_no_news_until_it_fences() {
        let mut standing = standing("a1 b1", ["a1"]);
        hear(&mut standing, &["b1"]);
        assert!(standing.settle(&boot("a1"), &Up("a1 b1")));
        assert!(standing.learn(roster("a1")));
        assert!(standing.is_ready());
        assert!(standing.fence(&roster("a1")));
        assert!(!standing.is_ready());
    }

    /// Boots that are up, by name, and which of them continue which: all pairs of a name, unless they are strangers.
    struct Disks {
        up: Up,
        strangers: &'static str,
        silent: &'static str,
    }

    impl Fates for Disks {
        fn is_gone(&self, node: &NodeId) -> bool {
            self.up.is_gone(node)
        }
        fn is_up(&self, node: &NodeId) -> bool {
            self.up.is_up(node)
        }
        fn successor(&self, node: &NodeId) -> Option<NodeId> {
            self.up.successor(node)
        }
        fn up(&self) -> Vec<NodeId> {
            self.up.up()
        }
        fn continues(&self, newer: &NodeId, older: &NodeId) -> Option<bool> {
            let among = |list: &str| list.split_whitespace().map(boot).any(|node| node == *newer);
            (!among(self.silent)).then(|| newer.name == older.name && !among(self.strangers))
        }
    }

    fn restored(current: &str) -> Standing {
        Standing::restored(roster(current), Vec::new()).expect("room")
    }

    #[test]
    fn after_a_stop_of_all_a_quorum_of_heirs_is_enough_and_fewer_are_not() {
        let own = boot("a2");
        let mut standing = restored("a1 b1 c1");
        let alone = Disks { up: Up("a2"), strangers: "", silent: "" };
        standing.move_to(roster("a2"), &own);
        assert!(!standing.settle(&own, &alone), "b1 and c1 may have acknowledged what a1 has not");
        let two = Disks { up: Up("a2 b2"), strangers: "", silent: "b2" };
        standing.move_to(roster("a2 b2"), &own);
        assert!(standing.to_ask(&own, &two).contains(&boot("b2")), "it may be an heir");
        assert!(!standing.settle(&own, &two));
        let two = Disks { silent: "", ..two };
        hear(&mut standing, &["b2"]);
        assert!(standing.settle(&own, &two));
    }

    #[test]
    fn restarts_in_a_row_are_covered_through_the_newest_heir() {
        let own = boot("a3");
        let mut standing = Standing::restored(roster("a2 b2"), vec![roster("a1 b1 c1")]).expect("room");
        standing.move_to(roster("a3 b3 c2"), &own);
        let up = Disks { up: Up("a3 b3 c2"), strangers: "", silent: "" };
        hear(&mut standing, &["c2"]);
        assert!(!standing.settle(&own, &up), "a write under a2 and b2 needed both");
        assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a2 b2")], "a1 and c1 are covered by heirs");
        hear(&mut standing, &["b3"]);
        assert!(standing.settle(&own, &up));
    }

    #[test]
    fn a_wiped_folder_is_no_heir_and_the_disks_that_are_left_are_waited_for() {
        let own = boot("a2");
        let mut standing = restored("a1 b1 c1");
        standing.move_to(roster("a2 b2"), &own);
        // c1 is down: it may come back, or leave an heir.
        let up = Disks { up: Up("a2 b2"), strangers: "b2", silent: "" };
        hear(&mut standing, &["b2"]);
        assert!(!standing.settle(&own, &up), "b2 has nothing of b1's");
        // It has come back, and has not said whether with its folder.
        let up = Disks { up: Up("a2 b2 c2"), strangers: "b2 c2", silent: "c2" };
        standing.move_to(roster("a2 b2 c2"), &own);
        hear(&mut standing, &["b2"]);
        assert!(!standing.settle(&own, &up));
        // Without: more was destroyed than may be, and all that are left are heard.
        let up = Disks { silent: "", ..up };
        assert!(!standing.settle(&own, &up));
        standing.find_mute(&boot("c2"), standing.round());
        assert!(standing.settle(&own, &up));
    }

    #[test]
    fn an_heir_among_living_ones_counts_itself_for_its_ancestor() {
        let own = boot("a2");
        let mut standing = restored("a1 b1 c1");
        standing.move_to(roster("a2 b1 c1"), &own);
        let up = Disks { up: Up("a2 b1 c1"), strangers: "", silent: "" };
        hear(&mut standing, &["b1"]);
        assert!(!standing.settle(&own, &up), "c1 is up, and may have been founded apart");
        hear(&mut standing, &["c1"]);
        assert!(standing.settle(&own, &up));
    }

    #[test]
    fn one_that_starts_again_and_again_alone_owes_no_more_each_time() {
        let mut standing = restored("a1 b1 c1");
        for generation in 2..300 {
            let mut own = boot("a1");
            own.boot.generation = generation;
            struct Alone(NodeId);
            impl Fates for Alone {
                fn is_gone(&self, node: &NodeId) -> bool {
                    self.successor(node).is_some()
                }
                fn is_up(&self, node: &NodeId) -> bool {
                    *node == self.0
                }
                fn successor(&self, node: &NodeId) -> Option<NodeId> {
                    (node.name == self.0.name && node.boot < self.0.boot).then(|| self.0.clone())
                }
                fn up(&self) -> Vec<NodeId> {
                    vec![self.0.clone()]
                }
                fn continues(&self, _: &NodeId, _: &NodeId) -> Option<bool> {
                    Some(true)
                }
            }
            standing.move_to(Roster::new([own.clone()]), &own);
            assert!(!standing.settle(&own, &Alone(own.clone())));
            assert_eq!(standing.owed().cloned().collect::<Vec<_>>(), [roster("a1 b1 c1")]);
            standing =
                Standing::restored(standing.current().clone(), standing.owed().cloned().collect()).expect("room");
        }
    }

    #[test]
    fn what_is_kept_has_changed_when_it_has() {
        let mut standing = restored("a1 b1");
        let mut last = standing.changes();
        let mut changed = |standing: &Standing| std::mem::replace(&mut last, standing.changes()) != standing.changes();
        assert!(standing.learn(roster("a1 b1")));
        assert!(standing.fence(&roster("a1 b1")));
        standing.move_to(roster("a1 b1"), &boot("a1"));
        hear(&mut standing, &["b1"]);
        assert!(!changed(&standing));
        assert!(standing.fence(&roster("b1 c1")));
        assert!(changed(&standing));
        assert!(standing.fence(&roster("b1 c1")));
        assert!(!changed(&standing));
        assert!(standing.learn(roster("c1")));
        assert!(changed(&standing));
        standing.relieve(&roster("a1 b1"), &[roster("b1 c1"), roster("c1")]);
        assert!(changed(&standing) && standing.is_ready());
        standing.move_to(roster("a2"), &boot("a2"));
        assert!(changed(&standing));
    }

    /// As many rosters as may be owed.
    fn crowd() -> Vec<Roster> {
        (0..MAX_OWED as u64)
            .map(|i| Roster::new([NodeId { boot: Boot { generation: i + 2, nonce: 7 }, ..boot("a1") }]))
            .collect()
    }

    #[test]
    fn at_the_bound_nothing_is_forgotten_and_it_ends() {
        let mut standing = Standing::new(roster("b1 c1 d1"), crowd()).expect("room");
        let before = (standing.changes(), standing.round());
        assert!(
            !standing.fence(&roster("e1")) && !standing.learn(roster("e1")),
            "who asks is not told that it has fenced"
        );
        standing.move_to(roster("b1 c1 e1"), &boot("b1"));
        assert_eq!((standing.current(), before), (&roster("b1 c1 d1"), (standing.changes(), standing.round())));
        assert!(standing.fence(&crowd()[0]) && standing.learn(crowd()[0].clone()), "that is owed already");
        assert!(Standing::new(roster("b1"), crowd().into_iter().chain([roster("e1")])).is_none());
        standing.relieve(&roster("b1 c1 d1"), &crowd());
        standing.move_to(roster("b1 c1 e1"), &boot("b1"));
        assert_eq!(standing.owed().collect::<Vec<_>>(), [&roster("b1 c1 d1")]);
    }

    #[test]
    fn hints_leave_room_for_what_must_be_owed() {
        let mut standing = standing("b1 c1 d1", []);
        crowd().into_iter().for_each(|roster| standing.hear_of(roster));
        assert_eq!(standing.owed().count(), MAX_HINTED);
        assert!(standing.learn(roster("e1")));
    }

    #[test]
    fn a_roster_that_cannot_have_served_without_this_node_is_not_owed() {
        let alone = || {
            let mut standing = standing("a1 b1 c1", []);
            standing.move_to(roster("b1 c1"), &boot("c1"));
            standing
        };
        let mut cut_off = alone();
        for roster in ["c1 d1", "c1", "c1 d1", "b1 c1"].map(roster) {
            cut_off.move_to(roster, &boot("c1"));
        }
        assert_eq!(cut_off.owed().collect::<Vec<_>>(), [&roster("a1 b1 c1")], "it was ready under none of the others");
        cut_off.move_to(roster("a1 b1 c1"), &boot("c1"));
        assert!(cut_off.is_ready(), "as if it had never moved");
        // Of three, two may have served without it.
        let mut third = alone();
        third.move_to(roster("c1 d1 e1"), &boot("c1"));
        third.move_to(roster("a1 b1 c1"), &boot("c1"));
        assert_eq!(third.owed().collect::<Vec<_>>(), [&roster("c1 d1 e1")]);
        // What it covered under a roster, only that vouches for.
        let mut covered = alone();
        assert!(covered.learn(roster("x1")));
        hear(&mut covered, &["x1"]);
        assert!(!covered.settle(&boot("c1"), &NOBODY));
        covered.move_to(roster("c1"), &boot("c1"));
        assert_eq!(covered.owed().collect::<Vec<_>>(), [&roster("a1 b1 c1"), &roster("b1 c1")]);
        // Nor may one be forgotten that it was not in.
        let mut other = standing("a1 b1 c1", []);
        other.move_to(roster("a1 b1"), &boot("c1"));
        other.move_to(roster("b1 c1"), &boot("c1"));
        assert_eq!(other.owed().collect::<Vec<_>>(), [&roster("a1 b1"), &roster("a1 b1 c1")]);
        // One that was ready may have served.
        let mut ready = standing("b1 c1", []);
        ready.move_to(roster("c1"), &boot("c1"));
        assert_eq!(ready.owed().collect::<Vec<_>>(), [&roster("b1 c1")]);
    }
}
