//! When a cluster's shards are where they belong, and survive the next failure.

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::rpc::Peer;

use crate::coordinator::Coordinator;
use crate::errands::PATIENCE;
use crate::wire::{PROGRESS, Progress};

/// How much this node has to do before its shards are settled.
pub(crate) fn progress(here: &Coordinator) -> Progress {
    let store = &here.store;
    let map = here.map();
    // One that drains and sees nobody to hand over to has everything left to do.
    let leaving = map.is_draining(&here.node);
    let pending = store.shard_ids().filter(|shard| {
        let settled = store.with_standing(*shard, |s| (s.is_ready(), s.current().contains(&here.node)));
        let to_give = |ours: bool| (!ours || leaving) && store.holds_records(*shard);
        !settled.is_some_and(|(ready, ours)| ready && !to_give(ours))
    });
    Progress { view: map.digest(), pending: pending.count() as u32 }
}

/// Waits until every member sees the same members and has nothing left to do.
pub(crate) async fn settled(here: &Coordinator) {
    loop {
        if is_settled(here).await {
            return;
        }
        tokio::time::sleep(here.config.upkeep_interval).await;
    }
}

async fn is_settled(here: &Coordinator) -> bool {
    let ours = progress(here);
    // What is said to be repaired must not be undone by a power cut.
    if ours.pending > 0 || here.store.all_durable(here.store.shard_ids()).await.is_err() {
        return false;
    }
    let map = here.map();
    let mut asked: FuturesUnordered<_> = map
        .up_members()
        .filter(|member| member.id != here.node)
        .map(|member| {
            let peer = Peer { node: member.id.clone(), addr: member.addr };
            here.rpc.call(&peer, &PROGRESS, &(), PATIENCE)
        })
        .collect();
    while let Some(theirs) = asked.next().await {
        if !theirs.is_ok_and(|theirs| theirs == ours) {
            return false;
        }
    }
    here.map().digest() == ours.view
}
