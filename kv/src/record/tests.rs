use std::time::Duration;

use super::*;
use polity_crdt::{ReplicaId, Timestamp};
use proptest::prelude::*;

fn at(millis: u64) -> Timestamp {
    Timestamp { millis, logical: 0 }
}

fn writing(replica: u64, millis: u64) -> Writing<'static> {
    Writing { replica: ReplicaId(replica), above: 0, context: None, at: at(millis), window: 100 }
}

fn blob(text: &str) -> Blob {
    Blob::from(text.as_bytes().to_vec())
}

/// Puts or adds something of a kind.
fn step_of(kind: Kind, text: &str) -> Step {
    match kind {
        Kind::Causal | Kind::LastWriterWins => Step::Put(blob(text)),
        Kind::Counter => Step::Add(1),
        Kind::Set => Step::Insert(blob(text)),
        Kind::Map => Step::Set(blob("f"), blob(text)),
    }
}

fn record() -> Record {
    let mut record = Record::default();
    record.apply(&Update::put(Kind::Causal, Some(blob("v"))), &writing(5, 1)).expect("room");
    record
}

#[test]
fn golden_bytes() {
    let bytes = encode(&record());
    assert_eq!(decode(&bytes), Ok(record()));
    assert_eq!(bytes, [3, 1, 1, 0, 5, 1, 0, 1, b'v'], "the format of records: docs/WIRE.md");
    let mut counter = record();
    counter.merge({
        let mut counter = Record::default();
        let add = Update { expires: Some(Some(9)), ..Update::of(Kind::Counter, vec![Step::Add(2)]) };
        counter.apply(&add, &writing(5, 1)).expect("writes");
        counter
    });
    assert_eq!(decode(&encode(&counter)), Ok(counter.clone()));
    let until = [1, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 1, 9, 1, 5, 1, 0, 0, 1, 5, 3, 2, 0];
    let value = [1, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0];
    let head = [6, 5, 1, 0, 5, 1, 0, 1, b'v'];
    let origins = [1, 5, 2, 0, 0];
    let parts: [&[u8]; 6] = [&head, &[until.len() as u8], &until, &[value.len() as u8], &value, &[0]];
    assert_eq!(encode(&counter), [&parts.concat()[..], &origins].concat(), "the format of records: docs/WIRE.md");
}

#[test]
fn other_versions_and_trailing_bytes_are_refused() {
    let mut bytes = encode(&record());
    bytes.push(0);
    assert!(decode(&bytes).is_err());
    bytes.pop();
    bytes[0] = 1;
    assert!(decode(&bytes).is_err());
    assert!(decode(&[]).is_err());
}

#[test]
fn a_key_has_one_kind_until_nothing_is_there() {
    let mut record = record();
    let insert = Update::of(Kind::Set, vec![Step::Insert(blob("x"))]);
    assert_eq!(record.apply(&insert, &writing(1, 2)), Err(Refused::WrongKind(Kind::Causal)));
    let old = record.clone();
    record.apply(&Update::put(Kind::Causal, None), &writing(1, 3)).expect("deletes");
    record.apply(&insert, &writing(1, 4)).expect("the key is free");
    // Whoever has slept through that learns it, and brings nothing back.
    let mut late = old.clone();
    assert!(late.merge(record.clone()) && !record.merge(old));
    assert_eq!((late.elements().count(), late), (1, record));
}

#[test]
fn of_two_kinds_on_two_sides_the_greater_shows_until_it_is_gone() {
    let mut map = Record::default();
    map.apply(&Update::of(Kind::Map, vec![Step::Set(blob("f"), blob("v"))]), &writing(1, 1)).expect("writes");
    let mut both = record();
    assert!(both.merge(map.clone()) && map.merge(record()));
    assert_eq!((both.kind(), both.fields().count(), both.values().len(), &both), (Kind::Map, 1, 0, &map));
    both.apply(&Update::of(Kind::Map, vec![Step::Remove(blob("f"))]), &writing(1, 2)).expect("removes");
    assert_eq!((both.kind(), both.values()), (Kind::Causal, vec![&blob("v")]));
    map.apply(&Update { clears: true, ..Update::any() }, &writing(1, 2)).expect("deletes");
    assert!(!map.is_live(), "a delete removes both");
    assert!(!map.merge(both) && !map.is_live());
}

