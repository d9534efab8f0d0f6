use std::time::Duration;

use super::*;
use crate::checker::hand::{at, done, life, op, start, view};
use crate::checker::{by_hand, judge};
use crate::history::{Action, Basis, Entry, Event, Host, Kind, Level, OpId, Outcome, Standing};

fn page(history: &History, violations: &[Violation], replay: &str) -> String {
    let mut bytes = Vec::new();
    write(history, violations, replay, &mut bytes).expect("memory can be written");
    String::from_utf8(bytes).expect("a page is text")
}

fn judged(history: &History) -> String {
    page(history, &judge(history), "replay it")
}

/// Events of every kind but operations, with this in all their texts; and what the page is to say of each.
fn others(text: &str) -> Vec<(Event, &'static str)> {
    let (host, fault, class, what) = (Host(1), 3, text.to_owned(), text.to_owned());
    let (key, hosts, text) = (text.to_owned(), vec![host], text.to_owned());
    vec![
        (Event::Launched { host }, "a process begins to start"),
        (Event::Ready { host, life: life(1) }, "the node is a member"),
        (Event::Began { fault, class, what, disturbs: true, hosts: hosts.clone() }, "fault 3 begins"),
        (Event::Leaving { host }, "asked to leave"),
        (Event::Left { host }, "has left"),
        (Event::Launched { host }, "launched"),
        (Event::StartFailed { host, reason: text.clone() }, "could not start"),
        (Event::Launched { host }, "launched"),
        (Event::Stopped { host, superseded: true }, "a newer process has its name"),
        (Event::Launched { host }, "launched"),
        (Event::Crashed { host, wiped: true }, "killed, and its disk lost"),
        (Event::Ended { fault: 3 }, "fault 3 ends"),
        (Event::Healed, "all faults are removed"),
        (Event::Gap { host, what: text.clone() }, "gap: "),
        (Event::Settled { host }, "its store is settled"),
        (Event::Garbage { host, key: key.clone() }, "garbage: "),
        (Event::FinalReads, "all workload has ended"),
        (Event::Holds { host, key, replicas: hosts, copy: Some(7) }, "tells where it believes 1 keys to be"),
        (Event::FinalReadsDone { host }, "has read all"),
        (Event::Missed { promise: text.clone(), demand: text.clone() }, "missed: "),
        (Event::Panicked { message: text.clone() }, "panicked: "),
        (Event::Note { host, text }, "note: "),
    ]
}

/// One entry of every kind at least, and one operation of every kind and outcome.
fn all_kinds(text: &str) -> History {
    let mut entries = start(0, 0, 1).to_vec();
    entries.push(view(10, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Suspect)]));
    entries.push(view(20, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Down), (2, 1, Standing::Left)]));
    entries.push(view(22, 0, &[(0, 1, Standing::Alive), (1, 2, Standing::Alive)]));
    let actions = [
        (Action::Put(Basis::Quorum), done(&[])),
        (Action::Put(Basis::Of(OpId(0))), Outcome::Unknown),
        (Action::Delete(Basis::Quorum), Outcome::NotApplied),
        (Action::Get, done(&[0, 1])),
        (Action::Add, done(&[])),
        (Action::Elements, done(&[4])),
        (Action::Count(7), done(&[])),
        (Action::Once { id: 3, by: 7 }, done(&[])),
        (Action::Total, Outcome::Total(7)),
        (Action::Order(OpId(9)), done(&[])),
        (Action::Orders, done(&[9])),
        (Action::Spend, Outcome::Exhausted),
        (Action::Write { kind: Kind::Set, level: Level::One, expires: true }, Outcome::OtherKind(Kind::Map)),
        (Action::Read(Level::All), Outcome::Held { kind: Kind::Set, found: vec![OpId(4)], total: 0 }),
        (Action::Insert { element: 3, once: true }, done(&[])),
        (Action::Members, done(&[3])),
    ];
    for (number, (action, outcome)) in (0..).zip(actions) {
        entries.extend(op(25, 26, number, action, outcome));
    }
    let key = text.to_owned();
    entries.push(at(30, Event::Invoked { op: OpId(99), host: Host(1), key, action: Action::Get }));
    entries.extend((1_u64..).zip(others(text)).map(|(i, (event, _))| at(100 * i, event)));
    let mut history = by_hand(entries);
    history.scenario = text.to_owned();
    history.keys.push(text.to_owned());
    history
}

#[test]
fn every_kind_of_event_operation_and_outcome_appears() {
    let history = all_kinds("something");
    let html = judged(&history);
    for (event, said) in others("something") {
        assert!(html.contains(said), "{event:?}");
    }
    let said = [
        "sees n0 alive, n1 suspect",
        "n1 down, was suspect",
        "under a new life",
        "n2 forgotten",
        "learns of a new life of n1",
        "n0 sees n2 left",
        "#0 put k: done",
        "#1 put over what #0 saw k: unknown",
        "#2 delete k: not applied",
        "#3 get k: found #0 #1",
        "#4 add k: done",
        "#5 elements k: found #4",
        "#6 count +7 k: done",
        "#7 count +7 under the key 3 k: done",
        "#8 total k: found a total of 7",
        "#9 order k: done",
        "#10 orders k: found #9",
        "#11 spend k: exhausted",
        "#12 write of a set at one, to expire k: not applied: a map is there",
        "#13 read at all k: found #4, a set",
        "#14 insert 3 under its idempotency key k: done",
        "#15 members k: found 3",
        "#99 get something: unknown: the caller died",
    ];
    for said in said {
        assert!(html.contains(said), "{said}");
    }
}

