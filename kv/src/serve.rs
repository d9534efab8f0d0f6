//! What a node's store does for its peers. Every request is checked against the limits before anything is touched.

use std::sync::Arc;

use polity_cluster::rpc::{Failure, Reply, Rpc};
use polity_shard::ShardId;
use tokio::sync::Notify;

use crate::account;
use crate::acks::Acks;
use crate::config::KvConfig;
use crate::coordinator::Coordinator;
use crate::place::MAX_BUCKET_BYTES;
use crate::reconcile::{Offer, Offered, Pull, Pulled, Sketch, Sketched, bytes_of};
use crate::record::{Blob, MAX_STEPS, Update};
use crate::roster::Roster;
use crate::settled;
use crate::store::{Store, WriteError};
use crate::throttle::Throttle;
use crate::wire::{
    ACCOUNT, AccountAnswer, AccountRequest, FETCH, Fetch, INTRODUCE, LEN, Len, MERGE, Merge, MergeAnswer, OFFER,
    PAGE_BYTES, PROGRESS, PULL, Page, READ, READY, Read, ReadAnswer, ReadyRequest, Rosters, SCAN, SKETCH, Scan,
    ScanAnswer, WRITE, check_shards,
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
    let (here, throttle) = (store.clone(), coordinator.throttle.clone());
    rpc.serve(FETCH, move |_, fetch, reply| handle_fetch(&here, &throttle, &fetch, reply));
    let (here, when, throttle) = (store.clone(), acks.clone(), coordinator.throttle.clone());
    rpc.serve(OFFER, move |_, offer, reply| handle_offer(&here, &when, (limits, &throttle), &offer, reply));
    let (here, when, throttle) = (store.clone(), acks.clone(), coordinator.throttle.clone());
    rpc.serve(SKETCH, move |_, asked, reply| handle_sketch(&here, &when, &throttle, &asked, reply));
    let (here, throttle) = (store.clone(), coordinator.throttle.clone());
    rpc.serve(PULL, move |_, asked, reply| handle_pull(&here, &throttle, &asked, reply));
    let (here, awake, when) = (store.clone(), wake.clone(), acks.clone());
    rpc.serve(READY, move |_, request, reply| handle_ready(&here, &when, &awake, &request, reply));
    let here = store.clone();
    rpc.serve(SCAN, move |_, scan, reply| handle_scan(&here, limits, &scan, reply));
    let here = store.clone();
    rpc.serve(LEN, move |_, len, reply| handle_len(&here, &len, reply));
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
            record: 2 * config.max_record_bytes(),
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

fn handle_fetch(store: &Store, throttle: &Throttle, fetch: &Fetch, reply: Reply<Page>) {
    let shard = ShardId(fetch.shard);
    if !store.has_shard(shard) {
        return reply.fail(Failure::not_applied(format!("there is no shard {shard}")));
    }
    let after = fetch.after.as_ref().map(|key| &key.0[..]);
    match store.page(shard, after, PAGE_BYTES) {
        Ok((records, more)) => {
            throttle.pass(bytes_of(&records));
            reply.send(&Page { records, more });
        }
        Err(error) => reply.fail(Failure::not_applied(error.to_string())),
    }
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

fn handle_sketch(store: &Store, acks: &Acks, throttle: &Throttle, asked: &Sketch, reply: Reply<Vec<Sketched>>) {
    if let Err(reason) = check_shards(&asked.shards) {
        return reply.fail(Failure::not_applied(reason));
    }
    match store.sketch(asked) {
        // Whoever hands a shard over takes what is here for kept, and drops its own.
        Ok(answer) => {
            throttle.pass(asked.bytes() + answer.iter().map(Sketched::bytes).sum::<u64>());
            let told = asked.shards.iter().map(|of| ShardId(of.shard)).filter(|shard| store.has_shard(*shard));
            acks.when_durable(store.commit(told), reply, answer);
        }
        Err(reason) => reply.fail(Failure::not_applied(reason)),
    }
}

fn handle_pull(store: &Store, throttle: &Throttle, asked: &Pull, reply: Reply<Pulled>) {
    if let Err(reason) = check_shards(&asked.shards) {
        return reply.fail(Failure::not_applied(reason));
    }
    match store.pull(asked, PAGE_BYTES) {
        Ok(answer) => {
            throttle.pass(asked.bytes() + answer.bytes());
            reply.send(&answer);
        }
        Err(reason) => reply.fail(Failure::not_applied(reason)),
    }
}

fn handle_offer(
    store: &Store,
    acks: &Acks,
    (limits, throttle): (Limits, &Throttle),
    offer: &Offer,
    reply: Reply<Offered>,
) {
    let checked = offer.records.iter().try_for_each(|(key, record)| limits.check_record(key, record));
    if let Err(reason) = checked {
        return reply.fail(Failure::not_applied(reason));
    }
    match store.take_offer(offer, PAGE_BYTES) {
        Ok(offered) => {
            throttle.pass(bytes_of(&offer.records) + bytes_of(&offered.back));
            let shards = offer.records.iter().map(|(key, _)| store.shard_of(&key.0));
            acks.when_durable(store.commit(shards), reply, offered);
        }
        Err(error) => reply.fail(Failure::unknown(format!("{error:?}"))),
    }
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
            rosters.for_each(|roster| standing.learn(roster));
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
