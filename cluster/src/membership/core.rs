//! The failure detector and the gossip of one node: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey
//! 2018). Sans-IO: time is handed in as the duration since the node's start, randomness as a generator, and the driver
//! carries out what [`Core::poll_send`] and [`Core::poll_output`] return.
//!
//! Every probe period one member is pinged, round-robin in random order. Without an answer in time others are asked to ping
//! it; without one at the end of the period it is accused. What is news is piggybacked on whatever is sent, and on rounds of
//! gossip while there is any.
//!
//! From Lifeguard: the health of this node stretches its probes ([`super::health`]); a suspicion begins long and
//! independent accusers shorten it ([`super::suspicion`]); a suspect hears first that it is one, for whatever is sent to
//! it begins with the accusation (section IV-C); who was asked to ping for another says so if no answer comes (IV-A).
//!
//! Deviations, each for accuracy or speed:
//! - **A verdict is an accusation.** Who hears that a member is down, and holds it for alive, takes that for one accusation
//!   more, unless enough others accuse too: one node that is ill does not bury anybody for all.
//! - **Confirming.** Who hears of a suspect pings it at once with a chance that makes about [`CONFIRMERS`] do so, if it is
//!   healthy itself: a real failure is confirmed within one period, in a cluster of any size.
//! - **Standing still.** If timers are late by more than a probe may take, the process was stopped. What was awaited
//!   meanwhile gets that time again.
//! - Down is final for a `rejoin` of a boot. A member that was declared down and is told so comes back under the next one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::{StdRng, Xoshiro256PlusPlus};
use rand::{RngExt as _, SeedableRng as _, seq::IteratorRandom as _};

use super::deadlines::Deadlines;
use super::handle::{Handle, Known};
use super::health::Health;
use super::lineup::Lineup;
use super::member::{Member, State};
use super::message::{self, Header, Item, MAX_PAYLOAD_BYTES, Message, MessageError};
use super::probes::{Acked, Failed, MAX_PROBES, Probes};
use super::rumors::Rumors;
use super::stats::{Churn, MembershipStats};
use super::suspicion::{CONFIRMATIONS, Suspicion, needed};
use crate::buckets::{NameKey, Row as _};
use crate::config::Timings;
use crate::exchange::Told;
use crate::identity::Boot;
use crate::mutation::{Mutation, mutated};
use crate::state::{Entry, PROFILE_KEY, Profile, Table};

/// The table of node state, shared with whoever reads it.
pub(crate) type SharedTable = Arc<Mutex<Table>>;

/// How many members are asked to probe for us, and how many a round of gossip goes to (memberlist has three of each too).
const FANOUT: usize = 3;
/// About how many members check an accusation at once: one more than are needed. Others come upon it in their own rounds.
const CONFIRMERS: usize = CONFIRMATIONS + 1;
/// Who hears others again after a silence may have taken all of them for dead. How many of these are told so whenever one of
/// them is heard, once in a round of gossip at most, and for how long: a hundred are reunited within some seconds.
const REUNITED: usize = 8;
const REUNION: Duration = Duration::from_secs(15);
/// How many members are known at most, up or down: a bound against a peer gone wrong, far above the clusters this is for.
const MAX_MEMBERS: usize = 16_384;
/// How many of them may be down: the one that would be forgotten first makes room.
const MAX_DOWN: usize = 4_096;
/// How many updates an exchange may bring that are gossiped on: about as many as fit into one datagram. More than that is
/// no news of the cluster but what we ourselves lacked, because we have just joined it or were cut off from it. With a
/// thousand members, gossiping that to those who know it keeps every datagram full for a minute.
pub(super) const MAX_NEWS: usize = 24;

/// How often an entry of node state is piggybacked: six copies from each node miss one in 400, whom push-pull tells.
const HINT_TRANSMISSIONS: u8 = 6;
/// How often an accusation is that joins another.
const SUPPORT_TRANSMISSIONS: u8 = 6;

