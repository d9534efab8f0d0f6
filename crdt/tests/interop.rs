//! Conversions from and to the `crdts` crate: what comes back, and what is refused.

#![cfg(feature = "crdts")]

mod subjects;

use std::collections::BTreeSet;

use crdts::{CmRDT, CvRDT, LWWReg, MVReg, Orswot, PNCounter, VClock, mvreg, orswot};
use polity_crdt::{
    AwSet, Crdt, Dot, Error, GCounter, GSet, LwwRegister, MvRegister, PnCounter, Replica, ReplicaId, Timestamp,
    VersionVector, interop,
};
use proptest::prelude::*;

use subjects::world::{Step, World, Writes, cases, for_histories, places};
use subjects::{REPLICAS, Subject};

const ID: ReplicaId = ReplicaId(77);

/// The replicas of a random history that have a complete causal history.
fn complete<S: Subject>(steps: &[Step]) -> Vec<Replica<S>> {
    let mut world = World::<S>::of(steps, &REPLICAS, Writes::WhenComplete);
    world.complete(0);
    let complete = (0..REPLICAS.len()).filter(|at| world.expected(*at).is_some());
    complete.map(|at| world.replicas[at].clone()).collect()
}

fn for_states<S: Subject>(property: impl Fn(&Replica<S>) -> Result<(), TestCaseError>) {
    for_histories(cases(2_000), 16, |steps| complete::<S>(steps).iter().try_for_each(&property));
}

fn has_gaps(dots: &VersionVector) -> bool {
    dots.iter().any(|(replica, _)| {
        dots.interval_count() != dots.replica_count() || !dots.contains(Dot { replica, counter: 1 })
    })
}

#[test]
fn version_vectors_come_back_unless_they_have_gaps() {
    for_states::<AwSet<u8>>(|set| {
        match interop::to_vclock(set.context()) {
            Ok(clock) => prop_assert_eq!(&interop::from_vclock(&clock), set.context()),
            Err(error) => prop_assert!(matches!(error, Error::Gap(_)) && has_gaps(set.context())),
        }
        Ok(())
    });
    let gap = VersionVector::from(Dot { replica: ID, counter: 2 });
    assert_eq!(interop::to_vclock(&gap), Err(Error::Gap(ID)));
    let clock: VClock<u64> = [crdts::Dot::new(7, 3), crdts::Dot::new(u64::MAX, u64::MAX)].into_iter().collect();
    assert_eq!(interop::to_vclock(&interop::from_vclock(&clock)), Ok(clock));
}

#[test]
fn counters_keep_their_totals() {
    for_states::<GCounter>(|counter| {
        let there = interop::to_gcounter(counter);
        prop_assert_eq!(there.read().to_string(), counter.value().to_string());
        let back = interop::from_gcounter(ID, &there);
        prop_assert_eq!(back.value(), counter.value());
        prop_assert!(back.context().covers(counter.context()), "no dot is used again");
        prop_assert_eq!(interop::to_gcounter(&back), there);
        Ok(())
    });
    for_states::<PnCounter>(|counter| {
        let there = interop::to_pncounter(counter);
        prop_assert_eq!(there.read().to_string(), counter.value().to_string());
        let back = interop::from_pncounter(ID, &there).expect("small");
        prop_assert_eq!(back.value(), counter.value());
        prop_assert!(back.context().covers(counter.context()), "no dot is used again");
        prop_assert_eq!(interop::to_pncounter(&back), there);
        Ok(())
    });
}

#[test]
fn counters_converted_apart_join_as_they_would_have_there() {
    let (mut one, mut other) = (crdts::GCounter::<u64>::new(), crdts::GCounter::new());
    one.apply(one.inc_many(1, 5));
    other.merge(one.clone());
    other.apply(other.inc_many(1, 2));
    other.apply(other.inc_many(2, 10));
    one.apply(one.inc_many(3, 100));
    let mut ours = interop::from_gcounter(ID, &one);
    ours.merge(interop::from_gcounter(ID, &other).full());
    assert_eq!(ours.value(), 117);
    ours.update(|counter, w| counter.add(w, 1_000)).expect("there is room");
    assert_eq!(interop::to_gcounter(&ours).read().to_string(), "1117");
    let mut huge = PNCounter::<u64>::new();
    huge.apply(huge.inc_many(9, u64::MAX));
    huge.apply(huge.dec_many(9, 1));
    assert_eq!(interop::from_pncounter(ID, &huge), Err(Error::CountOverflow(ReplicaId(9))));
}

#[test]
fn grow_only_sets_keep_their_elements() {
    for_states::<GSet<u8>>(|set| {
        let there = interop::to_gset(set);
        prop_assert!(there.read().iter().eq(set.iter()));
        let back = interop::from_gset(ID, &there);
        prop_assert!(back.iter().eq(set.iter()));
        prop_assert_eq!(interop::to_gset(&back), there);
        Ok(())
    });
}

