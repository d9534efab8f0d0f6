//! Who is departed: whose replica nobody has to wait for any more. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_crdt::ReplicaId;

use super::replica::Holder;
use crate::identity::NodeId;
use crate::membership::view::{Status, View};

/// How often to look for those that the members do not list any more, if nothing else happens.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What a document remembers of those that are gone.
pub(super) struct Departures {
    /// For how long a holder must be no member, not even a dead one, until it is departed. `None`: for ever.
    grace: Option<Duration>,
    /// The boots that were seen to be gone for good, while they are known.
    gone: BTreeSet<NodeId>,
    /// The replicas whose holders were no members for that long, while they are known. A holder may come back; it begins
    /// anew then, and its next replica is another.
    lapsed: BTreeSet<ReplicaId>,
    /// Since when the holders of these are no members.
    absent: BTreeMap<ReplicaId, Duration>,
    looked: Duration,
}

impl Departures {
    pub(super) fn new(grace: Option<Duration>) -> Self {
        let (gone, lapsed, absent) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { grace, gone, lapsed, absent, looked: Duration::ZERO }
    }

    /// Whether it is time to look again although nothing has changed.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.grace.is_some() && now.saturating_sub(self.looked) >= LOOK_EVERY
    }

    /// The departed replicas, of those that are `known` with their holders, and of those that have written and whose
    /// holders are `unknown`.
    pub(super) fn look(
        &mut self,
        now: Duration,
        view: &View,
        known: &BTreeMap<ReplicaId, Holder>,
        unknown: BTreeSet<ReplicaId>,
    ) -> BTreeSet<ReplicaId> {
        let mut newest: BTreeMap<&NodeId, u32> = BTreeMap::new();
        for Holder { node, life } in known.values() {
            let newest = newest.entry(node).or_default();
            *newest = (*newest).max(*life);
        }
        self.gone.extend(newest.keys().filter(|node| is_gone(view, node)).map(|node| NodeId::clone(node)));
        self.gone.retain(|node| newest.contains_key(node));
        self.lapsed.retain(|id| known.contains_key(id));
        let by_holder = |(_, Holder { node, life }): &(&ReplicaId, &Holder)| {
            self.gone.contains(node) || newest.get(node).is_some_and(|newest| life < newest)
        };
        let mut departed: BTreeSet<ReplicaId> = known.iter().filter(by_holder).map(|(id, _)| *id).collect();
        if let Some(grace) = self.grace {
            let is_listed = |node: &NodeId| view.members.get(&node.name).is_some_and(|member| member.id == *node);
            let unlisted = known.iter().filter(|(_, holder)| !is_listed(&holder.node)).map(|(id, _)| *id);
            let since = |id| (id, self.absent.get(&id).copied().unwrap_or(now));
            self.absent = unlisted.chain(unknown).map(since).collect();
            let long = self.absent.iter().filter(|(_, since)| now.saturating_sub(**since) >= grace).map(|(id, _)| *id);
            for id in long {
                departed.insert(id);
                self.lapsed.extend(known.contains_key(&id).then_some(id));
            }
            self.looked = now;
        }
        &departed | &self.lapsed
    }
}

/// Whether a boot will never be there again.
fn is_gone(view: &View, node: &NodeId) -> bool {
    view.members.get(&node.name).is_some_and(|member| {
        member.id.boot > node.boot || member.id.boot == node.boot && member.status == Status::Left
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Boot, NodeName};
    use crate::membership::view::Member;
    use crate::version::{Speaks, VersionRange};

    const GRACE: Duration = Duration::from_secs(3600);

    fn node(generation: u64) -> NodeId {
        NodeId { name: NodeName::new("a").expect("a name"), boot: Boot { generation, nonce: 1 } }
    }

    fn listed(generation: u64, status: Status) -> View {
        let member = Member {
            id: node(generation),
            addr: ([127, 0, 0, 1], 1).into(),
            status,
            rejoin: 0,
            profile: None,
            addresses: BTreeMap::new(),
            load: None,
            speaks: Speaks::only(VersionRange { min: 1, max: 1 }),
            state: BTreeMap::new(),
        };
        View { version: 1, members: BTreeMap::from([(node(generation).name, member)]) }
    }

    fn lives(generation: u64, lives: std::ops::Range<u32>) -> BTreeMap<ReplicaId, Holder> {
        let holders = lives.map(|life| Holder { node: node(generation), life });
        holders.map(|holder| (holder.replica("document"), holder)).collect()
    }

    /// Who is departed then, of these.
    fn departed(departures: &mut Departures, secs: u64, view: &View, known: &BTreeMap<ReplicaId, Holder>) -> usize {
        departures.look(Duration::from_secs(secs), view, known, BTreeSet::new()).len()
    }

    #[test]
    fn who_has_left_or_was_superseded_is_gone_for_good() {
        for view in [listed(1, Status::Left), listed(2, Status::Down)] {
            let mut departures = Departures::new(None);
            assert_eq!(departed(&mut departures, 0, &listed(1, Status::Down), &lives(1, 0..1)), 0);
            assert_eq!(departed(&mut departures, 1, &view, &lives(1, 0..1)), 1);
            assert_eq!(departed(&mut departures, 2, &View::default(), &lives(1, 0..1)), 1);
        }
    }

    #[test]
    fn of_one_boot_only_the_last_life_is_there() {
        let known = lives(1, 0..3);
        let last = Holder { node: node(1), life: 2 }.replica("document");
        let departed = Departures::new(None).look(GRACE, &listed(1, Status::Alive), &known, BTreeSet::new());
        assert!(departed.len() == 2 && !departed.contains(&last));
    }

    #[test]
    fn who_is_no_member_for_long_is_departed_and_may_come_back_as_another() {
        let mut departures = Departures::new(Some(GRACE));
        assert_eq!(departed(&mut departures, 0, &View::default(), &lives(1, 0..1)), 0);
        assert_eq!(departed(&mut departures, 3599, &View::default(), &lives(1, 0..1)), 0);
        assert_eq!(departed(&mut departures, 3600, &View::default(), &lives(1, 0..1)), 1);
        // The same boot is heard again, first with the replica that was given up.
        let back = listed(1, Status::Alive);
        assert_eq!(departed(&mut departures, 3700, &back, &lives(1, 0..1)), 1);
        assert_eq!(departed(&mut departures, 3701, &back, &lives(1, 0..2)), 1, "its second life is welcome");
        assert_eq!(departed(&mut departures, 3702, &back, &lives(1, 1..2)), 0);
    }

    #[test]
    fn a_writer_whom_nobody_knows_departs_as_well() {
        let (mut departures, unknown) = (Departures::new(Some(GRACE)), BTreeSet::from([ReplicaId(9)]));
        let mut look = |at| departures.look(at, &View::default(), &BTreeMap::new(), unknown.clone()).len();
        assert_eq!([look(Duration::ZERO), look(GRACE)], [0, 1]);
    }
}
