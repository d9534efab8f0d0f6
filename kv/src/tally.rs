//! When an operation is done: counting answers against every roster that they name. Pure.
//!
//! See [`crate::standing`] for the protocol that this is the other half of.

use std::collections::{BTreeMap, BTreeSet};

use polity_cluster::NodeId;
use serde::{Deserialize, Serialize};

use crate::config::Consistency;
use crate::roster::{Roster, RosterId};

/// What a replica says of its standing with each answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Vouch {
    /// I am ready, and my roster is the one that you named.
    Agree,
    /// I stand for these: my current roster, then those that I owe.
    For(Vec<Roster>),
    /// I have just started, and do not know yet what I should know.
    Nothing,
}

/// Whether an operation is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Enough have answered.
    Done,
    /// Not yet. These have not been asked and could help.
    Ask(Vec<NodeId>),
}

/// The answers to one operation.
#[derive(Debug)]
pub(crate) struct Tally {
    target: Roster,
    level: Consistency,
    /// Those that stand for the target and for nothing else: nearly always all who answer.
    agreeing: Vec<NodeId>,
    /// What the others stand for.
    differing: BTreeMap<NodeId, Vec<Roster>>,
    asked: Vec<NodeId>,
}

impl Tally {
    /// For an operation whose coordinator believes that the shard belongs to `target`.
    pub(crate) fn new(target: Roster, level: Consistency) -> Self {
        Self { target, level, agreeing: Vec::new(), differing: BTreeMap::new(), asked: Vec::new() }
    }

    pub(crate) fn target_id(&self) -> RosterId {
        self.target.id()
    }

    /// `node` is being asked. Once only.
    pub(crate) fn asked(&mut self, node: &NodeId) {
        self.asked.push(node.clone());
    }

    /// `node` has done its part, and vouches for it. Once only.
    pub(crate) fn answered(&mut self, node: NodeId, vouch: Vouch) {
        match vouch {
            Vouch::Agree => self.agreeing.push(node),
            Vouch::For(rosters) if rosters.is_empty() => {}
            Vouch::For(rosters) if rosters == [self.target.clone()] => self.agreeing.push(node),
            Vouch::For(rosters) => {
                self.differing.insert(node, rosters);
            }
            Vouch::Nothing => {}
        }
    }

    /// How many have answered and vouched for something.
    pub(crate) fn answers(&self) -> usize {
        self.agreeing.len() + self.differing.len()
    }

    fn needed(&self, roster: &Roster) -> usize {
        roster.needed(self.level)
    }

    /// How many boots of the target must answer at least.
    pub(crate) fn needed_of_target(&self) -> usize {
        self.needed(&self.target)
    }

    /// Every roster that was named, and the target.
    fn named(&self) -> BTreeSet<&Roster> {
        self.differing.values().flatten().chain([&self.target]).collect()
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.is_done() {
            return Verdict::Done;
        }
        let is_new = |node: &&NodeId| !self.asked.contains(*node);
        if self.differing.is_empty() {
            return Verdict::Ask(self.target.nodes().iter().filter(is_new).cloned().collect());
        }
        let named = self.named();
        let nodes: BTreeSet<&NodeId> = named.iter().flat_map(|roster| roster.nodes()).collect();
        Verdict::Ask(nodes.into_iter().filter(is_new).cloned().collect())
    }

    fn is_done(&self) -> bool {
        if self.level == Consistency::One {
            return self.answers() > 0;
        }
        let of_target = self.agreeing.iter().filter(|node| self.target.contains(node)).count();
        if self.differing.is_empty() || of_target >= self.needed_of_target() {
            return of_target >= self.needed_of_target();
        }
        let named = self.named();
        // Enough of one roster stand for it and for nothing else.
        let alone = named.iter().any(|roster| {
            let agreeing = self
                .differing
                .iter()
                .filter(|(node, rosters)| roster.contains(node) && rosters.len() == 1 && rosters[0] == **roster);
            agreeing.count() >= self.needed(roster)
        });
        // Or each roster that anybody stands for has enough.
        let together = || {
            named.iter().all(|roster| {
                let answered = self.agreeing.iter().chain(self.differing.keys());
                answered.filter(|node| roster.contains(node)).count() >= self.needed(roster)
            })
        };
        alone || together()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::{boot, roster};

    fn tally(target: &str, answers: &[(&str, Option<&[&str]>)]) -> Tally {
        let mut tally = Tally::new(roster(target), Consistency::Quorum);
        for (node, rosters) in answers {
            tally.asked(&boot(node));
            let vouch = match rosters {
                None => Vouch::Agree,
                Some(rosters) => Vouch::For(rosters.iter().map(|text| roster(text)).collect()),
            };
            tally.answered(boot(node), vouch);
        }
        tally
    }

    #[test]
    fn a_quorum_that_agrees_is_enough() {
        assert_eq!(tally("a1 b1 c1", &[("a1", None), ("c1", None)]).verdict(), Verdict::Done);
        assert_eq!(tally("a1 b1 c1", &[("a1", None)]).verdict(), Verdict::Ask(vec![boot("b1"), boot("c1")]));
    }

    #[test]
    fn one_that_owes_an_older_roster_brings_it_in() {
        let (old, new) = ("a1 b1 c1", "b1 c1 d1");
        let both: &[&str] = &[new, old];
        assert_eq!(tally(new, &[("d1", Some(both))]).verdict(), Verdict::Ask(vec![boot("a1"), boot("b1"), boot("c1")]));
        assert_eq!(
            tally(new, &[("d1", Some(both)), ("c1", Some(both))]).verdict(),
            Verdict::Ask(vec![boot("a1"), boot("b1")])
        );
        assert_eq!(tally(new, &[("d1", Some(both)), ("c1", Some(both)), ("a1", Some(both))]).verdict(), Verdict::Done);
        // Two that are ready need no third.
        assert_eq!(tally(new, &[("d1", Some(both)), ("c1", None), ("b1", None)]).verdict(), Verdict::Done);
    }

    #[test]
    fn a_coordinator_that_lags_is_overruled_by_a_ready_quorum() {
        let new: &[&str] = &["b1 c1 d1"];
        assert_eq!(tally("a1 b1 c1", &[("b1", Some(new)), ("c1", Some(new))]).verdict(), Verdict::Done);
        let lone = tally("a1 b1 c1", &[("a1", None), ("b1", Some(new))]);
        assert_eq!(lone.verdict(), Verdict::Ask(vec![boot("c1"), boot("d1")]));
    }

    #[test]
    fn a_replica_that_has_just_started_counts_for_nothing() {
        let mut tally = tally("a2 b1 c1", &[("b1", None)]);
        tally.asked(&boot("a2"));
        tally.answered(boot("a2"), Vouch::Nothing);
        assert_eq!(tally.verdict(), Verdict::Ask(vec![boot("c1")]));
        assert_eq!(tally.answers(), 1);
    }

    #[test]
    fn an_answer_of_a_boot_outside_a_roster_does_not_count_for_it() {
        // a2 is the same node after a restart.
        assert_ne!(tally("a1 b1 c1", &[("b1", None), ("a2", None)]).verdict(), Verdict::Done);
    }
}
