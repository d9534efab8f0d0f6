//! That two replicas become equal, at which cost, and what becomes of answers that make no sense.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polity_crdt::VersionVector;
use polity_crdt::sketch::{Sketch as Symbols, Symbol};
use polity_shard::ShardCount;

use super::measure::{DIFFERING, Differing, Pair};
use super::*;
use crate::config::KvConfig;
use crate::engine::MemoryEngine;
use crate::record::{self, Kind, Update};
use crate::roster::{Roster, tests};
use crate::store::Write;

/// What the messages may cost: this many times the payload that differs, in percent, and 64 KiB.
fn allowed(differing: u64, payload: usize) -> usize {
    let percent = if differing <= 100 { 150 } else { 220 };
    payload * percent / 100 + (64 << 10)
}

#[test]
fn bytes_follow_the_difference() {
    let mut pair = Pair::new(20_000);
    for how in DIFFERING {
        for count in [10, 100, 1_000, 5_000] {
            pair.differ(count, how);
            // Of what was written on both sides, both values are the payload.
            let keys = if how == Differing::Concurrent { 2 * count } else { count };
            let report = pair.reconcile(keys);
            assert!(report.equal, "{how:?} {count}: {report:?}");
            assert!(report.bytes <= allowed(keys, report.payload), "{how:?} {count}: {report:?}");
        }
    }
}

/// A page may be full before it is the turn of a shard of which a part has come.
#[test]
fn shards_of_which_more_differs_than_one_message_asks_for_become_equal() {
    let mut pair = Pair::with_shards(6_000, ShardCount::new(4).expect("four"));
    for how in DIFFERING {
        for count in [1_100, 1_600, 2_400] {
            pair.differ(count, how);
            let keys = if how == Differing::Concurrent { 2 * count } else { count };
            let report = pair.reconcile(keys);
            assert!(report.equal && report.bytes <= allowed(keys, report.payload), "{how:?} {count}: {report:?}");
        }
    }
}

#[test]
fn equal_replicas_say_so_in_few_bytes() {
    let report = Pair::new(3_000).reconcile(0);
    assert!(report.equal && report.trips == 1 && report.bytes < 3 << 10, "{report:?}");
}

// ---- any history --------------------------------------------------------------------------------------------------------

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const SHARD: ShardId = ShardId(0);
const SALT: u64 = 0x5a17;

/// A store of one shard.
fn store(boot: &str) -> Store {
    let config = KvConfig { shards: ShardCount::new(1).expect("one"), ..KvConfig::default() };
    Store::new(tests::boot(boot), &config, Arc::new(MemoryEngine::new(config.shards))).expect("memory works")
}

/// Writes to one of `keys` keys, or deletes what is there.
fn write(store: &Store, dice: &mut Dice, keys: u64) {
    let key = format!("key {}", dice.below(keys));
    let known = store.local(key.as_bytes()).expect("memory works").unwrap_or_default();
    let context = if dice.below(4) == 0 { VersionVector::new() } else { known.context().clone() };
    let bytes = vec![7; dice.below(60) as usize];
    let update = Update::put(Kind::Causal, (dice.below(5) > 0).then(|| Blob::from(bytes)));
    let write = Write { update: &update, context: Some(&context), known: None, wall: Duration::from_secs(1) };
    // A key with too many siblings refuses, and that is fine.
    let _ = store.write(SHARD, key.as_bytes(), write, Roster::new([]).id());
}

type Content = BTreeMap<Blob, Blob>;

fn content(store: &Store) -> Content {
    store.page(SHARD, None, usize::MAX).expect("memory works").0.into_iter().collect()
}

/// Whether a store has all of that.
fn has_all(store: &Store, content: &Content) -> bool {
    content.iter().all(|(key, theirs)| {
        let ours = store.local(&key.0).expect("memory works");
        ours.is_some_and(|mut ours| !ours.merge(record::decode(&theirs.0).expect("a record")))
    })
}

/// Two stores that have much in common, and some not; or of which one has next to nothing.
fn pair(dice: &mut Dice) -> (Store, Store) {
    let (here, there) = (store("a1"), store("b2"));
    let (common, apart) = (dice.below(3) * 150, dice.below(120));
    let (lopsided, most) = (dice.below(4) == 0, dice.below(2));
    for at in 0..common + apart {
        let first = if lopsided && dice.below(12) > 0 { most == 0 } else { dice.below(2) == 0 };
        let (writer, other) = if first { (&here, &there) } else { (&there, &here) };
        write(writer, dice, 200);
        if at + 1 == common && !lopsided {
            for (key, record) in content(writer) {
                other.take(&key.0, &record.0).expect("memory works");
            }
            for (key, record) in content(other) {
                writer.take(&key.0, &record.0).expect("memory works");
            }
        }
    }
    (here, there)
}

