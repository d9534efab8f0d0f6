//! Which secrets a node has to send to whom, and when: whoever has a key that a member lacks owes it, and they take turns.
//!
//! The holder with the lowest name goes first. But it may believe the member down, and the member is deaf to all who seal under
//! that key: so the others follow, one after another. All repeat it at intervals that grow with their turns, so what reaches a
//! member that never takes a key is about three secrets a second, however large the cluster is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::NodeName;
use crate::secure::ring::{KeyId, Owed};

/// How long a member must lack a key before it is sent one that was not installed here: time enough to hear that another
/// node has sent it.
const GRACE: Duration = Duration::from_millis(200);
/// How long to wait for an answer, and for each that goes first; and before a secret is sent again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Debt {
    since: Instant,
    sent: Option<Instant>,
    /// An operator has asked this node: it does not wait for others.
    asked: bool,
    /// How many go first.
    before: u32,
}

impl Debt {
    fn due(&self) -> Instant {
        match self.sent {
            Some(sent) => sent + AGAIN * (1 + self.before),
            None if self.asked => self.since,
            None => self.since + GRACE + AGAIN * self.before,
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Debts(BTreeMap<(NodeName, KeyId), Debt>);

impl Debts {
    /// An operator has installed a key here, which none of these is known to have.
    pub(super) fn install<'a>(&mut self, now: Instant, key: KeyId, members: impl Iterator<Item = &'a NodeName>) {
        let debt = || Debt { since: now, sent: None, asked: true, before: 0 };
        self.0.extend(members.map(|name| ((name.clone(), key), debt())));
    }

    /// This is what is owed now.
    pub(super) fn update(&mut self, now: Instant, owed: Vec<Owed>) {
        let mut old = std::mem::take(&mut self.0);
        self.0.extend(owed.into_iter().map(|Owed { to, key, before }| {
            let at = (to, key);
            let new = Debt { since: now, sent: None, asked: false, before };
            let debt = old.remove(&at).map_or(new, |debt| Debt { before, ..debt });
            (at, debt)
        }));
    }

    /// What is to be sent now.
    pub(super) fn due(&self, now: Instant) -> Vec<(NodeName, KeyId)> {
        self.0.iter().filter(|(_, debt)| debt.due() <= now).map(|(at, _)| at.clone()).collect()
    }

    /// It is on its way.
    pub(super) fn sent(&mut self, now: Instant, at: &(NodeName, KeyId)) {
        if let Some(debt) = self.0.get_mut(at) {
            debt.sent = Some(now);
        }
    }

    /// When the next of what is not due yet is.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(Debt::due).filter(|due| *due > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::Secret;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(member: usize) -> (NodeName, KeyId) {
        let key = Secret::new([7; 32]).expect("long enough").id();
        (NodeName::new(&format!("n{member}")).expect("valid"), key)
    }

    fn owed(member: usize, before: u32) -> Owed {
        let (to, key) = at(member);
        Owed { to, key, before }
    }

    /// The times in milliseconds at which a holder sends to a member that takes nothing, if it looks all the time.
    fn sends(before: u32, until: u64) -> Vec<u64> {
        let (began, mut debts, mut sends) = (Instant::now(), Debts::default(), Vec::new());
        for time in (0..=until).step_by(50) {
            let now = began + ms(time);
            debts.update(now, vec![owed(1, before)]);
            for at in debts.due(now) {
                debts.sent(now, &at);
                sends.push(time);
            }
        }
        sends
    }

    #[test]
    fn holders_take_turns_and_repeat_it_the_more_rarely_the_later_they_are() {
        assert_eq!(sends(0, 3_500), [200, 1_200, 2_200, 3_200]);
        assert_eq!(sends(1, 6_000), [1_200, 3_200, 5_200]);
        assert_eq!(sends(3, 8_000), [3_200, 7_200]);
    }

    #[test]
    fn whoever_was_asked_goes_at_once_and_then_like_the_others() {
        let (now, mut debts) = (Instant::now(), Debts::default());
        let (name, key) = at(1);
        debts.install(now, key, [&name].into_iter());
        debts.update(now, vec![owed(1, 1)]);
        assert_eq!(debts.due(now), [at(1)]);
        debts.sent(now, &at(1));
        assert!(debts.due(now + ms(1_999)).is_empty());
        assert_eq!(debts.next(now), Some(now + ms(2_000)));
    }

    #[test]
    fn a_turn_is_given_back_when_others_turn_up_who_go_first_and_taken_when_they_go() {
        let (now, mut debts) = (Instant::now(), Debts::default());
        debts.update(now, vec![owed(1, 0)]);
        debts.update(now + ms(50), vec![owed(1, 2)]);
        assert_eq!((debts.due(now + ms(2_100)), debts.next(now)), (vec![], Some(now + ms(2_200))));
        debts.update(now + ms(60), vec![owed(1, 0)]);
        assert_eq!(debts.due(now + ms(200)), [at(1)]);
        debts.update(now + ms(210), vec![]);
        assert_eq!((debts.due(now + ms(9_000)), debts.next(now)), (vec![], None));
    }
}
