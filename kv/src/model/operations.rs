//! Reads and writes as `coordinator` carries them out, and what a read must find.

use std::time::Duration;

use polity_crdt::VersionVector;

use super::*;
use crate::record::{self, Kind, Update};
use crate::store;
use crate::tally::Verdict;

impl World {
    /// `Coordinator::by_preference`.
    pub(super) fn by_preference(&mut self, at: usize, map: &Map) -> VecDeque<NodeId> {
        let mut nodes = map.preferred.clone();
        self.dice.shuffle(&mut nodes);
        let own = &self.procs[at].id;
        nodes.sort_by_key(|node| {
            if node == own {
                0
            } else if !map.is_up(node) {
                3
            } else {
                1
            }
        });
        nodes.into()
    }

    /// `Coordinator::is_possible`.
    pub(super) fn is_possible(map: &Map, rosters: &[Roster], level: Consistency) -> bool {
        rosters.iter().all(|roster| {
            let needed = match level {
                Consistency::One => return true,
                Consistency::Quorum => roster.quorum(),
                Consistency::All => roster.len(),
            };
            roster.nodes().iter().filter(|node| map.is_up(node)).count() >= needed
        })
    }

    /// `Coordinator::gather`, up to its loop.
    pub(super) fn start_read(&mut self, at: usize, key: usize, level: Consistency, then: Option<WritePlan>) {
        let map = self.procs[at].map.clone();
        if let Some(rosters) = self.procs[at].store.rosters(SHARD)
            && !Self::is_possible(&map, &rosters, level)
        {
            return;
        }
        let mut tally = Tally::new(self.procs[at].store.placed(SHARD), level);
        let named = tally.target_id();
        let mut candidates = self.by_preference(at, &map);
        let at_first = tally.needed_of_target();
        let owner = self.procs[at].id.clone();
        let request = Request::Read { named, key: KEYS[key].to_vec() };
        let mut merged = Record::default();
        let mut served = BTreeSet::from([self.procs[at].store.placed(SHARD)]);
        if let Some(own) = candidates.iter().position(|node| *node == owner) {
            candidates.remove(own);
            tally.asked(&owner);
            if let Ok(Answer::Vouched { vouch, record, current }) = self.serve(at, &request) {
                if let Some(bytes) = record {
                    merged.merge(record::decode(&bytes).expect("ours"));
                }
                tally.answered(owner.clone(), vouch);
                served.insert(current);
            }
        }
        let collect = Collect { map, tally, candidates, at_first, pending: 0, hedged: false, request, served };
        let began = self.now;
        let task = self.begin(&owner, None, Task::Read(ReadOp { collect, key, merged, began, level, then }));
        log!(
            self,
            "{} begins read {task} of {key} with {}",
            short(&owner),
            texts(self.procs[at].store.rosters(SHARD).iter().flatten())
        );
        self.advance(task);
    }

    /// `Coordinator::coordinate`.
    pub(super) fn start_write(&mut self, at: usize) {
        let key = self.dice.below(self.keys);
        let level = if self.dice.chance(80) {
            Consistency::Quorum
        } else if self.dice.chance(50) {
            Consistency::All
        } else {
            Consistency::One
        };
        let proc = &self.procs[at];
        let map = proc.map.clone();
        let target = proc.store.placed(SHARD);
        if !target.contains(&proc.id) {
            return;
        }
        let Some(rosters) = proc.store.rosters(SHARD) else { return };
        if !Self::is_possible(&map, &rosters, level) {
            return;
        }
        let plan = WritePlan { key, level, rosters, target, map };
        if self.dice.chance(30) {
            self.start_read(at, key, level, Some(plan));
        } else {
            self.write(at, plan, &VersionVector::new());
        }
    }

    pub(super) fn write(&mut self, at: usize, plan: WritePlan, context: &VersionVector) {
        self.values += 1;
        let value = Blob::from(self.values.to_be_bytes().to_vec());
        self.change(at, plan, Some(value), context);
    }

