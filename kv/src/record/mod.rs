//! What is kept under a key: values with their causal history, and when they expire.
//!
//! A record is a product of what it holds of each [`Kind`], and two copies become one by [`Record::merge`], kind by kind,
//! whatever the order in which they meet. A key shows one kind at a time: while something is there, writes of another kind are
//! refused. Should two kinds be written on two sides of a split, the greater shows, and the other once that is gone.
//!
//! **Expiry** is fixed when it is written. What has expired is removed causally: what is written later stays, and what was removed never
//! comes back (K5). To give a causal or last value another time is to write it again. The parts of a counter, set or map cannot be
//! written again, so what expires of it, and when, stands beside it ([`Until`](until::Until)). Whoever sees the time pass removes causal
//! values. All else was won over others, or may have been given another time, that are not known here: only a writer that knows what a
//! quorum knows removes it ([`Record::latch`]), and for others it is just not there ([`Record::seen_at`]). With the value goes
//! when it expires: the trace of a delete holds nothing but the names of writes, and of a counter from where on it counts.

mod kind;
mod once;
mod origin;
mod part;
mod stored;
mod until;
mod update;

pub use kind::Kind;
pub use once::IdempotencyKey;
pub(crate) use polity_cluster::rpc::Blob;
use std::borrow::Cow;

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{DvvSet, ReplicaId, Timestamp, VersionVector};
use serde::{Deserialize, Serialize};

use self::once::Done;
pub(crate) use self::once::{MAX_DONE, MAX_TRACES, TRACE_BYTES};
use self::part::{Part, Value};
pub(crate) use self::update::{MAX_STEPS, Refused, Step, Update, Writing};

/// What is in a record, as the byte says that it begins with: the least that has room for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Format {
    Plain = 3,
    /// Its counter says from where on its totals count.
    WithOrigins = 5,
    /// So does its counter, if it has one, and it was decided when a counter, set or map expires.
    Timed = 6,
}

/// What one begins with that knows of writes under idempotency keys: their length in four bytes follows, and they, and then the rest
/// as it is without them.
const WITH_DONE: u8 = 4;

/// What a number or two, or the name of a write, take up in bytes: for the first guess of how long a record will be.
const MOST_OF_A_HEAD: usize = 24;

/// A moment of the wall clock, in milliseconds since the Unix epoch.
pub(crate) type Millis = u64;

/// A value that may expire by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    pub(crate) expires: Option<Millis>,
    pub(crate) value: Blob,
}

/// The values of one key with their causal history; without a value, it is the trace of a delete.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Record {
    causal: DvvSet<Timed>,
    /// What it holds of other kinds, by rising kind. Something was written to each.
    parts: Vec<Part>,
    /// The writes under idempotency keys that are in it.
    done: Done,
}

impl Record {
    /// The greatest kind of which something is there.
    fn shown(&self) -> Option<&Part> {
        if mutated(Mutation::ShowsTheLeast) {
            return self.parts.iter().find(|part| part.is_live()).filter(|_| self.causal.is_empty());
        }
        self.parts.iter().rev().find(|part| part.is_live())
    }

    /// The kind that it shows, or did last.
    pub(crate) fn kind(&self) -> Kind {
        let last = || self.parts.last().filter(|_| self.causal.is_empty());
        self.shown().or_else(last).map_or(Kind::Causal, Part::kind)
    }

    fn value(&self) -> Option<&Value> {
        self.shown().map(|part| &part.value)
    }

    fn format(&self) -> Format {
        self.parts.iter().map(Part::format).max().unwrap_or(Format::Plain)
    }

    /// Whether it is more than that of a key that was never written.
    pub(crate) fn is_written(&self) -> bool {
        !self.context().is_empty() || !self.parts.is_empty() || !self.done.is_empty()
    }

    /// Whether there is a value: it was written, and neither deleted nor seen to expire.
    pub(crate) fn is_live(&self) -> bool {
        !self.causal.is_empty() || self.shown().is_some()
    }

    /// Whether what is kept so is the trace of a delete, and nothing else: an idempotency key may still be asked for.
    pub(crate) fn is_tombstone(&self) -> bool {
        !self.is_live() && self.done.is_empty()
    }

    /// All writes of causal values that it knows of.
    pub(crate) fn context(&self) -> &VersionVector {
        self.causal.context()
    }

    fn contexts(&self) -> impl Iterator<Item = &VersionVector> {
        std::iter::once(self.context()).chain(self.parts.iter().flat_map(Part::contexts))
    }

    /// Up to which number a replica has counted its writes, of any kind.
    pub(crate) fn counted(&self, replica: ReplicaId) -> u64 {
        self.contexts().map(|context| context.max(replica)).max().unwrap_or_default()
    }

