//! The bytes of what replicas say to each other: what they are, and that others do no harm.

mod network;
mod outside;

use std::collections::BTreeSet;
use std::time::Duration;

use network::Random;
use outside::{Set, drain};
use polity_crdt::sync::{AntiEntropy, Outgoing, SyncConfig, decode_answer, decode_request};
use polity_crdt::{Crdt, DecodeError, ReplicaId};

const HERE: ReplicaId = ReplicaId(1);
const THERE: ReplicaId = ReplicaId(0x1234_5678_9abc_def0);

/// Two replicas, and all that they have said.
struct Pair {
    now: Duration,
    here: AntiEntropy<Set>,
    there: AntiEntropy<Set>,
    said: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pair {
    fn new() -> Self {
        let config = SyncConfig::default;
        Self {
            now: Duration::ZERO,
            here: AntiEntropy::new(HERE, b"here".to_vec(), 1, config()),
            there: AntiEntropy::new(THERE, b"there".to_vec(), 2, config()),
            said: Vec::new(),
        }
    }

    fn meet(&mut self) {
        for replica in [&mut self.here, &mut self.there] {
            replica.handle_up(self.now, BTreeSet::from([HERE, THERE]));
        }
    }

    fn part(&mut self) {
        self.here.handle_up(self.now, BTreeSet::new());
        self.there.handle_up(self.now, BTreeSet::new());
    }

    /// Lets the first one ask, and if it has nothing to ask the second one. Returns whether either had.
    fn step(&mut self) -> bool {
        for first in [true, false] {
            let (asker, other) =
                if first { (&mut self.here, &mut self.there) } else { (&mut self.there, &mut self.here) };
            if let Some(Outgoing { id, bytes, .. }) = asker.poll_request(self.now) {
                let answer = other.handle_request(self.now, &bytes).expect("replicas understand each other");
                asker.handle_answer(self.now, id, Some(&answer));
                self.said.push((bytes.to_vec(), answer));
                return true;
            }
        }
        false
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.here.handle_timeout(self.now);
            self.there.handle_timeout(self.now);
            while self.step() {}
            self.now += Duration::from_millis(100);
        }
    }

    /// Elements 1 to 3 are on both sides.
    fn settled() -> Self {
        let mut pair = Self::new();
        pair.meet();
        pair.run(10);
        for element in 1..=3 {
            pair.here.update(pair.now, |set, w| set.add(w, element)).expect("room");
        }
        pair.run(60);
        pair
    }

    /// A life in which everything is said at least once.
    fn eventful() -> Self {
        let mut pair = Self::settled();
        pair.part();
        pair.here.update(pair.now, |set, w| set.add(w, 9)).expect("room");
        pair.here.update(pair.now, |set, _| Ok(set.remove(&2))).expect("no dot is needed");
        pair.meet();
        pair.run(20);
        // Both begin at once: the lesser one's round goes on.
        pair.part();
        pair.meet();
        pair.here.handle_timeout(pair.now);
        pair.there.handle_timeout(pair.now);
        let late = pair.there.poll_request(pair.now).expect("a probe");
        let answer = pair.here.handle_request(pair.now, &late.bytes).expect("a probe");
        pair.there.handle_answer(pair.now, late.id, Some(&answer));
        pair.said.push((late.bytes.to_vec(), answer));
        pair.run(20);
        pair.here.handle_departed(pair.now, BTreeSet::from([THERE]));
        pair.run(20);
        pair
    }

