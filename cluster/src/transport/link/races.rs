//! Models of a link: callers on many threads, the driver on the node's own.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shuttle::future::{block_on, spawn, yield_now};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::races::{LONG, Lone, check, peer};
use crate::rpc::{Method, Outcome, Reply, RpcError};
use crate::transport::config::TransportConfig;

/// Answers with one more, now or later.
const ADD: Method<u32, u32> = Method::new(900, "races.add", Lane::Call);

type Kept = mpsc::UnboundedReceiver<(u32, Reply<u32>)>;

/// Serves [`ADD`]: notes which requests have run, and leaves the answers to whoever receives them.
fn serve(lone: &Lone) -> (Arc<AtomicU32>, Kept) {
    let (keep, kept) = mpsc::unbounded_channel();
    let ran = Arc::new(AtomicU32::new(0));
    let bits = Arc::clone(&ran);
    lone.rpc.serve(ADD, move |_, number, reply| {
        let before = bits.fetch_or(1 << number, Ordering::Relaxed);
        assert_eq!(before & (1 << number), 0, "request {number} ran twice");
        // Nobody answers any more: the reply is dropped, which answers that.
        let _ = keep.send((number, reply));
    });
    (ran, kept)
}

fn has_run(ran: &AtomicU32, number: u32) -> bool {
    ran.load(Ordering::Relaxed) & (1 << number) != 0
}

/// The other thread of the application, which answers.
async fn answer(mut kept: Kept) {
    while let Some((number, reply)) = kept.recv().await {
        reply.send(&(number + 1));
    }
}

fn the_link(lone: &Lone) -> Arc<Link> {
    lone.transport.shared().link(&lone.me).expect("not stopped")
}

/// Nothing is kept for calls that are over, and no place is lost.
fn assert_nothing_is_left(link: &Link) {
    let state = lock(&link.state);
    assert!(state.pending.is_empty(), "a call that is over keeps its place");
    assert_eq!(state.unread, 0, "an answer that nobody reads is counted");
}

/// Awaits a call for a few turns of others, then gives it up.
async fn await_shortly(call: crate::rpc::Call<u32>) -> Option<Result<u32, RpcError>> {
    let mut call = std::pin::pin!(call);
    let mut polls = 0;
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if polls == 2 => Poll::Ready(None),
        Poll::Pending => {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// Three threads call, a fourth answers: each call gets its own answer, once, and nothing is left of it.
#[test]
fn every_call_gets_its_own_answer() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let (ran, kept) = serve(&lone);
        let answers = spawn(answer(kept));
        let callers = [1_u32, 2, 3].map(|number| {
            let call = lone.rpc.call::<u32, u32>(&lone.me, &ADD, &number, LONG);
            spawn(async move { assert_eq!(call.await.expect("an answer"), number + 1) })
        });
        block_on(async {
            for caller in callers {
                caller.await.expect("it ends");
            }
            assert_nothing_is_left(&the_link(&lone));
            assert_eq!(ran.load(Ordering::Relaxed), 0b1110);
            lone.transport.shutdown().await;
            answers.await.expect("it ends");
        });
    });
}

/// The first call dials while others come: they are all sent by the one driver that it started.
#[test]
fn one_driver_serves_all_that_call_first() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let (_, kept) = serve(&lone);
        let answers = spawn(answer(kept));
        let callers = [1_u32, 2].map(|number| {
            let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
            spawn(async move { rpc.call::<u32, u32>(&me, &ADD, &number, LONG).await.expect("an answer") })
        });
        block_on(async {
            for (caller, answer) in callers.into_iter().zip([2, 3]) {
                assert_eq!(caller.await.expect("it ends"), answer);
            }
            assert_eq!(lock(&the_link(&lone).state).epoch, 1);
            lone.transport.shutdown().await;
            answers.await.expect("it ends");
        });
    });
}

/// A call is given up while its answer arrives: its place is free again, its answer goes to nobody else, and whoever
/// takes the place next gets the right one.
#[test]
fn a_call_that_is_given_up_leaves_nothing() {
    check(|| {
        let lone = Lone::start(TransportConfig { max_in_flight: 1, ..TransportConfig::default() });
        let (_, kept) = serve(&lone);
        let answers = spawn(answer(kept));
        let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
        let impatient = spawn(async move {
            if let Some(ended) = await_shortly(rpc.call::<u32, u32>(&me, &ADD, &1_u32, LONG)).await {
                assert_eq!(ended.expect("an answer"), 2);
            }
            // Its place is free at once.
            assert_eq!(rpc.call::<u32, u32>(&me, &ADD, &2_u32, LONG).await.expect("an answer"), 3);
        });
        block_on(async {
            impatient.await.expect("it ends");
            assert_nothing_is_left(&the_link(&lone));
            lone.transport.shutdown().await;
            answers.await.expect("it ends");
        });
    });
}

