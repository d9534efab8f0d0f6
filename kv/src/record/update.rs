//! A write to a record: what it does, and under which conditions it is refused.

use polity_cluster::mutation::{Mutation, mutated};
use polity_crdt::{Dot, ReplicaId, Timestamp, VersionVector};
use serde::{Deserialize, Serialize};

use super::once::{Added, IdempotencyKey, MAX_DONE, Trace};
use super::{Blob, Kind, Millis, Part, Record, Timed};

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
    /// Whether its key may hold another kind.
    pub(crate) of_any_kind: bool,
    /// Whether what is known is removed first.
    pub(crate) clears: bool,
    pub(crate) steps: Vec<Step>,
    /// When it is to expire: `None` leaves that as it is, unless a value is put; `Some(None)`: never.
    pub(crate) expires: Option<Option<Millis>>,
    /// The name under which it is done once, however often it is asked for.
    pub(crate) once: Option<IdempotencyKey>,
}

impl Update {
    pub(crate) fn of(kind: Kind, steps: Vec<Step>) -> Self {
        Self { kind: Some(kind), of_any_kind: false, clears: false, steps, expires: None, once: None }
    }

    /// Of whatever is there.
    pub(crate) fn any() -> Self {
        Self { kind: None, of_any_kind: true, clears: false, steps: Vec::new(), expires: None, once: None }
    }

    /// The same for what is of this kind.
    pub(crate) fn of_kind(self, kind: Option<Kind>) -> Self {
        Self { kind, ..self }
    }

    /// Replaces a value, or deletes it if there is none.
    pub(crate) fn put(kind: Kind, value: Option<Blob>) -> Self {
        let steps = value.map(Step::Put).into_iter().collect::<Vec<_>>();
        Self { kind: Some(kind), of_any_kind: false, clears: steps.is_empty(), steps, expires: None, once: None }
    }

    /// Whether it may be done before it is known what a quorum has: it replaces nothing, or a causal value by another, and
    /// nobody can have begun the key anew with another kind.
    pub(crate) fn needs_no_quorum(&self) -> bool {
        let adds = |step: &Step| matches!(step, Step::Insert(_) | Step::Add(_));
        let only_adds = self.expires.is_none() && !self.steps.is_empty() && self.steps.iter().all(adds);
        self.once.is_none() && !self.clears && !self.of_any_kind && (only_adds || self.puts_a_causal_value())
    }

    /// Whether it puts one value of a causal key.
    pub(crate) fn puts_a_causal_value(&self) -> bool {
        self.kind == Some(Kind::Causal) && matches!(self.steps[..], [Step::Put(_)])
    }

    /// Whether it puts or adds something, which its writer counts.
    fn counts(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step, Step::Remove(_)))
    }

    /// How much it adds to a counter; `None`, if that is too much for one update under an idempotency key.
    fn adds(&self) -> Option<i64> {
        let by = self.steps.iter().map(|step| if let Step::Add(by) = step { *by } else { 0 });
        by.map(i128::from).sum::<i128>().try_into().ok()
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
    /// The replica counts its write above this: a record that it has dropped may have used all numbers up to it.
    pub(crate) above: u64,
    /// What the writer has seen; `None`: all that the record knows.
    pub(crate) context: Option<&'a VersionVector>,
    /// The hybrid time of the write.
    pub(crate) at: Timestamp,
    /// How long the name of a write is kept under which it is done once.
    pub(crate) window: Millis,
}

/// What a write has done.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Applied {
    /// What others need to have it too; `None`: the whole record. A step by itself is told if it only adds, because others may not have
    /// heard of what it is made over:
    ///
    /// - What was ever given a time to live: who takes in the step, and not that what was there has expired and was removed, would show it under
    ///   the time that it has now.
    /// - A counter: it is a few numbers, and a total means nothing without the removals that its replica has heard of.
    /// - A field that is set where something has gone: it may have been there, under a time that is later, and others may have that still.
    /// - What is removed: others may have what has replaced, or was replaced by, that which is removed here.
    /// - What leaves a trace under an idempotency key, or has one: who has the trace answers for the write.
    /// - What claims numbers of writes for this replica: others may have what was replaced here.
    pub(crate) delta: Option<Record>,
    /// How many steps have changed something.
    pub(crate) changed: u32,
    /// What the writer has seen now.
    pub(crate) context: VersionVector,
    /// The write that put a causal value.
    pub(crate) dot: Option<Dot>,
    /// Whether it was done before, under its idempotency key.
    pub(crate) again: bool,
}

/// Why a write was not done. Nothing was changed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Refused {
    /// The key holds something of another kind.
    WrongKind(Kind),
    /// The steps are not of the kind that the update is said to be of.
    Nonsense,
    /// [`MAX_DONE`] writes under idempotency keys are known.
    TooManyKeys,
    /// The replica can count no more writes.
    Exhausted(String),
}

