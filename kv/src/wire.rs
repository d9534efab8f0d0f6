//! What the stores of two nodes say to each other. Byte formats: docs/WIRE.md.

use std::collections::{BTreeMap, BTreeSet};

use polity_cluster::NodeId;
use polity_cluster::rpc::{Lane, Method};
use polity_crdt::{Dot, ReplicaId, VersionVector};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Consistency;
use crate::digest::Digest;
use crate::lineage::Lineage;
use crate::reconcile::{Offer, Offered, Pull, Pulled, Sketch, Sketched};
use crate::record::{Blob, Kind, Update};
use crate::roster::{MAX_REPLICAS, Roster, RosterId};
use crate::standing::MAX_OWED;
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

/// A list of rosters per shard. Few rosters serve many shards, and few boots are in many rosters, so each is sent once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "SentRosters", try_from = "SentRosters")]
pub(crate) struct Rosters {
    table: Vec<Roster>,
    lists: Vec<Vec<u32>>,
}

/// What is sent of them: boots, rising; of each roster the places of its boots among those; of each list the places of its rosters.
#[derive(Serialize, Deserialize)]
struct SentRosters {
    boots: Vec<NodeId>,
    table: Vec<Vec<u32>>,
    lists: Vec<Vec<u32>>,
}

impl From<Rosters> for SentRosters {
    fn from(Rosters { table, lists }: Rosters) -> Self {
        let boots: BTreeSet<&NodeId> = table.iter().flat_map(Roster::nodes).collect();
        let places: BTreeMap<&NodeId, u32> = boots.into_iter().zip(0..).collect();
        let sent = table.iter().map(|roster| roster.nodes().iter().map(|node| places[node]).collect()).collect();
        Self { boots: places.into_keys().cloned().collect(), table: sent, lists }
    }
}

impl TryFrom<SentRosters> for Rosters {
    type Error = &'static str;

    fn try_from(SentRosters { boots, table, lists }: SentRosters) -> Result<Self, &'static str> {
        if !boots.is_sorted_by(|one, other| one < other) {
            return Err("boots are sorted and have no duplicates");
        }
        let roster = |places: Vec<u32>| {
            if places.len() > MAX_REPLICAS || !places.is_sorted_by(|one, other| one < other) {
                return Err("a roster has no more boots than a shard has replicas, sorted and without duplicates");
            }
            let nodes: Option<Vec<NodeId>> = places.iter().map(|place| boots.get(*place as usize).cloned()).collect();
            nodes.map(Roster::new).ok_or("a roster has boots that were sent")
        };
        Ok(Self { table: table.into_iter().map(roster).collect::<Result<_, _>>()?, lists })
    }
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

    /// The list at `at`; empty if there is none. Indexes that point nowhere are left out, and what is more than any shard has.
    pub(crate) fn list(&self, at: usize) -> Vec<Roster> {
        let list = self.lists.get(at).into_iter().flatten().take(1 + MAX_OWED);
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
    /// Whether this node knows its standing, and was fenced, for each shard asked for. One that knows and was not has rosters all the same.
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
    use polity_shard::ShardCount;

    use super::*;
    use crate::roster::tests::{boot, roster};

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
        let bytes = postcard::to_allocvec(&sent).expect("encodes");
        assert_eq!(postcard::from_bytes::<Rosters>(&bytes).as_ref(), Ok(&sent));
        assert_eq!(bytes[0], 3, "each boot once");
        for (table, what) in
            [(vec![vec![1, 0]], "not in order"), (vec![vec![7]], "nobody"), (vec![(0..17).collect()], "a crowd")]
        {
            let boots = (1..20).map(|i| boot(&format!("a{i}"))).take(if what == "nobody" { 3 } else { 19 }).collect();
            let bytes = postcard::to_allocvec(&SentRosters { boots, table, lists: Vec::new() }).expect("encodes");
            assert!(postcard::from_bytes::<Rosters>(&bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn a_list_is_no_longer_than_what_a_shard_can_owe() {
        let sent = Rosters { table: vec![roster("a1")], lists: vec![vec![0; 1 << 16]] };
        assert_eq!(sent.list(0).len(), 1 + MAX_OWED);
    }

    /// As many shards and nodes as a cluster may have: what a node is told that joins fits into a frame, and so does what is asked of
    /// a message's shards, should each owe some.
    #[test]
    fn the_rosters_of_a_large_cluster_fit_into_a_frame() {
        let boots: Vec<NodeId> = (0..1000)
            .map(|i| NodeId {
                name: polity_cluster::NodeName::new(&format!("node-{i:03}.example")).expect("valid"),
                boot: polity_cluster::Boot { generation: i, nonce: u128::MAX - u128::from(i) },
            })
            .collect();
        let of = |shard: usize, nth: usize| {
            Roster::new([7, 11, 13].map(|step| boots[(shard * step + nth * 31 + step) % 1000].clone()))
        };
        let bytes = |shards: usize, owed: usize| {
            let lists: Vec<Vec<Roster>> =
                (0..shards).map(|shard| (0..=owed).map(|nth| of(shard, nth)).collect()).collect();
            postcard::to_allocvec(&Rosters::new(&lists)).expect("encodes").len()
        };
        let frame = 4 << 20;
        assert!(bytes(ShardCount::MAX as usize, 1) < frame);
        assert!(bytes(MAX_SHARDS_A_MESSAGE, MAX_OWED / 2) < frame);
    }
}
