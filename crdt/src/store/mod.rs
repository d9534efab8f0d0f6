//! Dot stores: the one shape that all replicated types have, and how two of them join.
//!
//! A state is a *store* of live content, each piece under the dot of the write that made it, and a *causal context*: all
//! dots that this replica has heard of (a [`VersionVector`]). A dot in the context without content was replaced or
//! removed. That is all there is: no tombstones, and two states join by dots alone, whatever their type.
//!
//! There are two stores. [`DotFun`] holds values under dots, and is at the bottom of every type; [`DotMap`] holds stores
//! under keys. A type is one of these with mutators and reads (see [`crate::types`]).
//!
//! A *delta* says of some dots what became of them: *live*, with their content, or *dead*. Its own context is exactly
//! those dots, so **it claims only what it carries** (rule zero). Deltas are what mutators return, what is sent, and, as
//! the delta of everything, a whole state too. Dead dots are named where they were, under their key, so that applying
//! a delta costs what the delta holds and not what the state holds; where the place is not known they are named above,
//! and found by looking.
//!
//! Source: Almeida, Shoker and Baquero, "Delta state replicated data types" (JPDC 2018), section 7: `DotSet` is
//! `DotFun<()>`, and causal lattices join as there. Deviations: content is immutable under its dot (a counter's increment
//! is a new dot), so that every dot is one irreducible part of the state; and deltas are a type of their own, for the
//! sake of the places of dead dots.

mod dot_fun;
mod dot_map;
mod few;

use std::fmt;
use std::ops::Bound;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::dot_fun::{DotFun, DotFunDelta};
pub use self::dot_map::{DotMap, DotMapDelta};
use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;
use crate::{Dot, VersionVector};

/// What can be kept under a dot.
///
/// Equal values must serialise to equal bytes, which is what decoding accepts: ordered maps and sets do, hash maps do not.
/// And each element of a list must serialise to something: a list of nothings can be of any length in a few bytes.
pub trait Value: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + 'static {}
impl<T: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// What can be a key.
pub trait Key: Value + Ord {}
impl<T: Value + Ord> Key for T {}

/// What happened to a dot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It became live.
    Came,
    /// It was live and is not any more.
    Went,
}

/// Told of every dot that came or went, and under which key.
pub type Observer<'a, K> = &'a mut dyn FnMut(&K, Dot, Fate);

/// Shown a key and the live dots under it; says whether to go on.
pub type Visitor<'a, K> = &'a mut dyn FnMut(&K, &mut dyn Iterator<Item = Dot>) -> bool;