impl From<polity_crdt::Error> for Refused {
    fn from(error: polity_crdt::Error) -> Self {
        Self::Exhausted(error.to_string())
    }
}

impl Record {
    /// Writes.
    ///
    /// # Errors
    /// [`Refused`]; this copy is in no particular state then.
    pub(crate) fn apply(&mut self, update: &Update, writing: &Writing<'_>) -> Result<Applied, Refused> {
        let kind = update.kind.unwrap_or_else(|| self.kind());
        let once = update.once.filter(|_| !mutated(Mutation::ForgetsIdempotencyKeys));
        if let Some(trace) = once.and_then(|key| self.done.of(key)) {
            let context = trace.dot().filter(|_| update.puts_a_causal_value()).into_iter().collect();
            return Ok(Applied { delta: None, changed: 0, context, dot: None, again: true });
        }
        if self.is_live() && self.kind() != kind && !mutated(Mutation::TakesAnyKind) {
            return Err(Refused::WrongKind(self.kind()));
        }
        if once.is_some() && self.done.len() >= MAX_DONE {
            return Err(Refused::TooManyKeys);
        }
        let mut applied = match Part::new(kind) {
            None => self.change_values(update, writing),
            Some(part) => self.change_part(part, update, writing),
        }?;
        if let Some(key) = once {
            let count = match kind {
                Kind::Causal => applied.dot.map_or(0, |dot| dot.counter),
                _ => self.counted(writing.replica),
            };
            self.done.insert(Trace::new(key, (writing.replica, count), writing.window));
        }
        // No copy knows of a write without its trace, and none of the trace without the write.
        if !self.done.is_empty() && !mutated(Mutation::TellsTheStepOnly) {
            applied.delta = None;
        }
        Ok(applied)
    }

    /// Whether such an update may be applied to this copy before it is known what other replicas have: if something of
    /// its kind was written before, or it is the first put of a causal value.
    pub(crate) fn takes_blindly(&self, update: &Update) -> bool {
        let is_begun = match update.kind {
            // Values expire one by one: nothing that others may have is to be cleared first.
            Some(Kind::Causal) => !self.context().is_empty() || self.parts.is_empty(),
            kind => kind.and_then(|kind| self.part(kind)).is_some_and(|part| !part.is_timed()),
        };
        is_begun && update.needs_no_quorum()
    }

    /// The writes that causal values are from.
    pub(crate) fn dots(&self) -> impl Iterator<Item = Dot> {
        self.causal.siblings().map(|(dot, _)| dot)
    }

    /// Removes the causal values that these writes have put.
    pub(crate) fn remove(&mut self, dots: &VersionVector) {
        self.causal.delete(dots);
    }

    /// Lets what was added here of a kind, by a write of which `told` was told and over what was here before, expire with what is there, or
    /// was as far as others knew. Returns whether that is to expire.
    pub(crate) fn extend(
        &mut self,
        kind: Kind,
        (known, before, told): (&Self, &Self, &Self),
        writing: &Writing<'_>,
    ) -> Result<bool, Refused> {
        let Some((told, mut delta)) = told.part(kind).zip(Part::new(kind)) else { return Ok(false) };
        let Some(part) = self.parts.iter_mut().find(|part| part.kind() == kind) else { return Ok(false) };
        let Some(decision) = part.decision(writing.replica, known.part(kind)) else { return Ok(false) };
        let before = before.part(kind).map(|part| part.contexts().map(VersionVector::clone)).unwrap_or_default();
        part.extend(decision, told.added(&before), writing, &mut delta)?;
        Ok(true)
    }

    /// Whether what it holds of a kind was given a time, apart from a value.
    pub(crate) fn is_timed(&self, kind: Kind) -> bool {
        self.part(kind).is_some_and(Part::is_timed)
    }

