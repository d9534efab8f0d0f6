//! Our own members.

use std::collections::BTreeMap;
use std::time::Duration;

use polity::cluster::Identity;
use polity::{Boot, NodeId, NodeName, Preset, Profile, Status, Timings};
use polity_sim::lean::net::{Member, Output};
use polity_sim::lean::node::{Answer, Datagram, Request};
use polity_sim::lean::{Begin, Host, Names, Node, Note, Plan, addr};

use super::{Library, Sight, Start};

/// Ours, with the times of the `lan` preset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours;

/// A node, and whom the numbers of its names stand for.
pub(crate) struct Ourselves {
    node: Node,
    names: Names,
    hosts: BTreeMap<u32, Host>,
}

fn name(host: Host) -> NodeName {
    NodeName::new(&format!("n{host}")).expect("valid")
}

impl Library for Ours {
    type Member = Ourselves;

    fn start(self, start: Start) -> Ourselves {
        let identity = |host: Host| Identity {
            node: NodeId { name: name(host), boot: Boot { generation: 1, nonce: host as u128 } },
            rejoin: 0,
            addr: addr(host),
        };
        let begin = if start.knowing {
            Begin::As(identity(start.host).node.boot, start.others().map(identity).collect())
        } else {
            Begin::Ask { remembered: 0 }
        };
        let names = Names::default();
        let plan = Plan {
            name: name(start.host),
            addr: addr(start.host),
            seeds: start.seeds().collect(),
            timings: Timings::preset(Preset::Lan),
            profile: Profile::default(),
            begin,
            seed: start.seed,
        };
        Ourselves { node: Node::new(plan, names.clone()), names, hosts: BTreeMap::new() }
    }
}

impl Ourselves {
    fn sight(&mut self, note: Note) -> Option<Sight> {
        match note {
            Note::Sees { name, status, .. } => {
                let names = &self.names;
                let host = *self.hosts.entry(name).or_insert_with(|| {
                    let name = names.name(name);
                    name.as_str().trim_start_matches('n').parse().expect("names are numbered by hosts")
                });
                Some(match status {
                    Status::Alive => Sight::Up(host),
                    Status::Suspect => Sight::Suspect(host),
                    _ => Sight::Down(host),
                })
            }
            Note::Rejoined => Some(Sight::Rejoined),
            _ => None,
        }
    }
}

impl Member for Ourselves {
    type Datagram = Datagram;
    type Request = Box<Request>;
    type Answer = Box<Answer>;
    type Note = Sight;

    fn handle_datagram(&mut self, now: Duration, datagram: Datagram) {
        self.node.handle_datagram(now, datagram);
    }

    fn handle_request(&mut self, now: Duration, request: Box<Request>) -> Option<(Box<Answer>, usize)> {
        self.node.handle_request(now, request)
    }

    fn handle_answer(&mut self, now: Duration, call: u64, answer: Option<Box<Answer>>) {
        self.node.handle_answer(now, call, answer);
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.node.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Duration) {
        self.node.handle_timeout(now);
    }

    fn poll_output(&mut self) -> Option<Output<Self>> {
        loop {
            return Some(match self.node.poll_output()? {
                Output::Datagram { to, bytes, datagram } => Output::Datagram { to, bytes, datagram },
                Output::Call { call, to, bytes, within, request } => Output::Call { call, to, bytes, within, request },
                Output::Note(note) => match self.sight(note) {
                    Some(sight) => Output::Note(sight),
                    None => continue,
                },
                Output::End => Output::End,
            });
        }
    }
}
