//! Answers that wait until what they acknowledge is durable.
//!
//! Commits are ordered, so one task waits for one after the other: when the disk has been synced for the first, it has been
//! for most that came meanwhile. The queue needs no bound of its own: it is as long as the calls that peers may have under
//! way.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use polity_cluster::rpc::{Failure, Reply};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::engine::{Commit, EngineError};
use crate::store::Store;

type Answer = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

/// Sends answers when they are true. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Acks {
    queue: mpsc::UnboundedSender<(Commit, Answer)>,
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acks").finish_non_exhaustive()
    }
}

impl Acks {
    /// And the task that waits; it ends when there is nobody left who could answer.
    pub(crate) fn new(store: Arc<Store>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut waiting) = mpsc::unbounded_channel::<(Commit, Answer)>();
        let task = async move {
            while let Some((commit, answer)) = waiting.recv().await {
                answer(store.durable(commit).await);
            }
        };
        (Self { queue }, task)
    }

    /// Answers once everything up to a commit is durable: at once, if the engine promises nothing. If there is no commit
    /// because something could not be written, the outcome is unknown.
    pub(crate) fn when_durable<A: Serialize + Send + 'static>(
        &self,
        commit: Result<Commit, EngineError>,
        reply: Reply<A>,
        answer: A,
    ) {
        let commit = match commit {
            Ok(Commit::NONE) => return reply.send(&answer),
            Ok(commit) => commit,
            Err(error) => return reply.fail(Failure::unknown(error.to_string())),
        };
        let answer = move |durable: Result<(), EngineError>| match durable {
            Ok(()) => reply.send(&answer),
            Err(error) => reply.fail(Failure::unknown(error.to_string())),
        };
        // Once the task is gone the node stops; an answer that is dropped fails the call.
        let _ = self.queue.send((commit, Box::new(answer)));
    }
}
