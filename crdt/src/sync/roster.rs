//! Who holds replicas of an object, and when the dots of those that are gone can be forgotten (promise C4).
//!
//! Each replica writes one *row* about itself, and rows travel with exchanges. A replica that will never write again is
//! *departed*: it has left, a newer boot has superseded it, or an operator has forgotten it; whoever drives this says so,
//! and nobody merely down is. Its actor is retired in three steps, of which each replica takes the next when it sees that
//! all replicas that are not departed have taken the one before:
//!
//! 1. **Clean(dots)**: no dot of the actor is live here, and these are all of it that this replica has heard of. Once all
//!    say so with the same dots, nobody can accept any of them as live any more: their contexts cover them.
//! 2. **Retired(dots)**: all were clean. The actor is still in the context, as a fence against messages that are under
//!    way, but is not spoken of any more. For a replica that others did not know of, it is a claim that all these
//!    dots are dead.
//! 3. **Forgotten**: all are retired, and no message from before can be under way ([`SyncConfig::retire_grace`]). The actor
//!    leaves the context and its row is dropped.
//!
//! This rests on every live replica being known to one that has not departed. For those that are not, the actor stays in the
//! context, retired, for [`SyncConfig::retire_grace`]: they learn in time that its dots are dead. One that an operator has
//! forgotten and that runs on may come at any time; the actors known at that moment are fenced off for good, outside of the
//! context.
//!
//! One that is not heard of in a row of somebody who had been clean has been forgotten there: nobody is retired who has
//! not seen all clean, and whoever is new learns the rows together with the state.
//!
//! One that an operator has forgotten may run all the same, hold dots that have been removed since, and give them to a
//! newcomer that has not heard of the forgetting yet. So what is retired of the actors that it can have heard of is
//! kept as a *fence*: should a dot of such an actor arrive, the actor is taken back as retired, and its dots are dead.
//!
//! [`SyncConfig::retire_grace`]: super::SyncConfig::retire_grace

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::mix;
use crate::mutation::{Mutation, mutated};
use crate::{ReplicaId, VersionVector};

/// The longest tag of a replica.
pub(super) const MAX_TAG_BYTES: usize = 256;

/// How many bytes of rows go into one message, about: a sixteenth of the largest frame of a cluster.
const MAX_ROW_BYTES: usize = 256 << 10;

/// The version of a row of which nothing newer is wanted.
const NOT_WANTED: u64 = u64::MAX;

/// What a replica says about a departed actor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Ack {
    /// All of its dots that were heard of; none is live.
    pub(super) dots: VersionVector,
    /// Whether all others have said the same.
    pub(super) retired: bool,
}

/// What a replica says of itself. It alone writes it, so a version suffices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Row {
    pub(super) version: u64,
    /// Who it is, in the words of its driver.
    pub(super) tag: Vec<u8>,
    /// What it says about departed actors.
    pub(super) acks: BTreeMap<ReplicaId, Ack>,
    /// What it has of marks, if there are any.
    pub(super) marks: Option<Marks>,
}

/// What a replica has of the marks that removes leave.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks {
    /// All that it has heard of.
    pub(super) heard: VersionVector,
    /// The dots that are live beside the first marks, in the order of their places.
    pub(super) live: VersionVector,
}

impl Row {
    /// About how many bytes it takes in a message.
    fn bytes(&self) -> usize {
        let dots = |dots: &VersionVector| 12 * dots.interval_count();
        let acks: usize = self.acks.values().map(|ack| 12 + dots(&ack.dots)).sum();
        24 + self.tag.len() + acks + self.marks.as_ref().map_or(0, |marks| dots(&marks.heard) + dots(&marks.live))
    }
}

pub(super) type Rows = BTreeMap<ReplicaId, Row>;

/// The rows as one replica knows them.
#[derive(Debug)]
pub(super) struct Roster {
    own: ReplicaId,
    rows: Rows,
    /// As the driver says.
    departed: BTreeSet<ReplicaId>,
    /// Whom an operator has forgotten. They might come back, unlike others that have departed, so this is never dropped.
    forgotten: BTreeSet<ReplicaId>,
    /// Counts the replicas that came and went.
    changes: u64,
    /// Since when all are known to have retired an actor.
    done: BTreeMap<ReplicaId, Duration>,
    /// What was taken for dead because others had retired an actor.
    killed: BTreeMap<ReplicaId, VersionVector>,
    /// The actors of which somebody who was forgotten by an operator can hold dots.
    exposed: BTreeSet<ReplicaId>,
    /// The dots of those of them that have left the context. At most one entry for each actor that was known when an
    /// operator forgot somebody.
    fence: BTreeMap<ReplicaId, VersionVector>,
}

