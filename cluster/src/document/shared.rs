//! What the handles of a document, its driver and the peers share: the replica, under one lock.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use polity_crdt::sync::{AntiEntropy, Outgoing, SyncConfig};
use polity_crdt::{Change, Crdt, Delta, HybridClock, ReplicaId, Timestamp, Writer};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::departures::Departures;
use super::directory::{Opening, Served};
use super::replica::Holder;
use super::watch::Unseen;
use super::{DocumentError, DocumentStats, MAX_UPDATE_BYTES};
use crate::ground::Env;
use crate::identity::NodeId;
use crate::membership::view::Members;
use crate::node::Node;
use crate::rpc::Rpc;

/// How many keys may have changed since a watcher last looked before it is given a snapshot instead.
const MAX_WATCHED_KEYS: usize = 16_384;

pub(super) struct Shared<T: Crdt> {
    name: String,
    node: NodeId,
    env: Env,
    config: SyncConfig,
    rpc: Rpc,
    members: Members,
    started: Instant,
    state: Mutex<State<T>>,
    /// Wakes the driver.
    pub(super) wake: Notify,
    /// Counts the changes of keys and of replicas, for those who watch.
    changed: watch::Sender<u64>,
    /// Counts the answers of peers, for those who wait for them.
    answered: watch::Sender<u64>,
}

struct State<T: Crdt> {
    engine: AntiEntropy<T>,
    life: u32,
    /// Grows when another engine takes the place of the one before.
    engine_number: u64,
    watchers: BTreeMap<u64, Unseen<T::Key>>,
    /// The replicas of which watchers were told.
    told: ReplicasVersion,
    next_watcher: u64,
    exports: Vec<T::Delta>,
    clock: HybridClock,
    departures: Departures,
    malformed: u64,
    stopped: bool,
}

/// Differs whenever other replicas are known: the engine's number, and what it counts.
pub(crate) type ReplicasVersion = (u64, u64);

impl<T: Crdt> State<T> {
    fn replicas_version(&self) -> ReplicasVersion {
        (self.engine_number, self.engine.replicas_version())
    }
}

/// Who holds which replica.
pub(crate) type Owners = BTreeMap<ReplicaId, NodeId>;

/// The version of the members' view, and of the replicas.
pub(crate) type OwnersVersion = (u64, ReplicasVersion);

/// A request with the engine that it belongs to.
pub(super) struct Errand {
    pub(super) engine: u64,
    pub(super) out: Outgoing,
}

impl<T: Crdt> Shared<T> {
    pub(super) fn new(node: &Node, name: &str, opening: Opening) -> Self {
        let Opening { sync: config, departs_after } = opening;
        let shared = Self {
            name: name.to_owned(),
            node: node.id().clone(),
            env: node.env().clone(),
            config: config.clone(),
            rpc: node.rpc().clone(),
            members: node.members().clone(),
            started: Instant::now(),
            state: Mutex::new(State {
                engine: engine(node.id(), name, 0, &config),
                life: 0,
                engine_number: 0,
                watchers: BTreeMap::new(),
                told: (0, 0),
                next_watcher: 0,
                exports: Vec::new(),
                clock: HybridClock::new(),
                departures: Departures::new(departs_after),
                malformed: 0,
                stopped: false,
            }),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        };
        shared.follow_members();
        shared
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's stop counts from when it has stopped, and not from when the driver has heard of it.
    fn check_running(&self, state: &State<T>) -> Result<(), DocumentError> {
        if state.stopped || self.rpc.is_stopped() { Err(DocumentError::Stopped) } else { Ok(()) }
    }

    pub(super) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(self.lock().engine.replica())
    }

