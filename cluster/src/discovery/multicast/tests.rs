//! Messages of the LAN, and multicast over loopback.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::message::{QUESTION_BYTES, open_answer, seal_answer};
use super::*;
use crate::discovery::conformance::{World, check};
use crate::ground::Env;
use crate::secure::Secret;

fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32]).expect("long enough")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_question_is_answered_once_and_only_within_the_cluster() {
    let keys = Keys::new(&secret(1), "shop");
    let question = Question { nonce: [7; 16], from: addr("127.0.0.1:9") };
    let asked = question.seal(&keys);
    assert_eq!(Question::open(&keys, &asked, question.from), Some(question));
    // A copy that is sent from elsewhere makes nobody answer.
    assert_eq!(Question::open(&keys, &asked, addr("127.0.0.1:10")), None);
    for other in [Keys::new(&secret(2), "shop"), Keys::new(&secret(1), "test")] {
        assert_eq!(Question::open(&other, &asked, question.from), None);
        let mut answer = seal_answer(&other, &question, addr("10.0.0.1:1"), [1; 12]);
        assert_eq!(open_answer(&keys, &question, &mut answer), None);
    }
    for there in [addr("10.0.0.1:7946"), addr("[2001:db8::1]:7946")] {
        let answer = seal_answer(&keys, &question, there, [1; 12]);
        assert!(answer.len() <= asked.len());
        assert_eq!(open_answer(&keys, &question, &mut answer.clone()), Some(there));
        let later = Question { nonce: [8; 16], ..question };
        assert_eq!(open_answer(&keys, &later, &mut answer.clone()), None, "of another question");
    }
}

#[test]
fn golden_bytes() {
    let keys = Keys::new(&secret(7), "shop");
    let question = Question { nonce: [1; 16], from: addr("127.0.0.1:9") };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let asked = hex(&question.seal(&keys));
    let answered = hex(&seal_answer(&keys, &question, addr("127.0.0.1:7946"), [2; 12]));
    assert_eq!((&*asked, &*answered), (QUESTION, ANSWER), "the format of multicast: docs/WIRE.md");
}

const QUESTION: &str = "01010101010101010101010101010101010000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000c1cb9c7429a26c97ff8ef8dccdb31f67c6e8ff42fba377ec649ccdac077ba8cb";
const ANSWER: &str = "02020202020202020202020202f54d8e175906114c291b3e21891a0e7e60e2904c9f1546f762fa0029831ffc1bcc6c";

#[tokio::test(start_paused = true)]
async fn answers_are_rate_limited() {
    let mut allowance = Allowance { left: BURST, since: Instant::now() };
    let burst = (0..1000).filter(|_| allowance.take(Instant::now())).count();
    assert_eq!(burst, BURST as usize);
    tokio::time::advance(Duration::from_secs(1)).await;
    let second = (0..1000).filter(|_| allowance.take(Instant::now())).count();
    assert_eq!(second, ANSWERS_PER_SECOND as usize);
}

proptest! {
    #[test]
    fn nothing_panics_and_no_change_is_accepted(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        at in 0..QUESTION_BYTES,
        flip in 1u8..,
    ) {
        let keys = Keys::new(&secret(1), "shop");
        let question = Question { nonce: [7; 16], from: addr("127.0.0.1:9") };
        prop_assert_eq!(Question::open(&keys, &bytes, question.from), None);
        prop_assert_eq!(open_answer(&keys, &question, &mut bytes), None);
        let mut asked = question.seal(&keys);
        asked[at] ^= flip;
        prop_assert_eq!(Question::open(&keys, &asked, question.from), None);
        let mut answer = seal_answer(&keys, &question, addr("10.0.0.1:1"), [1; 12]);
        answer[at % ANSWER_BYTES] ^= flip;
        prop_assert_eq!(open_answer(&keys, &question, &mut answer), None);
    }
}

/// Nodes on loopback that answer for addresses, and a port of this test's own.
struct Lan {
    multicast: Multicast,
    answering: JoinSet<()>,
}

fn context_of(cluster: &str, addr: SocketAddr) -> Context {
    Context::new(Env::real(), cluster, secret(7), addr)
}

/// A port of its own for each test of each process, below those that the system gives away.
fn port(test: u16) -> u16 {
    19_000 + (std::process::id() % 200) as u16 * 4 + test
}

impl World for Lan {
    fn discovery(&self) -> Arc<dyn Discovery> {
        Arc::new(self.multicast)
    }
    fn context(&self) -> Context {
        context_of("shop", addr("127.0.0.1:1"))
    }
    fn place<'a>(&'a mut self, members: &'a BTreeSet<SocketAddr>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.answering.shutdown().await;
            for member in members {
                // They answer on loopback, for addresses anywhere.
                let (multicast, context) = (self.multicast, context_of("shop", *member));
                self.answering.spawn(async move {
                    let lan = context_of("shop", addr("127.0.0.1:1"));
                    let _ = answer_as(multicast, &lan, context.addr()).await;
                });
            }
            // Each has opened its socket when it is polled for the first time.
            tokio::task::yield_now().await;
        })
    }
    fn capacity(&self) -> usize {
        2 * MAX_SEEDS
    }
}

#[tokio::test]
async fn it_does_what_a_discovery_must() {
    let world = Lan { multicast: Multicast::port(port(0)), answering: JoinSet::new() };
    assert_eq!(check(world).await, Ok(()));
}

#[tokio::test]
async fn clusters_of_other_names_or_secrets_do_not_see_each_other() {
    let multicast = Multicast::port(port(1));
    let mut answering = JoinSet::new();
    answering.spawn(multicast.announce(context_of("shop", addr("127.0.0.1:5"))));
    tokio::task::yield_now().await;
    let find = |context: Context| async move { multicast.find(&context).await.expect("there is multicast here") };
    let here = addr("127.0.0.1:6");
    assert_eq!(find(context_of("shop", here)).await, BTreeSet::from([addr("127.0.0.1:5")]));
    assert_eq!(find(context_of("test", here)).await, BTreeSet::new());
    assert_eq!(find(Context::new(Env::real(), "shop", secret(8), here)).await, BTreeSet::new());
}

#[tokio::test]
async fn a_node_that_rotates_its_secret_is_found_under_every_key_that_it_holds() {
    let multicast = Multicast::port(port(2));
    let ring = |keys: &[u8]| {
        let others = keys[1..].iter().copied().map(secret);
        Arc::new(Ring::new(secret(keys[0]), others).expect("at most four keys"))
    };
    let (keeper, rings) = watch::channel(ring(&[7]));
    let mut answering = JoinSet::new();
    answering.spawn(multicast.announce(Context::with_ring(Env::real(), "shop", rings, addr("127.0.0.1:5"))));
    tokio::task::yield_now().await;
    let find = |keys: &[u8]| {
        let context = Context::with_ring(Env::real(), "shop", watch::channel(ring(keys)).1, addr("127.0.0.1:6"));
        async move { multicast.find(&context).await.expect("there is multicast here").len() }
    };
    assert_eq!((find(&[7]).await, find(&[8]).await, find(&[8, 7]).await), (1, 0, 1));
    keeper.send_replace(ring(&[7, 8]));
    assert_eq!((find(&[7]).await, find(&[8]).await), (1, 1));
    keeper.send_replace(ring(&[8]));
    assert_eq!((find(&[7]).await, find(&[8]).await), (0, 1));
}
