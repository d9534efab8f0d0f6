//! [`DvvSet`] against a model of causal histories, against another implementation, and against the laws of a join.

mod histories;

use crdts::ctx::ReadCtx;
use crdts::{CmRDT, CvRDT, MVReg, VClock};
use histories::{CASES, History, REPLICAS, steps};
use polity_crdt::{Dot, DvvSet, Error, ReplicaId, VersionVector};
use proptest::prelude::*;
use proptest::sample::Index;

const A: ReplicaId = REPLICAS[0];
const B: ReplicaId = REPLICAS[1];

fn merged<'a>(sets: impl IntoIterator<Item = &'a DvvSet<u32>>) -> DvvSet<u32> {
    sets.into_iter().fold(DvvSet::new(), |mut all, set| {
        all.merge(set);
        all
    })
}

fn values(set: &DvvSet<u32>) -> Vec<u32> {
    set.values().copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn reads_equal_the_causal_history_after_every_step(steps in steps()) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
            for (set, model) in history.sets.iter().zip(&history.models) {
                let live = model.live();
                prop_assert!(set.siblings().map(|(dot, value)| (dot, *value)).eq(live.clone()));
                prop_assert!(set.values().eq(live.values()));
                prop_assert_eq!(set.len(), live.len());
                prop_assert_eq!(set.is_empty(), live.is_empty());
                prop_assert_eq!(set.is_bottom(), model.seen.is_empty());
                prop_assert_eq!(set.context(), &model.seen.iter().copied().collect::<VersionVector>());
            }
        }
    }

    #[test]
    fn merge_is_a_join(steps in steps(), picks in prop::array::uniform3(any::<Index>())) {
        let mut history = History::new();
        let mut states = history.sets.clone();
        for step in &steps {
            history.take(step);
            states.extend(history.sets.iter().cloned());
        }
        let [a, b, c] = picks.map(|pick| pick.get(&states));
        let ab = merged([a, b]);
        prop_assert_eq!(&ab, &merged([b, a]));
        prop_assert_eq!(merged([&ab, c]), merged([a, &merged([b, c])]));
        prop_assert_eq!(&merged([a, a]), a);
        let mut again = ab.clone();
        prop_assert!(!again.merge(b) && again == ab, "merging the same again changes nothing");
        let mut moved = a.clone();
        prop_assert_eq!(moved.merge_owned(b.clone()), ab != *a);
        prop_assert_eq!(&moved, &ab);
    }

    /// `MVReg` takes its causality from the clocks of its live values, so it has neither deletes nor contexts with
    /// gaps, and it goes wrong when an actor writes after a stale read of its own. Here each write is an actor of its
    /// own there, and one of a few replicas' writes here.
    #[test]
    fn reads_equal_those_of_mvreg(steps in prop::collection::vec((0..4usize, 0..4usize, any::<Index>(), 0..3u8), 1..40)) {
        let mut sets = vec![DvvSet::new(); REPLICAS.len()];
        let mut registers = vec![MVReg::<u32, u32>::new(); REPLICAS.len()];
        let mut reads = vec![(VersionVector::new(), VClock::new())];
        for (number, (at, from, read, kind)) in (1u32..).zip(&steps) {
            match kind {
                0 => reads.push((sets[*at].context().clone(), registers[*at].read_ctx().add_clock)),
                1 => {
                    let (context, clock) = read.get(&reads).clone();
                    let read = ReadCtx { add_clock: clock.clone(), rm_clock: clock, val: () };
                    sets[*at].put(REPLICAS[*at], &context, number).expect("counters are small");
                    let write = registers[*at].write(number, read.derive_add_ctx(number));
                    registers[*at].apply(write);
                }
                _ => {
                    let (set, register) = (sets[*from].clone(), registers[*from].clone());
                    sets[*at].merge(&set);
                    registers[*at].merge(register);
                }
            }
            for (set, register) in sets.iter().zip(&registers) {
                let (mut ours, mut theirs) = (values(set), register.read().val);
                ours.sort_unstable();
                theirs.sort_unstable();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}

#[test]
fn a_context_unknown_here_keeps_what_it_covers_from_coming_back() {
    let (mut here, mut there) = (DvvSet::new(), DvvSet::new());
    here.put(A, &VersionVector::new(), 1).expect("room");
    let read = here.context().clone();
    there.put(B, &read, 2).expect("room");
    assert!(there.context().contains(Dot { replica: A, counter: 1 }), "the writer had seen it");
    assert!(!there.merge(&here), "here has nothing new");
    assert_eq!(values(&there), [2]);
    assert!(here.merge(&there));
    assert_eq!(here, there);
}

#[test]
fn a_context_with_a_gap_replaces_only_what_it_names() {
    let mut set = DvvSet::new();
    let dots = [1, 2, 3].map(|value| set.put(A, &VersionVector::new(), value).expect("room"));
    let outer = VersionVector::from_iter([dots[0], dots[2]]);
    assert_eq!(outer.interval_count(), 2);
    let mut other = DvvSet::new();
    other.put(B, &outer, 4).expect("room");
    assert_eq!(other.context().interval_count(), 3, "it has not seen the second value, and says so");
    other.merge(&set);
    assert_eq!(values(&other), [4, 2]);
    assert_eq!(set.put(A, &outer, 5), Ok(Dot { replica: A, counter: 4 }));
    assert_eq!(values(&set), [2, 5]);
}

#[test]
fn a_delete_wins_over_what_it_has_seen_and_over_nothing_else() {
    let mut set = DvvSet::new();
    set.put(A, &VersionVector::new(), 1).expect("room");
    let (old, read) = (set.clone(), set.context().clone());
    set.put(A, &VersionVector::new(), 2).expect("room");
    assert!(set.delete(&read));
    assert!(!set.delete(&read), "it is deleted already");
    assert!(!set.merge(&old) && values(&set) == [2]);
    let mut elsewhere = DvvSet::<u32>::new();
    assert!(elsewhere.delete(&read), "a tombstone may arrive before the value");
    assert!(elsewhere.is_empty() && !elsewhere.is_bottom());
    assert!(!elsewhere.merge(&old) && elsewhere.is_empty());
}

#[test]
fn a_history_that_is_used_up_refuses_writes_and_stays_as_it_is() {
    let mut set = DvvSet::new();
    set.put(A, &VersionVector::new(), 1).expect("room");
    let mut made_up = set.context().clone();
    made_up.insert_up_to(A, u64::MAX);
    let before = set.clone();
    assert_eq!(set.put(A, &made_up, 2), Err(Error::Exhausted(A)));
    assert_eq!(set, before);
    made_up = VersionVector::new();
    made_up.insert_up_to(A, u64::MAX - 1);
    assert_eq!(set.put(A, &made_up, 2), Ok(Dot { replica: A, counter: u64::MAX }));
    assert_eq!(values(&set), [2]);
    assert_eq!(set.put(A, &VersionVector::new(), 3), Err(Error::Exhausted(A)));
    assert!(set.put(B, &VersionVector::new(), 3).is_ok(), "another replica can still write");
}
