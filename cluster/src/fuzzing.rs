//! What the fuzz targets and some tests give bytes to. **Unstable**, and no part of the interface.
//!
//! Each takes any bytes as something that came from outside, does with it what a node does, and checks what a node relies
//! on. What a peer that holds the secret says is no more trusted here than what a stranger does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::config::{Preset, Timings};
use crate::doorman::Doorman;
use crate::exchange::{PushPull, PushPullAnswer, Tell, TellAnswer};
use crate::hello::{self, Hello, HelloAnswer, HelloPolicy as _, MAX_HELLO_BYTES};
use crate::identity::{Boot, Identity, NodeId, NodeName};
use crate::membership::agent::{Agent, Output};
use crate::membership::core::Core;
use crate::membership::handle::Handle;
use crate::secure::Secret;
use crate::secure::cookie::{Reception, Taken};
use crate::secure::envelope::{Kind, MAX_DATAGRAM_BYTES, OVERHEAD_BYTES, Opener, Sealer};
use crate::secure::ring::Ring;
use crate::state::Table;
use crate::version::Speaks;

const BOOT: Boot = Boot { generation: 2, nonce: 3 };

fn identity(name: &str, port: u16) -> Identity {
    let node = NodeId { name: NodeName::new(name).expect("a valid name"), boot: BOOT };
    Identity { node, rejoin: 0, addr: SocketAddr::from(([127, 0, 0, 1], port)) }
}

/// A node that has met two others.
struct Node {
    agent: Agent,
    now: Duration,
    /// Whose errands are under way.
    exchanges: Vec<Handle>,
    tells: Vec<Handle>,
}

impl Node {
    fn new() -> Self {
        let own = identity("n1", 7001);
        let timings = Timings::preset(Preset::Lan);
        let table = Arc::new(Mutex::new(Table::new(own.node.clone())));
        let core = Core::new(own, &timings, StdRng::seed_from_u64(1), table.clone());
        let greeted = vec![identity("n2", 7002), identity("n3", 7003)];
        let agent = Agent::new((core, table, timings, StdRng::seed_from_u64(2)), greeted, BTreeSet::new());
        let mut node = Self { agent, now: Duration::ZERO, exchanges: Vec::new(), tells: Vec::new() };
        node.carry_out();
        node
    }

    /// Takes what is to be done, and checks that it is within the limits.
    fn carry_out(&mut self) {
        // A datagram is answered with some, and never with many.
        let mut sent = 0;
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Send(_, payload) => {
                    assert!(payload.len() + OVERHEAD_BYTES < MAX_DATAGRAM_BYTES, "too long for a datagram");
                    sent += 1;
                    assert!(sent < 1_000, "there is no end to what is sent");
                }
                Output::PushPull { with, .. } => self.exchanges.push(with),
                Output::Tell { to, .. } => self.tells.push(to),
                Output::Greet { .. } => self.agent.handle_failed(None),
                Output::Farewell { .. } => self.agent.handle_farewell(),
                Output::Disconnect(..) | Output::Rejoined(_) | Output::Superseded(_) | Output::Left => {}
            }
        }
        self.agent.validate();
    }

    /// Lets time go on, by more than it takes to probe and to suspect.
    fn live(&mut self) {
        for _ in 0..8 {
            let due = self.agent.poll_timeout().unwrap_or_default();
            self.now = self.now.max(due) + Duration::from_millis(10);
            self.agent.handle_timeout(self.now);
            self.carry_out();
        }
        for name in self.agent.take_changed() {
            let _ = self.agent.member(&name);
        }
    }
}

/// Cuts bytes into pieces: each begins with its length.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first()?;
        // Lengths go by four, so that the longest fills most of a datagram.
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length) * 4));
        bytes = rest;
        Some(piece)
    })
}

/// Payloads of gossip, one after the other, as sealed by a member.
pub fn gossip(bytes: &[u8]) {
    let mut node = Node::new();
    for payload in pieces(bytes) {
        node.agent.handle_payload(node.now, BOOT, payload);
        node.carry_out();
    }
    node.live();
}

