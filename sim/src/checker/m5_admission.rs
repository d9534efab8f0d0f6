//! M5, admission: nobody without the secret, or of another cluster, is ever listed or told anything.
//!
//! 1. No member's list ever names a stranger.
//! 2. No stranger's list ever names anybody but strangers.

use super::{Facts, Violation, violation};
use crate::history::Event;

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in &facts.history.entries {
        let Event::View { host: observer, members } = &entry.event else { continue };
        let others = members.keys().filter(|host| host.is_stranger() != observer.is_stranger());
        violations.extend(others.map(|host| violation("M5", entry.at, format!("{observer} lists {host}"))));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::view;
    use crate::checker::judged;
    use crate::history::Host;
    use crate::history::Standing::{Alive, Down};

    const STRANGER: u8 = Host::FIRST_STRANGER;

    #[test]
    fn members_among_themselves_and_strangers_among_themselves_are_good() {
        let entries = vec![
            view(10, 0, &[(0, 1, Alive), (1, 1, Alive)]),
            view(10, STRANGER, &[(STRANGER, 1, Alive), (STRANGER + 1, 1, Alive)]),
        ];
        assert_eq!(judged(check, entries), []);
    }

    #[test]
    fn a_stranger_that_is_listed_or_lists_a_member_is_bad() {
        assert_eq!(judged(check, vec![view(10, 0, &[(0, 1, Alive), (STRANGER, 1, Down)])]).len(), 1);
        assert_eq!(judged(check, vec![view(10, STRANGER, &[(0, 1, Alive), (STRANGER, 1, Alive)])]).len(), 1);
    }
}
