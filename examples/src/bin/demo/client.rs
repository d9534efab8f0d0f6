//! A client of the cluster: it asks one node, and another if that one does not answer or could not do it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::data::Row;
use crate::ledger::{Fate, Finding, Ledger};
use crate::link::{CallError, Link};
use crate::protocol::{Answer, Request};
use crate::value;

/// How long one node may take: a read and a write of the store, each with the store's own limit of 2 s, and some.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
/// How long a request may take with all its attempts.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// The pause before the first further attempt. It doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// What a request is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Get,
    Add,
    CompareAndSet,
}

/// What it did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// What was read, and how it agrees with the ledger.
    Read(usize, Finding),
    Written,
    /// There was a value already, or none to compare with.
    Nothing,
    Missing,
}

/// Why it is over without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not applied. (Of a read, always.)
    NotApplied(String),
    /// It may have been applied. A client must not simply send it again.
    Unknown(String),
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<Done, Failure>,
    /// How often it was sent again.
    pub(crate) retries: usize,
    pub(crate) took: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    links: RwLock<Vec<Arc<Link>>>,
    ledger: Mutex<Ledger>,
}

impl Client {
    /// The nodes that can be asked.
    pub(crate) fn set_links(&self, links: Vec<Arc<Link>>) {
        *self.links.write().unwrap_or_else(PoisonError::into_inner) = links;
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node to ask in the attempt of this number: those whose pipes are open in turn, beginning with the drawn one.
    fn link(&self, turn: usize) -> Option<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let open: Vec<&Arc<Link>> = links.iter().filter(|link| link.is_open()).collect();
        (!open.is_empty()).then(|| open[turn % open.len()].clone())
    }

    pub(crate) async fn request(&self, ask: Ask, row: Row, lot: u32) -> Ended {
        let began = Instant::now();
        let (mut retries, mut pause) = (0, FIRST_PAUSE);
        let result = loop {
            let result = match self.link(lot as usize + retries) {
                Some(link) => self.attempt(&link, ask, row).await,
                None => Err(Failure::NotApplied("no node's pipes are open".to_owned())),
            };
            match result {
                Err(Failure::NotApplied(_)) if began.elapsed() + pause < REQUEST_WITHIN => {}
                result => break result,
            }
            // The first further attempt, at another node, may well succeed at once.
            if retries > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            retries += 1;
        };
        Ended { result, retries, took: began.elapsed() }
    }

    async fn attempt(&self, link: &Link, ask: Ask, row: Row) -> Result<Done, Failure> {
        let Row { key, size } = row;
        if ask == Ask::Get {
            let as_of = self.ledger().now();
            return match call(link, Request::Get { key }).await? {
                Answer::Values(values) => Ok(Done::Read(values.len(), self.ledger().inspect(key, as_of, &values))),
                other => Err(unexpected(&other)),
            };
        }
        // Every attempt is a write of its own: that it is sent again says that the one before was not applied.
        let stamp = self.ledger().begin(key, size);
        let body = value::body(stamp, size);
        let request = match ask {
            Ask::Add => Request::Add { key, body },
            _ => Request::CompareAndSet { key, body },
        };
        let answer = call(link, request).await;
        let (fate, replaced, result) = match answer {
            Ok(Answer::Written { replaced }) => (Fate::Acknowledged, Some(replaced), Ok(Done::Written)),
            Ok(Answer::Exists) => (Fate::NotApplied, None, Ok(Done::Nothing)),
            Ok(Answer::Missing) => (Fate::NotApplied, None, Ok(Done::Missing)),
            Ok(other) => (Fate::Unknown, None, Err(unexpected(&other))),
            Err(Failure::NotApplied(reason)) => (Fate::NotApplied, None, Err(Failure::NotApplied(reason))),
            Err(Failure::Unknown(reason)) => (Fate::Unknown, None, Err(Failure::Unknown(reason))),
        };
        self.ledger().end(stamp, fate, replaced);
        result
    }

    /// Reads a key for the last time. Returns the values.
    pub(crate) async fn read_back(&self, key: u32, lot: u32) -> Ended {
        self.request(Ask::Get, Row { key, size: 0 }, lot).await
    }
}

fn unexpected(answer: &Answer) -> Failure {
    Failure::Unknown(format!("an answer to something else: {answer:?}"))
}

async fn call(link: &Link, request: Request) -> Result<Answer, Failure> {
    let write = request.is_write();
    let not_answered = |reason: String| if write { Failure::Unknown(reason) } else { Failure::NotApplied(reason) };
    match tokio::time::timeout(ATTEMPT_WITHIN, link.call(request)).await {
        Ok(Ok(Answer::Failed { unknown: true, reason })) => Err(Failure::Unknown(reason)),
        Ok(Ok(Answer::Failed { unknown: false, reason })) => Err(Failure::NotApplied(reason)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(CallError::NotSent)) => Err(Failure::NotApplied(format!("the pipes of {} are closed", link.name))),
        Ok(Err(CallError::Lost)) => Err(not_answered(format!("{} ended before it answered", link.name))),
        Err(_) => Err(not_answered(format!("{} did not answer within {ATTEMPT_WITHIN:?}", link.name))),
    }
}

/// Asks a node to say when all replicas are where they belong.
pub(crate) async fn settle(link: &Link) -> Result<(), CallError> {
    match link.call(Request::Settle).await? {
        Answer::Settled => Ok(()),
        _ => Err(CallError::Lost),
    }
}
