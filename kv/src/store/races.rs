//! Models of one shard that the node's own thread and those of the application use at once: `shuttle` runs the real store
//! and engine, and decides at each lock who goes next. Small models are tried in every order that there is. Run them with
//! `cargo test -p polity-kv --features shuttle races`.

use std::sync::Arc;

use polity_shard::ShardCount;
use shuttle::future::{block_on, spawn};
use shuttle::scheduler::DfsScheduler;
use shuttle::{Config, Runner};

use super::*;
use crate::engine::MemoryEngine;
use crate::record::{Blob, Kind, Update, Writing};
use crate::roster::tests::{boot, roster};
use polity_crdt::VersionVector;

const SHARD: ShardId = ShardId(0);

/// More orders than any of these models has; one that has more is no longer tried in all.
const MAX_ORDERS: usize = 200_000;

/// Runs a model in every order.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.silence_warnings = true;
    let orders = Runner::new(DfsScheduler::new(Some(MAX_ORDERS), false), config).run(model);
    assert!((2..MAX_ORDERS).contains(&orders), "{orders} orders");
}

/// The store of `own` in a shard that has just been founded under `placed`.
fn store(own: &str, placed: &str) -> Arc<Store> {
    let config = KvConfig { shards: ShardCount::new(1).expect("one"), ..KvConfig::default() };
    let store = Store::new(boot(own), &config, Arc::new(MemoryEngine::new(config.shards))).expect("works");
    store.place(SHARD, roster(placed));
    store.introduce(SHARD, Vec::new());
    Arc::new(store)
}

fn blob(text: &str) -> Blob {
    Blob::from(text.as_bytes().to_vec())
}

/// A record that another replica has made.
fn from_elsewhere(text: &str) -> Vec<u8> {
    let mut record = Record::default();
    let at = polity_crdt::Timestamp::default();
    let writing = Writing { replica: ReplicaId(7), above: 0, context: None, at, window: 0 };
    record.apply(&Update::put(Kind::Causal, Some(blob(text))), &writing).expect("room");
    record::encode(&record)
}

fn put(store: &Store, key: &[u8], text: &str, named: RosterId) -> Written {
    let update = Update::put(Kind::Causal, Some(blob(text)));
    let write = Write { update: &update, context: Some(&VersionVector::new()), known: None, wall: Duration::ZERO };
    store.write(SHARD, key, write, named).expect("room")
}

/// All that the store holds, and whether its digest says so.
fn content(store: &Store) -> Vec<(Blob, Blob)> {
    let mut all = Vec::new();
    let mut digest = Digest::default();
    let visited = store.engine.scan(SHARD, None, &mut |key, record| {
        digest.change(key, None, Some(record));
        all.push((key.to_vec().into(), record.to_vec().into()));
        ControlFlow::Continue(())
    });
    visited.expect("works");
    assert_eq!(store.digest(SHARD), digest, "the digest follows the records");
    assert_eq!(store.holds_records(SHARD), !all.is_empty());
    all
}

fn names(vouch: &Vouch, under: &Roster) -> bool {
    matches!(vouch, Vouch::For(rosters) if rosters.contains(under))
}

/// A write or a merge while a replica of another roster asks for an account: what was acknowledged without naming that
/// roster is in the account. This is what K3 stands on (`standing`).
#[test]
fn what_is_acknowledged_before_a_fence_is_in_the_account() {
    for merges in [false, true] {
        check(move || {
            let (old, new) = (roster("a1 b1 c1"), roster("b1 c1 d1"));
            let store = store("b1", "a1 b1 c1");
            let (here, named) = (Arc::clone(&store), old.id());
            let change = spawn(async move {
                if merges {
                    here.merge(SHARD, b"x", &from_elsewhere("v"), named).expect("works")
                } else {
                    put(&here, b"x", "v", named).vouch
                }
            });
            let (asked, under) = (Arc::clone(&store), new.clone());
            let account = spawn(async move { asked.account(SHARD, &under, &[]).expect("introduced") });
            block_on(async {
                let account = account.await.expect("it ends");
                let vouch = change.await.expect("it ends");
                assert_eq!(content(&store).len(), 1);
                let is_in = account.digest == store.digest(SHARD);
                assert!(names(&vouch, &new) || is_in, "acknowledged, and not in the account");
                assert!(account.rosters.contains(&old));
            });
        });
    }
}