/// A hello, and the answer to one.
///
/// # Panics
/// If what was read is not written and read as the same.
pub fn hello(bytes: &[u8]) {
    let own = identity("n1", 7001);
    if let Ok(hello) = hello::decode::<Hello>(bytes) {
        let again = hello::encode(&hello).expect("what was read can be written");
        assert_eq!(hello::decode::<Hello>(&again).as_ref(), Ok(&hello));
        let settings = BTreeMap::from([("kv.shards".to_owned(), "256".to_owned())]);
        let ring = Ring::new(Secret::new([1; 32]).expect("long enough"), []).expect("one key");
        let (_keeper, rings) = watch::channel(Arc::new(ring));
        let cluster = ("shop".to_owned(), settings);
        let doorman = Doorman::new(cluster, own.node.name.clone(), own.addr, Speaks::CURRENT, rings);
        // Before it has a boot, and after.
        for _ in 0..2 {
            let answer = doorman.admit(&hello, own.addr);
            let encoded = hello::encode(&answer).expect("every hello has an answer");
            assert!(encoded.len() <= MAX_HELLO_BYTES);
            assert_eq!(hello::decode::<HelloAnswer>(&encoded).as_ref(), Ok(&answer), "the answer can be read");
            doorman.set_own(own.clone());
        }
    }
    if let Ok(answer) = hello::decode::<HelloAnswer>(bytes) {
        let again = hello::encode(&answer).expect("what was read can be written");
        assert_eq!(hello::decode::<HelloAnswer>(&again).as_ref(), Ok(&answer));
        if let HelloAnswer::Refused(refusal) = answer {
            let _ = refusal.to_string();
        }
    }
}

/// The messages that bring all of membership and node state, one after the other: the first byte of each tells which.
pub fn node_state(bytes: &[u8]) {
    let mut node = Node::new();
    for piece in pieces(bytes) {
        let Some((which, message)) = piece.split_first() else { continue };
        let now = node.now;
        match which % 4 {
            0 => {
                if let Ok(theirs) = postcard::from_bytes::<PushPull>(message) {
                    let answer = node.agent.handle_push_pull(now, &theirs);
                    assert!(answer.is_some_and(|answer| postcard::to_allocvec(&answer).is_ok()));
                }
            }
            1 => {
                if let Ok(answer) = postcard::from_bytes::<PushPullAnswer>(message)
                    && let Some(from) = node.exchanges.pop()
                {
                    node.agent.handle_answer(now, &from, answer);
                }
            }
            2 => {
                if let Ok(tell) = postcard::from_bytes::<Tell>(message) {
                    let from = NodeName::new("n2").expect("valid");
                    let _ = node.agent.handle_tell(now, &from, tell);
                }
            }
            _ => {
                if let Ok(answer) = postcard::from_bytes::<TellAnswer>(message)
                    && let Some(from) = node.tells.pop()
                {
                    node.agent.handle_told(now, &from, answer);
                }
            }
        }
        node.carry_out();
    }
    node.live();
}

/// Datagrams: as they come from a stranger, and what a holder of the secret may have sealed, of any kind.
///
/// # Panics
/// If a stranger's is taken, an answer is longer than what it answers, or a message is released that was not sent.
pub fn envelope(bytes: &[u8]) {
    let ring = Ring::new(Secret::new([1; 32]).expect("long enough"), []).expect("one key");
    let boot = |nonce| Boot { generation: 1, nonce };
    let mut reception = Reception::new(Opener::new(&ring, "shop", boot(1)), StdRng::seed_from_u64(1));
    let ours = Sealer::new(&ring, "shop", boot(1));
    let theirs = [Sealer::new(&ring, "shop", boot(2)), Sealer::new(&ring, "shop", boot(3))];
    let mut now = Duration::ZERO;
    let mut said = Vec::new();
    for piece in pieces(bytes) {
        let Some((what, body)) = piece.split_first() else { continue };
        let from = SocketAddr::from(([127, 0, 0, 1], u16::from(what >> 6)));
        assert!(reception.take(now, from, &mut body.to_vec(), &ours).is_err(), "a stranger's datagram was taken");
        let kind = [Kind::Gossip, Kind::Challenge, Kind::Echo][usize::from(what % 3)];
        let mut datagram = theirs[usize::from(what >> 5 & 1)].seal_kind(boot(1), kind, body, 0);
        let size = datagram.len();
        said.push(body.to_vec());
        match reception.take(now, from, &mut datagram, &ours) {
            Ok(Taken::Gossip(_, message)) => assert_eq!(message, body),
            Ok(Taken::Met(met)) => {
                assert!(met.reply.is_none_or(|reply| reply.len() <= size), "an answer is longer than what it answers");
                assert!(met.released.iter().all(|message| said.iter().any(|said| **said == **message)));
            }
            Err(_) => {}
        }
        now += Duration::from_millis(u64::from(*what) * 8);
    }
}
