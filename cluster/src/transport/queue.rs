//! Frames that wait to be written: one buffer per lane, drained in batches.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::frame;
use super::stats::TransportStats;

/// The most that a writer takes at once: 128 KiB, some ninety packets. What is taken counts as sent, so a writer that
/// waits for a slow peer should hold little.
const BATCH_BYTES: usize = 128 << 10;

/// An empty buffer larger than this is given back: two batches.
const KEEP_BYTES: usize = 256 << 10;

/// The frames of one lane.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// What waits, after `start` bytes that were taken.
    pub(crate) buf: Vec<u8>,
    start: usize,
    /// How many bytes were taken so far: the offset in the lane of the first that waits.
    taken: u64,
    /// Requests and answers that were queued since the last batch was taken.
    pub(crate) frames: u64,
    /// The lane's task, while it waits for something to write.
    writer: Option<Waker>,
}

impl Queue {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// The offset in the lane at which the next frame begins.
    pub(crate) fn end(&self) -> u64 {
        self.taken + self.len() as u64
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
        let offset = self.start + usize::try_from(at - self.taken).expect("an offset in the buffer");
        frame::make_skip(self.buf.get_mut(offset..).expect("the frame is in the buffer"));
        true
    }

    /// The writer, if it has to be woken because there is something to write.
    pub(crate) fn writer(&mut self) -> Option<Waker> {
        self.writer.take()
    }

    /// The next batch for the writer.
    pub(crate) fn poll_take(&mut self, stats: &TransportStats, cx: &Context<'_>) -> Poll<Bytes> {
        if self.len() == 0 {
            match &mut self.writer {
                Some(writer) => writer.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        // One copy of the exact size costs less than a buffer that is given away and grows anew.
        let end = self.start + self.len().min(BATCH_BYTES);
        let batch = Bytes::copy_from_slice(&self.buf[self.start..end]);
        self.start = end;
        if self.start >= self.len() {
            self.buf.drain(..self.start);
            self.start = 0;
            if self.buf.is_empty() && self.buf.capacity() > KEEP_BYTES {
                self.buf = Vec::new();
            }
        }
        self.taken += batch.len() as u64;
        stats.frames_out.add(std::mem::take(&mut self.frames));
        Poll::Ready(batch)
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        self.taken += self.len() as u64;
        self.buf = Vec::new();
        self.start = 0;
        self.frames = 0;
        self.writer = None;
    }
}
