//! What is said in a reconciliation. Byte formats: docs/WIRE.md.

use serde::{Deserialize, Serialize};

use crate::record::Blob;

/// The most symbols of one answer, and of one shard: 0.9 MB.
pub(crate) const MAX_SYMBOLS: usize = 1 << 16;

/// The most keys that one message asks for: with records of 64 bytes a page. What found no room in it is asked for again.
pub(crate) const MAX_TAGS: usize = 256;

/// How many records are looked at for one answer, unless those of the first shard are more: some milliseconds.
pub(crate) const MAX_VISITS: u64 = 16_384;

/// Asks for symbols, or elements, of shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sketch {
    pub(crate) salt: u64,
    pub(crate) shards: Vec<SketchOf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SketchOf {
    pub(crate) shard: u32,
    /// The total of the asker's digest.
    pub(crate) total: u64,
    pub(crate) wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wanted {
    Symbols {
        from: u32,
        count: u32,
    },
    /// All elements of keys greater than this one.
    Elements {
        after: Option<Blob>,
    },
}

/// The answer: of as many of the shards, from the first on, as could be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sketched {
    /// It holds the same.
    Equal,
    Symbols {
        /// The total of its digest, if that did not change meanwhile.
        as_of: Option<u64>,
        /// [`polity_crdt::sketch::Symbol::encode_all`].
        symbols: Blob,
    },
    Elements {
        /// 8 bytes each, little-endian.
        elements: Blob,
        /// The last key, if there are more.
        next: Option<Blob>,
    },
}

/// Asks for records by the tags of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pull {
    pub(crate) salt: u64,
    pub(crate) shards: Vec<PullOf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PullOf {
    pub(crate) shard: u32,
    /// Of keys greater than this one.
    pub(crate) after: Option<Blob>,
    /// 4 bytes each, little-endian, rising: those that the asker lacks, then those of which it has another record.
    pub(crate) tags: Blob,
    /// The ranks of the asker's records under the latter.
    pub(crate) ranks: Vec<u64>,
}

/// The answer: of as many of the shards as fit into a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pulled {
    pub(crate) records: Vec<(Blob, Blob)>,
    /// The ids of keys whose records here are of no greater rank than the asker's.
    pub(crate) lesser: Vec<u64>,
    /// How many shards are done.
    pub(crate) done: u32,
    /// Where the next one goes on.
    pub(crate) after: Option<Blob>,
}

/// Brings records, of any shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) records: Vec<(Blob, Blob)>,
    /// Whether to send back what holds more than what was brought.
    pub(crate) back: bool,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offered {
    /// Records that hold more than those that were brought.
    pub(crate) back: Vec<(Blob, Blob)>,
    /// Whether those are all.
    pub(crate) all: bool,
}

/// How many bytes these records are.
pub(crate) fn bytes_of(records: &[(Blob, Blob)]) -> u64 {
    records.iter().map(|(key, record)| (key.0.len() + record.0.len()) as u64).sum()
}

/// What a number of a message takes up, about.
const NUMBER: u64 = 8;

impl Sketch {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.len() as u64 * 3 * NUMBER
    }
}

impl Sketched {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Equal => 1,
            Self::Symbols { symbols, .. } => symbols.0.len() as u64 + NUMBER,
            Self::Elements { elements, .. } => elements.0.len() as u64,
        }
    }
}

impl Pull {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|of| (of.tags.0.len() as u64) + (of.ranks.len() as u64 + 1) * NUMBER).sum()
    }
}

impl Pulled {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.records) + self.lesser.len() as u64 * NUMBER
    }
}
