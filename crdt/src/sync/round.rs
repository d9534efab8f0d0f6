//! One round: two replicas compare what they hold, and what is to be done about the difference.
//!
//! The one that begins it asks, and decides: probe; exchange of contexts and transfers both ways until this side has
//! heard of all that the other had; probe again; symbols until the live dots that differ are known; their resolution. A
//! round that stands still is given up, and another one is tried later.

use std::time::Duration;

use super::message::Summary;
use super::sketch::Symbol;
use crate::{ReplicaId, VersionVector};

#[derive(Debug)]
pub(super) struct Round {
    pub(super) peer: ReplicaId,
    pub(super) stage: Stage,
    /// When something was last heard of it.
    pub(super) heard: Duration,
    /// How often contexts were exchanged.
    pub(super) exchanges: u32,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// A probe with this is under way.
    Probing(u64, Summary),
    /// Our context is under way.
    Offering(u64, VersionVector),
    /// What the other holds is on its way here, and what it lacks on its way there.
    Transferring(VersionVector),
    /// Coded symbols are on their way here.
    Sketching(u64, Sketching),
    /// The hashes that the other must resolve are under way.
    Resolving(u64),
}

#[derive(Debug)]
pub(super) struct Sketching {
    pub(super) salt: u64,
    /// The symbols that have come, from the first one on, and the sum of the live dots that they are of.
    pub(super) symbols: Vec<Symbol>,
    pub(super) live: u64,
    /// How many were asked for.
    pub(super) asked: usize,
    /// How often it was begun anew because something had changed.
    pub(super) restarts: u32,
}

/// A round that must be begun anew more often is given up: replicas that are being written to all the time never stand
/// still long enough, and then a push repairs what matters.
pub(super) const MAX_RESTARTS: u32 = 4;

/// A round that exchanges more often is given up.
pub(super) const MAX_EXCHANGES: u32 = 3;
