//! What the callers do.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Error, Result};

/// How many callers there are in all.
pub(super) const CALLERS: usize = 50;
pub(super) const VALUE_BYTES: usize = 100;
/// Few enough that every run reads what was written, many enough that callers rarely meet at one.
const KEYS: u64 = 100_000;

/// One kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    BarePut,
    BareGet,
    Put,
    Get,
    GetOne,
}

impl Work {
    pub(super) const ALL: [Self; 5] = [Self::BarePut, Self::Put, Self::BareGet, Self::Get, Self::GetOne];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::BarePut => "bare-put",
            Self::BareGet => "bare-get",
            Self::Put => "put",
            Self::Get => "get",
            Self::GetOne => "get-one",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::BarePut => "bare quorum, put",
            Self::BareGet => "bare quorum, get",
            Self::Put => "polity, quorum put",
            Self::Get => "polity, quorum get",
            Self::GetOne => "polity, get of one replica",
        }
    }
}

impl FromStr for Work {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|work| work.word() == word).with_context(|| format!("there is no work {word:?}"))
    }
}

/// Keys, one after the other, in no order that any of those who are measured could profit from.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<AtomicU64>);

impl Keys {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn next(&self) -> String {
        let at = self.0.fetch_add(1, Ordering::Relaxed);
        // Odd, and so no multiple of a divisor of what it is taken modulo.
        format!("key:{:08}", at.wrapping_mul(48_271) % KEYS)
    }
}
