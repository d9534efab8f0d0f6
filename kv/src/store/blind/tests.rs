//! What a write ends with that asks nobody first, and learns afterwards what others had.

use std::time::Duration;

use super::{Amended, Blind, Said};
use crate::record::{self, Blob, Kind, Record, Step, Update};
use crate::store::replica::{KEY, Replica};
use crate::store::{Known, Write, WriteError, Written};

fn insert(text: &str) -> Update {
    Update::of(Kind::Set, vec![Step::Insert(Blob::from(text.as_bytes().to_vec()))])
}

/// Two that have the same, and then one that has more.
fn one_that_lags() -> (Replica, Replica) {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&insert("old"));
    b.take(&a.record());
    b.write(&insert("unseen"));
    (a, b)
}

#[test]
fn one_that_knows_all_is_told_nothing() {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&insert("old"));
    b.take(&a.record());
    let (written, blind) = a.write_blindly(&insert("new"));
    assert!(b.hear(&written, &blind).is_none());
    assert_eq!((a.record(), a.record().elements().count()), (b.record(), 2));
}

#[test]
fn one_that_lags_learns_what_its_write_has_come_to() {
    let (a, b) = one_that_lags();
    let (written, blind) = a.write_blindly(&insert("unseen"));
    assert_eq!(written.changed, 1, "as far as it knows");
    let said = b.hear(&written, &blind).expect("it had something else");
    let Ok(Amended::Enough(written)) = a.amend(&insert("unseen"), (written, &blind), [said]) else { panic!("a set") };
    assert_eq!((written.changed, a.record().elements().count()), (0, 2));
    assert!(written.context.covers(b.record().context()));
}

#[test]
fn what_may_replace_something_and_the_first_write_of_a_set_ask_first() {
    let (a, _) = one_that_lags();
    let remove = Update::of(Kind::Set, vec![Step::Remove(Blob::from(b"old".to_vec()))]);
    let clear = Update { clears: true, ..Update::of(Kind::Set, Vec::new()) };
    for update in [remove, clear] {
        assert!(a.store.write_blindly(a.shard, KEY, &update, Duration::ZERO, a.named).expect("works").is_none());
    }
    let empty = Replica::new("c3");
    let written = empty.store.write_blindly(empty.shard, KEY, &insert("x"), Duration::ZERO, empty.named);
    assert!(written.expect("works").is_none() && empty.record() == Record::default());
}

#[test]
fn the_first_put_of_a_key_asks_nobody_and_takes_away_what_only_others_had() {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    let (written, blind) = a.write_blindly(&put("first"));
    assert!(b.hear(&written, &blind).is_none(), "it has nothing either");
    let ended = a.amend(&put("first"), (written, &blind), []);
    let Ok(Amended::Enough(written)) = ended else { panic!("{ended:?}") };
    a.land(&written);
    assert_eq!((a.record(), values(&b.record())), (b.record(), vec!["first".to_owned()]));

    let c = Replica::new("c3");
    let (written, blind) = c.write_blindly(&put("second"));
    let said = a.hear(&written, &blind);
    let Ok(Amended::Further(written)) = c.amend(&put("second"), (written, &blind), said) else { panic!("it had one") };
    b.take(&record::decode(&written.record).expect("a record"));
    assert_eq!(values(&b.record()), ["second"]);
}

#[test]
fn the_first_put_of_a_key_that_is_a_set_elsewhere_says_so() {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&insert("old"));
    let (written, blind) = b.write_blindly(&put("first"));
    let said = a.hear(&written, &blind).expect("it had something else");
    let refused = b.amend(&put("first"), (written, &blind), [said]);
    assert!(matches!(refused, Err(WriteError::WrongKind(Kind::Set))), "{refused:?}");
}

fn put(text: &str) -> Update {
    Update::put(Kind::Causal, Some(Blob::from(text.as_bytes().to_vec())))
}

fn values(record: &Record) -> Vec<String> {
    record.values().into_iter().map(|value| String::from_utf8(value.0.to_vec()).expect("text")).collect()
}

/// Three that have the same value.
fn three() -> [Replica; 3] {
    let all = ["a1", "b2", "c3"].map(Replica::new);
    let written = all[0].write(&put("first"));
    all[0].land(&written);
    all[1..].iter().for_each(|replica| replica.take(&all[0].record()));
    all
}

