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
//! replays; who has none here yet first shows that it is there ([`super::cookie`]). What does not open is dropped
//! without an answer.
//!
//! The payload is a byte that tells what it is, see [`Kind`], and the rest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};

use super::replay::{Floors, ReplayWindow};
use super::ring::{KeyId, Ring};
use super::secret::GossipRoot;
use crate::formation::ClusterId;
use crate::identity::Boot;
use crate::mutation::{Mutation, mutated};

/// The version of this format, in the low six bits of the first byte. The top two are zero: QUIC always sets `0x40`.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 37;
pub(super) const KEY_AT: Range<usize> = 1..5;
const BOOT_AT: Range<usize> = 5..29;
const COUNTER_AT: Range<usize> = 29..HEADER_BYTES;

/// What sealing adds to a payload.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + MAX_TAG_LEN;

/// The byte in front of a payload that tells its kind.
pub(crate) const KIND_BYTES: usize = 1;

/// The largest datagram that gossip sends or takes: the size that every path of QUIC must carry (RFC 9000, 14.1).
pub(crate) const MAX_DATAGRAM_BYTES: usize = 1200;

/// The shortest message of gossip: shorter ones are followed by zeros, each of which is an item of length zero, that is of
/// an unknown kind. Whatever arrives is then as large as a challenge, so everyone can be asked whether it is there.
pub(crate) const MIN_MESSAGE_BYTES: usize = super::cookie::BODY_BYTES;

/// How many senders' windows are kept: about 1 MB, and four times the cluster that this library aims at. Only who holds
/// the secret and was there gets one; past the bound the sender that was silent longest is forgotten but for its floor.
pub(crate) const MAX_SENDERS: usize = 4096;
/// How many floors are kept of those who were forgotten: 0.2 MB, and that many restarts before the oldest are confused.
const MAX_FLOORS: usize = 4096;

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
    /// Its sender is not known here, and has not shown in time that it is there.
    Unproven,
}

/// What a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message of the failure detector.
    Gossip = 0,
    /// Asks a sender whether it is there.
    Challenge = 1,
    /// It is.
    Echo = 2,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Gossip, Self::Challenge, Self::Echo].into_iter().find(|kind| *kind as u8 == byte)
    }
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

    /// The counter of the newest datagram.
    pub(crate) fn newest(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// Seals a message of gossip for the node whose boot is `to`.
    pub(crate) fn seal_gossip(&self, to: Boot, message: &[u8]) -> Vec<u8> {
        self.seal_kind(to, Kind::Gossip, message, MIN_MESSAGE_BYTES)
    }

    /// Seals what `kind` says for the node whose boot is `to`, with zeros up to `least` bytes.
    pub(crate) fn seal_kind(&self, to: Boot, kind: Kind, body: &[u8], least: usize) -> Vec<u8> {
        let body_bytes = body.len().max(least);
        let mut datagram = Vec::with_capacity(OVERHEAD_BYTES + KIND_BYTES + body_bytes);
        let aad = self.begin(to, &mut datagram);
        datagram.push(kind as u8);
        datagram.extend_from_slice(body);
        datagram.resize(HEADER_BYTES + KIND_BYTES + body_bytes, 0);
        self.finish(datagram, aad)
    }

    /// Writes the header of the next datagram. Returns the additional data.
    fn begin(&self, to: Boot, datagram: &mut Vec<u8>) -> Vec<u8> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        datagram.push(VERSION);
        datagram.extend_from_slice(&self.key_id.to_bytes());
        datagram.extend_from_slice(&self.boot.to_bytes());
        datagram.extend_from_slice(&counter.to_be_bytes());
        additional_data(datagram, to, &self.cluster)
    }

    /// Seals what follows the header.
    fn finish(&self, mut datagram: Vec<u8>, aad: Vec<u8>) -> Vec<u8> {
        let counter = u64::from_be_bytes(datagram[COUNTER_AT].try_into().expect("8 bytes"));
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

/// A datagram that opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authentic<'a> {
    /// Who sealed it.
    pub(crate) boot: Boot,
    /// Under which key.
    pub(crate) key_id: KeyId,
    pub(crate) counter: u64,
    /// Whether its sender has a window here. If not, it may be a replay, and nothing is remembered of it.
    pub(crate) is_known: bool,
    pub(crate) kind: Kind,
    pub(crate) body: &'a [u8],
}

