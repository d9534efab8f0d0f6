//! A history, gathered by whom it concerns: what the page is drawn from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::checker::Violation;
use crate::history::{Event, History, Host, Life, MemberList, Op, OpId, Outcome, Standing};

/// A span of time.
pub(super) type Span = (Duration, Duration);

/// A fault with its beginning and its end.
#[derive(Debug)]
pub(super) struct FaultSpan<'a> {
    pub(super) number: u32,
    pub(super) class: &'a str,
    pub(super) what: &'a str,
    pub(super) disturbs: bool,
    pub(super) hosts: &'a [Host],
    pub(super) span: Span,
}

/// One life of a process.
#[derive(Clone, Debug)]
pub(super) struct Living {
    pub(super) host: Host,
    pub(super) from: Duration,
    pub(super) ready: Option<(Duration, Life)>,
    pub(super) leaving: Option<Duration>,
    /// `None` if it runs until the end.
    pub(super) to: Option<Duration>,
}

/// How a member looked to another for a while. `None`: it was not in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    pub(super) span: Span,
    pub(super) seen: Option<(Standing, Life)>,
}

/// What a node sees, from one moment on. `None`: no process runs.
type Sight<'a> = (Duration, Option<&'a MemberList>);

/// See the [module](self).
pub(super) struct Story<'a> {
    pub(super) history: &'a History,
    pub(super) violations: &'a [Violation],
    pub(super) end: Duration,
    pub(super) hosts: Vec<Host>,
    pub(super) lives: Vec<Living>,
    pub(super) faults: Vec<FaultSpan<'a>>,
    pub(super) ops: BTreeMap<OpId, Op>,
    sights: BTreeMap<Host, Vec<Sight<'a>>>,
}

impl<'a> Story<'a> {
    pub(super) fn of(history: &'a History, violations: &'a [Violation]) -> Self {
        let last = violations.iter().map(|violation| violation.at).max().unwrap_or_default();
        let end = history.end().max(last);
        let mut hosts: BTreeSet<Host> = (0..history.hosts).map(Host).collect();
        hosts.extend(history.entries.iter().filter_map(|entry| host_of(&entry.event)));
        Self {
            history,
            violations,
            end,
            hosts: hosts.into_iter().collect(),
            lives: lives(history),
            faults: faults(history, end),
            ops: history.ops(),
            sights: sights(history),
        }
    }

    /// When an operation began and ended. One whose caller died lasts as long as the process did.
    pub(super) fn span(&self, op: &Op) -> Span {
        let from = self.history.entries[op.invoked].at;
        let to = op.returned.map(|index| self.history.entries[index].at);
        let died = || {
            let ends = self.lives.iter().filter(|living| living.host == op.host);
            ends.filter_map(|living| living.to).find(|at| *at >= from)
        };
        (from, to.or_else(died).unwrap_or(self.end))
    }

    /// How the members that a node sees change: when, and how many are up. `None`: no process runs.
    pub(super) fn counts(&self, host: Host) -> Vec<(Duration, Option<usize>)> {
        let up = |list: &MemberList| list.values().filter(|seen| seen.standing.is_up()).count();
        self.sights.get(&host).into_iter().flatten().map(|(at, list)| (*at, list.map(up))).collect()
    }

    /// How one node saw another over time, while a process ran.
    pub(super) fn looks(&self, host: Host, other: Host) -> Vec<Look> {
        let sights = self.sights.get(&host).map_or(&[][..], Vec::as_slice);
        let mut looks: Vec<Look> = Vec::new();
        for (i, (from, list)) in sights.iter().enumerate() {
            let to = sights.get(i + 1).map_or(self.end, |(at, _)| *at);
            let Some(list) = list else { continue };
            let seen = list.get(&other).map(|seen| (seen.standing, seen.life));
            match looks.last_mut() {
                Some(last) if last.seen == seen && last.span.1 == *from => last.span.1 = to,
                _ => looks.push(Look { span: (*from, to), seen }),
            }
        }
        looks
    }

