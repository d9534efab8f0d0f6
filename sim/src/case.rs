//! What a run is a function of: a seed, settings, and what befalls the world. As data, so that it can be written into a
//! file, replayed and shrunk.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::history::Host;
use crate::settings::Settings;
use crate::text::millis;

/// The format's name and version.
pub const FORMAT: &str = "polity-case/1";

/// A fault and when it strikes, counted from the beginning of its act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// When it begins.
    #[serde(rename = "from_ms", with = "millis")]
    pub from: Duration,
    /// How long it lasts.
    #[serde(rename = "lasts_ms", with = "millis")]
    pub lasts: Duration,
    /// What it is.
    #[serde(flatten)]
    pub fault: Fault,
}

impl Timed {
    /// When it ends.
    #[must_use]
    pub fn to(&self) -> Duration {
        self.from + self.lasts
    }
}

/// Faults that strike together. When an act is over, all its faults have ended; before the next begins, the stores must
/// settle. So an act may destroy the memory of one host, and the next act that of another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// How long it lasts at least.
    #[serde(rename = "lasts_ms", with = "millis")]
    pub lasts: Duration,
    /// What happens in it.
    pub faults: Vec<Timed>,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// [`FORMAT`].
    pub format: String,
    /// What found it, and why it is kept; for whoever reads the file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The scenario that drew it.
    pub scenario: String,
    /// From which the network, the nodes and the clients draw.
    pub seed: u64,
    /// How the world is built.
    pub settings: Settings,
    /// What befalls it.
    pub acts: Vec<Act>,
}

/// Why a text is no case.
#[derive(Debug, thiserror::Error)]
#[error("not a case: {0}")]
pub struct NotACase(String);

impl Case {
    /// A case of this version.
    #[must_use]
    pub fn new(scenario: &str, seed: u64, settings: Settings, acts: Vec<Act>) -> Self {
        let (format, note) = (FORMAT.to_owned(), String::new());
        Self { format, note, scenario: scenario.to_owned(), seed, settings, acts }
    }

    /// Reads a case.
    ///
    /// # Errors
    /// [`NotACase`] says what is wrong with the text.
    pub fn from_json(text: &str) -> Result<Self, NotACase> {
        let case: Self = serde_json::from_str(text).map_err(|cause| NotACase(cause.to_string()))?;
        if case.format != FORMAT {
            return Err(NotACase(format!("its format is {:?}, and this program reads {FORMAT:?}", case.format)));
        }
        match case.settings.problem().or_else(|| case.stray().map(|host| format!("there is no host {host}"))) {
            Some(problem) => Err(NotACase(problem)),
            None => Ok(case),
        }
    }

    /// The case as text.
    ///
    /// # Panics
    /// Never: everything in it can be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a case encodes") + "\n"
    }

    /// A host that a fault names and the world does not have.
    fn stray(&self) -> Option<Host> {
        self.faults().flat_map(|timed| timed.fault.hosts()).find(|host| host.0 >= self.settings.hosts)
    }

    /// All faults.
    pub fn faults(&self) -> impl Iterator<Item = &Timed> {
        self.acts.iter().flat_map(|act| &act.faults)
    }
}

impl Act {
    /// An act with one fault.
    #[must_use]
    pub fn of(from: Duration, lasts: Duration, fault: Fault) -> Self {
        Self::new(vec![Timed { from, lasts, fault }])
    }

    /// An act that lasts as long as its faults.
    #[must_use]
    pub fn new(faults: Vec<Timed>) -> Self {
        Self { lasts: faults.iter().map(Timed::to).max().unwrap_or_default(), faults }
    }

    /// The same with more time at its end.
    #[must_use]
    pub fn and_then(mut self, more: Duration) -> Self {
        self.lasts += more;
        self
    }
}
