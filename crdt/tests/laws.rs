//! The laws of every type: joining is a join, a delta says what the full state says, parts are irreducible, bytes come
//! back.
//!
//! Histories deliver single deltas late, twice, out of order and in groups, full states, and what is new since a
//! context. What a type means is checked elsewhere; here nothing is known about it.

mod subjects;

use std::collections::BTreeSet;

use polity_crdt::{
    AwSet, BoundedCounter, Delta, DwFlag, EwFlag, Fate, GCounter, GSet, LwwRegister, MvRegister, OrMap, OwnerMap,
    PnCounter, Replica, ReplicaId, RwSet, Timestamp,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use subjects::world::{Step, World, Writes, cases, for_histories, places};
use subjects::{REPLICAS, Subject};

const NOBODY: ReplicaId = ReplicaId(99);

/// Choices that follow from the history, so that a failing one fails again (xorshift).
struct Draws(u32);

impl Draws {
    fn of(steps: &[Step]) -> Self {
        Self(steps.iter().fold(7, |hash: u32, step| (hash ^ step.dice).wrapping_mul(0x9e37_79b1)) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

fn check<S: Subject>() {
    for_histories(cases(10_000), 20, |steps| {
        let world = World::<S>::of(steps, &REPLICAS, Writes::Always);
        let mut draws = Draws::of(steps);
        join_is_a_join(&world, &mut draws)?;
        any_delivery_gives_the_same(&world, &mut draws)?;
        loss_is_made_good(&world, &mut draws)?;
        parts_are_irreducible(&world, &mut draws)?;
        changes_are_told(&world, &mut draws)?;
        for delta in &world.sent {
            comes_back(delta)?;
        }
        Ok(())
    });
}

/// A replica that has joined these.
fn joined<S: Subject>(deltas: impl IntoIterator<Item = S::Delta>) -> Replica<S> {
    let mut replica = Replica::<S>::new(NOBODY);
    deltas.into_iter().for_each(|delta| {
        replica.merge(delta);
    });
    replica
}

fn join<D: Delta>(left: &D, right: &D) -> D {
    let mut both = left.clone();
    both.join(right.clone());
    both
}

/// Commutative, associative, idempotent and absorptive, for states and for deltas; live dots are in the context.
fn join_is_a_join<S: Subject>(world: &World<S>, draws: &mut Draws) -> TestCaseResult {
    let fulls: Vec<S::Delta> = world.replicas.iter().map(Replica::full).collect();
    let all = world.joined();
    prop_assert_eq!(all.context(), &world.heard_of());
    let [a, b, c, d] = &fulls[..] else { unreachable!("there are four replicas") };
    for order in [[a, b, c, d], [d, c, b, a], [c, a, d, b], [b, d, a, c]] {
        prop_assert_eq!(&joined::<S>(order.map(Clone::clone)), &all);
    }
    for (replica, full) in world.replicas.iter().zip(&fulls) {
        prop_assert_eq!(&joined::<S>([full.clone()]), replica, "a full state is all there is");
        prop_assert!(replica.context().covers(&replica.live()));
        prop_assert_eq!(full.live(), replica.live());
        prop_assert_eq!(&full.context(), replica.context());
        comes_back(full)?;
        let (mut again, mut all) = (replica.clone(), all.clone());
        prop_assert!(!again.merge(full.clone()) && !all.merge(full.clone()), "what is known is nothing new");
        prop_assert_eq!(&again, replica);
    }
    let mut any = || {
        let at = draws.below(world.sent.len() + fulls.len());
        world.sent.get(at).map_or_else(|| fulls[at - world.sent.len()].clone(), Clone::clone)
    };
    let (x, y, z) = (any(), any(), any());
    prop_assert_eq!(join(&x, &y), join(&y, &x));
    prop_assert_eq!(join(&join(&x, &y), &z), join(&x, &join(&y, &z)));
    prop_assert_eq!(&join(&x, &x), &x);
    prop_assert_eq!(&join(&join(&x, &y), &y), &join(&x, &y));
    comes_back(&join(&join(&x, &y), &z))?;
    // Joining first and applying then is the same as applying one after the other.
    let (mut at_once, mut singly) = (world.replicas[0].clone(), world.replicas[0].clone());
    at_once.merge(join(&x, &y));
    singly.merge(y);
    singly.merge(x);
    prop_assert_eq!(at_once, singly);
    Ok(())
}

/// All deltas shuffled, some twice, and in groups: the same as all full states.
fn any_delivery_gives_the_same<S: Subject>(world: &World<S>, draws: &mut Draws) -> TestCaseResult {
    let mut sent: Vec<&S::Delta> = world.sent.iter().collect();
    sent.extend_from_within(..sent.len() / 2);
    draws.shuffle(&mut sent);
    let mut fresh = Replica::<S>::new(NOBODY);
    let size = 1 + draws.below(4);
    for group in sent.chunks(size) {
        let group = group.iter().fold(S::Delta::default(), |all, delta| join(&all, delta));
        fresh.merge(group);
    }
    prop_assert_eq!(fresh, world.joined());
    Ok(())
}

/// A replica that lost some deltas takes the full state, or what is new since its context and what it did not hear to
/// be dead.
fn loss_is_made_good<S: Subject>(world: &World<S>, draws: &mut Draws) -> TestCaseResult {
    let all = world.joined();
    let kept = world.sent.iter().filter(|_| draws.below(2) == 0).cloned();
    let lossy = joined::<S>(kept);
    let mut by_full = lossy.clone();
    by_full.merge(all.full());
    prop_assert_eq!(&by_full, &all);
    let news = all.since(lossy.context());
    prop_assert_eq!(news.context(), all.context().difference(lossy.context()));
    comes_back(&news)?;
    let mut by_news = lossy.clone();
    by_news.merge(news);
    prop_assert_eq!(by_news.context(), all.context());
    let missed = lossy.live().difference(&all.live());
    let mut rest = S::Delta::default();
    rest.kill(&missed);
    by_news.merge(rest);
    prop_assert_eq!(&by_news, &all);
    // The same, asking for what became of the dots that are live there.
    let mut by_pick = lossy.clone();
    let live = places(&*lossy).into_iter().map(|(key, dot)| (key, dot.into())).collect();
    let picked = all.pick(live);
    prop_assert_eq!(picked.context(), lossy.live(), "it claims what it was asked for and nothing else");
    comes_back(&picked)?;
    by_pick.merge(picked);
    by_pick.merge(all.since(lossy.context()));
    prop_assert_eq!(&by_pick, &all);
    Ok(())
}

/// What a delta is divided into joins back, and nothing of it can be left out.
fn parts_are_irreducible<S: Subject>(world: &World<S>, draws: &mut Draws) -> TestCaseResult {
    let full = world.replicas[draws.below(4)].full();
    let one = world.sent.first().cloned();
    for whole in one.into_iter().chain([full]) {
        let mut parts = whole.clone().decompose();
        prop_assert_eq!(parts.len() as u64, whole.context().dot_count());
        draws.shuffle(&mut parts);
        let back = parts.iter().fold(S::Delta::default(), |all, part| join(&all, part));
        prop_assert_eq!((back.live(), back.dead()), (whole.live(), whole.dead()));
        prop_assert_eq!(joined::<S>([back.clone()]), joined::<S>([whole.clone()]));
        for replica in &world.replicas {
            let (mut once, mut parted) = (replica.clone(), replica.clone());
            once.merge(whole.clone());
            parts.iter().for_each(|part| {
                parted.merge(part.clone());
            });
            prop_assert_eq!(once, parted);
        }
        for left_out in 0..parts.len() {
            let rest = parts.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, part)| part.clone());
            prop_assert_ne!(joined::<S>(rest), joined::<S>([whole.clone()]));
            comes_back(&parts[left_out])?;
        }
    }
    Ok(())
}

/// Whoever is told what came and went knows what is live.
fn changes_are_told<S: Subject>(world: &World<S>, draws: &mut Draws) -> TestCaseResult {
    let mut replica = world.replicas[draws.below(4)].clone();
    let mut live: BTreeSet<_> = places(&*replica).into_iter().collect();
    let mut sent: Vec<S::Delta> = world.sent.clone();
    sent.push(world.joined().full());
    draws.shuffle(&mut sent);
    for delta in sent {
        let mut told = Vec::new();
        replica.merge_with(delta, &mut |key, dot, fate| told.push(((key.clone(), dot), fate)));
        for (place, fate) in told {
            let news = match fate {
                Fate::Came => live.insert(place),
                Fate::Went => live.remove(&place),
            };
            prop_assert!(news, "told twice");
        }
        prop_assert_eq!(&places(&*replica).into_iter().collect::<BTreeSet<_>>(), &live);
    }
    Ok(())
}

fn comes_back<D: Delta>(delta: &D) -> TestCaseResult {
    let bytes = delta.encode();
    prop_assert_eq!(&D::decode(&bytes).expect("an encoding"), delta);
    Ok(())
}

/// C3: applying a write's delta is joining the full state that it led to, for all who know what it stood on.
fn delta_equals_full<S: Subject>() {
    for_histories(cases(10_000), 16, |steps| {
        let mut world = World::<S>::new(&REPLICAS, Writes::Always);
        for step in steps {
            let before = world.replicas.clone();
            let sent = world.sent.len();
            world.take(step);
            let Some(delta) = world.sent.get(sent) else { continue };
            let at =
                (0..before.len()).find(|at| world.replicas[*at] != before[*at]).expect("a delta changes something");
            for other in &before {
                let (mut by_delta, mut by_full) = (other.clone(), other.clone());
                by_delta.merge(before[at].full());
                by_delta.merge(delta.clone());
                by_full.merge(world.replicas[at].full());
                prop_assert_eq!(by_delta, by_full);
            }
        }
        Ok(())
    });
}

macro_rules! laws {
    ($($name:ident: $type:ty;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn joins_parts_and_bytes() {
                check::<$type>();
            }

            #[test]
            fn delta_equals_full() {
                super::delta_equals_full::<$type>();
            }
        })*
    };
}

laws! {
    ew_flag: EwFlag;
    dw_flag: DwFlag;
    lww_register: LwwRegister<u8>;
    mv_register: MvRegister<u8>;
    g_counter: GCounter;
    pn_counter: PnCounter;
    bounded_counter: BoundedCounter;
    g_set: GSet<u8>;
    aw_set: AwSet<u8>;
    rw_set: RwSet<u8>;
    owner_map: OwnerMap<u8, u8>;
    map_of_flags: OrMap<u8, DwFlag>;
    map_of_registers: OrMap<u8, LwwRegister<u8>>;
    map_of_siblings: OrMap<u8, MvRegister<u8>>;
    map_of_counters: OrMap<u8, PnCounter>;
    map_of_rw_sets: OrMap<u8, RwSet<u8>>;
    map_of_maps: OrMap<u8, OrMap<u8, AwSet<u8>>>;
}

/// The values that were written at a time and that no write has replaced.
fn written_at(register: &Replica<LwwRegister<u8>>, at: Timestamp) -> BTreeSet<u8> {
    let parts = register.full().decompose().into_iter().map(|part| joined::<LwwRegister<u8>>([part]));
    parts.filter_map(|part| part.entry().filter(|(other, _)| *other == at).map(|(_, value)| *value)).collect()
}

/// Which ids the replicas have decides nothing, save among writes of one timestamp.
#[test]
fn last_writer_wins_whoever_it_is() {
    for_histories(cases(10_000), 16, |steps| {
        let one = World::<LwwRegister<u8>>::of(steps, &REPLICAS, Writes::WhenComplete).joined();
        for ids in [[0, 1, 2, 3], [3, 2, 1, 0], [7, 5, u64::MAX, 6]] {
            let other = World::<LwwRegister<u8>>::of(steps, &ids.map(ReplicaId), Writes::WhenComplete).joined();
            let (Some((at, value)), Some((other_at, other_value))) = (one.entry(), other.entry()) else {
                prop_assert_eq!(one.entry(), other.entry());
                continue;
            };
            let tied = written_at(&one, at);
            prop_assert_eq!((at, &tied), (other_at, &written_at(&other, at)));
            prop_assert!(tied.contains(value) && tied.contains(other_value));
            prop_assert!(tied.len() > 1 || value == other_value);
        }
        Ok(())
    });
}
