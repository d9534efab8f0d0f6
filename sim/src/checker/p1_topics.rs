//! P1: a message reaches every subscriber connected throughout, in each publisher's order, at most once; a gap is reported as
//! such.
//!
//! Of each publisher a subscriber must get messages and gaps that make up its count without a hole and without going back.
//! What a publisher that was told of the subscription has published since is among them. And in the end nothing is missing
//! of a publisher that lives, neither of one from which something has come, nor of one that was told.
//!
//! A gap needs a reason. That a subscriber was slow is one for those that mean to be, and for the others only while they
//! wait to be established and take nothing: afterwards they take each event at once, and the most that can come together,
//! after a pause or a split of the few seconds in which nobody is down, is less than their queue holds. Anything else was
//! lost because one of the two nodes has taken the other for down, and was published before it took it for up again.
//! Or the publisher is new: it asked for as long as it waits who subscribes, while the links were disturbed, and was not told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Facts, Violation, violation};
use crate::history::{Event, Host, Life, Stage};

/// How much later than it was told of what a node sees it may have acted on it.
const SLACK: Duration = Duration::from_millis(100);
/// How long a node that has begun to use topics asks who subscribes, at most, before it publishes.
const ASKS: Duration = Duration::from_secs(3);
/// How long the news of a subscription takes at most once nothing is disturbed.
const NEWS: Duration = Duration::from_secs(20);

/// See the [module](self).
#[must_use]
pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut state = State::default();
    let mut violations = Vec::new();
    for (index, entry) in facts.history.entries.iter().enumerate() {
        if let Err(text) = state.follow(facts, index, entry.at, &entry.event) {
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
    /// The messages of each topic and publisher, in the order of the history.
    published: BTreeMap<(&'a str, Who), Vec<Published>>,
    /// When each life was ready, and when it published its first message, whatever the topic.
    began: BTreeMap<Who, (Duration, Option<Duration>)>,
    subscribers: BTreeMap<u64, Subscriber<'a>>,
    /// The lives that each host takes for up now, with how often they were declared down.
    up: BTreeMap<Host, BTreeMap<Host, (Life, u32)>>,
    /// And those that it takes for down.
    down: BTreeMap<Host, BTreeSet<Who>>,
}

struct Published {
    sequence: u64,
    /// Where it stands in the history.
    index: usize,
    at: Duration,
}

struct Subscriber<'a> {
    who: Option<Who>,
    topic: &'a str,
    slow: bool,
    /// The index and the time of the entry with which it was established.
    established: Option<(usize, Duration)>,
    /// Those that its node has taken for up from when it began to when it was established.
    told: BTreeMap<Host, (Life, u32)>,
    /// The publishers that have taken its node for down since it began, or have not taken it for up; and until when, if it
    /// is over.
    cut_off: BTreeMap<Who, Option<Duration>>,
    /// The same of the publishers that its own node has taken for down.
    given_up: BTreeMap<Who, Option<Duration>>,
    /// How often its node was declared down, as publishers see it.
    rejoins: BTreeMap<Who, u32>,
    /// What must come next, if something has come.
    next: BTreeMap<Who, u64>,
    /// The gaps that came before anything else: how much is missing, and where the last of them stands in the history.
    unplaced: BTreeMap<Who, (u64, usize)>,
}

impl Subscriber<'_> {
    /// Since which entry this publisher is certain to have known of it, if it is.
    fn told_since(&self, publisher: Who) -> Option<usize> {
        let is_told = self.told.get(&publisher.0).is_some_and(|(life, _)| *life == publisher.1);
        let (index, _) = self.established?;
        (is_told || self.who == Some(publisher)).then_some(index)
    }

    fn got(&mut self, publisher: Who, sequence: u64, published: &[Published]) -> Result<(), String> {
        let name = publisher.0;
        let next = self.next.insert(publisher, sequence + 1);
        let missed = self.unplaced.remove(&publisher).map_or(0, |(missed, _)| missed);
        if let Some(next) = next.filter(|next| *next != sequence) {
            return Err(format!("got message {sequence} of {name} instead of {next}"));
        }
        if sequence <= missed {
            return Err(format!("got message {sequence} of {name} after it had missed {missed}"));
        }
        let told = self.told_since(publisher).filter(|_| next.is_none());
        let due = told.and_then(|index| published.iter().find(|message| message.index > index));
        match due {
            Some(due) if due.sequence < sequence - missed => {
                Err(format!("got message {sequence} of {name} first, and lacks message {}", due.sequence))
            }
            _ => Ok(()),
        }
    }

    fn lacks(
        &mut self,
        index: usize,
        publisher: Who,
        (missed, slow): (u64, bool),
        published: &[Published],
        unaware: Option<Duration>,
    ) -> Result<(), String> {
        let name = publisher.0;
        let (first, after) = match self.next.get_mut(&publisher) {
            Some(next) => {
                *next += missed;
                (*next - missed, *next)
            }
            None => {
                let (all, last) = self.unplaced.entry(publisher).or_default();
                *all += missed;
                *last = index;
                (1, *all + 1)
            }
        };
        if slow {
            let waited = |message: &&Published| self.established.is_none_or(|(index, _)| message.index < index);
            let is_before = published.iter().rfind(waited).is_some_and(|message| first <= message.sequence);
            return (self.slow || is_before).then_some(()).ok_or_else(|| {
                format!("lacks {missed} messages of {name} because it was slow, and takes every event at once")
            });
        }
        let unaware = unaware.filter(|_| first == 1);
        let since =
            |down: &BTreeMap<Who, Option<Duration>>| down.get(&publisher).map(|until| until.unwrap_or(Duration::MAX));
        let Some(until) = since(&self.cut_off).max(since(&self.given_up)).max(unaware) else {
            return Err(format!("lacks {missed} messages of {name}, which has seen its node all the time"));
        };
        let is_cut = |message: &&Published| message.at <= until.saturating_add(SLACK);
        let last = published.iter().rfind(is_cut).map_or(0, |message| message.sequence);
        if after > last + 1 {
            let last_missed = after - 1;
            return Err(format!("lacks message {last_missed} of {name}, which has seen its node since message {last}"));
        }
        Ok(())
    }
}

