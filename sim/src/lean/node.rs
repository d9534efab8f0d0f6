//! A node of `polity` as a member of the lean network: the sans-IO cores of membership and node state, and what stands
//! around them in a process when it starts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use polity::cluster::Identity;
use polity::cluster::lean::{self, Agent, News, Payload, Peer, Refused};
use polity::{Boot, Member as Seen, NodeId, NodeName, Profile, Status, Timings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use xxhash_rust::xxh3::xxh3_64;

use super::net::{Member, Output};

/// How long a node that starts waits before it greets a seed again, at first and at most.
const GREET_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// About how long a greeting is: a hello with the names of cluster, node and settings.
const HELLO_BYTES: usize = 150;

/// A name as a number: what a node saw of a thousand others takes little room then.
pub type Name = u32;

/// The names of a network, in the order in which they were first used.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Numbered>>);

#[derive(Debug, Default)]
struct Numbered {
    names: Vec<NodeName>,
    numbers: BTreeMap<NodeName, Name>,
}

impl Names {
    /// The number of a name.
    #[must_use]
    pub fn number(&self, name: &NodeName) -> Name {
        let Numbered { names, numbers } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers.entry(name.clone()).or_insert_with(|| {
            names.push(name.clone());
            Name::try_from(names.len() - 1).expect("a network has fewer than 2^32 names")
        })
    }

    /// The name of a number.
    ///
    /// # Panics
    /// If no name has it.
    #[must_use]
    pub fn name(&self, number: Name) -> NodeName {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).names[number as usize].clone()
    }
}

/// What a node tells its observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It has chosen its boot and takes part.
    Started(Boot),
    /// It sees a member so from now on.
    Sees {
        /// Whom.
        name: Name,
        /// Which life of it.
        boot: Boot,
        /// As what.
        status: Status,
    },
    /// It has forgotten a member.
    Forgot(Name),
    /// Others believed it down, and it came back.
    Rejoined,
    /// A newer boot of its name exists: it has ended.
    Superseded(Boot),
    /// It has left.
    Left,
}

/// How a node starts.
#[derive(Clone, Debug)]
pub enum Begin {
    /// As a process does: it asks its seeds for its generation, which is at least one more than what its disk
    /// remembers, and goes on alone if none answers.
    Ask {
        /// What its disk remembers, 0 without a disk.
        remembered: u64,
    },
    /// Under this boot at once, having met these.
    As(Boot, Vec<Identity>),
}

/// What a node is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: NodeName,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whom it greets.
    pub seeds: BTreeSet<SocketAddr>,
    /// Its times.
    pub timings: Timings,
    /// What it says of itself.
    pub profile: Profile,
    /// How it starts.
    pub begin: Begin,
    /// Where its randomness comes from.
    pub seed: u64,
}

/// A datagram: who sealed it, for whom, and its payload.
#[derive(Clone, Debug)]
pub struct Datagram {
    from: Peer,
    to: Peer,
    payload: Payload,
}

/// A call as it arrives: at the door it says who calls and whom it expects.
#[derive(Debug)]
pub struct Request {
    caller: NodeName,
    boot: Option<Boot>,
    expects: Option<NodeId>,
    ask: Ask,
}

#[derive(Debug)]
enum Ask {
    Greet,
    PushPull(lean::Request),
    Tell(News),
}

/// The answer to a call.
#[derive(Debug)]
pub enum Answer {
    /// To a greeting: who is here, and the generation that is known of the caller's name.
    Welcome(Identity, u64),
    /// To a push-pull.
    PushPull(lean::Answer),
    /// To a tell.
    Told(lean::Rest),
    /// Not let in, or not listened to.
    Refused(Option<Boot>),
    /// Who is here starts itself.
    Starting,
}

/// What a call was made for.
enum Errand {
    FirstGreeting(SocketAddr),
    Greeting,
    PushPull(Peer),
    Tell(Peer),
    Farewell,
}

enum Phase {
    /// It greets its seeds, each of those that wait again at its time.
    Starting {
        again: BTreeMap<SocketAddr, (Duration, Duration)>,
        /// Those that said that they are starting themselves.
        starting: BTreeSet<SocketAddr>,
        until: Duration,
        remembered: u64,
    },
    Running(Box<Agent>),
}

