//! What is kept under a key: a value of one [`Kind`] with its causal history, and when it expires.
//!
//! Two copies of a record become one by [`Record::merge`], whatever the order in which they meet. A key has one kind at a
//! time: while something is there, writes of another kind are refused; once nothing is, the next write may begin another,
//! in a new *epoch*. Of copies from different epochs the later stays, and of one epoch that of the greater kind.
//!
//! **Expiry** is fixed when it is written. Whoever sees the time pass removes what it knows of, causally: what is written
//! later stays, and what has expired never comes back (K5).

mod kind;
mod stored;
mod update;

pub use kind::Kind;
pub(crate) use polity_cluster::rpc::Blob;
use std::cmp::Ordering;

use polity_crdt::{AwSet, DvvSet, LwwRegister, OrMap, PnCounter, Timestamp, VersionVector};
use serde::{Deserialize, Serialize};

use self::stored::Stored;
pub(crate) use self::update::{MAX_STEPS, Refused, Step, Update, Writing};

/// The version that each stored or sent record begins with.
const VERSION: u8 = 2;

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

/// When all that is there expires, and when that was decided: the latest decision holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
struct Expiry {
    decided: Timestamp,
    at: Option<Millis>,
}

type Fields = OrMap<Blob, LwwRegister<Blob>>;

#[derive(Clone, PartialEq, Debug)]
enum State {
    Causal(DvvSet<Timed>),
    LastWriterWins(Stored<LwwRegister<Blob>>),
    Counter(Stored<PnCounter>),
    Set(Stored<AwSet<Blob>>),
    Map(Stored<Fields>),
}

impl State {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Causal => Self::Causal(DvvSet::default()),
            Kind::LastWriterWins => Self::LastWriterWins(Stored::default()),
            Kind::Counter => Self::Counter(Stored::default()),
            Kind::Set => Self::Set(Stored::default()),
            Kind::Map => Self::Map(Stored::default()),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Causal(_) => Kind::Causal,
            Self::LastWriterWins(_) => Kind::LastWriterWins,
            Self::Counter(_) => Kind::Counter,
            Self::Set(_) => Kind::Set,
            Self::Map(_) => Kind::Map,
        }
    }

    fn is_live(&self) -> bool {
        match self {
            Self::Causal(values) => !values.is_empty(),
            Self::LastWriterWins(register) => register.value().value().is_some(),
            Self::Counter(counter) => !counter.is_bottom(),
            Self::Set(set) => !set.value().is_empty(),
            Self::Map(map) => !map.value().is_empty(),
        }
    }

    fn context(&self) -> &VersionVector {
        match self {
            Self::Causal(values) => values.context(),
            Self::LastWriterWins(register) => register.context(),
            Self::Counter(counter) => counter.context(),
            Self::Set(set) => set.context(),
            Self::Map(map) => map.context(),
        }
    }

    /// Joins a copy of the same kind. Returns whether anything was new.
    fn merge(&mut self, other: Self) -> bool {
        match (self, other) {
            (Self::Causal(ours), Self::Causal(theirs)) => ours.merge_owned(theirs),
            (Self::LastWriterWins(ours), Self::LastWriterWins(theirs)) => ours.merge(theirs),
            (Self::Counter(ours), Self::Counter(theirs)) => ours.merge(theirs),
            (Self::Set(ours), Self::Set(theirs)) => ours.merge(theirs),
            (Self::Map(ours), Self::Map(theirs)) => ours.merge(theirs),
            _ => false,
        }
    }

    /// Removes all that is there. Returns whether anything was.
    fn clear(&mut self) -> bool {
        match self {
            Self::Causal(values) => {
                let seen = values.context().clone();
                values.delete(&seen)
            }
            Self::LastWriterWins(register) => register.clear(),
            Self::Counter(counter) => counter.clear(),
            Self::Set(set) => set.clear(),
            Self::Map(map) => map.clear(),
        }
    }

    /// Appends its bytes.
    fn encode(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let encoded = match self {
            Self::Causal(values) => {
                let room = values.values().map(|timed| timed.value.0.len() + MOST_OF_A_HEAD).sum::<usize>();
                bytes.reserve(room + values.context().interval_count() * MOST_OF_A_HEAD);
                return postcard::to_extend(values, bytes).expect("it encodes into a growing buffer");
            }
            Self::LastWriterWins(register) => register.encode(),
            Self::Counter(counter) => counter.encode(),
            Self::Set(set) => set.encode(),
            Self::Map(map) => map.encode(),
        };
        bytes.extend(encoded);
        bytes
    }

    fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, NotARecord> {
        let damaged = |error: polity_crdt::DecodeError| NotARecord(error.to_string());
        Ok(match kind {
            Kind::Causal => Self::Causal(whole(postcard::take_from_bytes(bytes))?),
            Kind::LastWriterWins => Self::LastWriterWins(Stored::decode(bytes).map_err(damaged)?),
            Kind::Counter => Self::Counter(Stored::decode(bytes).map_err(damaged)?),
            Kind::Set => Self::Set(Stored::decode(bytes).map_err(damaged)?),
            Kind::Map => Self::Map(Stored::decode(bytes).map_err(damaged)?),
        })
    }
}

