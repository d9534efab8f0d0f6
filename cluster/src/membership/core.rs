//! The membership state machine: foca, its timers, and what it lacks. Sans-IO: time is handed in as the duration since
//! the node's start, randomness as a generator, and the driver carries out what [`Core::poll_output`] returns.
//!
//! Deviations from plain foca 2.0.0:
//! - A `ChangeSuspectToDown` timer fires only while its member is still suspect at that incarnation. foca sends
//!   `TurnUndead` even to a member that has refuted the suspicion, which then renews for nothing.
//! - The number of times that an update is sent grows with the logarithm of the cluster's size, as SWIM wants it
//!   (section 4.1), and is set anew as members come and go.
//! - A newer boot of the node's own name ends the node; see [`super::codec`].

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foca::{BroadcastHandler, Foca, Invalidates, Member, Notification, OwnedNotification, Runtime, State, Timer};
use rand::SeedableRng as _;
use rand::rngs::{StdRng, Xoshiro256PlusPlus};

use super::codec::{Change, CodecError, Watch, WireCodec};
use super::handle::{Handle, Known};
use crate::buckets::{NameKey, Row as _};
use crate::config::Timings;
use crate::identity::{Boot, NodeName};
use crate::mutation::{Mutation, mutated};
use crate::secure::envelope::{MAX_DATAGRAM_BYTES, OVERHEAD_BYTES};
use crate::state::{Entry, Table};

/// The table of node state, shared with whoever reads it.
pub(crate) type SharedTable = Arc<Mutex<Table>>;

/// What a payload of gossip may hold.
pub(crate) const MAX_PAYLOAD_BYTES: usize = MAX_DATAGRAM_BYTES - OVERHEAD_BYTES;

/// How many periodic messages go to random members at once (SWIM's fan-out for gossip, as memberlist has it).
const GOSSIP_FANOUT: NonZeroUsize = NonZeroUsize::new(3).expect("three");

/// How many updates an exchange may bring that are gossiped on: about as many as fit into one datagram. More than that is
/// no news of the cluster but what we ourselves lacked, because we have just joined it or were cut off from it. With a
/// thousand members, gossiping that to those who know it keeps every datagram full for a minute.
const MAX_NEWS: usize = 24;

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
}

/// Takes the entries of node state that come as foca's broadcasts.
struct StateHints {
    table: SharedTable,
    watch: Watch,
}

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

impl BroadcastHandler<Handle> for StateHints {
    type Key = HintKey;
    type Error = NotAnEntry;

    /// foca asks without a sender for what we spread ourselves, which stands in the table already.
    fn receive_item(&mut self, data: &[u8], sender: Option<&Handle>) -> Result<Option<HintKey>, NotAnEntry> {
        let (entry, rest) = postcard::take_from_bytes::<Entry>(data).map_err(|_| NotAnEntry)?;
        if !rest.is_empty() || !entry.is_within_limits() {
            return Err(NotAnEntry);
        }
        let key =
            HintKey { name: entry.name.clone(), key: entry.key.clone(), boot: entry.boot, version: entry.version };
        let news = sender.is_none() || self.table.lock().unwrap_or_else(PoisonError::into_inner).hint(entry);
        self.watch.lock().hinted |= news;
        Ok(news.then_some(key))
    }
}

/// What foca wants done after a call.
#[derive(Default)]
struct Wishes {
    sends: VecDeque<(Handle, Bytes)>,
    timers: Vec<(Duration, Timer<Handle>)>,
    notes: Vec<OwnedNotification<Handle>>,
}