/// What follows for the state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These dots are dead: others had retired the actor without knowing of this replica.
    Kill(VersionVector),
    /// The actor leaves the context.
    Forget(ReplicaId),
}

impl Roster {
    pub(super) fn new(own: ReplicaId, tag: Vec<u8>) -> Self {
        let row = Row { version: 1, tag, ..Row::default() };
        Self {
            own,
            rows: BTreeMap::from([(own, row)]),
            departed: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            changes: 0,
            done: BTreeMap::new(),
            killed: BTreeMap::new(),
            exposed: BTreeSet::new(),
            fence: BTreeMap::new(),
        }
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = (ReplicaId, &[u8])> {
        self.rows.iter().map(|(replica, row)| (*replica, &row.tag[..]))
    }

    pub(super) fn knows(&self, replica: ReplicaId) -> bool {
        self.rows.contains_key(&replica)
    }

    pub(super) fn set_departed(&mut self, departed: BTreeSet<ReplicaId>) {
        self.departed = departed;
        self.departed.remove(&self.own);
    }

    pub(super) fn is_departed(&self, replica: ReplicaId) -> bool {
        self.departed.contains(&replica) || self.forgotten.contains(&replica)
    }

    /// An operator says that these will not be back, while this has been heard of. Returns whether that is new.
    pub(super) fn forget(&mut self, replicas: impl IntoIterator<Item = ReplicaId>, heard: &VersionVector) -> bool {
        let before = self.forgotten.len();
        self.forgotten.extend(replicas.into_iter().filter(|replica| *replica != self.own));
        let is_new = self.forgotten.len() != before;
        if is_new {
            self.exposed.extend(heard.iter().map(|(actor, _)| actor));
        }
        is_new
    }

    /// A context together with what is fenced off.
    pub(super) fn fenced(&self, context: &VersionVector) -> VersionVector {
        let mut context = context.clone();
        for dots in self.fence.values() {
            context.merge(dots);
        }
        context
    }

    /// Something of an actor has come that may have been forgotten: takes it back as retired, and returns its dots.
    pub(super) fn take_back(&mut self, actor: ReplicaId) -> Option<VersionVector> {
        let dots = self.fence.remove(&actor)?;
        let ack = Ack { dots: dots.clone(), retired: true };
        self.change(|row| drop(row.acks.insert(actor, ack)));
        Some(dots)
    }

    /// Whether nothing is fenced off.
    pub(super) fn is_open(&self) -> bool {
        self.fence.is_empty()
    }

    pub(super) fn forgotten(&self) -> &BTreeSet<ReplicaId> {
        &self.forgotten
    }

    /// Grows whenever a replica comes or goes.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The departed actors, by the driver's word or another replica's.
    fn all_departed(&self) -> BTreeSet<ReplicaId> {
        let mut all = &self.departed | &self.forgotten;
        for row in self.rows.values() {
            all.extend(row.acks.keys().filter(|actor| **actor != self.own));
        }
        all
    }

    fn own_row(&self) -> &Row {
        &self.rows[&self.own]
    }

    fn change(&mut self, change: impl FnOnce(&mut Row)) {
        let row = self.rows.get_mut(&self.own).expect("the own row is never dropped");
        change(row);
        row.version += 1;
    }

    fn is_retired(&self, actor: ReplicaId) -> bool {
        self.own_row().acks.get(&actor).is_some_and(|ack| ack.retired)
    }

    /// A context without the actors that are not spoken of any more.
    pub(super) fn spoken(&self, context: &VersionVector) -> VersionVector {
        let mut context = context.clone();
        for (actor, _) in self.own_row().acks.iter().filter(|(_, ack)| ack.retired) {
            context.remove_replica(*actor);
        }
        context
    }

    /// The rows that others should know.
    fn spoken_rows(&self) -> impl Iterator<Item = (&ReplicaId, &Row)> {
        self.rows.iter().filter(|(replica, _)| !self.is_retired(**replica))
    }

    /// The versions of the rows. Of a replica that is retired here nothing newer is wanted.
    pub(super) fn versions(&self) -> BTreeMap<ReplicaId, u64> {
        let version = |id: ReplicaId, row: &Row| if self.is_retired(id) { NOT_WANTED } else { row.version };
        self.rows.iter().map(|(id, row)| (*id, version(*id, row))).collect()
    }

    /// Those of them that are newer than these versions, up to some size. Beyond that replicas that are not known at all are
    /// named without what they say, as version 0: whoever hears what one replica says knows of all that it has to agree with.
    pub(super) fn newer(&self, versions: &BTreeMap<ReplicaId, u64>) -> Rows {
        let (mut bytes, mut rows) = (0, Rows::new());
        for (replica, row) in self.spoken_rows() {
            let known = versions.get(replica);
            if known.is_some_and(|version| *version >= row.version) {
                continue;
            }
            if bytes < MAX_ROW_BYTES {
                bytes += row.bytes();
                rows.insert(*replica, row.clone());
            } else if known.is_none() {
                rows.insert(*replica, Row { tag: row.tag.clone(), ..Row::default() });
            }
        }
        rows
    }

    /// Whether a row of these versions is newer than here.
    pub(super) fn lacks(&self, versions: &BTreeMap<ReplicaId, u64>) -> bool {
        let mut spoken = versions.iter().filter(|(_, version)| **version != NOT_WANTED);
        spoken.any(|(replica, version)| self.rows.get(replica).is_none_or(|row| row.version < *version))
    }

    pub(super) fn hash(&self) -> u64 {
        let rows = self.spoken_rows();
        let forgotten = self.forgotten.iter().map(|replica| mix(!replica.0));
        let rows = rows.map(|(replica, row)| mix(replica.0 ^ mix(row.version)));
        rows.chain(forgotten).fold(0, u64::wrapping_add)
    }

    /// Takes over newer rows. Returns whether there were any.
    pub(super) fn merge(&mut self, theirs: Rows) -> bool {
        let mut changed = false;
        for (replica, row) in theirs {
            if replica == self.own {
                continue;
            }
            match self.rows.get_mut(&replica) {
                Some(mine) if mine.version >= row.version => {}
                Some(mine) => {
                    *mine = row;
                    changed = true;
                }
                // It may have been forgotten here before; then it is retired once more.
                None => {
                    self.rows.insert(replica, row);
                    self.changes += 1;
                    changed = true;
                }
            }
        }
        changed
    }

    /// Takes the next steps. `heard` gives all dots of an actor that were heard of, and `live` whether one is live.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        grace: Duration,
        heard: impl Fn(ReplicaId) -> VersionVector,
        live: impl Fn(ReplicaId) -> bool,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let departed = self.all_departed();
        let others: Vec<ReplicaId> =
            self.rows.keys().copied().filter(|id| *id != self.own && !departed.contains(id)).collect();
        for actor in departed {
            let mine = self.own_row().acks.get(&actor).cloned();
            if mine.as_ref().is_some_and(|ack| ack.retired && ack.dots == heard(actor)) {
                self.finish(now, grace, actor, &others, &mut steps);
                continue;
            }
            let heard = heard(actor);
            let acks = || others.iter().map(|other| self.rows[other].acks.get(&actor));
            let (is_live, retired) = (live(actor), acks().flatten().find(|ack| ack.retired));
            if let Some(ack) = retired {
                // They had not heard of this replica: what they had heard of is dead. Once that is applied it stays so.
                let is_new = is_live && self.killed.get(&actor) != Some(&ack.dots) || !heard.covers(&ack.dots);
                let is_concerned = !heard.is_empty() || self.rows.contains_key(&actor) || mine.is_some();
                if is_new && is_concerned {
                    steps.push(Step::Kill(ack.dots.clone()));
                    self.killed.insert(actor, ack.dots.clone());
                    continue;
                }
            }
            let alone = mutated(Mutation::RetiresAlone);
            let all = alone || acks().all(|ack| ack.is_some_and(|ack| ack.dots == heard));
            let retired = all || retired.is_some_and(|ack| ack.dots == heard);
            let ack = (!is_live).then(|| Ack { dots: heard.clone(), retired });
            // One who knew nothing of it does not begin to speak of it when it is forgotten elsewhere already.
            let is_news = !heard.is_empty() || self.rows.contains_key(&actor) || mine.is_some();
            if ack != mine && is_news {
                self.done.remove(&actor);
                self.change(|row| match ack {
                    Some(ack) => drop(row.acks.insert(actor, ack)),
                    None => drop(row.acks.remove(&actor)),
                });
            }
        }
        steps
    }

