//! What has expired goes, some keys at a time.

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::time::Duration;

use polity_shard::ShardId;

use super::{Shard, Store, millis};
use crate::engine::EngineError;
use crate::record::{self, Millis};

/// How many keys of a shard are looked at while others wait for it.
const EXPIRED_AT_ONCE: usize = 64;

/// When that is looked at again which could not be removed: its block cannot be read, or the disk takes nothing.
const AGAIN_AFTER: Millis = 60_000;

impl Store {
    /// Removes what has expired, of some keys of each shard. Returns whether more has. What cannot be removed keeps nothing else
    /// from it, and is tried again a minute later.
    pub(crate) fn expire(&self, wall: Duration) -> bool {
        let (mut is_more, mut failed) = (false, None);
        for shard in self.shard_ids() {
            is_more |= self.expire_in(shard, millis(wall), EXPIRED_AT_ONCE, &mut failed);
        }
        if let Some(error) = failed {
            tracing::error!(%error, "something that has expired was not removed, and is tried again in a minute");
        }
        is_more
    }

    fn expire_in(&self, shard: ShardId, now: Millis, at_most: usize, failed: &mut Option<EngineError>) -> bool {
        let mut guard = self.shard(shard);
        let due = guard.expiries.due(now, at_most);
        for key in &due {
            if let Err(error) = self.expire_one(&mut guard, shard, key, now) {
                guard.expiries.set(key, Some(now.saturating_add(AGAIN_AFTER)));
                *failed = Some(error);
            }
        }
        due.len() == at_most
    }

    fn expire_one(&self, guard: &mut Shard, shard: ShardId, key: &[u8], now: Millis) -> Result<(), EngineError> {
        let bytes = self.engine.load(shard, key)?;
        let Some(Ok(mut record)) = bytes.as_deref().map(record::decode) else {
            guard.expiries.set(key, None);
            return Ok(());
        };
        let old = guard.old(key, bytes.as_deref(), &record);
        if record.latch_alone(now) {
            self.put_record(guard, shard, key, old, &record)?;
        }
        guard.expiries.set(key, record.next_due(now));
        if record.seen_at(now).is_tombstone() {
            guard.lapse(key, self.age());
        }
        Ok(())
    }
}
