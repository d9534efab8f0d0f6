//! What goes wrong: members that are slow, as in section V of Lifeguard (Dadgar, Phillips, Currey 2018), and losses.

use std::time::Duration;

use polity_sim::lean::{Host, Traffic};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use crate::arena::{Arena, Mistakes};
use crate::peers::Library;

/// How long a cluster may take to form before it is troubled.
const FORMATION: Duration = Duration::from_secs(120);
/// How long it lives in peace before: what was said at first has been said by then.
const SETTLING: Duration = Duration::from_secs(20);
/// How long after the trouble is listened: what is thought of members by then was caused by it.
const AFTERMATH: Duration = Duration::from_secs(20);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// The messages of so many members stand still and go on by turns: for 0.5 to 32 s and for 1 ms to 1 s, drawn once for
    /// each. Their timers are on time.
    Blocked(usize),
    /// So many members handle what arrives 0.1 to 2 s late, drawn once for each. Their timers are on time.
    Late(usize),
    /// The processes of so many members stand still and go on by turns, as in [`Trouble::Blocked`]. Their clocks go on.
    Stopped(usize),
    /// This share of datagrams is lost, and of questions and answers.
    Lossy(f64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Who was taken for dead wrongly.
    pub(crate) mistakes: Mistakes,
    /// What was sent during the trouble, by all.
    pub(crate) traffic: Traffic,
    /// For how many seconds of one member that was.
    pub(crate) member_seconds: f64,
}

impl Load {
    /// Takes another run with this one.
    pub(crate) fn pool(&mut self, other: &Self) {
        self.mistakes += other.mistakes;
        self.traffic.datagrams += other.traffic.datagrams;
        self.traffic.datagram_bytes += other.traffic.datagram_bytes;
        self.traffic.calls += other.traffic.calls;
        self.traffic.call_bytes += other.traffic.call_bytes;
        self.member_seconds += other.member_seconds;
    }
}

/// By how much what was sent has grown.
pub(crate) fn since(before: Traffic, now: Traffic) -> Traffic {
    Traffic {
        datagrams: now.datagrams - before.datagrams,
        datagram_bytes: now.datagram_bytes - before.datagram_bytes,
        calls: now.calls - before.calls,
        call_bytes: now.call_bytes - before.call_bytes,
    }
}

/// Lets so many members form a cluster and lets this go wrong for some time.
pub(crate) fn troubled<L: Library>(library: L, hosts: usize, trouble: Trouble, time: Duration, seed: u64) -> Load {
    let (mut arena, _) = Arena::formed(library, hosts, seed, FORMATION);
    arena.run(SETTLING);
    arena.take_mistakes();
    let before = arena.traffic();
    match trouble {
        Trouble::Blocked(count) => by_turns(&mut arena, count, time, (Arena::block, Arena::unblock)),
        Trouble::Stopped(count) => by_turns(&mut arena, count, time, (Arena::stop, Arena::go_on)),
        Trouble::Late(count) => late(&mut arena, count, time),
        Trouble::Lossy(loss) => {
            arena.weather().loss = loss;
            arena.run(time);
            arena.weather().loss = 0.0;
        }
    }
    let traffic = since(before, arena.traffic());
    arena.run(AFTERMATH);
    Load { mistakes: arena.take_mistakes(), traffic, member_seconds: hosts as f64 * time.as_secs_f64() }
}

/// A number between two, each order of magnitude as likely as another.
fn spread(rng: &mut StdRng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(rng.random_range(from.ln()..to.ln()).exp())
}

fn some<L: Library>(arena: &mut Arena<L>, count: usize) -> Vec<Host> {
    let hosts = 0..arena.hosts();
    let some = hosts.sample(arena.rng(), count);
    arena.trouble(&some);
    some
}

fn late<L: Library>(arena: &mut Arena<L>, count: usize, time: Duration) {
    let some = some(arena, count);
    for host in &some {
        let by = spread(arena.rng(), 0.1, 2.0);
        arena.lag(*host, by);
    }
    arena.run(time);
    some.iter().for_each(|host| arena.lag(*host, Duration::ZERO));
}

/// One that stands still and goes on by turns.
struct Turns {
    host: Host,
    still: Duration,
    running: Duration,
    is_still: bool,
    next: Duration,
}

/// What begins trouble on a host, and what ends it.
type Switch<L> = (fn(&mut Arena<L>, Host), fn(&mut Arena<L>, Host));

fn by_turns<L: Library>(arena: &mut Arena<L>, count: usize, time: Duration, (stop, go_on): Switch<L>) {
    let (begin, end) = (arena.now(), arena.now() + time);
    let hosts = some(arena, count);
    let mut turns: Vec<Turns> = Vec::new();
    for host in hosts {
        let rng = arena.rng();
        let (still, running) = (spread(rng, 0.5, 32.0), spread(rng, 0.001, 1.0));
        // They do not begin in step.
        let next = begin + still.mul_f64(rng.random_range(0.0..1.0));
        turns.push(Turns { host, still, running, is_still: false, next });
    }
    while let Some(turn) = turns.iter_mut().min_by_key(|turn| turn.next).filter(|turn| turn.next < end) {
        arena.run(turn.next - arena.now());
        if turn.is_still {
            go_on(arena, turn.host);
        } else {
            stop(arena, turn.host);
        }
        turn.is_still = !turn.is_still;
        turn.next += if turn.is_still { turn.still } else { turn.running };
    }
    arena.run(end - arena.now());
    turns.iter().filter(|turn| turn.is_still).for_each(|turn| go_on(arena, turn.host));
}
