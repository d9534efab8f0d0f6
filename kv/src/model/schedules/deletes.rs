//! A delete against a put, a move, a restart and a duplicate.

use super::*;

/// Everybody holds a value. On one side of a move it is deleted; on the other, at the same time, it is replaced. The
/// delete takes away what it has seen and no more: the new value stays, alone (K2).
#[test]
fn a_delete_takes_away_only_what_it_has_seen() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.everybody_holds_one([first, second, third]);
    let seen = world.context_at(first);
    world.miss(&[third, spare], first);
    world.delete_over(first, &seen);
    world.put_over(third, &seen);
    world.both(first, second);
    assert_eq!(world.deletes, 1);
    world.both(third, spare);
    world.both(third, second);
    assert_eq!(world.acks.len(), 2);
    world.drain();
    world.come_together(&[spare]);
    assert_eq!(world.values(), [2]);
    assert_eq!(world.verdict(), []);
}

/// The message of a write arrives a second time, after the value was deleted. It was seen before, so it brings nothing
/// back (K2).
#[test]
fn a_repeated_write_does_not_bring_back_what_was_deleted() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let again = world.copy(first, third);
    world.both(first, second);
    world.both(first, third);
    let seen = world.context_at(first);
    world.delete_over(second, &seen);
    world.both(second, first);
    world.both(second, third);
    assert_eq!((world.deletes, world.holds(third)), (1, 0));
    world.arrive(again);
    world.drain();
    assert_eq!(world.holds(third), 0);
    assert_eq!(world.values_at(third), []);
    world.come_together(&[]);
    assert_eq!((0..4).map(|at| world.holds(at)).sum::<usize>(), 0);
}

/// The message of a write is so late that the delete of what it brings arrives before it: the trace of the delete keeps
/// the value out (K2).
#[test]
fn a_late_write_does_not_bring_back_what_was_deleted() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let late = world.hold(first, third, true);
    world.both(first, second);
    let seen = world.context_at(second);
    world.delete_over(second, &seen);
    world.both(second, third);
    assert_eq!(world.deletes, 1);
    world.arrive(late);
    world.drain();
    assert_eq!(world.holds(third), 0);
    world.come_together(&[]);
    assert_eq!(world.values_at(third), []);
}

/// A delete is acknowledged by two, the third still holds the value, and one of the two restarts without its memory before
/// anything was repaired: the value is not back (K1 for deletes).
fn a_delete_and_a_restart(broken: Broken) -> Vec<u64> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.everybody_holds_one([first, second, third]);
    let seen = world.context_at(first);
    world.delete_over(first, &seen);
    world.both(first, second);
    world.lose(first, third);
    assert_eq!((world.deletes, world.holds(third)), (1, 1));
    world.part(&[first, third], &[second, spare]);
    world.destroy(first, &[third]);
    world.work_among(&[first, third]);
    if broken == Broken::Nothing {
        world.refuses(third);
        world.come_together(&[]);
        assert_eq!(world.holds(third), 0);
    }
    world.values_at(third)
}

#[test]
fn a_delete_outlives_a_restart_between_its_ack_and_repair() {
    assert_eq!(a_delete_and_a_restart(Broken::Nothing), []);
    assert_eq!(a_delete_and_a_restart(Broken::NothingOwed), [1]);
}

/// A leaving replica has the trace of a delete that nobody else has; the others hold the value, and are ready without having
/// heard of it. The trace is handed over like a value (K2, K4).
fn a_trace_that_is_handed_over(broken: Broken) -> Vec<u64> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.everybody_holds_one([first, second, third]);
    let seen = world.context_at(third);
    world.change(third, world.plan_of(third, Consistency::One), None, &seen);
    world.lose(third, first);
    world.lose(third, second);
    assert_eq!((world.deletes, world.holds(second)), (1, 1));
    world.drain_alone(third, &[first, second, spare]);
    if broken == Broken::Dropped {
        world.part(&[third], &[first, second, spare]);
    }
    world.drain();
    world.come_together(&[]);
    world.leave(third);
    assert!(!world.procs[third].alive);
    world.come_together(&[]);
    world.values_at(spare)
}

#[test]
fn the_trace_of_a_delete_moves_like_a_value() {
    assert_eq!(a_trace_that_is_handed_over(Broken::Nothing), []);
    assert_eq!(a_trace_that_is_handed_over(Broken::Dropped), [1]);
}
