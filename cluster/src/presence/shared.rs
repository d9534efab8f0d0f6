//! What the handles of a presence, its guards and its keeper share.
//!
//! The roll is brought up to date by whoever looks at it, so that nobody ever sees less than the document and the members
//! say at that moment. The keeper does it too whenever something changes, for the sake of those that wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polity_crdt::sync::SyncConfig;
use tokio::sync::watch;

use super::roll::{Map, Place, Roll};
use super::{MAX_TRACKED, PresenceError};
use crate::document::{Document, DocumentError, Opening, OwnersVersion, Unseen, Watch};
use crate::node::Node;
use crate::rpc::Blob;
use crate::stop::StopReason;

/// After how long a boot that is not listed any more is departed. The members list one that is down for a day, so this
/// is for the time in which some may list it and others not yet.
const DEPARTS_AFTER: Duration = Duration::from_secs(3600);

/// How long retired boots are remembered: longer than any message is under way, pauses included. Should an entry of one come
/// after that all the same, it is not shown, and dropped again.
const RETIRE_GRACE: Duration = Duration::from_secs(600);

/// What stands before the name of a presence in that of its document.
const DOCUMENT: &str = ".presence/";

pub(super) struct Shared {
    pub(super) document: Document<Map>,
    sight: Mutex<Sight>,
    /// Counts the changes of the roll.
    changed: watch::Sender<u64>,
    own: Mutex<Own>,
}

/// What this node sees.
struct Sight {
    roll: Roll,
    watch: Watch<Map>,
    owners: Option<OwnersVersion>,
}

/// What this node tracks. Held while the document is written, so that the keeper writes nothing that a guard takes away.
#[derive(Default)]
struct Own {
    entries: BTreeMap<u64, (String, Blob)>,
    last: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn open(node: &Node, name: &str) -> Result<Self, PresenceError> {
        let sync = SyncConfig { retire_grace: RETIRE_GRACE, ..SyncConfig::default() };
        let document =
            node.open_internal(&format!("{DOCUMENT}{name}"), Opening { sync, departs_after: Some(DEPARTS_AFTER) });
        let document = document.map_err(stopped)?;
        let watch = document.watch();
        let sight = Sight { roll: Roll::default(), watch, owners: None };
        Ok(Self { document, sight: Mutex::new(sight), changed: watch::Sender::new(0), own: Mutex::default() })
    }

    /// Shows what can be seen now.
    pub(super) fn seen<R>(&self, look: impl FnOnce(&Roll) -> R) -> R {
        look(&self.refreshed().roll)
    }

    /// Tells of changes of the roll.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn refreshed(&self) -> MutexGuard<'_, Sight> {
        let mut sight = lock(&self.sight);
        let Sight { roll, watch, owners } = &mut *sight;
        let before = roll.version();
        let unseen = watch.try_unseen();
        let version = self.document.owners_version();
        let new_owners = (*owners != Some(version)).then(|| self.document.owners());
        *owners = Some(version);
        if unseen.is_some() || new_owners.is_some() {
            self.document.read(|map| {
                if let Some(owners) = new_owners {
                    roll.set_owners(owners, map);
                }
                match unseen {
                    Some(Unseen::All) => roll.look_at_all(map),
                    Some(Unseen::Keys(places)) => roll.look(&places, map),
                    None => {}
                }
            });
        }
        if roll.version() != before {
            self.changed.send_replace(roll.version());
        }
        sight
    }

    pub(super) fn track(&self, key: &str, meta: Vec<u8>) -> Result<u64, PresenceError> {
        let mut own = lock(&self.own);
        if own.entries.len() >= MAX_TRACKED {
            return Err(PresenceError::TooMany);
        }
        let (number, meta) = (own.last + 1, Blob::from(meta));
        self.put(key, number, &meta)?;
        own.last = number;
        own.entries.insert(number, (key.to_owned(), meta));
        Ok(number)
    }

    pub(super) fn change(&self, key: &str, number: u64, meta: Vec<u8>) -> Result<(), PresenceError> {
        let (mut own, meta) = (lock(&self.own), Blob::from(meta));
        self.put(key, number, &meta)?;
        own.entries.insert(number, (key.to_owned(), meta));
        Ok(())
    }

    pub(super) fn untrack(&self, key: &str, number: u64) {
        let mut own = lock(&self.own);
        own.entries.remove(&number);
        let place = Place { key: key.to_owned(), number };
        // It fails only if the node has stopped, and then its entries go with it.
        let _ = self.document.update(|map, w| map.remove(w, w.replica(), &place));
    }

    fn put(&self, key: &str, number: u64, meta: &Blob) -> Result<(), PresenceError> {
        let place = Place { key: key.to_owned(), number };
        self.document.update(|map, w| map.put(w, place, meta.clone())).map(drop).map_err(stopped)
    }

    /// Writes what is tracked here and is not in the document: others have taken this node to be departed.
    fn write_missing(&self) {
        let own = lock(&self.own);
        for (number, (key, meta)) in &own.entries {
            // What is there already changes nothing.
            if self.put(key, *number, meta).is_err() {
                return;
            }
        }
    }

    /// Keeps the roll up to date, and the entries of this node in the document.
    pub(super) async fn keep(self: Arc<Self>, node: KeeperParts) {
        let KeeperParts { mut members, mut stop } = node;
        let mut changes = lock(&self.sight).watch.changes();
        let mut engine = None;
        loop {
            changes.borrow_and_update();
            drop(self.refreshed());
            let replica = self.document.replica();
            if engine.replace(replica).is_some_and(|before| before != replica) {
                // The replica has begun anew, and with it nothing is tracked.
                let _ = self.document.take_exports();
                self.write_missing();
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => return,
                _ = members.next() => while members.try_next().is_some() {},
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// What the keeper needs of a node: no handle of it, so that it does not keep the node running.
pub(super) struct KeeperParts {
    members: crate::membership::view::Subscription,
    stop: watch::Receiver<Option<StopReason>>,
}

impl KeeperParts {
    pub(super) fn of(node: &Node) -> Self {
        Self { members: node.members().subscribe(), stop: node.stop_signal() }
    }
}

/// A document of the library's own refuses nothing else: names, types and sizes were checked.
fn stopped(error: DocumentError) -> PresenceError {
    match error {
        DocumentError::OtherType(name) => PresenceError::OtherType(name),
        _ => PresenceError::Stopped,
    }
}
