//! Collects tombstones: the traces of deletes, which keep what was deleted from coming back, until nobody can bring it back.
//!
//! A tombstone is dropped by all when all members have said that they have it, just as it is, for as long as
//! [`KvConfig::tombstone_grace`](crate::KvConfig::tombstone_grace), or nothing under its key. Whoever is the first of a shard's
//! replicas asks (once for each half of that time):
//!
//! | step | what can be wrong | then |
//! |---|---|---|
//! | nobody is down | one that is may hold what was deleted, and return | nothing is collected; [`KvStats`](crate::KvStats) names it |
//! | all members are asked, replicas or not | one has another record, or does not answer | the tombstone stays |
//! | the members are as they were | one has come that was not asked | the tombstone stays |
//! | all are told to drop it | one has another record by now, or is not reached | it keeps what it has; others take that from it |
//!
//! What has expired is still there until then, with its time. Being told to drop it, each removes it, and the tombstone that is left is dropped a
//! round later.
//!
//! Nothing is on its way any more that is older than the tombstone: it has lain for longer than any operation takes. And should
//! some replicas have dropped it and others not, then what is written anew is not taken for what was deleted, because a tombstone is
//! nothing but the names of writes, and no number of a write is used twice ([`Writing::above`](crate::record::Writing)).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use polity_cluster::NodeName;
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::Peer;
use polity_shard::ShardId;

use crate::coordinator::Coordinator;
use crate::engine::EngineError;
use crate::errands::PATIENCE;
use crate::map::Map;
use crate::pace::RECORDS_A_PIECE;
use crate::wire::{COLLECT, Collect, MAX_TOMBSTONES, Tombstone};

/// What a member says: for each tombstone whether it has nothing else, or whether it was dropped.
pub(crate) async fn answer(here: &Coordinator, asked: &Collect) -> Result<Vec<bool>, String> {
    if asked.tombstones.len() > MAX_TOMBSTONES {
        return Err(format!("at most {MAX_TOMBSTONES} tombstones a message"));
    }
    let store = &here.store;
    // What is said is for good: the others drop theirs. So what it is said of must be so after a power cut, too.
    if !asked.drop {
        let shards: BTreeSet<ShardId> =
            asked.tombstones.iter().map(|tombstone| store.shard_of(&tombstone.key.0)).collect();
        store.all_durable(shards).await.map_err(|error| error.to_string())?;
    }
    let each = |tombstone| match asked.drop {
        true => store.bury(tombstone, here.wall()),
        false => store.has_nothing_but(tombstone, here.wall()),
    };
    let mut answer = Vec::with_capacity(asked.tombstones.len());
    for some in asked.tombstones.chunks(RECORDS_A_PIECE) {
        let _turn = here.pace.turn().await;
        for tombstone in some {
            answer.push(each(tombstone).map_err(|error| error.to_string())?);
        }
    }
    Ok(answer)
}

/// Who keeps tombstones from being collected: a member that is down and may come back.
pub(crate) fn blocked_by(map: &Map) -> Option<&NodeName> {
    map.down_members().next().filter(|_| !mutated(Mutation::CollectsUnasked))
}

/// Collects the ripe tombstones of some shards.
pub(crate) async fn collect(here: &Coordinator, shards: Vec<ShardId>) {
    for shard in shards {
        if let Err(reason) = collect_of(here, shard).await {
            // Tried again when the store has grown older.
            tracing::debug!(%shard, reason, "tombstones were not collected");
        }
    }
}

async fn collect_of(here: &Coordinator, shard: ShardId) -> Result<(), String> {
    let failed = |error: EngineError| error.to_string();
    let mut from = None;
    loop {
        let (mut ripe, next) = here.store.ripe(shard, from.as_ref()).map_err(failed)?;
        if !ripe.is_empty() {
            let map = here.map();
            if !mutated(Mutation::CollectsUnasked) {
                ripe = agreed(here, &map, ripe).await?;
            }
            if blocked_by(&here.map()).is_some() || here.map().digest() != map.digest() {
                return Err("the members have changed".to_owned());
            }
            let asked = Collect { tombstones: ripe, drop: true };
            ask_all(here, &map, &asked).await?;
            answer(here, &asked).await?;
        }
        match next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

/// Those of which all members have nothing else.
async fn agreed(here: &Coordinator, map: &Map, tombstones: Vec<Tombstone>) -> Result<Vec<Tombstone>, String> {
    let asked = Collect { tombstones, drop: false };
    let mut answers = ask_all(here, map, &asked).await?;
    answers.push(answer(here, &asked).await?);
    if let Some(answer) = answers.iter().find(|answer| answer.len() != asked.tombstones.len()) {
        return Err(format!("{} answers for {} tombstones", answer.len(), asked.tombstones.len()));
    }
    let tombstones = asked.tombstones.into_iter().enumerate();
    Ok(tombstones.filter(|(at, _)| answers.iter().all(|answer| answer[*at])).map(|(_, tombstone)| tombstone).collect())
}

async fn ask_all(here: &Coordinator, map: &Map, asked: &Collect) -> Result<Vec<Vec<bool>>, String> {
    let others = map.up_members().filter(|member| member.id != here.node);
    let calls = others.map(|member| {
        let peer = Peer { node: member.id.clone(), addr: member.addr };
        here.rpc.call(&peer, &COLLECT, asked, PATIENCE)
    });
    let answers = join_all(calls).await;
    answers.into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())
}
