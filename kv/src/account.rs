//! Accounts: what a boot says of shards when a replica asks for all that it has. The asker's current roster fences them first, and
//! those that it owes are learned; see [`mod@crate::standing`].
//!
//! Shards are compared in blocks of [`BLOCK`]: one number each, and the digests of its shards only where that differs.

use std::collections::BTreeMap;

use polity_cluster::NodeId;
use polity_shard::ShardId;

use crate::digest::{BLOCK, Digest, block};
use crate::roster::Roster;
use crate::store::Store;
use crate::wire::{AccountAnswer, AccountRequest, Rosters, check_shards};

/// What a boot says of shards, by their places among those that were asked for.
#[derive(Debug)]
pub(crate) struct Account {
    known: Vec<bool>,
    pub(crate) rosters: Rosters,
    differing: BTreeMap<usize, Digest>,
}

/// The question, and what this node holds of the shards at that time. Of each there are the asker's rosters, the current one first.
pub(crate) fn ask(store: &Store, shards: &[ShardId], rosters: &[Vec<Roster>]) -> (AccountRequest, Vec<Digest>) {
    let ours: Vec<Digest> = shards.iter().map(|shard| store.digest(*shard)).collect();
    let shards = shards.iter().map(|shard| shard.0).collect();
    let request =
        AccountRequest { shards, rosters: Rosters::new(rosters), blocks: ours.chunks(BLOCK).map(block).collect() };
    (request, ours)
}

/// The answer. Every shard is fenced before any block is summed up: what is called equal was, after its fence.
pub(crate) fn answer(store: &Store, request: &AccountRequest) -> Result<AccountAnswer, String> {
    check_shards(&request.shards)?;
    if request.blocks.len() != request.shards.len().div_ceil(BLOCK) {
        return Err("there is one sum for each block".to_owned());
    }
    let (mut known, mut digests, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    for (at, shard) in request.shards.iter().enumerate() {
        let (shard, theirs) = (ShardId(*shard), request.rosters.list(at));
        let account = theirs.split_first().filter(|_| store.has_shard(shard));
        let account = account.and_then(|(under, owed)| store.account(shard, under, owed));
        known.push(account.as_ref().is_some_and(|account| account.is_fenced));
        let (digest, rosters) = account.map(|account| (account.digest, account.rosters)).unwrap_or_default();
        digests.push(digest);
        lists.push(rosters);
    }
    let blocks = digests.chunks(BLOCK).zip(&request.blocks).enumerate();
    let differing = blocks.filter(|(_, (digests, theirs))| block(digests) != **theirs);
    let differing = differing.map(|(at, (digests, _))| (at as u32, digests.to_vec())).collect();
    Ok(AccountAnswer { known, rosters: Rosters::new(&lists), differing, lineage: store.lineage().clone() })
}

impl Account {
    pub(crate) fn new(answer: AccountAnswer) -> Self {
        let AccountAnswer { known, rosters, differing, .. } = answer;
        let differing = differing.into_iter().flat_map(|(at, digests)| (at as usize * BLOCK..).zip(digests)).collect();
        Self { known, rosters, differing }
    }

    /// Whether it knows what it should have of the shard at a place.
    pub(crate) fn is_known(&self, at: usize) -> bool {
        self.known.get(at).is_some_and(|known| *known)
    }

    /// Whether it could not take the fence of the shard at a place, and has to be asked again.
    pub(crate) fn is_refused(&self, at: usize) -> bool {
        !self.is_known(at) && !self.rosters.list(at).is_empty()
    }

    /// Whether it is fetching what it lacks of the shard at a place: it owes rosters of it, so it asks their boots for all that they
    /// have, and holds less than `ours`.
    pub(crate) fn is_catching_up(&self, at: usize, ours: &Digest) -> bool {
        let holds_less = self.differs(at, ours).is_some_and(|theirs| theirs.count() < ours.count());
        holds_less && self.rosters.list(at).len() > 1
    }

    /// Whether `them`, whose account this is, is new to the shard at a place: it owes a roster that it was not in, so it asks the
    /// boots of that for all that they have.
    pub(crate) fn is_newcomer(&self, at: usize, them: &NodeId) -> bool {
        self.rosters.list(at).iter().skip(1).any(|roster| !roster.contains(them))
    }

    /// Whether it owes a roster of the shard at a place that this boot is in: it may ask it yet for all that it has.
    pub(crate) fn counts_on(&self, at: usize, boot: &NodeId) -> bool {
        self.rosters.list(at).iter().skip(1).any(|roster| roster.contains(boot))
    }

    /// What it held after the fence, if that is something else than `ours`, what this node held when it asked.
    pub(crate) fn differs(&self, at: usize, ours: &Digest) -> Option<Digest> {
        self.differing.get(&at).copied().filter(|theirs| theirs != ours)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::Arc;

    use polity_shard::ShardCount;

    use super::*;
    use crate::config::KvConfig;
    use crate::engine::MemoryEngine;
    use crate::roster::tests::{boot, roster};
    use crate::standing::{Fates, Standing};

    const SHARD: ShardId = ShardId(0);

    /// The two that are there see each other.
    struct Apart;

    impl Fates for Apart {
        fn is_gone(&self, _: &NodeId) -> bool {
            false
        }
        fn is_up(&self, node: &NodeId) -> bool {
            self.up().contains(node)
        }
        fn successor(&self, _: &NodeId) -> Option<NodeId> {
            None
        }
        fn up(&self) -> Vec<NodeId> {
            ["a1", "b1"].map(boot).to_vec()
        }
        fn continues(&self, _: &NodeId, _: &NodeId) -> Option<bool> {
            None
        }
    }

    fn store(own: &str) -> Store {
        let config = KvConfig { shards: ShardCount::new(1).expect("one"), ..KvConfig::default() };
        let store = Store::new(boot(own), &config, Arc::new(MemoryEngine::new(config.shards))).expect("works");
        store.place(SHARD, roster("a1 b1 c1"));
        store.introduce(SHARD, Vec::new());
        store
    }

    /// It comes back into the roster that it was in, and does not know that others have served meanwhile.
    #[test]
    fn one_that_was_taken_for_down_hears_from_who_asks_that_it_is_new() {
        let (there, away) = (store("a1"), store("c1"));
        there.place(SHARD, roster("a1 b1"));
        let serve = |standing: &mut Standing| {
            standing.hear(&boot("b1"), standing.round());
            standing.settle(&boot("a1"), &Apart)
        };
        assert_eq!(there.with_standing(SHARD, serve), Some(true));
        there.place(SHARD, roster("a1 b1 c1"));
        let (request, _) = ask(&there, &[SHARD], &[there.rosters(SHARD).expect("introduced")]);
        let account = Account::new(answer(&away, &request).expect("a request of ours"));
        assert!(account.is_known(0) && account.is_newcomer(0, &boot("c1")));
        assert_eq!(away.with_standing(SHARD, |standing| standing.is_ready()), Some(false));
    }
}
