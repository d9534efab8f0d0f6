//! Members of one library on one network, and what they believe of each other.

use std::time::Duration;

use polity_sim::lean::{Host, Net, Traffic, Weather};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::peers::{Library, Sight, Start};

/// How often it is looked whether all agree.
const LOOK: Duration = Duration::from_millis(50);

/// Members that were taken for dead and ran undisturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mistakes {
    /// How often a member took such a one for dead: the paper's false positives.
    pub(crate) seen: u64,
    /// How often the member that did ran undisturbed too.
    pub(crate) by_healthy: u64,
    /// How often anybody did while nobody else did: once for each time that such a one was buried, however many believed it.
    pub(crate) raised: u64,
    /// How often a member came back under another identity because others believed it down.
    pub(crate) rejoins: u64,
}

impl std::ops::AddAssign for Mistakes {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.by_healthy += other.by_healthy;
        self.raised += other.raised;
        self.rejoins += other.rejoins;
    }
}

/// When a kill was noticed by those that ran.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detection {
    /// After how long by the first.
    pub(crate) first: Duration,
    /// After how long by the last.
    pub(crate) last: Duration,
}

/// Who sees whom.
struct Watch {
    running: Vec<bool>,
    slow: Vec<bool>,
    /// By observer, then by subject.
    up: Vec<Vec<bool>>,
    /// In how many places `up` is not what runs, among observers that run.
    wrong: usize,
    /// By how many each is taken for dead who saw it up before.
    burying: Vec<usize>,
    mistakes: Mistakes,
    killed: Option<(Host, Duration)>,
    seen: Vec<Duration>,
}

impl Watch {
    fn take(&mut self, at: Duration, observer: Host, sight: Sight) {
        match sight {
            Sight::Rejoined => self.mistakes.rejoins += 1,
            Sight::Up(subject) | Sight::Suspect(subject) => self.set(at, observer, subject, true),
            Sight::Down(subject) => self.set(at, observer, subject, false),
        }
    }

    fn set(&mut self, at: Duration, observer: Host, subject: Host, up: bool) {
        if observer == subject || self.up[observer][subject] == up {
            return;
        }
        self.up[observer][subject] = up;
        if up == self.running[subject] {
            self.wrong -= 1;
        } else {
            self.wrong += 1;
        }
        if let Some((killed, when)) = self.killed
            && killed == subject
            && !up
        {
            self.seen.push(at - when);
        }
        if !self.running[subject] {
            return;
        }
        if up {
            self.burying[subject] = self.burying[subject].saturating_sub(1);
            return;
        }
        self.burying[subject] += 1;
        if !self.slow[subject] {
            let (first, healthy) = (self.burying[subject] == 1, !self.slow[observer]);
            self.mistakes.seen += 1;
            self.mistakes.by_healthy += u64::from(healthy);
            self.mistakes.raised += u64::from(first);
        }
    }

    fn end(&mut self, host: Host) {
        for subject in 0..self.running.len() {
            if subject != host && self.up[host][subject] != self.running[subject] {
                self.wrong -= 1;
            }
        }
        self.running[host] = false;
        for observer in 0..self.running.len() {
            if self.running[observer] {
                if self.up[observer][host] {
                    self.wrong += 1;
                } else {
                    self.wrong -= 1;
                }
            }
        }
    }
}

/// Members, and the network between them.
pub(crate) struct Arena<L: Library> {
    net: Net<L::Member>,
    watch: Watch,
    rng: StdRng,
}

impl<L: Library> Arena<L> {
    /// A cluster whose members know each other, and how long it took them. Those that do not manage it `within` that time
    /// are told of each other instead.
    pub(crate) fn formed(library: L, hosts: usize, seed: u64, within: Duration) -> (Self, Option<Duration>) {
        let mut arena = Self::new(library, hosts, seed, false);
        let formation = arena.run_until_agreed(within);
        if formation.is_none() {
            arena = Self::new(library, hosts, seed, true);
            arena.run_until_agreed(within);
        }
        (arena, formation)
    }

