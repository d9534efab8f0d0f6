//! What is stored: the client's body, and before it what the write replaced.
//!
//! The body has exactly the recorded size (at least the eight bytes of its stamp). It begins with the stamp of the write,
//! which no other write has, and is filled with bytes that follow from the stamp, so that damage shows. In front of it
//! the node's service writes the stamps of the values that it read and replaced: three bytes or so each.

use serde::{Deserialize, Serialize};

/// One attempt to write: a sequence number of all attempts of this run.
pub(crate) type Stamp = u64;

/// The bytes of a stamp in a body.
const STAMP_BYTES: usize = size_of::<Stamp>();

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// What the write had read when it was made, and replaced.
    pub(crate) replaced: Vec<Stamp>,
    pub(crate) body: Vec<u8>,
}

impl Stored {
    pub(crate) fn encode(replaced: &[Stamp], body: &[u8]) -> Vec<u8> {
        let mut bytes = postcard::to_allocvec(replaced).expect("numbers encode");
        bytes.extend_from_slice(body);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (replaced, body) = postcard::take_from_bytes(bytes).ok()?;
        Some(Self { replaced, body: body.to_vec() })
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.body.first_chunk().copied().map(Stamp::from_le_bytes)
    }
}

/// The length of the body for a recorded size.
pub(crate) fn body_bytes(size: u32) -> usize {
    (size as usize).max(STAMP_BYTES)
}

pub(crate) fn body(stamp: Stamp, size: u32) -> Vec<u8> {
    // An odd factor (2^64 divided by the golden ratio) makes every stamp's filling its own.
    let filling = stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    let length = body_bytes(size);
    stamp.to_le_bytes().into_iter().chain(filling.into_iter().cycle()).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_as_it_was_stored() {
        for size in [0, 8, 11, 54, 4985] {
            let body = body(77, size);
            assert_eq!(body.len(), (size as usize).max(8));
            let stored = Stored::decode(&Stored::encode(&[1, 300], &body)).expect("decodes");
            assert_eq!((stored.stamp(), &stored.replaced[..], &stored.body), (Some(77), &[1, 300][..], &body));
        }
        assert_eq!(Stored::decode(&[200]), None);
        assert_ne!(body(1, 54)[8..], body(2, 54)[8..]);
    }
}
