//! What there is to own: the state of shards, and what it means to own one.

use polity_cluster::rpc::Blob;
use polity_cluster::{BoxFuture, NodeId};

use crate::ShardId;
use crate::claims::Claim;
use crate::journal::Snapshot;

/// The state of shards on one node.
///
/// Its functions are called on the library's executor and must not block; futures are dropped when the ownership ends.
pub trait Estate: Send + Sync + 'static {
    /// This node owns the shard from now on: serve it, with effects that carry the claim's epoch.
    fn owned(&self, claim: &Claim);

    /// This node does not own the shard any more, `by` does or is about to. The fence refuses its effects already.
    fn lost(&self, shard: ShardId, by: &NodeId);

    /// The state of a shard in chunks of at most [`MAX_CHUNK_BYTES`](crate::handoff::MAX_CHUNK_BYTES), and no more of them than
    /// memory has room for. Changes go on.
    ///
    /// # Errors
    /// Why it cannot be had; the handoff fails and is tried again.
    fn open(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>>;

    /// What has changed in a shard since it was opened, or since this was last asked, while it goes on changing. Keeps the pause
    /// short if the shard is large; by default nothing, which leaves it all to the pause.
    ///
    /// # Errors
    /// As above.
    fn catch_up(&self, _shard: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Lets nothing change in the shard from now on, finishes what has begun, and returns what has changed since it was opened,
    /// or since what was last caught up.
    ///
    /// # Errors
    /// As above; the shard is resumed.
    fn pause(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<Blob>, String>>;

    /// The handoff came to nothing after the pause: serve again. Called once for each pause, after that has ended, but for those of
    /// shards that are lost; a shard that is paused a second time before the first pause has ended stays paused until the second is
    /// over, too.
    fn resume(&self, shard: ShardId);

    /// Whether what belongs to a shard beside its chunks is here, so that it can be installed. Its owner keeps it until then, and
    /// asks again from time to time. Asked before the chunks are sent, and must answer at once.
    fn is_ready(&self, _shard: ShardId) -> bool {
        true
    }

    /// Merges chunks, in their order, into this node's state. Returns whether that is done: only then the owner before lets go.
    fn install(&self, shard: ShardId, chunks: Vec<Blob>) -> BoxFuture<'_, bool>;

    /// All that there is of a shard, for the journal of conflicts: its bytes, or that it is in a store. On all nodes the same of
    /// the two. Must answer at once.
    fn state(&self, shard: ShardId) -> Snapshot;

    /// Whether what the loser of a conflict has comes into the winner's state as well, by repair or in another way. By default
    /// it does not: then the journal is where it is left.
    fn merges(&self) -> bool {
        false
    }
}
