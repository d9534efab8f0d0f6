//! The locks, atomics and tasks of code whose state several threads share.
//!
//! They are the ones of `std` and tokio. In this crate's own tests with the feature `shuttle` they are a model checker's,
//! which decides at each of them who runs next. What belongs to tokio otherwise (`Notify`, `watch`, timers) stays as it
//! is: one step each, between steps that the model checker orders.

#[cfg(not(all(test, feature = "shuttle")))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
    pub(crate) use std::thread_local;
    pub(crate) use tokio::task::{AbortHandle, JoinError, JoinSet};
}

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use real::*;

#[cfg(all(test, feature = "shuttle"))]
mod model {
    use std::fmt;
    use std::future::Future;
    use std::task::{Context, Poll};

    use tokio::runtime::Handle;

    pub(crate) use shuttle::future::AbortHandle;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock};
    pub(crate) use shuttle::thread_local;

    /// How a task ended that did not run to its end. One that panics fails the whole test.
    #[derive(Debug)]
    pub(crate) struct JoinError(shuttle::future::JoinError);

    impl JoinError {
        pub(crate) fn is_panic(&self) -> bool {
            match self.0 {
                shuttle::future::JoinError::Cancelled => false,
            }
        }
    }

    impl fmt::Display for JoinError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    /// As tokio's, of what is used of it.
    #[derive(Debug)]
    pub(crate) struct JoinSet<T>(Vec<shuttle::future::JoinHandle<T>>);

    impl<T: Send + 'static> JoinSet<T> {
        pub(crate) fn new() -> Self {
            Self(Vec::new())
        }

        /// Starts a task of the model, wherever tokio's would run.
        pub(crate) fn spawn_on(&mut self, task: impl Future<Output = T> + Send + 'static, _: &Handle) -> AbortHandle {
            let task = shuttle::future::spawn(task);
            let abort = task.abort_handle();
            self.0.push(task);
            abort
        }

        pub(crate) fn abort_all(&mut self) {
            self.0.iter().for_each(shuttle::future::JoinHandle::abort);
        }

        pub(crate) fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
            let at = self.0.iter().position(shuttle::future::JoinHandle::is_finished)?;
            let mut task = std::pin::pin!(self.0.swap_remove(at));
            match task.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
                Poll::Ready(ended) => Some(ended.map_err(JoinError)),
                Poll::Pending => None,
            }
        }

        pub(crate) async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
            let task = self.0.pop()?;
            Some(task.await.map_err(JoinError))
        }
    }

    impl<T> Drop for JoinSet<T> {
        fn drop(&mut self) {
            self.0.iter().for_each(shuttle::future::JoinHandle::abort);
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use model::*;