/// One process of a cluster.
pub struct Node {
    plan: Plan,
    names: Names,
    rng: StdRng,
    phase: Phase,
    /// Between the start of the process and that of its membership.
    delay: Duration,
    errands: BTreeMap<u64, Errand>,
    errands_made: u64,
    outputs: VecDeque<Output<Self>>,
    /// What each name adds to `up`.
    parts: Vec<u64>,
    up: u64,
    count: usize,
}

impl Node {
    /// A process that begins to start.
    #[must_use]
    pub fn new(plan: Plan, names: Names) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let phase = match &plan.begin {
            Begin::As(boot, met) => Phase::Running(Box::new(agent(&plan, *boot, met.clone(), rng.random()))),
            Begin::Ask { remembered } => {
                let others = plan.seeds.iter().filter(|seed| **seed != plan.addr);
                let first = others.map(|seed| (*seed, (Duration::ZERO, GREET_AGAIN.0))).collect();
                let (starting, until) = (BTreeSet::new(), plan.timings.solo_after);
                Phase::Starting { again: first, starting, until, remembered: *remembered }
            }
        };
        let mut node = Self {
            plan,
            names,
            rng,
            phase,
            delay: Duration::ZERO,
            errands: BTreeMap::new(),
            errands_made: 0,
            outputs: VecDeque::new(),
            parts: Vec::new(),
            up: 0,
            count: 0,
        };
        if let Phase::Running(agent) = &node.phase {
            node.outputs.push_back(Output::Note(Note::Started(agent.identity().node.boot)));
        } else {
            node.greet(Duration::ZERO);
        }
        node
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.plan.name
    }

    /// What it was started as.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its identity, once it takes part.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.agent().map(Agent::identity)
    }

    /// Its membership, once it takes part.
    #[must_use]
    pub fn agent(&self) -> Option<&Agent> {
        match &self.phase {
            Phase::Starting { .. } => None,
            Phase::Running(agent) => Some(agent),
        }
    }

    /// What it sees of a member.
    #[must_use]
    pub fn sees(&self, name: &NodeName) -> Option<Seen> {
        self.agent()?.member(name)
    }

    /// [`Node::up`], made anew from all that it sees.
    #[must_use]
    pub fn up_anew(&self) -> (u64, usize) {
        let members = self.agent().map(Agent::members).unwrap_or_default();
        let up = members.values().filter(|seen| seen.status.is_up());
        up.fold((0, 0), |(hash, count), seen| (hash ^ part(self.names.number(&seen.id.name), seen), count + 1))
    }

    /// A hash of whom it sees up, in which life, and of what they say of themselves; and how many they are.
    #[must_use]
    pub fn up(&self) -> (u64, usize) {
        (self.up, self.count)
    }

    /// Does something with its membership. The time of the agent is handed in.
    ///
    /// # Panics
    /// If it does not take part yet.
    pub fn poke<R>(&mut self, now: Duration, poke: impl FnOnce(&mut Agent, Duration) -> R) -> R {
        let now = now - self.delay;
        let Phase::Running(agent) = &mut self.phase else { panic!("{} does not take part yet", self.plan.name) };
        poke(agent, now)
    }

    fn call(&mut self, errand: Errand, to: SocketAddr, within: Duration, bytes: usize, request: Box<Request>) {
        self.errands_made += 1;
        self.errands.insert(self.errands_made, errand);
        self.outputs.push_back(Output::Call { call: self.errands_made, to, bytes, within, request });
    }

    fn request(&self, expects: Option<NodeId>, ask: Ask) -> Box<Request> {
        let boot = self.identity().map(|identity| identity.node.boot);
        Box::new(Request { caller: self.plan.name.clone(), boot, expects, ask })
    }

    /// Greets the seeds whose time has come, or goes on alone.
    fn greet(&mut self, now: Duration) {
        let Phase::Starting { again, until, .. } = &mut self.phase else { return };
        if again.is_empty() && self.errands.is_empty() || now >= *until {
            return self.begin(now, None);
        }
        let within = *until - now;
        let due: Vec<SocketAddr> = again.iter().filter(|(_, (at, _))| *at <= now).map(|(seed, _)| *seed).collect();
        for seed in due {
            if let Phase::Starting { again, .. } = &mut self.phase
                && let Some((at, _)) = again.get_mut(&seed)
            {
                *at = Duration::MAX;
            }
            let request = self.request(None, Ask::Greet);
            self.call(Errand::FirstGreeting(seed), seed, within, HELLO_BYTES, request);
        }
    }

    /// Chooses its boot and takes part.
    fn begin(&mut self, now: Duration, met: Option<(Identity, u64)>) {
        let Phase::Starting { remembered, .. } = self.phase else { return };
        let generation = met.as_ref().map_or(0, |(_, known)| *known).max(remembered) + 1;
        let boot = Boot { generation, nonce: self.rng.random() };
        let met = met.into_iter().map(|(identity, _)| identity).collect();
        self.phase = Phase::Running(Box::new(agent(&self.plan, boot, met, self.rng.random())));
        self.delay = now;
        self.outputs.push_back(Output::Note(Note::Started(boot)));
    }

    /// Passes on what the agent wants.
    fn pass_on(&mut self, output: lean::Output) {
        match output {
            lean::Output::Send { .. } => {}
            lean::Output::PushPull { with, request, within } => {
                let (to, bytes) = (with.addr, request.bytes());
                let request = self.request(Some(with.node.clone()), Ask::PushPull(request));
                self.call(Errand::PushPull(with), to, within, bytes, request);
            }
            lean::Output::Tell { to, news, within } => self.tell(Errand::Tell(to.clone()), &to, news, within),
            lean::Output::Farewell { to, news, within } => self.tell(Errand::Farewell, &to, news, within),
            lean::Output::Greet { addr, within } => {
                let request = self.request(None, Ask::Greet);
                self.call(Errand::Greeting, addr, within, HELLO_BYTES, request);
            }
            lean::Output::Rejoined => self.outputs.push_back(Output::Note(Note::Rejoined)),
            lean::Output::Superseded(by) => self.end(Note::Superseded(by)),
            lean::Output::Left => self.end(Note::Left),
            _ => {}
        }
    }

    fn tell(&mut self, errand: Errand, to: &Peer, news: News, within: Duration) {
        let bytes = news.bytes();
        let request = self.request(Some(to.node.clone()), Ask::Tell(news));
        self.call(errand, to.addr, within, bytes, request);
    }

    fn end(&mut self, note: Note) {
        self.outputs.push_back(Output::Note(note));
        self.outputs.push_back(Output::End);
    }

    /// Notes what it sees otherwise than before.
    fn look(&mut self) {
        let Phase::Running(agent) = &mut self.phase else { return };
        for changed in agent.take_changed() {
            let (seen, name) = (agent.member(&changed), self.names.number(&changed));
            let note = match &seen {
                Some(seen) => Note::Sees { name, boot: seen.id.boot, status: seen.status },
                None => Note::Forgot(name),
            };
            self.outputs.push_back(Output::Note(note));
            let part = seen.filter(|seen| seen.status.is_up()).map_or(0, |seen| part(name, &seen));
            if self.parts.len() <= name as usize {
                self.parts.resize(name as usize + 1, 0);
            }
            let before = std::mem::replace(&mut self.parts[name as usize], part);
            self.up ^= before ^ part;
            self.count = self.count + usize::from(part != 0) - usize::from(before != 0);
        }
    }
}

