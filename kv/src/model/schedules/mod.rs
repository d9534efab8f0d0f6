//! Runs that are told by hand: one order of messages each, and what must be true after it. Each names the promise of
//! `docs/SEMANTICS.md` that it is about, and, where there is one, the mistake under which it fails.
//!
//! | file | idea |
//! |---|---|
//! | this one | the steps that they are told in |
//! | `acks` | an acknowledgement against a crash or a move |
//! | `moves` | a shard moves, is handed over, or waits for those that it needs |
//! | `fences` | a roster is fenced while something is done under it |
//! | `disks` | power fails, and the disks are there again |
//! | `deletes` | a delete against a put, a move, a restart and a duplicate |
//! | `messages` | late and repeated messages, retries, and answers of boots that are gone |
//! | `sleepers` | one that slept while the others moved on |

mod acks;
mod deletes;
mod disks;
mod fences;
mod messages;
mod moves;
mod sleepers;

use polity_crdt::VersionVector;

use super::explore::PLAN;
use super::*;

// ---- the ground ---------------------------------------------------------------------------------------------------

impl World {
    /// Four nodes and nothing by chance: the three that hold the shard, and the fourth.
    fn by_hand(broken: Broken) -> (Self, [usize; 4]) {
        Self::told(Plan { lossy: false, broken, ..PLAN })
    }

    /// The same, with disks.
    fn on_disks(broken: Broken) -> (Self, [usize; 4]) {
        Self::told(Plan { lossy: false, broken, disks: true, ..PLAN })
    }

    fn told(plan: Plan) -> (Self, [usize; 4]) {
        let mut world = World::new(0, plan, true);
        world.lossless = true;
        world.late = (0, 1);
        world.slow = None;
        world.hasty = 0;
        world.keys = 1;
        let seen: Seen = (0..4).map(|_| Sight::new(1, Status::Alive)).collect();
        world.procs.truncate(4);
        world.procs.iter_mut().for_each(|proc| {
            let id = proc.id.clone();
            proc.disk = Disk::default();
            proc.store = open_store(&plan, id, &proc.disk);
            proc.seen = seen.clone();
            proc.map = Arc::new(map_of(&seen));
            proc.store.place(SHARD, proc.map.roster());
            proc.store.introduce(SHARD, Vec::new());
            proc.disk.sync(proc.store.commit([SHARD]).expect("the model's disks work"));
        });
        world.common = vec![seen];
        let mut order: Vec<usize> = world.procs[0].map.preferred.iter().map(place_of).collect();
        order.extend((0..4).filter(|at| !order.contains(at)).collect::<Vec<_>>());
        (world, order.try_into().expect("four"))
    }

    // ---- messages -------------------------------------------------------------------------------------------------

    fn find(&self, from: usize, to: usize, out: bool) -> Option<usize> {
        let fits = |call: &Call| {
            place_of(&call.from) == from && place_of(&call.to) == to && matches!(call.leg, Leg::Out(_)) == out
        };
        self.net.iter().position(fits)
    }

    /// Takes the oldest leg between two nodes off the network.
    fn hold(&mut self, from: usize, to: usize, out: bool) -> Call {
        let at = self.find(from, to, out).expect("such a message is under way");
        self.net.remove(at)
    }

    fn arrive(&mut self, call: Call) {
        self.now += 1;
        self.net.push(call);
        self.deliver(self.net.len() - 1);
    }

    /// Delivers one leg between two nodes, the oldest first.
    fn pass(&mut self, from: usize, to: usize, out: bool) {
        let call = self.hold(from, to, out);
        self.arrive(call);
    }

    fn both(&mut self, from: usize, to: usize) {
        self.pass(from, to, true);
        self.pass(from, to, false);
    }

    /// Delivers all that one asks another, until it asks no more.
    fn talk(&mut self, from: usize, to: usize) {
        while let Some(out) = [true, false].into_iter().find(|out| self.find(from, to, *out).is_some()) {
            self.pass(from, to, out);
        }
    }

    fn pass_oldest(&mut self) {
        let call = self.net.remove(0);
        self.arrive(call);
    }

    /// A request does not arrive, and whoever sent it finds out.
    fn lose(&mut self, from: usize, to: usize) {
        let call = self.hold(from, to, true);
        if let Some(task) = call.task {
            self.resume(task, &call.to, Err(()));
        }
    }

    /// A copy of a request that is under way; nobody waits for what it is answered.
    fn copy(&self, from: usize, to: usize) -> Call {
        let call = &self.net[self.find(from, to, true).expect("such a message is under way")];
        let Leg::Out(request) = &call.leg else { unreachable!("a request was looked for") };
        Call { from: call.from.clone(), to: call.to.clone(), task: None, leg: Leg::Out(request.clone()), due: call.due }
    }

    /// These and those do not hear each other.
    fn part(&mut self, these: &[usize], those: &[usize]) {
        let pairs = these.iter().flat_map(|a| those.iter().flat_map(|b| [(*a, *b), (*b, *a)]));
        self.cut.extend(pairs);
    }

    // ---- views ----------------------------------------------------------------------------------------------------

    /// These believe so of one node, and of the others what they did.
    fn believe(&mut self, these: &[usize], of: usize, sight: Sight) {
        for at in these {
            let mut seen = self.procs[*at].seen.clone();
            seen[of] = sight;
            self.see(*at, seen);
        }
    }

    fn sight(&self, of: usize, status: Status) -> Sight {
        Sight { draining: self.procs[of].draining, ..Sight::new(self.procs[of].id.boot.generation, status) }
    }

    /// These take one node for dead, or no longer do.
    fn miss(&mut self, these: &[usize], of: usize) {
        self.believe(these, of, self.sight(of, Status::Down));
    }

