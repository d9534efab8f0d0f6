//! The replica and all that it has to say to its peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::log::Log;
use super::message::{Answer, Request};
use super::push::{Draft, Progress};
use super::roster::{MAX_TAG_BYTES, Marks, Roster, Step};
use super::round::Round;
use super::transfer::Transfer;
use super::tree::Tree;
use super::{Outgoing, SyncConfig, SyncStats, dot_hash, mix};
use crate::error::DecodeError;
use crate::mutation::{Mutation, mutated};
use crate::store::{Crdt, Delta, Fate};
use crate::{Change, Dot, Replica, ReplicaId, VersionVector, Writer};

/// How many marks of removes a replica tells the others about at a time.
const MARKS_AT_ONCE: usize = 256;

/// What a request was for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To tell of changes after this number.
    Push,
    Chunk,
    Round,
}

/// One replica, and its part in the anti-entropy of them all. See [the module](crate::sync).
///
/// The driver calls `handle_*` with what happens, then [`AntiEntropy::poll_request`] until it has nothing more, and again at
/// [`AntiEntropy::poll_timeout`]. Each request is answered by [`AntiEntropy::handle_answer`], exactly once, with bytes or
/// with their absence.
#[derive(Debug)]
pub struct AntiEntropy<T: Crdt> {
    pub(super) config: SyncConfig,
    pub(super) replica: Replica<T>,
    /// The sum of the hashes of the live dots, and their number for each actor.
    pub(super) live_sum: u64,
    pub(super) live: BTreeMap<ReplicaId, u64>,
    pub(super) log: Log<T::Key>,
    pub(super) tree: Tree,
    pub(super) roster: Roster,
    pub(super) up: BTreeSet<ReplicaId>,
    pub(super) progress: BTreeMap<ReplicaId, Progress>,
    /// The peers that may lack something.
    pub(super) pending: BTreeSet<ReplicaId>,
    pub(super) draft: Option<Draft>,
    pub(super) transfers: BTreeMap<ReplicaId, Transfer<T::Key>>,
    pub(super) round: Option<Round>,
    /// With whom a round is due as soon as possible.
    pub(super) to_meet: BTreeSet<ReplicaId>,
    /// With whom a first round has come to nothing: they are tried once more after all others.
    pub(super) to_meet_again: BTreeSet<ReplicaId>,
    pub(super) next_round: Duration,
    pub(super) eager: u32,
    pub(super) outbox: VecDeque<Outgoing>,
    pub(super) under_way: BTreeMap<u64, (ReplicaId, Purpose)>,
    pub(super) next_id: u64,
    pub(super) random: u64,
    /// The keys that have changed since they were last taken, if anybody wants to know.
    pub(super) changed: Option<BTreeSet<T::Key>>,
    pub(super) gone: Option<T::Delta>,
    pub(super) stats: SyncStats,
}

impl<T: Crdt> AntiEntropy<T> {
    /// A replica that has heard of nothing. `tag` says who it is, to drivers of other replicas, in at most 256 bytes; all
    /// its choices follow from `seed`.
    ///
    /// # Panics
    /// If the tag is too long.
    #[must_use]
    pub fn new(id: ReplicaId, tag: Vec<u8>, seed: u64, config: SyncConfig) -> Self {
        assert!(tag.len() <= MAX_TAG_BYTES, "a tag has at most {MAX_TAG_BYTES} bytes");
        let config = config.workable();
        Self {
            replica: Replica::new(id),
            live_sum: 0,
            live: BTreeMap::new(),
            log: Log::new(),
            tree: Tree::new(id, config.fan_out),
            roster: Roster::new(id, tag),
            up: BTreeSet::new(),
            progress: BTreeMap::new(),
            pending: BTreeSet::new(),
            draft: None,
            transfers: BTreeMap::new(),
            round: None,
            to_meet: BTreeSet::new(),
            to_meet_again: BTreeSet::new(),
            next_round: Duration::ZERO,
            eager: 0,
            outbox: VecDeque::new(),
            under_way: BTreeMap::new(),
            next_id: 0,
            random: mix(seed ^ id.0),
            changed: None,
            gone: None,
            stats: SyncStats::default(),
            config,
        }
    }