    fn messages(&self) -> (Vec<&[u8]>, Vec<&[u8]>) {
        let requests: BTreeSet<&[u8]> = self.said.iter().map(|(request, _)| &request[..]).collect();
        let answers: BTreeSet<&[u8]> = self.said.iter().map(|(_, answer)| &answer[..]).collect();
        (requests.into_iter().collect(), answers.into_iter().collect())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The longest message of each kind.
fn longest(messages: &[&[u8]], kinds: u8) -> Vec<String> {
    let of = |kind| messages.iter().filter(move |bytes| bytes[1] == kind).max_by_key(|bytes| bytes.len());
    (0..kinds).map(|kind| hex(of(kind).expect("it was said"))).collect()
}

#[test]
fn golden_requests() {
    let pair = Pair::eventful();
    let (requests, _) = pair.messages();
    let golden = [
        // Push. Origin; no dead dots, 3 elements: element, one dot and none dead, replica, step of its counter.
        "0100000100000000000000000c010200020202000203020002",
        // Chunk. As a push without an origin: 1 element, whose dot is the sender's fourth.
        "01010001000000000000000409020008",
        // Probe. Hashes of the context and the live dots, the number of those, the hash of the rows.
        "010200f0debc9a78563412f0e8fa0ee9fe681e3d38f5159e4f0f170396d389e89d5c8842",
        // Exchange. Context.
        "01030001000000000000000100010003",
        // Symbols. Salt, from the first, 4 of them.
        "0104000100000000000000e5afbeef3745089c0004",
        // Resolve. Salt, one hash, context.
        "0105000100000000000000e5afbeef3745089c01422db696f7a2db7b0100010003",
        // Meet. Versions of rows; nobody was forgotten; rows: replica, version, tag, no departed actors, no marks.
        "01060001000000000000000100010001000104686572650000",
    ];
    assert_eq!(longest(&requests, 7), golden);
}

#[test]
fn golden_answers() {
    let pair = Pair::eventful();
    let (_, answers) = pair.messages();
    let golden = [
        // Done and Busy.
        "0100",
        "0101", // Differs. The summary as in a probe; no context; two versions of rows; nobody was forgotten; no rows.
        "0102000000000000000000000000000000000096d389e89d5c884200020001000000000000000101f0debc9a78563412010000",
        // Symbols. The sum of the hashes of the live dots, context, 4 symbols: sum, check, number of dots.
        "0103a83e68ac522be9d301000100000000000000010003045caf604bac10349b034161a4081d8f4591ebd91dbd747ff4b1061a4869c6d08681b825dae70d0400000000000000000000000000", // Gone. Context.
        "010401000100000000000000010003", // News. As a meeting.
        "0105020001000000000000000101f0debc9a7856341201000101010574686572650000",
    ];
    assert_eq!(longest(&answers, 6), golden);
}

/// Reads bytes as everything.
fn survive(bytes: &[u8]) -> bool {
    outside::deltas(bytes) | outside::request(bytes) | outside::answer(bytes)
}

/// Damaged forms of a message: cut, with any byte changed, left out, put in or put after it, and with numbers that promise
/// too much.
fn damaged(bytes: &[u8], mut take: impl FnMut(&[u8])) {
    const ABSURD: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    (0..bytes.len()).for_each(|end| take(&bytes[..end]));
    for at in 0..=bytes.len() {
        let (before, after) = bytes.split_at(at);
        for byte in [0, 1, 2, 4, 0x7f, 0x80, 0xff] {
            take(&[before, &[byte], after].concat());
        }
        take(&[before, &ABSURD, after].concat());
        let Some((byte, after)) = after.split_first() else { continue };
        take(&[before, after].concat());
        take(&[before, &ABSURD, after].concat());
        for other in (0..8).map(|bit| byte ^ 1 << bit).chain([byte.wrapping_add(1), byte.wrapping_sub(1)]) {
            take(&[before, &[other], after].concat());
        }
    }
}

#[test]
fn damaged_messages_are_refused_or_read_in_their_one_form() {
    let pair = Pair::eventful();
    let (requests, answers) = pair.messages();
    let mut read = 0;
    for bytes in requests.iter().chain(&answers) {
        assert!(survive(bytes));
        damaged(bytes, |bytes| read += u32::from(survive(bytes)));
    }
    assert!(read > 1_000, "some damage makes another message: {read}");
}

#[test]
fn random_bytes_are_refused_or_read_in_their_one_form() {
    let mut random = Random::new(7);
    let mut read = 0;
    for _ in 0..200_000 {
        let length = random.below(48);
        let mut bytes = vec![1, random.below(7) as u8];
        // A sender that was introduced, and small numbers for the most part.
        bytes.extend([0, 9, 0, 0, 0, 0, 0, 0, 0]);
        for _ in 0..length {
            let small = random.chance(80);
            bytes.push(if small { random.below(4) } else { random.next() } as u8);
        }
        read += u32::from(survive(&bytes));
    }
    assert!(read > 1_000, "{read}");
}

#[test]
fn each_fault_is_named() {
    let decode = decode_request::<<Set as Crdt>::Delta>;
    let with_sender = |tag: u8, rest: &[u8]| [&[1, tag, 0, 9, 0, 0, 0, 0, 0, 0, 0], rest].concat();
    assert_eq!(decode(&[]), Err(DecodeError::Truncated));
    assert_eq!(decode(&[2]), Err(DecodeError::Format(2)));
    assert_eq!(decode(&with_sender(7, &[])), Err(DecodeError::Tag));
    assert_eq!(decode(&[1, 0, 1]), Err(DecodeError::UnknownReplica));
    assert_eq!(decode(&with_sender(1, &[0, 0])), Err(DecodeError::Trailing(1)));
    // Two elements are promised and the first is there twice; one dot is live twice.
    assert_eq!(decode(&with_sender(1, &[2 << 2, 7, 2, 0, 2, 7, 2, 0, 2])), Err(DecodeError::Order));
    assert_eq!(decode(&with_sender(1, &[2 << 2, 7, 2, 0, 2, 8, 2, 0, 0])), Err(DecodeError::Twice));
    // A replica that was introduced is introduced again.
    let again = [&[1 << 2, 7, 2, 1][..], &[9, 0, 0, 0, 0, 0, 0, 0], &[2]].concat();
    assert_eq!(decode(&with_sender(1, &again)), Err(DecodeError::KnownReplica));
    assert_eq!(decode(&with_sender(4, &[[0; 8].as_slice(), &[0, 0]].concat())), Err(DecodeError::Limit));
    assert_eq!(decode_answer(&[1, 6]), Err(DecodeError::Tag));
    assert_eq!(decode_answer(&[1, 1, 0]), Err(DecodeError::Trailing(1)));
}

#[test]
fn hostile_requests_do_a_live_replica_no_harm() {
    let eventful = Pair::eventful();
    let (requests, answers) = eventful.messages();
    let mut pair = Pair::settled();
    let (mut taken, mut sent) = (0, 0);
    for bytes in requests.iter().chain(&answers) {
        damaged(bytes, |bytes| {
            sent += bytes.len();
            if let Ok(answer) = pair.here.handle_request(pair.now, bytes) {
                taken += 1;
                // The most is a sketch of MAX_SYMBOLS for a number of three bytes, and then what it may know by now.
                assert!(answer.len() < 16_384 * 23 + 4 * sent);
            }
            pair.now += Duration::from_millis(50);
            pair.here.handle_timeout(pair.now);
            drain(&mut pair.here, pair.now);
        });
    }
    assert!(taken > 500, "{taken}");
    assert!(pair.here.lag(pair.now).0 <= sent);
    assert!(pair.here.replica().context().interval_count() <= sent);
}

#[test]
fn hostile_answers_do_a_live_replica_no_harm() {
    let eventful = Pair::eventful();
    let (requests, answers) = eventful.messages();
    let mut pair = Pair::settled();
    let mut number = 0_u8;
    let mut asked = [0; 7];
    for bytes in answers.iter().chain(&requests) {
        damaged(bytes, |bytes| {
            // Whoever was told that it is gone says nothing any more.
            if pair.here.poll_timeout().is_none() {
                pair = Pair::settled();
            }
            number = number.wrapping_add(1);
            pair.here.update(pair.now, |set, w| set.add(w, number % 8)).expect("room");
            pair.now += Duration::from_secs(10);
            pair.here.handle_timeout(pair.now);
            for out in drain(&mut pair.here, pair.now) {
                asked[out.bytes[1] as usize] += 1;
                pair.here.handle_answer(pair.now, out.id, Some(bytes));
                // Twice, and to what was never asked.
                pair.here.handle_answer(pair.now, out.id, Some(bytes));
                pair.here.handle_answer(pair.now, out.id + 1_000, Some(bytes));
            }
        });
    }
    assert!([0, 2].iter().all(|kind| asked[*kind] > 1_000), "{asked:?}");
    assert!([1, 3, 4, 6].iter().all(|kind| asked[*kind] > 300), "{asked:?}");
}

#[test]
fn hostile_symbols_do_a_live_replica_no_harm() {
    let eventful = Pair::eventful();
    let (_, answers) = eventful.messages();
    for bytes in answers.iter().filter(|bytes| bytes[1] == 3) {
        damaged(bytes, |bytes| assert!(reconcile(bytes) > 0));
    }
}

#[test]
fn a_reconciliation_that_leads_nowhere_is_given_up() {
    // Symbols that never suffice, of more dots than there can be.
    let most = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let symbol = [&[0xab; 12][..], &most].concat();
    let asked = reconcile(&[&[1, 3][..], &[5; 8], &[0, 4], &symbol.repeat(4)].concat());
    assert!((2..20).contains(&asked), "{asked}");
}

/// Tells a replica that other dots are live elsewhere, and answers with these bytes whenever it asks for symbols. Returns
/// how often it does.
fn reconcile(symbols: &[u8]) -> u32 {
    let mut pair = Pair::settled();
    let differs = pair.there.handle_request(pair.now, &probe_of_nothing()).expect("a probe");
    let differs = other_live_dots(&differs);
    pair.now += Duration::from_secs(20);
    pair.here.handle_timeout(pair.now);
    let mut asked = 0;
    let mut waiting = drain(&mut pair.here, pair.now);
    while let Some(out) = waiting.pop() {
        let answer = match out.bytes[1] {
            2 => &differs,
            4 => symbols,
            _ => &[1, 0][..],
        };
        asked += u32::from(out.bytes[1] == 4);
        assert!(asked < 100, "it is given up");
        pair.here.handle_answer(pair.now, out.id, Some(answer));
        waiting.extend(drain(&mut pair.here, pair.now));
    }
    asked
}

/// A probe by a replica that holds nothing.
fn probe_of_nothing() -> Vec<u8> {
    let mut nobody = AntiEntropy::<Set>::new(ReplicaId(77), Vec::new(), 1, SyncConfig::default());
    nobody.handle_up(Duration::ZERO, BTreeSet::from([THERE]));
    nobody.handle_timeout(Duration::ZERO);
    nobody.poll_request(Duration::ZERO).expect("it wants to meet").bytes.to_vec()
}

/// The answer to a probe whose summary is that of this one but for the live dots, of which there are more than can be.
fn other_live_dots(differs: &[u8]) -> Vec<u8> {
    let (context, rows) = (&differs[2..10], &differs[19..27]);
    let count = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    [&[1, 2][..], context, &[0xee; 8], &count, rows, &[0, 0, 0, 0]].concat()
}
