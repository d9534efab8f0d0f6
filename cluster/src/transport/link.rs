//! A link: what a node keeps per peer that it calls.
//!
//! A link is idle, connecting, greeting, up, or backing off. The first call dials; calls queue until the connection is
//! up, within bounds; when the attempt fails, they fail with its cause, and further calls fail at once until the next
//! attempt is due. Requests travel only on connections that this side dialled, so the two nodes never argue about which
//! of two connections to keep, and answers come back on the stream of their request.
//!
//! A request counts as sent from the moment at which the first byte of its batch was handed to the connection. When a
//! connection dies, what was sent ends with an unknown outcome and what was not with a certain one. A request that is
//! given up before it was sent is turned in place into a frame that says nothing.

#[cfg(all(test, feature = "shuttle"))]
mod races;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quinn::Connection;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::error::{Phase, RpcErrorKind};
use super::frame::{self, Frame, FrameBuffer, Lane, Malformed};
use super::greeting::{self, Dialled, LaneStreams};
use super::inbound::Inbound;
use super::lane::{self, LaneEnd, Side};
use super::pending::{Ending, Pending, Waiting};
use super::queue::Queue;
use super::tasks::lock;
use super::{CLOSE_IDLE, CLOSE_MALFORMED, CLOSE_SUPERSEDED, Caller, Peer, Shared};
use crate::sync::{AtomicBool, Mutex};

/// The longest a call may take: a day, so that no sum of times overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A link to one peer. See the module's documentation.
pub(crate) struct Link {
    pub(crate) peer: Peer,
    pub(crate) shared: Arc<Shared>,
    state: Mutex<State>,
    /// Wakes the driver when a deadline comes before its next sweep.
    rouse: Notify,
    /// Wakes the driver when the link was closed.
    closing: Notify,
    is_closed: AtomicBool,
}

struct State {
    stage: Stage,
    /// One more with every driver, so that what belongs to an earlier one is told apart.
    epoch: u64,
    pending: Pending,
    queues: [Queue; 3],
    /// Bytes of answers that nobody has taken yet.
    unread: usize,
    /// When the driver next looks at deadlines.
    sweep_at: Option<Instant>,
    last_call: Instant,
    /// When the first request was sent after which nothing has been received.
    silent_since: Option<Instant>,
    /// Attempts to connect that failed in a row.
    failures: u32,
}

enum Stage {
    Idle,
    Connecting,
    Greeting,
    /// The connection, or none if the peer is this node itself.
    Up(Option<Connection>),
    Backoff {
        until: Instant,
        since: Instant,
        cause: RpcErrorKind,
    },
    Closed(RpcErrorKind),
}

/// A request that could not even be queued, or whose call ended: how far it had come, and why.
pub(crate) type Broken = (Phase, RpcErrorKind);

