//! Who believes what of whom; crashes, restarts and leaves.

use super::*;

impl World {
    pub(super) fn living(&self, node: &NodeId) -> Option<usize> {
        let at = place_of(node);
        (self.procs[at].alive && self.procs[at].id == *node).then_some(at)
    }

    pub(super) fn any_alive(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.procs.len()).filter(|at| self.procs[*at].alive).collect();
        (!alive.is_empty()).then(|| alive[self.dice.below(alive.len())])
    }

    /// `Upkeep::place`.
    pub(super) fn see(&mut self, at: usize, seen: Seen) {
        let map = Arc::new(map_of(&seen));
        let proc = &mut self.procs[at];
        let roster = map.roster();
        proc.store.place(SHARD, roster.clone());
        if self.plan.broken == Broken::NothingOwed {
            proc.store.with_standing(SHARD, |s| {
                let (current, owed) = (s.current().clone(), s.owed().cloned().collect::<Vec<_>>());
                s.relieve(&current, &owed);
            });
        }
        proc.map = map;
        proc.seen = seen;
        log!(self, "{} sees {}", short(&self.procs[at].id), text(&roster));
    }

    pub(super) fn truth(&self) -> Seen {
        let one = |proc: &Proc| {
            let asleep = self.asleep.is_some_and(|at| self.procs[at].id == proc.id);
            let status = match (proc.alive, proc.left) {
                (true, _) if asleep => Status::Down,
                (true, _) => Status::Alive,
                (false, true) => Status::Left,
                (false, false) => Status::Down,
            };
            Sight { draining: proc.draining, ..Sight::new(proc.id.boot.generation, status) }
        };
        self.procs.iter().map(one).collect()
    }

    pub(super) fn change_view(&mut self) {
        match self.plan.views {
            Views::Common => {
                if self.dice.chance(80) {
                    // Somebody catches up.
                    let Some(at) = self.any_alive().filter(|at| self.asleep != Some(*at)) else { return };
                    if self.dice.chance(self.lag[at]) {
                        return;
                    }
                    let last = self.common.len() - 1;
                    if self.procs[at].at < last {
                        let to = self.procs[at].at + 1 + self.dice.below(last - self.procs[at].at);
                        self.procs[at].at = to;
                        let seen = self.common[to].clone();
                        self.see(at, seen);
                    }
                } else if self.common.len() < 30 {
                    let mut next = self.common.last().expect("never empty").clone();
                    let at = self.dice.below(self.procs.len());
                    let proc = &self.procs[at];
                    let sight = next[at];
                    let same = sight.generation == proc.id.boot.generation;
                    next[at] = match (proc.alive && self.asleep != Some(at), same) {
                        (true, true) if sight.status.is_up() => Sight { status: Status::Down, ..sight },
                        (true, _) => {
                            Sight { draining: proc.draining, ..Sight::new(proc.id.boot.generation, Status::Alive) }
                        }
                        (false, _) if proc.left => Sight { status: Status::Left, ..sight },
                        (false, _) => Sight { status: Status::Down, ..sight },
                    };
                    if next.iter().any(|sight| sight.status.is_up()) {
                        self.common.push(next);
                    }
                }
            }
            Views::Apart => {
                let Some(at) = self.any_alive().filter(|at| self.asleep != Some(*at)) else { return };
                let mut seen = self.procs[at].seen.clone();
                let truth = self.truth();
                if self.dice.chance(30) {
                    seen = truth;
                } else {
                    let of = self.dice.below(seen.len());
                    if of == at {
                        return;
                    }
                    let (sight, real) = (seen[of], truth[of]);
                    seen[of] = if sight.generation < real.generation && self.dice.chance(60) {
                        let status = if real.status == Status::Down { Status::Alive } else { real.status };
                        Sight { status, ..real }
                    } else if sight.generation == real.generation && real.draining && self.dice.chance(40) {
                        Sight { draining: true, ..sight }
                    } else if sight.status == Status::Left {
                        sight
                    } else if sight.status.is_up() {
                        Sight { status: Status::Down, ..sight }
                    } else {
                        Sight { status: Status::Alive, ..sight }
                    };
                }
                self.see(at, seen);
            }
        }
    }

    pub(super) fn links(&self, at: usize) -> Vec<(usize, usize)> {
        (0..self.procs.len()).flat_map(|other| [(at, other), (other, at)]).collect()
    }

    pub(super) fn sleep_or_wake(&mut self, at: usize) {
        if self.asleep.take().is_some() {
            log!(self, "the sleeper wakes");
            self.cut.clear();
        } else if self.alive().len() > 3 {
            log!(self, "{} sleeps", short(&self.procs[at].id));
            self.cut.extend(self.links(at));
            self.asleep = Some(at);
        }
    }

    /// All that are awake see what is.
    pub(super) fn agree(&mut self) {
        let truth = self.truth();
        self.common.push(truth.clone());
        let mut order = self.alive();
        order.retain(|at| self.asleep != Some(*at));
        self.dice.shuffle(&mut order);
        for at in order {
            self.procs[at].at = self.common.len() - 1;
            self.see(at, truth.clone());
        }
    }

    /// Destroys a node, if all was repaired since the last one.
    pub(super) fn crash(&mut self, left: bool) {
        let Some(at) = self.any_alive() else { return };
        if !self.plan.careless && self.damaged {
            return self.wait_until_settled(at);
        }
        // Who is the only replica of a time is a quorum by itself.
        let disks = self.plan.disks;
        let is_alone = self.procs.iter().filter(|proc| proc.alive || disks).any(|proc| {
            let rosters = proc.store.rosters(SHARD).unwrap_or_default();
            // With a disk it holds what earlier boots were the only ones to have.
            let is_it = |node: &NodeId| *node == self.procs[at].id || (disks && place_of(node) == at);
            rosters.iter().any(|roster| roster.len() == 1 && is_it(&roster.nodes()[0]))
        });
        if is_alone && !self.plan.careless {
            return;
        }
        if self.crashes >= 6 || (!disks && self.procs.iter().filter(|proc| proc.alive).count() <= 2) {
            return;
        }
        self.crashes += 1;
        self.damaged = true;
        self.end(at, left);
        self.procs[at].disk = Disk::default();
    }

    /// The power of a node fails, or its process is killed. Its disk is there again when it starts.
    pub(super) fn cut_power(&mut self, at: usize) {
        let unsynced = self.procs[at].disk.unsynced();
        let kept = if self.dice.chance(30) { unsynced } else { self.dice.below(unsynced + 1) };
        self.lose_power(at, kept);
    }

    /// The same; of what is not synced so many changes are kept.
    pub(super) fn lose_power(&mut self, at: usize, kept: usize) {
        self.cuts += 1;
        let disk = self.procs[at].disk.clone();
        self.synced.insert(self.procs[at].id.clone(), disk.synced());
        self.end(at, false);
        log!(self, "   keeps {kept} of {} changes that were not synced", disk.unsynced());
        disk.cut(kept);
    }

    /// The power fails: of one node, of some, or of all.
    pub(super) fn cut_power_somewhere(&mut self) {
        if self.cuts >= 40 {
            return;
        }
        let mut alive = self.alive();
        self.dice.shuffle(&mut alive);
        let some = 1 + self.dice.below(alive.len());
        let victims = match self.dice.below(4) {
            0 => alive.len(),
            1 => some,
            _ => 1,
        };
        alive.truncate(victims);
        alive.iter().for_each(|at| self.cut_power(*at));
        // Some of them are back at once.
        self.dice.shuffle(&mut alive);
        for at in alive {
            if self.dice.chance(40) {
                self.restart_at(at);
            }
        }
    }

    pub(super) fn end(&mut self, at: usize, left: bool) {
        let proc = &mut self.procs[at];
        proc.alive = false;
        proc.left = left;
        log!(self, "{} {}", short(&self.procs[at].id), if left { "leaves" } else { "crashes" });
    }

    /// `Node::drain`.
    pub(super) fn start_to_leave(&mut self, at: usize) {
        let staying = self.procs.iter().filter(|proc| proc.alive && !proc.draining).count();
        if self.procs[at].draining || staying <= 2 {
            return;
        }
        log!(self, "{} drains", short(&self.procs[at].id));
        self.procs[at].draining = true;
        let mut seen = match self.plan.views {
            Views::Common => self.common.last().expect("never empty").clone(),
            Views::Apart => self.procs[at].seen.clone(),
        };
        if seen[at].generation == self.procs[at].id.boot.generation {
            seen[at].draining = true;
        }
        if self.plan.views == Views::Common {
            self.common.push(seen.clone());
            self.procs[at].at = self.common.len() - 1;
        }
        self.see(at, seen);
    }

    /// `Kv::caught_up`, then `Node::leave`: nothing is destroyed by that. Sooner than `polity::Node::leave`, which waits
    /// until all is settled.
    pub(super) fn leave(&mut self, at: usize) {
        let proc = &self.procs[at];
        // One that sees nobody else to place its shards on stays a replica, and has nothing left to do all the same.
        let is_replica = proc.store.placed(SHARD).contains(&proc.id);
        if proc.draining && !is_replica && self.progress(at).1 {
            self.leaves += 1;
            self.end(at, true);
        }
    }

    pub(super) fn restart(&mut self) {
        let dead: Vec<usize> = (0..self.procs.len()).filter(|at| !self.procs[*at].alive).collect();
        if dead.is_empty() {
            return;
        }
        let at = dead[self.dice.below(dead.len())];
        self.restart_at(at);
    }

    pub(super) fn restart_at(&mut self, at: usize) {
        if self.asleep == Some(at) {
            self.asleep = None;
        }
        let id = boot(at, self.procs[at].id.boot.generation + 1);
        let mut seen = match self.plan.views {
            Views::Common => self.common.last().expect("never empty").clone(),
            Views::Apart => self.truth(),
        };
        seen[at] = Sight::new(id.boot.generation, Status::Alive);
        self.common.push(seen.clone());
        let map = Arc::new(map_of(&seen));
        let disk = self.procs[at].disk.clone();
        let store = open_store(&self.plan, id.clone(), &disk);
        log!(self, "{} starts and sees {}", short(&id), text(&map.roster()));
        store.place(SHARD, map.roster());
        self.procs[at] = Proc {
            id,
            alive: true,
            left: false,
            draining: false,
            store,
            disk,
            map,
            seen,
            at: self.common.len() - 1,
            under_way: BTreeSet::new(),
        };
    }
}