#[test]
fn no_text_of_a_run_becomes_markup() {
    let hostile = "</title></script></svg>\"'><evil onload=alert(1)> & -->";
    let violation =
        Violation { promise: hostile.to_owned(), at: Duration::from_secs(1), text: format!("#1{hostile}#2<evil>") };
    let mut history = all_kinds(hostile);
    // One whose words are read for the links that they name.
    let (class, what) = ("partition-<evil>".to_owned(), "n0 -/-> n1, <evil>".to_owned());
    let hosts = vec![Host(0), Host(1)];
    history.entries.push(at(3000, Event::Began { fault: 9, class, what, disturbs: true, hosts }));
    let (html, tame) = (page(&history, &[violation], hostile), judged(&all_kinds("tame")));
    assert!(html.contains("&lt;evil"));
    assert!(!html.contains("<evil"));
    for tag in ["<script", "</script", "<style", "</style", "<title>the", "<!--", "-->", "<head", "</header"] {
        assert_eq!(html.matches(tag).count(), tame.matches(tag).count(), "{tag}");
    }
    // Between the quotes of no attribute either.
    for tag in html.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        assert!(!tag.contains("onload") && !tag.contains("alert"), "<{tag}>");
    }
}

#[test]
fn nothing_is_loaded_from_anywhere() {
    let html = judged(&all_kinds("something"));
    for outside in ["http:", "https:", "src=", "@import", "url(//", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn each_violation_leads_to_its_moment_and_back() {
    let history = all_kinds("something");
    let text = |i: u64| Violation { promise: "K1".into(), at: Duration::from_millis(i), text: format!("see #{i}") };
    // The first two are at one place.
    let html = page(&history, &[text(2000), text(3), text(3)], "");
    for (tag, violation, moment) in [("tr", 1, 1), ("p", 2, 1), ("tr", 3, 3)] {
        let begins = format!("<{tag} id=\"violation-{violation}\">");
        let leads = format!("<a href=\"#moment-{moment}\">V{violation}</a>");
        assert!(html.contains(&begins) && html.contains(&leads), "{violation}");
    }
    assert!(html.contains("id=\"moment-1\" href=\"#violation-1\"") && html.contains("V1 to V2"));
    assert!(html.contains("id=\"moment-3\" href=\"#violation-3\""));
    assert!(html.contains("<td>see <a href=\"#o3\">#3</a>") && html.contains("<tr id=\"o3\""));
    assert!(html.contains("FAIL: 3 violations"));
}

#[test]
fn every_link_within_the_page_has_a_target() {
    let late = Violation { promise: "K1".into(), at: Duration::from_secs(20), text: String::new() };
    let html = page(&all_kinds("something"), &[late], "");
    for target in html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(html.contains(&format!("id=\"{target}\"")), "{target}");
    }
}

#[test]
fn a_history_in_which_nothing_happened_has_a_page() {
    let empty = by_hand(Vec::new());
    assert!(page(&empty, &[], "").contains("no promise was broken"));
    let nobody = History { hosts: 0, keys: Vec::new(), ..empty };
    assert!(judged(&nobody).ends_with("</html>\n"));
}

#[test]
fn a_history_that_makes_no_sense_has_a_page() {
    let late = Duration::from_micros(u64::MAX);
    let entries = vec![
        at(1, Event::Ended { fault: 7 }),
        at(2, Event::Returned { op: OpId(u64::MAX), outcome: Outcome::Unknown }),
        at(3, Event::Left { host: Host(255) }),
        at(4, Event::View { host: Host(255), members: Default::default() }),
        Entry { at: late, event: Event::Healed },
    ];
    let html = judged(&by_hand(entries));
    assert!(html.contains("n255 (stranger)") && html.len() < 100_000, "{}", html.len());
}

#[test]
fn the_same_history_has_the_same_page() {
    assert_eq!(judged(&all_kinds("something")), judged(&all_kinds("something")));
}

/// A run of a minute with six nodes, and so many operations by each in a second.
fn busy(rate: u64) -> History {
    let mut entries: Vec<Entry> = (0..6).flat_map(|host| start(0, host, 1)).collect();
    let mut number = 0;
    for tick in 0..60 * rate {
        for host in (0..6).map(Host) {
            let (op, key, from) = (OpId(number), format!("r{}-{}", host.0, number % 2), tick * 1000 / rate);
            let is_read = number % 3 == 0;
            let action = if is_read { Action::Get } else { Action::Put(Basis::Quorum) };
            let outcome = if is_read { done(&[number / 2, number / 3]) } else { done(&[]) };
            entries.push(at(from, Event::Invoked { op, host, key, action }));
            entries.push(at(from, Event::Returned { op, outcome }));
            number += 1;
        }
    }
    History { hosts: 6, ..by_hand(entries) }
}

#[test]
fn a_page_of_a_minute_with_six_nodes_is_small() {
    let html = page(&busy(20), &[], "");
    assert!(html.len() < 3_000_000, "{}", html.len());
    assert!(!html.contains("class=\"cap\""));
}

#[test]
fn of_too_much_the_page_draws_a_part_and_says_so() {
    let html = page(&busy(300), &[], "");
    assert!(html.len() < 8_000_000, "{}", html.len());
    assert!(html.contains("operations are drawn without a text of their own"));
    assert!(html.contains("operations are left out here"));
}
