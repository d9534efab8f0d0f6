//! P1: a message reaches every subscriber connected throughout, in each publisher's order, at most once; a gap is reported as
//! such.
//!
//! Of each publisher a subscriber must get messages and gaps that make up its count without a hole and without going back.
//! A gap is allowed only if the subscriber was slow, or if the publisher has taken its node for down at some time. And in
//! the end nothing is missing of a publisher that lives, neither of one from which something has come, nor of one that was
//! told of the subscription and has published since.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host, Life, Stage};

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut state = State::default();
    let mut violations = Vec::new();
    for (index, entry) in facts.history.entries.iter().enumerate() {
        if let Err(text) = state.follow(index, entry.at, &entry.event) {
            violations.push(violation("P1", entry.at, text));
        }
    }
    if facts.is_repaired() {
        let end = facts.history.end();
        violations.extend(state.missing().into_iter().map(|text| violation("P1", end, text)));
    }
    violations
}

/// A life of a process of a host.
type Who = (Host, Life);

#[derive(Default)]
struct State<'a> {
    /// The lives that run now.
    lives: BTreeMap<Host, Life>,
    /// The last message of each topic and publisher, and where it stands in the history.
    published: BTreeMap<(&'a str, Who), (u64, usize)>,
    subscribers: BTreeMap<u64, Subscriber<'a>>,
    /// The lives that each host takes for up now, with how often they were declared down.
    up: BTreeMap<Host, BTreeMap<Host, (Life, u32)>>,
}

struct Subscriber<'a> {
    who: Option<Who>,
    topic: &'a str,
    /// The index and the time of the entry with which it was established.
    established: Option<(usize, Duration)>,
    /// Those that its node has taken for up from when it began to when it was established.
    told: BTreeMap<Host, Life>,
    /// The publishers that have taken its node for down since it began, or have not taken it for up.
    cut_off: BTreeSet<Who>,
    /// What must come next, if something has come.
    next: BTreeMap<Who, u64>,
    /// The gaps that came before anything else.
    unplaced: BTreeMap<Who, u64>,
}

