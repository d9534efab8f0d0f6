//! One run: random events, then healing, then what must be true.

use super::*;

impl World {
    pub(super) fn new(seed: u64, plan: Plan, traced: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let count = 4 + dice.below(3);
        let mut between = |low: usize, high: usize| low + dice.below(high - low + 1);
        let rare = |n: usize| if n > 20 { 0 } else { n };
        let odds = [
            between(200, 1000),
            between(30, 300),
            between(5, 100),
            between(5, 100),
            between(5, 100),
            rare(between(0, 30)),
            between(1, 30),
            rare(between(0, 30)),
            between(1, 20),
            between(0, 15),
            between(1, 15),
            between(0, 10),
            rare(between(0, 30)),
            between(5, 50),
            between(5, 50),
            rare(between(0, 30)),
            rare(between(0, 30)),
            if plan.disks { between(1, 12) } else { 0 },
        ];
        let slow = (between(0, 1) == 0).then(|| between(0, count - 1));
        let hasty = if between(0, 1) == 0 { 0 } else { between(0, 100) };
        let lag = (0..count).map(|_| if between(0, 1) == 0 { 0 } else { between(0, 98) }).collect();
        let late = (if between(0, 1) == 0 { 0 } else { between(1, 40) }, between(10, 300));
        let keys = between(1, 3);
        let seen: Seen = (0..count).map(|_| Sight::new(1, Status::Alive)).collect();
        let map = Arc::new(map_of(&seen));
        let procs = (0..count).map(|at| {
            let id = boot(at, 1);
            let disk = Disk::default();
            let store = open_store(&plan, id.clone(), &disk);
            store.place(SHARD, map.roster());
            store.introduce(SHARD, Vec::new());
            Proc {
                id,
                alive: true,
                left: false,
                draining: false,
                store,
                disk,
                map: map.clone(),
                seen: seen.clone(),
                at: 0,
                under_way: BTreeSet::new(),
            }
        });
        Self {
            plan,
            procs: procs.collect(),
            dice,
            common: vec![seen],
            cut: BTreeSet::new(),
            net: Vec::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            now: 0,
            acks: Vec::new(),
            damaged: false,
            wrong: Vec::new(),
            trace: traced.then(Vec::new),
            values: 0,
            crashes: 0,
            cuts: 0,
            synced: BTreeMap::new(),
            leaves: 0,
            reads: 0,
            deletes: 0,
            found: Record::default(),
            lossless: false,
            odds,
            asleep: None,
            slow,
            stuck: None,
            hasty,
            lag,
            late,
            keys,
        }
    }
    pub(super) fn step(&mut self) {
        self.now += 1;
        let total: usize = self.odds.iter().sum();
        let mut roll = self.dice.below(total);
        let event = self.odds.iter().position(|odds| {
            let here = roll < *odds;
            roll = roll.wrapping_sub(*odds);
            here
        });
        let Some(at) = self.any_alive() else { return self.restart() };
        match event.expect("below the total") {
            0 => {
                let due: Vec<usize> = (0..self.net.len()).filter(|at| self.net[*at].due <= self.now).collect();
                if !due.is_empty() {
                    let at = due[self.dice.below(due.len())];
                    self.deliver(at);
                }
            }
            1 => self.work(at),
            2 => self.start_write(at),
            3 => {
                let key = self.dice.below(self.keys);
                self.start_read(at, key, Consistency::Quorum, None);
            }
            4 => self.change_view(),
            5 => {
                let left = self.dice.chance(20);
                self.crash(left);
            }
            6 => self.restart(),
            7 if self.plan.lossy => {
                let (a, b) = (self.dice.below(self.procs.len()), self.dice.below(self.procs.len()));
                if a != b && self.cut.len() < 6 {
                    self.cut.insert((a, b));
                    if self.dice.chance(70) {
                        self.cut.insert((b, a));
                    }
                }
            }
            8 => {
                self.cut = self.asleep.into_iter().flat_map(|at| self.links(at)).collect();
            }
            9 => self.give_up(),
            10 => {
                // Hedging.
                let ops: Vec<usize> =
                    self.tasks.iter().filter(|(_, e)| e.errand.is_none()).map(|(id, _)| *id).collect();
                if !ops.is_empty() {
                    let task = ops[self.dice.below(ops.len())];
                    if let Some(Entry { task: Task::Read(op), .. }) = self.tasks.get_mut(&task) {
                        op.collect.hedged = true;
                    }
                    self.advance(task);
                }
            }
            11 => self.patrol(at),
            12 => self.start_to_leave(at),
            13 => self.leave(at),
            14 => self.wait_until_settled(at),
            15 => self.agree(),
            17 => self.cut_power_somewhere(),
            _ => self.sleep_or_wake(at),
        }
    }

