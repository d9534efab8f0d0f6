//! What several checkers need of a history, gathered once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::causality::Causality;
use crate::history::{Event, History, Host, Op, OpId, Process};

/// A history and what follows from it.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What happened.
    pub history: &'a History,
    /// All operations in the order in which they began.
    pub ops: BTreeMap<OpId, Op>,
    /// All processes in the order of their launch.
    pub processes: Vec<Process>,
    /// The index of the entry after which reads are final.
    pub final_reads: Option<usize>,
    /// The reads of registers that lack writes, and which: see [`Causality::lacking`].
    pub lacking: Vec<(OpId, Vec<OpId>)>,
    /// When there were clusters that had been founded apart, as indices of entries.
    pub apart: Vec<Range<usize>>,
    /// The processes that founded them, as indices of [`Facts::processes`].
    pub founders: BTreeSet<usize>,
    /// When faults that disturb what members see of each other lasted. Sorted, and no two touch.
    pub disturbed: Vec<(Duration, Duration)>,
}

impl<'a> Facts<'a> {
    /// Gathers them.
    #[must_use]
    pub fn of(history: &'a History) -> Self {
        let (ops, processes) = (history.ops(), history.processes());
        let causality = Causality::new(&ops);
        let ids = |(read, missing): (&Op, Vec<&Op>)| (read.id, missing.iter().map(|write| write.id).collect());
        let lacking = causality.lacking().into_iter().map(ids).collect();
        let (apart, founders) = founded_apart(history);
        Self {
            history,
            lacking,
            ops,
            processes,
            final_reads: history.final_reads(),
            apart,
            founders,
            disturbed: disturbed(history),
        }
    }

    /// The time of an entry; of the last one if there is none with this index.
    #[must_use]
    pub fn at(&self, index: usize) -> Duration {
        self.history.entries.get(index).map_or_else(|| self.history.end(), |entry| entry.at)
    }

    /// Whether an operation began after all workload had ended.
    #[must_use]
    pub fn is_final(&self, op: &Op) -> bool {
        self.final_reads.is_some_and(|begin| op.invoked > begin)
    }

    /// Whether clusters that had been founded apart met, or were about to, when this entry was written. A read may then
    /// miss what the other cluster had acknowledged.
    #[must_use]
    pub fn is_apart(&self, index: usize) -> bool {
        self.apart.iter().any(|range| range.contains(&index))
    }

    /// Whether replicas had time enough, between when the stores had settled after the heal and the final reads, to become
    /// equal.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        let Some(begin) = self.final_reads else { return false };
        let entries = self.history.entries[..begin].iter().rev();
        let mut since_healed = entries.take_while(|entry| entry.event != Event::Healed);
        let settled = since_healed.find(|entry| matches!(entry.event, Event::Settled { .. }));
        settled.is_some_and(|settled| self.at(begin) >= settled.at + self.history.bounds.repair)
    }

    /// Whether no process ended from this entry on, and replicas have become equal in the end: then nothing that any of them
    /// held at that time is lost.
    #[must_use]
    pub fn all_is_kept_from(&self, index: usize) -> bool {
        let from = self.at(index);
        self.is_repaired() && self.processes.iter().all(|process| process.ended.is_none_or(|(ended, _)| ended < from))
    }

    /// The first time from `from` on after which nothing disturbs the members for `bound`, if the history lasts that long.
    #[must_use]
    pub fn calm_from(&self, from: Duration, bound: Duration) -> Option<Duration> {
        let mut calm = from;
        for (begin, end) in &self.disturbed {
            if *begin <= calm.saturating_add(bound) && *end >= calm {
                calm = *end;
            }
        }
        (calm.saturating_add(bound) <= self.history.end()).then_some(calm)
    }
}

