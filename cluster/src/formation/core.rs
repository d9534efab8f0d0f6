//! How the nodes that start choose the id of their cluster: single-decree Paxos (Lamport, *Paxos Made Simple*, 2001,
//! section 2), sans-IO.
//!
//! Every node that expects `n` is an acceptor, and counts as what it is: a boot. A quorum is any `n` of them. As `n` is
//! more than half of the boots that ever take part, two quorums have a member in common, and so (section 2.2 there) no
//! two ids are ever chosen, however messages are lost or doubled and whoever crashes. An acceptor keeps what it has
//! promised in memory: a process that is started again meanwhile has a new boot, and is one more that starts.
//!
//! The node of the lowest name among those that a node sees proposes at once when it sees `n`; any other only when it has
//! waited in vain, a random time, so that proposers seldom meet. Deviations from the paper: there is no distinguished
//! learner. Who has seen a quorum accept tells all; who has learned the id answers every question with it, and tells a
//! few others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, seq::IteratorRandom as _};
use serde::{Deserialize, Serialize};

use super::ClusterId;
use crate::identity::NodeId;
use crate::mutation::{Mutation, mutated};

/// How many others a node tells of an id that it has taken over: with each telling as many again, all of a thousand know
/// it after three steps.
const TOLD: usize = 16;
/// The most nodes that are asked at a time. More than can be expected are asked, for some may not answer.
const MAX_ASKED: usize = 2 * super::MAX_EXPECTED;
/// How much longer a proposer waits after each attempt that failed, in units of the patience, at most.
const MAX_BACKOFF: u32 = 4;

/// The number of a proposal. No two proposers have the same, and none uses one twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Ballot {
    round: u64,
    proposer: NodeId,
}

/// What is asked of an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Accept nothing below this ballot any more.
    Prepare { expected: u32, ballot: Ballot },
    /// Accept this id.
    Accept { expected: u32, ballot: Ballot, id: ClusterId },
    /// This id was chosen.
    Formed(ClusterId),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It will accept nothing below the ballot, and this is what it has accepted so far.
    Promised { accepted: Option<(Ballot, ClusterId)> },
    /// It has accepted the id.
    Accepted,
    /// It has promised this greater ballot.
    Outbid(Ballot),
    /// It belongs to a cluster with this id.
    Formed(ClusterId),
    /// It does not take part: it expects another number of nodes, or none.
    Declined { expected: Option<u32> },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Ask a node: ends in [`Formation::handle_answer`], or in nothing.
    Ask(NodeId, Request),
    /// This is the id of our cluster.
    Formed(ClusterId),
}

#[derive(Debug)]
enum Phase {
    Preparing(BTreeMap<NodeId, Option<(Ballot, ClusterId)>>),
    Accepting(ClusterId, BTreeSet<NodeId>),
}

#[derive(Debug)]
struct Attempt {
    ballot: Ballot,
    phase: Phase,
    ends: Duration,
}

/// One node's part in it: acceptor, proposer and learner.
#[derive(Debug)]
pub(crate) struct Formation {
    own: NodeId,
    /// `None` if this node takes what it is told.
    expected: Option<u32>,
    patience: Duration,
    rng: StdRng,
    id: Option<ClusterId>,
    up: BTreeSet<NodeId>,
    promised: Option<Ballot>,
    accepted: Option<(Ballot, ClusterId)>,
    /// The greatest round that was heard of.
    round: u64,
    attempt: Option<Attempt>,
    failed: u32,
    next_try: Option<Duration>,
    warned: bool,
    outputs: VecDeque<Output>,
}

impl Formation {
    /// A node that expects this many, itself included, and gives an attempt `patience` to succeed.
    pub(crate) fn new(own: NodeId, expected: Option<u32>, patience: Duration, rng: StdRng) -> Self {
        Self {
            up: BTreeSet::from([own.clone()]),
            own,
            expected,
            patience,
            rng,
            id: None,
            promised: None,
            accepted: None,
            round: 0,
            attempt: None,
            failed: 0,
            next_try: None,
            warned: false,
            outputs: VecDeque::new(),
        }
    }

