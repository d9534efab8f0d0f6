//! The serving side of a call.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::{decode, with_encoded};
use super::{Caller, Failure};
use crate::transport::Handler;
use crate::transport::frame::Status;
use crate::transport::inbound::{RawReply, Request};

/// The right to answer one request, once. Dropped unsent, it fails the call with
/// [`HandlerDropped`](super::RpcErrorKind::HandlerDropped), whose outcome is unknown.
#[must_use = "dropping a reply fails the call"]
pub struct Reply<Resp> {
    raw: RawReply,
    timeout: Duration,
    answer: PhantomData<fn(Resp)>,
}

impl<Resp: Serialize> Reply<Resp> {
    /// Answers. Does nothing if the caller has given up or is gone.
    pub fn send(self, answer: &Resp) {
        answer_with(self.raw, answer);
    }
}

impl<Resp> Reply<Resp> {
    /// Answers that the request failed.
    pub fn fail(self, failure: Failure) {
        self.raw.answer(Status::Failed, &failure.encode());
    }

    /// How long the caller still meant to wait when it sent the request.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the caller still waits.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.raw.is_wanted()
    }
}

impl<Resp> fmt::Debug for Reply<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("caller", self.raw.caller()).finish_non_exhaustive()
    }
}

fn answer_with<Resp: Serialize>(reply: RawReply, answer: &Resp) {
    let mut reply = Some(reply);
    let encoded = with_encoded(answer, |body| {
        if let Some(reply) = reply.take() {
            reply.answer(Status::Ok, body);
        }
    });
    if let (Err(error), Some(reply)) = (encoded, reply) {
        tracing::error!(%error, "an answer does not encode");
        reply.answer(Status::Failed, &Failure::unknown(format!("the answer does not encode: {error}")).encode());
    }
}

/// A handler that is called inline.
pub(super) struct Inline<H, Req, Resp> {
    handler: H,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<H, Req, Resp> Inline<H, Req, Resp> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, types: PhantomData }
    }
}

impl<H, Req, Resp> Handler for Inline<H, Req, Resp>
where
    H: Fn(&Caller, Req, Reply<Resp>) + Send + Sync,
    Req: DeserializeOwned,
{
    fn handle(&self, caller: &Caller, request: Request<'_>, reply: RawReply) {
        let timeout = request.timeout;
        match decode(request.body) {
            Ok(request) => (self.handler)(caller, request, Reply { raw: reply, timeout, answer: PhantomData }),
            Err(cause) => reply.answer(Status::BadRequest, cause.as_bytes()),
        }
    }
}

/// A handler whose future becomes a task.
pub(super) struct Spawned<H, Req, Resp> {
    handler: H,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<H, Req, Resp> Spawned<H, Req, Resp> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, types: PhantomData }
    }
}

impl<H, Req, Resp, F> Handler for Spawned<H, Req, Resp>
where
    H: Fn(Caller, Req) -> F + Send + Sync,
    F: Future<Output = Result<Resp, Failure>> + Send + 'static,
    Req: DeserializeOwned,
    Resp: Serialize + 'static,
{
    fn handle(&self, caller: &Caller, request: Request<'_>, reply: RawReply) {
        let request = match decode(request.body) {
            Ok(request) => request,
            Err(cause) => {
                reply.answer(Status::BadRequest, cause.as_bytes());
                return;
            }
        };
        let future = (self.handler)(caller.clone(), request);
        let (inbound, id, serial) = reply.ticket();
        let task = reply.shared().clone().tasks.spawn(async move {
            match future.await {
                Ok(answer) => answer_with(reply, &answer),
                Err(failure) => reply.answer(Status::Failed, &failure.encode()),
            }
        });
        if let Some(task) = task {
            RawReply::attach(&inbound, id, serial, task);
        }
    }
}