    /// Of two copies of one key, that of the one that knows more is greater, or they are equal: how many writes it knows of,
    /// then whether they are gone.
    pub(crate) fn rank(&self) -> u64 {
        let writes = self.contexts().map(VersionVector::dot_count).fold(0, u64::saturating_add);
        writes.min(u64::MAX >> 1) << 1 | u64::from(!self.is_live())
    }

    /// The values that no write has replaced; one at most, but for causal ones. None of a counter, set or map.
    pub(crate) fn values(&self) -> Vec<&Blob> {
        match self.value() {
            None => self.causal.values().map(|timed| &timed.value).collect(),
            Some(Value::LastWriterWins(register)) => {
                register.value().value().into_iter().map(|timed| &timed.value).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The write that a causal value is from.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn dot_of(&self, value: &Blob) -> Option<polity_crdt::Dot> {
        self.causal.siblings().find(|(_, timed)| timed.value == *value).map(|(dot, _)| dot)
    }

    /// How many values there are side by side.
    pub(crate) fn siblings(&self) -> usize {
        self.causal.len().max(1)
    }

    /// The sum of a counter; 0 of anything else.
    pub(crate) fn total(&self) -> i128 {
        self.shown().map_or(0, Part::total)
    }

    /// The elements of a set, in order.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &Blob> {
        match self.value() {
            Some(Value::Set(set)) => Some(set.value().iter()),
            _ => None,
        }
        .into_iter()
        .flatten()
    }

    /// The fields of a map and their values, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&Blob, &Blob)> {
        match self.value() {
            Some(Value::Map(map)) => Some(map.value().iter()),
            _ => None,
        }
        .into_iter()
        .flatten()
        .filter_map(|(field, register)| Some((field, register.value()?)))
    }

    /// When the next of what is there expires, after this time.
    pub(crate) fn next_expiry(&self, after: Millis) -> Option<Millis> {
        let values = self.causal.values().filter_map(|timed| timed.expires).filter(|at| *at > after);
        values.chain(self.parts.iter().filter_map(|part| part.next_expiry(after))).min()
    }

    /// When something is to be done about it, after this time: something expires, or a key has been kept for long enough.
    pub(crate) fn next_due(&self, after: Millis) -> Option<Millis> {
        let keys = self.done.next_end().filter(|at| *at > after);
        self.next_expiry(after).into_iter().chain(keys).min()
    }

    /// Forgets the writes under idempotency keys that have been kept for long enough.
    pub(crate) fn forget_keys(&mut self, now: Millis) {
        self.done.forget(now);
    }

    /// When all that it shows will have expired; `None`: never, or nothing is there.
    pub(crate) fn expires(&self) -> Option<Millis> {
        match self.shown() {
            Some(part) => part.expires(),
            None => self.causal.values().map(|timed| timed.expires).max_by_key(|at| at.unwrap_or(u64::MAX))?,
        }
    }

    /// Removes all that is known to be there. Returns whether anything was.
    pub(crate) fn clear(&mut self) -> bool {
        let seen = self.causal.context().clone();
        let mut had = self.causal.delete(&seen);
        for part in &mut self.parts {
            had |= part.clear();
        }
        had
    }

    /// Whether merging another copy would leave just that one. May say no where it would.
    pub(crate) fn gives_way_to(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.causal, &other.causal);
        let is_there = |dot| ours.siblings().any(|(held, _)| held == dot);
        let mut news = theirs.siblings().map(|(dot, _)| dot);
        self.parts.is_empty()
            && self.done.is_in(&other.done)
            && theirs.context().covers(ours.context())
            && news.all(|dot| !ours.context().contains(dot) || is_there(dot))
    }

    /// Takes in another copy. Returns whether anything was new.
    pub(crate) fn merge(&mut self, other: Self) -> bool {
        let mut is_new = self.causal.merge_owned(other.causal);
        for part in other.parts {
            match self.parts.binary_search_by_key(&part.kind(), Part::kind) {
                Ok(at) => is_new |= self.parts[at].merge(part),
                Err(at) => {
                    self.parts.insert(at, part);
                    is_new = true;
                }
            }
        }
        is_new | self.done.merge(other.done)
    }

    /// Removes what has expired by now, in a copy that is read, or as one that knows what a quorum has learned up to now: something that was
    /// given another time before it had expired is known then to have another. Returns whether anything had expired.
    pub(crate) fn latch(&mut self, now: Millis) -> bool {
        let had = self.latch_alone(now);
        self.parts.iter_mut().fold(had, |had, part| part.latch(now) | had)
    }

