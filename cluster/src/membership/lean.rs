//! What a node knows of its cluster, without a node around it: for simulators of many nodes in one process.
//!
//! **Unstable**: it is exported under the feature `lean` for this project's own simulator, and changes whenever the
//! inside of membership does. Time is handed in as the duration since the node's start. Whoever drives an [`Agent`]
//! carries out each [`Output`] and reports the end of each errand exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use super::agent;
use super::core::Core;
use super::handle::Handle;
use super::member::{self, State};
use super::stats::MembershipStats;
use super::view::Member;
use crate::config::Timings;
use crate::doorman;
use crate::exchange::{PushPull, PushPullAnswer, Tell, TellAnswer, Told};
use crate::hello::Refusal;
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::secure::envelope::OVERHEAD_BYTES;
use crate::state::{PROFILE_KEY, Profile, Table};

/// Whom to reach: an [`Identity`] that is cheap to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(Handle);

impl Deref for Peer {
    type Target = Identity;
    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl From<Identity> for Peer {
    fn from(identity: Identity) -> Self {
        Self(identity.into())
    }
}

/// The first message of a push-pull.
#[derive(Debug)]
pub struct Request(PushPull);

/// The second.
#[derive(Debug)]
pub struct Answer(PushPullAnswer);

/// What a member is told, after a push-pull or as a farewell.
#[derive(Debug)]
pub struct News(Tell);

/// What it answers.
#[derive(Debug)]
pub struct Rest(TellAnswer);

fn encoded_bytes(value: &impl Serialize) -> usize {
    // Nothing in these messages fails to encode.
    postcard::experimental::serialized_size(value).unwrap_or(0)
}

impl Request {
    /// How long it is on the wire.
    #[must_use]
    pub fn bytes(&self) -> usize {
        encoded_bytes(&self.0)
    }
}

impl Answer {
    /// How long it is on the wire.
    #[must_use]
    pub fn bytes(&self) -> usize {
        encoded_bytes(&self.0)
    }
}

impl News {
    fn of(member: member::Member) -> Self {
        Self(Tell { members: vec![Told { member, down_secs: 0, left: false }], ..Tell::default() })
    }

    /// Says that a member is down.
    #[must_use]
    pub fn down(who: Identity) -> Self {
        Self::of(member::Member::down(who.into()))
    }

    /// Says that a member is suspected at this incarnation.
    #[must_use]
    pub fn suspect(who: Identity, incarnation: u32) -> Self {
        Self::of(member::Member::new(who.into(), incarnation, State::Suspect))
    }

    /// Says that a member is up.
    #[must_use]
    pub fn up(who: Identity) -> Self {
        Self::of(member::Member::alive(who.into()))
    }

    /// How long it is on the wire.
    #[must_use]
    pub fn bytes(&self) -> usize {
        encoded_bytes(&self.0)
    }
}

impl Rest {
    /// How long it is on the wire.
    #[must_use]
    pub fn bytes(&self) -> usize {
        encoded_bytes(&self.0)
    }
}

/// What is to be done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: Peer,
        /// What is in it.
        payload: Payload,
    },
    /// Exchange everything: ends in [`Agent::handle_answer`] or [`Agent::handle_failed`].
    PushPull {
        /// With whom.
        with: Peer,
        /// What to send.
        request: Request,
        /// How long to wait.
        within: Duration,
    },
    /// Tell a member something: ends in [`Agent::handle_told`] or [`Agent::handle_failed`].
    Tell {
        /// Whom.
        to: Peer,
        /// What.
        news: News,
        /// How long to wait.
        within: Duration,
    },
    /// Tell a member that we leave: ends in [`Agent::handle_farewell`], whatever came of it.
    Farewell {
        /// Whom.
        to: Peer,
        /// What.
        news: News,
        /// How long to wait.
        within: Duration,
    },
    /// Ask who is at an address: ends in [`Agent::handle_greeted`] or [`Agent::handle_failed`].
    Greet {
        /// Where.
        addr: SocketAddr,
        /// How long to wait.
        within: Duration,
    },
    /// Others believed it down, and it came back.
    Rejoined,
    /// A newer boot of its name exists: it stops.
    Superseded(Boot),
    /// It has said its farewells: it stops.
    Left,
}

/// What is in a datagram. Its sender is named beside it, as its seal would.
#[derive(Clone)]
pub struct Payload(Bytes);

impl Payload {
    /// How long its datagram is, with its envelope.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len() + OVERHEAD_BYTES
    }
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Why a node does not let another in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It knows a newer boot of the caller's name.
    NameTaken(Boot),
    /// Another node was expected here, or it is leaving.
    Other,
}

/// One node's knowledge of its cluster.
pub struct Agent {
    agent: agent::Agent,
    table: Arc<Mutex<Table>>,
    profile: Profile,
    leaving: bool,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agent").field(self.agent.identity()).finish()
    }
}

impl Agent {
    /// A node under this identity that has met `met`, and greets those of the `seeds` that are not members.
    ///
    /// # Panics
    /// If the profile is too long for node state.
    #[must_use]
    pub fn new(
        own: Identity,
        timings: &Timings,
        profile: Profile,
        seed: u64,
        met: Vec<Identity>,
        seeds: BTreeSet<SocketAddr>,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut table = Table::new(own.node.clone());
        let bytes = postcard::to_allocvec(&profile).expect("a profile encodes");
        table.set(PROFILE_KEY, bytes).expect("a profile that the builder allows is short enough");
        let table = Arc::new(Mutex::new(table));
        let core = Core::new(own, timings, StdRng::from_rng(&mut rng), table.clone());
        let agent = agent::Agent::new((core, table.clone(), timings.clone(), rng), met, seeds);
        Self { agent, table, profile, leaving: false }
    }

