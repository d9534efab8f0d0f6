//! Who can be seen: the entries of a presence whose owners are up, and what has changed among them.
//!
//! The document holds what every boot has tracked; the roll is what a node shows of it. An entry is shown while its owner
//! is up as this node sees it, so those of a dead node are gone as soon as it is Down here, and are back, without a word of
//! anybody, if it was not dead. A pure state machine: it is told who is up and which keys of the document have changed.
//!
//! Each change has a version, one more than the last; the newest `LOG` are kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polity_crdt::{OwnerMap, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::identity::NodeId;
use crate::mutation::{Mutation, mutated};
use crate::rpc::Blob;

/// How many changes are kept for subscribers that are behind. 4,096: a node with thousands of entries that goes, at once.
const LOG: usize = 4096;

/// An entry in the document: a key, and which of the entries that its owner has made it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The key.
    pub key: String,
    /// The number, unique among the entries of one boot.
    pub number: u64,
}

/// The document under a presence: encoded metadata at places, each of its owner.
pub type Map = OwnerMap<Place, Blob>;

/// An entry that can be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Where it is.
    pub place: Place,
    /// Whose it is.
    pub node: NodeId,
    /// What it says.
    pub meta: Blob,
}

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It can be seen.
    Joined,
    /// It says something else.
    Changed,
    /// It cannot be seen any more.
    Left,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// One more than that of the change before.
    pub version: u64,
    /// What happened.
    pub fate: Fate,
    /// The entry as it is now, or was last.
    pub row: Row,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Roll {
    owners: BTreeMap<ReplicaId, NodeId>,
    /// For each entry the version of its value, and the entry.
    rows: BTreeMap<(Place, ReplicaId), (u64, Row)>,
    version: u64,
    log: VecDeque<Change>,
}

impl Roll {
    /// Counts the changes.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All that can be seen, by key.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().map(|(_, row)| row)
    }

    /// What can be seen of one key.
    pub fn of_key(&self, key: &str) -> impl Iterator<Item = &Row> {
        let first = (Place { key: key.to_owned(), number: 0 }, ReplicaId(0));
        let rows = self.rows.range(first..).map(|(_, (_, row))| row);
        rows.take_while(move |row| row.place.key == key)
    }

    /// The first change after a version; `None` if there is none, and an error if it is not kept any more.
    #[allow(clippy::missing_errors_doc, reason = "the sentence above says it")]
    pub fn after(&self, version: u64) -> Result<Option<&Change>, Behind> {
        let back = self.version.saturating_sub(version);
        if back == 0 {
            return Ok(None);
        }
        let at = (self.log.len() as u64).checked_sub(back).ok_or(Behind)?;
        Ok(self.log.get(at as usize))
    }

    /// These are up now, and hold these replicas.
    pub fn set_owners(&mut self, owners: BTreeMap<ReplicaId, NodeId>, map: &Map) {
        let mut owners = owners;
        if mutated(Mutation::GhostsStay) {
            owners.extend(self.owners.iter().map(|(replica, node)| (*replica, node.clone())));
        }
        if mutated(Mutation::ComesBackUnseen) {
            let held: BTreeSet<ReplicaId> = map.iter().map(|(owner, ..)| owner).collect();
            owners.retain(|replica, _| self.owners.contains_key(replica) || !held.contains(replica));
        }
        let old = std::mem::replace(&mut self.owners, owners);
        let differs = |replica: &ReplicaId| old.get(replica) != self.owners.get(replica);
        let moved: BTreeSet<ReplicaId> = old.keys().chain(self.owners.keys()).copied().filter(differs).collect();
        if moved.is_empty() {
            return;
        }
        let shown = self.rows.keys().filter(|(_, owner)| moved.contains(owner)).map(|(place, _)| place.clone());
        let held = map.iter().filter(|(owner, ..)| moved.contains(owner)).map(|(_, place, _)| place.clone());
        let places: BTreeSet<Place> = shown.chain(held).collect();
        self.look(&places, map);
    }

    /// Looks at these places again.
    pub fn look(&mut self, places: &BTreeSet<Place>, map: &Map) {
        for place in places {
            let mut now: BTreeMap<ReplicaId, (u64, Row)> = BTreeMap::new();
            for (owner, version, meta) in map.under(place) {
                if let Some(node) = self.owners.get(&owner) {
                    let row = Row { place: place.clone(), node: node.clone(), meta: meta.clone() };
                    now.insert(owner, (version, row));
                }
            }
            let all = (place.clone(), ReplicaId(0))..=(place.clone(), ReplicaId(u64::MAX));
            let before = self.rows.range(all).map(|((_, owner), _)| *owner);
            let gone: Vec<ReplicaId> = before.filter(|owner| !now.contains_key(owner)).collect();
            for owner in gone {
                if let Some((_, row)) = self.rows.remove(&(place.clone(), owner)) {
                    self.note(Fate::Left, row);
                }
            }
            for (owner, (version, row)) in now {
                let before = self.rows.insert((place.clone(), owner), (version, row.clone()));
                match before {
                    None => self.note(Fate::Joined, row),
                    Some((_, old)) if old.meta != row.meta => self.note(Fate::Changed, row),
                    Some(_) => {}
                }
            }
        }
    }

    /// Looks at everything again.
    pub fn look_at_all(&mut self, map: &Map) {
        let shown = self.rows.keys().map(|(place, _)| place.clone());
        let places: BTreeSet<Place> = shown.chain(map.iter().map(|(_, place, _)| place.clone())).collect();
        self.look(&places, map);
    }

    fn note(&mut self, fate: Fate, row: Row) {
        self.version += 1;
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back(Change { version: self.version, fate, row });
    }
}

