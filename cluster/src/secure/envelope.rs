//! The sealed datagram that gossip travels in.
//!
//! ```text
//! 0       1          2               26             34
//! | 00vvvvvv | key epoch | sender's boot | counter (BE) | ChaCha20-Poly1305: payload, tag of 16 bytes |
//! ```
//!
//! The key belongs to the sender's boot and the counter is its nonce, so no pair of them repeats. The additional data
//! is the header, the boot that the datagram is meant for, and the cluster's name: what was sealed for one node opens
//! at no other, in no other cluster, and in no later life of the same node. A window of 1,024 counters per sender stops
//! replays. What does not open is dropped without an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};

use super::Secret;
use super::replay::ReplayWindow;
use super::secret::GossipRoot;
use crate::formation::ClusterId;
use crate::identity::Boot;

/// The version of this format, in the low six bits of the first byte. The top two are zero: QUIC always sets `0x40`.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 34;

/// What sealing adds to a payload.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + MAX_TAG_LEN;

/// The largest datagram that gossip sends or takes: the size that every path of QUIC must carry (RFC 9000, 14.1).
pub(crate) const MAX_DATAGRAM_BYTES: usize = 1200;

/// How many senders' windows are kept: about 0.5 MB, and four times the cluster that this library aims at. Only who holds
/// the secret gets one; past the bound the sender that was silent longest is forgotten.
const MAX_SENDERS: usize = 4096;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Too short to be sealed.
    Truncated,
    /// Larger than any that a node sends.
    Oversized,
    /// Of a version that this build does not speak.
    Version,
    /// Under a key epoch that this node does not hold.
    KeyEpoch,
    /// It did not open: not from a holder of the secret, changed on the way, or meant for another node or cluster.
    Unauthentic,
    /// It was taken before, or is older than the replay window.
    Replayed,
    /// It opened, and its content is not a message.
    Malformed,
    /// The node's queue of datagrams was full.
    Overload,
}

/// Seals what one boot of a node sends.
pub(crate) struct Sealer {
    boot: Boot,
    cluster: Box<[u8]>,
    epoch: u8,
    key: LessSafeKey,
    counter: AtomicU64,
}

fn key(root: &GossipRoot, boot: Boot) -> LessSafeKey {
    let bytes = root.sender_key(boot);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*bytes).expect("a key of 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn additional_data(header: &[u8], to: Boot, cluster: &[u8]) -> Vec<u8> {
    [header, &to.to_bytes(), cluster].concat()
}

/// What tells clusters apart in the additional data, once a cluster has an id: its name, a zero byte and the id.
fn chartered(cluster: &[u8], id: ClusterId) -> Box<[u8]> {
    [cluster, &[0], &id.to_bytes()].concat().into()
}

impl Sealer {
    pub(crate) fn new(secret: &Secret, cluster: &str, boot: Boot) -> Self {
        let epoch = 0;
        Self {
            boot,
            cluster: cluster.as_bytes().into(),
            epoch,
            key: key(&secret.gossip_root(epoch), boot),
            counter: AtomicU64::new(0),
        }
    }

    /// From now on only those can open who know the id of the cluster too. Counters go on: no nonce is used twice.
    pub(crate) fn charter(&mut self, id: ClusterId) {
        self.cluster = chartered(&self.cluster, id);
    }

    /// Seals `payload` for the node whose boot is `to`.
    pub(crate) fn seal(&self, to: Boot, payload: &[u8]) -> Vec<u8> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        let mut datagram = Vec::with_capacity(payload.len() + OVERHEAD_BYTES);
        datagram.extend_from_slice(&[VERSION, self.epoch]);
        datagram.extend_from_slice(&self.boot.to_bytes());
        datagram.extend_from_slice(&counter.to_be_bytes());
        let aad = additional_data(&datagram, to, &self.cluster);
        datagram.extend_from_slice(payload);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), &mut datagram[HEADER_BYTES..])
            .expect("a datagram is far shorter than the cipher's limit");
        datagram.extend_from_slice(tag.as_ref());
        datagram
    }
}

struct Sender {
    key: LessSafeKey,
    window: ReplayWindow,
    /// The opener's count of datagrams when this sender was heard last: finds who was silent longest.
    heard: u64,
}

