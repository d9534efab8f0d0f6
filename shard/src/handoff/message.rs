//! What the two sides of a handoff say to each other. Each message is sent on its own, may be lost, doubled and overtaken,
//! and says which attempt it belongs to.
//!
//! `docs/WIRE.md` has the bytes. A message is at most [`MAX_CHUNK_BYTES`] and some 200 bytes long.

use std::fmt;

use polity_cluster::rpc::Blob;
use serde::{Deserialize, Serialize};

use crate::Epoch;
use crate::claims::Claim;

/// The most bytes of a chunk: a sixteenth of a frame, so that other traffic is not held up for long, and large enough that
/// a shard of 1 GiB takes 4,096.
pub const MAX_CHUNK_BYTES: usize = 256 << 10;
/// The most chunks of one handoff: 256 GiB, more than any node holds in memory.
pub const MAX_CHUNKS: u32 = 1 << 20;

/// One attempt to hand a shard over: under which claim it is owned, and how many attempts came before. A later epoch, or a
/// later attempt under the same one, makes the earlier void.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HandoffId {
    /// What is handed over, and under which epoch it is owned.
    pub claim: Claim,
    /// Grows with each attempt that this owner begins under this epoch.
    pub attempt: u32,
}

impl fmt::Display for HandoffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, attempt {}", self.claim, self.attempt)
    }
}

/// Of the owner to the next one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Will you take the shard? It has this size so far; changes may follow.
    Prepare {
        /// In how many chunks.
        chunks: u32,
        /// Of how many bytes together.
        bytes: u64,
    },
    /// One part.
    Chunk {
        /// Which, from 0.
        index: u32,
        /// At most [`MAX_CHUNK_BYTES`].
        bytes: Blob,
    },
    /// That was all, and nothing changes any more: install it.
    Install {
        /// How many chunks there were.
        chunks: u32,
        /// Of how many bytes together.
        bytes: u64,
    },
    /// The shard is let go: claim it.
    Release,
    /// Forget it.
    Cancel,
}

/// Of the next owner to the one of now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Tell {
    /// All chunks below this one are here. The answer to all but the last, and to a request to install what is not all
    /// here yet.
    Have {
        /// The chunk that is wanted next.
        next: u32,
    },
    /// Everything is here, and is being installed.
    Installing,
    /// It is installed: this is the acknowledgement.
    Installed,
    /// It will be claimed.
    Taken,
    /// It will not be taken.
    Refused(Refusal),
}

/// Why a shard is not taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// As many shards as there is room for are being taken.
    #[error("it takes as many shards as it has room for")]
    Busy,
    /// It is about to leave.
    #[error("it is about to leave")]
    Draining,
    /// A greater epoch is known.
    #[error("it knows the greater epoch {0}")]
    Superseded(Epoch),
    /// Nothing is known of this attempt: it was cancelled, or the receiver has begun anew.
    #[error("it knows nothing of this attempt")]
    Unknown,
    /// Whoever asks is not the owner that the epoch names, or numbers are out of range or do not agree.
    #[error("the request makes no sense to it")]
    Malformed,
    /// The state could not be installed.
    #[error("it could not install the state")]
    NotInstalled,
    /// What belongs to the shard beside its state is not there yet: the owner asks again until it is.
    #[error("what else belongs to the shard is not there yet")]
    NotReady,
    /// The state has more bytes than it keeps for one handoff ([`HandoffConfig::staged`](super::HandoffConfig::staged)).
    #[error("the state has more bytes than it keeps for one handoff")]
    TooLarge,
}

/// A message of a handoff.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HandoffMessage {
    /// Of the owner to the next one.
    Ask(HandoffId, Ask),
    /// Of the next owner to the one of now.
    Tell(HandoffId, Tell),
}

#[cfg(test)]
mod tests {
    use polity_cluster::{Boot, NodeId, NodeName};
    use proptest::prelude::*;

    use super::*;
    use crate::ShardId;

    fn id() -> HandoffId {
        let owner = NodeId { name: NodeName::new("n1").expect("valid"), boot: Boot { generation: 2, nonce: 3 } };
        HandoffId { claim: Claim { shard: ShardId(300), epoch: Epoch { counter: 5, owner } }, attempt: 1 }
    }

    #[test]
    fn golden_bytes() {
        let id_bytes = "ac02 05 026e31 0203 01";
        let ask = |ask| HandoffMessage::Ask(id(), ask);
        let tell = |tell| HandoffMessage::Tell(id(), tell);
        let greater = Epoch { counter: 6, ..id().claim.epoch };
        let rows = [
            (ask(Ask::Prepare { chunks: 2, bytes: 300 }), "00", "00 02 ac02"),
            (ask(Ask::Chunk { index: 1, bytes: Blob(vec![0xab, 0xcd].into()) }), "00", "01 01 02abcd"),
            (ask(Ask::Install { chunks: 2, bytes: 300 }), "00", "02 02 ac02"),
            (ask(Ask::Release), "00", "03"),
            (ask(Ask::Cancel), "00", "04"),
            (tell(Tell::Have { next: 1 }), "01", "00 01"),
            (tell(Tell::Installing), "01", "01"),
            (tell(Tell::Installed), "01", "02"),
            (tell(Tell::Taken), "01", "03"),
            (tell(Tell::Refused(Refusal::Busy)), "01", "04 00"),
            (tell(Tell::Refused(Refusal::Draining)), "01", "04 01"),
            (tell(Tell::Refused(Refusal::Superseded(greater))), "01", "04 02 06 026e31 0203"),
            (tell(Tell::Refused(Refusal::Unknown)), "01", "04 03"),
            (tell(Tell::Refused(Refusal::Malformed)), "01", "04 04"),
            (tell(Tell::Refused(Refusal::NotInstalled)), "01", "04 05"),
            (tell(Tell::Refused(Refusal::NotReady)), "01", "04 06"),
            (tell(Tell::Refused(Refusal::TooLarge)), "01", "04 07"),
        ];
        for (message, direction, rest) in rows {
            let wanted = format!("{direction}{id_bytes}{rest}").replace(' ', "");
            let bytes = postcard::to_allocvec(&message).expect("encodes");
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, wanted, "{message:?}");
            assert_eq!(postcard::from_bytes::<HandoffMessage>(&bytes).expect("decodes"), message);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = postcard::from_bytes::<HandoffMessage>(&bytes);
        }
    }
}
