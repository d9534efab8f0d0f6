//! What the benchmarks share: content, replicas on a network without delay, and the same content in `crdts`.

// Each bench uses a part of this module.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use crdts::{CmRDT, CvRDT, MVReg, Map};
use polity_crdt::sync::{AntiEntropy, SyncConfig};
use polity_crdt::{Crdt, Delta, MvRegister, OrMap, ReplicaId};

pub(crate) type Ours = OrMap<String, MvRegister<String>>;
pub(crate) type Theirs = Map<String, MVReg<String, u64>, u64>;

/// Key and value of an entry.
pub(crate) const KEY_BYTES: u64 = 12;
pub(crate) const PAYLOAD_BYTES: u64 = KEY_BYTES + 16;

/// Distinct keys of 12 bytes, in no order.
pub(crate) fn key(number: u64) -> String {
    format!("{:012x}", number.wrapping_mul(0x9e37_79b9_7f4b) & 0xffff_ffff_ffff)
}

/// Values of 16 bytes.
pub(crate) fn value(number: u64) -> String {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Replicas that write, ask and answer without delay. Only time that nobody waits for is simulated, so what a call takes
/// is the work of all replicas together, on one core.
pub(crate) struct Network<T: Crdt> {
    pub(crate) now: Duration,
    pub(crate) replicas: Vec<AntiEntropy<T>>,
    /// Of all requests and answers.
    pub(crate) bytes: u64,
    /// The work of each replica for requests and answers.
    pub(crate) spent: Vec<Duration>,
}

impl<T: Crdt> Network<T> {
    /// So many replicas that have met.
    pub(crate) fn new(count: usize) -> Self {
        let mut network = Self { now: Duration::ZERO, replicas: Vec::new(), bytes: 0, spent: Vec::new() };
        (0..count).for_each(|_| network.start());
        network.meet();
        network.run(Duration::from_secs(30));
        network
    }

    /// Another replica that knows nothing and has met nobody.
    pub(crate) fn start(&mut self) {
        self.spent.push(Duration::ZERO);
        let number = self.replicas.len() as u64 + 1;
        let id = ReplicaId(number.wrapping_mul(0xd134_2543_de82_ef95));
        self.replicas.push(AntiEntropy::new(id, vec![number as u8; 16], number, SyncConfig::default()));
    }

    fn ids(&self) -> Vec<ReplicaId> {
        self.replicas.iter().map(|replica| replica.replica().id()).collect()
    }

    /// Everybody reaches everybody.
    pub(crate) fn meet(&mut self) {
        let ids = self.ids();
        self.replicas.iter_mut().for_each(|replica| replica.handle_up(self.now, ids.iter().copied().collect()));
    }

    /// Nobody reaches anybody.
    pub(crate) fn part(&mut self) {
        self.replicas.iter_mut().for_each(|replica| replica.handle_up(self.now, [].into()));
    }

    /// Delivers one request of each replica, and its answer. Returns whether there was any.
    fn deliver(&mut self) -> bool {
        let ids = self.ids();
        let mut any = false;
        for from in 0..ids.len() {
            let begin = Instant::now();
            let out = self.replicas[from].poll_request(self.now);
            self.spent[from] += begin.elapsed();
            let Some(out) = out else { continue };
            any = true;
            let to = ids.iter().position(|id| *id == out.to).expect("only these are up");
            let begin = Instant::now();
            let answer = self.replicas[to].handle_request(self.now, &out.bytes).expect("what a replica has written");
            self.spent[to] += begin.elapsed();
            self.bytes += (out.bytes.len() + answer.len()) as u64;
            self.replicas[from].handle_answer(self.now, out.id, Some(&answer));
        }
        any
    }

    /// Delivers all that is to be said at this moment.
    pub(crate) fn pump(&mut self) {
        while self.deliver() {}
    }

    fn wait(&mut self, end: Duration) -> bool {
        let Some(due) = self.replicas.iter().filter_map(AntiEntropy::poll_timeout).min() else { return false };
        if due > end {
            return false;
        }
        // What is due at once has done a part of its work only.
        self.now = if due > self.now { due } else { self.now + Duration::from_nanos(1) };
        self.replicas.iter_mut().for_each(|replica| replica.handle_timeout(self.now));
        true
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, during: Duration) {
        let end = self.now + during;
        while self.deliver() || self.wait(end) {}
        self.now = end;
    }

    /// Until everybody has heard of the same, nothing is left to do and all are the same, or ten minutes have passed.
    pub(crate) fn settle(&mut self, is_same: impl Fn(&T, &T) -> bool) {
        let end = self.now + Duration::from_secs(600);
        while self.deliver() || !self.is_settled(&is_same) && self.wait(end) {}
    }

    fn is_settled(&self, is_same: impl Fn(&T, &T) -> bool) -> bool {
        let first = self.replicas[0].replica();
        self.replicas.iter().all(|other| {
            other.is_idle() && other.replica().context() == first.context() && is_same(other.replica(), first)
        })
    }

    pub(crate) fn are_equal(&self) -> bool {
        self.replicas.iter().all(|replica| replica.replica() == self.replicas[0].replica())
    }
}

impl Network<Ours> {
    pub(crate) fn put(&mut self, at: usize, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let written = self.replicas[at]
                .update(self.now, |map, w| map.update(w, key(number), |register, w| register.set(w, value(number))));
            written.expect("counters do not run out");
        }
    }

    pub(crate) fn remove(&mut self, at: usize, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let removed = self.replicas[at].update(self.now, |map, _| Ok(map.remove(&key(number))));
            removed.expect("a remove needs no counter");
        }
    }
}

/// The same content in `crdts`.
pub(crate) fn theirs(actor: u64, numbers: std::ops::Range<u64>) -> Theirs {
    let mut map = Theirs::new();
    their_puts(&mut map, actor, numbers);
    map
}

pub(crate) fn their_puts(map: &mut Theirs, actor: u64, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let add = map.read_ctx().derive_add_ctx(actor);
        let put = map.update(key(number), add, |register, add| register.write(value(number), add));
        map.apply(put);
    }
}

/// The bytes and the time of their way: the whole state, decoded and merged.
pub(crate) fn their_merge(into: &Theirs, state: &Theirs) -> (u64, Duration) {
    let bytes = postcard::to_stdvec(state).expect("a state has an encoding");
    let mut into = into.clone();
    let begin = Instant::now();
    into.merge(postcard::from_bytes(&bytes).expect("these are its bytes"));
    (bytes.len() as u64, begin.elapsed())
}

/// The size of our whole state.
pub(crate) fn full_bytes<T: Crdt>(replica: &polity_crdt::Replica<T>) -> u64 {
    replica.full().encode().len() as u64
}

/// Whether to run a hundredth of everything, to see that it runs.
pub(crate) fn is_quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// Whether a workload is named on the command line, or none is.
pub(crate) fn is_wanted(name: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    named.peek().is_none() || named.any(|argument| argument == name)
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A line of the table.
pub(crate) fn row(what: &str, figure: &str, target: &str, star: &str, rest: &str) {
    println!("{what:<46} {figure:>22} {target:>12} {star:>12}   {rest}");
}

pub(crate) fn head() {
    row("workload", "figure", "target", "star", "beside it");
}
