//! What a node's store does for its peers. Every request is checked against the limits before anything is touched.

use std::sync::Arc;

use polity_cluster::rpc::{Failure, Reply, Rpc};
use polity_shard::ShardId;
use tokio::sync::Notify;

use crate::account;
use crate::acks::Acks;
use crate::config::KvConfig;
use crate::coordinator::Coordinator;
use crate::pace::RECORDS_A_PIECE;
use crate::place::MAX_BUCKET_BYTES;
use crate::reconcile::{Offer, Offered, Pull, Pulled, Sketch, Sketched, bytes_of};
use crate::record::{Blob, MAX_STEPS, MAX_TRACES, TRACE_BYTES, Update};
use crate::roster::Roster;
use crate::settled;
use crate::store::{Looked, Store, WriteError};
use crate::tombstones;
use crate::wire::{
    ACCOUNT, AccountAnswer, AccountRequest, COLLECT, FETCH, Fetch, INTRODUCE, LEN, Len, MERGE, Merge, MergeAnswer,
    OFFER, PAGE_BYTES, PROGRESS, PULL, Page, READ, READY, REPAIR_BACK_BYTES, REPAIR_PAGE_BYTES, Read, ReadAnswer,
    ReadyRequest, Rosters, SCAN, SKETCH, Scan, ScanAnswer, WRITE, check_shards,
};

/// Registers everything that peers may ask for.
pub(crate) fn register(rpc: &Rpc, coordinator: &Arc<Coordinator>, wake: &Arc<Notify>, acks: &Acks) {
    let store = &coordinator.store;
    let limits = Limits::new(&coordinator.config);

    let (here, when) = (store.clone(), acks.clone());
    rpc.serve(MERGE, move |_, merge, reply| handle_merge(&here, &when, limits, &merge, reply));
    let here = store.clone();
    rpc.serve(READ, move |_, read, reply| handle_read(&here, limits, &read, reply));
    let here = coordinator.clone();
    rpc.serve_async(WRITE, move |_, write| {
        let here = here.clone();
        async move {
            limits.check_update(&write.key, &write.update).map_err(Failure::not_applied)?;
            Ok(here.coordinate(write).await)
        }
    });
    let (here, awake, when) = (store.clone(), wake.clone(), acks.clone());
    rpc.serve(ACCOUNT, move |_, request, reply| handle_account(&here, &when, &awake, &request, reply));
    // What takes long waits for its turn.
    let here = coordinator.clone();
    rpc.serve_async(FETCH, move |_, fetch| handle_fetch(here.clone(), fetch));
    let here = coordinator.clone();
    rpc.serve_async(OFFER, move |_, offer| handle_offer(here.clone(), limits, offer));
    let here = coordinator.clone();
    rpc.serve_async(SKETCH, move |_, asked| handle_sketch(here.clone(), asked));
    let here = coordinator.clone();
    rpc.serve_async(PULL, move |_, asked| handle_pull(here.clone(), asked));
    let (here, awake, when) = (store.clone(), wake.clone(), acks.clone());
    rpc.serve(READY, move |_, request, reply| handle_ready(&here, &when, &awake, &request, reply));
    let here = store.clone();
    rpc.serve(SCAN, move |_, scan, reply| handle_scan(&here, limits, &scan, reply));
    let here = store.clone();
    rpc.serve(LEN, move |_, len, reply| handle_len(&here, &len, reply));
    let here = coordinator.clone();
    rpc.serve_async(COLLECT, move |_, asked| {
        let here = here.clone();
        async move { tombstones::answer(&here, &asked).await.map_err(Failure::not_applied) }
    });
    let (here, when) = (store.clone(), acks.clone());
    rpc.serve(INTRODUCE, move |_, (), reply| {
        // A founder that forgot what it has told others would found again.
        let rosters = introduction(&here);
        when.when_durable(here.commit(here.shard_ids()), reply, rosters);
    });
    let (here, when) = (coordinator.clone(), acks.clone());
    rpc.serve(PROGRESS, move |_, (), reply| {
        let progress = settled::progress(&here);
        when.when_durable(here.store.commit(here.store.shard_ids()), reply, progress);
    });
}

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    key: usize,
    value: usize,
    record: usize,
}

impl Limits {
    pub(crate) fn new(config: &KvConfig) -> Self {
        // A record that another node made under the same limits, with its history, is never refused.
        Self {
            key: config.max_key_bytes + MAX_BUCKET_BYTES + 1,
            value: config.max_value_bytes,
            record: 2 * config.max_record_bytes() + MAX_TRACES * TRACE_BYTES,
        }
    }

