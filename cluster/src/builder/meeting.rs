//! Who is there when a node starts, and which life of its name it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Builder, ground};
use crate::discovery::{Asker, First};
use crate::error::Error;
use crate::formation::driver::remembered;
use crate::formation::{Charter, ClusterId};
use crate::ground::Executor;
use crate::hello::Refusal;
use crate::identity::Identity;
use crate::mutation::{Mutation, mutated};
use crate::rpc::{Rpc, RpcErrorKind};

/// How long to wait before a seed that did not answer is greeted again while the node starts.
const GREET_AGAIN: Duration = Duration::from_millis(50);
/// How long it waits at most, once it has tried some times.
const GREET_AGAIN_AT_MOST: Duration = Duration::from_millis(400);
/// The name of the file that remembers the generation.
const GENERATION_FILE: &str = "generation";

/// What a node knows of its cluster before it is a member.
pub(super) struct Found {
    pub(super) seeds: BTreeSet<SocketAddr>,
    pub(super) met: Vec<Identity>,
    pub(super) generation: u64,
    /// The id of the cluster that the folder remembers.
    pub(super) remembered: Option<ClusterId>,
}

impl Builder {
    /// Finds out where others are, meets one if there is one, and which generation this node is: one after `newest` at
    /// least.
    pub(super) async fn find_members(
        &self,
        asker: &mut Asker,
        charter: &Charter,
        (rpc, executor): (&Rpc, &Executor),
        own: SocketAddr,
        (patience, newest): (Duration, u64),
    ) -> Result<Found, Error> {
        let unread = |error| ground("cannot read the id of the cluster", error);
        let remembered = remembered(&self.env, self.data_dir.as_ref(), &self.cluster).map_err(unread)?;
        if let Some(id) = remembered {
            charter.adopt(id);
        }
        let First { seeds, is_first } = asker.first().await?;
        let (met, heard) = self.meet((rpc, executor), own, &seeds, patience).await?;
        let known = met.iter().map(|(_, generation)| *generation).fold(newest, u64::max);
        let generation = self.next_generation(known, !heard && !is_first)?;
        Ok(Found { seeds, met: met.into_iter().map(|(identity, _)| identity).collect(), generation, remembered })
    }

    /// Greets all seeds until one lets us in. Returns who did, and our name's generation as they know it; nobody, if
    /// none was there within `patience`. Returns too whether any was heard of, be it that it was starting itself.
    ///
    /// If all of them are there and start too, none of them is a member of anything: the one with the lowest address need
    /// not wait, and the others join it.
    async fn meet(
        &self,
        (rpc, executor): (&Rpc, &Executor),
        own: SocketAddr,
        seeds: &BTreeSet<SocketAddr>,
        patience: Duration,
    ) -> Result<(Vec<(Identity, u64)>, bool), Error> {
        // Who was heard of, and whether it starts too.
        let heard = Arc::new(watch::Sender::new(BTreeMap::new()));
        let deadline = Instant::now() + patience;
        let mut greetings = JoinSet::new();
        for seed in seeds.iter().copied() {
            let (rpc, heard) = (rpc.clone(), heard.clone());
            let greeting = async move {
                // Each try is a handshake: seeds that wait for each other must not keep each other busy.
                let mut again = GREET_AGAIN;
                loop {
                    match rpc.greet(seed, patience).await {
                        Ok(greeting) => return Ok((greeting.id, greeting.your_generation)),
                        Err(error) => match error.kind() {
                            RpcErrorKind::Refused(refusal) if !refusal.is_retryable() => {
                                return Err(Error::Refused { seed, refusal: refusal.clone() });
                            }
                            RpcErrorKind::Untrusted(cause) => {
                                return Err(Error::Untrusted { seed, cause: cause.clone() });
                            }
                            RpcErrorKind::Outdated(cause) => {
                                return Err(Error::Outdated { seed, cause: cause.clone() });
                            }
                            kind => {
                                if let RpcErrorKind::Refused(refusal) = kind {
                                    let starts = matches!(refusal, Refusal::Starting);
                                    heard.send_if_modified(|heard| heard.insert(seed, starts) != Some(starts));
                                }
                                tokio::time::sleep(again).await;
                                again = (again * 2).min(GREET_AGAIN_AT_MOST);
                            }
                        },
                    }
                }
            };
            greetings.spawn_on(greeting, executor.handle());
        }
        let (mut met, mut refused) = (Vec::new(), None);
        let mut news = heard.subscribe();
        let is_first_of_all = |heard: &BTreeMap<SocketAddr, bool>| {
            seeds.first() > Some(&own) && seeds.iter().all(|seed| heard.get(seed) == Some(&true))
        };
        // Who is slower than the first that answers is met by gossip.
        while met.is_empty() {
            tokio::select! {
                biased;
                answer = greetings.join_next() => match answer {
                    Some(Ok(Ok(greeting))) => met.push(greeting),
                    Some(Ok(Err(error))) => refused = Some(error),
                    Some(Err(_)) => {}
                    None => break,
                },
                _ = news.wait_for(is_first_of_all) => break,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        match refused {
            Some(error) if met.is_empty() => Err(error),
            _ => {
                let heard = !met.is_empty() || !heard.borrow().is_empty();
                Ok((met, heard))
            }
        }
    }

    /// One more than what the seeds and our own folder know of our name.
    ///
    /// A node that is `cut_off` from all seeds, and may have lost its folder, cannot know what it was before. The wall
    /// clock is then the best guess: most likely it is above, and if it is not, the node stops when it meets its cluster.
    fn next_generation(&self, known: u64, cut_off: bool) -> Result<u64, Error> {
        let mut newest = known;
        if let Some(path) = self.generation_file() {
            let error = |e| ground(&format!("cannot read {}", path.display()), e);
            if let Some(content) = self.env.ground().read(&path).map_err(error)? {
                // A disk that lost or tore the file is one that was replaced: the seeds know the generation, and a node
                // that meets a newer one of its name stops.
                match String::from_utf8_lossy(&content).trim().parse::<u64>() {
                    Ok(remembered) => newest = newest.max(remembered),
                    Err(cause) => tracing::warn!(path = %path.display(), %cause, "the generation file is damaged"),
                }
            }
        }
        if cut_off {
            let since = self.env.ground().wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            newest = newest.max(since.as_millis() as u64);
        }
        let step = if newest > 0 && mutated(Mutation::BootUsedAgain) { 0 } else { 1 };
        let generation = newest.saturating_add(step);
        self.remember_generation(generation)?;
        Ok(generation)
    }

    /// Has the next start take a greater one, if there is a folder.
    pub(super) fn remember_generation(&self, generation: u64) -> Result<(), Error> {
        let Some(path) = self.generation_file() else { return Ok(()) };
        let error = |e| ground(&format!("cannot write {}", path.display()), e);
        self.env.ground().write(&path, generation.to_string().as_bytes()).map_err(error)
    }

    fn generation_file(&self) -> Option<PathBuf> {
        self.data_dir.as_ref().map(|folder| folder.join(GENERATION_FILE))
    }
}