    /// Somebody's time is over; what it sent may still arrive.
    pub(super) fn give_up(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.dice.below(self.net.len());
        let call = &mut self.net[at];
        let (from, to, task) = (call.from.clone(), call.to.clone(), call.task.take());
        if let Some(task) = task
            && self.living(&from).is_some()
        {
            self.resume(task, &to, Err(()));
        }
    }

    /// `Upkeep::patrol` with any peer.
    pub(super) fn patrol(&mut self, at: usize) {
        let proc = &self.procs[at];
        let own = proc.id.clone();
        let up: Vec<NodeId> = proc.map.up().into_iter().filter(|id| *id != own).collect();
        let Some((under, round)) = proc.store.with_standing(SHARD, |s| (s.current().clone(), s.round())) else {
            return;
        };
        if !under.contains(&own) || up.is_empty() {
            return;
        }
        let peer = up[self.dice.below(up.len())].clone();
        if under.contains(&peer) {
            self.cover(at, &peer, &under, round);
        }
    }

    pub(super) fn drain(&mut self) {
        while !self.net.is_empty() {
            self.now += 1;
            let at = self.dice.below(self.net.len());
            self.deliver(at);
        }
    }

    /// One node sleeps while others restart, one after the other; when it wakes, another one is destroyed.
    pub(super) fn sleep_long(&mut self) {
        let mut order = self.alive();
        self.dice.shuffle(&mut order);
        let sleeper = order.remove(0);
        self.sleep_or_wake(sleeper);
        for victim in order.iter().take(1 + order.len() % 3) {
            self.agree();
            self.work_in_peace();
            self.end(*victim, false);
            if self.plan.disks && self.dice.chance(50) {
                self.procs[*victim].disk = Disk::default();
            }
            self.restart_at(*victim);
        }
        self.agree();
        self.work_in_peace();
        for at in order {
            self.start_write(at);
        }
        self.drain();
        self.sleep_or_wake(sleeper);
        self.crash(false);
        self.restart();
    }

    fn work_in_peace(&mut self) {
        self.lossless = true;
        for _ in 0..8 {
            for at in self.alive() {
                self.work(at);
            }
            self.drain();
        }
        self.lossless = false;
    }

