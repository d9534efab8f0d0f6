//! The task of one lane of one connection: reads what arrived, writes what waits.
//!
//! One task does both, so that the answers to a batch of requests are written in the same turn in which the batch was
//! read. It stops reading while more than the limit waits to be written: a peer that sends requests and does not read the
//! answers is not read from either.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};

use super::Shared;
use super::frame::{FrameBuffer, Lane, Malformed};

/// How many received chunks are taken at once. A chunk is what one packet carried, some 1,200 bytes or more.
const READ_CHUNKS: usize = 32;

/// How many batches are read in one turn before other tasks get theirs: a megabyte.
const TURNS: usize = 32;

/// One end of a connection.
pub(crate) trait Side: Send + Sync + 'static {
    fn shared(&self) -> &Arc<Shared>;

    /// The next bytes to write, or `None` when the connection is over.
    fn poll_batch(&self, lane: Lane, cx: &Context<'_>) -> Poll<Option<Bytes>>;

    /// How many bytes wait to be written.
    fn backlog(&self, lane: Lane) -> usize;

    /// Takes received bytes. After an error the connection is closed.
    fn receive(self: &Arc<Self>, lane: Lane, frames: &mut FrameBuffer, chunks: &mut [Bytes]) -> Result<(), Malformed>;
}

/// Why a lane ended.
#[derive(Debug)]
pub(crate) enum LaneEnd {
    /// The connection is gone or about to be.
    Gone,
    /// The peer finished the stream.
    Finished,
    /// The peer sent something that is not a frame.
    Malformed(Malformed),
}

/// Runs a lane until it ends.
pub(crate) async fn run<S: Side>(side: &Arc<S>, lane: Lane, send: &mut SendStream, recv: &mut RecvStream) -> LaneEnd {
    let config = &side.shared().config;
    let mut reader = Reader { frames: FrameBuffer::new(config.max_frame_bytes), chunks: Default::default() };
    let mut batch = Bytes::new();
    poll_fn(|cx| {
        for _ in 0..TURNS {
            let is_idle = match poll_write(side, lane, send, &mut batch, cx) {
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending if side.backlog(lane) > config.max_queued_bytes => true,
                Poll::Pending => match reader.poll_read(side, lane, recv, cx) {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Ready(None) => false,
                    Poll::Pending => true,
                },
            };
            if is_idle {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Writes until nothing is left or the connection takes no more.
fn poll_write<S: Side>(
    side: &Arc<S>,
    lane: Lane,
    send: &mut SendStream,
    batch: &mut Bytes,
    cx: &mut Context<'_>,
) -> Poll<LaneEnd> {
    loop {
        if batch.is_empty() {
            match side.poll_batch(lane, cx) {
                Poll::Ready(Some(next)) => *batch = next,
                Poll::Ready(None) => return Poll::Ready(LaneEnd::Gone),
                Poll::Pending => return Poll::Pending,
            }
        }
        // The future holds no state: what was not written stays in the batch.
        match pin!(send.write_chunks(std::slice::from_mut(batch))).poll(cx) {
            Poll::Ready(Ok(written)) => side.shared().stats.bytes_out.add(written.bytes as u64),
            Poll::Ready(Err(_)) => return Poll::Ready(LaneEnd::Gone),
            Poll::Pending => return Poll::Pending,
        }
    }
}

struct Reader {
    frames: FrameBuffer,
    chunks: [Bytes; READ_CHUNKS],
}

impl Reader {
    /// Reads and handles what has arrived, once.
    fn poll_read<S: Side>(
        &mut self,
        side: &Arc<S>,
        lane: Lane,
        recv: &mut RecvStream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<LaneEnd>> {
        let read = pin!(recv.read_chunks(&mut self.chunks)).poll(cx);
        Poll::Ready(match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(count))) => {
                side.receive(lane, &mut self.frames, &mut self.chunks[..count]).err().map(LaneEnd::Malformed)
            }
            Poll::Ready(Ok(None)) => Some(LaneEnd::Finished),
            Poll::Ready(Err(_)) => Some(LaneEnd::Gone),
        })
    }
}
