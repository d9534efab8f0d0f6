//! The bytes of gossip: what one datagram says, under the seal that names its sender's boot.
//!
//! ```text
//! | sender: name, rejoin, address, incarnation | message | item | item | …      each item: its length, then it
//! ```
//!
//! All is `postcard`. An item of a kind that this build does not know is skipped by its length, so a later version may add
//! kinds. Golden bytes: `tests::golden_bytes` and docs/WIRE.md.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::handle::{Brief, Handle, Known};
use super::member::{Member, State};
use crate::buckets::NameKey;
use crate::identity::{Boot, NameError};
use crate::secure::envelope::{KIND_BYTES, MAX_DATAGRAM_BYTES, OVERHEAD_BYTES};
use crate::state::Entry;

/// What a payload of gossip may hold.
pub(super) const MAX_PAYLOAD_BYTES: usize = MAX_DATAGRAM_BYTES - OVERHEAD_BYTES - KIND_BYTES;
/// The largest item: two of them and a header with the longest name fit into a datagram.
pub(super) const MAX_ITEM_BYTES: usize = MAX_PAYLOAD_BYTES / 2;

/// What a datagram is for, besides the items that it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// Answer with an ack of this number.
    Ping(u32),
    /// The one who was pinged, directly or for another, is there.
    Ack(u32),
    /// The one who was to be pinged for another has not answered yet; whoever says so is there (Lifeguard, section IV-A).
    Nack(u32),
    /// Ping this life of this name and pass its ack on.
    PingReq { number: u32, target: NameKey, boot: Boot },
    /// There are items and nothing else.
    Gossip,
}

/// Who sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Header<'a> {
    #[serde(borrow)]
    pub(super) name: &'a str,
    pub(super) rejoin: u32,
    pub(super) addr: SocketAddr,
    pub(super) incarnation: u32,
    pub(super) message: Message,
}

