//! Causality for replicated data: dots, version vectors and sets of concurrent values.
//!
//! Replicas that write without asking each other need to tell *later* from *concurrent*. A [`Dot`] names one write, a
//! [`VersionVector`] is a set of dots, and a [`DvvSet`] is a register under one: it keeps the values that no write has
//! replaced, and drops those that one has, whatever the order in which the replicas hear of it.
//!
//! Everything here is a value. The crate knows no network, no time and no randomness: it never asks who is alive, and
//! merging twice, late or in another order gives the same state. That is *strong eventual consistency*: replicas that
//! have received the same updates are equal. It holds while messages are lost, duplicated, delayed and reordered, and
//! while every replica keeps the one rule that no code can check for it: a [`ReplicaId`] belongs to one life of one
//! replica, so that no dot is ever given to two writes.
//!
//! All types have one form for each value, so `==` compares what they mean and equal values encode to equal bytes.
//! Decoding checks every invariant and fails with the text of an [`Error`]; no input makes it panic, and its work
//! follows the length of the input, never the size of the numbers in it.
//!
//! # Example
//!
//! ```
//! use polity_crdt::{DvvSet, ReplicaId, VersionVector};
//!
//! let (east, west) = (ReplicaId(0x1d3b), ReplicaId(0x77f0));
//! let mut here = DvvSet::new();
//! let mut there = DvvSet::new();
//!
//! // Two clients write without having read anything: neither knew of the other, so both values stay.
//! here.put(east, &VersionVector::new(), "tea")?;
//! there.put(west, &VersionVector::new(), "coffee")?;
//! here.merge(&there);
//! assert_eq!(here.values().collect::<Vec<_>>(), [&"tea", &"coffee"]);
//!
//! // A client reads both, decides, and writes with what it has read: its value replaces them, here and there.
//! let read = here.context().clone();
//! there.put(west, &read, "tea, then coffee")?;
//! here.merge(&there);
//! assert_eq!(here.values().collect::<Vec<_>>(), [&"tea, then coffee"]);
//! # Ok::<(), polity_crdt::Error>(())
//! ```

mod codec;
mod dot;
mod dvv_set;
mod encoding;
mod error;
mod hlc;
#[cfg(feature = "crdts")]
pub mod interop;
#[doc(hidden)]
pub mod mutation;
mod replica;
pub mod sketch;
pub mod store;
pub mod sync;
pub mod types;
mod version_vector;

pub use codec::{Decoder, Encoder, FORMAT};
pub use dot::{Dot, ReplicaId};
pub use dvv_set::DvvSet;
pub use error::{DecodeError, Error};
pub use hlc::{HybridClock, Timestamp};
pub use replica::{Change, Replica, Writer};
pub use store::{Crdt, Delta, Fate, Key, Value};
pub use types::{
    AwSet, BoundedCounter, DwFlag, EwFlag, GCounter, GSet, LwwRegister, MvRegister, OrMap, OwnerMap, PnCounter, RwSet,
};
pub use version_vector::VersionVector;
