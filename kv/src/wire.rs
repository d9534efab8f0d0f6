//! What the stores of two nodes say to each other. Byte formats: docs/WIRE.md.

use std::collections::BTreeMap;

use polity_cluster::rpc::{Lane, Method};
use polity_crdt::{Dot, ReplicaId, VersionVector};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Consistency;
use crate::digest::Digest;
use crate::lineage::Lineage;
use crate::reconcile::{Offer, Offered, Pull, Pulled, Sketch, Sketched};
use crate::record::{Blob, Kind, Update};
use crate::roster::{Roster, RosterId};
use crate::tally::Vouch;

/// Merges a record.
pub(crate) const MERGE: Method<Merge, MergeAnswer> = Method::new(32, "kv.merge", Lane::Call);
/// Reads a record.
pub(crate) const READ: Method<Read, ReadAnswer> = Method::new(33, "kv.read", Lane::Call);
/// Coordinates a write.
pub(crate) const WRITE: Method<Write, WriteAnswer> = Method::new(34, "kv.write", Lane::Call);
/// Gives an account of shards, and fences them.
pub(crate) const ACCOUNT: Method<AccountRequest, AccountAnswer> = Method::new(35, "kv.account", Lane::Control);
/// Fetches a shard.
pub(crate) const FETCH: Method<Fetch, Page> = Method::new(36, "kv.fetch", Lane::Bulk);
/// Brings records.
pub(crate) const OFFER: Method<Offer, Offered> = Method::new(37, "kv.offer", Lane::Bulk);
/// Asks whether replicas are ready, and tells them which rosters are still owed elsewhere.
pub(crate) const READY: Method<ReadyRequest, Vec<bool>> = Method::new(38, "kv.ready", Lane::Control);
/// Learns the rosters of all shards: of each a list, which is empty if they are not known.
pub(crate) const INTRODUCE: Method<(), Rosters> = Method::new(39, "kv.introduce", Lane::Control);
/// Asks how much is left to do.
pub(crate) const PROGRESS: Method<(), Progress> = Method::new(40, "kv.progress", Lane::Control);
/// Reads a page of a shard.
pub(crate) const SCAN: Method<Scan, ScanAnswer> = Method::new(41, "kv.scan", Lane::Call);

/// Asks how many keys a bucket has in shards.
pub(crate) const LEN: Method<Len, Vec<Option<u64>>> = Method::new(42, "kv.len", Lane::Call);

/// Registers watches, renews them, and ends some.
pub(crate) const WATCH: Method<Watch, Vec<Option<bool>>> = Method::new(43, "kv.watch", Lane::Control);
/// Tells a watch what has changed.
pub(crate) const NEWS: Method<News, bool> = Method::new(44, "kv.news", Lane::Bulk);

/// The most watches that one message registers, if their keys take no more than a page.
pub(crate) const MAX_WATCHES_A_MESSAGE: usize = 256;

/// Tells which records of shards there are, as far as that is asked for.
pub(crate) const SKETCH: Method<Sketch, Vec<Sketched>> = Method::new(45, "kv.sketch", Lane::Bulk);
/// Asks for records by the tags of their keys.
pub(crate) const PULL: Method<Pull, Pulled> = Method::new(46, "kv.pull", Lane::Bulk);

/// Asks whether there is nothing under some keys but these tombstones, or drops them. Answers for each.
pub(crate) const COLLECT: Method<Collect, Vec<bool>> = Method::new(47, "kv.collect", Lane::Bulk);

/// The most tombstones of one message.
pub(crate) const MAX_TOMBSTONES: usize = 4096;

/// The most shards that one message speaks of: with all their digests and rosters, well within a frame.
pub(crate) const MAX_SHARDS_A_MESSAGE: usize = 4096;

/// Checks how many shards a message speaks of.
pub(crate) fn check_shards<T>(shards: &[T]) -> Result<(), String> {
    if shards.len() > MAX_SHARDS_A_MESSAGE {
        return Err(format!("at most {MAX_SHARDS_A_MESSAGE} shards a message"));
    }
    Ok(())
}

