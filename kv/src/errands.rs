//! What upkeep sends a node out for: one conversation with a replica each. Each may fail at any point and be done again.

mod hand_over;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::{Peer, RpcError, RpcErrorKind};
use polity_shard::ShardId;
use tokio::time::Instant;

pub(crate) use self::hand_over::hand_over;
use crate::account::{self, Account};
use crate::coordinator::Coordinator;
use crate::hints::{Marks, Missed};
use crate::pace::RECORDS_A_PIECE;
use crate::reconcile::{self, Offer, Purpose, Reconciliation, Sketched, bytes_of};
use crate::record::Blob;
use crate::roster::Roster;
use crate::standing::Standing;
use crate::wire::{
    ACCOUNT, FETCH, INTRODUCE, MAX_SHARDS_A_MESSAGE, OFFER, PULL, Page, READY, REPAIR_PAGE_BYTES, ReadyRequest,
    Rosters, SKETCH,
};

/// Shards, and the current roster of each when the errand began.
pub(crate) type Shards = Vec<(ShardId, Roster)>;

/// One shard to be covered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) shard: ShardId,
    /// The round of the standing: what is asked in it counts in it only.
    pub(crate) round: u64,
}

/// How long the first introduction waits for others, which may know rosters that it does not.
const INTRODUCTIONS: Duration = Duration::from_millis(500);

/// How long one message of upkeep may take. Longer than an operation: nobody waits for it, and a page is large.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Learns the rosters of shards from the members that know them: from all that answer soon, because one that was cut
/// off may know old ones only. Of a shard that none knows, if none has a smaller name than this node and none is down that
/// might know it, it is the founder: whoever has just started and has heard of no other has nothing to catch up with.
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
            Ok(rosters) if rosters.is_empty() => {}
            Ok(rosters) => {
                introductions.push(rosters);
                deadline = deadline.min(Instant::now() + INTRODUCTIONS);
            }
            Err(error) => {
                tracing::debug!(%error, "a member did not introduce this node");
                all_new = false;
            }
        }
    }
    let known = map.up_members().any(|member| member.id == here.node);
    let could_ask_all = asked.is_empty() && map.down_members().next().is_none();
    let may_found = all_new && could_ask_all && smallest && known;
    let mut founded = 0;
    for (at, shard) in here.store.shard_ids().enumerate() {
        let rosters: Vec<Roster> = introductions.iter().flat_map(|rosters| rosters.list(at)).collect();
        if here.store.is_introduced(shard) || (rosters.is_empty() && !may_found) {
            continue;
        }
        founded += usize::from(rosters.is_empty());
        here.store.introduce(shard, rosters);
    }
    if founded > 0 {
        tracing::info!(shards = founded, "no member knows of any of these shards: this node founds them");
    }
}

/// Hears from one boot: asks for its account of these shards, fetches what differs, and learns its rosters; to equalise, gives
/// it what it lacks, too.
///
/// Returns whether it has answered all that it was asked.
pub(crate) async fn cover(here: &Coordinator, peer: &Peer, shards: Vec<Ask>, purpose: Purpose) -> bool {
    let mut answered = true;
    let mut left: Vec<&[Ask]> = shards.chunks(MAX_SHARDS_A_MESSAGE).rev().collect();
    while let Some(some) = left.pop() {
        match cover_some(here, peer, some, purpose).await {
            Ok(all) => answered &= all,
            // The rosters of so many have no room in a frame.
            Err(error) if is_too_large(&error) && some.len() > 1 => {
                let (first, second) = some.split_at(some.len() / 2);
                left.extend([second, first]);
            }
            // Whoever could not be asked is asked again.
            Err(error) => {
                tracing::debug!(%error, "a replica gave no account");
                answered = false;
            }
        }
    }
    answered
}

/// Gives a replica that answers again what it has missed of this node's writes: the records as they are now, and where those
/// were too many to remember, all that it lacks of the shard.
pub(crate) async fn mend(here: &Coordinator, peer: &Peer) {
    let (store, node) = (&here.store, &peer.node);
    let is_replica = |shard| store.rosters(shard).is_some_and(|of| of.iter().any(|roster| roster.contains(node)));
    let (mut keys, mut wholes) = (Vec::new(), Vec::new());
    for (shard, missed) in here.mending.take(node).into_iter().filter(|(shard, _)| is_replica(*shard)) {
        match missed {
            Missed::Keys(some) => keys.extend(some),
            Missed::Whole => wholes.push(shard),
        }
    }
    let mut given = 0;
    while given < keys.len() {
        match offer(here, peer, &keys[given..]).await {
            Ok(some) => {
                here.mending.delivered(some);
                given += some;
            }
            Err(error) => {
                tracing::debug!(%error, %node, "did not take what it had missed");
                break;
            }
        }
    }
    let ask = |shard: &ShardId| {
        let ask = |s: &mut Standing| s.current().contains(&here.node).then(|| Ask { shard: *shard, round: s.round() });
        store.with_standing(*shard, ask).flatten()
    };
    let asks = wholes.iter().filter_map(ask).collect();
    let is_over = given == keys.len() && cover(here, peer, asks, Purpose::Equalise).await;
    if !is_over {
        let mut left: Marks = wholes.into_iter().map(|shard| (shard, Missed::Whole)).collect();
        for key in keys.split_off(given) {
            let missed = left.entry(store.shard_of(&key.0)).or_insert_with(|| Missed::Keys(BTreeSet::new()));
            if let Missed::Keys(some) = missed {
                some.insert(key);
            }
        }
        here.mending.put_back(node, left);
        let_them_fetch(here).await;
    }
}

