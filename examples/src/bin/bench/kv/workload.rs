//! What the callers do.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Error, Result};

/// How many callers there are in all.
pub(super) const CALLERS: usize = 50;
pub(super) const VALUE_BYTES: usize = 100;
/// Few enough to be written before anything is measured, many enough that callers rarely meet at one.
const KEYS: u64 = 100_000;
/// More than a node writes in any run.
const NEW_KEYS_OF_A_NODE: u64 = 1_000_000_000;

/// One kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    BarePut,
    BareGet,
    Put,
    PutNew,
    Get,
    GetOne,
}

impl Work {
    pub(super) const ALL: [Self; 6] = [Self::BarePut, Self::Put, Self::PutNew, Self::BareGet, Self::Get, Self::GetOne];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::BarePut => "bare-put",
            Self::BareGet => "bare-get",
            Self::Put => "put",
            Self::PutNew => "put-new",
            Self::Get => "get",
            Self::GetOne => "get-one",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::BarePut => "bare quorum, put",
            Self::BareGet => "bare quorum, get",
            Self::Put => "polity, quorum put",
            Self::PutNew => "polity, quorum put of new keys",
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
pub(super) struct Keys {
    next: Arc<AtomicU64>,
    name: fn(u64) -> String,
}

impl Keys {
    /// Those that are there, again and again. Of several who go round them each begins elsewhere, or they would meet.
    pub(super) fn there(at: usize, of: usize) -> Self {
        Self { next: Arc::new(AtomicU64::new(at as u64 * KEYS / of as u64)), name: there }
    }

    /// Such as never were there, and never come again.
    pub(super) fn new_at(at: usize) -> Self {
        Self { next: Arc::new(AtomicU64::new(at as u64 * NEW_KEYS_OF_A_NODE)), name: |at| format!("new:{at:010}") }
    }

    pub(super) fn next(&self) -> String {
        (self.name)(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A share of all keys that are to be there, each once.
pub(super) fn share(at: usize, of: usize) -> impl Iterator<Item = String> {
    (0..KEYS).skip(at).step_by(of).map(there)
}

fn there(at: u64) -> String {
    // The factor has no divisor in common with the number of keys: each comes once before any comes again.
    format!("key:{:08}", at.wrapping_mul(48_271) % KEYS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_shares_are_all_keys_that_callers_use() {
        let filled: BTreeSet<String> = (0..3).flat_map(|at| share(at, 3)).collect();
        let keys = Keys::there(1, 3);
        let used: BTreeSet<String> = (0..KEYS).map(|_| keys.next()).collect();
        assert_eq!((filled.len() as u64, &filled), (KEYS, &used));
    }
}
