//! Reads equal what the causal history says.
//!
//! Convergence is not enough: replicas may agree on a wrong value. So every type's reads are compared with those of a
//! model that keeps all writes and what each had seen (see `subjects::world`), at every replica that has a complete
//! causal history, after every step.

mod subjects;

use polity_crdt::{
    AwSet, BoundedCounter, DwFlag, EwFlag, GCounter, GSet, LwwRegister, MvRegister, OrMap, OwnerMap, PnCounter, RwSet,
};
use proptest::prelude::*;

use subjects::world::{World, Writes, cases, for_histories};
use subjects::{REPLICAS, Subject};

/// Histories of one type, and how long they may be: nested types need longer ones until something meets.
fn check<S: Subject>(length: usize) {
    for_histories(cases(10_000), length, |steps| {
        let mut world = World::<S>::new(&REPLICAS, Writes::WhenComplete);
        for step in steps {
            world.take(step);
            for at in 0..REPLICAS.len() {
                if let Some(expected) = world.expected(at) {
                    prop_assert_eq!(world.replicas[at].read(), expected, "at replica {} after {:?}", at, step);
                }
            }
        }
        world.complete(0);
        let expected = world.expected(0).expect("everything is known");
        prop_assert_eq!(world.replicas[0].read(), expected);
        Ok(())
    });
}

#[test]
fn flags() {
    check::<EwFlag>(16);
    check::<DwFlag>(16);
}

#[test]
fn registers() {
    check::<LwwRegister<u8>>(16);
    check::<MvRegister<u8>>(16);
}

#[test]
fn counters() {
    check::<GCounter>(16);
    check::<PnCounter>(16);
}

#[test]
fn bounded_counter() {
    check::<BoundedCounter>(24);
}

#[test]
fn sets() {
    check::<GSet<u8>>(16);
    check::<AwSet<u8>>(20);
    check::<RwSet<u8>>(24);
}

#[test]
fn owner_map() {
    check::<OwnerMap<u8, u8>>(20);
}

#[test]
fn maps_of_flags_and_registers() {
    check::<OrMap<u8, EwFlag>>(20);
    check::<OrMap<u8, DwFlag>>(20);
    check::<OrMap<u8, LwwRegister<u8>>>(20);
    check::<OrMap<u8, MvRegister<u8>>>(20);
}

#[test]
fn maps_of_counters_and_sets() {
    check::<OrMap<u8, GCounter>>(20);
    check::<OrMap<u8, PnCounter>>(20);
    check::<OrMap<u8, AwSet<u8>>>(24);
    check::<OrMap<u8, RwSet<u8>>>(24);
}

#[test]
fn maps_of_maps() {
    check::<OrMap<u8, OrMap<u8, AwSet<u8>>>>(28);
    check::<OrMap<u8, OrMap<u8, MvRegister<u8>>>>(28);
}