/// Opens what was sealed for one boot of a node.
pub(crate) struct Opener {
    own: Boot,
    cluster: Box<[u8]>,
    epoch: u8,
    root: GossipRoot,
    senders: BTreeMap<Boot, Sender>,
    opened: u64,
}

impl Opener {
    pub(crate) fn new(secret: &Secret, cluster: &str, own: Boot) -> Self {
        let epoch = 0;
        Self {
            own,
            cluster: cluster.as_bytes().into(),
            epoch,
            root: secret.gossip_root(epoch),
            senders: BTreeMap::new(),
            opened: 0,
        }
    }

    /// From now on only what was sealed with the cluster's id is opened.
    pub(crate) fn charter(&mut self, id: ClusterId) {
        self.cluster = chartered(&self.cluster, id);
    }

    /// Opens a datagram in place. Returns who sealed it, and its payload.
    ///
    /// # Errors
    /// Why it must be dropped. Nothing of the opener's state has then changed.
    pub(crate) fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<(Boot, &'a [u8]), DropReason> {
        if datagram.len() > MAX_DATAGRAM_BYTES {
            return Err(DropReason::Oversized);
        }
        if datagram.len() < OVERHEAD_BYTES {
            return Err(DropReason::Truncated);
        }
        let (header, sealed) = datagram.split_at_mut(HEADER_BYTES);
        if header[0] != VERSION {
            return Err(DropReason::Version);
        }
        if header[1] != self.epoch {
            return Err(DropReason::KeyEpoch);
        }
        let boot = Boot::from_bytes(header[2..26].try_into().expect("24 bytes"));
        let counter = u64::from_be_bytes(header[26..34].try_into().expect("8 bytes"));
        let aad = Aad::from(additional_data(header, self.own, &self.cluster));

        let known = self.senders.get(&boot);
        if known.is_some_and(|sender| !sender.window.may_be_new(counter)) || counter == 0 {
            return Err(DropReason::Replayed);
        }
        let fresh;
        let sender_key = if let Some(sender) = known {
            &sender.key
        } else {
            fresh = key(&self.root, boot);
            &fresh
        };
        let payload_bytes =
            sender_key.open_in_place(nonce(counter), aad, sealed).map_err(|_| DropReason::Unauthentic)?.len();
        self.heard(boot, counter);
        Ok((boot, &sealed[..payload_bytes]))
    }

