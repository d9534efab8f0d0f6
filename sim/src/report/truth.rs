//! What was really the case between two nodes: whether a link was cut, or a process stood still or was not there.
//!
//! The page draws it behind what the nodes believed, so that one sees at once who was right. A history tells a fault in
//! words for a person; the words of a partition name its links, and are read here. What cannot be read is still shown as
//! text, and a test holds the words of all partitions that can be drawn against it.

use std::collections::{BTreeMap, BTreeSet};

use super::story::{FaultSpan, Span, Story};
use super::words::names;
use crate::fault::Link;
use crate::history::Host;

/// What kept one node from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Apart {
    /// Links between them were cut, or all links of one of them.
    Cut,
    /// One of them stood still.
    Paused,
    /// The other had no process.
    Absent,
}

/// What kept a node from another, when, and in words.
pub(super) fn between(story: &Story<'_>, host: Host, other: Host) -> Vec<(Span, Apart, String)> {
    let mut apart = Vec::new();
    for fault in &story.faults {
        let named = fault.hosts.contains(&host) || fault.hosts.contains(&other);
        if fault.class.starts_with("partition") {
            if let Some(words) = Links::of(fault).and_then(|links| links.between(host, other)) {
                apart.push((fault.span, Apart::Cut, words));
            }
        } else if fault.class == "clog" && named {
            apart.push((fault.span, Apart::Cut, "links are cut for a part of this time".to_owned()));
        } else if fault.class == "pause" && named {
            apart.push((fault.span, Apart::Paused, fault.what.to_owned()));
        }
    }
    apart.extend(absences(story, other).into_iter().map(|span| (span, Apart::Absent, format!("{other} does not run"))));
    apart
}

/// When a host had no process.
fn absences(story: &Story<'_>, host: Host) -> Vec<Span> {
    let (mut absences, mut since) = (Vec::new(), Some(Default::default()));
    for living in story.lives.iter().filter(|living| living.host == host) {
        if let Some(from) = since.take() {
            absences.push((from, living.from));
        }
        since = living.to;
    }
    absences.extend(since.map(|from| (from, story.end)));
    absences.retain(|(from, to)| from < to);
    absences
}

/// The links that a partition cuts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Links {
    cut: BTreeSet<Link>,
    /// What else is said of them: how they come and go.
    more: String,
}

impl Links {
    /// Reads the words of a partition: `n0 -/-> n1 n2, n1 -/-> n0`, or `[n0] and [n1, n2] do not see each other`.
    pub(super) fn of(fault: &FaultSpan<'_>) -> Option<Self> {
        sides(fault.what).or_else(|| arrows(fault.what))
    }

    fn between(&self, host: Host, other: Host) -> Option<String> {
        let more = &self.more;
        match (self.cut.contains(&(host, other)), self.cut.contains(&(other, host))) {
            (true, true) => Some(format!("{host} and {other} are cut off from each other{more}")),
            (true, false) => Some(format!("{host} is not heard by {other}{more}")),
            (false, true) => Some(format!("{host} does not hear {other}{more}")),
            (false, false) => None,
        }
    }

    /// What the partition means for one node; `None` if nothing.
    pub(super) fn around(&self, host: Host) -> Option<String> {
        let to: BTreeSet<Host> = self.cut.iter().filter(|(from, _)| *from == host).map(|(_, to)| *to).collect();
        let from: BTreeSet<Host> = self.cut.iter().filter(|(_, to)| *to == host).map(|(from, _)| *from).collect();
        let parts = [
            ("cut off from", to.intersection(&from).copied().collect::<Vec<_>>()),
            ("not heard by", to.difference(&from).copied().collect()),
            ("does not hear", from.difference(&to).copied().collect()),
        ];
        let parts = parts.into_iter().filter(|(_, hosts)| !hosts.is_empty());
        let words: Vec<String> = parts.map(|(words, hosts)| format!("{words} {}", names(&hosts))).collect();
        (!words.is_empty()).then(|| words.join(", ") + &self.more)
    }

