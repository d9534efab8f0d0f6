//! The hello: what two nodes tell each other before the first request, and why one refuses the other.
//!
//! TLS proves that both hold the secret. It cannot say whether they belong to the same cluster, speak a common version,
//! agree on the settings that must be the same everywhere, or whether the node behind an address is still the one that
//! the dialler means. The dialler says hello, the acceptor welcomes it or refuses it with the difference.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::doorman::NOT_TRUSTED;
use crate::formation::ClusterId;
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::mutation::{Mutation, mutated};
use crate::secure::{KeyId, MAX_KEYS_OF_RING};
use crate::version::{Capabilities, VersionRange};

/// The encoding of the hello itself: the first byte of each message.
const ENCODING: u8 = 1;
/// The largest hello or answer on the wire: all settings of the largest size fit into it four times.
pub(crate) const MAX_HELLO_BYTES: usize = 64 << 10;
/// How many settings a hello may carry.
pub(crate) const MAX_SETTINGS: usize = 32;
/// The longest key or value of a setting, and the longest name of a cluster.
pub(crate) const MAX_SETTING_BYTES: usize = 256;
const _: () = assert!(MAX_SETTINGS * 2 * MAX_SETTING_BYTES * 2 <= MAX_HELLO_BYTES);

/// What a later version may add to a hello: how many things, and how long each.
const MAX_EXTENSIONS: usize = 16;
const MAX_EXTENSION_BYTES: usize = 1 << 10;
const _: () =
    assert!(MAX_SETTINGS * 2 * MAX_SETTING_BYTES + MAX_EXTENSIONS * MAX_EXTENSION_BYTES * 2 <= MAX_HELLO_BYTES);

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The versions that it speaks.
    pub(crate) protocol: VersionRange,
    /// The cluster that it was configured for.
    pub(crate) cluster: String,
    /// The settings that must be the same on every node.
    pub(crate) settings: BTreeMap<String, String>,
    /// Its name.
    pub(crate) name: NodeName,
    /// Its boot, or none if it has yet to choose one: then it only introduces itself and sends no request.
    pub(crate) boot: Option<Boot>,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// Whom it means to talk to, if it knows.
    pub(crate) expects: Option<NodeId>,
    /// The id of its cluster, if that has one.
    pub(crate) cluster_id: Option<ClusterId>,
    /// The keys that it holds; none if it sends no gossip.
    pub(crate) keys: Vec<KeyId>,
    /// What it can do.
    pub(crate) capabilities: Capabilities,
    /// What later versions add, by number. This one adds nothing and ignores what it finds.
    pub(crate) extensions: BTreeMap<u16, Vec<u8>>,
}

impl Hello {
    /// The node, if it has chosen its boot.
    pub(crate) fn node(&self) -> Option<NodeId> {
        Some(NodeId { name: self.name.clone(), boot: self.boot? })
    }
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HelloAnswer {
    /// The dialler may send requests.
    Welcome(Welcome),
    /// It may not; the connection closes.
    Refused(Refusal),
}

/// A welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The version that the connection uses.
    pub(crate) protocol: u16,
    /// Who answers.
    pub(crate) id: Identity,
    /// The greatest generation of the dialler's name that the acceptor knows, 0 if none.
    pub(crate) your_generation: u64,
    /// The id of the acceptor's cluster, if that has one.
    pub(crate) cluster_id: Option<ClusterId>,
}

/// Why a node refused another. `ours` is the value of the node that was refused, `theirs` of the one that refused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// The nodes were configured for different clusters.
    WrongCluster {
        /// The refusing node's cluster.
        theirs: String,
        /// The refused node's cluster.
        ours: String,
    },
    /// The nodes have no version of the protocol in common.
    Version {
        /// What the refusing node speaks.
        theirs: VersionRange,
        /// What the refused node speaks.
        ours: VersionRange,
    },
    /// Settings differ that must be the same on every node.
    Settings(Vec<SettingDifference>),
    /// A newer life of the refused node's name is part of the cluster.
    NameTaken {
        /// The newer life.
        by: Boot,
    },
    /// Another node, or another life of it, listens at the address.
    NotMe {
        /// Who listens there.
        actual: NodeId,
    },
    /// The refusing node is stopping.
    ShuttingDown,
    /// The refusing node has not chosen its boot yet.
    Starting,
    /// The nodes belong to clusters that were formed apart.
    OtherFormation {
        /// The id of the refusing node's cluster.
        theirs: ClusterId,
        /// The id of the refused node's cluster.
        ours: ClusterId,
    },
    /// A node's certificate does not carry the name that it says it has.
    NotCertified {
        /// The name.
        name: NodeName,
    },
    /// The nodes hold no key in common: one of them was away during a rotation.
    NoCommonKey,
}

