//! A write to a record: what it does, and under which conditions it is refused.

use polity_crdt::{Change, Dot, ReplicaId, Timestamp, VersionVector};
use serde::{Deserialize, Serialize};

use super::{Blob, Expiry, Kind, Millis, Record, State, Timed};

/// The most steps of one update.
pub(crate) const MAX_STEPS: usize = 10_000;

/// One change of a value. Which ones make sense follows from the kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Replaces the value of a causal or last-writer-wins key.
    Put(Blob),
    /// Adds to a counter.
    Add(i64),
    /// Adds an element to a set.
    Insert(Blob),
    /// Removes an element from a set, or a field from a map.
    Remove(Blob),
    /// Sets a field of a map.
    Set(Blob, Blob),
}

/// What a write does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Update {
    /// The kind of what is written; `None` of what changes no value: whatever is there.
    pub(crate) kind: Option<Kind>,
    /// Whether what is known is removed first.
    pub(crate) clears: bool,
    pub(crate) steps: Vec<Step>,
    /// When it is to expire: `None` leaves that as it is, unless a value is put; `Some(None)`: never.
    pub(crate) expires: Option<Option<Millis>>,
}

impl Update {
    pub(crate) fn of(kind: Kind, steps: Vec<Step>) -> Self {
        Self { kind: Some(kind), clears: false, steps, expires: None }
    }

    /// Of whatever is there.
    pub(crate) fn any() -> Self {
        Self { kind: None, clears: false, steps: Vec::new(), expires: None }
    }

    /// The same for what is of this kind.
    pub(crate) fn of_kind(self, kind: Option<Kind>) -> Self {
        Self { kind, ..self }
    }

    /// Replaces a value, or deletes it if there is none.
    pub(crate) fn put(kind: Kind, value: Option<Blob>) -> Self {
        let steps = value.map(Step::Put).into_iter().collect::<Vec<_>>();
        Self { kind: Some(kind), clears: steps.is_empty(), steps, expires: None }
    }

    /// Whether it may be done before it is known what a quorum has: it replaces nothing, or a causal value by another.
    pub(crate) fn needs_no_quorum(&self) -> bool {
        let adds = |step: &Step| matches!(step, Step::Add(_) | Step::Insert(_));
        let only_adds = self.expires.is_none() && !self.steps.is_empty() && self.steps.iter().all(adds);
        !self.clears && (only_adds || self.puts_a_causal_value())
    }

    /// Whether it puts one value of a causal key.
    pub(crate) fn puts_a_causal_value(&self) -> bool {
        self.kind == Some(Kind::Causal) && matches!(self.steps[..], [Step::Put(_)])
    }

    /// How many bytes it carries.
    pub(crate) fn bytes(&self) -> usize {
        let of = |step: &Step| match step {
            Step::Put(bytes) | Step::Insert(bytes) | Step::Remove(bytes) => bytes.0.len(),
            Step::Set(field, value) => field.0.len() + value.0.len(),
            Step::Add(_) => 8,
        };
        self.steps.iter().map(of).sum()
    }
}

/// Who writes, when, and over what.
pub(crate) struct Writing<'a> {
    pub(crate) replica: ReplicaId,
    /// What the writer has seen; `None`: all that the record knows.
    pub(crate) context: Option<&'a VersionVector>,
    /// The hybrid time of the write.
    pub(crate) at: Timestamp,
}

/// What a write has done.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Applied {
    /// What others need to have it too; `None`: the whole record.
    pub(crate) delta: Option<Record>,
    /// How many steps have changed something.
    pub(crate) changed: u32,
    /// What the writer has seen now.
    pub(crate) context: VersionVector,
    /// The write that put a causal value.
    pub(crate) dot: Option<Dot>,
}

/// Why a write was not done. Nothing was changed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Refused {
    /// The key holds something of another kind.
    WrongKind(Kind),
    /// The steps are not of the kind that the update is said to be of.
    Nonsense,
    /// The replica can count no more writes.
    Exhausted(String),
}