/// The value of one key with its causal history; without a value, it is the trace of a delete.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    epoch: u32,
    expiry: Expiry,
    state: State,
}

impl Default for Record {
    /// Of a key that was never written.
    fn default() -> Self {
        Self::new(Kind::Causal)
    }
}

impl Record {
    fn new(kind: Kind) -> Self {
        Self { epoch: 0, expiry: Expiry::default(), state: State::new(kind) }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.state.kind()
    }

    /// Whether it is more than that of a key that was never written.
    pub(crate) fn is_written(&self) -> bool {
        !self.context().is_empty() || self.expiry != Expiry::default()
    }

    /// Whether there is a value: it was written, and neither deleted nor seen to expire.
    pub(crate) fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// All writes that it knows of.
    pub(crate) fn context(&self) -> &VersionVector {
        self.state.context()
    }

    /// Of two copies of one key, that of the one that knows more is greater, or they are equal: the epoch, then how many writes
    /// it knows of, then whether they are gone.
    pub(crate) fn rank(&self) -> u64 {
        let writes = self.context().dot_count().min(u64::from(u32::MAX >> 1));
        u64::from(self.epoch) << 32 | writes << 1 | u64::from(!self.is_live())
    }

    /// The values that no write has replaced; one at most, but for causal ones. None of a counter, set or map.
    pub(crate) fn values(&self) -> Vec<&Blob> {
        match &self.state {
            State::Causal(values) => values.values().map(|timed| &timed.value).collect(),
            State::LastWriterWins(register) => register.value().value().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The write that a causal value is from.
    #[cfg(test)]
    pub(crate) fn dot_of(&self, value: &Blob) -> Option<polity_crdt::Dot> {
        match &self.state {
            State::Causal(values) => values.siblings().find(|(_, timed)| timed.value == *value).map(|(dot, _)| dot),
            _ => None,
        }
    }

    /// How many values there are side by side.
    pub(crate) fn siblings(&self) -> usize {
        match &self.state {
            State::Causal(values) => values.len(),
            _ => 1,
        }
    }

    /// The sum of a counter; 0 of anything else.
    pub(crate) fn total(&self) -> i128 {
        match &self.state {
            State::Counter(counter) => counter.value().value(),
            _ => 0,
        }
    }

    /// The elements of a set, in order.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &Blob> {
        match &self.state {
            State::Set(set) => Some(set.value().iter()),
            _ => None,
        }
        .into_iter()
        .flatten()
    }

    /// The fields of a map and their values, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&Blob, &Blob)> {
        match &self.state {
            State::Map(map) => Some(map.value().iter()),
            _ => None,
        }
        .into_iter()
        .flatten()
        .filter_map(|(field, register)| Some((field, register.value()?)))
    }

