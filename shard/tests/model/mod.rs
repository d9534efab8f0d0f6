//! A model of ownership: whole stewards of a few nodes, and everything between them (messages, views, partitions, crashes,
//! pauses, drains, the document of claims) in an order that a seed decides. Promises H3, H4 and H5.
//!
//! | file | idea |
//! |---|---|
//! | this one | what there is: the world, its nodes, its clock, one run |
//! | `node` | what a driver would do: carries commands out, keeps the state, the document and the journal |
//! | `chaos` | what goes wrong |
//! | `judge` | what must hold, found out from outside |
//!
//! Every failure prints its seed; `POLITY_MODEL_SEED` runs one and prints what happened, `POLITY_MODEL_SEEDS` says how many
//! are run, and `POLITY_MODEL_FIRST` which is the first.

// Each test binary uses a part of this module.
#![allow(dead_code)]

/// Notes what happens, if anybody wants to know.
macro_rules! log {
    ($world:ident, $($arg:tt)*) => {
        if let Some(trace) = &mut $world.trace { trace.push(format!("{:7} {}", $world.now.as_millis(), format!($($arg)*))); }
    };
}

mod chaos;
mod judge;
mod node;

use std::collections::BTreeMap;
use std::time::Duration;

use polity_crdt::{Crdt, Replica};
use polity_shard::claims::{Claim, ClaimBook, ClaimConfig, Claims};
use polity_shard::handoff::{BudgetConfig, HandoffConfig, HandoffId, HandoffMessage};
use polity_shard::journal::{Conflict, Snapshot};
use polity_shard::{Epoch, ShardCount, ShardId, StewardConfig};

pub(crate) use self::node::Node;

pub(crate) const SHARDS: u32 = 4;
/// How often a node looks at its members, compares its claims with another's, and does something as an owner.
const TICK: Duration = Duration::from_millis(200);
/// How long it takes at most to notice that a member has come or gone.
const NOTICE_MS: u64 = 1_000;
/// How long nothing must have gone wrong for one owner to be left on each side: noticing, patience and propagation with losses.
const BOUND: Duration = Duration::from_secs(6);
/// The same for all shards to be where they belong: several handoffs, some of which fail and are tried again.
const HEAL: Duration = Duration::from_secs(60);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn config() -> StewardConfig {
    StewardConfig {
        shards: ShardCount::new(SHARDS).expect("a power of two"),
        claims: ClaimConfig::default(),
        handoff: HandoffConfig {
            // Tight, so that handoffs wait for each other and for it.
            budget: BudgetConfig { bytes_per_second: 4_000, share_percent: 50, least: 2_000, burst: 200 },
            sending: 2,
            receiving: 2,
            window: 2,
            ..HandoffConfig::default()
        },
    }
}

pub(crate) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Letter {
    /// A replica of the claims, whole; the receiver says what it has if asked.
    Book {
        full: <ClaimBook as Crdt>::Delta,
        answer: bool,
    },
    Effect {
        shard: ShardId,
        epoch: Epoch,
        id: u64,
    },
    Handoff(HandoffMessage),
    /// A conflict, as its loser tells it.
    Conflict(Conflict),
    /// What its winner has: the claim that lost, the one that won.
    Won(Claim, Claim, Snapshot),
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Tick {
        at: usize,
        boot: u64,
    },
    Timer {
        at: usize,
        boot: u64,
    },
    Deliver {
        from: usize,
        to: usize,
        boot: u64,
        sender: u64,
        letter: Letter,
    },
    /// The authority answers.
    Granted {
        at: usize,
        boot: u64,
        shard: ShardId,
        after: Option<Epoch>,
        fails: bool,
    },
    Installed {
        at: usize,
        boot: u64,
        id: HandoffId,
    },
    Chaos,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: Duration,
    dice: Dice,
    queue: BTreeMap<(Duration, u64), Event>,
    sent: u64,
    pub(crate) nodes: Vec<Node>,
    /// Which side of a partition each is on.
    side: Vec<u8>,
    loss_percent: u64,
    /// Nothing has gone wrong since then.
    quiet_since: Duration,
    chaos_until: Duration,
    effects: u64,
    judge: judge::Judge,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) fault: Option<String>,
}