/// A replicated type, seen as its dot store. Implemented by this crate's types only.
pub trait Crdt: Clone + Default + PartialEq + fmt::Debug + Send + sealed::Sealed + 'static {
    /// By what changes are followed: the keys of a map, the elements of a set, `()` for what has no parts.
    type Key: Ord + Clone + fmt::Debug + Send + 'static;
    /// What mutators return.
    type Delta: Delta;

    /// Whether removes leave marks that are to be dropped once every replica has seen them.
    const LEAVES_MARKS: bool = false;

    /// Whether what an actor has written is to go when the actor has departed.
    const GOES_WITH_ITS_WRITER: bool = false;

    /// The dots under each place where such a mark is live, in order. Looks at everything.
    fn marks(&self) -> impl Iterator<Item = VersionVector> {
        std::iter::empty()
    }

    /// Drops the marks of places of which all dots are in `stable`: those that every replica has said to be live and
    /// among its [`Self::marks`], while this one has heard of all that each of them had heard of when it said so.
    ///
    /// That all have *heard of* a mark does not suffice. One may have heard of it, and of what has replaced it twice
    /// over, but not of the write between: then the mark is live here alone, and what lies beside it is not beaten by it.
    fn collect(&self, stable: &VersionVector) -> Option<Self::Delta> {
        let _ = stable;
        None
    }

    /// Whether no dot is live in it.
    fn is_bottom(&self) -> bool;

    /// Joins a delta. `seen` is the context of this state *before* that, for all stores below one root.
    fn apply(&mut self, delta: Self::Delta, seen: &VersionVector, observe: Observer<'_, Self::Key>);

    /// Removes what is under these dots, wherever it is. Looks at everything.
    fn strike(&mut self, dots: &VersionVector, observe: Observer<'_, Self::Key>);

    /// Shows the live dots with their keys, in the order of keys and from `from` on, until `visit` says `false`. It is
    /// asked after each key.
    fn visit(&self, from: Bound<&Self::Key>, visit: Visitor<'_, Self::Key>);

    /// What became of these dots, each of which is, or was, under its key: a delta that claims them and nothing else.
    /// They must be in the context of this state.
    fn pick(&self, wanted: Vec<(Self::Key, VersionVector)>) -> Self::Delta;

    /// The live part under these dots, without a claim about the others. Looks at everything.
    fn restrict(&self, dots: &VersionVector) -> Self::Delta;

    /// All live parts.
    fn everything(&self) -> Self::Delta;
}

/// What became of some dots.
pub trait Delta: Clone + Default + PartialEq + fmt::Debug + Send + sealed::Sealed + 'static {
    /// Whether it claims nothing.
    fn is_empty(&self) -> bool;

    /// Calls `visit` with each live dot.
    fn visit_live(&self, visit: &mut dyn FnMut(Dot));

    /// Calls `visit` with each set of dead dots.
    fn visit_dead(&self, visit: &mut dyn FnMut(&VersionVector));

    /// Claims that these dots are dead, without saying where they were.
    fn kill(&mut self, dots: &VersionVector);

    /// Takes back the live content under these dots: the delta then says nothing of them.
    fn withdraw(&mut self, dots: &VersionVector);

    /// Puts two deltas together of which neither says "dead" where the other says "live".
    #[doc(hidden)]
    fn unite(&mut self, other: Self);

    /// Divides it into its irreducible parts: one for each live dot, and one for each dead one of `dead`.
    #[doc(hidden)]
    fn split_live(self, into: &mut Vec<Self>);

    /// Appends the encoding.
    #[doc(hidden)]
    fn encode_part(&self, to: &mut Encoder);

    /// Reads one.
    #[doc(hidden)]
    fn decode_part(from: &mut Decoder<'_>) -> Result<Self, DecodeError>;

    /// The live dots.
    fn live(&self) -> VersionVector {
        let mut dots = Vec::new();
        self.visit_live(&mut |dot| dots.push(dot));
        dots.into_iter().collect()
    }

    /// The dead dots.
    fn dead(&self) -> VersionVector {
        let mut dead = VersionVector::new();
        self.visit_dead(&mut |dots| {
            dead.merge(dots);
        });
        dead
    }

    /// All dots of which it says what became of them: its causal context.
    fn context(&self) -> VersionVector {
        let mut context = self.dead();
        context.merge(&self.live());
        context
    }

    /// Joins another delta: the result says what both say. A dot that is live in one and dead in the other is dead, for
    /// whoever says so has heard of its removal.
    fn join(&mut self, mut other: Self) {
        let (dead_here, dead_there) = (self.dead(), other.dead());
        if !dead_there.is_empty() {
            self.withdraw(&dead_there);
        }
        if !dead_here.is_empty() {
            other.withdraw(&dead_here);
        }
        self.unite(other);
    }

    /// Divides it into its irreducible parts: joined in any order they are this delta again, and none can be left out.
    /// Makes one part for each dot, dead ones too.
    fn decompose(mut self) -> Vec<Self> {
        let dead = self.dead();
        let mut parts = Vec::new();
        for (replica, runs) in dead.iter() {
            for counter in runs.flatten() {
                let mut part = Self::default();
                part.kill(&Dot { replica, counter }.into());
                parts.push(part);
            }
        }
        self.withdraw(&dead);
        self.split_live(&mut parts);
        parts
    }

    /// The encoding, on its own.
    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        self.encode_part(&mut encoder);
        encoder.finish()
    }

    /// Reads what [`Delta::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not such an encoding, or something is left over. Allocates in proportion to their length.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes)?;
        let delta = Self::decode_checked(&mut decoder)?;
        decoder.finish()?;
        Ok(delta)
    }

    /// Reads one, and checks that it claims no dot twice.
    #[doc(hidden)]
    fn decode_checked(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let delta = Self::decode_part(from)?;
        let mut live = Vec::new();
        delta.visit_live(&mut |dot| live.push(dot));
        let count = live.len();
        let live: VersionVector = live.into_iter().collect();
        if live.dot_count() != count as u64 || live.intersects(&delta.dead()) {
            return Err(DecodeError::Twice);
        }
        Ok(delta)
    }
}

pub(crate) mod sealed {
    /// Only this crate's types: the simulator and the wire rely on their laws.
    pub trait Sealed {}
}