/// A call is forgotten while it is sent and answered: it runs all the same, and nothing is left of it.
#[test]
fn a_call_that_is_forgotten_runs_and_leaves_nothing() {
    check(|| {
        let lone = Lone::start(TransportConfig { max_in_flight: 2, ..TransportConfig::default() });
        let (ran, kept) = serve(&lone);
        let answers = spawn(answer(kept));
        let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
        let caller = spawn(async move {
            let forgotten = rpc.call::<u32, u32>(&me, &ADD, &1_u32, LONG);
            yield_now().await;
            forgotten.forget();
            // What comes after it on the same lane is answered after it.
            assert_eq!(rpc.call::<u32, u32>(&me, &ADD, &2_u32, LONG).await.expect("an answer"), 3);
        });
        block_on(async {
            caller.await.expect("it ends");
            assert!(has_run(&ran, 1));
            assert_nothing_is_left(&the_link(&lone));
            lone.transport.shutdown().await;
            answers.await.expect("it ends");
        });
    });
}

/// The link is closed, as when the membership finds the peer gone, while calls are queued, sent and answered: each ends
/// once, and one whose error says that it was not applied never ran.
#[test]
fn a_link_that_is_closed_ends_every_call_honestly() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let (ran, kept) = serve(&lone);
        let answers = spawn(answer(kept));
        let link = the_link(&lone);
        let calls = [1_u32, 2].map(|number| (number, lone.rpc.call::<u32, u32>(&lone.me, &ADD, &number, LONG)));
        let callers = calls.map(|(number, call)| spawn(async move { (number, call.await) }));
        let closed = Arc::clone(&link);
        let closer = spawn(async move {
            yield_now().await;
            closed.close(RpcErrorKind::PeerGone("it is down".to_owned()));
        });
        block_on(async {
            let mut untouched = Vec::new();
            for caller in callers {
                let (number, ended) = caller.await.expect("it ends");
                match ended {
                    Ok(sum) => assert_eq!(sum, number + 1),
                    Err(error) if error.outcome() == Outcome::NotApplied => untouched.push(number),
                    Err(_) => {}
                }
            }
            closer.await.expect("it ends");
            assert_nothing_is_left(&link);
            lone.transport.shutdown().await;
            answers.await.expect("it ends");
            assert!(untouched.iter().all(|number| !has_run(&ran, *number)), "said not to be applied, and ran");
        });
    });
}

/// A deadline passes while the request is sent and answered: the call ends once, and honestly; no deadline is overlooked.
#[test]
fn a_deadline_that_passes_ends_its_call_honestly() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let (ran, kept) = serve(&lone);
        let answers = spawn(answer(kept));
        let link = the_link(&lone);
        // The first has time; the second has none, and comes while the driver waits for the first's deadline.
        let (patient, hasty) = [(1_u32, LONG), (2, Duration::ZERO)]
            .map(|(number, timeout)| {
                let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
                spawn(async move { rpc.call::<u32, u32>(&me, &ADD, &number, timeout).await })
            })
            .into();
        block_on(async {
            assert_eq!(patient.await.expect("it ends").expect("an answer"), 2);
            let ended = hasty.await.expect("it ends");
            assert_nothing_is_left(&link);
            lone.transport.shutdown().await;
            answers.await.expect("it ends");
            match ended {
                Ok(sum) => assert_eq!(sum, 3),
                Err(error) => {
                    assert!(matches!(error.kind(), RpcErrorKind::TimedOut), "{error}");
                    assert!(error.outcome() != Outcome::NotApplied || !has_run(&ran, 2));
                }
            }
        });
    });
}

/// A deadline passes and nobody answers: the driver wakes for it though it waits for a later one.
#[test]
fn a_deadline_before_the_next_one_wakes_the_driver() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        // Nothing is answered, so only the deadline can end the second call.
        let (_, kept) = serve(&lone);
        let patient = lone.rpc.call::<u32, u32>(&lone.me, &ADD, &1_u32, LONG);
        let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
        let hasty = spawn(async move { rpc.call::<u32, u32>(&me, &ADD, &2_u32, Duration::ZERO).await });
        block_on(async {
            let error = hasty.await.expect("it ends").expect_err("nobody answers");
            assert!(matches!(error.kind(), RpcErrorKind::TimedOut), "{error}");
            drop((patient, kept));
            assert_nothing_is_left(&the_link(&lone));
            lone.transport.shutdown().await;
        });
    });
}

/// A driver whose connection was given up for want of use still waits for its tasks to end when the next call dials
/// again: what wakes the new driver for an early deadline must not be lost on the old one.
#[test]
fn a_driver_that_is_ending_takes_no_wake_up_from_its_successor() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        // Nothing is answered, so only the deadline can end the second call.
        let (_, kept) = serve(&lone);
        let link = the_link(&lone);
        lock(&link.state).epoch = 1;
        let ending = {
            let link = Arc::clone(&link);
            spawn(async move { link.sweep_for_ever(1).await })
        };
        let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
        let hasty = spawn(async move {
            let patient = rpc.call::<u32, u32>(&me, &ADD, &1_u32, LONG);
            yield_now().await;
            let error = rpc.call::<u32, u32>(&me, &ADD, &2_u32, Duration::ZERO).await.expect_err("nobody answers");
            assert!(matches!(error.kind(), RpcErrorKind::TimedOut), "{error}");
            drop(patient);
        });
        block_on(async {
            hasty.await.expect("it ends");
            drop(kept);
            assert_eq!(lock(&link.state).epoch, 2);
            assert_nothing_is_left(&link);
            ending.abort();
            lone.transport.shutdown().await;
        });
    });
}

