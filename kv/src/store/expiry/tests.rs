//! Counters, sets and maps that expire or are deleted, and are written again: what was there before stays gone everywhere, and what is
//! written then is there everywhere (K3, K5).

use std::time::Duration;

use polity_cluster::mutation::{self, Mutation};

use crate::record::{Blob, Kind, Record, Step, Update};
use crate::store::replica::Replica;
use crate::store::{Amended, WriteError};

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

/// One adds to a set of which it has not heard that it has expired, while another that has heard of it adds something, too. Returns where
/// not both are there, and nothing else, if it is said to be.
fn added_unheard() -> Vec<usize> {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(&insert("old"));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    let timed = b.write_at(&until(UNTIL, Update::of(Kind::Set, Vec::new())), Some(c.record()), Duration::ZERO);
    c.learn(&timed);

    let (written, blind) = a.try_blindly(&insert("new"), LATER).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    c.learn(&written);
    let other = c.write_at(&insert("other"), Some(b.record()), LATER);
    all.iter().for_each(|replica| replica.learn(&other));
    // Who added what has found the old may have taken it away with that.
    if matches!(a.amend_at((&insert("new"), LATER), (written, &blind), said), Err(WriteError::ExpiredMeanwhile)) {
        return Vec::new();
    }
    let expected = (0, vec![blob("new"), blob("other")]);
    (0..3).filter(|at| seen(&all[*at].record(), LATER) != expected).collect()
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

/// Another may have removed it with what had expired, and it is part of a total: it is not added twice, and not lost in silence.
#[test]
fn the_outcome_of_what_is_added_to_a_counter_that_has_expired_elsewhere_is_unknown() {
    let all = three();
    let [a, b, c] = &all;
    let written = a.write(&add(5));
    all[1..].iter().for_each(|replica| replica.learn(&written));
    let timed = b.write_at(&until(UNTIL, Update::of(Kind::Counter, Vec::new())), Some(c.record()), Duration::ZERO);
    c.learn(&timed);
    let (written, blind) = a.try_blindly(&add(1), LATER).expect("nothing expires as far as it knows");
    let said = b.hear(&written, &blind);
    let ended = a.amend_at((&add(1), LATER), (written, &blind), said);
    assert!(matches!(ended, Err(WriteError::ExpiredMeanwhile)), "{ended:?}");
    // It was done this time, and what had expired does not come back with it.
    c.write_at(&add(10), Some(a.record()), LATER);
    all.iter().for_each(|replica| replica.take(&c.record()));
    all.iter().for_each(|replica| assert_eq!(seen(&replica.record(), LATER).0, 11));
}

/// Of five, `a` has missed that a set was given a time, and that it was begun anew or all of it taken away. Somebody may have found what it adds
/// with what has expired, and removed that.
#[test]
fn the_outcome_of_what_is_added_to_what_was_begun_anew_elsewhere_is_unknown() {
    for is_emptied in [false, true] {
        let all = ["a1", "b2", "c3", "d4", "e5"].map(Replica::new);
        let [a, b, c, d, e] = &all;
        let written = a.write(&insert("old"));
        all[1..].iter().for_each(|replica| replica.learn(&written));
        let timed = b.write(&until(UNTIL, Update::of(Kind::Set, Vec::new())));
        [c, d, e].into_iter().for_each(|replica| replica.learn(&timed));
        if is_emptied {
            c.write(&Update::of(Kind::Set, vec![Step::Remove(blob("old"))]));
        } else {
            c.write_at(&insert("anew"), Some(d.record()), LATER);
        }
        let (written, blind) = a.try_blindly(&insert("new"), LATER).expect("nothing expires as far as it knows");
        let said: Vec<_> = [b, c].map(|replica| replica.hear(&written, &blind)).into_iter().flatten().collect();
        let ended = a.amend_at((&insert("new"), LATER), (written, &blind), said);
        assert!(matches!(ended, Err(WriteError::ExpiredMeanwhile)), "{ended:?}");
    }
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
    is_caught(Mutation::AddsToWhatIsGone, added_unheard);
    is_caught(Mutation::BringsBackCounts, counted_unheard);
}
