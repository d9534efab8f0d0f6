//! Events, operations and times in words.

use std::fmt;
use std::time::Duration;

use crate::history::{Action, Basis, Deed, Event, Host, Kind, Level, MemberList, Op, OpId, Outcome, Seen, Standing};

/// How many of the values that a read found are shown: those that were written last.
const SHOWN: usize = 6;

/// A time in seconds with three digits.
pub(super) struct Secs(pub(super) Duration);

impl fmt::Display for Secs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_secs(), self.0.subsec_millis())
    }
}

/// Hosts, one after the other.
pub(super) fn names(hosts: &[Host]) -> String {
    hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(" ")
}

/// The kind of an action.
pub(super) fn kind(action: &Action) -> &'static str {
    match action {
        Action::Get => "get",
        Action::Put(_) => "put",
        Action::Delete(_) => "delete",
        Action::Add => "add",
        Action::Elements => "elements",
        Action::Count(_) => "count",
        Action::Once { .. } => "once",
        Action::Total => "total",
        Action::Order(_) => "order",
        Action::Orders => "orders",
        Action::Spend => "spend",
        Action::Lease(_) => "lease",
        Action::Expire(_) => "expire",
        Action::End => "end",
        Action::Look => "look",
        Action::Write { .. } => "write",
        Action::Erase(_) => "erase",
        Action::Read(_) => "read",
        Action::Scan => "scan",
        Action::Len => "len",
        Action::Insert { .. } => "insert",
        Action::Remove(_) => "remove",
        Action::Members => "members",
        Action::Fade { .. } => "fade",
        Action::Faded => "faded",
    }
}

/// Whether an action only reads.
pub(super) fn is_read(action: &Action) -> bool {
    use Action::{Elements, Faded, Get, Len, Look, Members, Orders, Read, Scan, Total};
    matches!(action, Get | Elements | Total | Orders | Look | Read(_) | Scan | Len | Members | Faded)
}

/// What an operation does.
pub(super) fn doing(op: &Op) -> String {
    match op.action {
        Action::Put(Basis::Of(seen)) => format!("put over what {seen} saw"),
        Action::Delete(Basis::Of(seen)) => format!("delete what {seen} saw"),
        Action::Count(by) => format!("count +{by}"),
        Action::Once { id, by } => format!("count +{by} under the key {id}"),
        Action::Lease(ms) => format!("lease for {ms} ms"),
        Action::Expire(Some(ms)) => format!("expire in {ms} ms"),
        Action::Expire(None) => "expire never".to_owned(),
        Action::Write { kind, level, expires } => {
            format!("write of a {}{}{}", held(kind), at(level), if expires { ", to expire" } else { "" })
        }
        Action::Erase(level) | Action::Read(level) => format!("{}{}", kind(&op.action), at(level)),
        Action::Insert { element, once } => {
            format!("insert {element}{}", if once { " under its idempotency key" } else { "" })
        }
        Action::Fade { ms: Some(ms), level } => format!("fade in {ms} ms{}", at(level)),
        Action::Fade { ms: None, level } => format!("fade with the rest{}", at(level)),
        Action::Remove(element) => format!("remove {element}"),
        Action::Order(first) if first != op.id => format!("order of {first} again"),
        action => kind(&action).to_owned(),
    }
}

/// How an operation ended.
pub(super) fn ending(op: &Op) -> String {
    match &op.outcome {
        Outcome::Done(elements) if op.action == Action::Members => {
            format!("found {}", elements.iter().map(|element| element.0.to_string()).collect::<Vec<_>>().join(" "))
        }
        Outcome::Done(_) if op.found().is_none() => "done".to_owned(),
        Outcome::Done(found) => values(found),
        Outcome::Total(total) => format!("found a total of {total}"),
        Outcome::Held { kind: Kind::Counter, total, .. } => format!("found a counter at {total}"),
        Outcome::Held { kind, found, .. } => format!("{}, a {}", values(found), held(*kind)),
        Outcome::OtherKind(kind) => format!("not applied: a {} is there", held(*kind)),
        Outcome::Exhausted => "exhausted: nothing is left to spend".to_owned(),
        Outcome::NotApplied => "not applied".to_owned(),
        Outcome::Unknown if op.returned.is_none() => "unknown: the caller died".to_owned(),
        Outcome::Unknown => "unknown".to_owned(),
    }
}