/// What a run has come to.
#[derive(Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) claims: Claims,
    pub(crate) made: usize,
    pub(crate) conflicts: usize,
    pub(crate) answered: usize,
    pub(crate) cancelled: u64,
    pub(crate) handoffs: usize,
    pub(crate) refused: u64,
    pub(crate) effects: u64,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut dice = Dice(seed);
        let count = 3 + dice.below(3) as usize;
        let loss_percent = [0, 5, 20][dice.below(3) as usize];
        let chaos_until = ms(5_000 + dice.below(40_000));
        let mut world = Self {
            seed,
            now: ms(0),
            dice,
            queue: BTreeMap::new(),
            sent: 0,
            nodes: (0..count).map(Node::absent).collect(),
            side: vec![0; count],
            loss_percent,
            quiet_since: ms(0),
            chaos_until,
            effects: 0,
            judge: judge::Judge::default(),
            trace: trace.then(Vec::new),
            fault: None,
        };
        // The first is alone; others join soon or in the middle of what goes wrong.
        world.start(0);
        for at in 1..count {
            if world.dice.chance(75) {
                world.start(at);
            }
        }
        world.after(ms(500), Event::Chaos);
        world
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sent += 1;
        self.queue.insert((self.now + delay, self.sent), event);
    }

    fn run(&mut self) {
        let end = self.chaos_until + HEAL;
        while let Some(((at, number), event)) = self.queue.pop_first() {
            if at > end || self.fault.is_some() {
                break;
            }
            self.now = at;
            if let Event::Tick { at, boot }
            | Event::Timer { at, boot }
            | Event::Deliver { to: at, boot, .. }
            | Event::Granted { at, boot, .. }
            | Event::Installed { at, boot, .. } = event
            {
                let node = &self.nodes[at];
                if !node.is_alive() || node.boot != boot {
                    continue;
                }
                if node.paused_until > self.now {
                    let at = node.paused_until;
                    self.queue.insert((at, number), event);
                    continue;
                }
            }
            self.happen(event);
        }
        self.judge_end();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { at, .. } => self.tick(at),
            Event::Timer { at, .. } => {
                self.nodes[at].timer = None;
                self.with(at, |steward, now| steward.handle_timeout(now));
            }
            Event::Deliver { from, to, sender, letter, .. } => self.deliver(from, to, sender, letter),
            Event::Granted { at, shard, after, fails, .. } => self.grant(at, shard, after.as_ref(), fails),
            Event::Installed { at, id, .. } => self.install(at, &id),
            Event::Chaos => self.chaos(),
        }
    }

    /// Sends a letter, which may be lost, doubled and overtaken.
    fn post(&mut self, from: usize, to: usize, letter: Letter) {
        let (boot, sender) = (self.nodes[to].boot, self.nodes[from].boot);
        if from == to || !self.reaches(from, to) || self.dice.chance(self.loss_percent) {
            return;
        }
        let copies = if self.dice.chance(self.loss_percent / 2) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if self.dice.chance(10) { self.dice.below(400) } else { self.dice.below(20) };
            self.after(ms(1 + delay), Event::Deliver { from, to, boot, sender, letter: letter.clone() });
        }
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        self.nodes[from].is_alive() && self.nodes[to].is_alive() && self.side[from] == self.side[to]
    }

    fn fail(&mut self, why: String) {
        log!(self, "FAULT {why}");
        let now = self.now.as_millis();
        self.fault.get_or_insert(format!("seed {}: at {now} ms: {why}", self.seed));
    }
}

/// One run; what it did wrong, or what it came to.
pub(crate) fn run(seed: u64) -> Result<Summary, String> {
    let mut world = World::new(seed, false);
    world.run();
    match world.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(world.summary()),
    }
}

/// One run, told.
pub(crate) fn told(seed: u64) -> (Vec<String>, Result<Summary, String>) {
    let mut world = World::new(seed, true);
    world.run();
    let trace = world.trace.take().unwrap_or_default();
    let result = world.fault.take().map_or_else(|| Ok(world.summary()), Err);
    (trace, result)
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) type Book = Replica<ClaimBook>;