impl Refusal {
    /// Whether the same hello may be welcomed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotMe { .. } | Self::ShuttingDown | Self::Starting)
    }
}

/// One setting that differs. A node that lacks it has `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingDifference {
    /// The setting's name.
    pub key: String,
    /// The refusing node's value.
    pub theirs: Option<String>,
    /// The refused node's value.
    pub ours: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongCluster { theirs, ours } => write!(
                f,
                "it belongs to the cluster {theirs:?} and this node to {ours:?}: give both the same cluster name, or \
                 remove its address from this node's seeds"
            ),
            Self::Version { theirs, ours } => {
                write!(f, "it speaks protocol version {theirs} and this node {ours}: upgrade the older of the two")
            }
            Self::Settings(differences) => {
                f.write_str("settings that must be the same on every node differ:")?;
                for (i, d) in differences.iter().enumerate() {
                    let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "nothing".to_owned());
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma} {} is {} there and {} here", d.key, value(&d.theirs), value(&d.ours))?;
                }
                f.write_str(": configure both alike")
            }
            Self::NameTaken { by } => write!(
                f,
                "a newer process with this node's name runs (boot {by}): stop one of the two, or name them differently"
            ),
            Self::NotMe { actual } => {
                write!(f, "{actual} listens at this address now: the view of the cluster is about to catch up")
            }
            Self::ShuttingDown => f.write_str("it is shutting down"),
            Self::Starting => f.write_str("it is still starting"),
            Self::OtherFormation { theirs, ours } => write!(
                f,
                "it belongs to the cluster with the id {theirs} and this node to the one with the id {ours}, which were \
                 formed apart: stop the nodes of one of the two, remove the file `cluster` from their data folders, and \
                 start them again; to form one, `expect` more than half of the nodes that start"
            ),
            Self::NoCommonKey => f.write_str(NOT_TRUSTED),
            Self::NotCertified { name } => write!(
                f,
                "the certificate of the node that calls itself {name} does not carry this name: give it one with the URI \
                 `polity:` and the name in hexadecimal, or with the name as a DNS name"
            ),
        }
    }
}

/// How a node introduces itself and whom it admits. Called on the library's executor; must not block.
pub(crate) trait HelloPolicy: Send + Sync {
    /// What this node says to the one it dials.
    fn hello(&self, expects: Option<&NodeId>) -> Hello;
    /// Judges a node that has dialled this one from `from`.
    fn admit(&self, hello: &Hello, from: SocketAddr) -> HelloAnswer;
    /// What follows from being welcomed.
    ///
    /// # Errors
    /// This node will not have the one that welcomes it.
    fn welcomed(&self, _: &Welcome) -> Result<(), Refusal> {
        Ok(())
    }
    /// A node that dialled this one from `from` was refused before it could be judged.
    fn refused(&self, _: &Hello, _from: SocketAddr, _: &Refusal) {}
    /// A node that dialled this one from `from` and this one did not trust each other's certificates.
    fn distrusted(&self, from: SocketAddr, cause: &str);
}

/// Compares what the acceptor would say of itself with the hello that it received: the version to speak, or the first
/// reason to refuse.
pub(crate) fn judge(acceptor: &Hello, dialler: &Hello) -> Result<u16, Refusal> {
    if acceptor.cluster != dialler.cluster && !mutated(Mutation::AdmitsOtherClusters) {
        return Err(Refusal::WrongCluster { theirs: acceptor.cluster.clone(), ours: dialler.cluster.clone() });
    }
    same_formation(acceptor.cluster_id, dialler.cluster_id)?;
    // Under certificates of the operator's, nothing else would tell before gossip fails to open.
    if !acceptor.keys.is_empty() && !acceptor.keys.iter().any(|key| dialler.keys.contains(key)) {
        return Err(Refusal::NoCommonKey);
    }
    let version = acceptor
        .protocol
        .common(dialler.protocol)
        .ok_or(Refusal::Version { theirs: acceptor.protocol, ours: dialler.protocol })?;
    let differences = differences(&acceptor.settings, &dialler.settings);
    if !differences.is_empty() {
        return Err(Refusal::Settings(differences));
    }
    match (acceptor.node(), &dialler.expects) {
        (Some(actual), Some(expected)) if actual != *expected => Err(Refusal::NotMe { actual }),
        _ => Ok(version),
    }
}

