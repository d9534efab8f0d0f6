//! Messages on their way, and what is answered to them.

use super::*;

impl World {
    pub(super) fn send(&mut self, task: usize, from: &NodeId, to: &NodeId, request: Request) {
        let due = self.due();
        self.net.push(Call { from: from.clone(), to: to.clone(), task: Some(task), leg: Leg::Out(request), due });
    }

    pub(super) fn due(&mut self) -> usize {
        let (often, by) = self.late;
        if self.dice.chance(often) { self.now + self.dice.below(by) } else { self.now }
    }

    pub(super) fn deliver(&mut self, at: usize) {
        let call = self.net.swap_remove(at);
        let Call { from, to, task, leg, .. } = call;
        let (a, b) = (place_of(&from), place_of(&to));
        let lost = !self.lossless && self.plan.lossy && self.dice.chance(4);
        match leg {
            Leg::Out(request) => {
                let reached = self.living(&to).is_some() && !self.cut.contains(&(a, b)) && !lost;
                let (back, commit) = if reached { self.answer(b, &request) } else { (Err(()), Commit::NONE) };
                let due = self.due() + if self.slow == Some(b) { self.late.1 } else { 0 };
                self.net.push(Call { from, to, task, leg: Leg::Back(back, commit), due });
            }
            Leg::Back(answer, commit) => {
                let kept = answer.is_err() || self.is_synced(&to, commit);
                let answer = if !kept || self.cut.contains(&(b, a)) || lost { Err(()) } else { answer };
                if let Some(task) = task
                    && self.living(&from).is_some()
                {
                    self.resume(task, &to, answer);
                }
            }
        }
    }

    /// An answer, and what of it must be durable before it is sent: `Acks::when_durable`.
    fn answer(&mut self, at: usize, request: &Request) -> (Result<Answer, ()>, Commit) {
        let answer = self.serve(at, request);
        let waits = match request {
            Request::Read { .. } | Request::Repair(reconcile::Ask::Pull(_) | reconcile::Ask::Fetch(_)) => false,
            Request::Account { .. } => self.plan.broken != Broken::FenceNotKept,
            Request::Repair(reconcile::Ask::Sketch(_)) => self.plan.broken != Broken::SketchNotKept,
            _ => true,
        };
        let commit = self.procs[at].store.commit([SHARD]).expect("the model's disks work");
        (answer, if waits { commit } else { Commit::NONE })
    }

    /// Whether a boot has synced so much. If it lives, it does now.
    pub(super) fn is_synced(&self, node: &NodeId, upto: Commit) -> bool {
        match self.living(node) {
            Some(at) => {
                self.procs[at].disk.sync(upto);
                true
            }
            None => upto == Commit::NONE || self.synced.get(node).is_some_and(|synced| *synced >= upto),
        }
    }

    /// Waits until all that a node holds is durable.
    pub(super) fn sync(&self, at: usize) {
        let proc = &self.procs[at];
        proc.disk.sync(proc.store.commit([SHARD]).expect("the model's disks work"));
    }

    /// What `serve` does.
    pub(super) fn serve(&mut self, at: usize, request: &Request) -> Result<Answer, ()> {
        let broken = self.plan.broken;
        let proc = &self.procs[at];
        let store = &proc.store;
        let current = store.placed(SHARD);
        let vouch = |vouch| if vouch == Vouch::Nothing && broken == Broken::Amnesiac { Vouch::Agree } else { vouch };
        Ok(match request {
            Request::Read { named, key } => {
                let (record, vouched) = store.read(SHARD, key, *named).map_err(|_| ())?;
                Answer::Vouched { vouch: vouch(vouched), record, current }
            }
            Request::Merge { named, key, record } => {
                let vouched = store.merge(SHARD, key, record, *named).map_err(|_| ())?;
                Answer::Vouched { vouch: vouch(vouched), record: None, current }
            }
            Request::Account { under, owed, ours } => {
                let account = if broken == Broken::NoFence {
                    store.rosters(SHARD).map(|rosters| (store.digest(SHARD), rosters))
                } else {
                    store.account(SHARD, under, owed).map(|account| (account.digest, account.rosters))
                };
                let account = account.map(|(digest, rosters)| ((digest != *ours).then_some(digest), rosters));
                log!(
                    self,
                    "   {} fenced by {}: now {}",
                    short(&self.procs[at].id),
                    text(under),
                    texts(self.procs[at].store.rosters(SHARD).iter().flatten())
                );
                Answer::Account(account, self.procs[at].store.lineage().clone())
            }
            // Pages of one byte: one record each.
            Request::Repair(reconcile::Ask::Sketch(ask)) => Answer::Sketched(store.sketch(ask).map_err(|_| ())?),
            Request::Repair(reconcile::Ask::Pull(ask)) => Answer::Pulled(store.pull(ask, 1).map_err(|_| ())?),
            Request::Repair(reconcile::Ask::Fetch(ask)) => {
                let after = ask.after.as_ref().map(|key| &key.0[..]);
                let (records, more) = store.page(SHARD, after, 1).map_err(|_| ())?;
                Answer::Page(Page { records, more })
            }
            Request::Repair(reconcile::Ask::Offer(offer)) => {
                Answer::Offered(store.take_offer(&offer.records, offer.back, 1).map_err(|_| ())?)
            }
            Request::Ready { rosters } => {
                let own = store.own().clone();
                let mut rosters = rosters.iter().cloned();
                let theirs = rosters.next().ok_or(())?;
                let ready = store.with_standing(SHARD, |standing| {
                    rosters.for_each(|roster| _ = standing.learn(roster));
                    standing.is_ready() && *standing.current() == theirs && theirs.contains(&own)
                });
                Answer::Ready(ready.unwrap_or(false))
            }
            Request::Introduce => Answer::Introduced(store.rosters(SHARD)),
            Request::Progress => Answer::Progress(self.progress(at)),
        })
    }

    pub(super) fn finish(&mut self, task: usize) {
        if let Some(entry) = self.tasks.remove(&task)
            && let (Some(at), Some(errand)) = (self.living(&entry.owner), entry.errand)
        {
            self.procs[at].under_way.remove(&errand);
        }
        for call in &mut self.net {
            if call.task == Some(task) {
                call.task = None;
            }
        }
    }

    pub(super) fn begin(&mut self, owner: &NodeId, errand: Option<Errand>, task: Task) -> usize {
        let id = self.next_task;
        self.next_task += 1;
        self.tasks.insert(id, Entry { owner: owner.clone(), errand, task });
        id
    }
}
