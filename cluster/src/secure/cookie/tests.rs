use super::*;
use crate::secure::Secret;
use crate::secure::envelope::MAX_DATAGRAM_BYTES;
use proptest::prelude::*;
use rand::SeedableRng as _;
use std::collections::BTreeMap;

const NOW: Duration = Duration::from_secs(100);

fn boot(nonce: u128) -> Boot {
    Boot { generation: 1, nonce }
}

fn ring() -> Ring {
    Ring::new(Secret::new([7; 32]).expect("long enough"), []).expect("one key")
}

fn addr(of: u128) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + of as u16))
}

/// Messages, and an answer.
type Brought = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// One end of first contacts.
struct End {
    at: u128,
    sealer: Sealer,
    reception: Reception,
}

impl End {
    fn new(at: u128) -> Self {
        Self::bounded(at, 4096, 4096)
    }

    fn bounded(at: u128, senders: usize, floors: usize) -> Self {
        let opener = Opener::new(&ring(), "shop", boot(at)).bounded(senders, floors);
        let reception = Reception::new(opener, StdRng::seed_from_u64(at as u64));
        Self { at, sealer: Sealer::new(&ring(), "shop", boot(at)), reception }
    }

    fn says(&self, to: u128, message: &[u8]) -> Vec<u8> {
        self.sealer.seal_gossip(boot(to), message)
    }

    fn take(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Result<Brought, DropReason> {
        let mut bytes = datagram.to_vec();
        let taken = self.reception.take(now, from, &mut bytes, &self.sealer)?;
        Ok(match taken {
            Taken::Gossip(_, message) => (vec![message.to_vec()], None),
            Taken::Met(met) => (met.released.iter().map(|message| message.to_vec()).collect(), met.reply),
        })
    }

    /// Takes what must be answered and brings no message.
    fn answers(&mut self, from: u128, datagram: &[u8]) -> Vec<u8> {
        match self.take(NOW, addr(from), datagram) {
            Ok((messages, Some(reply))) if messages.is_empty() => reply,
            other => panic!("{other:?}"),
        }
    }

    fn hears(&mut self, from: u128, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.take(NOW, addr(from), datagram).expect("it is taken").0
    }
}

fn message(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().max(BODY_BYTES), 0);
    bytes
}

#[test]
fn a_first_contact_loses_nothing_and_costs_two_datagrams() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    let (ping, more) = (a.says(2, b"ping"), a.says(2, b"more"));
    let challenge = b.answers(1, &ping);
    let second = b.answers(1, &more);
    assert!(challenge.len() <= ping.len(), "no amplification");
    let echo = a.answers(2, &challenge);
    assert_eq!(echo.len(), challenge.len());
    assert_eq!(b.hears(1, &echo), [message("ping"), message("more")]);
    // The challenge was as good as an introduction of its sender.
    assert_eq!(a.hears(2, &b.says(1, b"ack")), [message("ack")]);
    // What is late changes nothing.
    let again = a.answers(2, &second);
    assert_eq!(b.take(NOW, addr(1), &again), Ok((vec![], None)));
    for replay in [&ping, &more, &echo, &again] {
        assert_eq!(b.take(NOW, addr(1), replay), Err(DropReason::Replayed));
    }
    assert_eq!(b.hears(1, &a.says(2, b"next")), [message("next")]);
}

#[test]
fn golden_bytes() {
    let body = said(0x0102, [0xab; COOKIE_BYTES]);
    let sealer = Sealer::new(&ring(), "shop", boot(1));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&body), format!("0000000000000102{}", "ab".repeat(16)), "docs/WIRE.md");
    let (challenge, echo) =
        (sealer.seal_kind(boot(2), Kind::Challenge, &body, 0), sealer.seal_kind(boot(2), Kind::Echo, &body, 0));
    assert_eq!((challenge.len(), echo.len()), (CHALLENGE_BYTES, CHALLENGE_BYTES));
    assert_eq!(hex(&challenge), GOLDEN_CHALLENGE, "docs/WIRE.md");
    assert_eq!(hex(&echo), GOLDEN_ECHO, "docs/WIRE.md");
    // The cookie is nobody's business but its maker's; this pins what it is made of.
    let mut keys = Keys::new(StdRng::seed_from_u64(1));
    keys.key = hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]);
    let held = Held { boot: boot(1), counter: 2, serial: 3, key: 0, challenged: 0, message: Box::default() };
    let with = |ip: [u8; 4], port| keys.cookie(&held, SocketAddr::from((ip, port))).expect("a living key");
    assert_ne!(with([127, 0, 0, 1], 1), with([127, 0, 0, 2], 1));
    assert_ne!(with([127, 0, 0, 1], 1), with([127, 0, 0, 1], 2));
}

