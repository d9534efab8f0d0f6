//! Histories as files: one JSON object a line, so that a judge in any language can read them.
//!
//! The first line says what ran; each of the others is an [`Entry`]. `docs/HISTORY.md` describes the format for whoever
//! reads it without this crate.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::history::{Bounds, Entry, History};

/// The format's name and version, in the first line of every file.
pub const FORMAT: &str = "polity-history/1";

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    scenario: String,
    seed: u64,
    hosts: u8,
    bounds: Bounds,
    keys: Vec<String>,
}

/// Why a file is not a history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line, counted from 1, is not what it should be.
    #[error("line {line} is not of a history: {cause}")]
    Line {
        /// Which.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// It has no line.
    #[error("is empty")]
    Empty,
}

/// Writes a history.
///
/// # Errors
/// `out` cannot be written.
pub fn write(history: &History, out: &mut impl Write) -> io::Result<()> {
    let History { scenario, seed, hosts, bounds, keys, entries } = history;
    let head = Head {
        format: FORMAT.to_owned(),
        scenario: scenario.clone(),
        seed: *seed,
        hosts: *hosts,
        bounds: bounds.clone(),
        keys: keys.clone(),
    };
    serde_json::to_writer(&mut *out, &head)?;
    for entry in entries {
        out.write_all(b"\n")?;
        serde_json::to_writer(&mut *out, entry)?;
    }
    out.write_all(b"\n")
}

/// Reads a history.
///
/// # Errors
/// [`JournalError`] says which line is wrong, and how.
pub fn read(source: impl BufRead) -> Result<History, JournalError> {
    let mut lines = source.lines().enumerate().map(|(i, line)| (i + 1, line));
    let (_, first) = lines.next().ok_or(JournalError::Empty)?;
    let head: Head = parse(1, &first?)?;
    if head.format != FORMAT {
        let cause = format!("its format is {:?}, and this program reads {FORMAT:?}", head.format);
        return Err(JournalError::Line { line: 1, cause });
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (line, text) in lines {
        let entry: Entry = parse(line, &text?)?;
        if entries.last().is_some_and(|last| last.at > entry.at) {
            return Err(JournalError::Line { line, cause: "it is earlier than the line before".to_owned() });
        }
        entries.push(entry);
    }
    let Head { scenario, seed, hosts, bounds, keys, .. } = head;
    Ok(History { scenario, seed, hosts, bounds, keys, entries })
}

fn parse<'a, T: Deserialize<'a>>(line: usize, text: &'a str) -> Result<T, JournalError> {
    serde_json::from_str(text).map_err(|cause| JournalError::Line { line, cause: cause.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::by_hand;
    use crate::checker::hand::{at, done, life, op, start, view};
    use crate::history::{Action, Basis, Event, Host, Kind, Level, OpId, Outcome, Stage, Standing};

    /// One entry of every kind.
    fn all_kinds() -> History {
        let host = Host(1);
        let mut entries = start(0, 0, 1).to_vec();
        entries.push(view(10, 0, &[(0, 1, Standing::Alive), (1, 1, Standing::Suspect)]));
        entries.extend(op(20, 30, 1, Action::Put(Basis::Quorum), done(&[])));
        entries.extend(op(30, 40, 2, Action::Delete(Basis::Of(OpId(1))), Outcome::Unknown));
        entries.extend(op(40, 50, 3, Action::Get, done(&[1, 2])));
        entries.extend(op(50, 60, 4, Action::Count(7), Outcome::NotApplied));
        entries.extend(op(50, 60, 5, Action::Total, Outcome::Total(7)));
        entries.extend(op(60, 70, 6, Action::Order(OpId(6)), done(&[])));
        entries.extend(op(60, 70, 7, Action::Spend, Outcome::Exhausted));
        entries.extend(op(60, 70, 8, Action::Lease(500), done(&[])));
        entries.extend(op(60, 70, 9, Action::Expire(None), Outcome::Total(1)));
        let write = Action::Write { kind: Kind::LastWriterWins, level: Level::One, expires: true };
        entries.extend(op(60, 70, 10, write, Outcome::OtherKind(Kind::Set)));
        let held = Outcome::Held { kind: Kind::Counter, found: Vec::new(), total: u64::MAX };
        entries.extend(op(60, 70, 11, Action::Read(Level::All), held));
        entries.extend(op(60, 70, 12, Action::Insert { element: u64::MAX, once: true }, done(&[])));
        let (class, what, text) = ("pause".to_owned(), "n1 stands still".to_owned(), "why\nnot".to_owned());
        let others = [
            Event::StartFailed { host, reason: "no".into() },
            Event::Stopped { host, superseded: true },
            Event::Crashed { host, wiped: false },
            Event::Leaving { host },
            Event::Left { host },
            Event::Began { fault: 3, class, what, disturbs: true, hosts: vec![host] },
            Event::Ended { fault: 3 },
            Event::Healed,
            Event::Gap { host, what: "version 3 after 1".into() },
            Event::Settled { host },
            Event::Garbage { host, key: "k".into() },
            Event::FinalReads,
            Event::FinalReadsDone { host },
            Event::Holds { host, key: "k".into(), replicas: vec![host], copy: Some(u64::MAX) },
            Event::Edited { host, document: "d".into(), added: vec![1, u64::MAX], removed: vec![2] },
            Event::Shows { host, document: "d".into(), holds: vec![u64::MAX] },
            Event::Sighted { host, number: u64::MAX, here: true },
            Event::Subscriber { host, topic: "t".into(), subscriber: 1, stage: Stage::Begun, slow: true },
            Event::Published { host, topic: "t".into(), sequence: 1 },
            Event::Got { host, subscriber: 1, publisher: host, life: life(1), sequence: 1 },
            Event::Lacks { host, subscriber: 1, publisher: host, life: life(1), missed: 1, slow: true },
            Event::Watching { host, watch: u64::MAX, key: "k".into(), prefix: true, stage: Stage::Begun },
            Event::Told { host, watch: u64::MAX, key: "k".into(), found: vec![OpId(1)] },
            Event::Clock { host, skew_ms: -5, drift_ppm: 0 },
            Event::Missed { promise: "M3".into(), demand: "all agree".into() },
            Event::Panicked { message: "oh".into() },
            Event::Note { host, text },
        ];
        entries.extend(others.map(|event| at(80, event)));
        entries.sort_by_key(|entry| entry.at);
        by_hand(entries)
    }

    fn written(history: &History) -> String {
        let mut bytes = Vec::new();
        write(history, &mut bytes).expect("memory can be written");
        String::from_utf8(bytes).expect("JSON is text")
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let history = all_kinds();
        let text = written(&history);
        assert_eq!(text.lines().count(), history.entries.len() + 1);
        assert_eq!(read(text.as_bytes()).expect("it is one"), history);
    }

    #[test]
    fn what_is_no_history_is_told_by_its_line() {
        let text = written(&all_kinds());
        let problem = |text: &str| read(text.as_bytes()).expect_err("it is none").to_string();
        assert_eq!(problem(""), "is empty");
        assert!(problem("hello").starts_with("line 1 "));
        assert!(problem(&text.replacen("polity-history/1", "polity-history/9", 1)).contains("polity-history/9"));
        assert!(problem(&text.replacen("\"n0\"", "\"x\"", 1)).starts_with("line 2 "));
        assert!(problem(&format!("{text}{{\"at_us\":1,\"event\":\"healed\"}}\n")).contains("earlier"));
        assert!(problem(&text[..text.len() - 5]).contains("line"));
    }
}
