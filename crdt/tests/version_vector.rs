//! [`VersionVector`] against a set of dots, and against plain vector clocks where these can say the same.

use std::collections::BTreeSet;

use crdts::{CmRDT, CvRDT, VClock};
use polity_crdt::{Dot, ReplicaId, VersionVector};
use proptest::prelude::*;

const CASES: u32 = 2_048;

/// Counters above an offset go from 1 to this, so that intervals often touch and the model can list them.
const COUNTERS: u64 = 12;

/// Counters begin at 1, or end at the greatest there is.
const OFFSETS: [u64; 2] = [0, u64::MAX - COUNTERS];

const REPLICAS: [ReplicaId; 3] = [ReplicaId(5), ReplicaId(0), ReplicaId(u64::MAX)];

fn dots(max: usize) -> impl Strategy<Value = Vec<Dot>> {
    prop::sample::select(&OFFSETS[..]).prop_flat_map(move |offset| {
        let dot = (prop::sample::select(&REPLICAS[..]), 1..=COUNTERS)
            .prop_map(move |(replica, counter)| Dot { replica, counter: offset + counter });
        prop::collection::vec(dot, 0..max)
    })
}

/// Dots of one offset for two sets: the second offset of a pair would never meet the first.
fn two_sets() -> impl Strategy<Value = (Vec<Dot>, Vec<Dot>)> {
    (dots(48), any::<prop::sample::Index>()).prop_map(|(mut all, at)| {
        let rest = all.split_off(at.index(all.len() + 1));
        (all, rest)
    })
}

fn vector(dots: &[Dot]) -> VersionVector {
    dots.iter().copied().collect()
}

/// What the vector holds, by its own account, after a check that the account is in canonical form.
fn listed(vector: &VersionVector) -> BTreeSet<Dot> {
    let mut dots = BTreeSet::new();
    let mut previous = None;
    let mut intervals = 0;
    for (replica, runs) in vector.iter() {
        assert!(previous < Some(replica), "replicas ascend");
        previous = Some(replica);
        let mut below: Option<u64> = None;
        for run in runs {
            intervals += 1;
            assert!(1 <= *run.start() && run.start() <= run.end());
            assert!(below.is_none_or(|last| last.checked_add(1).is_some_and(|next| next < *run.start())));
            below = Some(*run.end());
            dots.extend(run.map(|counter| Dot { replica, counter }));
        }
        assert!(below.is_some(), "no replica without dots");
    }
    assert_eq!(intervals, vector.interval_count());
    dots
}

fn model(dots: &[Dot]) -> BTreeSet<Dot> {
    dots.iter().copied().collect()
}

