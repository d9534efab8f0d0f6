//! What upkeep sends a node out for: one conversation with a replica each. Each may fail at any point and be done again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::{Peer, RpcError};
use polity_shard::ShardId;
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::digest::{Buckets, Digest};
use crate::record::Blob;
use crate::roster::Roster;
use crate::standing::Fates as _;
use crate::wire::{
    ACCOUNT, AccountRequest, FETCH, Fetch, INTRODUCE, MAX_SHARDS_A_MESSAGE, OFFER, Offer, PAGE_BYTES, READY,
    ReadyRequest, Rosters,
};

/// Shards, and the current roster of each when the errand began.
pub(crate) type Shards = Vec<(ShardId, Roster)>;

/// One shard to be covered.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) shard: ShardId,
    /// The current roster.
    pub(crate) under: Roster,
    /// The round of the standing: what is asked in it counts in it only.
    pub(crate) round: u64,
}

/// How long the first introduction waits for others, which may know rosters that it does not.
const INTRODUCTIONS: Duration = Duration::from_millis(500);

/// How long one message of upkeep may take. Longer than an operation: nobody waits for it, and a page is large.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Learns the rosters of all shards from the members that know them: from all that answer soon, because one that was cut
/// off may know old ones only. If none knows any, none has a smaller name than this node, and none is down that might know
/// them, it founds them: whoever has just started and has heard of no other has nothing to catch up with.
pub(crate) async fn introduce(here: &Coordinator) {
    let map = here.map();
    let mut asked = FuturesUnordered::new();
    let mut smallest = true;
    for member in map.up_members().filter(|member| member.id != here.node) {
        smallest &= here.node.name < member.id.name;
        let peer = Peer { node: member.id.clone(), addr: member.addr };
        asked.push(here.rpc.call(&peer, &INTRODUCE, &(), PATIENCE));
    }
    let (mut all_new, mut introductions) = (true, Vec::new());
    let mut deadline = Instant::now() + PATIENCE;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, asked.next()).await {
        match answer {
            Ok(Some(rosters)) => {
                introductions.push(rosters);
                deadline = deadline.min(Instant::now() + INTRODUCTIONS);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a member did not introduce this node");
                all_new = false;
            }
        }
    }
    let known = map.up_members().any(|member| member.id == here.node);
    let could_ask_all = asked.is_empty() && !map.anyone_is_down();
    let founds = introductions.is_empty() && all_new && could_ask_all && smallest && known;
    if founds {
        tracing::info!("no member knows of any shards: this node founds them");
    }
    if founds || !introductions.is_empty() {
        for (at, shard) in here.store.shard_ids().enumerate() {
            here.store.introduce(shard, introductions.iter().flat_map(|rosters| rosters.list(at)).collect());
        }
    }
}

/// Hears from one boot: asks for its account of these shards, fetches what differs, and learns its rosters. `turn` lets
/// several such errands begin with different shards, so that what one has fetched the other need not.
pub(crate) async fn cover(here: &Coordinator, peer: &Peer, mut shards: Vec<Ask>, turn: usize) {
    if !shards.is_empty() {
        let by = turn * 7919 % shards.len();
        shards.rotate_left(by);
    }
    for some in shards.chunks(MAX_SHARDS_A_MESSAGE) {
        if let Err(error) = cover_some(here, peer, some).await {
            // Whoever could not be asked is asked again.
            tracing::debug!(%error, "a replica gave no account");
        }
    }
}

async fn cover_some(here: &Coordinator, peer: &Peer, shards: &[Ask]) -> Result<(), RpcError> {
    let store = &here.store;
    let request = AccountRequest {
        shards: shards.iter().map(|ask| (ask.shard.0, store.digest(ask.shard).total())).collect(),
        rosters: Rosters::new(&shards.iter().map(|ask| vec![ask.under.clone()]).collect::<Vec<_>>()),
    };
    let answer = here.rpc.call(peer, &ACCOUNT, &request, PATIENCE).await?;
    for (at, Ask { shard, round, .. }) in shards.iter().enumerate() {
        let Some(account) = answer.accounts.get(at) else { break };
        let Some(account) = account else {
            store.with_standing(*shard, |standing| standing.find_mute(&peer.node, *round));
            continue;
        };
        let rosters = answer.rosters.list(at);
        store.with_standing(*shard, |standing| rosters.into_iter().for_each(|roster| standing.learn(roster)));
        if let Some(theirs) = account
            && !fetch(here, peer, *shard, store.digest(*shard).difference(theirs)).await?
        {
            continue;
        }
        // Settled at once where that was the last: a fence that arrives in between would make it worthless.
        let map = here.map();
        store.with_standing(*shard, |standing| {
            standing.hear(&peer.node, *round);
            standing.settle(&here.node, &*map)
        });
    }
    Ok(())
}

