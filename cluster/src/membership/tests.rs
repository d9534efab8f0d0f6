//! The membership core by itself. How cores get on with each other is tested where there is a network: on the lean
//! event loop of the simulator.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use foca::{Member, State};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::core::{Core, Output};
use super::handle::{Handle, Known};
use crate::buckets::NameKey;
use crate::config::{Preset, Timings};
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

fn state(core: &Core, at: usize) -> Option<State> {
    core.member(NameKey::of(&format!("n{at}"))).map(|member| member.state())
}

fn sends(core: &mut Core) -> Vec<(Handle, Bytes)> {
    std::iter::from_fn(|| core.poll_send()).collect()
}

#[test]
fn what_is_no_message_or_not_from_its_sealer_is_refused() {
    let mut one = core(identity(0, 1), 1);
    let other = identity(1, 1);
    assert!(!one.handle_payload(STEP, other.node.boot, b""));
    assert!(!one.handle_payload(STEP, other.node.boot, &[0xff; 100]));
    let mut sender = core(other.clone(), 2);
    sender.handle_members(STEP, vec![Member::alive(identity(0, 1))]);
    sender.leave(STEP);
    let (_, payload) = sends(&mut sender).pop().expect("it says farewell");
    assert!(!one.handle_payload(STEP, Boot { generation: 9, nonce: 9 }, &payload));
    assert!(one.handle_payload(STEP, other.node.boot, &payload));
}

/// foca says nothing when a member is suspected or refutes, and nothing of what it was told in bulk.
#[test]
fn what_foca_knows_is_known_whatever_it_came_by() {
    let mut one = core(identity(0, 1), 1);
    let bulk: Known = (1..100).map(|at| Member::alive(identity(at, 1))).collect();
    one.handle_known(STEP, &bulk);
    assert_eq!(one.known().len(), 100);
    one.validate();
    one.handle_members(STEP, vec![Member::new(identity(1, 1), 3, State::Suspect), Member::down(identity(2, 1))]);
    assert_eq!((state(&one, 1), state(&one, 2)), (Some(State::Suspect), Some(State::Down)));
    one.handle_members(STEP, vec![Member::new(identity(1, 1), 4, State::Alive), Member::alive(identity(2, 2))]);
    assert_eq!((state(&one, 1), state(&one, 2)), (Some(State::Alive), Some(State::Alive)));
    one.validate();
    // It suspects those that do not answer, and declares them down: all of them are silent.
    for step in 1..60 {
        one.handle_timeout(STEP + Duration::from_millis(100) * step);
        sends(&mut one);
        one.validate();
    }
    assert!((1..100).any(|at| state(&one, at) == Some(State::Down)));
}

/// What is learned in bulk is known to the cluster already: gossiping it would fill every datagram for a minute.
#[test]
fn bulk_is_not_gossiped_and_news_is() {
    let longest = |others: usize| {
        let mut one = core(identity(0, 1), 1);
        one.handle_known(STEP, &(1..=others).map(|at| Member::alive(identity(at, 1))).collect());
        one.handle_timeout(STEP + Duration::from_millis(200));
        sends(&mut one).iter().map(|(_, payload)| payload.len()).max()
    };
    assert!(longest(20).expect("it gossips") > 200, "twenty members take more room than a header");
    assert_eq!(longest(500), None, "there is nothing to gossip");
}

/// foca keeps an older life of our own name as a member that is down. Nobody must take it for what we are.
#[test]
fn an_older_life_of_our_own_is_no_member() {
    let mut gossip = core(identity(1, 1), 2);
    gossip.handle_members(STEP, vec![Member::alive(identity(0, 1))]);
    let mut again = core(identity(0, 2), 1);
    // The other believes the life before to be there, and says so when it hears of the new one.
    gossip.handle_members(STEP, vec![Member::new(identity(0, 1), 1, State::Suspect), Member::alive(identity(2, 1))]);
    gossip.handle_timeout(STEP + Duration::from_millis(200));
    let own = again.identity().clone();
    for (_, payload) in sends(&mut gossip) {
        again.handle_payload(STEP, identity(1, 1).node.boot, &payload);
    }
    again.handle_members(STEP, vec![Member::new(identity(0, 1), 5, State::Down)]);
    again.validate();
    assert_eq!(again.known().iter().filter(|member| member.id().node.name == own.node.name).count(), 1);
    assert_eq!(state(&again, 0), Some(State::Alive));
}

#[test]
fn a_newer_boot_of_our_own_ends_us() {
    let mut one = core(identity(0, 1), 1);
    one.handle_members(STEP, vec![Member::alive(identity(1, 1)), Member::alive(identity(0, 2))]);
    let ended = std::iter::from_fn(|| one.poll_output())
        .any(|output| matches!(output, Output::Superseded(by) if by == identity(0, 2).node.boot));
    assert!(ended);
    one.validate();
}

#[test]
fn rounds_of_gossip_with_nothing_to_say_pass_in_silence_and_keep_their_time() {
    let mut one = core(identity(0, 1), 1);
    one.handle_known(Duration::ZERO, &(1..=30).map(|at| Member::alive(identity(at, 1))).collect());
    let interval = Timings::preset(Preset::Lan).gossip_interval;
    assert!(one.poll_timeout().is_some_and(|due| due > interval), "nobody is woken for silence");
    // News comes between two rounds and goes out with the next.
    let news = interval * 2 + interval / 3;
    one.handle_members(news, vec![Member::new(identity(1, 1), 1, State::Alive)]);
    assert_eq!(one.poll_timeout(), Some(interval * 3));
    one.handle_timeout(interval * 3);
    assert_eq!(sends(&mut one).len(), 3);
    assert_eq!(one.poll_timeout(), Some(interval * 3 + Duration::from_millis(50)), "the first probe is next");
}