    /// When the first cluster had formed: all who were launched before the first operation or fault have started, and
    /// see each other.
    pub(super) fn formed(&self) -> Option<Duration> {
        let begins = |event: &Event| matches!(event, Event::Invoked { .. } | Event::Began { .. } | Event::Healed);
        let first = self.history.entries.iter().position(|entry| begins(&entry.event));
        let early = &self.history.entries[..first.unwrap_or(self.history.entries.len())];
        let mut lives: BTreeMap<Host, Option<Life>> = BTreeMap::new();
        for entry in early {
            match entry.event {
                Event::Launched { host } => drop(lives.insert(host, None)),
                Event::Ready { host, life } => drop(lives.insert(host, Some(life))),
                _ => {}
            }
        }
        let sees_all = |list: &MemberList| {
            let up = list.iter().filter(|(_, seen)| seen.standing.is_up());
            up.map(|(host, seen)| (*host, Some(seen.life))).eq(lives.iter().map(|(host, life)| (*host, *life)))
        };
        let since = |host: &Host| {
            let sights = self.sights.get(host).map_or(&[][..], Vec::as_slice);
            sights.iter().find(|(_, list)| list.is_some_and(sees_all)).map(|(at, _)| *at)
        };
        lives.keys().map(since).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The parts of the run: each begins where the one before ends.
    pub(super) fn phases(&self) -> Vec<(Duration, &'static str)> {
        let first =
            |is: fn(&Event) -> bool| self.history.entries.iter().find(|entry| is(&entry.event)).map(|entry| entry.at);
        let parts = [
            (Some(Duration::ZERO), "forming"),
            (self.formed(), "formed"),
            (first(|event| matches!(event, Event::Invoked { .. })), "clients work"),
            (first(|event| *event == Event::Healed), "healed: no more faults"),
            (first(|event| *event == Event::FinalReads), "final reads"),
        ];
        let mut phases: Vec<_> = parts.into_iter().filter_map(|(at, name)| Some((at?, name))).collect();
        phases.sort_by_key(|(at, _)| *at);
        phases
    }

    /// What happened on a host, but for what it saw and its operations.
    pub(super) fn moments(&self, host: Host) -> impl Iterator<Item = (Duration, &'a Event)> {
        let entries = self.history.entries.iter().map(|entry| (entry.at, &entry.event));
        entries.filter(move |(_, event)| {
            host_of(event) == Some(host) && !matches!(event, Event::View { .. } | Event::Invoked { .. })
        })
    }
}

/// The class in which an outcome is drawn.
pub(super) fn outcome_class(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) | Outcome::Total(_) | Outcome::Held { .. } => "done",
        Outcome::Exhausted => "exhausted",
        Outcome::NotApplied | Outcome::OtherKind(_) => "refused",
        Outcome::Unknown => "unknown",
    }
}

/// The host that an event is about, if there is one.
pub(super) fn host_of(event: &Event) -> Option<Host> {
    match event {
        Event::Launched { host }
        | Event::Ready { host, .. }
        | Event::StartFailed { host, .. }
        | Event::Stopped { host, .. }
        | Event::Crashed { host, .. }
        | Event::Leaving { host }
        | Event::Left { host }
        | Event::View { host, .. }
        | Event::Gap { host, .. }
        | Event::Settled { host }
        | Event::Invoked { host, .. }
        | Event::Garbage { host, .. }
        | Event::FinalReadsDone { host }
        | Event::Holds { host, .. }
        | Event::Edited { host, .. }
        | Event::Shows { host, .. }
        | Event::Sighted { host, .. }
        | Event::Subscriber { host, .. }
        | Event::Published { host, .. }
        | Event::Got { host, .. }
        | Event::Lacks { host, .. }
        | Event::Watching { host, .. }
        | Event::Told { host, .. }
        | Event::Clock { host, .. }
        | Event::Ownership { host, .. }
        | Event::Owners { host, .. }
        | Event::Note { host, .. } => Some(*host),
        Event::Began { .. }
        | Event::Ended { .. }
        | Event::Healed
        | Event::Returned { .. }
        | Event::FinalReads
        | Event::Missed { .. }
        | Event::Panicked { .. } => None,
    }
}

/// All lives in the order of their beginnings. A program may start a node without saying that its process begins: it is
/// first heard of when the node is ready.
fn lives(history: &History) -> Vec<Living> {
    let mut lives: Vec<Living> = Vec::new();
    let mut current: BTreeMap<Host, usize> = BTreeMap::new();
    for entry in &history.entries {
        let at = entry.at;
        match &entry.event {
            Event::Launched { host } => {
                if let Some(before) = current.insert(*host, lives.len()) {
                    lives[before].to = Some(at);
                }
                lives.push(Living { host: *host, from: at, ready: None, leaving: None, to: None });
            }
            Event::Ready { host, life } => {
                let index = *current.entry(*host).or_insert(lives.len());
                if index == lives.len() {
                    lives.push(Living { host: *host, from: at, ready: None, leaving: None, to: None });
                }
                lives[index].ready = Some((at, *life));
            }
            Event::Leaving { host } => {
                if let Some(index) = current.get(host) {
                    lives[*index].leaving = Some(at);
                }
            }
            Event::Crashed { host, .. }
            | Event::Left { host }
            | Event::Stopped { host, .. }
            | Event::StartFailed { host, .. } => {
                if let Some(index) = current.remove(host) {
                    lives[index].to = Some(at);
                }
            }
            _ => {}
        }
    }
    lives
}

