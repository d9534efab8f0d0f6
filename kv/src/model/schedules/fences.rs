//! A roster is fenced while something is done under it.

use super::*;

/// `other` and `new` have asked `both` for its account, and its answers are slow; since then it has acknowledged a write
/// with `old`.
fn accounts_from_before_a_write(broken: Broken) -> (World, [usize; 4]) {
    let (mut world, order) = World::by_hand(broken);
    let [old, both, other, new] = order;
    // `old` is not up any more, as `other` and `new` see it; `old` and `both` do not see that yet.
    world.miss(&[new, other], old);
    for at in [new, other] {
        world.work(at);
        world.pass(at, both, true);
    }
    // Both answers of `both` are slow. It was fenced, and covers that: it is ready under the old roster again.
    world.work(both);
    world.both(both, other);
    world.both(both, new);
    world.both(both, old);
    world.work(both);
    assert!(world.is_ready(both));
    // `old` has heard of the new roster from it, and covers it, too.
    world.work(old);
    world.both(old, other);
    world.both(old, new);
    world.both(old, both);
    world.work(old);
    assert!(world.is_ready(old));
    // A write under the old roster alone.
    world.put(old);
    world.both(old, both);
    assert_eq!(world.acks.len(), 1);
    (world, order)
}

fn an_account_from_before_a_fence(broken: Broken) -> Vec<Wrong> {
    let (mut world, [_, both, other, new]) = accounts_from_before_a_write(broken);
    // Now the answers arrive.
    for at in [new, other] {
        world.pass(at, both, false);
    }
    world.both(new, other);
    world.both(other, new);
    for at in [new, other, new, other] {
        world.work(at);
    }
    world.now += 1;
    // A read asks one of the two others: the one that asks `other`.
    while world.find(new, other, true).is_none() {
        world.start_read(new, 0, Consistency::Quorum, None);
    }
    world.both(new, other);
    world.verdict()
}

/// What `both` gave before it was fenced by another, and before it acknowledged under the old roster, must not count
/// after (K3).
#[test]
fn what_was_asked_before_a_fence_must_not_count_after_it() {
    assert_eq!(an_account_from_before_a_fence(Broken::Nothing), []);
    assert_eq!(an_account_from_before_a_fence(Broken::LateHear), [Wrong::Stale { agreed: true }]);
}

/// The same, but `both` restarts without its memory before its answers arrive: what its earlier boot said is learned from,
/// and does not count under a roster with the new boot. Only `old` has the write now, and is out of reach (K1, K3).
fn an_account_of_a_boot_that_is_gone(broken: Broken) -> Vec<Wrong> {
    let (mut world, [old, both, other, new]) = accounts_from_before_a_write(broken);
    let late = [new, other].map(|at| world.hold(at, both, false));
    world.both(new, other);
    world.both(other, new);
    world.part(&[old], &[both, other, new]);
    world.destroy(both, &[other, new]);
    late.into_iter().for_each(|call| world.arrive(call));
    world.work_among(&[both, other, new]);
    if broken == Broken::Nothing {
        world.refuses(new);
        assert!(!world.is_ready(other) && !world.is_ready(new));
    } else {
        world.read_now(new);
    }
    if world.wrong.is_empty() {
        world.come_together(&[new, other]);
        assert_eq!(world.values(), [1]);
    }
    world.verdict()
}

#[test]
fn an_account_of_a_boot_that_is_gone_does_not_count() {
    assert_eq!(an_account_of_a_boot_that_is_gone(Broken::Nothing), []);
    assert_eq!(an_account_of_a_boot_that_is_gone(Broken::LateHear), [Wrong::Stale { agreed: true }]);
}

