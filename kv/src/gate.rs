//! The calls of this node's own program that are under way, so that a node which leaves can let them end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::error::KvError;

/// Open until the node leaves.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    is_closed: AtomicBool,
    last_out: Notify,
}

/// A call under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Lets a call begin.
    ///
    /// # Errors
    /// [`KvError::Stopped`]: no call begins any more.
    pub(crate) fn enter(&self) -> Result<Inside<'_>, KvError> {
        // Counted first: either it is waited for, or it sees that it is too late.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        if self.is_closed.load(Ordering::SeqCst) { Err(KvError::Stopped) } else { Ok(inside) }
    }

    /// Lets no call begin any more, and waits until those that have begun are over. Cancel safe: it stays closed.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        loop {
            let last_out = self.last_out.notified();
            if self.inside.load(Ordering::SeqCst) == 0 {
                return;
            }
            last_out.await;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed.load(Ordering::SeqCst) {
            self.0.last_out.notify_waiters();
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_may_end_and_nothing_else_begins() {
        let gate = Gate::default();
        let (one, two) = (gate.enter().expect("open"), gate.enter().expect("open"));
        let mut closed = Box::pin(gate.close());
        assert!((&mut closed).now_or_never().is_none());
        assert!(matches!(gate.enter(), Err(KvError::Stopped)));
        drop(one);
        assert!((&mut closed).now_or_never().is_none());
        drop(two);
        closed.await;
        gate.close().await;
        assert!(matches!(gate.enter(), Err(KvError::Stopped)));
    }
}