#[test]
fn a_trace_of_a_delete_swallows_nothing_that_is_written_without_it() {
    for kind in Kind::ALL {
        let step = |text| step_of(kind, text);
        // Of another kind, with a time to expire that has passed, by a clock that is ahead.
        let mut old = Record::default();
        let other = if kind == Kind::Map { Kind::Set } else { Kind::Map };
        old.apply(&Update::of(other, vec![step_of(other, "v")]), &writing(1, 8_000)).expect("writes");
        old.apply(&Update { clears: true, ..Update::any() }, &writing(1, 9_000)).expect("deletes");
        let short = Update { expires: Some(Some(100)), ..Update::of(kind, vec![step("old")]) };
        old.apply(&short, &writing(1, 9_000)).expect("writes");
        assert!(old.latch(9_001) && old.is_tombstone());
        let above = old.counted(ReplicaId(1));
        let mut new = Record::default();
        let again = Writing { above, ..writing(1, 500) };
        let sent = new.apply(&Update::of(kind, vec![step("new")]), &again).expect("writes");
        let mut there = Record::default();
        there.merge(sent.delta.unwrap_or_else(|| new.clone()));
        assert_eq!(there, new, "{kind}: whoever had dropped it, too, has the same");
        there.merge(old.clone());
        assert!(there.is_live() && !there.latch(u64::MAX) && there.kind() == kind, "{kind}: {there:?}");
    }
}

#[test]
fn who_has_not_heard_of_another_time_to_expire_takes_nothing_away() {
    for kind in Kind::ALL {
        let step = step_of(kind, "v");
        let mut here = Record::default();
        let short = Update { expires: Some(Some(100)), ..Update::of(kind, vec![step]) };
        here.apply(&short, &writing(1, 1)).expect("writes");
        let mut late = here.clone();
        let renew = Update { expires: Some(Some(200)), ..Update::any() };
        let renewed = here.apply(&renew, &writing(2, 2)).expect("writes");
        assert_eq!((renewed.changed, here.expires()), (1, Some(200)), "{kind}");
        late.latch_alone(150);
        assert!(!late.seen_at(150).is_live(), "{kind}");
        late.merge(renewed.delta.unwrap_or_else(|| here.clone()));
        assert!(late.seen_at(150).is_live() && late.expires() == Some(200), "{kind}: {late:?}");
        late.latch(200);
        here.merge(late);
        assert!(!here.is_live(), "{kind}");
    }
}

#[test]
fn a_put_that_is_later_than_the_value_brings_its_own_time_to_expire() {
    let put = |text, expires| Update { expires, ..Update::put(Kind::LastWriterWins, Some(blob(text))) };
    let mut first = Record::default();
    first.apply(&put("first", Some(Some(100))), &writing(1, 1)).expect("writes");
    let mut timed = first.clone();
    timed.apply(&Update { expires: Some(Some(50)), ..Update::any() }, &writing(2, 9)).expect("writes");
    let mut other = first;
    other.apply(&put("other", None), &writing(3, 5)).expect("writes");
    other.merge(timed);
    assert_eq!((other.values(), other.expires()), (vec![&blob("other")], None), "although the decision was later");
}

#[test]
fn what_has_expired_is_removed_and_what_was_written_later_stays() {
    let with_ttl = Update { expires: Some(Some(100)), ..Update::put(Kind::Causal, Some(blob("short"))) };
    let mut here = Record::default();
    here.apply(&with_ttl, &writing(1, 1)).expect("writes");
    let mut there = here.clone();
    there.apply(&Update::put(Kind::Causal, Some(blob("long"))), &writing(2, 2)).expect("writes");
    assert!(!here.latch(99) && here.latch(100) && !here.latch(101) && !here.is_live());
    here.merge(there.clone());
    there.merge(here.clone());
    assert_eq!((here.values(), &there), (vec![&blob("long")], &here));
}

#[test]
fn a_set_that_has_expired_begins_anew_without_a_limit() {
    let insert = |text| Update::of(Kind::Set, vec![Step::Insert(blob(text))]);
    let mut here = Record::default();
    here.apply(&Update { expires: Some(Some(100)), ..insert("old") }, &writing(1, 1)).expect("writes");
    let old = here.clone();
    assert!(here.latch(100));
    here.apply(&insert("new"), &writing(1, 101)).expect("writes");
    assert_eq!((here.expires(), here.latch(500)), (None, false));
    here.merge(old);
    assert_eq!(here.elements().collect::<Vec<_>>(), [&blob("new")], "it does not revive");
}