    /// Removes what has expired by now, whatever others know: causal values. Returns whether that changed anything.
    pub(crate) fn latch_alone(&mut self, now: Millis) -> bool {
        let is_over = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        let over = self.causal.siblings().filter(|(_, timed)| is_over(timed.expires)).map(|(dot, _)| dot);
        let over: VersionVector = over.collect();
        let had = !over.is_empty() && self.causal.delete(&over);
        self.done.forget(now) || had
    }

    /// As of when it was written at the latest, as far as times decide about that.
    pub(crate) fn stamp(&self) -> Option<Timestamp> {
        self.parts.iter().filter_map(Part::stamp).max()
    }

    /// Whether it holds something that [`Record::latch`] removes now and [`Record::latch_alone`] does not.
    pub(crate) fn has_expired_parts(&self, now: Millis) -> bool {
        self.parts.iter().any(|part| part.is_over(now) && part.clone().latch(now))
    }

    /// What of it there is at a time.
    pub(crate) fn seen_at(&self, now: Millis) -> Cow<'_, Self> {
        let mut seen = Cow::Borrowed(self);
        if self.next_expiry(0).is_some_and(|at| at <= now) {
            seen.to_mut().latch(now);
        }
        seen
    }
}

/// Bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub(crate) struct NotARecord(String);

/// A record's bytes. Equal records have equal bytes.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let Record { causal, parts, done } = record;
    let mut bytes = Vec::with_capacity(MOST_OF_A_HEAD);
    if !done.is_empty() {
        let done = postcard::to_allocvec(done).expect("it encodes into a growing buffer");
        bytes.push(WITH_DONE);
        bytes.extend_from_slice(&(done.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&done);
    }
    let format = record.format();
    bytes.push(format as u8);
    let is_causal = !causal.context().is_empty();
    let causal_kind = is_causal.then_some(Kind::Causal);
    bytes.push(causal_kind.into_iter().chain(parts.iter().map(Part::kind)).map(bit).sum());
    if is_causal {
        let room = causal.values().map(|timed| timed.value.0.len() + MOST_OF_A_HEAD).sum::<usize>();
        bytes.reserve(room + causal.context().interval_count() * MOST_OF_A_HEAD);
        bytes = postcard::to_extend(causal, bytes).expect("it encodes into a growing buffer");
    }
    parts.iter().fold(bytes, |bytes, part| part.encode(format, bytes))
}

/// Stands for a kind that a record holds something of.
fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

/// The bytes of a record without the writes under idempotency keys. Copies are equal when these are: the keys go when their time is
/// over, at each replica by its own clock, and are no reason for repair.
pub(crate) fn content(bytes: &[u8]) -> &[u8] {
    split(bytes).map_or(bytes, |(_, content)| content)
}

/// The writes under idempotency keys, if there are any, and the rest.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.strip_prefix(&[WITH_DONE])?.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize).filter(|(done, _)| !done.is_empty())
}

/// Tells the contents of two records of a key apart by their bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(content(bytes))
}

/// The record of what is there; nothing, if nothing is.
pub(crate) fn decode_any(bytes: Option<&[u8]>) -> Result<Record, NotARecord> {
    bytes.map_or_else(|| Ok(Record::default()), decode)
}

/// The record of these bytes, all of them.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, NotARecord> {
    let (done, bytes) = split(bytes).unwrap_or((&[], bytes));
    let [version, kinds, rest @ ..] = bytes else { return Err(NotARecord("too few bytes".to_owned())) };
    let format =
        [Format::Plain, Format::WithOrigins, Format::Timed].into_iter().find(|format| *format as u8 == *version);
    let format = format.ok_or_else(|| NotARecord(format!("version {version}, which this build does not read")))?;
    let (kinds, mut rest) = (*kinds, rest);
    let mut record = Record { done: Done::decode(done)?, ..Record::default() };
    for kind in Kind::ALL.into_iter().filter(|kind| kinds & bit(*kind) != 0) {
        if kind == Kind::Causal {
            let taken = postcard::take_from_bytes(rest).map_err(|error| NotARecord(error.to_string()))?;
            (record.causal, rest) = taken;
            if record.causal.context().is_empty() {
                return Err(NotARecord("nothing was written to its causal values".to_owned()));
            }
        } else {
            let (part, after) = Part::decode(kind, format, rest)?;
            record.parts.push(part);
            rest = after;
        }
    }
    if format != record.format() {
        return Err(NotARecord("it says that it has more than it has".to_owned()));
    }
    let all = Kind::ALL.map(bit).iter().sum::<u8>();
    if kinds & !all != 0 || !rest.is_empty() {
        return Err(NotARecord("trailing bytes, or of an unknown kind".to_owned()));
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
