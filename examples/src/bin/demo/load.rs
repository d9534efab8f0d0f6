//! The load: many clients at once that replay the jobs in order until they are told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::client::{Ask, Client, Done, Ended};
use crate::data::{Job, Jobs, Operation};
use crate::ledger::Finding;
use crate::stats::Stats;

/// How many requests are under way at a time.
pub(crate) const CLIENTS: usize = 64;

#[derive(Debug)]
pub(crate) struct Load {
    client: Arc<Client>,
    jobs: Mutex<Jobs>,
    stats: Mutex<Stats>,
    stop: AtomicBool,
}

impl Load {
    pub(crate) fn new(client: Arc<Client>, jobs: Jobs) -> Self {
        Self { client, jobs: Mutex::new(jobs), stats: Mutex::default(), stop: AtomicBool::new(false) }
    }

    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs were begun.
    pub(crate) fn begun(&self) -> usize {
        self.jobs().drawn()
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Runs all clients until [`Load::stop`], and lets them finish what they have begun.
    pub(crate) async fn run(self: Arc<Self>) -> Result<()> {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let load = self.clone();
            clients.spawn(async move {
                while !load.stop.load(Ordering::Acquire) {
                    let job = load.jobs().draw();
                    load.work(job).await;
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.context("a client failed")?;
        }
        Ok(())
    }

    async fn work(&self, job: Job) {
        let Job { row, operation, lot } = job;
        let ask = match operation {
            Operation::Get => Ask::Get,
            Operation::Add => Ask::Add,
            Operation::CompareAndSet => Ask::CompareAndSet,
        };
        let ended = self.client.request(ask, row, lot).await;
        let missing = matches!(ended.result, Ok(Done::Read(0, _) | Done::Missing));
        self.stats().count(&ended);
        if missing {
            // What a cache's client does on a miss: fetch the object from elsewhere, and add it.
            let ended = self.client.request(Ask::Add, row, lot).await;
            self.stats().count(&ended);
        }
    }
}

/// What reading everything back has shown.
#[derive(Debug, Default)]
pub(crate) struct ReadBack {
    pub(crate) keys: usize,
    pub(crate) finding: Finding,
    /// Keys with more than one value: concurrent additions that nobody has merged since.
    pub(crate) with_siblings: usize,
    /// Keys that could not be read.
    pub(crate) unreadable: usize,
}

impl ReadBack {
    fn count(&mut self, ended: &Ended) {
        self.keys += 1;
        match &ended.result {
            Ok(Done::Read(values, finding)) => {
                self.with_siblings += usize::from(*values > 1);
                self.finding.missing += finding.missing;
                self.finding.unclear += finding.unclear;
                self.finding.damaged += finding.damaged;
            }
            _ => self.unreadable += 1,
        }
    }
}

/// Reads every key that was ever written, at quorum, from all nodes in turn. `progress` is told how many are done.
pub(crate) async fn read_back(client: &Arc<Client>, progress: impl Fn(usize)) -> Result<ReadBack> {
    let mut found = ReadBack::default();
    let mut reads = JoinSet::new();
    let mut keys = client.ledger().keys().into_iter();
    loop {
        while reads.len() < CLIENTS
            && let Some(key) = keys.next()
        {
            let client = client.clone();
            reads.spawn(async move { client.read_back(key, key).await });
        }
        let Some(ended) = reads.join_next().await else { return Ok(found) };
        found.count(&ended.context("a client failed")?);
        progress(found.keys);
    }
}
