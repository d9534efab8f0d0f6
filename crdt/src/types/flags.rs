//! Flags.

use crate::store::{Crdt, Delta, DotFun, DotFunDelta};
use crate::types::is_store;
use crate::{Error, Writer};

/// A flag that is off at first; when it is enabled and disabled concurrently, it is on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EwFlag(DotFun<()>);
is_store!([] EwFlag = DotFun<()>);

/// A flag that is on at first; when it is enabled and disabled concurrently, it is off.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DwFlag(DotFun<()>);
is_store!([] DwFlag = DotFun<()>);

type FlagDelta = DotFunDelta<()>;

/// A fresh mark in place of those that are seen.
fn mark(marks: &DotFun<()>, w: &mut Writer<'_>) -> Result<Option<FlagDelta>, Error> {
    Ok(Some(DotFunDelta::write(w.dot()?, (), marks.dots())))
}

/// Takes away the marks that are seen; nothing, if there is none.
fn unmark(marks: &DotFun<()>) -> Option<FlagDelta> {
    if marks.is_bottom() {
        return None;
    }
    let mut delta = FlagDelta::default();
    delta.kill(&marks.dots());
    Some(delta)
}

impl EwFlag {
    /// Whether it is on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        !self.0.is_empty()
    }

    /// Turns it on: also if it is on already, because a concurrent disable shall lose.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn enable(&self, w: &mut Writer<'_>) -> Result<Option<FlagDelta>, Error> {
        mark(&self.0, w)
    }

    /// Turns off what is seen to be on.
    #[must_use]
    pub fn disable(&self) -> Option<FlagDelta> {
        unmark(&self.0)
    }
}

impl DwFlag {
    /// Whether it is on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes back the disables that are seen.
    #[must_use]
    pub fn enable(&self) -> Option<FlagDelta> {
        unmark(&self.0)
    }

    /// Turns it off: also if it is off already, because a concurrent enable shall lose.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn disable(&self, w: &mut Writer<'_>) -> Result<Option<FlagDelta>, Error> {
        mark(&self.0, w)
    }
}
