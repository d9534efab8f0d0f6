//! What a subscriber sees of the members: a snapshot, then every change in order (promise M6).
//!
//! Each change has a version, one more than the last. The newest [`LOG`] changes are kept; a subscriber that is further
//! behind gets a new snapshot instead of a gap.

#[cfg(all(test, feature = "shuttle"))]
mod races;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use crate::identity::{NodeId, NodeName};
use crate::mutation::{Mutation, mutated};
use crate::state::Profile;
use crate::sync::Mutex;
use crate::version::{Capabilities, Speaks};

/// How many changes are kept for subscribers that are behind: every member of a large cluster changing once.
const LOG: usize = 1024;

/// Whether a member is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It answers.
    Alive,
    /// It has not answered, and has some time left to refute. It still counts as a member.
    Suspect,
    /// It is taken for dead. If it is not, it comes back by itself under the same boot.
    Down,
    /// It has left on purpose.
    Left,
}

impl Status {
    /// Alive or suspect: it takes part.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A node as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Member {
    /// Its name and boot.
    pub id: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it is there.
    pub status: Status,
    /// How often this boot was declared down and came back.
    pub rejoin: u32,
    /// What it says of itself; `None` until it has been heard.
    pub profile: Option<Profile>,
    /// Where else it listens, by the names that it gives ([`Builder::address`](crate::Builder::address)): of HTTP, say.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// How much of what it can do it does, in thousandths, if it says so ([`Node::set_load`](crate::Node::set_load)).
    pub load: Option<u16>,
    /// Which versions of the protocol it speaks, and what it can do.
    pub speaks: Speaks,
    /// What the application says of it ([`Node::set_state`](crate::Node::set_state) on that node).
    pub state: BTreeMap<String, Vec<u8>>,
}

/// The members at one moment, by name, our own node among them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Counts the changes since this node started.
    pub version: u64,
    /// The newest boot of every name.
    pub members: BTreeMap<NodeName, Member>,
}

impl View {
    /// The members that are up.
    pub fn up(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.status.is_up())
    }

    /// Whether every member that is up can do all of this: in the middle of an upgrade some cannot yet.
    #[must_use]
    pub fn all_can(&self, capabilities: Capabilities) -> bool {
        self.up().all(|member| member.speaks.capabilities.has(capabilities))
    }
}

/// What a subscriber gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberEvent {
    /// Everything: the first event, and the next one after having fallen too far behind.
    Snapshot(Arc<View>),
    /// One member is new or has changed.
    Changed {
        /// One more than that of the event before.
        version: u64,
        /// The member as it is now.
        member: Member,
    },
    /// One member has been down for so long that it was forgotten.
    Forgotten {
        /// One more than that of the event before.
        version: u64,
        /// Its name.
        name: NodeName,
    },
}

#[derive(Debug)]
struct State {
    view: Arc<View>,
    log: VecDeque<MemberEvent>,
}

/// The members as the node sees them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Members {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

impl Members {
    pub(crate) fn new() -> Self {
        let state = State { view: Arc::default(), log: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)), version: watch::Sender::new(0) }
    }

    /// All members now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<View> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).view.clone()
    }

    /// A snapshot, then every change of it in order.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription { members: self.clone(), changed: self.version.subscribe(), seen: None }
    }

    /// Puts these members into the view as they are now, and takes those out that were forgotten. Each difference
    /// becomes one change; what is the same makes none.
    pub(crate) fn apply(&self, latest: BTreeMap<NodeName, Option<Member>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { view, log } = &mut *state;
        let (came, went): (Vec<_>, Vec<_>) = latest
            .into_iter()
            .filter(|(name, member)| view.members.get(name) != member.as_ref())
            .filter(|(name, _)| !(mutated(Mutation::DownForGood) && is_down(view, name)))
            .partition(|(_, member)| member.is_some());
        if came.is_empty() && went.is_empty() {
            return;
        }
        // Copies the members only if somebody holds a snapshot.
        let view = Arc::make_mut(view);
        for (name, member) in came.into_iter().chain(went) {
            view.version += 1;
            let version = view.version;
            log.push_back(match member {
                Some(member) => {
                    view.members.insert(name, member.clone());
                    MemberEvent::Changed { version, member }
                }
                None => {
                    view.members.remove(&name);
                    MemberEvent::Forgotten { version, name }
                }
            });
        }
        let version = view.version;
        log.drain(..log.len().saturating_sub(LOG));
        drop(state);
        self.version.send_replace(version);
    }
}

