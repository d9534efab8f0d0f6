//! Writes.
//!
//! A write is coordinated by a replica of the key, which counts it under its own name, so that a key's history has few
//! writers; the caller's node hands it over to one. What can fail at each step, and what the caller is told:
//!
//! | step | failure | outcome |
//! |---|---|---|
//! | the write is handed over | no replica could be reached | not applied |
//! | | the replica was reached, and did not answer | unknown |
//! | what is to be replaced is read from a quorum | too few answer | not applied |
//! | the time is looked at that it is to live for | it has passed by the clock here | not applied |
//! | its idempotency key is looked at | it is too old or too new by the clock here | not applied |
//! | | so many writes have one that there is no room | not applied |
//! | it is looked for in what a quorum knows | it is there | done, and nothing changes |
//! | the write is counted and stored at the coordinator | it is refused there | not applied |
//! | | its disk is full, and so are those of so many others that the level cannot be reached | not applied |
//! | the record is merged at the others | too few answer | unknown |
//! | meanwhile it is made durable at the coordinator | it is not, or not in time | unknown |

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use polity_cluster::NodeId;
use polity_cluster::mutation::{Mutation, mutated};
use polity_cluster::rpc::{Outcome as RpcOutcome, Peer};
use polity_crdt::VersionVector;
use polity_shard::ShardId;
use tokio::time::Instant;

use super::{Asked, Coordinator, Done, Errors, TooFew};
use crate::config::Consistency;
use crate::engine::{Commit, EngineError};
use crate::error::{KvError, Outcome};
use crate::map::Map;
use crate::record::{Blob, MAX_DONE, Record};
use crate::roster::Roster;
use crate::store::{self, Amended, Blind, Known, Said, WriteError, Written, millis};
use crate::tally::{Tally, Verdict};
use crate::wire::{Had, MERGE, Merge, WRITE, Write, WriteAnswer};

/// What a replica that hands a write over leaves of the time to the one that coordinates it, so that the coordinator's
/// answer arrives before the caller gives up.
const COORDINATORS_SHARE: f64 = 0.8;

impl Coordinator {
    /// Writes to a key.
    pub(crate) async fn write(&self, key: Blob, asked: Asked, within: Duration) -> Result<Done, KvError> {
        let renews = asked.update.expires.is_some() && asked.update.steps.is_empty();
        if renews && mutated(Mutation::ForgetsRenewals) {
            return Ok(Done { context: VersionVector::default(), changed: 1, total: 0 });
        }
        let deadline = Instant::now() + within;
        let is_late = || asked.update.expires.flatten().is_some_and(|at| at <= millis(self.wall()));
        loop {
            match self.try_write(&key, &asked, deadline).await {
                Ok(done) => return Ok(done),
                Err(Failed::TooFew(_)) if is_late() => return Err(KvError::Expired),
                Err(Failed::TooFew(few)) if few.again && self.pause(deadline).await => {}
                Err(Failed::TooFew(few)) => return Err(few.error("a write", Outcome::NotApplied)),
                Err(Failed::ForGood(error)) => return Err(error),
            }
        }
    }

