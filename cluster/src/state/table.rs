//! The maps of all nodes as one node knows them. Pure.
//!
//! Invariant: `read` of an owner is a version up to which *every* entry of the owner's map is known, or superseded by
//! one that is. Entries that arrive out of order (hints) are kept and do not raise it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::buckets::{Buckets, Digests, NameKey, Row, Which};
use crate::identity::{Boot, NodeId, NodeName};

/// The longest key of node state, in bytes.
pub const MAX_KEY_BYTES: usize = 64;
/// The largest value of node state, in bytes: node state is replicated on every node, so it is for facts, not for data.
pub const MAX_VALUE_BYTES: usize = 1024;
/// The most keys that the application may have on one node.
pub const MAX_KEYS: usize = 64;
/// The most keys beside them, which the library has: they begin with a dot.
const MAX_LIBRARY_KEYS: usize = 16;
/// How much one answer brings: what is beyond comes with the next exchange. A quarter of the largest frame.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The most nodes whose state is kept: a bound against a peer gone wrong, far above the clusters this library is for.
const MAX_OWNERS: usize = 16_384;

/// One versioned entry of one node's map. Every node keeps the entries of all, so they are shared, not copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry(Arc<Fields>);

/// What an entry says.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Fields {
    pub(crate) name: NodeName,
    pub(crate) boot: Boot,
    pub(crate) key: String,
    /// Counts the writes of this boot, from 1.
    pub(crate) version: u64,
    pub(crate) value: Vec<u8>,
}

impl Entry {
    pub(crate) fn is_within_limits(&self) -> bool {
        self.key.len() <= MAX_KEY_BYTES && self.value.len() <= MAX_VALUE_BYTES && self.version > 0
    }
}

impl From<Fields> for Entry {
    fn from(fields: Fields) -> Self {
        Self(Arc::new(fields))
    }
}

impl Deref for Entry {
    type Target = Fields;
    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer).map(Self::from)
    }
}

/// How far the map of one owner's boot has been read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Read(NodeName, Boot, u64);

impl Row for Read {
    fn key(&self) -> NameKey {
        NameKey::of(self.0.as_str())
    }
}

/// How far the maps of some owners have been read: of all those in some buckets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reads {
    which: Which,
    rows: Vec<Read>,
}

impl Reads {
    /// Whether it says nothing of anybody.
    pub(crate) fn is_none(&self) -> bool {
        self.which.is_none()
    }
}

/// Why an entry of one's own was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The key is empty, begins with a dot, or is too long.
    #[error("a key of node state has 1 to {MAX_KEY_BYTES} bytes and does not begin with a dot: {0:?}")]
    Key(String),
    /// The value is too large.
    #[error("a value of node state has at most {MAX_VALUE_BYTES} bytes; this one has {0}")]
    ValueTooLarge(usize),
    /// The node has as many keys as it may have.
    #[error("a node has at most {MAX_KEYS} keys of node state")]
    TooManyKeys,
}

#[derive(Debug)]
struct Owner {
    name: NodeName,
    boot: Boot,
    read: u64,
    /// By key: there are few.
    entries: Vec<Entry>,
}

impl Owner {
    fn new(name: NodeName, boot: Boot) -> Self {
        Self { name, boot, read: 0, entries: Vec::new() }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| (*entry.key).cmp(key))
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        self.find(key).ok().map(|at| &self.entries[at])
    }

    /// Whether there is no room for this key, which is not there.
    fn is_full_for(&self, key: &str) -> bool {
        let library = |key: &str| key.starts_with('.');
        let like_it = self.entries.iter().filter(|entry| library(&entry.key) == library(key)).count();
        like_it >= if library(key) { MAX_LIBRARY_KEYS } else { MAX_KEYS }
    }

    fn put(&mut self, entry: Entry) {
        match self.find(&entry.key) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
    }
}