fn answer(reconciliation: &mut Reconciliation, here: &Store, there: &Store, ask: Ask, page_bytes: usize) {
    match ask {
        Ask::Sketch(ask) => reconciliation.handle_sketched(there.sketch(&ask).expect("it may ask")),
        Ask::Pull(ask) => reconciliation.handle_pulled(here, there.pull(&ask, page_bytes).expect("it may ask")),
        Ask::Fetch(ask) => {
            let after = ask.after.as_ref().map(|key| &key.0[..]);
            let (records, more) = there.page(SHARD, after, page_bytes).expect("memory works");
            reconciliation.handle_page(here, &Page { records, more });
        }
        Ask::Offer(offer) => {
            let offered = there.take_offer(&offer.records, offer.back, page_bytes).expect("memory works");
            reconciliation.handle_offered(here, &offered);
        }
    }
}

/// `hear` of the standing protocol rests on this, and that a shard which was given away may be dropped.
#[test]
fn while_both_are_written_to_all_that_was_there_at_the_beginning_arrives() {
    for seed in 0..400 {
        let dice = &mut Dice(seed);
        let (here, there) = pair(dice);
        let purpose = [Purpose::Learn, Purpose::Equalise, Purpose::Give][dice.below(3) as usize];
        let (page_bytes, often) = ([1, 400, 1 << 18][dice.below(3) as usize], dice.below(6));
        let (ours, theirs) = (content(&here), content(&there));
        let mut reconciliation = Reconciliation::new(&here, purpose, SALT, page_bytes, [(SHARD, there.digest(SHARD))]);
        let mut asks = 0;
        while let Some(ask) = reconciliation.next(&here).expect("memory works") {
            answer(&mut reconciliation, &here, &there, ask, page_bytes);
            for _ in 0..often {
                write(if dice.below(2) == 0 { &here } else { &there }, dice, 250);
            }
            asks += 1;
            assert!(asks < 5_000, "seed {seed}: it does not end");
        }
        assert_eq!(reconciliation.take_done(), [SHARD], "seed {seed}: {purpose:?} is not done");
        if purpose != Purpose::Give {
            assert!(has_all(&here, &theirs), "seed {seed}: {purpose:?} has not brought all");
        }
        if purpose != Purpose::Learn {
            assert!(has_all(&there, &ours), "seed {seed}: {purpose:?} has not given all");
        }
    }
}

/// Whatever the other answers, it ends, and nothing panics.
#[test]
fn nonsense_ends() {
    for seed in 0..300 {
        let dice = &mut Dice(seed);
        let (here, there) = pair(dice);
        let theirs = there.digest(SHARD);
        let mut reconciliation = Reconciliation::new(&here, Purpose::Equalise, SALT, 1 << 12, [(SHARD, theirs)]);
        let mut asks = 0;
        while let Some(ask) = reconciliation.next(&here).expect("memory works") {
            asks += 1;
            assert!(asks < 5_000, "seed {seed}: it does not end");
            if dice.below(3) > 0 {
                answer(&mut reconciliation, &here, &there, ask, 400);
                continue;
            }
            let blob = |dice: &mut Dice, most| {
                Blob::from((0..dice.below(most)).map(|at| (at * seed) as u8).collect::<Vec<_>>())
            };
            let record = |dice: &mut Dice| {
                let all: Vec<(Blob, Blob)> = content(&there).into_iter().collect();
                let (key, record) = all.get(dice.below(all.len().max(1) as u64) as usize).cloned().unwrap_or_default();
                if dice.below(2) == 0 { (key, record) } else { (key, blob(dice, 9)) }
            };
            let records: Vec<_> = (0..dice.below(4)).map(|_| record(dice)).collect();
            match ask {
                Ask::Sketch(ask) => {
                    let count = match &ask.shards[0].wanted {
                        Wanted::Symbols { count, .. } => *count as usize,
                        Wanted::Elements { .. } => 3,
                    };
                    let mut symbols = Symbols::new(0, count);
                    (0..dice.below(9_000)).for_each(|at| symbols.change(at * seed, i64::MAX / 7));
                    let symbols = Symbol::encode_all(&symbols.symbols()).into();
                    let as_of = (dice.below(2) == 0).then(|| dice.below(3));
                    let nonsense = match dice.below(5) {
                        0 => vec![],
                        1 => vec![Sketched::Symbols { as_of, symbols: blob(dice, 40) }],
                        2 => vec![Sketched::Elements { elements: blob(dice, 99), next: Some(blob(dice, 9)) }],
                        3 => vec![Sketched::Elements { elements: blob(dice, 99), next: None }],
                        _ => vec![Sketched::Symbols { as_of, symbols }],
                    };
                    reconciliation.handle_sketched(nonsense);
                }
                Ask::Pull(_) => {
                    let lesser = (0..dice.below(3)).map(|id| id * seed).collect();
                    let after = (dice.below(2) == 0).then(|| blob(dice, 9));
                    reconciliation.handle_pulled(&here, Pulled { records, lesser, done: dice.below(3) as u32, after });
                }
                Ask::Fetch(_) => {
                    let more = dice.below(2) == 0;
                    reconciliation.handle_page(&here, &Page { records, more });
                }
                Ask::Offer(_) => {
                    let all = dice.below(2) == 0;
                    reconciliation.handle_offered(&here, &Offered { back: records, all });
                }
            }
        }
    }
}