/// Fetches some buckets of a shard and merges them. Returns whether all of it could be merged.
async fn fetch(here: &Coordinator, peer: &Peer, shard: ShardId, buckets: Buckets) -> Result<bool, RpcError> {
    if buckets.is_empty() || mutated(Mutation::FetchesNothing) {
        return Ok(true);
    }
    let mut after: Option<Blob> = None;
    loop {
        let fetch = Fetch { shard: shard.0, buckets, after: after.take() };
        let page = here.rpc.call(peer, &FETCH, &fetch, PATIENCE).await?;
        for (key, record) in &page.records {
            if here.store.shard_of(&key.0) != shard {
                tracing::warn!(%shard, peer = %peer.node, "a fetched key belongs to another shard");
                return Ok(false);
            }
            if let Err(error) = here.store.merge(shard, &key.0, &record.0, Roster::new([]).id()) {
                tracing::error!(?error, %shard, peer = %peer.node, "a fetched record was not merged");
                return Ok(false);
            }
        }
        // What this node is said to have caught up with must stay, and the next page waits for the disk.
        if let Err(error) = here.store.durable(here.store.commit([shard])).await {
            tracing::error!(%error, %shard, "fetched records are not durable");
            return Ok(false);
        }
        match page.records.last() {
            Some((key, _)) if page.more => after = Some(key.clone()),
            _ => return Ok(true),
        }
    }
}

/// Asks the replicas of shards that are not ours whether they are ready and know what we owe; then we need not.
pub(crate) async fn relieve(here: &Coordinator, shards: &[ShardId]) {
    let (store, map) = (&here.store, here.map());
    let mut asked: BTreeMap<ShardId, (Roster, Vec<Roster>, usize)> = BTreeMap::new();
    let mut by_peer: BTreeMap<NodeId, (Peer, Vec<ShardId>)> = BTreeMap::new();
    for shard in shards.iter().take(MAX_SHARDS_A_MESSAGE) {
        let standing = store.with_standing(*shard, |s| (s.current().clone(), s.owed().cloned().collect::<Vec<_>>()));
        let Some((current, owed)) = standing else { continue };
        for node in current.nodes() {
            if let Some(peer) = map.peer(node) {
                by_peer.entry(node.clone()).or_insert_with(|| (peer, Vec::new())).1.push(*shard);
            }
        }
        asked.insert(*shard, (current, owed, 0));
    }
    let mut calls: FuturesUnordered<_> = by_peer
        .into_values()
        .map(|(peer, shards)| {
            let rosters = shards.iter().filter_map(|shard| asked.get(shard));
            let rosters: Vec<Vec<Roster>> =
                rosters.map(|(current, owed, _)| std::iter::once(current).chain(owed).cloned().collect()).collect();
            let request =
                ReadyRequest { shards: shards.iter().map(|shard| shard.0).collect(), rosters: Rosters::new(&rosters) };
            let call = here.rpc.call(&peer, &READY, &request, PATIENCE);
            async move { (shards, call.await) }
        })
        .collect();
    // One that does not answer must not hold up what the others have answered.
    while !asked.is_empty()
        && let Some((shards, answer)) = calls.next().await
    {
        for (shard, ready) in shards.iter().zip(answer.unwrap_or_default()) {
            if let Some((current, owed, count)) = asked.get_mut(shard)
                && ready
            {
                *count += 1;
                if *count >= current.quorum() {
                    store.with_standing(*shard, |standing| standing.relieve(current, owed));
                    asked.remove(shard);
                }
            }
        }
    }
}

/// Gives the records of shards that are not ours to those whose they are, and drops them once all have them.
pub(crate) async fn hand_over(here: &Coordinator, shards: Shards) {
    let map = here.map();
    for (shard, current) in shards {
        let given = here.store.digest(shard);
        let up: Vec<Peer> =
            current.nodes().iter().filter(|node| map.is_up(node)).filter_map(|node| map.peer(node)).collect();
        let mut taken = 0;
        for peer in &up {
            match give(here, peer, shard, &current, &given).await {
                Ok(true) => taken += 1,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, %shard, "records were not handed over"),
            }
        }
        if taken == up.len() && taken >= current.quorum() {
            if let Err(error) = here.store.release(shard, &given) {
                tracing::error!(%error, %shard, "records that were handed over were not dropped");
            }
        } else {
            // The others would not do better now.
            return;
        }
    }
}

/// Gives one replica what it lacks of a shard. Returns whether it has all of it.
async fn give(
    here: &Coordinator,
    peer: &Peer,
    shard: ShardId,
    under: &Roster,
    given: &Digest,
) -> Result<bool, RpcError> {
    let request =
        AccountRequest { shards: vec![(shard.0, given.total())], rosters: Rosters::new(&[vec![under.clone()]]) };
    let answer = here.rpc.call(peer, &ACCOUNT, &request, PATIENCE).await?;
    let theirs = match answer.accounts.into_iter().next() {
        Some(Some(Some(theirs))) => theirs,
        Some(Some(None)) => return Ok(true),
        _ => return Ok(false),
    };
    let buckets = given.difference(&theirs);
    let mut after: Option<Blob> = None;
    loop {
        let page = here.store.page(shard, buckets, after.as_ref().map(|key| &key.0[..]), PAGE_BYTES);
        let Ok((records, more)) = page else { return Ok(false) };
        let last = records.last().map(|(key, _)| key.clone());
        if !records.is_empty() {
            here.rpc.call(peer, &OFFER, &Offer { shard: shard.0, records }, PATIENCE).await?;
        }
        if !more || last.is_none() {
            return Ok(true);
        }
        after = last;
    }
}
