//! Remote calls: typed methods over the transport's lanes.
//!
//! A [`Method`] names a call and fixes its types and its lane. A node serves it with [`Rpc::serve`] or
//! [`Rpc::serve_async`], and any other calls it with [`Rpc::call`]. A call ends with its answer, with its deadline, or
//! with the end of the connection; an [`RpcError`] says how far it had come and whether the request took effect.
//! A node that calls itself takes the same path without the network.
//!
//! # Guarantees
//! A request runs at most once. It runs only between the start of its call and, if it was cancelled, the moment at which
//! the peer learns of that. An error with [`Outcome::NotApplied`] means that it never ran and never will, or that the
//! handler itself says that it had no effect.

mod blob;
mod call;
mod serve;
pub(crate) mod solo;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use self::blob::Blob;
pub use self::call::Call;
pub use self::serve::Reply;
pub use self::solo::Solo;
pub use crate::hello::{Refusal, SettingDifference};
pub use crate::transport::error::{Failure, Outcome, Phase, RpcError, RpcErrorKind};
pub use crate::transport::frame::Lane;
pub use crate::transport::stats::{Counter, TransportStats};
pub use crate::transport::{Caller, Peer};

use crate::hello::Welcome;
use crate::identity::NodeId;
use crate::transport::{CLOSE_REFUSED, Shared, greeting};

/// A method: its number on the wire, its name in errors, its lane and its types.
pub struct Method<Req, Resp> {
    id: u16,
    name: &'static str,
    lane: Lane,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req, Resp> Method<Req, Resp> {
    /// A method. Its number must be the same on all nodes and unique in each.
    #[must_use]
    pub const fn new(id: u16, name: &'static str, lane: Lane) -> Self {
        Self { id, name, lane, types: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<Req, Resp> Clone for Method<Req, Resp> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Req, Resp> Copy for Method<Req, Resp> {}

impl<Req, Resp> fmt::Debug for Method<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {:?})", self.name, self.id, self.lane)
    }
}

/// A handle for calling peers and serving them. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Rpc {
    shared: Arc<Shared>,
}

impl Rpc {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Serves a method with a function that is called on the library's executor and must not block or take long. The
    /// [`Reply`] may be sent at once, or kept and sent later from any thread; dropped unsent, it fails the call.
    ///
    /// # Panics
    /// If the method's number is already served.
    pub fn serve<Req, Resp>(
        &self,
        method: Method<Req, Resp>,
        handler: impl Fn(&Caller, Req, Reply<Resp>) + Send + Sync + 'static,
    ) where
        Req: DeserializeOwned + 'static,
        Resp: Serialize + 'static,
    {
        let handler = Arc::new(serve::Inline::new(handler));
        assert!(self.shared.serve(method.id, handler), "method {} ({}) is already served", method.name, method.id);
    }

    /// Serves a method no longer, as a build does that does not know it.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn unserve<Req, Resp>(&self, method: &Method<Req, Resp>) {
        self.shared.unserve(method.id);
    }

    /// Serves a method with an asynchronous function. Its future runs as a task on the library's executor and must not
    /// block; it is dropped when the caller gives up, when the connection ends and when the node stops.
    ///
    /// # Panics
    /// If the method's number is already served.
    pub fn serve_async<Req, Resp, F>(
        &self,
        method: Method<Req, Resp>,
        handler: impl Fn(Caller, Req) -> F + Send + Sync + 'static,
    ) where
        Req: DeserializeOwned + 'static,
        Resp: Serialize + 'static,
        F: Future<Output = Result<Resp, Failure>> + Send + 'static,
    {
        let handler = Arc::new(serve::Spawned::new(handler));
        assert!(self.shared.serve(method.id, handler), "method {} ({}) is already served", method.name, method.id);
    }

    /// Calls a peer. The request is encoded and queued now, before the future is polled; the future only waits.
    /// `timeout` starts now. The request may be any type that encodes to the same bytes as `Req`, for instance one that
    /// borrows.
    ///
    /// # Cancellation
    /// Dropping the future gives up the call: a request that was not sent yet never will be, and for one that was, the
    /// peer is told, which aborts an asynchronous handler. Its outcome is then unknown.
    ///
    /// # Errors
    /// See [`RpcError`]; in particular [`RpcError::outcome`].
    pub fn call<Req, Resp>(
        &self,
        to: &Peer,
        method: &Method<Req, Resp>,
        request: &(impl Serialize + ?Sized),
        timeout: Duration,
    ) -> Call<Resp>
    where
        Resp: DeserializeOwned,
    {
        call::start(&self.shared, to, method.id, method.name, method.lane, request, timeout)
    }

    /// How long a call should be given when nothing better is known.
    #[must_use]
    pub fn default_timeout(&self) -> Duration {
        self.shared.config.call_timeout
    }

    /// Whether calls to a node wait and nothing has come from it for a while (300 ms by default): a hint to ask another.
    #[must_use]
    pub fn is_stalled(&self, node: &NodeId) -> bool {
        self.shared.is_stalled(node)
    }

    /// Whether the node has stopped: every call fails from then on.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopping()
    }

    /// What the transport has done so far.
    #[must_use]
    pub fn stats(&self) -> &TransportStats {
        &self.shared.stats
    }

    /// Introduces this node to whoever listens at an address, over a connection of its own that is closed afterwards.
    ///
    /// # Errors
    /// [`RpcErrorKind::Refused`] if the node there refuses this one; otherwise why it could not be asked.
    pub(crate) async fn greet(&self, addr: SocketAddr, timeout: Duration) -> Result<Welcome, RpcError> {
        let started = Instant::now();
        let phase = crate::sync::Mutex::new(Phase::Connecting);
        let hello = self.shared.policy.hello(None);
        let greeting = || *crate::transport::tasks::lock(&phase) = Phase::Greeting;
        let dial = greeting::dial(&self.shared, addr, &hello, greeting);
        let result = match tokio::time::timeout(timeout, dial).await {
            Ok(result) => result,
            Err(_) => Err((*crate::transport::tasks::lock(&phase), RpcErrorKind::TimedOut)),
        };
        match result {
            Ok(dialled) => {
                dialled.connection.close(CLOSE_REFUSED, b"the hello was all");
                Ok(dialled.welcome)
            }
            Err((phase, kind)) => Err(RpcError::new(None, addr, "hello", phase, started.elapsed(), kind)),
        }
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").finish_non_exhaustive()
    }
}
