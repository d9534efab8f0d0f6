//! What a watch is about. Pure.

use crate::record::Blob;

/// A place, or all places that begin so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interest {
    pub(crate) place: Blob,
    /// Whether it is that one place only.
    pub(crate) exact: bool,
}

impl Interest {
    /// Whether a place is among them.
    pub(crate) fn concerns(&self, place: &[u8]) -> bool {
        if self.exact { self.place.0 == *place } else { place.starts_with(&self.place.0) }
    }
}