/// A change, or the end.
#[derive(Debug)]
pub(crate) enum Output {
    /// A member is alive: new, or back under a new `rejoin` or boot.
    Up(Handle),
    /// A member is down.
    Down(Handle),
    /// A boot was superseded by a newer one of its name.
    Replaced(Handle),
    /// We were declared down and came back under this identity.
    Rejoined(Handle),
    /// A newer boot of our name exists.
    Superseded(Boot),
    /// Nobody could get an answer from this member, and it is not down yet: another boot may run where it ran.
    Unanswered(Handle),
}

/// What was known of a member and what is known of it now.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) before: Option<Member>,
    pub(crate) after: Option<Member>,
}

/// The membership of one node.
pub(crate) struct Core {
    own: Handle,
    incarnation: u32,
    known: Known,
    table: SharedTable,
    timings: Timings,
    rng: Xoshiro256PlusPlus,
    lineup: Lineup,
    suspicions: BTreeMap<NameKey, Suspicion>,
    verdicts: Deadlines,
    /// How many accusers make a suspicion the shortest, as things are.
    needed: usize,
    /// When those that are down are forgotten.
    expiries: Deadlines,
    /// By whom it is about, and by who accuses.
    rumors: Rumors<(NameKey, Option<NameKey>)>,
    hints: Rumors<(NameKey, String)>,
    probes: Probes,
    health: Health,
    next_probe: Duration,
    next_gossip: Duration,
    next_announce: Duration,
    /// Since we hear others again after a silence, until when it is told to more of them whenever one of them is heard, and
    /// when next at the earliest.
    reunited: Duration,
    next_reunion: Duration,
    sends: VecDeque<(Handle, Bytes)>,
    outputs: VecDeque<Output>,
    changes: Vec<Change>,
    hinted: bool,
    stats: MembershipStats,
    churn: Churn,
}

impl Core {
    /// Hints that come with gossip go into `table`.
    pub(crate) fn new(own: impl Into<Handle>, timings: &Timings, mut rng: StdRng, table: SharedTable) -> Self {
        let own = own.into();
        // Many numbers are drawn: from a generator for simulations, not for secrets.
        let mut rng = Xoshiro256PlusPlus::from_rng(&mut rng);
        let mut phase = |interval: Duration| interval.mul_f64(rng.random_range(0.0..1.0));
        let (next_probe, next_announce) = (phase(timings.probe_period), phase(timings.announce_to_down_interval));
        let mut core = Self {
            incarnation: 0,
            known: Known::default(),
            table,
            timings: timings.clone(),
            rng,
            lineup: Lineup::default(),
            suspicions: BTreeMap::new(),
            verdicts: Deadlines::default(),
            needed: 0,
            expiries: Deadlines::default(),
            rumors: Rumors::new(),
            hints: Rumors::new(),
            probes: Probes::default(),
            health: Health::default(),
            next_probe,
            next_gossip: timings.gossip_interval,
            next_announce,
            reunited: Duration::ZERO,
            next_reunion: Duration::ZERO,
            sends: VecDeque::new(),
            outputs: VecDeque::new(),
            changes: Vec::new(),
            hinted: false,
            stats: MembershipStats::default(),
            churn: Churn::default(),
            own,
        };
        core.say_that_we_are_here();
        core
    }

    /// Our identity as it is now: `rejoin` grows.
    pub(crate) fn identity(&self) -> &Handle {
        &self.own
    }

    /// What we say of ourselves.
    pub(crate) fn own(&self) -> Member {
        Member::new(self.own.clone(), self.incarnation, State::Alive)
    }

    /// What has been decided so far, and how we fare.
    pub(crate) fn stats(&mut self, now: Duration) -> MembershipStats {
        MembershipStats {
            up: self.lineup.len() as u64 + 1,
            suspects: self.suspicions.len() as u64,
            down: self.expiries.len() as u64,
            local_health: self.health.score(),
            deaf: self.lineup.len() > 0 && self.health.is_deaf(now, self.timings.probe_period),
            churn_per_minute: self.churn.last_minute(now),
            ..self.stats
        }
    }

    /// How many are up, ourselves among them.
    pub(crate) fn members(&self) -> usize {
        self.lineup.len() + 1
    }

    /// One of the others that are up, by chance.
    pub(crate) fn any_other(&mut self) -> Option<Handle> {
        let key = self.lineup.pick(1, |_| true, &mut self.rng).pop()?;
        self.known.get(key).map(|member| member.id().clone())
    }

