//! K5, expiry: what has expired is not found, and what has not is.
//!
//! A lease expires at a time that its writer's wall clock fixes, and whoever looks judges by its own: so a read finds nothing
//! that had expired by the clock of its host all the while. Any clock may have removed it: so it must be found as long as it
//! had expired by none of them since it was written.
//!
//! What is there is known exactly if each write to the key was done before the next one began, and before the read, and the
//! cluster was one all the time. Else a read may find what any of the writes can have left, and nothing that has expired by all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clocks::{Clocks, TICKS_MS, Wall};
use super::{Facts, Violation, violation};
use crate::history::{Action, Op, OpId, Outcome};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut leases: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in facts.ops.values() {
        if matches!(op.action, Action::Lease(_) | Action::Expire(_) | Action::End | Action::Look) {
            leases.entry(&op.key).or_default().push(op);
        }
    }
    let (clocks, mut violations) = (Clocks::of(facts.history), Vec::new());
    for ops in leases.into_values() {
        let (reads, writes): (Vec<&Op>, Vec<&Op>) = ops.into_iter().partition(|op| op.action == Action::Look);
        let writes: Vec<&Op> = writes.into_iter().filter(|op| op.outcome != Outcome::NotApplied).collect();
        for read in reads {
            let (Some(found), Some(end)) = (read.found(), read.returned) else { continue };
            let before = writes.partition_point(|write| write.invoked < end);
            let key = Key { facts, clocks: &clocks, writes: &writes[..before] };
            if let Err(problem) = key.judge(read, end, found) {
                let text = format!("{} on {} finds {found:?} in {}, {problem}", read.id, read.host, read.key);
                violations.push(violation("K5", facts.at(end), text));
            }
        }
    }
    violations
}

/// When something expires, at the earliest and at the latest: a clock that jumps in the moment of a call shows both times in it.
type Expiry = (Wall, Wall);

/// What is there.
#[derive(Clone, Copy)]
enum There {
    Nothing,
    /// What this wrote, from then on, until it expires.
    Lease {
        by: OpId,
        since: Duration,
        expires: Option<Expiry>,
    },
    /// That, or nothing.
    Perhaps(OpId),
}

/// The writes to a key before a read ended that may have been done.
struct Key<'f> {
    facts: &'f Facts<'f>,
    clocks: &'f Clocks,
    writes: &'f [&'f Op],
}

