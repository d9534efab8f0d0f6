//! An acknowledgement against a crash or a move.

use super::*;

/// `first` and `second` have a write and it is acknowledged; `third` lacks it. One of the two restarts without its memory,
/// and only `third` hears it. The two of them must not serve what they lack, and serve it when the other is back.
fn one_of_two_that_have_it_restarts(broken: Broken, coordinator: bool) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.two_hold_one([first, second, third]);
    let (lost, left) = if coordinator { (first, second) } else { (second, first) };
    world.part(&[lost, third], &[left, spare]);
    world.destroy(lost, &[third]);
    world.work_among(&[lost, third]);
    if broken == Broken::Nothing {
        world.refuses(third);
        assert!(!world.is_ready(third) && !world.is_ready(lost));
    } else {
        world.read_now(third);
    }
    if world.wrong.is_empty() {
        world.come_together(&[third, lost]);
        assert_eq!(world.values(), [1]);
    }
    world.verdict()
}

/// The coordinator crashes after a quorum has acknowledged and before the last replica has the write (K1, K3).
#[test]
fn an_ack_outlives_its_coordinator() {
    assert_eq!(one_of_two_that_have_it_restarts(Broken::Nothing, true), []);
    assert_eq!(one_of_two_that_have_it_restarts(Broken::NothingOwed, true), [Wrong::Stale { agreed: true }]);
}

/// A replica crashes after it has acknowledged and before anything was repaired (K1, K3).
#[test]
fn an_ack_outlives_the_replica_that_gave_it() {
    assert_eq!(one_of_two_that_have_it_restarts(Broken::Nothing, false), []);
    assert_eq!(one_of_two_that_have_it_restarts(Broken::NothingOwed, false), [Wrong::Stale { agreed: true }]);
}

/// Both who had a write when it was acknowledged are destroyed, one after the other, and all settles in between: what
/// repair has brought to the others is enough (K1).
fn both_that_had_it_are_destroyed(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.two_hold_one([first, second, third]);
    world.destroy(second, &[]);
    world.come_together(&[]);
    world.survive_one_more(first, &[third, second, spare]);
    world.verdict()
}

#[test]
fn repair_between_two_failures_is_enough() {
    assert_eq!(both_that_had_it_are_destroyed(Broken::Nothing), []);
    assert!(both_that_had_it_are_destroyed(Broken::NotFetched).contains(&Wrong::Stale { agreed: true }));
}

/// `second` merges a write and its answer is slow. Meanwhile the others move on without `first`; then the answer arrives
/// and counts, under a roster that is no longer anybody else's. Who was fenced after it merged had the write to give (K3).
fn an_ack_that_is_counted_after_the_move(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.put(first);
    world.pass(first, second, true);
    world.lose(first, third);
    let late = world.hold(first, second, false);
    world.miss(&[second, third, spare], first);
    world.work_among(&[second, third, spare]);
    assert!(world.is_ready(third) && world.is_ready(spare));
    world.arrive(late);
    assert_eq!(world.acks.len(), 1);
    world.part(&[spare], &[second]);
    world.read_now(spare);
    world.verdict()
}

#[test]
fn an_ack_counts_after_the_roster_has_moved() {
    assert_eq!(an_ack_that_is_counted_after_the_move(Broken::Nothing), []);
    assert_eq!(an_ack_that_is_counted_after_the_move(Broken::NotFetched), [Wrong::Stale { agreed: true }]);
}

/// The others have settled without `first`, which does not know it and writes. Its write reaches `second`, which was
/// fenced and names the new roster: it takes a quorum of that too (K3).
fn a_write_that_arrives_after_the_fence(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.miss(&[third, spare], first);
    for _ in 0..3 {
        for (at, other) in [(third, spare), (spare, third)] {
            world.work(at);
            world.talk(at, second);
            world.talk(at, other);
        }
    }
    world.net.clear();
    assert!(world.is_ready(third) && world.is_ready(spare));
    world.put(first);
    world.both(first, second);
    world.lose(first, third);
    if broken == Broken::Nothing {
        assert!(world.acks.is_empty(), "a quorum of the old roster is not enough");
        world.both(first, spare);
    }
    assert_eq!(world.acks.len(), 1);
    world.part(&[spare], &[second]);
    world.read_now(spare);
    world.verdict()
}

#[test]
fn a_write_after_the_fence_needs_the_new_roster_too() {
    assert_eq!(a_write_that_arrives_after_the_fence(Broken::Nothing), []);
    assert_eq!(a_write_that_arrives_after_the_fence(Broken::NoFence), [Wrong::Stale { agreed: true }]);
}

/// A write at level `One` is acknowledged by its coordinator alone, but it is on its way to all replicas: when that one is
/// destroyed afterwards, the others have it.
#[test]
fn a_write_that_one_acknowledges_goes_to_all() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.put_at_one(first);
    assert_eq!(world.acks.len(), 1, "nobody is waited for");
    world.end(first, false);
    world.drain();
    assert_eq!([second, third].map(|at| world.holds(at)), [1, 1]);
    world.come_together(&[spare]);
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// A write reaches `second` and all answers are lost, so its outcome is unknown. It may show, and once a quorum has
/// settled with it, it stays, also when `first` is destroyed (K1, K6).
#[test]
fn a_write_of_unknown_outcome_is_kept_once_it_has_shown() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.put(first);
    world.pass(first, second, true);
    world.part(&[first], &[second]);
    world.pass(first, second, false);
    world.lose(first, third);
    assert!(world.acks.is_empty() && world.tasks.is_empty(), "it has ended, and is not acknowledged");
    world.cut.clear();
    // `third` misses it until a comparison brings it.
    world.part(&[third], &[first]);
    assert_eq!(world.values_at(third), [1]);
    world.destroy(first, &[]);
    world.come_together(&[]);
    assert_eq!(world.values_at(third), [1]);
    assert_eq!(world.holds(first), 1, "the restarted one has it from the others");
    assert_eq!(world.verdict(), []);
}
