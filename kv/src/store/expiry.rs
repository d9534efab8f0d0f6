//! What has expired goes, some keys at a time.

use std::time::Duration;

use polity_shard::ShardId;

use super::{Store, millis};
use crate::engine::EngineError;
use crate::record::{self, Millis};

/// How many keys of a shard are looked at while others wait for it.
const EXPIRED_AT_ONCE: usize = 64;

impl Store {
    /// Removes what has expired, of some keys of each shard. Returns whether more has.
    pub(crate) fn expire(&self, wall: Duration) -> Result<bool, EngineError> {
        let mut is_more = false;
        for shard in self.shard_ids() {
            is_more |= self.expire_in(shard, millis(wall), EXPIRED_AT_ONCE)?;
        }
        Ok(is_more)
    }

    fn expire_in(&self, shard: ShardId, now: Millis, at_most: usize) -> Result<bool, EngineError> {
        let mut guard = self.shard(shard);
        let due = guard.expiries.due(now, at_most);
        for key in &due {
            let bytes = self.engine.load(shard, key)?;
            let Some(Ok(mut record)) = bytes.as_deref().map(record::decode) else {
                guard.expiries.set(key, None);
                continue;
            };
            let old = guard.old(key, bytes.as_deref(), &record);
            if record.latch_alone(now) {
                self.put_record(&mut guard, shard, key, old, &record)?;
            }
            guard.expiries.set(key, record.next_due(now));
            if record.seen_at(now).is_tombstone() {
                guard.lapse(key, self.age());
            }
        }
        Ok(due.len() == at_most)
    }
}