impl Key<'_> {
    fn judge(&self, read: &Op, end: usize, found: &[OpId]) -> Result<(), String> {
        let (from, to) = (self.facts.at(read.invoked), self.facts.at(end));
        let by_reader = self.clocks.of_host(read.host, from, to).0;
        let is_over = |expires: Option<Wall>| expires.is_some_and(|at| by_reader >= at + TICKS_MS);
        for value in found {
            let lease = self.writes.iter().find(|write| write.id == *value);
            let Some(lease) = lease.filter(|write| matches!(write.action, Action::Lease(_))) else {
                return Err(format!("and nobody had written {value}"));
            };
            if is_over(self.latest(lease)) {
                return Err(format!("and {value} had expired"));
            }
        }
        if !self.is_certain(read) {
            return Ok(());
        }
        match self.left()? {
            There::Nothing if !found.is_empty() => Err("and nothing was there".to_owned()),
            There::Lease { expires, .. } if is_over(expires.map(|(_, latest)| latest)) && !found.is_empty() => {
                Err("which had expired".to_owned())
            }
            There::Lease { by, since, expires } if found != [by] && self.is_there(since, to, expires) => {
                Err(format!("and {by} was there, and had expired by no clock"))
            }
            There::Lease { by, .. } | There::Perhaps(by) if found.iter().any(|value| *value != by) => {
                Err(format!("and at most {by} was there"))
            }
            _ => Ok(()),
        }
    }

    /// When a lease expires at the latest, whichever of the writes were done; `None`: never.
    fn latest(&self, lease: &Op) -> Option<Wall> {
        let latest_of = |write: &Op| self.expires(write).map(|(_, latest)| latest);
        let mut latest = latest_of(lease);
        // Where the latest write stays, so does the latest time, which may be another's.
        for write in self.writes.iter().filter(|write| matches!(write.action, Action::Lease(_) | Action::Expire(_))) {
            latest = latest.max(Some(latest_of(write)?));
        }
        latest
    }

    /// The time that a write sets by its caller's clock.
    fn expires(&self, write: &Op) -> Option<Expiry> {
        let (Action::Lease(ms) | Action::Expire(Some(ms))) = write.action else { return None };
        let at = self.facts.at(write.invoked);
        let (least, most) = self.clocks.of_host(write.host, at, at);
        Some((least + Wall::from(ms), most + Wall::from(ms)))
    }

    fn is_certain(&self, read: &Op) -> bool {
        let next = self.writes.iter().skip(1).map(|write| write.invoked).chain([read.invoked]);
        let mut in_turn = self.writes.iter().zip(next);
        let is_apart = |op: &Op| (op.invoked..=op.returned.unwrap_or(op.invoked)).any(|at| self.facts.is_apart(at));
        in_turn.all(|(write, next)| write.is_done() && write.returned < Some(next))
            && !self.writes.iter().any(|write| is_apart(write))
            && !is_apart(read)
    }

    /// Whether it has expired by no clock of any host, from when it was written until then.
    fn is_there(&self, since: Duration, until: Duration, expires: Option<Expiry>) -> bool {
        expires.is_none_or(|(at, _)| self.clocks.latest(since, until) + TICKS_MS < at)
    }

    /// What the writes have left, one after the other.
    fn left(&self) -> Result<There, String> {
        let mut there = There::Nothing;
        for write in self.writes {
            let (begun, done) = (self.facts.at(write.invoked), self.facts.at(write.returned.unwrap_or(write.invoked)));
            there = match (write.action, there) {
                (Action::Lease(_), _) => There::Lease { by: write.id, since: begun, expires: self.expires(write) },
                (Action::Expire(_), There::Lease { by, since, expires }) if self.is_there(since, done, expires) => {
                    if write.outcome == Outcome::Total(0) {
                        return Err(format!("and {} was told that nothing was there, where {by} was", write.id));
                    }
                    There::Lease { by, since, expires: self.expires(write) }
                }
                (Action::Expire(_), There::Lease { by, .. } | There::Perhaps(by)) => There::Perhaps(by),
                (Action::Expire(_), There::Nothing) if write.outcome == Outcome::Total(1) => {
                    return Err(format!("and {} was told that something was there", write.id));
                }
                _ => There::Nothing,
            };
        }
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, done, op};
    use crate::checker::judged;
    use crate::history::{Entry, Event, Host};

    const LOOK: Action = Action::Look;

    fn lease(ms: u64, id: u64, soon: u32) -> [Entry; 2] {
        op(ms, ms + 5, id, Action::Lease(soon), done(&[]))
    }

    fn clock(ms: u64, host: u8, skew_ms: i64) -> Entry {
        at(ms, Event::Clock { host: Host(host), skew_ms, drift_ppm: 0 })
    }

    fn texts(entries: &[&[Entry]]) -> Vec<String> {
        judged(check, entries.concat()).into_iter().map(|violation| violation.text).collect()
    }

    /// What is found at a time after a lease of a second, and after what happens in between.
    fn found(between: &[Entry], ms: u64, found: &[u64]) -> Vec<String> {
        texts(&[&lease(100, 1, 1000), between, &op(ms, ms + 10, 9, LOOK, done(found))])
    }

    #[test]
    fn it_is_found_until_it_expires_and_not_after() {
        assert_eq!(found(&[], 500, &[1]), Vec::<String>::new());
        assert_eq!(found(&[], 1200, &[]), Vec::<String>::new());
        assert!(found(&[], 1200, &[1])[0].ends_with("#1 had expired"));
        assert!(found(&[], 500, &[])[0].ends_with("had expired by no clock"));
        assert!(found(&[], 500, &[8])[0].ends_with("nobody had written #8"));
        // When it expires while it is looked for, both are right.
        assert_eq!(found(&[], 1095, &[1]), Vec::<String>::new());
        assert_eq!(found(&[], 1095, &[]), Vec::<String>::new());
    }

    #[test]
    fn clocks_that_differ_allow_for_both() {
        // Another's was ahead: it may have removed it, whether it still is or not.
        let ahead = [clock(200, 1, 5_000), clock(210, 1, 0)];
        assert_eq!(found(&ahead, 500, &[]), Vec::<String>::new());
        assert_eq!(found(&ahead, 500, &[1]), Vec::<String>::new());
        // The reader's own is behind.
        assert_eq!(found(&[clock(200, 0, -5_000)], 1200, &[1]), Vec::<String>::new());
        assert!(found(&[clock(200, 1, -5_000)], 1200, &[1])[0].ends_with("#1 had expired"));
        // One that is written under a clock that is ahead expires later, and by nobody's clock before.
        let ahead = |found: &[u64]| {
            texts(&[
                &[clock(50, 0, 5_000)],
                &lease(100, 1, 1000),
                &[clock(150, 0, 0)],
                &op(2000, 2010, 9, LOOK, done(found)),
            ])
        };
        assert_eq!(ahead(&[1]), Vec::<String>::new());
        assert!(ahead(&[])[0].ends_with("had expired by no clock"));
        // One that jumps in the moment of the write: from either time.
        let jumps = |ms, found: &[u64]| {
            let look = op(ms, ms + 10, 9, LOOK, done(found));
            texts(&[&[clock(100, 0, 5_000)], &lease(100, 1, 1000), &[clock(150, 0, 0)], &look])
        };
        for found in [&[1][..], &[]] {
            assert_eq!(jumps(2000, found), Vec::<String>::new());
        }
        assert!(jumps(6200, &[1])[0].ends_with("#1 had expired"));
    }

    #[test]
    fn what_was_made_to_last_is_there_and_what_was_deleted_is_not() {
        let retimed = |action, outcome| op(200, 205, 2, action, outcome);
        let renewed = retimed(Action::Expire(Some(3000)), Outcome::Total(1));
        assert_eq!(found(&renewed, 2000, &[1]), Vec::<String>::new());
        assert!(found(&renewed, 2000, &[])[0].ends_with("had expired by no clock"));
        assert!(found(&renewed, 3300, &[1])[0].ends_with("#1 had expired"));
        let for_ever = retimed(Action::Expire(None), Outcome::Total(1));
        assert_eq!(found(&for_ever, 90_000, &[1]), Vec::<String>::new());
        assert!(found(&for_ever, 90_000, &[])[0].ends_with("had expired by no clock"));
        let denied = retimed(Action::Expire(None), Outcome::Total(0));
        assert!(found(&denied, 500, &[1])[0].contains("was told that nothing was there"));
        let deleted = retimed(Action::End, done(&[]));
        assert_eq!(found(&deleted, 500, &[]), Vec::<String>::new());
        assert!(found(&deleted, 500, &[1])[0].ends_with("and nothing was there"));
    }

    #[test]
    fn a_shorter_lease_takes_the_place_of_a_longer_one() {
        let shorter = lease(200, 2, 100);
        assert_eq!(found(&shorter, 500, &[]), Vec::<String>::new());
        assert!(found(&shorter, 500, &[2])[0].ends_with("which had expired"));
        assert!(found(&shorter, 250, &[1])[0].contains("#2 was there"));
    }

    #[test]
    fn what_may_have_been_done_allows_for_both() {
        let renewal = op(200, 205, 2, Action::Expire(Some(3000)), Outcome::Unknown);
        for there in [&[1][..], &[]] {
            assert_eq!(found(&renewal, 2000, there), Vec::<String>::new());
        }
        assert!(found(&renewal, 3300, &[1])[0].ends_with("#1 had expired"));
        let denied = op(200, 205, 2, Action::Expire(Some(3000)), Outcome::NotApplied);
        assert!(found(&denied, 2000, &[1])[0].ends_with("#1 had expired"));
    }
}
