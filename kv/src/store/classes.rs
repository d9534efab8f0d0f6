//! That an engine holds no key in another class of shards than that in which the store looks for it: how many replicas a bucket
//! has is for the life of what it holds.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use polity_shard::{ReplicaCount, ShardId};

use super::{Store, read_meta};
use crate::engine::EngineError;
use crate::kept;
use crate::layout::{class_of, ids_of};
use crate::place;

impl Store {
    /// Checks that a key that the engine holds in a shard is of a bucket with as many replicas as that has.
    pub(super) fn check_class(&self, held_in: ShardId, key: &[u8]) -> Result<(), EngineError> {
        let (held, looked_for) = (class_of(held_in), self.layout.class_of_bucket(key));
        if held == looked_for {
            return Ok(());
        }
        let count = |class| self.layout.replicas_in(class) as u8;
        let bucket = place::name_of(key).into_owned();
        Err(EngineError::OtherReplicas { bucket, found: count(held), expected: count(looked_for) })
    }

    /// The classes of shards that the engine has had, if it holds nothing in those that are not there any more.
    pub(super) fn left_classes(&self) -> Result<BTreeSet<ReplicaCount>, EngineError> {
        if !self.engine.is_durable() {
            return Ok(BTreeSet::new());
        }
        let kept = read_meta(&*self.engine, kept::CLASSES, kept::decode_classes)?.unwrap_or_default();
        for left in kept.iter().filter(|count| !self.layout.classes().contains(count)) {
            for shard in ids_of(*left, self.layout.shards()) {
                let mut astray = Ok(());
                self.engine.scan(shard, None, &mut |key, _| {
                    astray = self.check_class(shard, key);
                    ControlFlow::Break(())
                })?;
                astray?;
            }
        }
        Ok(kept)
    }
}