/// More threads call than there are places, and the queue has room for one large request: whoever finds no room is told
/// so at once and never runs; the bounds hold at every moment.
#[test]
fn bounds_hold_however_many_call() {
    const BODY: usize = 1024;
    check(|| {
        let config = TransportConfig {
            max_in_flight: 2,
            max_frame_bytes: BODY,
            max_queued_bytes: BODY + BODY / 2,
            ..TransportConfig::default()
        };
        let lone = Lone::start(config);
        let link = Arc::new(Link::new(peer("other"), Arc::clone(lone.transport.shared())));
        {
            let mut state = lock(&link.state);
            (state.epoch, state.stage) = (1, Stage::Up(None));
        }
        let sent = Arc::new(AtomicU32::new(0));
        let (writer, bytes) = (Arc::clone(&link), Arc::clone(&sent));
        let writer = spawn(async move {
            let outgoing = Outgoing { link: writer, epoch: 1 };
            while let Some(batch) = poll_fn(|cx| outgoing.poll_batch(Lane::Call, cx)).await {
                bytes.fetch_add(u32::try_from(batch.len()).expect("small"), Ordering::Relaxed);
            }
        });
        let callers = [0, 1, 2].map(|_| {
            let link = Arc::clone(&link);
            spawn(async move {
                let submitted = link.submit(Lane::Call, 900, &[7; BODY], Instant::now(), LONG);
                // A frame's head comes on top of its body.
                let queued = lock(&link.state).queues[Lane::Call.index()].len();
                assert!(queued <= BODY + BODY / 2 + 64, "the queue's bound");
                match submitted {
                    Ok(id) => {
                        yield_now().await;
                        link.abandon(id);
                        1
                    }
                    Err((_, kind)) => {
                        assert!(matches!(kind, RpcErrorKind::Overloaded(_)));
                        0
                    }
                }
            })
        });
        block_on(async {
            let mut admitted = 0;
            for caller in callers {
                admitted += caller.await.expect("it ends");
            }
            assert!(admitted >= 1);
            assert_nothing_is_left(&link);
            link.close(RpcErrorKind::ShutDown);
            writer.abort();
            lone.transport.shutdown().await;
        });
        assert!(sent.load(Ordering::Relaxed) > 0 || lock(&link.state).queues.iter().all(|queue| queue.len() == 0));
    });
}

/// A connection ends and the next one is up at once, while a call is queued and the writer of the first still runs: it
/// takes nothing that belongs to the second, and the call that was queued after the end is sent once.
#[test]
fn a_writer_of_an_earlier_connection_takes_nothing() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let link = Arc::new(Link::new(peer("other"), Arc::clone(lone.transport.shared())));
        {
            let mut state = lock(&link.state);
            (state.epoch, state.stage) = (1, Stage::Up(None));
        }
        let up = watch::Sender::new(1);
        let writers = [1, 2].map(|epoch| {
            let outgoing = Outgoing { link: Arc::clone(&link), epoch };
            let (mut up, taken) = (up.subscribe(), watch::Sender::new(0));
            let count = taken.clone();
            let writer = spawn(async move {
                // The second starts when its connection is up.
                let _ = up.wait_for(|up| *up >= epoch).await;
                while let Some(batch) = poll_fn(|cx| outgoing.poll_batch(Lane::Call, cx)).await {
                    count.send_modify(|count| *count += batch.len());
                }
            });
            (writer, taken)
        });
        let (caller, is_up) = (Arc::clone(&link), up.clone());
        let late = spawn(async move {
            caller.settle(1, Some(Ended::After(LONG, "the peer restarted".to_owned())));
            {
                let mut state = lock(&caller.state);
                state.epoch += 1;
                state.stage = Stage::Connecting;
            }
            let id = caller.submit(Lane::Call, 900, b"late", Instant::now(), LONG).expect("room");
            caller.enter(2, Stage::Up(None));
            is_up.send_replace(2);
            id
        });
        block_on(async {
            let id = late.await.expect("it ends");
            let [(first, early), (second, taken)] = writers;
            taken.subscribe().wait_for(|bytes| *bytes > 0).await.expect("the sender is here");
            assert_eq!(*early.borrow(), 0, "sent on a connection that had ended");
            link.abandon(id);
            link.close(RpcErrorKind::ShutDown);
            first.abort();
            second.abort();
            lone.transport.shutdown().await;
        });
    });
}
