//! Runs that were found once, told by hand.

use polity_crdt::VersionVector;

use super::explore::PLAN;
use super::*;

impl World {
    /// Four nodes and nothing by chance: the three that hold the shard, and the fourth.
    pub(super) fn by_hand(broken: Broken) -> (Self, [usize; 4]) {
        let mut world = World::new(0, Plan { lossy: false, broken, ..PLAN }, true);
        world.lossless = true;
        world.late = (0, 1);
        world.slow = None;
        world.keys = 1;
        let seen: Seen = (0..4).map(|_| Sight::new(1, Status::Alive)).collect();
        world.procs.truncate(4);
        world.procs.iter_mut().for_each(|proc| {
            let id = proc.id.clone();
            proc.store = new_store(id);
            proc.seen = seen.clone();
            proc.map = Arc::new(map_of(&seen));
            proc.store.place(SHARD, proc.map.roster());
            proc.store.introduce(SHARD, Vec::new());
        });
        let mut order: Vec<usize> = world.procs[0].map.preferred.iter().map(place_of).collect();
        order.extend((0..4).filter(|at| !order.contains(at)).collect::<Vec<_>>());
        (world, order.try_into().expect("four"))
    }

    /// Delivers one leg between two nodes, the oldest first.
    pub(super) fn pass(&mut self, from: usize, to: usize, out: bool) {
        self.now += 1;
        let fits = |call: &Call| {
            place_of(&call.from) == from && place_of(&call.to) == to && matches!(call.leg, Leg::Out(_)) == out
        };
        let at = self.net.iter().position(fits).expect("such a message is under way");
        let call = self.net.remove(at);
        self.net.push(call);
        self.deliver(self.net.len() - 1);
    }

    pub(super) fn both(&mut self, from: usize, to: usize) {
        self.pass(from, to, true);
        self.pass(from, to, false);
    }
}

fn an_account_from_before_a_fence(broken: Broken) -> Vec<Wrong> {
    let (mut world, [old, both, other, new]) = World::by_hand(broken);
    // `old` is not up any more, as `other` and `new` see it; `old` and `both` do not see that yet.
    let mut later = world.procs[0].seen.clone();
    later[old] = Sight::new(1, Status::Down);
    world.see(new, later.clone());
    world.see(other, later.clone());
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
    assert!(world.procs[both].store.with_standing(SHARD, |s| s.is_ready()).expect("introduced"));
    // A write under the old roster alone.
    world.write_now(old);
    world.both(old, both);
    assert_eq!(world.acks.len(), 1);
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
    while !world.net.iter().any(|call| place_of(&call.from) == new && place_of(&call.to) == other) {
        world.start_read(new, 0, Consistency::Quorum, None);
    }
    world.both(new, other);
    world.tell();
    world.wrong
}

#[test]
fn what_was_asked_before_a_fence_must_not_count_after_it() {
    assert_eq!(an_account_from_before_a_fence(Broken::Nothing), []);
    assert_eq!(an_account_from_before_a_fence(Broken::LateHear), [Wrong::Stale { agreed: true }]);
}

impl World {
    pub(super) fn quiesce(&mut self, nodes: &[usize]) {
        for _ in 0..20 {
            for at in nodes {
                self.work(*at);
            }
            self.drain();
        }
        assert!(nodes.iter().all(|at| self.is_settled(*at)));
    }

    pub(super) fn destroy(&mut self, at: usize) {
        self.procs[at].alive = false;
        log!(self, "{} crashes", short(&self.procs[at].id));
        self.restart_at(at);
    }
}

/// The sleeper knows the first roster only. The three others have moved on without it, two of them have restarted since,
/// one after the other, and what they have acknowledged together is settled. Then the sleeper is back, `first` is destroyed
/// once more, and the sleeper introduces it.
fn after_a_long_sleep(broken: Broken) -> (World, [usize; 4]) {
    let (mut world, order) = World::by_hand(broken);
    let [first, second, sleeper, spare] = order;
    let awake = [first, second, spare];
    world.cut.extend(world.links(sleeper));
    let mut seen = world.procs[0].seen.clone();
    seen[sleeper] = Sight::new(1, Status::Down);
    for restarts in [None, Some(first), Some(second)] {
        if let Some(at) = restarts {
            world.common.push(seen.clone());
            world.destroy(at);
            seen[at] = Sight::new(2, Status::Alive);
        }
        for at in awake {
            world.see(at, seen.clone());
        }
        world.quiesce(&awake);
    }
    world.write_now(second);
    world.drain();
    assert_eq!(world.acks.len(), 1);
    world.quiesce(&awake);
    world.cut.clear();
    seen[sleeper] = Sight::new(1, Status::Alive);
    world.common.push(seen.clone());
    world.destroy(first);
    seen[first] = Sight::new(3, Status::Alive);
    world.work(first);
    world.both(first, sleeper);
    (world, order)
}