/// The change that was asked for is not kept any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind;

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use polity_crdt::Replica;

    use super::*;
    use crate::identity::{Boot, NodeName};

    fn node(name: &str) -> NodeId {
        NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 1, nonce: 1 } }
    }

    fn place(key: &str, number: u64) -> Place {
        Place { key: key.to_owned(), number }
    }

    fn put(replica: &mut Replica<Map>, key: &str, number: u64, meta: &[u8]) -> BTreeSet<Place> {
        let put = replica.update(|map, w| map.put(w, place(key, number), meta.to_vec().into()));
        put.expect("there is room");
        BTreeSet::from([place(key, number)])
    }

    /// What the changes after a version make of rows.
    fn follow(roll: &Roll, rows: &mut Vec<Row>, mut version: u64) {
        while let Some(change) = roll.after(version).expect("it is kept") {
            assert_eq!(change.version, version + 1);
            version = change.version;
            let same = |row: &Row| row.place == change.row.place && row.node == change.row.node;
            let before = rows.iter().position(same).map(|at| rows.remove(at));
            assert_eq!(before.is_some(), change.fate != Fate::Joined);
            if change.fate != Fate::Left {
                rows.push(change.row.clone());
            }
        }
        rows.sort_by(|a, b| (&a.place, &a.node).cmp(&(&b.place, &b.node)));
        let mut shown: Vec<Row> = roll.rows().cloned().collect();
        shown.sort_by(|a, b| (&a.place, &a.node).cmp(&(&b.place, &b.node)));
        assert_eq!(*rows, shown);
    }

    #[test]
    fn an_entry_is_seen_while_its_owner_is_up_and_changes_make_up_what_is_seen() {
        let (mut a, mut b) = (Replica::<Map>::new(ReplicaId(1)), Replica::<Map>::new(ReplicaId(2)));
        let both = BTreeMap::from([(ReplicaId(1), node("a")), (ReplicaId(2), node("b"))]);
        let only_b = BTreeMap::from([(ReplicaId(2), node("b"))]);
        let (mut roll, mut rows) = (Roll::default(), Vec::new());
        roll.set_owners(only_b.clone(), &a);
        let places = put(&mut a, "eve", 1, b"x");
        roll.look(&places, &a);
        assert_eq!(roll.rows().count(), 0, "a is not up");
        roll.set_owners(both.clone(), &a);
        assert_eq!(roll.of_key("eve").count(), 1);
        put(&mut b, "eve", 1, b"y");
        put(&mut b, "eve", 2, b"z");
        a.merge(b.full());
        roll.look_at_all(&a);
        assert_eq!(roll.of_key("eve").map(|row| row.node.name.as_str()).collect::<Vec<_>>(), ["a", "b", "b"]);
        assert_eq!(roll.of_key("ev").count() + roll.of_key("evelyn").count(), 0);
        let version = roll.version();
        follow(&roll, &mut rows, 0);
        let places = put(&mut a, "eve", 1, b"w");
        roll.look(&places, &a);
        roll.set_owners(only_b, &a);
        roll.look_at_all(&a);
        assert_eq!(roll.rows().count(), 2, "a's own replica has its entry, but nobody sees it");
        roll.set_owners(both, &a);
        assert_eq!(roll.version(), version + 3, "changed, left, joined");
        follow(&roll, &mut rows, version);
    }

    #[test]
    fn one_that_is_too_far_behind_is_told_so() {
        let mut a = Replica::<Map>::new(ReplicaId(1));
        let mut roll = Roll::default();
        roll.set_owners(BTreeMap::from([(ReplicaId(1), node("a"))]), &a);
        for number in 0..=LOG as u64 {
            let places = put(&mut a, "k", number, b"");
            roll.look(&places, &a);
        }
        assert_eq!(roll.after(0), Err(Behind));
        assert_eq!(roll.after(1).map(|change| change.map(|change| change.version)), Ok(Some(2)));
        assert_eq!(roll.after(roll.version()), Ok(None));
    }
}
