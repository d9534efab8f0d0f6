//! What the failure detector carries of a member: its name in 8 bytes, and the identity behind a pointer. On the wire a
//! handle is its [`Identity`].

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::member::Member;
use crate::buckets::{Buckets, NameKey};
use crate::identity::{Boot, Identity, NameError, NodeId, NodeName};

/// An [`Identity`] that is cheap to copy and to compare.
#[derive(Clone)]
pub(crate) struct Handle {
    key: NameKey,
    identity: Arc<Identity>,
}

/// What is known of all members, at most one identity of each name.
pub(crate) type Known = Buckets<Member>;

impl Handle {
    /// The hash of its name.
    pub(crate) fn key(&self) -> NameKey {
        self.key
    }

    /// The same boot, come back after it was declared down: only `rejoin` grows. `None` when it cannot.
    pub(super) fn renew(&self) -> Option<Self> {
        let rejoin = self.identity.rejoin.checked_add(1)?;
        Some(Self { key: self.key, identity: Arc::new(Identity { rejoin, ..(*self.identity).clone() }) })
    }

    /// Of a node whose datagram names all but its boot, which is that of its seal.
    pub(super) fn sealed(
        name: &str,
        boot: Boot,
        rejoin: u32,
        addr: SocketAddr,
        known: &Known,
    ) -> Result<Self, NameError> {
        Brief { node: BriefNode { name, boot }, rejoin, addr }.resolve(known)
    }
}

impl From<Identity> for Handle {
    fn from(identity: Identity) -> Self {
        Self { key: NameKey::of(identity.node.name.as_str()), identity: Arc::new(identity) }
    }
}

impl Deref for Handle {
    type Target = Identity;
    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && (Arc::ptr_eq(&self.identity, &other.identity) || self.identity == other.identity)
    }
}

impl Eq for Handle {}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.identity.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Identity::deserialize(deserializer).map(Self::from)
    }
}

/// An identity as it stands in a message, to be looked up before anything is allocated for it.
#[derive(Deserialize)]
pub(super) struct Brief<'a> {
    #[serde(borrow)]
    node: BriefNode<'a>,
    rejoin: u32,
    addr: SocketAddr,
}

#[derive(Deserialize)]
struct BriefNode<'a> {
    name: &'a str,
    boot: Boot,
}

impl Brief<'_> {
    /// The handle that is known already, or a new one.
    pub(super) fn resolve(&self, known: &Known) -> Result<Handle, NameError> {
        let key = NameKey::of(self.node.name);
        let found = known.get(key).map(Member::id).filter(|id| {
            id.node.name.as_str() == self.node.name && id.node.boot == self.node.boot && id.rejoin == self.rejoin
        });
        match found {
            Some(id) if id.addr == self.addr => Ok(id.clone()),
            _ => {
                let node = NodeId { name: NodeName::new(self.node.name)?, boot: self.node.boot };
                let identity = Identity { node, rejoin: self.rejoin, addr: self.addr };
                Ok(Handle { key, identity: Arc::new(identity) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejoin_keeps_the_boot_and_wins_over_the_identity_that_was_declared_down() {
        let node = NodeId { name: NodeName::new("a").expect("valid"), boot: Boot { generation: 1, nonce: 9 } };
        let identity = Identity { node, rejoin: 0, addr: "127.0.0.1:1".parse().expect("an address") };
        let first = Handle::from(identity.clone());
        let again = first.renew().expect("room to grow");
        assert_eq!(again.node, first.node);
        assert!(again.precedence() > first.precedence());
        let mut newer = identity;
        newer.node.boot = Boot { generation: 2, nonce: 0 };
        let newer = Handle::from(newer);
        assert!(newer.precedence() > again.precedence(), "a newer boot wins over any rejoin of an older one");
    }

    #[test]
    fn on_the_wire_a_handle_is_its_identity() {
        let node = NodeId { name: NodeName::new("a").expect("valid"), boot: Boot { generation: 1, nonce: 9 } };
        let identity = Identity { node, rejoin: 3, addr: "127.0.0.1:1".parse().expect("an address") };
        let wire = postcard::to_allocvec(&identity).expect("encodes");
        assert_eq!(postcard::to_allocvec(&Handle::from(identity.clone())).expect("encodes"), wire);
        assert_eq!(postcard::from_bytes::<Handle>(&wire).expect("decodes"), Handle::from(identity));
    }
}
