//! Frames: what travels on the lanes of a connection.
//!
//! A frame is its length (`u32`, little-endian, the bytes that follow), a kind byte, a request id (`u32`) and then
//! - of a request: the method (`u16`), the time that the caller will still wait in milliseconds (`u32`), the body;
//! - of an answer: a status byte, the body;
//! - of a cancel: nothing;
//! - of a skip: anything; a receiver ignores it. A request that was given up before it left becomes one in place.
//!
//! A length is checked before anything is allocated for it, and a partial frame grows with the bytes that arrive, not
//! with the length that its sender claims.

use std::fmt;

/// The bytes of a request before its body, its length included.
pub(crate) const REQUEST_HEADER: usize = 15;
/// The bytes of an answer before its body, its length included.
pub(crate) const RESPONSE_HEADER: usize = 10;
/// The offset of the kind byte in a frame.
const KIND_AT: usize = 4;
/// A reassembly buffer larger than this is given back after its frame: 64 KiB, more than any small frame.
const KEEP_PARTIAL_BYTES: usize = 64 << 10;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const CANCEL: u8 = 3;
const SKIP: u8 = 4;

/// Which of a connection's streams a frame travels on. Earlier lanes are sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small and urgent: what keeps the cluster together.
    Control,
    /// Ordinary calls.
    Call,
    /// Large bodies, which may wait.
    Bulk,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::Control, Self::Call, Self::Bulk];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    pub(crate) fn to_byte(self) -> u8 {
        self as u8
    }

    /// The priority of the lane's stream in QUIC: greater is sent first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Control => 2,
            Self::Call => 1,
            Self::Bulk => 0,
        }
    }
}

/// What became of a request, as its answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The body is the handler's answer.
    Ok = 0,
    /// The handler failed; the body is an encoded failure.
    Failed = 1,
    /// Nothing serves this method. Not applied.
    NoSuchMethod = 2,
    /// The request did not decode; the body says why. Not applied.
    BadRequest = 3,
    /// A limit was reached before the handler ran. Not applied.
    Overloaded = 4,
    /// The handler ended without an answer.
    HandlerDropped = 5,
    /// There is an answer, but the lane's queue was full.
    AnswerDropped = 6,
    /// There is an answer, but it is larger than a frame may be.
    AnswerTooLarge = 7,
    /// The peer is stopping. Not applied.
    ShuttingDown = 8,
}

impl Status {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Ok,
            1 => Self::Failed,
            2 => Self::NoSuchMethod,
            3 => Self::BadRequest,
            4 => Self::Overloaded,
            5 => Self::HandlerDropped,
            6 => Self::AnswerDropped,
            7 => Self::AnswerTooLarge,
            8 => Self::ShuttingDown,
            _ => return None,
        })
    }
}

/// One frame, borrowed from the bytes that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Request { id: u32, method: u16, timeout_ms: u32, body: &'a [u8] },
    Response { id: u32, status: Status, body: &'a [u8] },
    Cancel { id: u32 },
    Skip,
}

/// Why bytes are not frames. The connection they came on is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    TooLong {
        bytes: usize,
        limit: usize,
    },
    TooShort,
    Kind(u8),
    Status(u8),
    /// A client sent an answer, or a server a request.
    WrongDirection,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, limit } => write!(f, "a frame of {bytes} bytes, and {limit} are allowed"),
            Self::TooShort => f.write_str("a frame shorter than its header"),
            Self::Kind(kind) => write!(f, "a frame of the unknown kind {kind}"),
            Self::Status(status) => write!(f, "an answer of the unknown status {status}"),
            Self::WrongDirection => f.write_str("a frame that only the other side may send"),
        }
    }
}

/// Appends a request.
pub(crate) fn put_request(out: &mut Vec<u8>, id: u32, method: u16, timeout_ms: u32, body: &[u8]) {
    let mut header = [0; REQUEST_HEADER];
    header[..4].copy_from_slice(&length_of(REQUEST_HEADER, body));
    header[KIND_AT] = REQUEST;
    header[5..9].copy_from_slice(&id.to_le_bytes());
    header[9..11].copy_from_slice(&method.to_le_bytes());
    header[11..15].copy_from_slice(&timeout_ms.to_le_bytes());
    append(out, &header, body);
}

/// Appends an answer.
pub(crate) fn put_response(out: &mut Vec<u8>, id: u32, status: Status, body: &[u8]) {
    let mut header = [0; RESPONSE_HEADER];
    header[..4].copy_from_slice(&length_of(RESPONSE_HEADER, body));
    header[KIND_AT] = RESPONSE;
    header[5..9].copy_from_slice(&id.to_le_bytes());
    header[9] = status as u8;
    append(out, &header, body);
}

/// Appends a cancel.
pub(crate) fn put_cancel(out: &mut Vec<u8>, id: u32) {
    let mut header = [0; 9];
    header[..4].copy_from_slice(&5_u32.to_le_bytes());
    header[KIND_AT] = CANCEL;
    header[5..9].copy_from_slice(&id.to_le_bytes());
    append(out, &header, &[]);
}

/// Turns the frame that starts at `frame[0]` into one that its receiver ignores.
pub(crate) fn make_skip(frame: &mut [u8]) {
    if let Some(kind) = frame.get_mut(KIND_AT) {
        *kind = SKIP;
    }
}

fn length_of(header: usize, body: &[u8]) -> [u8; 4] {
    u32::try_from(header - 4 + body.len()).expect("bodies are limited to MAX_FRAME_LIMIT bytes").to_le_bytes()
}

fn append(out: &mut Vec<u8>, header: &[u8], body: &[u8]) {
    out.reserve(header.len() + body.len());
    out.extend_from_slice(header);
    out.extend_from_slice(body);
}

