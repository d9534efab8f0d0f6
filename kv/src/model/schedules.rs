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
    let plan = {
        let proc = &world.procs[old];
        let target = proc.store.placed(SHARD);
        WritePlan { key: 0, level: Consistency::Quorum, rosters: vec![target.clone()], target, map: proc.map.clone() }
    };
    world.write(old, plan, &VersionVector::new());
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

fn one_that_slept(broken: Broken) -> Vec<Wrong> {
    let (mut world, [first, second, sleeper, spare]) = World::by_hand(broken);
    let awake = [first, second, spare];
    let cut: Vec<_> = awake.iter().flat_map(|at| [(*at, sleeper), (sleeper, *at)]).collect();
    // The sleeper is cut off; the others go on without it, and two of them restart, one after the other.
    world.cut.extend(&cut);
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
    let plan = {
        let proc = &world.procs[second];
        let target = proc.store.placed(SHARD);
        WritePlan { key: 0, level: Consistency::Quorum, rosters: vec![target.clone()], target, map: proc.map.clone() }
    };
    world.write(second, plan, &VersionVector::new());
    world.drain();
    assert_eq!(world.acks.len(), 1);
    world.quiesce(&awake);
    // All is settled. The sleeper is back, and one node is destroyed.
    world.cut.clear();
    seen[sleeper] = Sight::new(1, Status::Alive);
    world.common.push(seen.clone());
    world.destroy(first);
    seen[first] = Sight::new(3, Status::Alive);
    world.work(first);
    // The sleeper, which has not seen anything yet, is the first to introduce it.
    world.both(first, sleeper);
    for at in 0..4 {
        world.see(at, seen.clone());
    }
    // One message of each of the two to `second` is lost.
    world.cut.extend([(first, second), (sleeper, second)]);
    for at in [first, sleeper, first, sleeper] {
        world.work(at);
        let calls = world.net.len();
        for _ in 0..2 * calls {
            let next = world.net.iter().position(|c| [first, sleeper].contains(&place_of(&c.from)));
            if let Some(next) = next {
                world.deliver(next);
            }
        }
    }
    world.now += 1;
    world.start_read(sleeper, 0, Consistency::Quorum, None);
    world.drain();
    if world.wrong.is_empty() {
        world.cut.clear();
        world.now += 1;
        for _ in 0..20 {
            (0..4).for_each(|at| world.work(at));
            world.drain();
        }
        world.start_read(sleeper, 0, Consistency::Quorum, None);
        world.drain();
        assert!((0..4).all(|at| world.is_settled(at)));
    }
    world.tell();
    world.wrong
}

#[test]
fn one_that_slept_must_hear_from_those_that_did_not() {
    assert_eq!(one_that_slept(Broken::Nothing), []);
    assert_eq!(one_that_slept(Broken::Deaf), [Wrong::Stale { agreed: true }]);
}
