//! The other end of a link: connections that peers dialled, and the requests on them.
//!
//! A handler answers through a [`RawReply`], at once or later and from any thread. Each request of a connection has a
//! slot, the same that the caller's slab gave it, and each use of a slot a serial number: an answer whose serial number
//! is no longer the slot's was cancelled, and is dropped.

#[cfg(all(test, feature = "shuttle"))]
mod races;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Incoming, VarInt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::bounds::{self, Answer, Place};
use super::frame::{self, Frame, FrameBuffer, Lane, Malformed, Status};
use super::greeting::{LaneStreams, proves, read_message, write_message};
use super::lane::{self, LaneEnd, Side};
use super::ledger::Proof;
use super::pending::index_of;
use super::queue::Queue;
use super::tasks::lock;
use super::{CLOSE_MALFORMED, CLOSE_REFUSED, CLOSE_SHED, CLOSE_SHUTDOWN, Caller, HandlerTable, Shared};
use crate::hello::{self, Hello, HelloAnswer};
use crate::sync::{AbortHandle, Mutex};

/// Replies that are kept beyond their cancelled calls may be as many again as requests in flight.
const OPEN_REPLIES_PER_SLOT: usize = 2;

/// The requests of one peer on one connection.
pub(crate) struct Inbound {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caller: Caller,
    /// None for calls of this node to itself.
    connection: Option<Connection>,
    state: Mutex<State>,
}

struct State {
    queues: [Queue; 3],
    slots: Vec<Slot>,
    serial: u64,
    /// Replies that exist.
    open: usize,
    closed: bool,
}

#[derive(Default)]
struct Slot {
    /// Of the request in hand; 0 if there is none.
    serial: u64,
    /// The task that works on it, if one does.
    task: Option<AbortHandle>,
}

/// A request as a handler sees it.
pub(crate) struct Request<'a> {
    pub(crate) body: &'a [u8],
    /// How long the caller will still wait.
    pub(crate) timeout: Duration,
}

impl Inbound {
    pub(crate) fn open(shared: Arc<Shared>, caller: Caller, connection: Option<Connection>) -> Arc<Self> {
        let state = State { queues: Default::default(), slots: Vec::new(), serial: 0, open: 0, closed: false };
        Arc::new(Self { shared, caller, connection, state: Mutex::new(state) })
    }

    fn serve(self: &Arc<Self>, handlers: &HandlerTable, lane: Lane, id: u32, method: u16, request: Request<'_>) {
        let Some(reply) = self.register(lane, id) else {
            self.shared.stats.overloads.inc();
            return;
        };
        let Some(handler) = handlers.get(&method) else {
            reply.answer(Status::NoSuchMethod, &[]);
            return;
        };
        // Dropping the reply while the handler unwinds answers the call.
        let run = AssertUnwindSafe(|| handler.handle(&self.caller, request, reply));
        if catch_unwind(run).is_err() {
            self.shared.stats.handler_panics.inc();
            tracing::error!(method, peer = %self.caller.node, "a handler panicked");
        }
    }

    /// Gives a request its slot, or answers that there is none.
    fn register(self: &Arc<Self>, lane: Lane, id: u32) -> Option<RawReply> {
        let limit = self.shared.config.max_in_flight;
        let index = index_of(id);
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        if index >= limit || state.open >= OPEN_REPLIES_PER_SLOT * limit {
            let queue = &mut state.queues[lane.index()];
            frame::put_response(&mut queue.buf, id, Status::Overloaded, &[]);
            let writer = queue.writer();
            drop(state);
            writer.into_iter().for_each(Waker::wake);
            return None;
        }
        if state.slots.len() <= index {
            state.slots.resize_with(index + 1, Slot::default);
        }
        state.serial += 1;
        state.open += 1;
        let serial = state.serial;
        let abandoned = std::mem::replace(&mut state.slots[index], Slot { serial, task: None });
        drop(state);
        if let Some(task) = abandoned.task {
            task.abort();
        }
        Some(RawReply { inbound: Arc::clone(self), lane, id, serial, is_open: true })
    }

    fn cancel(&self, id: u32) {
        let mut state = lock(&self.state);
        let slot = state.slots.get_mut(index_of(id)).map(std::mem::take);
        drop(state);
        if let Some(task) = slot.and_then(|slot| slot.task) {
            task.abort();
        }
    }

    /// Ends the connection: aborts what works on its requests and drops what was to be answered.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        if let Some(connection) = &self.connection {
            connection.close(code, reason);
        }
        let mut state = lock(&self.state);
        state.closed = true;
        let slots = std::mem::take(&mut state.slots);
        state.queues.iter_mut().for_each(Queue::clear);
        drop(state);
        slots.into_iter().filter_map(|slot| slot.task).for_each(|task| task.abort());
    }
}

impl Side for Inbound {
    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn backlog(&self, lane: Lane) -> usize {
        lock(&self.state).queues[lane.index()].len()
    }