    /// When the next of what is there expires.
    pub(crate) fn next_expiry(&self) -> Option<Millis> {
        match &self.state {
            State::Causal(values) => values.values().filter_map(|timed| timed.expires).min(),
            _ => self.expiry.at.filter(|_| self.is_live()),
        }
    }

    /// Removes all that is known to be there. Returns whether anything was.
    pub(crate) fn clear(&mut self) -> bool {
        self.state.clear()
    }

    /// When all that is there will have expired; `None`: never, or nothing is there.
    pub(crate) fn expires(&self) -> Option<Millis> {
        match &self.state {
            State::Causal(values) => {
                values.values().map(|timed| timed.expires).max_by_key(|at| at.unwrap_or(u64::MAX))?
            }
            _ => self.expiry.at.filter(|_| self.is_live()),
        }
    }

    /// What decides which of two copies stays, if they cannot be merged.
    fn precedence(&self) -> (u32, bool, Kind) {
        // What was never written is of no kind.
        (self.epoch, self.is_written(), self.kind())
    }

    /// Whether merging another copy would leave just that one. May say no where it would.
    pub(crate) fn gives_way_to(&self, other: &Self) -> bool {
        match (&self.state, &other.state) {
            (State::Causal(ours), State::Causal(theirs)) => {
                let is_there = |dot| ours.siblings().any(|(held, _)| held == dot);
                let mut news = theirs.siblings().map(|(dot, _)| dot);
                (self.epoch, self.expiry) == (other.epoch, other.expiry)
                    && theirs.context().covers(ours.context())
                    && news.all(|dot| !ours.context().contains(dot) || is_there(dot))
            }
            _ => false,
        }
    }

    /// Whether nothing is left of this copy once it has met the other.
    pub(crate) fn is_succeeded_by(&self, other: &Self) -> bool {
        self.precedence() < other.precedence()
    }

    /// Takes in another copy. Returns whether anything was new.
    pub(crate) fn merge(&mut self, other: Self) -> bool {
        match self.precedence().cmp(&other.precedence()) {
            Ordering::Less => {
                *self = other;
                return true;
            }
            Ordering::Equal => {}
            Ordering::Greater => return false,
        }
        let before = self.expiry;
        self.expiry = before.max(other.expiry);
        self.state.merge(other.state) || self.expiry != before
    }

    /// Removes what has expired by now. Returns whether anything had.
    pub(crate) fn latch(&mut self, now: Millis) -> bool {
        match &mut self.state {
            State::Causal(values) => {
                let is_over = |timed: &Timed| timed.expires.is_some_and(|at| at <= now);
                let over: VersionVector =
                    values.siblings().filter(|(_, timed)| is_over(timed)).map(|(dot, _)| dot).collect();
                !over.is_empty() && values.delete(&over)
            }
            state => self.expiry.at.is_some_and(|at| at <= now) && state.is_live() && state.clear(),
        }
    }
}

/// Bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub(crate) struct NotARecord(String);

/// A record's bytes. Equal records have equal bytes.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let Record { epoch, expiry, state } = record;
    let head = (state.kind(), epoch, expiry);
    let mut bytes = Vec::with_capacity(MOST_OF_A_HEAD);
    bytes.push(VERSION);
    state.encode(postcard::to_extend(&head, bytes).expect("a record encodes into a growing buffer"))
}

/// Tells two records of a key apart by their bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The record of these bytes, all of them.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, NotARecord> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            let head = postcard::take_from_bytes::<(Kind, u32, Expiry)>(rest);
            let ((kind, epoch, expiry), rest) = head.map_err(|error| NotARecord(error.to_string()))?;
            Ok(Record { epoch, expiry, state: State::decode(kind, rest)? })
        }
        Some((version, _)) => Err(NotARecord(format!("version {version}, and this build reads version {VERSION}"))),
        None => Err(NotARecord("no bytes".to_owned())),
    }
}

fn whole<T>(taken: postcard::Result<(T, &[u8])>) -> Result<T, NotARecord> {
    match taken {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(NotARecord("trailing bytes".to_owned())),
        Err(error) => Err(NotARecord(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
