//! The floor: plain quinn, one long-lived stream, hand-written frames of many calls at once. The least that this machine
//! allows with the same encryption: no deadlines, no cancellation, no limits, no codec.
//!
//! A frame is its length (`u32`), an id (`u32`) and the payload.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Notify, oneshot};

const HEADER: usize = 8;
const READ_BYTES: usize = 64 << 10;

/// Serves echoes until the endpoint is dropped. Returns where, and the certificate to trust.
pub(crate) fn serve() -> Result<(SocketAddr, CertificateDer<'static>)> {
    let key = rcgen::KeyPair::generate()?;
    let cert = rcgen::CertificateParams::new(["floor".to_owned()])?.self_signed(&key)?;
    let cert = CertificateDer::from(cert.der().to_vec());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key)?;
    let mut config =
        quinn::ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let addr = socket.local_addr()?;
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await
                    && let Ok((send, recv)) = connection.accept_bi().await
                {
                    echo(send, recv).await;
                }
            });
        }
    });
    Ok((addr, cert))
}

async fn echo(mut send: SendStream, mut recv: RecvStream) {
    let mut buf = vec![0; READ_BYTES];
    let (mut pending, mut out) = (Vec::new(), Vec::new());
    while let Ok(Some(n)) = recv.read(&mut buf).await {
        each_frame(&mut pending, &buf[..n], |id, payload| put_frame(&mut out, id, payload));
        if !out.is_empty() && send.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(8_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window((4_u32 << 20).into())
        .receive_window((16_u32 << 20).into());
    Arc::new(transport)
}

fn put_frame(out: &mut Vec<u8>, id: u32, payload: &[u8]) {
    out.extend_from_slice(&((payload.len() + 4) as u32).to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(payload);
}

fn each_frame(pending: &mut Vec<u8>, received: &[u8], mut each: impl FnMut(u32, &[u8])) {
    let mut parse = |mut bytes: &[u8]| {
        let whole = bytes.len();
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
            let [l0, l1, l2, l3, i0, i1, i2, i3] = *header;
            let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize - 4;
            if rest.len() < length {
                break;
            }
            each(u32::from_le_bytes([i0, i1, i2, i3]), &rest[..length]);
            bytes = &rest[length..];
        }
        whole - bytes.len()
    };
    if pending.is_empty() {
        let used = parse(received);
        pending.extend_from_slice(&received[used..]);
    } else {
        pending.extend_from_slice(received);
        let used = parse(pending);
        pending.drain(..used);
    }
}

#[derive(Default)]
struct State {
    out: Vec<u8>,
    waiting: Vec<Option<oneshot::Sender<Vec<u8>>>>,
    free: Vec<u32>,
}

/// A client of the floor.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    write: Notify,
    _connection: Connection,
    _endpoint: Endpoint,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr, cert: CertificateDer<'static>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
        let connection = endpoint.connect_with(config, addr, "floor")?.await.context("connecting to the floor")?;
        let (send, recv) = connection.open_bi().await?;
        let inner = Inner {
            state: Mutex::new(State::default()),
            write: Notify::new(),
            _connection: connection,
            _endpoint: endpoint,
        };
        let client = Self(Arc::new(inner));
        tokio::spawn(client.clone().write(send));
        tokio::spawn(client.clone().read(recv));
        Ok(client)
    }

    pub(crate) async fn request(&self, payload: &[u8]) -> Vec<u8> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            let id = state.free.pop().unwrap_or_else(|| {
                state.waiting.push(None);
                (state.waiting.len() - 1) as u32
            });
            state.waiting[id as usize] = Some(sender);
            let was_empty = state.out.is_empty();
            put_frame(&mut state.out, id, payload);
            if was_empty {
                self.0.write.notify_one();
            }
        }
        receiver.await.expect("the floor answers")
    }

    async fn write(self, mut send: SendStream) {
        let mut batch = Vec::new();
        loop {
            self.0.write.notified().await;
            std::mem::swap(&mut batch, &mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner).out);
            if send.write_all(&batch).await.is_err() {
                return;
            }
            batch.clear();
        }
    }

    async fn read(self, mut recv: RecvStream) {
        let mut buf = vec![0; READ_BYTES];
        let mut pending = Vec::new();
        while let Ok(Some(n)) = recv.read(&mut buf).await {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            each_frame(&mut pending, &buf[..n], |id, payload| {
                if let Some(sender) = state.waiting[id as usize].take() {
                    state.free.push(id);
                    // A caller that has gone does not miss its answer.
                    let _ = sender.send(payload.to_vec());
                }
            });
        }
    }
}
