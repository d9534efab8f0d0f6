//! What a key holds of one kind other than causal: a replicated value, and when it expires.

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{AwSet, Crdt, LwwRegister, OrMap, PnCounter, ReplicaId, Timestamp, VersionVector};

use super::once::{Added, Done};
use super::origin::Origins;
use super::stored::Stored;
use super::until::{Decision, Due, MAX_DUE, Until};
use super::update::{Refused, Step, Update, Writing};
use super::{Blob, Format, Kind, Millis, NotARecord, Timed};

pub(super) type Fields = OrMap<Blob, LwwRegister<Blob>>;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    LastWriterWins(Stored<LwwRegister<Timed>>),
    Counter(Stored<PnCounter>),
    Set(Stored<AwSet<Blob>>),
    Map(Stored<Fields>),
}

/// Does the same with a value of any kind.
macro_rules! with_stored {
    ($value:expr, $stored:ident => $do:expr) => {
        match $value {
            Value::LastWriterWins($stored) => $do,
            Value::Counter($stored) => $do,
            Value::Set($stored) => $do,
            Value::Map($stored) => $do,
        }
    };
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Part {
    pub(super) value: Value,
    /// When all of a counter, set or map expires. Nothing, once the value is gone.
    until: Until,
    /// What of a counter's totals was added under idempotency keys, and by whom: an element's dots are of those that have added it.
    keyed: Stored<AwSet<Added>>,
    /// From where on the totals of a counter count.
    origins: Origins,
}

impl Part {
    /// Of a kind other than causal; causal values are no part.
    pub(super) fn new(kind: Kind) -> Option<Self> {
        let value = match kind {
            Kind::Causal => return None,
            Kind::LastWriterWins => Value::LastWriterWins(Stored::default()),
            Kind::Counter => Value::Counter(Stored::default()),
            Kind::Set => Value::Set(Stored::default()),
            Kind::Map => Value::Map(Stored::default()),
        };
        Some(Self { value, until: Until::default(), keyed: Stored::default(), origins: Origins::default() })
    }

    pub(super) fn kind(&self) -> Kind {
        match self.value {
            Value::LastWriterWins(_) => Kind::LastWriterWins,
            Value::Counter(_) => Kind::Counter,
            Value::Set(_) => Kind::Set,
            Value::Map(_) => Kind::Map,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        match &self.value {
            Value::LastWriterWins(register) => register.value().value().is_some(),
            Value::Counter(counter) => !counter.is_bottom(),
            Value::Set(set) => !set.value().is_empty(),
            Value::Map(map) => !map.value().is_empty(),
        }
    }

    /// All writes that it knows of: of the value, of when it expires, and under idempotency keys.
    pub(super) fn contexts(&self) -> [&VersionVector; 3] {
        [with_stored!(&self.value, stored => stored.context()), self.until.stored().context(), self.keyed.context()]
    }

    /// The sum of a counter; 0 of anything else.
    pub(super) fn total(&self) -> i128 {
        let Value::Counter(counter) = &self.value else { return 0 };
        let marks = self.keyed.value();
        let again = |added: &Added| i128::from(added.by) * (attempts(marks, added) as i128 - 1);
        self.origins.sum(counter.value()) - marks.iter().map(again).sum::<i128>()
    }

    pub(super) fn is_written(&self) -> bool {
        self.contexts().into_iter().any(|context| !context.is_empty())
    }

    /// Whether steps set a field of a map that is not there, and something has gone that may have been that.
    pub(super) fn sets_anew(&self, steps: &[Step]) -> bool {
        let Value::Map(map) = &self.value else { return false };
        let is_new = |step: &Step| matches!(step, Step::Set(field, _) if !map.value().contains_key(field));
        steps.iter().any(is_new) && !map.context().difference(&map.live()).is_empty()
    }

    /// Whether it was ever decided when all of it expires, or that it does not.
    pub(super) fn was_timed(&self) -> bool {
        self.until.is_written()
    }

    /// Whether it was decided that what was there then expires.
    pub(super) fn is_timed(&self) -> bool {
        self.until.is_timed()
    }

    /// When all of it has expired, if it is there; `None`: never.
    pub(super) fn expires(&self) -> Option<Millis> {
        match &self.value {
            Value::LastWriterWins(register) => register.value().value()?.expires,
            _ => self.until.last(self.live(), &self.origins).filter(|_| self.is_live()),
        }
    }

    /// When the next of it expires, after this time.
    pub(super) fn next_expiry(&self, after: Millis) -> Option<Millis> {
        if !self.is_live() {
            return None;
        }
        let own = if self.kind() == Kind::LastWriterWins { self.expires() } else { None };
        self.until.times().chain(own).filter(|at| *at > after).min()
    }

    /// Whether something of it has expired. Also what has a time and nothing of which is there: who removed the last of that may not have
    /// known of the time, or not that it was the last.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        match &self.value {
            Value::LastWriterWins(_) => self.expires().is_some_and(|at| at <= now),
            _ => self.until.is_over(now) || (self.until.stands() && !self.is_live()),
        }
    }

    /// As of when it was written, or it was decided when it expires, at the latest: no later write is to be as of an earlier time.
    pub(super) fn stamp(&self) -> Option<Timestamp> {
        match &self.value {
            Value::LastWriterWins(register) => register.value().entry().map(|(at, _)| at),
            _ => self.until.stamp(),
        }
    }

    /// Removes what has expired. Returns whether that changed anything.
    pub(super) fn latch(&mut self, now: Millis) -> bool {
        if !self.is_over(now) {
            return false;
        }
        // A last value takes along those that it has won over.
        if self.kind() == Kind::LastWriterWins || mutated(Mutation::ExpiresUnseen) {
            return self.clear();
        }
        let (Due { covers, marks, origins }, mut had) = self.until.take(now, &self.origins);
        had |= with_stored!(&mut self.value, stored => stored.kill(&covers));
        had |= self.keyed.kill(&marks) | self.origins.merge(origins);
        if !self.is_live() {
            had |= self.until.clear();
        }
        had
    }

    /// A removal of all that is there, that may be due.
    fn due(&self) -> Due {
        let counter = if let Value::Counter(counter) = &self.value { Some(counter.value()) } else { None };
        let covers = with_stored!(&self.value, stored => stored.context());
        Due::of(covers.clone(), self.keyed.context().clone(), counter)
    }

    /// The decision with which what a replica adds expires: what is there does, or was before that. Of a counter it is what that replica
    /// has counted, if anything was decided about that: it is all one total.
    pub(super) fn decision(&self, replica: ReplicaId, before: Option<&Self>) -> Option<Decision> {
        if !self.is_timed() {
            return None;
        }
        let mut live = self.live();
        live.merge(&before.map(Self::live).unwrap_or_default());
        let of = |writes: &VersionVector| self.until.latest_of(writes, &self.origins);
        let is_counter = self.kind() == Kind::Counter;
        let own = is_counter.then(|| live.of(replica));
        own.and_then(|own| of(&own)).or_else(|| of(&live)).filter(Decision::is_timed)
    }

    /// The writes of the value of which something is there.
    fn live(&self) -> VersionVector {
        with_stored!(&self.value, stored => stored.live())
    }

    /// Joins a copy of the same kind. Returns whether anything was new.
    pub(super) fn merge(&mut self, other: Self) -> bool {
        if mutated(Mutation::RemovesUnseen) && matches!(self.value, Value::Set(_) | Value::Map(_)) && !other.is_live() {
            self.clear();
        }
        let is_later = self.until.merge(other.until) | self.keyed.merge(other.keyed);
        let is_new = match (&mut self.value, other.value) {
            (Value::LastWriterWins(ours), Value::LastWriterWins(theirs)) => ours.merge(theirs),
            (Value::Counter(ours), Value::Counter(theirs)) => ours.merge(theirs) | self.origins.merge(other.origins),
            (Value::Set(ours), Value::Set(theirs)) => ours.merge(theirs),
            (Value::Map(ours), Value::Map(theirs)) => ours.merge(theirs),
            _ => false,
        };
        is_later || is_new
    }

    /// Removes all that is there. Returns whether anything was.
    pub(super) fn clear(&mut self) -> bool {
        if let Value::Counter(counter) = &self.value {
            self.origins.remove(counter.value());
        }
        self.until.clear();
        with_stored!(&mut self.value, stored => stored.clear()) | self.keyed.clear()
    }

    /// All that a replica has counted up to here is known, and gone where it is not here, wherever an update may write. Returns whether not
    /// all of it was known.
    pub(super) fn claim(&mut self, Writing { replica, above, .. }: &Writing<'_>, update: &Update) -> bool {
        let of_value = with_stored!(&mut self.value, stored => stored.claim(*replica, *above));
        let marks = update.once.is_some() && self.kind() == Kind::Counter;
        of_value | (marks && self.keyed.claim(*replica, *above))
    }

    /// Adds to a counter under an idempotency key, and marks that: what several have added under one key counts once.
    pub(super) fn add_keyed(&mut self, added: Added, replica: ReplicaId) -> Result<bool, Refused> {
        if self.keyed.value().contains(&added) {
            return Ok(false);
        }
        self.count(added.by, replica)?;
        Ok(self.keyed.update(replica, |state, w| state.add(w, added))?.is_some())
    }

    /// A writer removes the marks of keys that are over, but not of what was added more than once.
    pub(super) fn forget_marks(&mut self, done: &Done, replica: ReplicaId) -> Result<(), Refused> {
        let marks = self.keyed.value();
        let is_over = |added: &&Added| !done.has(added.id) && attempts(marks, added) < 2;
        for added in marks.iter().filter(is_over).copied().collect::<Vec<_>>() {
            self.keyed.update(replica, |state, _| Ok(state.remove(&added)))?;
        }
        Ok(())
    }

    /// Adds to the total of a replica. One that has none begins at 0.
    fn count(&mut self, by: i64, replica: ReplicaId) -> Result<bool, Refused> {
        let Value::Counter(counter) = &mut self.value else { return Err(Refused::Nonsense) };
        let latest = |counter: &Stored<PnCounter>| {
            counter.value().totals().map(|(dot, _)| dot).find(|dot| dot.replica == replica)
        };
        let goes_on = latest(counter).is_some();
        let added = counter.update(replica, |state, w| state.add(w, by))?;
        if let Some(dot) = latest(counter).filter(|_| !goes_on) {
            self.origins.begin(dot);
        }
        Ok(added.is_some())
    }

    /// Makes one step, and adds what it has done to what others are told. Returns whether that changed anything.
    pub(super) fn step(
        &mut self,
        step: &Step,
        expires: Option<Millis>,
        writing: &Writing<'_>,
        delta: &mut Self,
    ) -> Result<bool, Refused> {
        let Writing { replica, at, .. } = *writing;
        if let Step::Add(by) = step {
            return self.count(*by, replica);
        }
        match (&mut self.value, &mut delta.value, step) {
            (Value::LastWriterWins(register), _, Step::Put(value)) => {
                let timed = Timed { expires, value: value.clone() };
                Ok(register.update(replica, |state, w| state.set(w, at, timed))?.is_some())
            }
            // Adding what is there makes it survive a concurrent remove, and is no change to who asks.
            (Value::Set(set), Value::Set(told), Step::Insert(element)) => {
                let is_new = !set.value().contains(element);
                let added = set.update(replica, |state, w| state.add(w, element.clone()))?;
                Ok(gather(told, added) && is_new)
            }
            (Value::Set(set), Value::Set(told), Step::Remove(element)) => {
                let removed = set.update(replica, |state, _| Ok(state.remove(element)))?;
                Ok(gather(told, removed))
            }
            (Value::Map(map), Value::Map(told), Step::Set(field, value)) => {
                let is_new = !map.value().contains_key(field);
                let set = map.update(replica, |state, w| {
                    state.update(w, field.clone(), |register, w| register.set(w, at, value.clone()))
                })?;
                Ok(gather(told, set) && is_new)
            }
            (Value::Map(map), Value::Map(told), Step::Remove(field)) => {
                let removed = map.update(replica, |state, _| Ok(state.remove(field)))?;
                Ok(gather(told, removed))
            }
            _ => Err(Refused::Nonsense),
        }
    }

    /// Decides when all that is there expires. A last value is written again, so that who has not heard of it removes only what it
    /// was before.
    pub(super) fn retime(
        &mut self,
        expires: Option<Millis>,
        writing: &Writing<'_>,
        delta: &mut Self,
    ) -> Result<(), Refused> {
        if let Value::LastWriterWins(register) = &mut self.value {
            let Some(value) = register.value().value().map(|timed| timed.value.clone()) else { return Ok(()) };
            register.update(writing.replica, |state, w| state.restate(w, Timed { expires, value }))?;
        } else {
            let decided = self.until.decide(expires, self.due(), writing)?;
            delta.until.merge(decided);
        }
        Ok(())
    }

    /// What has been added since something else was known. Of a counter it is all that its replicas have counted.
    pub(super) fn added(&self, since: &[VersionVector; 3]) -> Due {
        let [value, _, marks] = since;
        let [known, _, known_marks] = self.contexts();
        let covers = known.difference(value);
        let origins = self.due().origins.of(&covers);
        let mut new_marks = known_marks.difference(marks);
        new_marks.merge(&known_marks.intersection(&origins.replicas()));
        Due { marks: new_marks, covers, origins }
    }

    /// What was added expires with what was there, but for what was given a time meanwhile.
    pub(super) fn extend(
        &mut self,
        decision: Decision,
        added: Due,
        writing: &Writing<'_>,
        delta: &mut Self,
    ) -> Result<(), Refused> {
        let covers = self.until.beyond(added.covers);
        if !covers.is_empty() {
            delta.until.merge(self.until.extend(decision, Due { covers, ..added }, writing)?);
        }
        Ok(())
    }

    /// Appends its bytes.
    pub(super) fn encode(&self, format: Format, bytes: Vec<u8>) -> Vec<u8> {
        // Most decide nothing apart from the value.
        let until = encode_written(self.until.stored());
        let value = with_stored!(&self.value, stored => stored.encode());
        let bytes = postcard::to_extend(&(&until[..], &value[..]), bytes).expect("it encodes into a growing buffer");
        if self.kind() != Kind::Counter {
            return bytes;
        }
        let bytes =
            postcard::to_extend(&encode_written(&self.keyed)[..], bytes).expect("it encodes into a growing buffer");
        if format == Format::Plain {
            return bytes;
        }
        postcard::to_extend(&self.origins, bytes).expect("it encodes into a growing buffer")
    }

    /// The least of the formats of records that has room for it.
    pub(super) fn format(&self) -> Format {
        if self.was_timed() {
            Format::Timed
        } else if self.origins.is_empty() {
            Format::Plain
        } else {
            Format::WithOrigins
        }
    }

    /// Reads one of this kind. Returns the rest of the bytes, too.
    pub(super) fn decode(kind: Kind, format: Format, bytes: &[u8]) -> Result<(Self, &[u8]), NotARecord> {
        let taken = postcard::take_from_bytes::<(&[u8], &[u8])>(bytes);
        let ((until, value), mut rest) = taken.map_err(|error| NotARecord(error.to_string()))?;
        let damaged = |error: polity_crdt::DecodeError| NotARecord(error.to_string());
        let value = match kind {
            Kind::Causal => return Err(NotARecord("causal values are no part".to_owned())),
            Kind::LastWriterWins => Value::LastWriterWins(Stored::decode(value).map_err(damaged)?),
            Kind::Counter => Value::Counter(Stored::decode(value).map_err(damaged)?),
            Kind::Set => Value::Set(Stored::decode(value).map_err(damaged)?),
            Kind::Map => Value::Map(Stored::decode(value).map_err(damaged)?),
        };
        let (mut keyed, mut origins): (&[u8], _) = (&[], Origins::default());
        if kind == Kind::Counter {
            (keyed, rest) = postcard::take_from_bytes(rest).map_err(|error| NotARecord(error.to_string()))?;
            if format != Format::Plain {
                let taken = postcard::take_from_bytes(rest);
                (origins, rest) = taken.map_err(|error| NotARecord(error.to_string()))?;
            }
        }
        if !until.is_empty() && format != Format::Timed {
            return Err(NotARecord("a time to live of an earlier build".to_owned()));
        }
        let (until, keyed) = (decode_written(until).map_err(damaged)?, decode_written(keyed).map_err(damaged)?);
        let too_many = || NotARecord(format!("more than {MAX_DUE} times at once"));
        let until = Until::of(until).ok_or_else(too_many)?;
        let part = Self { value, until, keyed, origins };
        if part.is_written() { Ok((part, rest)) } else { Err(NotARecord(format!("nothing was written to its {kind}"))) }
    }
}

/// How many replicas have added something under one key.
fn attempts(marks: &AwSet<Added>, added: &Added) -> usize {
    marks.dots(added).map_or(0, |dots| dots.replica_count())
}

/// Nothing, if nothing was ever written to it.
fn encode_written<T: Crdt>(stored: &Stored<T>) -> Vec<u8> {
    if stored.context().is_empty() { Vec::new() } else { stored.encode() }
}

/// The inverse of [`encode_written`].
fn decode_written<T: Crdt>(bytes: &[u8]) -> Result<Stored<T>, polity_crdt::DecodeError> {
    if bytes.is_empty() { Ok(Stored::default()) } else { Stored::decode(bytes) }
}

/// Adds what a step has changed to what others are told. Returns whether that was anything.
fn gather<T: Crdt>(told: &mut Stored<T>, delta: Option<T::Delta>) -> bool {
    let Some(delta) = delta else { return false };
    told.merge(Stored::of(delta));
    true
}