    /// Runs the requests in received bytes and cancels what they cancel.
    fn receive(self: &Arc<Self>, lane: Lane, frames: &mut FrameBuffer, chunks: &mut [Bytes]) -> Result<(), Malformed> {
        let handlers = self.shared.handlers();
        let (mut count, mut bytes) = (0, 0);
        let fed = chunks.iter_mut().map(std::mem::take).try_for_each(|chunk| {
            bytes += chunk.len() as u64;
            count += frames.feed(&chunk, |frame| {
                match frame {
                    Frame::Request { id, method, timeout_ms, body } => {
                        let timeout = Duration::from_millis(timeout_ms.into());
                        self.serve(&handlers, lane, id, method, Request { body, timeout });
                    }
                    Frame::Cancel { id } => self.cancel(id),
                    Frame::Skip => {}
                    Frame::Response { .. } => return Err(Malformed::WrongDirection),
                }
                Ok(())
            })?;
            Ok(())
        });
        self.shared.stats.frames_in.add(count);
        self.shared.stats.bytes_in.add(bytes);
        fed
    }

    fn poll_batch(&self, lane: Lane, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Poll::Ready(None);
        }
        state.queues[lane.index()].poll_take(&self.shared.stats, cx).map(Some)
    }
}

/// The right to answer one request. Dropped, it answers that the handler ended without an answer.
pub(crate) struct RawReply {
    inbound: Arc<Inbound>,
    lane: Lane,
    id: u32,
    serial: u64,
    is_open: bool,
}

impl RawReply {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inbound.shared
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.inbound.caller
    }

    /// Whether the caller still waits.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = lock(&self.inbound.state);
        !state.closed && state.slots.get(index_of(self.id)).is_some_and(|slot| slot.serial == self.serial)
    }

    /// Answers, if the caller still waits.
    pub(crate) fn answer(mut self, status: Status, body: &[u8]) {
        self.send(status, body);
    }

    /// Has `task` aborted when the request is cancelled.
    pub(crate) fn attach(inbound: &Inbound, id: u32, serial: u64, task: AbortHandle) {
        let mut state = lock(&inbound.state);
        match state.slots.get_mut(index_of(id)) {
            Some(slot) if slot.serial == serial => slot.task = Some(task),
            // It was cancelled, or it has answered already; aborting what has ended does nothing.
            _ => {
                drop(state);
                task.abort();
            }
        }
    }

    /// What [`RawReply::attach`] needs once the reply itself has moved into the task.
    pub(crate) fn ticket(&self) -> (Arc<Inbound>, u32, u64) {
        (Arc::clone(&self.inbound), self.id, self.serial)
    }

    fn send(&mut self, status: Status, body: &[u8]) {
        self.is_open = false;
        let config = &self.inbound.shared.config;
        let stats = &self.inbound.shared.stats;
        let mut state = lock(&self.inbound.state);
        state.open -= 1;
        let is_wanted = state.slots.get(index_of(self.id)).is_some_and(|slot| slot.serial == self.serial);
        if state.closed || !is_wanted {
            return;
        }
        state.slots[index_of(self.id)] = Slot::default();
        let queue = &mut state.queues[self.lane.index()];
        let (status, body): (_, &[u8]) = if body.len() > config.max_frame_bytes {
            (Status::AnswerTooLarge, &[])
        } else if queue.len() > config.max_queued_bytes {
            stats.answers_dropped.inc();
            // What surely was not applied stays so; of anything else only that much can be said.
            match status {
                Status::NoSuchMethod | Status::BadRequest | Status::Overloaded | Status::ShuttingDown => (status, &[]),
                _ => (Status::AnswerDropped, &[]),
            }
        } else {
            (status, body)
        };
        frame::put_response(&mut queue.buf, self.id, status, body);
        queue.frames += 1;
        let writer = queue.writer();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl Drop for RawReply {
    fn drop(&mut self) {
        if self.is_open {
            self.send(Status::HandlerDropped, &[]);
        }
    }
}

/// Accepts connections until the endpoint closes.
pub(crate) async fn accept_for_ever(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let is_full = shared.inbound_open.load(Ordering::Relaxed) >= shared.config.max_connections;
        // Under load a dialler must first show that its address is its own, so that forged ones cannot take every place.
        let is_validated = incoming.remote_address_validated() || !incoming.may_retry();
        let place = match shared.handshakes.ask(incoming.remote_address(), is_validated) {
            Answer::Place(place) => place,
            Answer::Retry => {
                shared.stats.retries.inc();
                if incoming.retry().is_err() {
                    shared.stats.handshakes_shed.inc();
                }
                continue;
            }
            Answer::Full => {
                shared.stats.handshakes_shed.inc();
                incoming.ignore();
                continue;
            }
        };
        if is_full {
            shared.stats.handshakes_shed.inc();
            incoming.refuse();
            continue;
        }
        shared.tasks.spawn(serve_connection(Arc::clone(&shared), incoming, place));
    }
}

