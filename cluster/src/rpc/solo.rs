//! An RPC endpoint without a cluster: for measuring the transport alone.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::Runtime;

use super::{Peer, Rpc};
use crate::hello::{Hello, HelloAnswer, HelloPolicy, Welcome, judge};
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::secure::tls::TlsIdentity;
use crate::transport::config::TransportConfig;
use crate::transport::socket::GossipSink;
use crate::transport::{Transport, TransportParts};
use crate::version::Speaks;

/// An endpoint that calls and serves, and belongs to no cluster.
#[doc(hidden)]
#[derive(Debug)]
pub struct Solo {
    transport: Transport,
    peer: Peer,
}

impl Solo {
    /// Starts an endpoint on the current runtime. Endpoints with the same `secret` can call each other.
    ///
    /// # Errors
    /// If the socket or the certificates cannot be made.
    pub fn start(
        bind: SocketAddr,
        secret: [u8; 32],
        name: &NodeName,
        nonce: u128,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let socket = UdpSocket::bind(bind)?;
        let addr = socket.local_addr()?;
        let node = NodeId { name: name.clone(), boot: Boot { generation: 1, nonce } };
        let mut seed = secret;
        for (byte, nonce) in seed.iter_mut().zip(nonce.to_le_bytes()) {
            *byte ^= nonce;
        }
        let transport = Transport::start(TransportParts {
            socket: quinn::TokioRuntime.wrap_udp_socket(socket)?,
            held: tokio::sync::oneshot::channel().0,
            rng_seed: seed,
            tls: TlsIdentity::from_ca_seed(&secret, name, &seed)?,
            reset_key: seed.into(),
            config: TransportConfig::default(),
            policy: Arc::new(Alone { node: node.clone(), addr }),
            gossip: Arc::new(NoGossip),
            gate: crate::ground::Gate::default(),
        })?;
        transport.set_local(node.clone());
        Ok(Self { transport, peer: Peer { node, addr } })
    }

    /// The handle for calls.
    #[must_use]
    pub fn rpc(&self) -> Rpc {
        Rpc::new(Arc::clone(self.transport.shared()))
    }

    /// This endpoint, as others call it.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Stops the endpoint.
    pub async fn shutdown(&self) {
        self.transport.shutdown().await;
    }
}

/// Welcomes whoever holds the secret.
pub(crate) struct Alone {
    pub(crate) node: NodeId,
    pub(crate) addr: SocketAddr,
}

impl HelloPolicy for Alone {
    fn hello(&self, expects: Option<&NodeId>) -> Hello {
        Hello {
            protocol: Speaks::CURRENT.versions,
            cluster: String::new(),
            settings: BTreeMap::new(),
            name: self.node.name.clone(),
            boot: Some(self.node.boot),
            addr: self.addr,
            expects: expects.cloned(),
            cluster_id: None,
            keys: Vec::new(),
            capabilities: Speaks::CURRENT.capabilities,
            extensions: BTreeMap::new(),
        }
    }

    fn admit(&self, hello: &Hello, _from: SocketAddr) -> HelloAnswer {
        match judge(&self.hello(None), hello) {
            Ok(protocol) => HelloAnswer::Welcome(Welcome {
                protocol,
                id: Identity { node: self.node.clone(), rejoin: 0, addr: self.addr },
                your_generation: 0,
                cluster_id: None,
            }),
            Err(refusal) => HelloAnswer::Refused(refusal),
        }
    }

    fn distrusted(&self, _: SocketAddr, _: &str) {}
}

/// Takes no gossip.
pub(crate) struct NoGossip;

impl GossipSink for NoGossip {
    fn datagram(&self, _from: SocketAddr, _bytes: &[u8]) {}
}