/// Every dot that a test may have used, and their neighbours.
fn universe() -> impl Iterator<Item = Dot> {
    OFFSETS.into_iter().flat_map(|offset| {
        let counters = offset..=offset.saturating_add(COUNTERS + 1);
        counters.flat_map(|counter| REPLICAS.into_iter().map(move |replica| Dot { replica, counter }))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn one_set(dots in dots(30)) {
        let (mut grown, mut set) = (VersionVector::new(), BTreeSet::new());
        for dot in &dots {
            prop_assert_eq!(grown.insert(*dot), set.insert(*dot));
            prop_assert_eq!(&listed(&grown), &set);
        }
        prop_assert_eq!(&grown, &vector(&dots), "equal sets are equal, however they were made");
        prop_assert_eq!(grown.is_empty(), set.is_empty());
        let replicas: BTreeSet<_> = dots.iter().map(|dot| dot.replica).collect();
        prop_assert_eq!(grown.replica_count(), replicas.len());
        for dot in universe() {
            prop_assert_eq!(grown.contains(dot), set.contains(&dot));
        }
        for replica in REPLICAS {
            let max = set.iter().filter(|dot| dot.replica == replica).map(|dot| dot.counter).max().unwrap_or(0);
            prop_assert_eq!(grown.max(replica), max);
            prop_assert_eq!(grown.next(replica), max.checked_add(1).map(|counter| Dot { replica, counter }));
        }
    }

    #[test]
    fn two_sets_together((left, right) in two_sets()) {
        let (a, b) = (vector(&left), vector(&right));
        let (in_a, in_b) = (model(&left), model(&right));
        let mut union = a.clone();
        prop_assert_eq!(union.merge(&b), !in_b.is_subset(&in_a));
        prop_assert_eq!(listed(&union), &in_a | &in_b);
        prop_assert_eq!(a.covers(&b), in_b.is_subset(&in_a));
        prop_assert!(union.covers(&a) && union.covers(&b));
        prop_assert_eq!(a.intersects(&b), !in_a.is_disjoint(&in_b));
        prop_assert_eq!(listed(&a.difference(&b)), &in_a - &in_b);
        prop_assert_eq!(a == b, in_a == in_b);
    }

    #[test]
    fn prefixes(dots in prop::collection::vec((prop::sample::select(&REPLICAS[..]), 0..=COUNTERS, any::<bool>()), 0..20)) {
        let (mut grown, mut set) = (VersionVector::new(), BTreeSet::new());
        for (replica, counter, whole) in dots {
            let first = if whole { 1 } else { counter.max(1) };
            let new = (first..=counter).map(|counter| Dot { replica, counter });
            let missing = new.clone().any(|dot| !set.contains(&dot));
            set.extend(new);
            let changed =
                if whole { grown.insert_up_to(replica, counter) } else { grown.insert(Dot { replica, counter }) };
            prop_assert_eq!(changed, missing);
            prop_assert_eq!(&listed(&grown), &set);
        }
    }

    #[test]
    fn merge_is_a_join(a in dots(30), b in dots(30), c in dots(30)) {
        let [a, b, c] = [vector(&a), vector(&b), vector(&c)];
        let join = |x: &VersionVector, y: &VersionVector| {
            let mut all = x.clone();
            all.merge(y);
            all
        };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(&join(&a, &a), &a);
    }

    /// `VClock` holds one counter for each actor, so it cannot say that a dot is missing: prefixes only.
    #[test]
    fn without_gaps_it_is_a_vector_clock(
        a in prop::collection::vec((prop::sample::select(&REPLICAS[..]), 1..=COUNTERS), 0..6),
        b in prop::collection::vec((prop::sample::select(&REPLICAS[..]), 1..=COUNTERS), 0..6),
    ) {
        let both = |dots: &[(ReplicaId, u64)]| {
            let (mut vector, mut clock) = (VersionVector::new(), VClock::new());
            for (replica, counter) in dots {
                vector.insert_up_to(*replica, *counter);
                clock.apply(crdts::Dot::new(replica.0, *counter));
            }
            (vector, clock)
        };
        let ((a, clock_a), (b, clock_b)) = (both(&a), both(&b));
        prop_assert_eq!(a.covers(&b), clock_a >= clock_b);
        prop_assert_eq!(a == b, clock_a == clock_b);
        let (mut union, mut clock) = (a, clock_a);
        union.merge(&b);
        clock.merge(clock_b);
        for replica in REPLICAS {
            prop_assert_eq!(union.max(replica), clock.get(&replica.0));
        }
        prop_assert_eq!(union.interval_count(), union.replica_count());
    }
}

#[test]
fn a_counter_of_zero_names_no_event() {
    let zero = Dot { replica: REPLICAS[0], counter: 0 };
    let mut vector = VersionVector::from_iter([zero]);
    assert!(!vector.insert(zero) && !vector.insert_up_to(zero.replica, 0));
    assert!(vector.is_empty() && !vector.contains(zero));
    vector.insert_up_to(zero.replica, 3);
    assert!(!vector.contains(zero));
}

#[test]
fn the_greatest_counters_are_as_good_as_any() {
    let replica = REPLICAS[0];
    let mut all = VersionVector::new();
    assert!(all.insert(Dot { replica, counter: u64::MAX }));
    assert!(all.insert_up_to(replica, u64::MAX - 1));
    assert_eq!(all.interval_count(), 1);
    assert_eq!(all.next(replica), None);
    let mut point = VersionVector::new();
    point.insert(Dot { replica, counter: 1 << 63 });
    let rest = all.difference(&point);
    assert_eq!(rest.interval_count(), 2);
    assert!(all.covers(&rest) && !rest.intersects(&point) && !rest.covers(&all));
    point.merge(&rest);
    assert_eq!(point, all);
}

#[test]
fn debug_lists_the_intervals() {
    let mut vector = VersionVector::new();
    vector.insert_up_to(ReplicaId(0xa), 3);
    vector.insert(Dot { replica: ReplicaId(0xa), counter: 5 });
    assert_eq!(format!("{vector:?}"), "{a: [1..=3, 5..=5]}");
}
