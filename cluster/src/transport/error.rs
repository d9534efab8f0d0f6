//! How a call can fail, and what that says about its effect.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hello::Refusal;
use crate::identity::NodeId;

/// How far a call had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// There was no connection yet.
    Connecting,
    /// The connection stood, but the nodes had not accepted each other.
    Greeting,
    /// The request waited here to be sent.
    Queued,
    /// The request was on its way, or with the peer.
    Sent,
    /// The peer had answered.
    Answered,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Greeting => "greeting",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Answered => "answered",
        })
    }
}

/// Whether a failed request took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It did not and will not: it never reached a handler, or the handler says so.
    NotApplied,
    /// It may have, and it may yet.
    Unknown,
}

/// What went wrong, by what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RpcErrorKind {
    // Try again later, or another peer.
    /// The peer could not be reached. Calls fail at once until the next attempt to connect; `age` is how long ago the
    /// last one failed.
    Unreachable {
        /// Why the last attempt failed.
        cause: String,
        /// How long ago that was.
        age: Duration,
    },
    /// The connection broke.
    ConnectionLost(String),
    /// The deadline passed.
    TimedOut,
    /// A limit was reached on this node; the text names it.
    Overloaded(&'static str),
    /// A limit was reached on the peer, before it ran the request.
    PeerOverloaded,
    /// The peer ran the request and dropped the answer because a limit was reached.
    AnswerDropped,
    /// The peer is shutting down and did not run the request.
    PeerShuttingDown,

    // Look at the configuration.
    /// A certificate did not verify.
    Untrusted(String),
    /// A certificate is expired or not valid yet.
    Outdated(String),
    /// The peer refused this node, or another node answered at the address.
    Refused(Refusal),

    // Change the request or the program.
    /// The peer does not serve this method.
    NoSuchMethod,
    /// The peer could not decode the request, or this node could not encode it.
    BadRequest(String),
    /// This node could not decode the answer.
    BadAnswer(String),
    /// The request is larger than a frame may be.
    RequestTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer is larger than a frame may be.
    AnswerTooLarge,
    /// The handler ended without an answer.
    HandlerDropped,
    /// The handler answered that it failed.
    Failed(Failure),

    // Give up.
    /// The peer is no longer a member, or another life of it replaced this one.
    PeerGone(String),
    /// This node is shutting down.
    ShutDown,
}

impl fmt::Display for RpcErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { cause, age } if age.is_zero() => write!(f, "the peer cannot be reached: {cause}"),
            Self::Unreachable { cause, age } => {
                write!(f, "the peer cannot be reached: {cause} ({} ms ago)", age.as_millis())
            }
            Self::ConnectionLost(cause) => write!(f, "the connection was lost: {cause}"),
            Self::TimedOut => f.write_str("the deadline passed"),
            Self::Overloaded(limit) => write!(f, "this node has reached its limit of {limit}"),
            Self::PeerOverloaded => f.write_str("the peer has too many requests in hand"),
            Self::AnswerDropped => f.write_str("the answer was dropped because too many bytes wait to be sent or read"),
            Self::PeerShuttingDown => f.write_str("the peer is shutting down"),
            Self::Untrusted(cause) => write!(
                f,
                "the certificate of this node or of the peer did not verify: do both use the same secret? ({cause})"
            ),
            Self::Outdated(cause) => write!(
                f,
                "the certificate of this node or of the peer is expired or not valid yet, by the clock of one of the two: \
                 {cause}"
            ),
            Self::Refused(refusal) => write!(f, "the peer refused this node: {refusal}"),
            Self::NoSuchMethod => f.write_str("the peer does not serve this method"),
            Self::BadRequest(cause) => write!(f, "the request did not pass the codec: {cause}"),
            Self::BadAnswer(cause) => write!(f, "the answer did not decode: {cause}"),
            Self::RequestTooLarge { bytes, limit } => {
                write!(f, "the request has {bytes} bytes, and a frame at most {limit}")
            }
            Self::AnswerTooLarge => f.write_str("the answer is larger than a frame may be"),
            Self::HandlerDropped => f.write_str("the handler ended without an answer"),
            Self::Failed(failure) => write!(f, "the handler failed: {failure}"),
            Self::PeerGone(cause) => write!(f, "the peer is gone: {cause}"),
            Self::ShutDown => f.write_str("this node is shutting down"),
        }
    }
}