/// `third` and `spare` miss `first`; `first` and `second` do not know that. `third` writes: `spare` alone, though with
/// `third` a quorum of the new roster, is not enough while the old one is owed. Then `first` reads under the old one (K3).
fn a_write_while_two_rosters_are_owed(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.miss(&[third, spare], first);
    world.put(third);
    world.both(third, spare);
    if broken == Broken::Nothing {
        world.lose(third, first);
        assert!(world.acks.is_empty(), "nobody of the old roster but the writer has it");
        world.both(third, second);
    }
    assert_eq!(world.acks.len(), 1);
    world.part(&[first], &[third, spare]);
    world.read_now(first);
    world.verdict()
}

#[test]
fn a_write_needs_a_quorum_of_every_roster_that_is_owed() {
    assert_eq!(a_write_while_two_rosters_are_owed(Broken::Nothing), []);
    assert_eq!(a_write_while_two_rosters_are_owed(Broken::NothingOwed), [Wrong::Stale { agreed: true }]);
}

/// A reader that lags asks one replica that has moved: it learns of the new roster from the answer, asks it too, and
/// finds what was written under both (K3).
#[test]
fn a_read_that_lags_is_led_to_the_new_roster() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.miss(&[third, spare], first);
    world.put(third);
    world.lose(third, first);
    world.both(third, second);
    world.both(third, spare);
    assert_eq!(world.acks.len(), 1);
    world.part(&[first], &[second]);
    world.start_read_now(first);
    while !world.net.is_empty() {
        world.pass_oldest();
    }
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// `second` moves to a roster of its own while an account is asked of it under another: it owes both then, and is not
/// ready before it has heard from the one that fenced it (K3).
#[test]
fn a_move_and_a_fence_at_once_are_both_owed() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.everybody_holds_one([first, second, third]);
    // `third` and `spare` miss `first`, and `spare` asks `second`; before that arrives, `second` misses `third`.
    world.miss(&[third, spare], first);
    world.work(spare);
    let asked = world.hold(spare, second, true);
    world.miss(&[second], third);
    world.arrive(asked);
    let owed = world.procs[second].store.with_standing(SHARD, |s| s.owed().count());
    assert_eq!(owed, Some(2), "the roster before, and the one that fenced it");
    world.net.clear();
    world.tasks.clear();
    world.procs.iter_mut().for_each(|proc| proc.under_way.clear());
    // Without those of the other side it never is ready.
    world.part(&[first, second], &[third, spare]);
    world.work_among(&[first, second]);
    assert!(!world.is_ready(second));
    world.come_together(&[second, spare]);
    assert!(world.is_ready(second));
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// Two sides miss one of each other, and both write the same key. Neither acknowledges under its own roster alone; when
/// the views agree both values are there, side by side (K2, K3).
#[test]
fn two_coordinators_with_different_views_keep_both_values() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.miss(&[first, second], third);
    world.miss(&[third, spare], first);
    world.put(first);
    world.put(third);
    world.both(first, spare);
    assert!(world.acks.is_empty(), "`spare` owes a roster that has no quorum yet");
    world.both(third, second);
    world.drain();
    assert_eq!(world.acks.len(), 2);
    world.read_now(second);
    world.read_now(spare);
    world.come_together(&[first]);
    assert_eq!(world.values(), [1, 2]);
    assert_eq!(world.verdict(), []);
}

/// Two sides fence each other in turn, and what each has heard is worthless once the other has asked. They serve
/// nevertheless, and all are ready when the views agree (K3, liveness).
#[test]
fn those_that_fence_each_other_are_ready_when_their_views_agree() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.everybody_holds_one([first, second, third]);
    world.miss(&[first, second], third);
    world.miss(&[third, spare], first);
    for _ in 0..8 {
        // All ask before any is answered.
        (0..4).for_each(|at| world.work(at));
        let asked: Vec<Call> = world.net.drain(..).collect();
        asked.into_iter().for_each(|call| world.arrive(call));
        world.drain();
    }
    // They serve all the same: together they have a quorum of each.
    assert_eq!(world.values_at(second), [1]);
    world.come_together(&[spare]);
    assert!([first, second, third].iter().all(|at| world.is_ready(*at)));
    assert_eq!(world.verdict(), []);
}
