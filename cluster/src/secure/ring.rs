//! The ring of secrets that a node holds, and the rules by which a cluster changes them. Pure.
//!
//! A node seals and is known by its primary key, and accepts every key of its ring. What a node holds stands in its node
//! state ([`Shown`]), never a secret. Everything else follows from what the live members show:
//!
//! - Which key is primary is a register that the newest choice wins. A member takes a choice over once it holds the key.
//! - A removed key leaves a tombstone. Whoever holds the key drops it when nobody whom it knows to be live has it as its
//!   primary or shares no other key with it, and nobody takes it in again.
//! - Whoever lacks a key that others seal with, or that was installed, is sent it by those that have it, the lowest name first.
//!
//! So no rule needs a leader, and each looks only at what one node knows: a node never gives up a key under which a
//! member that it knows seals.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::identity::NodeName;
use crate::keyring::KeyringError;
use crate::mutation::{Mutation, mutated};

/// The key of [`Shown`] in node state.
pub(crate) const KEYS_KEY: &str = ".keys";

/// How many keys a node holds at most: the old, the new, and two that somebody forgot to remove.
pub const MAX_KEYS_OF_RING: usize = 4;
/// How many removed keys are remembered, the newest: a member that is longer behind shares no key with the others.
const MAX_REMOVED: usize = 16;
/// How many members take turns to send a member a key. Each may believe it down; that so many do while others do not is not to
/// be expected, and should they, its next push-pull tells it.
const GIVERS: usize = 8;

/// What a secret is called: four bytes that follow from it, and tell nothing of it. Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId([u8; 4]);

impl KeyId {
    pub(crate) const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn to_bytes(self) -> [u8; 4] {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Something that was decided of a key. The greater is the newer; what nodes were started with has the number 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Choice {
    at: u64,
    pub(crate) key: KeyId,
}

/// What a node says of its ring.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) primary: Choice,
    /// What it holds, and whether that was installed while the cluster ran.
    pub(crate) held: BTreeMap<KeyId, bool>,
    removed: BTreeSet<Choice>,
}

impl Shown {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("numbers encode")
    }

    /// What was shown, if it is no more than a node can show.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (shown, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let is_bounded = shown.held.len() <= MAX_KEYS_OF_RING && shown.removed.len() <= MAX_REMOVED;
        (rest.is_empty() && is_bounded).then_some(shown)
    }

    fn gives(&self, key: KeyId) -> bool {
        self.held.get(&key).is_some_and(|installed| *installed || self.primary.key == key)
    }
}

/// The other members that are live, and what each shows; `None` if that is not known yet.
pub(crate) type Peers = BTreeMap<NodeName, Option<Shown>>;

#[derive(Clone)]
struct Key {
    secret: Secret,
    installed: bool,
}

/// The secrets of one node.
#[derive(Clone)]
pub(crate) struct Ring {
    keys: BTreeMap<KeyId, Key>,
    primary: Choice,
    removed: BTreeSet<Choice>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<_> = self.keys.keys().collect();
        f.debug_struct("Ring").field("primary", &self.primary.key).field("held", &held).finish_non_exhaustive()
    }
}

impl Ring {
    /// What a node starts with.
    ///
    /// # Errors
    /// [`KeyringError::Full`].
    pub(crate) fn new(primary: Secret, others: impl IntoIterator<Item = Secret>) -> Result<Self, KeyringError> {
        let choice = Choice { at: 0, key: primary.id() };
        let all = [primary].into_iter().chain(others);
        let keys: BTreeMap<_, _> = all.map(|secret| (secret.id(), Key { secret, installed: false })).collect();
        if keys.len() > MAX_KEYS_OF_RING {
            return Err(KeyringError::Full);
        }
        Ok(Self { keys, primary: choice, removed: BTreeSet::new() })
    }

    /// What this node seals with and is known by.
    pub(crate) fn primary(&self) -> (KeyId, &Secret) {
        (self.primary.key, &self.keys[&self.primary.key].secret)
    }