fn is_down(view: &View, name: &NodeName) -> bool {
    view.members.get(name).is_some_and(|member| member.status == Status::Down)
}

/// A stream of [`MemberEvent`]s.
#[derive(Debug)]
pub struct Subscription {
    members: Members,
    changed: watch::Receiver<u64>,
    seen: Option<u64>,
}

impl Subscription {
    /// The next event. Cancel safe: an event that was not returned is returned next time.
    ///
    /// The stream ends never by itself: after the node has stopped, it waits for ever.
    pub async fn next(&mut self) -> MemberEvent {
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            // The sender lives in `self.members`, so this cannot fail.
            let _ = self.changed.changed().await;
        }
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<MemberEvent> {
        let state = self.members.state.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = state.view.version;
        let event = match self.seen {
            Some(seen) if seen == newest => return None,
            Some(seen) if newest - seen <= state.log.len() as u64 => {
                let back = if mutated(Mutation::SkipsChanges) { 1 } else { (newest - seen) as usize };
                state.log[state.log.len() - back].clone()
            }
            _ => MemberEvent::Snapshot(state.view.clone()),
        };
        self.seen = Some(match &event {
            MemberEvent::Snapshot(view) => view.version,
            MemberEvent::Changed { version, .. } | MemberEvent::Forgotten { version, .. } => *version,
        });
        Some(event)
    }
}

#[cfg(not(feature = "shuttle"))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Boot;

    fn member(name: &str, status: Status) -> (NodeName, Member) {
        let name = NodeName::new(name).expect("valid");
        let id = NodeId { name: name.clone(), boot: Boot { generation: 1, nonce: 1 } };
        let addr = "127.0.0.1:1".parse().expect("an address");
        (
            name,
            Member {
                id,
                addr,
                status,
                rejoin: 0,
                profile: None,
                addresses: BTreeMap::new(),
                load: None,
                speaks: crate::version::Speaks::CURRENT,
                state: BTreeMap::new(),
            },
        )
    }

    fn some(name: &str, status: Status) -> (NodeName, Option<Member>) {
        let (name, member) = member(name, status);
        (name, Some(member))
    }

    /// Applies events to a view, as a subscriber would.
    fn follow(view: &mut View, event: MemberEvent) {
        match event {
            MemberEvent::Snapshot(whole) => *view = (*whole).clone(),
            MemberEvent::Changed { version, member } => {
                assert_eq!(version, view.version + 1, "no change is missed");
                view.version = version;
                view.members.insert(member.id.name.clone(), member);
            }
            MemberEvent::Forgotten { version, name } => {
                assert_eq!(version, view.version + 1, "no change is missed");
                view.version = version;
                view.members.remove(&name);
            }
        }
    }

    #[test]
    fn a_subscriber_that_follows_sees_what_a_snapshot_shows() {
        let members = Members::new();
        let mut subscription = members.subscribe();
        let mut view = View::default();
        follow(&mut view, subscription.try_next().expect("a snapshot first"));
        for round in 0..2000usize {
            let status = if round % 3 == 0 { Status::Suspect } else { Status::Alive };
            let third = member("c", Status::Down);
            let third = (third.0, (round % 5 == 0).then_some(third.1));
            members.apply(BTreeMap::from([some("a", status), some("b", Status::Alive), third]));
            if round % 7 == 0 {
                while let Some(event) = subscription.try_next() {
                    follow(&mut view, event);
                }
                assert_eq!(view, *members.snapshot());
            }
        }
    }

    #[test]
    fn one_that_falls_behind_gets_a_new_snapshot() {
        let members = Members::new();
        let mut subscription = members.subscribe();
        subscription.try_next();
        for round in 0..LOG + 2 {
            let status = if round % 2 == 0 { Status::Suspect } else { Status::Alive };
            members.apply(BTreeMap::from([some("a", status)]));
        }
        assert!(matches!(subscription.try_next(), Some(MemberEvent::Snapshot(_))));
        assert_eq!(subscription.try_next(), None);
    }

    #[test]
    fn what_does_not_change_makes_no_event() {
        let members = Members::new();
        members.apply(BTreeMap::from([some("a", Status::Alive)]));
        let version = members.snapshot().version;
        members.apply(BTreeMap::from([some("a", Status::Alive)]));
        assert_eq!(members.snapshot().version, version);
    }
}
