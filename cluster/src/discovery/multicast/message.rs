//! What is asked and answered on the LAN. Pure.
//!
//! ```text
//! question   | 0x01 | nonce (16) | padding (47)                | HMAC (32) |     96 bytes
//! answer     | 0x02 | nonce (12) | address (18), sealed | tag (16) |           47 bytes
//! ```
//!
//! The HMAC of a question covers where it was sent from, so that a copy of it makes nobody answer to anyone else. An
//! answer is sealed under a key of its question's nonce: it answers that question and no other, and tells nothing to
//! whoever does not hold the secret. The name of the cluster is in the keys.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroizing;

use crate::secure::Secret;

const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const NONCE_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
const SEALED_NONCE_BYTES: usize = 12;
const ADDR_BYTES: usize = 18;
const TAG_BYTES: usize = 16;

/// How long a question is: padded, so that no answer is longer.
pub(super) const QUESTION_BYTES: usize = 96;
/// How long an answer is.
pub(super) const ANSWER_BYTES: usize = 1 + SEALED_NONCE_BYTES + ADDR_BYTES + TAG_BYTES;
const _: () = assert!(ANSWER_BYTES <= QUESTION_BYTES);
const _: () = assert!(1 + NONCE_BYTES + MAC_BYTES <= QUESTION_BYTES);

/// What follows from a cluster's secret and name for the LAN.
pub(super) struct Keys {
    questions: hmac::Key,
    answers: hmac::Key,
}

impl Keys {
    pub(super) fn new(secret: &Secret, cluster: &str) -> Self {
        let key = |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, &*secret.lan_key(purpose, cluster));
        Self { questions: key(b"question"), answers: key(b"answer") }
    }

    /// The key under which one question is answered.
    fn of_answers(&self, question: &Question) -> LessSafeKey {
        let bytes = Zeroizing::new(hmac::sign(&self.answers, &question.nonce).as_ref().to_vec());
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("SHA-256 gives 32 bytes"))
    }
}

/// A question for nodes of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) nonce: [u8; NONCE_BYTES],
    /// From where it is asked.
    pub(super) from: SocketAddr,
}

impl Question {
    pub(super) fn seal(&self, keys: &Keys) -> [u8; QUESTION_BYTES] {
        let mut bytes = [0; QUESTION_BYTES];
        bytes[0] = QUESTION;
        bytes[1..=NONCE_BYTES].copy_from_slice(&self.nonce);
        let (body, mac) = bytes.split_at_mut(QUESTION_BYTES - MAC_BYTES);
        mac.copy_from_slice(hmac::sign(&keys.questions, &authenticated(body, self.from)).as_ref());
        bytes
    }

    /// What was asked from there, if one of the cluster has asked it.
    pub(super) fn open(keys: &Keys, bytes: &[u8], from: SocketAddr) -> Option<Self> {
        if bytes.len() != QUESTION_BYTES || bytes[0] != QUESTION {
            return None;
        }
        let (body, mac) = bytes.split_at(QUESTION_BYTES - MAC_BYTES);
        hmac::verify(&keys.questions, &authenticated(body, from), mac).ok()?;
        let nonce = body[1..=NONCE_BYTES].try_into().expect("16 bytes");
        Some(Self { nonce, from })
    }
}

fn authenticated(body: &[u8], from: SocketAddr) -> Vec<u8> {
    [body, &addr_to_bytes(from)].concat()
}

fn addr_to_bytes(addr: SocketAddr) -> [u8; ADDR_BYTES] {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ADDR_BYTES];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&addr.port().to_be_bytes());
    bytes
}

fn addr_from_bytes(bytes: [u8; ADDR_BYTES]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), u16::from_be_bytes([bytes[16], bytes[17]]))
}

/// Says where a node listens. `nonce` is random: several nodes answer one question.
pub(super) fn seal_answer(
    keys: &Keys,
    question: &Question,
    addr: SocketAddr,
    nonce: [u8; SEALED_NONCE_BYTES],
) -> [u8; ANSWER_BYTES] {
    let mut bytes = [0; ANSWER_BYTES];
    bytes[0] = ANSWER;
    bytes[1..=SEALED_NONCE_BYTES].copy_from_slice(&nonce);
    let (body, tag) = bytes[1 + SEALED_NONCE_BYTES..].split_at_mut(ADDR_BYTES);
    body.copy_from_slice(&addr_to_bytes(addr));
    let sealed = keys
        .of_answers(question)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from([ANSWER]), body)
        .expect("an address is far shorter than the cipher's limit");
    tag.copy_from_slice(sealed.as_ref());
    bytes
}

/// Where a node listens that has answered this question.
pub(super) fn open_answer(keys: &Keys, question: &Question, bytes: &mut [u8]) -> Option<SocketAddr> {
    if bytes.len() != ANSWER_BYTES || bytes[0] != ANSWER {
        return None;
    }
    let (head, sealed) = bytes.split_at_mut(1 + SEALED_NONCE_BYTES);
    let nonce = Nonce::try_assume_unique_for_key(&head[1..]).ok()?;
    let opened = keys.of_answers(question).open_in_place(nonce, Aad::from([ANSWER]), sealed).ok()?;
    Some(addr_from_bytes((&*opened).try_into().ok()?))
}
