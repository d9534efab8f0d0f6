//! Frames that wait to be written: one buffer per lane, drained in batches by one writer each.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use quinn::SendStream;

use super::frame::{self, Lane};
use super::stats::TransportStats;

/// The most that a writer takes at once: 128 KiB, some ninety packets. What is taken counts as sent, so a writer that
/// waits for a slow peer should hold little.
const BATCH_BYTES: usize = 128 << 10;

/// The frames of one lane.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// What waits.
    pub(crate) buf: BytesMut,
    /// How many bytes were taken from `buf` before: the offset of its first byte in the lane.
    taken: u64,
    writer: Option<Waker>,
    /// A reader that waits until there is room again.
    relief: Option<Waker>,
}

impl Queue {
    /// The offset in the lane at which the next frame begins.
    pub(crate) fn end(&self) -> u64 {
        self.taken + self.buf.len() as u64
    }

    /// Whether the frame that begins at `at` has been handed to the connection, even in part.
    pub(crate) fn has_left(&self, at: u64) -> bool {
        at < self.taken
    }

    /// Makes the frame at `at` one that its receiver ignores; false if it has left.
    pub(crate) fn withdraw(&mut self, at: u64) -> bool {
        if self.has_left(at) {
            return false;
        }
        let offset = usize::try_from(at - self.taken).expect("an offset in the buffer");
        frame::make_skip(self.buf.get_mut(offset..).expect("the frame is in the buffer"));
        true
    }

    /// The writer, if it has to be woken because there is something to write.
    pub(crate) fn writer(&mut self) -> Option<Waker> {
        self.writer.take()
    }

    /// The next batch for the writer.
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>) -> Poll<Bytes> {
        if self.buf.is_empty() {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let batch = self.buf.split_to(self.buf.len().min(BATCH_BYTES));
        self.taken += batch.len() as u64;
        if let Some(relief) = self.relief.take() {
            relief.wake();
        }
        Poll::Ready(batch.freeze())
    }

    /// Waits until at most `limit` bytes wait.
    pub(crate) fn poll_relief(&mut self, cx: &Context<'_>, limit: usize) -> Poll<()> {
        if self.buf.len() <= limit {
            return Poll::Ready(());
        }
        self.relief = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        self.taken += self.buf.len() as u64;
        self.buf = BytesMut::new();
        self.writer = None;
        if let Some(relief) = self.relief.take() {
            relief.wake();
        }
    }
}

/// What a writer drains.
pub(crate) trait Outbox: Send + Sync + 'static {
    /// The next batch, or `None` when the connection is over.
    fn poll_batch(&self, lane: Lane, cx: &Context<'_>) -> Poll<Option<Bytes>>;
}

/// Writes one lane until its connection ends.
pub(crate) async fn write_lane<O: Outbox>(outbox: Arc<O>, lane: Lane, mut stream: SendStream, stats: Arc<TransportStats>) {
    while let Some(batch) = std::future::poll_fn(|cx| outbox.poll_batch(lane, cx)).await {
        stats.bytes_out.add(batch.len() as u64);
        if stream.write_chunk(batch).await.is_err() {
            // The connection is gone; whoever watches it fails what was sent.
            return;
        }
    }
}
