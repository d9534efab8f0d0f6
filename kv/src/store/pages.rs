//! Many records at once, in pages.

use std::ops::ControlFlow;

use polity_shard::ShardId;

use super::Store;
use crate::engine::EngineError;
use crate::record::Blob;
use crate::roster::RosterId;
use crate::tally::Vouch;
use crate::wire::Page;

/// A page that is being filled.
pub(super) struct Filling {
    pub(super) room: usize,
    pub(super) records: Vec<(Blob, Blob)>,
    /// The last key that was dealt with.
    pub(super) last: Option<Blob>,
    /// Whether there was something that found no room.
    pub(super) more: bool,
}

impl Filling {
    pub(super) fn new(room: usize) -> Self {
        Self { room, records: Vec::new(), last: None, more: false }
    }

    /// Takes a record if there is room. The first one always finds some.
    pub(super) fn take(&mut self, key: &[u8], record: &[u8]) -> ControlFlow<()> {
        let bytes = key.len() + record.len();
        if bytes > self.room && !self.records.is_empty() {
            self.more = true;
            return ControlFlow::Break(());
        }
        self.room = self.room.saturating_sub(bytes);
        let key = Blob::from(key.to_vec());
        self.last = Some(key.clone());
        self.records.push((key, record.to_vec().into()));
        ControlFlow::Continue(())
    }
}

impl Store {
    /// The records whose keys are greater than `after`, until they fill `bytes`. Returns whether there are more.
    pub(crate) fn page(
        &self,
        shard: ShardId,
        after: Option<&[u8]>,
        bytes: usize,
    ) -> Result<(Vec<(Blob, Blob)>, bool), EngineError> {
        let mut filling = Filling::new(bytes);
        self.engine.scan(shard, after, &mut |key, record| filling.take(key, record))?;
        Ok((filling.records, filling.more))
    }

    /// The records whose keys begin with `prefix` and are greater than `after`, until they fill `bytes`; whether there are
    /// more; and what the answer vouches for.
    pub(crate) fn page_of(
        &self,
        shard: ShardId,
        prefix: &[u8],
        after: Option<&[u8]>,
        bytes: usize,
        named: RosterId,
    ) -> Result<(Page, Vouch), EngineError> {
        let guard = self.shard(shard);
        let mut filling = Filling::new(bytes);
        let mut take = |key: &[u8], record: &[u8]| {
            if key.starts_with(prefix) { filling.take(key, record) } else { ControlFlow::Break(()) }
        };
        if after.is_none()
            && let Some(record) = self.engine.load(shard, prefix)?
        {
            let _ = take(prefix, &record);
        }
        self.engine.scan(shard, Some(after.unwrap_or(prefix)), &mut take)?;
        Ok((Page { records: filling.records, more: filling.more }, guard.vouch(named)))
    }

    /// The records of these keys, until they fill `bytes`, and how many of the keys that were.
    pub(crate) fn records_at(&self, keys: &[Blob], bytes: usize) -> Result<(Vec<(Blob, Blob)>, usize), EngineError> {
        let mut filling = Filling::new(bytes);
        for (at, key) in keys.iter().enumerate() {
            let shard = self.shard_of(&key.0);
            let record = {
                let _guard = self.shard(shard);
                self.engine.load(shard, &key.0)?
            };
            // One that has been handed over is told by its new owners.
            if let Some(record) = record
                && filling.take(&key.0, &record).is_break()
            {
                return Ok((filling.records, at));
            }
        }
        Ok((filling.records, keys.len()))
    }
}