impl Record {
    /// Writes.
    ///
    /// # Errors
    /// [`Refused`]; this copy is in no particular state then.
    pub(crate) fn apply(&mut self, update: &Update, writing: &Writing<'_>) -> Result<Applied, Refused> {
        let kind = update.kind.unwrap_or_else(|| self.kind());
        if self.kind() != kind {
            if self.is_live() {
                return Err(Refused::WrongKind(self.kind()));
            }
            // What was never written begins in the first epoch.
            let epoch = if self.context().is_empty() { self.epoch } else { self.epoch.saturating_add(1) };
            let before = std::mem::replace(self, Self { epoch, ..Self::new(kind) });
            let applied = self.change(update, writing)?;
            if self.context().is_empty() {
                // Nothing was there, and nothing is.
                *self = before;
                return Ok(Applied { delta: None, ..applied });
            }
            return Ok(applied);
        }
        let expiry = self.expiry;
        let applied = self.change(update, writing)?;
        if self.context().is_empty() {
            self.expiry = expiry;
            return Ok(Applied { delta: None, ..applied });
        }
        Ok(applied)
    }

    /// Whether such an update may be applied to this copy before it is known what other replicas have: if something of
    /// its kind was written before.
    pub(crate) fn takes_blindly(&self, update: &Update) -> bool {
        let is_begun = update.kind == Some(self.kind()) && !self.context().is_empty() && self.expiry.at.is_none();
        is_begun && update.needs_no_quorum()
    }

    /// The writes that causal values are from.
    pub(crate) fn dots(&self) -> impl Iterator<Item = Dot> {
        match &self.state {
            State::Causal(values) => Some(values.siblings().map(|(dot, _)| dot)),
            _ => None,
        }
        .into_iter()
        .flatten()
    }

    /// Removes the causal values that these writes have put.
    pub(crate) fn remove(&mut self, dots: &VersionVector) {
        if let State::Causal(values) = &mut self.state {
            values.delete(dots);
        }
    }

    /// How many steps of an update would change something.
    pub(crate) fn would_change(&self, update: &Update) -> u32 {
        // Nobody sees this copy, so nobody's count is used up.
        let writing = Writing { replica: ReplicaId(0), context: None, at: Timestamp::default() };
        self.clone().apply(update, &writing).map_or(0, |applied| applied.changed)
    }