    /// The replica.
    #[must_use]
    pub fn replica(&self) -> &Replica<T> {
        &self.replica
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> SyncStats {
        self.stats
    }

    /// All replicas that it has heard of, its own among them, with their tags.
    pub fn replicas(&self) -> impl Iterator<Item = (ReplicaId, &[u8])> {
        self.roster.tags()
    }

    /// The actors of whom something is live here, whether their replicas have been heard of or not.
    pub fn live_actors(&self) -> impl Iterator<Item = ReplicaId> {
        self.live.keys().copied()
    }

    /// The departed actors that are not retired yet, and the replicas whose acknowledgement is missing (C4).
    #[must_use]
    pub fn blocked(&self) -> BTreeMap<ReplicaId, Vec<ReplicaId>> {
        self.roster.blocked()
    }

    /// How many dots are live.
    #[must_use]
    pub fn live_dots(&self) -> u64 {
        self.live_count()
    }

    /// How many changes are noted that somebody may not have been told of, and for how long the peer that has waited
    /// longest has waited.
    #[must_use]
    pub fn lag(&self, now: Duration) -> (usize, Duration) {
        let since = self.progress.values().filter_map(|progress| progress.behind_since).min();
        (self.log.len(), since.map_or(Duration::ZERO, |since| now.saturating_sub(since)))
    }

    /// Whether nothing is under way or waiting to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.round.is_none()
            && self.transfers.is_empty()
            && self.under_way.is_empty()
            && self.pending.is_empty()
            && self.to_meet.is_empty()
            && self.to_meet_again.is_empty()
    }

    /// Whether it has compared itself with all peers that it was to meet as soon as possible, those that appeared, as far as
    /// they can be reached.
    #[must_use]
    pub fn has_met(&self) -> bool {
        self.to_meet.is_empty() && self.to_meet_again.is_empty() && self.round.is_none()
    }

    /// From now on, keeps the keys that change, until they are taken.
    pub fn watch(&mut self) {
        self.changed.get_or_insert_default();
    }

