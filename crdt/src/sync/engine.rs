//! The replica and all that it has to say to its peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::log::{Item, Log};
use super::message::{Answer, MAX_SYMBOLS, Request, Summary};
use super::roster::{MAX_TAG_BYTES, Roster, Rows, Step};
use super::round::{MAX_EXCHANGES, MAX_RESTARTS, Round, Sketching, Stage};
use super::sketch::{self, Sketch, Symbol};
use super::transfer::{BATCH, Transfer};
use super::tree::Tree;
use super::{MAX_TRANSFERS, Outgoing, SyncConfig, SyncStats, mix};
use crate::error::DecodeError;
use crate::store::{Crdt, Delta, Fate};
use crate::{Change, Dot, Replica, ReplicaId, VersionVector, Writer};

/// How soon the next round follows one that has brought something: others may lack it too.
const SOON: Duration = Duration::from_millis(200);

/// How many rounds in a row follow so soon: enough for news to reach 1,000 replicas by halves.
const EAGER_ROUNDS: u32 = 10;

/// The fewest coded symbols to begin with: two differences need no more.
const FIRST_SYMBOLS: usize = 8;

/// What a request was for.
#[derive(Debug)]
enum Purpose {
    /// To tell of changes after this number.
    Push(u64),
    Chunk,
    Round,
}

/// How far a peer has been told.
#[derive(Debug)]
struct Progress {
    /// It is being told, or has been, of changes up to this number.
    cursor: u64,
    /// From which number on each push under way tells.
    in_flight: BTreeMap<u64, u64>,
    not_before: Duration,
    failures: u32,
    /// Since when it has lacked something.
    behind_since: Option<Duration>,
}

/// The bytes of the last push: the same ones go to all children.
#[derive(Debug)]
struct Draft {
    cursor: u64,
    limit: u64,
    origin: ReplicaId,
    upto: u64,
    bytes: Arc<[u8]>,
}

/// One replica, and its part in the anti-entropy of them all. See [the module](crate::sync).
///
/// The driver calls `handle_*` with what happens, then [`AntiEntropy::poll_request`] until it has nothing more, and again at
/// [`AntiEntropy::poll_timeout`]. Each request is answered by [`AntiEntropy::handle_answer`], exactly once, with bytes or
/// with their absence.
#[derive(Debug)]
pub struct AntiEntropy<T: Crdt> {
    config: SyncConfig,
    replica: Replica<T>,
    /// The sum of the hashes of the live dots, and their number for each actor.
    live_sum: u64,
    live: BTreeMap<ReplicaId, u64>,
    log: Log<T::Key>,
    tree: Tree,
    roster: Roster,
    up: BTreeSet<ReplicaId>,
    progress: BTreeMap<ReplicaId, Progress>,
    /// The peers that may lack something.
    pending: BTreeSet<ReplicaId>,
    draft: Option<Draft>,
    transfers: BTreeMap<ReplicaId, Transfer<T::Key>>,
    round: Option<Round>,
    /// With whom a round is due as soon as possible.
    to_meet: BTreeSet<ReplicaId>,
    next_round: Duration,
    eager: u32,
    outbox: VecDeque<Outgoing>,
    under_way: BTreeMap<u64, (ReplicaId, Purpose)>,
    next_id: u64,
    random: u64,
    /// The keys that have changed since they were last taken, if anybody wants to know.
    changed: Option<BTreeSet<T::Key>>,
    gone: Option<T::Delta>,
    stats: SyncStats,
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