    /// This replica has retired the actor: have all?
    fn finish(
        &mut self,
        now: Duration,
        grace: Duration,
        actor: ReplicaId,
        others: &[ReplicaId],
        steps: &mut Vec<Step>,
    ) {
        let all = others.iter().all(|other| self.rows[other].acks.get(&actor).is_none_or(|ack| ack.retired));
        if !all {
            self.done.remove(&actor);
            return;
        }
        let since = *self.done.entry(actor).or_insert(now);
        if now.saturating_sub(since) >= grace {
            self.done.remove(&actor);
            self.killed.remove(&actor);
            self.rows.remove(&actor);
            self.changes += 1;
            let ack = self.own_row().acks.get(&actor).cloned();
            self.change(|row| drop(row.acks.remove(&actor)));
            if let Some(ack) = ack.filter(|ack| self.exposed.contains(&actor) && !ack.dots.is_empty()) {
                self.fence.insert(actor, ack.dots);
            }
            steps.push(Step::Forget(actor));
        }
    }

    /// The actors that are on their way out, and who holds that up: replicas that are not departed and have not said
    /// that they are clean.
    pub(super) fn blocked(&self) -> BTreeMap<ReplicaId, Vec<ReplicaId>> {
        let departed = self.all_departed();
        let of = |actor: &ReplicaId| {
            let mine = self.own_row().acks.get(actor)?;
            let lagging = self.rows.iter().filter(|(id, row)| {
                !departed.contains(id) && row.acks.get(actor).is_none_or(|ack| ack.dots != mine.dots)
            });
            (!mine.retired).then(|| lagging.map(|(id, _)| *id).collect())
        };
        departed.iter().filter_map(|actor| Some((*actor, of(actor)?))).collect()
    }

