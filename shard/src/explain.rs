//! Who owns a shard, why, and what that waits for, in words (promise H5).
//!
//! It is what one node knows. Only the two sides of a handoff know how far that is; others see that the owner is not the
//! preferred one, and say so.

use std::fmt;
use std::time::Duration;

use polity_cluster::{NodeId, NodeName, Zone};

use crate::claims::{Core, Hold};
use crate::handoff::{Desk, Direction, Progress};
use crate::{Epoch, ShardId};

/// Why a node is among those that have to do with a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Why {
    /// It has this place on the preference list; 0 is the first, which should own the shard.
    Placed(usize),
    /// It is on no list, and owns the shard until the handoff to the first ends.
    KeepsUntilHandoff,
    /// It is on no list any more and has let go, for this node, which is to claim.
    HasLetGo(NodeId),
    /// It is on no list, down or gone, and its claim is the last.
    LastClaim,
}

/// A node that has to do with a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which.
    pub name: NodeName,
    /// Its zone, if it has one.
    pub zone: Option<Zone>,
    /// Whether it is up.
    pub is_up: bool,
    /// Why it is here.
    pub why: Why,
}

/// What the shard waits for before its preferred node owns it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Blocker {
    /// This node knows no members yet.
    NoSight,
    /// All members are about to leave, or there is none.
    NobodyToOwn,
    /// This node does not know yet what others have claimed, and claims nothing before.
    Learning,
    /// This node is about to claim the shard, which has had no owner for so long.
    Claiming(Duration),
    /// Another node is to claim it.
    ClaimOf(NodeId),
    /// The owner is to hand it over to this node.
    Handoff(NodeId),
    /// A handoff that this node has a part in, and for how long it has not gone on.
    OwnHandoff(Box<Progress>, Duration),
}

/// Who owns a shard, why, and what blocks it, as one node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The shard.
    pub shard: ShardId,
    /// The node that says so.
    pub by: NodeId,
    /// The greatest epoch that is known: it names the owner.
    pub epoch: Option<Epoch>,
    /// Whether the boot that it names is up.
    pub is_owner_up: bool,
    /// The preference list, best first, and the owner, if that is not on it.
    pub places: Vec<Place>,
    /// What it waits for; nothing, if the preferred node owns it.
    pub blockers: Vec<Blocker>,
}

pub(crate) fn explain(core: &Core, desk: &Desk, now: Duration, shard: ShardId) -> Explanation {
    let epoch = core.claims().epoch(shard).cloned();
    let owner = epoch.as_ref().map(|epoch| &epoch.owner);
    let is_owner_up = owner.is_some_and(|owner| core.sight().is_some_and(|sight| sight.is_up(owner)));
    Explanation {
        shard,
        by: core.me().clone(),
        is_owner_up,
        places: places(core, shard, owner, is_owner_up),
        blockers: blockers(core, desk, now, shard, owner.filter(|_| is_owner_up)),
        epoch,
    }
}

fn places(core: &Core, shard: ShardId, owner: Option<&NodeId>, is_owner_up: bool) -> Vec<Place> {
    let Some(sight) = core.sight() else {
        return Vec::new();
    };
    let place = |name: &NodeName, is_up, why| Place { name: name.clone(), zone: sight.zone(name).cloned(), is_up, why };
    let list = sight.placement().preference_list(shard).enumerate();
    let mut places: Vec<_> =
        list.map(|(rank, name)| place(name, sight.boot_of(name).is_some(), Why::Placed(rank))).collect();
    if let Some(owner) = owner.filter(|owner| places.iter().all(|place| place.name != owner.name)) {
        let why = match core.hold(shard) {
            Some((Hold::LetGo(to), ..)) => Why::HasLetGo(to.clone()),
            _ if is_owner_up => Why::KeepsUntilHandoff,
            _ => Why::LastClaim,
        };
        places.push(place(&owner.name, is_owner_up, why));
    }
    places
}

