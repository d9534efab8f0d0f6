//! Reads equal what the causal history says.
//!
//! Convergence is not enough: replicas may agree on a wrong value. So every type's reads are compared with those of a
//! model that keeps all writes and what each had seen (see `subjects::world`), at every replica that has a complete
//! causal history, after every step.

mod subjects;

use polity_crdt::{
    AwSet, BoundedCounter, Crdt, DwFlag, Error, EwFlag, GCounter, GSet, LwwRegister, MvRegister, OrMap, OwnerMap,
    PnCounter, Replica, ReplicaId, RwSet, VersionVector,
};
use proptest::prelude::*;

use subjects::world::{World, Writes, cases, for_histories, marks};
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

/// However late and incomplete what a replica has is when it takes: all together never take more than was added, and
/// none more than its rights.
#[test]
fn the_bound_holds_while_deltas_are_missing() {
    for_histories(cases(20_000), 32, |steps| {
        let mut world = World::<BoundedCounter>::of(steps, &REPLICAS, Writes::Always);
        world.complete(0);
        let (count, rights) = world.expected(0).expect("everything is known");
        prop_assert!(count >= 0 && rights.iter().all(|rights| *rights >= 0), "{} {:?}", count, rights);
        prop_assert_eq!(world.replicas[0].read(), (count, rights));
        Ok(())
    });
}

/// A count that only grows is never read higher than it is, whatever is missing.
#[test]
fn a_count_is_not_read_before_it_is_reached() {
    for_histories(cases(10_000), 24, |steps| {
        let mut world = World::<GCounter>::of(steps, &REPLICAS, Writes::Always);
        let reads: Vec<i128> = world.replicas.iter().map(|replica| replica.read()).collect();
        world.complete(0);
        let count = world.expected(0).expect("everything is known");
        prop_assert!(reads.iter().all(|read| *read <= count), "{:?} of {}", reads, count);
        Ok(())
    });
}

/// A gives B three, then two more, then adds to its own: B hears of the first and the last of these. The first is
/// replaced, though nobody has told B so, and its three are among the five of the last.
#[test]
fn a_gift_counts_once_while_the_write_between_is_missing() {
    let (a, b) = (ReplicaId(1), ReplicaId(2));
    let mut giver = Replica::<BoundedCounter>::new(a);
    let mut taker = Replica::<BoundedCounter>::new(b);
    giver.update(|counter, w| counter.add(w, 10)).expect("there is room");
    let first = giver.update(|counter, w| counter.give(w, b, 3)).expect("it has the rights").expect("a change");
    let second = giver.update(|counter, w| counter.give(w, b, 2)).expect("it has the rights").expect("a change");
    let last = giver.update(|counter, w| counter.add(w, 1)).expect("there is room").expect("a change");
    taker.merge(first);
    taker.merge(last);
    assert_eq!((taker.rights(b), taker.value()), (5, 11));
    let refused = taker.update(|counter, w| counter.take(w, 6));
    assert_eq!(refused, Err(Error::Bound { wanted: 6, available: 5 }));
    taker.merge(second);
    assert_eq!((taker.rights(b), taker.value()), (5, 11));
}

#[test]
fn sets() {
    check::<GSet<u8>>(16);
    check::<AwSet<u8>>(20);
    check::<RwSet<u8>>(24);
}

/// A removes, removes again, and adds; B hears of the first and the last of these. The first is replaced, though nobody
/// has told B so: B has heard of all that A has, and its mark is not one that A has too.
#[test]
fn a_mark_is_not_dropped_while_the_write_that_replaced_it_is_missing() {
    let mut a = Replica::<RwSet<u8>>::new(ReplicaId(1));
    let mut b = Replica::<RwSet<u8>>::new(ReplicaId(2));
    let first = a.update(|set, w| set.remove(w, 7)).expect("there are dots").expect("a change");
    let second = a.update(|set, w| set.remove(w, 7)).expect("there are dots").expect("a change");
    let third = a.update(|set, w| set.add(w, 7)).expect("there are dots").expect("a change");
    b.merge(first);
    b.merge(third);
    assert!(b.context().covers(a.context()) && !b.contains(&7));
    let all_have = in_all(&[&a, &b]);
    assert_eq!(b.update(|set, _| Ok(set.collect(&all_have))), Ok(None));
    b.merge(second);
    assert!(a.contains(&7) && b.contains(&7));
}

/// A mark that all have goes only together with the adds beside it, and these only once all have them too.
#[test]
fn a_mark_is_not_dropped_while_an_add_beside_it_is_on_its_way() {
    let mut a = Replica::<RwSet<u8>>::new(ReplicaId(1));
    let mut b = Replica::<RwSet<u8>>::new(ReplicaId(2));
    let removed = a.update(|set, w| set.remove(w, 7)).expect("there are dots").expect("a change");
    let added = b.update(|set, w| set.add(w, 7)).expect("there are dots").expect("a change");
    b.merge(removed);
    let all_have = in_all(&[&a, &b]);
    assert_eq!(b.update(|set, _| Ok(set.collect(&all_have))), Ok(None));
    a.merge(added);
    let all_have = in_all(&[&a, &b]);
    let dropped = b.update(|set, _| Ok(set.collect(&all_have))).expect("nothing is refused").expect("a change");
    a.merge(dropped);
    assert!(a == b && a.is_bottom());
}

/// The dots beside marks that all of these have.
fn in_all(replicas: &[&Replica<RwSet<u8>>]) -> VersionVector {
    let all = replicas.iter().map(|replica| marks(&***replica));
    all.reduce(|all, other| all.intersection(&other)).expect("there are replicas")
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