const GOLDEN_CHALLENGE: &str = "0192e86b3800000000000000010000000000000000000000000000000100000000000000016a\
    2db7ff32e27b6b4ed9eec9e7ea81fad9e7e03838373e45e87ade22729da317e1ef1ba68307eee4b0";
const GOLDEN_ECHO: &str = "0192e86b38000000000000000100000000000000000000000000000001000000000000000200\
    f939849f0e64c51585ae4aa4449b74a230ce0168d2bb297485e194caaffc2cdc822f2499dad492b5";

#[test]
fn a_replay_after_its_window_was_forgotten_gets_nowhere() {
    let (mut a, mut b) = (End::new(1), End::bounded(2, 1, 8));
    let ping = a.says(2, b"ping");
    let challenge = b.answers(1, &ping);
    let echo = a.answers(2, &challenge);
    assert_eq!(b.hears(1, &echo), [message("ping")]);
    meet(&mut End::new(3), &mut b);
    // The floor is exact: neither is answered.
    assert_eq!(b.take(NOW, addr(1), &ping), Err(DropReason::Replayed));
    assert_eq!(b.take(NOW, addr(1), &echo), Err(DropReason::Replayed));
    // And what is new makes its way.
    let next = a.says(2, b"next");
    let challenge = b.answers(1, &next);
    let echo = a.answers(2, &challenge);
    assert_eq!(b.hears(1, &echo), [message("next")]);
}

/// Lets `b` know `a`.
fn meet(a: &mut End, b: &mut End) {
    let hello = a.says(b.at, b"hello");
    let challenge = b.answers(a.at, &hello);
    let echo = a.take(NOW, addr(b.at), &challenge).expect("it is taken").1.expect("it is answered");
    assert_eq!(b.hears(a.at, &echo), [message("hello")]);
}

#[test]
fn a_replay_is_not_released_even_if_its_floor_was_forgotten_and_its_sender_echoes() {
    let (mut a, mut b) = (End::new(1), End::bounded(2, 1, 1));
    let ping = a.says(2, b"ping");
    let challenge = b.answers(1, &ping);
    let first_echo = a.answers(2, &challenge);
    assert_eq!(b.hears(1, &first_echo), [message("ping")]);
    // Two others come, of whom the second has spoken more: the floor that goes is that of the first contact.
    let (mut c, mut d) = (End::new(3), End::new(4));
    (0..20).for_each(|_| drop(c.says(2, b"to nobody")));
    meet(&mut c, &mut b);
    meet(&mut d, &mut b);
    // Somebody replays all that it has recorded, with the right address.
    assert_eq!(b.take(NOW, addr(1), &first_echo), Err(DropReason::Unproven));
    let challenge = b.answers(1, &ping);
    assert_eq!(b.take(NOW, addr(1), &first_echo), Err(DropReason::Unproven), "the cookie is another one");
    let echo = a.take(NOW, addr(2), &challenge).expect("it is taken").1.expect("it is answered");
    assert_eq!(b.hears(1, &echo), Vec::<Vec<u8>>::new(), "it may have been taken, so it is not taken");
    for replay in [&ping, &first_echo, &echo] {
        assert_eq!(b.take(NOW, addr(1), replay), Err(DropReason::Replayed));
    }
    assert_eq!(b.hears(1, &a.says(2, b"next")), [message("next")]);
}

