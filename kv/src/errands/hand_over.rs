//! Handing over: who is no replica of a shard any more gives its records to those that are, and drops them once all have them.
//!
//! Until the last of them has heard from this node, or need not, nothing is dropped.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::NodeId;
use polity_cluster::rpc::Peer;
use polity_shard::ShardId;

use super::{PATIENCE, Shards, let_them_fetch, note_too_large, reconcile};
use crate::account::{self, Account};
use crate::coordinator::Coordinator;
use crate::digest::Digest;
use crate::reconcile::{Purpose, Reconciliation, next_group};
use crate::roster::Roster;
use crate::wire::{ACCOUNT, REPAIR_PAGE_BYTES};

/// How many shards are handed over at once.
const HANDED_OVER_AT_ONCE: usize = 64;

/// Gives the records of shards that are not ours to those whose they are, and drops them once all have them.
pub(crate) async fn hand_over(here: &Coordinator, shards: Shards) {
    // What is written to a shard meanwhile keeps it, so a few at a time.
    for some in shards.chunks(HANDED_OVER_AT_ONCE) {
        // A question fences: one under a roster that is over would have it owed again.
        let is_so = |(shard, under): &&(ShardId, Roster)| {
            here.store.with_standing(*shard, |standing| standing.is_ready() && standing.current() == under)
                == Some(true)
        };
        let some: Shards = some.iter().filter(is_so).cloned().collect();
        if hand_over_some(here, &some).await == 0 {
            // And then the others: a shard that waits must not keep them here.
            let_them_fetch(here).await;
        }
    }
}

/// A shard to be given away, and what is to be given.
#[derive(Debug, Clone, Copy)]
struct Gift<'a> {
    shard: ShardId,
    under: &'a Roster,
    given: Digest,
}

/// What one whose a shard is says of it.
enum Need {
    /// It does not know what it should have.
    Unknown,
    /// It has all that there is to be given.
    Nothing,
    /// It holds something else, namely so much.
    Differs(Digest),
    /// It counts on this node yet, or is fetching what it lacks from others: all of this may be on its way to it, and if writes
    /// are sent here, too, what was dropped now would come again.
    Later,
}

/// Returns how many shards were taken by all that are up of those whose they are.
async fn hand_over_some(here: &Coordinator, shards: &[(ShardId, Roster)]) -> usize {
    let map = here.map();
    // Whoever is about to go cannot be asked afterwards: it gives what others lack, whoever else they may get it from.
    let is_going = map.is_draining(&here.node);
    let mut by_peer: BTreeMap<&NodeId, (Peer, Vec<Gift<'_>>)> = BTreeMap::new();
    let mut open: BTreeMap<ShardId, (Digest, BTreeSet<NodeId>)> = BTreeMap::new();
    for (shard, under) in shards {
        let given = here.store.digest(*shard);
        let up = under.nodes().iter().filter(|node| map.is_up(node));
        let up: Vec<_> = up.filter_map(|node| Some((node, map.peer(node)?))).collect();
        if up.len() < under.quorum() {
            continue;
        }
        open.insert(*shard, (given, up.iter().map(|(node, _)| (*node).clone()).collect::<BTreeSet<_>>()));
        for (node, peer) in up {
            by_peer.entry(node).or_insert_with(|| (peer, Vec::new())).1.push(Gift { shard: *shard, under, given });
        }
    }
    let asked: FuturesUnordered<_> = by_peer
        .into_values()
        .map(|(peer, gifts)| async move { (ask_needs(here, &peer, &gifts, is_going).await, peer) })
        .collect();
    let needs: Vec<_> = asked.collect().await;
    if !is_going {
        let all = needs.iter().flat_map(|(needs, _)| needs);
        for (gift, _) in all.filter(|(_, need)| matches!(need, Need::Later)) {
            open.remove(&gift.shard);
        }
    }
    let mut gives = FuturesUnordered::new();
    for (needs, peer) in &needs {
        let (mut done, mut differing) = (Vec::new(), Vec::new());
        for (gift, need) in needs.iter().filter(|(gift, _)| open.contains_key(&gift.shard)) {
            match need {
                Need::Nothing => done.push(gift.shard),
                Need::Differs(theirs) => differing.push((gift.shard, *theirs)),
                Need::Unknown | Need::Later => {}
            }
        }
        gives.push(async move { (&peer.node, give(here, peer, differing, done).await) });
    }
    let mut taken = 0;
    while let Some((node, done)) = gives.next().await {
        for shard in done {
            let Some((given, missing)) = open.get_mut(&shard) else { continue };
            missing.remove(node);
            if !missing.is_empty() {
                continue;
            }
            taken += 1;
            if let Err(error) = here.store.release(shard, given) {
                tracing::error!(%error, %shard, "records that were handed over were not dropped");
            }
        }
    }
    taken
}

/// Asks a replica what it needs of what there is to be given. Nothing comes of one that does not answer.
async fn ask_needs<'a>(here: &Coordinator, peer: &Peer, gifts: &[Gift<'a>], is_going: bool) -> Vec<(Gift<'a>, Need)> {
    let ids: Vec<ShardId> = gifts.iter().map(|gift| gift.shard).collect();
    let rosters: Vec<_> = gifts.iter().map(|gift| vec![gift.under.clone()]).collect();
    let (request, ours) = account::ask(&here.store, &ids, &rosters);
    let account = match here.rpc.call(peer, &ACCOUNT, &request, PATIENCE).await {
        Ok(answer) => Account::new(answer),
        Err(error) => {
            tracing::debug!(%error, node = %peer.node, "a replica gave no account");
            return Vec::new();
        }
    };
    let need = |(at, gift): (usize, &Gift<'a>)| {
        // What was added since `given` is not dropped, whatever the other has: the digest is another one then.
        let need = match account.differs(at, &ours[at]).filter(|theirs| *theirs != gift.given) {
            _ if !account.is_known(at) => Need::Unknown,
            _ if account.counts_on(at, &here.node) => Need::Later,
            _ if account.is_catching_up(at, &ours[at]) && !is_going => Need::Later,
            None => Need::Nothing,
            Some(theirs) => Need::Differs(theirs),
        };
        (*gift, need)
    };
    gifts.iter().enumerate().map(need).collect()
}

/// Gives one replica what it lacks of shards that differ. Returns those of which it has all, beside `done`.
async fn give(
    here: &Coordinator,
    peer: &Peer,
    mut differing: Vec<(ShardId, Digest)>,
    mut done: Vec<ShardId>,
) -> Vec<ShardId> {
    while !differing.is_empty() {
        let group = next_group(&here.store, &mut differing, |_| true);
        let mut reconciliation =
            Reconciliation::new(&here.store, Purpose::Give, here.map().salt(), REPAIR_PAGE_BYTES, group);
        if let Err(error) = reconcile(here, peer, &mut reconciliation, |shard| done.push(shard)).await {
            if note_too_large(&error) {
                continue;
            }
            tracing::debug!(%error, node = %peer.node, "records were not handed over");
            break;
        }
    }
    done
}