    /// Hands a write over to one replica after the other, until one has got it.
    async fn try_write(&self, key: &Blob, asked: &Asked, deadline: Instant) -> Result<Done, Failed> {
        let map = self.map();
        let shard = self.store.shard_of(&key.0);
        let mut errors = Errors::default();
        let target = self.store.placed(shard);
        let (mut best, mut again, mut full) = ((0, target.quorum()), true, 0);
        for node in self.by_preference(&map, shard) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                again = false;
                break;
            }
            let write = Write {
                key: key.clone(),
                update: asked.update.clone(),
                context: asked.context.clone(),
                level: asked.level,
                timeout_ms: u32::try_from(left.mul_f64(COORDINATORS_SHARE).as_millis()).unwrap_or(u32::MAX),
            };
            match self.hand_over(&map, &node, write, left).await {
                HandedOver::Answered(WriteAnswer::Done { context, changed, total }) => {
                    return Ok(Done { context, changed, total });
                }
                HandedOver::Answered(WriteAnswer::WrongKind(found)) => match asked.update.kind {
                    Some(wanted) => return Err(Failed::ForGood(KvError::WrongKind { found, wanted })),
                    None => errors.note(&node, Err(format!("it refuses its own kind, {found}"))),
                },
                HandedOver::Answered(WriteAnswer::NotHere(reason)) | HandedOver::NotReached(reason) => {
                    errors.note(&node, Err(reason));
                }
                HandedOver::Answered(WriteAnswer::NoRoom(reason)) => {
                    full += 1;
                    errors.note(&node, Err(reason));
                }
                HandedOver::Answered(WriteAnswer::TooManySiblings(siblings)) => {
                    return Err(Failed::ForGood(KvError::TooManySiblings { siblings: siblings as usize }));
                }
                HandedOver::Answered(WriteAnswer::RecordTooLarge(bytes)) => {
                    let limit = self.config.max_record_bytes();
                    return Err(Failed::ForGood(KvError::RecordTooLarge { bytes: bytes as usize, limit }));
                }
                HandedOver::Answered(WriteAnswer::KeyOutOfWindow) => {
                    let window = self.config.idempotency_window;
                    return Err(Failed::ForGood(KvError::IdempotencyKeyOutOfWindow { window }));
                }
                HandedOver::Answered(WriteAnswer::TooManyKeys(limit)) => {
                    return Err(Failed::ForGood(KvError::TooManyIdempotencyKeys { limit: limit as usize }));
                }
                HandedOver::Answered(WriteAnswer::NotEnough { answered, needed, reason, again: may_help }) => {
                    best = best.max((answered as usize, needed as usize));
                    again &= may_help;
                    errors.note(&node, Err(reason));
                }
                HandedOver::Answered(WriteAnswer::Unknown { answered, needed, reason }) => {
                    let few = TooFew { answered: answered as usize, needed: needed as usize, reason, again: false };
                    return Err(Failed::ForGood(few.error("a write", Outcome::Unknown)));
                }
                HandedOver::Lost(reason) => return Err(Failed::ForGood(KvError::CoordinatorLost { reason })),
            }
        }
        let (replicas, reason) = (target.len(), errors.text());
        if full > replicas.saturating_sub(target.needed(asked.level)) {
            return Err(Failed::ForGood(KvError::NoRoom { full, replicas, reason }));
        }
        Err(Failed::TooFew(TooFew { answered: best.0, needed: best.1, reason, again }))
    }

    async fn hand_over(&self, map: &Map, to: &NodeId, write: Write, within: Duration) -> HandedOver {
        if *to == self.node {
            return HandedOver::Answered(self.coordinate(write).await);
        }
        let Some(peer) = map.peer(to) else {
            return HandedOver::NotReached("it is not a member any more".to_owned());
        };
        match self.rpc.call(&peer, &WRITE, &write, within).await {
            Ok(answer) => HandedOver::Answered(answer),
            Err(error) if error.outcome() == RpcOutcome::NotApplied => HandedOver::NotReached(error.to_string()),
            Err(error) => HandedOver::Lost(error.to_string()),
        }
    }

    /// Coordinates a write as a replica of its key.
    pub(crate) async fn coordinate(&self, write: Write) -> WriteAnswer {
        let deadline = Instant::now() + Duration::from_millis(write.timeout_ms.into());
        let map = self.map();
        let shard = self.store.shard_of(&write.key.0);
        let target = self.store.placed(shard);
        if !target.contains(&self.node) {
            return WriteAnswer::NotHere("it is no replica of the key".to_owned());
        }
        let Some(rosters) = self.store.rosters(shard) else {
            return WriteAnswer::NotHere("it has just started and is not ready".to_owned());
        };
        if let Err(few) = self.is_possible(&map, &rosters, write.level) {
            return not_enough(few);
        }
        let named = target.id();
        // What a put replaces may have to be asked of all replicas afterwards. If that cannot be, it is asked first.
        let is_calm = || rosters.len() == 1 && target.nodes().iter().all(|node| self.answers(&map, node));
        let may_be_amended = || !write.update.puts_a_causal_value() || (write.level != Consistency::One && is_calm());
        let first = if write.context.is_none() && may_be_amended() {
            match self.store.write_blindly(shard, &write.key.0, &write.update, self.wall(), named) {
                Ok(first) => first,
                Err(error) => return refused(error),
            }
        } else {
            None
        };
        let spread = Spread { map, shard, rosters, target, level: write.level, deadline };
        match first {
            Some((written, blind)) => {
                let _flight = self.store.flight(shard, &write.key.0, &written);
                self.spread_and_amend(spread, &write, written, &blind).await
            }
            None => {
                // To replace what a quorum knows, or to know what a quorum has done, ask a quorum. So does one whose context says
                // what it replaces, where the key may hold another kind.
                let once = write.update.once;
                let asked = self.wall();
                let known = match write.context.is_none() || once.is_some() || write.update.of_any_kind {
                    true => match self.gather_to_write(&write, asked, deadline).await {
                        Ok(record) => Some(Known { record, asked }),
                        Err(few) => return not_enough(few),
                    },
                    false => None,
                };
                let (wall, window) = (self.wall(), millis(self.config.idempotency_window));
                if once.is_some_and(|key| !key.counts_at(millis(wall), window)) {
                    return WriteAnswer::KeyOutOfWindow;
                }
                let asked = store::Write { update: &write.update, context: write.context.as_ref(), known, wall };
                let written = match self.store.write(shard, &write.key.0, asked, named) {
                    Ok(written) => written,
                    Err(error) => return refused(error),
                };
                let _flight = self.store.flight(shard, &write.key.0, &written);
                if mutated(Mutation::AckAlone) {
                    return done(written);
                }
                match self.spread(&spread, &write.key, &written, None).await {
                    Ok(_) => done(written),
                    Err(answer) => answer,
                }
            }
        }
    }

    /// What is known of a key that is to be written. At level `One` nobody else is asked, unless something has expired here: others
    /// may have given it another time, so it is removed only as far as a quorum knows, if one answers.
    async fn gather_to_write(&self, write: &Write, asked: Duration, deadline: Instant) -> Result<Record, TooFew> {
        let known = self.gather(&write.key, write.level, deadline).await?.merged;
        if write.level == Consistency::One
            && known.has_expired_parts(millis(asked))
            // Whatever comes of that, there is time left for the write.
            && let half = deadline.saturating_duration_since(Instant::now()) / 2
            && let Ok(gathered) = self.gather(&write.key, Consistency::Quorum, deadline - half).await
        {
            return Ok(gathered.merged);
        }
        Ok(known)
    }

    /// Whether a node is likely to answer at once.
    fn answers(&self, map: &Map, node: &NodeId) -> bool {
        *node == self.node || (map.is_up(node) && !self.rpc.is_stalled(node))
    }

    /// Ends a write that asked nobody first. An error does not undo it: it may have been seen.
    async fn spread_and_amend(
        &self,
        mut spread: Spread,
        write: &Write,
        written: Written,
        blind: &Blind,
    ) -> WriteAnswer {
        if mutated(Mutation::AckAlone) {
            return done(written);
        }
        let (key, shard, named) = (&write.key, spread.shard, spread.target.id());
        let update = (&write.update, self.wall());
        let (mut written, mut everyone) = (written, false);
        loop {
            let said = match self.spread(&spread, key, &written, Some(blind.before())).await {
                Ok(said) => said,
                // One that others have placed a shard on and that is no member here yet, will be in a moment.
                Err(_) if everyone && self.pause(spread.deadline).await => {
                    spread.map = self.map();
                    spread.rosters = self.store.rosters(shard).unwrap_or(spread.rosters);
                    continue;
                }
                Err(answer) => return answer,
            };
            match self.store.amend((shard, &key.0), update, (written, blind), (said, everyone), named) {
                Ok(Amended::Enough(written)) => return done(written),
                Ok(Amended::Further(written)) => {
                    spread.level = write.level;
                    return match self.spread(&spread, key, &written, None).await {
                        Ok(_) => done(written),
                        Err(answer) => answer,
                    };
                }
                // Once more, and nobody may be missing.
                Ok(Amended::Undecided(again)) => {
                    (written, everyone) = (again, true);
                    spread.level = Consistency::All;
                }
                Err(error) => return lost(error),
            }
        }
    }

    /// Brings what was written here to the other replicas, and waits for as many as the level demands, and for the disk.
    /// `before` is the hash of what was here before: who had something else says what.
    async fn spread(
        &self,
        spread: &Spread,
        key: &Blob,
        written: &Written,
        before: Option<u64>,
    ) -> Result<Vec<Said>, WriteAnswer> {
        let Spread { map, shard, rosters, target, level, deadline } = spread;
        let deadline = &self.fresh_until(*deadline);
        let mut tally = Tally::new(target.clone(), *level);
        tally.asked(&self.node);
        tally.answered(self.node.clone(), written.vouch.clone());
        let record = written.record.clone().into();
        let merge = Merge { shard: shard.0, named: tally.target_id(), key: key.clone(), record, before };
        let mut all: Vec<NodeId> = rosters.iter().flat_map(Roster::nodes).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|node| *node != self.node);
        let mut said = Vec::new();
        // Every replica gets the write, whatever the level; the level says whose answers are waited for.
        if tally.verdict() == Verdict::Done {
            let within = deadline.saturating_duration_since(Instant::now());
            let peers = all.iter().filter_map(|node| map.peer(node));
            let calls = peers.map(|peer| (peer.node.clone(), self.rpc.call(&peer, &MERGE, &merge, within)));
            self.mending.straggle(*shard, key, calls);
            let durable = self.durable_here(*shard, *deadline).await;
            return durable.map(|()| said).map_err(|reason| WriteAnswer::Unknown { answered: 0, needed: 1, reason });
        }
        let ask = |peer: &Peer, within| self.rpc.call(peer, &MERGE, &merge, within);
        let take = |node: &NodeId, had: Result<Option<Had>, String>| {
            let had = had.inspect_err(|_| self.mending.missed(node, *shard, key))?;
            said.extend(had.map(Said::try_from).transpose().map_err(|error| error.to_string())?);
            Ok(())
        };
        let everyone = usize::MAX;
        let merged = self.collect(map, &mut tally, all.into(), everyone, *deadline, ask, take, Errors::default());
        // The others get the write, too, and whoever does not take it is remembered.
        let merged = async { merged.await.map(|late| self.mending.straggle(*shard, key, late.0.into_iter())) };
        match join(merged, self.durable_here(*shard, *deadline)).await {
            (Ok(()), Ok(())) => Ok(said),
            (Ok(()), Err(reason)) => Err(WriteAnswer::Unknown { answered: 0, needed: 1, reason }),
            (Err(few), _) if mutated(Mutation::DeniesWrites) => Err(not_enough(few)),
            (Err(few), _) => {
                let TooFew { answered, needed, reason, .. } = few;
                Err(WriteAnswer::Unknown { answered: answered as u32, needed: needed as u32, reason })
            }
        }
    }

    /// Waits until what this node holds of a shard is durable, as far as its engine promises that.
    async fn durable_here(&self, shard: ShardId, deadline: Instant) -> Result<(), String> {
        let commit = self.store.commit([shard]).map_err(|error| error.to_string())?;
        if commit == Commit::NONE {
            return Ok(());
        }
        match tokio::time::timeout_at(deadline, self.store.durable(commit)).await {
            Ok(durable) => durable.map_err(|error| error.to_string()),
            Err(_) => Err("the coordinator's disk took too long".to_owned()),
        }
    }
}

