//! The event loop: members on hosts, what is on its way between them, and what goes wrong.
//!
//! It knows no protocol: [`Member`] is all that it asks of one, so other libraries can run on the same network. Members
//! send datagrams, which may be lost, doubled and delayed, and make calls, which are answered or come to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::queue::{Nanos, Queue};

/// The port at which every member listens.
const PORT: u16 = 7946;
/// How many datagrams wait for a member that is paused, as many as a node's own queue holds.
const BACKLOG: usize = 1024;

/// Which place in the network: one member at a time runs there.
pub type Host = usize;

/// Where the member on a host is reached.
///
/// # Panics
/// If the number has more than 24 bits.
#[must_use]
pub fn addr(host: Host) -> SocketAddr {
    let host = u32::try_from(host).ok().filter(|host| *host < 1 << 24).expect("a network has fewer than 2^24 hosts");
    (Ipv4Addr::from_bits(0x0a00_0000 | host), PORT).into()
}

/// The host of an address, if it is one of ours.
#[must_use]
pub fn host_of(addr: SocketAddr) -> Option<Host> {
    match addr {
        SocketAddr::V4(addr) if addr.ip().octets()[0] == 10 => Some((addr.ip().to_bits() & 0x00ff_ffff) as usize),
        _ => None,
    }
}

/// A protocol: one member of a cluster as a state machine. Time is the duration since the member's start.
pub trait Member {
    /// What is in a datagram.
    type Datagram: Clone;
    /// What a call asks.
    type Request;
    /// What it is answered.
    type Answer;
    /// What an observer is told.
    type Note;

    /// A datagram has arrived.
    fn handle_datagram(&mut self, now: Duration, datagram: Self::Datagram);
    /// A call has arrived: its answer, and how long that is in bytes.
    fn handle_request(&mut self, now: Duration, request: Self::Request) -> Option<(Self::Answer, usize)>;
    /// The call with this number was answered, or was not in time.
    fn handle_answer(&mut self, now: Duration, call: u64, answer: Option<Self::Answer>);
    /// When [`Member::handle_timeout`] is due.
    fn poll_timeout(&self) -> Option<Duration>;
    /// Time has passed.
    fn handle_timeout(&mut self, now: Duration);
    /// What the member wants done.
    fn poll_output(&mut self) -> Option<Output<Self>>;
}

/// What a member wants done.
#[derive(Debug)]
pub enum Output<M: Member + ?Sized> {
    /// Send this.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// Its length on the wire.
        bytes: usize,
        /// What is in it.
        datagram: M::Datagram,
    },
    /// Make a call.
    Call {
        /// Its number: the answer bears it.
        call: u64,
        /// Whom to.
        to: SocketAddr,
        /// How long the request is.
        bytes: usize,
        /// How long to wait.
        within: Duration,
        /// What is asked.
        request: M::Request,
    },
    /// Tell the observer.
    Note(M::Note),
    /// The member has ended.
    End,
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long everything takes at least.
    pub latency: Duration,
    /// How much longer it takes at most, so that datagrams overtake each other.
    pub jitter: Duration,
    /// The share of datagrams, of requests and of answers that are lost.
    pub loss: f64,
    /// The share of datagrams that arrive twice.
    pub doubled: f64,
}

impl Default for Weather {
    /// A quiet data centre: 0.5 to 1 ms, nothing is lost.
    fn default() -> Self {
        let half = Duration::from_micros(500);
        Self { latency: half, jitter: half, loss: 0.0, doubled: 0.0 }
    }
}

/// What members have sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub datagram_bytes: u64,
    /// Requests of calls.
    pub calls: u64,
    /// The bytes of requests and answers.
    pub call_bytes: u64,
}

struct Place<M: Member> {
    member: Option<M>,
    /// How many members have run here.
    life: u32,
    started: Nanos,
    /// When it will be woken.
    wake: Nanos,
    /// What arrives is kept meanwhile.
    paused: bool,
    datagrams_waiting: usize,
    backlog: Vec<Event<M>>,
    /// What arrives is kept meanwhile, and what it sends.
    blocked: bool,
    held: Vec<Output<M>>,
    /// How much longer it takes for everything.
    slow: Nanos,
    /// How much longer it takes for messages that arrive.
    lag: Nanos,
    /// Hosts with different numbers do not reach each other.
    side: u32,
}

