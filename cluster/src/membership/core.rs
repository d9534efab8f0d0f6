//! The membership state machine: foca, its timers, and what it lacks. Sans-IO: time is handed in as the duration since
//! the node's start, randomness as a generator, and the driver carries out what [`Core::poll_output`] returns.
//!
//! Deviations from plain foca 2.0.0:
//! - A `ChangeSuspectToDown` timer fires only while its member is still suspect at that incarnation. foca sends
//!   `TurnUndead` even to a member that has refuted the suspicion, which then renews for nothing.
//! - The number of times that an update is sent grows with the logarithm of the cluster's size, as SWIM wants it
//!   (section 4.1), and is set anew as members come and go.
//! - A newer boot of the node's own name ends the node; see [`super::codec`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, BroadcastHandler, Foca, Invalidates, Member, OwnedNotification, State, Timer};
use rand::rngs::StdRng;

use super::codec::{Newer, WireCodec};
use crate::config::Timings;
use crate::identity::{Boot, Identity, NodeName};
use crate::secure::envelope::{MAX_DATAGRAM_BYTES, OVERHEAD_BYTES};
use crate::state::{Entry, Table};

/// The table of node state, shared with whoever reads it.
pub(crate) type SharedTable = Arc<Mutex<Table>>;

/// What a payload of gossip may hold.
pub(crate) const MAX_PAYLOAD_BYTES: usize = MAX_DATAGRAM_BYTES - OVERHEAD_BYTES;

/// How many periodic messages go to random members at once (SWIM's fan-out for gossip, as memberlist has it).
const GOSSIP_FANOUT: NonZeroUsize = NonZeroUsize::new(3).expect("three");

/// A message, a change, or the end.
#[derive(Debug)]
pub(crate) enum Output {
    /// Seal this and send it.
    Send(Identity, Bytes),
    /// A member is alive: new, or back under a new `rejoin` or boot.
    Up(Identity),
    /// A member is down.
    Down(Identity),
    /// A boot was superseded by a newer one of its name.
    Replaced(Identity),
    /// We were declared down and came back under this identity.
    Rejoined(Identity),
    /// A newer boot of our name exists.
    Superseded(Boot),
}

/// Takes the entries of node state that come as foca's broadcasts.
struct StateHints(SharedTable);

/// Names what a broadcast is about; a newer version of the same entry takes its place.
struct HintKey {
    name: NodeName,
    key: String,
    boot: Boot,
    version: u64,
}

impl Invalidates for HintKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.name == other.name && self.key == other.key && (self.boot, self.version) >= (other.boot, other.version)
    }
}

/// A broadcast that is not an entry.
#[derive(Debug, thiserror::Error)]
#[error("not an entry of node state")]
struct NotAnEntry;

impl BroadcastHandler<Identity> for StateHints {
    type Key = HintKey;
    type Error = NotAnEntry;

    /// foca asks without a sender for what we spread ourselves, which stands in the table already.
    fn receive_item(&mut self, data: &[u8], sender: Option<&Identity>) -> Result<Option<HintKey>, NotAnEntry> {
        let (entry, rest) = postcard::take_from_bytes::<Entry>(data).map_err(|_| NotAnEntry)?;
        if !rest.is_empty() || !entry.is_within_limits() {
            return Err(NotAnEntry);
        }
        let key =
            HintKey { name: entry.name.clone(), key: entry.key.clone(), boot: entry.boot, version: entry.version };
        let news = sender.is_none() || self.0.lock().unwrap_or_else(PoisonError::into_inner).hint(entry);
        Ok(news.then_some(key))
    }
}

/// The membership of one node.
pub(crate) struct Core {
    foca: Foca<Identity, WireCodec, StdRng, StateHints>,
    newer: Newer,
    /// The newest boot of each name that was ever up, as long as the name is remembered.
    newest: BTreeMap<NodeName, Boot>,
    runtime: AccumulatingRuntime<Identity>,
    timers: BTreeMap<(Duration, u64), Timer<Identity>>,
    timers_set: u64,
    timings: Timings,
    sized_for: usize,
    outputs: VecDeque<Output>,
    own: Identity,
}