impl<'a> State<'a> {
    fn follow(&mut self, index: usize, at: Duration, event: &'a Event) -> Result<(), String> {
        match event {
            Event::Ready { host, life } => {
                self.lives.insert(*host, *life);
            }
            Event::Crashed { host, .. } | Event::Left { host } | Event::Stopped { host, .. } => {
                self.lives.remove(host);
                self.up.remove(host);
                self.subscribers.retain(|_, subscriber| subscriber.who.is_none_or(|(other, _)| other != *host));
            }
            Event::View { host, members } => {
                let up = members.iter().filter(|(_, seen)| seen.standing.is_up());
                self.up.insert(*host, up.map(|(other, seen)| (*other, (seen.life, seen.rejoin))).collect());
                self.views_changed(at, *host);
            }
            Event::Subscriber { host, topic, subscriber, stage } => {
                self.stage((index, at), *host, topic, *subscriber, *stage)
            }
            Event::Published { host, topic, sequence } => {
                if let Some(life) = self.lives.get(host) {
                    self.published.insert((topic, (*host, *life)), (*sequence, index));
                }
            }
            Event::Got { subscriber, publisher, life, sequence, .. } => {
                let Some(state) = self.subscribers.get_mut(subscriber) else { return Ok(()) };
                let who = (*publisher, *life);
                let next = state.next.insert(who, sequence + 1);
                if let Some(next) = next.filter(|next| next != sequence) {
                    return Err(format!(
                        "subscriber {subscriber:x} got message {sequence} of {publisher} instead of {next}"
                    ));
                }
                state.unplaced.remove(&who);
            }
            Event::Lacks { subscriber, publisher, life, missed, slow, .. } => {
                let Some(state) = self.subscribers.get_mut(subscriber) else { return Ok(()) };
                let who = (*publisher, *life);
                match state.next.get_mut(&who) {
                    Some(next) => *next += missed,
                    None => *state.unplaced.entry(who).or_default() += missed,
                }
                if !slow && !state.cut_off.contains(&who) {
                    return Err(format!(
                        "subscriber {subscriber:x} lacks {missed} messages of {publisher}, which has seen its node all the time"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn stage(&mut self, now: (usize, Duration), host: Host, topic: &'a str, number: u64, stage: Stage) {
        match stage {
            Stage::Begun => {
                let up = self.up.get(&host).into_iter().flatten();
                let told = up.map(|(other, (life, _))| (*other, *life)).filter(|(other, _)| *other != host).collect();
                let who = self.lives.get(&host).map(|life| (host, *life));
                let (next, unplaced, cut_off) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
                let subscriber = Subscriber { who, topic, established: None, told, cut_off, next, unplaced };
                self.subscribers.insert(number, subscriber);
                let hosts: Vec<Host> = self.up.keys().copied().collect();
                hosts.into_iter().for_each(|host| self.views_changed(now.1, host));
            }
            Stage::Established => {
                if let Some(subscriber) = self.subscribers.get_mut(&number) {
                    subscriber.established = Some(now);
                }
            }
            Stage::Over => drop(self.subscribers.remove(&number)),
        }
    }

    /// A host sees others now.
    fn views_changed(&mut self, now: Duration, host: Host) {
        let Some((life, up)) = self.lives.get(&host).zip(self.up.get(&host)) else { return };
        for subscriber in self.subscribers.values_mut() {
            let Some((at, own)) = subscriber.who else { continue };
            // What a node sees is told a moment after it has acted on it.
            if at == host && subscriber.established.is_none_or(|(_, at)| at == now) {
                subscriber.told.retain(|other, life| up.get(other).is_some_and(|(seen, _)| seen == life));
            }
            // A rejoin says that the life was declared down, whether that was seen here or not.
            if at != host && up.get(&at).is_none_or(|(seen, rejoin)| *seen != own || *rejoin > 0) {
                subscriber.cut_off.insert((host, *life));
            }
        }
    }

    /// What has not come in the end.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (number, subscriber) in &self.subscribers {
            for (who, (last, index)) in self.published.iter().filter(|((topic, _), _)| *topic == subscriber.topic) {
                let who = who.1;
                if self.lives.get(&who.0) != Some(&who.1) {
                    continue;
                }
                let mut lacks = |what: &str| {
                    missing.push(format!("subscriber {number:x} lacks {what} of {} until message {last}", who.0));
                };
                let is_told =
                    subscriber.told.get(&who.0) == Some(&who.1) || subscriber.who.is_some_and(|own| own == who);
                match subscriber.next.get(&who) {
                    Some(next) if *next <= *last => lacks("the messages"),
                    Some(_) => {}
                    None if subscriber.unplaced.contains_key(&who) => {}
                    None if is_told && subscriber.established.is_some_and(|(established, _)| *index > established) => {
                        lacks("all messages");
                    }
                    None => {}
                }
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::{at, life, start, view};
    use crate::checker::judged;
    use crate::history::{Entry, Standing};

    const UP: [(u8, u64, Standing); 2] = [(0, 1, Standing::Alive), (1, 1, Standing::Alive)];

    fn published(ms: u64, sequence: u64) -> Entry {
        at(ms, Event::Published { host: Host(0), topic: "t".to_owned(), sequence })
    }

    fn got(ms: u64, sequence: u64) -> Entry {
        at(ms, Event::Got { host: Host(1), subscriber: 9, publisher: Host(0), life: life(1), sequence })
    }

    fn lacks(ms: u64, missed: u64, slow: bool) -> Entry {
        at(ms, Event::Lacks { host: Host(1), subscriber: 9, publisher: Host(0), life: life(1), missed, slow })
    }

    /// Host 1 subscribes, and host 0 publishes three messages.
    fn judge(rest: Vec<Entry>) -> Vec<String> {
        let mut entries = [start(0, 0, 1), start(0, 1, 1)].concat();
        entries.extend([view(5, 0, &UP), view(5, 1, &UP)]);
        let subscriber = |stage| Event::Subscriber { host: Host(1), topic: "t".to_owned(), subscriber: 9, stage };
        entries.extend([at(10, subscriber(Stage::Begun)), at(11, subscriber(Stage::Established))]);
        entries.extend((1..=3).map(|sequence| published(20 + sequence, sequence)));
        entries.extend(rest);
        entries.extend([at(1_000, Event::Healed), at(1_010, Event::Settled { host: Host(0) })]);
        entries.push(at(90_000, Event::FinalReads));
        judged(check, entries).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn all_in_order_and_once_is_well_and_anything_else_is_not() {
        assert_eq!(judge(vec![got(30, 1), got(31, 2), got(32, 3)]), Vec::<String>::new());
        assert!(
            judge(vec![got(30, 1), got(31, 2), got(31, 2), got(32, 3)])[0].contains("message 2 of n0 instead of 3")
        );
        assert!(judge(vec![got(30, 1), got(31, 3)])[0].contains("message 3 of n0 instead of 2"));
        assert!(judge(vec![got(30, 1), got(31, 2)])[0].contains("lacks the messages of n0"));
        assert!(judge(vec![])[0].contains("lacks all messages of n0"));
    }

    #[test]
    fn a_gap_needs_a_reason() {
        let gap = |slow| vec![got(30, 1), lacks(31, 1, slow), got(32, 3)];
        assert_eq!(judge(gap(true)), Vec::<String>::new());
        assert!(judge(gap(false))[0].contains("has seen its node all the time"));
        let down = [(0, 1, Standing::Alive), (1, 1, Standing::Down)];
        let mut cut = vec![view(25, 0, &down), view(26, 0, &UP)];
        cut.extend(gap(false));
        assert_eq!(judge(cut), Vec::<String>::new());
    }

    #[test]
    fn a_publisher_that_has_died_may_take_its_tail_with_it() {
        let died = at(40, Event::Crashed { host: Host(0), wiped: false });
        assert_eq!(judge(vec![got(30, 1), died]), Vec::<String>::new());
    }
}