    /// Whether the view and the time matter to it.
    pub(crate) fn is_forming(&self) -> bool {
        self.id.is_none() && self.expected.is_some()
    }

    /// Whether the cluster has an id, as far as this node knows.
    pub(crate) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// Who is up, as this node sees it.
    pub(crate) fn handle_view(&mut self, now: Duration, mut up: BTreeSet<NodeId>) {
        up.insert(self.own.clone());
        let newcomers: Vec<NodeId> = up.difference(&self.up).cloned().collect();
        self.up = up;
        let Some(expected) = self.expected.filter(|_| self.id.is_none()) else { return };
        if let Some(request) = self.question() {
            self.ask(newcomers, &request);
        } else if self.up.len() < expected as usize {
            self.next_try = None;
        } else if self.is_lowest() && self.failed == 0 {
            self.propose(now);
        } else if self.next_try.is_none() {
            self.try_later(now);
        }
    }

    /// What another asks.
    pub(crate) fn handle_request(&mut self, request: Request) -> Answer {
        if let Some(id) = self.id {
            return Answer::Formed(id);
        }
        match request {
            Request::Formed(id) => {
                self.adopt(id);
                Answer::Formed(id)
            }
            Request::Prepare { expected, .. } | Request::Accept { expected, .. } if self.expected != Some(expected) => {
                self.disagree(Some(expected));
                Answer::Declined { expected: self.expected }
            }
            Request::Prepare { ballot, .. } => self.promise(ballot),
            Request::Accept { ballot, id, .. } => self.accept(ballot, id),
        }
    }

    /// What another has answered to this request.
    pub(crate) fn handle_answer(&mut self, now: Duration, from: &NodeId, request: &Request, answer: Answer) {
        if self.id.is_some() {
            return;
        }
        match answer {
            Answer::Formed(id) => self.adopt(id),
            Answer::Declined { expected } => self.disagree(expected),
            Answer::Outbid(ballot) => {
                self.round = self.round.max(ballot.round);
                if self.is_current(request) {
                    self.give_up(now);
                }
            }
            Answer::Promised { accepted } if self.is_current(request) => self.promised_by(from.clone(), accepted),
            Answer::Accepted if self.is_current(request) => self.accepted_by(from.clone()),
            // Of an attempt that is over.
            Answer::Promised { .. } | Answer::Accepted => {}
        }
    }

    /// Our cluster has this id: others say so.
    pub(crate) fn adopt(&mut self, id: ClusterId) {
        if self.id.is_none() {
            let others = self.up.iter().filter(|node| **node != self.own).cloned();
            let told = others.sample(&mut self.rng, TOLD);
            self.learn(id, told);
        }
    }