    /// A datagram's payload, sealed by `from`. Returns whether it was a message.
    ///
    /// One from a boot that was superseded is ignored. It learns the truth when it is refused at the door.
    pub(crate) fn handle_payload(&mut self, now: Duration, from: Boot, payload: &[u8]) -> bool {
        self.pass_idle_gossip(now);
        let taken = self.take_payload(now, from, payload);
        if let Err(error) = &taken {
            tracing::debug!(%error, "gossip that is not a message");
        }
        taken.is_ok()
    }

    fn take_payload(&mut self, now: Duration, from: Boot, payload: &[u8]) -> Result<(), MessageError> {
        let (Header { name, rejoin, addr, incarnation, message }, mut rest) = message::header(payload)?;
        let source = Handle::sealed(name, from, rejoin, addr, &self.known)?;
        let key = source.key();
        if key == self.own.key() {
            self.hear_of_ourselves(now, &Member::new(source, incarnation, State::Alive), key);
            return Ok(());
        }
        if self.known.get(key).is_some_and(|known| known.id().node.boot > from) {
            return Ok(());
        }
        self.hear(now);
        self.stats.received += 1;
        self.take(now, Member::new(source.clone(), incarnation, State::Alive), key, true);
        while !rest.is_empty() {
            let (item, after) = message::next_item(rest, &self.known)?;
            match item {
                Some(Item::Member(member, by)) => self.take(now, member, by, true),
                Some(Item::Entry(entry)) => self.take_hint(entry),
                None => {}
            }
            rest = after;
        }
        self.answer(now, &source, message);
        Ok(())
    }

    fn answer(&mut self, now: Duration, source: &Handle, message: Message) {
        let down = self.known.get(source.key()).is_some_and(|known| known.id() == source && !known.is_up());
        match message {
            Message::Ping(number) => self.send(source, Message::Ack(number)),
            Message::Ack(number) => self.handle_ack(source, number),
            Message::Nack(number) => self.probes.handle_nack(source.key(), number),
            Message::PingReq { number, target, boot } => self.do_favour(now, source, (number, target, boot)),
            Message::Gossip => {}
        }
        if down && (self.next_reunion..self.reunited).contains(&now) {
            self.next_reunion = now + self.timings.gossip_interval;
            self.announce_to_down(REUNITED);
        }
        if down && !matches!(message, Message::Ping(_)) {
            // It does not know; what is sent to it begins with that.
            self.send(source, Message::Gossip);
        }
    }

    fn handle_ack(&mut self, source: &Handle, number: u32) {
        match self.probes.handle_ack(source, number) {
            Acked::Ours => self.health.improve(),
            Acked::For(asker, number) => self.send_to(asker, Message::Ack(number)),
            Acked::Late => self.stats.late_acks += 1,
        }
    }

    fn do_favour(&mut self, now: Duration, source: &Handle, (number, target, boot): (u32, NameKey, Boot)) {
        let target = self.known.get(target).map(|known| known.id().clone()).filter(|id| id.node.boot == boot);
        let Timings { probe_timeout, probe_period, .. } = self.timings;
        let taken = target.and_then(|target| {
            let own = self.probes.favour(source.key(), number, now + probe_timeout, now + probe_period)?;
            Some((target, own))
        });
        match taken {
            Some((target, own)) => self.send(&target, Message::Ping(own)),
            None => self.send(source, Message::Nack(number)),
        }
    }

    /// All that a peer knows, by push-pull.
    pub(crate) fn handle_known(&mut self, now: Duration, from: NameKey, told: Vec<Told>) {
        self.pass_idle_gossip(now);
        let news: Vec<Told> =
            told.into_iter().filter(|told| self.known.get(told.member.key()) != Some(&told.member)).collect();
        let spread = news.len() <= MAX_NEWS;
        for Told { member, down_secs, left } in news {
            let unknown = self.known.get(member.key()).is_none();
            let age = Duration::from_secs(down_secs.into());
            if !member.is_up() && unknown && age >= self.timings.forget_down_after {
                continue;
            }
            // That a peer suspects somebody is hearsay: all hearsay counts as one accuser, under the suspect's own name.
            // That it has left it has said itself.
            let key = member.key();
            let by = if member.state() == State::Suspect || left { key } else { from };
            let down = !member.is_up();
            self.take(now, member, by, spread);
            if unknown && down && self.expiries.get(key).is_some() {
                self.expiries.set(key, now + (self.timings.forget_down_after - age));
            }
        }
    }

