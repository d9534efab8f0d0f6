//! Node state: what each node says of itself to all others.
//!
//! Every node owns one small map. Only its owner writes to it, and numbers each write, so the greatest version is
//! right and nothing needs merging. Gossip carries entries as hints; push-pull compares how far each side has read
//! (in `Reads`) and sends the rest, so a hint that was lost costs time and no truth.

mod facts;
mod profile;
mod table;

pub(crate) use facts::{ADDRESSES_KEY, LOAD_KEY, encode_addresses};
pub(crate) use profile::PROFILE_KEY;
pub use profile::{Profile, Weight, WeightError, Zone};
#[cfg(test)]
pub(crate) use table::Fields;
pub(crate) use table::{Entry, Reads, Table};
pub use table::{MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES, StateError};
