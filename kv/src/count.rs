//! How many keys a bucket has, as one replica of each shard counts them: an estimate that costs one message per peer.

use std::collections::{BTreeMap, VecDeque};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::NodeId;
use polity_shard::ShardId;
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::error::{KvError, Outcome};
use crate::record::Blob;
use crate::wire::{LEN, Len, MAX_SHARDS_A_MESSAGE};

/// How many live keys a bucket has. It is named as its places begin.
pub(crate) async fn len(here: &Coordinator, bucket: &Blob) -> Result<u64, KvError> {
    let deadline = Instant::now() + here.config.timeout;
    let mut total = 0u64;
    let mut left: Vec<ShardId> = here.store.layout().shards_of_bucket(&bucket.0).collect();
    loop {
        if here.rpc.is_stopped() {
            return Err(KvError::Stopped);
        }
        left = ask(here, bucket, left, deadline, &mut total).await;
        let first = left.first().copied();
        if let Some(shard) = first
            && !here.pause(deadline).await
        {
            let reason = format!("no replica of shard {shard} and of {} others has counted", left.len() - 1);
            let (what, outcome) = ("a count", Outcome::NotApplied);
            return Err(KvError::NotEnoughReplicas { what, answered: 0, needed: 1, reason, outcome });
        }
        if first.is_none() {
            return Ok(total);
        }
    }
}

/// Asks one replica of each shard after the other, until one has counted. Returns the shards that nobody has.
async fn ask(
    here: &Coordinator,
    bucket: &Blob,
    shards: Vec<ShardId>,
    deadline: Instant,
    total: &mut u64,
) -> Vec<ShardId> {
    let map = here.map();
    let mut left: BTreeMap<ShardId, VecDeque<NodeId>> =
        shards.into_iter().map(|shard| (shard, here.by_preference(&map, shard))).collect();
    loop {
        let mut by_node: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for (shard, candidates) in &mut left {
            if let Some(node) = candidates.pop_front() {
                by_node.entry(node).or_default().push(*shard);
            }
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if by_node.is_empty() || remaining.is_zero() {
            return left.into_keys().collect();
        }
        let mut asked = FuturesUnordered::new();
        for (peer, shards) in by_node.iter().filter_map(|(node, shards)| Some((map.peer(node)?, shards))) {
            for shards in shards.chunks(MAX_SHARDS_A_MESSAGE) {
                let question = Len { bucket: bucket.clone(), shards: shards.iter().map(|shard| shard.0).collect() };
                // Half of the time is left for another, should this one not answer.
                let answer = here.rpc.call(&peer, &LEN, &question, remaining / 2);
                asked.push(async move { (shards, answer.await) });
            }
        }
        while let Some((shards, answer)) = asked.next().await {
            let counts = answer.unwrap_or_default();
            for (shard, count) in shards.iter().zip(counts) {
                if let Some(count) = count {
                    *total = total.saturating_add(count);
                    left.remove(shard);
                }
            }
        }
    }
}
