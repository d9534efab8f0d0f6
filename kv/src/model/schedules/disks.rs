//! Nodes whose power fails and whose disks are there again.

use super::*;

impl World {
    /// The power of these fails at once; nothing that was not synced is there afterwards.
    fn all_lose_power(&mut self, nodes: &[usize]) {
        for at in nodes {
            self.lose_power(*at, 0);
        }
    }

    /// Starts again with its disk, and sees these and itself.
    fn start_among(&mut self, at: usize, up: &[usize]) {
        let mut seen = self.truth();
        for (other, sight) in seen.iter_mut().enumerate() {
            if !up.contains(&other) {
                sight.status = Status::Down;
            }
        }
        self.common.push(seen);
        self.restart_at(at);
    }
}

/// All stop, and fewer than a quorum are back: they serve nothing. A quorum of heirs serves what was acknowledged (K1, K3).
#[test]
fn after_a_stop_of_all_a_quorum_of_heirs_serves_and_fewer_do_not() {
    let (mut world, [first, second, third, spare]) = World::on_disks(Broken::Nothing);
    world.two_hold_one([first, second, third]);
    world.all_lose_power(&[first, second, third, spare]);
    world.start_among(third, &[]);
    world.work_among(&[third]);
    world.refuses(third);
    world.start_among(second, &[third]);
    world.come_together(&[]);
    assert_eq!(world.values_at(third), [1]);
    assert_eq!(world.verdict(), []);
}

/// `second` gives an account to the roster that follows, and its power fails. Then it meets `third`, which was cut off: the
/// two are a quorum of the roster before, and must not serve without the one that followed (K3).
fn a_fence_and_a_power_cut(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::on_disks(broken);
    world.part(&[third], &[first, second, spare]);
    world.miss(&[first, spare], third);
    for asker in [first, spare] {
        world.work(asker);
        world.both(asker, second);
    }
    world.part(&[second, third], &[first, spare]);
    world.work_among(&[first, spare]);
    world.put(first);
    world.drain();
    assert_eq!(world.acks.len(), 1);
    world.lose_power(second, 0);
    world.cut.retain(|(a, b)| ![*a, *b].iter().all(|at| [second, third].contains(at)));
    world.start_among(second, &[third]);
    let seen = world.procs[second].seen.clone();
    world.see(third, seen);
    world.work_among(&[second, third]);
    world.read_now(second);
    world.verdict()
}

#[test]
fn a_fence_outlives_a_power_cut() {
    assert_eq!(a_fence_and_a_power_cut(Broken::Nothing), []);
    assert_eq!(a_fence_and_a_power_cut(Broken::FenceNotKept), [Wrong::Stale { agreed: true }]);
}

#[cfg(feature = "mutations")]
#[test]
fn the_model_catches_a_fence_that_is_not_kept() {
    use polity_cluster::mutation::{Mutation, set};
    set(Some(Mutation::ForgetsFences));
    let wrong = a_fence_and_a_power_cut(Broken::Nothing);
    set(None);
    assert_eq!(wrong, [Wrong::Stale { agreed: true }]);
}

/// `first` and `second` hold a write. The disk of `first` is wiped, and while `second` is down, it starts and meets `third`:
/// it is no heir, so the two are no quorum of what was (K1, K3).
fn a_wiped_disk(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, third, spare]) = World::on_disks(broken);
    world.two_hold_one([first, second, third]);
    world.all_lose_power(&[first, second, third, spare]);
    world.procs[first].disk = Disk::default();
    world.start_among(third, &[]);
    world.start_among(first, &[third]);
    let seen = world.procs[first].seen.clone();
    world.see(third, seen);
    world.work_among(&[third, first]);
    world.read_now(third);
    if world.wrong.is_empty() {
        assert!(!world.is_ready(third) && !world.is_ready(first));
        world.start_among(second, &[first, third]);
        world.come_together(&[first]);
        assert_eq!(world.values(), [1]);
    }
    world.verdict()
}

#[test]
fn a_wiped_disk_has_no_heirs() {
    assert_eq!(a_wiped_disk(Broken::Nothing), []);
    assert_eq!(a_wiped_disk(Broken::FalseHeirs), [Wrong::Stale { agreed: true }]);
}

/// `third` hands a shard over. What it has and the others lack reaches each of them late, between its account and its sketch;
/// so the sketch says that nothing is lacking. `third` drops all, and the power of the others fails (K2).
fn a_sketch_and_a_power_cut(broken: Broken) -> Vec<u64> {
    let (mut world, [first, second, third, spare]) = World::on_disks(broken);
    world.everybody_holds_one([first, second, third]);
    world.put_at_one(third);
    let mut late: Vec<Call> = [first, second, spare].map(|_| world.copy(third, first)).into();
    for (call, to) in late.iter_mut().zip([first, second, spare]) {
        call.to = world.procs[to].id.clone();
    }
    world.lose(third, first);
    world.lose(third, second);
    world.drain_alone(third, &[first, second, spare]);
    while !world.net.is_empty() {
        let call = world.net.remove(0);
        if matches!(call.leg, Leg::Out(Request::Repair(reconcile::Ask::Sketch(_))))
            && let Some(at) = late.iter().position(|late| late.to == call.to)
        {
            world.arrive(late.swap_remove(at));
            // What it is answered is slow.
            world.net.retain(|call| call.task.is_some());
        }
        world.arrive(call);
    }
    assert!(late.is_empty() && !world.procs[third].store.holds_records(SHARD), "all have it");
    world.end(third, true);
    world.all_lose_power(&[first, second, spare]);
    for at in [first, second, spare] {
        world.restart_at(at);
    }
    world.come_together(&[]);
    world.values_at(spare)
}

#[test]
fn what_a_sketch_tells_of_outlives_a_power_cut() {
    assert_eq!(a_sketch_and_a_power_cut(Broken::Nothing), [1, 2]);
    assert_eq!(a_sketch_and_a_power_cut(Broken::SketchNotKept), [1]);
}
