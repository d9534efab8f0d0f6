//! The floor: a quorum and nothing else. Values in a hash map, and the calls of a put and a get over the same transport.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity::Node;
use polity::cluster::rpc::{Blob, Lane, Method, Peer, Rpc};

use super::workload::{Keys, VALUE_BYTES};
use crate::load::Caller;

const PUT: Method<(Blob, Blob), ()> = Method::new(900, "bare.put", Lane::Call);
const GET: Method<Blob, Option<Blob>> = Method::new(901, "bare.get", Lane::Call);
const TIMEOUT: Duration = Duration::from_secs(2);

/// As many locks as callers would have to be unlucky to meet at.
const LOCKS: usize = 64;

type Values = HashMap<Vec<u8>, Blob>;

#[derive(Clone)]
pub(super) struct Bare {
    rpc: Rpc,
    peers: Arc<[Peer]>,
    values: Arc<[Mutex<Values>]>,
}

impl Bare {
    pub(super) fn serve(node: &Node) -> Self {
        let values: Vec<_> = (0..LOCKS).map(|_| Mutex::default()).collect();
        let bare = Self { rpc: node.rpc().clone(), peers: Arc::new([]), values: values.into() };
        let (put, get) = (bare.clone(), bare.clone());
        node.rpc().serve(PUT, move |_, (key, value), reply| {
            put.store(&key.0, value);
            reply.send(&());
        });
        node.rpc().serve(GET, move |_, key: Blob, reply| reply.send(&get.load(&key.0)));
        bare
    }

    /// Everybody else.
    pub(super) fn with_peers(self, node: &Node) -> Self {
        let view = node.members().snapshot();
        let others = view.up().filter(|member| member.id != *node.id());
        let peers = others.map(|member| Peer { node: member.id.clone(), addr: member.addr }).collect();
        Self { peers, ..self }
    }

    /// Writes here and at both others, and waits for one of them.
    pub(super) async fn put(&self, key: String) {
        let (key, value) = (Blob(key.into()), Blob(vec![1; VALUE_BYTES].into()));
        self.store(&key.0, value.clone());
        let message = (key, value);
        let call = |peer| self.rpc.call(peer, &PUT, &message, TIMEOUT);
        let mut calls: FuturesUnordered<_> = self.peers.iter().map(call).collect();
        calls.next().await.expect("there are others").expect("an answer");
        calls.into_iter().for_each(polity::cluster::rpc::Call::forget);
    }

    fn lock(&self, key: &[u8]) -> std::sync::MutexGuard<'_, Values> {
        let at = key.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        self.values[at % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, key: &[u8], value: Blob) {
        self.lock(key).insert(key.to_vec(), value);
    }

    fn load(&self, key: &[u8]) -> Option<Blob> {
        self.lock(key).get(key).cloned()
    }
}

#[derive(Clone)]
pub(super) struct BarePut {
    pub(super) bare: Bare,
    pub(super) keys: Keys,
}

impl Caller for BarePut {
    async fn call(&self) {
        self.bare.put(self.keys.next()).await;
    }
}

/// Reads here and from one other.
#[derive(Clone)]
pub(super) struct BareGet {
    pub(super) bare: Bare,
    pub(super) keys: Keys,
}

impl Caller for BareGet {
    async fn call(&self) {
        let key = Blob(self.keys.next().into());
        let own = self.bare.load(&key.0);
        let other = self.bare.peers.first().expect("there are others");
        let other = self.bare.rpc.call(other, &GET, &key, TIMEOUT).await.expect("an answer");
        assert!(own.or(other).is_some_and(|value| value.0.len() == VALUE_BYTES), "every key was written");
    }
}
