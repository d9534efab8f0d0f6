//! One that slept while the others moved on.

use super::*;

/// The sleeper hears nothing from now on. The three others move on without it, and some of them restart, one after the
/// other; all is settled each time.
fn fall_asleep(world: &mut World, [first, second, sleeper, spare]: [usize; 4], restarts: &[usize]) {
    let awake = [first, second, spare];
    world.cut.extend(world.links(sleeper));
    world.miss(&awake, sleeper);
    world.quiesce(&awake);
    for at in restarts {
        world.destroy(*at, &awake);
        world.quiesce(&awake);
    }
}

/// The sleeper knows the first roster only. The three others have moved on without it, two of them have restarted since,
/// one after the other, and what they have acknowledged together is settled. Then the sleeper is back, `first` is destroyed
/// once more, and the sleeper introduces it.
fn after_a_long_sleep(broken: Broken) -> (World, [usize; 4]) {
    let (mut world, order) = World::by_hand(broken);
    let [first, second, sleeper, spare] = order;
    fall_asleep(&mut world, order, &[first, second]);
    world.put(second);
    world.drain();
    assert_eq!(world.acks.len(), 1);
    world.quiesce(&[first, second, spare]);
    world.cut.clear();
    let mut seen = world.procs[second].seen.clone();
    seen[sleeper] = Sight::new(1, Status::Alive);
    world.common.push(seen);
    world.destroy(first, &[]);
    world.work(first);
    world.both(first, sleeper);
    // `first` and the sleeper do not get through to the two others from now on.
    world.part(&[first, sleeper], &[second, spare]);
    (world, order)
}

/// The two that hear each other only must not serve; all do when all hear each other.
fn judge(mut world: World, [first, _, sleeper, _]: [usize; 4]) -> Vec<Wrong> {
    world.work_among(&[first, sleeper]);
    world.read_now(sleeper);
    if world.wrong.is_empty() {
        assert!(!world.is_ready(sleeper) && !world.is_ready(first));
        world.come_together(&[sleeper, first]);
    }
    world.verdict()
}

fn one_that_slept(broken: Broken) -> Vec<Wrong> {
    let (mut world, order) = after_a_long_sleep(broken);
    let truth = world.truth();
    (0..4).for_each(|at| world.see(at, truth.clone()));
    judge(world, order)
}

#[test]
fn one_that_slept_must_hear_from_those_that_did_not() {
    assert_eq!(one_that_slept(Broken::Nothing), []);
    assert_eq!(one_that_slept(Broken::Deaf), [Wrong::Stale { agreed: true }]);
    assert_eq!(one_that_slept(Broken::Heedless), []);
}

/// The same, but on the side of `first` and the sleeper the two others look down.
fn one_that_slept_in_a_split(broken: Broken) -> Vec<Wrong> {
    let (mut world, order) = after_a_long_sleep(broken);
    let [first, second, sleeper, spare] = order;
    let mut seen = world.truth();
    for far in [second, spare] {
        seen[far].status = Status::Down;
    }
    for near in [first, sleeper] {
        world.see(near, seen.clone());
    }
    judge(world, order)
}

#[test]
fn the_side_of_one_that_slept_is_not_ready_in_a_split() {
    assert_eq!(one_that_slept_in_a_split(Broken::Nothing), []);
    assert_eq!(one_that_slept_in_a_split(Broken::Heedless), [Wrong::Stale { agreed: true }]);
}

/// `second` has restarted, and `first` too or not; all was settled each time. Then `first` goes down, and the sleeper, which
/// knows the first roster only, comes back.
fn one_that_slept_and_one_that_is_down(has_restarted: bool) {
    let (mut world, order) = World::by_hand(Broken::Nothing);
    let [first, second, sleeper, spare] = order;
    let restarts: &[usize] = if has_restarted { &[second, first] } else { &[second] };
    fall_asleep(&mut world, order, restarts);
    // All is settled, so one more may be lost.
    world.end(first, false);
    world.miss(&[second, spare], first);
    world.quiesce(&[second, spare]);
    world.cut.clear();
    let truth = world.truth();
    [second, sleeper, spare].iter().for_each(|at| world.see(*at, truth.clone()));
    world.work_among(&[second, sleeper, spare]);
    world.tell();
    // That the first roster was covered long ago the others have forgotten, so they owe it again, as the sleeper does.
    assert!([second, sleeper, spare].iter().all(|at| !world.is_ready(*at)));
    let reads = world.reads;
    world.refuses(spare);
    world.restart_at(first);
    world.come_together(&[sleeper]);
    assert_eq!((world.reads, world.wrong), (reads + 1, vec![]));
}

/// Nothing is lost and nothing is stale, but the shard is out of service though one node only is down.
#[test]
fn one_that_slept_makes_all_wait_for_one_that_is_down() {
    one_that_slept_and_one_that_is_down(false);
    one_that_slept_and_one_that_is_down(true);
}

/// A process stood still while the others moved on without it and wrote. It wakes with its old roster, and reads before it
/// has seen any change: whom it asks names the new roster, so it finds what was written (K3).
#[test]
fn one_that_wakes_reads_what_was_written_meanwhile() {
    let (mut world, order) = World::by_hand(Broken::Nothing);
    let [first, second, sleeper, spare] = order;
    world.everybody_holds_one([first, second, sleeper]);
    fall_asleep(&mut world, order, &[]);
    world.put_over_all(spare);
    world.drain();
    assert_eq!(world.acks.len(), 2);
    world.cut.clear();
    assert!(world.is_ready(sleeper), "it does not know better");
    assert_eq!(world.values_at(sleeper), [2]);
    world.come_together(&[first, second]);
    assert_eq!(world.verdict(), []);
}

/// The same, and it writes before it has seen any change, over what it had read before it slept. The old roster's quorum
/// is no longer one: its write needs the new roster, and then it stands beside what was written meanwhile (K2, K3).
#[test]
fn one_that_wakes_writes_for_all_to_see() {
    let (mut world, order) = World::by_hand(Broken::Nothing);
    let [first, second, sleeper, spare] = order;
    world.everybody_holds_one([first, second, sleeper]);
    fall_asleep(&mut world, order, &[]);
    world.put_over_all(spare);
    world.drain();
    world.cut.clear();
    let seen = world.context_at(sleeper);
    world.put_over(sleeper, &seen);
    world.both(sleeper, first);
    assert_eq!(world.acks.len(), 2, "with `first` it has a quorum of the old roster only");
    world.drain();
    assert_eq!(world.acks.len(), 3);
    assert_eq!(world.values_at(spare), [2, 3]);
    world.come_together(&[second]);
    assert_eq!(world.values(), [2, 3]);
    assert_eq!(world.verdict(), []);
}