/// Opens what was sealed for one boot of a node.
pub(crate) struct Opener {
    own: Boot,
    cluster: Box<[u8]>,
    /// Of every key of the ring.
    roots: BTreeMap<KeyId, GossipRoot>,
    most_senders: usize,
    senders: BTreeMap<Boot, Sender>,
    floors: Floors,
    opened: u64,
}

impl Opener {
    pub(crate) fn new(ring: &Ring, cluster: &str, own: Boot) -> Self {
        Self {
            own,
            cluster: cluster.as_bytes().into(),
            roots: roots(ring),
            most_senders: MAX_SENDERS,
            senders: BTreeMap::new(),
            floors: Floors::new(MAX_FLOORS),
            opened: 0,
        }
    }

    /// From now on what is sealed under a key of this ring is opened, and nothing else. Replay windows go on: they count
    /// what a boot has sent, under whichever key.
    pub(crate) fn set_ring(&mut self, ring: &Ring) {
        self.roots = roots(ring);
    }

    /// The same with room for so many senders, and for so many floors.
    #[cfg(test)]
    pub(crate) fn bounded(mut self, senders: usize, floors: usize) -> Self {
        (self.most_senders, self.floors) = (senders, Floors::new(floors));
        self
    }

    /// From now on only what was sealed with the cluster's id is opened.
    pub(crate) fn charter(&mut self, id: ClusterId) {
        self.cluster = chartered(&self.cluster, id);
    }