    /// The keys that have changed since the last call, in order.
    pub fn take_changed(&mut self) -> BTreeSet<T::Key> {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// This replica was forgotten by the others and must not go on under its id: what it had and they had not merged. It
    /// does nothing any more; start another one, empty and under a new id.
    pub fn take_export(&mut self) -> Option<T::Delta> {
        self.gone.take()
    }

    /// Writes. See [`Replica::update`].
    ///
    /// # Errors
    /// Those of the mutator. Nothing was changed then.
    pub fn update(&mut self, now: Duration, mutate: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>) -> Change<T> {
        let mut moves = Vec::new();
        let written = self.replica.update_with(mutate, &mut |key, dot, fate| moves.push((key.clone(), dot, fate)));
        self.note(now, moves, Some(self.replica.id()));
        written
    }

    /// Joins a delta that the application has from elsewhere, for example an export, as if it had been pushed by its origin.
    pub fn import(&mut self, now: Duration, delta: T::Delta) -> bool {
        let changed = self.merge(now, delta, None);
        // It is not known who lacks it.
        if changed {
            self.to_meet = self.up.clone();
        }
        changed
    }

    /// These replicas can be reached now.
    pub fn handle_up(&mut self, now: Duration, up: BTreeSet<ReplicaId>) {
        let own = self.replica.id();
        let up: BTreeSet<ReplicaId> = up.into_iter().filter(|id| *id != own && !self.roster.is_departed(*id)).collect();
        let (new, old) = (&up - &self.up, &self.up - &up);
        // Some of many suffice: each newcomer is met by as many as a change is pushed to.
        let share = (self.config.fan_out as u64, up.len() as u64);
        for id in new {
            if self.random() % share.1 < share.0 {
                self.to_meet.insert(id);
            }
        }
        if !self.to_meet.is_empty() {
            self.next_round = self.next_round.min(now);
        }
        for id in old {
            self.progress.remove(&id);
            self.pending.remove(&id);
            self.transfers.remove(&id);
            self.to_meet.remove(&id);
            self.to_meet_again.remove(&id);
            if self.round.as_ref().is_some_and(|round| round.peer == id) {
                self.end_round(now);
            }
        }
        // What only they lacked is not kept for them: they are met when they are back.
        self.up = up;
        self.plant(now);
        self.trim_log();
    }

    /// These replicas will never write again: they have left, were superseded, or forgotten by an operator.
    pub fn handle_departed(&mut self, now: Duration, departed: BTreeSet<ReplicaId>) {
        self.roster.set_departed(departed);
        let up = self.up.clone();
        self.handle_up(now, up);
        self.retire(now);
    }

    /// An operator says that these replicas are gone for good, although nothing shows that. Whoever hears of this takes no
    /// more from them; one that comes back all the same is told so (see [`AntiEntropy::take_export`]).
    pub fn handle_forgotten(&mut self, now: Duration, replicas: BTreeSet<ReplicaId>) {
        if self.roster.forget(replicas, self.replica.context()) {
            let up = self.up.clone();
            self.handle_up(now, up);
            self.retire(now);
            self.be_eager(now);
        }
    }

    /// Grows whenever [`AntiEntropy::replicas`] changes.
    #[must_use]
    pub fn replicas_version(&self) -> u64 {
        self.roster.changes()
    }

    /// The replicas that are pushed to are those that are up and known to hold this object.
    pub(super) fn plant(&mut self, now: Duration) {
        let (up, roster) = (&self.up, &self.roster);
        self.tree.set_up(up.iter().copied().filter(|id| roster.knows(*id)));
        for id in up.iter().filter(|id| roster.knows(**id)) {
            self.progress.entry(*id).or_insert_with(|| Progress {
                cursor: self.log.last(),
                in_flight: BTreeMap::new(),
                not_before: now,
                failures: 0,
                behind_since: None,
                overrun: false,
            });
        }
    }

    /// Answers a request of a peer.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none; nothing was changed then.
    pub fn handle_request(&mut self, now: Duration, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (from, request) = Request::<T::Delta>::decode(bytes)?;
        self.stats.received_bytes += bytes.len() as u64;
        if self.roster.is_departed(from) {
            return Ok(Answer::Gone { context: self.roster.fenced(self.replica.context()) }.encode());
        }
        if self.gone.is_some() {
            return Ok(Answer::Busy.encode());
        }
        let answer = match request {
            Request::Push { origin, delta } => {
                self.merge(now, delta, Some(origin));
                Answer::Done
            }
            Request::Chunk { delta } => {
                let brought = self.merge(now, delta, None);
                if let Some(round) = self.round.as_mut().filter(|round| round.peer == from) {
                    round.heard = now;
                }
                if brought {
                    self.be_eager(now);
                }
                self.check_round();
                Answer::Done
            }
            Request::Probe(_) if self.goes_on(now, from) => Answer::Busy,
            Request::Probe(theirs) => self.compare(&theirs),
            Request::Meet(news) => self.meet(now, news),
            Request::Exchange { context } => {
                if self.offer(from, &context) {
                    Answer::Done
                } else {
                    Answer::Busy
                }
            }
            Request::Symbols { salt, from: at, count } => Answer::Symbols {
                live: self.live_sum,
                context: self.replica.context().clone(),
                symbols: self.symbols(salt, at, count),
            },
            Request::Resolve { salt, hashes, context } => {
                let hashes: BTreeSet<u64> = hashes.into_iter().collect();
                let mut dead = Vec::new();
                self.visit_live(|dot| {
                    if context.contains(dot) && hashes.contains(&dot_hash(dot, salt)) {
                        dead.push(dot);
                    }
                });
                self.bury(now, dead.into_iter().collect());
                Answer::Done
            }
        };
        Ok(answer.encode())
    }

    /// The answer to a request, or its absence: it was not delivered, or nobody knows.
    pub fn handle_answer(&mut self, now: Duration, id: u64, answer: Option<&[u8]>) {
        let Some((to, purpose)) = self.under_way.remove(&id) else { return };
        // What does not decode is as good as no answer.
        let answer = answer.and_then(|bytes| Answer::decode(bytes).ok());
        self.stats.failures += u64::from(answer.is_none());
        if let Some(Answer::Gone { context }) = &answer {
            self.gone.get_or_insert(self.replica.since(context));
            self.up.clear();
            self.progress.clear();
            self.pending.clear();
            self.transfers.clear();
            self.to_meet.clear();
            self.to_meet_again.clear();
            self.round = None;
            return;
        }
        match purpose {
            Purpose::Push => self.pushed(now, to, id, matches!(answer, Some(Answer::Done))),
            Purpose::Chunk => self.sent_chunk(now, to, matches!(answer, Some(Answer::Done))),
            Purpose::Round => self.advance_round(now, id, answer),
        }
    }

    /// When [`AntiEntropy::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.gone.is_some() {
            return None;
        }
        let pushes = self.pending.iter().filter_map(|id| self.progress.get(id));
        let pushes = pushes.filter(|progress| progress.in_flight.len() < self.config.window).map(|p| p.not_before);
        let searching = self.transfers.values().any(|t| !t.is_sent() && t.in_flight < self.config.window);
        let round = match &self.round {
            Some(round) => Some(round.heard + round.patience),
            None if !self.up.is_empty() => Some(self.next_round),
            None => None,
        };
        pushes.chain(round).chain(searching.then_some(Duration::ZERO)).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.gone.is_some() {
            return;
        }
        if self.round.as_ref().is_some_and(|round| now.saturating_sub(round.heard) >= round.patience) {
            self.fail_round(now);
        }
        if self.round.is_none() && !self.up.is_empty() && now >= self.next_round {
            if mutated(Mutation::NeverCompares) && self.stats.rounds > self.up.len() as u64 {
                self.next_round = now + self.config.round_interval;
                return;
            }
            self.begin_round(now);
        }
    }

    /// The next request to send. While it returns none although [`AntiEntropy::poll_timeout`] is in the past, it has done a
    /// part of a longer piece of work, and wants to be called again after others had their turn.
    pub fn poll_request(&mut self, now: Duration) -> Option<Outgoing> {
        if self.gone.is_some() {
            return None;
        }
        let outgoing = self.outbox.pop_front().or_else(|| self.push(now)).or_else(|| self.transfer());
        if let Some(outgoing) = &outgoing {
            self.stats.sent_bytes += outgoing.bytes.len() as u64;
        }
        outgoing
    }

    // Changes of the state.

    /// Joins what came from elsewhere. What `origin` has changed is passed on.
    pub(super) fn merge(&mut self, now: Duration, delta: T::Delta, origin: Option<ReplicaId>) -> bool {
        if !self.roster.is_open() {
            for (actor, _) in delta.context().iter() {
                if let Some(dots) = self.roster.take_back(actor) {
                    self.bury(now, dots);
                    self.be_eager(now);
                }
            }
        }
        let mut moves = Vec::new();
        let changed = self.replica.merge_with(delta, &mut |key, dot, fate| moves.push((key.clone(), dot, fate)));
        self.note(now, moves, origin);
        self.drop_departed(now);
        changed
    }

    /// Lets go of what departed actors have written, if the type says so. Nobody is told: everyone who is up hears of the
    /// departure too, and a round finds who has missed it.
    fn drop_departed(&mut self, now: Duration) {
        if !T::GOES_WITH_ITS_WRITER {
            return;
        }
        let mut dots = VersionVector::new();
        for actor in self.live.keys().filter(|actor| self.roster.is_departed(**actor)) {
            dots.merge(&self.replica.context().of(*actor));
        }
        self.bury(now, dots);
    }

    /// These dots are dead, wherever they were.
    pub(super) fn bury(&mut self, now: Duration, dots: VersionVector) {
        if !dots.is_empty() {
            let mut delta = T::Delta::default();
            delta.kill(&dots);
            self.merge(now, delta, None);
        }
    }

    fn note(&mut self, now: Duration, moves: Vec<(T::Key, Dot, Fate)>, origin: Option<ReplicaId>) {
        for (_, dot, fate) in &moves {
            let (hash, count) = (dot_hash(*dot, 0), self.live.entry(dot.replica).or_default());
            match fate {
                Fate::Came => {
                    *count += 1;
                    self.live_sum = self.live_sum.wrapping_add(hash);
                }
                Fate::Went => {
                    *count -= 1;
                    self.live_sum = self.live_sum.wrapping_sub(hash);
                }
            }
            if *count == 0 {
                self.live.remove(&dot.replica);
            }
        }
        if let Some(changed) = &mut self.changed {
            changed.extend(moves.iter().map(|(key, ..)| key.clone()));
        }
        let Some(origin) = origin.filter(|_| !moves.is_empty()) else { return };
        let children = self.tree.children(origin);
        if children.is_empty() {
            return;
        }
        for child in children {
            if let Some(progress) = self.progress.get_mut(child) {
                progress.behind_since.get_or_insert(now);
                self.pending.insert(*child);
            }
        }
        for (key, dot, fate) in moves {
            self.log.note(key, dot, fate, origin);
        }
        self.bound_log(now);
    }

    /// Leaves peers to rounds that hold up more of the log than it may have.
    fn bound_log(&mut self, now: Duration) {
        let limit = self.config.log_entries + self.live.values().sum::<u64>() as usize;
        if self.log.len() <= limit + limit / 4 {
            return;
        }
        let cut = self.log.back(limit).unwrap_or(self.log.last());
        self.stats.overruns += 1;
        for (id, progress) in &mut self.progress {
            let floor = progress.in_flight.values().copied().chain([progress.cursor]).min().unwrap_or(0);
            let is_told = self.pending.contains(id) || !progress.in_flight.is_empty();
            if is_told && floor < cut {
                progress.cursor = progress.cursor.max(cut);
                progress.overrun = true;
                self.to_meet.insert(*id);
                self.next_round = self.next_round.min(now);
            }
        }
        self.log.cut(cut);
    }

    pub(super) fn live_count(&self) -> u64 {
        self.live.values().sum()
    }

    pub(super) fn visit_live(&self, mut visit: impl FnMut(Dot)) {
        self.replica.visit(Bound::Unbounded, &mut |_, dots| {
            dots.for_each(&mut visit);
            true
        });
    }

    // Those that are gone.

    pub(super) fn retire(&mut self, now: Duration) {
        self.drop_departed(now);
        let (replica, live) = (&self.replica, &self.live);
        let heard = |actor: ReplicaId| replica.context().of(actor);
        let before = self.roster.hash();
        let steps = self.roster.advance(now, self.config.retire_grace, heard, |actor| live.contains_key(&actor));
        if self.roster.hash() != before {
            self.be_eager(now);
        }
        for step in steps {
            match step {
                Step::Kill(dots) => self.bury(now, dots),
                Step::Forget(actor) => {
                    self.replica.forget(actor);
                    // Nor may anything that was prepared before bring it back elsewhere.
                    self.log.forget(actor);
                    self.draft = None;
                    self.transfers.retain(|_, transfer| {
                        transfer.forget(actor);
                        !transfer.is_done()
                    });
                    self.stats.retired += 1;
                }
            }
        }
    }

    /// Drops marks that everybody has seen, if the type leaves any.
    pub(super) fn collect_marks(&mut self, now: Duration) {
        if !T::LEAVES_MARKS {
            return;
        }
        let mut live = VersionVector::new();
        self.replica.marks().take(MARKS_AT_ONCE).for_each(|dots| {
            live.merge(&dots);
        });
        let marks = (!live.is_empty()).then(|| Marks { heard: self.replica.context().clone(), live });
        self.roster.publish_marks(marks);
        if let Some(stable) = self.roster.stable_marks().filter(|stable| !stable.is_empty()) {
            // A mutator that cannot fail: it writes no dot.
            let _ = self.update(now, |state, _| Ok(state.collect(&stable)));
        }
    }
}