impl Link {
    pub(crate) fn new(peer: Peer, shared: Arc<Shared>) -> Self {
        let state = State {
            stage: Stage::Idle,
            epoch: 0,
            pending: Pending::new(shared.config.max_in_flight),
            queues: Default::default(),
            unread: 0,
            sweep_at: None,
            last_call: Instant::now(),
            silent_since: None,
            failures: 0,
        };
        Self {
            peer,
            shared,
            state: Mutex::new(state),
            rouse: Notify::new(),
            closing: Notify::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Queues a request and returns its id, which [`Link::poll`] or [`Link::abandon`] must be given later.
    pub(crate) fn submit(
        self: &Arc<Self>,
        lane: Lane,
        method: u16,
        body: &[u8],
        now: Instant,
        timeout: Duration,
    ) -> Result<u32, Broken> {
        let config = &self.shared.config;
        if body.len() > config.max_frame_bytes {
            let kind = RpcErrorKind::RequestTooLarge { bytes: body.len(), limit: config.max_frame_bytes };
            return Err((Phase::Queued, kind));
        }
        let timeout = timeout.min(MAX_TIMEOUT);
        let deadline = now + timeout;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let mut state = lock(&self.state);
        let dial = state.admit(now)?;
        let queued = body.len() + state.queues[lane.index()].len();
        if state.pending.is_full() || queued > config.max_queued_bytes {
            self.shared.stats.overloads.inc();
            let limit =
                if state.pending.is_full() { "requests in flight to one peer" } else { "bytes queued for one peer" };
            return Err((state.phase(), RpcErrorKind::Overloaded(limit)));
        }
        let at = state.queues[lane.index()].end();
        let id = state.pending.insert(Waiting { waker: None, deadline, lane, at, is_forgotten: false });
        let queue = &mut state.queues[lane.index()];
        frame::put_request(&mut queue.buf, id, method, timeout_ms, body);
        queue.frames += 1;
        let writer = queue.writer();
        state.last_call = now;
        state.silent_since.get_or_insert(now);
        let rouse = state.sweep_at.is_none_or(|at| deadline < at);
        if rouse {
            state.sweep_at = Some(deadline);
        }
        if dial {
            state.stage = Stage::Connecting;
            state.epoch += 1;
        }
        let epoch = state.epoch;
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        if dial {
            let started = self.shared.tasks.spawn(Arc::clone(self).drive(epoch));
            if started.is_none() {
                self.close(RpcErrorKind::ShutDown);
            }
        } else if rouse {
            self.rouse.notify_one();
        }
        Ok(id)
    }

    /// What became of a request. Once ready, its id is free.
    pub(crate) fn poll(&self, id: u32, cx: &Context<'_>) -> Poll<Ending> {
        let mut state = lock(&self.state);
        if let Some(waiting) = state.pending.waiting(id) {
            match &mut waiting.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match state.pending.take(id) {
            Some(ending) => {
                if let Ending::Answered { body, .. } = &ending {
                    state.unread -= body.len();
                }
                Poll::Ready(ending)
            }
            None => Poll::Ready(Ending::Broken { kind: RpcErrorKind::ShutDown, phase: Phase::Sent }),
        }
    }

    /// Gives up a request whose caller has gone: takes it back if it was not sent, tells the peer otherwise.
    pub(crate) fn abandon(&self, id: u32) {
        let mut state = lock(&self.state);
        let (waiting, ending) = state.pending.abandon(id);
        if let Some(Ending::Answered { body, .. }) = &ending {
            state.unread -= body.len();
        }
        let writer = waiting.and_then(|waiting| state.recall(id, &waiting));
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Lets a request run on of which nobody wants to know what became.
    pub(crate) fn forget(&self, id: u32) {
        let mut state = lock(&self.state);
        if let Some(Ending::Answered { body, .. }) = state.pending.forget(id) {
            state.unread -= body.len();
        }
    }

    /// Whether requests wait and nothing has been received for a while since they were sent.
    pub(crate) fn is_stalled(&self) -> bool {
        let state = lock(&self.state);
        let silent = state.silent_since.is_some_and(|since| since.elapsed() >= self.shared.config.stall_after);
        silent && !state.pending.is_empty() && !matches!(state.stage, Stage::Closed(_))
    }

    /// Closes the link if it holds nothing that matters: no connection, no call and no attempt to wait for.
    pub(crate) fn retire(&self) -> bool {
        let mut state = lock(&self.state);
        let is_resting = match &state.stage {
            Stage::Idle | Stage::Closed(_) => true,
            Stage::Backoff { until, .. } => *until <= Instant::now(),
            _ => false,
        };
        let is_retired = is_resting && state.pending.is_empty();
        if is_retired {
            self.is_closed.store(true, Ordering::Release);
            state.stage = Stage::Closed(RpcErrorKind::PeerGone("its link was given up for others".to_owned()));
        }
        is_retired
    }

    /// Whether the link has ended for good, so that a new call needs another.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Whether there is a connection.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn is_up(&self) -> bool {
        matches!(lock(&self.state).stage, Stage::Up(_))
    }

    /// Ends the link for good: all calls fail with `cause`, now and later.
    pub(crate) fn close(&self, cause: RpcErrorKind) {
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Closed(_)) {
            return;
        }
        self.is_closed.store(true, Ordering::Release);
        let wakers = state.fail_all(&cause);
        if let Stage::Up(Some(connection)) = std::mem::replace(&mut state.stage, Stage::Closed(cause)) {
            connection.close(CLOSE_SUPERSEDED, b"the link was closed");
        }
        drop(state);
        wake(wakers);
        self.closing.notify_one();
    }

    /// Runs the link from the first attempt to connect until it is idle, backing off or closed.
    async fn drive(self: Arc<Self>, epoch: u64) {
        let cause = tokio::select! {
            biased;
            () = self.closing.notified() => None,
            cause = self.run(epoch) => cause,
            () = self.sweep_for_ever(epoch) => None,
        };
        self.settle(epoch, cause);
    }

    /// Connects, greets and serves the connection. Returns why it ended, or `None` if it ended for want of use.
    async fn run(self: &Arc<Self>, epoch: u64) -> Option<Ended> {
        if self.shared.is_local(&self.peer.node) {
            self.enter(epoch, Stage::Up(None));
            return self.run_loopback(epoch).await;
        }
        let hello = self.shared.policy.hello(Some(&self.peer.node));
        let greeting = || self.enter(epoch, Stage::Greeting);
        let dialled = greeting::dial(&self.shared, self.peer.addr, &hello, greeting).await;
        let Dialled { connection, control, proof: _proof, .. } = match dialled {
            Ok(dialled) => dialled,
            Err((_, kind)) => return Some(Ended::Never(kind)),
        };
        let up_since = Instant::now();
        let streams = match greeting::open_lanes(&connection, control).await {
            Ok(streams) => streams,
            Err(kind) => return Some(Ended::Never(kind)),
        };
        self.shared.stats.connections_out.inc();
        self.enter(epoch, Stage::Up(Some(connection.clone())));
        let mut lanes = JoinSet::new();
        let side = Arc::new(Outgoing { link: Arc::clone(self), epoch });
        for (lane, streams) in Lane::ALL.into_iter().zip(streams) {
            lanes.spawn(run_lane(Arc::clone(&side), connection.clone(), lane, streams));
        }
        let ended = loop {
            let idle_at = lock(&self.state).last_call + self.shared.config.link_idle;
            tokio::select! {
                biased;
                error = connection.closed() => break Some(error),
                () = sleep_until(idle_at) => if self.retire_if_idle(epoch) { break None },
            }
        };
        lanes.abort_all();
        while lanes.join_next().await.is_some() {}
        match ended {
            None => {
                connection.close(CLOSE_IDLE, b"idle");
                None
            }
            Some(error) => {
                self.shared.stats.connections_lost.inc();
                Some(Ended::After(up_since.elapsed(), greeting::describe(&error)))
            }
        }
    }

    /// Hands received answers to their calls, a whole batch under one lock.
    fn deliver(&self, frames: &mut FrameBuffer, chunks: &mut [Bytes]) -> Result<(), Malformed> {
        let limit = self.shared.config.max_unread_bytes;
        let mut wakers = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut state = lock(&self.state);
        let state_now = &mut *state;
        state_now.silent_since = None;
        let fed = chunks.iter_mut().map(std::mem::take).try_for_each(|chunk| {
            bytes += chunk.len() as u64;
            count += frames.feed(&chunk, |frame| {
                let (id, status, body) = match frame {
                    Frame::Response { id, status, body } => (id, status, body),
                    Frame::Skip => return Ok(()),
                    Frame::Request { .. } | Frame::Cancel { .. } => return Err(Malformed::WrongDirection),
                };
                let unread = &mut state_now.unread;
                let waker = state_now.pending.finish(id, || {
                    if *unread + body.len() > limit {
                        self.shared.stats.answers_dropped.inc();
                        return Ending::Broken { kind: RpcErrorKind::AnswerDropped, phase: Phase::Answered };
                    }
                    *unread += body.len();
                    Ending::Answered { status, body: body.to_vec() }
                });
                wakers.extend(waker.flatten());
                Ok(())
            })?;
            Ok(())
        });
        drop(state);
        self.shared.stats.frames_in.add(count);
        self.shared.stats.bytes_in.add(bytes);
        wake(wakers);
        fed
    }

    /// Serves calls of this node to itself: the same frames, without a connection.
    async fn run_loopback(self: &Arc<Self>, epoch: u64) -> Option<Ended> {
        let caller = Caller { node: self.peer.node.clone(), addr: self.peer.addr };
        let inbound = Inbound::open(Arc::clone(&self.shared), caller, None);
        let outgoing = Arc::new(Outgoing { link: Arc::clone(self), epoch });
        let limit = self.shared.config.max_frame_bytes;
        let mut requests = Lane::ALL.map(|_| FrameBuffer::new(limit));
        let mut answers = Lane::ALL.map(|_| FrameBuffer::new(limit));
        loop {
            let idle_at = lock(&self.state).last_call + self.shared.config.link_idle;
            tokio::select! {
                biased;
                (lane, batch) = next_batch(&*inbound) => {
                    let fed = outgoing.receive(lane, &mut answers[lane.index()], &mut [batch]);
                    fed.expect("this node's own frames are well-formed");
                }
                (lane, batch) = next_batch(&*outgoing) => {
                    let fed = inbound.receive(lane, &mut requests[lane.index()], &mut [batch]);
                    fed.expect("this node's own frames are well-formed");
                    // A program whose calls to itself follow each other without an end must not starve the others.
                    tokio::task::yield_now().await;
                }
                () = sleep_until(idle_at) => if self.retire_if_idle(epoch) { return None },
            }
        }
    }

    fn enter(&self, epoch: u64, stage: Stage) {
        let mut state = lock(&self.state);
        if state.epoch != epoch || matches!(state.stage, Stage::Closed(_)) {
            return;
        }
        let up = matches!(stage, Stage::Up(_));
        state.stage = stage;
        if up {
            // What was queued while there was no connection is sent only now.
            state.silent_since = (!state.pending.is_empty()).then(Instant::now);
        }
    }

    fn retire_if_idle(&self, epoch: u64) -> bool {
        let mut state = lock(&self.state);
        let unused = state.last_call.elapsed() >= self.shared.config.link_idle && state.pending.is_empty();
        if unused && state.epoch == epoch {
            state.stage = Stage::Idle;
            state.queues.iter_mut().for_each(Queue::clear);
            state.failures = 0;
        }
        unused
    }

    /// Ends this driver's time: fails what is left and chooses when to try again.
    fn settle(&self, epoch: u64, ended: Option<Ended>) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.epoch != epoch || matches!(state.stage, Stage::Closed(_) | Stage::Idle) {
            return;
        }
        let config = &self.shared.config;
        let (cause, in_vain) = match ended {
            None => (RpcErrorKind::ShutDown, false),
            Some(Ended::Never(cause)) => (cause, true),
            // A connection that breaks at once, again and again, is a failure to connect.
            Some(Ended::After(lasted, cause)) => (RpcErrorKind::ConnectionLost(cause), lasted < config.backoff_min),
        };
        let wakers = state.fail_all(&cause);
        if in_vain {
            state.failures = state.failures.saturating_add(1);
            let until = now + self.shared.backoff(state.failures);
            state.stage = Stage::Backoff { until, since: now, cause };
        } else {
            state.failures = 0;
            state.stage = Stage::Idle;
        }
        drop(state);
        wake(wakers);
    }

    async fn sweep_for_ever(&self, epoch: u64) {
        loop {
            let (latest, at) = {
                let state = lock(&self.state);
                (state.epoch, state.sweep_at)
            };
            if latest != epoch {
                // Deadlines are the next driver's now, and so is what woke this one.
                self.rouse.notify_one();
                return std::future::pending().await;
            }
            let Some(at) = at else {
                self.rouse.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.rouse.notified() => {}
                () = sleep_until(at) => self.sweep(epoch),
            }
        }
    }

    /// Fails the calls whose deadline has passed and finds when to look again.
    fn sweep(&self, epoch: u64) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.epoch != epoch {
            return;
        }
        let early = state.phase();
        let mut next: Option<Instant> = None;
        let mut wakers = Vec::new();
        let mut cancelled = Vec::new();
        let mut expired = 0;
        let State { pending, queues, .. } = &mut *state;
        pending.finish_where(&mut wakers, |id, waiting| {
            if waiting.deadline > now {
                next = Some(next.map_or(waiting.deadline, |next| next.min(waiting.deadline)));
                return None;
            }
            expired += 1;
            let queue = &mut queues[waiting.lane.index()];
            let phase = if queue.withdraw(waiting.at) {
                early
            } else {
                cancelled.push((waiting.lane, id));
                Phase::Sent
            };
            Some(Ending::Broken { kind: RpcErrorKind::TimedOut, phase })
        });
        self.shared.stats.timeouts.add(expired);
        for (lane, id) in cancelled {
            let queue = &mut queues[lane.index()];
            frame::put_cancel(&mut queue.buf, id);
            wakers.extend(queue.writer());
        }
        state.sweep_at = next.map(|next| next.max(now + self.shared.config.sweep));
        drop(state);
        wake(wakers);
    }
}