    /// The partition in as few words as it allows: nodes that are cut off from the same others are named together.
    pub(super) fn words(&self) -> String {
        let mut groups: BTreeMap<(Vec<Host>, Vec<Host>), Vec<Host>> = BTreeMap::new();
        let hosts: BTreeSet<Host> = self.cut.iter().flat_map(|(from, to)| [*from, *to]).collect();
        for host in hosts {
            let to = self.cut.iter().filter(|(from, _)| *from == host).map(|(_, to)| *to).collect();
            let from = self.cut.iter().filter(|(_, to)| *to == host).map(|(from, _)| *from).collect();
            groups.entry((to, from)).or_default().push(host);
        }
        let mut groups: Vec<_> = groups.into_iter().map(|(apart, group)| (group, apart)).collect();
        groups.sort();
        let mut said: BTreeSet<Vec<Host>> = BTreeSet::new();
        let mut words = Vec::new();
        for (group, (to, from)) in &groups {
            // The other side has said it already.
            if to == from && said.contains(to) {
                continue;
            }
            said.insert(group.clone());
            match (to == from, to.is_empty()) {
                (true, _) => words.push(format!("{} cut off from {}", names(group), names(to))),
                (false, false) => words.push(format!("{} not heard by {}", names(group), names(to))),
                (false, true) => {}
            }
        }
        words.join("; ") + &self.more
    }
}

fn arrows(what: &str) -> Option<Links> {
    let (mut cut, mut more) = (BTreeSet::new(), String::new());
    for part in what.split(", ") {
        match part.split_once(" -/-> ") {
            Some((from, to)) => {
                let from: Host = from.parse().ok()?;
                for to in to.split(' ') {
                    cut.insert((from, to.parse().ok()?));
                }
            }
            None => more = format!("{more}, {part}"),
        }
    }
    (!cut.is_empty()).then_some(Links { cut, more })
}

fn sides(what: &str) -> Option<Links> {
    let (here, there) = what.strip_suffix("] do not see each other")?.strip_prefix('[')?.split_once("] and [")?;
    let side = |text: &str| text.split(", ").map(str::parse).collect::<Result<Vec<Host>, _>>().ok();
    let (here, there) = (side(here)?, side(there)?);
    let cut = here.iter().flat_map(|a| there.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect();
    Some(Links { cut, more: String::new() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::fault::{Stage, Step, classes};
    use crate::network::Scope;

    fn links(what: &str) -> Option<Links> {
        let span = (Duration::ZERO, Duration::from_secs(1));
        Links::of(&FaultSpan { number: 0, class: "partition", what, disturbs: true, hosts: &[], span })
    }

    #[test]
    fn the_words_of_every_partition_are_understood() {
        let stage = Stage { hosts: (0..5).map(Host).collect(), late: vec![Host(5)], mortal: Host(3), seeds: 3 };
        let mut rng = StdRng::seed_from_u64(1);
        let partitions = classes().filter(|class| class.name.starts_with("partition"));
        for class in partitions.flat_map(|class| (0..20).map(move |_| class)) {
            let (fault, lasts) = (class.draw)(&mut rng, &stage);
            let Some((_, Step::Links(effects))) = fault.timeline(lasts).into_iter().next() else {
                panic!("{fault:?} cuts no links");
            };
            let Scope::Links(cut) = &effects[0].scope else { panic!("{fault:?} cuts no links") };
            let read = links(&fault.what()).expect("they are understood");
            assert_eq!(read.cut, cut.iter().copied().collect(), "{}", fault.what());
            assert_eq!(read.more.is_empty(), class.name != "partition-flapping", "{}", fault.what());
            assert!(!read.words().is_empty());
        }
    }

    #[test]
    fn a_partition_is_told_in_few_words() {
        let both = links("n0 -/-> n1 n2, n1 -/-> n0, n2 -/-> n0, every 50 ms").expect("links");
        assert_eq!(both.words(), "n0 cut off from n1 n2, every 50 ms");
        assert_eq!(both.around(Host(2)).as_deref(), Some("cut off from n0, every 50 ms"));
        assert_eq!(both.around(Host(3)), None);
        let one_way = links("n0 -/-> n1, n2 -/-> n1").expect("links");
        assert_eq!(one_way.words(), "n0 n2 not heard by n1");
        assert_eq!(one_way.around(Host(1)).as_deref(), Some("does not hear n0 n2"));
        assert_eq!(one_way.between(Host(0), Host(1)).as_deref(), Some("n0 is not heard by n1"));
        assert_eq!(links("[n0, n1] and [n2] do not see each other").expect("links").words(), "n0 n1 cut off from n2");
    }

    #[test]
    fn words_that_name_no_links_are_left_alone() {
        for what in ["", "everything is gone", "n0 -/-> <b>", "[] and [] do not see each other"] {
            assert_eq!(links(what), None, "{what}");
        }
    }
}