    /// All that is lost comes back, and all see all.
    pub(super) fn heal(&mut self) {
        log!(self, "--- heal");
        self.lossless = true;
        self.cut.clear();
        self.asleep = None;
        for at in 0..self.procs.len() {
            if !self.procs[at].alive && !self.procs[at].left {
                self.restart_at(at);
            }
        }
        // If all that are left are about to leave, there is nobody to take anything over.
        if self.procs.iter().all(|proc| proc.left || proc.draining) {
            let left = (0..self.procs.len()).find(|at| self.procs[*at].left);
            self.restart_at(left.unwrap_or(0));
        }
        self.quieten();
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.procs.len()).filter(|at| self.procs[*at].alive).collect()
    }

    /// All see what is, and do what is to be done.
    pub(super) fn quieten(&mut self) {
        self.agree();
        for _ in 0..60 {
            if self.net.is_empty() && self.alive().iter().all(|at| self.is_settled(*at)) {
                break;
            }
            for at in self.alive() {
                self.work(at);
            }
            self.drain();
        }
    }

    /// Views stay as they are, and differ; nothing else goes wrong. Those whose rosters differ fence each other, and all
    /// work at the same pace, so what one has heard may always be worthless before it looks. This is counted: it ends when
    /// the views agree.
    pub(super) fn lull(&mut self) {
        log!(self, "--- lull");
        self.lossless = true;
        self.cut.clear();
        self.asleep = None;
        let alive = self.alive();
        let mut acks = 0;
        for round in 0..60 {
            if round == 30 {
                acks = self.acks.len();
            }
            for at in &alive {
                self.work(*at);
            }
            self.drain();
            for at in &alive {
                self.start_write(*at);
                self.drain();
            }
        }
        let currents: BTreeSet<Roster> = alive.iter().map(|at| self.procs[*at].store.placed(SHARD)).collect();
        let mut free = true;
        for at in &alive {
            let proc = &self.procs[*at];
            let Some(rosters) = proc.store.rosters(SHARD) else { continue };
            let reachable = |node: &&NodeId| proc.map.is_up(node) && self.living(node).is_some();
            let can_cover = |roster: &Roster| roster.nodes().iter().filter(reachable).count() >= roster.quorum();
            let wrong_of_own =
                rosters[0].nodes().iter().any(|node| proc.map.is_up(node) && self.living(node).is_none());
            let may = rosters.iter().all(can_cover) && !wrong_of_own;
            free &= may;
            if may && rosters[0].contains(&proc.id) && rosters.iter().any(|roster| !currents.contains(roster)) {
                log!(self, "STUCK {}: {}", short(&self.procs[*at].id), texts(&rosters));
                self.stuck = Some("an old roster is still owed");
            }
        }
        if free && acks == self.acks.len() {
            for at in &alive {
                log!(
                    self,
                    "STUCK {}: {}",
                    short(&self.procs[*at].id),
                    texts(self.procs[*at].store.rosters(SHARD).iter().flatten())
                );
            }
            self.stuck = Some("nothing can be written");
        }
    }

    pub(super) fn check_settled(&mut self) -> bool {
        let alive = self.alive();
        if alive.iter().all(|at| self.is_settled(*at)) {
            return true;
        }
        for at in alive {
            let stands_for = self.procs[at].store.rosters(SHARD);
            log!(self, "UNSETTLED {}: {}", short(&self.procs[at].id), texts(stands_for.iter().flatten()));
        }
        self.wrong.push(Wrong::Unsettled);
        false
    }

    pub(super) fn check_end(&mut self) {
        if !self.check_settled() {
            return;
        }
        // Those that are about to leave do.
        let before = self.leaves;
        self.alive().into_iter().for_each(|at| self.leave(at));
        if self.leaves > before {
            self.quieten();
            if !self.check_settled() {
                return;
            }
        }
        // One more may be lost, and does not come back.
        let staying: Vec<usize> = self.alive().into_iter().filter(|at| !self.procs[*at].draining).collect();
        if staying.len() > 2 {
            let at = staying[self.dice.below(staying.len())];
            self.end(at, false);
            self.procs[at].disk = Disk::default();
            self.quieten();
            if !self.check_settled() {
                return;
            }
        }
        let alive = self.alive();
        if self.plan.careless {
            return;
        }
        // What a quorum read finds.
        self.now += 1;
        let before = self.wrong.len();
        for at in &alive {
            for key in 0..KEYS.len() {
                self.start_read(*at, key, Consistency::Quorum, None);
            }
        }
        self.drain();
        let stale = self.wrong.len() > before;
        // Each compares with each, twice.
        let roster = self.procs[alive[0]].map.roster();
        for _ in 0..2 {
            for node in roster.nodes() {
                for peer in roster.nodes() {
                    if node != peer {
                        let round = self.procs[place_of(node)].store.with_standing(SHARD, |s| s.round());
                        self.cover(place_of(node), peer, &roster, round.expect("introduced"));
                        self.drain();
                    }
                }
            }
        }
        for node in roster.nodes() {
            for ack in self.acks.clone() {
                if ack.level == Consistency::One {
                    continue;
                }
                if !self.record(place_of(node), ack.key).context().contains(ack.dot) {
                    log!(self, "LOST at {}: {:?} acknowledged at {}", short(node), ack.dot, ack.at);
                    self.wrong.push(Wrong::Lost);
                }
            }
        }
        let digests: BTreeSet<u64> =
            roster.nodes().iter().map(|n| self.procs[place_of(n)].store.digest(SHARD).total()).collect();
        if digests.len() > 1 && !stale {
            self.wrong.push(Wrong::Unequal);
        }
    }

    pub(super) fn tell(&self) {
        if std::env::var_os("POLITY_MODEL_SEED").is_some() {
            eprintln!("{}", self.trace.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\n"));
        }
    }

    pub(super) fn run(&mut self) {
        if self.plan.slept {
            self.sleep_long();
        }
        for _ in 0..self.plan.steps {
            self.step();
            if self.now.is_multiple_of(4) && !self.plan.careless {
                self.check_ready();
            }
            if !self.wrong.is_empty() {
                return;
            }
        }
        if self.plan.lull {
            self.lull();
        }
        self.heal();
        self.check_end();
    }
}
