//! A process stands still, as under SIGSTOP or on a frozen machine, and goes on as if nothing was.

use std::time::Duration;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Step, Timeline};
use crate::history::Host;

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(120);

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    host: Host,
}

impl Pause {
    /// The process of this host stands still.
    #[must_use]
    pub fn of(host: Host) -> Fault {
        Fault::Pause(Self { host })
    }
}

pub(super) const CLASSES: &[Class] = &[Class {
    name: "pause",
    about: "a process stands still for 1 to 120 s, and goes on as if nothing was",
    moves: false,
    draw: |rng, stage| {
        // Every magnitude is as likely.
        let lasts = Duration::from_secs(1).mul_f64(120_f64.powf(rng.random_range(0.0_f64..1.0).powi(2)));
        let lasts = Duration::from_millis(lasts.min(MAX_PAUSE).as_millis() as u64);
        (Pause::of(stage.any(rng)), lasts)
    },
}];

impl Family for Pause {
    fn class(&self) -> &'static str {
        "pause"
    }

    fn what(&self) -> String {
        format!("{} stands still", self.host)
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        vec![(Duration::ZERO, Step::Pause(self.host)), (lasts, Step::Resume(self.host))]
    }

    fn disturbs(&self) -> bool {
        true
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Pause(self.clone()))
    }
}