/// How many bytes of records one page brings: enough that round trips do not matter, small enough that a page does not
/// hold up the executor.
pub(crate) const PAGE_BYTES: usize = 64 << 10;

/// The same of pages that make replicas equal. They are smaller: nobody waits for them, and whoever calls meanwhile waits for all that it
/// takes to make one (ADR 0032).
pub(crate) const REPAIR_PAGE_BYTES: usize = 16 << 10;

/// The same of what is sent back for such a page: what was written on both sides is twice as much then.
pub(crate) const REPAIR_BACK_BYTES: usize = 2 * REPAIR_PAGE_BYTES;

/// A list of rosters per shard. Few rosters serve many shards, so each is sent once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rosters {
    table: Vec<Roster>,
    lists: Vec<Vec<u32>>,
}

impl Rosters {
    pub(crate) fn new(lists: &[Vec<Roster>]) -> Self {
        let different: BTreeMap<RosterId, &Roster> = lists.iter().flatten().map(|of| (of.id(), of)).collect();
        let mut table: Vec<Roster> = different.into_values().cloned().collect();
        table.sort_unstable();
        let places: BTreeMap<RosterId, u32> = table.iter().map(Roster::id).zip(0..).collect();
        let lists = lists.iter().map(|list| list.iter().map(|of| places[&of.id()]).collect()).collect();
        Self { table, lists }
    }

    /// Whether there is no roster in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The list at `at`; empty if there is none. Indexes that point nowhere are left out.
    pub(crate) fn list(&self, at: usize) -> Vec<Roster> {
        let list = self.lists.get(at).into_iter().flatten();
        list.filter_map(|index| self.table.get(*index as usize).cloned()).collect()
    }
}

/// The trace of a delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) key: Blob,
    /// Of the record.
    pub(crate) hash: u64,
}

/// What is to be done about tombstones.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Collect {
    pub(crate) tombstones: Vec<Tombstone>,
    /// Whether all have been asked, and they are to be dropped.
    pub(crate) drop: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Merge {
    pub(crate) shard: u32,
    pub(crate) named: RosterId,
    pub(crate) key: Blob,
    pub(crate) record: Blob,
    /// The hash of what the sender had before it wrote this, if it wants to know what those had who had something else.
    pub(crate) before: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MergeAnswer {
    pub(crate) vouch: Vouch,
    /// What was there before, if that was asked for and is something else.
    pub(crate) had: Option<Had>,
}

/// What a replica had of a key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Had {
    pub(crate) record: Blob,
    /// Who it is in the dots of its writes.
    pub(crate) by: ReplicaId,
    /// Its causal writes to the key that are not over.
    pub(crate) under_way: Vec<Dot>,
}

/// An answer for which a replica vouches.
pub(crate) trait Vouched: DeserializeOwned {
    /// What it brings.
    type Brought;
    fn split(self) -> (Vouch, Self::Brought);
}

impl Vouched for MergeAnswer {
    type Brought = Option<Had>;
    fn split(self) -> (Vouch, Option<Had>) {
        (self.vouch, self.had)
    }
}

impl Vouched for ReadAnswer {
    type Brought = Option<Blob>;
    fn split(self) -> (Vouch, Option<Blob>) {
        (self.vouch, self.record)
    }
}

