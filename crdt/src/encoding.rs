//! The serialized forms, and the checks that every decoded value has passed.
//!
//! A [`VersionVector`] is a list of entries `(replica, prefix, exceptions)`, sorted by replica: the dots `1..=prefix`,
//! then pairs `(missing, present)` that walk upwards from there. A [`DvvSet`] is a list of [`Entry`], sorted the same
//! way, which adds the live values of the replica to that. Lengths instead of bounds keep the numbers short, and make
//! "sorted, disjoint, not adjacent" the same as "no length is zero".
//!
//! Each value has one form. With postcard, an object with one live value of one replica costs its value and 13 bytes: 1
//! for the number of entries, 1 for the kind of the entry, 10 for a random replica, and 1 for a counter below 128.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::version_vector::Run;
use crate::{Dot, DvvSet, Error, ReplicaId, VersionVector};

/// Lists are given room for this many entries before the first has arrived, if that many are announced: a value that
/// is kept pays for what it holds, and an announced length that is a lie buys nothing.
const MAX_ENTRIES_TRUSTED: usize = 4;

/// The lengths `(missing, present)` of the gaps and intervals above a prefix, upwards.
type Exceptions = Vec<(u64, u64)>;

/// What a [`DvvSet`] holds of one replica. `V` is a reference when it is written.
#[derive(Serialize, Deserialize)]
enum Entry<V> {
    /// `1..=last` seen, and `last` is the one live value.
    Latest { replica: ReplicaId, last: u64, value: V },
    /// `1..=last` seen, and no value is live.
    Past { replica: ReplicaId, last: u64 },
    /// All else. `live` holds the distance of each live dot from the one before, the first from 0.
    Mixed { replica: ReplicaId, prefix: u64, exceptions: Exceptions, live: Vec<(u64, V)> },
}

/// The runs of one replica as the length of a prefix from 1, which may be 0, and the exceptions above it.
fn lengths(runs: &[Run]) -> (u64, Exceptions) {
    let prefix = runs.first().filter(|run| run.first == 1).map_or(0, |run| run.last);
    let above = if prefix == 0 { runs } else { &runs[1..] };
    let mut last = prefix;
    let exceptions = above.iter().map(|run| {
        let missing = run.first - 1 - last;
        last = run.last;
        (missing, run.last - run.first + 1)
    });
    (prefix, exceptions.collect())
}

/// Appends the runs that [`lengths`] was given.
fn push_runs(runs: &mut Vec<Run>, replica: ReplicaId, prefix: u64, exceptions: &[(u64, u64)]) -> Result<(), Error> {
    if runs.last().is_some_and(|run| run.replica >= replica) {
        return Err(Error::Unsorted(replica));
    }
    if prefix == 0 && exceptions.is_empty() {
        return Err(Error::EmptyEntry(replica));
    }
    if prefix > 0 {
        runs.push(Run { replica, first: 1, last: prefix });
    }
    let mut below = prefix;
    for &(missing, present) in exceptions {
        if missing == 0 || present == 0 {
            return Err(Error::NotCanonical(replica));
        }
        let hole = below.checked_add(missing).ok_or(Error::Overflow(replica))?;
        let last = hole.checked_add(present).ok_or(Error::Overflow(replica))?;
        runs.push(Run { replica, first: hole + 1, last });
        below = last;
    }
    Ok(())
}

/// How many of the announced entries to make room for.
fn trusted<'de, A: SeqAccess<'de>>(seq: &A) -> usize {
    seq.size_hint().unwrap_or(0).min(MAX_ENTRIES_TRUSTED)
}

impl Serialize for VersionVector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.replica_count()))?;
        for runs in self.by_replica() {
            let (prefix, exceptions) = lengths(runs);
            seq.serialize_element(&(runs[0].replica, prefix, exceptions))?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for VersionVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = VersionVector;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the entries of a version vector")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VersionVector, A::Error> {
                let mut runs = Vec::with_capacity(trusted(&seq));
                while let Some((replica, prefix, exceptions)) = seq.next_element::<(_, _, Exceptions)>()? {
                    push_runs(&mut runs, replica, prefix, &exceptions).map_err(A::Error::custom)?;
                }
                Ok(VersionVector::from_runs(runs))
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

/// The entry of the replica that `runs` belong to, with its live values in the order of their dots.
fn entry<'a, V>(runs: &[Run], live: &[(Dot, &'a V)]) -> Entry<&'a V> {
    let replica = runs[0].replica;
    let (prefix, exceptions) = lengths(runs);
    match live {
        [] if exceptions.is_empty() => Entry::Past { replica, last: prefix },
        [(dot, value)] if exceptions.is_empty() && dot.counter == prefix => {
            Entry::Latest { replica, last: prefix, value }
        }
        _ => {
            let mut below = 0;
            let steps = live.iter().map(|(dot, value)| {
                let step = dot.counter - below;
                below = dot.counter;
                (step, *value)
            });
            Entry::Mixed { replica, prefix, exceptions, live: steps.collect() }
        }
    }
}

