//! Many nodes on the lean network, what befalls them, and what they agree on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity::cluster::Identity;
use polity::cluster::lean::{Agent, News};
use polity::shard::{Candidate, Placement, ReplicaCount, ShardCount};
use polity::{Boot, Member as Seen, NodeName, Preset, Profile, Status, Timings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::net::{Host, Net, Traffic, Weather, addr};
use super::node::{Begin, Name, Names, Node, Note, Plan};

/// How many hosts, from the first on, everyone greets as seeds unless a plan says otherwise.
const SEEDS: usize = 3;
/// How often it is looked whether all agree.
const LOOK: Duration = Duration::from_millis(50);
/// How long a node that leaves waits for its farewells.
const FAREWELL: Duration = Duration::from_secs(1);

/// When a crash was noticed by those that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection {
    /// When it was.
    pub at: Duration,
    /// When the first saw it Down, after the crash.
    pub first: Option<Duration>,
    /// When the last did.
    pub last: Option<Duration>,
    /// How many did.
    pub seen: usize,
}

/// Members that were taken for dead and ran undisturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// How often a member saw such a one Down.
    pub seen: u64,
    /// How often the first member did.
    pub raised: u64,
    /// How often that first member ran undisturbed too.
    pub by_healthy: u64,
    /// How often a member came back because others believed it down.
    pub rejoins: u64,
    /// How often a member that ran undisturbed was suspected by another.
    pub suspected: u64,
}

/// Follows what the nodes note.
#[derive(Debug, Default)]
struct Observer {
    /// By name: the host and the boot that run.
    running: BTreeMap<Name, (Host, Option<Boot>)>,
    names: BTreeMap<Host, Name>,
    /// By name and boot.
    crashed: BTreeMap<(Name, Boot), Detection>,
    /// Those who were taken for dead and have not come back yet.
    accused: BTreeSet<Name>,
    /// Hosts that are paused, slow or cut off.
    troubled: BTreeSet<Host>,
    mistakes: Mistakes,
    notes: Option<Vec<(Duration, Host, Note)>>,
}

impl Observer {
    fn take(&mut self, at: Duration, host: Host, note: Note) {
        if let Some(notes) = &mut self.notes {
            notes.push((at, host, note));
        }
        match note {
            Note::Started(boot) => {
                if let Some((_, runs)) = self.names.get(&host).and_then(|name| self.running.get_mut(name)) {
                    *runs = Some(boot);
                }
            }
            Note::Sees { name, boot, status } => self.sees(at, host, (name, boot), status),
            Note::Rejoined => {
                self.mistakes.rejoins += 1;
                if let Some(name) = self.names.get(&host) {
                    self.accused.remove(name);
                }
            }
            Note::Superseded(_) | Note::Left => {
                self.ended(host);
            }
            Note::Forgot(_) => {}
        }
    }

    fn sees(&mut self, at: Duration, host: Host, (name, boot): (Name, Boot), status: Status) {
        let down = matches!(status, Status::Down | Status::Left);
        if let Some(crash) = self.crashed.get_mut(&(name, boot))
            && down
        {
            crash.first.get_or_insert(at - crash.at);
            crash.last = Some(at - crash.at);
            crash.seen += 1;
        }
        let Some((subject, Some(runs))) = self.running.get(&name) else { return };
        if *runs != boot || self.troubled.contains(subject) {
            return;
        }
        match status {
            Status::Suspect => self.mistakes.suspected += 1,
            Status::Down => {
                self.mistakes.seen += 1;
                if self.accused.insert(name) {
                    self.mistakes.raised += 1;
                    self.mistakes.by_healthy += u64::from(!self.troubled.contains(&host));
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, host: Host) -> Option<(Name, Option<Boot>)> {
        let name = self.names.remove(&host)?;
        // Another process of the name may run by now.
        let (_, boot) = *self.running.get(&name).filter(|(runs, _)| *runs == host)?;
        self.running.remove(&name);
        self.accused.remove(&name);
        Some((name, boot))
    }
}

/// Nodes, and the network between them.
pub struct Cluster {
    net: Net<Node>,
    names: Names,
    timings: Timings,
    observer: Observer,
    rng: StdRng,
}

impl Cluster {
    /// Nobody yet, on a network of this weather.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            net: Net::new(rng.random(), weather),
            names: Names::default(),
            timings: Timings::preset(Preset::Lan),
            observer: Observer::default(),
            rng,
        }
    }

    /// So many nodes `n0`, `n1` and so on, each on the host of its number, that start at once.
    #[must_use]
    pub fn of(nodes: usize, seed: u64, weather: Weather) -> Self {
        let mut cluster = Self::new(seed, weather);
        // All hosts are there before the first process on one of them looks for others.
        let hosts: Vec<Host> = (0..nodes).map(|_| cluster.add_host()).collect();
        for host in hosts {
            let mut plan = cluster.plan(host, &format!("n{host}"));
            plan.seeds = (0..SEEDS.min(nodes)).map(addr).collect();
            cluster.start(host, plan);
        }
        cluster
    }

    /// Keeps everything that nodes note from now on, for [`Cluster::notes`].
    pub fn keep_notes(&mut self) {
        self.observer.notes.get_or_insert_default();
    }

    /// What was noted, by whom and when.
    #[must_use]
    pub fn notes(&self) -> &[(Duration, Host, Note)] {
        self.observer.notes.as_deref().unwrap_or_default()
    }

    /// The names behind the numbers in notes.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &Net<Node> {
        &self.net
    }

