//! What a node does to know its cluster, as a state machine: the membership core, node state, and when to exchange
//! which of it with whom. Sans-IO: time is handed in as the duration since the node's start.
//!
//! Around the failure detector stand:
//! - **Push-pull** with a random member every few seconds, rarer in large clusters. Gossip alone leaves late joiners ignorant
//!   for minutes (memberlist's push-pull has the same reason). Whose node state gossip did not bring is asked for sooner.
//! - **Greeting seeds for ever** while nobody is up at their address: a seed may be new, or the other half of a cluster
//!   that was split.
//! - **Greeting whoever does not answer**, after each probe of a member that is not down yet. A datagram opens at the boot that it
//!   was sealed for only, and a restarted process need not know who else is there: if many restart at once, they may form a
//!   cluster of their own. Whoever is at the address says who it is.
//! - **Farewells**: a node that leaves tells some members directly and falls silent. From then on it is deaf, or it would
//!   take its own farewell for a mistake and come back.
//!
//! Whoever drives it carries out each [`Output`] and reports the end of each errand (an exchange, a tell, a farewell, a
//! greeting) exactly once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::core::{self, Change, Core, SharedTable};
use super::deadlines::Deadlines;
use super::handle::{Handle, Known};
use super::member::{self, State};
use super::stats::MembershipStats;
use super::view::{Member, Status};
use crate::buckets::{NameKey, Row as _};
use crate::config::Timings;
use crate::exchange::{PushPull, PushPullAnswer, Tell, TellAnswer, Told};
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::state::{Entry, PROFILE_KEY, Profile, Table};

/// How many members are told directly that a node leaves; gossip tells the others.
const FAREWELLS: usize = 16;
/// How many errands may be under way: beyond that, the next tick starts none.
const MAX_ERRANDS: usize = 64;
/// Up to so many members push-pull keeps its interval. Each doubling beyond adds another, so that a cluster of a thousand
/// does not spend more on it than it learns (memberlist has the same).
const PUSH_PULL_FULL_RATE: usize = 32;
/// How many rounds of gossip the node state of a new member may take before it is asked for.
const HEARING_ROUNDS: u32 = 4;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Seal this and send it as a datagram.
    Send(Handle, Bytes),
    /// Exchange everything: ends in [`Agent::handle_answer`] or [`Agent::handle_failed`].
    PushPull { with: Handle, request: PushPull, within: Duration },
    /// Tell a member what it lacks and ask for the rest: ends in [`Agent::handle_told`] or [`Agent::handle_failed`].
    Tell { to: Handle, tell: Tell, within: Duration },
    /// Tell a member that we leave: ends in [`Agent::handle_farewell`], whatever came of it.
    Farewell { to: Handle, tell: Tell, within: Duration },
    /// Say hello to whoever is at this address: ends in [`Agent::handle_greeted`] or [`Agent::handle_failed`].
    Greet { addr: SocketAddr, within: Duration },
    /// Close what is open to this boot.
    Disconnect(NodeId, &'static str),
    /// Others believed us down: this is our identity now.
    Rejoined(Identity),
    /// A newer boot of our name exists: stop.
    Superseded(Boot),
    /// All has been said that a node says when it leaves: stop.
    Left,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Here,
    /// Farewells are under way, and awaited until then at most.
    Leaving {
        farewells: usize,
        until: Duration,
    },
    /// The last datagrams are on their way.
    Silent,
    Gone,
}

/// One node's knowledge of its cluster.
pub(crate) struct Agent {
    core: Core,
    table: SharedTable,
    timings: Timings,
    rng: StdRng,
    phase: Phase,
    /// How many members are up at the address of each seed.
    seeds: BTreeMap<SocketAddr, u32>,
    /// Those that are up whose node state has not been heard, since when.
    unheard: Deadlines,
    /// Of whom a subscriber may not have seen the latest.
    changed: BTreeSet<NodeName>,
    errands: usize,
    next_push_pull: Duration,
    next_announce: Duration,
    joined: bool,
    outputs: VecDeque<Output>,
}