/// How a driver's work ended.
enum Ended {
    /// There was no connection, and why.
    Never(RpcErrorKind),
    /// There was one for so long, and why it ended.
    After(Duration, String),
}

impl State {
    /// Whether a call may be queued, and whether it has to dial.
    fn admit(&self, now: Instant) -> Result<bool, Broken> {
        match &self.stage {
            Stage::Connecting | Stage::Greeting | Stage::Up(_) => Ok(false),
            Stage::Idle => Ok(true),
            Stage::Backoff { until, .. } if *until <= now => Ok(true),
            Stage::Backoff { since, cause, .. } => {
                let kind = match cause.clone() {
                    RpcErrorKind::Unreachable { cause, .. } | RpcErrorKind::ConnectionLost(cause) => {
                        RpcErrorKind::Unreachable { cause, age: now.saturating_duration_since(*since) }
                    }
                    other => other,
                };
                Err((Phase::Connecting, kind))
            }
            Stage::Closed(cause) => Err((Phase::Connecting, cause.clone())),
        }
    }

    /// How far a request has come that was not sent.
    fn phase(&self) -> Phase {
        match self.stage {
            Stage::Up(_) => Phase::Queued,
            Stage::Greeting => Phase::Greeting,
            _ => Phase::Connecting,
        }
    }

