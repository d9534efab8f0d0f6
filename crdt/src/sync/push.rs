//! Telling peers what has changed: from the log, down the trees, a few requests at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Outgoing;
use super::engine::{AntiEntropy, Purpose};
use super::log::Item;
use super::message::Request;
use super::transfer::{BATCH, unite_all};
use crate::store::{Crdt, Delta};
use crate::{ReplicaId, VersionVector};

/// How far a peer has been told.
#[derive(Debug)]
pub(super) struct Progress {
    /// It is being told, or has been, of changes up to this number.
    pub(super) cursor: u64,
    /// From which number on each push under way tells.
    pub(super) in_flight: BTreeMap<u64, u64>,
    pub(super) not_before: Duration,
    pub(super) failures: u32,
    /// Since when it has lacked something.
    pub(super) behind_since: Option<Duration>,
    /// Whether it was left to a round, and none has found it equal since.
    pub(super) overrun: bool,
}

/// The bytes of the last push: the same ones go to all children.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) cursor: u64,
    pub(super) limit: u64,
    pub(super) origin: ReplicaId,
    pub(super) upto: u64,
    pub(super) bytes: Arc<[u8]>,
}

impl<T: Crdt> AntiEntropy<T> {
    pub(super) fn push(&mut self, now: Duration) -> Option<Outgoing> {
        loop {
            let window = self.config.window;
            let is_due = |id: &&ReplicaId| {
                self.progress.get(id).is_some_and(|p| p.in_flight.len() < window && now >= p.not_before)
            };
            let to = *self.pending.iter().find(is_due)?;
            let cursor = self.progress.get(&to)?.cursor;
            let Some((origin, limit)) = self.next_push(to, cursor) else {
                // Nothing more is meant for it.
                let progress = self.progress.get_mut(&to)?;
                progress.cursor = self.log.last();
                self.pending.remove(&to);
                self.trim_log();
                continue;
            };
            let (upto, bytes) = self.draft_push(cursor, limit, origin);
            self.log.mark_sent(upto);
            let id = self.start(to, Purpose::Push);
            let progress = self.progress.get_mut(&to)?;
            progress.in_flight.insert(id, cursor);
            progress.cursor = upto;
            progress.not_before = now + self.config.coalesce;
            self.stats.pushes += 1;
            return Some(Outgoing { to, id, is_bulk: false, bytes });
        }
    }

    /// The origin of the next changes for a peer after a cursor, and up to where one push can tell of them: until another
    /// origin's changes for it begin, or the push is full.
    pub(super) fn next_push(&mut self, to: ReplicaId, cursor: u64) -> Option<(ReplicaId, u64)> {
        let (log, tree) = (&self.log, &mut self.tree);
        let mut is_for = |origin: ReplicaId| tree.children(origin).contains(&to);
        let mut origin = None;
        let mut upto = log.last();
        let mut items = 0;
        for (number, item) in log.after(cursor) {
            if origin != Some(item.origin) && !is_for(item.origin) {
                continue;
            }
            if *origin.get_or_insert(item.origin) != item.origin || items == self.config.chunk_items {
                upto = number - 1;
                break;
            }
            items += 1;
        }
        for (number, of, _) in log.void_after(cursor) {
            if number > upto {
                break;
            }
            if origin != Some(of) && is_for(of) {
                match origin {
                    None => origin = Some(of),
                    Some(_) => {
                        upto = number - 1;
                        break;
                    }
                }
            }
        }
        origin.map(|origin| (origin, upto))
    }

    /// A push of an origin's changes after a cursor, up to a limit or until it is full. Returns how far it goes.
    pub(super) fn draft_push(&mut self, cursor: u64, limit: u64, origin: ReplicaId) -> (u64, Arc<[u8]>) {
        if let Some(draft) = &self.draft
            && (draft.cursor, draft.limit, draft.origin) == (cursor, limit, origin)
        {
            return (draft.upto, draft.bytes.clone());
        }
        let is_of = |item: &Item<T::Key>| item.origin == origin;
        let mut items =
            self.log.after(cursor).take_while(|(number, _)| *number <= limit).filter(|(_, item)| is_of(item));
        let (mut parts, mut upto, mut bytes) = (Vec::new(), limit, 0);
        loop {
            let mut wanted: BTreeMap<&T::Key, VersionVector> = BTreeMap::new();
            let mut last = None;
            for (number, item) in items.by_ref().take(BATCH) {
                wanted.entry(&item.key).or_default().insert(item.dot);
                last = Some(number);
            }
            let Some(last) = last else { break };
            let wanted = wanted.into_iter().map(|(key, dots)| (key.clone(), dots));
            let part = self.replica.pick(wanted.collect());
            bytes += part.encode().len();
            parts.push(part);
            if bytes >= self.config.chunk_bytes {
                upto = last;
                break;
            }
        }
        let mut delta = unite_all(parts);
        for (_, _, dots) in self.log.void_after(cursor).filter(|(number, of, _)| *number <= upto && *of == origin) {
            delta.kill(dots);
        }
        let bytes: Arc<[u8]> = Request::Push { origin, delta }.encode(self.replica.id()).into();
        self.draft = Some(Draft { cursor, limit, origin, upto, bytes: bytes.clone() });
        (upto, bytes)
    }

    pub(super) fn pushed(&mut self, now: Duration, to: ReplicaId, id: u64, done: bool) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        let Some(from) = progress.in_flight.remove(&id) else { return };
        if done {
            progress.failures = 0;
        } else {
            // Told again from there on; what it has had meanwhile does no harm.
            progress.cursor = progress.cursor.min(from);
            progress.failures = (progress.failures + 1).min(6);
            progress.not_before = now + self.config.coalesce.max(Duration::from_millis(10)) * (1 << progress.failures);
            self.pending.insert(to);
        }
        self.trim_log();
    }

    /// Drops what nobody needs any more.
    pub(super) fn trim_log(&mut self) {
        for (id, progress) in &mut self.progress {
            if progress.in_flight.is_empty() && !self.pending.contains(id) && !progress.overrun {
                progress.behind_since = None;
            }
        }
        let floors =
            self.progress.iter().filter(|(id, progress)| self.pending.contains(id) || !progress.in_flight.is_empty());
        let floors = floors.map(|(_, p)| p.in_flight.values().copied().chain([p.cursor]).min().unwrap_or(0));
        let floor = floors.min().unwrap_or(self.log.last());
        self.log.cut(floor);
        if self.log.len() == 0 {
            self.draft = None;
        }
    }

    pub(super) fn start(&mut self, to: ReplicaId, purpose: Purpose) -> u64 {
        self.next_id += 1;
        self.under_way.insert(self.next_id, (to, purpose));
        self.next_id
    }
}
