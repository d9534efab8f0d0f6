//! Sets of dots: what a replica has seen, and what a client has read.
//!
//! A plain version vector holds one number for each replica and means "all its writes up to here". It cannot say "1 to
//! 5, and 7", which a replica needs as soon as updates overtake each other, or a client once it has read one of two
//! siblings. A [`VersionVector`] here has *exceptions*: for each replica a list of intervals, of which the first
//! usually begins at 1 and is the only one.
//!
//! Source: Malkhi and Terry, "Concise version vectors in WinFS" (DISC 2005), which introduces vectors with exceptions
//! (section 3). Deviation: they list what is missing below a maximum, we list what is there. Both name the same sets,
//! but the cost of ours is the number of intervals alone, and union needs no case analysis.
//!
//! # Invariant
//! One flat list of intervals, sorted by replica and start; the intervals of one replica are disjoint and not adjacent
//! (`1..=3` and `4..=5` would be `1..=5`); no interval is empty or contains 0. So each set has exactly one list, and
//! equal sets are equal values.
//!
//! # Cost
//! With m and n intervals: membership and insertion find their place in O(log n), [`VersionVector::covers`] takes
//! O(m log n), all else O(m + n). Counters are only ever compared, so their magnitude costs nothing.

use std::fmt;
use std::ops::RangeInclusive;

use crate::{Dot, ReplicaId};

/// Up to this many intervals are merged in place, each by moving the list's tail at most once; more go through one
/// pass over both lists, so that no input makes merging quadratic.
const MAX_MERGED_IN_PLACE: usize = 4;

/// A set of dots: a version vector with exceptions.
///
/// The order of replicas, where it shows, is that of their ids.
///
/// ```
/// use polity_crdt::{Dot, ReplicaId, VersionVector};
///
/// let a = ReplicaId(1);
/// let mut seen = VersionVector::new();
/// seen.insert_up_to(a, 5);
/// seen.insert(Dot { replica: a, counter: 7 });
/// assert!(!seen.contains(Dot { replica: a, counter: 6 }));
/// assert_eq!(seen.next(a), Some(Dot { replica: a, counter: 8 }));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct VersionVector {
    runs: Vec<Run>,
}

/// The dots `first..=last` of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) replica: ReplicaId,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Run {
    /// Where the run begins and ends, in the order of dots.
    fn start(&self) -> (ReplicaId, u64) {
        (self.replica, self.first)
    }

    fn end(&self) -> (ReplicaId, u64) {
        (self.replica, self.last)
    }
}

impl VersionVector {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Whether the set has no dot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `dot` is in the set.
    #[must_use]
    pub fn contains(&self, dot: Dot) -> bool {
        let at = self.runs.partition_point(|run| run.end() < (dot.replica, dot.counter));
        self.runs.get(at).is_some_and(|run| run.start() <= (dot.replica, dot.counter))
    }

