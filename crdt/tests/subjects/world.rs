//! Random histories of a few replicas, told to the real thing and to a model that never forgets.
//!
//! The model is the set of all writes, each with the set of those that its writer had seen. A write *stands* in a set of
//! known writes unless one of them has seen it and goes to the same place, or takes away a place above: that is the
//! causal history read literally, after Baquero, Almeida and Shoker, "Pure operation-based replicated data types"
//! (2017), where a type is a partially ordered log and says which of its entries a later one makes redundant.

use polity_crdt::{Crdt, Delta, Dot, Error, Replica, ReplicaId, VersionVector};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::{Dice, Intent, Standing, Subject, What};

/// How many histories each property gets: many more when `POLITY_CASES` says so.
pub(crate) fn cases(ordinarily: u32) -> u32 {
    std::env::var("POLITY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(ordinarily)
}

/// Checks a property on random histories.
pub(crate) fn for_histories(cases: u32, length: usize, property: impl Fn(&[Step]) -> TestCaseResult) {
    let config = Config { cases, source_file: Some(file!()), ..Config::default() };
    let step = (0..12_u8, 0..4_usize, any::<u32>()).prop_map(|(kind, at, dice)| Step { kind, at, dice });
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step, 1..length), |steps| property(&steps));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// One step of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    kind: u8,
    at: usize,
    pub(crate) dice: u32,
}

/// The first element of a path below which no write goes.
const NOWHERE: u64 = u64::MAX - 1;

/// How careful replicas are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Writes {
    /// They write whatever has reached them.
    Always,
    /// They first wait for all that they have heard of indirectly, so that what they have seen is a causal history.
    WhenComplete,
}

/// A write as the model keeps it.
#[derive(Clone, Debug)]
struct Op {
    intent: Intent,
    dot: Option<Dot>,
    /// A bit for each write that its writer had seen.
    seen: u64,
}

/// A history under way.
pub(crate) struct World<S: Subject> {
    writes: Writes,
    pub(crate) replicas: Vec<Replica<S>>,
    /// What was sent: the delta of each write of `ops`.
    pub(crate) sent: Vec<S::Delta>,
    ops: Vec<Op>,
    /// A bit for each write that a replica has.
    known: Vec<u64>,
}

impl<S: Subject> World<S> {
    pub(crate) fn new(ids: &[ReplicaId], writes: Writes) -> Self {
        Self {
            writes,
            replicas: ids.iter().map(|id| Replica::new(*id)).collect(),
            sent: Vec::new(),
            ops: Vec::new(),
            known: vec![0; ids.len()],
        }
    }

    pub(crate) fn of(steps: &[Step], ids: &[ReplicaId], writes: Writes) -> Self {
        let mut world = Self::new(ids, writes);
        steps.iter().for_each(|step| world.take(step));
        world
    }

    pub(crate) fn take(&mut self, step: &Step) {
        let (at, mut dice) = (step.at, Dice(step.dice));
        match step.kind {
            0..=5 => self.write(at, &mut dice),
            6 | 7 => self.deliver(at, &[dice.roll(64)]),
            8 => self.deliver(at, &[dice.roll(64), dice.roll(64), dice.roll(64)]),
            9 => self.full(at, dice.roll(4) as usize),
            10 if self.writes == Writes::Always => self.since(at, dice.roll(4) as usize),
            10 => self.full(at, dice.roll(4) as usize),
            _ if self.writes == Writes::Always || S::COLLECTS_UNSEEN => self.collect(at),
            _ => {}
        }
    }

    /// Takes a step that no strategy made.
    pub(crate) fn step(&mut self, kind: u8, at: usize, dice: u32) {
        self.take(&Step { kind, at, dice });
    }

    fn write(&mut self, at: usize, dice: &mut Dice) {
        if self.writes == Writes::WhenComplete {
            self.catch_up(at);
        }
        let before = self.replicas[at].clone();
        let mut said = None;
        let change = self.replicas[at].update(|state, w| {
            let (intent, change) = state.act(w, dice);
            said = Some(intent);
            change
        });
        let intent = said.expect("the mutator runs");
        match change {
            Ok(Some(delta)) => {
                assert!(self.replicas[at] != before, "a delta that changes nothing");
                self.record(at, intent, delta);
            }
            Ok(None) | Err(Error::Bound { .. }) => assert_eq!(self.replicas[at], before),
            Err(other) => panic!("{other}"),
        }
    }

    /// Tells the model of a write.
    fn record(&mut self, at: usize, Intent { path, mut what }: Intent, delta: S::Delta) {
        let mut fresh = Vec::new();
        delta.visit_live(&mut |dot| fresh.push(dot));
        assert!(fresh.len() <= 1, "a write has one dot at most");
        let dot = fresh.pop();
        assert_eq!(dot.is_none(), what == What::Kill);
        for other in self.standing(self.known[at]).iter().filter(|other| other.path == path) {
            match (&mut what, other.what) {
                (What::At(now, _), What::At(seen, _)) => *now = (*now).max(seen.next()),
                (What::Count(count), What::Count(seen)) => count.plus(seen),
                _ => {}
            }
        }
        let seen = self.known[at];
        self.known[at] |= 1 << self.ops.len();
        self.ops.push(Op { intent: Intent { path, what }, dot, seen });
        self.sent.push(delta);
    }

