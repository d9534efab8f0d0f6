//! What every node says it sees of the others, and waiting for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::protocol::Seen;

/// What one node sees: the newest life of each name, and how it is.
pub(crate) type View = BTreeMap<String, (u64, Seen)>;

#[derive(Debug, Default)]
struct State {
    by_observer: BTreeMap<String, View>,
    killed: BTreeSet<(String, u64)>,
    wrongly_down: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Views {
    state: Mutex<State>,
    changed: Notify,
}

impl Views {
    pub(crate) fn sees(&self, observer: &str, name: String, generation: u64, status: Seen) {
        self.with(|state| {
            let killed = state.killed.contains(&(name.clone(), generation));
            state.wrongly_down += usize::from(status == Seen::Down && !killed);
            state.by_observer.entry(observer.to_owned()).or_default().insert(name, (generation, status));
        });
    }

    /// This life of this node is about to be ended.
    pub(crate) fn will_kill(&self, name: &str, generation: u64) {
        self.with(|state| {
            state.killed.insert((name.to_owned(), generation));
        });
    }

    /// The observer is gone, and what it saw does not count.
    pub(crate) fn forget(&self, observer: &str) {
        self.with(|state| {
            state.by_observer.remove(observer);
        });
    }

    /// How often a node said of a living one that it is down.
    pub(crate) fn wrongly_down(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).wrongly_down
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }

    /// Waits until `observers` nodes report, and what each of them sees is as wanted.
    pub(crate) async fn until(&self, observers: usize, wanted: impl Fn(&View) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.by_observer.len() == observers && state.by_observer.values().all(&wanted) {
                    return;
                }
            }
            changed.await;
        }
    }
}

/// How many members a node sees that are there.
pub(crate) fn up(view: &View) -> usize {
    view.values().filter(|(_, status)| *status == Seen::Up).count()
}