/// Something that is spread, as it is encoded.
#[derive(Serialize)]
enum Encoded<'a> {
    Alive(&'a Handle, u32),
    Suspect(&'a Handle, u32, NameKey),
    Down(&'a Handle, u32, NameKey),
    Entry(&'a Entry),
}

/// The same as it is decoded.
#[derive(Deserialize)]
enum Decoded<'a> {
    Alive(#[serde(borrow)] Brief<'a>, u32),
    Suspect(#[serde(borrow)] Brief<'a>, u32, NameKey),
    Down(#[serde(borrow)] Brief<'a>, u32, NameKey),
    Entry(Entry),
}

/// Something that was spread.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    /// What is said of a member, and by whom: its accuser, or who has declared it down. Of one that is alive, itself.
    Member(Member, NameKey),
    /// An entry of node state.
    Entry(Entry),
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error(transparent)]
    Postcard(#[from] postcard::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("an item goes beyond the end")]
    Truncated,
}

/// What is said of a member, with its length in front.
pub(super) fn member_item(member: &Member, by: NameKey) -> Arc<[u8]> {
    let (id, incarnation) = (member.id(), member.incarnation());
    let encoded = match member.state() {
        State::Alive => Encoded::Alive(id, incarnation),
        State::Suspect => Encoded::Suspect(id, incarnation, by),
        State::Down => Encoded::Down(id, incarnation, by),
    };
    item(&encoded).expect("a member is far shorter than half a datagram")
}

/// An entry of node state, with its length in front; `None` if it is too long to be spread.
pub(super) fn entry_item(entry: &Entry) -> Option<Arc<[u8]>> {
    item(&Encoded::Entry(entry))
}

fn item(encoded: &Encoded<'_>) -> Option<Arc<[u8]>> {
    let body = postcard::to_allocvec(encoded).ok()?;
    let length = u16::try_from(body.len()).ok()?;
    let mut framed = postcard::to_allocvec(&length).ok()?;
    framed.extend_from_slice(&body);
    (framed.len() <= MAX_ITEM_BYTES).then(|| framed.into())
}

/// A header as the beginning of a payload.
pub(super) fn begin(header: &Header<'_>) -> Vec<u8> {
    let out = Vec::with_capacity(MAX_PAYLOAD_BYTES);
    postcard::to_extend(header, out).expect("a header has a bounded name and some numbers")
}

/// Who sends what, and the bytes of the items.
pub(super) fn header(payload: &[u8]) -> Result<(Header<'_>, &[u8]), MessageError> {
    Ok(postcard::take_from_bytes::<Header<'_>>(payload)?)
}

/// The next item, and what comes after it. `None` for one of an unknown kind.
pub(super) fn next_item<'a>(bytes: &'a [u8], known: &Known) -> Result<(Option<Item>, &'a [u8]), MessageError> {
    let (length, rest) = postcard::take_from_bytes::<u16>(bytes)?;
    let (body, rest) = rest.split_at_checked(length.into()).ok_or(MessageError::Truncated)?;
    let Ok(decoded) = postcard::from_bytes::<Decoded<'_>>(body) else { return Ok((None, rest)) };
    let member = |id: Brief<'_>, incarnation, state| -> Result<Member, NameError> {
        Ok(Member::new(id.resolve(known)?, incarnation, state))
    };
    let item = match decoded {
        Decoded::Alive(id, incarnation) => {
            let member = member(id, incarnation, State::Alive)?;
            let by = member.id().key();
            Item::Member(member, by)
        }
        Decoded::Suspect(id, incarnation, by) => Item::Member(member(id, incarnation, State::Suspect)?, by),
        Decoded::Down(id, incarnation, by) => Item::Member(member(id, incarnation, State::Down)?, by),
        Decoded::Entry(entry) if entry.is_within_limits() => Item::Entry(entry),
        Decoded::Entry(_) => return Ok((None, rest)),
    };
    Ok((Some(item), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, NodeId, NodeName};
    use crate::state::Fields;
    use proptest::prelude::*;

    fn handle(name: &str) -> Handle {
        let node = NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 2, nonce: 3 } };
        Identity { node, rejoin: 1, addr: "127.0.0.1:7946".parse().expect("an address") }.into()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn entry(value: usize) -> Entry {
        let node = handle("n1").node.clone();
        Fields { name: node.name, boot: node.boot, key: "k".to_owned(), version: 4, value: vec![7; value] }.into()
    }

    fn example(message: Message) -> Vec<u8> {
        let addr = "127.0.0.1:7946".parse().expect("an address");
        begin(&Header { name: "n1", rejoin: 0, addr, incarnation: 5, message })
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = example(Message::Ping(300));
        bytes.extend_from_slice(&member_item(&Member::new(handle("n2"), 6, State::Suspect), NameKey::of("n3")));
        bytes.extend_from_slice(&entry_item(&entry(2)).expect("short"));
        assert_eq!(hex(&bytes), GOLDEN, "the format of gossip: docs/WIRE.md");
    }

    const GOLDEN: &str =
        "026e3100007f0000018a3e0500ac021701026e32020301007f0000018a3e0673ac1cbd0c541fe90c03026e310203016b04020707";

    #[test]
    fn items_survive_their_bytes_and_unknown_ones_are_skipped() {
        let known = Known::default();
        let says = |state| Member::new(handle("n2"), 6, state);
        let by = NameKey::of("n3");
        let items = [
            Item::Member(says(State::Alive), says(State::Alive).id().key()),
            Item::Member(says(State::Suspect), by),
            Item::Member(says(State::Down), by),
            Item::Entry(entry(9)),
        ];
        let mut bytes = Vec::new();
        for item in &items {
            bytes.extend_from_slice(&[2, 99, 0]);
            match item {
                Item::Member(member, by) => bytes.extend_from_slice(&member_item(member, *by)),
                Item::Entry(entry) => bytes.extend_from_slice(&entry_item(entry).expect("short")),
            }
        }
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (item, after) = next_item(rest, &known).expect("well formed");
            found.extend(item);
            rest = after;
        }
        assert_eq!(found, items);
        assert!(matches!(next_item(&[9, 0], &known), Err(MessageError::Truncated)));
        assert!(entry_item(&entry(MAX_ITEM_BYTES)).is_none(), "what is long is left to push-pull");
    }

    #[test]
    fn the_longest_names_fit() {
        let long = "x".repeat(crate::identity::MAX_NAME_BYTES);
        let addr = "[ffff::1]:65535".parse().expect("an address");
        let boot = Boot { generation: u64::MAX, nonce: u128::MAX };
        let message = Message::PingReq { number: u32::MAX, target: NameKey::of("t"), boot };
        let header = Header { name: &long, rejoin: u32::MAX, addr, incarnation: u32::MAX, message };
        let node = NodeId { name: NodeName::new(&long).expect("valid"), boot };
        let id = Identity { node, rejoin: u32::MAX, addr };
        let item = member_item(&Member::new(id.into(), u32::MAX, State::Suspect), NameKey::of("t"));
        assert!(begin(&header).len() + 3 * item.len() <= MAX_PAYLOAD_BYTES);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let known = Known::default();
            let _ = header(&bytes);
            let mut rest = &bytes[..];
            while let Ok((_, after)) = next_item(rest, &known) {
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }
    }
}
