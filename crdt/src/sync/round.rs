//! One round: two replicas compare what they hold, and what is to be done about the difference.
//!
//! The one that begins it asks, and decides: probe; exchange of contexts and transfers both ways until this side has
//! heard of all that the other had; probe again; symbols until the live dots that differ are known; their resolution. A
//! round that stands still is given up, and another one is tried later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::engine::{AntiEntropy, Purpose};
use super::message::{Answer, MAX_SYMBOLS, News, Request, Summary};
use super::transfer::Transfer;
use super::{MAX_TRANSFERS, Outgoing, dot_hash, mix};
use crate::sketch::{self, Sketch, Symbol};
use crate::store::Crdt;
use crate::{ReplicaId, VersionVector};

/// How soon the next round follows one that has brought something: others may lack it too.
pub(super) const SOON: Duration = Duration::from_millis(200);

/// How soon a peer is asked again whose own round does what was asked for.
const AGAIN: Duration = Duration::from_millis(50);

/// How long the first round with one who has appeared may stand still, so that somebody who is dead and not known to be does
/// not keep this side from meeting the others. Who needs longer has as long as in any round when it is tried again.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);

/// How many rounds in a row follow so soon: enough for news to reach 1,000 replicas by halves.
pub(super) const EAGER_ROUNDS: u32 = 10;

/// The fewest coded symbols to begin with: enough for one or two differences, which are the most frequent ones.
const FIRST_SYMBOLS: usize = 4;

/// The most coded symbols of one sketch, 100 MB: they tell 2,400,000 differences. More are asked for only by one who is
/// told nonsense.
const MOST_SYMBOLS: u64 = 1 << 22;

#[derive(Debug)]
pub(super) struct Round {
    pub(super) peer: ReplicaId,
    pub(super) stage: Stage,
    /// When something was last heard of it.
    pub(super) heard: Duration,
    /// How often contexts were exchanged.
    pub(super) exchanges: u32,
    /// How long it may stand still.
    pub(super) patience: Duration,
    /// Whether there is to be another one soon if this one comes to nothing.
    pub(super) is_first: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// A probe with this is under way.
    Probing(u64, Summary),
    /// The rows that the other lacks are under way; then comes what a difference of this kind asks for.
    Meeting(u64, Difference),
    /// Our context is under way.
    Offering(u64, VersionVector),
    /// What the other holds is on its way here, and what it lacks on its way there.
    Transferring(VersionVector),
    /// Coded symbols are on their way here.
    Sketching(u64, Sketching),
    /// The hashes that the other must resolve are under way.
    Resolving(u64),
}

/// What a probe has found to differ.
#[derive(Debug)]
pub(super) struct Difference {
    /// What the other was asked about, so that what has changed here meanwhile is not taken for a difference.
    ours: Summary,
    theirs: Summary,
    /// The other's context, if it differs.
    context: Option<VersionVector>,
    /// How often rows were exchanged.
    meetings: u32,
}

#[derive(Debug)]
pub(super) struct Sketching {
    pub(super) salt: u64,
    /// The symbols that have come, from the first one on, and the sum of the live dots that they are of.
    pub(super) symbols: Vec<Symbol>,
    pub(super) live: u64,
    /// As many of our own, and the sum of the live dots that they are of.
    pub(super) ours: Vec<Symbol>,
    pub(super) our_live: u64,
    /// How many were asked for.
    pub(super) asked: usize,
    /// How often it was begun anew because something had changed.
    pub(super) restarts: u32,
}

impl Sketching {
    fn new(salt: u64, asked: usize, restarts: u32) -> Self {
        Self { salt, symbols: Vec::new(), live: 0, ours: Vec::new(), our_live: 0, asked, restarts }
    }
}

/// A round that must be begun anew more often is given up: replicas that are being written to all the time never stand
/// still long enough, and then a push repairs what matters.
pub(super) const MAX_RESTARTS: u32 = 4;

/// A round that exchanges rows more often is given up: enough for 16 MiB of them.
const MAX_MEETINGS: u32 = 64;

/// A round that exchanges more often is given up.
pub(super) const MAX_EXCHANGES: u32 = 3;