    /// Says what this replica has of marks.
    pub(super) fn publish_marks(&mut self, marks: Option<Marks>) {
        if self.own_row().marks != marks {
            self.change(|row| row.marks = marks);
        }
    }

    /// The dots beside marks that every replica has said to be live, if this one has heard of everything that they had
    /// heard of when they said so.
    pub(super) fn stable_marks(&self) -> Option<VersionVector> {
        let departed = self.all_departed();
        let Marks { heard, live } = self.own_row().marks.as_ref()?;
        let mut stable = live.clone();
        for (_, row) in self.rows.iter().filter(|(id, _)| **id != self.own && !departed.contains(id)) {
            let marks = row.marks.as_ref().filter(|marks| heard.covers(&marks.heard))?;
            stable = stable.intersection(&marks.live);
        }
        Some(stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dot;

    fn dots(counters: &[u64]) -> VersionVector {
        let mut dots = VersionVector::new();
        counters.iter().for_each(|counter| {
            dots.insert(Dot { replica: ReplicaId(1), counter: *counter });
        });
        dots
    }

    /// The roster of one replica, and what it and one other have said of marks.
    fn roster(own: Option<Marks>, other: Option<Marks>) -> Roster {
        let mut roster = Roster::new(ReplicaId(1), Vec::new());
        roster.publish_marks(own);
        roster.rows.insert(ReplicaId(2), Row { marks: other, ..Row::default() });
        roster
    }

    #[test]
    fn marks_are_stable_once_all_have_them_and_the_rest_is_known() {
        let own = Marks { heard: dots(&[1, 2, 3]), live: dots(&[1, 3]) };
        let stable = |heard: &[u64], live: &[u64]| {
            roster(Some(own.clone()), Some(Marks { heard: dots(heard), live: dots(live) })).stable_marks()
        };
        assert_eq!(stable(&[1, 2, 3], &[1, 3]), Some(dots(&[1, 3])));
        // It has heard of 1, and has it no more.
        assert_eq!(stable(&[1, 2, 3], &[3]), Some(dots(&[3])));
        // It has heard of something that is not known here.
        assert_eq!(stable(&[1, 3, 4], &[1, 3]), None);
        // It has said nothing.
        assert_eq!(roster(Some(own.clone()), None).stable_marks(), None);
        assert_eq!(roster(None, Some(own)).stable_marks(), None);
    }
}
