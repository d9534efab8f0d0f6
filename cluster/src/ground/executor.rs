//! Where a node's own tasks run.
//!
//! On real ground a node has one thread with a current-thread runtime for its transport and its membership, so that a
//! task of the application that never yields cannot make the node look dead. In the simulator, and where the caller
//! asks for it, they run on the caller's runtime.

use std::future::Future;
use std::io;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::Gate;

/// The runtime that a node's tasks run on, and the thread that drives it if it is the node's own.
#[derive(Debug)]
pub(crate) struct Executor {
    handle: Handle,
    gate: Gate,
    /// Dropped to let the thread end. `None` if the runtime is the caller's.
    _thread: Option<oneshot::Sender<()>>,
}

impl Executor {
    /// The runtime of the caller.
    ///
    /// # Errors
    /// There is none: the caller is not inside a tokio runtime.
    pub(crate) fn of_caller(gate: Gate) -> io::Result<Self> {
        let handle = Handle::try_current().map_err(io::Error::other)?;
        Ok(Self { handle, gate, _thread: None })
    }

    /// A new thread with a runtime of its own, which ends when this value is dropped. `held` is dropped once nothing is left
    /// of it.
    ///
    /// # Errors
    /// The thread or its runtime could not be made.
    pub(crate) fn own_thread(name: &str, gate: Gate, held: oneshot::Sender<()>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        // Linux shows 15 bytes of a thread's name.
        let thread = format!("polity-{name}");
        std::thread::Builder::new().name(thread).spawn(move || {
            // An error is the sender being dropped, which is the signal.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
            drop(held);
        })?;
        Ok(Self { handle, gate, _thread: Some(stop) })
    }

    /// Enters the runtime, for what must be created inside it (sockets, timers).
    pub(crate) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.handle.enter()
    }

    /// The runtime's handle.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Starts a task among others that end together.
    pub(crate) fn spawn_in(&self, tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
        tasks.spawn_on(self.gate.clone().pass(task), &self.handle);
    }

    /// Starts a task. The caller keeps its handle: the node stops what it started.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(self.gate.clone().pass(task))
    }
}