/// Clusters of which one has no id may meet.
pub(crate) fn same_formation(theirs: Option<ClusterId>, ours: Option<ClusterId>) -> Result<(), Refusal> {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(Refusal::OtherFormation { theirs, ours }),
        _ => Ok(()),
    }
}

fn differences(theirs: &BTreeMap<String, String>, ours: &BTreeMap<String, String>) -> Vec<SettingDifference> {
    let missing_there = ours.keys().filter(|key| !theirs.contains_key(*key));
    let mut keys: Vec<_> = theirs.keys().chain(missing_there).collect();
    keys.sort();
    keys.into_iter()
        .filter(|key| theirs.get(*key) != ours.get(*key))
        .map(|key| SettingDifference {
            key: key.clone(),
            theirs: theirs.get(key).cloned(),
            ours: ours.get(key).cloned(),
        })
        .collect()
}

/// Why bytes are not a hello.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the hello has the unknown encoding {0}")]
    Encoding(u8),
    #[error("the hello does not decode")]
    Undecodable,
    #[error("the hello is larger than is allowed")]
    TooLarge,
}

/// A message of the hello as bytes.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, HelloError> {
    let bytes = postcard::to_extend(message, vec![ENCODING]).map_err(|_| HelloError::Undecodable)?;
    if bytes.len() > MAX_HELLO_BYTES { Err(HelloError::TooLarge) } else { Ok(bytes) }
}

/// The inverse of [`encode`]; every byte must be used.
pub(crate) fn decode<T: DeserializeOwned + Bounded>(bytes: &[u8]) -> Result<T, HelloError> {
    if bytes.len() > MAX_HELLO_BYTES {
        return Err(HelloError::TooLarge);
    }
    let (&encoding, rest) = bytes.split_first().ok_or(HelloError::Undecodable)?;
    if encoding != ENCODING {
        return Err(HelloError::Encoding(encoding));
    }
    match postcard::take_from_bytes::<T>(rest) {
        Ok((message, [])) if message.is_bounded() => Ok(message),
        Ok((_, [])) => Err(HelloError::TooLarge),
        _ => Err(HelloError::Undecodable),
    }
}

/// What a peer's message must keep to beside its size in bytes.
pub(crate) trait Bounded {
    fn is_bounded(&self) -> bool;
}

impl Bounded for Hello {
    fn is_bounded(&self) -> bool {
        let short = |text: &String| text.len() <= MAX_SETTING_BYTES;
        short(&self.cluster)
            && self.settings.len() <= MAX_SETTINGS
            && self.settings.iter().all(|(key, value)| short(key) && short(value))
            && self.protocol.min <= self.protocol.max
            && self.keys.len() <= MAX_KEYS_OF_RING
            && self.extensions.len() <= MAX_EXTENSIONS
            && self.extensions.values().all(|bytes| bytes.len() <= MAX_EXTENSION_BYTES)
    }
}

