//! What `upkeep` and `errands` do, and when all is settled.

use super::*;
use crate::{kept, record};

const SALT: u64 = 0x5a17;

impl World {
    /// `Upkeep::work`, once.
    pub(super) fn work(&mut self, at: usize) {
        let own = self.procs[at].id.clone();
        let map = self.procs[at].map.clone();
        if !self.procs[at].store.is_introduced(SHARD) {
            if self.procs[at].under_way.insert(Errand::Introduce) {
                self.introduce(at);
            }
            return;
        }
        let fate = self.fate(at, &map);
        let standing = self.procs[at].store.with_standing(SHARD, |s| {
            let (current, round) = (s.current().clone(), s.round());
            if !current.contains(&own) {
                return (s.is_ready(), current, round, None);
            }
            if s.settle(&own, &fate) {
                return (true, current, round, Some(BTreeSet::new()));
            }
            (false, current, round, Some(s.to_ask(&own, &fate)))
        });
        let Some((ready, current, round, ask)) = standing else { return };
        match ask {
            Some(ask) => {
                for node in ask.iter().filter(|node| map.is_up(node) && map.has_peer(node)) {
                    self.cover(at, node, &current, round);
                }
            }
            None if !ready => {
                if self.plan.broken == Broken::Relieved {
                    self.procs[at].store.with_standing(SHARD, |s| {
                        let owed: Vec<_> = s.owed().cloned().collect();
                        s.relieve(&current, &owed);
                    });
                } else if self.procs[at].under_way.insert(Errand::Relieve) {
                    self.relieve(at);
                }
            }
            None => {
                if self.procs[at].store.holds_records(SHARD) && self.procs[at].under_way.insert(Errand::HandOver) {
                    self.hand_over(at, current);
                }
            }
        }
    }