    /// Delivers what was sent at some time, perhaps again, joined into one delta.
    fn deliver(&mut self, to: usize, which: &[u32]) {
        if self.sent.is_empty() {
            return;
        }
        let mut group = S::Delta::default();
        for which in which {
            let op = *which as usize % self.sent.len();
            group.join(self.sent[op].clone());
            self.known[to] |= 1 << op;
        }
        let before = self.replicas[to].clone();
        let changed = self.replicas[to].merge(group);
        assert_eq!(changed, self.replicas[to] != before);
    }

    fn full(&mut self, to: usize, from: usize) {
        let full = self.replicas[from].full();
        self.replicas[to].merge(full);
        self.known[to] |= self.known[from];
    }

    fn since(&mut self, to: usize, from: usize) {
        let news = self.replicas[from].since(self.replicas[to].context());
        self.replicas[to].merge(news);
    }

    /// Drops the marks that all have, at a replica that knows of all that any other does.
    fn collect(&mut self, at: usize) {
        let here = self.replicas[at].context();
        if self.replicas.iter().all(|other| here.covers(other.context())) {
            let all = self.replicas.iter().map(|replica| marks(&**replica));
            let stable = all.reduce(|all, other| all.intersection(&other)).expect("there are replicas");
            let dropped = self.replicas[at].update(|state, _| Ok(state.collect(&stable))).expect("nothing is refused");
            if let Some(delta) = dropped {
                // It takes nothing away that a read would show, but later writes here stand on it.
                self.record(at, Intent { path: vec![NOWHERE], what: What::Kill }, delta);
            }
        }
    }

    /// Brings all writes that those known here stand on, the latest first.
    fn catch_up(&mut self, at: usize) {
        for op in (0..self.ops.len()).rev().filter(|op| self.missing(at) >> op & 1 == 1).collect::<Vec<_>>() {
            self.replicas[at].merge(self.sent[op].clone());
            self.known[at] |= 1 << op;
        }
    }

    /// Writes that those known here had seen and that are not known here.
    fn missing(&self, at: usize) -> u64 {
        let known = self.known[at];
        let mut past = known;
        // What a write has seen is older, so one pass from the latest on finds all.
        for op in (0..self.ops.len()).rev().filter(|op| past >> op & 1 == 1).collect::<Vec<_>>() {
            past |= self.ops[op].seen;
        }
        past & !known
    }

    /// The writes that stand among those known.
    fn standing(&self, known: u64) -> Vec<Standing<'_>> {
        let known_ops = || self.ops.iter().enumerate().filter(move |(at, _)| known >> at & 1 == 1);
        let ends = |at: usize, path: &[u64]| {
            known_ops().any(|(_, later)| later.seen >> at & 1 == 1 && path.starts_with(&later.intent.path))
        };
        let standing = known_ops().filter(|(at, op)| op.dot.is_some() && !ends(*at, &op.intent.path));
        standing
            .map(|(_, op)| Standing {
                path: &op.intent.path,
                dot: op.dot.expect("only writes with a dot stand"),
                what: &op.intent.what,
            })
            .collect()
    }

    /// What the model says that a replica must read, if what it knows is a causal history.
    pub(crate) fn expected(&self, at: usize) -> Option<S::Read> {
        (self.missing(at) == 0).then(|| S::expected(&self.standing(self.known[at])))
    }

    /// Brings every write to a replica.
    pub(crate) fn complete(&mut self, at: usize) {
        for (op, delta) in self.sent.iter().enumerate() {
            self.replicas[at].merge(delta.clone());
            self.known[at] |= 1 << op;
        }
    }

    /// All replicas' states, joined.
    pub(crate) fn joined(&self) -> Replica<S> {
        let mut all = Replica::<S>::new(ReplicaId(99));
        for replica in &self.replicas {
            all.merge(replica.full());
        }
        all
    }

    /// The contexts of all replicas, joined.
    pub(crate) fn heard_of(&self) -> VersionVector {
        let mut all = VersionVector::new();
        self.replicas.iter().for_each(|replica| {
            all.merge(replica.context());
        });
        all
    }
}

/// The dots that are live beside marks of removes.
pub(crate) fn marks<T: Crdt>(state: &T) -> VersionVector {
    state.marks().fold(VersionVector::new(), |mut all, dots| {
        all.merge(&dots);
        all
    })
}

/// The live dots under their keys.
pub(crate) fn places<T: Crdt>(state: &T) -> Vec<(T::Key, Dot)> {
    let mut places = Vec::new();
    state.visit(std::ops::Bound::Unbounded, &mut |key, dots| {
        places.extend(dots.map(|dot| (key.clone(), dot)));
        true
    });
    places
}
