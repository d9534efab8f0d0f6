//! The sealed datagram that gossip travels in.
//!
//! ```text
//! 0          1        5               29             37
//! | 00vvvvvv | key id | sender's boot | counter (BE) | ChaCha20-Poly1305: payload, tag of 16 bytes |
//! ```
//!
//! A node seals under the primary key of its [`Ring`] and opens under any key of it. What is sealed with belongs to the
//! sender's boot and the counter is its nonce, which goes on when the primary changes, so no pair of them repeats. The additional data
//! is the header, the boot that the datagram is meant for, and the cluster's name: what was sealed for one node opens
//! at no other, in no other cluster, and in no later life of the same node. A window of 1,024 counters per sender stops
//! replays. What does not open is dropped without an answer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};

use super::replay::ReplayWindow;
use super::ring::{KeyId, Ring};
use super::secret::GossipRoot;
use crate::formation::ClusterId;
use crate::identity::Boot;

/// The version of this format, in the low six bits of the first byte. The top two are zero: QUIC always sets `0x40`.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 37;
const KEY_AT: Range<usize> = 1..5;
const BOOT_AT: Range<usize> = 5..29;
const COUNTER_AT: Range<usize> = 29..HEADER_BYTES;

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
    /// Under a key that this node does not hold.
    UnknownKey,
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
    key_id: KeyId,
    key: LessSafeKey,
    counter: AtomicU64,
}

fn key(root: &GossipRoot, boot: Boot) -> LessSafeKey {
    let bytes = root.sender_key(boot);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*bytes).expect("a key of 32 bytes"))
}