#[test]
fn an_echo_opens_only_what_was_asked_where_and_when_it_was_asked() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    let ping = a.says(2, b"ping");
    let challenge = b.answers(1, &ping);
    let echo = a.answers(2, &challenge);
    // From another address.
    assert_eq!(b.take(NOW, addr(9), &echo), Err(DropReason::Unproven));
    // Too late.
    assert_eq!(b.take(NOW + KEY_LIFE * 2, addr(1), &echo), Err(DropReason::Unproven));
    // A cookie that was guessed.
    let guessed = End::new(1);
    let ping = guessed.says(2, b"ping");
    b.answers(1, &ping);
    let guess = guessed.sealer.seal_kind(boot(2), Kind::Echo, &said(1, [0; COOKIE_BYTES]), 0);
    assert_eq!(b.take(NOW, addr(1), &guess), Err(DropReason::Unproven));
    // A challenge of what was never sent, and one that is none.
    for body in
        [&said(1_000, [1; COOKIE_BYTES])[..], &said(0, [1; COOKIE_BYTES]), &[1; BODY_BYTES - 1], &[1; BODY_BYTES + 1]]
    {
        let challenge = b.sealer.seal_kind(boot(1), Kind::Challenge, body, 0);
        assert_eq!(a.take(NOW, addr(2), &challenge), Err(DropReason::Malformed));
    }
}

#[test]
fn a_copy_from_elsewhere_does_not_keep_the_true_one_from_being_asked() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    let ping = a.says(2, b"ping");
    let to_thief = b.answers(9, &ping);
    let challenge = b.answers(1, &ping);
    b.answers(9, &ping);
    assert_ne!(to_thief, challenge);
    let echo = a.answers(2, &challenge);
    assert_eq!(b.hears(1, &echo), [message("ping")]);
}

#[test]
fn what_is_held_and_what_is_answered_is_bounded() {
    let mut b = End::new(0);
    let mut lost = 0;
    for at in 1..=MAX_HELD as u128 * 2 {
        let mut ping = End::new(at).says(0, &[1; 500]);
        match b.reception.take(NOW, addr(at), &mut ping, &b.sealer) {
            Ok(Taken::Met(met)) => lost += met.lost,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((b.reception.held.len(), lost), (MAX_HELD, MAX_HELD));
    let one = End::new(1_000);
    for _ in 0..MAX_HELD {
        b.answers(1_000, &one.says(0, b"x"));
    }
    let its = b.reception.held.iter().filter(|held| held.boot == boot(1_000)).count();
    assert_eq!((b.reception.held.len(), its), (MAX_HELD, MAX_HELD_OF_ONE));
    let answered = (0..1_000).filter(|_| b.take(NOW, addr(1_000), &one.says(0, b"x")).is_ok()).count();
    assert_eq!(answered, MAX_REPLIES_PER_SECOND as usize - MAX_HELD * 3);
    assert!(b.take(NOW + Duration::from_secs(1), addr(1_000), &one.says(0, b"x")).is_ok());
}

#[test]
fn what_is_smaller_than_a_challenge_gets_none() {
    let (a, mut b) = (End::new(1), End::new(2));
    let short = a.sealer.seal_kind(boot(2), Kind::Gossip, b"x", BODY_BYTES - 1);
    assert_eq!(b.take(NOW, addr(1), &short), Err(DropReason::Unproven));
    assert!(b.reception.held.is_empty());
    assert!(a.says(2, &[1; 1_000]).len() < MAX_DATAGRAM_BYTES);
}

/// What happens next in a random history of three ends.
#[derive(Debug, Clone)]
enum Step {
    /// One says something to another.
    Say(u128, u128),
    /// The oldest datagram that is under way arrives, or the newest.
    Arrive(bool),
    /// One that is under way is lost.
    Lose(usize),
    /// One of all that were ever sent arrives again, from where it came or from elsewhere.
    Replay(usize, bool),
    /// Time goes on.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u128..4, 0u128..4).prop_map(|(from, to)| Step::Say(from, to)),
        8 => any::<bool>().prop_map(Step::Arrive),
        1 => any::<usize>().prop_map(Step::Lose),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, elsewhere)| Step::Replay(which, elsewhere)),
        1 => (0u64..3_000).prop_map(Step::Wait),
    ]
}

type Datagram = (u128, u128, Vec<u8>);