    pub(crate) fn check(&self, key: &Blob) -> Result<(), String> {
        if key.0.is_empty() || key.0.len() > self.key {
            return Err(format!("a key has 1 to {} bytes", self.key));
        }
        Ok(())
    }

    fn check_update(&self, key: &Blob, update: &Update) -> Result<(), String> {
        self.check(key)?;
        if update.steps.len() > MAX_STEPS || update.bytes() > self.value {
            return Err(format!("an update has at most {MAX_STEPS} steps and {} bytes", self.value));
        }
        Ok(())
    }

    pub(crate) fn check_record(&self, key: &Blob, record: &Blob) -> Result<(), String> {
        self.check(key)?;
        if record.0.len() > self.record {
            return Err(format!("a record has at most {} bytes", self.record));
        }
        Ok(())
    }
}

fn shard_of(store: &Store, shard: u32, key: &Blob) -> Result<ShardId, String> {
    let ours = store.shard_of(&key.0);
    if ours.0 == shard { Ok(ours) } else { Err(format!("the key belongs to shard {ours}, not {shard}")) }
}

fn handle_merge(store: &Store, acks: &Acks, limits: Limits, merge: &Merge, reply: Reply<MergeAnswer>) {
    let checked =
        limits.check_record(&merge.key, &merge.record).and_then(|()| shard_of(store, merge.shard, &merge.key));
    let shard = match checked {
        Ok(shard) => shard,
        Err(reason) => return reply.fail(Failure::not_applied(reason)),
    };
    match store.merge_and_tell(shard, &merge.key.0, &merge.record.0, merge.named, merge.before) {
        Ok((vouch, had)) => {
            let answer = MergeAnswer { vouch, had };
            acks.when_durable(store.commit([shard]), reply, answer);
        }
        Err(error) => reply.fail(failure(error)),
    }
}

fn failure(error: WriteError) -> Failure {
    match error {
        WriteError::Engine(error) => Failure::unknown(error.to_string()),
        error => Failure::not_applied(error.to_string()),
    }
}

fn handle_read(store: &Store, limits: Limits, read: &Read, reply: Reply<ReadAnswer>) {
    let checked = limits.check(&read.key).and_then(|()| shard_of(store, read.shard, &read.key));
    let shard = match checked {
        Ok(shard) => shard,
        Err(reason) => return reply.fail(Failure::not_applied(reason)),
    };
    match store.read(shard, &read.key.0, read.named) {
        Ok((record, vouch)) => reply.send(&ReadAnswer { record: record.map(Blob::from), vouch }),
        Err(error) => reply.fail(Failure::not_applied(error.to_string())),
    }
}

fn handle_account(store: &Store, acks: &Acks, wake: &Notify, request: &AccountRequest, reply: Reply<AccountAnswer>) {
    let answer = match account::answer(store, request) {
        Ok(answer) => answer,
        Err(reason) => return reply.fail(Failure::not_applied(reason)),
    };
    // Whoever finds that this node has all it would give drops its own, and whoever has heard it relies on the fence.
    let told = request.shards.iter().map(|shard| ShardId(*shard)).filter(|shard| store.has_shard(*shard));
    acks.when_durable(store.commit(told), reply, answer);
    // A fence may have given this node something to cover.
    wake.notify_one();
}

async fn handle_fetch(here: Arc<Coordinator>, fetch: Fetch) -> Result<Page, Failure> {
    let shard = ShardId(fetch.shard);
    if !here.store.has_shard(shard) {
        return Err(Failure::not_applied(format!("there is no shard {shard}")));
    }
    let _turn = here.pace.turn().await;
    let after = fetch.after.as_ref().map(|key| &key.0[..]);
    let page = here.store.page(shard, after, REPAIR_PAGE_BYTES);
    let (records, more) = page.map_err(|error| Failure::not_applied(error.to_string()))?;
    here.throttle.pass(bytes_of(&records));
    Ok(Page { records, more })
}

fn handle_scan(store: &Store, limits: Limits, scan: &Scan, reply: Reply<ScanAnswer>) {
    let shard = ShardId(scan.shard);
    if !store.has_shard(shard) || scan.prefix.0.len() > limits.key {
        return reply.fail(Failure::not_applied(format!("there is no shard {shard}, or no such prefix")));
    }
    let after = scan.after.as_ref().map(|key| &key.0[..]);
    // A page goes on after a key of its own, and never before the prefix.
    let after = after.filter(|after| *after > &scan.prefix.0[..]);
    match store.page_of(shard, &scan.prefix.0, after, PAGE_BYTES, scan.named) {
        Ok((page, vouch)) => reply.send(&ScanAnswer { page, vouch }),
        Err(error) => reply.fail(Failure::not_applied(error.to_string())),
    }
}

