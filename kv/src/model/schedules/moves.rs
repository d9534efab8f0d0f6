//! A shard moves, is handed over, or waits for those that it needs.

use super::*;

/// `spare` has heard `second` when `first` and `third` acknowledge a write under the old roster, which neither of them
/// has seen fenced. Whom it hears next has the write: any two of the old roster meet (K3).
fn a_write_while_the_new_roster_settles(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.miss(&[second, spare], first);
    world.work(spare);
    world.talk(spare, second);
    assert!(!world.is_ready(spare));
    world.put(first);
    world.lose(first, second);
    world.both(first, third);
    assert_eq!(world.acks.len(), 1, "nobody who has moved was needed");
    world.miss(&[third], first);
    world.drain();
    world.work_among(&[second, third, spare]);
    assert!(world.is_ready(second) && world.is_ready(spare));
    world.part(&[spare], &[third]);
    world.read_now(spare);
    world.verdict()
}

#[test]
fn what_the_old_roster_accepts_while_the_new_one_settles_is_found() {
    assert_eq!(a_write_while_the_new_roster_settles(Broken::Nothing), []);
    assert_eq!(a_write_while_the_new_roster_settles(Broken::NotFetched), [Wrong::Stale { agreed: true }]);
}

/// A node leaves a shard that another joins because of that. It cannot go before a quorum with the joiner is ready; then it
/// goes, one more is destroyed, and what it had acknowledged is there (K1).
#[test]
fn one_that_leaves_waits_for_the_one_that_joins() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.two_hold_one([first, third, second]);
    world.drains(third, &[]);
    world.work_among(&[third]);
    world.leave(third);
    assert!(world.procs[third].alive, "nobody else knows that it is about to leave");
    world.believe(&[first, second], third, world.sight(third, Status::Alive));
    world.part(&[first], &[second, spare]);
    world.work_among(&[first, second, third, spare]);
    world.leave(third);
    assert!(world.procs[third].alive, "no quorum of those that stay is ready");
    world.cut.clear();
    world.believe(&[spare], third, world.sight(third, Status::Alive));
    world.quiesce(&[first, second, third, spare]);
    world.leave(third);
    assert!(!world.procs[third].alive);
    world.survive_one_more(first, &[second, spare]);
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// `third` drains and holds a write of level `One` that nobody else has; the others are ready without it. The network is
/// at the moment when its first records are under way to a receiver.
fn handing_over(broken: Broken) -> (World, [usize; 4], usize) {
    let (mut world, order) = World::by_hand(broken);
    let [first, second, third, spare] = order;
    world.put_at_one(third);
    world.lose(third, first);
    world.lose(third, second);
    assert_eq!(world.acks.len(), 1);
    world.drain_alone(third, &[first, second, spare]);
    let is_offer = |call: &Call| matches!(call.leg, Leg::Out(Request::Repair(reconcile::Ask::Offer(_))));
    while !world.net.iter().any(is_offer) {
        world.pass_oldest();
    }
    let receiver = place_of(&world.net.iter().find(|call| is_offer(call)).expect("it is there").to);
    (world, order, receiver)
}

impl World {
    /// One that drains hands over again, until it may leave.
    fn hand_over_and_leave(&mut self, at: usize) {
        let all = self.alive();
        self.quiesce(&all);
        self.leave(at);
        assert!(!self.procs[at].alive);
    }
}

/// The receiver dies before it has installed what is handed over, and the others are out of reach: the giver keeps it, is
/// not done, and gives it again (K2: nothing is dropped that nobody has).
fn a_receiver_that_dies_before_it_installs(broken: Broken) -> Vec<u64> {
    let (mut world, [first, second, third, spare], receiver) = handing_over(broken);
    world.end(receiver, false);
    world.part(&[third], &[first, second, spare]);
    world.drain();
    if broken == Broken::Nothing {
        assert!(world.procs[third].store.holds_records(SHARD) && !world.progress(third).1);
    }
    world.restart_at(receiver);
    world.come_together(&[]);
    world.hand_over_and_leave(third);
    world.come_together(&[]);
    world.values_at(spare)
}

#[test]
fn what_no_receiver_has_installed_is_kept_and_given_again() {
    assert_eq!(a_receiver_that_dies_before_it_installs(Broken::Nothing), [1]);
    assert_eq!(a_receiver_that_dies_before_it_installs(Broken::Dropped), []);
}