/// A kind in a word.
fn held(kind: Kind) -> &'static str {
    match kind {
        Kind::Causal => "causal value",
        Kind::LastWriterWins => "last value",
        Kind::Counter => "counter",
        Kind::Set => "set",
        Kind::Map => "map",
    }
}

/// At which level, if that is not a quorum.
fn at(level: Level) -> &'static str {
    match level {
        Level::One => " at one",
        Level::Quorum => "",
        Level::All => " at all",
    }
}

fn values(found: &[OpId]) -> String {
    let list = |found: &[OpId]| found.iter().map(OpId::to_string).collect::<Vec<_>>().join(" ");
    match found.len() {
        0 => "found nothing".to_owned(),
        1..=SHOWN => format!("found {}", list(found)),
        many => format!("found {many}, the last {}", list(&found[many - SHOWN..])),
    }
}

/// A standing in a word.
pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Alive => "alive",
        Standing::Suspect => "suspect",
        Standing::Down => "down",
        Standing::Left => "left",
    }
}

/// What has changed from one member list to the next.
pub(super) fn difference(before: Option<&MemberList>, after: &MemberList) -> String {
    let said = |seen: &Seen| format!("{} (life {:?})", standing(seen.standing), seen.life);
    let Some(before) = before else {
        let all: Vec<_> = after.iter().map(|(host, seen)| format!("{host} {}", standing(seen.standing))).collect();
        return format!("sees {}", if all.is_empty() { "nobody".to_owned() } else { all.join(", ") });
    };
    let mut changes: Vec<String> = Vec::new();
    for (host, seen) in after {
        changes.extend(match before.get(host) {
            Some(old) if old == seen => None,
            Some(old) if old.life == seen.life && old.standing == seen.standing => {
                Some(format!("{host} came back for the {}. time", seen.rejoin))
            }
            Some(old) if old.life == seen.life => {
                Some(format!("{host} {}, was {}", standing(seen.standing), standing(old.standing)))
            }
            Some(_) => Some(format!("{host} {} under a new life", said(seen))),
            None => Some(format!("{host} {}, was unknown", said(seen))),
        });
    }
    let gone = before.keys().filter(|host| !after.contains_key(host));
    changes.extend(gone.map(|host| format!("{host} forgotten")));
    changes.join("; ")
}

fn said(deed: Deed) -> String {
    match deed {
        Deed::Claimed => "owns it".to_owned(),
        Deed::Known => "knows of it".to_owned(),
        Deed::Installed => "has what belongs to it".to_owned(),
        Deed::Released(to) => format!("has let go for {to}"),
        Deed::Superseded(by) => format!("is superseded by {by}"),
        Deed::Recorded(by) => format!("writes down a conflict with {by}"),
        Deed::Alarmed => "reports that its handoff is stuck".to_owned(),
        Deed::Stuck => "its handoff is stuck".to_owned(),
        Deed::Accepted => "lets an effect take place".to_owned(),
        Deed::Refused => "refuses an effect".to_owned(),
    }
}

