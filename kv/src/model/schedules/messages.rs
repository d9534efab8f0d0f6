//! Late and repeated messages, retries, and answers of boots that are gone.

use super::*;

/// A write is late at `third`; before it, a newer one arrives that has seen it. The late one changes nothing (K2).
#[test]
fn a_late_write_does_not_undo_the_one_that_has_seen_it() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let late = world.hold(first, third, true);
    world.both(first, second);
    let seen = world.context_at(second);
    world.put_over(second, &seen);
    world.both(second, third);
    assert_eq!(world.acks.len(), 2);
    world.arrive(late);
    world.drain();
    assert_eq!(world.holds(third), 1);
    assert_eq!(world.values_at(third), [2]);
    assert_eq!(world.verdict(), []);
}

/// A write of an earlier boot arrives after its node has restarted and written again. Both are events of their own, though
/// both are the first of their boot: they stay side by side (K2).
#[test]
fn a_late_write_of_an_earlier_boot_is_not_mistaken_for_one_of_the_next() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let late = world.hold(first, third, true);
    world.lose(first, second);
    world.destroy(first, &[second, third, spare]);
    world.come_together(&[]);
    world.put(first);
    world.drain();
    assert_eq!(world.values_at(third), [2]);
    world.arrive(late);
    assert_eq!(world.holds(third), 2, "neither replaces the other");
    // A comparison of each with each brings it to all; then any read finds both.
    for (at, peer) in [(first, third), (second, third)] {
        let round = world.procs[at].store.with_standing(SHARD, |s| s.round()).expect("introduced");
        let under = world.procs[at].store.placed(SHARD);
        world.cover(at, &world.procs[peer].id.clone(), &under, round);
        world.drain();
    }
    assert_eq!(world.values_at(first), [1, 2]);
    assert_eq!(world.verdict(), []);
}

/// A client's first attempt reaches one more replica and its outcome is unknown; it tries again at that replica, which
/// reads first. The retry has seen the first attempt and replaces it: one value is left, however late the rest of the
/// first attempt is (K2, K6).
#[test]
fn a_retry_replaces_what_it_has_seen_of_the_first_attempt() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let late = world.hold(first, third, true);
    world.pass(first, second, true);
    world.part(&[first], &[second]);
    world.pass(first, second, false);
    assert!(world.acks.is_empty());
    world.put_over_all(second);
    for to in [first, third, first, third] {
        world.talk(second, to);
    }
    assert_eq!(world.acks.len(), 1);
    world.arrive(late);
    world.drain();
    assert_eq!(world.values_at(third), [2]);
    world.come_together(&[first]);
    assert_eq!(world.values(), [2]);
    assert_eq!(world.verdict(), []);
}

/// The same, but the retry goes where the first attempt has not been, and its coordinator is out of reach: two events that
/// knew nothing of each other, and both are kept. Whoever reads and writes again is left with one (K2).
#[test]
fn a_retry_that_has_not_seen_the_first_attempt_stands_beside_it() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let late = world.hold(first, second, true);
    world.lose(first, third);
    world.part(&[first], &[second, third]);
    world.put_over_all(second);
    for to in [first, third, first, third] {
        world.talk(second, to);
    }
    assert_eq!(world.acks.len(), 1);
    world.arrive(late);
    world.cut.clear();
    world.drain();
    assert_eq!(world.holds(second), 1, "it was cut off when it arrived");
    let known = [first, second].map(|at| world.record(at, 0));
    assert_eq!(known.iter().map(|record| record.values().len()).sum::<usize>(), 2);
    world.part(&[second], &[third]);
    assert_eq!(world.values_at(second), [1, 2]);
    world.put_over_all(second);
    world.drain();
    world.come_together(&[third]);
    assert_eq!(world.values(), [3]);
    assert_eq!(world.verdict(), []);
}

/// A read asks `first` and is answered; while the answer is under way `first` restarts. The answer counts for the boot that
/// gave it. A later read asks the new boot, whose silence does not count for the old one's roster (K3).
#[test]
fn an_answer_counts_for_the_boot_that_gave_it_and_no_other() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.two_hold_one([first, second, third]);
    world.part(&[third], &[second, spare]);
    world.start_read_now(third);
    while world.find(third, first, true).is_none() {
        world.drain();
        world.start_read_now(third);
    }
    world.pass(third, first, true);
    world.destroy(first, &[third]);
    world.drain();
    assert_eq!(world.values(), [1], "what it had said before it crashed");
    world.refuses(third);
    world.come_together(&[third]);
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// Two replicas are being compared when a write arrives at both, between the account and the pages: neither loses it, and
/// the next comparison finds nothing (K4).
#[test]
fn a_comparison_that_a_write_overtakes_loses_nothing() {
    let (mut world, [first, second, third, _]) = World::by_hand(Broken::Nothing);
    world.two_hold_one([first, second, third]);
    let under = world.procs[third].store.placed(SHARD);
    let compare = |world: &mut World, at: usize, peer: usize| {
        let round = world.procs[at].store.with_standing(SHARD, |s| s.round()).expect("introduced");
        world.cover(at, &world.procs[peer].id.clone(), &under, round);
    };
    compare(&mut world, third, first);
    world.both(third, first);
    assert!(world.find(third, first, true).is_some(), "it asks for what it lacks");
    world.put(second);
    world.both(second, first);
    world.both(second, third);
    world.talk(third, first);
    assert_eq!(world.holds(third), 2);
    world.drain();
    let digests: BTreeSet<u64> =
        [first, second, third].iter().map(|at| world.procs[*at].store.digest(SHARD).total()).collect();
    assert_eq!(digests.len(), 1);
    compare(&mut world, third, first);
    world.both(third, first);
    assert!(world.net.is_empty() && world.tasks.is_empty(), "there is nothing to fetch");
    assert_eq!(world.values_at(third), [1, 2]);
    assert_eq!(world.verdict(), []);
}
