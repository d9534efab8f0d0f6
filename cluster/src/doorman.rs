//! Whom this node lets in, and what it says of itself at the door.

#[cfg(all(test, feature = "shuttle"))]
mod races;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use crate::formation::Charter;
use crate::hello::{Hello, HelloAnswer, HelloPolicy, Refusal, Welcome, judge, same_formation};
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::secure::ring::Ring;
use crate::sync::{Mutex, MutexGuard};
use crate::version::Speaks;

/// Answers hellos. Knows every name's newest boot, so that a node that starts can be told its generation.
pub(crate) struct Doorman {
    cluster: String,
    settings: BTreeMap<String, String>,
    name: NodeName,
    addr: SocketAddr,
    speaks: Speaks,
    charter: Charter,
    ring: watch::Receiver<Arc<Ring>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until this node has chosen its boot.
    own: Option<Identity>,
    newest: BTreeMap<NodeName, Boot>,
    /// Addresses whose refusal was logged, `None` for a certificate that did not verify: one warning each is enough.
    warned: BTreeMap<SocketAddr, Option<Refusal>>,
    /// The same for those that have refused us.
    refused_by: BTreeMap<SocketAddr, Option<Refusal>>,
    leaving: bool,
}

/// What whoever was away during a rotation must be told.
pub(crate) const NOT_TRUSTED: &str = "the cluster does not trust this node's key: it is another cluster's, or it was \
    rotated while this node was away; restart this node with the cluster's present secret";

/// How many refused addresses are remembered for the log's sake. Beyond that, strangers are only counted.
const MAX_WARNED: usize = 256;

impl Doorman {
    pub(crate) fn new(
        (cluster, settings): (String, BTreeMap<String, String>),
        name: NodeName,
        addr: SocketAddr,
        speaks: Speaks,
        ring: watch::Receiver<Arc<Ring>>,
    ) -> Self {
        Self { cluster, settings, name, addr, speaks, charter: Charter::default(), ring, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of our cluster, as hellos tell it and learn it.
    pub(crate) fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Logs that a node has refused us, if that is news and nothing that passes.
    pub(crate) fn refused_by(&self, at: SocketAddr, refusal: &Refusal) {
        if !refusal.is_retryable() && is_news(&mut self.state().refused_by, at, Some(refusal)) {
            tracing::warn!(%at, %refusal, "a node has refused this one");
        }
    }

    /// Logs, once for each address, that this node and the one there do not trust each other's certificates. A node that
    /// is `cut_off` from most of its cluster is the one that must change.
    pub(crate) fn untrusted_by(&self, at: SocketAddr, cause: &str, cut_off: bool) {
        if !is_news(&mut self.state().refused_by, at, None) {
            return;
        }
        if cut_off {
            tracing::error!(%at, %cause, "{NOT_TRUSTED}");
        } else {
            tracing::warn!(%at, %cause, "no key in common with the node there: it may have missed a rotation");
        }
    }

    /// Logs, once for each address, that a certificate is not valid now.
    pub(crate) fn outdated(&self, at: SocketAddr, cause: &str) {
        if is_news(&mut self.state().refused_by, at, None) {
            tracing::error!(%at, %cause, "a certificate, of this node or of the one there, is expired or not valid yet");
        }
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

    /// Takes in what the membership knows of another name now: its newest boot, or that it was forgotten.
    pub(crate) fn set_known(&self, name: &NodeName, boot: Option<Boot>) {
        let mut state = self.state();
        if *name == self.name {
            return;
        }
        match boot {
            Some(boot) => state.newest.insert(name.clone(), boot),
            None => state.newest.remove(name),
        };
    }

    fn is_news(&self, from: SocketAddr, refusal: Option<&Refusal>) -> bool {
        is_news(&mut self.state().warned, from, refusal)
    }
}

/// Whether a refusal should be logged: the first of its kind from an address, as long as there is room to remember.
fn is_news(warned: &mut BTreeMap<SocketAddr, Option<Refusal>>, from: SocketAddr, refusal: Option<&Refusal>) -> bool {
    if warned.get(&from).is_some_and(|before| before.as_ref() == refusal) {
        return false;
    }
    if warned.len() >= MAX_WARNED && !warned.contains_key(&from) {
        return false;
    }
    warned.insert(from, refusal.cloned());
    true
}

/// Whether a caller finds whom it `expects`, and is the newest boot of its name that is known: then the generation that
/// is known of the name, 0 if there is none.
pub(crate) fn admit(
    own: &NodeId,
    expects: Option<&NodeId>,
    caller: Option<Boot>,
    newest: Option<Boot>,
) -> Result<u64, Refusal> {
    if expects.is_some_and(|expected| expected != own) {
        return Err(Refusal::NotMe { actual: own.clone() });
    }
    match (caller, newest) {
        (Some(theirs), Some(by)) if theirs < by => Err(Refusal::NameTaken { by }),
        _ => Ok(newest.map_or(0, |boot| boot.generation)),
    }
}

impl HelloPolicy for Doorman {
    fn hello(&self, expects: Option<&NodeId>) -> Hello {
        Hello {
            protocol: self.speaks.versions,
            cluster: self.cluster.clone(),
            settings: self.settings.clone(),
            name: self.name.clone(),
            boot: self.state().own.as_ref().map(|own| own.node.boot),
            addr: self.addr,
            expects: expects.cloned(),
            cluster_id: self.charter.get(),
            keys: self.ring.borrow().secrets().map(|(id, _)| id).collect(),
            capabilities: self.speaks.capabilities,
            extensions: BTreeMap::new(),
        }
    }

    fn admit(&self, hello: &Hello, from: SocketAddr) -> HelloAnswer {
        let protocol = match judge(&self.hello(None), hello) {
            Ok(protocol) => protocol,
            Err(refusal) => {
                self.refused(hello, from, &refusal);
                return HelloAnswer::Refused(refusal);
            }
        };
        let state = self.state();
        let Some(own) = &state.own else { return HelloAnswer::Refused(Refusal::Starting) };
        if state.leaving {
            return HelloAnswer::Refused(Refusal::ShuttingDown);
        }
        let newest = state.newest.get(&hello.name).copied();
        match admit(&own.node, hello.expects.as_ref(), hello.boot, newest) {
            Ok(your_generation) => {
                let cluster_id = hello.cluster_id.map(|id| self.charter.adopt(id)).or_else(|| self.charter.get());
                HelloAnswer::Welcome(Welcome { protocol, id: own.clone(), your_generation, cluster_id })
            }
            Err(refusal) => HelloAnswer::Refused(refusal),
        }
    }

    fn welcomed(&self, welcome: &Welcome) -> Result<(), Refusal> {
        let ours = welcome.cluster_id.map(|id| self.charter.adopt(id));
        same_formation(welcome.cluster_id, ours)
    }

    fn refused(&self, hello: &Hello, from: SocketAddr, refusal: &Refusal) {
        if self.is_news(from, Some(refusal)) {
            tracing::warn!(%from, node = %hello.name, %refusal, "a node was refused");
        }
    }

    fn distrusted(&self, from: SocketAddr, cause: &str) {
        if self.is_news(from, None) {
            tracing::warn!(%from, %cause, "a stranger's certificate, or ours to it, did not verify: another secret, or one that was removed?");
        }
    }
}