impl Bounded for HelloAnswer {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Welcome(_) => true,
            Self::Refused(Refusal::Settings(differences)) => differences.len() <= 2 * MAX_SETTINGS,
            Self::Refused(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Speaks;
    use proptest::prelude::*;

    fn hello(name: &str) -> Hello {
        Hello {
            protocol: Speaks::CURRENT.versions,
            cluster: "shop".to_owned(),
            settings: BTreeMap::from([("shards".to_owned(), "4096".to_owned())]),
            name: NodeName::new(name).expect("a valid name"),
            boot: Some(Boot { generation: 1, nonce: 7 }),
            addr: "127.0.0.1:1".parse().expect("an address"),
            expects: None,
            cluster_id: None,
            keys: vec![key(1)],
            capabilities: Capabilities::ALL,
            extensions: BTreeMap::new(),
        }
    }

    fn key(byte: u8) -> KeyId {
        KeyId::from_bytes([byte; 4])
    }

    #[test]
    fn like_nodes_agree_on_the_newest_version() {
        let (mut a, mut b) = (hello("a"), hello("b"));
        a.protocol = VersionRange { min: 1, max: 4 };
        b.protocol = VersionRange { min: 2, max: 3 };
        assert_eq!(judge(&a, &b), Ok(3));
        b.expects = a.node();
        assert_eq!(judge(&a, &b), Ok(3));
    }

    #[test]
    fn each_difference_is_named() {
        let ours = hello("a");
        let refusal = |change: &dyn Fn(&mut Hello)| {
            let mut theirs = hello("b");
            change(&mut theirs);
            judge(&ours, &theirs).expect_err("a refusal").to_string()
        };
        assert!(refusal(&|h| h.cluster = "test".to_owned()).contains("\"shop\" and this node to \"test\""));
        assert!(
            refusal(&|h| h.protocol = VersionRange { min: 3, max: 4 }).contains("version 1 to 2 and this node 3 to 4")
        );
        let settings = refusal(&|h| {
            h.settings =
                BTreeMap::from([("shards".to_owned(), "64".to_owned()), ("copies".to_owned(), "3".to_owned())]);
        });
        assert!(
            settings.contains("copies is nothing there and 3 here, shards is 4096 there and 64 here"),
            "{settings}"
        );
        let other = NodeId { name: ours.name.clone(), boot: Boot { generation: 0, nonce: 0 } };
        assert!(refusal(&|h| h.expects = Some(other.clone())).contains("a#1."));
        assert!(refusal(&|h| h.keys = vec![key(2), key(3)]).contains("rotated while this node was away"));
        let (mut ours, mut theirs) = (hello("a"), hello("b"));
        theirs.keys.push(key(2));
        assert_eq!(judge(&ours, &theirs), Ok(2), "one key in common is enough");
        ours.cluster_id = Some(ClusterId::new(1));
        assert_eq!(judge(&ours, &theirs), Ok(2));
        theirs.cluster_id = Some(ClusterId::new(2));
        let apart = judge(&ours, &theirs).expect_err("a refusal");
        assert!(!apart.is_retryable() && apart.to_string().contains("formed apart"), "{apart}");
    }

    #[test]
    fn messages_survive_their_bytes_and_nothing_else_does() {
        let bytes = encode(&hello("a")).expect("small");
        assert_eq!(bytes[0], ENCODING);
        assert_eq!(decode::<Hello>(&bytes), Ok(hello("a")));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<Hello>(&longer), Err(HelloError::Undecodable));
        let mut newer = bytes;
        newer[0] = 9;
        assert_eq!(decode::<Hello>(&newer), Err(HelloError::Encoding(9)));
        let refused = HelloAnswer::Refused(Refusal::ShuttingDown);
        assert_eq!(decode::<HelloAnswer>(&encode(&refused).expect("small")), Ok(refused));
    }

    #[test]
    fn golden_bytes() {
        let hello = Hello {
            protocol: VersionRange { min: 1, max: 1 },
            cluster: "shop".to_owned(),
            settings: BTreeMap::from([("kv.shards".to_owned(), "256".to_owned())]),
            name: NodeName::new("n1").expect("valid"),
            boot: Some(Boot { generation: 2, nonce: 3 }),
            addr: "127.0.0.1:7946".parse().expect("an address"),
            expects: None,
            cluster_id: Some(ClusterId::new(5)),
            keys: vec![key(9)],
            capabilities: Capabilities::TOPICS,
            extensions: BTreeMap::from([(1, vec![9])]),
        };
        let bytes = encode(&hello).expect("small");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format of hellos: docs/WIRE.md");
    }

    const GOLDEN: &str =
        "0101010473686f7001096b762e73686172647303323536026e31010203007f0000018a3e00010501090909090101010109";

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        let mut later = hello("b");
        later.protocol = VersionRange { min: 2, max: 3 };
        later.extensions = BTreeMap::from([(7, b"news".to_vec())]);
        let heard = decode::<Hello>(&encode(&later).expect("small")).expect("it decodes");
        assert_eq!(judge(&hello("a"), &heard), Ok(2));
        later.extensions.insert(8, vec![0; MAX_EXTENSION_BYTES + 1]);
        assert_eq!(decode::<Hello>(&encode(&later).expect("small")), Err(HelloError::TooLarge));
    }

    #[test]
    fn too_much_is_refused() {
        let mut many = hello("a");
        many.settings = (0..=MAX_SETTINGS).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(decode::<Hello>(&encode(&many).expect("encodes")), Err(HelloError::TooLarge));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Hello>(&bytes);
            let _ = decode::<HelloAnswer>(&bytes);
        }
    }
}
