//! What must hold, found out from outside: nothing here asks a steward what it thinks of it, but for whether it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_cluster::NodeId;
use polity_cluster::rpc::Blob;
use polity_shard::claims::{Claim, Claims};
use polity_shard::handoff::{Direction, Progress};
use polity_shard::journal::{Conflict, Snapshot};
use polity_shard::{Epoch, ShardId};

use super::node::RESOLUTION;
use super::{BOUND, Node, Summary, World, config};

#[derive(Default)]
pub(crate) struct Judge {
    /// All claims ever made, and when.
    made: BTreeMap<Claim, Duration>,
    /// What was let go after a handoff.
    released: BTreeSet<Claim>,
    /// Claims whose owners served while another with a greater epoch did.
    doubled: BTreeSet<Claim>,
    /// Since when each pair can reach each other, if it can.
    connected: BTreeMap<(usize, usize), Duration>,
    pub(crate) refused: u64,
    /// What owners did under each claim, and when.
    effects: BTreeMap<Claim, Vec<(Duration, u64)>>,
    /// The conflicts that winners were told of: the claim that lost, the one that won, and when.
    asked: BTreeMap<(Claim, Claim), Duration>,
    /// Those whose losers have heard what the winners have.
    answered: BTreeSet<(Claim, Claim)>,
    cancelled: u64,
}

impl Judge {
    pub(crate) fn connections(&mut self, now: Duration, side: &[u8], nodes: &[Node]) {
        for a in 0..nodes.len() {
            for b in 0..nodes.len() {
                let runs = |node: &Node| node.is_alive() && node.paused_until <= now;
                let is_connected = runs(&nodes[a]) && runs(&nodes[b]) && side[a] == side[b];
                if is_connected {
                    self.connected.entry((a, b)).or_insert(now);
                } else {
                    self.connected.remove(&(a, b));
                }
            }
        }
    }
}

impl World {
    /// A claim is made: nobody has made it before, and it is above all that its maker's side has known for the bound, or
    /// knew when its maker started.
    pub(crate) fn judge_claim(&mut self, at: usize, claim: &Claim) {
        if self.judge.made.insert(claim.clone(), self.now).is_some() {
            self.fail(format!("n{at} makes the claim {claim} a second time"));
        }
        let when = self.nodes[at].started.max(self.now.saturating_sub(BOUND));
        for other in 0..self.nodes.len() {
            let since = self.judge.connected.get(&(at, other)).copied();
            if since.is_none_or(|since| since > when) {
                continue;
            }
            let known = self.nodes[other].history.iter().rev().find(|(at, _)| *at <= when);
            let known = known.and_then(|(_, claims)| claims.epoch(claim.shard).cloned());
            if known.as_ref().is_some_and(|known| *known >= claim.epoch) {
                self.fail(format!("n{at} claims {claim}, and n{other} has known a greater epoch for long: {known:?}"));
            }
        }
    }

    /// A shard is let go: whoever has it now has installed all that its owner had.
    pub(crate) fn judge_release(&mut self, at: usize, claim: &Claim, to: &NodeId) {
        self.judge.released.insert(claim.clone());
        let Some(receiver) = self.nodes.iter().position(|node| node.is_alive() && node.id() == *to) else {
            return;
        };
        let empty = BTreeSet::new();
        let [mine, theirs] = [at, receiver].map(|at| self.nodes[at].state.get(&claim.shard).unwrap_or(&empty));
        let missing = mine.difference(theirs).count();
        if missing > 0 {
            let of = mine.len();
            self.fail(format!("n{at} lets go of {claim}, of which n{receiver} lacks {missing} of {of} effects"));
        }
    }

    /// A handoff was cancelled: its owner goes on under the same epoch, and serves.
    pub(crate) fn judge_cancel(&mut self, at: usize, shard: ShardId, before: Option<Epoch>) {
        self.judge.cancelled += 1;
        let node = &self.nodes[at];
        let is_served = before.is_some() && node.owns(shard) == before.as_ref() && !node.paused.contains(&shard);
        let is_under_way = |progress: &Progress| progress.direction == Direction::Sending;
        if !is_served || node.steward().desk().progress(shard).any(|progress| is_under_way(&progress)) {
            self.fail(format!("n{at} has cancelled the handoff of shard {shard}, and does not serve it"));
        }
    }

    pub(crate) fn judge_effect(&mut self, claim: &Claim, effect: u64) {
        self.judge.effects.entry(claim.clone()).or_default().push((self.now, effect));
    }

    pub(crate) fn judge_asked(&mut self, lost: &Claim, won: &Claim) {
        // A letter may come twice; what counts is what was written down first.
        self.judge.asked.entry((lost.clone(), won.clone())).or_insert(self.now);
    }

    pub(crate) fn judge_answered(&mut self, lost: &Claim, won: &Claim) {
        self.judge.answered.insert((lost.clone(), won.clone()));
    }

    /// Whether a state has all that was done under a claim until then, and nothing of other shards.
    fn has_all(&self, state: &Snapshot, claim: &Claim, until: Duration) -> bool {
        let Snapshot::State(Blob(bytes)) = state else {
            return false;
        };
        let held: BTreeSet<u64> =
            bytes.chunks(8).map(|effect| u64::from_le_bytes(effect.try_into().expect("eight"))).collect();
        let of_shard = self.judge.effects.iter().filter(|(other, _)| other.shard == claim.shard);
        let of_shard: BTreeSet<u64> = of_shard.flat_map(|(_, effects)| effects).map(|(_, effect)| *effect).collect();
        let mut done = self.judge.effects.get(claim).into_iter().flatten().filter(|(at, _)| *at < until);
        done.all(|(_, effect)| held.contains(effect)) && held.is_subset(&of_shard)
    }

