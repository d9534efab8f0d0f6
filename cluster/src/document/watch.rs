//! What a watcher of a document sees: a snapshot, then the keys that change.
//!
//! Changes are coalesced: a key that changed twice since the watcher last looked is named once. None is missed: a watcher
//! that is too far behind gets a snapshot again.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use polity_crdt::Crdt;
use tokio::sync::watch;

use super::shared::Shared;

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq)]
pub enum DocumentEvent<T: Crdt> {
    /// The whole state: the first event, and the next one after the watcher has fallen too far behind, or the replica has
    /// begun anew.
    Snapshot(T),
    /// These keys have changed since the event before: read them.
    Changed(BTreeSet<T::Key>),
}

/// What a watcher has not seen yet.
#[derive(Debug)]
pub(crate) enum Unseen<K> {
    /// Everything.
    All,
    /// These keys.
    Keys(BTreeSet<K>),
}

/// A stream of [`DocumentEvent`]s.
pub struct Watch<T: Crdt> {
    shared: Arc<Shared<T>>,
    number: u64,
    changed: watch::Receiver<u64>,
}

impl<T: Crdt> Watch<T> {
    pub(super) fn new(shared: Arc<Shared<T>>) -> Self {
        let (number, changed) = shared.add_watcher();
        Self { shared, number, changed }
    }

    /// The next event. Cancel safe: an event that was not returned is returned next time. After the node has stopped it
    /// waits for ever.
    pub async fn next(&mut self) -> DocumentEvent<T> {
        loop {
            self.changed.borrow_and_update();
            if let Some(event) = self.try_next() {
                return event;
            }
            // The sender lives in `self.shared`, so this cannot fail.
            let _ = self.changed.changed().await;
        }
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<DocumentEvent<T>> {
        let (unseen, state) = self.shared.take_unseen(self.number, |state| state.clone())?;
        Some(match (unseen, state) {
            (Unseen::Keys(keys), _) => DocumentEvent::Changed(keys),
            (Unseen::All, state) => DocumentEvent::Snapshot(state?),
        })
    }

    /// What has not been seen, if anything, without a copy of the state.
    pub(crate) fn try_unseen(&mut self) -> Option<Unseen<T::Key>> {
        self.changed.borrow_and_update();
        self.shared.take_unseen(self.number, |_| ()).map(|(unseen, _)| unseen)
    }

    /// Tells of changes, for whoever waits for them elsewhere.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

impl<T: Crdt> Drop for Watch<T> {
    fn drop(&mut self) {
        self.shared.remove_watcher(self.number);
    }
}

impl<T: Crdt> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("document", &self.shared.name()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::time::Duration;

    use polity_crdt::OwnerMap;

    use crate::config::Preset;
    use crate::node::Node;

    async fn start(name: &str, seed: Option<&Node>) -> Node {
        let builder = Node::builder(name).cluster("watch").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
        builder.seeds(seed.map(Node::addr)).start().await.expect("the node starts")
    }

    #[tokio::test]
    async fn whoever_waits_for_changes_is_woken_when_another_replica_is_known() {
        let first = start("n1", None).await;
        let second = start("n2", Some(&first)).await;
        let document = first.document::<OwnerMap<String, u64>>("d").expect("open");
        let watch = document.watch();
        let (mut changes, (_, before)) = (watch.changes(), document.owners_version());
        let _other = second.document::<OwnerMap<String, u64>>("d").expect("open");
        let woken = async {
            while document.owners_version().1 == before {
                changes.changed().await.expect("the document is there");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), woken).await.expect("it is woken");
    }
}