/// Four ends and what is between them.
struct Net {
    ends: Vec<End>,
    now: Duration,
    under_way: VecDeque<Datagram>,
    sent: Vec<Datagram>,
    said: u64,
    heard: BTreeMap<Vec<u8>, u64>,
}

impl Net {
    fn new(senders: usize, floors: usize) -> Self {
        let ends = (0..4).map(|at| End::bounded(at, senders, floors)).collect();
        let (under_way, sent, heard) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        Self { ends, now: NOW, under_way, sent, said: 0, heard }
    }

    fn send(&mut self, datagram: Datagram) {
        self.sent.push(datagram.clone());
        self.under_way.push_back(datagram);
    }

    fn say(&mut self, from: u128, to: u128) {
        self.said += 1;
        let message = message(&format!("{} from {from} to {to}", self.said));
        let datagram = self.ends[from as usize].says(to, &message);
        self.send((from, to, datagram));
    }

    fn arrive(&mut self, (from, to, datagram): Datagram, source: SocketAddr) {
        let Ok((messages, reply)) = self.ends[to as usize].take(self.now, source, &datagram) else { return };
        messages.into_iter().for_each(|message| *self.heard.entry(message).or_default() += 1);
        if let Some(reply) = reply {
            assert!(reply.len() <= datagram.len(), "no amplification");
            // Whoever sent from elsewhere passes it on.
            self.send((to, from, reply));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say(from, to) if from != to => self.say(from, to),
            Step::Say(..) => {}
            Step::Arrive(oldest) => {
                let next = if oldest { self.under_way.pop_front() } else { self.under_way.pop_back() };
                next.into_iter().for_each(|datagram| self.arrive(datagram.clone(), addr(datagram.0)));
            }
            Step::Lose(which) => drop(self.under_way.remove(which % self.under_way.len().max(1))),
            Step::Replay(which, elsewhere) => {
                if let Some(datagram) = self.sent.get(which % self.sent.len().max(1)).cloned() {
                    let source = addr(if elsewhere { 99 } else { datagram.0 });
                    self.arrive(datagram, source);
                }
            }
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
        }
    }
}

/// Histories of any kind. Whether nothing was heard twice.
fn nothing_is_heard_twice(cases: u32) -> Result<(), String> {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    });
    let histories = (1usize..4, 1usize..4, prop::collection::vec(step(), 0..150));
    let verdict = runner.run(&histories, |(senders, floors, steps)| {
        let mut net = Net::new(senders, floors);
        steps.into_iter().for_each(|step| net.step(step));
        prop_assert!(net.heard.values().all(|times| *times == 1), "{:?}", net.heard);
        Ok(())
    });
    verdict.map_err(|failure| failure.to_string())
}

#[test]
fn nothing_is_heard_twice_whatever_is_lost_doubled_reordered_forgotten_or_replayed() {
    nothing_is_heard_twice(2_000).expect("each message is heard once at most");
}

#[cfg(feature = "mutations")]
#[test]
fn the_property_catches_a_node_that_takes_replays() {
    use crate::mutation::{Mutation, set};
    set(Some(Mutation::TakesReplays));
    let verdict = nothing_is_heard_twice(2_000);
    set(None);
    assert!(verdict.is_err(), "a replay was taken and not noticed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// With as many floors as senders, which is what a node has until thousands have come and gone.
    #[test]
    fn what_is_said_over_a_network_that_loses_nothing_is_heard_once(
        senders in 1usize..4,
        // A pause is a round trip at least, and there is one after a few messages: nobody holds more.
        bursts in prop::collection::vec(prop::collection::vec((0u128..4, 0u128..4), 0..6), 0..30),
    ) {
        let mut net = Net::new(senders, 4);
        for (at, burst) in bursts.into_iter().enumerate() {
            burst.into_iter().filter(|(from, to)| from != to).for_each(|(from, to)| net.say(from, to));
            // In order, or the newest first. What is late and older than the newest of a sender that was forgotten is lost:
            // a node forgets nobody who was heard within the time that a datagram takes.
            while !net.under_way.is_empty() {
                net.step(Step::Arrive(at % 2 == 0 || senders < 3));
            }
        }
        prop_assert_eq!(net.heard.len() as u64, net.said);
        prop_assert!(net.heard.values().all(|times| *times == 1));
    }
}
