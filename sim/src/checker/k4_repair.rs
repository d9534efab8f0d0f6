//! K4, repair: after the heal, and before any final read, all replicas of a key hold the same.
//!
//! Judged of what the nodes say that they hold before the final reads, if those came after the bound. A copy is compared by its values: two
//! that are equal may still differ in which replaced values they have heard of.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    if !facts.is_repaired() {
        return Vec::new();
    }
    let mut said: BTreeMap<&str, Said<'_>> = BTreeMap::new();
    for entry in &facts.history.entries {
        if let Event::Holds { host, key, replicas, copy } = &entry.event {
            let said = said.entry(key).or_default();
            if !said.replicas.contains(&&replicas[..]) {
                said.replicas.push(replicas);
            }
            said.copies.insert(*host, *copy);
        }
    }
    let mut violations = Vec::new();
    for (key, Said { replicas, copies }) in said {
        for replicas in replicas {
            let held: Vec<(Host, Option<u64>)> =
                replicas.iter().filter_map(|host| Some((*host, *copies.get(host)?))).collect();
            if held.windows(2).any(|pair| pair[0].1 != pair[1].1) {
                let text = format!("the replicas of {key} do not hold the same: {held:x?}");
                violations.push(violation("K4", facts.history.end(), text));
            }
        }
    }
    violations
}

/// What the nodes say of a key.
#[derive(Default)]
struct Said<'f> {
    /// Who they believe its replicas to be: all of them the same, if H1 holds.
    replicas: Vec<&'f [Host]>,
    /// What each of them holds.
    copies: BTreeMap<Host, Option<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, holds};
    use crate::checker::judged;

    fn told(ms: u64, copies: [Option<u64>; 3]) -> Vec<Violation> {
        let mut entries =
            vec![at(10, Event::Healed), at(20, Event::Settled { host: Host(0) }), at(ms, Event::FinalReads)];
        entries.extend((0..).zip(copies).map(|(host, copy)| holds(ms, host, &[0, 1], copy)));
        judged(check, entries)
    }

    #[test]
    fn replicas_that_hold_the_same_are_good_whatever_others_hold() {
        assert_eq!(told(90_000, [Some(7), Some(7), None]), []);
        assert_eq!(told(90_000, [None, None, Some(7)]), []);
    }

    #[test]
    fn replicas_that_differ_are_bad_after_the_bound() {
        assert_eq!(told(90_000, [Some(7), Some(8), None]).len(), 1);
        assert_eq!(told(90_000, [Some(7), None, None]).len(), 1);
        assert_eq!(told(100, [Some(7), None, None]), []);
    }
}
