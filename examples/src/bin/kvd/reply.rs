//! Answers, and their bytes in both versions of the protocol.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::{BytesFrame as Frame3, FrameMap, FrameSet};

/// The longest text of an error: what follows is cut off.
const MAX_ERROR_CHARS: usize = 512;

/// The version of the protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Version {
    #[default]
    Resp2,
    Resp3,
}

/// What a command is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(&'static str),
    /// A code in capitals, and a sentence.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Nil,
    Array(Vec<Self>),
    /// Names and what they stand for. One array in the older version.
    Map(Vec<(Bytes, Self)>),
    /// Different elements. An array in the older version.
    Set(Vec<Bytes>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Simple("OK");

    /// An error of the common kind.
    pub(crate) fn error(text: impl AsRef<str>) -> Self {
        Self::Error(format!("ERR {}", text.as_ref()))
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Bulk(text.into().into())
    }

    pub(crate) fn of(value: Option<Bytes>) -> Self {
        value.map_or(Self::Nil, Self::Bulk)
    }

    pub(crate) fn yes(is_so: bool) -> Self {
        Self::Integer(i64::from(is_so))
    }

    /// How many there are of something.
    pub(crate) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// How many bytes it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        /// A mark, a length, and the ends of lines.
        const HEADER: usize = 16;
        HEADER
            + match self {
                Self::Simple(text) => text.len(),
                Self::Error(text) => text.len(),
                Self::Integer(_) | Self::Nil => 0,
                Self::Bulk(bytes) => bytes.len(),
                Self::Array(replies) => replies.iter().map(Self::bytes).sum(),
                Self::Map(pairs) => pairs.iter().map(|(name, reply)| HEADER + name.len() + reply.bytes()).sum(),
                Self::Set(elements) => elements.iter().map(|element| HEADER + element.len()).sum(),
            }
    }

    /// Appends the header of an answer of many elements, and returns those: their bytes are what follows it.
    pub(crate) fn pieces(self, version: Version, to: &mut BytesMut) -> Vec<Self> {
        let (mark, count, pieces) = match (self, version) {
            (Self::Array(replies), _) => ('*', replies.len(), replies),
            (Self::Map(pairs), version) => {
                let (mark, count) = if version == Version::Resp3 { ('%', pairs.len()) } else { ('*', 2 * pairs.len()) };
                let flat = pairs.into_iter().flat_map(|(name, reply)| [Self::Bulk(name), reply]);
                (mark, count, flat.collect())
            }
            (Self::Set(elements), version) => {
                let mark = if version == Version::Resp3 { '~' } else { '*' };
                (mark, elements.len(), elements.into_iter().map(Self::Bulk).collect())
            }
            (other, _) => return vec![other],
        };
        to.extend_from_slice(format!("{mark}{count}\r\n").as_bytes());
        pieces
    }

    /// Appends its bytes.
    pub(crate) fn encode(self, version: Version, to: &mut BytesMut) {
        let done = match version {
            Version::Resp2 => redis_protocol::resp2::encode::extend_encode(to, &frame2(self), false),
            Version::Resp3 => redis_protocol::resp3::encode::complete::extend_encode(to, &frame3(self), false),
        };
        done.expect("the buffer is extended by what the frame takes");
    }
}