    pub(super) fn update(&self, mutate: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>) -> Result<bool, DocumentError> {
        let mut state = self.lock();
        self.check_running(&state)?;
        let within_limit = |value: &T, w: &mut Writer<'_>| {
            let delta = mutate(value, w)?;
            match delta.as_ref().map_or(0, |delta| delta.encode().len()) {
                bytes if bytes > MAX_UPDATE_BYTES => {
                    Err(polity_crdt::Error::TooLarge { bytes, limit: MAX_UPDATE_BYTES })
                }
                _ => Ok(delta),
            }
        };
        let changed = state.engine.update(self.now(), within_limit)?.is_some();
        if changed {
            self.happened(state);
            self.wake.notify_one();
        }
        Ok(changed)
    }

    pub(super) fn import(&self, export: T::Delta) -> Result<bool, DocumentError> {
        let mut state = self.lock();
        self.check_running(&state)?;
        let changed = state.engine.import(self.now(), export);
        self.happened(state);
        self.wake.notify_one();
        Ok(changed)
    }

    pub(super) fn take_exports(&self) -> Vec<T::Delta> {
        std::mem::take(&mut self.lock().exports)
    }

    pub(super) fn timestamp(&self) -> Timestamp {
        let wall = self.env.ground().wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.lock().clock.now(wall)
    }

    pub(super) async fn flushed(&self) -> Result<(), DocumentError> {
        let mut answered = self.answered.subscribe();
        loop {
            answered.borrow_and_update();
            {
                let state = self.lock();
                self.check_running(&state)?;
                if state.engine.lag(self.now()) == (0, Duration::ZERO) {
                    return Ok(());
                }
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = answered.changed().await;
        }
    }

    pub(super) fn forget(&self, boot: &NodeId) -> Result<(), DocumentError> {
        if self.members.snapshot().up().any(|member| member.id == *boot) {
            return Err(DocumentError::IsUp(boot.clone()));
        }
        let mut state = self.lock();
        self.check_running(&state)?;
        let holders = holders(&state.engine).filter(|(_, holder)| holder.node == *boot).map(|(id, _)| id);
        let first = Holder { node: boot.clone(), life: 0 }.replica(&self.name);
        let replicas = holders.chain([first]).collect();
        state.engine.handle_forgotten(self.now(), replicas);
        self.happened(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn stats(&self) -> DocumentStats {
        let state = self.lock();
        let engine = &state.engine;
        let (unacknowledged, lag) = engine.lag(self.now());
        let blockers: BTreeSet<ReplicaId> = engine.blocked().into_values().flatten().collect();
        DocumentStats {
            live_dots: engine.live_dots(),
            context_intervals: engine.replica().context().interval_count(),
            replicas: engine.replicas().count(),
            unacknowledged,
            lag,
            blocked_by: holders(engine)
                .filter(|(id, _)| blockers.contains(id))
                .map(|(_, holder)| holder.node)
                .collect(),
            sync: engine.stats(),
            malformed: state.malformed,
        }
    }

    // For watchers.

    pub(super) fn add_watcher(&self) -> (u64, watch::Receiver<u64>) {
        let mut state = self.lock();
        state.engine.watch();
        state.next_watcher += 1;
        let number = state.next_watcher;
        state.watchers.insert(number, Unseen::All);
        (number, self.changed.subscribe())
    }

    pub(super) fn remove_watcher(&self, number: u64) {
        self.lock().watchers.remove(&number);
    }

    /// What a watcher has not seen, and what `look` makes of the whole state if that is what it has not seen.
    pub(super) fn take_unseen<R>(
        &self,
        number: u64,
        look: impl FnOnce(&T) -> R,
    ) -> Option<(Unseen<T::Key>, Option<R>)> {
        let mut state = self.lock();
        let State { watchers, engine, .. } = &mut *state;
        let unseen = watchers.get_mut(&number)?;
        match std::mem::replace(unseen, Unseen::Keys(BTreeSet::new())) {
            Unseen::All => Some((Unseen::All, Some(look(engine.replica())))),
            Unseen::Keys(keys) => (!keys.is_empty()).then_some((Unseen::Keys(keys), None)),
        }
    }

    /// Something has happened to the replica: watchers are woken if keys have changed or other replicas are known, and an engine that was forgotten is replaced.
    fn happened(&self, mut state: MutexGuard<'_, State<T>>) {
        let mut is_news = false;
        if let Some(export) = state.engine.take_export() {
            is_news = true;
            tracing::warn!(document = %self.name, "this replica had been forgotten by the others: it begins anew");
            state.life += 1;
            state.engine_number += 1;
            let mut engine = engine(&self.node, &self.name, state.life, &self.config);
            if !state.watchers.is_empty() {
                engine.watch();
            }
            state.engine = engine;
            state.exports.push(export);
            state.watchers.values_mut().for_each(|unseen| *unseen = Unseen::All);
            self.tell_members(&mut state);
        }
        let changed = state.engine.take_changed();
        if !changed.is_empty() {
            is_news = true;
            for unseen in state.watchers.values_mut() {
                if let Unseen::Keys(keys) = unseen {
                    keys.extend(changed.iter().cloned());
                    if keys.len() > MAX_WATCHED_KEYS {
                        *unseen = Unseen::All;
                    }
                }
            }
        }
        // Whose the keys are may differ too.
        let replicas = state.replicas_version();
        is_news |= std::mem::replace(&mut state.told, replicas) != replicas;
        drop(state);
        if is_news {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    // For the driver.

    /// The members have changed, or the replicas.
    pub(super) fn follow_members(&self) {
        let mut state = self.lock();
        self.tell_members(&mut state);
    }

    fn tell_members(&self, state: &mut State<T>) {
        let view = self.members.snapshot();
        let known: BTreeMap<ReplicaId, Holder> = holders(&state.engine).collect();
        let mut newest: BTreeMap<&NodeId, u32> = BTreeMap::new();
        for Holder { node, life } in known.values() {
            let newest = newest.entry(node).or_default();
            *newest = (*newest).max(*life);
        }
        let newest_life = |node: &NodeId| newest.get(node).copied().unwrap_or(0);
        let up = view
            .up()
            .map(|member| Holder { node: member.id.clone(), life: newest_life(&member.id) }.replica(&self.name));
        let up: BTreeSet<ReplicaId> = up.collect();
        let unknown = state.engine.live_actors().filter(|id| !known.contains_key(id) && !up.contains(id));
        let now = self.now();
        let departed = state.departures.look(now, &view, &known, unknown.collect());
        state.engine.handle_departed(now, departed);
        state.engine.handle_up(now, up);
    }

    /// Where replicas are to be found, for those that are up; and the version of the replicas that this is from.
    pub(super) fn addresses(&self) -> (ReplicasVersion, BTreeMap<ReplicaId, crate::rpc::Peer>) {
        let state = self.lock();
        let view = self.members.snapshot();
        let mut lives: BTreeMap<NodeId, Vec<ReplicaId>> = BTreeMap::new();
        for (id, holder) in holders(&state.engine) {
            lives.entry(holder.node).or_default().push(id);
        }
        let mut addresses = BTreeMap::new();
        for member in view.up().filter(|member| member.id != self.node) {
            let peer = crate::rpc::Peer { node: member.id.clone(), addr: member.addr };
            let first = Holder { node: member.id.clone(), life: 0 }.replica(&self.name);
            let lives = lives.get(&member.id).into_iter().flatten().copied();
            addresses.extend(lives.chain([first]).map(|id| (id, peer.clone())));
        }
        (state.replicas_version(), addresses)
    }

    pub(super) fn has_met(&self) -> bool {
        self.lock().engine.has_met()
    }

    pub(super) fn answers(&self) -> watch::Receiver<u64> {
        self.answered.subscribe()
    }

    pub(super) fn replica(&self) -> ReplicaId {
        self.lock().engine.replica().id()
    }

    /// Who holds which replica, of the members that are up.
    pub(super) fn owners(&self) -> Owners {
        let state = self.lock();
        let view = self.members.snapshot();
        let mut newest: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (_, Holder { node, life }) in holders(&state.engine) {
            let newest = newest.entry(node).or_default();
            *newest = (*newest).max(life);
        }
        let own = std::iter::once((state.engine.replica().id(), self.node.clone()));
        let others = view.up().map(|member| &member.id).filter(|id| **id != self.node).map(|id| {
            let holder = Holder { node: id.clone(), life: newest.get(id).copied().unwrap_or(0) };
            (holder.replica(&self.name), id.clone())
        });
        others.chain(own).collect()
    }

    pub(super) fn owners_version(&self) -> OwnersVersion {
        let replicas = self.lock().replicas_version();
        (self.members.snapshot().version, replicas)
    }

    pub(super) fn replicas_version(&self) -> ReplicasVersion {
        self.lock().replicas_version()
    }

    /// Lets the replica do what is due, and takes what it asks for. Returns when it wants to be asked again.
    pub(super) fn advance(&self, requests: &mut Vec<Errand>) -> Option<Instant> {
        let now = self.now();
        let mut state = self.lock();
        if state.departures.is_due(now) {
            self.tell_members(&mut state);
        }
        state.engine.handle_timeout(now);
        let engine = state.engine_number;
        while let Some(out) = state.engine.poll_request(now) {
            requests.push(Errand { engine, out });
        }
        let due = state.engine.poll_timeout();
        self.happened(state);
        // A peer that is Down is waited for no longer.
        if self.answered.receiver_count() > 0 {
            self.answered.send_modify(|count| *count += 1);
        }
        due.map(|due| self.started + due)
    }

    pub(super) fn handle_answer(&self, engine: u64, id: u64, answer: Option<&[u8]>) {
        let now = self.now();
        let mut state = self.lock();
        if state.engine_number == engine {
            state.engine.handle_answer(now, id, answer);
        }
        self.happened(state);
        self.answered.send_modify(|count| *count += 1);
    }
}

fn engine<T: Crdt>(node: &NodeId, name: &str, life: u32, config: &SyncConfig) -> AntiEntropy<T> {
    let holder = Holder { node: node.clone(), life };
    // All randomness of a node follows from its seed, and its boot does.
    let seed = (node.boot.nonce >> 64) as u64 ^ node.boot.nonce as u64;
    AntiEntropy::new(holder.replica(name), holder.tag(), seed, config.clone())
}

/// The replicas that are known, with who holds them.
fn holders<T: Crdt>(engine: &AntiEntropy<T>) -> impl Iterator<Item = (ReplicaId, Holder)> {
    engine.replicas().filter_map(|(id, tag)| Some((id, Holder::from_tag(tag)?)))
}

impl<T: Crdt> Served for Shared<T> {
    fn serve(&self, request: &[u8]) -> Option<Vec<u8>> {
        let now = self.now();
        let mut state = self.lock();
        let answer = state.engine.handle_request(now, request);
        if let Err(error) = &answer {
            if state.malformed == 0 {
                tracing::warn!(document = %self.name, %error, "a peer's message does not decode: is it of another type?");
            }
            state.malformed += 1;
        }
        self.happened(state);
        self.wake.notify_one();
        answer.ok()
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.answered.send_modify(|count| *count += 1);
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
