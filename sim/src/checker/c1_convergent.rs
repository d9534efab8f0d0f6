//! C1, strong eventual consistency: after the heal all replicas of a document are equal.
//!
//! Judged of what the nodes show in the end, if the bound of repair had passed by then.

use std::collections::BTreeMap;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    if !facts.is_repaired() {
        return Vec::new();
    }
    let mut shown: BTreeMap<&str, BTreeMap<Host, &[u64]>> = BTreeMap::new();
    for entry in &facts.history.entries {
        if let Event::Shows { host, document, holds } = &entry.event {
            shown.entry(document).or_default().insert(*host, holds);
        }
    }
    let mut violations = Vec::new();
    for (document, shown) in shown {
        let mut sides: BTreeMap<&[u64], Vec<Host>> = BTreeMap::new();
        for (host, holds) in shown {
            sides.entry(holds).or_default().push(host);
        }
        if sides.len() > 1 {
            let sides: Vec<String> =
                sides.into_iter().map(|(holds, hosts)| format!("{hosts:?} hold {} of them", holds.len())).collect();
            let text = format!("the replicas of {document} differ: {}", sides.join(", "));
            violations.push(violation("C1", facts.history.end(), text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::at;
    use crate::checker::judged;

    fn shown(ms: u64, holds: [&[u64]; 2]) -> Vec<Violation> {
        let mut entries =
            vec![at(10, Event::Healed), at(20, Event::Settled { host: Host(0) }), at(ms, Event::FinalReads)];
        entries.extend(
            (0..)
                .map(Host)
                .zip(holds)
                .map(|(host, holds)| at(ms, Event::Shows { host, document: "d".to_owned(), holds: holds.to_vec() })),
        );
        judged(check, entries)
    }

    #[test]
    fn replicas_that_differ_after_the_bound_are_found() {
        assert_eq!(shown(90_000, [&[1, 2], &[1, 2]]), []);
        assert_eq!(shown(90_000, [&[1, 2], &[1]]).len(), 1);
        assert_eq!(shown(100, [&[1, 2], &[1]]), [], "there was no time yet");
    }
}
