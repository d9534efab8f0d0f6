//! The presences of a node by name.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use super::shared::{KeeperParts, Shared};
use super::{MAX_PRESENCE_NAME_BYTES, Meta, Presence, PresenceError};
use crate::node::Node;

struct Open {
    shared: Arc<Shared>,
    meta: TypeId,
    keeper: JoinHandle<()>,
}

/// The presences that a node has opened.
#[derive(Default)]
pub(crate) struct Presences {
    open: Mutex<BTreeMap<String, Open>>,
}

impl fmt::Debug for Presences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presences").finish_non_exhaustive()
    }
}

impl Presences {
    /// The presence of this name, opened if it is not.
    pub(crate) fn open<M: Meta>(&self, node: &Node, name: &str) -> Result<Presence<M>, PresenceError> {
        if name.is_empty() || name.len() > MAX_PRESENCE_NAME_BYTES {
            return Err(PresenceError::Name(name.len()));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(name) {
            if known.meta != TypeId::of::<M>() {
                return Err(PresenceError::OtherType(name.to_owned()));
            }
            return Ok(Presence { shared: known.shared.clone(), meta: PhantomData });
        }
        let shared = Arc::new(Shared::open(node, name)?);
        let keeper = node.spawn_internal(shared.clone().keep(KeeperParts::of(node)));
        open.insert(name.to_owned(), Open { shared: shared.clone(), meta: TypeId::of::<M>(), keeper });
        Ok(Presence { shared, meta: PhantomData })
    }

    /// Ends them all.
    pub(crate) fn stop(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.into_values().for_each(|open| open.keeper.abort());
    }
}
