//! Calls that can be given options before they are awaited.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tracing::Instrument as _;

use crate::bucket::config::Rules;
use crate::config::{Consistency, MAX_TIME};
use crate::coordinator::{Asked, Done};
use crate::error::KvError;
use crate::kv::{Context, Kv};
use crate::place;
use crate::record::{Blob, IdempotencyKey, Kind, MAX_STEPS, Record, Update};
use crate::store::millis;

/// How many keys of one call are under way at a time: enough that round trips do not matter, few enough that a call of a
/// million keys crowds out nobody else.
pub(crate) const MAX_KEYS_AT_ONCE: usize = 128;

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A read that can be given options before it is awaited.
///
/// # Errors
/// [`KvError::NotEnoughReplicas`], at once if too few replicas are up, and else after the timeout. [`KvError::KeySize`],
/// [`KvError::WrongKind`], [`KvError::Stopped`].
pub struct Get<'a, T> {
    read: Read<'a, T>,
    place: Blob,
}

impl<T> fmt::Debug for Get<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Get").field("level", &self.read.level).finish_non_exhaustive()
    }
}

impl<'a, T> Get<'a, T> {
    /// Fails if there is something of another kind than `wanted`.
    pub(crate) fn new(kv: &'a Kv, place: Blob, wanted: Option<Kind>, rules: Rules, make: fn(&Record) -> T) -> Self {
        Self { read: Read::new(kv, wanted, rules, make), place }
    }

    /// How many replicas must answer.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.read.level = level;
        self
    }

    /// How long it may take.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.read.within = within;
        self
    }
}

impl<'a, T: 'a> IntoFuture for Get<'a, T> {
    type Output = Result<T, KvError>;
    type IntoFuture = Pending<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let span = tracing::debug_span!("get", level = ?self.read.level);
        let Self { read, place } = self;
        Box::pin(async move { read.of(&place).await }.instrument(span))
    }
}

/// Reads of many keys. The answers come in the order of the keys, one for each, and each as if it had been read alone:
/// some may fail, as a [`Get`] does, while others do not.
///
/// Many keys are under way at a time, and the others wait.
pub struct GetMany<'a, T> {
    read: Read<'a, T>,
    places: Vec<Blob>,
}

impl<T> fmt::Debug for GetMany<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, level) = (self.places.len(), self.read.level);
        f.debug_struct("GetMany").field("keys", &keys).field("level", &level).finish_non_exhaustive()
    }
}

impl<'a, T> GetMany<'a, T> {
    pub(crate) fn new(
        kv: &'a Kv,
        places: Vec<Blob>,
        wanted: Option<Kind>,
        rules: Rules,
        make: fn(&Record) -> T,
    ) -> Self {
        Self { read: Read::new(kv, wanted, rules, make), places }
    }

    /// How many replicas must answer for each key.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.read.level = level;
        self
    }

    /// How long each key may take, from when it is its turn.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.read.within = within;
        self
    }
}

impl<'a, T: Send + 'a> IntoFuture for GetMany<'a, T> {
    type Output = Vec<Result<T, KvError>>;
    type IntoFuture = Pending<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let span = tracing::debug_span!("get_many", keys = self.places.len(), level = ?self.read.level);
        let Self { read, places } = self;
        let get = async move {
            let read = &read;
            let reads = places.into_iter().map(|place| async move { read.of(&place).await });
            stream::iter(reads).buffered(MAX_KEYS_AT_ONCE).collect().await
        };
        Box::pin(get.instrument(span))
    }
}

/// A write that can be given options before it is awaited. A causal one returns the context that covers what it wrote.
///
/// Dropped while it is under way, its outcome is unknown.
///
/// # Errors
/// [`KvError::outcome`] says of each whether it may have been applied. Try again: [`KvError::NotEnoughReplicas`], at once if too few replicas
/// are up, and else after the timeout; [`KvError::CoordinatorLost`]. Change the call: [`KvError::KeySize`], [`KvError::ValueTooLarge`],
/// [`KvError::TooManySteps`], [`KvError::WrongKind`], [`KvError::TooManySiblings`], [`KvError::RecordTooLarge`], and of idempotency keys
/// [`KvError::IdempotencyKeyOutOfWindow`] and [`KvError::TooManyIdempotencyKeys`]. Give up: [`KvError::NoRoom`], [`KvError::Stopped`].
pub struct Put<'a, T> {
    write: Write<'a, T>,
    place: Blob,
    update: Update,
    context: Option<Context>,
}