/// All maps that one node knows, its own among them.
#[derive(Debug)]
pub(crate) struct Table {
    own: NodeId,
    owners: BTreeMap<NameKey, Owner>,
    /// `boot` and `read` of each owner.
    digest: Buckets<Read>,
    changed: BTreeSet<NodeName>,
}

impl Table {
    pub(crate) fn new(own: NodeId) -> Self {
        let key = NameKey::of(own.name.as_str());
        let owners = BTreeMap::from([(key, Owner::new(own.name.clone(), own.boot))]);
        let digest = [Read(own.name.clone(), own.boot, 0)].into_iter().collect();
        Self { own, owners, digest, changed: BTreeSet::new() }
    }

    /// Writes to our own map. Returns the entry to spread, or `None` if it says what it said before.
    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<Option<Entry>, StateError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(StateError::ValueTooLarge(value.len()));
        }
        let NodeId { name, boot } = self.own.clone();
        let owner = self.owners.entry(NameKey::of(name.as_str())).or_insert_with(|| Owner::new(name.clone(), boot));
        match owner.get(key) {
            Some(old) if old.value == value => return Ok(None),
            None if owner.is_full_for(key) => return Err(StateError::TooManyKeys),
            _ => {}
        }
        owner.read += 1;
        let version = owner.read;
        let entry = Entry::from(Fields { name: name.clone(), boot, key: key.to_owned(), version, value });
        owner.put(entry.clone());
        self.digest.set(Read(name.clone(), boot, version));
        self.changed.insert(name);
        Ok(Some(entry))
    }

    /// Takes one entry of another node, as a hint. Returns whether it was news.
    pub(crate) fn hint(&mut self, entry: Entry) -> bool {
        self.take(entry, false)
    }

    /// Takes the answer to what we have read: for each owner, all that lies above it, by rising version. Returns what
    /// was news.
    pub(crate) fn apply(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        entries.into_iter().filter(|entry| self.take(entry.clone(), true)).collect()
    }

    /// Takes one entry of another node. `complete` says that nothing of this boot below it is missing.
    fn take(&mut self, entry: Entry, complete: bool) -> bool {
        if !entry.is_within_limits() || entry.name == self.own.name {
            return false;
        }
        let key = NameKey::of(entry.name.as_str());
        if self.owners.len() >= MAX_OWNERS && !self.owners.contains_key(&key) {
            return false;
        }
        let version = entry.version;
        let owner = self.owners.entry(key).or_insert_with(|| Owner::new(entry.name.clone(), entry.boot));
        if entry.boot < owner.boot {
            return false;
        }
        if entry.boot == owner.boot && version <= owner.read {
            // All up to there is known.
            return false;
        }
        if entry.boot > owner.boot {
            *owner = Owner::new(entry.name.clone(), entry.boot);
        }
        let known = owner.get(&entry.key).map_or(0, |known| known.version);
        let news = version > known && (known > 0 || !owner.is_full_for(&entry.key));
        if news {
            self.changed.insert(entry.name.clone());
            owner.put(entry);
        }
        // The very next write leaves no gap behind it.
        if complete || (news && version == owner.read + 1) {
            owner.read = owner.read.max(version);
        }
        let row = Read(owner.name.clone(), owner.boot, owner.read);
        if self.digest.get(key) != Some(&row) {
            self.digest.set(row);
        }
        news
    }

    /// What tells whether another has read the same.
    pub(crate) fn digests(&self) -> Digests {
        self.digest.digests()
    }

    /// How far we have read the maps of those about whom the holder of these digests may have read something else.
    pub(crate) fn reads(&self, digests: &Digests) -> Reads {
        self.reads_in(self.digest.differing(digests))
    }

    /// How far we have read the maps of those that `theirs` speaks of.
    pub(crate) fn reads_like(&self, theirs: &Reads) -> Reads {
        self.reads_in(theirs.which)
    }

    fn reads_in(&self, which: Which) -> Reads {
        Reads { which, rows: self.digest.rows(which).cloned().collect() }
    }

    /// Whether another that has read so far knows what we do not.
    pub(crate) fn lacks(&self, theirs: &Reads) -> bool {
        let ahead = |theirs: &Read| match self.digest.get(theirs.key()) {
            Some(Read(_, boot, read)) => (theirs.1, theirs.2) > (*boot, *read),
            None => theirs.2 > 0,
        };
        theirs.rows.iter().any(|row| row.0 != self.own.name && ahead(row))
    }

    /// What we know and another that has read so far does not: for each owner by rising version.
    pub(crate) fn above(&self, theirs: &Reads) -> Vec<Entry> {
        let read_there: BTreeMap<NameKey, &Read> = theirs.rows.iter().map(|row| (row.key(), row)).collect();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for row in self.digest.rows(theirs.which) {
            let Read(_, boot, read) = row;
            let from = match read_there.get(&row.key()) {
                Some(Read(_, theirs, _)) if theirs > boot => continue,
                Some(Read(_, theirs, upto)) if theirs == boot => *upto,
                _ => 0,
            };
            let Some(owner) = self.owners.get(&row.key()) else { continue };
            let first = entries.len();
            // What we hold beyond our own `read` came as hints: it is sent as such next time it is read in order.
            let readable = owner.entries.iter().filter(|entry| entry.version > from && entry.version <= *read);
            entries.extend(readable.cloned());
            entries[first..].sort_by_key(|entry| entry.version);
            bytes += entries[first..].iter().map(|entry| entry.key.len() + entry.value.len()).sum::<usize>();
            if bytes > MAX_ANSWER_BYTES {
                break;
            }
        }
        entries
    }

    /// Our own map, by rising version.
    pub(crate) fn own_entries(&self) -> Vec<Entry> {
        let mut entries = self.owners.get(&self.own_key()).map(|owner| owner.entries.clone()).unwrap_or_default();
        entries.sort_by_key(|entry| entry.version);
        entries
    }

    /// One value of the map of this very life of a node.
    pub(crate) fn value(&self, node: &NodeId, key: &str) -> Option<&[u8]> {
        self.owner(node)?.get(key).map(|entry| &entry.value[..])
    }

    /// Whether the map of this life of a node has this key; the node is named by the hash of its name.
    pub(crate) fn has(&self, node: NameKey, boot: Boot, key: &str) -> bool {
        self.owners.get(&node).is_some_and(|owner| owner.boot == boot && owner.get(key).is_some())
    }

    /// The application's entries of one node's map.
    pub(crate) fn application_entries(&self, node: &NodeId) -> BTreeMap<String, Vec<u8>> {
        let entries = self.owner(node).into_iter().flat_map(|owner| &owner.entries);
        entries.filter(|entry| !entry.key.starts_with('.')).map(|e| (e.key.clone(), e.value.clone())).collect()
    }

    fn own_key(&self) -> NameKey {
        NameKey::of(self.own.name.as_str())
    }

    /// The map of this very life of a node.
    fn owner(&self, node: &NodeId) -> Option<&Owner> {
        self.owners.get(&NameKey::of(node.name.as_str())).filter(|owner| owner.boot == node.boot)
    }

    /// Forgets the map of a node, unless it is our own.
    pub(crate) fn forget(&mut self, name: &NodeName) {
        let key = NameKey::of(name.as_str());
        if *name != self.own.name && self.owners.remove(&key).is_some() {
            self.digest.remove(key);
        }
    }

    /// The nodes whose maps have changed since this was asked last.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(name: &str, generation: u64) -> NodeId {
        NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation, nonce: 1 } }
    }

    fn exchange(from: &Table, to: &mut Table) {
        to.apply(from.above(&to.reads(&from.digests())));
    }

    #[test]
    fn a_digest_brings_what_hints_missed() {
        let (mut a, mut b) = (Table::new(node("a", 1)), Table::new(node("b", 1)));
        let first = a.set("x", b"1".to_vec()).expect("valid").expect("new");
        let second = a.set("y", b"2".to_vec()).expect("valid").expect("new");
        assert!(a.set("y", b"2".to_vec()).expect("valid").is_none());
        assert!(b.hint(second));
        assert_eq!(b.value(&node("a", 1), "y"), Some(&b"2"[..]));
        assert_eq!(b.value(&node("a", 1), "x"), None);
        exchange(&a, &mut b);
        assert_eq!(b.value(&node("a", 1), "x"), Some(&b"1"[..]));
        assert!(!b.hint(first), "an old hint is no news");
        assert!(a.above(&b.reads(&a.digests())).is_empty() && !b.lacks(&a.reads(&b.digests())));
    }

    #[test]
    fn a_newer_boot_replaces_the_whole_map_and_an_older_one_says_nothing() {
        let (mut old, mut new) = (Table::new(node("a", 1)), Table::new(node("a", 2)));
        let mut b = Table::new(node("b", 1));
        old.set("x", b"old".to_vec()).expect("valid");
        new.set("y", b"new".to_vec()).expect("valid");
        exchange(&old, &mut b);
        exchange(&new, &mut b);
        exchange(&old, &mut b);
        assert_eq!(b.value(&node("a", 2), "y"), Some(&b"new"[..]));
        assert_eq!(b.value(&node("a", 2), "x"), None);
        assert_eq!(b.value(&node("a", 1), "x"), None);
    }

    #[test]
    fn limits_hold_for_ourselves_and_for_peers() {
        let mut a = Table::new(node("a", 1));
        assert_eq!(a.set("k", vec![0; 1025]), Err(StateError::ValueTooLarge(1025)));
        for key in 0..MAX_KEYS {
            a.set(&key.to_string(), vec![]).expect("room");
        }
        assert_eq!(a.set("one more", vec![]), Err(StateError::TooManyKeys));
        let b = node("b", 1);
        let entry =
            |key: &str, value| Fields { name: b.name.clone(), boot: b.boot, key: key.into(), version: 1, value };
        assert!(!a.hint(entry(&"k".repeat(65), vec![]).into()));
        assert!(!a.hint(entry("k", vec![0; 1025]).into()));
        assert!(!a.hint(Fields { version: 0, ..entry("k", vec![]) }.into()));
        assert!(!a.hint(Fields { name: node("a", 9).name, boot: node("a", 9).boot, ..entry("k", vec![]) }.into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Whatever hints are lost and whoever talks to whom, after each has talked to the owner all agree with it.
        #[test]
        fn converges(steps in prop::collection::vec((0usize..4, 0usize..4, 0u8..4, any::<bool>()), 1..60)) {
            let ids: Vec<_> = ["a", "b", "c", "d"].iter().map(|n| node(n, 1)).collect();
            let mut tables: Vec<_> = ids.iter().cloned().map(Table::new).collect();
            for (step, (from, to, key, write)) in steps.into_iter().enumerate() {
                if write {
                    let entry = tables[from].set(&key.to_string(), step.to_le_bytes().to_vec()).expect("valid");
                    if let Some(entry) = entry && from != to {
                        tables[to].hint(entry);
                    }
                } else if from != to {
                    let (reads, other) = (tables[to].reads(&tables[from].digests()), tables[from].reads(&tables[to].digests()));
                    let entries = tables[from].above(&reads);
                    prop_assert!(tables[to].lacks(&other) || entries.iter().all(|entry| !tables[to].take(entry.clone(), true)));
                    tables[to].apply(entries);
                }
            }
            for reader in 0..4 {
                for owner in 0..4 {
                    let entries = tables[owner].above(&tables[reader].reads(&tables[owner].digests()));
                    tables[reader].apply(entries);
                    let entries = tables[owner].application_entries(&ids[owner]);
                    prop_assert_eq!(tables[reader].application_entries(&ids[owner]), entries);
                }
            }
        }
    }
}