    /// Members that we met by greeting them.
    pub(crate) fn handle_met(&mut self, now: Duration, id: Handle) {
        self.pass_idle_gossip(now);
        let key = id.key();
        self.take(now, Member::alive(id), key, true);
    }

    /// Takes what is said of a member, by whom, and spreads it if it is news.
    fn take(&mut self, now: Duration, told: Member, by: NameKey, spread: bool) {
        let key = told.key();
        if key == self.own.key() {
            return self.hear_of_ourselves(now, &told, by);
        }
        let Some(known) = self.known.get(key) else {
            if self.lineup.len() + self.expiries.len() < MAX_MEMBERS {
                self.set(now, told, by, spread);
            }
            return;
        };
        let verdict = !told.is_up() && known.is_up() && told.id() == known.id();
        let told = if verdict && !self.is_final(key, by) {
            Member::new(told.id().clone(), known.incarnation(), State::Suspect)
        } else {
            told
        };
        if told.overrides(known) {
            return self.set(now, told, by, spread);
        }
        let same = told.id() == known.id() && told.incarnation() == known.incarnation();
        if same
            && told.state() == State::Suspect
            && let Some(suspicion) = self.suspicions.get_mut(&key)
            && suspicion.confirm(by, self.needed)
        {
            self.verdicts.set(key, suspicion.deadline(self.needed));
            if spread {
                // Who has not heard it has heard of the suspect: it need not reach everyone.
                let sent = self.transmissions().saturating_sub(SUPPORT_TRANSMISSIONS);
                self.rumors.add_as_if_sent((key, Some(by)), message::member_item(&told, by), sent);
            }
        }
    }

    /// Whether a verdict stands: the member's own, or ours, or one that enough others share.
    fn is_final(&self, key: NameKey, by: NameKey) -> bool {
        let shared = || self.suspicions.get(&key).is_some_and(|suspicion| suspicion.is_confirmed(self.needed));
        by == key || by == self.own.key() || shared()
    }

    fn has_left(&self, id: &Handle) -> bool {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = table.value(&id.node, PROFILE_KEY).and_then(|bytes| postcard::from_bytes::<Profile>(bytes).ok());
        profile.is_some_and(|profile| profile.left)
    }

    /// Makes what is said of another member what we know.
    fn set(&mut self, now: Duration, member: Member, by: NameKey, spread: bool) {
        let key = member.key();
        let before = self.known.set(member.clone());
        self.report(now, before.as_ref(), &member);
        if self.suspicions.remove(&key).is_some() {
            self.verdicts.remove(key);
            self.stats.suspicions_refuted += u64::from(member.state() == State::Alive);
        }
        if member.is_up() {
            self.expiries.remove(key);
            if self.lineup.len() == 0 {
                // While there was nobody to probe its time has passed.
                self.next_probe = self.next_probe.max(now);
            }
            self.lineup.add(key, &mut self.rng);
        } else {
            if self.expiries.len() == 0 {
                self.next_announce = now + self.timings.announce_to_down_interval;
            }
            self.lineup.remove(key);
            self.probes.give_up(key);
            self.expiries.set(key, now + self.timings.forget_down_after);
            if self.expiries.len() > MAX_DOWN
                && let Some((_, oldest)) = self.expiries.first()
            {
                self.forget(oldest);
            }
        }
        let accuser = (member.state() == State::Suspect).then_some(by);
        self.rumors.remove_from(&(key, None), |about| about.0 == key);
        if spread {
            self.rumors.add((key, accuser), message::member_item(&member, by));
        }
        if accuser.is_some() {
            self.begin_suspicion(now, &member, by);
        }
        self.count_the_able();
        self.changes.push(Change { before, after: Some(member) });
    }