    fn heard(&mut self, boot: Boot, counter: u64) {
        self.opened += 1;
        if self.senders.len() >= MAX_SENDERS
            && !self.senders.contains_key(&boot)
            && let Some(silent) = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(boot, _)| *boot)
        {
            self.senders.remove(&silent);
        }
        let root = &self.root;
        let sender = self.senders.entry(boot).or_insert_with(|| Sender {
            key: key(root, boot),
            window: ReplayWindow::new(),
            heard: 0,
        });
        sender.heard = self.opened;
        sender.window.record(counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Boot = Boot { generation: 1, nonce: 10 };
    const B: Boot = Boot { generation: 1, nonce: 20 };

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; 32]).expect("long enough")
    }

    #[test]
    fn whoever_belongs_to_a_cluster_that_was_formed_apart_cannot_open() {
        let (mut sealer, mut opener) = (Sealer::new(&secret(1), "shop", A), Opener::new(&secret(1), "shop", B));
        let mut other = Opener::new(&secret(1), "shop", B);
        sealer.seal(B, b"before");
        sealer.charter(ClusterId::new(1));
        let sealed = sealer.seal(B, b"after");
        assert_eq!(sealed[33], 2, "counters go on");
        assert_eq!(opener.open(&mut sealed.clone()), Err(DropReason::Unauthentic));
        other.charter(ClusterId::new(2));
        assert_eq!(other.open(&mut sealed.clone()), Err(DropReason::Unauthentic));
        opener.charter(ClusterId::new(1));
        assert_eq!(opener.open(&mut sealed.clone()), Ok((A, &b"after"[..])));
    }

    #[test]
    fn opens_once_at_the_node_that_it_was_sealed_for() {
        let sealer = Sealer::new(&secret(1), "shop", A);
        let mut opener = Opener::new(&secret(1), "shop", B);
        let datagram = sealer.seal(B, b"ping");
        assert_eq!(datagram[0] & 0xc0, 0, "gossip is told from QUIC by its top bits");
        assert_eq!(datagram.len(), 4 + OVERHEAD_BYTES);
        assert_eq!(opener.open(&mut datagram.clone()), Ok((A, &b"ping"[..])));
        assert_eq!(opener.open(&mut datagram.clone()), Err(DropReason::Replayed));
        assert_eq!(opener.open(&mut sealer.seal(B, b"")), Ok((A, &b""[..])));
    }

    #[test]
    fn golden_bytes() {
        let (from, to) = (Boot { generation: 1, nonce: 1 }, Boot { generation: 1, nonce: 2 });
        let datagram = Sealer::new(&secret(7), "shop", from).seal(to, b"ping");
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format of datagrams: docs/WIRE.md");
    }

    const GOLDEN: &str = "01000000000000000001000000000000000000000000000000010000000000000001f58035ccc4f8f1960bba1af3acfa5b5e\
                          4afb7166";

    #[test]
    fn a_wrong_secret_cluster_or_destination_does_not_open() {
        let datagram = Sealer::new(&secret(1), "shop", A).seal(B, b"ping");
        for mut opener in [
            Opener::new(&secret(2), "shop", B),
            Opener::new(&secret(1), "shoq", B),
            Opener::new(&secret(1), "shop", A),
            Opener::new(&secret(1), "shop", Boot { generation: 2, ..B }),
        ] {
            assert_eq!(opener.open(&mut datagram.clone()), Err(DropReason::Unauthentic));
            assert!(opener.senders.is_empty(), "strangers get no memory");
        }
    }

    #[test]
    fn every_malformation_has_its_reason() {
        let sealer = Sealer::new(&secret(1), "shop", A);
        let mut opener = Opener::new(&secret(1), "shop", B);
        assert_eq!(opener.open(&mut []), Err(DropReason::Truncated));
        assert_eq!(opener.open(&mut sealer.seal(B, b"")[..OVERHEAD_BYTES - 1].to_vec()), Err(DropReason::Truncated));
        assert_eq!(opener.open(&mut sealer.seal(B, &[0; 1200])), Err(DropReason::Oversized));
        let mut other = sealer.seal(B, b"x");
        other[0] = 2;
        assert_eq!(opener.open(&mut other), Err(DropReason::Version));
        let mut other = sealer.seal(B, b"x");
        other[1] = 9;
        assert_eq!(opener.open(&mut other), Err(DropReason::KeyEpoch));
    }

    #[test]
    fn a_forged_counter_does_not_move_the_window() {
        let sealer = Sealer::new(&secret(1), "shop", A);
        let mut opener = Opener::new(&secret(1), "shop", B);
        let (first, mut forged) = (sealer.seal(B, b"1"), sealer.seal(B, b"2"));
        forged[26] = 0xff;
        assert_eq!(opener.open(&mut forged), Err(DropReason::Unauthentic));
        assert!(opener.open(&mut first.clone()).is_ok());
    }

    #[test]
    fn senders_are_bounded() {
        let mut opener = Opener::new(&secret(1), "shop", B);
        for nonce in 0..MAX_SENDERS as u128 + 5 {
            let sealer = Sealer::new(&secret(1), "shop", Boot { generation: 3, nonce });
            assert!(opener.open(&mut sealer.seal(B, b"x")).is_ok());
        }
        assert_eq!(opener.senders.len(), MAX_SENDERS);
    }

    proptest! {
        #[test]
        fn no_byte_can_be_changed(at in 0usize..54, flip in 1u8..=255) {
            let mut opener = Opener::new(&secret(1), "shop", B);
            let mut datagram = Sealer::new(&secret(1), "shop", A).seal(B, b"ping");
            datagram[at] ^= flip;
            prop_assert!(opener.open(&mut datagram).is_err());
        }

        #[test]
        fn garbage_is_dropped(mut bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(Opener::new(&secret(1), "shop", B).open(&mut bytes).is_err());
        }
    }
}
