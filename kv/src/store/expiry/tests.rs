//! Counters, sets and maps that expire or are deleted, and are written again: what was there before stays gone everywhere, and what is
//! written then is there everywhere (K3, K5).

use std::time::Duration;

use polity_cluster::mutation::{self, Mutation};

use crate::record::{Blob, Kind, Record, Step, Update};
use crate::store::replica::{KEY, Replica};
use crate::store::{Amended, Known, Write, WriteError};

/// When what is written first expires, and later.
const UNTIL: u64 = 100;
const LATER: Duration = Duration::from_millis(200);

fn blob(text: &str) -> Blob {
    Blob::from(text.as_bytes().to_vec())
}

fn insert(text: &str) -> Update {
    Update::of(Kind::Set, vec![Step::Insert(blob(text))])
}

fn add(by: i64) -> Update {
    Update::of(Kind::Counter, vec![Step::Add(by)])
}

fn set(field: &str) -> Update {
    Update::of(Kind::Map, vec![Step::Set(blob(field), blob("value"))])
}

fn until(at: u64, update: Update) -> Update {
    Update { expires: Some(Some(at)), ..update }
}

/// What there is to be seen at a time.
fn seen(record: &Record, at: Duration) -> (i128, Vec<Blob>) {
    let record = record.seen_at(at.as_millis() as u64);
    let fields = record.fields().map(|(field, _)| field);
    (record.total(), record.elements().chain(fields).cloned().collect())
}

fn three() -> [Replica; 3] {
    ["a1", "b2", "c3"].map(Replica::new)
}

/// Something that has expired at all three is written again at one that has asked a quorum. Returns where it is not as it is there.
fn written_again(first: &Update, second: &Update, expected: &(i128, Vec<Blob>)) -> Vec<usize> {
    let all = three();
    let written = all[0].write(&until(UNTIL, first.clone()));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    let written = all[1].write_at(second, Some(all[0].record()), LATER);
    all.iter().for_each(|replica| replica.learn(&written));
    (0..3).filter(|at| seen(&all[*at].record(), LATER) != *expected).collect()
}

/// What is written first, what is written once that has expired, with a time and without one, and what there is then: of each kind.
fn of_each_kind() -> impl Iterator<Item = (Update, Update, (i128, Vec<Blob>))> {
    let cases = [
        (insert("old"), insert("new"), (0, vec![blob("new")])),
        (add(5), add(1), (1, Vec::new())),
        (set("old"), set("new"), (0, vec![blob("new")])),
    ];
    cases.into_iter().flat_map(|(first, second, expected)| {
        let timed = (first.clone(), until(UNTIL * 3, second.clone()), expected.clone());
        [(first, second, expected), timed]
    })
}

fn all_written_again() -> Vec<usize> {
    of_each_kind().flat_map(|(first, second, expected)| written_again(&first, &second, &expected)).collect()
}

/// Something that has expired at all three is begun anew at one, and written again at another that has heard of that. The third hears of the
/// second write only. Returns what it sees where that is not what the second sees.
fn heard_of_late(first: &Update, second: &Update) -> Option<(i128, Vec<Blob>)> {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(&until(UNTIL, first.clone()));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    let anew = b.write_at(&Update { expires: None, ..second.clone() }, Some(c.record()), LATER);
    a.learn(&anew);
    let again = a.write_at(second, Some(b.record()), LATER);
    c.learn(&again);
    Some(seen(&c.record(), LATER)).filter(|there| *there != seen(&a.record(), LATER))
}

fn all_heard_of_late() -> Vec<(i128, Vec<Blob>)> {
    of_each_kind().filter_map(|(first, second, _)| heard_of_late(&first, &second)).collect()
}

/// A map that has expired is a set now. Returns what one sees that had the map, hears of the second element only, and has a slow clock.
fn heard_of_with_a_slow_clock() -> Vec<Blob> {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(&until(UNTIL, set("old")));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    let anew = b.write_at(&Update { of_any_kind: true, ..insert("one") }, Some(c.record()), LATER);
    a.learn(&anew);
    c.learn(&a.write_at(&insert("two"), Some(b.record()), LATER));
    seen(&c.record(), Duration::ZERO).1
}

/// Two have something of which the third, `a`, has heard, and not that it was given a time, which is over.
fn expired_unheard(first: &Update) -> [Replica; 3] {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(first);
    all[1..].iter().for_each(|replica| replica.learn(&written));
    c.learn(&b.write(&until(UNTIL, Update::of(first.kind.expect("it has one"), Vec::new()))));
    all
}

/// One adds to what has expired, of which it has not heard, while another that has heard of it adds something, too. Returns where not both
/// are there, or something else is.
fn added_unheard() -> Vec<usize> {
    let cases = [
        (insert("old"), insert("new"), insert("other"), (0, vec![blob("new"), blob("other")])),
        (add(5), add(1), add(10), (11, vec![])),
    ];
    let wrong = cases.map(|(first, second, third, expected)| {
        let all = expired_unheard(&first);
        let [a, b, c] = &all;
        let (written, blind) = a.try_blindly(&second, LATER).expect("nothing expires as far as it knows");
        let said = b.hear(&written, &blind);
        c.learn(&written);
        let other = c.write_at(&third, Some(b.record()), LATER);
        all.iter().for_each(|replica| replica.learn(&other));
        let ended = a.amend_at((&second, LATER), (written, &blind), said);
        let Ok(Amended::Enough(written)) = ended else { panic!("the others have it: {ended:?}") };
        assert_eq!(written.changed, 1);
        (0..3)
            .filter(move |at| seen(&all[*at].record(), LATER) != expected || written.total != expected.0)
            .collect::<Vec<_>>()
    });
    wrong.concat()
}