#[test]
fn another_time_to_expire_is_a_write_of_every_causal_value_that_was_seen() {
    let put = |value| Update::put(Kind::Causal, Some(blob(value)));
    let mut one = Record::default();
    one.apply(&put("one"), &writing(1, 1)).expect("writes");
    let mut two = Record::default();
    two.apply(&put("two"), &writing(2, 1)).expect("writes");
    let mut here = one.clone();
    here.merge(two.clone());
    let retime = Update { expires: Some(Some(100)), ..Update::any() };
    let before = here.clone();
    assert_eq!(here.apply(&retime, &writing(3, 2)).expect("writes").changed, 1);
    assert_eq!((here.values(), here.expires()), (vec![&blob("one"), &blob("two")], Some(100)));
    // It replaces what it has seen, on every copy.
    let mut there = before.clone();
    assert!(there.merge(here.clone()) && there == here && !here.merge(before));
    // One that its writer has not seen keeps its time.
    let seen = one.context().clone();
    let mut there = one;
    there.merge(two);
    there.apply(&retime, &Writing { context: Some(&seen), ..writing(3, 2) }).expect("writes");
    assert!(there.latch(100));
    assert_eq!((there.values(), there.expires()), (vec![&blob("two")], None));
    assert_eq!(Record::default().apply(&retime, &writing(1, 1)).expect("nothing is there").changed, 0);
}

#[test]
fn a_delete_of_any_kind_removes_what_is_there() {
    for kind in Kind::ALL {
        let step = step_of(kind, "v");
        let mut record = Record::default();
        record.apply(&Update::of(kind, vec![step]), &writing(1, 1)).expect("writes");
        let mut late = record.clone();
        let delete = Update { clears: true, ..Update::any() };
        assert_eq!(record.apply(&delete, &writing(2, 2)).expect("deletes").changed, 1, "{kind}");
        assert!(!record.is_live() && late.merge(record.clone()) && late == record, "{kind}");
        assert_eq!(record.apply(&delete, &writing(2, 3)).expect("nothing is there").changed, 0, "{kind}");
    }
}

#[test]
fn the_latest_write_wins_even_by_a_clock_that_is_behind() {
    let put = |text| Update::put(Kind::LastWriterWins, Some(blob(text)));
    let mut record = Record::default();
    record.apply(&put("first"), &writing(1, 500)).expect("writes");
    record.apply(&put("second"), &writing(2, 10)).expect("writes");
    assert_eq!(record.values(), [&blob("second")]);
}

fn text() -> impl Strategy<Value = Blob> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(blob)
}

fn step(kind: Kind) -> BoxedStrategy<Step> {
    match kind {
        Kind::Causal | Kind::LastWriterWins => text().prop_map(Step::Put).boxed(),
        Kind::Counter => (-5..5i64).prop_map(Step::Add).boxed(),
        Kind::Set => prop_oneof![text().prop_map(Step::Insert), text().prop_map(Step::Remove)].boxed(),
        Kind::Map => {
            prop_oneof![(text(), text()).prop_map(|(f, v)| Step::Set(f, v)), text().prop_map(Step::Remove)].boxed()
        }
    }
}

fn update_of(kind: Kind) -> impl Strategy<Value = Update> {
    let steps = prop::collection::vec(step(kind), 0..3);
    let key = (0..3u8, 0..50u64).prop_map(|(name, since)| IdempotencyKey::new([name], Duration::from_millis(since)));
    let once = prop::option::weighted(0.3, key);
    (prop::bool::weighted(0.2), prop::option::weighted(0.2, 0..50u64), steps, once).prop_map(
        move |(clears, expires, steps, once)| Update {
            clears,
            expires: expires.map(Some),
            once,
            ..Update::of(kind, steps)
        },
    )
}

fn updates() -> impl Strategy<Value = (u8, Update)> {
    (0..3u8, prop::sample::select(&Kind::ALL[..]).prop_flat_map(update_of))
}

/// What three replicas do: write, hear from another, or look at the clock.
#[derive(Clone, Debug)]
enum Deed {
    Write(u8, Update),
    Hear(u8, u8),
    Latch(u8),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        3 => updates().prop_map(|(at, update)| Deed::Write(at, update)),
        2 => (0..3u8, 0..3u8).prop_map(|(from, to)| Deed::Hear(from, to)),
        1 => (0..3u8).prop_map(Deed::Latch),
    ];
    prop::collection::vec(deed, 0..25)
}