/// What a replica says that was asked to coordinate a write, or what stands in for its answer.
enum HandedOver {
    Answered(WriteAnswer),
    /// It never got the write.
    NotReached(String),
    /// It may have got it.
    Lost(String),
}

/// Why one attempt to write failed.
enum Failed {
    /// Nothing was written.
    TooFew(TooFew),
    /// Trying again is not for us to decide.
    ForGood(KvError),
}

/// Where a write goes.
struct Spread {
    map: Arc<Map>,
    shard: ShardId,
    rosters: Vec<Roster>,
    target: Roster,
    level: Consistency,
    deadline: Instant,
}

fn done(written: Written) -> WriteAnswer {
    let Written { context, changed, total, .. } = written;
    WriteAnswer::Done { context, changed, total }
}

/// What a store says after a write that may have been seen.
fn lost(error: WriteError) -> WriteAnswer {
    WriteAnswer::Unknown { answered: 0, needed: 1, reason: error.to_string() }
}

/// What a store says that did not write. Nothing has changed then. One whose engine takes nothing, because its disk is full, leaves
/// it to another replica.
fn refused(error: WriteError) -> WriteAnswer {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match error {
        WriteError::TooManySiblings(count) => WriteAnswer::TooManySiblings(number(count)),
        WriteError::RecordTooLarge(bytes) => WriteAnswer::RecordTooLarge(number(bytes)),
        WriteError::WrongKind(kind) => WriteAnswer::WrongKind(kind),
        WriteError::TooManyKeys => WriteAnswer::TooManyKeys(MAX_DONE as u32),
        WriteError::Engine(error @ EngineError::Full { .. }) => WriteAnswer::NoRoom(error.to_string()),
        error => WriteAnswer::NotHere(error.to_string()),
    }
}

fn not_enough(few: TooFew) -> WriteAnswer {
    let TooFew { answered, needed, reason, again } = few;
    WriteAnswer::NotEnough { answered: answered as u32, needed: needed as u32, reason, again }
}