    /// Takes back a request that was not sent, or tells the peer not to bother. Returns the writer to wake.
    fn recall(&mut self, id: u32, waiting: &Waiting) -> Option<Waker> {
        let queue = &mut self.queues[waiting.lane.index()];
        if queue.withdraw(waiting.at) {
            return None;
        }
        frame::put_cancel(&mut queue.buf, id);
        queue.writer()
    }

    /// Ends all waiting calls: those that were sent with an unknown outcome, the others with a certain one.
    fn fail_all(&mut self, cause: &RpcErrorKind) -> Vec<Waker> {
        let early = self.phase();
        let mut wakers = Vec::new();
        let Self { pending, queues, .. } = self;
        pending.finish_where(&mut wakers, |_, waiting| {
            let sent = queues[waiting.lane.index()].has_left(waiting.at);
            Some(Ending::Broken { kind: cause.clone(), phase: if sent { Phase::Sent } else { early } })
        });
        queues.iter_mut().for_each(Queue::clear);
        self.sweep_at = None;
        self.silent_since = None;
        wakers
    }
}

/// The queues of a link as one connection's writers see them.
struct Outgoing {
    link: Arc<Link>,
    epoch: u64,
}

impl Side for Outgoing {
    fn shared(&self) -> &Arc<Shared> {
        &self.link.shared
    }