/// What they do to a counter, set or map that is given times, some at once.
fn fading() -> impl Strategy<Value = Vec<Deed>> {
    prop::sample::select(vec![Kind::Counter, Kind::Set, Kind::Map]).prop_flat_map(|kind| {
        let expires = prop::option::weighted(0.4, prop::option::weighted(0.9, (1..6u64).prop_map(|at| at * 5)));
        let key = (0..2u8).prop_map(|name| IdempotencyKey::new([name], Duration::ZERO));
        let once = prop::option::weighted(0.2, key);
        let write = (prop::bool::weighted(0.05), expires, prop::collection::vec(step(kind), 0..2), once);
        let update = write.prop_map(move |(clears, expires, steps, once)| Update {
            clears,
            expires,
            once,
            ..Update::of(kind, steps)
        });
        let deed = prop_oneof![
            4 => (0..3u8, update).prop_map(|(at, update)| Deed::Write(at, update)),
            2 => (0..3u8, 0..3u8).prop_map(|(from, to)| Deed::Hear(from, to)),
            1 => (0..3u8).prop_map(Deed::Latch),
        ];
        prop::collection::vec(deed, 0..16)
    })
}

/// Lets three replicas do this, and returns them with all deltas that they made.
fn play(deeds: Vec<Deed>) -> (Vec<Record>, Vec<Record>) {
    let (mut records, mut deltas) = (vec![Record::default(); 3], Vec::new());
    for (now, deed) in deeds.into_iter().enumerate() {
        match deed {
            Deed::Write(replica, update) => {
                let record = &mut records[usize::from(replica)];
                if let Ok(applied) = record.apply(&update, &writing(u64::from(replica) + 1, now as u64 / 3)) {
                    deltas.push(applied.delta.unwrap_or_else(|| record.clone()));
                }
            }
            Deed::Hear(from, to) => {
                let heard = records[usize::from(from)].clone();
                records[usize::from(to)].merge(heard);
            }
            Deed::Latch(replica) => {
                records[usize::from(replica)].latch(now as u64);
            }
        }
    }
    (records, deltas)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 3..=6_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        if let Ok(record) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&record)), Ok(record));
        }
    }

    /// C1, for records of any kind, whatever kinds they were before.
    #[test]
    fn copies_become_one_in_any_order(deeds in prop_oneof![deeds(), fading()]) {
        let (records, _) = play(deeds);
        let [a, b, c] = &records[..] else { unreachable!() };
        let merged = |order: [&Record; 3]| {
            let mut into = order[0].clone();
            into.merge(order[1].clone());
            into.merge(order[2].clone());
            into
        };
        let all = merged([a, b, c]);
        for order in [[a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
            prop_assert_eq!(&merged(order), &all);
            prop_assert_eq!(encode(&merged(order)), encode(&all));
        }
        prop_assert_eq!(merged([&all, &all, a]), all.clone());
        prop_assert_eq!(decode(&encode(&all)), Ok(all));
    }

    /// K5: what is seen at a time does not depend on who has removed what had expired before.
    #[test]
    fn what_expires_does_so_at_its_time_whoever_removes_it_when(deeds in fading()) {
        let (records, _) = play(deeds);
        let all = records.iter().cloned().reduce(|mut all, other| {
            all.merge(other);
            all
        });
        let all = all.expect("three");
        let view_at = |record: &Record, at: u64| view(&record.seen_at(at));
        let (mut removed, mut shown) = (all.clone(), view_at(&all, 0));
        for at in 0..30 {
            removed.latch(at);
            prop_assert!(!removed.clone().latch(at), "again at {at}");
            let now = view_at(&all, at);
            prop_assert_eq!(&now, &view(&removed), "bit by bit until {}", at);
            let mut heard = all.clone();
            heard.merge(removed.clone());
            prop_assert_eq!(&now, &view_at(&heard, at), "heard of at {}", at);
            let is_there = all.is_live() && all.expires().is_none_or(|end| end > at);
            prop_assert_eq!(removed.is_live(), is_there, "at {} of {:?}", at, all.expires());
            prop_assert!(now == shown || at == 0 || all.next_expiry(at - 1) == Some(at), "changes at {at}");
            shown = now;
        }
    }

    #[test]
    fn a_copy_that_gives_way_leaves_the_other(deeds in deeds()) {
        let (records, _) = play(deeds);
        for (here, there) in [(0, 1), (1, 2), (2, 0)] {
            let mut merged = records[here].clone();
            merged.merge(records[there].clone());
            prop_assert!(!records[here].gives_way_to(&records[there]) || merged == records[there]);
        }
    }

    /// C3: whoever has the same record before and gets the delta has the same after.
    #[test]
    fn a_delta_says_what_a_write_did(deeds in deeds(), (at, update) in updates()) {
        let (mut records, _) = play(deeds);
        let record = &mut records[usize::from(at)];
        let mut other = record.clone();
        if let Ok(applied) = record.apply(&update, &writing(u64::from(at) + 1, 100)) {
            other.merge(applied.delta.unwrap_or_else(|| record.clone()));
            prop_assert_eq!(&other, &*record);
        }
    }
}

