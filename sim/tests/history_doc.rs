//! `docs/HISTORY.md` names everything that is written into histories and cases, and its examples can be read.

use std::collections::BTreeSet;

use polity_sim::case::Case;
use polity_sim::fault::{Outage, Stage, classes};
use polity_sim::history::{
    Action, Basis, Deed, Event, Host, Kind, Level, Life, MemberList, Named, OpId, Outcome, Reign, Seen,
    Stage as Subscribed, Standing,
};
use polity_sim::settings::{Settings, Stranger};
use polity_sim::{journal, scenario};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

const DOC: &str = include_str!("../../docs/HISTORY.md");

/// The names on the page: the words between backticks. Examples describe nothing, so they do not count.
fn named() -> BTreeSet<&'static str> {
    let prose = DOC.split("```").step_by(2);
    let code = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    code.flat_map(|code| code.split(|char: char| !(char.is_alphanumeric() || char == '-' || char == '_'))).collect()
}

/// All names in a value that are not of this run: the keys of its objects, and words that stand for a kind.
fn names(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_host = key.strip_prefix('n').is_some_and(|rest| rest.parse::<u8>().is_ok());
                if !is_host {
                    into.insert(key.clone());
                }
                names(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| names(value, into)),
        Value::String(word) if word.chars().all(|char| char.is_ascii_lowercase() || char == '-') => {
            into.insert(word.clone());
        }
        _ => {}
    }
}

fn assert_named<T: serde::Serialize>(things: impl IntoIterator<Item = T>) {
    let (named, mut wanted) = (named(), BTreeSet::new());
    for thing in things {
        names(&serde_json::to_value(thing).expect("it encodes"), &mut wanted);
    }
    wanted.remove("");
    let missing: Vec<_> = wanted.iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/HISTORY.md does not name {missing:?}");
}

/// One event of every kind. Texts are empty: they are not names.
fn events() -> Vec<Event> {
    let (host, key, what) = (Host(0), String::new(), String::new());
    let life = Life { generation: 1, nonce: 1 };
    let standings = [Standing::Alive, Standing::Suspect, Standing::Down, Standing::Left];
    let seen = standings.map(|standing| Seen { life, standing, rejoin: 0 });
    let members: MemberList = (0..).map(Host).zip(seen).collect();
    let text = what.clone();
    let epoch = Reign { counter: 1, owner: host, life };
    vec![
        Event::Launched { host },
        Event::Ready { host, life },
        Event::StartFailed { host, reason: text.clone() },
        Event::Stopped { host, superseded: true },
        Event::Crashed { host, wiped: true },
        Event::Leaving { host },
        Event::Left { host },
        Event::Began { fault: 0, class: text.clone(), what: text.clone(), disturbs: true, hosts: vec![host] },
        Event::Ended { fault: 0 },
        Event::Healed,
        Event::View { host, members },
        Event::Gap { host, what },
        Event::Settled { host },
        Event::Invoked { op: OpId(0), host, key: key.clone(), action: Action::Get },
        Event::Returned { op: OpId(0), outcome: Outcome::Unknown },
        Event::Garbage { host, key: key.clone() },
        Event::FinalReads,
        Event::FinalReadsDone { host },
        Event::Holds { host, key, replicas: vec![host], copy: None },
        Event::Edited { host, document: text.clone(), added: vec![1], removed: vec![1] },
        Event::Shows { host, document: text.clone(), holds: vec![1] },
        Event::Sighted { host, number: 1, here: true },
        Event::Subscriber { host, topic: text.clone(), subscriber: 1, stage: Subscribed::Begun, slow: true },
        Event::Published { host, topic: text.clone(), sequence: 1 },
        Event::Got { host, subscriber: 1, publisher: host, life, sequence: 1 },
        Event::Lacks { host, subscriber: 1, publisher: host, life, missed: 1, slow: false },
        Event::Ownership { host, shard: 1, epoch, deed: Deed::Claimed },
        Event::Owners {
            host,
            shards: vec![Named { shard: 1, epoch: Some(epoch), is_here: true, preferred: Some(host) }],
        },
        Event::Watching { host, watch: 1, key: text.clone(), prefix: true, stage: Subscribed::Begun },
        Event::Told { host, watch: 1, key: text.clone(), found: vec![OpId(0)] },
        Event::Clock { host, skew_ms: 1, drift_ppm: 1 },
        Event::Missed { promise: text.clone(), demand: text.clone() },
        Event::Panicked { message: text.clone() },
        Event::Note { host, text },
    ]
}