    /// Writes a value, or deletes if there is none.
    pub(super) fn change(&mut self, at: usize, plan: WritePlan, value: Option<Blob>, context: &VersionVector) {
        let WritePlan { key, level, rosters, target, map } = plan;
        let mut tally = Tally::new(target, level);
        let named = tally.target_id();
        let proc = &self.procs[at];
        let owner = proc.id.clone();
        let served = BTreeSet::from([proc.store.placed(SHARD)]);
        let update = Update::put(Kind::Causal, value.clone());
        let write = store::Write { update: &update, context: Some(context), known: None, wall: Duration::ZERO };
        let written = proc.store.write(SHARD, KEYS[key], write, named).expect("room");
        tally.asked(&owner);
        tally.answered(owner.clone(), written.vouch);
        let record = record::decode(&written.record).expect("ours");
        let dot = value.map(|value| record.dot_of(&value).expect("just written"));
        let request = Request::Merge { named, key: KEYS[key].to_vec(), record: written.record };
        let mut all: Vec<NodeId> = rosters.iter().flat_map(Roster::nodes).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|node| *node != owner);
        let collect = Collect {
            map,
            tally,
            candidates: all.into(),
            at_first: usize::MAX,
            pending: 0,
            hedged: false,
            request,
            served,
        };
        if collect.tally.verdict() == Verdict::Done {
            // Every other replica gets it, and nobody waits for them.
            for node in collect.candidates.iter().filter(|node| collect.map.has_peer(node)) {
                let leg = Leg::Out(collect.request.clone());
                let due = self.due();
                self.net.push(Call { from: owner.clone(), to: node.clone(), task: None, leg, due });
            }
        }
        let task = self.begin(&owner, None, Task::Write(WriteOp { collect, key, level, dot }));
        log!(
            self,
            "{} begins write {task} of {key} with {}",
            short(&owner),
            texts(self.procs[at].store.rosters(SHARD).iter().flatten())
        );
        self.advance(task);
    }

    /// One turn of the loop in `Coordinator::collect`: asks whom it must, and ends the operation if it is over.
    pub(super) fn advance(&mut self, task: usize) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let owner = entry.owner.clone();
        let collect = match &mut entry.task {
            Task::Read(op) => &mut op.collect,
            Task::Write(op) => &mut op.collect,
            _ => return,
        };
        let mut to_send = Vec::new();
        let over = 'over: {
            let wanted = match collect.tally.verdict() {
                Verdict::Done => break 'over Some(true),
                Verdict::Ask(nodes) => nodes,
            };
            let mut start = |collect: &mut Collect, node: NodeId| {
                collect.tally.asked(&node);
                if collect.map.has_peer(&node) {
                    collect.pending += 1;
                    to_send.push(node);
                }
            };
            for node in wanted {
                if !collect.candidates.contains(&node) {
                    start(collect, node);
                }
            }
            while (collect.hedged
                || collect.pending == 0
                || collect.pending + collect.tally.answers() < collect.at_first)
                && let Some(node) = collect.candidates.pop_front()
            {
                start(collect, node);
            }
            (collect.pending == 0).then_some(false)
        };
        let request = collect.request.clone();
        for node in to_send {
            self.send(task, &owner, &node, request.clone());
        }
        match over {
            None => {}
            Some(false) => self.finish(task),
            Some(true) => self.done(task),
        }
    }

    pub(super) fn done(&mut self, task: usize) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let owner = entry.owner.clone();
        let Some(at) = self.living(&owner) else { return };
        match &entry.task {
            Task::Write(op) => {
                self.sync(at);
                let mut served = op.collect.served.clone();
                served.insert(self.procs[at].store.placed(SHARD));
                let Some(dot) = op.dot else {
                    log!(self, "{} acknowledges delete {task} of {} at {:?}", short(&owner), op.key, op.level);
                    self.deletes += 1;
                    return self.finish(task);
                };
                let ack = Ack { at: self.now, key: op.key, dot, level: op.level, served };
                log!(
                    self,
                    "{} acknowledges write {task} of {} at {:?} ({:?}), served under {}",
                    short(&owner),
                    ack.key,
                    ack.level,
                    ack.dot,
                    texts(&ack.served)
                );
                self.acks.push(ack);
                self.finish(task);
            }
            Task::Read(op) => {
                let mut served = op.collect.served.clone();
                served.insert(self.procs[at].store.placed(SHARD));
                let (merged, key, began, then, level) =
                    (op.merged.clone(), op.key, op.began, op.then.clone(), op.level);
                self.finish(task);
                self.reads += 1;
                self.found = merged.clone();
                log!(self, "{} ends read {task} of {key}, served under {}", short(&owner), texts(&served));
                if level != Consistency::One && !self.plan.careless {
                    self.check_read(key, began, &merged, &served);
                }
                if let Some(plan) = then {
                    self.write(at, plan, merged.context());
                }
            }
            _ => {}
        }
    }

    pub(super) fn check_read(&mut self, key: usize, began: usize, merged: &Record, served: &BTreeSet<Roster>) {
        let missed: Vec<Ack> = self
            .acks
            .iter()
            .filter(|ack| {
                ack.key == key && ack.at < began && ack.level != Consistency::One && !merged.context().contains(ack.dot)
            })
            .cloned()
            .collect();
        for ack in missed {
            // Within each operation everybody was of one mind.
            let agreed = served.len() == 1 && ack.served.len() == 1;
            log!(
                self,
                "STALE: missed {:?}, acknowledged at {} under {}; read under {}",
                ack.dot,
                ack.at,
                texts(&ack.served),
                texts(served)
            );
            self.wrong.push(Wrong::Stale { agreed });
        }
    }

    /// What a read would find now that a quorum of ready replicas answers, and nobody else.
    pub(super) fn check_ready(&mut self) {
        let mut ready: BTreeMap<Roster, Vec<usize>> = BTreeMap::new();
        for at in self.alive() {
            let proc = &self.procs[at];
            let current = proc.store.with_standing(SHARD, |s| s.is_ready().then(|| s.current().clone())).flatten();
            if let Some(current) = current.filter(|current| current.contains(&proc.id)) {
                ready.entry(current).or_default().push(at);
            }
        }
        ready.retain(|roster, nodes| nodes.len() >= roster.quorum());
        for (roster, nodes) in ready {
            for key in 0..self.keys {
                let known: Vec<Record> = nodes.iter().map(|at| self.record(*at, key)).collect();
                let acks = self.acks.iter().filter(|ack| ack.key == key && ack.level != Consistency::One);
                for ack in acks.cloned().collect::<Vec<_>>() {
                    let lack = (0..nodes.len()).filter(|i| !known[*i].context().contains(ack.dot));
                    let lack: Vec<usize> = lack.map(|i| nodes[i]).collect();
                    let meet = |a: &usize, b: &usize| !self.cut.contains(&(*a, *b)) && !self.cut.contains(&(*b, *a));
                    if lack.iter().any(|a| lack.iter().filter(|b| meet(a, b)).count() >= roster.quorum()) {
                        log!(self, "STALE: {lack:?}, ready under {}, miss {:?}", text(&roster), ack.dot);
                        self.wrong.push(Wrong::Stale { agreed: ack.served.len() == 1 });
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn record(&self, at: usize, key: usize) -> Record {
        let proc = &self.procs[at];
        let bytes = proc.store.read(SHARD, KEYS[key], proc.store.placed(SHARD).id()).expect("works").0;
        bytes.map(|bytes| record::decode(&bytes).expect("ours")).unwrap_or_default()
    }
}