    /// What is wrong with an entry of the journal of one of the two.
    fn fault_of(&self, at: usize, entry: &Conflict) -> Option<&'static str> {
        let Conflict { lost, lost_state, won, won_state, resolution, .. } = entry;
        let (me, pair) = (self.nodes[at].id(), (lost.clone(), won.clone()));
        let asked = self.judge.asked.get(&pair).copied();
        // The loser knows what the winner has when it has heard of it, and the winner from the beginning.
        let is_known = me == *won.owner() || self.judge.answered.contains(&pair);
        let is_good = match asked.filter(|_| is_known) {
            Some(asked) => self.has_all(won_state, won, asked),
            None => *won_state == Snapshot::Missing,
        };
        if ![lost.owner(), won.owner()].contains(&&me) {
            Some("is of others")
        } else if !self.has_all(lost_state, lost, entry.at) {
            Some("lacks what the loser had")
        } else if !is_good {
            Some("lacks what the winner had")
        } else {
            (*resolution != RESOLUTION).then_some("says that something else became of it")
        }
    }

    /// What is wrong with the journal of a node: each entry says what was so, and each conflict that it was told of has one.
    fn fault_of_journal(&self, at: usize) -> Option<String> {
        let (me, journal) = (self.nodes[at].id(), &self.nodes[at].journal);
        let mut faults = journal.iter().filter_map(|(_, entry)| Some((entry, self.fault_of(at, entry)?)));
        if let Some((entry, fault)) = faults.next() {
            return Some(format!("n{at} has written down that {entry}, and the entry {fault}"));
        }
        let mut told = self.judge.asked.keys().filter(|(_, won)| *won.owner() == me);
        let (lost, won) =
            told.find(|(lost, won)| !journal.iter().any(|(_, entry)| entry.lost == *lost && entry.won == *won))?;
        Some(format!("n{at} was told that {won} won over {lost}, and has no entry"))
    }

    /// Those that serve a shard at this moment, with their epochs.
    fn owners(&self, shard: ShardId) -> Vec<(usize, Epoch)> {
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.paused_until <= self.now);
        running.filter_map(|(at, node)| Some((at, node.owns(shard)?.clone()))).collect()
    }

    pub(crate) fn judge_now(&mut self) {
        self.judge.connections(self.now, &self.side, &self.nodes);
        let is_quiet = self.now >= self.quiet_since + BOUND;
        for shard in config().shards.iter() {
            let owners = self.owners(shard);
            let greatest = owners.iter().map(|(_, epoch)| epoch).max().cloned();
            for (at, epoch) in &owners {
                if greatest.as_ref().is_some_and(|greatest| greatest > epoch) {
                    self.judge.doubled.insert(Claim { shard, epoch: epoch.clone() });
                }
                let rival = owners.iter().find(|(other, _)| other != at && self.side[*other] == self.side[*at]);
                if let Some((other, _)) = rival.filter(|_| is_quiet) {
                    self.fail(format!("n{at} and n{other} own shard {shard} on the same side"));
                    return;
                }
            }
        }
    }

    /// After heal: one owner for each shard, the preferred one, and all know it; every conflict is written down.
    pub(crate) fn judge_end(&mut self) {
        if self.fault.is_some() {
            return;
        }
        let alive: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_alive()).collect();
        let members: Vec<_> = alive.iter().map(|at| (self.nodes[*at].id(), self.nodes[*at].is_draining)).collect();
        let sight = super::node::sight_of(members.iter());
        for shard in config().shards.iter() {
            let owners: Vec<_> = self.owners(shard).into_iter().map(|(at, _)| self.nodes[at].id()).collect();
            let wanted: Vec<_> = sight.preferred(shard).into_iter().collect();
            if owners != wanted {
                let why = self.nodes[alive[0]].steward().explain(self.now, shard);
                self.fail(format!("shard {shard} is owned by {owners:?} in the end, and not by {wanted:?}\n{why}"));
            }
        }
        let tables: Vec<Claims> = alive.iter().map(|at| self.nodes[*at].claims()).collect();
        if tables.iter().any(|table| *table != tables[0]) {
            self.fail(format!("claims differ in the end: {tables:?}"));
        }
        let doubled: Vec<_> =
            self.judge.doubled.iter().filter(|claim| !self.judge.released.contains(claim)).cloned().collect();
        for claim in doubled {
            // Whoever never heard of the other cannot write it down: all that knew of that are gone.
            let heard = |node: &Node| node.seen.get(&claim.shard).is_some_and(|seen| *seen > claim.epoch);
            let Some(loser) = alive.iter().find(|at| {
                let node = &self.nodes[**at];
                node.id() == *claim.owner() && heard(node)
            }) else {
                continue;
            };
            let journal = &self.nodes[*loser].journal;
            if !journal.iter().any(|(_, conflict)| conflict.lost == claim) {
                self.fail(format!(
                    "{claim} was served while a greater epoch was, and n{loser} has not written it down"
                ));
            }
        }
        if let Some(fault) = alive.iter().find_map(|at| self.fault_of_journal(*at)) {
            self.fail(fault);
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let alive = self.nodes.iter().find(|node| node.is_alive()).expect("somebody is");
        Summary {
            claims: alive.claims(),
            made: self.judge.made.len(),
            conflicts: self.nodes.iter().map(|node| node.journal.len()).sum(),
            answered: self.judge.answered.len(),
            cancelled: self.judge.cancelled,
            handoffs: self.judge.released.len(),
            refused: self.judge.refused,
            effects: self.effects,
        }
    }
}
