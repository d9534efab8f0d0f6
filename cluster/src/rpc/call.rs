//! The caller's side of a call.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Failure, Lane, Peer, Phase, RpcError, RpcErrorKind};
use crate::transport::Shared;
use crate::transport::frame::Status;
use crate::transport::link::{Broken, Link};
use crate::transport::pending::Ending;

/// A scratch buffer larger than this is given back after its request.
const KEEP_SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Encodes `value` into this thread's scratch buffer and hands the bytes to `then`.
pub(super) fn with_encoded<T: Serialize + ?Sized, R>(
    value: &T,
    then: impl FnOnce(&[u8]) -> R,
) -> Result<R, postcard::Error> {
    // An encoder that itself encodes finds an empty buffer and makes its own.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let bytes = postcard::to_extend(value, scratch)?;
    let result = then(&bytes);
    if bytes.capacity() <= KEEP_SCRATCH_BYTES {
        SCRATCH.set(bytes);
    }
    Ok(result)
}

/// Decodes all of `bytes`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes are left over", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// A call in flight. See [`super::Rpc::call`].
#[must_use = "a call that is dropped is cancelled"]
pub struct Call<Resp> {
    state: State,
    method: &'static str,
    started: Instant,
    answer: PhantomData<fn() -> Resp>,
}

enum State {
    Waiting { link: Arc<Link>, id: u32 },
    Failed { peer: Box<Peer>, broken: Broken },
    Over,
}

pub(super) fn start<Resp>(
    shared: &Arc<Shared>,
    to: &Peer,
    id: u16,
    method: &'static str,
    lane: Lane,
    request: &(impl Serialize + ?Sized),
    timeout: Duration,
) -> Call<Resp> {
    let started = Instant::now();
    let submit = || {
        let link = shared.link(to).map_err(|kind| (Phase::Connecting, kind))?;
        match with_encoded(request, |body| link.submit(lane, id, body, started, timeout)) {
            Ok(submitted) => submitted.map(|id| (link, id)),
            Err(error) => Err((Phase::Connecting, RpcErrorKind::BadRequest(error.to_string()))),
        }
    };
    let submitted = submit().or_else(|broken| match broken {
        // The link was closed between the look-up and now; nothing was queued, and there is another by now.
        (_, RpcErrorKind::PeerGone(_)) => submit(),
        broken => Err(broken),
    });
    let state = match submitted {
        Ok((link, id)) => State::Waiting { link, id },
        Err(broken) => State::Failed { peer: Box::new(to.clone()), broken },
    };
    Call { state, method, started, answer: PhantomData }
}

impl<Resp: DeserializeOwned> Future for Call<Resp> {
    type Output = Result<Resp, RpcError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ending = match &this.state {
            State::Waiting { link, id } => ready!(link.poll(*id, cx)),
            State::Failed { .. } => match std::mem::replace(&mut this.state, State::Over) {
                State::Failed { peer, broken } => return Poll::Ready(Err(this.error(&peer, broken))),
                _ => unreachable!("the state was just looked at"),
            },
            State::Over => panic!("a call was polled after it had ended"),
        };
        let State::Waiting { link, .. } = std::mem::replace(&mut this.state, State::Over) else {
            unreachable!("only a waiting call has an ending");
        };
        Poll::Ready(conclude(ending).map_err(|broken| this.error(&link.peer, broken)))
    }
}

fn conclude<Resp: DeserializeOwned>(ending: Ending) -> Result<Resp, Broken> {
    let (status, body) = match ending {
        Ending::Answered { status, body } => (status, body),
        Ending::Broken { kind, phase } => return Err((phase, kind)),
    };
    let kind = match status {
        Status::Ok => match decode(&body) {
            Ok(answer) => return Ok(answer),
            Err(cause) => RpcErrorKind::BadAnswer(cause),
        },
        Status::Failed => match Failure::decode(&body) {
            Some(failure) => RpcErrorKind::Failed(failure),
            None => RpcErrorKind::BadAnswer("a failure that does not decode".to_owned()),
        },
        Status::NoSuchMethod => RpcErrorKind::NoSuchMethod,
        Status::BadRequest => RpcErrorKind::BadRequest(String::from_utf8_lossy(&body).into_owned()),
        Status::Overloaded => RpcErrorKind::PeerOverloaded,
        Status::HandlerDropped => RpcErrorKind::HandlerDropped,
        Status::AnswerDropped => RpcErrorKind::AnswerDropped,
        Status::AnswerTooLarge => RpcErrorKind::AnswerTooLarge,
        Status::ShuttingDown => RpcErrorKind::PeerShuttingDown,
    };
    Err((Phase::Answered, kind))
}

impl<Resp> Call<Resp> {
    fn error(&self, peer: &Peer, (phase, kind): Broken) -> RpcError {
        RpcError::new(Some(peer.node.clone()), peer.addr, self.method, phase, self.started.elapsed(), kind)
    }
}

impl<Resp> Call<Resp> {
    /// Lets the request run on without anybody waiting: it is sent if that is possible before its deadline, and nobody
    /// learns what became of it.
    pub fn forget(mut self) {
        if let State::Waiting { link, id } = std::mem::replace(&mut self.state, State::Over) {
            link.forget(id);
        }
    }
}

impl<Resp> Drop for Call<Resp> {
    fn drop(&mut self) {
        if let State::Waiting { link, id } = &self.state {
            link.abandon(*id);
        }
    }
}

impl<Resp> fmt::Debug for Call<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).finish_non_exhaustive()
    }
}