/// The place of an event in [`events`]. Whoever adds a kind is stopped here, and adds it there and to the page.
fn place(event: &Event) -> usize {
    match event {
        Event::Launched { .. } => 0,
        Event::Ready { .. } => 1,
        Event::StartFailed { .. } => 2,
        Event::Stopped { .. } => 3,
        Event::Crashed { .. } => 4,
        Event::Leaving { .. } => 5,
        Event::Left { .. } => 6,
        Event::Began { .. } => 7,
        Event::Ended { .. } => 8,
        Event::Healed => 9,
        Event::View { .. } => 10,
        Event::Gap { .. } => 11,
        Event::Settled { .. } => 12,
        Event::Invoked { .. } => 13,
        Event::Returned { .. } => 14,
        Event::Garbage { .. } => 15,
        Event::FinalReads => 16,
        Event::FinalReadsDone { .. } => 17,
        Event::Holds { .. } => 18,
        Event::Edited { .. } => 19,
        Event::Shows { .. } => 20,
        Event::Sighted { .. } => 21,
        Event::Subscriber { .. } => 22,
        Event::Published { .. } => 23,
        Event::Got { .. } => 24,
        Event::Lacks { .. } => 25,
        Event::Ownership { .. } => 26,
        Event::Owners { .. } => 27,
        Event::Watching { .. } => 28,
        Event::Told { .. } => 29,
        Event::Clock { .. } => 30,
        Event::Missed { .. } => 31,
        Event::Panicked { .. } => 32,
        Event::Note { .. } => 33,
    }
}

#[test]
fn every_event_and_its_fields_are_described() {
    let events = events();
    assert!(events.iter().map(place).eq(0..events.len()));
    assert_named(events);
}

#[test]
fn every_action_and_outcome_is_described() {
    let op = OpId(1);
    assert_named([
        Action::Get,
        Action::Put(Basis::Quorum),
        Action::Delete(Basis::Of(op)),
        Action::Add,
        Action::Elements,
        Action::Count(1),
        Action::Total,
        Action::Order(op),
        Action::Orders,
        Action::Spend,
        Action::Lease(1),
        Action::Expire(Some(1)),
        Action::End,
        Action::Look,
        Action::Write { kind: Kind::LastWriterWins, level: Level::One, expires: false },
        Action::Erase(Level::Quorum),
        Action::Read(Level::All),
        Action::Scan,
        Action::Len,
        Action::Insert { element: 1, once: true },
        Action::Remove(1),
        Action::Members,
    ]);
    assert_named([
        Outcome::Done(vec![op]),
        Outcome::Total(1),
        Outcome::Held { kind: Kind::Causal, found: vec![op], total: 0 },
        Outcome::OtherKind(Kind::Map),
        Outcome::Exhausted,
        Outcome::NotApplied,
        Outcome::Unknown,
    ]);
    assert_named([Kind::Causal, Kind::LastWriterWins, Kind::Counter, Kind::Set, Kind::Map]);
    let epoch = Reign { counter: 1, owner: Host(0), life: Life { generation: 1, nonce: 1 } };
    assert_named([
        Deed::Claimed,
        Deed::Known,
        Deed::Installed,
        Deed::Released(Host(1)),
        Deed::Superseded(epoch),
        Deed::Recorded(epoch),
        Deed::Alarmed,
        Deed::Stuck,
        Deed::Accepted,
        Deed::Refused,
    ]);
    assert_named([Subscribed::Begun, Subscribed::Established, Subscribed::Over]);
}

#[test]
fn every_setting_and_fault_is_described() {
    let strangers = vec![Stranger::WrongSecret, Stranger::OtherCluster, Stranger::OtherShards];
    assert_named([Settings { strangers, workloads: Vec::new(), ..Settings::quiet() }]);
    let stage = Stage { hosts: (0..5).map(Host).collect(), late: vec![Host(5)], mortal: Host(3), seeds: 3 };
    let mut rng = StdRng::seed_from_u64(1);
    assert_named(classes().map(|class| (class.draw)(&mut rng, &stage).0));
    assert_named([Outage::drawn(&mut rng, stage.hosts.clone())]);
    let mut case = scenario::find("mix").expect("a scenario").case(1);
    case.settings.workloads.clear();
    (case.scenario, case.note) = (String::new(), "Why.".to_owned());
    assert_named([case]);
}

/// The block of code in this language that contains this.
fn example(language: &str, with: &str) -> &'static str {
    let opening = format!("```{language}\n");
    let mut blocks = DOC.split(opening.as_str()).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(with)).expect("the page has an example")
}

#[test]
fn the_examples_can_be_read() {
    let text = example("jsonl", journal::FORMAT);
    let history = journal::read(text.as_bytes()).expect("a history");
    let mut written = Vec::new();
    journal::write(&history, &mut written).expect("memory can be written");
    assert_eq!(String::from_utf8(written).expect("text"), text);
    let ops = history.ops();
    assert_eq!(ops[&OpId(1)].found(), Some(&[OpId(0)][..]));
    assert_eq!((ops[&OpId(3)].returned, &ops[&OpId(3)].outcome), (None, &Outcome::Unknown));
    let case = Case::from_json(example("json", polity_sim::case::FORMAT)).expect("a case");
    assert_eq!(case.faults().count(), 2);
}