    fn change(&mut self, update: &Update, writing: &Writing<'_>) -> Result<Applied, Refused> {
        let Update { clears, steps, expires, .. } = update;
        let mut delta = Self { epoch: self.epoch, expiry: Expiry::default(), state: State::new(self.kind()) };
        // Only what is there can be given another time.
        let retimed = u32::from(steps.is_empty() && !clears && expires.is_some() && self.is_live());
        let puts = steps.iter().any(|step| matches!(step, Step::Put(_)));
        // A counter, set or map that has expired begins anew without a limit.
        let renews = self.expiry.at.is_some() && !self.is_live();
        if self.kind() != Kind::Causal && (expires.is_some() || puts || renews) {
            let decided = writing.at.max(self.expiry.decided.next());
            self.expiry = Expiry { decided, at: expires.flatten() };
        }
        delta.expiry = self.expiry;
        let exhausted = |error: polity_crdt::Error| Refused::Exhausted(error.to_string());
        let (mut changed, mut context, mut put) = (retimed, self.context().clone(), None);
        match (&mut self.state, &mut delta.state) {
            (State::Causal(values), State::Causal(_)) => {
                let mut seen = writing.context.unwrap_or(&context).clone();
                if *clears {
                    changed += u32::from(values.delete(&seen));
                }
                if retimed > 0 {
                    // Each of them is written again, and replaces what was there, but not the others.
                    let known = |(dot, timed): (_, &Timed)| seen.contains(dot).then(|| timed.value.clone());
                    let values_now: Vec<Blob> = values.siblings().filter_map(known).collect();
                    let replaced = seen.clone();
                    for value in values_now {
                        let timed = Timed { expires: expires.flatten(), value };
                        seen.insert(values.put(writing.replica, &replaced, timed).map_err(exhausted)?);
                    }
                }
                for step in steps {
                    let Step::Put(value) = step else { return Err(Refused::Nonsense) };
                    let timed = Timed { expires: expires.flatten(), value: value.clone() };
                    let dot = values.put(writing.replica, &seen, timed).map_err(exhausted)?;
                    changed += 1;
                    // Not the siblings that it did not know and that stay beside its value.
                    seen.insert(dot);
                    put = Some(dot);
                }
                context = seen;
            }
            (State::LastWriterWins(register), State::LastWriterWins(_)) => {
                if *clears && register.clear() {
                    changed += 1;
                }
                for step in steps {
                    let Step::Put(value) = step else { return Err(Refused::Nonsense) };
                    let set = |state: &polity_crdt::LwwRegister<Blob>, w: &mut polity_crdt::Writer<'_>| {
                        state.set(w, writing.at, value.clone())
                    };
                    changed += u32::from(register.update(writing.replica, set).map_err(exhausted)?.is_some());
                }
            }
            (State::Counter(counter), State::Counter(part)) => {
                if *clears && counter.clear() {
                    changed += 1;
                    part.clone_from(counter);
                }
                for step in steps {
                    let Step::Add(by) = step else { return Err(Refused::Nonsense) };
                    let added = counter.update(writing.replica, |state, w| state.add(w, *by)).map_err(exhausted)?;
                    changed += gather(part, added);
                }
            }
            (State::Set(set), State::Set(part)) => {
                if *clears && set.clear() {
                    changed += 1;
                    part.clone_from(set);
                }
                for step in steps {
                    let done = match step {
                        // Adding what is there makes it survive a concurrent remove, and is no change to who asks.
                        Step::Insert(element) => {
                            let is_new = !set.value().contains(element);
                            let add = set.update(writing.replica, |state, w| state.add(w, element.clone()));
                            u32::from(is_new) & gather(part, add.map_err(exhausted)?)
                        }
                        Step::Remove(element) => {
                            let removed: Change<polity_crdt::AwSet<Blob>> =
                                set.update(writing.replica, |state, _| Ok(state.remove(element)));
                            gather(part, removed.map_err(exhausted)?)
                        }
                        _ => return Err(Refused::Nonsense),
                    };
                    changed += done;
                }
            }
            (State::Map(map), State::Map(part)) => {
                if *clears && map.clear() {
                    changed += 1;
                    part.clone_from(map);
                }
                for step in steps {
                    let done = match step {
                        Step::Set(field, value) => {
                            let is_new = !map.value().contains_key(field);
                            let set = map.update(writing.replica, |state, w| {
                                state.update(w, field.clone(), |register, w| register.set(w, writing.at, value.clone()))
                            });
                            u32::from(is_new) & gather(part, set.map_err(exhausted)?)
                        }
                        Step::Remove(field) => {
                            let removed = map.update(writing.replica, |state, _| Ok(state.remove(field)));
                            gather(part, removed.map_err(exhausted)?)
                        }
                        _ => return Err(Refused::Nonsense),
                    };
                    changed += done;
                }
            }
            _ => return Err(Refused::Nonsense),
        }
        if self.kind() != Kind::Causal {
            context = self.context().clone();
        }
        let is_whole = matches!(self.kind(), Kind::Causal | Kind::LastWriterWins);
        Ok(Applied { delta: (!is_whole).then_some(delta), changed, context, dot: put })
    }
}

/// Adds what a step has changed to what others are told. Returns how many changes that was.
fn gather<T: polity_crdt::Crdt>(part: &mut super::Stored<T>, delta: Option<T::Delta>) -> u32 {
    let Some(delta) = delta else { return 0 };
    part.merge(super::Stored::of(delta));
    1
}