/// Offers a page of the records of some keys. Returns how many of the keys that were.
async fn offer(here: &Coordinator, peer: &Peer, keys: &[Blob]) -> Result<usize, String> {
    here.until_affordable().await;
    let (records, keys) = here.store.records_at(keys, REPAIR_PAGE_BYTES).map_err(|error| error.to_string())?;
    if !records.is_empty() {
        here.throttle.spend(bytes_of(&records));
        let offer = Offer { records, back: false };
        match here.rpc.call(peer, &OFFER, &offer, PATIENCE).await {
            // It never will be.
            Err(error) if !note_too_large(&error) => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(keys)
}

/// Returns whether it has answered for all of them.
async fn cover_some(here: &Coordinator, peer: &Peer, shards: &[Ask], purpose: Purpose) -> Result<bool, RpcError> {
    let store = &here.store;
    let turn = here.pace.turn().await;
    let rosters: Vec<_> = shards.iter().map(|ask| store.rosters(ask.shard).unwrap_or_default()).collect();
    let ids: Vec<ShardId> = shards.iter().map(|ask| ask.shard).collect();
    let (request, ours) = account::ask(store, &ids, &rosters);
    drop(turn);
    let answer = here.rpc.call(peer, &ACCOUNT, &request, PATIENCE).await?;
    let turn = here.pace.turn().await;
    here.mending.answered(&peer.node);
    store.note_lineage(&peer.node, answer.lineage.clone());
    let account = Account::new(answer);
    let (mut differing, mut fetched, mut all) = (Vec::new(), Vec::new(), true);
    for (at, ask) in shards.iter().enumerate() {
        if account.is_refused(at) {
            all = false;
            continue;
        }
        if !account.is_known(at) {
            store.with_standing(ask.shard, |standing| standing.find_mute(&peer.node, ask.round));
            continue;
        }
        let rosters = account.rosters.list(at);
        let learn = |standing: &mut Standing| rosters.into_iter().all(|roster| standing.learn(roster));
        if store.with_standing(ask.shard, learn) == Some(false) {
            all = false;
            continue;
        }
        // Who is new to the shard here, too, waits for nobody.
        let is_old = |standing: &mut Standing| standing.owed().all(|roster| roster.contains(&here.node));
        match account.differs(at, &ours[at]) {
            None => hear(here, peer, ask),
            // What it fetches itself, from this node too, would be moved twice.
            Some(theirs)
                if account.is_newcomer(at, &peer.node) && store.with_standing(ask.shard, is_old) == Some(true) =>
            {
                fetched.push((ask.shard, theirs));
            }
            Some(theirs) => differing.push((ask.shard, theirs)),
        }
    }
    drop(turn);
    let lacking: BTreeSet<ShardId> = fetched.iter().map(|(shard, _)| *shard).collect();
    let gets_on = here.newcomers.get_on(&peer.node, ids.iter().map(|shard| (*shard, lacking.contains(shard))));
    let waits = gets_on && !fetched.is_empty() && !mutated(Mutation::FetchesNothing);
    if waits {
        all = false;
    } else {
        differing.append(&mut fetched);
    }
    let asks: BTreeMap<ShardId, &Ask> = shards.iter().map(|ask| (ask.shard, ask)).collect();
    if mutated(Mutation::FetchesNothing) {
        differing.iter().for_each(|(shard, _)| hear(here, peer, asks[shard]));
        return Ok(all);
    }
    while !differing.is_empty() {
        let mut group = Vec::new();
        let choose = |held: &BTreeSet<ShardId>| {
            group = reconcile::next_group(store, &mut differing, |shard| !held.contains(&shard));
            group.iter().map(|(shard, _)| *shard).collect()
        };
        // Whoever holds the rest may need long. What is owed by then is asked for again, under what is so then.
        let Ok(_held) = tokio::time::timeout(PATIENCE, here.underway.hold(choose)).await else { return Ok(false) };
        let mut reconciliation = Reconciliation::new(store, purpose, here.map().salt(), REPAIR_PAGE_BYTES, group);
        match reconcile(here, peer, &mut reconciliation, |shard| hear(here, peer, asks[&shard])).await {
            Ok(()) => {}
            Err(error) if note_too_large(&error) => all = false,
            Err(error) => return Err(error),
        }
    }
    if waits {
        let_them_fetch(here).await;
    }
    Ok(all)
}

/// Says so, if a message did not fit into a frame: several wrote to one key at the same time, each as much as a key may hold. That
/// keeps its shards from becoming equal, and must not keep others from it.
fn note_too_large(error: &RpcError) -> bool {
    let is_so = is_too_large(error);
    if is_so {
        tracing::error!(%error, "the values of a key are too large together to be sent: write it anew with the context of a read");
    }
    is_so
}

fn is_too_large(error: &RpcError) -> bool {
    matches!(error.kind(), RpcErrorKind::RequestTooLarge { .. } | RpcErrorKind::AnswerTooLarge)
}

/// All that a boot had was merged here. Settled at once where that was the last: a fence that arrives in between would make
/// it worthless.
fn hear(here: &Coordinator, peer: &Peer, ask: &Ask) {
    let sight = here.sight();
    here.store.with_standing(ask.shard, |standing| {
        standing.hear(&peer.node, ask.round);
        standing.settle(&here.node, &sight)
    });
}

/// Carries a reconciliation out, and says of each shard when it is done: then all of it is durable here.
async fn reconcile(
    here: &Coordinator,
    peer: &Peer,
    reconciliation: &mut Reconciliation,
    mut done: impl FnMut(ShardId),
) -> Result<(), RpcError> {
    let (store, rpc) = (&here.store, &here.rpc);
    let shards: Vec<ShardId> = reconciliation.shards().collect();
    loop {
        here.until_affordable().await;
        let next = loop {
            let _turn = here.pace.turn().await;
            match reconciliation.work(store) {
                Ok(true) => {}
                Ok(false) => break reconciliation.next(store),
                Err(error) => break Err(error),
            }
        };
        let ask = match next {
            Ok(ask) => ask,
            Err(error) => {
                tracing::error!(%error, "records could not be read");
                return Ok(());
            }
        };
        let finished = reconciliation.take_done();
        // What this node is said to have caught up with must stay, and the next page waits for the disk.
        if let Err(error) = store.all_durable(shards.iter().copied()).await {
            tracing::error!(%error, "fetched records are not durable");
            return Ok(());
        }
        finished.into_iter().for_each(&mut done);
        match ask {
            None => return Ok(()),
            Some(reconcile::Ask::Sketch(ask)) => {
                here.throttle.spend(ask.bytes());
                let answer = rpc.call(peer, &SKETCH, &ask, PATIENCE).await?;
                here.throttle.spend(answer.iter().map(Sketched::bytes).sum());
                reconciliation.handle_sketched(answer);
            }
            Some(reconcile::Ask::Pull(ask)) => {
                here.throttle.spend(ask.bytes());
                let answer = rpc.call(peer, &PULL, &ask, PATIENCE).await?;
                here.throttle.spend(answer.bytes());
                let _turn = here.pace.turn().await;
                reconciliation.handle_pulled(store, answer);
            }
            Some(reconcile::Ask::Fetch(ask)) => {
                let page = rpc.call(peer, &FETCH, &ask, PATIENCE).await?;
                here.throttle.spend(bytes_of(&page.records));
                // What it takes in pieces are pages, too.
                let mut pieces = page.records.chunks(RECORDS_A_PIECE).peekable();
                loop {
                    let records = pieces.next().unwrap_or_default().to_vec();
                    let more = page.more || pieces.peek().is_some();
                    let _turn = here.pace.turn().await;
                    reconciliation.handle_page(store, &Page { records, more });
                    if pieces.peek().is_none() {
                        break;
                    }
                }
            }
            Some(reconcile::Ask::Offer(ask)) => {
                here.throttle.spend(bytes_of(&ask.records));
                let answer = rpc.call(peer, &OFFER, &ask, PATIENCE).await?;
                here.throttle.spend(bytes_of(&answer.back));
                let _turn = here.pace.turn().await;
                reconciliation.handle_offered(store, &answer);
            }
        }
    }
}

/// Asks the replicas of shards that are not ours whether they are ready and know what we owe; then we need not. Where some
/// are not, it is not over at once.
pub(crate) async fn relieve(here: &Coordinator, shards: &[ShardId]) {
    if !ask_for_relief(here, shards).await {
        let_them_fetch(here).await;
    }
}

/// A pause before those are asked again that have yet to catch up: to be asked again and again would hold them up.
async fn let_them_fetch(here: &Coordinator) {
    tokio::time::sleep(here.config.upkeep_interval * 4).await;
}

/// Returns whether all that was asked for is so.
async fn ask_for_relief(here: &Coordinator, shards: &[ShardId]) -> bool {
    let (store, map) = (&here.store, here.map());
    let turn = here.pace.turn().await;
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
    drop(turn);
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
    asked.is_empty()
}