impl<T> fmt::Debug for Put<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, level) = (self.update.kind, self.write.level);
        f.debug_struct("Put").field("kind", &kind).field("level", &level).finish_non_exhaustive()
    }
}

impl<'a, T> Put<'a, T> {
    pub(crate) fn new(kv: &'a Kv, place: Blob, update: Update, rules: Rules, make: fn(Done) -> T) -> Self {
        Self { write: Write::new(kv, rules, make), place, update, context: None }
    }

    /// How long what is written stays, from when the write is awaited; it is then removed, wherever it is. Of a counter, set or map that is
    /// all that is under the key, whoever wrote it, and what is added until then without a time of its own. It never comes back, and wall
    /// clocks say when: to within how far they differ. A write that takes longer than that is refused ([`KvError::Expired`]).
    #[must_use = "a write does nothing until it is awaited"]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.write.ttl = Some(ttl);
        self
    }

    /// How many replicas must have written.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.write.level = level;
        self
    }

    /// How long it may take.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.write.within = within;
        self
    }

    /// Does it once, however often, and on whatever nodes, it is asked for under this key: one that was done already succeeds,
    /// and changes nothing. So a write of unknown outcome can be asked for again. Costs a round trip.
    ///
    /// Once a quorum has the write, no other attempt at quorum takes effect. Attempts that run at the same time, or on two sides
    /// of a split, count once where the key holds a counter; elsewhere both take effect. A context that one returns which
    /// changed nothing covers the value that was put, and nothing else; counts of what was changed are 0. See [`IdempotencyKey`]
    /// for how long it holds.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.update.once = Some(key);
        self
    }
}

impl Put<'_, Context> {
    /// Replaces exactly what this context covers, and saves the round trip that asks a quorum.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn context(mut self, context: &Context) -> Self {
        self.context = Some(context.clone());
        self
    }
}

impl<'a, T: 'a> IntoFuture for Put<'a, T> {
    type Output = Result<T, KvError>;
    type IntoFuture = Pending<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { write, place, update, context } = self;
        let span = tracing::debug_span!("put", level = ?write.level, kind = ?update.kind, clears = update.clears);
        Box::pin(async move { write.of(place, update, context).await }.instrument(span))
    }
}

/// Writes of many keys. The answers come in the order of the keys, one for each, and each is as honest as that of a single
/// write ([`Put`]): some may fail, or be of unknown outcome, while others are done. It is no transaction.
///
/// Many keys are under way at a time, and the others wait. A key that is given twice is written at the same time as
/// itself. Dropped while it is under way, the outcome of those without an answer is unknown.
pub struct PutMany<'a, T> {
    write: Write<'a, T>,
    updates: Vec<(Blob, Update)>,
}

impl<T> fmt::Debug for PutMany<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, level) = (self.updates.len(), self.write.level);
        f.debug_struct("PutMany").field("keys", &keys).field("level", &level).finish_non_exhaustive()
    }
}

impl<'a, T> PutMany<'a, T> {
    pub(crate) fn new(kv: &'a Kv, updates: Vec<(Blob, Update)>, rules: Rules, make: fn(Done) -> T) -> Self {
        Self { write: Write::new(kv, rules, make), updates }
    }

    /// How long what is written stays, as [`Put::ttl`] says: of each key from when it is its turn.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.write.ttl = Some(ttl);
        self
    }

    /// Does each of them once, as [`Put::idempotency_key`] says: the same key counts for every one of the keys by itself, so a
    /// call of which some were done can be asked for again as a whole.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.updates.iter_mut().for_each(|(_, update)| update.once = Some(key));
        self
    }

    /// How many replicas must have written each key.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.write.level = level;
        self
    }

    /// How long each key may take, from when it is its turn.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.write.within = within;
        self
    }
}