fn parse(payload: &[u8]) -> Result<Frame<'_>, Malformed> {
    let (&kind, rest) = payload.split_first().ok_or(Malformed::TooShort)?;
    if kind == SKIP {
        return Ok(Frame::Skip);
    }
    let (id, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::TooShort)?;
    let id = u32::from_le_bytes(*id);
    match kind {
        REQUEST => {
            let (method, rest) = rest.split_first_chunk::<2>().ok_or(Malformed::TooShort)?;
            let (timeout_ms, body) = rest.split_first_chunk::<4>().ok_or(Malformed::TooShort)?;
            Ok(Frame::Request {
                id,
                method: u16::from_le_bytes(*method),
                timeout_ms: u32::from_le_bytes(*timeout_ms),
                body,
            })
        }
        RESPONSE => {
            let (&status, body) = rest.split_first().ok_or(Malformed::TooShort)?;
            Ok(Frame::Response { id, status: Status::from_byte(status).ok_or(Malformed::Status(status))?, body })
        }
        CANCEL => Ok(Frame::Cancel { id }),
        other => Err(Malformed::Kind(other)),
    }
}

/// Cuts the bytes of a lane into frames.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    partial: Vec<u8>,
    limit: usize,
}

impl FrameBuffer {
    /// Accepts bodies of at most `max_body` bytes.
    pub(crate) fn new(max_body: usize) -> Self {
        Self { partial: Vec::new(), limit: max_body + REQUEST_HEADER - 4 }
    }

    /// Takes the next bytes and hands every frame that they complete to `each`. Returns how many there were. After an
    /// error the lane is unusable.
    pub(crate) fn feed(
        &mut self,
        mut chunk: &[u8],
        mut each: impl FnMut(Frame<'_>) -> Result<(), Malformed>,
    ) -> Result<u64, Malformed> {
        let mut frames = 0;
        if !self.partial.is_empty() {
            let missing = 4_usize.saturating_sub(self.partial.len()).min(chunk.len());
            self.take(&mut chunk, missing);
            let Some(length) = self.length(&self.partial)? else { return Ok(0) };
            let missing = (4 + length - self.partial.len()).min(chunk.len());
            self.take(&mut chunk, missing);
            if self.partial.len() < 4 + length {
                return Ok(0);
            }
            each(parse(&self.partial[4..])?)?;
            frames += 1;
            self.partial.clear();
            if self.partial.capacity() > KEEP_PARTIAL_BYTES {
                self.partial = Vec::new();
            }
        }
        while let Some(length) = self.length(chunk)? {
            if chunk.len() < 4 + length {
                break;
            }
            each(parse(&chunk[4..4 + length])?)?;
            frames += 1;
            chunk = &chunk[4 + length..];
        }
        self.partial.extend_from_slice(chunk);
        Ok(frames)
    }

    fn take(&mut self, chunk: &mut &[u8], bytes: usize) {
        let (taken, rest) = chunk.split_at(bytes);
        self.partial.extend_from_slice(taken);
        *chunk = rest;
    }

    /// The length of the frame that starts here, once its four bytes are there and if it is allowed.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.limit {
            return Err(Malformed::TooLong { bytes: length, limit: self.limit });
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        put_request(&mut out, 0x0102_0304, 7, 1_000, b"ab");
        put_response(&mut out, 5, Status::Failed, b"c");
        put_cancel(&mut out, 6);
        assert_eq!(
            &out[..],
            [
                13, 0, 0, 0, 1, 4, 3, 2, 1, 7, 0, 0xe8, 3, 0, 0, b'a', b'b', // request
                7, 0, 0, 0, 2, 5, 0, 0, 0, 1, b'c', // answer
                5, 0, 0, 0, 3, 6, 0, 0, 0, // cancel
            ]
        );
    }

    #[test]
    fn a_length_is_refused_before_anything_is_kept() {
        let mut buffer = FrameBuffer::new(100);
        let refused = buffer.feed(&u32::MAX.to_le_bytes(), |_| Ok(()));
        assert_eq!(refused, Err(Malformed::TooLong { bytes: u32::MAX as usize, limit: 111 }));
        let mut buffer = FrameBuffer::new(100);
        assert_eq!(buffer.feed(&[112, 0, 0], |_| Ok(())), Ok(0));
        assert!(buffer.feed(&[0], |_| Ok(())).is_err());
        assert!(buffer.partial.capacity() < 64);
    }

    #[test]
    fn a_skipped_request_is_ignored() {
        let mut out = Vec::new();
        put_request(&mut out, 1, 2, 3, b"body");
        make_skip(&mut out);
        let mut seen = 0;
        let fed = FrameBuffer::new(100).feed(&out, |frame| {
            assert_eq!(frame, Frame::Skip);
            seen += 1;
            Ok(())
        });
        assert_eq!((fed, seen), (Ok(1), 1));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
                                      cuts in prop::collection::vec(1_usize..30, 1..10)) {
            let mut out = Vec::new();
            for (i, body) in bodies.iter().enumerate() {
                put_response(&mut out, i as u32, Status::Ok, body);
            }
            let (mut buffer, mut seen, mut rest, mut cut) = (FrameBuffer::new(64), Vec::new(), &out[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let n = (*cut.next().expect("a cycle")).min(rest.len());
                buffer.feed(&rest[..n], |frame| {
                    if let Frame::Response { body, .. } = frame { seen.push(body.to_vec()); }
                    Ok(())
                }).expect("well-formed");
                rest = &rest[n..];
            }
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn nothing_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut buffer = FrameBuffer::new(64);
            for chunk in &chunks {
                if buffer.feed(chunk, |_| Ok(())).is_err() { break; }
                prop_assert!(buffer.partial.len() <= 4 + buffer.limit);
            }
        }
    }
}