/// What one member that is up adds to the hash of a view. Never 0.
fn part(name: Name, seen: &Seen) -> u64 {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(name.to_le_bytes());
    bytes.extend(seen.id.boot.to_bytes());
    if let Some(profile) = &seen.profile {
        bytes.extend(profile.weight.get().to_le_bytes());
        bytes.extend([u8::from(profile.draining), u8::from(profile.left)]);
        bytes.extend(profile.zone.iter().flat_map(|zone| zone.as_str().as_bytes()));
    }
    xxh3_64(&bytes) | 1
}

fn agent(plan: &Plan, boot: Boot, met: Vec<Identity>, seed: u64) -> Agent {
    let own = Identity { node: NodeId { name: plan.name.clone(), boot }, rejoin: 0, addr: plan.addr };
    let seeds = plan.seeds.iter().copied().filter(|seed| *seed != plan.addr).collect();
    Agent::new(own, &plan.timings, plan.profile.clone(), seed, met, seeds)
}

impl Member for Node {
    type Datagram = Datagram;
    // Boxed, because most of what happens is datagrams.
    type Request = Box<Request>;
    type Answer = Box<Answer>;
    type Note = Note;

    fn handle_datagram(&mut self, now: Duration, datagram: Datagram) {
        let Phase::Running(agent) = &mut self.phase else { return };
        // What was sealed for another life does not open.
        if datagram.to.node.boot == agent.identity().node.boot {
            agent.handle_payload(now - self.delay, datagram.from.node.boot, &datagram.payload);
        }
    }