    fn begin_suspicion(&mut self, now: Duration, member: &Member, by: NameKey) {
        let key = member.key();
        let suspicion = Suspicion::new(now, by, self.members(), self.timings.suspicion);
        self.verdicts.set(key, suspicion.deadline(self.needed));
        self.suspicions.insert(key, suspicion);
        if by == self.own.key() {
            self.stats.suspicions_raised += 1;
            return;
        }
        self.stats.suspicions_heard += 1;
        let chance = CONFIRMERS as f64 / self.lineup.len().max(1) as f64;
        let free = self.probes.has_room() && !self.probes.has(key);
        if free && self.health.score() == 0 && self.rng.random_bool(chance.min(1.0)) {
            self.stats.confirming_probes += 1;
            self.probe(now, key);
        }
    }

    /// Fits what suspicions need to how many could accuse.
    fn count_the_able(&mut self) {
        let needed = needed(self.members() - self.suspicions.len());
        if needed != self.needed {
            self.needed = needed;
            self.set_verdicts();
        }
    }

    /// Sets anew when each suspect is declared down.
    fn set_verdicts(&mut self) {
        for (key, suspicion) in &self.suspicions {
            self.verdicts.set(*key, suspicion.deadline(self.needed));
        }
    }

    /// Says what has become of a member.
    fn report(&mut self, now: Duration, before: Option<&Member>, after: &Member) {
        let (was_up, is_up) = (before.is_some_and(Member::is_up), after.is_up());
        let old = before.map(Member::id).filter(|old| *old != after.id());
        if let Some(old) = old.filter(|old| old.node != after.id().node) {
            self.outputs.push_back(Output::Replaced(old.clone()));
        }
        if was_up != is_up || (old.is_some() && is_up) {
            self.churn.count(now);
            let id = after.id().clone();
            self.outputs.push_back(if is_up { Output::Up(id) } else { Output::Down(id) });
        }
    }

    /// What others say of us. Suspicions and verdicts are ours to refute; what is said of an older life, or of an older
    /// `rejoin` of this one, is settled.
    fn hear_of_ourselves(&mut self, now: Duration, told: &Member, by: NameKey) {
        let id = told.id();
        if id.node.boot > self.own.node.boot {
            self.outputs.push_back(Output::Superseded(id.node.boot));
            return;
        }
        if id.node.boot < self.own.node.boot || id.rejoin != self.own.rejoin || told.state() == State::Alive {
            return;
        }
        match (told.state(), told.incarnation().checked_add(1)) {
            (State::Suspect, _) if told.incarnation() < self.incarnation => return,
            (State::Suspect, Some(higher)) => {
                self.incarnation = higher;
                self.health.worsen();
                self.stats.refuted_own += 1;
            }
            _ => {
                let Some(renewed) = self.own.renew() else { return };
                self.own = renewed.clone();
                self.incarnation = 0;
                self.stats.rejoins += 1;
                self.churn.count(now);
                self.outputs.push_back(Output::Rejoined(renewed));
            }
        }
        self.say_that_we_are_here();
        // Whoever accuses us hears first.
        self.send_to(by, Message::Gossip);
    }

    fn say_that_we_are_here(&mut self) {
        let own = self.own();
        let key = own.key();
        self.rumors.add((key, None), message::member_item(&own, key));
        let before = self.known.set(own.clone());
        self.changes.push(Change { before, after: Some(own) });
    }

    fn take_hint(&mut self, entry: Entry) {
        if self.table.lock().unwrap_or_else(PoisonError::into_inner).hint(entry.clone()) {
            self.hinted = true;
            self.add_hint(&entry);
        }
    }

    fn add_hint(&mut self, entry: &Entry) {
        if let Some(item) = message::entry_item(entry) {
            self.hints.add((NameKey::of(entry.name.as_str()), entry.key.clone()), item);
        }
    }