/// Appends what [`entry`] was given.
fn push_entry<V>(entry: Entry<V>, runs: &mut Vec<Run>, siblings: &mut Vec<(Dot, V)>) -> Result<(), Error> {
    match entry {
        Entry::Latest { replica, last, value } => {
            push_runs(runs, replica, last, &[])?;
            siblings.push((Dot { replica, counter: last }, value));
        }
        Entry::Past { replica, last } => push_runs(runs, replica, last, &[])?,
        Entry::Mixed { replica, prefix, exceptions, live } => {
            let has_shorter_form = match &live[..] {
                [] => true,
                [(step, _)] => *step == prefix,
                _ => false,
            };
            if exceptions.is_empty() && has_shorter_form {
                return Err(Error::NotCanonical(replica));
            }
            let begin = runs.len();
            push_runs(runs, replica, prefix, &exceptions)?;
            let mut seen = runs[begin..].iter().peekable();
            let mut counter: u64 = 0;
            for (step, value) in live {
                if step == 0 {
                    return Err(Error::NotCanonical(replica));
                }
                counter = counter.checked_add(step).ok_or(Error::Overflow(replica))?;
                while seen.next_if(|run| run.last < counter).is_some() {}
                if seen.peek().is_none_or(|run| counter < run.first) {
                    return Err(Error::Uncovered(replica));
                }
                siblings.push((Dot { replica, counter }, value));
            }
        }
    }
    Ok(())
}

impl<V: Serialize> Serialize for DvvSet<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let siblings: Vec<_> = self.siblings().collect();
        let mut rest = &siblings[..];
        let mut seq = serializer.serialize_seq(Some(self.context().replica_count()))?;
        for runs in self.context().by_replica() {
            let (live, later) = rest.split_at(rest.partition_point(|(dot, _)| dot.replica == runs[0].replica));
            rest = later;
            seq.serialize_element(&entry(runs, live))?;
        }
        seq.end()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for DvvSet<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = DvvSet<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the entries of a dotted version vector set")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<DvvSet<V>, A::Error> {
                let mut runs = Vec::with_capacity(trusted(&seq));
                let mut siblings = Vec::with_capacity(trusted(&seq).min(1));
                while let Some(entry) = seq.next_element::<Entry<V>>()? {
                    push_entry(entry, &mut runs, &mut siblings).map_err(A::Error::custom)?;
                }
                Ok(DvvSet::from_parts(VersionVector::from_runs(runs), siblings))
            }
        }
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);

    type VectorEntry<'a> = (ReplicaId, u64, &'a [(u64, u64)]);

    fn runs(entries: &[VectorEntry<'_>]) -> Result<Vec<Run>, Error> {
        let mut runs = Vec::new();
        for (replica, prefix, exceptions) in entries {
            push_runs(&mut runs, *replica, *prefix, exceptions)?;
        }
        Ok(runs)
    }

    fn siblings(entry: Entry<()>) -> Result<Vec<Dot>, Error> {
        let mut siblings = Vec::new();
        push_entry(entry, &mut Vec::new(), &mut siblings)?;
        Ok(siblings.into_iter().map(|(dot, ())| dot).collect())
    }

    fn mixed(prefix: u64, exceptions: &[(u64, u64)], steps: &[u64]) -> Entry<()> {
        let live = steps.iter().map(|step| (*step, ())).collect();
        Entry::Mixed { replica: A, prefix, exceptions: exceptions.to_vec(), live }
    }

    #[test]
    fn malformed_vectors_are_named() {
        assert_eq!(runs(&[(B, 1, &[]), (A, 1, &[])]), Err(Error::Unsorted(A)));
        assert_eq!(runs(&[(A, 1, &[]), (A, 2, &[])]), Err(Error::Unsorted(A)));
        assert_eq!(runs(&[(A, 0, &[])]), Err(Error::EmptyEntry(A)));
        assert_eq!(runs(&[(A, 1, &[(0, 1)])]), Err(Error::NotCanonical(A)));
        assert_eq!(runs(&[(A, 1, &[(1, 0)])]), Err(Error::NotCanonical(A)));
        assert_eq!(runs(&[(A, u64::MAX, &[(1, 1)])]), Err(Error::Overflow(A)));
        assert_eq!(runs(&[(A, u64::MAX - 1, &[(1, 1)])]), Err(Error::Overflow(A)));
        let last = Run { replica: A, first: u64::MAX, last: u64::MAX };
        assert_eq!(runs(&[(A, 0, &[(u64::MAX - 1, 1)])]), Ok(vec![last]));
    }

    #[test]
    fn malformed_sets_are_named() {
        assert_eq!(siblings(Entry::Latest { replica: A, last: 0, value: () }), Err(Error::EmptyEntry(A)));
        assert_eq!(siblings(mixed(0, &[], &[1])), Err(Error::EmptyEntry(A)));
        assert_eq!(siblings(mixed(3, &[], &[])), Err(Error::NotCanonical(A)), "this is a past");
        assert_eq!(siblings(mixed(3, &[], &[3])), Err(Error::NotCanonical(A)), "this is a latest");
        assert_eq!(siblings(mixed(3, &[], &[1, 0])), Err(Error::NotCanonical(A)));
        assert_eq!(siblings(mixed(3, &[], &[4])), Err(Error::Uncovered(A)));
        assert_eq!(siblings(mixed(3, &[(1, 1)], &[2, 2])), Err(Error::Uncovered(A)));
        assert_eq!(siblings(mixed(3, &[], &[2, u64::MAX])), Err(Error::Overflow(A)));
        let dots = [2, 3, 5].map(|counter| Dot { replica: A, counter });
        assert_eq!(siblings(mixed(3, &[(1, 1)], &[2, 1, 2])), Ok(dots.to_vec()));
    }
}