/// A time is given at one, and nobody has heard of that before it was over and something else was added elsewhere. Returns where that is not
/// there, or what was given the time is.
fn heard_of_too_late() -> Vec<usize> {
    let cases = [
        (insert("old"), insert("timed"), insert("new"), (0, vec![blob("new")])),
        (set("old"), set("timed"), set("new"), (0, vec![blob("new")])),
        (add(5), add(7), add(1), (1, vec![])),
    ];
    // It had no time before, or more.
    let before =
        cases.clone().map(|(first, timed, second, expected)| (until(UNTIL * 9, first), timed, second, expected));
    let wrong = cases.into_iter().chain(before).map(|(first, timed, second, expected)| {
        let all = three();
        let [a, b, c] = &all;
        let written = b.write(&first);
        [a, c].into_iter().for_each(|replica| replica.learn(&written));
        a.write(&until(UNTIL, timed));
        match b.try_blindly(&second, LATER) {
            Some((written, _)) => c.learn(&written),
            None => c.learn(&b.write_at(&second, Some(c.record()), LATER)),
        }
        let heals = a.record();
        [b, c].into_iter().for_each(|replica| replica.take(&heals));
        a.take(&b.record());
        // Whoever writes next knows of all of it.
        let mut wrong: Vec<_> = (0..3).filter(|at| seen(&all[*at].record(), LATER) != expected).collect();
        let removed = c.write_at(&Update { kind: first.kind, ..Update::any() }, Some(a.record()), LATER);
        all.iter().for_each(|replica| replica.learn(&removed));
        wrong.extend((0..3).filter(|at| seen(&all[*at].record(), LATER) != expected));
        wrong
    });
    wrong.collect::<Vec<_>>().concat()
}

/// One that has not heard that a counter was deleted adds to it, as whoever coordinates does. Returns where the sum is wrong.
fn counted_unheard() -> Vec<usize> {
    let all = three();
    let [a, b, c] = &all;
    let written = c.write(&add(5));
    [a, b].into_iter().for_each(|replica| replica.learn(&written));
    let delete = Update { clears: true, ..Update::of(Kind::Counter, Vec::new()) };
    let deleted = a.write_at(&delete, Some(b.record()), Duration::ZERO);
    b.learn(&deleted);
    match c.try_blindly(&add(1), Duration::ZERO) {
        Some((written, blind)) => {
            let said = b.hear(&written, &blind);
            a.learn(&written);
            assert!(matches!(c.amend(&add(1), (written, &blind), said), Ok(Amended::Enough(_))));
        }
        None => {
            let written = c.write_at(&add(1), Some(b.record()), Duration::ZERO);
            [a, b].into_iter().for_each(|replica| replica.learn(&written));
        }
    }
    (0..3).filter(|at| all[*at].record().total() != 1).collect()
}

#[test]
fn what_had_expired_is_gone_everywhere_when_it_is_written_again() {
    assert_eq!(all_written_again(), []);
}

#[test]
fn what_had_expired_does_not_come_back_at_who_hears_of_a_later_write_first() {
    assert_eq!(all_heard_of_late(), []);
}

#[test]
fn what_had_expired_of_another_kind_is_gone_with_the_first_write_that_is_heard_of() {
    assert_eq!(heard_of_with_a_slow_clock(), [blob("two")]);
}

/// A write that nobody has heard of replaces something, and another after it is heard of: who has what was there keeps that, or has both.
#[test]
fn who_misses_what_replaces_a_value_keeps_the_value() {
    let far = 1_000_000;
    for (first, second, expected) in [
        (set("old"), set("new"), (0, vec![blob("new"), blob("old")])),
        (insert("old"), insert("new"), (0, vec![blob("new"), blob("old")])),
        (add(5), until(far, Update::of(Kind::Counter, Vec::new())), (10, Vec::new())),
    ] {
        for first in [first.clone(), until(far, first)] {
            let all = three();
            let [a, b, _] = &all;
            let written = a.write(&first);
            b.learn(&written);
            a.write(&first);
            b.learn(&a.write(&second));
            assert_eq!(seen(&b.record(), LATER), expected, "{first:?}");
        }
    }
}

/// The time at which something was to expire goes with it, also if it was taken away piece by piece.
#[test]
fn what_begins_anew_begins_without_a_time() {
    for (first, remove) in [(insert("old"), Kind::Set), (set("old"), Kind::Map)] {
        let all = three();
        let [a, b, c] = &all;
        let again = Update { steps: first.steps.clone(), ..Update::of(remove, Vec::new()) };
        let written = a.write(&until(UNTIL, first));
        b.learn(&written);
        let removed = a.write(&Update::of(remove, vec![Step::Remove(blob("old"))]));
        b.learn(&removed);
        let written = b.write_at(&again, Some(a.record()), LATER);
        c.learn(&written);
        for replica in [b, c] {
            assert_eq!(seen(&replica.record(), LATER), (0, vec![blob("old")]), "{remove}");
            assert!(replica.record().expires().is_none_or(|at| at > UNTIL), "{remove}");
        }
    }
}

#[test]
fn what_is_added_to_a_set_that_has_expired_elsewhere_is_there() {
    assert_eq!(added_unheard(), []);
}

#[test]
fn a_counter_that_was_deleted_does_not_come_back_with_what_is_added() {
    assert_eq!(counted_unheard(), []);
}

#[test]
fn a_time_that_nobody_had_heard_of_before_it_was_over_takes_only_what_it_was_given_to() {
    assert_eq!(heard_of_too_late(), []);
}

