//! The `crdts` crate as a second oracle: the same histories in both give the same reads.

use std::collections::BTreeSet;

use crdts::{CmRDT, CvRDT, MVReg, Orswot, PNCounter};
use polity_crdt::{AwSet, Crdt, GCounter, MvRegister, OrMap, PnCounter, Replica, ReplicaId};
use proptest::prelude::*;

const REPLICAS: usize = 3;
const CASES: u32 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { at: usize, what: u8 },
    Merge { to: usize, from: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..REPLICAS, any::<u8>()).prop_map(|(at, what)| Step::Write { at, what }),
        2 => (0..REPLICAS, 0..REPLICAS).prop_map(|(to, from)| Step::Merge { to, from }),
    ];
    prop::collection::vec(step, 1..32)
}

/// Both implementations side by side, one of each at each replica.
struct Pair<T: Crdt, U> {
    ours: Vec<Replica<T>>,
    theirs: Vec<U>,
}

impl<T: Crdt, U: CvRDT + Clone + Default> Pair<T, U> {
    fn new() -> Self {
        Self {
            ours: (0..REPLICAS as u64).map(|id| Replica::new(ReplicaId(id))).collect(),
            theirs: vec![U::default(); REPLICAS],
        }
    }

    fn merge(&mut self, to: usize, from: usize) {
        let full = self.ours[from].full();
        self.ours[to].merge(full);
        let theirs = self.theirs[from].clone();
        self.theirs[to].merge(theirs);
    }

    /// Takes the steps and compares the reads of all replicas after each.
    fn run<R: PartialEq + std::fmt::Debug>(
        mut self,
        steps: &[Step],
        write: impl Fn(&mut Replica<T>, &mut U, u64, u8),
        reads: (impl Fn(&T) -> R, impl Fn(&U) -> R),
    ) -> Result<(), TestCaseError> {
        for step in steps {
            match *step {
                Step::Write { at, what } => write(&mut self.ours[at], &mut self.theirs[at], at as u64, what),
                Step::Merge { to, from } => self.merge(to, from),
            }
            for (ours, theirs) in self.ours.iter().zip(&self.theirs) {
                prop_assert_eq!((reads.0)(ours), (reads.1)(theirs));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn aw_set_is_orswot(steps in steps()) {
        let write = |ours: &mut Replica<AwSet<u8>>, theirs: &mut Orswot<u8, u64>, actor: u64, what: u8| {
            let element = what >> 1 & 3;
            if what & 1 == 0 {
                ours.update(|set, w| set.add(w, element)).expect("there is room");
                let add = theirs.add(element, theirs.read_ctx().derive_add_ctx(actor));
                theirs.apply(add);
            } else {
                ours.update(|set, _| Ok(set.remove(&element))).expect("nothing is refused");
                let remove = theirs.rm(element, theirs.contains(&element).derive_rm_ctx());
                theirs.apply(remove);
            }
        };
        let theirs = |set: &Orswot<u8, u64>| set.read().val.into_iter().collect::<BTreeSet<u8>>();
        Pair::new().run(&steps, write, (|set: &AwSet<u8>| set.iter().copied().collect(), theirs))?;
    }

    #[test]
    fn g_counter_is_gcounter(steps in steps()) {
        let write = |ours: &mut Replica<GCounter>, theirs: &mut crdts::GCounter<u64>, actor: u64, what: u8| {
            ours.update(|counter, w| counter.add(w, what.into())).expect("there is room");
            let add = theirs.inc_many(actor, what.into());
            theirs.apply(add);
        };
        let theirs = |counter: &crdts::GCounter<u64>| counter.read().to_string();
        Pair::new().run(&steps, write, (|counter: &GCounter| counter.value().to_string(), theirs))?;
    }

    #[test]
    fn pn_counter_is_pncounter(steps in steps()) {
        let write = |ours: &mut Replica<PnCounter>, theirs: &mut PNCounter<u64>, actor: u64, what: u8| {
            let by = i64::from(what as i8);
            ours.update(|counter, w| counter.add(w, by)).expect("there is room");
            let steps = by.unsigned_abs();
            let add = if by > 0 { theirs.inc_many(actor, steps) } else { theirs.dec_many(actor, steps) };
            theirs.apply(add);
        };
        let theirs = |counter: &PNCounter<u64>| counter.read().to_string();
        Pair::new().run(&steps, write, (|counter: &PnCounter| counter.value().to_string(), theirs))?;
    }
}

type Ours = OrMap<u8, MvRegister<u8>>;
type Theirs = crdts::Map<u8, MVReg<u8, u64>, u64>;

/// Writes in both.
fn set(pair: &mut Pair<Ours, Theirs>, at: usize, key: u8, value: u8) {
    let written = pair.ours[at].update(|map, w| map.update(w, key, |register, w| register.set(w, value)));
    written.expect("there is room");
    let theirs = &mut pair.theirs[at];
    let write =
        theirs.update(key, theirs.read_ctx().derive_add_ctx(at as u64), |register, ctx| register.write(value, ctx));
    theirs.apply(write);
}

/// A history in which their map of registers agrees on a value that was overwritten: the reason why convergence is not
/// taken for correctness here.
#[test]
fn a_map_of_registers_reads_what_was_written_last() {
    let (a, b, c) = (0, 1, 2);
    let mut pair = Pair::<Ours, Theirs>::new();
    set(&mut pair, a, 0, 1);
    set(&mut pair, b, 1, 2);
    pair.merge(a, b);
    set(&mut pair, a, 0, 3);
    pair.merge(c, a);
    set(&mut pair, a, 0, 4);
    for _ in 0..2 {
        for (to, from) in [(a, b), (b, c), (c, a), (a, c), (b, a), (c, b)] {
            pair.merge(to, from);
        }
    }
    for replica in [a, b, c] {
        let ours: Vec<u8> = pair.ours[replica].get(&0).expect("the key is there").values().copied().collect();
        assert_eq!(ours, [4], "the only write that no other has seen");
        let register = pair.theirs[replica].get(&0).val.expect("the key is there");
        let theirs: BTreeSet<u8> = register.read().val.into_iter().collect();
        assert_eq!(theirs, BTreeSet::from([3, 4]), "they agree, and keep a value that was overwritten");
    }
}