/// An error is one line, whatever it tells of what a client or a disk has said.
fn one_line(text: &str) -> String {
    text.chars().take(MAX_ERROR_CHARS).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn frame2(reply: Reply) -> Frame2 {
    match reply {
        Reply::Simple(text) => Frame2::SimpleString(Bytes::from_static(text.as_bytes())),
        Reply::Error(text) => Frame2::Error(one_line(&text).into()),
        Reply::Integer(number) => Frame2::Integer(number),
        Reply::Bulk(bytes) => Frame2::BulkString(bytes),
        Reply::Nil => Frame2::Null,
        Reply::Array(replies) => Frame2::Array(replies.into_iter().map(frame2).collect()),
        Reply::Map(pairs) => {
            let flat = pairs.into_iter().flat_map(|(name, reply)| [Frame2::BulkString(name), frame2(reply)]);
            Frame2::Array(flat.collect())
        }
        Reply::Set(elements) => Frame2::Array(elements.into_iter().map(Frame2::BulkString).collect()),
    }
}

fn frame3(reply: Reply) -> Frame3 {
    let attributes = None;
    let bulk = |data| Frame3::BlobString { data, attributes: None };
    match reply {
        Reply::Simple(text) => Frame3::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes },
        Reply::Error(text) => Frame3::SimpleError { data: one_line(&text).into(), attributes },
        Reply::Integer(data) => Frame3::Number { data, attributes },
        Reply::Bulk(bytes) => bulk(bytes),
        Reply::Nil => Frame3::Null,
        Reply::Array(replies) => Frame3::Array { data: replies.into_iter().map(frame3).collect(), attributes },
        Reply::Map(pairs) => {
            let pairs = pairs.into_iter().map(|(name, reply)| (bulk(name), frame3(reply)));
            Frame3::Map { data: pairs.collect::<FrameMap<_, _>>(), attributes }
        }
        Reply::Set(elements) => {
            Frame3::Set { data: elements.into_iter().map(bulk).collect::<FrameSet<_>>(), attributes }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reply: &Reply, version: Version) -> String {
        let mut bytes = BytesMut::from("before ");
        reply.clone().encode(version, &mut bytes);
        String::from_utf8_lossy(&bytes).strip_prefix("before ").expect("appended").to_owned()
    }

    #[test]
    fn every_answer_has_its_bytes_in_both_versions() {
        let b = Bytes::from_static;
        for (reply, resp2, resp3) in [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("no"), "-ERR no\r\n", "-ERR no\r\n"),
            (Reply::Integer(-7), ":-7\r\n", ":-7\r\n"),
            (Reply::Bulk(b(b"a\r\nb")), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (Reply::Array(vec![Reply::Nil, Reply::Integer(1)]), "*2\r\n$-1\r\n:1\r\n", "*2\r\n_\r\n:1\r\n"),
            (Reply::Array(Vec::new()), "*0\r\n", "*0\r\n"),
            (
                Reply::Map(vec![(b(b"z"), Reply::Integer(1)), (b(b"a"), Reply::Nil)]),
                "*4\r\n$1\r\nz\r\n:1\r\n$1\r\na\r\n$-1\r\n",
                "%2\r\n$1\r\nz\r\n:1\r\n$1\r\na\r\n_\r\n",
            ),
            (Reply::Set(vec![b(b"z"), b(b"a")]), "*2\r\n$1\r\nz\r\n$1\r\na\r\n", "~2\r\n$1\r\nz\r\n$1\r\na\r\n"),
        ] {
            assert_eq!(bytes(&reply, Version::Resp2), resp2);
            assert_eq!(bytes(&reply, Version::Resp3), resp3);
            for (version, whole) in [(Version::Resp2, resp2), (Version::Resp3, resp3)] {
                let mut bytes = BytesMut::new();
                for piece in reply.clone().pieces(version, &mut bytes) {
                    piece.encode(version, &mut bytes);
                }
                assert_eq!(bytes, whole, "piece by piece");
            }
            assert!(reply.bytes() >= resp2.len().min(16));
        }
    }

    #[test]
    fn an_error_is_one_short_line_whatever_it_tells() {
        let long = Reply::error("a\r\n+OK\r\n".to_owned() + &"ä".repeat(10_000));
        for version in [Version::Resp2, Version::Resp3] {
            let bytes = bytes(&long, version);
            assert!(bytes.starts_with("-ERR a  +OK  ä") && bytes.ends_with("ä\r\n"), "{bytes}");
            assert_eq!(bytes.matches('\n').count(), 1);
            assert_eq!(bytes.chars().count(), MAX_ERROR_CHARS + 3);
        }
    }
}