    /// How the network behaves from now on.
    pub fn weather(&mut self) -> &mut Weather {
        self.net.weather()
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.net.now()
    }

    /// What all have sent.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.net.traffic()
    }

    /// Who was taken for dead wrongly.
    #[must_use]
    pub fn mistakes(&self) -> Mistakes {
        self.observer.mistakes
    }

    /// The crashes, in the order of names and boots.
    pub fn detections(&self) -> impl Iterator<Item = &Detection> {
        self.observer.crashed.values()
    }

    /// The hosts on which nodes run.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.net.members().map(|(host, _)| host).collect()
    }

    /// The node on a host.
    ///
    /// # Panics
    /// If none runs there.
    #[must_use]
    pub fn node(&self, host: Host) -> &Node {
        self.net.member(host).expect("a node runs on this host")
    }

    /// The identity of the node on a host.
    ///
    /// # Panics
    /// If none takes part there.
    #[must_use]
    pub fn identity(&self, host: Host) -> Identity {
        self.node(host).identity().expect("the node takes part").clone()
    }

    /// What the node on one host sees of a name.
    #[must_use]
    pub fn sees(&self, host: Host, name: &str) -> Option<Seen> {
        self.node(host).sees(&node_name(name))
    }

    /// The status in which the node on one host sees a name.
    #[must_use]
    pub fn status(&self, host: Host, name: &str) -> Option<Status> {
        self.sees(host, name).map(|seen| seen.status)
    }

    /// A plan for a node of this name on a host: it asks the first hosts as a process does.
    #[must_use]
    pub fn plan(&mut self, host: Host, name: &str) -> Plan {
        Plan {
            name: node_name(name),
            addr: addr(host),
            seeds: (0..SEEDS).map(addr).collect(),
            timings: self.timings.clone(),
            profile: Profile::default(),
            begin: Begin::Ask { remembered: 0 },
            seed: self.rng.random(),
        }
    }

    /// Adds a host and starts a node there, named after it. Returns the host.
    pub fn join(&mut self) -> Host {
        let host = self.net.add_host();
        let plan = self.plan(host, &format!("n{host}"));
        self.start(host, plan);
        host
    }

    /// Adds a host on which nothing runs yet.
    pub fn add_host(&mut self) -> Host {
        self.net.add_host()
    }

    /// Starts a node on a host; what ran there has crashed.
    pub fn start(&mut self, host: Host, plan: Plan) {
        self.crash(host);
        let name = self.names.number(&plan.name);
        self.observer.names.insert(host, name);
        self.observer.running.insert(name, (host, None));
        let node = Node::new(plan, self.names.clone());
        self.net.start(host, node, &mut |at, host, note| self.observer.take(at, host, note));
    }

    /// Starts the node on a host again: it asks its seeds for its next boot.
    pub fn restart(&mut self, host: Host) {
        let plan =
            Plan { begin: Begin::Ask { remembered: 0 }, seed: self.rng.random(), ..self.node(host).plan().clone() };
        self.start(host, plan);
    }

    /// Ends the process on a host.
    pub fn crash(&mut self, host: Host) {
        self.net.crash(host);
        self.observer.troubled.remove(&host);
        if let Some((name, Some(boot))) = self.observer.ended(host) {
            let crash = Detection { at: self.net.now(), first: None, last: None, seen: 0 };
            self.observer.crashed.insert((name, boot), crash);
        }
    }

    /// Lets the node on a host leave.
    pub fn leave(&mut self, host: Host) {
        self.poke(host, |agent, now| agent.handle_leave(now, FAREWELL));
    }

    /// Does something with the membership of the node on a host.
    pub fn poke<R>(&mut self, host: Host, poke: impl FnOnce(&mut Agent, Duration) -> R) -> R {
        let observer = &mut self.observer;
        self.net.poke(host, &mut |at, host, note| observer.take(at, host, note), |node, now| node.poke(now, poke))
    }

    /// Tells a node something, as if the member on another host had.
    pub fn tell(&mut self, host: Host, from: Host, news: News) {
        let from = self.node(from).name().clone();
        self.poke(host, |agent, now| agent.handle_tell(now, &from, news));
    }

    /// Stops the time of the node on a host.
    pub fn pause(&mut self, host: Host) {
        self.net.pause(host);
        self.look_for_trouble();
    }

    /// Lets it go on.
    pub fn resume(&mut self, host: Host) {
        let observer = &mut self.observer;
        self.net.resume(host, &mut |at, host, note| observer.take(at, host, note));
        self.look_for_trouble();
    }

    /// Everything takes the node on a host so much longer.
    pub fn slow(&mut self, host: Host, by: Duration) {
        self.net.slow(host, by);
        self.look_for_trouble();
    }

    /// Puts hosts on a side of the network. All begin on side 0, and sides do not reach each other.
    pub fn part(&mut self, hosts: impl IntoIterator<Item = Host>, side: u32) {
        self.net.put(hosts, side);
        self.look_for_trouble();
    }

    /// From now on nothing goes from one host to another.
    pub fn cut(&mut self, from: Host, to: Host) {
        self.net.cut(from, to);
        self.look_for_trouble();
    }

    /// Ends all cuts and sides.
    pub fn heal(&mut self) {
        self.net.heal();
        self.look_for_trouble();
    }

    /// Runs for some time.
    pub fn run(&mut self, time: Duration) {
        let observer = &mut self.observer;
        self.net.run(time, &mut |at, host, note| observer.take(at, host, note));
    }

    /// Runs until all agree, for so long at most. Returns how long it took.
    pub fn run_until_agreed(&mut self, at_most: Duration) -> Option<Duration> {
        let begin = self.now();
        while !self.agreed() {
            if self.now() - begin >= at_most {
                return None;
            }
            self.run(LOOK);
        }
        Some(self.now() - begin)
    }

    /// Whether every node that runs sees just those up that run, each in the life that runs and with what it says of
    /// itself.
    #[must_use]
    pub fn agreed(&self) -> bool {
        let mut nodes = self.net.members().map(|(_, node)| node);
        let Some(first) = nodes.next() else { return true };
        let running = self.observer.running.len();
        let lives = || {
            self.observer.running.iter().all(|(name, (_, boot))| {
                first
                    .sees(&self.names.name(*name))
                    .is_some_and(|seen| Some(seen.id.boot) == *boot && seen.profile.is_some())
            })
        };
        first.up().1 == running && nodes.all(|node| node.up() == first.up()) && lives()
    }

    /// Whether these nodes see the same up, whoever runs.
    #[must_use]
    pub fn agreed_among(&self, hosts: &[Host]) -> bool {
        hosts.iter().all(|host| self.node(*host).up() == self.node(hosts[0]).up())
    }

    /// Computes the placement at every `every`th node (promise H1). Returns how many different views there are.
    ///
    /// # Errors
    /// Two nodes with equal views have different placements, or what a node was told of changes is not what it sees.
    pub fn check_placements(&self, every: usize) -> Result<usize, String> {
        let mut placements = BTreeMap::new();
        for (host, node) in self.net.members().step_by(every) {
            if node.up() != node.up_anew() {
                return Err(format!("{} on host {host} was not told of all changes", node.name()));
            }
            let Some(agent) = node.agent() else { continue };
            let digest = placement(agent).digest();
            let (before, other) = *placements.entry(node.up()).or_insert((digest, host));
            if before != digest {
                return Err(format!("the nodes on hosts {other} and {host} see the same and place differently"));
            }
        }
        Ok(placements.len())
    }

    /// Checks the invariants of every node.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn validate(&self) {
        for (_, node) in self.net.members() {
            if let Some(agent) = node.agent() {
                agent.validate();
            }
        }
    }

    fn look_for_trouble(&mut self) {
        let hosts = self.net.members().map(|(host, _)| host);
        self.observer.troubled = hosts.filter(|host| self.net.is_troubled(*host)).collect();
    }
}

fn node_name(name: &str) -> NodeName {
    NodeName::new(name).expect("names in simulations are valid")
}

/// Where shards go as a node sees it: to members that are up, have said what they are, and are not about to leave.
fn placement(agent: &Agent) -> Placement {
    let members = agent.members();
    let up = members.values().filter(|member| member.status.is_up());
    let candidates: Vec<Candidate> = up
        .filter_map(|member| {
            let profile = member.profile.as_ref().filter(|profile| !profile.draining)?;
            Some(Candidate { name: member.id.name.clone(), weight: profile.weight, zone: profile.zone.clone() })
        })
        .collect();
    Placement::compute(&candidates, ShardCount::default(), ReplicaCount::default())
        .expect("views have one member of each name, and networks have fewer than the most that can be placed")
}