/// Times are given on two sides: the later one holds for what it covers, and the other for what only that covers.
#[test]
fn of_two_times_at_once_the_later_given_one_holds() {
    let [a, b, c] = three();
    c.learn(&a.write(&insert("old")));
    b.take(&c.record());
    a.write_at(&until(UNTIL, insert("one")), None, Duration::from_millis(1));
    b.write_at(&until(UNTIL * 2, insert("two")), None, Duration::from_millis(2));
    let (one, two) = (a.record(), b.record());
    [&a, &b].into_iter().for_each(|replica| [&one, &two].into_iter().for_each(|record| replica.take(record)));
    let all = ["old", "one", "two"].map(blob);
    for replica in [&a, &b] {
        let record = replica.record();
        assert_eq!((record.expires(), record.next_expiry(0)), (Some(UNTIL * 2), Some(UNTIL)));
        assert_eq!(seen(&record, Duration::from_millis(UNTIL - 1)).1, all);
        assert_eq!(seen(&record, Duration::from_millis(UNTIL)).1, ["old", "two"].map(blob));
        assert_eq!(seen(&record, LATER).1, []);
    }
    // The earlier one was given more time.
    let [a, b, c] = three();
    c.learn(&a.write(&insert("old")));
    b.take(&c.record());
    a.write_at(&until(UNTIL * 3, insert("one")), None, Duration::from_millis(1));
    b.write_at(&until(UNTIL * 2, insert("two")), None, Duration::from_millis(2));
    a.take(&b.record());
    let record = a.record();
    assert_eq!((seen(&record, LATER).1, record.expires()), (vec![blob("one")], Some(UNTIL * 3)));
    // Whoever adds to that adds to what expires then.
    let written = a.write_at(&insert("more"), Some(b.record()), LATER);
    c.learn(&written);
    assert_eq!(seen(&c.record(), LATER).1, ["more", "one"].map(blob));
    assert_eq!(seen(&c.record(), Duration::from_millis(UNTIL * 3)).1, []);
}

