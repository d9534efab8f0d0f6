//! One run: a case, from beginning to verdict.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use crate::case::Case;
use crate::checker::{Violation, judge};
use crate::history::{Event, History};
use crate::play::play;
use crate::scenario;
use crate::watchdog::Watchdog;
use crate::world::World;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub case: Case,
    /// The hash over all datagrams and events.
    pub trace: u64,
    /// How many datagrams were sent.
    pub datagrams: u64,
    /// The promises that were broken, and where.
    pub violations: Vec<Violation>,
    /// What happened.
    pub history: History,
}

impl Report {
    /// Whether no promise was broken.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.violations.is_empty()
    }

    /// The simulated time that the run took.
    #[must_use]
    pub fn simulated(&self) -> Duration {
        self.history.end()
    }

    /// The command that replays the run; that of a case which no scenario draws names the file that it is to be in.
    #[must_use]
    pub fn replay(&self) -> String {
        replay(&self.case)
    }

    /// The promises that were broken.
    #[must_use]
    pub fn broken(&self) -> BTreeSet<&str> {
        self.violations.iter().map(|violation| violation.promise.as_str()).collect()
    }
}

/// The command that replays a case.
pub(crate) fn replay(case: &Case) -> String {
    let Case { scenario, seed, .. } = case;
    let drawn = scenario::find(scenario).is_some_and(|found| found.case(*seed) == *case);
    let how = if drawn { format!("run {scenario} --seed {seed}") } else { format!("replay {scenario}-{seed}.json") };
    format!("cargo run --release -p polity-sim -- {how}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scenario={} seed={} trace={:016x} verdict=", self.case.scenario, self.case.seed, self.trace)?;
        if self.is_ok() {
            return write!(f, "ok");
        }
        write!(f, "FAIL({})", self.broken().into_iter().collect::<Vec<_>>().join(","))
    }
}

thread_local! {
    /// The panics of this thread since a run began on it. A panic inside a task of a node ends only that task, and would
    /// otherwise not be noticed.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes every panic for the run that it belongs to, beside printing it as usual.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // While a thread ends there is no list any more, and no run.
            let _ = PANICS.try_with(|panics| panics.borrow_mut().push(info.to_string()));
            usual(info);
        }));
    });
}

/// Runs a case.
#[must_use]
pub fn run(case: &Case) -> Report {
    note_panics();
    PANICS.take();
    let mut world = World::standard(case);
    let watched = Watchdog::watch(case, world.steps());
    let done = catch_unwind(AssertUnwindSafe(|| play(case, &mut world)));
    if let Err(panic) = done {
        world.record(Event::Panicked { message: message(panic.as_ref()) });
    }
    for panic in PANICS.take() {
        world.record(Event::Panicked { message: panic });
    }
    let (history, trace, datagrams) = world.end();
    drop(watched);
    let violations = judge(&history);
    Report { case: case.clone(), trace, datagrams, violations, history }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
