//! The task that keeps a node's [`Ring`]: it takes the operator's steps and the secrets that members bring, follows what
//! live members show, and sends them what they lack.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use super::KeyringError;
use super::debts::{AGAIN, Debts};
use super::wire::{GIVE, Give, Given};
use crate::ground::Env;
use crate::identity::{NodeId, NodeName};
use crate::membership::core::SharedTable;
use crate::membership::view::Members;
use crate::rpc::{Peer, Reply, Rpc, RpcError};
use crate::secure::Secret;
use crate::secure::ring::{KEYS_KEY, KeyId, Peers, Ring, Shown};
use crate::secure::tls::TlsIdentity;
use crate::transport::Transport;

/// How many orders and given secrets may wait for the task, and how many orders for members that follow.
pub(crate) const QUEUE: usize = 16;
/// How long an order waits for all members to follow. On a LAN it takes a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often node state is looked through at most: in a large cluster something changes all the time.
const PACE: Duration = Duration::from_millis(50);
/// How many secrets are on their way at once.
const MAX_SENDING: usize = 32;

/// What an operator asks for.
pub(crate) enum Step {
    Install(Secret),
    Use(KeyId),
    Remove(KeyId),
}

/// A step, and who waits for it.
pub(crate) struct Order {
    pub(crate) step: Step,
    pub(crate) done: oneshot::Sender<Result<(), KeyringError>>,
}

/// An order that was accepted, while members follow.
struct Pending {
    goal: Goal,
    key: KeyId,
    until: Instant,
    done: oneshot::Sender<Result<(), KeyringError>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    Held,
    Primary,
    Gone,
}

impl Goal {
    fn is_met(self, key: KeyId, shown: Option<&Shown>) -> bool {
        shown.is_some_and(|shown| match self {
            Self::Held => shown.held.contains_key(&key),
            Self::Primary => shown.primary.key == key,
            Self::Gone => !shown.held.contains_key(&key),
        })
    }
}

type Brought = mpsc::Receiver<(NodeName, Secret, Reply<Given>)>;
type Sent = (NodeName, KeyId, Result<Given, RpcError>);

/// What the task is made of.
pub(crate) struct Keeper {
    pub(crate) own: NodeId,
    pub(crate) env: Env,
    pub(crate) members: Members,
    pub(crate) table: SharedTable,
    pub(crate) rpc: Rpc,
    pub(crate) transport: Arc<Transport>,
    /// What the driver seals and opens with.
    pub(crate) ring: watch::Sender<Arc<Ring>>,
    /// Rings when members or their node state have changed.
    pub(crate) news: Arc<Notify>,
    /// From which the keys of the leaves are made; `None` if the certificates are the operator's.
    pub(crate) leaf_seed: Option<Zeroizing<[u8; 32]>>,
}

impl Keeper {
    /// Lets peers reach the task that is to run. A full queue drops what they bring, and they are told so.
    pub(crate) fn serve(&self) -> Brought {
        let (queue, brought) = mpsc::channel(QUEUE);
        self.rpc.serve(GIVE, move |caller, Give(secret), reply| {
            let _ = queue.try_send((caller.node.name.clone(), secret, reply));
        });
        brought
    }

