//! What nodes say to each other about topics.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::rpc::{Blob, Lane, Method};

/// Messages of topics to whose subscribers the receiver belongs; the answer has one word for each item.
pub(crate) const TOPIC: Method<Batch, Vec<Ack>> = Method::new(7, "cluster.topic", Lane::Call);
/// Tells a node of a subscription, for a subscriber that wants to be certain; the answer is the sequence from which on the
/// node sends what it publishes.
pub(crate) const TOPIC_SUBSCRIBED: Method<Subscribed, u64> = Method::new(8, "cluster.topic_subscribed", Lane::Call);

/// The most items of a batch: what more would be is the next batch.
pub(super) const MAX_ITEMS: usize = 1024;
/// The most messages of a batch.
pub(super) const MAX_MESSAGES: usize = 1024;
/// How many bytes of messages go into a batch; a single larger one is sent alone. 64 KiB: half a millisecond of a link of
/// 1 Gbit/s, so that others on the lane do not wait longer.
pub(super) const BATCH_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Item>,
}

impl Batch {
    /// Whether there is no more in it than a batch may have. Empty messages cost a byte on the way and much more here.
    pub(super) fn is_within_limits(&self) -> bool {
        let messages = self.items.iter().map(|item| item.lengths.len()).sum::<usize>();
        self.items.len() <= MAX_ITEMS && messages <= MAX_MESSAGES
    }
}

/// Messages of one topic that follow each other, or none: then it only says what the numbers say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(super) topic: String,
    /// The subscription that it is for.
    pub(super) epoch: u64,
    /// Since which sequence the publisher knows of it.
    pub(super) begin: u64,
    /// Nothing below this will come any more.
    pub(super) floor: u64,
    /// The sequence of the first message.
    pub(super) first: u64,
    lengths: Vec<u32>,
    bytes: Blob,
}

impl Item {
    pub(super) fn new(topic: &str, epoch: u64, begin: u64, floor: u64, first: u64, messages: &[Bytes]) -> Self {
        let lengths = messages.iter().map(|message| message.len() as u32).collect();
        let bytes = messages.concat().into();
        Self { topic: topic.to_owned(), epoch, begin, floor, first, lengths, bytes }
    }

    /// The messages; `None` if the lengths are not those of the bytes.
    pub(super) fn messages(&self) -> Option<Vec<Bytes>> {
        let mut rest = &self.bytes.0[..];
        let mut messages = Vec::new();
        for length in &self.lengths {
            let (message, more) = rest.split_at_checked(*length as usize)?;
            // A copy, so that one that is kept does not keep the whole batch.
            messages.push(Bytes::copy_from_slice(message));
            rest = more;
        }
        rest.is_empty().then_some(messages)
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ack {
    /// All below this has been taken, or will never come.
    Next(u64),
    /// There is no such subscription here, or not any more.
    Unknown,
    /// There is no room for another publisher now.
    Busy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscribed {
    pub(super) topic: String,
    pub(super) epoch: u64,
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let messages = [Bytes::from_static(b"ab"), Bytes::from_static(b""), Bytes::from_static(b"c")];
        let batch = Batch { items: vec![Item::new("t", 2, 3, 4, 300, &messages)] };
        let bytes = postcard::to_allocvec(&batch).expect("it encodes");
        assert_eq!(bytes, [1, 1, b't', 2, 3, 4, 0xac, 2, 3, 2, 0, 1, 3, b'a', b'b', b'c']);
        let back: Batch = postcard::from_bytes(&bytes).expect("it decodes");
        assert_eq!(back.items[0].messages().as_deref(), Some(&messages[..]));
        let acks = postcard::to_allocvec(&vec![Ack::Next(300), Ack::Unknown, Ack::Busy]).expect("it encodes");
        assert_eq!(acks, [3, 0, 0xac, 2, 1, 2]);
        let subscribed = Subscribed { topic: "t".to_owned(), epoch: 2 };
        assert_eq!(postcard::to_allocvec(&subscribed).expect("it encodes"), [1, b't', 2]);
    }

    #[test]
    fn a_frame_of_nothing_but_empty_messages_is_refused_before_it_is_taken_apart() {
        let mut item = Item::new("t", 1, 1, 1, 1, &[]);
        item.lengths = vec![0; 4 << 20];
        let bytes = postcard::to_allocvec(&Batch { items: vec![item.clone()] }).expect("it encodes");
        let batch: Batch = postcard::from_bytes(&bytes).expect("it decodes");
        assert!(!batch.is_within_limits());
        // Together they are too many too.
        item.lengths = vec![0; MAX_MESSAGES];
        assert!(Batch { items: vec![item.clone()] }.is_within_limits());
        assert!(!Batch { items: vec![item.clone(), Item::new("u", 1, 1, 1, 1, &[Bytes::new()])] }.is_within_limits());
        assert!(!Batch { items: vec![Item::new("t", 1, 1, 1, 1, &[]); MAX_ITEMS + 1] }.is_within_limits());
    }

    #[test]
    fn lengths_that_are_not_those_of_the_bytes_are_noticed() {
        let mut item = Item::new("t", 1, 1, 1, 1, &[Bytes::from_static(b"abc")]);
        item.lengths = vec![2];
        assert_eq!(item.messages(), None);
        item.lengths = vec![2, u32::MAX];
        assert_eq!(item.messages(), None);
    }
}
