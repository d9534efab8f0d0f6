//! How a secret reaches another member: over a connection that a common key protects already.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::rpc::{Lane, Method};
use crate::secure::Secret;

/// Gives a member a secret.
pub(super) const GIVE: Method<Give, Given> = Method::new(9, "cluster.keys", Lane::Control);

/// A secret on its way: nothing but its bytes.
#[derive(Debug, Clone)]
pub(super) struct Give(pub(super) Secret);

impl Serialize for Give {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.expose().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Give {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Zeroizing::new(Vec::<u8>::deserialize(deserializer)?);
        Secret::new(bytes.as_slice()).map(Self).map_err(D::Error::custom)
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Given {
    /// The member holds it.
    Taken,
    /// The member knows that the key was removed.
    Removed,
    /// The member's ring has no room.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let secret = Secret::new([7; 32]).expect("long enough");
        let bytes = postcard::to_allocvec(&Give(secret.clone())).expect("encodes");
        assert_eq!(bytes, [&[32][..], &[7; 32]].concat(), "the format of given keys: docs/WIRE.md");
        assert_eq!(postcard::from_bytes::<Give>(&bytes).expect("decodes").0.id(), secret.id());
        let short = postcard::to_allocvec(&[7_u8; 31][..]).expect("encodes");
        assert!(postcard::from_bytes::<Give>(&short).is_err());
        assert_eq!(postcard::to_allocvec(&[Given::Taken, Given::Removed, Given::Full]).expect("encodes"), [0, 1, 2]);
        assert_eq!(secret.id().to_string(), "92e86b38", "the ids of keys: docs/WIRE.md");
    }
}