impl Vouched for ScanAnswer {
    type Brought = Page;
    fn split(self) -> (Vouch, Page) {
        (self.vouch, self.page)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) shard: u32,
    pub(crate) named: RosterId,
    pub(crate) key: Blob,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadAnswer {
    pub(crate) record: Option<Blob>,
    pub(crate) vouch: Vouch,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) key: Blob,
    pub(crate) update: Update,
    /// What it replaces of a causal key. `None` replaces what a quorum knows.
    pub(crate) context: Option<VersionVector>,
    pub(crate) level: Consistency,
    pub(crate) timeout_ms: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WriteAnswer {
    Done {
        context: VersionVector,
        /// How many steps have changed something.
        changed: u32,
        /// What a counter stands at.
        total: i128,
    },
    /// Not written, and another replica may do better.
    NotHere(String),
    /// Not written, and no other replica would.
    TooManySiblings(u32),
    /// Not written: the key holds something of this kind.
    WrongKind(Kind),
    /// Not written; `again` if it may succeed in a moment, with the members as they are.
    NotEnough { answered: u32, needed: u32, reason: String, again: bool },
    /// Written here, and too few others are known to have it.
    Unknown { answered: u32, needed: u32, reason: String },
    /// Not written: its idempotency key does not count by the clock here.
    KeyOutOfWindow,
    /// Not written: so many writes under idempotency keys are known of the key.
    TooManyKeys(u32),
    /// Not written: all that is under the key would take so many bytes.
    RecordTooLarge(u32),
    /// Not written: there is no room on the disk here. Another replica may have some.
    NoRoom(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AccountRequest {
    pub(crate) shards: Vec<u32>,
    /// The asker's current roster of each, and those that it owes.
    pub(crate) rosters: Rosters,
    /// What the asker holds of each [`BLOCK`](crate::digest::BLOCK) of them.
    pub(crate) blocks: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AccountAnswer {
    /// Whether this node knows its standing, for each shard asked for.
    pub(crate) known: Vec<bool>,
    pub(crate) rosters: Rosters,
    /// The boots that this one continues.
    pub(crate) lineage: Lineage,
    /// The blocks of which this node holds something else, rising, and what, shard by shard.
    pub(crate) differing: Vec<(u32, Vec<Digest>)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub(crate) shard: u32,
    pub(crate) after: Option<Blob>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) records: Vec<(Blob, Blob)>,
    pub(crate) more: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub(crate) shard: u32,
    pub(crate) named: RosterId,
    /// How all keys begin.
    pub(crate) prefix: Blob,
    pub(crate) after: Option<Blob>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScanAnswer {
    pub(crate) page: Page,
    pub(crate) vouch: Vouch,
}

/// The answer has a count for each shard that this node is a replica of and has caught up with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Len {
    /// How all places of the bucket begin.
    pub(crate) bucket: Blob,
    pub(crate) shards: Vec<u32>,
}

/// The answer has for each watch whether it was known; nothing, if there is no room for it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// The number of each of the asker's watches, its place, and whether it is about that place only.
    pub(crate) watches: Vec<(u64, Blob, bool)>,
    /// Those that are over.
    pub(crate) over: Vec<u64>,
    pub(crate) lease_ms: u32,
}

/// The answer says whether anybody watches.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct News {
    /// The number of the watch.
    pub(crate) watch: u64,
    pub(crate) records: Vec<(Blob, Blob)>,
    /// Whether there was more that could not be told.
    pub(crate) missed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadyRequest {
    pub(crate) shards: Vec<u32>,
    /// For each shard the asker's current roster, then those that it owes.
    pub(crate) rosters: Rosters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Tells two views of the members apart.
    pub(crate) view: u64,
    /// Shards that are not ready, not handed over, or not introduced.
    pub(crate) pending: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::roster;

    #[test]
    fn rosters_are_sent_once_and_bad_indexes_are_left_out() {
        let lists = [vec![roster("a1 b1"), roster("b1 c1")], vec![], vec![roster("a1 b1")]];
        let mut sent = Rosters::new(&lists);
        assert_eq!(sent.table.len(), 2);
        assert_eq!(
            [sent.list(0), sent.list(1), sent.list(2), sent.list(3)],
            [lists[0].clone(), vec![], lists[2].clone(), vec![]]
        );
        sent.lists[2].push(99);
        assert_eq!(sent.list(2), lists[2]);
    }
}
