//! A run as one page of HTML, for a person who wonders what happened at second 12.
//!
//! The page needs nothing but itself: no network, no library, and no script to be read. It is drawn from a history and
//! what the checkers found in it, and is the same for the same history.
//!
//! | module | idea |
//! |---|---|
//! | `story` | the history, gathered by whom it concerns |
//! | `truth` | what really kept a node from another |
//! | `words` | events and operations in words |
//! | `svg`, `band` | bars, marks and text at places in time; rows of them |
//! | `overview`, `node` | the timeline: what all have in common, and one node |
//! | `broken` | the violations, as a list and as lines |
//! | `log`, `keys` | all events in words; all operations by key |
//! | `page` | the page around them |
//! | `escape` | text that must not become markup |
//!
//! All text of a history passes through `escape`. Whatever there may be much of has a limit, and the page says what it
//! left out.

mod band;
mod broken;
mod escape;
mod keys;
mod log;
mod node;
mod overview;
mod page;
mod story;
mod svg;
#[cfg(test)]
mod tests;
mod truth;
mod words;

use std::io;

use crate::checker::Violation;
use crate::history::History;

/// Writes the page of a run. `replay` is the command that replays it.
///
/// # Errors
/// `out` cannot be written; what was written until then is no whole page.
pub fn write(history: &History, violations: &[Violation], replay: &str, out: &mut impl io::Write) -> io::Result<()> {
    page::page(&story::Story::of(history, violations), replay, out)
}