    /// The departed actors that are not retired yet, and the replicas whose acknowledgement is missing (C4).
    #[must_use]
    pub fn blocked(&self) -> BTreeMap<ReplicaId, Vec<ReplicaId>> {
        self.roster.blocked()
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
            if self.round.as_ref().is_some_and(|round| round.peer == id) {
                self.end_round(now);
            }
        }
        self.up = up;
        self.plant(now);
    }

    /// These replicas will never write again: they have left, were superseded, or forgotten by an operator.
    pub fn handle_departed(&mut self, now: Duration, departed: BTreeSet<ReplicaId>) {
        self.roster.set_departed(departed);
        let up = self.up.clone();
        self.handle_up(now, up);
        self.retire(now);
    }

    /// The replicas that are pushed to are those that are up and known to hold this object.
    fn plant(&mut self, now: Duration) {
        let (up, roster) = (&self.up, &self.roster);
        self.tree.set_up(up.iter().copied().filter(|id| roster.knows(*id)));
        for id in up.iter().filter(|id| roster.knows(**id)) {
            self.progress.entry(*id).or_insert_with(|| Progress {
                cursor: self.log.last(),
                in_flight: BTreeMap::new(),
                not_before: now,
                failures: 0,
                behind_since: None,
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
            return Ok(Answer::Gone { context: self.replica.context().clone() }.encode());
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
            Request::Probe(theirs) => self.compare(&theirs),
            Request::Exchange { context, rows } => {
                self.take_rows(now, rows);
                if self.offer(from, &context) { Answer::Done } else { Answer::Busy }
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
                    if context.contains(dot) && hashes.contains(&sketch::hash(dot, salt)) {
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
            self.round = None;
            return;
        }
        match purpose {
            Purpose::Push(_) => self.pushed(now, to, id, matches!(answer, Some(Answer::Done))),
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
            Some(round) => Some(round.heard + self.config.patience),
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
        if self.round.as_ref().is_some_and(|round| now.saturating_sub(round.heard) >= self.config.patience) {
            self.end_round(now);
        }
        if self.round.is_none() && !self.up.is_empty() && now >= self.next_round {
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
    fn merge(&mut self, now: Duration, delta: T::Delta, origin: Option<ReplicaId>) -> bool {
        let mut moves = Vec::new();
        let changed = self.replica.merge_with(delta, &mut |key, dot, fate| moves.push((key.clone(), dot, fate)));
        self.note(now, moves, origin);
        changed
    }

    /// These dots are dead, wherever they were.
    fn bury(&mut self, now: Duration, dots: VersionVector) {
        if !dots.is_empty() {
            let mut delta = T::Delta::default();
            delta.kill(&dots);
            self.merge(now, delta, None);
        }
    }

    fn note(&mut self, now: Duration, moves: Vec<(T::Key, Dot, Fate)>, origin: Option<ReplicaId>) {
        for (_, dot, fate) in &moves {
            let (hash, count) = (sketch::hash(*dot, 0), self.live.entry(dot.replica).or_default());
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
        self.bound_log();
    }

    /// Leaves peers to rounds that hold up more of the log than it may have.
    fn bound_log(&mut self) {
        let limit = self.config.log_entries + self.live.values().sum::<u64>() as usize;
        if self.log.len() <= limit + limit / 4 {
            return;
        }
        let cut = self.log.back(limit).unwrap_or(self.log.last());
        self.stats.overruns += 1;
        for (id, progress) in &mut self.progress {
            let floor = progress.in_flight.values().copied().chain([progress.cursor]).min().unwrap_or(0);
            if self.pending.contains(id) && floor < cut {
                progress.cursor = progress.cursor.max(cut);
                self.to_meet.insert(*id);
            }
        }
        self.log.cut(cut);
    }

    fn live_count(&self) -> u64 {
        self.live.values().sum()
    }

    fn visit_live(&self, mut visit: impl FnMut(Dot)) {
        self.replica.visit(Bound::Unbounded, &mut |_, dots| {
            dots.for_each(&mut visit);
            true
        });
    }

    // Pushes.

    fn push(&mut self, now: Duration) -> Option<Outgoing> {
        loop {
            let window = self.config.window;
            let is_due = |id: &&ReplicaId| {
                self.progress.get(id).is_some_and(|p| p.in_flight.len() < window && now >= p.not_before)
            };
            let to = *self.pending.iter().find(is_due)?;
            let cursor = self.progress.get(&to)?.cursor;
            let Some((origin, limit)) = self.next_push(to, cursor) else {
                // Nothing more is meant for it.
                let progress = self.progress.get_mut(&to)?;
                progress.cursor = self.log.last();
                self.pending.remove(&to);
                self.trim_log(to);
                continue;
            };
            let (upto, bytes) = self.draft_push(cursor, limit, origin);
            self.log.mark_sent(upto);
            let id = self.start(to, Purpose::Push(cursor));
            let progress = self.progress.get_mut(&to)?;
            progress.in_flight.insert(id, cursor);
            progress.cursor = upto;
            progress.not_before = now + self.config.coalesce;
            self.stats.pushes += 1;
            return Some(Outgoing { to, id, is_bulk: false, bytes });
        }
    }

    /// The origin of the next changes for a peer after a cursor, and up to where one push can tell of them: until another
    /// origin's changes for it begin, or the push is full.
    fn next_push(&mut self, to: ReplicaId, cursor: u64) -> Option<(ReplicaId, u64)> {
        let (log, tree) = (&self.log, &mut self.tree);
        let mut is_for = |origin: ReplicaId| tree.children(origin).contains(&to);
        let mut origin = None;
        let mut upto = log.last();
        let mut items = 0;
        for (number, item) in log.after(cursor) {
            if origin != Some(item.origin) && !is_for(item.origin) {
                continue;
            }
            if *origin.get_or_insert(item.origin) != item.origin || items == self.config.chunk_items {
                upto = number - 1;
                break;
            }
            items += 1;
        }
        for (number, of, _) in log.void_after(cursor) {
            if number > upto {
                break;
            }
            if origin != Some(of) && is_for(of) {
                match origin {
                    None => origin = Some(of),
                    Some(_) => {
                        upto = number - 1;
                        break;
                    }
                }
            }
        }
        origin.map(|origin| (origin, upto))
    }

    /// A push of an origin's changes after a cursor, up to a limit or until it is full. Returns how far it goes.
    fn draft_push(&mut self, cursor: u64, limit: u64, origin: ReplicaId) -> (u64, Arc<[u8]>) {
        if let Some(draft) = &self.draft
            && (draft.cursor, draft.limit, draft.origin) == (cursor, limit, origin)
        {
            return (draft.upto, draft.bytes.clone());
        }
        let is_of = |item: &Item<T::Key>| item.origin == origin;
        let mut items =
            self.log.after(cursor).take_while(|(number, _)| *number <= limit).filter(|(_, item)| is_of(item));
        let (mut delta, mut upto, mut bytes) = (T::Delta::default(), limit, 0);
        loop {
            let mut wanted: BTreeMap<&T::Key, Vec<Dot>> = BTreeMap::new();
            let mut last = None;
            for (number, item) in items.by_ref().take(BATCH) {
                wanted.entry(&item.key).or_default().push(item.dot);
                last = Some(number);
            }
            let Some(last) = last else { break };
            let wanted = wanted.into_iter().map(|(key, dots)| (key.clone(), dots.into_iter().collect())).collect();
            let part = self.replica.pick(wanted);
            bytes += part.encode().len();
            delta.unite(part);
            if bytes >= self.config.chunk_bytes {
                upto = last;
                break;
            }
        }
        for (_, _, dots) in self.log.void_after(cursor).filter(|(number, of, _)| *number <= upto && *of == origin) {
            delta.kill(dots);
        }
        let bytes: Arc<[u8]> = Request::Push { origin, delta }.encode(self.replica.id()).into();
        self.draft = Some(Draft { cursor, limit, origin, upto, bytes: bytes.clone() });
        (upto, bytes)
    }

    fn pushed(&mut self, now: Duration, to: ReplicaId, id: u64, done: bool) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        let Some(from) = progress.in_flight.remove(&id) else { return };
        if done {
            progress.failures = 0;
        } else {
            // Told again from there on; what it has had meanwhile does no harm.
            progress.cursor = progress.cursor.min(from);
            progress.failures = (progress.failures + 1).min(6);
            progress.not_before = now + self.config.coalesce.max(Duration::from_millis(10)) * (1 << progress.failures);
            self.pending.insert(to);
        }
        self.trim_log(to);
    }

    /// Drops what nobody needs any more, after something has changed for `to`.
    fn trim_log(&mut self, to: ReplicaId) {
        if let Some(progress) = self.progress.get_mut(&to)
            && progress.in_flight.is_empty()
            && !self.pending.contains(&to)
        {
            progress.behind_since = None;
        }
        let floors =
            self.progress.iter().filter(|(id, progress)| self.pending.contains(id) || !progress.in_flight.is_empty());
        let floors = floors.map(|(_, p)| p.in_flight.values().copied().chain([p.cursor]).min().unwrap_or(0));
        let floor = floors.min().unwrap_or(self.log.last());
        self.log.cut(floor);
        if self.log.len() == 0 {
            self.draft = None;
        }
    }

    fn start(&mut self, to: ReplicaId, purpose: Purpose) -> u64 {
        self.next_id += 1;
        self.under_way.insert(self.next_id, (to, purpose));
        self.next_id
    }

    // Transfers.

    /// Begins to send a peer what lies above a context, if that is anything. Returns whether there was room for it.
    fn offer(&mut self, to: ReplicaId, context: &VersionVector) -> bool {
        let claim = self.roster.spoken(self.replica.context()).difference(context);
        if claim.is_empty() {
            return true;
        }
        if self.transfers.contains_key(&to) || self.transfers.len() >= MAX_TRANSFERS {
            return self.transfers.contains_key(&to);
        }
        self.transfers.insert(to, Transfer::new(claim));
        true
    }

    fn transfer(&mut self) -> Option<Outgoing> {
        let window = self.config.window;
        let to = *self.transfers.iter().find(|(_, transfer)| !transfer.is_sent() && transfer.in_flight < window)?.0;
        let transfer = self.transfers.get_mut(&to)?;
        if !transfer.search(&self.replica) {
            return None;
        }
        let delta = transfer.chunk(&self.replica, self.config.chunk_items, self.config.chunk_bytes);
        transfer.in_flight += 1;
        let bytes = Request::Chunk { delta }.encode(self.replica.id()).into();
        let id = self.start(to, Purpose::Chunk);
        self.stats.chunks += 1;
        Some(Outgoing { to, id, is_bulk: true, bytes })
    }

    fn sent_chunk(&mut self, now: Duration, to: ReplicaId, done: bool) {
        let Some(transfer) = self.transfers.get_mut(&to) else { return };
        transfer.in_flight = transfer.in_flight.saturating_sub(1);
        if !done || transfer.is_done() {
            // What was not delivered is still above the other's context, and the next round finds it there.
            self.transfers.remove(&to);
        }
        if let Some(round) = self.round.as_mut().filter(|round| round.peer == to) {
            round.heard = now;
        }
        self.check_round();
    }

    // Rounds.

    fn summary(&self) -> Summary {
        let context = self.roster.spoken(self.replica.context());
        let hash =
            context.runs().iter().fold(0, |hash, run| mix(mix(mix(hash ^ run.replica.0) ^ run.first) ^ run.last));
        Summary { context: hash, live: self.live_sum, count: self.live_count(), rows: self.roster.hash() }
    }

    fn compare(&self, theirs: &Summary) -> Answer {
        let ours = self.summary();
        if ours == *theirs {
            return Answer::Done;
        }
        let context = (ours.context != theirs.context).then(|| self.roster.spoken(self.replica.context()));
        let rows = if ours.rows == theirs.rows { Rows::new() } else { self.roster.spoken_rows() };
        Answer::Differs { summary: ours, context, rows }
    }

    fn take_rows(&mut self, now: Duration, rows: Rows) {
        if self.roster.merge(rows) {
            self.plant(now);
            self.retire(now);
        }
    }

    fn random(&mut self) -> u64 {
        self.random = mix(self.random);
        self.random
    }

    fn begin_round(&mut self, now: Duration) {
        self.retire(now);
        self.collect_marks(now);
        // Who is not known to hold this object is asked now and then.
        let known = |id: &ReplicaId| self.roster.knows(*id);
        let candidates: Vec<ReplicaId> = match () {
            () if !self.to_meet.is_empty() => self.to_meet.iter().copied().collect(),
            () if !self.stats.rounds.is_multiple_of(4) && self.up.iter().any(known) => {
                self.up.iter().copied().filter(known).collect()
            }
            () => self.up.iter().copied().collect(),
        };
        if candidates.is_empty() {
            return;
        }
        let peer = candidates[(self.random() % candidates.len() as u64) as usize];
        self.to_meet.remove(&peer);
        self.stats.rounds += 1;
        let stage = self.probe(peer);
        self.round = Some(Round { peer, stage, heard: now, exchanges: 0 });
    }

    fn probe(&mut self, peer: ReplicaId) -> Stage {
        let summary = self.summary();
        Stage::Probing(self.ask(peer, &Request::Probe(summary)), summary)
    }

    fn ask(&mut self, to: ReplicaId, request: &Request<T::Delta>) -> u64 {
        let bytes = request.encode(self.replica.id()).into();
        let id = self.start(to, Purpose::Round);
        self.outbox.push_back(Outgoing { to, id, is_bulk: false, bytes });
        id
    }

    /// Others may lack what has just come.
    fn be_eager(&mut self, now: Duration) {
        self.eager = EAGER_ROUNDS;
        self.next_round = self.next_round.min(now + SOON);
    }

    fn end_round(&mut self, now: Duration) {
        if self.round.take().is_none() {
            return;
        }
        let interval = self.config.round_interval;
        let mean = if !self.to_meet.is_empty() {
            Duration::ZERO
        } else if self.eager > 0 {
            self.eager -= 1;
            SOON.min(interval)
        } else {
            interval
        };
        // Between half of the mean and one and a half: replicas that began together shall not stay together.
        let share = 512 + self.random() % 1024;
        self.next_round = now + mean.mul_f64(share as f64 / 1024.0);
    }

    /// An answer in the round, if it is still the one that asked.
    fn advance_round(&mut self, now: Duration, id: u64, answer: Option<Answer>) {
        let Some(round) = &mut self.round else { return };
        let is_current = match &round.stage {
            Stage::Probing(asked, _) | Stage::Offering(asked, _) | Stage::Resolving(asked) => *asked == id,
            Stage::Sketching(asked, _) => *asked == id,
            Stage::Transferring(_) => false,
        };
        if !is_current {
            return;
        }
        round.heard = now;
        let peer = round.peer;
        // Taken out while it is decided what comes next.
        let stage = std::mem::replace(&mut round.stage, Stage::Resolving(0));
        match (stage, answer) {
            (Stage::Probing(_, ours), Some(Answer::Differs { summary, context, rows })) => {
                self.differs(now, peer, (ours, summary), context, rows);
            }
            (Stage::Offering(_, theirs), Some(Answer::Done)) => {
                self.set_stage(Stage::Transferring(theirs));
                self.check_round();
            }
            (Stage::Sketching(_, state), Some(Answer::Symbols { live, context, symbols })) => {
                self.sketched(now, peer, state, live, &context, symbols);
            }
            _ => self.end_round(now),
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(round) = &mut self.round {
            round.stage = stage;
        }
    }

    /// The other holds something else. `ours` is what it was asked about, so that what has changed here meanwhile is not
    /// taken for a difference.
    fn differs(
        &mut self,
        now: Duration,
        peer: ReplicaId,
        (ours, theirs): (Summary, Summary),
        context: Option<VersionVector>,
        rows: Rows,
    ) {
        self.take_rows(now, rows);
        let Some(round) = &mut self.round else { return };
        if context.is_some() || ours.rows != theirs.rows {
            if round.exchanges == MAX_EXCHANGES {
                return self.end_round(now);
            }
            round.exchanges += 1;
            self.stats.exchanges += 1;
            if let Some(context) = &context {
                // Should there be no room for it, the other finds what it lacks in a round of its own.
                self.offer(peer, context);
            }
            let rows = if ours.rows == theirs.rows { Rows::new() } else { self.roster.spoken_rows() };
            let own = self.roster.spoken(self.replica.context());
            let id = self.ask(peer, &Request::Exchange { context: own, rows });
            self.set_stage(Stage::Offering(id, context.unwrap_or_default()));
        } else if (ours.live, ours.count) != (theirs.live, theirs.count) {
            self.stats.reconciliations += 1;
            // At least so many dots differ; two symbols for each is a good beginning.
            let difference = ours.count.abs_diff(theirs.count).min(MAX_SYMBOLS as u64) as usize;
            let asked = (2 * difference).clamp(FIRST_SYMBOLS, MAX_SYMBOLS);
            let salt = self.random();
            self.sketch(peer, Sketching { salt, symbols: Vec::new(), live: 0, asked, restarts: 0 });
        } else {
            self.end_round(now);
        }
    }

    /// Goes on when this side has heard of all that the other had, and the other was sent all that it lacked.
    fn check_round(&mut self) {
        let Some(Round { peer, stage: Stage::Transferring(theirs), .. }) = &self.round else { return };
        if self.transfers.contains_key(peer) || !self.replica.context().covers(theirs) {
            return;
        }
        let peer = *peer;
        let stage = self.probe(peer);
        self.set_stage(stage);
    }

    fn symbols(&self, salt: u64, from: u64, count: usize) -> Vec<Symbol> {
        let mut sketch = Sketch::new(from, count);
        self.visit_live(|dot| sketch.change(sketch::hash(dot, salt), 1));
        sketch.symbols()
    }

    /// Asks for the symbols after those that have come.
    fn sketch(&mut self, peer: ReplicaId, state: Sketching) {
        let from = state.symbols.len();
        let count = state.asked.saturating_sub(from).clamp(1, MAX_SYMBOLS);
        let id = self.ask(peer, &Request::Symbols { salt: state.salt, from: from as u64, count });
        self.set_stage(Stage::Sketching(id, state));
    }

    fn sketched(
        &mut self,
        now: Duration,
        peer: ReplicaId,
        mut state: Sketching,
        live: u64,
        context: &VersionVector,
        symbols: Vec<Symbol>,
    ) {
        if !state.symbols.is_empty() && state.live != live {
            // The other's dots have changed between two answers: their symbols do not belong together.
            if state.restarts == MAX_RESTARTS {
                return self.end_round(now);
            }
            let asked = state.asked.min(MAX_SYMBOLS);
            let salt = self.random();
            return self
                .sketch(peer, Sketching { salt, symbols: Vec::new(), live: 0, asked, restarts: state.restarts + 1 });
        }
        state.live = live;
        if symbols.is_empty() {
            return self.end_round(now);
        }
        state.symbols.extend(symbols);
        let ours = self.symbols(state.salt, 0, state.symbols.len());
        let Some(difference) = sketch::peel(&ours, &state.symbols) else {
            let limit = 2 * (self.live_count() as usize + state.symbols.first().map_or(0, |s| s.count.max(0) as usize));
            if state.symbols.len() > limit + FIRST_SYMBOLS {
                // More than enough: two hashes have collided, or the answers make no sense.
                return self.end_round(now);
            }
            state.asked = state.asked.max(state.symbols.len()) + state.symbols.len().min(MAX_SYMBOLS);
            return self.sketch(peer, state);
        };
        // What only this side holds, and the other has heard of, is dead. What it has not heard of it is sent elsewhere.
        let here: BTreeSet<u64> = difference.here.into_iter().collect();
        let mut dead = Vec::new();
        self.visit_live(|dot| {
            if context.contains(dot) && here.contains(&sketch::hash(dot, state.salt)) {
                dead.push(dot);
            }
        });
        self.bury(now, dead.into_iter().collect());
        if difference.there.is_empty() {
            return self.end_round(now);
        }
        // The context belongs to the live dots of this moment, which the hashes are not of.
        let context = self.replica.context().clone();
        let id = self.ask(peer, &Request::Resolve { salt: state.salt, hashes: difference.there, context });
        self.set_stage(Stage::Resolving(id));
    }

    // Those that are gone.

    fn retire(&mut self, now: Duration) {
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
                    self.stats.retired += 1;
                }
            }
        }
    }

    /// Drops marks that everybody has seen, if the type leaves any.
    fn collect_marks(&mut self, now: Duration) {
        if !T::LEAVES_MARKS {
            return;
        }
        let has_marks = self.replica.has_marks();
        let seen = has_marks.then(|| self.replica.context().clone());
        self.roster.publish_seen(seen);
        if has_marks && let Some(stable) = self.roster.stable(self.replica.context()) {
            // A mutator that cannot fail: it writes no dot.
            let _ = self.update(now, |state, _| Ok(state.collect(&stable)));
        }
    }
}