impl World {
    fn write_now(&mut self, at: usize) {
        let proc = &self.procs[at];
        let target = proc.store.placed(SHARD);
        let (rosters, map) = (vec![target.clone()], proc.map.clone());
        self.write(at, WritePlan { key: 0, level: Consistency::Quorum, rosters, target, map }, &VersionVector::new());
    }

    fn read_now(&mut self, at: usize) {
        self.now += 1;
        self.start_read(at, 0, Consistency::Quorum, None);
        self.drain();
    }

    /// These do what they can, and all their messages arrive or are lost.
    fn work_among(&mut self, nodes: &[usize]) {
        for _ in 0..4 {
            nodes.iter().for_each(|at| self.work(*at));
            self.drain();
        }
    }

    fn is_ready(&self, at: usize) -> bool {
        self.procs[at].store.with_standing(SHARD, |s| s.is_ready()) == Some(true)
    }

    /// All hear each other again, and all settles.
    fn come_together(&mut self, late: &[usize]) {
        self.cut.clear();
        let truth = self.truth();
        let all = self.alive();
        all.iter().for_each(|at| self.see(*at, truth.clone()));
        self.quiesce(&all);
        late.iter().for_each(|at| self.read_now(*at));
    }
}

fn one_that_slept(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, sleeper, spare]) = after_a_long_sleep(broken);
    // `first` and the sleeper do not get through to the two others, though they see them.
    let truth = world.truth();
    (0..4).for_each(|at| world.see(at, truth.clone()));
    for near in [first, sleeper] {
        world.cut.extend([(near, second), (near, spare), (second, near), (spare, near)]);
    }
    world.work_among(&[first, sleeper]);
    world.read_now(sleeper);
    if world.wrong.is_empty() {
        assert!(!world.is_ready(sleeper) && !world.is_ready(first));
        world.come_together(&[sleeper, first]);
    }
    world.tell();
    world.wrong
}

#[test]
fn one_that_slept_must_hear_from_those_that_did_not() {
    assert_eq!(one_that_slept(Broken::Nothing), []);
    assert_eq!(one_that_slept(Broken::Deaf), [Wrong::Stale { agreed: true }]);
    assert_eq!(one_that_slept(Broken::Heedless), []);
}

/// The same, but on the side of `first` and the sleeper the two others look down.
fn one_that_slept_in_a_split(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, sleeper, spare]) = after_a_long_sleep(broken);
    for near in [first, sleeper] {
        world.cut.extend([(near, second), (near, spare), (second, near), (spare, near)]);
    }
    let mut seen = world.truth();
    for far in [second, spare] {
        seen[far].status = Status::Down;
    }
    for near in [first, sleeper] {
        world.see(near, seen.clone());
    }
    world.work_among(&[first, sleeper]);
    world.read_now(sleeper);
    if world.wrong.is_empty() {
        assert!(!world.is_ready(sleeper) && !world.is_ready(first));
        world.come_together(&[sleeper, first]);
    }
    world.tell();
    world.wrong
}

#[test]
fn the_side_of_one_that_slept_is_not_ready_in_a_split() {
    assert_eq!(one_that_slept_in_a_split(Broken::Nothing), []);
    assert_eq!(one_that_slept_in_a_split(Broken::Heedless), [Wrong::Stale { agreed: true }]);
}

/// `second` has restarted, and `first` too or not; all was settled each time. Then `first` goes down, and the sleeper, which
/// knows the first roster only, comes back.
fn one_that_slept_and_one_that_is_down(has_restarted: bool) {
    let (mut world, [first, second, sleeper, spare]) = World::by_hand(Broken::Nothing);
    let awake = [first, second, spare];
    world.cut.extend(world.links(sleeper));
    let mut seen = world.procs[0].seen.clone();
    seen[sleeper].status = Status::Down;
    let restarts = [None, Some(second), has_restarted.then_some(first)];
    for restarts in restarts {
        if let Some(at) = restarts {
            world.common.push(seen.clone());
            world.destroy(at);
            seen[at] = Sight::new(2, Status::Alive);
        }
        awake.iter().for_each(|at| world.see(*at, seen.clone()));
        world.quiesce(&awake);
    }
    // All is settled, so one more may be lost.
    world.end(first, false);
    seen[first].status = Status::Down;
    [second, spare].iter().for_each(|at| world.see(*at, seen.clone()));
    world.quiesce(&[second, spare]);
    world.cut.clear();
    let truth = world.truth();
    [second, sleeper, spare].iter().for_each(|at| world.see(*at, truth.clone()));
    world.work_among(&[second, sleeper, spare]);
    world.tell();
    // That the first roster was covered long ago the others have forgotten, so they owe it again, as the sleeper does.
    assert!([second, sleeper, spare].iter().all(|at| !world.is_ready(*at)));
    let reads = world.reads;
    world.read_now(spare);
    assert_eq!(world.reads, reads, "nothing can be read");
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
