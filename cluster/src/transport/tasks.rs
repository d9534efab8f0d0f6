//! Every task of the transport, so that none outlives it.

#[cfg(all(test, feature = "shuttle"))]
mod races;

use std::future::Future;
use std::sync::PoisonError;

use tokio::runtime::Handle;

use crate::ground::Gate;
use crate::sync::{AbortHandle, JoinError, JoinSet, Mutex, MutexGuard};

/// Locks a mutex whose data stays valid when a holder panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tasks that the transport has started on the library's executor.
#[derive(Debug)]
pub(crate) struct Tasks {
    handle: Handle,
    gate: Gate,
    /// `None` once the transport is stopping: nothing starts any more.
    set: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    /// Tasks on the runtime that the caller is in.
    pub(crate) fn on_current_runtime(gate: Gate) -> Self {
        Self { handle: Handle::current(), gate, set: Mutex::new(Some(JoinSet::new())) }
    }

    /// Starts a task, from any thread. `None` if the transport is stopping; the future is then dropped.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut guard = lock(&self.set);
        let set = guard.as_mut()?;
        while let Some(ended) = set.try_join_next() {
            report(ended);
        }
        Some(set.spawn_on(self.gate.clone().pass(future), &self.handle))
    }

    /// Refuses new tasks, aborts the running ones and waits until the last has ended.
    pub(crate) async fn stop(&self) {
        let set = lock(&self.set).take();
        if let Some(mut set) = set {
            set.abort_all();
            while let Some(ended) = set.join_next().await {
                report(ended);
            }
        }
    }

    /// Refuses new tasks and aborts the running ones without waiting.
    pub(crate) fn abort(&self) {
        drop(lock(&self.set).take());
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task of the transport panicked");
    }
}
