//! Models of requests in hand: handlers answer from any thread while the caller cancels and the connection ends.

use std::future::poll_fn;
use std::sync::atomic::AtomicUsize;

use shuttle::future::{block_on, spawn};

use super::*;
use crate::races::{Lone, check, peer};
use crate::rpc::{Failure, Method, Reply};
use crate::transport::config::TransportConfig;

const LATER: Method<u32, u32> = Method::new(900, "races.later", Lane::Call);
const WORK: Method<u32, u32> = Method::new(901, "races.work", Lane::Call);

fn open(lone: &Lone) -> Arc<Inbound> {
    let caller = Caller { node: peer("other").node, addr: peer("other").addr };
    Inbound::open(Arc::clone(lone.transport.shared()), caller, None)
}

fn feed(inbound: &Arc<Inbound>, bytes: Vec<u8>) {
    let mut frames = FrameBuffer::new(inbound.shared.config.max_frame_bytes);
    inbound.receive(Lane::Call, &mut frames, &mut [bytes.into()]).expect("well-formed");
}

fn request(id: u32, method: u16, number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_request(&mut bytes, id, method, 1000, &postcard::to_allocvec(&number).expect("encodes"));
    bytes
}

fn cancel(id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_cancel(&mut bytes, id);
    bytes
}

/// The answers that wait to be written, by id.
fn answers(inbound: &Inbound) -> Vec<(u32, Status, Vec<u8>)> {
    let mut found = Vec::new();
    let mut frames = FrameBuffer::new(1 << 20);
    let queued = lock(&inbound.state).queues[Lane::Call.index()].buf.clone();
    let fed = frames.feed(&queued, |frame| {
        if let Frame::Response { id, status, body } = frame {
            found.push((id, status, body.to_vec()));
        }
        Ok(())
    });
    fed.expect("well-formed");
    found
}

/// A handler's answer crosses the caller's cancel, and the caller's next request takes the slot at once: each request is
/// answered at most once, the new one exactly once, with its own answer.
#[test]
fn an_answer_that_crosses_a_cancel_reaches_nobody_else() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel::<(u32, Reply<u32>)>();
        lone.rpc.serve(LATER, move |_, number, reply| {
            let _ = keep.send((number, reply));
        });
        let inbound = open(&lone);
        let answerer = spawn(async move {
            let mut unwanted = false;
            for _ in 0..2 {
                let (number, reply) = kept.recv().await.expect("a request");
                unwanted |= number == 7 && !reply.is_wanted();
                reply.send(&number);
            }
            unwanted
        });
        // The same slot in its next generation.
        let (old, new) = (0, 1 << super::super::pending::INDEX_BITS);
        feed(&inbound, request(old, 900, 7));
        feed(&inbound, cancel(old));
        feed(&inbound, request(new, 900, 8));
        block_on(async {
            let unwanted = answerer.await.expect("it ends");
            let found = answers(&inbound);
            assert!(found.iter().filter(|(id, ..)| *id == old).count() <= usize::from(!unwanted));
            let fresh: Vec<_> = found.iter().filter(|(id, ..)| *id == new).collect();
            assert!(matches!(fresh[..], [(_, Status::Ok, body)] if *body == [8]), "{found:?}");
            assert_eq!(lock(&inbound.state).open, 0, "a reply that is gone is counted");
            lone.transport.shutdown().await;
        });
    });
}

/// More turns than any task of a model needs to end.
const TURNS: usize = 100;

/// Counts those that exist.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An asynchronous handler that would run for ever is cancelled, or its connection ends, at any moment, also before its
/// task is known to the request: the task ends.
#[test]
fn what_works_on_a_cancelled_request_ends() {
    for by_end_of_connection in [false, true] {
        check(move || {
            let lone = Lone::start(TransportConfig::default());
            let alive = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&alive);
            lone.rpc.serve_async(WORK, move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
                let alive = Alive(Arc::clone(&count));
                async move {
                    let _alive = alive;
                    std::future::pending::<Result<u32, Failure>>().await
                }
            });
            let inbound = open(&lone);
            let reader = Arc::clone(&inbound);
            let reader = spawn(async move { feed(&reader, request(0, 901, 7)) });
            let closer = Arc::clone(&inbound);
            let ender = spawn(async move {
                if by_end_of_connection {
                    closer.close(CLOSE_SHED, b"over");
                }
            });
            block_on(async {
                reader.await.expect("it ends");
                ender.await.expect("it ends");
                if !by_end_of_connection {
                    feed(&inbound, cancel(0));
                }
                // What is aborted ends soon, without the end of the transport, and its reply with it.
                let is_over = || alive.load(Ordering::Relaxed) == 0 && lock(&inbound.state).open == 0;
                let mut turns = 0;
                while !is_over() {
                    turns += 1;
                    assert!(turns < TURNS, "it works on though nobody waits");
                    shuttle::future::yield_now().await;
                }
                lone.transport.shutdown().await;
            });
        });
    }
}

/// Handlers on two threads answer while the writer takes what is there: it sleeps when there is nothing, and no answer
/// waits while it sleeps.
#[test]
fn no_answer_waits_while_its_writer_sleeps() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel::<(u32, Reply<u32>)>();
        lone.rpc.serve(LATER, move |_, number, reply| {
            let _ = keep.send((number, reply));
        });
        let inbound = open(&lone);
        let writer = Arc::clone(&inbound);
        let writer = spawn(async move {
            let mut frames = FrameBuffer::new(1 << 20);
            let mut count = 0;
            while count < 2 {
                let batch = poll_fn(|cx| writer.poll_batch(Lane::Call, cx)).await.expect("not closed");
                count += frames.feed(&batch, |_| Ok(())).expect("well-formed");
            }
        });
        feed(&inbound, request(0, 900, 7));
        feed(&inbound, request(1, 900, 8));
        block_on(async {
            let mut handlers = Vec::new();
            for _ in 0..2 {
                let (number, reply) = kept.recv().await.expect("a request");
                handlers.push(spawn(async move { reply.send(&number) }));
            }
            // It would wait for ever for an answer that it was not woken for.
            writer.await.expect("it ends");
            for handler in handlers {
                handler.await.expect("it ends");
            }
            lone.transport.shutdown().await;
        });
    });
}
