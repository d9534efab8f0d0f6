//! Whose answer is awaited: probes of our own, and those that others have asked us for (SWIM, section 3.1).

use std::collections::BTreeMap;
use std::time::Duration;

use super::handle::Handle;
use crate::buckets::NameKey;

/// How many probes are under way at once at most: one of our own round, and checks of accusations.
pub(super) const MAX_PROBES: usize = 8;
/// How many probes for others are under way at once at most: 3 for each of a hundred members that have one failing.
const MAX_FAVOURS: usize = 300;

/// A member whose answer is awaited.
#[derive(Debug)]
struct Probe {
    number: u32,
    target: Handle,
    /// When others are asked, if they were not yet.
    ask: Option<Duration>,
    /// When it has failed.
    end: Duration,
    helpers: Vec<NameKey>,
    /// Whether one of the helpers has said that it is there.
    helped: bool,
}

/// A probe for another member.
#[derive(Debug)]
struct Favour {
    asker: NameKey,
    /// The asker's number of it.
    number: u32,
    /// When the asker is told that there is no answer yet; that was done if there is none.
    nack: Option<Duration>,
    end: Duration,
}

/// What an ack was for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// A probe of our own.
    Ours,
    /// A probe for this member, under its own number.
    For(NameKey, u32),
    /// One that is over.
    Late,
}

/// A probe that nobody could get an answer to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) target: Handle,
    /// Whether one of those who were asked to help was heard, so that it is not we who hear nothing.
    pub(super) helped: bool,
}

/// All that are under way.
#[derive(Debug, Default)]
pub(super) struct Probes {
    ours: Vec<Probe>,
    /// By our own number.
    favours: BTreeMap<u32, Favour>,
    number: u32,
}

impl Probes {
    /// Whether there is room for another one of our own.
    pub(super) fn has_room(&self) -> bool {
        self.ours.len() < MAX_PROBES
    }

    /// Whether this member is being probed.
    pub(super) fn has(&self, target: NameKey) -> bool {
        self.ours.iter().any(|probe| probe.target.key() == target)
    }

    /// Awaits an answer of `target`: until `ask` directly, until `end` through others too. Returns the number of the ping.
    pub(super) fn begin(&mut self, target: Handle, ask: Duration, end: Duration) -> u32 {
        let number = self.next_number();
        self.ours.push(Probe { number, target, ask: Some(ask), end, helpers: Vec::new(), helped: false });
        number
    }