    /// Everything that is known, for push-pull: who is up and who is down, ourselves among them.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// What is known of a member as it is told to others: how long it has been down goes with it, so that all forget it at
    /// about the same time, whoever heard of it when.
    pub(crate) fn told(&self, now: Duration, member: &Member) -> Told {
        let left = self.expiries.get(member.key()).map(|at| at.saturating_sub(now));
        let age = left.map_or(Duration::ZERO, |left| self.timings.forget_down_after.saturating_sub(left));
        // Rounded up, it grows from hop to hop, and nobody is remembered by being told again and again.
        let down_secs = u32::try_from(age.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        let left = !member.is_up() && self.has_left(member.id());
        Told { member: member.clone(), down_secs, left }
    }

    /// What is known of one name.
    pub(crate) fn member(&self, key: NameKey) -> Option<&Member> {
        self.known.get(key)
    }

    /// What has changed since this was asked last, in order; and whether a hint was written to the table.
    pub(crate) fn take_changes(&mut self) -> (Vec<Change>, bool) {
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.hinted))
    }

    /// Spreads an entry of our own node state, as a hint: push-pull is what makes it certain.
    pub(crate) fn spread(&mut self, now: Duration, entry: &Entry) {
        self.pass_idle_gossip(now);
        self.add_hint(entry);
    }

    /// Says to some members that we are leaving, and falls silent.
    pub(crate) fn leave(&mut self) {
        let own = Member::new(self.own.clone(), self.incarnation, State::Down);
        let key = own.key();
        self.rumors.add((key, None), message::member_item(&own, key));
        self.gossip();
    }

    /// Gossips to some of the others.
    fn gossip(&mut self) {
        let some = self.lineup.pick(FANOUT, |_| true, &mut self.rng);
        some.into_iter().for_each(|key| self.send_to(key, Message::Gossip));
    }

    /// A push-pull was begun.
    pub(crate) fn count_push_pull(&mut self) {
        self.stats.push_pulls += 1;
    }

    /// A push-pull has found a difference.
    pub(crate) fn count_difference(&mut self) {
        self.stats.differences += 1;
    }

    /// When [`Core::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let deadlines = [self.probes.next(), self.next_verdict(), self.expiries.first().map(|(at, _)| at)];
        let regular = [
            (self.lineup.len() > 0, self.next_probe),
            (self.has_news(), self.next_gossip),
            (self.expiries.len() > 0, self.next_announce),
        ];
        let regular = regular.into_iter().filter(|(due, _)| *due).map(|(_, at)| at);
        deadlines.into_iter().flatten().chain(regular).min()
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        match self.poll_timeout() {
            Some(due) if due > now => return,
            Some(due) if now - due > self.timings.probe_timeout => self.stood_still(now - due),
            Some(_) => {}
            None => return self.pass_idle_gossip(now),
        }
        self.health.awake(now);
        self.pass_idle_gossip(now);
        for (asker, number) in self.probes.late_favours(now) {
            self.send_to(asker, Message::Nack(number));
        }
        self.ask_for_help(now);
        self.end_probes(now);
        while self.next_verdict().is_some_and(|at| at <= now)
            && let Some(key) = self.verdicts.pop_due(now)
        {
            self.declare_down(now, key);
        }
        while let Some(key) = self.expiries.pop_due(now) {
            self.forget(key);
        }
        if now >= self.next_probe {
            self.next_probe = now + self.timings.probe_period * self.stretch(now);
            // Who hears none of a few finds out about all of them as fast as it may: there is nobody to share the work.
            let deaf = self.health.is_deaf(now, self.timings.probe_period) && !self.is_cut_off();
            let at_once = if deaf { MAX_PROBES } else { 1 };
            self.probe_next(now, at_once);
        }
        if now >= self.next_gossip {
            self.next_gossip += self.timings.gossip_interval;
            self.gossip();
        }
        if now >= self.next_announce {
            self.next_announce = now + self.timings.announce_to_down_interval;
            self.announce_to_down(FANOUT);
        }
    }

    /// The process was stopped for this long: nobody had the chance to answer.
    fn stood_still(&mut self, by: Duration) {
        self.stats.stalls += 1;
        self.health.stood_still(by);
        self.probes.extend(by);
        self.suspicions.values_mut().for_each(|suspicion| suspicion.extend(by));
        self.set_verdicts();
        self.next_gossip += by;
        self.next_probe += by;
    }

    /// A datagram has arrived. If it was we who were cut off, nobody had the chance to refute.
    fn hear(&mut self, now: Duration) {
        if self.health.was_deaf(self.timings.probe_period) {
            self.reunited = now + REUNION;
        }
        if self.is_cut_off() {
            self.suspicions.values_mut().for_each(|suspicion| suspicion.begin_anew(now));
            self.set_verdicts();
        }
        self.health.heard(now);
    }

    /// Whether we hear none of many others.
    fn is_cut_off(&self) -> bool {
        self.health.is_cut_off(self.timings.probe_period, self.lineup.len())
    }

    /// When the next suspect is declared down.
    fn next_verdict(&self) -> Option<Duration> {
        let (due, _) = self.verdicts.first()?;
        Some(self.health.speaks_at(due, self.timings.probe_period, self.lineup.len()))
    }

    fn stretch(&self, now: Duration) -> u32 {
        self.health.multiplier(now, self.timings.probe_period)
    }

    /// Probes so many of those whose turn it is.
    fn probe_next(&mut self, now: Duration, count: usize) {
        for _ in 0..count.min(self.lineup.len()) {
            if let Some(key) = self.lineup.next(&mut self.rng) {
                self.probe(now, key);
            }
        }
    }

    /// Pings a member and awaits its answer.
    fn probe(&mut self, now: Duration, key: NameKey) {
        let Some(target) = self.known.get(key).map(|member| member.id().clone()) else { return };
        if !self.probes.has_room() {
            return;
        }
        let Timings { probe_timeout, probe_period, .. } = self.timings;
        let stretch = self.stretch(now);
        let number = self.probes.begin(target.clone(), now + probe_timeout * stretch, now + probe_period * stretch);
        self.stats.probes += 1;
        self.send(&target, Message::Ping(number));
    }

    /// Asks others to ping those that have not answered in time. Who is suspected itself would be of little help.
    fn ask_for_help(&mut self, now: Duration) {
        let Self { probes, lineup, suspicions, rng, .. } = self;
        let asked = probes
            .ask(now, |target| lineup.pick(FANOUT, |key| key != target.key() && !suspicions.contains_key(&key), rng));
        for (number, target, helpers) in asked {
            self.stats.indirect_probes += 1;
            let request = Message::PingReq { number, target: target.key(), boot: target.node.boot };
            helpers.into_iter().for_each(|helper| self.send_to(helper, request));
        }
    }

    fn end_probes(&mut self, now: Duration) {
        for Failed { target, helped } in self.probes.end(now) {
            self.stats.failed_probes += 1;
            let is_news = self.accuse(now, &target);
            if !helped {
                self.health.worsen();
            } else if is_news && self.health.score() == 0 {
                // Whoever has just failed may not be the only one: half of the cluster may be cut off.
                self.probe_next(now, 1);
            }
            if self.known.get(target.key()).is_some_and(|known| *known.id() == target && known.is_up()) {
                self.outputs.push_back(Output::Unanswered(target));
            }
        }
    }

    /// Nobody could get an answer from this member. Returns whether saying so adds anything.
    fn accuse(&mut self, now: Duration, target: &Handle) -> bool {
        let (key, own) = (target.key(), self.own.key());
        let Some(known) = self.known.get(key).filter(|known| known.id() == target && known.is_up()) else {
            return false;
        };
        if self.suspicions.get(&key).is_some_and(|suspicion| suspicion.has(own) || suspicion.is_confirmed(self.needed))
        {
            return false;
        }
        let suspect = Member::new(target.clone(), known.incarnation(), State::Suspect);
        self.take(now, suspect, own, true);
        // The suspect hears first: whatever is sent to it begins with that.
        self.send(target, Message::Gossip);
        true
    }

    fn declare_down(&mut self, now: Duration, key: NameKey) {
        if mutated(Mutation::SuspectsStay) {
            return;
        }
        if let Some(suspect) = self.known.get(key).filter(|known| known.state() == State::Suspect) {
            let down = Member::new(suspect.id().clone(), suspect.incarnation(), State::Down);
            self.stats.declared_down += 1;
            self.set(now, down, self.own.key(), true);
        }
    }

    fn forget(&mut self, key: NameKey) {
        self.expiries.remove(key);
        self.rumors.remove_from(&(key, None), |about| about.0 == key);
        if let Some(before) = self.known.remove(key) {
            self.changes.push(Change { before: Some(before), after: None });
        }
    }

    /// Tells some of those that are down that they are, so that they come back if they run: the halves of a partition meet
    /// again, however long it was.
    fn announce_to_down(&mut self, count: usize) {
        let some = self.expiries.keys().sample(&mut self.rng, count);
        some.into_iter().for_each(|key| self.send_to(key, Message::Gossip));
    }

    /// How often an update is piggybacked: SWIM's λ·log n with λ = 3 (section 4.1), at least 6 so that five nodes lose none at
    /// 20 % loss, and at most 16, which is memberlist's for a thousand: there, more copies cost more than they bring.
    fn transmissions(&self) -> u8 {
        let log2 = usize::BITS - self.members().leading_zeros();
        u8::try_from(3 * log2).unwrap_or(u8::MAX).clamp(6, 16)
    }

    /// Whether there is something to gossip to somebody. Who hears none of many tells them little that is true.
    fn has_news(&self) -> bool {
        self.lineup.len() > 0 && !(self.rumors.is_empty() && self.hints.is_empty()) && !self.is_cut_off()
    }

    /// Lets the rounds of gossip pass that would have said nothing.
    fn pass_idle_gossip(&mut self, now: Duration) {
        if self.next_gossip <= now && !self.has_news() {
            let interval = self.timings.gossip_interval;
            let rounds = (now - self.next_gossip).as_nanos() / interval.as_nanos() + 1;
            self.next_gossip += interval.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        }
    }

    /// Sends to a member, if it is known.
    fn send_to(&mut self, key: NameKey, message: Message) {
        if let Some(to) = self.known.get(key).map(|member| member.id().clone()) {
            self.send(&to, message);
        }
    }

    /// Sends a message with whatever news fits beside it. If its receiver is suspected or down, that comes first.
    fn send(&mut self, to: &Handle, message: Message) {
        let own = &self.own;
        let header = Header {
            name: own.node.name.as_str(),
            rejoin: own.rejoin,
            addr: own.addr,
            incarnation: self.incarnation,
            message,
        };
        let mut payload = message::begin(&header);
        let key = to.key();
        if let Some(member) = self.known.get(key).filter(|member| member.id() == to && member.state() != State::Alive) {
            payload.extend_from_slice(&message::member_item(member, own.key()));
        }
        let (room, times) = (MAX_PAYLOAD_BYTES.saturating_sub(payload.len()), self.transmissions());
        self.rumors.take(room, times, |about| about.0 == key, &mut payload);
        let room = MAX_PAYLOAD_BYTES.saturating_sub(payload.len());
        self.hints.take(room, HINT_TRANSMISSIONS, |_| false, &mut payload);
        self.stats.sent += 1;
        self.sends.push_back((to.clone(), payload.into()));
    }

    /// What is to be sealed and sent next.
    pub(crate) fn poll_send(&mut self) -> Option<(Handle, Bytes)> {
        self.sends.pop_front()
    }

    /// What has become of the members and of ourselves.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Checks that the parts agree with each other.
    ///
    /// # Panics
    /// If they do not.
    #[cfg(any(test, feature = "lean"))]
    pub(crate) fn validate(&self) {
        let own = self.known.get(self.own.key());
        assert_eq!(own, Some(&Member::new(self.own.clone(), self.incarnation, State::Alive)));
        let (mut up, mut suspects, mut down) = (0, 0, 0);
        for member in self.known.iter().filter(|member| member.key() != self.own.key()) {
            let key = member.key();
            up += usize::from(member.is_up());
            suspects += usize::from(member.state() == State::Suspect);
            down += usize::from(!member.is_up());
            assert_eq!(self.lineup.has(key), member.is_up(), "{member:?}");
            let deadline = self.suspicions.get(&key).map(|suspicion| suspicion.deadline(self.needed));
            assert_eq!(deadline.is_some(), member.state() == State::Suspect, "{member:?}");
            assert_eq!(self.verdicts.get(key), deadline, "{member:?}");
            assert_eq!(self.expiries.get(key).is_some(), !member.is_up(), "{member:?}");
        }
        assert_eq!((up, suspects, down), (self.lineup.len(), self.suspicions.len(), self.expiries.len()));
        assert_eq!(self.verdicts.len(), suspects);
    }
}