#[test]
fn a_put_replaces_what_was_acknowledged_elsewhere() {
    let [a, b, c] = three();
    let (unseen, blind) = b.write_blindly(&put("unseen"));
    assert!(c.hear(&unseen, &blind).is_none());
    b.land(&unseen);
    let (written, blind) = a.write_blindly(&put("last"));
    let said = b.hear(&written, &blind);
    let Ok(Amended::Further(written)) = a.amend(&put("last"), (written, &blind), said) else {
        panic!("it has more to say")
    };
    c.take(&record::decode(&written.record).expect("a record"));
    assert_eq!((values(&a.record()), values(&c.record())), (vec!["last".to_owned()], vec!["last".to_owned()]));
    assert!(written.context.covers(&unseen.context));
}

#[test]
fn of_a_value_whose_writer_has_not_answered_everyone_is_asked() {
    let [a, b, c] = three();
    let (unseen, blind) = b.write_blindly(&put("unseen"));
    assert!(c.hear(&unseen, &blind).is_none());
    let (written, blind) = a.write_blindly(&put("last"));
    let said = c.hear(&written, &blind);
    let Ok(Amended::Undecided(written)) = a.amend(&put("last"), (written, &blind), said) else { panic!("who knows") };
    let said = [&b, &c].into_iter().filter_map(|replica| replica.hear(&written, &blind)).collect();
    let update = (&put("last"), Duration::ZERO);
    let amended = a.store.amend((a.shard, KEY), update, (written, &blind), (said, true), a.named);
    assert!(matches!(amended, Ok(Amended::Enough(_))), "it is still being written");
    assert_eq!(values(&a.record()).len(), 2);
}

#[test]
fn two_puts_that_find_each_other_stay_side_by_side() {
    let [a, b, _] = three();
    let ((of_a, blind_a), (of_b, blind_b)) = (a.write_blindly(&put("a")), b.write_blindly(&put("b")));
    let (at_a, at_b) = (a.hear(&of_b, &blind_b), b.hear(&of_a, &blind_a));
    assert!(matches!(a.amend(&put("a"), (of_a, &blind_a), at_b), Ok(Amended::Enough(_))));
    assert!(matches!(b.amend(&put("b"), (of_b, &blind_b), at_a), Ok(Amended::Enough(_))));
    assert_eq!((values(&a.record()).len(), a.record()), (2, b.record()));
}

#[test]
fn a_put_spares_a_value_that_has_replaced_it() {
    let [a, b, c] = three();
    let (of_a, blind_a) = a.write_blindly(&put("a"));
    assert!(c.hear(&of_a, &blind_a).is_none() && b.hear(&of_a, &blind_a).is_none());
    let over = b.write(&put("over"));
    b.land(&over);
    let said = b.hear(&of_a, &blind_a);
    assert!(matches!(a.amend(&put("a"), (of_a, &blind_a), said), Ok(Amended::Enough(_))));
    assert_eq!(values(&a.record()), ["over"]);
}

/// A put, from its beginning to its end.
struct Going {
    at: usize,
    text: String,
    written: Option<Written>,
    blind: Option<Blind>,
    /// To whom it has not been brought yet.
    left: Vec<usize>,
    said: Vec<Said>,
    answers: usize,
    round: Round,
    began: usize,
}

#[derive(PartialEq)]
enum Round {
    First,
    Everyone,
    Further,
}