impl<T: Crdt> AntiEntropy<T> {
    /// Begins to send a peer what lies above a context, if that is anything. Returns whether there was room for it.
    pub(super) fn offer(&mut self, to: ReplicaId, context: &VersionVector) -> bool {
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

    pub(super) fn transfer(&mut self) -> Option<Outgoing> {
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

    pub(super) fn sent_chunk(&mut self, now: Duration, to: ReplicaId, done: bool) {
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

    pub(super) fn summary(&self) -> Summary {
        let context = self.roster.spoken(self.replica.context());
        let hash =
            context.runs().iter().fold(0, |hash, run| mix(mix(mix(hash ^ run.replica.0) ^ run.first) ^ run.last));
        Summary { context: hash, live: self.live_sum, count: self.live_count(), rows: self.roster.hash() }
    }

    /// Whether a round with this peer is under way here that goes on although the peer begins one too: one of a pair at a
    /// time does the work of both. Of two that begin at once the one of the lesser replica goes on.
    pub(super) fn goes_on(&mut self, now: Duration, peer: ReplicaId) -> bool {
        let Some(round) = self.round.as_ref().filter(|round| round.peer == peer) else { return false };
        let yields = matches!(round.stage, Stage::Probing(..)) && round.exchanges == 0 && peer < self.replica.id();
        if yields {
            // What the peer has comes with its round, which has only begun: they have not met yet.
            self.meet_again(now, peer);
        }
        !yields
    }

    pub(super) fn compare(&self, theirs: &Summary) -> Answer {
        let ours = self.summary();
        if ours == *theirs {
            return Answer::Done;
        }
        let context = (ours.context != theirs.context).then(|| self.roster.spoken(self.replica.context()));
        let news = if ours.rows == theirs.rows { News::default() } else { self.news(None) };
        Answer::Differs { summary: ours, context, news }
    }

    /// What this side knows of the rows, and what a side with these versions lacks of them.
    fn news(&self, versions: Option<&BTreeMap<ReplicaId, u64>>) -> News {
        News {
            versions: self.roster.versions(),
            rows: versions.map(|versions| self.roster.newer(versions)).unwrap_or_default(),
            forgotten: self.roster.forgotten().clone(),
        }
    }

    /// The answer to a meeting.
    pub(super) fn meet(&mut self, now: Duration, news: News) -> Answer {
        let versions = news.versions.clone();
        self.take_news(now, news);
        Answer::News(self.news(Some(&versions)))
    }

    pub(super) fn take_news(&mut self, now: Duration, news: News) {
        // Not `||`: both are to be taken.
        if self.roster.merge(news.rows) | self.roster.forget(news.forgotten, self.replica.context()) {
            let up = self.up.clone();
            self.handle_up(now, up);
            self.retire(now);
        }
    }

    pub(super) fn random(&mut self) -> u64 {
        self.random = mix(self.random);
        self.random
    }

    pub(super) fn begin_round(&mut self, now: Duration) {
        self.retire(now);
        self.collect_marks(now);
        // Who is not known to hold this object is asked now and then.
        let known = |id: &ReplicaId| self.roster.knows(*id);
        let candidates: Vec<ReplicaId> = match () {
            () if !self.to_meet.is_empty() => self.to_meet.iter().copied().collect(),
            () if !self.to_meet_again.is_empty() => self.to_meet_again.iter().copied().collect(),
            () if !self.stats.rounds.is_multiple_of(4) && self.up.iter().any(known) => {
                self.up.iter().copied().filter(known).collect()
            }
            () => self.up.iter().copied().collect(),
        };
        if candidates.is_empty() {
            return;
        }
        let peer = candidates[(self.random() % candidates.len() as u64) as usize];
        let is_first = self.to_meet.remove(&peer);
        self.to_meet_again.remove(&peer);
        self.stats.rounds += 1;
        let stage = self.probe(peer);
        let patience = if is_first { self.config.patience.min(FIRST_PATIENCE) } else { self.config.patience };
        self.round = Some(Round { peer, stage, heard: now, exchanges: 0, patience, is_first });
    }

    pub(super) fn probe(&mut self, peer: ReplicaId) -> Stage {
        let summary = self.summary();
        Stage::Probing(self.ask(peer, &Request::Probe(summary)), summary)
    }

    pub(super) fn ask(&mut self, to: ReplicaId, request: &Request<T::Delta>) -> u64 {
        let bytes = request.encode(self.replica.id()).into();
        let id = self.start(to, Purpose::Round);
        self.outbox.push_back(Outgoing { to, id, is_bulk: false, bytes });
        id
    }

    /// Others may lack what has just come.
    pub(super) fn be_eager(&mut self, now: Duration) {
        self.eager = EAGER_ROUNDS;
        self.next_round = self.next_round.min(now + SOON);
    }

    /// Nothing is heard of the other.
    pub(super) fn fail_round(&mut self, now: Duration) {
        self.to_meet_again.extend(self.round.as_ref().filter(|round| round.is_first).map(|round| round.peer));
        self.end_round(now);
    }

    pub(super) fn end_round(&mut self, now: Duration) {
        if self.round.take().is_none() {
            return;
        }
        let interval = self.config.round_interval;
        let mean = if !self.to_meet.is_empty() || !self.to_meet_again.is_empty() {
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

    /// Ends the round because the other side does its work. Whether that has come to its end is looked at soon, and the peer
    /// is not met before.
    fn meet_again(&mut self, now: Duration, peer: ReplicaId) {
        self.end_round(now);
        self.to_meet.insert(peer);
        self.next_round = now + AGAIN;
    }

    /// An answer in the round, if it is still the one that asked.
    pub(super) fn advance_round(&mut self, now: Duration, id: u64, answer: Option<Answer>) {
        let Some(round) = &mut self.round else { return };
        let is_current = match &round.stage {
            Stage::Probing(asked, _) | Stage::Offering(asked, _) | Stage::Resolving(asked) => *asked == id,
            Stage::Sketching(asked, _) => *asked == id,
            Stage::Meeting(asked, _) => *asked == id,
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
            (Stage::Probing(_, ours), Some(Answer::Differs { summary, context, news })) => {
                let difference = Difference { ours, theirs: summary, context, meetings: 0 };
                if ours.rows == summary.rows {
                    self.differs(now, peer, difference)
                } else {
                    self.meet_with(now, peer, difference, news)
                }
            }
            (Stage::Meeting(_, difference), Some(Answer::News(news))) => self.meet_with(now, peer, difference, news),
            (Stage::Offering(_, theirs), Some(Answer::Done)) => {
                self.set_stage(Stage::Transferring(theirs));
                self.check_round();
            }
            (Stage::Sketching(_, state), Some(Answer::Symbols { live, context, symbols })) => {
                self.sketched(now, peer, state, live, &context, symbols);
            }
            (Stage::Probing(..), Some(Answer::Done)) => {
                if let Some(progress) = self.progress.get_mut(&peer) {
                    progress.overrun = false;
                    self.trim_log();
                }
                self.end_round(now);
            }
            // The peer's own round, or what is on its way to this side already, does it.
            (Stage::Probing(..) | Stage::Offering(..), Some(Answer::Busy)) => self.meet_again(now, peer),
            (_, None) => self.fail_round(now),
            _ => self.end_round(now),
        }
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(round) = &mut self.round {
            round.stage = stage;
        }
    }

    /// The other knows other replicas: each is told of those that it lacks, and of nothing else before.
    fn meet_with(&mut self, now: Duration, peer: ReplicaId, mut difference: Difference, news: News) {
        let versions = news.versions.clone();
        self.take_news(now, news);
        let ours = self.news(Some(&versions));
        let agree = difference.meetings > 0 && ours.rows.is_empty() && !self.roster.lacks(&versions);
        if agree || self.round.is_none() {
            return self.differs(now, peer, difference);
        }
        if difference.meetings == MAX_MEETINGS {
            return self.end_round(now);
        }
        difference.meetings += 1;
        let id = self.ask(peer, &Request::Meet(ours));
        self.set_stage(Stage::Meeting(id, difference));
    }

    /// The other holds something else.
    fn differs(&mut self, now: Duration, peer: ReplicaId, Difference { ours, theirs, context, .. }: Difference) {
        let Some(round) = &mut self.round else { return };
        if let Some(context) = context {
            if round.exchanges == MAX_EXCHANGES {
                return self.end_round(now);
            }
            round.exchanges += 1;
            self.stats.exchanges += 1;
            // Should there be no room for it, the other finds what it lacks in a round of its own.
            self.offer(peer, &context);
            let own = self.roster.spoken(self.replica.context());
            let id = self.ask(peer, &Request::Exchange { context: own });
            self.set_stage(Stage::Offering(id, context));
        } else if (ours.live, ours.count) != (theirs.live, theirs.count) {
            self.stats.reconciliations += 1;
            // At least so many dots differ; two symbols for each is a good beginning.
            let difference = ours.count.abs_diff(theirs.count).min(MAX_SYMBOLS as u64) as usize;
            let asked = (2 * difference).clamp(FIRST_SYMBOLS, MAX_SYMBOLS);
            let salt = self.random();
            self.sketch(peer, Sketching::new(salt, asked, 0));
        } else {
            self.end_round(now);
        }
    }

    /// Goes on when this side has heard of all that the other had, and the other was sent all that it lacked.
    pub(super) fn check_round(&mut self) {
        let Some(Round { peer, stage: Stage::Transferring(theirs), .. }) = &self.round else { return };
        if self.transfers.contains_key(peer) || !self.replica.context().covers(theirs) {
            return;
        }
        let peer = *peer;
        let stage = self.probe(peer);
        self.set_stage(stage);
    }

    pub(super) fn symbols(&self, salt: u64, from: u64, count: usize) -> Vec<Symbol> {
        let mut sketch = Sketch::new(from, count);
        self.visit_live(|dot| sketch.change(dot_hash(dot, salt), 1));
        sketch.symbols()
    }

    /// Asks for the symbols after those that have come.
    pub(super) fn sketch(&mut self, peer: ReplicaId, state: Sketching) {
        let from = state.symbols.len();
        let count = state.asked.saturating_sub(from).clamp(1, MAX_SYMBOLS);
        let id = self.ask(peer, &Request::Symbols { salt: state.salt, from: from as u64, count });
        self.set_stage(Stage::Sketching(id, state));
    }

    pub(super) fn sketched(
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
            return self.sketch(peer, Sketching::new(salt, asked, state.restarts + 1));
        }
        state.live = live;
        if symbols.is_empty() {
            return self.end_round(now);
        }
        state.symbols.extend(symbols);
        if state.our_live != self.live_sum {
            state.ours.clear();
            state.our_live = self.live_sum;
        }
        let had = state.ours.len();
        state.ours.extend(self.symbols(state.salt, had as u64, state.symbols.len() - had));
        let Some(difference) = sketch::peel(&state.ours, &state.symbols) else {
            // All that either holds was heard of here, or was when the contexts were compared.
            let most = self.live_count().saturating_add(self.replica.context().dot_count());
            let had = state.symbols.len();
            let limit = most.saturating_mul(2).min(MOST_SYMBOLS) + FIRST_SYMBOLS as u64;
            if had as u64 > limit {
                // More than enough: two hashes have collided, or the answers make no sense.
                return self.end_round(now);
            }
            // A little less than suffices as a rule, then a little more and more: a symbol too many costs as much as one
            // that is needed.
            let wanted = sketch::estimate(&state.ours, &state.symbols) * 5 / 4;
            state.asked = wanted.clamp(had + had / 8 + 1, 4 * had).min(had + MAX_SYMBOLS);
            return self.sketch(peer, state);
        };
        // What only this side holds, and the other has heard of, is dead. What it has not heard of it is sent elsewhere.
        let here: BTreeSet<u64> = difference.here.into_iter().collect();
        let mut dead = Vec::new();
        self.visit_live(|dot| {
            if context.contains(dot) && here.contains(&dot_hash(dot, state.salt)) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AwSet;
    use crate::sync::SyncConfig;

    #[test]
    fn symbols_that_claim_endless_dots_end_the_round() {
        let now = Duration::from_secs(1);
        let (own, peer) = (ReplicaId(1), ReplicaId(2));
        let mut sync = AntiEntropy::<AwSet<u8>>::new(own, Vec::new(), 1, SyncConfig::default());
        sync.update(now, |set, w| set.add(w, 1)).expect("it has counters left");
        sync.handle_up(now, BTreeSet::from([peer]));
        sync.handle_timeout(now);
        let probe = sync.poll_request(now).expect("a round begins");
        let ours = sync.summary();
        let summary = Summary { live: ours.live.wrapping_add(1), count: u64::MAX, ..ours };
        let differs = Answer::Differs { summary, context: None, news: News::default() };
        sync.handle_answer(now, probe.id, Some(&differs.encode()));
        let nonsense = Symbol::of(5, 7, i64::MAX);
        for _ in 0..3 {
            let Some(request) = sync.poll_request(now) else { break };
            let answer = Answer::Symbols { live: 3, context: VersionVector::new(), symbols: vec![nonsense; 8] };
            sync.handle_answer(now, request.id, Some(&answer.encode()));
        }
        assert!(sync.round.is_none(), "more than all that was heard of is not asked for");
    }

    #[test]
    fn a_peer_to_whose_round_ours_gives_way_is_not_met_before_that_has_ended() {
        let now = Duration::from_secs(1);
        let new = |id, peer| {
            let mut sync = AntiEntropy::<AwSet<u8>>::new(ReplicaId(id), Vec::new(), id, SyncConfig::default());
            sync.handle_up(now, BTreeSet::from([ReplicaId(peer)]));
            sync.handle_timeout(now);
            sync
        };
        let (mut first, mut second) = (new(1, 2), new(2, 1));
        first.update(now, |set, w| set.add(w, 7)).expect("it has counters left");
        // Both ask at once, and each is asked before it is answered.
        let (from_first, from_second) = (first.poll_request(now), second.poll_request(now));
        let (from_first, from_second) = (from_first.expect("it asks"), from_second.expect("it asks"));
        let to_second = first.handle_request(now, &from_second.bytes).expect("well-formed");
        let to_first = second.handle_request(now, &from_first.bytes).expect("well-formed");
        second.handle_answer(now, from_second.id, Some(&to_second));
        assert!(!second.has_met() && second.replica().is_empty(), "the other's round has only begun");
        first.handle_answer(now, from_first.id, Some(&to_first));
        let mut now = now;
        for _ in 0..100 {
            for _ in 0..2 {
                while let Some(request) = first.poll_request(now) {
                    let answer = second.handle_request(now, &request.bytes).expect("well-formed");
                    first.handle_answer(now, request.id, Some(&answer));
                }
                std::mem::swap(&mut first, &mut second);
            }
            if second.has_met() {
                break;
            }
            now += Duration::from_millis(10);
            first.handle_timeout(now);
            second.handle_timeout(now);
        }
        assert!(second.has_met() && second.replica().contains(&7));
    }

    #[test]
    fn the_silent_do_not_keep_it_from_meeting_the_others() {
        for seed in 0..20 {
            let mut now = Duration::from_secs(1);
            let mut sync = AntiEntropy::<AwSet<u8>>::new(ReplicaId(1), Vec::new(), seed, SyncConfig::default());
            let (silent, all) =
                (|peer: ReplicaId| peer.0.is_multiple_of(7), (2..34).map(ReplicaId).collect::<BTreeSet<_>>());
            sync.handle_up(now, all.clone());
            let (mut met, mut tried) = (BTreeMap::new(), BTreeMap::<ReplicaId, u32>::new());
            while !sync.has_met() {
                sync.handle_timeout(now);
                while let Some(request) = sync.poll_request(now) {
                    if silent(request.to) {
                        *tried.entry(request.to).or_default() += 1;
                    } else {
                        met.insert(request.to, now);
                        sync.handle_answer(now, request.id, Some(&Answer::Done.encode()));
                    }
                }
                now = sync.poll_timeout().expect("there are rounds").max(now);
            }
            assert_eq!(met.len() + tried.len(), all.len());
            assert!(
                met.values().all(|at| *at <= Duration::from_millis(3_000)),
                "four are silent, and two seconds are lost"
            );
            assert!(tried.values().all(|times| *times == 2), "each is tried once more");
        }
    }
}
