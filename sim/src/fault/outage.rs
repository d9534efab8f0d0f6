//! Processes are killed at the same moment, as when the power of a room fails, and started again one after the other. Their
//! disks are whole.
//!
//! It belongs to no class that others draw: only a cluster with its stores on disk promises anything after it.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

use super::{Family, Fault, Step, Timeline, names};
use crate::history::Host;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Those that are killed, in the order in which they are started.
    started: Vec<Host>,
}

impl Outage {
    /// So many of these hosts, or all of them if there are not so many, in any order.
    #[must_use]
    pub fn of(rng: &mut StdRng, mut hosts: Vec<Host>, several: usize) -> Fault {
        hosts.shuffle(rng);
        hosts.truncate(several.max(1));
        Fault::Outage(Self { started: hosts })
    }

    /// All of these hosts, or at least two of them.
    #[must_use]
    pub fn drawn(rng: &mut StdRng, hosts: Vec<Host>) -> Fault {
        let several = if rng.random() { hosts.len() } else { rng.random_range(2..=hosts.len().max(2)) };
        Self::of(rng, hosts, several)
    }
}

impl Family for Outage {
    fn class(&self) -> &'static str {
        "outage"
    }

    fn what(&self) -> String {
        format!("{} are killed at once, and started in this order", names(self.started.iter().copied()))
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let killed = self.started.iter().map(|host| (Duration::ZERO, Step::Crash(*host, false)));
        let all = self.started.len() as u32;
        let started = self.started.iter().zip(1..).map(|(host, nth)| (lasts * nth / all, Step::Start(*host)));
        killed.chain(started).collect()
    }

    fn disturbs(&self) -> bool {
        // A node that starts while all others are down waits for one.
        true
    }

    fn hosts(&self) -> Vec<Host> {
        self.started.clone()
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        let started: Vec<Host> = self.started.iter().copied().filter(|host| !gone(*host)).collect();
        (!started.is_empty()).then_some(Fault::Outage(Self { started }))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn all_are_killed_at_once_and_started_in_the_end() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..40 {
            let fault = Outage::drawn(&mut rng, (0..5).map(Host).collect());
            let lasts = Duration::from_secs(4);
            let (mut down, mut ups) = (std::collections::BTreeSet::new(), Vec::new());
            for (at, step) in fault.timeline(lasts) {
                match step {
                    Step::Crash(host, false) if at.is_zero() => assert!(down.insert(host)),
                    Step::Start(host) => {
                        assert!(down.remove(&host));
                        ups.push(at);
                    }
                    step => panic!("{step:?} at {at:?}"),
                }
            }
            assert!(down.is_empty() && (2..=5).contains(&ups.len()), "{fault:?}");
            assert!(ups.is_sorted() && ups.last() == Some(&lasts));
            let text = serde_json::to_string(&fault).expect("a fault encodes");
            assert_eq!(serde_json::from_str::<Fault>(&text).expect("it decodes"), fault);
            assert_eq!(fault.without(&|_| true), None);
        }
    }
}