/// Puts at random at three replicas, whose messages arrive in any order, the last of them or never needed. Returns what is left in
/// the end, and each put with when it began and was over.
fn puts_at_random(seed: u64) -> (Record, Vec<(String, usize, usize)>) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as usize
    };
    // Some begin with a key that is new.
    let replicas = if seed.is_multiple_of(2) { three() } else { ["a1", "b2", "c3"].map(Replica::new) };
    let (mut going, mut over): (Vec<Going>, Vec<(String, usize, usize)>) = (Vec::new(), Vec::new());
    // What goes on arriving after its put is over.
    let mut late: Vec<(usize, Record)> = Vec::new();
    for now in 0..60 {
        if now < 30 && below(3) == 0 && going.len() < 4 {
            let (at, text) = (below(3), format!("{now}"));
            let replica = &replicas[at];
            let (written, blind) = if below(4) == 0 {
                // One that asks a quorum first.
                let mut known = replica.record();
                known.merge(replicas[(at + 1 + below(2)) % 3].record());
                let write = Write {
                    update: &put(&text),
                    context: None,
                    known: Some(Known { record: known, asked: Duration::ZERO }),
                    wall: Duration::ZERO,
                };
                (replica.store.write(replica.shard, KEY, write, replica.named).expect("there is room"), None)
            } else {
                let (written, blind) = replica.write_blindly(&put(&text));
                (written, Some(blind))
            };
            let left = (0..3).filter(|other| *other != at).collect();
            let (said, round) = (Vec::new(), Round::First);
            going.push(Going { at, text, written: Some(written), blind, left, said, answers: 1, round, began: now });
        }
        if !late.is_empty() && below(3) == 0 {
            let (to, record) = late.swap_remove(below(late.len()));
            replicas[to].take(&record);
        }
        if going.is_empty() {
            continue;
        }
        let which = below(going.len());
        let put_of = &mut going[which];
        let replica = &replicas[put_of.at];
        let written = put_of.written.as_ref().expect("it is under way");
        if !put_of.left.is_empty() && below(8) > 0 {
            let to = put_of.left.swap_remove(below(put_of.left.len()));
            match &put_of.blind {
                Some(blind) if put_of.round != Round::Further => put_of.said.extend(replicas[to].hear(written, blind)),
                _ => replicas[to].take(&record::decode(&written.record).expect("a record")),
            }
            put_of.answers += 1;
        }
        let needed = if put_of.round == Round::Everyone { 3 } else { 2 };
        if put_of.answers < needed {
            continue;
        }
        let record = record::decode(&written.record).expect("a record");
        late.extend(put_of.left.drain(..).map(|to| (to, record.clone())));
        let (said, everyone) = (std::mem::take(&mut put_of.said), put_of.round == Round::Everyone);
        let done = match &put_of.blind {
            Some(blind) if put_of.round != Round::Further => {
                let written = put_of.written.take().expect("it is under way");
                let update = put(&put_of.text);
                let of = (replica.shard, KEY);
                match replica.store.amend(
                    of,
                    (&update, Duration::ZERO),
                    (written, blind),
                    (said, everyone),
                    replica.named,
                ) {
                    Ok(Amended::Enough(written)) => Some(written),
                    Ok(Amended::Further(written)) => {
                        (put_of.written, put_of.round) = (Some(written), Round::Further);
                        None
                    }
                    Ok(Amended::Undecided(written)) => {
                        (put_of.written, put_of.round) = (Some(written), Round::Everyone);
                        None
                    }
                    other => panic!("{other:?}"),
                }
            }
            _ => put_of.written.take(),
        };
        match done {
            Some(written) => {
                replica.land(&written);
                let Going { text, began, .. } = going.swap_remove(which);
                over.push((text, began, now));
            }
            None => {
                put_of.left = (0..3).filter(|other| *other != put_of.at).collect();
                put_of.answers = 1;
            }
        }
    }
    let all = late.into_iter().map(|(_, record)| record).chain(replicas.iter().map(Replica::record));
    let mut merged = Record::default();
    all.for_each(|record| {
        merged.merge(record);
    });
    (merged, over)
}

#[test]
fn puts_at_random_never_take_each_other_away_and_leave_nothing_that_was_there_before_them() {
    for seed in 0..5_000 {
        let (left, over) = puts_at_random(seed);
        let left = values(&left);
        assert!(!left.is_empty() || over.is_empty(), "seed {seed}: nothing is left of {over:?}");
        for (text, _, ended) in &over {
            let replaced = over.iter().find(|(_, began, _)| began > ended);
            assert!(!(left.contains(text) && replaced.is_some()), "seed {seed}: {text} is left beside {replaced:?}");
        }
    }
}

#[cfg(feature = "mutations")]
#[test]
fn the_test_of_random_puts_catches_one_that_replaces_what_is_being_written() {
    use polity_cluster::mutation::{self, Mutation};
    mutation::set(Some(Mutation::ReplacesWhatIsBeingWritten));
    let lost = (0..20_000).find(|seed| puts_at_random(*seed).0.values().is_empty());
    mutation::set(None);
    assert!(lost.is_some());
}
