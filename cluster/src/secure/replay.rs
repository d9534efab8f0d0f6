//! The anti-replay window of RFC 4303, appendix A2, in its array form of RFC 6479.

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
    /// A window that has seen nothing. Counters start at 1.
    pub(crate) const fn new() -> Self {
        Self { newest: 0, seen: [0; WORDS] }
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

    fn word(counter: u64) -> usize {
        (counter / 64 % WORDS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_older_than_the_window_is_refused() {
        let mut window = ReplayWindow::new();
        assert!(!window.record(0));
        assert!(window.record(5000));
        assert!(window.record(5000 - WINDOW + 1));
        assert!(!window.record(5000 - WINDOW));
        assert!(window.record(u64::MAX));
        assert!(!window.record(u64::MAX));
        assert!(window.record(u64::MAX - WINDOW + 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// Against a model that remembers every counter.
        #[test]
        fn agrees_with_a_set(counters in prop::collection::vec(1u64..6_000, 1..400)) {
            let (mut window, mut seen, mut newest) = (ReplayWindow::new(), BTreeSet::new(), 0);
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
