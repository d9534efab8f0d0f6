//! Requests in the bytes that a client sends.
//!
//! A request is an array of bulk strings, or a line of words. What arrives is looked through once, as it arrives, before it
//! is decoded: how many arguments are announced, how long each is, and how long all are together. So what is decoded is
//! complete, flat, and within the limits; anything else is refused with the first header that says so, before what it
//! announces is waited for.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;

/// The arguments of a request, its name first: never empty.
pub(crate) type Request = Vec<Bytes>;

/// The longest request: four of the store's largest values.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 << 20;
/// The most arguments: `MSET` of 4,096 keys.
pub(crate) const MAX_ARGUMENTS: usize = 8_193;
/// The longest line of words, as Redis has it.
const MAX_LINE_BYTES: usize = 64 << 10;
/// The longest header: a mark, a number of 64 bits and the end of the line take 23.
const MAX_HEADER_BYTES: usize = 32;

/// Bytes that are no request. What follows them cannot be understood either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("Protocol error: {0}")]
    Bytes(String),
    /// A web page can have a browser send it, with requests in its body.
    #[error("Protocol error: this is no server of HTTP")]
    Http,
}

/// Takes requests off the front of a buffer, and remembers how far it has looked through one that is not complete.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// How much of the buffer has been looked through.
    at: usize,
    /// How many arguments are still to come; `None` before the first header.
    left: Option<usize>,
    /// The length of the argument that is waited for.
    body: Option<usize>,
}

impl Decoder {
    /// The next request; `None` if more has to arrive first.
    ///
    /// # Errors
    /// [`Malformed`]: the connection can only be closed.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, Malformed> {
        while !buffer.is_empty() {
            let taken = match buffer[0] {
                b'*' => self.array(buffer)?,
                _ => line(buffer)?,
            };
            match taken {
                None => return Ok(None),
                // An empty one asks for nothing.
                Some(request) if request.is_empty() => {}
                Some(request) if is_of_http(&request[0]) => return Err(Malformed::Http),
                Some(request) => return Ok(Some(request)),
            }
        }
        Ok(None)
    }

    fn array(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, Malformed> {
        if self.left.is_none() {
            let Some(count) = self.header(buffer, b'*', "invalid multibulk length")? else { return Ok(None) };
            self.left = Some(usize::try_from(count.max(0)).unwrap_or(usize::MAX));
        }
        if self.left.is_some_and(|count| count > MAX_ARGUMENTS) {
            return Err(Malformed::Bytes("invalid multibulk length".to_owned()));
        }
        while let Some(left @ 1..) = self.left {
            let body = match self.body {
                Some(body) => body,
                None => {
                    let Some(body) = self.header(buffer, b'$', "invalid bulk length")? else { return Ok(None) };
                    let body = usize::try_from(body).ok().filter(|body| body + self.at + 2 <= MAX_REQUEST_BYTES);
                    body.ok_or_else(|| Malformed::Bytes("invalid bulk length".to_owned()))?
                }
            };
            self.body = Some(body);
            match buffer.get(self.at + body..self.at + body + 2) {
                None => return Ok(None),
                Some(b"\r\n") => {}
                Some(_) => return Err(Malformed::Bytes("a bulk string is longer than announced".to_owned())),
            }
            *self = Self { at: self.at + body + 2, left: Some(left - 1), body: None };
        }
        *self = Self::default();
        decode(buffer).map(Some)
    }

    /// The number of the header that comes next.
    fn header(&mut self, buffer: &[u8], mark: u8, problem: &str) -> Result<Option<i64>, Malformed> {
        let rest = &buffer[self.at..];
        match rest.first() {
            None => return Ok(None),
            Some(first) if *first != mark => {
                let (wanted, got) = (char::from(mark), first.escape_ascii());
                return Err(Malformed::Bytes(format!("expected '{wanted}', got '{got}'")));
            }
            Some(_) => {}
        }
        let Some(end) = rest.iter().take(MAX_HEADER_BYTES).position(|byte| *byte == b'\n') else {
            let is_too_long = rest.len() >= MAX_HEADER_BYTES;
            return if is_too_long { Err(Malformed::Bytes(problem.to_owned())) } else { Ok(None) };
        };
        let number = rest[1..end].strip_suffix(b"\r").and_then(integer);
        self.at += end + 1;
        number.map(Some).ok_or_else(|| Malformed::Bytes(problem.to_owned()))
    }
}

/// Whether a request has the name of what begins a line of HTTP that every browser sends, as Redis looks for it.
fn is_of_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:")
}

/// Takes a whole array of bulk strings off the buffer. Its arguments share the buffer's memory.
fn decode(buffer: &mut BytesMut) -> Result<Request, Malformed> {
    let argument = |frame| match frame {
        BytesFrame::BulkString(bytes) => Ok(bytes),
        _ => Err(Malformed::Bytes("expected a bulk string".to_owned())),
    };
    match decode_bytes_mut(buffer) {
        Ok(Some((BytesFrame::Array(frames), ..))) => frames.into_iter().map(argument).collect(),
        // `*-1`.
        Ok(Some((BytesFrame::Null, ..))) => Ok(Request::new()),
        Ok(_) => Err(Malformed::Bytes("expected an array of bulk strings".to_owned())),
        Err(error) => Err(Malformed::Bytes(error.to_string())),
    }
}