    /// What the standing of a node is told of boots.
    pub(super) fn fate<'a>(&self, at: usize, map: &'a Map) -> Fate<'a> {
        Fate { map, heirs: self.procs[at].store.heirs(), broken: self.plan.broken }
    }

    pub(super) fn introduce(&mut self, at: usize) {
        let proc = &self.procs[at];
        let own = proc.id.clone();
        let up: Vec<NodeId> = proc.map.up().into_iter().filter(|id| *id != own).collect();
        let smallest = up.iter().all(|node| own.name < node.name);
        let known = proc.map.is_up(&own);
        let task = Task::Introduce { left: up.len(), all_new: true, smallest, known, rosters: None };
        let task = self.begin(&own, Some(Errand::Introduce), task);
        for node in &up {
            self.send(task, &own, node, Request::Introduce);
        }
        if up.is_empty() {
            self.introduced(task, None);
        }
    }

    /// An introduction was answered, or there is nobody to ask.
    pub(super) fn introduced(&mut self, task: usize, answer: Option<Result<Option<Vec<Roster>>, ()>>) {
        let knows = |proc: &Proc| {
            if proc.alive {
                proc.store.is_introduced(SHARD)
            } else {
                self.plan.disks && !proc.left && proc.disk.has(&kept::standing_of(SHARD))
            }
        };
        let nobody = !self.procs.iter().any(knows);
        let over = self.dice.chance(self.hasty);
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let at = place_of(&entry.owner);
        let Task::Introduce { left, all_new, smallest, known, rosters } = &mut entry.task else { return };
        *left -= usize::from(answer.is_some());
        match answer {
            Some(Ok(Some(theirs))) => rosters.get_or_insert_default().extend(theirs),
            Some(Err(())) => *all_new = false,
            Some(Ok(None)) | None => {}
        }
        if let Some(rosters) = rosters.take_if(|_| over || *left == 0) {
            log!(self, "{} introduced: {}", short(&self.procs[at].id), texts(&rosters));
            self.procs[at].store.introduce(SHARD, rosters);
            self.finish(task);
        } else if *left == 0 {
            // Founding apart is another story: only when everything was lost.
            if *all_new && *smallest && *known && nobody {
                self.procs[at].store.introduce(SHARD, Vec::new());
            }
            self.finish(task);
        }
    }

    /// `round` was taken together with `under`.
    pub(super) fn cover(&mut self, at: usize, peer: &NodeId, under: &Roster, round: u64) {
        if !self.procs[at].under_way.insert(Errand::Cover(peer.clone())) {
            return;
        }
        let own = self.procs[at].id.clone();
        let ours = self.procs[at].store.digest(SHARD);
        let task = Task::Cover { peer: peer.clone(), under: under.clone(), round, reconciliation: None };
        let task = self.begin(&own, Some(Errand::Cover(peer.clone())), task);
        log!(self, "{} asks {} for an account under {}", short(&own), short(peer), text(under));
        let owed = self.procs[at].store.with_standing(SHARD, |s| s.owed().cloned().collect()).unwrap_or_default();
        self.send(task, &own, peer, Request::Account { under: under.clone(), owed, ours });
    }

    /// What `cover` makes of an answer.
    pub(super) fn account(&mut self, task: usize, answer: Result<Answer, ()>) {
        let broken = self.plan.broken;
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let owner = entry.owner.clone();
        let Task::Cover { peer, under, round, reconciliation } = &mut entry.task else { return };
        let store = &self.procs[place_of(&owner)].store;
        match answer {
            Err(()) => {
                if broken == Broken::Deaf {
                    store.note_lineage(peer, Lineage::default());
                    store.with_standing(SHARD, |s| s.find_mute(peer, *round));
                    log!(self, "{} could not ask {}", short(&owner), short(peer));
                }
                return self.finish(task);
            }
            Ok(Answer::Account(None, lineage)) => {
                store.note_lineage(peer, lineage);
                store.with_standing(SHARD, |s| s.find_mute(peer, *round));
                log!(self, "{} finds {} mute", short(&owner), short(peer));
                return self.finish(task);
            }
            Ok(Answer::Account(Some((theirs, rosters)), lineage)) => {
                store.note_lineage(peer, lineage);
                store.with_standing(SHARD, |s| rosters.into_iter().all(|roster| s.learn(roster)));
                let theirs = theirs.filter(|_| broken != Broken::NotFetched);
                *reconciliation =
                    theirs.map(|theirs| Reconciliation::new(store, Purpose::Learn, SALT, 1, [(SHARD, theirs)]));
            }
            Ok(answer) => take(reconciliation, store, answer),
        }
        if let Some(reconciliation) = reconciliation {
            let ask = reconciliation.next(store).expect("memory works");
            let proc = &self.procs[place_of(&owner)];
            proc.disk.sync(store.commit([SHARD]).expect("the model's disks work"));
            if let Some(ask) = ask {
                let peer = peer.clone();
                return self.send(task, &owner, &peer, Request::Repair(ask));
            }
            if reconciliation.take_done().is_empty() {
                return self.finish(task);
            }
        }
        let counts = store.with_standing(SHARD, |s| {
            let now = s.round();
            s.hear(peer, if broken == Broken::LateHear { now } else { *round });
            now == *round
        });
        let late = if counts == Some(true) { "" } else { ", too late" };
        log!(self, "{} has heard {} under {}{late}", short(&owner), short(peer), text(under));
        self.finish(task);
    }

    pub(super) fn relieve(&mut self, at: usize) {
        let own = self.procs[at].id.clone();
        let map = self.procs[at].map.clone();
        let standing =
            self.procs[at].store.with_standing(SHARD, |s| (s.current().clone(), s.owed().cloned().collect::<Vec<_>>()));
        let (current, owed) = standing.expect("introduced");
        let peers: Vec<NodeId> = current.nodes().iter().filter(|node| map.has_peer(node)).cloned().collect();
        let rosters: Vec<Roster> = std::iter::once(&current).chain(&owed).cloned().collect();
        let task =
            self.begin(&own, Some(Errand::Relieve), Task::Relieve { current, owed, left: peers.len(), ready: 0 });
        for peer in &peers {
            self.send(task, &own, peer, Request::Ready { rosters: rosters.clone() });
        }
        if peers.is_empty() {
            self.finish(task);
        }
    }

    pub(super) fn hand_over(&mut self, at: usize, current: Roster) {
        let proc = &self.procs[at];
        let (own, map) = (proc.id.clone(), proc.map.clone());
        let given = proc.store.digest(SHARD);
        let up = current.nodes().iter().filter(|node| map.is_up(node)).cloned().collect();
        let task = self.begin(
            &own,
            Some(Errand::HandOver),
            Task::HandOver { current, given, up, at: 0, taken: 0, reconciliation: None },
        );
        self.give_next(task);
    }

    pub(super) fn give_next(&mut self, task: usize) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let own = entry.owner.clone();
        let Task::HandOver { current, given, up, at, taken, .. } = &entry.task else { return };
        if let Some(peer) = up.get(*at) {
            let ours = self.procs[place_of(&own)].store.digest(SHARD);
            let request = Request::Account { under: current.clone(), owed: Vec::new(), ours };
            let peer = peer.clone();
            return self.send(task, &own, &peer, request);
        }
        let all = *taken == up.len() && *taken >= current.quorum();
        if all || self.plan.broken == Broken::Dropped {
            let released = self.procs[place_of(&own)].store.release(SHARD, given).expect("works");
            let to = text(current);
            log!(self, "{} handed over to {to}, released: {released}", short(&own));
        }
        self.finish(task);
    }

    /// One turn of `give`, for one replica.
    pub(super) fn give_page(&mut self, task: usize) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let own = entry.owner.clone();
        let Task::HandOver { up, at, taken, reconciliation, .. } = &mut entry.task else { return };
        let store = &self.procs[place_of(&own)].store;
        let giving = reconciliation.as_mut().expect("it has begun");
        if let Some(ask) = giving.next(store).expect("memory works") {
            let peer = up[*at].clone();
            return self.send(task, &own, &peer, Request::Repair(ask));
        }
        *taken += usize::from(!giving.take_done().is_empty());
        *at += 1;
        self.give_next(task);
    }

    /// An answer arrived, or will not.
    pub(super) fn resume(&mut self, task: usize, from: &NodeId, answer: Result<Answer, ()>) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let owner = entry.owner.clone();
        let here = place_of(&owner);
        match &mut entry.task {
            Task::Read(ReadOp { collect, merged, .. }) => {
                collect.pending -= 1;
                if let Ok(Answer::Vouched { vouch, record, current }) = answer {
                    if let Some(bytes) = record {
                        merged.merge(record::decode(&bytes).expect("ours"));
                    }
                    collect.tally.answered(from.clone(), vouch);
                    collect.served.insert(current);
                }
                self.advance(task);
            }
            Task::Write(WriteOp { collect, .. }) => {
                collect.pending -= 1;
                if let Ok(Answer::Vouched { vouch, current, .. }) = answer {
                    collect.tally.answered(from.clone(), vouch);
                    collect.served.insert(current);
                }
                self.advance(task);
            }
            Task::Cover { .. } => self.account(task, answer),
            Task::Relieve { current, owed, left, ready } => {
                *left -= 1;
                *ready += usize::from(matches!(answer, Ok(Answer::Ready(true))));
                // One that does not answer must not hold up what the others have answered.
                if *ready >= current.quorum() {
                    self.procs[here].store.with_standing(SHARD, |s| s.relieve(current, owed));
                    let stands_for = self.procs[here].store.rosters(SHARD);
                    log!(self, "{} relieved: {}", short(&owner), texts(stands_for.iter().flatten()));
                    self.finish(task);
                } else if *left == 0 {
                    self.finish(task);
                }
            }
            Task::HandOver { at, taken, given, reconciliation, .. } => {
                let store = &self.procs[here].store;
                match answer {
                    Ok(Answer::Account(Some((theirs, rosters)), _))
                        if rosters.iter().skip(1).any(|roster| roster.contains(&owner))
                            || (rosters.len() > 1 && theirs.is_some_and(|theirs| theirs.count() < given.count())) =>
                    {
                        self.finish(task);
                    }
                    Ok(Answer::Account(Some((Some(theirs), _)), _)) if theirs != *given => {
                        *reconciliation = Some(Reconciliation::new(store, Purpose::Give, SALT, 1, [(SHARD, theirs)]));
                        self.give_page(task);
                    }
                    Ok(Answer::Account(Some(_), _)) => {
                        *taken += 1;
                        *at += 1;
                        self.give_next(task);
                    }
                    Ok(Answer::Account(None, _)) | Err(()) => {
                        *at += 1;
                        self.give_next(task);
                    }
                    Ok(answer) => {
                        take(reconciliation, store, answer);
                        self.give_page(task);
                    }
                }
            }
            Task::Introduce { .. } => {
                let answer = match answer {
                    Ok(Answer::Introduced(rosters)) => Ok(rosters),
                    _ => Err(()),
                };
                self.introduced(task, Some(answer));
            }
            Task::Settle { left, ours, damages } => {
                *left -= 1;
                let over = match answer {
                    Ok(Answer::Progress(theirs)) if theirs == *ours => (*left == 0).then_some(true),
                    _ => Some(false),
                };
                if let Some(settled) = over {
                    let settled = settled && self.procs[here].map.digest() == ours.0 && self.crashes == *damages;
                    self.settled(task, settled);
                }
            }
        }
    }

    /// `settled::progress`.
    pub(super) fn progress(&self, at: usize) -> Progress {
        let proc = &self.procs[at];
        let done = proc.store.with_standing(SHARD, |s| (s.is_ready(), s.current().contains(&proc.id)));
        let done = done.is_some_and(|(ready, ours)| ready && (ours || !proc.store.holds_records(SHARD)));
        (proc.map.digest(), done)
    }

    /// One turn of `settled::settled`.
    pub(super) fn wait_until_settled(&mut self, at: usize) {
        let ours = self.progress(at);
        if !ours.1 || !self.procs[at].under_way.insert(Errand::Settle) {
            return;
        }
        self.sync(at);
        let own = self.procs[at].id.clone();
        let others: Vec<NodeId> = self.procs[at].map.up().into_iter().filter(|node| *node != own).collect();
        let task = Task::Settle { left: others.len(), ours, damages: self.crashes };
        let task = self.begin(&own, Some(Errand::Settle), task);
        for node in &others {
            self.send(task, &own, node, Request::Progress);
        }
        if others.is_empty() {
            self.settled(task, true);
        }
    }

    pub(super) fn settled(&mut self, task: usize, settled: bool) {
        if settled {
            let owner = self.tasks.get(&task).map(|entry| short(&entry.owner));
            log!(self, "{} says that all is settled", owner.expect("under way"));
            self.damaged = false;
        }
        self.finish(task);
    }

    /// Whether all is settled, as it is in one moment.
    pub(super) fn is_settled(&self, here: usize) -> bool {
        let ours = self.progress(here);
        ours.1
            && ours.0.iter().all(|(member, _)| {
                let there = place_of(member);
                self.living(member).is_some()
                    && !self.cut.contains(&(here, there))
                    && !self.cut.contains(&(there, here))
                    && self.progress(there) == ours
            })
    }
}

/// Hands an answer to a reconciliation.
fn take(reconciliation: &mut Option<Reconciliation>, store: &Store, answer: Answer) {
    let Some(reconciliation) = reconciliation else { return };
    match answer {
        Answer::Sketched(answer) => reconciliation.handle_sketched(answer),
        Answer::Pulled(answer) => reconciliation.handle_pulled(store, answer),
        Answer::Page(answer) => reconciliation.handle_page(store, &answer),
        Answer::Offered(answer) => reconciliation.handle_offered(store, &answer),
        _ => {}
    }
}