/// Until when a publisher need not know of a subscription that was there before it began, if it published nothing before
/// it had asked for all the time that it has, and the links were disturbed meanwhile.
fn unaware_until(facts: &Facts<'_>, began: Option<&(Duration, Option<Duration>)>) -> Option<Duration> {
    let (ready, first) = *began?;
    let is_disturbed = facts.disturbed.iter().any(|(from, to)| *from <= ready + ASKS && *to >= ready);
    // It may have begun to ask a moment before it was seen to be ready.
    let has_asked = first.is_none_or(|first| first + SLACK >= ready + ASKS);
    (is_disturbed && has_asked).then(|| facts.calm_from(ready, NEWS).map_or(Duration::MAX, |calm| calm + NEWS))
}

impl<'a> State<'a> {
    fn follow(&mut self, facts: &Facts<'_>, index: usize, at: Duration, event: &'a Event) -> Result<(), String> {
        match event {
            Event::Ready { host, life } => {
                self.lives.insert(*host, *life);
                self.began.insert((*host, *life), (at, None));
            }
            Event::Crashed { host, .. } | Event::Left { host } | Event::Stopped { host, .. } => {
                self.lives.remove(host);
                self.up.remove(host);
                self.down.remove(host);
                self.subscribers.retain(|_, subscriber| subscriber.who.is_none_or(|(other, _)| other != *host));
            }
            Event::View { host, members } => {
                let up = members.iter().filter(|(_, seen)| seen.standing.is_up());
                self.up.insert(*host, up.map(|(other, seen)| (*other, (seen.life, seen.rejoin))).collect());
                let down = members.iter().filter(|(_, seen)| !seen.standing.is_up());
                self.down.insert(*host, down.map(|(other, seen)| (*other, seen.life)).collect());
                self.views_changed(at, *host);
            }
            Event::Subscriber { host, topic, subscriber, stage, slow } => {
                self.stage((index, at), *host, topic, (*subscriber, *slow), *stage)
            }
            Event::Published { host, topic, sequence } => {
                if let Some(life) = self.lives.get(host) {
                    if let Some((_, first)) = self.began.get_mut(&(*host, *life)) {
                        first.get_or_insert(at);
                    }
                    let message = Published { sequence: *sequence, index, at };
                    self.published.entry((topic, (*host, *life))).or_default().push(message);
                }
            }
            Event::Got { subscriber, publisher, life, sequence, .. } => {
                let Some(state) = self.subscribers.get_mut(subscriber) else { return Ok(()) };
                let who = (*publisher, *life);
                let published = self.published.get(&(state.topic, who)).map_or(&[][..], Vec::as_slice);
                let got = state.got(who, *sequence, published);
                return got.map_err(|text| format!("subscriber {subscriber:x} {text}"));
            }
            Event::Lacks { subscriber, publisher, life, missed, slow, .. } => {
                let Some(state) = self.subscribers.get_mut(subscriber) else { return Ok(()) };
                let who = (*publisher, *life);
                let unaware = unaware_until(facts, self.began.get(&who));
                let published = self.published.get(&(state.topic, who)).map_or(&[][..], Vec::as_slice);
                let lacks = state.lacks(index, who, (*missed, *slow), published, unaware);
                return lacks.map_err(|text| format!("subscriber {subscriber:x} {text}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn stage(&mut self, now: (usize, Duration), host: Host, topic: &'a str, (number, slow): (u64, bool), stage: Stage) {
        match stage {
            Stage::Begun => {
                let up = self.up.get(&host).into_iter().flatten();
                let told = up.filter(|(other, _)| **other != host).map(|(other, seen)| (*other, *seen)).collect();
                let subscriber = Subscriber {
                    who: self.lives.get(&host).map(|life| (host, *life)),
                    topic,
                    slow,
                    established: None,
                    told,
                    cut_off: BTreeMap::new(),
                    given_up: BTreeMap::new(),
                    rejoins: BTreeMap::new(),
                    next: BTreeMap::new(),
                    unplaced: BTreeMap::new(),
                };
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
                subscriber.told.retain(|other, told| up.get(other) == Some(told));
            }
            if at == host {
                for (who, until) in subscriber.given_up.iter_mut().filter(|(_, until)| until.is_none()) {
                    if up.get(&who.0).is_some_and(|(life, _)| *life == who.1) {
                        *until = Some(now);
                    }
                }
                let down = self.down.get(&host).into_iter().flatten();
                subscriber.given_up.extend(down.map(|who| (*who, None)));
                continue;
            }
            let publisher = (host, *life);
            let Some((_, rejoin)) = up.get(&at).filter(|(seen, _)| *seen == own) else {
                subscriber.cut_off.insert(publisher, None);
                continue;
            };
            // A rejoin says that the life was declared down, whether that was seen here or not.
            let is_cut = subscriber.rejoins.insert(publisher, *rejoin).unwrap_or(0) != *rejoin;
            if is_cut || subscriber.cut_off.get(&publisher) == Some(&None) {
                subscriber.cut_off.insert(publisher, Some(now));
            }
        }
    }

    /// What has not come in the end.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (number, subscriber) in &self.subscribers {
            for ((_, who), all) in self.published.iter().filter(|((topic, _), _)| *topic == subscriber.topic) {
                let Some(Published { sequence: last, index, .. }) = all.last() else { continue };
                if self.lives.get(&who.0) != Some(&who.1) {
                    continue;
                }
                let mut lacks = |what: &str| {
                    missing.push(format!("subscriber {number:x} lacks {what} of {} until message {last}", who.0));
                };
                match (subscriber.next.get(who), subscriber.unplaced.get(who)) {
                    (Some(next), _) if next <= last => lacks("the messages"),
                    (Some(_), _) => {}
                    (None, Some((_, gap))) if index > gap => lacks("the messages after a gap"),
                    (None, Some(_)) => {}
                    (None, None) if subscriber.told_since(*who).is_some_and(|told| *index > told) => {
                        lacks("all messages");
                    }
                    (None, None) => {}
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
        judge_one(false, rest)
    }

    fn judge_one(slow: bool, rest: Vec<Entry>) -> Vec<String> {
        let mut entries = [start(0, 0, 1), start(0, 1, 1)].concat();
        entries.extend([view(5, 0, &UP), view(5, 1, &UP)]);
        let subscriber = |stage| Event::Subscriber { host: Host(1), topic: "t".to_owned(), subscriber: 9, stage, slow };
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
        assert_eq!(judge_one(true, gap(true)), Vec::<String>::new());
        assert!(judge(gap(true))[0].contains("takes every event at once"));
        assert!(judge(gap(false))[0].contains("has seen its node all the time"));
        let down = [(0, 1, Standing::Alive), (1, 1, Standing::Down)];
        let mut cut = vec![view(25, 0, &down), view(26, 0, &UP)];
        cut.extend(gap(false));
        assert_eq!(judge(cut), Vec::<String>::new());
    }

    #[test]
    fn a_new_publisher_that_nobody_could_answer_may_not_have_known_of_it() {
        // Host 2 begins while its links are slow, publishes three messages from `first` on, and the fourth after the heal.
        let judge = |slow: bool, first: u64, missed: u64| {
            let began = Event::Began {
                fault: 1,
                class: "delay".to_owned(),
                what: "datagrams 289 ms late on 20 links".to_owned(),
                disturbs: slow,
                hosts: vec![Host(1), Host(2)],
            };
            let (host, publisher, topic) = (Host(1), Host(2), || "t".to_owned());
            let published = |ms, sequence| at(ms, Event::Published { host: publisher, topic: topic(), sequence });
            let seen = [(0, 1, Standing::Alive), (1, 1, Standing::Alive), (2, 1, Standing::Alive)];
            let mut rest = vec![got(30, 1), got(31, 2), got(32, 3), at(40, began)];
            rest.extend(start(50, 2, 1));
            rest.push(view(51, 2, &seen));
            rest.extend((1..=3).map(|sequence| published(first + sequence, sequence)));
            rest.extend([at(first + 10, Event::Ended { fault: 1 }), published(first + 30_000, 4)]);
            let event = Event::Lacks { host, subscriber: 9, publisher, life: life(1), missed, slow: false };
            rest.push(at(first + 30_001, event));
            rest.push(at(
                first + 30_002,
                Event::Got { host, subscriber: 9, publisher, life: life(1), sequence: missed + 1 },
            ));
            judge(rest)
        };
        assert_eq!(judge(true, 3_100, 3), Vec::<String>::new());
        assert!(judge(false, 3_100, 3)[0].contains("has seen its node all the time"), "nothing kept it from asking");
        assert!(judge(true, 2_000, 3)[0].contains("has seen its node all the time"), "it did not ask for long enough");
        assert!(judge(true, 3_100, 4)[0].contains("since message 3"), "it has long heard of it");
    }

    #[test]
    fn what_was_published_since_it_was_established_may_not_be_passed_over() {
        assert!(judge(vec![got(30, 2), got(31, 3)])[0].contains("first, and lacks message 1"));
        assert_eq!(judge_one(true, vec![lacks(30, 1, true), got(30, 2), got(31, 3)]), Vec::<String>::new());
        let passed = judge_one(true, vec![lacks(30, 1, true), got(31, 3)]);
        assert!(passed[0].contains("first, and lacks message 1"));
        assert!(judge_one(true, vec![lacks(30, 3, true), got(31, 3)])[0].contains("after it had missed 3"));
    }

    #[test]
    fn a_gap_reaches_to_when_the_node_was_seen_again_and_no_further() {
        let down = [(0, 1, Standing::Alive), (1, 1, Standing::Down)];
        let blip = |rest: &[Entry]| {
            let seen = [view(25, 0, &down), view(26, 0, &UP)];
            let later = [published(2_000, 4), published(2_001, 5)];
            [&seen[..], &later, &[got(2_010, 1)], rest].concat()
        };
        assert_eq!(judge(blip(&[lacks(2_011, 2, false), got(2_012, 4), got(2_013, 5)])), Vec::<String>::new());
        let lost = judge(blip(&[lacks(2_011, 3, false), got(2_013, 5)]));
        assert!(lost[0].contains("lacks message 4 of n0, which has seen its node since message 3"));
    }

    #[test]
    fn a_gap_reaches_to_when_the_publisher_was_seen_again_and_no_further() {
        let down = [(0, 1, Standing::Down), (1, 1, Standing::Alive)];
        let blip = |rest: &[Entry]| {
            let seen = [view(25, 1, &down), view(1_990, 1, &UP)];
            [&seen[..], &[published(2_000, 4), published(2_150, 5)], rest].concat()
        };
        assert_eq!(judge(blip(&[lacks(2_160, 4, false), got(2_161, 5)])), Vec::<String>::new());
        assert!(judge(blip(&[lacks(2_160, 5, false)]))[0].contains("lacks message 5 of n0"));
    }

    #[test]
    fn what_is_published_after_a_gap_comes() {
        let down = [(0, 1, Standing::Alive), (1, 1, Standing::Down)];
        let gap = || vec![view(25, 0, &down), view(26, 0, &UP), lacks(40, 3, false)];
        assert_eq!(judge(gap()), Vec::<String>::new());
        let lost = judge([gap(), vec![published(2_000, 4)]].concat());
        assert!(lost[0].contains("lacks the messages after a gap of n0"));
    }

    #[test]
    fn a_publisher_that_has_died_may_take_its_tail_with_it() {
        let died = at(40, Event::Crashed { host: Host(0), wiped: false });
        assert_eq!(judge(vec![got(30, 1), died]), Vec::<String>::new());
    }
}
