//! Random histories of a few replicas of one object, told to the real thing and to a model of causal histories.
//!
//! The model shares no idea with the implementation: it never forgets. It keeps every value that has reached a
//! replica, and every dot that some writer or deleter has seen, and calls live what is in the first and not in the
//! second. Merging is the union of both.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use polity_crdt::{Dot, DvvSet, ReplicaId, VersionVector};
use proptest::prelude::*;
use proptest::sample::Index;

pub(crate) const CASES: u32 = 2_048;

/// The replicas of every history, not in the order of their use.
pub(crate) const REPLICAS: [ReplicaId; 4] = [ReplicaId(u64::MAX), ReplicaId(3), ReplicaId(0), ReplicaId(1 << 40)];

/// One step. Replicas are indexes; contexts are chosen among those that earlier steps have read.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A client reads the object.
    Read {
        at: usize,
    },
    /// A client sees one sibling only.
    ReadOne {
        at: usize,
        which: Index,
    },
    /// A client adds what it knows from another read.
    JoinReads {
        first: Index,
        second: Index,
    },
    Put {
        at: usize,
        context: Index,
    },
    Delete {
        at: usize,
        context: Index,
    },
    Merge {
        to: usize,
        from: usize,
    },
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..REPLICAS.len();
    let step = prop_oneof![
        3 => at().prop_map(|at| Step::Read { at }),
        1 => (at(), any::<Index>()).prop_map(|(at, which)| Step::ReadOne { at, which }),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(first, second)| Step::JoinReads { first, second }),
        4 => (at(), any::<Index>()).prop_map(|(at, context)| Step::Put { at, context }),
        1 => (at(), any::<Index>()).prop_map(|(at, context)| Step::Delete { at, context }),
        3 => (at(), at()).prop_map(|(to, from)| Step::Merge { to, from }),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) seen: BTreeSet<Dot>,
    written: BTreeMap<Dot, u32>,
    replaced: BTreeSet<Dot>,
}

impl Model {
    pub(crate) fn live(&self) -> BTreeMap<Dot, u32> {
        self.written.iter().filter(|(dot, _)| !self.replaced.contains(dot)).map(|(dot, value)| (*dot, *value)).collect()
    }

    fn put(&mut self, replica: ReplicaId, context: &BTreeSet<Dot>, value: u32) -> Dot {
        self.delete(context);
        let used = self.seen.iter().filter(|dot| dot.replica == replica).map(|dot| dot.counter).max();
        let dot = Dot { replica, counter: used.unwrap_or(0) + 1 };
        self.seen.insert(dot);
        self.written.insert(dot, value);
        dot
    }

    fn delete(&mut self, context: &BTreeSet<Dot>) {
        self.replaced.extend(context);
        self.seen.extend(context);
    }

    fn merge(&mut self, other: &Self) {
        self.seen.extend(&other.seen);
        self.written.extend(&other.written);
        self.replaced.extend(&other.replaced);
    }
}

/// A history under way: all replicas, twice.
pub(crate) struct History {
    pub(crate) sets: Vec<DvvSet<u32>>,
    pub(crate) models: Vec<Model>,
    contexts: Vec<(VersionVector, BTreeSet<Dot>)>,
    writes: u32,
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            sets: vec![DvvSet::new(); REPLICAS.len()],
            models: vec![Model::default(); REPLICAS.len()],
            contexts: vec![Default::default()],
            writes: 0,
        }
    }

    /// Takes a step, and checks what it returns against the model.
    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Read { at } => {
                self.contexts.push((self.sets[*at].context().clone(), self.models[*at].seen.clone()));
            }
            Step::ReadOne { at, which } => {
                let live: Vec<Dot> = self.sets[*at].siblings().map(|(dot, _)| dot).collect();
                if !live.is_empty() {
                    let dot = *which.get(&live);
                    self.contexts.push((VersionVector::from_iter([dot]), BTreeSet::from([dot])));
                }
            }
            Step::JoinReads { first, second } => {
                let (mut context, mut dots) = first.get(&self.contexts).clone();
                let (more_context, more_dots) = second.get(&self.contexts);
                context.merge(more_context);
                dots.extend(more_dots);
                self.contexts.push((context, dots));
            }
            Step::Put { at, context } => {
                let (context, dots) = context.get(&self.contexts);
                self.writes += 1;
                let dot = self.sets[*at].put(REPLICAS[*at], context, self.writes).expect("counters are small");
                assert_eq!(dot, self.models[*at].put(REPLICAS[*at], dots, self.writes));
            }
            Step::Delete { at, context } => {
                let before = self.sets[*at].clone();
                let (context, dots) = context.get(&self.contexts);
                let changed = self.sets[*at].delete(context);
                self.models[*at].delete(dots);
                assert_eq!(changed, self.sets[*at] != before);
            }
            Step::Merge { to, from } => {
                let before = self.sets[*to].clone();
                let other = self.sets[*from].clone();
                let changed = self.sets[*to].merge(&other);
                let other = self.models[*from].clone();
                self.models[*to].merge(&other);
                assert_eq!(changed, self.sets[*to] != before);
            }
        }
    }
}
