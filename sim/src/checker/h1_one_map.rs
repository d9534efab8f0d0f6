//! H1, one map: the same members give the same placement on every node. By the time of the final reads all live nodes see
//! the same members (M3), so all of them name the same replicas of a key.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut named: BTreeMap<&str, (Host, &[Host])> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in &facts.history.entries {
        let Event::Holds { host, key, replicas, .. } = &entry.event else { continue };
        let (first, first_named) = *named.entry(key).or_insert((*host, replicas));
        if first_named != replicas {
            let text = format!("{key} is on {first_named:?} for {first}, and on {replicas:?} for {host}");
            violations.push(violation("H1", entry.at, text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::holds;
    use crate::checker::judged;

    #[test]
    fn who_names_other_replicas_is_found() {
        let good = vec![holds(10, 0, &[0, 1], None), holds(10, 1, &[0, 1], Some(1))];
        assert_eq!(judged(check, good), []);
        let bad = vec![holds(10, 0, &[0, 1], None), holds(10, 1, &[0, 2], None), holds(10, 2, &[0, 1], None)];
        assert_eq!(judged(check, bad).len(), 1);
    }
}