fn handle_len(store: &Store, len: &Len, reply: Reply<Vec<Option<u64>>>) {
    if let Err(reason) = check_shards(&len.shards) {
        return reply.fail(Failure::not_applied(reason));
    }
    let shards = len.shards.iter().map(|shard| ShardId(*shard));
    let counts = shards.map(|shard| if store.has_shard(shard) { store.live_keys(shard, &len.bucket.0) } else { None });
    reply.send(&counts.collect());
}

/// Answers for as many of the shards as can be looked at without taking long, and for one at least.
async fn handle_sketch(here: Arc<Coordinator>, asked: Sketch) -> Result<Vec<Sketched>, Failure> {
    check_shards(&asked.shards).map_err(Failure::not_applied)?;
    let (store, mut looked, mut answer) = (&here.store, Looked::default(), Vec::new());
    for of in &asked.shards {
        let _turn = here.pace.turn().await;
        match store.sketch_next(asked.salt, of, &mut looked).map_err(Failure::not_applied)? {
            Some(sketched) => answer.push(sketched),
            None => break,
        }
    }
    here.throttle.pass(asked.bytes() + answer.iter().map(Sketched::bytes).sum::<u64>());
    // Whoever hands a shard over takes what is here for kept, and drops its own.
    let told = asked.shards.iter().map(|of| ShardId(of.shard)).filter(|shard| store.has_shard(*shard));
    durable(store, told).await?;
    Ok(answer)
}

async fn handle_pull(here: Arc<Coordinator>, asked: Pull) -> Result<Pulled, Failure> {
    check_shards(&asked.shards).map_err(Failure::not_applied)?;
    let _turn = here.pace.turn().await;
    let answer = here.store.pull(&asked, REPAIR_PAGE_BYTES).map_err(Failure::not_applied)?;
    here.throttle.pass(asked.bytes() + answer.bytes());
    Ok(answer)
}

async fn handle_offer(here: Arc<Coordinator>, limits: Limits, offer: Offer) -> Result<Offered, Failure> {
    let checked = offer.records.iter().try_for_each(|(key, record)| limits.check_record(key, record));
    checked.map_err(Failure::not_applied)?;
    let mut answer = Offered { back: Vec::new(), all: true };
    for records in offer.records.chunks(RECORDS_A_PIECE) {
        let _turn = here.pace.turn().await;
        let room = REPAIR_BACK_BYTES.saturating_sub(bytes_of(&answer.back) as usize);
        let taken = here.store.take_offer(records, offer.back, room);
        let Offered { back, all } = taken.map_err(|error| Failure::unknown(format!("{error:?}")))?;
        answer.back.extend(back);
        answer.all &= all;
    }
    here.throttle.pass(bytes_of(&offer.records) + bytes_of(&answer.back));
    durable(&here.store, offer.records.iter().map(|(key, _)| here.store.shard_of(&key.0))).await?;
    Ok(answer)
}

/// Waits until all that these shards hold survives a power cut.
async fn durable(store: &Store, shards: impl IntoIterator<Item = ShardId>) -> Result<(), Failure> {
    store.all_durable(shards).await.map_err(|error| Failure::unknown(error.to_string()))
}

fn handle_ready(store: &Store, acks: &Acks, wake: &Notify, request: &ReadyRequest, reply: Reply<Vec<bool>>) {
    if let Err(reason) = check_shards(&request.shards) {
        return reply.fail(Failure::not_applied(reason));
    }
    let own = store.own().clone();
    let ready = request.shards.iter().enumerate().map(|(at, shard)| {
        let shard = ShardId(*shard);
        let mut rosters = request.rosters.list(at).into_iter();
        let Some(theirs) = rosters.next().filter(|_| store.has_shard(shard)) else { return false };
        let ready = store.with_standing(shard, |standing| {
            // What the asker still owes becomes ours to cover, unless we have covered it.
            rosters.for_each(|roster| _ = standing.learn(roster));
            standing.is_ready() && *standing.current() == theirs && theirs.contains(&own)
        });
        ready.unwrap_or(false)
    });
    let ready: Vec<bool> = ready.collect();
    // The asker forgets what it has told this node, and that this node has covered.
    let told = request.shards.iter().map(|shard| ShardId(*shard)).filter(|shard| store.has_shard(*shard));
    acks.when_durable(store.commit(told), reply, ready);
    wake.notify_one();
}

/// The rosters of each shard that this node knows.
fn introduction(store: &Store) -> Rosters {
    let lists: Vec<Vec<Roster>> = store.shard_ids().map(|shard| store.rosters(shard).unwrap_or_default()).collect();
    Rosters::new(&lists)
}