impl Core {
    /// Hints that come with gossip go into `table`.
    pub(crate) fn new(own: Identity, timings: &Timings, rng: StdRng, table: SharedTable) -> Self {
        let newer = Newer::default();
        let codec = WireCodec::new(own.node.clone(), newer.clone());
        let config = foca_config(timings, 1);
        Self {
            foca: Foca::with_custom_broadcast(own.clone(), config, rng, codec, StateHints(table)),
            newer,
            newest: BTreeMap::new(),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            timings: timings.clone(),
            sized_for: 1,
            outputs: VecDeque::new(),
            own,
        }
    }

    /// Our identity as it is now: `rejoin` grows.
    pub(crate) fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// A datagram's payload, sealed by `from`. Returns whether it was a message.
    ///
    /// One from a boot that was superseded is ignored: foca would tell it that it is down, it would come back under the
    /// next `rejoin`, and so on as fast as datagrams travel. It learns the truth when it is refused at the door.
    pub(crate) fn handle_payload(&mut self, now: Duration, from: Boot, payload: &[u8]) -> bool {
        let Ok((header, _)) = postcard::take_from_bytes::<foca::Header<Identity>>(payload) else { return false };
        let source = header.src.node;
        if source.boot != from {
            return false;
        }
        if self.newest.get(&source.name).is_some_and(|newest| *newest > source.boot) {
            return true;
        }
        let taken = match self.foca.handle_data(payload, &mut self.runtime) {
            Ok(()) => true,
            // What a member of an older life sends, or what comes late, is no fault of the sender's encoding.
            Err(
                foca::Error::DataFromOurselves
                | foca::Error::IndirectForOurselves
                | foca::Error::NotConnected
                | foca::Error::IncompleteProbeCycle,
            ) => true,
            Err(error) => {
                tracing::debug!(%error, "gossip that is not a message");
                false
            }
        };
        self.settle(now);
        taken
    }

    /// Members that a peer told of over push-pull, or that we met by greeting them.
    pub(crate) fn handle_members(&mut self, now: Duration, members: Vec<Member<Identity>>) {
        let mut fit = Vec::with_capacity(members.len());
        for member in members {
            if member.id().node.name != self.own.node.name {
                fit.push(member);
            } else if member.id().node.boot > self.own.node.boot {
                self.outputs.push_back(Output::Superseded(member.id().node.boot));
            } else if member.id().node.boot == self.own.node.boot && member.id().rejoin == self.foca.identity().rejoin {
                // Suspicions and declarations about ourselves are ours to refute. An older `rejoin` of this boot is
                // settled already; foca would spread that it is down, which all know.
                fit.push(member);
            }
        }
        if let Err(error) = self.foca.apply_many(fit.into_iter(), true, &mut self.runtime) {
            tracing::debug!(%error, "an update from push-pull was not applied");
        }
        self.settle(now);
    }

    /// Everything that is known, for push-pull: who is up and who is down.
    pub(crate) fn membership(&self) -> Vec<Member<Identity>> {
        let own = Member::new(self.foca.identity().clone(), 0, State::Alive);
        std::iter::once(own).chain(self.foca.iter_membership_state().cloned()).collect()
    }

    /// Spreads an entry of our own node state, as a hint: push-pull is what makes it certain.
    pub(crate) fn spread(&mut self, now: Duration, entry: &Entry) {
        let Ok(bytes) = postcard::to_allocvec(entry) else { return };
        if bytes.len() <= MAX_PAYLOAD_BYTES / 2 {
            let sent = self.foca.add_broadcast(&bytes).and_then(|_| self.foca.broadcast(&mut self.runtime));
            if let Err(error) = sent {
                tracing::debug!(%error, "a hint was not spread");
            }
        }
        self.settle(now);
    }

    /// Says to some members that we are leaving, and falls silent.
    pub(crate) fn leave(&mut self, now: Duration) {
        if let Err(error) = self.foca.leave_cluster(&mut self.runtime) {
            tracing::debug!(%error, "leaving was not announced");
        }
        self.settle(now);
    }

