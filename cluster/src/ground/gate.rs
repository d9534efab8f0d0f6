//! What lets a whole process stand still, as SIGSTOP does.
//!
//! A paused process runs nothing, while time goes on and datagrams wait in its socket; then it goes on as if nothing was.
//! A simulator cannot stop a host's runtime, so the node's tasks pass a gate each time they are polled. Real ground has
//! no gate, and there this costs one branch.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a node's tasks pass each time they are polled, so that a whole process can stand still. Cheap to clone; by default
/// there is no gate, as on real ground.
#[derive(Clone, Debug, Default)]
pub struct Gate(Option<Arc<Mutex<State>>>);

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Tasks that were woken while the gate was closed.
    held: Vec<Waker>,
}

impl Gate {
    /// A gate that can be closed.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Holds every task at its next poll.
    pub fn close(&self) {
        if let Some(mut state) = self.lock() {
            state.closed = true;
        }
    }

    /// Lets all go on.
    pub fn open(&self) {
        let held = self.lock().map(|mut state| {
            state.closed = false;
            std::mem::take(&mut state.held)
        });
        held.into_iter().flatten().for_each(Waker::wake);
    }

    /// A task that stands still while the gate is closed.
    pub async fn pass<F: Future>(self, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(move |cx| if self.holds(cx) { Poll::Pending } else { task.as_mut().poll(cx) }).await
    }

    fn holds(&self, cx: &Context<'_>) -> bool {
        let Some(mut state) = self.lock() else { return false };
        if state.closed {
            state.held.push(cx.waker().clone());
        }
        state.closed
    }

    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.0.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn a_task_stands_still_while_the_gate_is_closed_and_then_goes_on() {
        let gate = Gate::new();
        let began = Instant::now();
        let task = tokio::spawn(gate.clone().pass(async {
            sleep(Duration::from_secs(1)).await;
            Instant::now()
        }));
        tokio::task::yield_now().await;
        gate.close();
        sleep(Duration::from_secs(5)).await;
        assert!(!task.is_finished());
        gate.open();
        assert_eq!((task.await.expect("it ends") - began).as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_gate_nothing_is_held() {
        let gate = Gate::default();
        gate.close();
        assert!(timeout(Duration::from_secs(1), gate.pass(async {})).await.is_ok());
    }
}
