//! All replicated types, seen alike: how to write one at random, and what a read of it must be.
//!
//! What a write says is told apart from what the type does with it. An [`Intent`] is the place of the write, as a path,
//! and what was written there; the expected read is computed from intents alone, by a model that never forgets (see
//! [`world`]). So no idea of the implementation is shared, dots under equal timestamps apart, which are a stated rule.

// Each test binary uses a part of this module.
#![allow(dead_code)]

pub(crate) mod types;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;

use polity_crdt::{Change, Crdt, Dot, ReplicaId, Timestamp, Writer};

/// The replicas of every history, not in the order of their use.
pub(crate) const REPLICAS: [ReplicaId; 4] = [ReplicaId(u64::MAX), ReplicaId(3), ReplicaId(0), ReplicaId(1 << 40)];

/// Small numbers from one large one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u32);

impl Dice {
    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u32) -> u32 {
        let face = self.0 % sides;
        self.0 /= sides;
        face
    }

    pub(crate) fn key(&mut self) -> u8 {
        self.roll(3) as u8
    }
}

/// Where a write goes: keys from the outermost on, then whatever tells apart what does not replace each other.
pub(crate) type Path = Vec<u64>;

/// What is written at a place. It replaces all that its writer has seen there.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum What {
    /// Nothing: takes away all that is seen at the place and below.
    Kill,
    /// A value.
    Put(u64),
    /// A value of a register that goes by time. The model moves the time past what is seen.
    At(Timestamp, u64),
    /// A change of a replica's own count. The model adds what stands.
    Count(Count),
}

/// What one replica has counted.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Count {
    pub(crate) added: i128,
    pub(crate) taken: i128,
    pub(crate) given: BTreeMap<u64, i128>,
}

impl Count {
    pub(crate) fn plus(&mut self, other: &Self) {
        self.added += other.added;
        self.taken += other.taken;
        for (to, amount) in &other.given {
            *self.given.entry(*to).or_default() += amount;
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) path: Path,
    pub(crate) what: What,
}

/// A write that no other write has replaced or taken away.
#[derive(Clone, Debug)]
pub(crate) struct Standing<'a> {
    /// The rest of the path, below the place where it is looked at.
    pub(crate) path: &'a [u64],
    pub(crate) dot: Dot,
    pub(crate) what: &'a What,
}

/// A replicated type under test.
pub(crate) trait Subject: Crdt {
    type Read: PartialEq + Debug;

    /// Whether no read shows that marks of removes were dropped. In a map one does: a key is there while a mark is, and a
    /// remove of the key that has seen a mark, but not the add that the mark beats, gives way to the add.
    const COLLECTS_UNSEEN: bool = true;

    /// Writes something. The intent is what the write means if it is neither refused nor without effect.
    fn act(&self, w: &mut Writer<'_>, dice: &mut Dice) -> (Intent, Change<Self>);

    /// All that can be read.
    fn read(&self) -> Self::Read;

    /// What must be read while these writes stand.
    fn expected(standing: &[Standing<'_>]) -> Self::Read;
}
