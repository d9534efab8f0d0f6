//! Members of `kinship-core` 0.5: SWIM with Lifeguard, with the settings and the protocol of `memberlist`.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use kinship_core::{Command, Config, Event, Identity, Instant, Key, Node, Security, StreamEvent, StreamId, Transmit};
use polity::{Preset, Timings};
use polity_sim::lean::net::{Member, Output};
use polity_sim::lean::{Host, addr};

use super::{Library, Sight, Start};

/// How long the length in front of a frame is.
const PREFIX: usize = 4;

/// `kinship-core`, encrypted as it is by default.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kinship {
    /// As its `lan` preset has it.
    Lan,
    /// With our times. Its suspicions are a whole number of logarithms: the next longer one.
    OurTimes,
}

impl Kinship {
    fn config(self, hosts: usize) -> Config {
        let lan = Config::lan(Security::Keys(vec![Key::from_bytes([7; Key::LEN])]));
        match self {
            Self::Lan => lan,
            Self::OurTimes => {
                let times = Timings::preset(Preset::Lan);
                let log = (hosts as f64).log10().max(1.0);
                let shortest = times.suspicion.mul_f64((log / 2.0).max(1.0));
                let mult = shortest.as_secs_f64() / (log * times.probe_period.as_secs_f64());
                Config {
                    probe_interval: times.probe_period,
                    probe_timeout: times.probe_timeout,
                    gossip_interval: times.gossip_interval,
                    suspicion_mult: mult.ceil() as u32,
                    ..lan
                }
            }
        }
    }
}

fn name(host: Host) -> String {
    format!("n{host}")
}

fn host(name: &str) -> Host {
    name.trim_start_matches('n').parse().expect("names are numbered by hosts")
}

fn at(now: Duration) -> Instant {
    Instant::from_nanos(u64::try_from(now.as_nanos()).expect("a simulation is shorter than 500 years"))
}

/// What is written to a connection, as a question.
pub(crate) struct Request {
    from: SocketAddr,
    connection: StreamId,
    frames: Vec<u8>,
}

/// What is written back, and whether the connection is closed.
pub(crate) struct Answer {
    frames: Vec<u8>,
    closed: bool,
}

/// One member.
pub(crate) struct Kin {
    node: Node,
    within: Duration,
    /// Where the connections lead that it has opened.
    opened: BTreeMap<StreamId, SocketAddr>,
    /// Those that others have opened, by their names for them.
    accepted: BTreeMap<(SocketAddr, StreamId), StreamId>,
    accepted_so_far: u64,
    calls: BTreeMap<u64, StreamId>,
    calls_made: u64,
    /// What is written to connections that others have opened, and those that it has closed.
    answers: BTreeMap<StreamId, Vec<u8>>,
    closed: Vec<StreamId>,
    outputs: VecDeque<Output<Self>>,
}

impl Library for Kinship {
    type Member = Kin;

    fn start(self, start: Start) -> Kin {
        let config = self.config(start.hosts);
        let within = config.tcp_timeout;
        let identity = Identity::new(name(start.host), addr(start.host)).expect("a short name").with_epoch(1);
        let mut nonces = [0; 32];
        nonces[..8].copy_from_slice(&start.seed.to_le_bytes());
        let node = Node::new(config, identity, Instant::ZERO, start.seed, &nonces).expect("valid settings");
        let mut member = Kin {
            node,
            within,
            opened: BTreeMap::new(),
            accepted: BTreeMap::new(),
            accepted_so_far: 0,
            calls: BTreeMap::new(),
            calls_made: 0,
            answers: BTreeMap::new(),
            closed: Vec::new(),
            outputs: VecDeque::new(),
        };
        if start.knowing {
            for other in start.others() {
                member.node.add_member(Instant::ZERO, &name(other), addr(other)).expect("there is room");
            }
        } else {
            member.node.command(Instant::ZERO, Command::Join { seeds: start.seeds().collect() });
        }
        member.drain();
        member
    }
}