/// A connection from its first packet to its end.
async fn serve_connection(shared: Arc<Shared>, incoming: Incoming, place: Place) {
    let Some((connection, control, inbound, _proof)) = receive(&shared, incoming).await else {
        shared.stats.handshake_failures.inc();
        return;
    };
    drop(place);
    bounds::trust(&connection);
    shared.stats.connections_in.inc();
    let Some(serial) = shared.register_inbound(&inbound) else {
        inbound.close(CLOSE_SHUTDOWN, b"shutting down");
        return;
    };
    let mut tasks = JoinSet::new();
    let mut is_open = [false; 3];
    start_lane(&inbound, Lane::Control, control, &mut tasks, &mut is_open);
    loop {
        // The peer opens the other lanes at its own pace; each names itself in its first byte.
        let Ok((send, mut recv)) = connection.accept_bi().await else { break };
        let mut name = [0];
        let deadline = Instant::now() + shared.config.hello_timeout;
        let named = timeout_at(deadline, recv.read_exact(&mut name)).await;
        let lane = Lane::from_byte(name[0]).filter(|lane| !is_open[lane.index()]);
        match (named, lane) {
            (Ok(Ok(())), Some(lane)) => start_lane(&inbound, lane, (send, recv), &mut tasks, &mut is_open),
            _ => {
                shared.stats.malformed.inc();
                connection.close(CLOSE_MALFORMED, b"malformed lane");
                break;
            }
        }
    }
    inbound.close(CLOSE_SHED, b"the connection has ended");
    shared.forget_inbound(serial);
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
}

fn start_lane(
    inbound: &Arc<Inbound>,
    lane: Lane,
    (send, recv): LaneStreams,
    tasks: &mut JoinSet<()>,
    is_open: &mut [bool; 3],
) {
    is_open[lane.index()] = true;
    if send.set_priority(lane.priority()).is_err() {
        // The stream was reset; its reader will see that.
    }
    tasks.spawn(run_lane(Arc::clone(inbound), lane, (send, recv)));
}

async fn run_lane(inbound: Arc<Inbound>, lane: Lane, (mut send, mut recv): LaneStreams) {
    if let LaneEnd::Malformed(malformed) = lane::run(&inbound, lane, &mut send, &mut recv).await {
        inbound.shared.stats.malformed.inc();
        tracing::warn!(peer = %inbound.caller.node, %malformed, "closing a connection");
        inbound.close(CLOSE_MALFORMED, b"malformed frame");
    }
}

type Received = (Connection, LaneStreams, Arc<Inbound>, Proof);

/// The handshake and the hello of a connection; `None` if either fails, with the connection closed.
async fn receive(shared: &Arc<Shared>, incoming: Incoming) -> Option<Received> {
    let from = incoming.remote_address();
    let watch = (!incoming.remote_address_validated()).then(|| shared.watch(from));
    let connecting = incoming.accept().ok()?;
    let deadline = Instant::now() + shared.config.connect_timeout;
    let connection = match timeout_at(deadline, connecting).await {
        Ok(Ok(connection)) => connection,
        failed => {
            use super::RpcErrorKind::{Outdated, Untrusted};
            if let Ok(Err(error)) = &failed
                && let Untrusted(cause) | Outdated(cause) = super::greeting::classify(error)
            {
                shared.policy.distrusted(from, &cause);
            }
            drop(failed);
            tokio::time::sleep(bounds::DRAINS).await;
            return None;
        }
    };
    let proof = shared.prove(from);
    drop(watch);
    let deadline = Instant::now() + shared.config.hello_timeout;
    let hello = async {
        let (send, mut recv) = connection.accept_bi().await.ok()?;
        let mut name = [0];
        recv.read_exact(&mut name).await.ok()?;
        if Lane::from_byte(name[0]) != Some(Lane::Control) {
            return None;
        }
        let hello = hello::decode::<Hello>(&read_message(&mut recv).await?).ok()?;
        Some((send, recv, hello))
    };
    let Some((mut send, recv, hello)) = timeout_at(deadline, hello).await.ok().flatten() else {
        connection.close(CLOSE_REFUSED, b"no hello");
        return None;
    };
    let answer = match proves(&connection, &hello.name) {
        Ok(()) => shared.policy.admit(&hello, from),
        Err(refusal) => {
            shared.policy.refused(&hello, from, &refusal);
            HelloAnswer::Refused(refusal)
        }
    };
    let encoded = hello::encode(&answer).ok()?;
    timeout_at(deadline, write_message(&mut send, &encoded)).await.ok()?.ok()?;
    match (answer, hello.node()) {
        (HelloAnswer::Welcome(_), Some(node)) => {
            let caller = Caller { node, addr: hello.addr };
            let inbound = Inbound::open(Arc::clone(shared), caller, Some(connection.clone()));
            Some((connection, (send, recv), inbound, proof))
        }
        // Refused, or welcomed without a boot of its own: the peer reads the answer and goes.
        (answer, _) => {
            let _ = send.finish();
            let _ = timeout_at(deadline, connection.closed()).await;
            connection.close(CLOSE_REFUSED, b"the hello was all");
            drop(answer);
            None
        }
    }
}