/// The name of an event's kind as in a file, and the event in words. Views need what was seen before; operations and
/// copies are told elsewhere.
pub(super) fn event(event: &Event) -> (&'static str, String) {
    match event {
        Event::Launched { .. } => ("launched", "a process begins to start".to_owned()),
        Event::Ready { life, .. } => ("ready", format!("the node is a member, life {life:?}")),
        Event::StartFailed { reason, .. } => ("start-failed", format!("the node could not start: {reason}")),
        Event::Stopped { superseded: true, .. } => {
            ("stopped", "the node stopped by itself: a newer process has its name".to_owned())
        }
        Event::Stopped { .. } => ("stopped", "the node stopped by itself".to_owned()),
        Event::Crashed { wiped: true, .. } => ("crashed", "killed, and its disk lost".to_owned()),
        Event::Crashed { .. } => ("crashed", "killed".to_owned()),
        Event::Leaving { .. } => ("leaving", "asked to leave".to_owned()),
        Event::Left { .. } => ("left", "has left".to_owned()),
        Event::Began { fault, class, what, .. } => ("began", format!("fault {fault} begins, {class}: {what}")),
        Event::Ended { fault } => ("ended", format!("fault {fault} ends")),
        Event::Healed => ("healed", "all faults are removed, and there will be no more".to_owned()),
        Event::View { members, .. } => ("view", difference(None, members)),
        Event::Gap { what, .. } => ("gap", format!("a subscriber was told something else than the node sees: {what}")),
        Event::Settled { .. } => ("settled", "its store is settled".to_owned()),
        Event::Invoked { op, key, action, .. } => ("invoked", format!("{op} {} {key}", kind(action))),
        Event::Returned { op, .. } => ("returned", format!("{op} ends")),
        Event::Garbage { key, .. } => ("garbage", format!("a read of {key} found bytes that nobody wrote")),
        Event::FinalReads => ("final-reads", "all workload has ended; all nodes read all keys".to_owned()),
        Event::FinalReadsDone { .. } => ("final-reads-done", "has read all keys".to_owned()),
        Event::Edited { document, added, removed, .. } => {
            ("edited", format!("adds {} to {document} and removes {}", added.len(), removed.len()))
        }
        Event::Shows { document, holds, .. } => ("shows", format!("holds {} in {document}", holds.len())),
        Event::Sighted { number, here: true, .. } => ("sighted", format!("sees {number:x} come")),
        Event::Sighted { number, .. } => ("sighted", format!("sees {number:x} go")),
        Event::Subscriber { topic, subscriber, stage, .. } => {
            ("subscriber", format!("subscriber {subscriber:x} of {topic}: {stage:?}"))
        }
        Event::Published { topic, sequence, .. } => ("published", format!("publishes message {sequence} of {topic}")),
        Event::Got { subscriber, publisher, sequence, .. } => {
            ("got", format!("subscriber {subscriber:x} gets message {sequence} of {publisher}"))
        }
        Event::Lacks { subscriber, publisher, missed, .. } => {
            ("lacks", format!("subscriber {subscriber:x} is told that it has missed {missed} of {publisher}"))
        }
        Event::Watching { watch, key, prefix, stage, .. } => {
            ("watching", format!("watch {watch:x} of {key}{}: {stage:?}", if *prefix { "*" } else { "" }))
        }
        Event::Told { watch, key, found, .. } => ("told", format!("watch {watch:x} is told of {key}: {found:?}")),
        Event::Clock { skew_ms, drift_ppm, .. } => {
            ("clock", format!("the wall clock is {skew_ms} ms off and gains {drift_ppm} ppm"))
        }
        Event::Ownership { shard, epoch, deed, .. } => {
            ("ownership", format!("shard {shard} under {epoch}: {}", said(*deed)))
        }
        Event::Owners { shards, .. } => ("owners", format!("names the owners of {} shards", shards.len())),
        Event::Holds { key, .. } => ("holds", format!("tells where {key} is")),
        Event::Missed { promise, demand } => ("missed", format!("{promise} demands that {demand}: it was not so")),
        Event::Panicked { message } => ("panicked", message.clone()),
        Event::Note { text, .. } => ("note", text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::hand::view;

    fn list(seen: &[(u8, u64, Standing)]) -> MemberList {
        let Event::View { members, .. } = view(0, 0, seen).event else { panic!("a view") };
        members
    }

    #[test]
    fn a_change_of_a_list_is_told_member_by_member() {
        let (up, down) = (Standing::Alive, Standing::Down);
        let before = list(&[(0, 1, up), (1, 1, up), (2, 1, up)]);
        let after = list(&[(0, 1, up), (1, 1, down), (3, 1, up)]);
        let told = difference(Some(&before), &after);
        assert!(told.starts_with("n1 down, was alive; n3 alive (life 1."), "{told}");
        assert!(told.ends_with("was unknown; n2 forgotten"), "{told}");
        assert_eq!(difference(None, &MemberList::new()), "sees nobody");
    }

    #[test]
    fn of_many_values_the_last_are_shown() {
        let many: Vec<OpId> = (0..100).map(OpId).collect();
        assert_eq!(values(&many), "found 100, the last #94 #95 #96 #97 #98 #99");
        assert_eq!(values(&many[..2]), "found #0 #1");
    }
}
