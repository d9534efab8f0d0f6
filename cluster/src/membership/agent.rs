//! What a node does to know its cluster, as a state machine: the membership core, node state, and when to exchange
//! which of it with whom. Sans-IO: time is handed in as the duration since the node's start.
//!
//! What foca lacks and a cluster needs is added here:
//! - **Push-pull** with a random member every few seconds, and soon with one whose node state is not known yet. Gossip
//!   alone leaves late joiners ignorant for minutes (memberlist's push-pull has the same reason).
//! - **Greeting seeds for ever** while nobody is up at their address: a seed may be new, or the other half of a cluster
//!   that was split.
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
use foca::{Member as FocaMember, State};
use rand::rngs::StdRng;
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::codec::Change;
use super::core::{self, Core, SharedTable};
use super::handle::{Handle, Known};
use super::view::{Member, Status};
use crate::buckets::{NameKey, Row as _};
use crate::config::Timings;
use crate::exchange::{PushPull, PushPullAnswer, Tell};
use crate::identity::{Boot, Identity, NodeId, NodeName};
#[cfg(feature = "lean")]
use crate::state::Digest;
use crate::state::{Entry, PROFILE_KEY, Profile, Table};

/// How many members are told directly that a node leaves; gossip tells the others.
const FAREWELLS: usize = 16;
/// How many errands may be under way: beyond that, the next tick starts none.
const MAX_ERRANDS: usize = 64;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Seal this and send it as a datagram.
    Send(Handle, Bytes),
    /// Exchange everything: ends in [`Agent::handle_answer`] or [`Agent::handle_failed`].
    PushPull { with: Handle, request: PushPull, within: Duration },
    /// Tell a member what it lacks: ends in [`Agent::handle_told`] or [`Agent::handle_failed`].
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
    /// How many others are up.
    up: usize,
    /// Those of them whose node state has not been heard.
    unheard: BTreeSet<NameKey>,
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
            up: 0,
            unheard: BTreeSet::new(),
            changed: BTreeSet::new(),
            errands: 0,
            next_push_pull: Duration::ZERO,
            next_announce: Duration::ZERO,
            outputs: VecDeque::new(),
        };
        agent.next_push_pull = agent.jittered(agent.timings.push_pull_interval);
        agent.read_table();
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
        Some(describe(&self.table(), &known))
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
        let (entries, read) = {
            let table = self.table();
            (table.above(&theirs.read), table.digest().clone())
        };
        self.core.handle_known(now, &theirs.members);
        self.settle(now);
        Some(PushPullAnswer { members: self.core.known(), entries, read })
    }

    /// A member tells what we lack. Returns whether we listened: not if we are leaving.
    pub(crate) fn handle_tell(&mut self, now: Duration, tell: Tell) -> bool {
        if self.phase != Phase::Here {
            return false;
        }
        self.table().apply(tell.entries);
        self.core.handle_members(now, tell.members);
        self.read_table();
        self.settle(now);
        true
    }

    /// The answer to a push-pull.
    pub(crate) fn handle_answer(&mut self, now: Duration, from: &Handle, answer: PushPullAnswer) {
        self.errands -= 1;
        if self.phase != Phase::Here {
            return;
        }
        self.core.handle_known(now, &answer.members);
        let lacking = {
            let mut table = self.table();
            table.apply(answer.entries);
            table.above(&answer.read)
        };
        if !lacking.is_empty() {
            self.tell(from.clone(), Tell { members: Vec::new(), entries: lacking });
        }
        self.joined = true;
        self.read_table();
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

    /// A tell has arrived.
    pub(crate) fn handle_told(&mut self) {
        self.errands -= 1;
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
    pub(crate) fn handle_farewell(&mut self, now: Duration) {
        self.errands -= 1;
        if let Phase::Leaving { farewells, .. } = &mut self.phase {
            *farewells -= 1;
            if *farewells == 0 {
                self.fall_silent(now);
            }
        }
    }

    /// Our own node state has a new entry.
    pub(crate) fn handle_spread(&mut self, now: Duration, entry: &Entry) {
        if self.phase == Phase::Here {
            self.core.spread(now, entry);
            self.read_table();
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
        for member in others_up(&known, own).chain([own]) {
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
        let (known, own) = (self.core.known(), self.identity().clone());
        let told = others_up(&known, &own).cloned().sample(&mut self.rng, FAREWELLS);
        let farewell = vec![FocaMember::down(own)];
        self.phase = Phase::Leaving { farewells: told.len(), until: now + within };
        self.errands += told.len();
        for to in told {
            let tell = Tell { members: farewell.clone(), entries: self.table().own_entries() };
            self.outputs.push_back(Output::Farewell { to, tell, within });
        }
        if matches!(self.phase, Phase::Leaving { farewells: 0, .. }) {
            self.fall_silent(now);
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
            Phase::Leaving { until, .. } if now >= until => return self.fall_silent(now),
            Phase::Leaving { .. } | Phase::Silent | Phase::Gone => return,
        }
        self.core.handle_timeout(now);
        self.settle(now);
        if now >= self.next_push_pull {
            let interval = self.timings.push_pull_interval;
            self.next_push_pull = now + self.jittered(interval);
            // If there was no room to tell us of a write of our own, it is found here.
            self.read_table();
            self.push_pull();
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
        self.core.handle_members(now, vec![FocaMember::alive(identity.clone())]);
        self.exchange(identity);
    }

    /// Exchanges everything with one random member; with one that was not heard yet if there is such a one.
    fn push_pull(&mut self) {
        let known = self.core.known();
        let unheard = self.unheard.iter().choose(&mut self.rng).and_then(|key| known.get(*key));
        let chosen = unheard.map(|member| member.id().clone()).or_else(|| {
            // The number of those that are up is known: one draw is enough.
            let at = (self.up > 0).then(|| self.rng.random_range(0..self.up))?;
            others_up(&known, self.core.identity()).nth(at).cloned()
        });
        if let Some(member) = chosen {
            self.exchange(member);
        }
    }

    fn exchange(&mut self, with: Handle) {
        if self.errands < MAX_ERRANDS {
            self.errands += 1;
            let request = PushPull { members: self.core.known(), read: self.table().digest().clone() };
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
        let room = MAX_ERRANDS.saturating_sub(self.errands);
        let within = self.timings.announce_interval;
        let before = self.outputs.len();
        self.outputs.extend(absent.take(room).map(|addr| Output::Greet { addr, within }));
        self.errands += self.outputs.len() - before;
    }

    fn fall_silent(&mut self, now: Duration) {
        self.core.leave(now);
        self.phase = Phase::Silent;
    }

    /// Follows what the core has changed, and what hints have.
    fn settle(&mut self, now: Duration) {
        let (changes, hinted) = self.core.take_changes();
        for change in changes {
            self.follow(&change);
        }
        if hinted {
            self.read_table();
        }
        while let Some(output) = self.core.poll_output() {
            self.pass_on(now, output);
        }
        if !self.unheard.is_empty() {
            self.push_pull_soon(now);
        }
    }

    /// Follows what the table has changed.
    fn read_table(&mut self) {
        let written = self.table().take_changed();
        for name in written {
            match self.core.member(NameKey::of(name.as_str())) {
                Some(known) => {
                    self.look_for_state(&known);
                    self.changed.insert(name);
                }
                // Hearsay of one that nobody told us of, or that was forgotten.
                None => self.table().forget(&name),
            }
        }
    }

    fn follow(&mut self, Change { before, after }: &Change) {
        let Some(latest) = after.as_ref().or(before.as_ref()) else { return };
        let (key, name) = (latest.key(), &latest.id().node.name);
        let own = key == self.identity().key();
        for (member, comes) in [(before, false), (after, true)] {
            let Some(member) = member.as_ref().filter(|member| member.state() != State::Down) else { continue };
            if let Some(up) = self.seeds.get_mut(&member.id().addr) {
                *up = if comes { *up + 1 } else { *up - 1 };
            }
            if !own {
                self.up = if comes { self.up + 1 } else { self.up - 1 };
            }
        }
        match after {
            Some(member) => self.look_for_state(member),
            None => {
                self.unheard.remove(&key);
                self.table().forget(name);
            }
        }
        let seen = |member: &Option<FocaMember<Handle>>| member.as_ref().map(|m| (m.id().clone(), m.state()));
        if seen(before) != seen(after) {
            self.changed.insert(name.clone());
        }
    }

    fn look_for_state(&mut self, member: &FocaMember<Handle>) {
        let asked = member.state() != State::Down && member.key() != self.identity().key();
        if asked && self.table().value(&member.id().node, PROFILE_KEY).is_none() {
            self.unheard.insert(member.key());
        } else {
            self.unheard.remove(&member.key());
        }
    }

    fn pass_on(&mut self, now: Duration, output: core::Output) {
        match output {
            core::Output::Up(id) => {
                tracing::info!(member = %id.node, addr = %id.addr, rejoin = id.rejoin, "member up");
                // Its profile may have come with its announcement; if not, ask soon.
                self.push_pull_soon(now);
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
        }
    }

    fn push_pull_soon(&mut self, now: Duration) {
        let soon = now + self.timings.gossip_interval * 2;
        self.next_push_pull = self.next_push_pull.min(soon);
    }

    /// Takes over the memory of what a peer in the same process knows as we do.
    #[cfg(feature = "lean")]
    pub(crate) fn share(&mut self, members: &Known, read: &Digest) {
        self.core.share(members);
        self.table().share(read);
    }

    /// Checks what is counted against what it counts.
    ///
    /// # Panics
    /// If something is not as it should be.
    #[cfg(feature = "lean")]
    pub(crate) fn validate(&self) {
        self.core.validate();
        let (known, own) = (self.core.known(), self.identity());
        let up: Vec<Handle> = others_up(&known, own).cloned().collect();
        assert_eq!(self.up, up.len(), "{own:?} has miscounted");
        for (addr, count) in &self.seeds {
            let there = up.iter().chain([own]).filter(|member| member.addr == *addr).count();
            assert_eq!(*count as usize, there, "{own:?} has miscounted who is up at {addr}");
        }
        for member in &up {
            let heard = self.table().value(&member.node, PROFILE_KEY).is_some();
            assert_eq!(
                heard,
                !self.unheard.contains(&member.key()),
                "{own:?} mistakes what it has heard of {member:?}"
            );
        }
    }
}

fn others_up<'a>(known: &'a Known, own: &Handle) -> impl Iterator<Item = &'a Handle> {
    let own = own.key();
    known.iter().filter(move |member| member.state() != State::Down && member.key() != own).map(FocaMember::id)
}

fn describe(table: &Table, known: &FocaMember<Handle>) -> Member {
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
        state: table.application_entries(id),
    }
}