/// What a reader sees.
fn view(record: &Record) -> impl PartialEq + std::fmt::Debug + use<> {
    let values: std::collections::BTreeSet<Blob> = record.values().into_iter().cloned().collect();
    let elements: Vec<Blob> = record.elements().cloned().collect();
    let fields: Vec<(Blob, Blob)> = record.fields().map(|(field, value)| (field.clone(), value.clone())).collect();
    (record.is_live(), values, record.total(), elements, fields, record.expires())
}

/// Who writes what, one after the other.
type History = Vec<(u8, Update)>;

/// What happens to a key of one kind: what all know, what others know, and a write.
fn story() -> impl Strategy<Value = (History, History, Update)> {
    prop::sample::select(&Kind::ALL[..]).prop_flat_map(|kind| {
        let history = |size| prop::collection::vec((0..3u8, update_of(kind)), size);
        (history(1..6), history(0..6), update_of(kind))
    })
}

fn write_all(record: &mut Record, history: &[(u8, Update)], replicas: u64, from: u64) {
    for ((replica, update), millis) in history.iter().zip(from..) {
        let _ = record.apply(update, &writing(replicas + u64::from(*replica), millis));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn a_write_that_learns_afterwards_what_was_known_ends_like_one_that_asked_first(
        (shared, unseen, update) in story(),
    ) {
        let mut here = Record::default();
        write_all(&mut here, &shared, 10, 1);
        let mut there = here.clone();
        write_all(&mut there, &unseen, 20, 100);
        // When others have said when all expires, that stays.
        prop_assume!(here.takes_blindly(&update) && there.parts.iter().all(|part| !part.is_timed()));

        let mut asked = here.clone();
        asked.merge(there.clone());
        let before = asked.clone();
        let first = asked.apply(&update, &writing(99, 200)).expect("of this kind");
        prop_assert_eq!(before.would_change(&update), first.changed);

        let mut blind = here.clone();
        let applied = blind.apply(&update, &writing(99, 200)).expect("of this kind");
        let sent = applied.delta.unwrap_or_else(|| blind.clone());
        blind.merge(there.clone());
        if applied.dot.is_some() {
            // A put takes away what it would have replaced.
            let unseen = there.dots().filter(|dot| !here.context().contains(*dot)).collect();
            blind.remove(&unseen);
            there.remove(&unseen);
        }
        there.merge(sent);
        prop_assert_eq!(view(&blind), view(&asked));
        prop_assert_eq!(view(&there), view(&asked));
    }
}

/// A counter at a replica, and what others are told of it.
fn count(record: &mut Record, replica: u64, by: i64) -> Record {
    let above = record.counted(ReplicaId(replica));
    let applied =
        record.apply(&Update::of(Kind::Counter, vec![Step::Add(by)]), &Writing { above, ..writing(replica, 1) });
    applied.expect("writes").delta.unwrap_or_else(|| record.clone())
}

fn merged(ours: &Record, theirs: &Record) -> Record {
    let mut both = ours.clone();
    both.merge(theirs.clone());
    let mut other = theirs.clone();
    other.merge(ours.clone());
    assert_eq!((&both, encode(&both)), (&other, encode(&other)));
    assert_eq!(decode(&encode(&both)).as_ref(), Ok(&both));
    both
}

#[test]
fn of_a_counter_that_was_removed_comes_back_what_was_added_at_the_same_time() {
    let mut here = Record::default();
    count(&mut here, 1, 2);
    count(&mut here, 1, 3);
    let mut there = here.clone();
    count(&mut there, 2, 10);
    assert_eq!(there.total(), 15);
    assert!(there.clear() && !there.is_live());
    // Nobody here has heard of it.
    count(&mut here, 1, 1);
    let mut both = merged(&here, &there);
    assert_eq!((both.total(), both.is_live()), (1, true));
    // It goes on from there, and is removed again.
    count(&mut both, 1, 4);
    count(&mut both, 2, 100);
    assert_eq!(both.total(), 105);
    let before = both.clone();
    assert!(both.clear());
    assert_eq!((merged(&both, &before).total(), merged(&both, &here).total()), (0, 0));
    // A removal that had heard of less takes away less.
    let mut late = merged(&here, &there);
    assert!(late.clear());
    assert_eq!(merged(&late, &before).total(), 104);
    count(&mut both, 1, 7);
    assert_eq!(merged(&both, &merged(&late, &before)).total(), 7);
}

#[test]
fn whoever_hears_of_one_addition_only_knows_from_where_it_counts() {
    let mut here = Record::default();
    count(&mut here, 1, 5);
    let old = here.clone();
    assert!(here.clear());
    let removed = here.clone();
    count(&mut here, 1, 1);
    let last = count(&mut here, 1, 2);
    for known in [Record::default(), old, removed] {
        assert_eq!(merged(&known, &last).total(), 3, "{known:?}");
    }
}

#[test]
fn who_has_dropped_the_trace_of_a_removal_counts_from_0_beside_who_has_not() {
    let mut here = Record::default();
    count(&mut here, 1, 5);
    assert!(here.clear());
    let mut anew = Record::default();
    let above = here.counted(ReplicaId(1));
    let add = Update::of(Kind::Counter, vec![Step::Add(7)]);
    anew.apply(&add, &Writing { above, ..writing(1, 1) }).expect("writes");
    assert_eq!(merged(&here, &anew).total(), 7);
}

#[test]
fn a_counter_from_before_origins_is_read_and_counts_on() {
    let mut old = Record::default();
    count(&mut old, 1, 5);
    let bytes = encode(&old);
    assert_eq!(bytes[0], Format::WithOrigins as u8);
    // Version 3 has none behind the count.
    let mut plain = bytes
        [..bytes.len() - postcard::to_allocvec(&[(ReplicaId(1), (2_u64, 0_u64, 0_u64))][..]).expect("encodes").len()]
        .to_vec();
    plain[0] = Format::Plain as u8;
    let mut read = decode(&plain).expect("whole");
    assert_eq!(read.total(), 5);
    count(&mut read, 1, 1);
    assert_eq!(read.total(), 6);
    assert!(read.clear());
    assert_eq!(merged(&read, &old).total(), 0);
    plain[0] = Format::WithOrigins as u8;
    assert!(decode(&plain).is_err());
}

/// What was never given a time to live is told step by step, but for what claims numbers: once for each replica.
#[test]
fn additions_are_told_step_by_step() {
    for kind in [Kind::Set, Kind::Map] {
        let mut record = Record::default();
        let counted = Writing { above: 7, ..writing(1, 1) };
        let mut tells_all = |update: Update| record.apply(&update, &counted).expect("room").delta.is_none();
        let add = |text: &str| Update::of(kind, vec![step_of(kind, text)]);
        assert!(tells_all(add("a")) && !tells_all(add("b")) && !tells_all(add("c")), "{kind}");
        assert!(tells_all(Update { expires: Some(Some(9)), ..add("d") }) && tells_all(add("e")), "{kind}");
    }
}

/// One has written an element, or a field, again, and another has not heard of that.
fn written_again_unheard(kind: Kind) -> (Record, Record) {
    let mut here = Record::default();
    here.apply(&Update::of(kind, vec![step_of(kind, "f")]), &writing(1, 1)).expect("room");
    let there = here.clone();
    here.apply(&Update::of(kind, vec![step_of(kind, "f")]), &writing(1, 2)).expect("room");
    (here, there)
}

/// Who has not heard of what is removed hears of the removal.
#[test]
fn what_is_removed_goes_whatever_others_had_missed() {
    for kind in [Kind::Set, Kind::Map] {
        let (mut here, mut there) = written_again_unheard(kind);
        let removed = here.apply(&Update::of(kind, vec![Step::Remove(blob("f"))]), &writing(1, 3)).expect("room");
        there.merge(removed.delta.unwrap_or(here));
        assert!(!there.is_live(), "{kind}");
    }
}

/// The writer has dropped a tombstone meanwhile. Who has not heard of what was written again hears of its next write.
#[test]
fn what_others_have_stays_when_numbers_are_claimed() {
    for kind in [Kind::Set, Kind::Map] {
        let (mut here, mut there) = written_again_unheard(kind);
        let next = if kind == Kind::Set { Step::Insert(blob("g")) } else { Step::Set(blob("g"), blob("1")) };
        let counted = Writing { above: 9, ..writing(1, 3) };
        let written = here.apply(&Update::of(kind, vec![next]), &counted).expect("room");
        there.merge(written.delta.unwrap_or(here));
        assert_eq!(there.elements().count() + there.fields().count(), 2, "{kind}");
    }
}

/// One has removed a counter, and nobody has heard of that. Another hears of its next addition: it has what was there before, or nothing of it.
#[test]
fn an_addition_does_not_bring_half_of_a_removal() {
    let mut here = Record::default();
    count(&mut here, 1, 5);
    count(&mut here, 2, 10);
    let mut there = here.clone();
    here.clear();
    there.merge(count(&mut here, 1, 1));
    assert!([1, 16].contains(&there.total()), "{}", there.total());
}

/// One has removed a field that was set by a clock which is ahead, nobody has heard of that, and it sets the field anew.
#[test]
fn a_field_that_is_set_anew_is_not_hidden_by_what_was_removed() {
    let set = |value: &str| Update::of(Kind::Map, vec![Step::Set(blob("f"), blob(value))]);
    let mut here = Record::default();
    here.apply(&set("old"), &writing(3, 1_001)).expect("room");
    let mut there = here.clone();
    here.apply(&Update::of(Kind::Map, vec![Step::Remove(blob("f"))]), &writing(1, 1_000)).expect("room");
    let told = here.apply(&set("new"), &writing(1, 1_000)).expect("room").delta;
    there.merge(told.unwrap_or(here));
    assert_eq!(there.fields().collect::<Vec<_>>(), [(&blob("f"), &blob("new"))]);
}

/// A set is given another time again and again, by replicas that count above what they have dropped.
#[test]
fn a_time_that_is_given_again_and_again_takes_no_more_room() {
    let mut all = Record::default();
    all.apply(&Update::of(Kind::Set, vec![step_of(Kind::Set, "v")]), &writing(1, 1)).expect("room");
    let mut sizes = Vec::new();
    for round in 1..100 {
        for replica in 1..3 {
            let above = all.counted(ReplicaId(replica)) + 3;
            let timed = Update { expires: Some(Some(1_000)), ..Update::any() };
            all.apply(&timed, &Writing { above, ..writing(replica, round) }).expect("room");
            let more = Update::of(Kind::Set, vec![step_of(Kind::Set, "w")]);
            all.apply(&more, &Writing { above: above + 3, ..writing(replica, round) }).expect("room");
        }
        sizes.push(encode(&all).len());
    }
    assert!(sizes[98] <= sizes[9] + 32, "{sizes:?}");
}

/// Nobody has seen of the others when it gave a set a time.
#[test]
fn times_that_were_given_at_once_are_bounded() {
    let mut all = Record::default();
    all.apply(&Update::of(Kind::Set, vec![step_of(Kind::Set, "v")]), &writing(1, 1)).expect("room");
    let first = all.clone();
    for replica in 1..=until::MAX_DUE as u64 {
        let mut timed = first.clone();
        timed.apply(&Update { expires: Some(Some(replica)), ..Update::any() }, &writing(replica, 2)).expect("room");
        all.merge(timed);
    }
    assert_eq!(decode(&encode(&all)), Ok(all.clone()));
    let mut one_more = first;
    one_more.apply(&Update { expires: Some(Some(9)), ..Update::any() }, &writing(u64::MAX, 2)).expect("room");
    all.merge(one_more);
    assert_eq!(decode(&encode(&all)), Ok(all.clone()));
    assert_eq!(all.expires(), Some(until::MAX_DUE as u64), "of one moment those that are due first go");
}
