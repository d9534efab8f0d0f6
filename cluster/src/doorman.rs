//! Whom this node lets in, and what it says of itself at the door.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::hello::{Hello, HelloAnswer, HelloPolicy, PROTOCOL, Refusal, Welcome, judge};
use crate::identity::{Boot, Identity, NodeId, NodeName};

/// Answers hellos. Knows every name's newest boot, so that a node that starts can be told its generation.
pub(crate) struct Doorman {
    cluster: String,
    settings: BTreeMap<String, String>,
    name: NodeName,
    addr: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until this node has chosen its boot.
    own: Option<Identity>,
    newest: BTreeMap<NodeName, Boot>,
    /// Addresses whose refusal was logged, `None` for a certificate that did not verify: one warning each is enough.
    warned: BTreeMap<SocketAddr, Option<Refusal>>,
    leaving: bool,
}

/// How many refused addresses are remembered for the log's sake. Beyond that, strangers are only counted.
const MAX_WARNED: usize = 256;

impl Doorman {
    pub(crate) fn new(cluster: String, settings: BTreeMap<String, String>, name: NodeName, addr: SocketAddr) -> Self {
        Self { cluster, settings, name, addr, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on we are this.
    pub(crate) fn set_own(&self, own: Identity) {
        let mut state = self.state();
        state.newest.insert(own.node.name.clone(), own.node.boot);
        state.own = Some(own);
    }

    /// From now on nobody is let in.
    pub(crate) fn leave(&self) {
        self.state().leaving = true;
    }

    /// Replaces what is known of other names: those that the membership still remembers.
    pub(crate) fn set_known(&self, known: impl Iterator<Item = NodeId>) {
        let mut state = self.state();
        let own = state.own.as_ref().map(|own| own.node.clone());
        state.newest = known.chain(own).map(|id| (id.name, id.boot)).collect();
    }

    /// Whether a refusal should be logged: the first of its kind from an address, as long as there is room to remember.
    fn is_news(&self, from: SocketAddr, refusal: Option<&Refusal>) -> bool {
        let mut state = self.state();
        if state.warned.get(&from).is_some_and(|before| before.as_ref() == refusal) {
            return false;
        }
        if state.warned.len() >= MAX_WARNED && !state.warned.contains_key(&from) {
            return false;
        }
        state.warned.insert(from, refusal.cloned());
        true
    }
}

impl HelloPolicy for Doorman {
    fn hello(&self, expects: Option<&NodeId>) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: self.cluster.clone(),
            settings: self.settings.clone(),
            name: self.name.clone(),
            boot: self.state().own.as_ref().map(|own| own.node.boot),
            addr: self.addr,
            expects: expects.cloned(),
        }
    }

    fn admit(&self, hello: &Hello, from: SocketAddr) -> HelloAnswer {
        let protocol = match judge(&self.hello(None), hello) {
            Ok(protocol) => protocol,
            Err(refusal) => {
                if self.is_news(from, Some(&refusal)) {
                    tracing::warn!(%from, node = %hello.name, %refusal, "a node was refused");
                }
                return HelloAnswer::Refused(refusal);
            }
        };
        let state = self.state();
        let Some(own) = &state.own else { return HelloAnswer::Refused(Refusal::Starting) };
        if state.leaving {
            return HelloAnswer::Refused(Refusal::ShuttingDown);
        }
        if let Some(expected) = &hello.expects
            && *expected != own.node
        {
            return HelloAnswer::Refused(Refusal::NotMe { actual: own.node.clone() });
        }
        let newest = state.newest.get(&hello.name).copied();
        if let (Some(theirs), Some(newest)) = (hello.boot, newest)
            && theirs < newest
        {
            return HelloAnswer::Refused(Refusal::NameTaken { by: newest });
        }
        HelloAnswer::Welcome(Welcome {
            protocol,
            id: own.clone(),
            your_generation: newest.map_or(0, |boot| boot.generation),
            payload: Vec::new(),
        })
    }
    fn distrusted(&self, from: SocketAddr, cause: &str) {
        if self.is_news(from, None) {
            tracing::warn!(%from, %cause, "a stranger's certificate, or ours to it, did not verify: another secret?");
        }
    }
}