    fn backlog(&self, _lane: Lane) -> usize {
        // Answers are always read: what waits here is this node's own, and bounded where it is queued.
        0
    }

    fn receive(self: &Arc<Self>, _lane: Lane, frames: &mut FrameBuffer, chunks: &mut [Bytes]) -> Result<(), Malformed> {
        self.link.deliver(frames, chunks)
    }

    fn poll_batch(&self, lane: Lane, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = lock(&self.link.state);
        if state.epoch != self.epoch || !matches!(state.stage, Stage::Up(_)) {
            return Poll::Ready(None);
        }
        state.queues[lane.index()].poll_take(&self.link.shared.stats, cx).map(Some)
    }
}

async fn run_lane(side: Arc<Outgoing>, connection: Connection, lane: Lane, (mut send, mut recv): LaneStreams) {
    match lane::run(&side, lane, &mut send, &mut recv).await {
        // The connection is gone; the driver fails what was sent.
        LaneEnd::Gone => {}
        LaneEnd::Finished => connection.close(CLOSE_MALFORMED, b"a lane ended"),
        LaneEnd::Malformed(malformed) => {
            side.link.shared.stats.malformed.inc();
            tracing::warn!(peer = %side.link.peer.node, %malformed, "closing a connection");
            connection.close(CLOSE_MALFORMED, b"malformed frame");
        }
    }
}

async fn next_batch(outbox: &impl Side) -> (Lane, Bytes) {
    std::future::poll_fn(|cx| {
        for lane in Lane::ALL {
            if let Poll::Ready(Some(batch)) = outbox.poll_batch(lane, cx) {
                return Poll::Ready((lane, batch));
            }
        }
        Poll::Pending
    })
    .await
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