    /// Runs for as long as the node does.
    pub(crate) async fn run(self, mut orders: mpsc::Receiver<Order>, mut brought: Brought) {
        let ring = Ring::clone(&self.ring.borrow());
        let mut work = Work { ring, pending: Vec::new(), debts: Debts::default(), sending: JoinSet::new() };
        let mut looked = Instant::now();
        let mut due = Some(looked);
        loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    self.take_order(&mut work, order);
                    due = Some(Instant::now());
                }
                Some((from, secret, reply)) = brought.recv() => {
                    reply.send(&self.take_brought(&mut work, &from, secret));
                }
                Some(sent) = work.sending.join_next(), if !work.sending.is_empty() => {
                    if let Ok(sent) = sent {
                        log_sent(&sent);
                    }
                    due = Some(Instant::now());
                }
                () = self.news.notified() => {
                    let soon = looked + PACE;
                    due = Some(due.map_or(soon, |due| due.min(soon)));
                }
                () = sleep_until(due.unwrap_or(looked)), if due.is_some() => {
                    looked = Instant::now();
                    due = self.look(&mut work);
                }
            }
        }
    }

    /// The other live members: where they are, and what they show.
    fn peers(&self) -> (Peers, BTreeMap<NodeName, Peer>) {
        let view = self.members.snapshot();
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let others = || view.up().filter(|member| member.id.name != self.own.name);
        let shown = |node: &NodeId| table.value(node, KEYS_KEY).and_then(Shown::from_bytes);
        let peer = |node: &NodeId, addr: SocketAddr| Peer { node: node.clone(), addr };
        (
            others().map(|member| (member.id.name.clone(), shown(&member.id))).collect(),
            others().map(|member| (member.id.name.clone(), peer(&member.id, member.addr))).collect(),
        )
    }

    fn take_order(&self, work: &mut Work, Order { step, done }: Order) {
        let (peers, _) = self.peers();
        let full = work.pending.len() >= QUEUE;
        let accepted = match step {
            _ if full => Err(KeyringError::Busy),
            Step::Install(secret) => work.ring.install(secret).map(|key| (Goal::Held, key)),
            Step::Use(key) => work.ring.use_key(key, &peers).map(|()| (Goal::Primary, key)),
            Step::Remove(key) => work.ring.remove(key, &peers).map(|()| (Goal::Gone, key)),
        };
        match accepted {
            Ok((goal, key)) => {
                self.put(&work.ring);
                if goal == Goal::Held {
                    // Whom the operator asked sends it at once; all others wait whether somebody does.
                    work.debts.install(Instant::now(), key, peers.keys());
                }
                work.pending.push(Pending { goal, key, until: Instant::now() + PATIENCE, done });
            }
            Err(error) => {
                // Who lacks a key that is to be used is sent it.
                self.put(&work.ring);
                let _ = done.send(Err(error));
            }
        }
    }

    fn take_brought(&self, work: &mut Work, from: &NodeName, secret: Secret) -> Given {
        match work.ring.install(secret) {
            Ok(key) => {
                tracing::info!(%key, %from, "a member has brought a key");
                self.put(&work.ring);
                Given::Taken
            }
            Err(KeyringError::Full) => {
                tracing::error!(%from, "a member brings a key, and the ring is full: remove keys that are not needed");
                Given::Full
            }
            Err(_) => Given::Removed,
        }
    }

    /// Follows what members show, sends what they lack, and answers who waits for them. Returns when to look again.
    fn look(&self, work: &mut Work) -> Option<Instant> {
        let (peers, addrs) = self.peers();
        if work.ring.observe(&peers) {
            self.put(&work.ring);
        }
        let now = Instant::now();
        work.debts.update(now, work.ring.owed(&self.own.name, &peers));
        for at in work.debts.due(now) {
            let (name, key) = &at;
            let (Some(peer), Some(secret)) = (addrs.get(name), work.ring.secret(*key)) else { continue };
            if work.sending.len() >= MAX_SENDING {
                break;
            }
            work.debts.sent(now, &at);
            let call = self.rpc.call(peer, &GIVE, &Give(secret.clone()), AGAIN);
            work.sending.spawn(async move { (at.0, at.1, call.await) });
        }
        work.settle(&peers, now);
        let waits = work.pending.iter().map(|pending| pending.until);
        // What waits for room is looked at again when a call ends.
        waits.chain(work.debts.next(now)).min()
    }

    /// Lets transport and driver have the ring, if it is another than they have. In this order: who sees what this node
    /// shows may rely on it.
    fn put(&self, ring: &Ring) {
        let before = self.ring.borrow().shown();
        let after = ring.shown();
        if before == after {
            return;
        }
        if let Some(leaf_seed) = &self.leaf_seed {
            let made = TlsIdentity::of_ring(self.env.ground().crypto(), ring, &self.own.name, leaf_seed);
            let taken = made
                .map_err(|error| error.to_string())
                .and_then(|tls| self.transport.set_tls(tls).map_err(|error| error.to_string()));
            if let Err(error) = taken {
                tracing::error!(%error, "the certificates of a new key cannot be used");
                return;
            }
        }
        tracing::info!(primary = %after.primary.key, held = ?after.held.keys().collect::<Vec<_>>(), "the keys have changed");
        self.ring.send_replace(Arc::new(ring.clone()));
    }
}

/// What the task has in hand.
struct Work {
    ring: Ring,
    pending: Vec<Pending>,
    debts: Debts,
    sending: JoinSet<Sent>,
}

impl Work {
    /// Answers the orders that all members have followed, and those that have waited long enough.
    fn settle(&mut self, peers: &Peers, now: Instant) {
        let ours = self.ring.shown();
        let mut left = Vec::new();
        for pending in self.pending.drain(..) {
            let Pending { goal, key, until, .. } = pending;
            let late = peers.iter().filter(|(_, shown)| !goal.is_met(key, shown.as_ref()));
            let members: Vec<_> = late.map(|(name, _)| name.clone()).collect();
            let outcome = if goal != Goal::Gone && self.ring.is_removed(key) {
                Err(KeyringError::Removed { key })
            } else if members.is_empty() && goal.is_met(key, Some(&ours)) {
                Ok(())
            } else if until <= now {
                Err(KeyringError::Unfinished { key, members })
            } else {
                left.push(pending);
                continue;
            };
            let _ = pending.done.send(outcome);
        }
        self.pending = left;
    }
}

fn log_sent((name, key, result): &Sent) {
    match result {
        Ok(Given::Taken) => tracing::debug!(node = %name, %key, "a member was given a key"),
        Ok(Given::Removed) => tracing::debug!(node = %name, %key, "a member knows that the key was removed"),
        Ok(Given::Full) => tracing::error!(node = %name, %key, "a member has no room for the key: remove another"),
        Err(error) => tracing::debug!(%error, %key, "a member could not be given a key"),
    }
}