impl Kin {
    fn drain(&mut self) {
        while let Some(transmit) = self.node.poll_transmit() {
            match transmit {
                Transmit::Datagram { to, payload } => {
                    self.outputs.push_back(Output::Datagram { to, bytes: payload.len(), datagram: payload });
                }
                Transmit::Connect { conn, to } => {
                    self.opened.insert(conn, to);
                }
                Transmit::Stream { conn, frame } if conn.is_inbound() => {
                    self.answers.entry(conn).or_default().extend(frame);
                }
                Transmit::Stream { conn, frame } => self.write(conn, frame),
                Transmit::Close { conn } if conn.is_inbound() => self.closed.push(conn),
                Transmit::Close { conn } => {
                    self.opened.remove(&conn);
                }
            }
        }
        while let Some(event) = self.node.poll_event() {
            let sight = match event {
                Event::MemberJoined(member) | Event::MemberRecovered(member) => Sight::Up(host(&member.name)),
                Event::MemberSuspect(member) => Sight::Suspect(host(&member.name)),
                Event::MemberDead(member) | Event::MemberLeft(member) => Sight::Down(host(&member.name)),
                _ => continue,
            };
            self.outputs.push_back(Output::Note(sight));
        }
    }

    fn write(&mut self, connection: StreamId, frames: Vec<u8>) {
        let Some(to) = self.opened.get(&connection).copied() else { return };
        self.calls_made += 1;
        self.calls.insert(self.calls_made, connection);
        let (from, bytes) = (self.node.identity().addr(), frames.len());
        let request = Request { from, connection, frames };
        self.outputs.push_back(Output::Call { call: self.calls_made, to, bytes, within: self.within, request });
    }

    fn read(&mut self, now: Duration, connection: StreamId, mut bytes: &[u8]) {
        while let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() {
            let (frame, rest) = rest.split_at(u32::from_be_bytes(*prefix) as usize);
            self.node.handle_stream(at(now), connection, StreamEvent::Frame(frame));
            self.drain();
            bytes = rest;
        }
    }
}

impl Member for Kin {
    type Datagram = Vec<u8>;
    type Request = Request;
    type Answer = Answer;
    type Note = Sight;

    fn handle_datagram(&mut self, now: Duration, datagram: Vec<u8>) {
        // Replies go to addresses inside of messages; where a datagram came from does not matter.
        self.node.handle_datagram(at(now), self.node.identity().addr(), &datagram);
        self.drain();
    }

    fn handle_request(&mut self, now: Duration, request: Request) -> Option<(Answer, usize)> {
        let key = (request.from, request.connection);
        let connection = *self.accepted.entry(key).or_insert_with(|| {
            self.accepted_so_far += 1;
            StreamId::inbound(self.accepted_so_far)
        });
        self.read(now, connection, &request.frames);
        let frames = self.answers.remove(&connection).unwrap_or_default();
        let closed = self.closed.contains(&connection);
        self.closed.retain(|closed| *closed != connection);
        if closed {
            self.accepted.remove(&key);
        }
        let bytes = frames.len();
        Some((Answer { frames, closed }, bytes))
    }

    fn handle_answer(&mut self, now: Duration, call: u64, answer: Option<Answer>) {
        let Some(connection) = self.calls.remove(&call) else { return };
        if !self.opened.contains_key(&connection) {
            return;
        }
        match answer {
            Some(Answer { frames, closed }) => {
                self.read(now, connection, &frames);
                if closed && self.opened.remove(&connection).is_some() {
                    self.node.handle_stream(at(now), connection, StreamEvent::Closed);
                }
            }
            None => {
                self.opened.remove(&connection);
                self.node.handle_stream(at(now), connection, StreamEvent::Failed);
            }
        }
        self.drain();
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.node.poll_timeout().map(|due| Duration::from_nanos(due.as_nanos()))
    }

    fn handle_timeout(&mut self, now: Duration) {
        self.node.handle_timeout(at(now));
        self.drain();
    }

    fn poll_output(&mut self) -> Option<Output<Self>> {
        self.outputs.pop_front()
    }
}
