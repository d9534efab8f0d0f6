//! A model of nodes that form a cluster: any order, loss and doubling of messages, views that differ, crashes, and
//! processes that start again. Never are two ids chosen, and one is once messages flow.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::ClusterId;
use super::core::{Answer, Formation, Output, Request};
use crate::identity::{Boot, NodeId, NodeName};

const PATIENCE: Duration = Duration::from_millis(1000);
/// How much goes wrong before all is well.
const CHAOS: usize = 300;
/// How often time passes then until all must know.
const ROUNDS: usize = 400;

enum Message {
    Ask { from: usize, to: usize, request: Request },
    Reply { from: usize, to: usize, request: Request, answer: Answer },
}

impl Message {
    fn copy(&self) -> Self {
        match self {
            Self::Ask { from, to, request } => Self::Ask { from: *from, to: *to, request: request.clone() },
            Self::Reply { from, to, request, answer } => {
                Self::Reply { from: *from, to: *to, request: request.clone(), answer: answer.clone() }
            }
        }
    }
}

struct Model {
    expected: usize,
    ids: Vec<NodeId>,
    /// `None` for one that has crashed.
    nodes: Vec<Option<Formation>>,
    names: u64,
    bag: Vec<Message>,
    now: Duration,
    rng: StdRng,
    learned: BTreeSet<ClusterId>,
    knows: Vec<bool>,
    asked: usize,
}

impl Model {
    fn new(expected: usize, starters: usize, seed: u64) -> Self {
        let mut model = Self {
            expected,
            ids: Vec::new(),
            nodes: Vec::new(),
            names: 0,
            bag: Vec::new(),
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            learned: BTreeSet::new(),
            knows: Vec::new(),
            asked: 0,
        };
        for _ in 0..starters {
            let name = model.names;
            model.names += 1;
            model.start(name, 1);
        }
        model
    }

    /// A new boot of a name: one more that starts.
    fn start(&mut self, name: u64, generation: u64) {
        let boot = Boot { generation, nonce: self.rng.random() };
        let id = NodeId { name: NodeName::new(&format!("n{name}")).expect("valid"), boot };
        let rng = StdRng::from_rng(&mut self.rng);
        self.nodes.push(Some(Formation::new(id.clone(), Some(self.expected as u32), PATIENCE, rng)));
        self.ids.push(id);
        self.knows.push(false);
    }

