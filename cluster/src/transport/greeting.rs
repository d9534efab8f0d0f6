//! Connecting to a peer and saying hello.
//!
//! The dialler opens the control lane and sends its hello as the first thing on it; the acceptor answers on the same
//! stream. In TLS 1.3 a dialler believes itself connected before the acceptor has seen its certificate, so a rejected
//! certificate may show only here, as a connection that closes. Nothing else is read before the hello was accepted.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::error::{Phase, RpcErrorKind};
use super::frame::Lane;
use super::ledger::Proof;
use super::{CLOSE_REFUSED, CLOSE_SHED, CLOSE_SHUTDOWN, Shared};
use crate::hello::{self, Hello, HelloAnswer, MAX_HELLO_BYTES, Refusal, Welcome};
use crate::identity::{NodeId, NodeName};
use crate::mutation::{Mutation, mutated};
use crate::secure::names::carries;
use crate::secure::tls::SERVER_NAME;

/// QUIC's codes of failures inside TLS (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
/// Among them the alert of a peer that speaks another application protocol.
const NO_APPLICATION_PROTOCOL: u64 = 0x178;
/// And the alert of a peer for which a certificate is expired, or not valid yet.
const CERTIFICATE_EXPIRED: u64 = 0x12d;
/// QUIC's code of an endpoint that turns a connection away.
const CONNECTION_REFUSED: u64 = 0x2;

/// A connection that was welcomed, and its control lane; the proof of its address is to be kept as long as it is.
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    pub(crate) control: (SendStream, RecvStream),
    pub(crate) welcome: Welcome,
    pub(crate) proof: Proof,
}

/// The two halves of one lane's stream.
pub(crate) type LaneStreams = (SendStream, RecvStream);

/// Connects to `addr` and says `hello`. `greeting` is called between the two.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    addr: SocketAddr,
    hello: &Hello,
    greeting: impl FnOnce(),
) -> Result<Dialled, (Phase, RpcErrorKind)> {
    let dialled = dial_inner(shared, addr, hello, greeting).await;
    if dialled.is_err() {
        shared.stats.handshake_failures.inc();
    }
    dialled
}

async fn dial_inner(
    shared: &Arc<Shared>,
    addr: SocketAddr,
    hello: &Hello,
    greeting: impl FnOnce(),
) -> Result<Dialled, (Phase, RpcErrorKind)> {
    let config = &shared.config;
    let connect = async {
        let connecting = shared
            .endpoint
            .connect_with(shared.client_config(), addr, SERVER_NAME)
            .map_err(|error| unreachable_because(error.to_string()))?;
        connecting.await.map_err(|error| classify(&error))
    };
    let connection =
        within(config.connect_timeout, "handshake", connect).await.map_err(|kind| (Phase::Connecting, kind))?;
    let proof = shared.prove(connection.remote_address());
    greeting();
    let greet = within(config.hello_timeout, "hello", greet(&connection, hello));
    let agreed = greet.await.and_then(|(control, welcome)| {
        proves(&connection, &welcome.id.node.name).map_err(RpcErrorKind::Refused)?;
        shared.policy.welcomed(&welcome).map_err(RpcErrorKind::Refused)?;
        Ok((control, welcome))
    });
    match agreed {
        Ok((control, welcome)) => Ok(Dialled { connection, control, welcome, proof }),
        Err(kind) => {
            connection.close(CLOSE_REFUSED, b"no agreement");
            Err((Phase::Greeting, kind))
        }
    }
}

async fn greet(connection: &Connection, hello: &Hello) -> Result<(LaneStreams, Welcome), RpcErrorKind> {
    let bytes = hello::encode(hello).map_err(|error| RpcErrorKind::BadRequest(error.to_string()))?;
    let (mut send, mut recv) = open_lane(connection, Lane::Control).await?;
    let lost = || match connection.close_reason() {
        Some(reason) => classify(&reason),
        None => unreachable_because("the stream of the hello ended".to_owned()),
    };
    write_message(&mut send, &bytes).await.map_err(|()| lost())?;
    let answer = match read_message(&mut recv).await {
        Some(answer) => answer,
        None => {
            // The stream can end a moment before the reason is known.
            let reason = timeout(Duration::from_millis(50), connection.closed()).await;
            return Err(reason.map_or_else(|_| lost(), |reason| classify(&reason)));
        }
    };
    let answer = hello::decode::<HelloAnswer>(&answer).map_err(|error| RpcErrorKind::BadAnswer(error.to_string()))?;
    match answer {
        HelloAnswer::Refused(refusal) => Err(RpcErrorKind::Refused(refusal)),
        HelloAnswer::Welcome(welcome) => match &hello.expects {
            Some(expected) if *expected != welcome.id.node => {
                Err(RpcErrorKind::Refused(Refusal::NotMe { actual: NodeId::clone(&welcome.id.node) }))
            }
            _ => Ok(((send, recv), welcome)),
        },
    }
}

