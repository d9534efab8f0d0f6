//! What the demonstration and its nodes say to each other, over the pipes of the node's process.
//!
//! A frame is its length in four bytes, least significant first, and that many bytes of postcard. Orders go in by the
//! node's standard input, reports come out of its standard output. A node whose input ends exits.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::value::{Stamp, Stored};

/// The largest frame: 64 siblings of the largest recorded value are a third of a megabyte.
pub(crate) const MAX_FRAME_BYTES: usize = 4 << 20;

/// To a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first one.
    Start(Start),
    Ask {
        id: u64,
        request: Request,
    },
}

/// How to start. The secret travels here, since other users may read a command line.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) name: String,
    pub(crate) secret: [u8; 32],
    pub(crate) seeds: Vec<SocketAddr>,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("name", &self.name).field("seeds", &self.seeds).finish_non_exhaustive()
    }
}

/// What a client asks of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Read from a quorum.
    Get { key: u32 },
    /// Write at a quorum if a read from a quorum finds nothing.
    Add { key: u32, body: Vec<u8> },
    /// Read from a quorum, and replace at a quorum what was read.
    CompareAndSet { key: u32, body: Vec<u8> },
    /// Answer when all replicas are where they belong.
    Settle,
}

impl Request {
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::CompareAndSet { .. })
    }
}

/// A node's answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Values(Vec<Stored>),
    /// Written, in place of these.
    Written {
        replaced: Vec<Stamp>,
    },
    /// An addition found a value, and wrote nothing.
    Exists,
    /// There is nothing to compare with; nothing was written.
    Missing,
    Settled,
    Failed {
        /// Whether a write may have been applied.
        unknown: bool,
        reason: String,
    },
}

/// From a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The node is a member, and listens here.
    Started {
        addr: SocketAddr,
        generation: u64,
    },
    /// It sees another member, or itself, like this.
    Sees {
        name: String,
        generation: u64,
        status: Seen,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Seen {
    Up,
    Suspect,
    Down,
    Left,
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).expect("a message encodes");
    let length = u32::try_from(frame.len() - 4).expect("a message is within the limit");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    postcard::from_bytes(payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The length that a frame's first four bytes announce.
pub(crate) fn payload_bytes(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    Ok(length)
}

/// The next message, or `None` at the end.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let mut payload = vec![0; payload_bytes(head)?];
    from.read_exact(&mut payload)?;
    decode(&payload).map(Some)
}

pub(crate) fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&encode(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_oversized_ones_are_refused() {
        let mut pipe = Vec::new();
        write(&mut pipe, &Request::Add { key: 7, body: vec![1; 300] }).expect("writes");
        write(&mut pipe, &Request::Settle).expect("writes");
        let mut from = &pipe[..];
        assert!(matches!(read(&mut from), Ok(Some(Request::Add { key: 7, .. }))));
        assert!(matches!(read(&mut from), Ok(Some(Request::Settle))));
        assert!(matches!(read::<Request>(&mut from), Ok(None)));
        assert!(payload_bytes(u32::MAX.to_le_bytes()).is_err());
    }
}
