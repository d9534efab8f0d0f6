//! Asks a node's discoveries, when it starts and then for ever, and makes one list of what they say.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Context, Discovery, DiscoveryError, MAX_SEEDS, Memory};
use crate::driver::Command;
use crate::ground::Executor;
use crate::membership::view::Members;

/// How long one discovery may take to answer: a name server that is down makes itself felt after about as long.
pub(super) const FIND_WITHIN: Duration = Duration::from_secs(5);

/// How often the addresses of members are written at most: a node that is killed loses no more than what is new.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// What the discoveries of a node have done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiscoveryStats {
    /// How often a discovery was asked.
    pub asked: u64,
    /// How often one failed, or did not answer in time.
    pub failed: u64,
    /// How many addresses were left out because there were too many.
    pub left_out: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    asked: AtomicU64,
    failed: AtomicU64,
    left_out: AtomicU64,
}

impl Counts {
    pub(crate) fn snapshot(&self) -> DiscoveryStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiscoveryStats { asked: read(&self.asked), failed: read(&self.failed), left_out: read(&self.left_out) }
    }
}

/// One discovery, and what is known from it.
struct Source {
    discovery: Arc<dyn Discovery>,
    /// A default that nobody asked for: what is wrong with it is nobody's concern, and it is asked last.
    by_default: bool,
    found: BTreeSet<SocketAddr>,
    /// Why it failed last. It is logged again when the reason changes.
    trouble: Option<String>,
}

/// What is known when the node starts.
pub(crate) struct First {
    /// Where others may be.
    pub(crate) seeds: BTreeSet<SocketAddr>,
    /// All discoveries have answered, and nobody else is anywhere.
    pub(crate) is_first: bool,
}

/// Asks a node's discoveries.
pub(crate) struct Asker {
    context: Context,
    sources: Vec<Source>,
    rng: StdRng,
    handle: Handle,
    counts: Arc<Counts>,
}

impl Asker {
    /// Asks `chosen`, and `default` after all of them. The questions are put on `handle`.
    pub(crate) fn new(
        context: Context,
        chosen: &[Arc<dyn Discovery>],
        default: Option<Arc<dyn Discovery>>,
        rng: StdRng,
        handle: Handle,
    ) -> Self {
        let source = |discovery, by_default| Source { discovery, by_default, found: BTreeSet::new(), trouble: None };
        let chosen = chosen.iter().map(|discovery| source(discovery.clone(), false));
        let sources = chosen.chain(default.map(|discovery| source(discovery, true))).collect();
        Self { context, sources, rng, handle, counts: Arc::default() }
    }

    /// What was counted.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Where others may be, when the node starts.
    ///
    /// # Errors
    /// Nobody was found, and a discovery failed: whether there is a cluster already is then unknown.
    pub(crate) async fn first(&mut self) -> Result<First, DiscoveryError> {
        let failed = self.ask(|source| !source.by_default).await;
        let mut seeds = self.seeds();
        if seeds.is_empty() {
            if let Some(error) = failed {
                return Err(error);
            }
            self.ask(|source| source.by_default).await;
            seeds = self.seeds();
        }
        Ok(First { is_first: seeds.is_empty(), seeds })
    }

    /// Asks for ever, about every `interval`, and tells the driver of each change from `last`: of what is found, and of
    /// who was a member once and is not known now.
    pub(crate) async fn run(
        mut self,
        interval: Duration,
        mut last: BTreeSet<SocketAddr>,
        mut memory: Memory,
        members: Members,
        tell: mpsc::Sender<Command>,
    ) {
        let mut write_at = Instant::now() + WRITE_EVERY;
        // A folder that does not answer keeps nobody from asking.
        let mut writing = JoinSet::new();
        loop {
            self.ask(|_| true).await;
            let view = members.snapshot();
            memory.see(&view, self.context.addr(), &mut self.rng);
            let mut seeds = self.seeds();
            seeds.extend(memory.to_greet(&view, &mut self.rng));
            if seeds != last {
                tracing::debug!(?seeds, "the seeds have changed");
                last.clone_from(&seeds);
                // An error means that the node has stopped, and this task with it.
                let _ = tell.send(Command::Seeds(seeds)).await;
            }
            if let Some(written) = writing.try_join_next() {
                memory.written(written.unwrap_or(false));
            }
            if Instant::now() >= write_at && writing.is_empty() {
                if let Some(write) = memory.write(self.context.env()) {
                    writing.spawn_on(write, &self.handle);
                }
                write_at = Instant::now() + WRITE_EVERY;
            }
            sleep(interval.mul_f64(self.rng.random_range(0.75..1.25))).await;
        }
    }