/// A handler's own failure, as it travels to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the handler says about the request's effect.
    pub outcome: Outcome,
    /// What went wrong; cut to 1,024 bytes on the wire.
    pub message: String,
}

impl Failure {
    /// The longest message on the wire.
    pub(crate) const MAX_MESSAGE_BYTES: usize = 1_024;

    /// The request had no effect and will have none.
    #[must_use]
    pub fn not_applied(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotApplied, message: message.into() }
    }

    /// The request may have had an effect.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Unknown, message: message.into() }
    }

    pub(crate) fn encode(mut self) -> Vec<u8> {
        let mut end = self.message.len().min(Self::MAX_MESSAGE_BYTES);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        self.message.truncate(end);
        postcard::to_extend(&self, Vec::new()).expect("a short text encodes")
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes::<Self>(body) {
            Ok((failure, [])) => Some(failure),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why a call failed: at whom, doing what, how far it had come, after how long, and the reason.
#[derive(Clone)]
pub struct RpcError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    node: Option<NodeId>,
    addr: SocketAddr,
    method: &'static str,
    phase: Phase,
    age: Duration,
    kind: RpcErrorKind,
}

impl RpcError {
    pub(crate) fn new(
        node: Option<NodeId>,
        addr: SocketAddr,
        method: &'static str,
        phase: Phase,
        age: Duration,
        kind: RpcErrorKind,
    ) -> Self {
        Self(Box::new(Inner { node, addr, method, phase, age, kind }))
    }

    /// The peer, if it was known.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        self.0.node.as_ref()
    }

    /// The peer's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// The method's name.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.0.method
    }

    /// How far the call had come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.phase
    }

    /// How long the call had lasted.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.age
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &RpcErrorKind {
        &self.0.kind
    }

    /// Whether the request took effect. [`Outcome::NotApplied`] is said only where it is certain.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.0.kind {
            RpcErrorKind::ConnectionLost(_)
            | RpcErrorKind::TimedOut
            | RpcErrorKind::PeerGone(_)
            | RpcErrorKind::ShutDown => match self.0.phase {
                Phase::Connecting | Phase::Greeting | Phase::Queued => Outcome::NotApplied,
                Phase::Sent | Phase::Answered => Outcome::Unknown,
            },
            RpcErrorKind::Unreachable { .. }
            | RpcErrorKind::Overloaded(_)
            | RpcErrorKind::PeerOverloaded
            | RpcErrorKind::PeerShuttingDown
            | RpcErrorKind::Untrusted(_)
            | RpcErrorKind::Outdated(_)
            | RpcErrorKind::Refused(_)
            | RpcErrorKind::NoSuchMethod
            | RpcErrorKind::BadRequest(_)
            | RpcErrorKind::RequestTooLarge { .. } => Outcome::NotApplied,
            RpcErrorKind::AnswerDropped
            | RpcErrorKind::BadAnswer(_)
            | RpcErrorKind::AnswerTooLarge
            | RpcErrorKind::HandlerDropped => Outcome::Unknown,
            RpcErrorKind::Failed(failure) => failure.outcome,
        }
    }

    /// Whether the same call may succeed later without a change to the program or its configuration. A retry of a
    /// request whose outcome is unknown may apply it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            RpcErrorKind::Unreachable { .. }
                | RpcErrorKind::ConnectionLost(_)
                | RpcErrorKind::TimedOut
                | RpcErrorKind::Overloaded(_)
                | RpcErrorKind::PeerOverloaded
                | RpcErrorKind::AnswerDropped
                | RpcErrorKind::PeerShuttingDown
        ) || matches!(self.kind(), RpcErrorKind::Refused(refusal) if refusal.is_retryable())
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { node, addr, method, phase, age, kind } = &*self.0;
        write!(f, "{method} at ")?;
        if let Some(node) = node {
            write!(f, "{node} ")?;
        }
        write!(f, "({addr}) failed while {phase}, after {} ms: {kind}", age.as_millis())?;
        match self.outcome() {
            Outcome::NotApplied => Ok(()),
            Outcome::Unknown => f.write_str("; it may have been applied"),
        }
    }
}

impl fmt::Debug for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcError({self})")
    }
}

impl std::error::Error for RpcError {}
