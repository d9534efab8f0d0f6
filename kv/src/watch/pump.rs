//! Tells watchers what has changed here: the task of a replica.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use polity_cluster::rpc::{Caller, Failure, Reply};
use tokio::time::Instant;

use super::interest::Interest;
use super::registry::{Batch, MAX_WATCHES_A_NODE, Told};
use super::{MAX_LEASE, Watched};
use crate::coordinator::Coordinator;
use crate::errands::PATIENCE;
use crate::record::Blob;
use crate::serve::Limits;
use crate::wire::{MAX_WATCHES_A_MESSAGE, NEWS, News, PAGE_BYTES, Watch};

/// How many batches are under way at a time: with a page each, 8 MiB.
const MAX_BATCHES_AT_ONCE: usize = 32;
/// How often leases that were not renewed are looked for, and how long a batch that failed waits.
const TICK: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(super) async fn run(here: Arc<Coordinator>) {
    let watched = here.store.watched();
    let mut sending = FuturesUnordered::new();
    let mut next_tick = Instant::now() + TICK;
    loop {
        while sending.len() < MAX_BATCHES_AT_ONCE
            && let Some(batch) = watched.registry().take()
        {
            sending.push(tell(&here, batch));
        }
        let idle = watched.is_idle();
        tokio::select! {
            biased;
            Some((batch, told, rest)) = sending.next(), if !sending.is_empty() => {
                watched.registry().told(&batch, told, rest, watched.now() + TICK);
            }
            () = tokio::time::sleep_until(next_tick), if !idle => {
                next_tick = Instant::now() + TICK;
                watched.expire();
            }
            () = watched.wake.notified() => {}
        }
    }
}

/// Sends one batch, as far as a page goes.
async fn tell(here: &Coordinator, batch: Batch) -> (super::registry::Watch, Told, Vec<Blob>) {
    let Batch { watch, mut places, missed } = batch;
    let map = here.map();
    let Some(peer) = map.peer(&watch.0) else { return (watch, Told::Failed, Vec::new()) };
    let (records, rest) = match here.store.records_at(&places, PAGE_BYTES) {
        Ok((records, taken)) => (records, places.split_off(taken)),
        Err(error) => {
            tracing::error!(%error, "what watchers wait for cannot be read");
            return (watch, Told::Failed, Vec::new());
        }
    };
    if records.is_empty() && !missed {
        return (watch, Told::Arrived, rest);
    }
    let told = match here.rpc.call(&peer, &NEWS, &News { watch: watch.1, records, missed }, PATIENCE).await {
        Ok(true) => Told::Arrived,
        Ok(false) => Told::Over,
        Err(error) => {
            tracing::debug!(%error, "a watcher was not told");
            Told::Failed
        }
    };
    (watch, told, rest)
}

/// A node registers watches, renews them, and says which are over.
pub(super) fn handle(
    watched: &Watched,
    limits: Limits,
    caller: &Caller,
    asked: Watch,
    reply: Reply<Vec<Option<bool>>>,
) {
    let Watch { watches, over, lease_ms } = asked;
    if watches.len() > MAX_WATCHES_A_MESSAGE || over.len() > MAX_WATCHES_A_NODE {
        let reason =
            format!("at most {MAX_WATCHES_A_MESSAGE} watches a message, and {MAX_WATCHES_A_NODE} that are over");
        return reply.fail(Failure::not_applied(reason));
    }
    if let Err(reason) = watches.iter().try_for_each(|(_, place, _)| limits.check(place)) {
        return reply.fail(Failure::not_applied(reason));
    }
    let lease = Duration::from_millis(lease_ms.into()).min(MAX_LEASE);
    let until = watched.now() + lease;
    let mut registry = watched.registry();
    for id in over {
        registry.end(&(caller.node.clone(), id));
    }
    let known = watches
        .into_iter()
        .map(|(id, place, exact)| registry.register((caller.node.clone(), id), Interest { place, exact }, until));
    let known = known.collect();
    watched.set_count(registry.len());
    drop(registry);
    watched.wake.notify_one();
    reply.send(&known);
}
