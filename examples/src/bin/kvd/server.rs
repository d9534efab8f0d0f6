//! Connections: accepting them, reading requests, writing answers.
//!
//! Each connection is one task. What has arrived is decoded as far as it goes, answered, and the answers are written together.
//! In memory a connection has at most the requests that are answered together, one that is not complete (4 MiB), the values that it
//! answers with ([`batch`]), and of their bytes what it writes next; while its client does not read, it does nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::batch;
use crate::reply::{Reply, Version};
use crate::request::{Decoder, Malformed, Request};
use crate::session::{Session, Shared};

/// How much room there is for what arrives next.
const READ_BYTES: usize = 16 << 10;
/// How many requests of one client are decoded before they are answered.
const MAX_PIPELINED: usize = 128;
/// How long nobody is accepted after the system could not: it has no more files, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After so long without a word a client is asked whether it is there yet, as Redis does: three times, so that the place of one whose
/// machine is gone is free after twice that.
const KEEPALIVE: Duration = Duration::from_secs(300);
const KEEPALIVE_PROBES: u32 = 3;
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// Serves clients until it is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Session::new(shared.clone()) {
                    Some(session) => drop(connections.spawn(async move {
                        // That a client is gone is of no interest to anybody.
                        let _ = converse(stream, session).await;
                    })),
                    // It is told if that needs no waiting.
                    None => drop(stream.try_write(TOO_MANY)),
                },
                Err(error) => {
                    tracing::warn!(%error, "no client can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn converse(mut stream: TcpStream, mut session: Session) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / KEEPALIVE_PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    let mut decoder = Decoder::default();
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut requests = Vec::new();
    loop {
        let end = decode(&mut decoder, &mut input, &mut requests);
        if requests.is_empty() && end.is_ok() {
            input.reserve(READ_BYTES);
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            continue;
        }
        let mut left = &requests[..];
        while !left.is_empty() && !session.is_over {
            let answered = batch::answer(&mut session, left).await;
            left = &left[answered.taken..];
            for (version, reply) in answered.replies {
                write(&mut stream, &mut output, version, reply).await?;
            }
        }
        if let Err(malformed) = &end
            && !session.is_over
        {
            if *malformed == Malformed::Http {
                tracing::warn!(
                    client = ?stream.peer_addr().ok(),
                    "possible SECURITY ATTACK detected: somebody sends POST or Host: commands, most likely a web page that has a \
                     browser send requests; the connection is aborted"
                );
            }
            Reply::error(malformed.to_string()).encode(session.version, &mut output);
        }
        flush(&mut stream, &mut output).await?;
        if session.is_over || end.is_err() {
            return stream.shutdown().await;
        }
        requests.clear();
    }
}

/// Takes what is complete. The requests before something malformed are to be answered all the same.
fn decode(decoder: &mut Decoder, input: &mut BytesMut, requests: &mut Vec<Request>) -> Result<(), Malformed> {
    while requests.len() < MAX_PIPELINED
        && let Some(request) = decoder.next(input)?
    {
        requests.push(request);
    }
    Ok(())
}

/// Gathers the bytes of an answer, and writes what has been gathered once that is much.
async fn write(stream: &mut TcpStream, output: &mut BytesMut, version: Version, reply: Reply) -> io::Result<()> {
    for piece in reply.pieces(version, output) {
        piece.encode(version, output);
        if output.len() >= batch::FLUSH_BYTES {
            flush(stream, output).await?;
        }
    }
    Ok(())
}

async fn flush(stream: &mut TcpStream, output: &mut BytesMut) -> io::Result<()> {
    stream.write_all(output).await?;
    output.clear();
    if output.capacity() > 2 * batch::FLUSH_BYTES {
        // What one large answer took is not kept.
        *output = BytesMut::new();
    }
    Ok(())
}