    fn live(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].is_some()).collect()
    }

    fn with(&mut self, at: usize, act: impl FnOnce(&mut Formation, Duration)) {
        let now = self.now;
        let Some(node) = &mut self.nodes[at] else { return };
        act(node, now);
        while let Some(output) = self.nodes[at].as_mut().and_then(Formation::poll_output) {
            match output {
                Output::Ask(to, request) => {
                    self.asked += 1;
                    let to = self.ids.iter().position(|id| *id == to).expect("a node of the model");
                    self.bag.push(Message::Ask { from: at, to, request });
                }
                Output::Formed(id) => {
                    self.learned.insert(id);
                    self.knows[at] = true;
                }
            }
        }
    }

    fn see(&mut self, at: usize, view: &[usize]) {
        let view = view.iter().map(|at| self.ids[*at].clone()).collect();
        self.with(at, |node, now| node.handle_view(now, view));
    }

    fn deliver(&mut self, at: usize) {
        match self.bag.swap_remove(at) {
            Message::Ask { from, to, request } => {
                let mut answer = None;
                self.with(to, |node, _| answer = Some(node.handle_request(request.clone())));
                if let Some(answer) = answer {
                    self.bag.push(Message::Reply { from: to, to: from, request, answer });
                }
            }
            Message::Reply { from, to, request, answer } => {
                let from = self.ids[from].clone();
                self.with(to, |node, now| node.handle_answer(now, &from, &request, answer));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for at in self.live() {
            self.with(at, Formation::handle_timeout);
        }
    }

    fn mishap(&mut self) {
        let live = self.live();
        let one = live[self.rng.random_range(0..live.len())];
        let message = (!self.bag.is_empty()).then(|| self.rng.random_range(0..self.bag.len()));
        match (self.rng.random_range(0..100), message) {
            (0..55, Some(at)) => self.deliver(at),
            (55..62, Some(at)) => {
                let copy = self.bag[at].copy();
                self.bag.push(copy);
            }
            (62..72, Some(at)) => drop(self.bag.swap_remove(at)),
            (72..76, _) if live.len() > self.expected => self.nodes[one] = None,
            (76..80, _) if self.ids.len() < 2 * self.expected - 1 => {
                // Of a name that has crashed, if one has.
                let gone = (0..self.nodes.len()).find(|at| self.nodes[*at].is_none());
                match gone {
                    Some(at) => self.start(at as u64, self.ids[at].boot.generation + self.ids.len() as u64),
                    None => {
                        self.names += 1;
                        self.start(self.names + 100, 1);
                    }
                }
            }
            (80..90, _) => {
                let share = self.rng.random_range(0.2..1.0);
                let view: Vec<usize> = live.into_iter().filter(|_| self.rng.random_bool(share)).collect();
                self.see(one, &view);
            }
            _ => {
                let time = PATIENCE.mul_f64(self.rng.random_range(0.0..0.6));
                self.pass(time);
            }
        }
    }

    /// All see each other, and nothing is lost any more. Returns whether all know the id in time.
    fn heal(&mut self) -> bool {
        let live = self.live();
        for at in &live {
            self.see(*at, &live);
        }
        for _ in 0..ROUNDS {
            while !self.bag.is_empty() {
                let at = self.rng.random_range(0..self.bag.len());
                self.deliver(at);
            }
            if live.iter().all(|at| self.knows[*at]) {
                return true;
            }
            self.pass(PATIENCE / 4);
        }
        false
    }
}

fn run(expected: usize, starters: usize, seed: u64) -> (BTreeSet<ClusterId>, bool) {
    let mut model = Model::new(expected, starters, seed);
    for _ in 0..CHAOS {
        model.mishap();
    }
    let healed = model.heal();
    (model.learned, healed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn never_are_two_ids_chosen_and_one_is_once_messages_flow(
        (expected, starters) in (1usize..=5).prop_flat_map(|n| (Just(n), n..=2 * n - 1)),
        seed: u64,
    ) {
        let (learned, healed) = run(expected, starters, seed);
        prop_assert!(learned.len() <= 1, "{learned:?}");
        prop_assert!(healed && learned.len() == 1, "not everyone knows");
    }
}

#[cfg(feature = "mutations")]
#[test]
fn the_model_catches_a_node_that_mints_alone() {
    use crate::mutation::{Mutation, set};
    set(Some(Mutation::MintsAlone));
    let caught = (0..50).filter(|seed| run(3, 5, *seed).0.len() > 1).count();
    set(None);
    assert!(caught > 0);
}

#[test]
fn the_lowest_name_of_those_expected_proposes_and_nobody_else_does() {
    let mut model = Model::new(3, 5, 1);
    for at in 0..2 {
        model.see(at, &[0, 1]);
    }
    model.pass(PATIENCE * 10);
    assert_eq!(model.asked, 0, "two are too few");
    for at in 0..5 {
        model.see(at, &[0, 1, 2, 3, 4]);
    }
    while !model.bag.is_empty() {
        model.deliver(0);
    }
    assert!(model.knows.iter().all(|knows| *knows));
    // Two rounds of four questions, four tellings, and four times up to four more by those who were told.
    assert!(model.asked <= 4 + 4 + 4 + 16, "{}", model.asked);
}

#[test]
fn nodes_that_expect_other_numbers_do_not_vote_for_each_other() {
    let id = |at: u128| NodeId { name: NodeName::new("n").expect("valid"), boot: Boot { generation: 1, nonce: at } };
    let node = |at, expected| Formation::new(id(at), expected, PATIENCE, StdRng::seed_from_u64(1));
    let (mut a, mut b, mut none) = (node(1, Some(2)), node(2, Some(3)), node(3, None));
    a.handle_view(Duration::ZERO, BTreeSet::from([id(1), id(2), id(3)]));
    let Some(Output::Ask(_, request)) = a.poll_output() else { panic!("it proposes") };
    assert_eq!(b.handle_request(request.clone()), Answer::Declined { expected: Some(3) });
    assert_eq!(none.handle_request(request), Answer::Declined { expected: None });
    // But whoever has no id takes one.
    let chosen = ClusterId::new(7);
    assert_eq!(none.handle_request(Request::Formed(chosen)), Answer::Formed(chosen));
    assert_eq!(none.poll_output(), Some(Output::Formed(chosen)));
    assert_eq!(none.handle_request(Request::Formed(ClusterId::new(8))), Answer::Formed(chosen));
}

#[test]
fn ids_are_written_as_uuids_and_read_back() {
    let id = ClusterId::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    assert_eq!(id.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(ClusterId::from_bytes(&id.to_bytes()), Some(id));
    for bad in ["", "0123", "0123456789abcdef0123456789abcdef", "+1234567-89ab-cdef-0123-456789abcdef"] {
        assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
    }
}