    /// When [`Core::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        // Timers that fall due together run in foca's order: an indirect probe before the next probe.
        let mut due: Vec<_> = Vec::new();
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            due.push(entry.remove());
        }
        due.sort();
        for timer in due {
            if !self.may_fire(&timer) {
                continue;
            }
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                tracing::debug!(%error, "a timer of the failure detector");
            }
        }
        self.settle(now);
    }

    /// The guard: whether foca may see this timer.
    fn may_fire(&self, timer: &Timer<Identity>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return true };
        self.foca.iter_membership_state().any(|member| {
            member.id() == member_id && member.incarnation() == *incarnation && member.state() == State::Suspect
        })
    }

    /// What the driver has to do next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Turns what foca left behind into outputs and timers.
    fn settle(&mut self, now: Duration) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers_set += 1;
            self.timers.insert((now + after, self.timers_set), timer);
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(id) => {
                    self.heard_of(&id);
                    self.outputs.push_back(Output::Up(id));
                }
                OwnedNotification::MemberDown(id) => self.outputs.push_back(Output::Down(id)),
                // foca says `Rename` alone where a member stays up under its new identity.
                OwnedNotification::Rename(old, id) => {
                    self.heard_of(&id);
                    if old.node != id.node {
                        self.outputs.push_back(Output::Replaced(old));
                    }
                    let up = self.foca.iter_members().any(|member| *member.id() == id);
                    self.outputs.push_back(if up { Output::Up(id) } else { Output::Down(id) });
                }
                OwnedNotification::Rejoin(id) => self.outputs.push_back(Output::Rejoined(id)),
                OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => {}
            }
        }
        while let Some((to, payload)) = self.runtime.to_send() {
            self.outputs.push_back(Output::Send(to, payload));
        }
        if let Some(newer) = self.newer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.outputs.push_back(Output::Superseded(newer));
        }
        self.resize();
    }

    fn heard_of(&mut self, id: &Identity) {
        let newest = self.newest.entry(id.node.name.clone()).or_insert(id.node.boot);
        *newest = (*newest).max(id.node.boot);
    }

    /// Forgets the boots of all names but these.
    pub(crate) fn retain(&mut self, names: &BTreeSet<NodeName>) {
        self.newest.retain(|name, _| names.contains(name));
    }

    /// Fits foca's settings to the size of the cluster when it has doubled or halved.
    fn resize(&mut self) {
        let members = self.foca.num_members() + 1;
        if members >= self.sized_for * 2 || members * 2 < self.sized_for {
            self.sized_for = members;
            if let Err(error) = self.foca.set_config(foca_config(&self.timings, members)) {
                tracing::warn!(%error, "the failure detector kept its settings");
            }
        }
    }
}

/// How often an update is piggybacked: SWIM's λ·log n with λ = 3 (section 4.1; memberlist's `RetransmitMult` is 4), at
/// least 6 so that five nodes lose none at 20 % loss.
fn transmissions(members: usize) -> NonZeroU8 {
    let log2 = usize::BITS - members.leading_zeros();
    NonZeroU8::new(u8::try_from(3 * log2).unwrap_or(u8::MAX).max(6)).expect("at least 6")
}

fn foca_config(timings: &Timings, members: usize) -> foca::Config {
    let periodic = |frequency, num_members| Some(foca::PeriodicParams { frequency, num_members });
    foca::Config {
        probe_period: timings.probe_period,
        probe_rtt: timings.probe_timeout,
        num_indirect_probes: GOSSIP_FANOUT,
        max_transmissions: transmissions(members),
        suspect_to_down_after: timings.suspicion,
        remove_down_after: Some(timings.forget_down_after),
        max_packet_size: NonZeroUsize::new(MAX_PAYLOAD_BYTES).expect("more than nothing"),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: periodic(timings.announce_to_down_interval, GOSSIP_FANOUT),
        periodic_gossip: periodic(timings.gossip_interval, GOSSIP_FANOUT),
    }
}
