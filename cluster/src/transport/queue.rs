//! Frames that wait to be written: one buffer per lane, drained in batches.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::frame;
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
    /// Requests and answers that were queued since the last batch was taken.
    pub(crate) frames: u64,
    /// The lane's task, while it waits for something to write.
    writer: Option<Waker>,
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
    pub(crate) fn poll_take(&mut self, stats: &TransportStats, cx: &Context<'_>) -> Poll<Bytes> {
        if self.buf.is_empty() {
            match &mut self.writer {
                Some(writer) => writer.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let batch = self.buf.split_to(self.buf.len().min(BATCH_BYTES));
        self.taken += batch.len() as u64;
        stats.frames_out.add(std::mem::take(&mut self.frames));
        Poll::Ready(batch.freeze())
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        self.taken += self.buf.len() as u64;
        self.buf = BytesMut::new();
        self.frames = 0;
        self.writer = None;
    }
}
