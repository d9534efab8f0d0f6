//! The maps of all nodes as one node knows them. Pure.
//!
//! Invariant: `read` of an owner is a version up to which *every* entry of the owner's map is known, or superseded by
//! one that is. Entries that arrive out of order (hints) are kept and do not raise it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::{Boot, NodeId, NodeName};

/// The longest key of node state, in bytes.
pub const MAX_KEY_BYTES: usize = 64;
/// The largest value of node state, in bytes: node state is replicated on every node, so it is for facts, not for data.
pub const MAX_VALUE_BYTES: usize = 1024;
/// The most keys that one node may have.
pub const MAX_KEYS: usize = 64;
/// The most nodes whose state is kept: a bound against a peer gone wrong, far above the clusters this library is for.
const MAX_OWNERS: usize = 16_384;

/// One versioned entry of one node's map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
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

/// How far each owner's map has been read.
pub(crate) type Digest = Vec<(NodeName, Boot, u64)>;

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
    boot: Boot,
    read: u64,
    entries: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Owner {
    fn new(boot: Boot) -> Self {
        Self { boot, read: 0, entries: BTreeMap::new() }
    }
}

/// All maps that one node knows, its own among them.
#[derive(Debug)]
pub(crate) struct Table {
    own: NodeId,
    owners: BTreeMap<NodeName, Owner>,
    changed: BTreeSet<NodeName>,
}

impl Table {
    pub(crate) fn new(own: NodeId) -> Self {
        let owners = BTreeMap::from([(own.name.clone(), Owner::new(own.boot))]);
        Self { own, owners, changed: BTreeSet::new() }
    }

    /// Writes to our own map. Returns the entry to spread, or `None` if it says what it said before.
    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<Option<Entry>, StateError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(StateError::ValueTooLarge(value.len()));
        }
        let boot = self.own.boot;
        let owner = self.owners.entry(self.own.name.clone()).or_insert_with(|| Owner::new(boot));
        match owner.entries.get(key) {
            Some((_, old)) if *old == value => return Ok(None),
            None if owner.entries.len() >= MAX_KEYS => return Err(StateError::TooManyKeys),
            _ => {}
        }
        owner.read += 1;
        let version = owner.read;
        owner.entries.insert(key.to_owned(), (version, value.clone()));
        self.changed.insert(self.own.name.clone());
        Ok(Some(Entry { name: self.own.name.clone(), boot, key: key.to_owned(), version, value }))
    }

    /// Takes one entry of another node, as a hint. Returns whether it was news.
    pub(crate) fn hint(&mut self, entry: Entry) -> bool {
        if !entry.is_within_limits() || entry.name == self.own.name {
            return false;
        }
        if !self.owners.contains_key(&entry.name) && self.owners.len() >= MAX_OWNERS {
            return false;
        }
        let owner = self.owners.entry(entry.name.clone()).or_insert_with(|| Owner::new(entry.boot));
        if entry.boot < owner.boot {
            return false;
        }
        if entry.boot > owner.boot {
            *owner = Owner::new(entry.boot);
        }
        let known = owner.entries.get(&entry.key).map_or(0, |(version, _)| *version);
        if entry.version <= known || (known == 0 && owner.entries.len() >= MAX_KEYS) {
            return false;
        }
        owner.entries.insert(entry.key, (entry.version, entry.value));
        // The very next write leaves no gap behind it.
        if entry.version == owner.read + 1 {
            owner.read = entry.version;
        }
        self.changed.insert(entry.name);
        true
    }

    /// Takes the answer to our digest: for each owner, all that lies above what we had read, by rising version.
    pub(crate) fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let (name, boot, version) = (entry.name.clone(), entry.boot, entry.version);
            self.hint(entry);
            if let Some(owner) = self.owners.get_mut(&name)
                && owner.boot == boot
                && name != self.own.name
            {
                owner.read = owner.read.max(version);
            }
        }
    }

    /// How far we have read each owner's map.
    pub(crate) fn digest(&self) -> Digest {
        self.owners.iter().map(|(name, owner)| (name.clone(), owner.boot, owner.read)).collect()
    }

    /// What we know and the holder of `digest` does not: for each owner by rising version.
    pub(crate) fn above(&self, digest: &Digest) -> Vec<Entry> {
        let theirs: BTreeMap<&NodeName, (Boot, u64)> =
            digest.iter().map(|(name, boot, read)| (name, (*boot, *read))).collect();
        let mut entries = Vec::new();
        for (name, owner) in &self.owners {
            let from = match theirs.get(name) {
                Some((boot, _)) if *boot > owner.boot => continue,
                Some((boot, read)) if *boot == owner.boot => *read,
                _ => 0,
            };
            let first = entries.len();
            // What we hold beyond our own `read` came as hints: it is sent as such next time it is read in order.
            let readable = owner.entries.iter().filter(|(_, (version, _))| *version > from && *version <= owner.read);
            entries.extend(readable.map(|(key, (version, value))| Entry {
                name: name.clone(),
                boot: owner.boot,
                key: key.clone(),
                version: *version,
                value: value.clone(),
            }));
            entries[first..].sort_by_key(|entry| entry.version);
        }
        entries
    }

    /// One value of the map of `name`'s current boot.
    pub(crate) fn value(&self, node: &NodeId, key: &str) -> Option<&[u8]> {
        let owner = self.owners.get(&node.name).filter(|owner| owner.boot == node.boot)?;
        owner.entries.get(key).map(|(_, value)| &value[..])
    }

    /// The application's entries of one node's map.
    pub(crate) fn application_entries(&self, node: &NodeId) -> BTreeMap<String, Vec<u8>> {
        let owner = self.owners.get(&node.name).filter(|owner| owner.boot == node.boot);
        let entries = owner.into_iter().flat_map(|owner| &owner.entries);
        entries.filter(|(key, _)| !key.starts_with('.')).map(|(k, (_, v))| (k.clone(), v.clone())).collect()
    }

    /// Forgets the maps of all but these nodes and ourselves.
    pub(crate) fn retain(&mut self, keep: &BTreeSet<NodeName>) {
        let own = &self.own.name;
        self.owners.retain(|name, _| name == own || keep.contains(name));
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
        let entries = from.above(&to.digest());
        to.apply(entries);
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
        assert!(a.above(&b.digest()).is_empty());
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
        let entry = |key: &str, value| Entry { name: b.name.clone(), boot: b.boot, key: key.into(), version: 1, value };
        assert!(!a.hint(entry(&"k".repeat(65), vec![])));
        assert!(!a.hint(entry("k", vec![0; 1025])));
        assert!(!a.hint(Entry { version: 0, ..entry("k", vec![]) }));
        assert!(!a.hint(Entry { name: node("a", 9).name, boot: node("a", 9).boot, ..entry("k", vec![]) }));
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
                    let entries = tables[from].above(&tables[to].digest());
                    tables[to].apply(entries);
                }
            }
            for reader in 0..4 {
                for owner in 0..4 {
                    let entries = tables[owner].above(&tables[reader].digest());
                    tables[reader].apply(entries);
                    let entries = tables[owner].application_entries(&ids[owner]);
                    prop_assert_eq!(tables[reader].application_entries(&ids[owner]), entries);
                }
            }
        }
    }
}
