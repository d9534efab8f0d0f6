//! What every node says it sees of the others, and waiting for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::protocol::Seen;

/// What one node sees: the newest life of each name, and how it is.
pub(crate) type View = BTreeMap<String, (u64, Seen)>;

#[derive(Debug, Default)]
pub(crate) struct Views {
    by_observer: Mutex<BTreeMap<String, View>>,
    changed: Notify,
}

impl Views {
    pub(crate) fn sees(&self, observer: &str, name: String, generation: u64, status: Seen) {
        self.with(|views| {
            views.entry(observer.to_owned()).or_default().insert(name, (generation, status));
        });
    }

    /// The observer is gone, and what it saw does not count.
    pub(crate) fn forget(&self, observer: &str) {
        self.with(|views| {
            views.remove(observer);
        });
    }

    fn with(&self, change: impl FnOnce(&mut BTreeMap<String, View>)) {
        change(&mut self.by_observer.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }

    /// Waits until `observers` nodes report, and what each of them sees is as wanted.
    pub(crate) async fn until(&self, observers: usize, wanted: impl Fn(&View) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let views = self.by_observer.lock().unwrap_or_else(PoisonError::into_inner);
                if views.len() == observers && views.values().all(&wanted) {
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
