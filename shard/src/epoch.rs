//! Epochs: the order in which the owners of a shard supersede each other (promise H3).
//!
//! **Idea.** An epoch is a counter, and the boot that owns the shard under it. Ordered by counter, then by name, then by
//! boot, so any two epochs are comparable, and no two boots ever have the same one. An owner chooses one above all that
//! it knows of the shard; two that choose at once, without knowing of each other, differ in their names, and the greater
//! name wins, everywhere alike. Epochs only grow: of two that a node has heard of it keeps the greater.
//!
//! An epoch names its owner, so a claim is a shard and an epoch and nothing that could contradict it.
//!
//! **Fencing.** Every effect of an owner carries its epoch, and whoever knows a greater one refuses it
//! ([`Fence`](crate::claims::Fence)). Source: the sequencers of Burrows, "The Chubby lock service" (OSDI 2006), section
//! 2.4, with a total order in the place of a lock server; the ballots of Lamport, "The part-time parliament" (1998).
//!
//! **Who gives them out.** With *available* ownership each node does so itself ([`LocalAuthority`]): both sides of a split
//! go on, and the greater epoch wins when they meet. With *strict* ownership an [`EpochAuthority`] that knows of a
//! consensus does; this crate only says what it must promise.

use std::fmt;

use polity_cluster::{BoxFuture, NodeId};
use serde::{Deserialize, Serialize};

use crate::ShardId;

/// Under which a boot owns a shard. Ordered by counter, name and boot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Grows by one or more from owner to owner. The first is 1.
    pub counter: u64,
    /// The boot that owns the shard under this epoch: its name, then its life.
    pub owner: NodeId,
}

impl Epoch {
    /// The least epoch of `owner` that is above `after`, whatever the names: its counter is one more, or 1. `None` if
    /// counters are exhausted, which takes 2⁶⁴ changes of one shard's owner.
    #[must_use]
    pub fn next(after: Option<&Self>, owner: &NodeId) -> Option<Self> {
        let counter = after.map_or(0, |epoch| epoch.counter).checked_add(1)?;
        Some(Self { counter, owner: owner.clone() })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.counter, self.owner)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why no epoch was given. The shard is claimed by nobody new; trying again later is right for all but `Exhausted`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EpochError {
    /// There are no greater counters.
    #[error("the epochs of the shard are exhausted")]
    Exhausted,
    /// The authority could not be asked, or did not answer. It may have given an epoch out that nobody will use.
    #[error("the authority for epochs does not answer: {0}")]
    Unavailable(String),
    /// The authority has decided for somebody else.
    #[error("the shard is granted to another owner, under {0}")]
    Granted(Epoch),
}

impl EpochError {
    /// Whether asking again can help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Exhausted)
    }
}

/// Gives out the epochs under which shards are owned.
///
/// # What it must promise
/// - An epoch that it grants is above `after`, names `owner`, and is granted once.
/// - For *strict* ownership also: the epochs of a shard that it grants rise in the order of the grants, and it grants one
///   only when no effect under an earlier one can be accepted any more, because whoever accepts effects has been told, or
///   asks it. Only then do owners never overlap; this crate does not see whether they do.
///
/// It may be asked again for a shard before the last answer has come, and its future may be dropped: an epoch that was
/// granted and not used is a gap in the counters and nothing else.
pub trait EpochAuthority: Send + Sync + fmt::Debug + 'static {
    /// An epoch for `owner` to own `shard` under; `after` is the greatest that it knows of.
    ///
    /// # Errors
    /// [`EpochError`]; the owner goes on as before, and asks again.
    fn grant<'a>(
        &'a self,
        shard: ShardId,
        after: Option<&'a Epoch>,
        owner: &'a NodeId,
    ) -> BoxFuture<'a, Result<Epoch, EpochError>>;
}

/// The authority of available ownership: the owner itself, with [`Epoch::next`]. It asks nobody, so it always answers, and
/// two sides of a split may both be given a shard.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalAuthority;

impl EpochAuthority for LocalAuthority {
    fn grant<'a>(
        &'a self,
        _: ShardId,
        after: Option<&'a Epoch>,
        owner: &'a NodeId,
    ) -> BoxFuture<'a, Result<Epoch, EpochError>> {
        Box::pin(std::future::ready(Epoch::next(after, owner).ok_or(EpochError::Exhausted)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use polity_cluster::{Boot, NodeName};
    use proptest::prelude::*;

    use super::*;

    /// `boot("a1")` is boot 1 of node a.
    pub(crate) fn boot(text: &str) -> NodeId {
        let (name, generation) = text.split_at(1);
        let generation = generation.parse().expect("a number");
        NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation, nonce: 7 } }
    }

    /// `epoch("3a1")` is epoch 3 of boot 1 of node a.
    pub(crate) fn epoch(text: &str) -> Epoch {
        let at = text.find(|c: char| !c.is_ascii_digit()).expect("a name");
        Epoch { counter: text[..at].parse().expect("a number"), owner: boot(&text[at..]) }
    }

    #[test]
    fn counters_come_first_then_names_then_boots() {
        let rising = ["1a1", "1a2", "1b1", "2a1", "2b1", "10a1"].map(epoch);
        assert!(rising.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn golden_bytes() {
        let golden = [0xac, 0x02, 0x02, b'n', b'1', 0x02, 0x03];
        let owner = NodeId { name: NodeName::new("n1").expect("valid"), boot: Boot { generation: 2, nonce: 3 } };
        let epoch = Epoch { counter: 300, owner };
        assert_eq!(postcard::to_allocvec(&epoch).expect("encodes"), golden);
        assert_eq!(postcard::from_bytes::<Epoch>(&golden).expect("decodes"), epoch);
        for end in 0..golden.len() {
            assert!(postcard::from_bytes::<Epoch>(&golden[..end]).is_err(), "cut off at {end}");
        }
    }

    #[test]
    fn the_last_counter_has_no_next() {
        let last = Epoch { counter: u64::MAX, owner: boot("a1") };
        assert_eq!(Epoch::next(Some(&last), &boot("b1")), None);
        assert!(!EpochError::Exhausted.is_retryable());
    }

    proptest! {
        #[test]
        fn the_next_is_above_all_whatever_the_names(counter in 0..u64::MAX, a in "[a-c]", b in "[a-c]", g in 1..3u64) {
            let owner = |name: &str, generation| NodeId {
                name: NodeName::new(name).expect("valid"),
                boot: Boot { generation, nonce: 1 },
            };
            let before = Epoch { counter, owner: owner(&a, g) };
            let next = Epoch::next(Some(&before), &owner(&b, 1)).expect("not the last");
            prop_assert!(next > before);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = postcard::from_bytes::<Epoch>(&bytes);
        }
    }
}
