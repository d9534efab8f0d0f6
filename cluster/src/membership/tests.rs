//! The membership core by itself. How cores get on with each other is tested where there is a network: on the lean
//! event loop of the simulator.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::core::{Core, Output};
use super::handle::Handle;
use super::member::{Member, State};
use crate::buckets::NameKey;
use crate::config::{Preset, Timings};
use crate::exchange::Told;
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::state::Table;

const STEP: Duration = Duration::from_millis(10);

fn identity(at: usize, generation: u64) -> Handle {
    let name = NodeName::new(&format!("n{at}")).expect("valid");
    let node = NodeId { name, boot: Boot { generation, nonce: at as u128 + 1 } };
    Identity { node, rejoin: 0, addr: ([127, 0, 0, 1], 1000 + at as u16).into() }.into()
}

fn core(identity: Handle, seed: u64) -> Core {
    let table = Arc::new(Mutex::new(Table::new(identity.node.clone())));
    Core::new(identity, &Timings::preset(Preset::Lan), StdRng::seed_from_u64(seed), table)
}

fn key(at: usize) -> NameKey {
    NameKey::of(&format!("n{at}"))
}

fn state(core: &Core, at: usize) -> Option<State> {
    core.member(key(at)).map(Member::state)
}

fn sends(core: &mut Core) -> Vec<(Handle, Bytes)> {
    std::iter::from_fn(|| core.poll_send()).collect()
}

/// Tells a core something of members, as the member of this number.
fn tell(core: &mut Core, now: Duration, from: usize, members: Vec<Member>) {
    let told = members.into_iter().map(|member| Told { member, down_secs: 0, left: false }).collect();
    core.handle_known(now, key(from), told);
}

fn alive(members: impl IntoIterator<Item = usize>) -> Vec<Member> {
    members.into_iter().map(|at| Member::alive(identity(at, 1))).collect()
}

fn suspect(at: usize, incarnation: u32) -> Member {
    Member::new(identity(at, 1), incarnation, State::Suspect)
}

/// Lets time pass in steps; what is sent is lost.
fn pass(core: &mut Core, from: Duration, time: Duration) -> Duration {
    let until = from + time;
    let mut now = from;
    while now < until {
        now = (now + STEP).min(until);
        core.handle_timeout(now);
        sends(core);
        core.validate();
    }
    now
}

#[test]
fn what_is_no_message_is_refused() {
    let mut one = core(identity(0, 1), 1);
    let other = identity(1, 1);
    assert!(!one.handle_payload(STEP, other.node.boot, b""));
    assert!(!one.handle_payload(STEP, other.node.boot, &[0xff; 100]));
    let mut sender = core(other.clone(), 2);
    sender.handle_met(STEP, identity(0, 1));
    sender.leave();
    let (_, payload) = sends(&mut sender).pop().expect("it says farewell");
    assert!(one.handle_payload(STEP, other.node.boot, &payload));
    assert_eq!(state(&one, 1), Some(State::Down), "its own word is final");
}

#[test]
fn what_is_told_is_known() {
    let mut one = core(identity(0, 1), 1);
    tell(&mut one, STEP, 1, alive(1..100));
    assert_eq!(one.known().len(), 100);
    one.validate();
    tell(&mut one, STEP, 3, vec![suspect(1, 3), Member::down(identity(200, 1))]);
    assert_eq!((state(&one, 1), state(&one, 200)), (Some(State::Suspect), Some(State::Down)));
    tell(&mut one, STEP, 3, vec![Member::new(identity(1, 1), 4, State::Alive), Member::alive(identity(2, 2))]);
    assert_eq!((state(&one, 1), state(&one, 2)), (Some(State::Alive), Some(State::Alive)));
    one.validate();
    // It suspects those that do not answer, and declares them down: all of them are silent. That may be its own fault, so
    // it takes its time.
    pass(&mut one, STEP, Duration::from_secs(30));
    assert!((1..100).all(|at| state(&one, at) != Some(State::Down)));
    pass(&mut one, Duration::from_secs(30), Duration::from_secs(60));
    assert!((1..100).any(|at| state(&one, at) == Some(State::Down)));
}

/// What is learned in bulk is known to the cluster already: gossiping it would fill every datagram for a minute.
#[test]
fn bulk_is_not_gossiped_and_news_is() {
    let mut longest = [20, 500].map(|others| {
        let mut one = core(identity(0, 1), 1);
        tell(&mut one, STEP, 1, alive(1..=others));
        one.handle_timeout(STEP + Duration::from_millis(200));
        sends(&mut one).iter().map(|(_, payload)| payload.len()).max().expect("it gossips that it is here")
    });
    longest.sort_unstable();
    assert!(longest[0] < 150 && longest[1] > 300, "{longest:?}: twenty members take more room than oneself");
}

/// Nobody must take an older life of ours for what we are.
#[test]
fn an_older_life_of_our_own_is_no_member() {
    let mut again = core(identity(0, 2), 1);
    tell(&mut again, STEP, 1, vec![Member::new(identity(0, 1), 5, State::Down), Member::alive(identity(0, 1))]);
    again.validate();
    assert_eq!(again.known().len(), 1);
    assert_eq!((state(&again, 0), again.identity().rejoin), (Some(State::Alive), 0));
}

#[test]
fn a_newer_boot_of_our_own_ends_us() {
    let mut one = core(identity(0, 1), 1);
    tell(&mut one, STEP, 1, vec![Member::alive(identity(1, 1)), Member::alive(identity(0, 2))]);
    let ended = std::iter::from_fn(|| one.poll_output())
        .any(|output| matches!(output, Output::Superseded(by) if by == identity(0, 2).node.boot));
    assert!(ended);
    one.validate();
}

