//! The cluster's secret and the keys that follow from it, by HKDF-SHA256 (RFC 5869).
//!
//! ```text
//! secret ── gossip root ── gossip key (one per sender's boot, ChaCha20-Poly1305)
//!        ├─ key id         (public: says which secret of a ring is meant)
//!        ├─ CA seed        (Ed25519: every node mints its own certificate from it)
//!        └─ reset key      (one per name: lets peers see a restart at once)
//! ```

use std::fmt;

use ring::hkdf;
use zeroize::Zeroizing;

use super::ring::KeyId;
use crate::identity::{Boot, NodeName};

/// The shortest secret, in bytes: what an attacker would have to guess is then no smaller than the keys made from it.
pub const MIN_SECRET_BYTES: usize = 32;

/// The longest secret, in bytes: one that is installed at run time fits into a small message, and more adds nothing.
pub const MAX_SECRET_BYTES: usize = 1024;

const SALT: &[u8] = b"polity/1 cluster secret";

/// The secret that all nodes of a cluster share. Never printed, and wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why bytes are not a [`Secret`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Fewer bytes than [`MIN_SECRET_BYTES`].
    #[error("a cluster secret has at least {MIN_SECRET_BYTES} bytes; this one has {0}")]
    TooShort(usize),
    /// More bytes than [`MAX_SECRET_BYTES`].
    #[error("a cluster secret has at most {MAX_SECRET_BYTES} bytes; this one has {0}")]
    TooLong(usize),
}

impl Secret {
    /// Takes the secret's bytes: at least 32, and random ones (`head -c 32 /dev/urandom`).
    ///
    /// # Errors
    /// [`SecretError::TooShort`], [`SecretError::TooLong`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(bytes.into());
        match bytes.len() {
            short @ ..MIN_SECRET_BYTES => Err(SecretError::TooShort(short)),
            MIN_SECRET_BYTES..=MAX_SECRET_BYTES => Ok(Self(bytes)),
            long => Err(SecretError::TooLong(long)),
        }
    }

    /// What the secret is called where it must not be said itself. Whoever knows only the id has learned nothing of the
    /// secret.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let bytes = self.derive(&[b"key id"]);
        KeyId::from_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// The secret itself, for a member that is to hold it too.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The keys of a cluster on loopback that was given no secret: they keep nobody out, and the builder refuses them
    /// on any other address.
    pub(crate) fn open(cluster: &str) -> Self {
        Self(Zeroizing::new([b"polity: no secret, loopback only: ", cluster.as_bytes()].concat()))
    }

    fn derive(&self, labels: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let key = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&self.0);
        expand(&key, labels)
    }

    /// The root of the datagram keys.
    pub(crate) fn gossip_root(&self) -> GossipRoot {
        GossipRoot(self.derive(&[b"gossip root"]))
    }

    /// A key for what nodes of the cluster of this name say on a LAN before they know each other.
    pub(crate) fn lan_key(&self, purpose: &[u8], cluster: &str) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"lan", purpose, cluster.as_bytes()])
    }

    /// The seed of the cluster's certificate authority.
    pub(crate) fn ca_seed(&self) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"certificate authority"])
    }

    /// The key of a node's stateless resets. One per name: a key that all shared would let one node reset another's
    /// connections.
    pub(crate) fn reset_key(&self, name: &NodeName) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"stateless reset", name.as_str().as_bytes()])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// What the datagram keys of a secret follow from.
pub(crate) struct GossipRoot(Zeroizing<[u8; 32]>);

impl GossipRoot {
    /// The key under which one boot of a node sends.
    pub(crate) fn sender_key(&self, boot: Boot) -> Zeroizing<[u8; 32]> {
        expand(&hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &*self.0), &[b"gossip sender", &boot.to_bytes()])
    }
}

/// 32 bytes for a purpose. Labels are told apart by their lengths, so no two lists of labels meet.
fn expand(key: &hkdf::Prk, labels: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let lengths: Vec<[u8; 4]> = labels.iter().map(|l| (l.len() as u32).to_be_bytes()).collect();
    let info: Vec<&[u8]> = lengths.iter().zip(labels).flat_map(|(length, label)| [&length[..], label]).collect();
    let mut out = Zeroizing::new([0; 32]);
    key.expand(&info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *out))
        .expect("HKDF-SHA256 gives 32 bytes for a short label");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; 32]).expect("long enough")
    }

    #[test]
    fn a_secret_of_a_wrong_length_is_refused_and_none_is_printed() {
        assert_eq!(Secret::new([1; 31]).map(|_| ()), Err(SecretError::TooShort(31)));
        assert_eq!(Secret::new([1; 1025]).map(|_| ()), Err(SecretError::TooLong(1025)));
        assert_eq!(format!("{:?}", secret(7)), "Secret(redacted)");
    }

    #[test]
    fn keys_differ_by_secret_purpose_boot_and_name() {
        let boot = |generation| Boot { generation, nonce: 1 };
        let name = |n| NodeName::new(n).expect("valid");
        let mut keys = vec![
            *secret(1).ca_seed(),
            *secret(2).ca_seed(),
            *secret(1).reset_key(&name("a")),
            *secret(1).reset_key(&name("b")),
            *secret(1).gossip_root().sender_key(boot(1)),
            *secret(1).gossip_root().sender_key(boot(2)),
            *secret(2).gossip_root().sender_key(boot(1)),
        ];
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 7);
        assert_ne!(secret(1).id(), secret(2).id());
        assert_eq!(*secret(1).ca_seed(), *secret(1).ca_seed());
    }
}
