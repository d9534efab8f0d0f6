//! Promise M2, on the lean event loop: slow members do not make others take healthy ones for dead, compared with plain SWIM
//! at the same settings, which is `foca`. And what accuracy must not cost: the bounds at a hundred members.
//!
//! The whole table is printed by the example `compare`.

#[path = "../examples/compare/arena.rs"]
#[allow(dead_code, reason = "the comparison uses all of it")]
mod arena;
#[path = "../examples/compare/peers/mod.rs"]
#[allow(dead_code, reason = "the comparison uses all of it")]
mod peers;
#[path = "../examples/compare/trouble.rs"]
#[allow(dead_code, reason = "the comparison uses all of it")]
mod trouble;

use std::time::Duration;

use arena::Arena;
use peers::Library;
use peers::ours::Ours;
use peers::swim::Swim;
use trouble::{Load, Trouble, troubled};

/// How many members there are.
const NODES: usize = 100;
/// The trouble that is judged: members whose messages stand still by turns, and members that handle them late.
const TROUBLES: [Trouble; 3] = [Trouble::Blocked(4), Trouble::Blocked(16), Trouble::Late(16)];
/// How long each lasts.
const TIME: Duration = Duration::from_secs(45);

fn pooled<L: Library>(library: L) -> Load {
    let mut pooled = Load::default();
    for (seed, trouble) in (1..).zip(TROUBLES) {
        pooled.pool(&troubled(library, NODES, trouble, TIME, seed));
    }
    pooled
}

/// Promise M2: what it allows of plain SWIM's mistakes, and of its messages.
fn is_accurate(ours: &Load, swim: &Load) -> bool {
    let enough = swim.mistakes.seen >= 1_000;
    assert!(enough, "plain SWIM makes too few mistakes to compare with: {swim:?}");
    ours.mistakes.seen * 50 <= swim.mistakes.seen
        && ours.traffic.datagrams as f64 <= swim.traffic.datagrams as f64 * 1.15
}

#[test]
fn slow_members_cause_a_fiftieth_of_the_mistakes_of_swim() {
    let (ours, swim) = (pooled(Ours), pooled(Swim::OurTimes));
    println!("ours {ours:?}\nSWIM {swim:?}");
    assert!(is_accurate(&ours, &swim), "ours {ours:?}\nSWIM {swim:?}");
}

/// Without local health we are no better than SWIM, and the comparison notices.
#[test]
fn without_local_health_the_comparison_fails() {
    use polity::cluster::mutation::{self, Mutation};
    let swim = pooled(Swim::OurTimes);
    mutation::set(Some(Mutation::NoLocalHealth));
    let ours = pooled(Ours);
    mutation::set(None);
    println!("ours {ours:?}\nSWIM {swim:?}");
    assert!(ours.mistakes.seen * 50 > swim.mistakes.seen, "ours {ours:?}\nSWIM {swim:?}");
}

#[test]
fn at_twenty_percent_loss_none_of_a_hundred_rejoins() {
    let load = troubled(Ours, NODES, Trouble::Lossy(0.2), Duration::from_secs(60), 2);
    assert_eq!((load.mistakes.rejoins, load.mistakes.seen), (0, 0), "{:?}", load.mistakes);
    // Plain SWIM shows that the trouble is one.
    let swim = troubled(Swim::OurTimes, NODES, Trouble::Lossy(0.2), Duration::from_secs(60), 2);
    assert!(swim.mistakes.seen > 0, "{:?}", swim.mistakes);
}

/// A hundred that start at once agree within 2 s, and a kill is known to all of them within 8 s.
#[test]
fn a_hundred_agree_and_notice_in_time() {
    for seed in 0..3 {
        let formation = Arena::new(Ours, NODES, seed, false).run_until_agreed(Duration::from_secs(60));
        assert!(formation.is_some_and(|took| took <= Duration::from_secs(2)), "seed {seed}: {formation:?}");
        let (mut arena, _) = Arena::formed(Ours, NODES, seed, Duration::from_secs(120));
        arena.run(Duration::from_secs(5));
        for victim in [40, 70] {
            let seen = arena.kill(victim, Duration::from_secs(60)).expect("all see it in the end");
            assert!(seen.last <= Duration::from_secs(8), "seed {seed}: {seen:?}");
        }
        assert_eq!(arena.take_mistakes().seen, 0, "seed {seed}");
    }
}