    /// Takes a probe for another member on. Returns the number of the ping, unless there is no room.
    pub(super) fn favour(&mut self, asker: NameKey, number: u32, nack: Duration, end: Duration) -> Option<u32> {
        if self.favours.len() >= MAX_FAVOURS {
            return None;
        }
        let own = self.next_number();
        self.favours.insert(own, Favour { asker, number, nack: Some(nack), end });
        Some(own)
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// This member is no longer awaited.
    pub(super) fn give_up(&mut self, target: NameKey) {
        self.ours.retain(|probe| probe.target.key() != target);
    }

    /// An ack has come: of the target itself, or through one who was asked.
    pub(super) fn handle_ack(&mut self, source: &Handle, number: u32) -> Acked {
        let of = |probe: &Probe| {
            probe.number == number && (probe.target == *source || probe.helpers.contains(&source.key()))
        };
        if let Some(at) = self.ours.iter().position(of) {
            self.ours.swap_remove(at);
            return Acked::Ours;
        }
        self.favours.remove(&number).map_or(Acked::Late, |favour| Acked::For(favour.asker, favour.number))
    }

    /// One who was asked says that it is there and has no answer yet.
    pub(super) fn handle_nack(&mut self, source: NameKey, number: u32) {
        let probe = self.ours.iter_mut().find(|probe| probe.number == number && probe.helpers.contains(&source));
        if let Some(probe) = probe {
            probe.helped = true;
        }
    }

    /// Those for whom others are to be asked now, by number. `help` says whom: each is asked once.
    pub(super) fn ask(
        &mut self,
        now: Duration,
        mut help: impl FnMut(&Handle) -> Vec<NameKey>,
    ) -> Vec<(u32, Handle, Vec<NameKey>)> {
        let due = self.ours.iter_mut().filter(|probe| probe.ask.is_some_and(|ask| ask <= now));
        due.map(|probe| {
            probe.ask = None;
            probe.helpers = help(&probe.target);
            (probe.number, probe.target.clone(), probe.helpers.clone())
        })
        .collect()
    }

    /// Those that have failed by now.
    pub(super) fn end(&mut self, now: Duration) -> Vec<Failed> {
        let ended = self.ours.extract_if(.., |probe| probe.ask.is_none() && probe.end <= now);
        ended.map(|Probe { target, helped, .. }| Failed { target, helped }).collect()
    }

    /// Who is to be told now that there is no answer yet, and under which number of theirs. Favours that are over end.
    pub(super) fn late_favours(&mut self, now: Duration) -> Vec<(NameKey, u32)> {
        let late = self.favours.values_mut().filter(|favour| favour.nack.is_some_and(|nack| nack <= now));
        let late = late
            .map(|favour| {
                favour.nack = None;
                (favour.asker, favour.number)
            })
            .collect();
        self.favours.retain(|_, favour| favour.end > now);
        late
    }

    /// When the next of all this is due.
    pub(super) fn next(&self) -> Option<Duration> {
        let ours = self.ours.iter().map(|probe| probe.ask.unwrap_or(probe.end));
        ours.chain(self.favours.values().map(|favour| favour.nack.unwrap_or(favour.end))).min()
    }

    /// We stood still for so long: those whose answers are awaited get that time again.
    pub(super) fn extend(&mut self, by: Duration) {
        for probe in &mut self.ours {
            probe.ask = probe.ask.map(|at| at + by);
            probe.end += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Boot, Identity, NodeId, NodeName};

    fn handle(name: &str) -> Handle {
        let node = NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 1, nonce: 1 } };
        Identity { node, rejoin: 0, addr: "127.0.0.1:1".parse().expect("an address") }.into()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_probe_ends_with_an_ack_of_the_target_or_of_a_helper_or_fails() {
        let (mut probes, a, b, c) = (Probes::default(), handle("a"), handle("b"), handle("c"));
        let direct = probes.begin(a.clone(), ms(200), ms(500));
        assert_eq!(probes.handle_ack(&b, direct), Acked::Late, "nobody has asked it");
        assert_eq!(probes.handle_ack(&a, direct), Acked::Ours);
        let indirect = probes.begin(a.clone(), ms(200), ms(500));
        assert!(probes.ask(ms(199), |_| vec![b.key()]).is_empty());
        assert_eq!(probes.ask(ms(200), |_| vec![b.key()]), [(indirect, a.clone(), vec![b.key()])]);
        assert!(probes.ask(ms(300), |_| vec![b.key()]).is_empty(), "each is asked once");
        assert_eq!(probes.handle_ack(&b, indirect), Acked::Ours);
        for helper in [&b, &c] {
            let number = probes.begin(a.clone(), ms(200), ms(500));
            probes.ask(ms(200), |_| vec![b.key()]);
            probes.handle_nack(helper.key(), number);
            let failed = Failed { target: a.clone(), helped: helper == &b };
            assert_eq!((probes.end(ms(499)), probes.end(ms(500))), (vec![], vec![failed]));
        }
    }

    #[test]
    fn a_favour_is_passed_on_or_said_to_be_late_once() {
        let (mut probes, a, b) = (Probes::default(), handle("a"), handle("b"));
        let first = probes.favour(a.key(), 70, ms(200), ms(500)).expect("room");
        let second = probes.favour(a.key(), 71, ms(200), ms(500)).expect("room");
        assert_eq!(probes.handle_ack(&b, first), Acked::For(a.key(), 70));
        assert_eq!(probes.next(), Some(ms(200)));
        assert_eq!(probes.late_favours(ms(200)), [(a.key(), 71)]);
        assert_eq!(probes.late_favours(ms(300)), []);
        assert_eq!(probes.handle_ack(&b, second), Acked::For(a.key(), 71), "late, and still of use");
        let rest: Vec<_> = (0..MAX_FAVOURS as u32 + 1).map(|at| probes.favour(a.key(), at, ms(200), ms(500))).collect();
        assert!(rest[MAX_FAVOURS - 1].is_some() && rest[MAX_FAVOURS].is_none());
        probes.late_favours(ms(500));
        assert_eq!(probes.next(), None);
    }
}