/// To find out what differs would cost many times as much.
#[test]
fn few_records_are_sent_as_they_are() {
    let (few, many) = (store("a1"), store("b2"));
    let dice = &mut Dice(3);
    (0..3).for_each(|_| write(&few, dice, 1_000));
    (0..1_000).for_each(|_| write(&many, dice, 1_000));
    let page: Vec<_> = content(&few).into_iter().collect();
    assert!(!page.is_empty());
    let first = |here: &Store, there: &Store, purpose| {
        let mut reconciliation = Reconciliation::new(here, purpose, SALT, 1 << 16, [(SHARD, there.digest(SHARD))]);
        reconciliation.next(here).expect("memory works").expect("they differ")
    };
    assert!(matches!(first(&few, &many, Purpose::Give), Ask::Offer(offer) if offer.records == page));
    assert!(matches!(first(&many, &few, Purpose::Learn), Ask::Fetch(_)));
}

/// One that always names keys that nobody has asked for.
#[test]
fn lesser_records_that_there_are_not_end() {
    for done in 0..2 {
        let (here, there) = (store("a1"), store("b2"));
        let dice = &mut Dice(7);
        (0..100).for_each(|_| write(&here, dice, 50));
        (0..100).for_each(|_| write(&there, dice, 70));
        let theirs = there.digest(SHARD);
        let mut reconciliation = Reconciliation::new(&here, Purpose::Equalise, SALT, 1 << 12, [(SHARD, theirs)]);
        let mut asks = 0;
        while let Some(ask) = reconciliation.next(&here).expect("memory works") {
            asks += 1;
            assert!(asks < 500, "it does not end");
            match ask {
                Ask::Pull(_) => {
                    let lesser = Pulled { records: Vec::new(), lesser: vec![u64::MAX], done, after: None };
                    reconciliation.handle_pulled(&here, lesser);
                }
                ask => answer(&mut reconciliation, &here, &there, ask, 400),
            }
        }
    }
}

/// What a peer may ask for is bounded, and shards that there are not are refused.
#[test]
fn questions_are_checked() {
    let there = store("b2");
    write(&there, &mut Dice(1), 1);
    let sketch = |shard, count| {
        let wanted = Wanted::Symbols { from: u32::MAX, count };
        there.sketch(&Sketch { salt: 1, shards: vec![SketchOf { shard, total: 1, wanted }] })
    };
    assert!(sketch(0, 9).is_ok() && sketch(1, 9).is_err() && sketch(0, u32::MAX).is_err());
    let pull = |shard, tags: usize, ranks| {
        let tags = vec![0; 4 * tags].into();
        there.pull(&Pull { salt: 1, shards: vec![PullOf { shard, after: None, tags, ranks: vec![0; ranks] }] }, 99)
    };
    assert!(
        pull(0, 9, 3).is_ok() && pull(0, 3, 9).is_ok() && pull(1, 9, 3).is_err() && pull(0, MAX_TAGS + 1, 0).is_err()
    );
}

#[test]
fn golden_bytes() {
    fn hex<T: serde::Serialize>(message: &T) -> String {
        let bytes = postcard::to_allocvec(message).expect("it encodes");
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
    let of = |wanted| Sketch { salt: 300, shards: vec![SketchOf { shard: 5, total: 7, wanted }] };
    assert_eq!(hex(&of(Wanted::Symbols { from: 6, count: 12 })), "ac0201050700060c");
    assert_eq!(
        hex(&of(Wanted::Elements { after: Some(Blob::from(vec![0x61])) })),
        "ac02010507010101 61".replace(' ', "")
    );
    let mut symbols = Symbols::new(0, 1);
    symbols.change(1, 1);
    let symbols = Symbol::encode_all(&symbols.symbols()).into();
    let answers = vec![
        Sketched::Equal,
        Sketched::Symbols { as_of: Some(2), symbols },
        Sketched::Elements { elements: vec![9; 8].into(), next: None },
    ];
    assert_eq!(hex(&answers), "03000101020e0101000000000000007f1ab310020208090909090909090900");
    let tags = vec![1, 0, 0, 0, 2, 0, 0, 0].into();
    let pull = Pull { salt: 3, shards: vec![PullOf { shard: 5, after: None, tags, ranks: vec![4] }] };
    assert_eq!(hex(&pull), "030105000801000000020000000104");
    let record = || vec![(Blob::from(vec![0x6b]), Blob::from(vec![0x72]))];
    assert_eq!(hex(&Pulled { records: record(), lesser: vec![300], done: 1, after: None }), "01016b017201ac020100");
    assert_eq!(hex(&Offer { records: record(), back: true }), "01016b017201");
    assert_eq!(hex(&Offered { back: record(), all: false }), "01016b017200");
}

/// A key that was never written leaves nothing behind when it is deleted: the other replicas would have nothing to keep.
#[test]
fn deleting_nothing_leaves_nothing() {
    let here = store("a1");
    let update = Update::put(Kind::Causal, None);
    let write = Write { update: &update, context: None, known: None, wall: Duration::from_secs(1) };
    here.write(SHARD, b"key", write, Roster::new([]).id()).expect("there is room");
    assert_eq!(here.digest(SHARD), Digest::default());
}