/// Takes a line of words off the buffer. Quotes mean nothing in it, and are refused.
fn line(buffer: &mut BytesMut) -> Result<Option<Request>, Malformed> {
    let Some(end) = buffer.iter().take(MAX_LINE_BYTES).position(|byte| *byte == b'\n') else {
        let is_too_long = buffer.len() >= MAX_LINE_BYTES;
        return if is_too_long { Err(Malformed::Bytes("too big inline request".to_owned())) } else { Ok(None) };
    };
    let line = buffer.split_to(end + 1).freeze();
    if line.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
        return Err(Malformed::Bytes("quotes in an inline request are not supported".to_owned()));
    }
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let words: Request = words.take(MAX_ARGUMENTS + 1).map(|word| line.slice_ref(word)).collect();
    if words.len() > MAX_ARGUMENTS {
        return Err(Malformed::Bytes("too big inline request".to_owned()));
    }
    Ok(Some(words))
}

/// A decimal number of 64 bits, written as Redis demands it: no plus, no spaces.
pub(crate) fn integer(digits: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All requests in these bytes, given to the decoder in pieces of this size.
    fn decoded(bytes: &[u8], piece: usize) -> Result<Vec<Vec<String>>, Malformed> {
        let (mut decoder, mut buffer, mut all) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(request) = decoder.next(&mut buffer)? {
                all.push(request.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect());
            }
        }
        Ok(all)
    }

    fn refused(bytes: &[u8]) -> String {
        let whole = decoded(bytes, bytes.len()).expect_err("no request");
        assert_eq!(decoded(bytes, 1), Err(whole.clone()), "in whatever pieces it arrives");
        whole.to_string()
    }

    #[test]
    fn requests_are_the_same_in_whatever_pieces_they_arrive() {
        let bytes =
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING  now\r\n\r\n*0\r\n*-1\r\n*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$0\r\n\r\n";
        let whole = decoded(bytes, bytes.len()).expect("requests");
        assert_eq!(whole, [vec!["GET", "k"], vec!["PING", "now"], vec!["SET", "\r\n", ""]]);
        for piece in 1..bytes.len() {
            assert_eq!(decoded(bytes, piece), Ok(whole.clone()), "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_at_its_first_header() {
        assert_eq!(refused(b"*x\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*+1\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*1\n$4\r\nPING\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*1000000000\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*9223372036854775807\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*99999999999999999999999999999999"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*1\r\n$-1\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refused(b"*1\r\n$4194304\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refused(b"*1\r\n$9223372036854775807\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refused(b"*1\r\n:1\r\n"), "Protocol error: expected '$', got ':'");
        assert_eq!(refused(b"*1\r\n\0\r\n"), "Protocol error: expected '$', got '\\x00'");
        assert_eq!(refused(b"*1\r\n$2\r\nPING\r\n"), "Protocol error: a bulk string is longer than announced");
        assert_eq!(refused(b"SET k \"v w\"\n"), "Protocol error: quotes in an inline request are not supported");
        assert_eq!(refused(&[b'x'; MAX_LINE_BYTES]), "Protocol error: too big inline request");
    }

    #[test]
    fn what_a_browser_sends_is_refused() {
        for bytes in ["POST / HTTP/1.1\r\n", "pOsT\r\n", "host: 127.0.0.1\r\n", "*1\r\n$4\r\npost\r\n"] {
            assert_eq!(refused((bytes.to_owned() + "SET k v\r\n").as_bytes()), Malformed::Http.to_string(), "{bytes}");
        }
        assert_eq!(decoded(b"POSTS\r\nhost\r\n", 8), Ok(vec![vec!["POSTS".to_owned()], vec!["host".to_owned()]]));
    }

    #[test]
    fn nesting_is_refused_however_deep() {
        assert_eq!(refused(&b"*1\r\n".repeat(100_000)), "Protocol error: expected '$', got '*'");
    }

    #[test]
    fn a_request_has_a_largest_size_and_a_largest_count() {
        let most = format!("*{MAX_ARGUMENTS}\r\n{}", "$1\r\nx\r\n".repeat(MAX_ARGUMENTS));
        assert_eq!(decoded(most.as_bytes(), 4096).expect("a request")[0].len(), MAX_ARGUMENTS);
        let many = "*5\r\n".to_owned() + &format!("$1000000\r\n{}\r\n", "x".repeat(1_000_000)).repeat(4);
        assert_eq!(decoded(many.as_bytes(), 1 << 16), Ok(Vec::new()), "four fit, and the fifth is waited for");
        assert_eq!(refused_in(&(many + "$1000000\r\n")), "Protocol error: invalid bulk length");
        assert!(decoded("x ".repeat(MAX_ARGUMENTS + 1).as_bytes(), 4096).is_ok_and(|none| none.is_empty()));
        assert!(decoded(("x ".repeat(MAX_ARGUMENTS + 1) + "\n").as_bytes(), 4096).is_err());
    }

    fn refused_in(bytes: &str) -> String {
        decoded(bytes.as_bytes(), 1 << 16).expect_err("too large").to_string()
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let alphabet = b"*$\r\n01234-+:x\"";
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..24 {
                // Knuth's MMIX generator: what is tried is the same in every run.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            let whole = decoded(&bytes, bytes.len());
            assert_eq!(decoded(&bytes, 1).is_err(), whole.is_err(), "{:?}", bytes.escape_ascii().to_string());
        }
    }
}