impl Runtime<Handle> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Handle>) {
        self.notes.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Handle, data: &[u8]) {
        self.sends.push_back((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: Timer<Handle>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// A timer that foca has set. Ordered by time and by when it was set.
struct Alarm {
    at: Duration,
    number: u64,
    timer: Timer<Handle>,
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Alarm {}

/// The membership of one node.
pub(crate) struct Core {
    foca: Foca<Handle, WireCodec, Xoshiro256PlusPlus, StateHints>,
    watch: Watch,
    wishes: Wishes,
    /// But for the next round of gossip.
    alarms: BinaryHeap<Reverse<Alarm>>,
    alarms_set: u64,
    /// The next round of gossip. While there is nothing to say its time passes without waking anybody.
    gossip: Option<(Duration, Timer<Handle>)>,
    timings: Timings,
    sized_for: usize,
    outputs: VecDeque<Output>,
    own: Handle,
}

impl Core {
    /// Hints that come with gossip go into `table`.
    pub(crate) fn new(own: impl Into<Handle>, timings: &Timings, mut rng: StdRng, table: SharedTable) -> Self {
        let own = own.into();
        let watch = Watch::default();
        // foca draws a number for each member whenever it chooses one: from a generator for simulations, not for secrets.
        let rng = Xoshiro256PlusPlus::from_rng(&mut rng);
        let hints = StateHints { table, watch: watch.clone() };
        watch.lock().note(Member::alive(own.clone()));
        let codec = WireCodec::new(&own, watch.clone());
        let config = foca_config(timings, 1);
        Self {
            foca: Foca::with_custom_broadcast(own.clone(), config, rng, codec, hints),
            watch,
            wishes: Wishes::default(),
            alarms: BinaryHeap::new(),
            alarms_set: 0,
            gossip: None,
            timings: timings.clone(),
            sized_for: 1,
            outputs: VecDeque::new(),
            own,
        }
    }

    /// Our identity as it is now: `rejoin` grows.
    pub(crate) fn identity(&self) -> &Handle {
        self.foca.identity()
    }

    /// A datagram's payload, sealed by `from`. Returns whether it was a message.
    ///
    /// One from a boot that was superseded is ignored: foca would tell it that it is down, it would come back under the
    /// next `rejoin`, and so on as fast as datagrams travel. It learns the truth when it is refused at the door.
    pub(crate) fn handle_payload(&mut self, now: Duration, from: Boot, payload: &[u8]) -> bool {
        self.pass_idle_gossip(now);
        self.watch.lock().sealer = Some(from);
        let taken = match self.foca.handle_data(payload, &mut self.wishes) {
            Ok(()) => true,
            // What a member of an older life sends, or what comes late, is no fault of the sender's encoding.
            Err(
                foca::Error::DataFromOurselves
                | foca::Error::IndirectForOurselves
                | foca::Error::NotConnected
                | foca::Error::IncompleteProbeCycle,
            ) => true,
            Err(foca::Error::Decode(cause)) if matches!(cause.downcast_ref(), Some(CodecError::Stale)) => true,
            Err(error) => {
                tracing::debug!(%error, "gossip that is not a message");
                false
            }
        };
        self.settle(now);
        taken
    }

    /// All that a peer knows, by push-pull.
    pub(crate) fn handle_known(&mut self, now: Duration, theirs: &Known) {
        let news: Vec<_> = theirs.differing(&self.watch.lock().known).cloned().collect();
        let gossip = news.len() <= MAX_NEWS;
        self.apply(now, news, gossip);
    }

    /// Members that a peer told of, or that we met by greeting them.
    pub(crate) fn handle_members(&mut self, now: Duration, members: Vec<Member<Handle>>) {
        self.apply(now, members, true);
    }

    fn apply(&mut self, now: Duration, members: Vec<Member<Handle>>, gossip: bool) {
        self.pass_idle_gossip(now);
        let mut fit = Vec::with_capacity(members.len());
        for member in members {
            let id = member.id();
            if id.key() != self.own.key() {
                fit.push(member);
            } else if id.node.boot > self.own.node.boot {
                self.outputs.push_back(Output::Superseded(id.node.boot));
            } else if id.node.boot == self.own.node.boot && id.rejoin == self.foca.identity().rejoin {
                // Suspicions and declarations about ourselves are ours to refute. An older `rejoin` of this boot is
                // settled already; foca would spread that it is down, which all know.
                fit.push(member);
            }
        }
        if let Err(error) = self.foca.apply_many(fit.into_iter(), gossip, &mut self.wishes) {
            tracing::debug!(%error, "an update from push-pull was not applied");
        }
        if !gossip {
            // What is not passed on is not encoded, and so was not seen.
            let mut seen = self.watch.lock();
            let others = self.foca.iter_membership_state().filter(|member| member.key() != self.own.key());
            others.for_each(|member| seen.note(member.clone()));
        }
        self.settle(now);
    }

    /// Everything that is known, for push-pull: who is up and who is down, ourselves among them.
    pub(crate) fn known(&self) -> Known {
        self.watch.lock().known.clone()
    }

    /// What is known of one name.
    pub(crate) fn member(&self, key: NameKey) -> Option<Member<Handle>> {
        self.watch.lock().known.get(key).cloned()
    }

    /// What has changed since this was asked last, in order; and whether a hint was written to the table.
    pub(crate) fn take_changes(&mut self) -> (Vec<Change>, bool) {
        let mut seen = self.watch.lock();
        (std::mem::take(&mut seen.changes), std::mem::take(&mut seen.hinted))
    }

    /// Spreads an entry of our own node state, as a hint: push-pull is what makes it certain.
    pub(crate) fn spread(&mut self, now: Duration, entry: &Entry) {
        let Ok(bytes) = postcard::to_allocvec(entry) else { return };
        self.pass_idle_gossip(now);
        if bytes.len() <= MAX_PAYLOAD_BYTES / 2 {
            let sent = self.foca.add_broadcast(&bytes).and_then(|_| self.foca.broadcast(&mut self.wishes));
            if let Err(error) = sent {
                tracing::debug!(%error, "a hint was not spread");
            }
        }
        self.settle(now);
    }

    /// Says to some members that we are leaving, and falls silent.
    pub(crate) fn leave(&mut self, now: Duration) {
        if let Err(error) = self.foca.leave_cluster(&mut self.wishes) {
            tracing::debug!(%error, "leaving was not announced");
        }
        self.settle(now);
    }

    /// When [`Core::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let alarm = self.alarms.peek().map(|Reverse(alarm)| alarm.at);
        let gossip = self.gossip.as_ref().filter(|_| self.has_news()).map(|(at, _)| *at);
        alarm.into_iter().chain(gossip).min()
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.pass_idle_gossip(now);
        let mut due: Vec<Timer<Handle>> = Vec::new();
        while let Some(Reverse(alarm)) = self.alarms.peek()
            && alarm.at <= now
        {
            due.extend(self.alarms.pop().map(|Reverse(alarm)| alarm.timer));
        }
        if self.gossip.as_ref().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.gossip.take().map(|(_, timer)| timer));
        }
        // Timers that fall due together run in foca's order: an indirect probe before the next probe.
        due.sort();
        for timer in due {
            self.fire(timer);
        }
        self.settle(now);
    }

    /// Whether there is something to gossip.
    fn has_news(&self) -> bool {
        self.foca.updates_backlog() > 0 || self.foca.custom_broadcast_backlog() > 0
    }

    /// Lets the rounds of gossip pass that would have said nothing: foca would only have set the next one.
    fn pass_idle_gossip(&mut self, now: Duration) {
        let interval = self.timings.gossip_interval;
        if self.gossip.as_ref().is_some_and(|(at, _)| *at <= now)
            && !self.has_news()
            && let Some((at, _)) = &mut self.gossip
        {
            let rounds = (now - *at).as_nanos() / interval.as_nanos() + 1;
            *at += interval.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        }
    }

    fn fire(&mut self, timer: Timer<Handle>) {
        let stands = |id: &Handle, incarnation: Option<u16>, state| {
            let known = self.member(id.key());
            known.is_some_and(|known| {
                known.id() == id
                    && known.state() == state
                    && incarnation.is_none_or(|incarnation| known.incarnation() == incarnation)
            })
        };
        match &timer {
            // The guard: foca does not ask whether the member is still suspect.
            Timer::ChangeSuspectToDown { member_id, incarnation, .. }
                if !stands(member_id, Some(*incarnation), State::Suspect) =>
            {
                return;
            }
            Timer::ChangeSuspectToDown { .. } if mutated(Mutation::SuspectsStay) => return,
            Timer::RemoveDown(id) if stands(id, None, State::Down) => self.watch.lock().forget(id.key()),
            _ => {}
        }
        if let Err(error) = self.foca.handle_timer(timer, &mut self.wishes) {
            tracing::debug!(%error, "a timer of the failure detector");
        }
    }

    /// What is to be sealed and sent next.
    pub(crate) fn poll_send(&mut self) -> Option<(Handle, Bytes)> {
        self.wishes.sends.pop_front()
    }

    /// What has become of the members and of ourselves.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Turns what foca left behind into outputs and timers.
    fn settle(&mut self, now: Duration) {
        for (after, timer) in self.wishes.timers.drain(..) {
            let at = now + after;
            if matches!(timer, Timer::PeriodicGossip(_)) {
                self.gossip = Some((at, timer));
            } else {
                self.alarms_set += 1;
                self.alarms.push(Reverse(Alarm { at, number: self.alarms_set, timer }));
            }
        }
        let mut seen = self.watch.lock();
        for note in self.wishes.notes.drain(..) {
            match note {
                OwnedNotification::MemberUp(id) => self.outputs.push_back(Output::Up(id)),
                OwnedNotification::MemberDown(id) => self.outputs.push_back(Output::Down(id)),
                // foca says `Rename` alone where a member stays up under its new identity.
                OwnedNotification::Rename(old, id) => {
                    let up = seen.known.get(id.key()).is_some_and(|m| *m.id() == id && m.state() != State::Down);
                    if old.node != id.node {
                        self.outputs.push_back(Output::Replaced(old));
                    }
                    self.outputs.push_back(if up { Output::Up(id) } else { Output::Down(id) });
                }
                OwnedNotification::Rejoin(id) => {
                    seen.note(Member::alive(id.clone()));
                    self.outputs.push_back(Output::Rejoined(id));
                }
                OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => {}
            }
        }
        if let Some(newer) = seen.newer.take() {
            self.outputs.push_back(Output::Superseded(newer));
        }
        drop(seen);
        self.resize();
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

    /// Takes over the memory of what `theirs` says the same as we know it.
    #[cfg(feature = "lean")]
    pub(crate) fn share(&mut self, theirs: &Known) {
        self.watch.lock().known.share(theirs);
    }

    /// Checks that what was followed through the codec is what foca knows.
    ///
    /// # Panics
    /// If it is not.
    #[cfg(any(test, feature = "lean"))]
    pub(crate) fn validate(&self) {
        let known = self.known();
        let others = || self.foca.iter_membership_state().filter(|member| member.key() != self.own.key());
        for member in others() {
            assert_eq!(known.get(member.key()), Some(member), "{:?} missed it", self.own);
        }
        assert_eq!(known.iter().count(), others().count() + 1, "{:?} knows what foca does not", self.own);
        let own = known.get(self.own.key()).map(|own| (own.id(), own.state()));
        assert_eq!(own, Some((self.foca.identity(), State::Alive)));
    }
}

/// How often an update is piggybacked: SWIM's λ·log n with λ = 3 (section 4.1), at least 6 so that five nodes lose none at
/// 20 % loss, and at most 16, which is memberlist's for a thousand: there, more copies cost more than they bring.
fn transmissions(members: usize) -> NonZeroU8 {
    let log2 = usize::BITS - members.leading_zeros();
    NonZeroU8::new(u8::try_from(3 * log2).unwrap_or(u8::MAX).clamp(6, 16)).expect("at least 6")
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