impl<'a, T: Send + 'a> IntoFuture for PutMany<'a, T> {
    type Output = Vec<Result<T, KvError>>;
    type IntoFuture = Pending<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let span = tracing::debug_span!("put_many", keys = self.updates.len(), level = ?self.write.level);
        let Self { write, updates } = self;
        let put = async move {
            let write = &write;
            let writes = updates.into_iter().map(|(place, update)| write.of(place, update, None));
            stream::iter(writes).buffered(MAX_KEYS_AT_ONCE).collect().await
        };
        Box::pin(put.instrument(span))
    }
}

/// How keys are read.
struct Read<'a, T> {
    kv: &'a Kv,
    /// `None`: of any kind.
    wanted: Option<Kind>,
    level: Consistency,
    within: Duration,
    max_key_bytes: usize,
    make: fn(&Record) -> T,
}

impl<'a, T> Read<'a, T> {
    fn new(kv: &'a Kv, wanted: Option<Kind>, rules: Rules, make: fn(&Record) -> T) -> Self {
        let Rules { read: level, max_key_bytes, .. } = rules;
        Self { kv, wanted, level, within: kv.config().timeout, max_key_bytes, make }
    }

    async fn of(&self, place: &Blob) -> Result<T, KvError> {
        let _inside = self.kv.gate().enter()?;
        check(self.kv, place, self.max_key_bytes)?;
        let record = self.kv.coordinator().read(place, self.level, self.within.min(MAX_TIME)).await?;
        match self.wanted {
            Some(wanted) if record.is_live() && record.kind() != wanted => {
                Err(KvError::WrongKind { found: record.kind(), wanted })
            }
            _ => Ok((self.make)(&record)),
        }
    }
}

/// How keys are written.
struct Write<'a, T> {
    kv: &'a Kv,
    of_any_kind: bool,
    /// The call's own.
    ttl: Option<Duration>,
    /// That of the bucket, for what is written.
    default_ttl: Option<Duration>,
    level: Consistency,
    within: Duration,
    max_key_bytes: usize,
    max_value_bytes: usize,
    make: fn(Done) -> T,
}

impl<'a, T> Write<'a, T> {
    fn new(kv: &'a Kv, rules: Rules, make: fn(Done) -> T) -> Self {
        let Rules { of_any_kind, ttl: default_ttl, write: level, max_key_bytes, max_value_bytes, .. } = rules;
        let within = kv.config().timeout;
        Self { kv, of_any_kind, ttl: None, default_ttl, level, within, max_key_bytes, max_value_bytes, make }
    }

    async fn of(&self, place: Blob, mut update: Update, context: Option<Context>) -> Result<T, KvError> {
        let _inside = self.kv.gate().enter()?;
        check(self.kv, &place, self.max_key_bytes)?;
        if update.steps.len() > MAX_STEPS {
            return Err(KvError::TooManySteps { steps: update.steps.len(), limit: MAX_STEPS });
        }
        if update.bytes() > self.max_value_bytes {
            return Err(KvError::ValueTooLarge { bytes: update.bytes(), limit: self.max_value_bytes });
        }
        update.of_any_kind = self.of_any_kind;
        let here = self.kv.coordinator();
        let default = self.default_ttl.filter(|_| !update.steps.is_empty());
        if let Some(ttl) = self.ttl.or(default) {
            update.expires = Some(Some(millis(here.wall().saturating_add(ttl))));
        }
        let context = context.map(|context| context.version().clone());
        let asked = Asked { update, context, level: self.level };
        Ok((self.make)(here.write(place, asked, self.within.min(MAX_TIME)).await?))
    }
}

fn check(kv: &Kv, place: &Blob, limit: usize) -> Result<(), KvError> {
    if kv.coordinator().rpc.is_stopped() {
        return Err(KvError::Stopped);
    }
    let bytes = place::key_in(place).len();
    if bytes == 0 || bytes > limit { Err(KvError::KeySize { bytes, limit }) } else { Ok(()) }
}
