//! The anti-replay window of RFC 4303, appendix A2, in its array form of RFC 6479.

use std::collections::BTreeMap;

use crate::identity::Boot;

const WORDS: usize = 17;

/// How far behind the newest counter a datagram may arrive and still be told from a replay.
pub(crate) const WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// The counters of one sender that have been seen: all that are too old, and a bitmap of the newest 1,024.
///
/// One word more than the window is kept, so that the word which the newest counter enters can be cleared whole.
#[derive(Debug, Clone)]
pub(crate) struct ReplayWindow {
    newest: u64,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// A window in which everything up to `base` counts as seen. Counters start at 1.
    pub(crate) const fn after(base: u64) -> Self {
        let mut seen = [u64::MAX; WORDS];
        // What is newer in the same word has not been seen; the words after it are cleared when they are entered.
        seen[Self::word(base)] = u64::MAX >> (63 - base % 64);
        Self { newest: base, seen }
    }

    /// The greatest counter that counts as seen.
    pub(crate) const fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether `counter` may still be new. Changes nothing: what has not been authenticated must not move the window.
    pub(crate) fn may_be_new(&self, counter: u64) -> bool {
        if counter == 0 {
            return false;
        }
        if counter > self.newest {
            return true;
        }
        self.newest - counter < WINDOW && !self.has(counter)
    }

    /// Records an authenticated counter. Returns whether it was new.
    pub(crate) fn record(&mut self, counter: u64) -> bool {
        if !self.may_be_new(counter) {
            return false;
        }
        if counter > self.newest {
            let (from, to) = (self.newest / 64, counter / 64);
            for word in (from + 1..=to).take(WORDS) {
                self.seen[(word % WORDS as u64) as usize] = 0;
            }
            if to - from >= WORDS as u64 {
                self.seen = [0; WORDS];
            }
            self.newest = counter;
        }
        self.seen[Self::word(counter)] |= 1 << (counter % 64);
        true
    }

    fn has(&self, counter: u64) -> bool {
        self.seen[Self::word(counter)] & (1 << (counter % 64)) != 0
    }

    const fn word(counter: u64) -> usize {
        (counter / 64 % WORDS as u64) as usize
    }
}

/// Up to which counter senders were heard whose windows are no longer kept.
///
/// Nothing above a sender's floor was ever taken from it. When there is no room, the lowest floor is forgotten, and from
/// then on its height is that of everyone who has none: those who were heard little are many, those who were heard much
/// keep floors of their own, and so the common one stays low.
#[derive(Debug)]
pub(crate) struct Floors {
    most: usize,
    of: BTreeMap<Boot, u64>,
    common: u64,
}

impl Floors {
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, of: BTreeMap::new(), common: 0 }
    }

    /// Remembers how far a sender was heard.
    pub(crate) fn raise(&mut self, boot: Boot, newest: u64) {
        self.of.insert(boot, newest);
        if self.of.len() > self.most
            && let Some((lowest, floor)) = self.of.iter().min_by_key(|(_, floor)| **floor).map(|(b, f)| (*b, *f))
        {
            self.of.remove(&lowest);
            self.common = self.common.max(floor);
        }
    }

    /// How far a sender was certainly heard: what is not above this is a replay.
    pub(crate) fn known(&self, boot: Boot) -> u64 {
        self.of.get(&boot).copied().unwrap_or(0)
    }

    /// How far a sender may have been heard: what is above this is none.
    pub(crate) fn possible(&self, boot: Boot) -> u64 {
        self.of.get(&boot).copied().unwrap_or(self.common)
    }

    /// Forgets the floor of one whose window is open again.
    pub(crate) fn lift(&mut self, boot: Boot) {
        self.of.remove(&boot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_older_than_the_window_is_refused() {
        let mut window = ReplayWindow::after(0);
        assert!(!window.record(0));
        assert!(window.record(5000));
        assert!(window.record(5000 - WINDOW + 1));
        assert!(!window.record(5000 - WINDOW));
        assert!(window.record(u64::MAX));
        assert!(!window.record(u64::MAX));
        assert!(window.record(u64::MAX - WINDOW + 1));
    }

    #[test]
    fn the_lowest_floor_becomes_common() {
        let boot = |nonce| Boot { generation: 1, nonce };
        let mut floors = Floors::new(2);
        floors.raise(boot(1), 100);
        floors.raise(boot(2), 5);
        assert_eq!((floors.known(boot(3)), floors.possible(boot(3))), (0, 0));
        floors.raise(boot(3), 50);
        assert_eq!((floors.known(boot(2)), floors.possible(boot(2))), (0, 5));
        assert_eq!((floors.known(boot(1)), floors.possible(boot(1))), (100, 100));
        floors.lift(boot(1));
        assert_eq!((floors.known(boot(1)), floors.possible(boot(1))), (0, 5));
    }

    proptest! {
        #[test]
        fn what_was_before_a_window_counts_as_seen(base in 0u64..5_000, counters in prop::collection::vec(1u64..7_000, 1..200)) {
            let (mut window, mut seen, mut newest) = (ReplayWindow::after(base), BTreeSet::new(), base);
            for counter in counters {
                let fresh = counter > base && counter + WINDOW > newest && !seen.contains(&counter);
                prop_assert_eq!(window.record(counter), fresh);
                if fresh {
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// Against a model that remembers every counter.
        #[test]
        fn agrees_with_a_set(counters in prop::collection::vec(1u64..6_000, 1..400)) {
            let (mut window, mut seen, mut newest) = (ReplayWindow::after(0), BTreeSet::new(), 0);
            for counter in counters {
                let fresh = counter + WINDOW > newest && !seen.contains(&counter);
                prop_assert_eq!(window.record(counter), fresh);
                if fresh {
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }
}