fn faults(history: &History, end: Duration) -> Vec<FaultSpan<'_>> {
    let mut faults: Vec<FaultSpan<'_>> = Vec::new();
    let mut lasting: BTreeMap<u32, usize> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::Began { fault, class, what, disturbs, hosts } => {
                lasting.insert(*fault, faults.len());
                let span = (entry.at, end);
                faults.push(FaultSpan { number: *fault, class, what, disturbs: *disturbs, hosts, span });
            }
            Event::Ended { fault } => {
                if let Some(index) = lasting.remove(fault) {
                    faults[index].span.1 = entry.at;
                }
            }
            _ => {}
        }
    }
    faults
}

fn sights(history: &History) -> BTreeMap<Host, Vec<Sight<'_>>> {
    let mut sights: BTreeMap<Host, Vec<Sight<'_>>> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::View { host, members } => sights.entry(*host).or_default().push((entry.at, Some(members))),
            Event::Launched { host }
            | Event::Crashed { host, .. }
            | Event::Left { host }
            | Event::Stopped { host, .. }
            | Event::StartFailed { host, .. } => sights.entry(*host).or_default().push((entry.at, None)),
            _ => {}
        }
    }
    sights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{at, life, start, view};
    use crate::history::{Action, Entry};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn entries() -> Vec<Entry> {
        let up = Standing::Alive;
        let mut entries = [start(0, 0, 1), start(10, 1, 1)].concat();
        entries.extend([
            view(20, 0, &[(0, 1, up)]),
            view(30, 1, &[(0, 1, up), (1, 1, up)]),
            view(40, 0, &[(0, 1, up), (1, 1, up)]),
            at(50, Event::Invoked { op: OpId(0), host: Host(1), key: "k".into(), action: Action::Get }),
            at(60, Event::Crashed { host: Host(1), wiped: false }),
            view(70, 0, &[(0, 1, up), (1, 1, Standing::Down)]),
        ]);
        entries
    }

    #[test]
    fn a_cluster_has_formed_when_all_see_all() {
        assert_eq!(Story::of(&by_hand(entries()), &[]).formed(), Some(ms(40)));
        assert_eq!(Story::of(&by_hand(entries()[..5].to_vec()), &[]).formed(), None);
    }

    #[test]
    fn an_operation_whose_caller_died_lasts_as_long_as_its_process() {
        let history = by_hand(entries());
        let story = Story::of(&history, &[]);
        assert_eq!(story.span(&story.ops[&OpId(0)]), (ms(50), ms(60)));
    }

    #[test]
    fn a_process_is_heard_of_when_it_is_launched_or_ready() {
        let ready = Event::Ready { host: Host(2), life: life(1) };
        let history = by_hand([entries(), vec![at(80, Event::Leaving { host: Host(0) }), at(90, ready)]].concat());
        let lives = Story::of(&history, &[]).lives;
        let spans: Vec<_> = lives.iter().map(|living| (living.host, living.from, living.leaving, living.to)).collect();
        assert_eq!(
            spans,
            [
                (Host(0), ms(0), Some(ms(80)), None),
                (Host(1), ms(10), None, Some(ms(60))),
                (Host(2), ms(90), None, None)
            ]
        );
    }

    #[test]
    fn looks_follow_each_other_and_end_with_the_process() {
        let history = by_hand(entries());
        let story = Story::of(&history, &[]);
        let look = |from, to, standing| Look { span: (ms(from), ms(to)), seen: Some((standing, life(1))) };
        let (up, down) = (Standing::Alive, Standing::Down);
        let unknown = Look { span: (ms(20), ms(40)), seen: None };
        assert_eq!(story.looks(Host(0), Host(1)), [unknown, look(40, 70, up), look(70, 70, down)]);
        assert_eq!(story.looks(Host(1), Host(0)), [look(30, 60, up)]);
        assert!(story.looks(Host(2), Host(0)).is_empty());
    }
}