#[test]
fn sets_come_back_with_their_history() {
    for_states::<AwSet<u8>>(|set| {
        let Ok(there) = interop::to_orswot(set) else {
            prop_assert!(has_gaps(set.context()));
            return Ok(());
        };
        prop_assert_eq!(there.read().val.into_iter().collect::<BTreeSet<u8>>(), set.iter().copied().collect());
        prop_assert_eq!(Ok(there.clock()), interop::to_vclock(set.context()));
        prop_assert_eq!(&interop::from_orswot(ID, &there).expect("nothing is deferred"), set);
        Ok(())
    });
}

/// Merging there or here is the same.
#[test]
fn sets_can_be_merged_on_either_side() {
    for_histories(cases(2_000), 16, |steps| {
        let replicas = complete::<AwSet<u8>>(steps);
        let (a, b) = (&replicas[0], &replicas[replicas.len() - 1]);
        if let (Ok(mut there), Ok(other)) = (interop::to_orswot(a), interop::to_orswot(b)) {
            there.merge(other);
            let mut here = a.clone();
            here.merge(b.full());
            prop_assert_eq!(interop::from_orswot(ID, &there).expect("nothing is deferred"), here);
        }
        Ok(())
    });
}

#[test]
fn sets_that_have_no_form_here_are_refused() {
    let mut set = Orswot::<u8, u64>::new();
    set.apply(orswot::Op::Add { dot: crdts::Dot::new(1, 1), members: vec![3, 4] });
    assert_eq!(interop::from_orswot(ID, &set), Err(Error::Foreign("elements share a dot")));
    let mut set = Orswot::<u8, u64>::new();
    set.apply(orswot::Op::Rm { clock: crdts::Dot::new(1, 1).into(), members: vec![3] });
    assert_eq!(interop::from_orswot(ID, &set), Err(Error::Foreign("removes wait for their adds")));
    let mut set = Replica::<AwSet<u8>>::new(ID);
    set.update(|set, w| set.add(w, 1)).expect("there is room");
    let late = set.update(|set, w| set.add(w, 2)).expect("there is room").expect("a change");
    let mut other = Replica::<AwSet<u8>>::new(ReplicaId(5));
    other.merge(late);
    assert_eq!(interop::to_orswot(&other), Err(Error::Gap(ID)));
}

#[test]
fn registers_keep_their_values_apart() {
    for_states::<MvRegister<u8>>(|register| {
        let Ok(there) = interop::to_mvreg(register) else {
            prop_assert!(has_gaps(register.context()));
            return Ok(());
        };
        let sorted = |mut values: Vec<u8>| {
            values.sort_unstable();
            values
        };
        let values = sorted(register.values().copied().collect());
        prop_assert_eq!(sorted(there.read().val), values.clone());
        let back = interop::from_mvreg(ID, &there).expect("each value has a dot");
        prop_assert_eq!(sorted(back.values().copied().collect()), values);
        if !register.is_bottom() {
            prop_assert_eq!(back.context(), register.context());
        }
        // A write there that has seen all of it replaces all of it.
        let mut after = there.clone();
        after.apply(after.write(9, after.read_ctx().derive_add_ctx(5)));
        prop_assert_eq!(after.read().val, [9]);
        after.merge(there);
        prop_assert_eq!(after.read().val, [9]);
        Ok(())
    });
}

#[test]
fn values_of_the_other_library_get_the_dots_of_their_writes() {
    let mut register = MVReg::<u8, u64>::new();
    let mut put = |dots: &[(u64, u64)], val| {
        let clock = dots.iter().map(|(actor, counter)| crdts::Dot::new(*actor, *counter)).collect();
        register.apply(mvreg::Op::Put { clock, val });
    };
    put(&[(1, 4), (2, 1)], 10);
    put(&[(1, 3), (2, 2)], 20);
    let ours = interop::from_mvreg(ID, &register).expect("each value has a dot");
    let dots: Vec<Dot> = places(&*ours).into_iter().map(|((), dot)| dot).collect();
    assert_eq!(dots, [(1, 4), (2, 2)].map(|(id, counter)| Dot { replica: ReplicaId(id), counter }));
    assert_eq!(ours.values().collect::<Vec<_>>(), [&10, &20]);
    assert_eq!(interop::to_mvreg(&ours), Ok(register));
}

#[test]
fn last_writers_win_by_the_same_rule() {
    for_histories(cases(2_000), 16, |steps| {
        let replicas = complete::<LwwRegister<u8>>(steps);
        let mut there: Option<LWWReg<u8, (Timestamp, Dot)>> = None;
        for register in &replicas {
            let converted = interop::to_lwwreg(register);
            if let Some(converted) = &converted {
                let back = interop::from_lwwreg(ID, converted);
                prop_assert_eq!(back.entry(), register.entry());
                prop_assert_eq!(interop::to_lwwreg(&back), Some(converted.clone()));
            }
            match (&mut there, converted) {
                (Some(there), Some(other)) => there.merge(other),
                (there @ None, other) => *there = other,
                (Some(_), None) => {}
            }
        }
        prop_assert_eq!(there, interop::to_lwwreg(&replicas[0]));
        Ok(())
    });
}