/// The same of a counter: of what a replica has counted all goes with the later one.
#[test]
fn of_two_times_of_a_counter_at_once_the_later_given_one_holds() {
    for (first, second) in [(UNTIL, UNTIL * 2), (UNTIL * 2, UNTIL)] {
        let [a, b, c] = three();
        let written = a.write(&add(5));
        [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
        // Only the earlier one has heard of what is added at `a`.
        b.learn(&a.write(&add(100)));
        b.write_at(&until(first, add(20)), None, Duration::from_millis(1));
        c.write_at(&until(second, add(3)), None, Duration::from_millis(2));
        c.take(&b.record());
        let at = |at: u64| seen(&c.record(), Duration::from_millis(at)).0;
        let between = if first < second { 128 - 20 } else { 20 + 100 };
        assert_eq!((at(UNTIL - 1), at(UNTIL), at(UNTIL * 2)), (128, between, 0), "{first}");
        // Who removes it at one time and then at the other, or only then, has the same.
        let mut late = c.record();
        let mut both = late.clone();
        assert!(both.latch(UNTIL) && both.total() == between && both.latch(UNTIL * 2) && late.latch(UNTIL * 2));
        assert_eq!((both.total(), late.total(), both.is_live()), (0, 0, false));
        both.merge(late.clone());
        late.merge(both.clone());
        assert_eq!((both.total(), both.is_live(), &both), (0, false, &late));
    }
}

/// Two attempts under one idempotency key, of one of which the earlier time has heard, and of the total that it is part of the later one, too.
#[test]
fn what_is_kept_of_a_counter_is_kept_with_the_marks_of_what_counts_once() {
    use crate::record::IdempotencyKey;
    let [a, b, c] = three();
    let written = a.write(&add(5));
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    let once = Update { once: Some(IdempotencyKey::new("once", Duration::ZERO)), ..add(5) };
    let known = Some(c.record());
    b.write_at(&once, known.clone(), Duration::ZERO);
    let never = Update { expires: Some(None), ..Update::of(Kind::Counter, Vec::new()) };
    c.write_at(&never, known.clone(), Duration::from_millis(2));
    a.write_at(&once, known, Duration::ZERO);
    a.write_at(&until(UNTIL, Update::of(Kind::Counter, Vec::new())), None, Duration::from_millis(1));
    [&b, &c].into_iter().for_each(|replica| a.take(&replica.record()));
    let record = a.record();
    assert_eq!((seen(&record, Duration::ZERO).0, seen(&record, LATER).0, record.expires()), (10, 10, None));
}

/// One has missed that times were given on two sides, one of which is over. What it adds expires with what is left.
#[test]
fn what_is_added_where_two_times_were_missed_is_there_until_the_one_that_is_not_over() {
    let [a, b, c] = three();
    let written = a.write(&insert("old"));
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    b.write_at(&until(UNTIL * 3, insert("one")), None, Duration::from_millis(1));
    c.write_at(&until(UNTIL * 2, insert("two")), None, Duration::from_millis(2));
    b.take(&c.record());
    let (written, blind) = a.try_blindly(&insert("new"), LATER).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    let Ok(Amended::Further(written)) = a.amend_at((&insert("new"), LATER), (written, &blind), said) else {
        panic!("it is told again");
    };
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    for replica in [a, b, c] {
        let record = replica.record();
        assert_eq!((seen(&record, LATER).1, record.expires()), (["new", "one"].map(blob).to_vec(), Some(UNTIL * 3)));
    }
}

/// Of two last values that were put at once the later one has expired at who has not met the other.
#[test]
fn what_was_lost_to_a_last_value_does_not_show_when_that_has_expired() {
    let put = |text: &str| Update::put(Kind::LastWriterWins, Some(blob(text)));
    let [a, b, c] = three();
    a.write_at(&put("loser"), None, Duration::from_millis(1));
    b.write_at(&until(UNTIL, put("winner")), None, Duration::from_millis(2));
    c.take(&b.record());
    for replica in [&b, &c] {
        replica.store.expire(LATER);
        replica.take(&a.record());
        replica.store.expire(LATER);
        assert!(!replica.record().seen_at(200).is_live());
    }
    let written = c.write_at(&put("new"), Some(b.record()), LATER);
    a.learn(&written);
    assert_eq!(a.record().seen_at(200).values(), [&blob("new")]);
}

/// A writer is slow: when it writes, what it has read has expired, and meanwhile somebody has given that more time.
#[test]
fn what_is_given_more_time_before_it_has_expired_stays_however_slow_another_writer_is() {
    for (first, second, expected) in
        [(insert("x"), insert("y"), (0, vec![blob("x"), blob("y")])), (add(5), add(1), (6, Vec::new()))]
    {
        let all = three();
        let [a, b, c] = &all;
        let written = a.write(&until(UNTIL, first.clone()));
        all[1..].iter().for_each(|replica| replica.learn(&written));
        let known = Some(Known { record: b.record(), asked: Duration::from_millis(UNTIL - 1) });
        let kind = first.kind.expect("it has one");
        let never = b.write(&Update { expires: Some(None), ..Update::of(kind, Vec::new()) });
        c.learn(&never);
        let write = Write { update: &second, context: None, known, wall: LATER };
        let written = a.store.write(a.shard, KEY, write, a.named).expect("there is room");
        [b, c].into_iter().for_each(|replica| replica.learn(&written));
        a.learn(&never);
        for replica in &all {
            assert_eq!(seen(&replica.record(), Duration::from_millis(UNTIL - 1)), expected);
            assert_eq!(seen(&replica.record(), LATER), expected, "also what was added to it in between");
        }
    }
}

/// All of a set was taken away, of which one has heard afterwards, and not that it had a time.
#[test]
fn what_was_to_expire_and_is_gone_gives_no_time_to_what_comes_then() {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(&insert("x"));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    b.learn(&a.write(&until(UNTIL, Update::of(Kind::Set, Vec::new()))));
    b.learn(&a.write(&Update::of(Kind::Set, vec![Step::Remove(blob("x"))])));
    let (written, blind) = c.try_blindly(&insert("y"), Duration::ZERO).expect("nothing expires as far as it knows");
    let said = a.hear(&written, &blind);
    b.learn(&written);
    assert!(matches!(c.amend(&insert("y"), (written, &blind), said), Ok(Amended::Enough(_))));
    let written = a.write_at(&insert("w"), Some(b.record()), Duration::ZERO);
    [b, c].into_iter().for_each(|replica| replica.learn(&written));
    for replica in &all {
        assert_eq!(seen(&replica.record(), LATER).1, ["w", "y"].map(blob));
        assert_eq!(replica.record().seen_at(200).expires(), None);
    }
}

/// Two add to what is to expire at the same time, again and again: all of it expires.
#[test]
fn what_two_add_at_the_same_time_expires_however_much_it_is() {
    for (first, each) in [(insert("x"), 1), (add(1), 1)] {
        let [a, b, c] = three();
        a.write(&until(UNTIL, first.clone()));
        [&b, &c].into_iter().for_each(|replica| replica.take(&a.record()));
        for round in 0..80 {
            let more = |name: &str| match first.kind {
                Some(Kind::Set) => insert(&format!("{name}{round}")),
                _ => add(each),
            };
            let known = c.record();
            let (one, two) = (
                a.write_at(&more("a"), Some(known.clone()), Duration::ZERO),
                b.write_at(&more("b"), Some(known), Duration::ZERO),
            );
            [&a, &b, &c]
                .into_iter()
                .for_each(|replica| [&one, &two].into_iter().for_each(|written| replica.learn(written)));
        }
        let record = c.record();
        assert_eq!((record.elements().count() as i128 + record.total(), record.expires()), (161, Some(UNTIL)));
        assert_eq!(seen(&record, LATER), (0, Vec::new()));
    }
}

/// Two additions of one that has missed a time are on their way at once, and are heard of the other way round.
#[test]
fn what_is_added_twice_where_a_time_to_come_was_missed_expires_both_times() {
    for in_order in [false, true] {
        let all = expired_unheard(&insert("x"));
        let [a, b, c] = &all;
        let updates = ["one", "two"].map(insert);
        let written =
            [0, 1].map(|at| a.try_blindly(&updates[at], Duration::ZERO).expect("nothing expires as far as it knows"));
        let order = if in_order { [0, 1] } else { [1, 0] };
        let mut said = order.map(|at| (at, b.hear(&written[at].0, &written[at].1)));
        said.sort_by_key(|(at, _)| *at);
        for ((written, blind), ((_, said), update)) in written.into_iter().zip(said.into_iter().zip(&updates)) {
            let ended = a.amend(update, (written, &blind), said).expect("there is room");
            let (Amended::Further(written) | Amended::Enough(written)) = ended else { panic!("{ended:?}") };
            [b, c].into_iter().for_each(|replica| replica.learn(&written));
        }
        for replica in &all {
            let record = replica.record();
            assert_eq!((record.elements().count(), record.expires()), (3, Some(UNTIL)), "{in_order}");
        }
    }
}

/// While one waits for what others say of its addition, it hears of another that was added when the time was over, by who had missed that.
#[test]
fn what_is_heard_of_meanwhile_keeps_its_own_time() {
    for (first, second, third, expected) in [
        (insert("x"), insert("one"), insert("two"), (0, vec![blob("two")])),
        (add(5), add(1), add(10), (10, Vec::new())),
    ] {
        let [a, b, c] = three();
        let written = c.write(&first);
        [&a, &b].into_iter().for_each(|replica| replica.learn(&written));
        a.write(&until(UNTIL, Update::of(first.kind.expect("it has one"), Vec::new())));
        let (written, blind) = b.try_blindly(&second, Duration::ZERO).expect("nothing expires as far as it knows");
        let said = a.hear(&written, &blind);
        let (other, _) = c.try_blindly(&third, LATER).expect("nothing expires as far as it knows");
        b.learn(&other);
        let Ok(Amended::Further(written)) = b.amend(&second, (written, &blind), said) else {
            panic!("it is told again")
        };
        [&a, &c].into_iter().for_each(|replica| replica.learn(&written));
        a.learn(&other);
        for replica in [&a, &b, &c] {
            assert_eq!(seen(&replica.record(), LATER), expected);
        }
    }
}

/// Two have given times at once, and a third adds to what it has heard of both.
#[test]
fn what_is_added_without_a_time_changes_none() {
    for (early, late) in [(Some(UNTIL * 9), UNTIL), (None, UNTIL), (Some(UNTIL), UNTIL * 9)] {
        let [a, b, c] = three();
        b.write_at(&Update { expires: Some(early), ..insert("x") }, None, Duration::from_millis(1));
        c.write_at(&until(late, insert("z")), None, Duration::from_millis(2));
        c.take(&b.record());
        a.take(&c.record());
        a.write_at(&insert("w"), Some(b.record()), Duration::from_millis(3));
        let there_at = |at: u64| seen(&a.record(), Duration::from_millis(at)).1;
        let (x, wz) = (vec![blob("x")], vec![blob("w"), blob("z")]);
        let between = if early.is_none_or(|early| early > late) { x } else { wz };
        assert_eq!((there_at(UNTIL - 1).len(), there_at(UNTIL)), (3, between), "{early:?} {late}");
    }
}

/// The same of a counter. What is added by who has counted something goes with that, and by who has not with what was decided last.
#[test]
fn what_is_added_to_a_counter_without_a_time_changes_none() {
    for (early, late) in [(Some(UNTIL * 9), UNTIL), (None, UNTIL), (Some(UNTIL), UNTIL * 9)] {
        let [a, b, c] = three();
        b.learn(&a.write(&add(5)));
        b.write_at(&Update { expires: Some(early), ..add(20) }, None, Duration::from_millis(1));
        // It has not heard of any of that.
        c.write_at(&until(late, add(300)), None, Duration::from_millis(2));
        [&a, &b].into_iter().for_each(|replica| replica.take(&c.record()));
        a.take(&b.record());
        b.take(&a.record());
        let there_at = |replica: &Replica, at: u64| seen(&replica.record(), Duration::from_millis(at)).0;
        let between = |late_ones: i128, early_ones: i128| {
            if early.is_none_or(|early| early > late) { early_ones } else { late_ones }
        };
        a.write_at(&add(1_000), Some(b.record()), Duration::from_millis(3));
        assert_eq!((there_at(&a, UNTIL - 1), there_at(&a, UNTIL)), (1_325, between(300, 1_025)), "{early:?} {late}");
        let other = Replica::new("d4");
        other.take(&b.record());
        other.write_at(&add(1_000), None, Duration::from_millis(3));
        assert_eq!((there_at(&other, UNTIL - 1), there_at(&other, UNTIL)), (1_325, between(1_300, 25)), "{early:?}");
    }
}

/// A counter is deleted by who has not heard of a time that it was given.
#[test]
fn a_time_of_what_a_replica_had_counted_is_none_of_what_it_counts_then() {
    let [a, b, c] = three();
    let first = a.write(&add(5));
    [&b, &c].into_iter().for_each(|replica| replica.learn(&first));
    let unheard = c.write_at(&until(UNTIL, Update::of(Kind::Counter, Vec::new())), None, Duration::from_millis(1));
    a.learn(&b.write(&Update { clears: true, ..Update::of(Kind::Counter, Vec::new()) }));
    a.write(&add(7));
    a.learn(&unheard);
    a.write_at(&add(10), Some(b.record()), Duration::from_millis(2));
    c.take(&a.record());
    for replica in [&a, &c] {
        let record = replica.record();
        assert_eq!((record.expires(), seen(&record, Duration::ZERO).0, seen(&record, LATER).0), (None, 17, 17));
    }
}

/// Of two additions that are on their way at once one hears of a time, and only what it has added itself goes then: not what was added
/// after it, nor what was counted anew after a delete.
#[test]
fn what_was_added_after_it_does_not_go_with_what_an_addition_is_told_of() {
    let retime = until(UNTIL, Update::of(Kind::Counter, Vec::new()));
    for deleted in [false, true] {
        let [a, b, c] = three();
        let first = a.write(&add(5));
        [&b, &c].into_iter().for_each(|replica| replica.learn(&first));
        b.write(&retime);
        let (one, blind) = a.try_blindly(&add(1), Duration::ZERO).expect("nothing expires as far as it knows");
        let said = b.hear(&one, &blind);
        c.learn(&one);
        if deleted {
            let clear = Update { clears: true, ..Update::of(Kind::Counter, Vec::new()) };
            a.learn(&c.write_at(&clear, Some(a.record()), Duration::ZERO));
        }
        let (two, _) = a.try_blindly(&add(10), Duration::ZERO).expect("nothing expires as far as it knows");
        c.learn(&two);
        let Ok(Amended::Further(ended) | Amended::Enough(ended)) = a.amend(&add(1), (one, &blind), said) else {
            panic!("there is room")
        };
        [&b, &c].into_iter().for_each(|replica| replica.learn(&ended));
        b.take(&c.record());
        for replica in [&a, &b, &c] {
            let record = replica.record();
            assert_eq!((seen(&record, LATER).0, record.expires()), (10, None), "{deleted}");
        }
        // It has heard of the time now, and all that it has counted goes together.
        a.write(&add(100));
        assert_eq!(seen(&a.record(), LATER).0, if deleted { 110 } else { 0 });
    }
}

/// Three give times to what each knows of what one has counted. Whatever was removed before, the same is there.
#[test]
fn of_three_times_of_a_counter_the_one_that_knows_most_takes_the_rest() {
    let [a, b, c] = three();
    let retime = |replica: &Replica, at: u64, stamp: u64| {
        replica.write_at(&until(at, Update::of(Kind::Counter, Vec::new())), None, Duration::from_millis(stamp))
    };
    a.write(&add(5));
    c.take(&a.record());
    a.write(&add(10));
    b.take(&a.record());
    a.write(&add(100));
    retime(&a, 60, 1);
    retime(&c, 900, 2);
    retime(&b, 50, 3);
    [&b, &c].into_iter().for_each(|replica| a.take(&replica.record()));
    let there_at = |at: u64| seen(&a.record(), Duration::from_millis(at)).0;
    assert_eq!((there_at(49), there_at(50), there_at(60), a.record().expires()), (115, 100, 0, Some(60)));
    let mut removed = a.record();
    assert!(removed.latch(70) && !removed.clone().latch(70) && removed.total() == 0);
}

/// One hears of two times at once, of which one is over. What that covers is gone, and stays so when the other covers what was added.
#[test]
fn what_is_over_stays_gone_when_another_time_covers_what_is_added() {
    let [a, b, c] = three();
    b.learn(&a.write(&add(5)));
    b.write_at(&until(UNTIL, Update::of(Kind::Counter, Vec::new())), None, Duration::from_millis(1));
    c.write_at(&until(UNTIL * 9, add(300)), None, Duration::from_millis(2));
    b.take(&c.record());
    assert_eq!(seen(&b.record(), LATER).0, 300);
    let (written, blind) = a.try_blindly(&add(1), LATER).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    let Ok(Amended::Further(written)) = a.amend_at((&add(1), LATER), (written, &blind), said) else {
        panic!("it is told again")
    };
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    for replica in [&a, &b, &c] {
        assert_eq!((seen(&replica.record(), LATER).0, replica.record().seen_at(200).expires()), (301, Some(UNTIL * 9)));
    }
}

/// Two give times at once and as of the same time: what is added does not turn round which of them holds.
#[test]
fn of_two_times_as_of_the_same_time_the_longer_holds_also_for_who_adds_something() {
    for (here, there) in [(UNTIL, UNTIL * 9), (UNTIL * 9, UNTIL)] {
        for adds_at in 0..3 {
            let all = three();
            let written = all[0].write(&insert("x"));
            all[1..].iter().for_each(|replica| replica.learn(&written));
            let retime = |replica: &Replica, at: u64| replica.write(&until(at, Update::of(Kind::Set, Vec::new())));
            let (one, two) = (retime(&all[1], here), retime(&all[2], there));
            all.iter().for_each(|replica| [&one, &two].into_iter().for_each(|written| replica.learn(written)));
            let written = all[adds_at].write(&insert("y"));
            all.iter().for_each(|replica| replica.learn(&written));
            for replica in &all {
                assert_eq!((seen(&replica.record(), LATER).1.len(), replica.record().expires()), (2, Some(UNTIL * 9)));
            }
        }
    }
}

/// While an addition is on its way, what was added is given a time by who has not heard of the one of which that hears.
#[test]
fn what_was_given_a_time_meanwhile_keeps_it() {
    let [a, b, c] = three();
    let first = a.write(&insert("x"));
    [&b, &c].into_iter().for_each(|replica| replica.learn(&first));
    let retime = |replica: &Replica, at: u64, stamp: u64| {
        replica.write_at(&until(at, Update::of(Kind::Set, Vec::new())), None, Duration::from_millis(stamp))
    };
    retime(&b, UNTIL, 9);
    let (written, blind) = a.try_blindly(&insert("y"), Duration::ZERO).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    c.learn(&retime(&a, UNTIL * 9, 8));
    let ended = a.amend(&insert("y"), (written, &blind), said);
    let Ok(Amended::Further(written) | Amended::Enough(written)) = ended else { panic!("{ended:?}") };
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    for replica in [&a, &b, &c] {
        assert_eq!(seen(&replica.record(), LATER).1, [blob("y")]);
        assert_eq!(replica.record().expires(), Some(UNTIL * 9));
    }
    // Two additions to a counter hear of two times, the second one only of what was decided about something else.
    let [a, b, c] = three();
    a.write(&add(5));
    b.take(&a.record());
    b.write_at(&until(UNTIL * 9, Update::of(Kind::Counter, Vec::new())), None, Duration::from_millis(1));
    c.write_at(&until(UNTIL, add(300)), None, Duration::from_millis(2));
    let (one, blind_one) = a.try_blindly(&add(1), Duration::ZERO).expect("nothing expires as far as it knows");
    let (two, blind_two) = a.try_blindly(&add(1), Duration::ZERO).expect("nothing expires as far as it knows");
    for ((written, blind), other) in [(one, blind_one), (two, blind_two)].into_iter().zip([&b, &c]) {
        let said = other.hear(&written, &blind);
        assert!(matches!(a.amend(&add(1), (written, &blind), said), Ok(Amended::Further(_))));
    }
    assert_eq!((seen(&a.record(), LATER).0, a.record().expires()), (7, Some(UNTIL * 9)));
}

/// One adds again all that there is, and has missed that it was given a time.
#[test]
fn what_is_added_again_where_a_time_to_come_was_missed_expires_then() {
    let all = expired_unheard(&insert("x"));
    let [a, b, c] = &all;
    let (written, blind) = a.try_blindly(&insert("x"), Duration::ZERO).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    let Ok(Amended::Further(written)) = a.amend(&insert("x"), (written, &blind), said) else {
        panic!("it is told again")
    };
    [b, c].into_iter().for_each(|replica| replica.learn(&written));
    for replica in &all {
        let record = replica.record();
        assert_eq!((record.expires(), seen(&record, Duration::ZERO).1), (Some(UNTIL), vec![blob("x")]));
    }
}

/// What is to expire is given more time while another, who has not heard of that, adds to it, or writes it again: none of it goes earlier.
#[test]
fn what_is_added_while_there_is_given_more_time_has_more_time() {
    let field = |value: &str| Update::of(Kind::Map, vec![Step::Set(blob("f"), blob(value))]);
    for (first, second, there) in [
        (insert("x"), insert("x"), (0, vec![blob("x")])),
        (insert("x"), insert("y"), (0, vec![blob("x"), blob("y")])),
        (field("one"), field("two"), (0, vec![blob("f")])),
        (add(5), add(1), (6, vec![])),
    ] {
        for more in [Some(UNTIL * 9), None] {
            let [a, b, c] = three();
            let written = a.write(&until(UNTIL, first.clone()));
            [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
            let kind = first.kind.expect("it has one");
            b.write_at(&Update { expires: Some(more), ..Update::of(kind, Vec::new()) }, None, Duration::from_millis(1));
            a.write_at(&second, Some(c.record()), Duration::from_millis(2));
            a.take(&b.record());
            b.take(&a.record());
            // What comes then goes with that, too.
            let third = if kind == Kind::Counter { add(0) } else { second.clone() };
            c.take(&b.record());
            c.write_at(&third, Some(b.record()), Duration::from_millis(3));
            for replica in [&a, &b, &c] {
                let record = replica.record();
                assert_eq!((&seen(&record, LATER), record.expires()), (&there, more));
                assert_eq!(record.next_expiry(0), more, "and nothing happens before");
            }
        }
    }
}

/// Two attempts under one idempotency key, then a time by one who has heard of neither, then an addition by one who has tried.
#[test]
fn the_marks_of_what_counts_once_go_with_all_that_their_replica_has_counted() {
    use crate::record::IdempotencyKey;
    let [a, b, c] = three();
    let tried = Update { once: Some(IdempotencyKey::new(b"k", Duration::ZERO)), ..add(5) };
    [&a, &b].into_iter().for_each(|replica| drop(replica.write(&tried)));
    c.write_at(&until(UNTIL, add(100)), None, Duration::from_millis(1));
    a.take(&c.record());
    a.write_at(&add(1), None, Duration::from_millis(2));
    a.take(&b.record());
    b.take(&a.record());
    assert_eq!((seen(&a.record(), Duration::ZERO).0, seen(&a.record(), LATER).0), (106, 5));
    b.write_at(&add(1), None, Duration::from_millis(3));
    assert_eq!((seen(&b.record(), Duration::ZERO).0, seen(&b.record(), LATER).0), (107, 0));
    b.write_at(&add(7), Some(a.record()), LATER);
    assert_eq!(seen(&b.record(), LATER).0, 7);
}

/// What was let be covered by a time that is over, or was removed with all, goes with no later time that has nothing to do with that.
#[test]
fn what_had_a_time_that_is_over_does_not_come_back_with_the_next_one() {
    let insert_until = |at: Option<u64>| Update { expires: Some(at), ..insert("y") };
    for deleted in [false, true] {
        for next in [Some(UNTIL * 9), None] {
            let all = three();
            let [a, b, c] = &all;
            let written = a.write(&until(UNTIL, insert("x")));
            [b, c].into_iter().for_each(|replica| replica.learn(&written));
            b.write(&insert("z"));
            if deleted {
                let clear = Update { clears: true, ..Update::of(Kind::Set, Vec::new()) };
                c.learn(&a.write_at(&clear, Some(c.record()), Duration::from_millis(1)));
            }
            c.learn(&a.write_at(&insert_until(next), Some(c.record()), LATER));
            a.take(&b.record());
            [b, c].into_iter().for_each(|replica| replica.take(&a.record()));
            for replica in &all {
                let record = replica.record();
                assert_eq!((seen(&record, LATER).1, record.expires()), (vec![blob("y")], next), "{deleted}");
                assert!(seen(&record, Duration::from_millis(UNTIL - 1)).1.contains(&blob("z")));
            }
        }
    }
}

/// What was to stay is taken away, bit by bit. Its time, and that which it had before, are none of what comes then.
#[test]
fn what_was_let_stay_and_was_taken_away_has_nothing_to_do_with_what_comes_then() {
    let [a, b, c] = three();
    let written = a.write(&until(UNTIL, insert("x")));
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    c.write(&insert("z"));
    a.write(&Update { expires: Some(None), ..Update::of(Kind::Set, Vec::new()) });
    a.write(&Update::of(Kind::Set, vec![Step::Remove(blob("x"))]));
    a.write_at(&until(UNTIL * 9, insert("y")), Some(b.record()), Duration::from_millis(1));
    a.take(&c.record());
    assert_eq!(seen(&a.record(), LATER).1, [blob("y")]);
}

/// Two give what had a time another at once, and one of them adds something, where a third has added something under the first.
#[test]
fn what_goes_with_a_time_does_so_whoever_adds_something_else() {
    let [a, b, c] = three();
    let written = a.write(&until(UNTIL * 5, insert("x")));
    [&b, &c].into_iter().for_each(|replica| replica.learn(&written));
    let retime = |replica: &Replica, at: u64, stamp: u64| {
        replica.write_at(&until(at, Update::of(Kind::Set, Vec::new())), None, Duration::from_millis(stamp));
    };
    c.write_at(&insert("z"), None, Duration::from_millis(1));
    retime(&a, UNTIL, 2);
    retime(&b, UNTIL * 9, 3);
    a.take(&c.record());
    a.write_at(&insert("w"), None, Duration::from_millis(4));
    a.take(&b.record());
    let record = a.record();
    assert_eq!((seen(&record, LATER).1, record.expires()), (["x", "z"].map(blob).to_vec(), Some(UNTIL * 9)));
}

/// What is removed first leaves no time behind as of which others write: a later write is later than that.
#[test]
fn what_is_written_over_what_has_expired_is_later_than_that() {
    let put = |text: &str| Update::put(Kind::LastWriterWins, Some(blob(text)));
    let [a, b, c] = three();
    // By a clock that was ahead.
    a.write_at(&until(UNTIL, put("old")), None, Duration::ZERO);
    let ahead = Duration::from_secs(3600);
    a.write_at(&until(ahead.as_millis() as u64 + 1, put("old")), None, ahead);
    let short = until(UNTIL, Update::of(Kind::LastWriterWins, Vec::new()));
    a.write(&short);
    [&b, &c].into_iter().for_each(|replica| replica.take(&a.record()));
    // Nobody hears of it.
    b.write(&Update { expires: Some(None), ..short });
    let written = c.write_at(&put("new"), Some(a.record()), LATER);
    a.learn(&written);
    b.take(&a.record());
    a.take(&b.record());
    for replica in [&a, &b] {
        assert_eq!(replica.record().seen_at(200).values(), [&blob("new")]);
    }
}

/// It would cover what was written after its time.
#[test]
fn a_write_whose_time_has_passed_is_refused() {
    let [a, ..] = three();
    a.write(&insert("old"));
    let late = until(UNTIL, insert("late"));
    let wall = Duration::from_millis(UNTIL);
    for known in [None, Some(Known { record: Record::default(), asked: wall })] {
        let write = Write { update: &late, context: None, known, wall };
        assert!(matches!(a.store.write(a.shard, KEY, write, a.named), Err(WriteError::Late)));
    }
    assert_eq!(seen(&a.record(), Duration::ZERO).1, [blob("old")]);
}

/// A time that is yet to come is heard of, and told to who has missed it, too.
#[test]
fn what_is_added_where_a_time_to_come_was_missed_is_there_until_then() {
    for (first, second, expected) in
        [(add(5), add(1), (6, vec![])), (insert("x"), insert("y"), (0, vec![blob("x"), blob("y")]))]
    {
        let all = three();
        let [a, b, c] = &all;
        let written = a.write(&first);
        all[1..].iter().for_each(|replica| replica.learn(&written));
        b.write(&until(UNTIL * 9, Update::of(first.kind.expect("it has one"), Vec::new())));
        let (written, blind) = a.try_blindly(&second, LATER).expect("nothing expires as far as it knows");
        let said = b.hear(&written, &blind);
        let Ok(Amended::Further(written)) = a.amend_at((&second, LATER), (written, &blind), said) else {
            panic!("it is told again");
        };
        assert_eq!((written.changed, written.total), (1, expected.0));
        c.learn(&written);
        assert_eq!((seen(&c.record(), LATER), seen(&c.record(), LATER * 9).0), (expected, 0));
    }
}

/// The answer is slow, and meanwhile somebody has seen what was added, and removed it.
#[test]
fn what_is_added_and_removed_before_the_answer_stays_removed() {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(&insert("old"));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    c.learn(&b.write(&until(UNTIL * 9, Update::of(Kind::Set, Vec::new()))));
    let (written, blind) = a.try_blindly(&insert("new"), LATER).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    c.learn(&written);
    let removed = b.write(&Update::of(Kind::Set, vec![Step::Remove(blob("new"))]));
    c.learn(&removed);
    if let Ok(Amended::Further(written) | Amended::Enough(written)) =
        a.amend_at((&insert("new"), LATER), (written, &blind), said)
    {
        [b, c].into_iter().for_each(|replica| replica.learn(&written));
    }
    [b, c].into_iter().for_each(|replica| assert_eq!(seen(&replica.record(), LATER).1, [blob("old")]));
}

#[test]
fn these_tests_catch_their_faults() {
    let is_caught = |fault, test: fn() -> Vec<usize>| {
        mutation::set(Some(fault));
        let wrong = test();
        mutation::set(None);
        assert_ne!(wrong, [], "{fault}");
    };
    is_caught(Mutation::TellsTheStepOnly, all_written_again);
    is_caught(Mutation::TellsTheStepOnly, || vec![0; all_heard_of_late().len()]);
    is_caught(Mutation::TellsTheStepOnly, || vec![0; usize::from(heard_of_with_a_slow_clock() != [blob("two")])]);
    is_caught(Mutation::ExpiresUnseen, added_unheard);
    is_caught(Mutation::ExpiresUnseen, heard_of_too_late);
    is_caught(Mutation::BringsBackCounts, counted_unheard);
}