    /// What is announced for as long as the node runs.
    pub(crate) fn announce(&self, executor: &Executor, tasks: &mut JoinSet<()>) {
        for source in &self.sources {
            executor.spawn_in(tasks, source.discovery.announce(self.context.clone()));
        }
    }

    /// Asks these, side by side. Returns the first failure.
    async fn ask(&mut self, which: impl Fn(&Source) -> bool) -> Option<DiscoveryError> {
        // Each has a task of its own, so that one that panics takes nothing with it.
        let (mut asking, mut open) = (JoinSet::new(), BTreeSet::new());
        for (at, source) in self.sources.iter().enumerate().filter(|(_, source)| which(source)) {
            let (discovery, context) = (source.discovery.clone(), self.context.clone());
            let gate = context.env().ground().gate();
            let question = async move { (at, timeout(FIND_WITHIN, discovery.find(&context)).await) };
            asking.spawn_on(gate.pass(question), &self.handle);
            open.insert(at);
            self.counts.asked.fetch_add(1, Ordering::Relaxed);
        }
        let mut failures: Vec<(usize, DiscoveryError)> = Vec::new();
        while let Some(answer) = asking.join_next().await {
            let Ok((at, answer)) = answer else { continue };
            open.remove(&at);
            let late = |_| DiscoveryError::new(self.describe(at), format!("no answer within {FIND_WITHIN:?}"));
            match answer.map_err(late).and_then(|answer| answer) {
                Ok(found) => self.take(at, found),
                Err(error) => failures.push((at, error)),
            }
        }
        failures.extend(open.into_iter().map(|at| (at, DiscoveryError::new(self.describe(at), "it panicked"))));
        // In the order in which they were given, so that the error does not depend on who was quicker.
        failures.sort_by_key(|(at, _)| *at);
        for (at, error) in &failures {
            self.miss(*at, error);
        }
        failures.into_iter().next().map(|(_, error)| error)
    }

    fn describe(&self, at: usize) -> String {
        format!("the discovery {:?}", self.sources[at].discovery)
    }

    fn take(&mut self, at: usize, found: BTreeSet<SocketAddr>) {
        let found = self.bounded(found);
        let source = &mut self.sources[at];
        if let Some(trouble) = source.trouble.take() {
            tracing::info!(discovery = ?source.discovery, %trouble, "a discovery works again");
        }
        source.found = found;
    }

    /// What was found before goes on to count.
    fn miss(&mut self, at: usize, error: &DiscoveryError) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let both = self.sources[at].found.union(error.found()).copied().collect();
        let found = self.bounded(both);
        let source = &mut self.sources[at];
        source.found = found;
        let trouble = error.to_string();
        if source.trouble.as_ref() == Some(&trouble) {
            return;
        }
        if source.by_default {
            tracing::debug!(%error, "a discovery does not work");
        } else {
            tracing::warn!(%error, "a discovery does not work: it is asked again, for ever");
        }
        source.trouble = Some(trouble);
    }

    /// All that was found.
    fn seeds(&mut self) -> BTreeSet<SocketAddr> {
        let all = self.sources.iter().flat_map(|source| source.found.iter().copied()).collect();
        self.bounded(all)
    }

    /// What others can listen on, without ourselves. Of too many, some by chance: each time others.
    fn bounded(&mut self, found: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        let own = self.context.addr();
        let usable = |addr: &SocketAddr| *addr != own && addr.port() != 0 && !addr.ip().is_unspecified();
        let found: BTreeSet<SocketAddr> = found.into_iter().filter(usable).collect();
        if found.len() <= MAX_SEEDS {
            return found;
        }
        self.counts.left_out.fetch_add((found.len() - MAX_SEEDS) as u64, Ordering::Relaxed);
        found.into_iter().sample(&mut self.rng, MAX_SEEDS).into_iter().collect()
    }
}