    /// When [`Formation::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.attempt.as_ref().map(|attempt| attempt.ends).or(self.next_try)
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        if self.attempt.as_ref().is_some_and(|attempt| now >= attempt.ends) {
            self.give_up(now);
        } else if self.attempt.is_none() && self.next_try.is_some_and(|due| now >= due) {
            self.propose(now);
        }
    }

    /// What is to be done next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn quorum(&self) -> usize {
        if mutated(Mutation::MintsAlone) { 1 } else { self.expected.map_or(usize::MAX, |expected| expected as usize) }
    }

    fn is_lowest(&self) -> bool {
        self.up.first() == Some(&self.own)
    }

    // ---- acceptor ---------------------------------------------------------------------------------------------------

    fn promise(&mut self, ballot: Ballot) -> Answer {
        self.round = self.round.max(ballot.round);
        match &self.promised {
            Some(promised) if *promised > ballot => Answer::Outbid(promised.clone()),
            _ => {
                self.promised = Some(ballot);
                Answer::Promised { accepted: self.accepted.clone() }
            }
        }
    }

    fn accept(&mut self, ballot: Ballot, id: ClusterId) -> Answer {
        self.round = self.round.max(ballot.round);
        match &self.promised {
            Some(promised) if *promised > ballot => Answer::Outbid(promised.clone()),
            _ => {
                self.promised = Some(ballot.clone());
                self.accepted = Some((ballot, id));
                Answer::Accepted
            }
        }
    }

    // ---- proposer ---------------------------------------------------------------------------------------------------

    fn propose(&mut self, now: Duration) {
        self.next_try = None;
        self.round = self.round.saturating_add(1);
        let ballot = Ballot { round: self.round, proposer: self.own.clone() };
        let Answer::Promised { accepted } = self.promise(ballot.clone()) else {
            // The rounds are used up, which takes a peer gone wrong.
            return self.try_later(now);
        };
        self.attempt = Some(Attempt { ballot, phase: Phase::Preparing(BTreeMap::new()), ends: now + self.patience });
        self.ask_all();
        self.promised_by(self.own.clone(), accepted);
    }

    /// What the attempt that is under way asks now.
    fn question(&self) -> Option<Request> {
        let (attempt, expected) = (self.attempt.as_ref()?, self.expected?);
        let ballot = attempt.ballot.clone();
        Some(match &attempt.phase {
            Phase::Preparing(_) => Request::Prepare { expected, ballot },
            Phase::Accepting(id, _) => Request::Accept { expected, ballot, id: *id },
        })
    }

    fn is_current(&self, request: &Request) -> bool {
        self.question().as_ref() == Some(request)
    }

    fn ask_all(&mut self) {
        if let Some(request) = self.question() {
            self.ask(self.up.iter().cloned().collect(), &request);
        }
    }

    fn ask(&mut self, whom: Vec<NodeId>, request: &Request) {
        let own = &self.own;
        let others = whom.into_iter().filter(|node| node != own).take(MAX_ASKED);
        self.outputs.extend(others.map(|node| Output::Ask(node, request.clone())));
    }

    fn promised_by(&mut self, from: NodeId, accepted: Option<(Ballot, ClusterId)>) {
        let quorum = self.quorum();
        let Some(Attempt { phase, ballot, .. }) = &mut self.attempt else { return };
        let Phase::Preparing(promises) = phase else { return };
        promises.insert(from, accepted);
        if promises.len() < quorum {
            return;
        }
        // What may have been chosen already is the one of the greatest ballot; if there is none, nothing was.
        let before = promises.values().flatten().max_by(|a, b| a.0.cmp(&b.0)).map(|(_, id)| *id);
        let id = before.unwrap_or_else(|| ClusterId::new(self.rng.random()));
        *phase = Phase::Accepting(id, BTreeSet::new());
        let ballot = ballot.clone();
        self.ask_all();
        if self.accept(ballot, id) == Answer::Accepted {
            self.accepted_by(self.own.clone());
        }
    }

    fn accepted_by(&mut self, from: NodeId) {
        let quorum = self.quorum();
        let Some(Attempt { phase: Phase::Accepting(id, accepted), .. }) = &mut self.attempt else { return };
        accepted.insert(from);
        if accepted.len() >= quorum {
            let id = *id;
            let others = self.up.iter().filter(|node| **node != self.own).take(MAX_ASKED).cloned().collect();
            self.learn(id, others);
        }
    }

    fn give_up(&mut self, now: Duration) {
        self.attempt = None;
        self.failed = self.failed.saturating_add(1);
        self.try_later(now);
    }

    fn try_later(&mut self, now: Duration) {
        let enough = self.expected.is_some_and(|expected| self.up.len() >= expected as usize);
        let longest = self.failed.clamp(1, MAX_BACKOFF);
        let after = self.patience.mul_f64(self.rng.random_range(0.5..0.5 + f64::from(longest)));
        self.next_try = enough.then_some(now + after);
    }

    // ---- learner ----------------------------------------------------------------------------------------------------

    fn learn(&mut self, id: ClusterId, tell: Vec<NodeId>) {
        self.id = Some(id);
        (self.attempt, self.next_try) = (None, None);
        self.outputs.push_back(Output::Formed(id));
        self.outputs.extend(tell.into_iter().map(|node| Output::Ask(node, Request::Formed(id))));
    }

    fn disagree(&mut self, theirs: Option<u32>) {
        // A node that expects none takes what is chosen.
        if !self.warned && theirs.is_some() && self.expected.is_some() && theirs != self.expected {
            self.warned = true;
            tracing::warn!(ours = ?self.expected, ?theirs, "another node expects another number of nodes to form the cluster: give all the same");
        }
    }
}