impl Agent {
    /// One that has met `greeted` already, and greets those `seeds` that are not members.
    pub(crate) fn new(
        (core, table, timings, rng): (Core, SharedTable, Timings, StdRng),
        greeted: Vec<Identity>,
        seeds: BTreeSet<SocketAddr>,
    ) -> Self {
        let mut agent = Self {
            core,
            table,
            timings,
            rng,
            phase: Phase::Here,
            // Who was told of others and has met none may be one of a cluster that it cannot reach: it is not the first.
            joined: greeted.is_empty() && seeds.is_empty(),
            seeds: seeds.into_iter().map(|addr| (addr, 0)).collect(),
            unheard: Deadlines::default(),
            changed: BTreeSet::new(),
            errands: 0,
            next_push_pull: Duration::ZERO,
            next_announce: Duration::ZERO,
            outputs: VecDeque::new(),
        };
        agent.next_push_pull = agent.jittered(agent.timings.push_pull_interval);
        let own = agent.table().own_entries();
        for entry in own {
            agent.core.spread(Duration::ZERO, &entry);
        }
        agent.read_table(Duration::ZERO);
        agent.settle(Duration::ZERO);
        for seed in greeted {
            agent.met(Duration::ZERO, seed.into());
        }
        agent.settle(Duration::ZERO);
        agent
    }

    /// Our identity as it is now.
    pub(crate) fn identity(&self) -> &Handle {
        self.core.identity()
    }

    /// Whether all state has been exchanged with a member, or there is none.
    pub(crate) fn joined(&self) -> bool {
        self.joined
    }