    fn find_again(&mut self, these: &[usize], of: usize) {
        self.believe(these, of, self.sight(of, Status::Alive));
    }

    /// Loses its memory and is back at once; these see it, and it sees what the first of them does.
    fn destroy(&mut self, at: usize, seen_by: &[usize]) {
        self.common.extend(seen_by.first().map(|by| self.procs[*by].seen.clone()));
        self.end(at, false);
        self.restart_at(at);
        self.find_again(seen_by, at);
    }

    /// Is about to leave; these see it too.
    fn drains(&mut self, at: usize, seen_by: &[usize]) {
        self.start_to_leave(at);
        self.believe(seen_by, at, self.sight(at, Status::Alive));
    }

    // ---- operations -----------------------------------------------------------------------------------------------

    fn plan_of(&self, at: usize, level: Consistency) -> WritePlan {
        let proc = &self.procs[at];
        let rosters = proc.store.rosters(SHARD).expect("introduced");
        WritePlan { key: 0, level, rosters, target: proc.store.placed(SHARD), map: proc.map.clone() }
    }

    /// Writes beside whatever there is.
    fn put(&mut self, at: usize) {
        self.put_over(at, &VersionVector::new());
    }

    fn put_over(&mut self, at: usize, context: &VersionVector) {
        self.now += 1;
        self.write(at, self.plan_of(at, Consistency::Quorum), context);
    }

    fn put_at_one(&mut self, at: usize) {
        self.now += 1;
        self.write(at, self.plan_of(at, Consistency::One), &VersionVector::new());
    }

    fn delete_over(&mut self, at: usize, context: &VersionVector) {
        self.now += 1;
        self.change(at, self.plan_of(at, Consistency::Quorum), None, context);
    }

    /// Reads what a quorum knows, then writes over that.
    fn put_over_all(&mut self, at: usize) {
        self.now += 1;
        self.start_read(at, 0, Consistency::Quorum, Some(self.plan_of(at, Consistency::Quorum)));
    }

    fn start_read_now(&mut self, at: usize) {
        self.now += 1;
        self.start_read(at, 0, Consistency::Quorum, None);
    }

    /// Reads, and all messages arrive or are lost.
    fn read_now(&mut self, at: usize) {
        self.start_read_now(at);
        self.drain();
    }

    /// A quorum reads, and is refused.
    fn refuses(&mut self, at: usize) {
        let reads = self.reads;
        self.read_now(at);
        assert_eq!(self.reads, reads, "nothing can be read");
    }

    /// The values that the last read found, by the order in which they were written.
    fn values(&self) -> Vec<u64> {
        let number = |value: &Blob| u64::from_be_bytes(value.0[..].try_into().expect("eight bytes"));
        let mut values: Vec<u64> = self.found.values().into_iter().map(number).collect();
        values.sort_unstable();
        values
    }

    /// What a read on this node finds.
    fn values_at(&mut self, at: usize) -> Vec<u64> {
        let reads = self.reads;
        self.read_now(at);
        assert_eq!(self.reads, reads + 1, "it can be read");
        self.values()
    }

    /// What one node holds, without asking others.
    fn holds(&self, at: usize) -> usize {
        self.record(at, 0).values().len()
    }

    fn context_at(&self, at: usize) -> VersionVector {
        self.record(at, 0).context().clone()
    }

    /// A write that all three hold.
    fn everybody_holds_one(&mut self, [first, second, third]: [usize; 3]) {
        self.put(first);
        self.both(first, second);
        self.both(first, third);
        assert_eq!(self.acks.len(), 1);
    }

    /// A write is acknowledged that the last of the three does not get.
    fn two_hold_one(&mut self, [first, second, third]: [usize; 3]) {
        let acks = self.acks.len();
        self.put(first);
        self.both(first, second);
        self.lose(first, third);
        assert_eq!(self.acks.len(), acks + 1);
    }

    // ---- upkeep ---------------------------------------------------------------------------------------------------

    fn is_ready(&self, at: usize) -> bool {
        self.procs[at].store.with_standing(SHARD, |s| s.is_ready()) == Some(true)
    }

    /// One drains; the others settle without having heard it. Then it begins to hand over.
    fn drain_alone(&mut self, at: usize, others: &[usize]) {
        self.drains(at, others);
        self.part(&[at], others);
        self.work_among(others);
        assert!(others.iter().all(|other| self.is_ready(*other)));
        self.cut.clear();
        self.work(at);
        self.drain();
        self.work(at);
        assert!(self.tasks.values().any(|entry| matches!(entry.task, Task::HandOver { .. })));
    }

    /// These do what they can, and all messages arrive or are lost.
    fn work_among(&mut self, nodes: &[usize]) {
        for _ in 0..4 {
            nodes.iter().for_each(|at| self.work(*at));
            self.drain();
        }
    }

    fn quiesce(&mut self, nodes: &[usize]) {
        for _ in 0..20 {
            for at in nodes {
                self.work(*at);
            }
            self.drain();
        }
        assert!(nodes.iter().all(|at| self.is_settled(*at)));
    }

    /// All hear and see each other again, and all settles; then these read.
    fn come_together(&mut self, readers: &[usize]) {
        self.cut.clear();
        let truth = self.truth();
        let all = self.alive();
        all.iter().for_each(|at| self.see(*at, truth.clone()));
        self.quiesce(&all);
        readers.iter().for_each(|at| self.read_now(*at));
    }

    /// All settles, then one more is destroyed for good, and all settles again; then these read.
    fn survive_one_more(&mut self, lost: usize, readers: &[usize]) {
        self.come_together(&[]);
        self.end(lost, false);
        self.come_together(readers);
    }

    /// What went wrong; prints the whole story if asked to.
    fn verdict(self) -> Vec<Wrong> {
        self.tell();
        self.wrong
    }
}
