//! What must hold, found out from outside: nothing here asks a steward what it thinks of it, but for whether it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_cluster::NodeId;
use polity_shard::claims::{Claim, Claims};
use polity_shard::{Epoch, ShardId};

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
            let has_state = |conflict: &polity_shard::journal::Conflict| {
                conflict.lost == claim && matches!(conflict.lost_state, polity_shard::journal::Snapshot::State(_))
            };
            if !journal.iter().any(|(_, conflict)| has_state(conflict)) {
                self.fail(format!(
                    "{claim} was served while a greater epoch was, and n{loser} has not written it down"
                ));
            }
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let alive = self.nodes.iter().find(|node| node.is_alive()).expect("somebody is");
        Summary {
            claims: alive.claims(),
            made: self.judge.made.len(),
            conflicts: self.nodes.iter().map(|node| node.journal.len()).sum(),
            handoffs: self.judge.released.len(),
            refused: self.judge.refused,
            effects: self.effects,
        }
    }
}