/// The same for a move of placement: whatever is acknowledged as agreeing was written before the move, and after the move
/// the roster before is named or owed by every answer.
#[test]
fn an_answer_agrees_only_before_the_move() {
    check(|| {
        let (old, new) = (roster("a1 b1 c1"), roster("b1 c1 d1"));
        let store = store("b1", "a1 b1 c1");
        let (writer, named) = (Arc::clone(&store), old.id());
        let write = spawn(async move { put(&writer, b"x", "v", named).vouch });
        let (mover, under) = (Arc::clone(&store), new.clone());
        let moved = spawn(async move {
            mover.place(SHARD, under.clone());
            // Whoever reads after the move stands for both, and sees what was acknowledged before it.
            let (record, vouch) = mover.read(SHARD, b"x", under.id()).expect("works");
            (record.is_some(), vouch)
        });
        block_on(async {
            let written = write.await.expect("it ends");
            let (found, vouch) = moved.await.expect("it ends");
            assert_eq!(vouch, Vouch::For(vec![new.clone(), old.clone()]));
            assert!(names(&written, &new) || (written == Vouch::Agree && found));
            content(&store);
        });
    });
}

/// Two threads write the same key and a third merges another's record: no two values have the same dot, none is lost, and
/// the digest is that of the records.
#[test]
fn writes_of_one_key_lose_nothing() {
    check(|| {
        let store = store("a1", "a1 b1 c1");
        let named = store.placed(SHARD).id();
        let first = Arc::clone(&store);
        let first = spawn(async move { drop(put(&first, b"x", "v", named)) });
        let second = Arc::clone(&store);
        let second = spawn(async move { drop(put(&second, b"x", "w", named)) });
        let merged = store.merge(SHARD, b"x", &from_elsewhere("u"), named);
        assert_eq!(merged.expect("works"), Vouch::Agree);
        block_on(async {
            first.await.expect("it ends");
            second.await.expect("it ends");
            let all = content(&store);
            let record = record::decode(&all[0].1.0).expect("ours");
            assert_eq!((all.len(), record.siblings()), (1, 3), "three values side by side");
        });
    });
}

/// One that is no replica any more gives all it has, then drops it, while a late write arrives: whatever was acknowledged
/// was given or is still there, and no dot of before is used again.
#[test]
fn what_is_dropped_was_given() {
    check(|| {
        let store = store("a1", "a1 b1 c1");
        let named = store.placed(SHARD).id();
        put(&store, b"x", "v", named);
        let before = store.shard(SHARD).replica;
        store.place(SHARD, roster("b1 c1 d1"));
        store.with_standing(SHARD, |standing| {
            let (current, owed) = (standing.current().clone(), standing.owed().cloned().collect::<Vec<_>>());
            standing.relieve(&current, &owed);
        });
        let late = Arc::clone(&store);
        let late = spawn(async move { drop(late.merge(SHARD, b"y", &from_elsewhere("w"), named).expect("works")) });
        let giver = Arc::clone(&store);
        let giver = spawn(async move {
            let given = giver.digest(SHARD);
            let (page, more) = giver.page(SHARD, None, usize::MAX).expect("works");
            assert!(!more);
            (page, giver.release(SHARD, &given).expect("works"))
        });
        block_on(async {
            late.await.expect("it ends");
            let (given, released) = giver.await.expect("it ends");
            let kept = content(&store);
            for key in [b"x", b"y"] {
                let has = |records: &[(Blob, Blob)]| records.iter().any(|(k, _)| k.0[..] == key[..]);
                assert!(has(&kept) || (released && has(&given)), "dropped, and never given");
            }
            assert_eq!(store.shard(SHARD).replica == before, !released, "a new replica after each drop, and only then");
        });
    });
}

/// The view gives a shard back while it is being dropped: either it was dropped before, under a replica that is not used
/// again, or it stays.
#[test]
fn a_shard_that_comes_back_is_not_dropped() {
    check(|| {
        let store = store("a1", "b1 c1 d1");
        let named = store.placed(SHARD).id();
        store.merge(SHARD, b"x", &from_elsewhere("v"), named).expect("works");
        let given = store.digest(SHARD);
        let placer = Arc::clone(&store);
        let placer = spawn(async move {
            placer.place(SHARD, roster("a1 b1 c1"));
            placer.holds_records(SHARD)
        });
        let giver = Arc::clone(&store);
        let giver = spawn(async move { giver.release(SHARD, &given).expect("works") });
        block_on(async {
            let had = placer.await.expect("it ends");
            let released = giver.await.expect("it ends");
            assert_eq!(content(&store).len(), usize::from(!released));
            assert_eq!(had, !released, "once it is back nothing is dropped");
        });
    });
}
