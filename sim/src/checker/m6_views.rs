//! M6, views are versioned: a subscriber misses no change, or gets a new snapshot.
//!
//! Each process makes up the member list from what a subscription tells it, and says where a version is missing or its
//! list differs from the node's snapshot of the same version.

use super::{Facts, Violation, violation};
use crate::history::Event;

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let gaps = facts.history.entries.iter().filter_map(|entry| match &entry.event {
        Event::Gap { host, what } => Some(violation("M6", entry.at, format!("a subscriber at {host}: {what}"))),
        _ => None,
    });
    gaps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, view};
    use crate::checker::judged;
    use crate::history::{Host, Standing};

    #[test]
    fn a_gap_is_bad_and_a_view_is_not() {
        assert_eq!(judged(check, vec![view(10, 0, &[(0, 1, Standing::Alive)])]), []);
        let gap = at(10, Event::Gap { host: Host(0), what: "version 3 came after 1".into() });
        assert_eq!(judged(check, vec![gap]).len(), 1);
    }
}
