//! What a scenario demanded within a bound happened within it, no node failed to start, and nothing panicked.
//!
//! A demand names the promise that it belongs to.

use super::{Facts, Violation, violation};
use crate::history::Event;

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let judged = facts.history.entries.iter().filter_map(|entry| match &entry.event {
        Event::Missed { promise, demand } => Some(violation(promise, entry.at, format!("not so: {demand}"))),
        Event::StartFailed { host, reason } => {
            // Nothing blocks a name.
            Some(violation("M4", entry.at, format!("{host} could not start: {reason}")))
        }
        Event::Panicked { message } => Some(violation("panic", entry.at, message.clone())),
        _ => None,
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{hand::at, judged};
    use crate::history::Host;

    #[test]
    fn what_was_missed_is_told_under_its_promise() {
        assert!(judged(check, vec![at(1, Event::Healed)]).is_empty());
        let missed = Event::Missed { promise: "M3".into(), demand: "all agree".into() };
        let failed = Event::StartFailed { host: Host(1), reason: "no".into() };
        let panicked = Event::Panicked { message: "oh".into() };
        let found = judged(check, vec![at(1, missed), at(2, failed), at(3, panicked)]);
        let promises: Vec<_> = found.iter().map(|violation| violation.promise.as_str()).collect();
        assert_eq!(promises, ["M3", "M4", "panic"]);
    }
}
