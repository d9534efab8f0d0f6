//! Calls that can be given options before they are awaited.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use tracing::Instrument as _;

use crate::config::Consistency;
use crate::coordinator::{Asked, Done};
use crate::error::KvError;
use crate::kv::{Context, Kv};
use crate::record::{Blob, Kind, Record, Update};
use crate::store::millis;

type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, KvError>> + Send + 'a>>;

/// A read that can be given options before it is awaited.
pub struct Get<'a, T> {
    kv: &'a Kv,
    place: Blob,
    wanted: Option<Kind>,
    level: Consistency,
    within: Option<Duration>,
    make: fn(&Record) -> T,
}

impl<T> fmt::Debug for Get<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Get").field("level", &self.level).finish_non_exhaustive()
    }
}

impl<'a, T> Get<'a, T> {
    pub(crate) fn new(kv: &'a Kv, place: Blob, make: fn(&Record) -> T) -> Self {
        Self { kv, place, wanted: None, level: Consistency::default(), within: None, make }
    }

    /// Fails if there is something of another kind.
    pub(crate) fn of_kind(self, kind: Kind) -> Self {
        Self { wanted: Some(kind), ..self }
    }

    /// How many replicas must answer.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.level = level;
        self
    }

    /// How long it may take.
    #[must_use = "a read does nothing until it is awaited"]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }
}

impl<'a, T: 'a> IntoFuture for Get<'a, T> {
    type Output = Result<T, KvError>;
    type IntoFuture = Pending<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        let span = tracing::debug_span!("get", level = ?self.level);
        let Self { kv, place, wanted, level, within, make } = self;
        let get = async move {
            kv.check(&place, None)?;
            let here = kv.coordinator();
            let record = here.read(&place, level, within.unwrap_or(here.config.timeout)).await?;
            match wanted {
                Some(wanted) if record.is_live() && record.kind() != wanted => {
                    Err(KvError::WrongKind { found: record.kind(), wanted })
                }
                _ => Ok(make(&record)),
            }
        };
        Box::pin(get.instrument(span))
    }
}

/// A write that can be given options before it is awaited. A causal one returns the context that covers what it wrote.
///
/// Dropped while it is under way, its outcome is unknown.
pub struct Put<'a, T> {
    kv: &'a Kv,
    place: Blob,
    update: Update,
    context: Option<Context>,
    ttl: Option<Duration>,
    level: Consistency,
    within: Option<Duration>,
    make: fn(Done) -> T,
}

impl<T> fmt::Debug for Put<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { update, level, .. } = self;
        f.debug_struct("Put").field("kind", &update.kind).field("level", level).finish_non_exhaustive()
    }
}

impl<'a, T> Put<'a, T> {
    pub(crate) fn new(kv: &'a Kv, place: Blob, update: Update, make: fn(Done) -> T) -> Self {
        Self { kv, place, update, context: None, ttl: None, level: Consistency::default(), within: None, make }
    }

    /// How long what is written stays; it is then removed, wherever it is. It never comes back, and wall clocks say when:
    /// to within how far they differ.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How many replicas must have written.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.level = level;
        self
    }

    /// How long it may take.
    #[must_use = "a write does nothing until it is awaited"]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.within = Some(within);
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
    type IntoFuture = Pending<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { kv, place, mut update, context, ttl, level, within, make } = self;
        let span = tracing::debug_span!("put", ?level, kind = %update.kind, clears = update.clears);
        let put = async move {
            kv.check(&place, Some(&update))?;
            let here = kv.coordinator();
            if let Some(ttl) = ttl {
                update.expires = Some(Some(millis(here.wall().saturating_add(ttl))));
            }
            let context = context.map(|context| context.version().clone());
            let asked = Asked { update, context, level };
            Ok(make(here.write(place, asked, within.unwrap_or(here.config.timeout)).await?))
        };
        Box::pin(put.instrument(span))
    }
}