    fn part(&self, kind: Kind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind() == kind)
    }

    /// How many steps of an update would change something.
    pub(crate) fn would_change(&self, update: &Update) -> u32 {
        // Nobody sees this copy, so nobody's count is used up.
        let writing = Writing { replica: ReplicaId(0), above: 0, context: None, at: Timestamp::default(), window: 0 };
        self.clone().apply(update, &writing).map_or(0, |applied| applied.changed)
    }

    /// What a write does to causal values.
    fn change_values(&mut self, update: &Update, writing: &Writing<'_>) -> Result<Applied, Refused> {
        let Update { clears, steps, expires, .. } = update;
        let values = &mut self.causal;
        let mut seen = writing.context.unwrap_or(values.context()).clone();
        let (mut changed, mut put) = (0, None);
        let counts = update.counts() || (!clears && !values.is_empty());
        if counts && values.context().max(writing.replica) < writing.above {
            let counted = VersionVector::up_to(writing.replica, writing.above);
            let live = values.siblings().map(|(dot, _)| dot).collect();
            values.delete(&counted.difference(&live));
        }
        if *clears {
            changed += u32::from(values.delete(&seen));
        }
        // Only what is there can be given another time.
        if steps.is_empty() && !clears && expires.is_some() && !values.is_empty() {
            changed += 1;
            // Each of them is written again, and replaces what was there, but not the others.
            let known = |(dot, timed): (_, &Timed)| seen.contains(dot).then(|| timed.value.clone());
            let values_now: Vec<_> = values.siblings().filter_map(known).collect();
            let replaced = seen.clone();
            for value in values_now {
                let timed = Timed { expires: expires.flatten(), value };
                seen.insert(values.put(writing.replica, &replaced, timed)?);
            }
        }
        for step in steps {
            let Step::Put(value) = step else { return Err(Refused::Nonsense) };
            let timed = Timed { expires: expires.flatten(), value: value.clone() };
            let dot = values.put(writing.replica, &seen, timed)?;
            changed += 1;
            // Not the siblings that it did not know and that stay beside its value.
            seen.insert(dot);
            put = Some(dot);
        }
        Ok(Applied { delta: None, changed, context: seen, dot: put, again: false })
    }

    /// What a write does to a value of another kind. `told` is of that kind, and empty.
    fn change_part(&mut self, mut told: Part, update: &Update, writing: &Writing<'_>) -> Result<Applied, Refused> {
        let Update { clears, steps, expires, .. } = update;
        let kind = told.kind();
        let mut changed = u32::from(*clears && self.clear());
        let at = self.parts.binary_search_by_key(&kind, Part::kind).unwrap_or_else(|at| {
            self.parts.insert(at, told.clone());
            at
        });
        let part = &mut self.parts[at];
        let sets_anew = part.sets_anew(steps);
        // What is added to what is to expire goes with that.
        let decision = if expires.is_none() && update.counts() { part.decision(writing.replica, None) } else { None };
        let before = decision.map(|_| part.contexts().map(VersionVector::clone));
        let writes = update.counts() || (expires.is_some() && part.is_live());
        let has_claimed = writes && part.claim(writing, update);
        if kind == Kind::Counter && update.counts() {
            part.forget_marks(&self.done, writing.replica)?;
        }
        let forgets = mutated(Mutation::ForgetsIdempotencyKeys);
        if let Some(key) = update.once.filter(|_| kind == Kind::Counter && !forgets) {
            if !steps.iter().all(|step| matches!(step, Step::Add(_))) {
                return Err(Refused::Nonsense);
            }
            let too_much = || Refused::Exhausted("it adds too much at once".to_owned());
            let added = Added::new(key, update.adds().ok_or_else(too_much)?, writing.replica);
            changed += u32::from(added.by != 0 && part.add_keyed(added, writing.replica)?);
        } else {
            for step in steps {
                changed += u32::from(part.step(step, expires.flatten(), writing, &mut told)?);
            }
        }
        // Only what is there can be given another time, and what is put was given one with it.
        let puts = kind == Kind::LastWriterWins && !steps.is_empty();
        if let Some(expires) = expires
            && !puts
            && part.is_live()
        {
            part.retime(*expires, writing, &mut told)?;
            changed += u32::from(steps.is_empty());
        } else if let (Some(decision), Some(before)) = (decision, before) {
            part.extend(decision, part.added(&before), writing, &mut told)?;
        }
        let removes = steps.iter().any(|step| matches!(step, Step::Remove(_)));
        let needs_all = removes || sets_anew || has_claimed || part.was_timed();
        self.parts.retain(Part::is_written);
        let is_step = matches!(kind, Kind::Set | Kind::Map) && !clears;
        let is_whole = !is_step || (needs_all && !mutated(Mutation::TellsTheStepOnly));
        let delta = (!is_whole).then(|| self.tell(told));
        Ok(Applied { delta, changed, context: self.context().clone(), dot: None, again: false })
    }

    /// What others are told of a step: the step, and what there is of other kinds, which is nothing but what has gone of them nearly always.
    fn tell(&self, step: Part) -> Self {
        let mut told = Self::default();
        if !mutated(Mutation::TellsTheStepOnly) {
            let others = self.parts.iter().filter(|part| part.kind() != step.kind());
            told = Self { causal: self.causal.clone(), parts: others.cloned().collect(), ..told };
        }
        if step.is_written() {
            told.merge(Self { parts: vec![step], ..Self::default() });
        }
        told
    }
}