    /// Opens a datagram in place. What a known sender has sent is returned once; of one that is not known, nothing is
    /// remembered.
    ///
    /// # Errors
    /// Why it must be dropped. Nothing of the opener's state has then changed, unless it is malformed.
    pub(crate) fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Authentic<'a>, DropReason> {
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
        let may_be_new = known.map_or_else(|| counter > self.floors.known(boot), |s| s.window.may_be_new(counter));
        if (!may_be_new && !mutated(Mutation::TakesReplays)) || counter == 0 {
            return Err(DropReason::Replayed);
        }
        let fresh;
        let sender_key = if let Some(sender) = known.filter(|sender| sender.key_id == key_id) {
            &sender.key
        } else {
            fresh = key(root, boot);
            &fresh
        };
        let payload = sender_key.open_in_place(nonce(counter), aad, sealed).map_err(|_| DropReason::Unauthentic)?;
        let is_known = known.is_some();
        if is_known {
            self.heard(boot, key_id, counter);
        }
        let (kind, body) = payload.split_first().ok_or(DropReason::Malformed)?;
        let kind = Kind::from_byte(*kind).ok_or(DropReason::Malformed)?;
        Ok(Authentic { boot, key_id, counter, is_known, kind, body })
    }

    /// Takes note of what a known sender has sent, or one that is becoming known. Returns whether it is new.
    fn heard(&mut self, boot: Boot, key_id: KeyId, counter: u64) -> bool {
        let is_new = self.record(boot, counter);
        if let Some((sender, root)) = self.senders.get_mut(&boot).zip(self.roots.get(&key_id))
            && sender.key_id != key_id
        {
            (sender.key_id, sender.key) = (key_id, key(root, boot));
        }
        is_new
    }

    /// Takes note of what a known sender has sent, under whichever key. Returns whether it is new.
    pub(crate) fn record(&mut self, boot: Boot, counter: u64) -> bool {
        self.opened += 1;
        self.senders.get_mut(&boot).is_some_and(|sender| {
            sender.heard = self.opened;
            sender.window.record(counter)
        })
    }

    /// Opens a window for a sender that has just sent `counter`, when that is certainly its newest. Returns whether
    /// another one had to make room.
    pub(crate) fn admit(&mut self, boot: Boot, key_id: KeyId, counter: u64) -> bool {
        // What lies between may be on its way. Only if it may also have been taken, all before now counts as taken.
        let base = self.floors.possible(boot).min(counter - 1);
        self.floors.lift(boot);
        let is_full = self.senders.len() >= self.most_senders;
        if is_full
            && let Some(silent) = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(boot, _)| *boot)
            && let Some(sender) = self.senders.remove(&silent)
        {
            self.floors.raise(silent, sender.window.newest());
        }
        let window = ReplayWindow::after(base);
        if let Some(root) = self.roots.get(&key_id) {
            self.senders.insert(boot, Sender { key_id, key: key(root, boot), window, heard: 0 });
            self.record(boot, counter);
        }
        is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::Secret;
    use proptest::prelude::*;

    const A: Boot = Boot { generation: 1, nonce: 10 };
    const B: Boot = Boot { generation: 1, nonce: 20 };

    /// What is in a datagram, with a window for whoever has sent one that opens.
    fn open(opener: &mut Opener, datagram: &[u8]) -> Result<(Boot, Vec<u8>), DropReason> {
        let mut datagram = datagram.to_vec();
        let Authentic { boot, key_id, counter, is_known, body, .. } = opener.open(&mut datagram)?;
        if !is_known {
            opener.admit(boot, key_id, counter);
        }
        Ok((boot, body.to_vec()))
    }

    impl Sealer {
        /// Seals a payload that need not be one.
        fn seal_bytes(&self, to: Boot, payload: &[u8]) -> Vec<u8> {
            let mut datagram = Vec::new();
            let aad = self.begin(to, &mut datagram);
            datagram.extend_from_slice(payload);
            self.finish(datagram, aad)
        }
    }

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
        sealer.seal_kind(B, Kind::Gossip, b"before", 0);
        sealer.charter(ClusterId::new(1));
        let sealed = sealer.seal_kind(B, Kind::Gossip, b"after", 0);
        assert_eq!(sealed[COUNTER_AT.end - 1], 2, "counters go on");
        assert_eq!(open(&mut opener, &sealed), Err(DropReason::Unauthentic));
        other.charter(ClusterId::new(2));
        assert_eq!(open(&mut other, &sealed), Err(DropReason::Unauthentic));
        opener.charter(ClusterId::new(1));
        assert_eq!(open(&mut opener, &sealed), Ok((A, b"after".to_vec())));
    }

    #[test]
    fn opens_once_at_the_node_that_it_was_sealed_for() {
        let sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&ring(1), "shop", B);
        let datagram = sealer.seal_kind(B, Kind::Gossip, b"ping", 0);
        assert_eq!(datagram[0] & 0xc0, 0, "gossip is told from QUIC by its top bits");
        assert_eq!(datagram.len(), 4 + KIND_BYTES + OVERHEAD_BYTES);
        assert_eq!(open(&mut opener, &datagram), Ok((A, b"ping".to_vec())));
        assert_eq!(open(&mut opener, &datagram), Err(DropReason::Replayed));
        assert_eq!(open(&mut opener, &sealer.seal_kind(B, Kind::Gossip, b"", 0)), Ok((A, b"".to_vec())));
    }

    #[test]
    fn golden_bytes() {
        let (from, to) = (Boot { generation: 1, nonce: 1 }, Boot { generation: 1, nonce: 2 });
        let datagram = Sealer::new(&ring(7), "shop", from).seal_gossip(to, b"ping");
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format of datagrams: docs/WIRE.md");
    }

    const GOLDEN: &str = "0192e86b3800000000000000010000000000000000000000000000000100000000000000016b\
        5dde9155e27b6a4c7245624c412a51724c4b93939c95ee43538abce269ce0579e7b0b71e132991e3";

    #[test]
    fn a_wrong_secret_cluster_or_destination_does_not_open() {
        let datagram = Sealer::new(&ring(1), "shop", A).seal_kind(B, Kind::Gossip, b"ping", 0);
        assert_eq!(open(&mut Opener::new(&ring(2), "shop", B), &datagram), Err(DropReason::UnknownKey));
        let mut disguised = datagram.clone();
        disguised[KEY_AT].copy_from_slice(&secret(2).id().to_bytes());
        assert_eq!(open(&mut Opener::new(&ring(2), "shop", B), &disguised), Err(DropReason::Unauthentic));
        for mut opener in [
            Opener::new(&ring(1), "shoq", B),
            Opener::new(&ring(1), "shop", A),
            Opener::new(&ring(1), "shop", Boot { generation: 2, ..B }),
        ] {
            assert_eq!(open(&mut opener, &datagram), Err(DropReason::Unauthentic));
            assert!(opener.senders.is_empty(), "strangers get no memory");
        }
    }

    #[test]
    fn every_malformation_has_its_reason() {
        let sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&ring(1), "shop", B);
        assert_eq!(open(&mut opener, &[]), Err(DropReason::Truncated));
        assert_eq!(
            open(&mut opener, &sealer.seal_kind(B, Kind::Gossip, b"", 0)[..OVERHEAD_BYTES - 1]),
            Err(DropReason::Truncated)
        );
        assert_eq!(open(&mut opener, &sealer.seal_kind(B, Kind::Gossip, &[0; 1200], 0)), Err(DropReason::Oversized));
        let mut other = sealer.seal_kind(B, Kind::Gossip, b"x", 0);
        other[0] = 2;
        assert_eq!(open(&mut opener, &other), Err(DropReason::Version));
        let mut other = sealer.seal_kind(B, Kind::Gossip, b"x", 0);
        other[1] ^= 9;
        assert_eq!(open(&mut opener, &other), Err(DropReason::UnknownKey));
        for payload in [&[][..], &[3], &[255, 0]] {
            assert_eq!(open(&mut opener, &sealer.seal_bytes(B, payload)), Err(DropReason::Malformed), "{payload:?}");
        }
    }

    #[test]
    fn a_forged_counter_does_not_move_the_window() {
        let sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&ring(1), "shop", B);
        let (first, mut forged) =
            (sealer.seal_kind(B, Kind::Gossip, b"1", 0), sealer.seal_kind(B, Kind::Gossip, b"2", 0));
        forged[COUNTER_AT.start] = 0xff;
        assert_eq!(open(&mut opener, &forged), Err(DropReason::Unauthentic));
        assert!(open(&mut opener, &first).is_ok());
    }

    #[test]
    fn counters_and_windows_go_on_when_the_primary_changes() {
        let both = Ring::new(secret(2), [secret(1)]).expect("two keys");
        let mut sealer = Sealer::new(&ring(1), "shop", A);
        let mut opener = Opener::new(&both, "shop", B);
        let first = sealer.seal_kind(B, Kind::Gossip, b"1", 0);
        sealer.set_ring(&both);
        let second = sealer.seal_kind(B, Kind::Gossip, b"2", 0);
        assert_eq!(second[COUNTER_AT.end - 1], 2, "no nonce is used twice");
        assert_eq!(open(&mut opener, &second), Ok((A, b"2".to_vec())));
        assert_eq!(open(&mut opener, &first), Ok((A, b"1".to_vec())), "what was on its way still opens");
        assert_eq!(open(&mut opener, &first), Err(DropReason::Replayed));
        opener.set_ring(&ring(2));
        assert_eq!(open(&mut opener, &first), Err(DropReason::UnknownKey));
        assert_eq!(open(&mut opener, &second), Err(DropReason::Replayed), "the window outlives the key");
        assert_eq!(open(&mut opener, &sealer.seal_kind(B, Kind::Gossip, b"3", 0)), Ok((A, b"3".to_vec())));
    }

    #[test]
    fn senders_are_bounded() {
        let mut opener = Opener::new(&ring(1), "shop", B);
        for nonce in 0..MAX_SENDERS as u128 + 5 {
            let sealer = Sealer::new(&ring(1), "shop", Boot { generation: 3, nonce });
            assert!(open(&mut opener, &sealer.seal_kind(B, Kind::Gossip, b"x", 0)).is_ok());
        }
        assert_eq!(opener.senders.len(), MAX_SENDERS);
    }

    proptest! {
        #[test]
        fn no_byte_can_be_changed(at in 0usize..58, flip in 1u8..=255) {
            let mut opener = Opener::new(&ring(1), "shop", B);
            let mut datagram = Sealer::new(&ring(1), "shop", A).seal_kind(B, Kind::Gossip, b"ping", 0);
            datagram[at] ^= flip;
            prop_assert!(open(&mut opener, &datagram).is_err());
        }

        #[test]
        fn garbage_is_dropped(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(open(&mut Opener::new(&ring(1), "shop", B), &bytes).is_err());
        }
    }
}