enum Event<M: Member> {
    Wake(Host, u32),
    Datagram(Host, M::Datagram),
    Request { to: Host, from: Host, call: u64, request: M::Request },
    Answer { call: u64, answer: M::Answer },
    Deadline { call: u64 },
}

/// Who waits for a call, in which life, and under which number of its own.
struct Caller {
    host: Host,
    life: u32,
    call: u64,
}

/// Members on hosts, and the network between them.
pub struct Net<M: Member> {
    now: Nanos,
    queue: Queue<Event<M>>,
    places: Vec<Place<M>>,
    calls: BTreeMap<u64, Caller>,
    calls_made: u64,
    weather: Weather,
    /// From whom to whom nothing arrives.
    cut: BTreeSet<(Host, Host)>,
    split: bool,
    rng: StdRng,
    traffic: Traffic,
    trace: u64,
    events: u64,
}

impl<M: Member> Net<M> {
    /// A network without members.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            now: 0,
            queue: Queue::new(),
            places: Vec::new(),
            calls: BTreeMap::new(),
            calls_made: 0,
            weather,
            cut: BTreeSet::new(),
            split: false,
            rng: StdRng::seed_from_u64(seed),
            traffic: Traffic::default(),
            trace: 0,
            events: 0,
        }
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// A hash of all that has happened.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What has been sent.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// How the network behaves from now on.
    pub fn weather(&mut self) -> &mut Weather {
        &mut self.weather
    }

    /// Adds a host and returns its number.
    pub fn add_host(&mut self) -> Host {
        self.places.push(Place {
            member: None,
            life: 0,
            started: 0,
            wake: Nanos::MAX,
            paused: false,
            datagrams_waiting: 0,
            backlog: Vec::new(),
            blocked: false,
            held: Vec::new(),
            slow: 0,
            lag: 0,
            side: 0,
        });
        self.places.len() - 1
    }

    /// Starts a member on a host; one that ran there has crashed. What was on its way there arrives at the new one.
    pub fn start(&mut self, host: Host, member: M, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        self.crash(host);
        let place = &mut self.places[host];
        place.member = Some(member);
        place.started = self.now;
        self.settle(host, observe);
    }

    /// Ends the member on a host without a word.
    pub fn crash(&mut self, host: Host) {
        let place = &mut self.places[host];
        place.member = None;
        place.life += 1;
        place.wake = Nanos::MAX;
        place.paused = false;
        place.blocked = false;
        place.datagrams_waiting = 0;
        place.backlog.clear();
        place.held.clear();
    }

    /// The member on a host.
    #[must_use]
    pub fn member(&self, host: Host) -> Option<&M> {
        self.places.get(host)?.member.as_ref()
    }

    /// The hosts on which members run, and these.
    pub fn members(&self) -> impl Iterator<Item = (Host, &M)> {
        self.places.iter().enumerate().filter_map(|(host, place)| Some((host, place.member.as_ref()?)))
    }

    /// Lets something happen to a member from outside.
    ///
    /// # Panics
    /// If none runs on the host.
    pub fn poke<R>(
        &mut self,
        host: Host,
        observe: &mut impl FnMut(Duration, Host, M::Note),
        poke: impl FnOnce(&mut M, Duration) -> R,
    ) -> R {
        let place = &mut self.places[host];
        let now = Duration::from_nanos(self.now - place.started);
        let result = poke(place.member.as_mut().expect("a member runs on this host"), now);
        self.settle(host, observe);
        result
    }

    /// Stops a member's time: what arrives waits, and it does nothing.
    pub fn pause(&mut self, host: Host) {
        self.places[host].paused = true;
    }

    /// Lets a member that was paused go on: it handles what has waited, and is late with everything.
    pub fn resume(&mut self, host: Host, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        let place = &mut self.places[host];
        place.paused = false;
        place.datagrams_waiting = 0;
        // An alarm that fell into the pause was not heard.
        place.wake = Nanos::MAX;
        for event in std::mem::take(&mut place.backlog) {
            self.handle(event, observe);
            self.wake(host, observe);
        }
        self.wake(host, observe);
    }

    /// Lets a member that was paused go on, and do first what is due by its clock, and then handle what has waited.
    pub fn resume_late(&mut self, host: Host, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        self.places[host].paused = false;
        self.places[host].wake = Nanos::MAX;
        self.wake(host, observe);
        self.resume(host, observe);
    }

    /// Stops a member's messages: what arrives waits, and so does what it sends. Its timers are on time.
    pub fn block(&mut self, host: Host) {
        self.places[host].blocked = true;
    }

    /// Lets the messages of a member that was blocked go on.
    pub fn unblock(&mut self, host: Host, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        let place = &mut self.places[host];
        place.blocked = false;
        place.datagrams_waiting = 0;
        let arrived = std::mem::take(&mut place.backlog);
        for output in std::mem::take(&mut place.held) {
            self.carry_out(host, output, observe);
        }
        for event in arrived {
            self.handle(event, observe);
        }
    }

    /// From now on a member handles what arrives so much later. Its timers are on time.
    pub fn lag(&mut self, host: Host, by: Duration) {
        self.places[host].lag = nanos(by);
    }

    /// From now on everything takes a member so much longer.
    pub fn slow(&mut self, host: Host, by: Duration) {
        self.places[host].slow = nanos(by);
    }

    /// Whether a member is paused, slow, or apart from the first side of the network.
    #[must_use]
    pub fn is_troubled(&self, host: Host) -> bool {
        let place = &self.places[host];
        place.paused
            || place.blocked
            || place.slow > 0
            || place.lag > 0
            || place.side != 0
            || self.cut.iter().any(|(a, b)| *a == host || *b == host)
    }

    /// Puts hosts on a side of the network; sides do not reach each other. All begin on side 0.
    pub fn put(&mut self, hosts: impl IntoIterator<Item = Host>, side: u32) {
        for host in hosts {
            self.places[host].side = side;
        }
        self.split = self.places.iter().any(|place| place.side != 0);
    }

    /// From now on nothing goes from one host to another.
    pub fn cut(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    /// Ends all sides and cuts.
    pub fn heal(&mut self) {
        self.put(0..self.places.len(), 0);
        self.cut.clear();
    }

    /// Runs for some time. `observe` is told what members have noted.
    pub fn run(&mut self, time: Duration, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        let until = self.now + nanos(time);
        while let Some((at, event)) = self.queue.pop(until) {
            self.now = at;
            self.handle(event, observe);
        }
        self.now = until;
    }

    fn handle(&mut self, event: Event<M>, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        let host = match &event {
            Event::Wake(host, life) => {
                let place = &self.places[*host];
                if place.life != *life || place.wake != self.now || place.paused {
                    return;
                }
                *host
            }
            Event::Datagram(host, _) => *host,
            Event::Request { to, .. } => *to,
            Event::Answer { call, .. } | Event::Deadline { call } => match self.calls.get(call) {
                Some(caller) if self.places[caller.host].life == caller.life => caller.host,
                // It was answered, or the caller is no more.
                _ => {
                    self.calls.remove(call);
                    return;
                }
            },
        };
        let place = &mut self.places[host];
        let Some(member) = &mut place.member else { return };
        let message = matches!(event, Event::Datagram(..) | Event::Request { .. } | Event::Answer { .. });
        if place.paused || place.blocked && message {
            let datagram = matches!(event, Event::Datagram(..));
            place.datagrams_waiting += usize::from(datagram);
            if !datagram || place.datagrams_waiting <= BACKLOG {
                place.backlog.push(event);
            }
            return;
        }
        let now = Duration::from_nanos(self.now - place.started);
        let (kind, answered) = match event {
            Event::Wake(..) => {
                place.wake = Nanos::MAX;
                member.handle_timeout(now);
                (1, None)
            }
            Event::Datagram(_, datagram) => {
                member.handle_datagram(now, datagram);
                (2, None)
            }
            Event::Request { from, call, request, .. } => {
                (3, member.handle_request(now, request).map(|(answer, bytes)| (from, call, answer, bytes)))
            }
            Event::Answer { call, answer } => {
                let caller = self.calls.remove(&call).expect("it was just looked up");
                member.handle_answer(now, caller.call, Some(answer));
                (4, None)
            }
            Event::Deadline { call } => {
                let caller = self.calls.remove(&call).expect("it was just looked up");
                member.handle_answer(now, caller.call, None);
                (5, None)
            }
        };
        self.note(host, kind);
        if let Some((from, call, answer, bytes)) = answered {
            self.traffic.call_bytes += bytes as u64;
            self.note(from, bytes as u64);
            if let Some(at) = self.arrival(host, from) {
                self.queue.push(at, Event::Answer { call, answer });
            }
        }
        self.settle(host, observe);
    }

    /// Mixes what happened into the trace.
    fn note(&mut self, host: Host, what: u64) {
        self.events += 1;
        for word in [self.now, host as u64, what] {
            self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    /// Runs the timers of a member that are due.
    fn wake(&mut self, host: Host, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        let place = &mut self.places[host];
        let now = Duration::from_nanos(self.now - place.started);
        if let Some(member) = &mut place.member {
            member.handle_timeout(now);
            self.settle(host, observe);
        }
    }

    /// Carries out what a member wants and sets its alarm.
    fn settle(&mut self, host: Host, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        loop {
            let Some(member) = &mut self.places[host].member else { return };
            match member.poll_output() {
                Some(output) => self.carry_out(host, output, observe),
                None => break,
            }
        }
        let place = &mut self.places[host];
        let due = place.member.as_ref().and_then(Member::poll_timeout);
        let due = due.map_or(Nanos::MAX, |due| (place.started + nanos(due)).max(self.now) + place.slow);
        // An alarm that is too early finds nothing due and is set anew.
        if due < place.wake {
            place.wake = due;
            self.queue.push(due, Event::Wake(host, place.life));
        }
    }

    fn carry_out(&mut self, host: Host, output: Output<M>, observe: &mut impl FnMut(Duration, Host, M::Note)) {
        let place = &mut self.places[host];
        match output {
            Output::Datagram { .. } | Output::Call { .. } if place.blocked => {
                if place.held.len() < BACKLOG {
                    place.held.push(output);
                }
            }
            Output::Datagram { to, bytes, datagram } => self.send(host, to, bytes, datagram),
            Output::Call { call, to, bytes, within, request } => {
                self.call(host, (call, within), to, bytes, request);
            }
            Output::Note(note) => observe(self.now(), host, note),
            Output::End => self.crash(host),
        }
    }

    fn send(&mut self, from: Host, to: SocketAddr, bytes: usize, datagram: M::Datagram) {
        self.traffic.datagrams += 1;
        self.traffic.datagram_bytes += bytes as u64;
        self.note(from, bytes as u64);
        let Some(to) = host_of(to) else { return };
        let Some(at) = self.arrival(from, to) else { return };
        let doubled = self.weather.doubled > 0.0 && self.rng.random_bool(self.weather.doubled);
        if doubled && let Some(again) = self.arrival(from, to) {
            self.queue.push(again, Event::Datagram(to, datagram.clone()));
        }
        self.queue.push(at, Event::Datagram(to, datagram));
    }

    fn call(&mut self, host: Host, (call, within): (u64, Duration), to: SocketAddr, bytes: usize, request: M::Request) {
        self.traffic.calls += 1;
        self.traffic.call_bytes += bytes as u64;
        self.note(host, bytes as u64);
        self.calls_made += 1;
        let number = self.calls_made;
        self.calls.insert(number, Caller { host, life: self.places[host].life, call });
        self.queue.push(self.now + nanos(within), Event::Deadline { call: number });
        if let Some(to) = host_of(to)
            && let Some(at) = self.arrival(host, to)
        {
            self.queue.push(at, Event::Request { to, from: host, call: number, request });
        }
    }

    /// When what is sent now arrives, unless it is lost.
    fn arrival(&mut self, from: Host, to: Host) -> Option<Nanos> {
        let sides = (self.places.get(from)?.side, self.places.get(to)?.side);
        let apart = (self.split && sides.0 != sides.1) || (!self.cut.is_empty() && self.cut.contains(&(from, to)));
        if apart || (self.weather.loss > 0.0 && self.rng.random_bool(self.weather.loss)) {
            return None;
        }
        let jitter = nanos(self.weather.jitter);
        let jitter = if jitter == 0 { 0 } else { self.rng.random_range(0..=jitter) };
        Some(self.now + nanos(self.weather.latency) + jitter + self.places[to].slow + self.places[to].lag)
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).expect("a simulation is shorter than 500 years")
}