fn roots(ring: &Ring) -> BTreeMap<KeyId, GossipRoot> {
    ring.secrets().map(|(id, secret)| (id, secret.gossip_root())).collect()
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
    pub(crate) fn new(ring: &Ring, cluster: &str, boot: Boot) -> Self {
        let (key_id, secret) = ring.primary();
        Self {
            boot,
            cluster: cluster.as_bytes().into(),
            key_id,
            key: key(&secret.gossip_root(), boot),
            counter: AtomicU64::new(0),
        }
    }

    /// From now on the primary of this ring is sealed under. Counters go on.
    pub(crate) fn set_ring(&mut self, ring: &Ring) {
        let (key_id, secret) = ring.primary();
        if key_id != self.key_id {
            (self.key_id, self.key) = (key_id, key(&secret.gossip_root(), self.boot));
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
        datagram.push(VERSION);
        datagram.extend_from_slice(&self.key_id.to_bytes());
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
    /// Of the key that it has used last.
    key_id: KeyId,
    key: LessSafeKey,
    window: ReplayWindow,
    /// The opener's count of datagrams when this sender was heard last: finds who was silent longest.
    heard: u64,
}

/// Opens what was sealed for one boot of a node.
pub(crate) struct Opener {
    own: Boot,
    cluster: Box<[u8]>,
    /// Of every key of the ring.
    roots: BTreeMap<KeyId, GossipRoot>,
    senders: BTreeMap<Boot, Sender>,
    opened: u64,
}

impl Opener {
    pub(crate) fn new(ring: &Ring, cluster: &str, own: Boot) -> Self {
        Self { own, cluster: cluster.as_bytes().into(), roots: roots(ring), senders: BTreeMap::new(), opened: 0 }
    }

    /// From now on what is sealed under a key of this ring is opened, and nothing else. Replay windows go on: they count
    /// what a boot has sent, under whichever key.
    pub(crate) fn set_ring(&mut self, ring: &Ring) {
        self.roots = roots(ring);
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
        let key_id = KeyId::from_bytes(header[KEY_AT].try_into().expect("4 bytes"));
        let root = self.roots.get(&key_id).ok_or(DropReason::UnknownKey)?;
        let boot = Boot::from_bytes(header[BOOT_AT].try_into().expect("24 bytes"));
        let counter = u64::from_be_bytes(header[COUNTER_AT].try_into().expect("8 bytes"));
        let aad = Aad::from(additional_data(header, self.own, &self.cluster));

        let known = self.senders.get(&boot);
        if known.is_some_and(|sender| !sender.window.may_be_new(counter)) || counter == 0 {
            return Err(DropReason::Replayed);
        }
        let fresh;
        let sender_key = if let Some(sender) = known.filter(|sender| sender.key_id == key_id) {
            &sender.key
        } else {
            fresh = key(root, boot);
            &fresh
        };
        let payload_bytes =
            sender_key.open_in_place(nonce(counter), aad, sealed).map_err(|_| DropReason::Unauthentic)?.len();
        self.heard(boot, key_id, counter);
        Ok((boot, &sealed[..payload_bytes]))
    }

    fn heard(&mut self, boot: Boot, key_id: KeyId, counter: u64) {
        self.opened += 1;
        if self.senders.len() >= MAX_SENDERS
            && !self.senders.contains_key(&boot)
            && let Some(silent) = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(boot, _)| *boot)
        {
            self.senders.remove(&silent);
        }
        let root = &self.roots[&key_id];
        let sender = self.senders.entry(boot).or_insert_with(|| Sender {
            key_id,
            key: key(root, boot),
            window: ReplayWindow::new(),
            heard: 0,
        });
        if sender.key_id != key_id {
            (sender.key_id, sender.key) = (key_id, key(root, boot));
        }
        sender.heard = self.opened;
        sender.window.record(counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::Secret;
    use proptest::prelude::*;

    const A: Boot = Boot { generation: 1, nonce: 10 };
    const B: Boot = Boot { generation: 1, nonce: 20 };

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; 32]).expect("long enough")
    }

    fn ring(byte: u8) -> Ring {
        Ring::new(secret(byte), []).expect("one key")
    }

    #[test]
    fn whoever_belongs_to_a_cluster_that_was_formed_apart_cannot_open() {
        let (mut sealer, mut opener) = (Sealer::new(&ring(1), "shop", A), Opener::new(&ring(1), "shop", B));
        let mut other = Opener::new(&ring(1), "shop", B);
        sealer.seal(B, b"before");
        sealer.charter(ClusterId::new(1));
        let sealed = sealer.seal(B, b"after");
        assert_eq!(sealed[COUNTER_AT.end - 1], 2, "counters go on");
        assert_eq!(opener.open(&mut sealed.clone()), Err(DropReason::Unauthentic));
        other.charter(ClusterId::new(2));
        assert_eq!(other.open(&mut sealed.clone()), Err(DropReason::Unauthentic));
        opener.charter(ClusterId::new(1));
        assert_eq!(opener.open(&mut sealed.clone()), Ok((A, &b"after"[..])));
    }

    #[test]
    fn opens_once_at_the_node_that_it_was_sealed_for() {
        let sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&ring(1), "shop", B);
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
        let datagram = Sealer::new(&ring(7), "shop", from).seal(to, b"ping");
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format of datagrams: docs/WIRE.md");
    }

    const GOLDEN: &str = "0192e86b3800000000000000010000000000000000000000000000000100000000000000011b44d998715d2ccaa0d7a3224f06a132\
                          58ff2977";

    #[test]
    fn a_wrong_secret_cluster_or_destination_does_not_open() {
        let datagram = Sealer::new(&ring(1), "shop", A).seal(B, b"ping");
        assert_eq!(Opener::new(&ring(2), "shop", B).open(&mut datagram.clone()), Err(DropReason::UnknownKey));
        let mut disguised = datagram.clone();
        disguised[KEY_AT].copy_from_slice(&secret(2).id().to_bytes());
        assert_eq!(Opener::new(&ring(2), "shop", B).open(&mut disguised), Err(DropReason::Unauthentic));
        for mut opener in [
            Opener::new(&ring(1), "shoq", B),
            Opener::new(&ring(1), "shop", A),
            Opener::new(&ring(1), "shop", Boot { generation: 2, ..B }),
        ] {
            assert_eq!(opener.open(&mut datagram.clone()), Err(DropReason::Unauthentic));
            assert!(opener.senders.is_empty(), "strangers get no memory");
        }
    }

    #[test]
    fn every_malformation_has_its_reason() {
        let sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&ring(1), "shop", B);
        assert_eq!(opener.open(&mut []), Err(DropReason::Truncated));
        assert_eq!(opener.open(&mut sealer.seal(B, b"")[..OVERHEAD_BYTES - 1].to_vec()), Err(DropReason::Truncated));
        assert_eq!(opener.open(&mut sealer.seal(B, &[0; 1200])), Err(DropReason::Oversized));
        let mut other = sealer.seal(B, b"x");
        other[0] = 2;
        assert_eq!(opener.open(&mut other), Err(DropReason::Version));
        let mut other = sealer.seal(B, b"x");
        other[1] ^= 9;
        assert_eq!(opener.open(&mut other), Err(DropReason::UnknownKey));
    }

    #[test]
    fn a_forged_counter_does_not_move_the_window() {
        let sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&ring(1), "shop", B);
        let (first, mut forged) = (sealer.seal(B, b"1"), sealer.seal(B, b"2"));
        forged[COUNTER_AT.start] = 0xff;
        assert_eq!(opener.open(&mut forged), Err(DropReason::Unauthentic));
        assert!(opener.open(&mut first.clone()).is_ok());
    }

    #[test]
    fn counters_and_windows_go_on_when_the_primary_changes() {
        let both = Ring::new(secret(2), [secret(1)]).expect("two keys");
        let mut sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&both, "shop", B);
        let first = sealer.seal(B, b"1");
        sealer.set_ring(&both);
        let second = sealer.seal(B, b"2");
        assert_eq!(second[COUNTER_AT.end - 1], 2, "no nonce is used twice");
        assert_eq!(opener.open(&mut second.clone()), Ok((A, &b"2"[..])));
        assert_eq!(opener.open(&mut first.clone()), Ok((A, &b"1"[..])), "what was on its way still opens");
        assert_eq!(opener.open(&mut first.clone()), Err(DropReason::Replayed));
        opener.set_ring(&ring(2));
        assert_eq!(opener.open(&mut first.clone()), Err(DropReason::UnknownKey));
        assert_eq!(opener.open(&mut second.clone()), Err(DropReason::Replayed), "the window outlives the key");
        assert_eq!(opener.open(&mut sealer.seal(B, b"3")), Ok((A, &b"3"[..])));
    }

    #[test]
    fn senders_are_bounded() {
        let mut opener = Opener::new(&ring(1), "shop", B);
        for nonce in 0..MAX_SENDERS as u128 + 5 {
            let sealer = Sealer::new(&ring(1), "shop", Boot { generation: 3, nonce });
            assert!(opener.open(&mut sealer.seal(B, b"x")).is_ok());
        }
        assert_eq!(opener.senders.len(), MAX_SENDERS);
    }

    proptest! {
        #[test]
        fn no_byte_can_be_changed(at in 0usize..57, flip in 1u8..=255) {
            let mut opener = Opener::new(&ring(1), "shop", B);
            let mut datagram = Sealer::new(&ring(1), "shop", A).seal(B, b"ping");
            datagram[at] ^= flip;
            prop_assert!(opener.open(&mut datagram).is_err());
        }

        #[test]
        fn garbage_is_dropped(mut bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(Opener::new(&ring(1), "shop", B).open(&mut bytes).is_err());
        }
    }
}