    fn handle_request(&mut self, now: Duration, request: Box<Request>) -> Option<(Box<Answer>, usize)> {
        let refused = |newer| Some((Box::new(Answer::Refused(newer)), HELLO_BYTES));
        let Phase::Running(agent) = &mut self.phase else { return Some((Box::new(Answer::Starting), HELLO_BYTES)) };
        let now = now - self.delay;
        let generation = match agent.admit(&request.caller, request.boot, request.expects.as_ref()) {
            Ok(generation) => generation,
            Err(Refused::NameTaken(by)) => return refused(Some(by)),
            Err(Refused::Other) => return refused(None),
        };
        match request.ask {
            Ask::Greet => Some((Box::new(Answer::Welcome(agent.identity().clone(), generation)), HELLO_BYTES)),
            Ask::PushPull(asked) => match agent.handle_push_pull(now, &asked) {
                Some(answer) => {
                    let bytes = answer.bytes();
                    Some((Box::new(Answer::PushPull(answer)), bytes))
                }
                None => refused(None),
            },
            Ask::Tell(news) => {
                let Some(rest) = agent.handle_tell(now, &request.caller, news) else { return refused(None) };
                let bytes = rest.bytes();
                Some((Box::new(Answer::Told(rest)), bytes))
            }
        }
    }

    fn handle_answer(&mut self, now: Duration, call: u64, answer: Option<Box<Answer>>) {
        let answer = answer.map(|answer| *answer);
        let Some(errand) = self.errands.remove(&call) else { return };
        if let Errand::FirstGreeting(seed) = &errand {
            match (answer, &mut self.phase) {
                (Some(Answer::Welcome(identity, generation)), Phase::Starting { .. }) => {
                    self.begin(now, Some((identity, generation)));
                }
                (answer, Phase::Starting { again, starting, .. }) => {
                    if let Some((at, pause)) = again.get_mut(seed) {
                        *at = now + *pause;
                        *pause = (*pause * 2).min(GREET_AGAIN.1);
                    }
                    if matches!(answer, Some(Answer::Starting)) {
                        starting.insert(*seed);
                    }
                    // All are there and none is a member: the first of them founds the cluster.
                    if starting.len() == again.len() && starting.first().is_some_and(|first| self.plan.addr < *first) {
                        self.begin(now, None);
                    }
                }
                _ => {}
            }
            return;
        }
        let Phase::Running(agent) = &mut self.phase else { return };
        let now = now - self.delay;
        let newer = match &answer {
            Some(Answer::Refused(newer)) => *newer,
            _ => None,
        };
        match (errand, answer) {
            (Errand::Farewell, _) => agent.handle_farewell(),
            (Errand::PushPull(peer), Some(Answer::PushPull(answer))) => agent.handle_answer(now, &peer, answer),
            (Errand::Greeting, Some(Answer::Welcome(identity, _))) => agent.handle_greeted(now, identity),
            (Errand::Tell(peer), Some(Answer::Told(rest))) => agent.handle_told(now, &peer, rest),
            _ => agent.handle_failed(newer),
        }
    }

    fn poll_timeout(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Starting { again, until, .. } => {
                Some(again.values().map(|(at, _)| *at).min().map_or(*until, |at| at.min(*until)))
            }
            Phase::Running(agent) => Some(agent.poll_timeout()? + self.delay),
        }
    }

    fn handle_timeout(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::Starting { .. } => self.greet(now),
            Phase::Running(agent) => agent.handle_timeout(now - self.delay),
        }
    }

    fn poll_output(&mut self) -> Option<Output<Self>> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let Phase::Running(agent) = &mut self.phase else { return None };
            match agent.poll_output() {
                Some(lean::Output::Send { to, payload }) => {
                    let (addr, bytes) = (to.addr, payload.bytes());
                    let datagram = Datagram { from: agent.peer(), to, payload };
                    return Some(Output::Datagram { to: addr, bytes, datagram });
                }
                Some(output) => self.pass_on(output),
                None => {
                    self.look();
                    return self.outputs.pop_front();
                }
            }
        }
    }
}
