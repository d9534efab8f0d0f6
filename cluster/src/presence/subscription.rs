//! What a subscriber to a presence sees: a snapshot, then who comes, changes and goes.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::sync::watch;

use super::roll::{Change, Fate};
use super::shared::Shared;
use super::{Meta, PresenceEntry};

/// What a subscriber gets. Applied in order to the snapshot, the changes make up what [`Presence::list`](super::Presence)
/// shows. Changes of one entry that follow each other closely may be told as one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PresenceEvent<M> {
    /// Everybody who is here: the first event, and the next one after having fallen too far behind.
    Snapshot {
        /// Counts the changes since this node opened the presence.
        version: u64,
        /// By key.
        entries: Vec<PresenceEntry<M>>,
    },
    /// Somebody is here.
    Joined {
        /// Greater than that of the event before.
        version: u64,
        /// Who.
        entry: PresenceEntry<M>,
    },
    /// Somebody says something else.
    Changed {
        /// Greater than that of the event before.
        version: u64,
        /// The entry as it is now.
        entry: PresenceEntry<M>,
    },
    /// Somebody is not here any more, or their node is not up.
    Left {
        /// Greater than that of the event before.
        version: u64,
        /// The entry as it was.
        entry: PresenceEntry<M>,
    },
}

/// A stream of [`PresenceEvent`]s.
pub struct PresenceSubscription<M> {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    seen: Option<u64>,
    meta: PhantomData<fn() -> M>,
}

impl<M: Meta> PresenceSubscription<M> {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let changed = shared.changes();
        Self { shared, changed, seen: None, meta: PhantomData }
    }

    /// The next event. Cancel safe: an event that was not returned is returned next time. After the node has stopped it
    /// waits for ever.
    pub async fn next(&mut self) -> PresenceEvent<M> {
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
    pub fn try_next(&mut self) -> Option<PresenceEvent<M>> {
        let Self { shared, seen, .. } = self;
        shared.seen(|roll| {
            while let Some(version) = *seen {
                let Ok(change) = roll.after(version) else { break };
                let Change { version, fate, row } = change?;
                *seen = Some(*version);
                // What is of another type is listed nowhere.
                if let Some(entry) = PresenceEntry::of(row) {
                    return Some(event(*version, *fate, entry));
                }
            }
            *seen = Some(roll.version());
            let entries = roll.rows().filter_map(PresenceEntry::of).collect();
            Some(PresenceEvent::Snapshot { version: roll.version(), entries })
        })
    }
}

fn event<M>(version: u64, fate: Fate, entry: PresenceEntry<M>) -> PresenceEvent<M> {
    match fate {
        Fate::Joined => PresenceEvent::Joined { version, entry },
        Fate::Changed => PresenceEvent::Changed { version, entry },
        Fate::Left => PresenceEvent::Left { version, entry },
    }
}

impl<M> fmt::Debug for PresenceSubscription<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceSubscription").field("seen", &self.seen).finish_non_exhaustive()
    }
}