fn blockers(core: &Core, desk: &Desk, now: Duration, shard: ShardId, owner: Option<&NodeId>) -> Vec<Blocker> {
    let Some(sight) = core.sight() else {
        return vec![Blocker::NoSight];
    };
    let own = desk.progress(shard).map(|progress| {
        let since = now.saturating_sub(progress.since);
        Blocker::OwnHandoff(Box::new(progress), since)
    });
    let own: Vec<_> = own.collect();
    if !own.is_empty() {
        return own;
    }
    match (sight.preferred(shard), owner) {
        (None, Some(_)) => Vec::new(),
        (None, None) => vec![Blocker::NobodyToOwn],
        (Some(preferred), Some(owner)) if preferred == *owner => Vec::new(),
        (Some(preferred), Some(_)) => vec![Blocker::Handoff(preferred)],
        (Some(preferred), None) if preferred != *core.me() => vec![Blocker::ClaimOf(preferred)],
        (Some(_), None) if !core.has_learned() => vec![Blocker::Learning],
        (Some(_), None) => {
            let since = core.vacant_since(shard).unwrap_or(now);
            vec![Blocker::Claiming(now.saturating_sub(since))]
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Placed(0) => f.write_str("first of the preference list"),
            Self::Placed(rank) => write!(f, "replica {} of the preference list", rank + 1),
            Self::KeepsUntilHandoff => f.write_str("not placed here any more; keeps it until the handoff ends"),
            Self::HasLetGo(to) => write!(f, "not placed here any more; has let go for {to}"),
            Self::LastClaim => f.write_str("down; the last that claimed it"),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSight => f.write_str("this node knows no members yet"),
            Self::NobodyToOwn => f.write_str("nobody is there to own it, or all are about to leave"),
            Self::Learning => f.write_str("this node is to claim it, and has yet to learn what others have claimed"),
            Self::Claiming(since) => write!(f, "this node is to claim it, for {since:?}"),
            Self::ClaimOf(node) => write!(f, "{node} to claim it"),
            Self::Handoff(to) => write!(f, "its owner to hand it over to {to}"),
            Self::OwnHandoff(progress, since) => {
                let Progress { direction, peer, chunks, bytes, waits_for, .. } = &**progress;
                let direction = match direction {
                    Direction::Sending => "to",
                    Direction::Receiving => "from",
                };
                write!(
                    f,
                    "the handoff {direction} {peer}: {} of {} chunks, {} of {} bytes",
                    chunks.0, chunks.1, bytes.0, bytes.1
                )?;
                write!(f, "; for {since:?} it has waited for {waits_for}")
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.epoch {
            Some(epoch) => {
                let is_up = if self.is_owner_up { "" } else { ", which is not up" };
                write!(f, "shard {} is owned by {}{is_up}, in epoch {}", self.shard, epoch.owner, epoch.counter)?;
            }
            None => write!(f, "shard {} has never been claimed", self.shard)?,
        }
        writeln!(f, " (as {} knows it)", self.by)?;
        for Place { name, zone, is_up, why } in &self.places {
            write!(f, "  {name}")?;
            if let Some(zone) = zone {
                write!(f, " in zone {zone}")?;
            }
            writeln!(f, "{}: {why}", if *is_up { "" } else { " (not up)" })?;
        }
        if self.blockers.is_empty() {
            return f.write_str("  waits for nothing");
        }
        for (at, blocker) in self.blockers.iter().enumerate() {
            let separator = if at > 0 { "\n" } else { "" };
            write!(f, "{separator}  waits for {blocker}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Claim, Claims, Fence, Sight};
    use crate::epoch::tests::{boot, epoch};
    use crate::handoff::{HandoffId, WaitsFor};
    use crate::{Candidate, Placement, ReplicaCount, ShardCount, Steward, StewardConfig};

    const SHARD: ShardId = ShardId(0);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// `names` are up, as boots 1, in zones of the same letter, and of two replicas.
    fn sight(names: &str) -> Sight {
        let zone = |name: &NodeName| Zone::new(&format!("z{name}")).expect("valid");
        let nodes: Vec<_> = names.split_whitespace().map(|name| boot(&format!("{name}1"))).collect();
        let candidates: Vec<_> =
            nodes.iter().map(|node| Candidate::new(node.name.clone()).with_zone(zone(&node.name))).collect();
        let one = ShardCount::new(1).expect("valid");
        let placement = Placement::compute(&candidates, one, ReplicaCount::new(2).expect("valid")).expect("distinct");
        let zones: Vec<_> = nodes.iter().map(|node| (node.name.clone(), zone(&node.name))).collect();
        Sight::new(nodes, [], placement).with_zones(zones)
    }

    fn steward(me: &str) -> Steward {
        let config = StewardConfig { shards: ShardCount::new(1).expect("valid"), ..StewardConfig::default() };
        Steward::new(boot(me), config, Fence::default())
    }

    #[test]
    fn a_node_that_starts_says_what_it_waits_for() {
        let mut steward = steward("a1");
        assert_eq!(steward.explain(ms(0), SHARD).blockers, [Blocker::NoSight]);
        steward.handle_sight(ms(0), sight(""));
        assert_eq!(steward.explain(ms(0), SHARD).blockers, [Blocker::NobodyToOwn]);
        steward.handle_sight(ms(0), sight("a"));
        assert_eq!(steward.explain(ms(0), SHARD).blockers, [Blocker::Learning]);
        steward.handle_learned(ms(0));
        assert_eq!(steward.explain(ms(200), SHARD).blockers, [Blocker::Claiming(ms(200))]);
        steward.handle_timeout(ms(500));
        steward.handle_epoch(ms(500), SHARD, Ok(epoch("1a1")));
        let text = steward.explain(ms(500), SHARD).to_string();
        assert_eq!(
            text,
            "shard 0 is owned by a#1.00000000, in epoch 1 (as a#1.00000000 knows it)\n  \
             a in zone za: first of the preference list\n  waits for nothing"
        );
        steward.handle_sight(ms(500), sight("b"));
        assert_eq!(steward.explain(ms(500), SHARD).places.last().map(|place| &place.why), Some(&Why::LastClaim));
    }

    #[test]
    fn an_owner_that_is_not_placed_says_until_when_it_keeps_the_shard() {
        let mut owner = steward("a1");
        owner.handle_sight(ms(0), sight("a"));
        owner.handle_learned(ms(0));
        owner.handle_timeout(ms(500));
        owner.handle_epoch(ms(500), SHARD, Ok(epoch("1a1")));
        owner.handle_sight(ms(600), sight("b c"));
        let to = sight("b c").preferred(SHARD).expect("somebody");
        let explanation = owner.explain(ms(700), SHARD);
        assert!(
            explanation.to_string().ends_with(&format!(
                "waits for the handoff to {to}: 0 of 0 chunks, 0 of 0 bytes; for 100ms it has waited for the state to be read"
            )),
            "{explanation}"
        );
        let id = HandoffId { claim: Claim { shard: SHARD, epoch: epoch("1a1") }, attempt: 1 };
        owner.handle_opened(ms(700), &id, 0, 0);
        let [Blocker::OwnHandoff(progress, _)] = &owner.explain(ms(700), SHARD).blockers[..] else {
            panic!("a handoff is under way");
        };
        assert_eq!(progress.waits_for, WaitsFor::Acceptance(None));

        // Another node knows who owns it, and that it should move.
        let mut other = steward("c1");
        other.handle_sight(ms(0), sight("a b c"));
        other.handle_claims(ms(0), &Claims::from_iter([Claim { shard: SHARD, epoch: epoch("1a1") }]));
        let explanation = other.explain(ms(0), SHARD);
        let is_placed = explanation.places.iter().filter(|place| matches!(place.why, Why::Placed(_))).count();
        assert_eq!(is_placed, 2);
        if sight("a b c").preferred(SHARD) != Some(boot("a1")) {
            assert!(matches!(explanation.blockers[..], [Blocker::Handoff(_)]));
        }
    }
}