    /// Whether every dot of `other` is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut rest = &self.runs[..];
        other.runs.iter().all(|wanted| {
            rest = &rest[rest.partition_point(|run| run.end() < wanted.end())..];
            rest.first().is_some_and(|run| run.start() <= wanted.start())
        })
    }

    /// Whether the two sets have a dot in common.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        let (mut left, mut right) = (&self.runs[..], &other.runs[..]);
        while let ([a, later_left @ ..], [b, later_right @ ..]) = (left, right) {
            if a.end() < b.start() {
                left = later_left;
            } else if b.end() < a.start() {
                right = later_right;
            } else {
                return true;
            }
        }
        false
    }

    /// The greatest counter of `replica` in the set, or 0 if there is none.
    #[must_use]
    pub fn max(&self, replica: ReplicaId) -> u64 {
        let end = self.runs.partition_point(|run| run.replica <= replica);
        self.runs[..end].last().filter(|run| run.replica == replica).map_or(0, |run| run.last)
    }

    /// The dot after the greatest of `replica`, or `None` if that one has the last counter of all.
    ///
    /// It is a dot that `replica` has not used, provided that the set holds all those that it has.
    #[must_use]
    pub fn next(&self, replica: ReplicaId) -> Option<Dot> {
        self.max(replica).checked_add(1).map(|counter| Dot { replica, counter })
    }

    /// Adds `dot`. Returns whether it was missing. A counter of 0 names no event and changes nothing.
    pub fn insert(&mut self, dot: Dot) -> bool {
        dot.counter > 0 && self.insert_run(Run { replica: dot.replica, first: dot.counter, last: dot.counter })
    }

    /// Adds the first `counter` dots of `replica`. Returns whether one of them was missing.
    pub fn insert_up_to(&mut self, replica: ReplicaId, counter: u64) -> bool {
        counter > 0 && self.insert_run(Run { replica, first: 1, last: counter })
    }

    /// Adds all dots of `other`. Returns whether one of them was missing.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.covers(other) {
            return false;
        }
        if other.runs.len() <= MAX_MERGED_IN_PLACE {
            for run in &other.runs {
                self.insert_run(*run);
            }
            return true;
        }
        let mut merged = Vec::with_capacity(self.runs.len() + other.runs.len());
        let (mut left, mut right) = (&self.runs[..], &other.runs[..]);
        while let ([a, later_left @ ..], [b, later_right @ ..]) = (left, right) {
            if a.start() <= b.start() {
                push_run(&mut merged, *a);
                left = later_left;
            } else {
                push_run(&mut merged, *b);
                right = later_right;
            }
        }
        left.iter().chain(right).for_each(|run| push_run(&mut merged, *run));
        self.runs = merged;
        true
    }

    /// The dots of this set that `other` lacks.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut runs = Vec::new();
        let mut holes = &other.runs[..];
        for run in &self.runs {
            let mut rest = Some(*run);
            while let (Some(left), [hole, later @ ..]) = (rest, holes) {
                if left.end() < hole.start() {
                    break;
                }
                if left.start() < hole.start() && left.start() <= hole.end() {
                    runs.push(Run { last: hole.first - 1, ..left });
                }
                if left.end() <= hole.end() {
                    // The hole may reach into the next run as well, so it stays.
                    rest = None;
                } else {
                    if left.start() <= hole.end() {
                        rest = Some(Run { first: hole.last + 1, ..left });
                    }
                    holes = later;
                }
            }
            runs.extend(rest);
        }
        Self { runs }
    }

    /// The dots that both sets have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut runs = Vec::new();
        let (mut left, mut right) = (&self.runs[..], &other.runs[..]);
        while let ([a, later_left @ ..], [b, later_right @ ..]) = (left, right) {
            let (start, end) = (a.start().max(b.start()), a.end().min(b.end()));
            if start <= end {
                runs.push(Run { replica: start.0, first: start.1, last: end.1 });
            }
            if a.end() <= b.end() {
                left = later_left;
            } else {
                right = later_right;
            }
        }
        Self { runs }
    }

    /// The dots of `replica` from 1 to `counter`.
    #[must_use]
    pub fn up_to(replica: ReplicaId, counter: u64) -> Self {
        let mut all = Self::new();
        all.insert_up_to(replica, counter);
        all
    }

    /// Takes the dots out of the set that are not greater than `dot`, and returns them.
    #[must_use]
    pub fn take_up_to(&mut self, dot: Dot) -> Self {
        let key = (dot.replica, dot.counter);
        let whole = self.runs.partition_point(|run| run.end() <= key);
        let mut taken: Vec<Run> = self.runs.drain(..whole).collect();
        if let Some(run) = self.runs.first_mut().filter(|run| run.start() <= key) {
            taken.push(Run { last: dot.counter, ..*run });
            run.first = dot.counter + 1;
        }
        Self { runs: taken }
    }

    /// Takes all dots of `replica` out of the set. Returns whether there were any.
    pub fn remove_replica(&mut self, replica: ReplicaId) -> bool {
        let before = self.runs.len();
        self.runs.retain(|run| run.replica != replica);
        self.runs.len() != before
    }

    /// The dots of one replica.
    #[must_use]
    pub fn of(&self, replica: ReplicaId) -> Self {
        Self { runs: self.runs.iter().filter(|run| run.replica == replica).copied().collect() }
    }

    /// How many dots the set has, or `u64::MAX` if that is more than this type holds.
    #[must_use]
    pub fn dot_count(&self) -> u64 {
        self.runs.iter().fold(0_u64, |sum, run| sum.saturating_add((run.last - run.first).saturating_add(1)))
    }

    /// The replicas that have a dot in the set, each with its intervals of counters, all in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, impl Iterator<Item = RangeInclusive<u64>>)> {
        self.by_replica().map(|runs| (runs[0].replica, runs.iter().map(|run| run.first..=run.last)))
    }

    /// How many replicas have a dot in the set.
    #[must_use]
    pub fn replica_count(&self) -> usize {
        self.by_replica().count()
    }

    /// How many intervals the set is made of: what it costs to keep and to send.
    #[must_use]
    pub fn interval_count(&self) -> usize {
        self.runs.len()
    }

    /// The runs of each replica; no slice is empty.
    pub(crate) fn by_replica(&self) -> impl Iterator<Item = &[Run]> {
        self.runs.chunk_by(|a, b| a.replica == b.replica)
    }

    /// All runs, in order.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Takes a list that satisfies the invariant.
    pub(crate) fn from_runs(runs: Vec<Run>) -> Self {
        debug_assert!(
            runs.windows(2)
                .all(|w| w[0].replica < w[1].replica || w[0].start() < w[1].start() && !touches(&w[0], &w[1]))
        );
        debug_assert!(runs.iter().all(|run| 1 <= run.first && run.first <= run.last));
        Self { runs }
    }

    /// Adds a run, which must not be empty or contain 0. Returns whether something of it was missing.
    fn insert_run(&mut self, new: Run) -> bool {
        let begin = self.runs.partition_point(|run| run.end() < (new.replica, new.first - 1));
        let touched = self.runs[begin..].iter().take_while(|run| touches(&new, run)).count();
        let end = begin + touched;
        let (Some(head), Some(tail)) = (self.runs[begin..end].first(), self.runs[begin..end].last()) else {
            // A store keeps a context for each key, and most have one to three runs: these shall not pay for a fourth.
            if self.runs.len() < MAX_MERGED_IN_PLACE {
                self.runs.reserve_exact(1);
            }
            self.runs.insert(begin, new);
            return true;
        };
        let joined = Run { replica: new.replica, first: head.first.min(new.first), last: tail.last.max(new.last) };
        let changed = joined != *head;
        self.runs[begin] = joined;
        self.runs.drain(begin + 1..end);
        changed
    }
}

/// Whether `later`, which does not end before `run` begins, overlaps it or follows it without a gap.
fn touches(run: &Run, later: &Run) -> bool {
    run.replica == later.replica && later.first - 1 <= run.last
}

/// Appends a run that begins no earlier than the last one.
fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if touches(last, &run) => last.last = last.last.max(run.last),
        _ => runs.push(run),
    }
}

/// One dot is a set too.
impl From<Dot> for VersionVector {
    fn from(dot: Dot) -> Self {
        std::iter::once(dot).collect()
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut dots: Vec<Dot> = dots.into_iter().filter(|dot| dot.counter > 0).collect();
        dots.sort_unstable();
        let mut runs = Vec::new();
        for Dot { replica, counter } in dots {
            push_run(&mut runs, Run { replica, first: counter, last: counter });
        }
        Self { runs }
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(replica, runs)| (replica, runs.collect::<Vec<_>>()))).finish()
    }
}
