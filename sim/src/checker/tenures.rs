//! Who owned what and when, gathered from a history for the checkers of ownership.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Facts;
use crate::history::{Deed, Event, Host, Reign};

/// Something that a process said of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) at: Duration,
    /// The index of the entry.
    pub(super) index: usize,
    /// The index of the process, as in [`Facts::processes`].
    pub(super) process: usize,
    pub(super) host: Host,
    pub(super) shard: u32,
    pub(super) epoch: Reign,
    pub(super) deed: Deed,
}

/// From when to when a process owned a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenure {
    pub(super) host: Host,
    pub(super) shard: u32,
    pub(super) epoch: Reign,
    pub(super) from: Duration,
    /// When it let go, heard that it is over, or ended.
    pub(super) to: Option<Duration>,
}

/// All that was said, in order.
pub(super) fn said(facts: &Facts<'_>) -> Vec<Said> {
    let (mut processes, mut current): (usize, BTreeMap<Host, usize>) = (0, BTreeMap::new());
    let mut said = Vec::new();
    for (index, entry) in facts.history.entries.iter().enumerate() {
        match entry.event {
            Event::Launched { host } => {
                current.insert(host, processes);
                processes += 1;
            }
            Event::Ownership { host, shard, epoch, deed } => {
                let at = entry.at;
                said.extend(current.get(&host).map(|process| Said {
                    at,
                    index,
                    process: *process,
                    host,
                    shard,
                    epoch,
                    deed,
                }));
            }
            _ => {}
        }
    }
    said
}

/// Who owned what, in the order of their claims.
pub(super) fn tenures(facts: &Facts<'_>, said: &[Said]) -> Vec<Tenure> {
    let mut tenures: Vec<Tenure> = Vec::new();
    let mut open: BTreeMap<(usize, u32), usize> = BTreeMap::new();
    for Said { at, process, host, shard, epoch, deed, .. } in said.iter().copied() {
        match deed {
            Deed::Claimed => {
                let to = facts.processes[process].ended.map(|(ended, _)| ended);
                open.insert((process, shard), tenures.len());
                tenures.push(Tenure { host, shard, epoch, from: at, to });
            }
            Deed::Released(_) | Deed::Superseded(_) => {
                if let Some(tenure) = open.remove(&(process, shard)) {
                    tenures[tenure].to = Some(at);
                }
            }
            _ => {}
        }
    }
    tenures
}

/// Whether a process ran for this long after this time.
pub(super) fn goes_on(facts: &Facts<'_>, process: usize, from: Duration, within: Duration) -> bool {
    let until = from + within;
    facts.history.end() >= until && facts.processes[process].ended.is_none_or(|(ended, _)| ended > until)
}