    /// Those of whom [`Agent::member`] may say something else than when this was asked last.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.changed)
    }

    /// What a subscriber sees of a member; `None` when it was forgotten.
    pub(crate) fn member(&self, name: &NodeName) -> Option<Member> {
        let known = self.core.member(NameKey::of(name.as_str()))?;
        Some(describe(&self.table(), known))
    }

    /// What membership has decided so far.
    pub(crate) fn stats(&mut self, now: Duration) -> MembershipStats {
        self.core.stats(now)
    }

    /// All who are known.
    #[cfg(feature = "lean")]
    pub(crate) fn names(&self) -> Vec<NodeName> {
        self.core.known().iter().map(|known| known.id().node.name.clone()).collect()
    }

    /// What is known of a member's life, and whether it is up.
    #[cfg(feature = "lean")]
    pub(crate) fn life(&self, name: &NodeName) -> Option<(Handle, State)> {
        self.core.member(NameKey::of(name.as_str())).map(|known| (known.id().clone(), known.state()))
    }

    /// A datagram's payload, sealed by `from`. Returns whether it was a message.
    pub(crate) fn handle_payload(&mut self, now: Duration, from: Boot, payload: &[u8]) -> bool {
        if self.phase != Phase::Here {
            return true;
        }
        let taken = self.core.handle_payload(now, from, payload);
        self.settle(now);
        taken
    }

    /// A member gives all it knows and asks for the same; `None` if we are leaving.
    pub(crate) fn handle_push_pull(&mut self, now: Duration, theirs: &PushPull) -> Option<PushPullAnswer> {
        if self.phase != Phase::Here {
            return None;
        }
        let which = self.core.known().differing(&theirs.members);
        let rows = self.core.known().rows(which);
        let members = rows.map(|member| self.core.told(now, member)).collect();
        let reads = self.table().reads(&theirs.state);
        // Who asks is there.
        let own = theirs.own.clone();
        let from = own.key();
        self.core.handle_known(now, from, vec![Told { member: own, down_secs: 0, left: false }]);
        self.settle(now);
        Some(PushPullAnswer { which, members, reads })
    }

    /// A member tells what we lack, and asks for what it lacks; `None` if we are leaving.
    pub(crate) fn handle_tell(&mut self, now: Duration, from: &NodeName, tell: Tell) -> Option<TellAnswer> {
        if self.phase != Phase::Here {
            return None;
        }
        let entries = self.table().above(&tell.reads);
        self.learn(now, NameKey::of(from.as_str()), tell.members, tell.entries);
        Some(TellAnswer { entries })
    }

    /// Takes what a peer knows.
    fn learn(&mut self, now: Duration, from: NameKey, members: Vec<Told>, entries: Vec<Entry>) {
        self.core.handle_known(now, from, members);
        let news = self.table().apply(entries);
        if news.len() <= core::MAX_NEWS {
            news.iter().for_each(|entry| self.core.spread(now, entry));
        }
        self.read_table(now);
        self.settle(now);
    }

    /// The answer to a push-pull.
    pub(crate) fn handle_answer(&mut self, now: Duration, from: &Handle, answer: PushPullAnswer) {
        self.errands -= 1;
        if self.phase != Phase::Here {
            return;
        }
        let PushPullAnswer { which, members, reads } = answer;
        if which.is_none() && reads.is_none() {
            self.joined = true;
            return;
        }
        self.core.count_difference();
        // What is different there and did not come from there is told.
        let theirs: BTreeMap<NameKey, &member::Member> = members.iter().map(|t| (t.member.key(), &t.member)).collect();
        let known = self.core.known().rows(which).filter(|known| theirs.get(&known.key()) != Some(known));
        let lacking: Vec<Told> = known.map(|member| self.core.told(now, member)).collect();
        self.learn(now, from.key(), members, Vec::new());
        let tell = {
            let table = self.table();
            let wanted = if table.lacks(&reads) { table.reads_like(&reads) } else { Default::default() };
            Tell { members: lacking, entries: table.above(&reads), reads: wanted }
        };
        self.joined |= tell.reads.is_none();
        if !(tell.members.is_empty() && tell.entries.is_empty() && tell.reads.is_none()) {
            self.tell(from.clone(), tell);
        }
        self.settle(now);
    }

    /// Whoever is at an address has told us who it is, so it is alive, whatever was gossiped of it.
    pub(crate) fn handle_greeted(&mut self, now: Duration, identity: Identity) {
        self.errands -= 1;
        if self.phase == Phase::Here {
            self.met(now, identity.into());
            self.settle(now);
        }
    }

    /// A tell has arrived, and has brought what we lacked.
    pub(crate) fn handle_told(&mut self, now: Duration, from: &Handle, answer: TellAnswer) {
        self.errands -= 1;
        if self.phase == Phase::Here {
            self.joined = true;
            self.learn(now, from.key(), Vec::new(), answer.entries);
        }
    }

    /// An exchange, a tell or a greeting came to nothing, perhaps because a newer boot of our name is known there.
    pub(crate) fn handle_failed(&mut self, newer: Option<Boot>) {
        self.errands -= 1;
        if let Some(by) = newer
            && self.phase == Phase::Here
        {
            self.outputs.push_back(Output::Superseded(by));
        }
    }

    /// A farewell has arrived, or has not.
    pub(crate) fn handle_farewell(&mut self) {
        self.errands -= 1;
        if let Phase::Leaving { farewells, .. } = &mut self.phase {
            *farewells -= 1;
            if *farewells == 0 {
                self.fall_silent();
            }
        }
    }

    /// Our own node state has a new entry.
    pub(crate) fn handle_spread(&mut self, now: Duration, entry: &Entry) {
        if self.phase == Phase::Here {
            self.core.spread(now, entry);
            self.read_table(now);
            self.settle(now);
        }
    }

    /// These are the seeds from now on. Those at whose address nobody is up are greeted soon if they are new.
    pub(crate) fn handle_seeds(&mut self, now: Duration, addrs: BTreeSet<SocketAddr>) {
        if self.phase != Phase::Here {
            return;
        }
        self.settle(now);
        let mut seeds: BTreeMap<SocketAddr, u32> = addrs.into_iter().map(|addr| (addr, 0)).collect();
        let (known, own) = (self.core.known(), self.identity());
        for member in others_up(known, own).chain([own]) {
            if let Some(up) = seeds.get_mut(&member.addr) {
                *up += 1;
            }
        }
        if seeds.iter().any(|(addr, up)| *up == 0 && !self.seeds.contains_key(addr)) {
            self.next_announce = now;
        }
        self.seeds = seeds;
    }

    /// Tells some members that we go, and when they know it, or `within` has passed, all the others by gossip.
    pub(crate) fn handle_leave(&mut self, now: Duration, within: Duration) {
        if self.phase != Phase::Here {
            return;
        }
        let own = self.identity().clone();
        let told = others_up(self.core.known(), &own).cloned().sample(&mut self.rng, FAREWELLS);
        let farewell = vec![Told { member: member::Member::down(own), down_secs: 0, left: true }];
        self.phase = Phase::Leaving { farewells: told.len(), until: now + within };
        self.errands += told.len();
        for to in told {
            let entries = self.table().own_entries();
            let tell = Tell { members: farewell.clone(), entries, ..Tell::default() };
            self.outputs.push_back(Output::Farewell { to, tell, within });
        }
        if matches!(self.phase, Phase::Leaving { farewells: 0, .. }) {
            self.fall_silent();
        }
    }

    /// When [`Agent::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Here => {
                let own = self.next_push_pull.min(self.next_announce);
                Some(self.core.poll_timeout().map_or(own, |core| core.min(own)))
            }
            Phase::Leaving { until, .. } => Some(until),
            Phase::Silent | Phase::Gone => None,
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        match self.phase {
            Phase::Here => {}
            // Who was not told in time finds out by probing.
            Phase::Leaving { until, .. } if now >= until => return self.fall_silent(),
            Phase::Leaving { .. } | Phase::Silent | Phase::Gone => return,
        }
        self.core.handle_timeout(now);
        self.settle(now);
        if now >= self.next_push_pull {
            let interval = self.timings.push_pull_interval * push_pull_scale(self.core.members());
            self.next_push_pull = now + self.jittered(interval);
            // If there was no room to tell us of a write of our own, it is found here.
            self.read_table(now);
            self.push_pull(now);
        }
        if now >= self.next_announce {
            let interval = self.timings.announce_interval;
            self.next_announce = now + self.jittered(interval);
            self.greet_absent_seeds();
        }
        self.settle(now);
    }

    /// What is to be done next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some((to, payload)) = self.core.poll_send() {
            return Some(Output::Send(to, payload));
        }
        (self.phase == Phase::Silent).then(|| {
            self.phase = Phase::Gone;
            Output::Left
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A time near `interval`, so that nodes that started together do not stay in step.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random_range(0.75..1.25))
    }

    fn met(&mut self, now: Duration, identity: Handle) {
        let known = self.core.member(identity.key());
        // Whoever is up in this very life has nothing to hear of us that gossip does not tell it.
        if known.is_some_and(|known| *known.id() == identity && known.is_up()) {
            return;
        }
        self.core.handle_met(now, identity.clone());
        // Under an address that another name had before it may be ourselves.
        if identity.key() != self.identity().key() {
            self.exchange(identity);
        }
    }

    /// Exchanges everything with one random member; every other time with one that was not heard in time, if there is such
    /// a one.
    fn push_pull(&mut self, now: Duration) {
        let patience = self.timings.gossip_interval * HEARING_ROUNDS;
        let due = |since: Duration| now.saturating_sub(since) >= patience;
        let late = self.unheard.first().filter(|(since, _)| due(*since)).map(|(_, key)| key);
        let late = late.filter(|_| self.rng.random_bool(0.5));
        let late = late.and_then(|key| self.core.member(key)).map(|member| member.id().clone());
        if let Some(member) = late.or_else(|| self.core.any_other()) {
            self.exchange(member);
        }
    }

    fn exchange(&mut self, with: Handle) {
        if self.errands < MAX_ERRANDS {
            self.errands += 1;
            self.core.count_push_pull();
            let request =
                PushPull { own: self.core.own(), members: self.core.known().digests(), state: self.table().digests() };
            let within = self.timings.probe_period * 4;
            self.outputs.push_back(Output::PushPull { with, request, within });
        }
    }

    fn tell(&mut self, to: Handle, tell: Tell) {
        if self.errands < MAX_ERRANDS {
            self.errands += 1;
            let within = self.timings.probe_period * 4;
            self.outputs.push_back(Output::Tell { to, tell, within });
        }
    }

    fn greet_absent_seeds(&mut self) {
        let absent = self.seeds.iter().filter(|(_, up)| **up == 0).map(|(addr, _)| *addr);
        let some: Vec<SocketAddr> = absent.take(MAX_ERRANDS.saturating_sub(self.errands)).collect();
        some.into_iter().for_each(|addr| self.greet(addr, self.timings.announce_interval));
    }

    /// Asks who is where a member does not answer. When many do not, half of the errands are left for those that do.
    fn greet_unanswered(&mut self, addr: SocketAddr) {
        if self.errands < MAX_ERRANDS / 2 {
            self.greet(addr, self.timings.probe_period * 4);
        }
    }

    fn greet(&mut self, addr: SocketAddr, within: Duration) {
        self.errands += 1;
        self.outputs.push_back(Output::Greet { addr, within });
    }

    fn fall_silent(&mut self) {
        self.core.leave();
        self.phase = Phase::Silent;
    }

    /// Follows what the core has changed, and what hints have.
    fn settle(&mut self, now: Duration) {
        let (changes, hinted) = self.core.take_changes();
        for change in changes {
            self.follow(now, &change);
        }
        if hinted {
            self.read_table(now);
        }
        while let Some(output) = self.core.poll_output() {
            self.pass_on(output);
        }
        self.push_pull_soon(now);
    }

    /// Follows what the table has changed.
    fn read_table(&mut self, now: Duration) {
        let written = self.table().take_changed();
        for name in written {
            match self.core.member(NameKey::of(name.as_str())).cloned() {
                Some(known) => {
                    self.look_for_state(now, &known);
                    self.changed.insert(name);
                }
                // Hearsay of one that nobody told us of, or that was forgotten.
                None => self.table().forget(&name),
            }
        }
    }

    fn follow(&mut self, now: Duration, Change { before, after }: &Change) {
        let Some(latest) = after.as_ref().or(before.as_ref()) else { return };
        let name = &latest.id().node.name;
        for (member, comes) in [(before, false), (after, true)] {
            let Some(member) = member.as_ref().filter(|member| member.is_up()) else { continue };
            if let Some(up) = self.seeds.get_mut(&member.id().addr) {
                *up = if comes { *up + 1 } else { *up - 1 };
            }
        }
        match after {
            Some(member) => self.look_for_state(now, member),
            None => {
                self.unheard.remove(latest.key());
                self.table().forget(name);
            }
        }
        let seen = |member: &Option<member::Member>| member.as_ref().map(|m| (m.id().clone(), m.state()));
        if seen(before) != seen(after) {
            self.changed.insert(name.clone());
        }
    }

    fn look_for_state(&mut self, now: Duration, member: &member::Member) {
        let asked = member.is_up() && member.key() != self.identity().key();
        if asked && !self.table().has(member.key(), member.id().node.boot, PROFILE_KEY) {
            if self.unheard.get(member.key()).is_none() {
                self.unheard.set(member.key(), now);
            }
        } else {
            self.unheard.remove(member.key());
        }
    }

    fn pass_on(&mut self, output: core::Output) {
        match output {
            core::Output::Up(id) => {
                tracing::info!(member = %id.node, addr = %id.addr, rejoin = id.rejoin, "member up");
            }
            core::Output::Down(id) => {
                tracing::info!(member = %id.node, "member down");
                self.outputs.push_back(Output::Disconnect(id.node.clone(), "it is down"));
            }
            core::Output::Replaced(id) => {
                tracing::info!(member = %id.node, "member superseded by a newer boot");
                self.outputs.push_back(Output::Disconnect(id.node.clone(), "a newer process has its name"));
            }
            core::Output::Rejoined(id) => {
                tracing::info!(rejoin = id.rejoin, "others believed this node down: it is back");
                self.outputs.push_back(Output::Rejoined((*id).clone()));
            }
            core::Output::Superseded(by) => self.outputs.push_back(Output::Superseded(by)),
            core::Output::Unanswered(id) => self.greet_unanswered(id.addr),
        }
    }

    /// Who has not met anybody yet asks again soon; so does who misses the node state of a member that gossip should have
    /// brought by now.
    fn push_pull_soon(&mut self, now: Duration) {
        let soon = self.timings.gossip_interval * 2;
        let patience = self.timings.gossip_interval * HEARING_ROUNDS;
        let missed = self.unheard.first().map(|(since, _)| (since + patience).max(now + soon));
        let alone = (!self.joined && self.core.members() > 1).then_some(now + soon);
        let due = missed.into_iter().chain(alone).min().unwrap_or(Duration::MAX);
        self.next_push_pull = self.next_push_pull.min(due);
    }

    /// Checks what is counted against what it counts.
    ///
    /// # Panics
    /// If something is not as it should be.
    #[cfg(feature = "lean")]
    pub(crate) fn validate(&self) {
        self.core.validate();
        let (known, own) = (self.core.known(), self.identity());
        let up: Vec<Handle> = others_up(known, own).cloned().collect();
        for (addr, count) in &self.seeds {
            let there = up.iter().chain([own]).filter(|member| member.addr == *addr).count();
            assert_eq!(*count as usize, there, "{own:?} has miscounted who is up at {addr}");
        }
        for member in &up {
            let heard = self.table().value(&member.node, PROFILE_KEY).is_some();
            assert_eq!(
                heard,
                self.unheard.get(member.key()).is_none(),
                "{own:?} mistakes what it has heard of {member:?}"
            );
        }
    }
}

fn others_up<'a>(known: &'a Known, own: &Handle) -> impl Iterator<Item = &'a Handle> {
    let own = own.key();
    known.iter().filter(move |member| member.is_up() && member.key() != own).map(member::Member::id)
}

fn describe(table: &Table, known: &member::Member) -> Member {
    let id: &NodeId = &known.id().node;
    let profile: Option<Profile> = table.value(id, PROFILE_KEY).and_then(|bytes| postcard::from_bytes(bytes).ok());
    let left = profile.as_ref().is_some_and(|profile| profile.left);
    let status = match known.state() {
        State::Alive => Status::Alive,
        State::Suspect => Status::Suspect,
        State::Down if left => Status::Left,
        State::Down => Status::Down,
    };
    Member {
        id: id.clone(),
        addr: known.id().addr,
        status,
        rejoin: known.id().rejoin,
        profile,
        addresses: table.addresses(id),
        load: table.load(id),
        speaks: table.speaks(id),
        state: table.application_entries(id),
    }
}

/// How many times rarer push-pull is among so many.
fn push_pull_scale(members: usize) -> u32 {
    members.div_ceil(PUSH_PULL_FULL_RATE).next_power_of_two().trailing_zeros() + 1
}