    /// All keys that this node accepts.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (KeyId, &Secret)> {
        self.keys.iter().map(|(id, key)| (*id, &key.secret))
    }

    /// A secret of the ring.
    pub(crate) fn secret(&self, id: KeyId) -> Option<&Secret> {
        self.keys.get(&id).map(|key| &key.secret)
    }

    pub(crate) fn shown(&self) -> Shown {
        let held = self.keys.iter().map(|(id, key)| (*id, key.installed)).collect();
        Shown { primary: self.primary, held, removed: self.removed.clone() }
    }

    pub(crate) fn is_removed(&self, id: KeyId) -> bool {
        self.removed.iter().any(|removed| removed.key == id)
    }

    /// The number of a decision that is newer than all that are known.
    fn next(&self, peers: &Peers) -> u64 {
        let shown = peers.values().flatten();
        let theirs = shown.flat_map(|shown| shown.removed.iter().chain([&shown.primary])).map(|choice| choice.at);
        let ours = self.removed.iter().chain([&self.primary]).map(|choice| choice.at);
        theirs.chain(ours).max().unwrap_or(0).saturating_add(1)
    }

    /// Takes in a secret that an operator or a member brings.
    ///
    /// # Errors
    /// [`KeyringError::Removed`], [`KeyringError::Full`]. Nothing was changed then.
    pub(crate) fn install(&mut self, secret: Secret) -> Result<KeyId, KeyringError> {
        let key = secret.id();
        if self.is_removed(key) {
            return Err(KeyringError::Removed { key });
        }
        if self.keys.len() >= MAX_KEYS_OF_RING && !self.keys.contains_key(&key) {
            return Err(KeyringError::Full);
        }
        self.keys.entry(key).or_insert(Key { secret, installed: true }).installed = true;
        Ok(key)
    }

    /// Makes a key the primary, if every live member shows that it holds it. If not, it counts as installed from then on,
    /// so that those who lack it are sent it.
    ///
    /// # Errors
    /// [`KeyringError::Removed`], [`KeyringError::Unknown`], [`KeyringError::NotHeld`].
    pub(crate) fn use_key(&mut self, key: KeyId, peers: &Peers) -> Result<(), KeyringError> {
        if self.is_removed(key) {
            return Err(KeyringError::Removed { key });
        }
        if !self.keys.contains_key(&key) {
            return Err(KeyringError::Unknown { key });
        }
        let holds = |shown: &Option<Shown>| shown.as_ref().is_some_and(|shown| shown.held.contains_key(&key));
        let members = names(peers, |shown| !holds(shown));
        if !members.is_empty() && !mutated(Mutation::UsesKeysUnheld) {
            self.keys.entry(key).and_modify(|key| key.installed = true);
            return Err(KeyringError::NotHeld { key, members });
        }
        if self.primary.key != key || self.primary.at == 0 {
            self.primary = Choice { at: self.next(peers), key };
        }
        Ok(())
    }

    /// Removes a key for good, if no live member has it as its primary.
    ///
    /// # Errors
    /// [`KeyringError::IsPrimary`], [`KeyringError::Unknown`], [`KeyringError::InUse`]. Nothing was changed then.
    pub(crate) fn remove(&mut self, key: KeyId, peers: &Peers) -> Result<(), KeyringError> {
        if self.primary.key == key {
            return Err(KeyringError::IsPrimary { key });
        }
        if self.is_removed(key) {
            return Ok(());
        }
        let is_shown = peers.values().flatten().any(|shown| shown.held.contains_key(&key));
        if !self.keys.contains_key(&key) && !is_shown {
            return Err(KeyringError::Unknown { key });
        }
        let members = names(peers, |shown| self.is_needed_by(shown, key));
        if !members.is_empty() {
            return Err(KeyringError::InUse { key, members });
        }
        let removal = Choice { at: self.next(peers), key };
        self.bury([removal]);
        self.drop_removed(peers);
        Ok(())
    }

    fn bury(&mut self, removals: impl IntoIterator<Item = Choice>) {
        self.removed.extend(removals);
        while self.removed.len() > MAX_REMOVED {
            self.removed.pop_first();
        }
    }

    /// Follows what the live members show. Says whether anything has changed.
    pub(crate) fn observe(&mut self, peers: &Peers) -> bool {
        let before = self.shown();
        self.bury(peers.values().flatten().flat_map(|shown| shown.removed.iter().copied()));
        self.choose(peers);
        self.drop_removed(peers);
        self.shown() != before
    }

    /// Takes over the newest primary that members have, among the keys that this node holds and that are not removed.
    fn choose(&mut self, peers: &Peers) {
        let is_removed = self.is_removed(self.primary.key);
        let claims = peers.values().flatten().map(|shown| shown.primary);
        let usable = |choice: &Choice| self.keys.contains_key(&choice.key) && !self.is_removed(choice.key);
        let newest = claims.filter(usable).max();
        match newest {
            // Members that were started with different keys have chosen nothing.
            Some(newest) if newest.at > 0 && (is_removed || newest > self.primary) => self.primary = newest,
            Some(newest) if is_removed => self.primary = newest,
            // It was chosen on one node while another removed it, and nobody seals with anything else any more.
            None if is_removed => self.fall_back(peers),
            _ => {}
        }
    }

    /// Takes what is left and all hold. If some lack it, it counts as installed from now on, so that they are sent it.
    fn fall_back(&mut self, peers: &Peers) {
        let holders = |id: &KeyId| peers.values().flatten().filter(|shown| shown.held.contains_key(id)).count();
        let left = self.keys.keys().filter(|id| !self.is_removed(**id));
        let Some(key) = left.max_by_key(|id| (holders(id), Reverse(**id))).copied() else { return };
        if holders(&key) == peers.values().flatten().count() {
            self.primary = Choice { at: 0, key };
        } else {
            self.keys.entry(key).and_modify(|key| key.installed = true);
        }
    }

    /// Whether a member seals with a key, or has not said with which, or may share nothing else with this node: neither
    /// holds the primary of the other.
    fn is_needed_by(&self, shown: &Option<Shown>, key: KeyId) -> bool {
        shown.as_ref().is_none_or(|shown| {
            let tied = shown.held.contains_key(&self.primary.key) || self.keys.contains_key(&shown.primary.key);
            shown.primary.key == key || (shown.held.contains_key(&key) && !tied)
        })
    }

    /// Drops the removed keys that no live member needs any more.
    fn drop_removed(&mut self, peers: &Peers) {
        let needed = |id: &KeyId| {
            *id == self.primary.key
                || (peers.values().any(|shown| self.is_needed_by(shown, *id)) && !mutated(Mutation::DropsKeysAtOnce))
        };
        let gone: Vec<_> = self.keys.keys().filter(|id| self.is_removed(**id) && !needed(id)).copied().collect();
        for id in gone {
            self.keys.remove(&id);
        }
    }

    /// What this node has to send to whom: keys that members lack, if few with lower names can send them.
    pub(crate) fn owed(&self, own: &NodeName, peers: &Peers) -> Vec<Owed> {
        let ours = self.shown();
        let gives = self.keys.keys().filter(|id| ours.gives(**id) && !self.is_removed(**id));
        let mut owed = Vec::new();
        for id in gives {
            let givers: Vec<_> = peers
                .range::<NodeName, _>(..own)
                .filter_map(|(_, shown)| shown.as_ref().filter(|s| s.gives(*id)))
                .collect();
            for (name, shown) in peers {
                let Some(shown) = shown.as_ref().filter(|shown| !shown.held.contains_key(id)) else { continue };
                // Who shares no key with a member cannot connect to it.
                let reaches = |giver: &&Shown| giver.held.keys().any(|key| shown.held.contains_key(key));
                if reaches(&&ours) {
                    let before = givers.iter().filter(|giver| reaches(giver)).take(GIVERS).count();
                    owed.extend((before < GIVERS).then(|| Owed { to: name.clone(), key: *id, before: before as u32 }));
                }
            }
        }
        owed
    }
}

/// A key that a member lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) to: NodeName,
    pub(crate) key: KeyId,
    /// How many members with lower names can send it, and go first. Any of them may believe it down.
    pub(crate) before: u32,
}

fn names(peers: &Peers, wanted: impl Fn(&Option<Shown>) -> bool) -> Vec<NodeName> {
    peers.iter().filter(|(_, shown)| wanted(shown)).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests;