    /// Its identity as it is now.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.agent.identity()
    }

    /// The same, to be kept.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer(self.agent.identity().clone())
    }

    /// Whether it has exchanged all state with a member, or knows that it is the first.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.agent.joined()
    }

    /// Those of whom [`Agent::member`] may say something else than when this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<NodeName> {
        self.agent.take_changed()
    }

    /// What a subscriber sees of a member; `None` if it is not known or was forgotten.
    #[must_use]
    pub fn member(&self, name: &NodeName) -> Option<Member> {
        self.agent.member(name)
    }

    /// What a subscriber sees of all members, by name.
    #[must_use]
    pub fn members(&self) -> BTreeMap<NodeName, Member> {
        let names = self.agent.names().into_iter();
        names.filter_map(|name| self.agent.member(&name).map(|member| (name, member))).collect()
    }

    /// Whether it lets a caller in, as the door of a node decides it: then the generation that it knows of the caller's
    /// name.
    ///
    /// # Errors
    /// [`Refused`], if it does not.
    pub fn admit(&self, caller: &NodeName, boot: Option<Boot>, expects: Option<&NodeId>) -> Result<u64, Refused> {
        if self.leaving {
            return Err(Refused::Other);
        }
        let newest = self.agent.life(caller).map(|(known, _)| known.node.boot);
        doorman::admit(&self.identity().node, expects, boot, newest).map_err(|refusal| match refusal {
            Refusal::NameTaken { by } => Refused::NameTaken(by),
            _ => Refused::Other,
        })
    }

    /// A datagram from this boot. Returns whether it was a message.
    pub fn handle_payload(&mut self, now: Duration, from: Boot, payload: &[u8]) -> bool {
        self.agent.handle_payload(now, from, payload)
    }

    /// A member gives all that it knows and asks for the same; `None` if this one is leaving.
    pub fn handle_push_pull(&mut self, now: Duration, request: &Request) -> Option<Answer> {
        self.agent.handle_push_pull(now, &request.0).map(Answer)
    }

    /// A member tells something, and gets what it asks for; `None` if this one is leaving.
    pub fn handle_tell(&mut self, now: Duration, from: &NodeName, news: News) -> Option<Rest> {
        self.agent.handle_tell(now, from, news.0).map(Rest)
    }

    /// The answer to a push-pull.
    pub fn handle_answer(&mut self, now: Duration, from: &Peer, answer: Answer) {
        self.agent.handle_answer(now, &from.0, answer.0);
    }

    /// The answer to a greeting.
    pub fn handle_greeted(&mut self, now: Duration, identity: Identity) {
        self.agent.handle_greeted(now, identity);
    }

    /// A tell has arrived, and this came back.
    pub fn handle_told(&mut self, now: Duration, from: &Peer, rest: Rest) {
        self.agent.handle_told(now, &from.0, rest.0);
    }

    /// What its membership has decided so far.
    pub fn stats(&mut self, now: Duration) -> MembershipStats {
        self.agent.stats(now)
    }

    /// An exchange, a tell or a greeting has failed; it was refused where a newer boot of the name is known.
    pub fn handle_failed(&mut self, newer: Option<Boot>) {
        self.agent.handle_failed(newer);
    }

    /// A farewell has ended, one way or the other.
    pub fn handle_farewell(&mut self) {
        self.agent.handle_farewell();
    }

    /// Says something else of itself from now on.
    ///
    /// # Panics
    /// If the profile is too long for node state.
    pub fn set_profile(&mut self, now: Duration, profile: Profile) {
        let bytes = postcard::to_allocvec(&profile).expect("a profile encodes");
        self.profile = profile;
        let entry = self.table.lock().unwrap_or_else(PoisonError::into_inner).set(PROFILE_KEY, bytes);
        if let Some(entry) = entry.expect("a profile that the builder allows is short enough") {
            self.agent.handle_spread(now, &entry);
        }
    }

    /// Leaves: ends in [`Output::Left`].
    pub fn handle_leave(&mut self, now: Duration, within: Duration) {
        self.set_profile(now, Profile { draining: true, left: true, ..self.profile.clone() });
        self.agent.handle_leave(now, within);
    }

    /// When [`Agent::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.agent.poll_timeout()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.agent.handle_timeout(now);
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            let output = match self.agent.poll_output()? {
                agent::Output::Send(to, payload) => Output::Send { to: Peer(to), payload: Payload(payload) },
                agent::Output::PushPull { with, request, within } => {
                    Output::PushPull { with: Peer(with), request: Request(request), within }
                }
                agent::Output::Tell { to, tell, within } => Output::Tell { to: Peer(to), news: News(tell), within },
                agent::Output::Farewell { to, tell, within } => {
                    Output::Farewell { to: Peer(to), news: News(tell), within }
                }
                agent::Output::Greet { addr, within } => Output::Greet { addr, within },
                // There are no connections.
                agent::Output::Disconnect(..) => continue,
                agent::Output::Rejoined(_) => Output::Rejoined,
                agent::Output::Superseded(by) => Output::Superseded(by),
                agent::Output::Left => {
                    self.leaving = true;
                    Output::Left
                }
            };
            return Some(output);
        }
    }

    /// Checks that what it has counted and followed is right.
    ///
    /// # Panics
    /// If it is not.
    pub fn validate(&self) {
        self.agent.validate();
    }
}