    /// So many members that start at once, on a quiet network.
    pub(crate) fn new(library: L, hosts: usize, seed: u64, knowing: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut net = Net::new(rng.random(), Weather::default());
        let watch = Watch {
            running: vec![true; hosts],
            slow: vec![false; hosts],
            up: vec![vec![false; hosts]; hosts],
            wrong: hosts * hosts.saturating_sub(1),
            burying: vec![0; hosts],
            mistakes: Mistakes::default(),
            killed: None,
            seen: Vec::new(),
        };
        for _ in 0..hosts {
            net.add_host();
        }
        let mut arena = Self { net, watch, rng };
        for host in 0..hosts {
            let member = library.start(Start { host, hosts, seed: arena.rng.random(), knowing });
            let watch = &mut arena.watch;
            arena.net.start(host, member, &mut |at, host, sight| watch.take(at, host, sight));
        }
        arena
    }

    pub(crate) fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    pub(crate) fn hosts(&self) -> usize {
        self.watch.running.len()
    }

    pub(crate) fn now(&self) -> Duration {
        self.net.now()
    }

    pub(crate) fn weather(&mut self) -> &mut Weather {
        self.net.weather()
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.net.traffic()
    }

    /// Runs for some time.
    pub(crate) fn run(&mut self, time: Duration) {
        let watch = &mut self.watch;
        self.net.run(time, &mut |at, host, sight| watch.take(at, host, sight));
    }

    /// Whether every member that runs sees just those up that run.
    pub(crate) fn agreed(&self) -> bool {
        self.watch.wrong == 0
    }

    /// Runs until all agree, for so long at most. Returns how long it took.
    pub(crate) fn run_until_agreed(&mut self, at_most: Duration) -> Option<Duration> {
        let begin = self.now();
        while !self.agreed() {
            if self.now() - begin >= at_most {
                return None;
            }
            self.run(LOOK);
        }
        Some(self.now() - begin)
    }

    /// Kills the member on a host and runs until all others have seen that, for so long at most.
    pub(crate) fn kill(&mut self, host: Host, at_most: Duration) -> Option<Detection> {
        self.net.crash(host);
        self.watch.end(host);
        self.watch.killed = Some((host, self.net.now()));
        self.watch.seen.clear();
        self.run_until_agreed(at_most)?;
        Some(Detection { first: *self.watch.seen.iter().min()?, last: *self.watch.seen.iter().max()? })
    }

    /// From now on these are troubled: what is thought of them is no mistake.
    pub(crate) fn trouble(&mut self, hosts: &[Host]) {
        for host in hosts {
            self.watch.slow[*host] = true;
        }
    }

    /// The member on a host handles what arrives so much later. Its timers are on time.
    pub(crate) fn lag(&mut self, host: Host, by: Duration) {
        self.net.lag(host, by);
    }

    /// Stops the process on a host: its clock goes on, and what arrives waits.
    pub(crate) fn stop(&mut self, host: Host) {
        self.net.pause(host);
    }

    /// Lets it go on: first with what is due, then with what has arrived.
    pub(crate) fn go_on(&mut self, host: Host) {
        let watch = &mut self.watch;
        self.net.resume_late(host, &mut |at, host, sight| watch.take(at, host, sight));
    }

    /// Stops the messages from and to the member on a host, and not its timers.
    pub(crate) fn block(&mut self, host: Host) {
        self.net.block(host);
    }

    /// Lets its messages go on.
    pub(crate) fn unblock(&mut self, host: Host) {
        let watch = &mut self.watch;
        self.net.unblock(host, &mut |at, host, sight| watch.take(at, host, sight));
    }

    /// Who was taken for dead wrongly since this was asked last.
    pub(crate) fn take_mistakes(&mut self) -> Mistakes {
        std::mem::take(&mut self.watch.mistakes)
    }
}