/// Nodes that start at the same time, and meet each other and none that is a member already, found a cluster of their own.
/// It has met the others, and repaired what that did, when all nodes that run have said that their stores are settled.
///
/// One that meets nobody founds none: what it does alone is judged.
fn founded_apart(history: &History) -> (Vec<Range<usize>>, BTreeSet<usize>) {
    let (mut apart, mut founders): (Vec<Range<usize>>, _) = (Vec::new(), BTreeSet::new());
    let (mut processes, mut current): (usize, BTreeMap<Host, usize>) = (0, BTreeMap::new());
    // Those that run: whether they are members of a cluster that was there before, and have not settled since.
    let (mut old, mut unsettled): (BTreeSet<Host>, BTreeSet<Host>) = (BTreeSet::new(), BTreeSet::new());
    let mut blank: BTreeSet<Host> = BTreeSet::new();
    for (index, entry) in history.entries.iter().enumerate() {
        match &entry.event {
            Event::Launched { host } => {
                current.insert(*host, processes);
                processes += 1;
                unsettled.insert(*host);
            }
            Event::Ready { host, .. } => drop(blank.insert(*host)),
            // What it sees first is what it has met.
            Event::View { host, members } if blank.remove(host) => {
                let mut met = members.iter().filter(|(other, seen)| *other != host && seen.standing.is_up()).peekable();
                let is_founder = met.peek().is_some() && !old.is_empty() && met.all(|(other, _)| !old.contains(other));
                if !is_founder {
                    old.insert(*host);
                    continue;
                }
                founders.extend(current.get(host));
                unsettled.extend(current.keys());
                if apart.last().is_none_or(|range| range.end != usize::MAX) {
                    apart.push(index..usize::MAX);
                }
            }
            Event::Crashed { host, .. } | Event::Left { host } | Event::Stopped { host, .. } => {
                for hosts in [&mut old, &mut unsettled, &mut blank] {
                    hosts.remove(host);
                }
                current.remove(host);
            }
            Event::Settled { host } => {
                unsettled.remove(host);
                if unsettled.is_empty() {
                    old.extend(current.keys());
                    if let Some(range) = apart.last_mut() {
                        range.end = range.end.min(index);
                    }
                }
            }
            _ => {}
        }
    }
    (apart, founders)
}

fn disturbed(history: &History) -> Vec<(Duration, Duration)> {
    let (mut lasting, mut since) = (BTreeSet::new(), Duration::ZERO);
    let mut disturbed: Vec<(Duration, Duration)> = Vec::new();
    let mut add = |from: Duration, to: Duration| match disturbed.last_mut() {
        Some((_, end)) if *end >= from => *end = to,
        _ => disturbed.push((from, to)),
    };
    for entry in &history.entries {
        match entry.event {
            Event::Began { fault, disturbs: true, .. } => {
                if lasting.is_empty() {
                    since = entry.at;
                }
                lasting.insert(fault);
            }
            Event::Ended { fault } if lasting.remove(&fault) && lasting.is_empty() => add(since, entry.at),
            _ => {}
        }
    }
    if !lasting.is_empty() {
        add(since, Duration::MAX);
    }
    disturbed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{at, start, view};
    use crate::history::Standing;

    /// Hosts 1 and 2 start while host 0 is there, and the first of them sees this first.
    fn started(first: &[(u8, u64, Standing)]) -> History {
        let all = [(0, 1, Standing::Alive), (1, 2, Standing::Alive), (2, 3, Standing::Alive)];
        let mut entries = start(0, 0, 1).to_vec();
        entries.push(view(5, 0, &all[..1]));
        entries.push(at(10, Event::Settled { host: Host(0) }));
        entries.extend(start(20, 1, 2));
        entries.push(view(30, 1, first));
        entries.extend(start(40, 2, 3));
        entries.push(view(50, 2, &all[1..]));
        entries.extend((0..3).map(|host| at(60, Event::Settled { host: Host(host) })));
        by_hand(entries)
    }

    #[test]
    fn those_who_start_and_meet_only_each_other_found_a_cluster_until_all_have_settled() {
        let history = started(&[(1, 2, Standing::Alive), (2, 3, Standing::Alive)]);
        let facts = Facts::of(&history);
        assert!(facts.apart.iter().eq([&(6..12)]) && facts.founders == [1, 2].into());
        assert!(facts.is_apart(11) && !facts.is_apart(12));
    }

    #[test]
    fn one_that_meets_a_member_or_nobody_founds_nothing() {
        let member = started(&[(0, 1, Standing::Alive), (1, 2, Standing::Alive)]);
        assert_eq!(Facts::of(&member).apart, []);
        let nobody = started(&[(1, 2, Standing::Alive)]);
        assert_eq!(Facts::of(&nobody).apart, []);
    }

    #[test]
    fn calm_begins_when_the_last_disturbance_before_the_bound_has_ended() {
        let began = |ms, fault| {
            let (class, what) = ("partition".to_owned(), String::new());
            at(ms, Event::Began { fault, class, what, disturbs: true, hosts: Vec::new() })
        };
        let ended = |ms, fault| at(ms, Event::Ended { fault });
        let history = by_hand(vec![
            began(100, 0),
            began(150, 1),
            ended(200, 0),
            ended(300, 1),
            began(800, 2),
            ended(900, 2),
            at(1500, Event::Healed),
        ]);
        let facts = Facts::of(&history);
        let ms = Duration::from_millis;
        assert_eq!(facts.disturbed, [(ms(100), ms(300)), (ms(800), ms(900))]);
        assert_eq!(facts.calm_from(ms(0), ms(50)), Some(ms(0)));
        assert_eq!(facts.calm_from(ms(0), ms(100)), Some(ms(300)));
        assert_eq!(facts.calm_from(ms(250), ms(600)), Some(ms(900)));
        assert_eq!(facts.calm_from(ms(950), ms(600)), None);
    }
}