/// A receiver dies after it has acknowledged what was handed over, before it could give it to anybody. The giver has
/// dropped it only because all the others have it too (K1).
#[test]
fn a_receiver_that_dies_after_it_acknowledged_was_not_the_only_one() {
    let (mut world, [first, second, third, spare], _) = handing_over(Broken::Nothing);
    world.drain();
    assert!(!world.procs[third].store.holds_records(SHARD), "all have taken it");
    world.destroy(spare, &[first, second, third]);
    world.come_together(&[spare]);
    assert_eq!(world.values(), [1]);
    world.hand_over_and_leave(third);
    world.survive_one_more(first, &[spare]);
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// While a shard is handed over a newer view gives it back to the giver: the last acknowledgement arrives, and it drops
/// nothing, because it is a replica again (K2).
#[test]
fn a_hand_over_that_a_newer_view_crosses_drops_nothing() {
    let (mut world, [first, second, third, spare], _) = handing_over(Broken::Nothing);
    while world.net.len() == 1 && world.tasks.len() == 1 {
        let last = world.net.remove(0);
        if world.tasks.values().any(|entry| matches!(&entry.task, Task::HandOver { taken: 2, .. }))
            && matches!(last.leg, Leg::Back(..))
        {
            // It has changed its mind, and stays.
            world.procs[third].draining = false;
            world.believe(&[third], third, world.sight(third, Status::Alive));
            world.miss(&[third], spare);
        }
        world.arrive(last);
    }
    assert!(world.procs[third].store.placed(SHARD).contains(&world.procs[third].id));
    assert!(world.procs[third].store.holds_records(SHARD));
    world.come_together(&[first, second, third]);
    assert_eq!(world.values(), [1]);
    assert_eq!(world.verdict(), []);
}

/// While a shard is handed over a late write arrives at the giver: what it was given account of is no longer all that it
/// has, so it drops nothing, and hands over again (K2).
#[test]
fn a_hand_over_that_a_write_crosses_is_done_again() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.put(first);
    let late = world.hold(first, third, true);
    world.lose(first, second);
    world.put_at_one(third);
    world.lose(third, first);
    world.lose(third, second);
    // The late one is all that is left of the first write.
    world.destroy(first, &[second, third, spare]);
    world.come_together(&[]);
    world.drain_alone(third, &[first, second, spare]);
    world.pass_oldest();
    world.arrive(late);
    world.net.retain(|call| call.task.is_some());
    while !world.net.is_empty() {
        world.pass_oldest();
    }
    assert!(world.procs[third].store.holds_records(SHARD), "not all of it was given");
    world.hand_over_and_leave(third);
    world.come_together(&[spare]);
    assert_eq!(world.values(), [1, 2]);
    assert_eq!(world.verdict(), []);
}

/// Two moves follow each other, and `first` sees only the second. A write was acknowledged under the roster between, by
/// two of which one is out of reach now: `first` learns of that roster from whom it hears, and finds the write (K3).
fn a_move_that_one_has_not_seen(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::by_hand(broken);
    world.miss(&[second, third, spare], first);
    world.work_among(&[second, third, spare]);
    world.put(spare);
    world.both(spare, second);
    world.net.clear();
    world.tasks.clear();
    assert_eq!((world.acks.len(), world.holds(third)), (1, 0));
    // Now `second` is gone, and `first` is back. `spare` is slow.
    world.part(&[second], &[first, third, spare]);
    world.find_again(&[third, spare], first);
    world.miss(&[first, third, spare], second);
    world.part(&[spare], &[first, third]);
    world.work_among(&[first, third]);
    if broken == Broken::Nothing {
        world.refuses(first);
        assert!(!world.is_ready(first) && !world.is_ready(third));
    } else {
        world.read_now(first);
    }
    if world.wrong.is_empty() {
        world.come_together(&[first, third]);
        assert_eq!(world.values(), [1]);
    }
    world.verdict()
}

#[test]
fn a_roster_that_one_has_not_seen_is_learned_of() {
    assert_eq!(a_move_that_one_has_not_seen(Broken::Nothing), []);
    assert_eq!(a_move_that_one_has_not_seen(Broken::NothingOwed), [Wrong::Stale { agreed: true }]);
}

/// Two of three are Down as the last one sees it: it begins nothing, so nothing of what it refuses can show. When they are
/// back it serves at once (K6, and the table of partitions).
#[test]
fn what_is_refused_leaves_no_trace_and_is_served_later() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.everybody_holds_one([first, second, third]);
    world.part(&[first], &[second, third, spare]);
    for gone in [second, third, spare] {
        world.miss(&[first], gone);
    }
    let before = world.procs[first].store.digest(SHARD).total();
    world.put_over_all(first);
    world.drain();
    world.refuses(first);
    assert!(world.tasks.is_empty());
    assert_eq!(world.procs[first].store.digest(SHARD).total(), before, "nothing was written");
    // The other side goes on meanwhile.
    world.miss(&[second, third, spare], first);
    world.quiesce(&[second, third, spare]);
    world.put_over_all(spare);
    world.drain();
    assert_eq!(world.acks.len(), 2);
    world.come_together(&[first]);
    assert_eq!(world.values(), [2]);
    assert_eq!(world.verdict(), []);
}

/// A node that has just got a shard is asked before it has heard anybody: nothing is read from it. It is ready once it has
/// heard a quorum of those that had the shard before, and not sooner (K3, liveness).
#[test]
fn a_new_replica_serves_when_it_has_heard_a_quorum_and_not_before() {
    let (mut world, [first, second, third, spare]) = World::by_hand(Broken::Nothing);
    world.two_hold_one([first, second, third]);
    world.end(first, false);
    world.miss(&[second, third, spare], first);
    world.part(&[second], &[third, spare]);
    world.work_among(&[third, spare]);
    assert!(!world.is_ready(third) && !world.is_ready(spare), "neither has what `second` has");
    world.refuses(spare);
    world.cut.clear();
    world.work_among(&[second, third, spare]);
    assert!(world.is_ready(spare));
    world.part(&[spare], &[second]);
    assert_eq!(world.values_at(spare), [1]);
    assert_eq!(world.verdict(), []);
}