#[test]
fn rounds_of_gossip_with_nothing_to_say_pass_in_silence_and_keep_their_time() {
    let mut one = core(identity(0, 1), 1);
    tell(&mut one, Duration::ZERO, 1, alive(1..=30));
    let interval = Timings::preset(Preset::Lan).gossip_interval;
    let mut now = Duration::ZERO;
    // It says that it is here until it has been said often enough.
    for _ in 0..10 {
        now += interval;
        one.handle_timeout(now);
    }
    sends(&mut one);
    // News comes between two rounds and goes out with the next.
    tell(&mut one, now + interval / 3, 1, vec![Member::new(identity(1, 1), 1, State::Alive)]);
    one.handle_timeout(now + interval);
    assert!(sends(&mut one).len() >= 3);
}

/// Lifeguard, section IV-B: one accuser may be ill itself; several are not.
#[test]
fn one_accuser_is_given_time_and_several_are_believed() {
    let down_after = |accusers: usize| {
        let mut one = core(identity(0, 1), 1);
        tell(&mut one, STEP, 1, alive(1..20));
        for at in 0..accusers {
            tell(&mut one, STEP, 10 + at, vec![Member::down(identity(1, 1))]);
        }
        assert_eq!(state(&one, 1), Some(State::Suspect), "a verdict of another is an accusation");
        let mut now = STEP;
        while state(&one, 1) == Some(State::Suspect) {
            now = pass(&mut one, now, STEP);
        }
        now
    };
    let suspicion = Timings::preset(Preset::Lan).suspicion;
    assert!(down_after(1) > suspicion * 2, "and it accuses itself once its probe has failed");
    assert!(down_after(4) <= suspicion + STEP * 2);
}

#[test]
fn a_verdict_that_enough_others_share_is_final() {
    let mut one = core(identity(0, 1), 1);
    tell(&mut one, STEP, 1, alive(1..20));
    for accuser in 2..=5 {
        tell(&mut one, STEP, accuser, vec![Member::down(identity(1, 1))]);
    }
    assert_eq!(state(&one, 1), Some(State::Suspect));
    tell(&mut one, STEP, 6, vec![Member::down(identity(1, 1))]);
    assert_eq!(state(&one, 1), Some(State::Down));
}

#[test]
fn a_suspicion_of_ourselves_is_refuted_to_whoever_accuses() {
    let (mut one, mut other) = (core(identity(0, 1), 1), core(identity(1, 1), 2));
    one.handle_met(STEP, identity(1, 1));
    other.handle_met(STEP, identity(0, 1));
    // The other has lost sight of us: it accuses, and says so to us first.
    let mut now = STEP;
    let accusation = loop {
        now += STEP;
        other.handle_timeout(now);
        let sent = sends(&mut other);
        if state(&other, 0) == Some(State::Suspect) {
            break sent.into_iter().find(|(to, _)| to.key() == key(0)).expect("the suspect hears first").1;
        }
    };
    one.handle_payload(now, identity(1, 1).node.boot, &accusation);
    let (_, refutation) = sends(&mut one).pop().expect("it answers");
    other.handle_payload(now, identity(0, 1).node.boot, &refutation);
    assert_eq!(state(&other, 0), Some(State::Alive));
    assert_eq!((one.stats(now).refuted_own, other.stats(now).suspicions_refuted), (1, 1));
    assert_eq!(one.identity().rejoin, 0);
}

#[test]
fn one_that_stood_still_gives_others_their_time_again() {
    let mut one = core(identity(0, 1), 1);
    tell(&mut one, STEP, 1, alive(1..3));
    let now = pass(&mut one, STEP, Duration::from_millis(600));
    let before = one.stats(now);
    assert!(before.probes > 0);
    // The process is stopped for a minute.
    let now = now + Duration::from_secs(60);
    one.handle_timeout(now);
    one.validate();
    assert!(one.known().iter().all(|member| member.is_up()), "nobody has died");
    assert_eq!(one.stats(now).stalls, 1);
}

#[test]
fn the_dead_are_forgotten_by_the_time_of_their_death() {
    let timings = Timings::preset(Preset::Lan);
    let (mut one, mut other) = (core(identity(0, 1), 1), core(identity(1, 1), 2));
    tell(&mut one, STEP, 5, vec![Member::down(identity(9, 1))]);
    let half = timings.forget_down_after / 2;
    let told = one.told(half, one.member(key(9)).expect("known"));
    assert_eq!(u64::from(told.down_secs), half.as_secs());
    other.handle_known(half, key(0), vec![told]);
    let soon = half + timings.forget_down_after / 2;
    other.handle_timeout(soon);
    assert_eq!(state(&other, 9), None, "it was told late and forgets no later");
    // Nobody is told of it again.
    let late = Told {
        member: Member::down(identity(9, 1)),
        down_secs: timings.forget_down_after.as_secs() as u32,
        left: false,
    };
    other.handle_known(soon, key(0), vec![late]);
    assert_eq!(state(&other, 9), None);
    other.validate();
}

#[test]
fn there_is_a_most_that_is_known_of_the_dead_and_of_all() {
    let mut one = core(identity(0, 1), 1);
    tell(&mut one, STEP, 1, (1..=5_000).map(|at| Member::down(identity(at, 1))).collect());
    one.validate();
    assert_eq!(one.known().len(), 4_096 + 1);
    tell(&mut one, STEP, 1, alive(10_000..30_000));
    one.validate();
    assert!(one.known().len() <= 16_384 + 1);
}