/// Whether the peer's certificate carries the name that its hello says: holding the secret of the cluster, or a certificate
/// of its authority, makes nobody another node.
///
/// # Errors
/// It does not.
pub(crate) fn proves(connection: &Connection, name: &NodeName) -> Result<(), Refusal> {
    let identity =
        connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let carried = identity.is_some_and(|chain| chain.first().is_some_and(|leaf| carries(leaf, name)));
    if carried || mutated(Mutation::BelievesNames) { Ok(()) } else { Err(Refusal::NotCertified { name: name.clone() }) }
}

/// Opens the lanes that the hello did not need and returns all, in the order of [`Lane::ALL`].
pub(crate) async fn open_lanes(
    connection: &Connection,
    control: LaneStreams,
) -> Result<[LaneStreams; 3], RpcErrorKind> {
    let call = open_lane(connection, Lane::Call).await?;
    let bulk = open_lane(connection, Lane::Bulk).await?;
    Ok([control, call, bulk])
}

async fn open_lane(connection: &Connection, lane: Lane) -> Result<LaneStreams, RpcErrorKind> {
    let (mut send, recv) = connection.open_bi().await.map_err(|error| classify(&error))?;
    let lost = |cause: String| connection.close_reason().map_or_else(|| unreachable_because(cause), |e| classify(&e));
    send.set_priority(lane.priority()).map_err(|error| lost(error.to_string()))?;
    send.write_all(&[lane.to_byte()]).await.map_err(|error| lost(error.to_string()))?;
    Ok((send, recv))
}

/// Sends a length-prefixed message of the hello.
pub(crate) async fn write_message(send: &mut SendStream, bytes: &[u8]) -> Result<(), ()> {
    let length = u32::try_from(bytes.len()).map_err(|_| ())?;
    send.write_all(&length.to_le_bytes()).await.map_err(|_| ())?;
    send.write_all(bytes).await.map_err(|_| ())
}

/// Receives a length-prefixed message of the hello; `None` if it is too long or the stream ends.
pub(crate) async fn read_message(recv: &mut RecvStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.ok()?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HELLO_BYTES {
        return None;
    }
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, RpcErrorKind>>,
) -> Result<T, RpcErrorKind> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(unreachable_because(format!("no answer to the {what} within {} ms", limit.as_millis()))),
    }
}

fn unreachable_because(cause: String) -> RpcErrorKind {
    RpcErrorKind::Unreachable { cause, age: Duration::ZERO }
}

/// What the end of a connection means for one that was never up.
pub(crate) fn classify(error: &ConnectionError) -> RpcErrorKind {
    let code = match error {
        ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        _ => None,
    };
    match code {
        Some(NO_APPLICATION_PROTOCOL) => unreachable_because(
            "what listens there speaks another protocol than this version of the library".to_owned(),
        ),
        Some(CERTIFICATE_EXPIRED) => RpcErrorKind::Outdated(error.to_string()),
        Some(code) if CRYPTO_ERRORS.contains(&code) => RpcErrorKind::Untrusted(error.to_string()),
        _ => unreachable_because(describe(error)),
    }
}

/// The end of a connection in words.
pub(crate) fn describe(error: &ConnectionError) -> String {
    let closed = |code: VarInt| match code {
        CLOSE_SHUTDOWN => Some("the peer shut down"),
        CLOSE_SHED => Some("the peer has too many connections"),
        _ => None,
    };
    match error {
        ConnectionError::ApplicationClosed(close) => match closed(close.error_code) {
            Some(text) => text.to_owned(),
            None => format!("the peer closed the connection: {}", String::from_utf8_lossy(&close.reason)),
        },
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == CONNECTION_REFUSED => {
            "the peer has too many connections".to_owned()
        }
        ConnectionError::Reset => "the peer was restarted".to_owned(),
        ConnectionError::TimedOut => "the peer does not answer".to_owned(),
        ConnectionError::LocallyClosed => "this node closed the connection".to_owned(),
        other => other.to_string(),
    }
}
