//! How long a suspect has to refute: the local health aware suspicion of Lifeguard (Dadgar, Phillips, Currey 2018, section
//! IV-B).
//!
//! One accuser may be the one that is ill, so a suspicion begins with a long time and each further member that accuses
//! independently shortens it. `K` of them make it the shortest:
//!
//! `timeout = max - (max - min) · log(C + 1) / log(K + 1)`, with `C` the accusers after the first.
//!
//! `min` grows with the logarithm of the cluster, as news takes that much longer to reach everyone (SWIM, section 4.2).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::buckets::NameKey;
use crate::mutation::{Mutation, mutated};

/// How many accusers after the first give a suspicion its shortest time (the paper's K).
pub(super) const CONFIRMATIONS: usize = 3;
/// How many times the shortest suspicion the longest is (the paper's β).
const LONGEST: u32 = 6;

/// How many accusers after the first are needed: that so many accuse as are more than half of those who could, and are not
/// suspected themselves (`able`, ourselves among them), is enough in a small cluster.
pub(super) fn needed(able: usize) -> usize {
    if mutated(Mutation::NoLocalHealth) { 0 } else { CONFIRMATIONS.min(able / 2) }
}

/// One member under suspicion, at one incarnation.
#[derive(Debug)]
pub(super) struct Suspicion {
    began: Duration,
    accusers: BTreeSet<NameKey>,
    shortest: Duration,
}

impl Suspicion {
    /// In a cluster of so many members; `suspicion` is the preset's.
    pub(super) fn new(began: Duration, accuser: NameKey, members: usize, suspicion: Duration) -> Self {
        // Up to a hundred members the preset's time holds.
        let scale = ((members.max(1) as f64).log10() / 2.0).max(1.0);
        Self { began, accusers: BTreeSet::from([accuser]), shortest: suspicion.mul_f64(scale) }
    }

    /// Another member accuses. Returns whether that is new and was still wanted.
    pub(super) fn confirm(&mut self, accuser: NameKey, needed: usize) -> bool {
        !self.is_confirmed(needed) && self.accusers.insert(accuser)
    }

    /// Whether as many accuse as are [`needed`], so that no one's illness explains it.
    pub(super) fn is_confirmed(&self, needed: usize) -> bool {
        self.accusers.len() > needed
    }

    /// Whether this member accuses.
    pub(super) fn has(&self, accuser: NameKey) -> bool {
        self.accusers.contains(&accuser)
    }

    /// When the suspect is declared down.
    pub(super) fn deadline(&self, needed: usize) -> Duration {
        if self.is_confirmed(needed) {
            return self.began + self.shortest;
        }
        let confirmed = (self.accusers.len() as f64).ln() / ((needed + 1) as f64).ln();
        let longest = self.shortest * LONGEST;
        self.began + longest - (longest - self.shortest).mul_f64(confirmed)
    }

    /// The suspect could not refute until now.
    pub(super) fn begin_anew(&mut self, now: Duration) {
        self.began = now;
    }

    /// The process stood still for this long: the suspect had that much less time.
    pub(super) fn extend(&mut self, by: Duration) {
        self.began += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);

    fn accuser(at: usize) -> NameKey {
        NameKey::of(&format!("n{at}"))
    }

    #[test]
    fn it_begins_long_and_independent_accusers_shorten_it() {
        let (mut suspicion, needed) = (Suspicion::new(Duration::ZERO, accuser(0), 10, MIN), needed(9));
        assert_eq!(suspicion.deadline(needed), MIN * LONGEST);
        assert!(!suspicion.confirm(accuser(0), needed), "nobody counts twice");
        let mut before = suspicion.deadline(needed);
        for at in 1..=CONFIRMATIONS {
            assert!(suspicion.confirm(accuser(at), needed));
            assert!(suspicion.deadline(needed) < before);
            before = suspicion.deadline(needed);
        }
        assert_eq!(before, MIN);
        assert!(!suspicion.confirm(accuser(9), needed), "more are not needed");
    }

    #[test]
    fn where_there_is_nobody_to_confirm_one_accuser_is_enough() {
        assert_eq!([1, 2, 3, 4, 5, 6, 100].map(needed), [0, 1, 1, 2, 2, 3, 3]);
        let suspicion = Suspicion::new(MIN, accuser(0), 3, MIN);
        assert_eq!(suspicion.deadline(needed(2)), MIN * 7);
        assert_eq!(suspicion.deadline(needed(1)), MIN * 2, "the other is suspected too");
    }

    #[test]
    fn it_grows_with_the_logarithm_of_the_cluster() {
        assert_eq!(Suspicion::new(Duration::ZERO, accuser(0), 1000, MIN).deadline(0), MIN.mul_f64(1.5));
    }
}
