//! The band of one node: its processes, the faults that concern it, whom it sees, and its operations.

use std::time::Duration;

use super::band::{Band, Labelled};
use super::escape::clip;
use super::overview::{family, in_full};
use super::story::{Look, Story, outcome_class};
use super::svg::{Bars, Lanes, Scale, text_width};
use super::truth::{Apart, Links, between};
use super::words::{self, Secs, doing, ending, standing};
use crate::history::{Event, Host, Op, Standing};

/// The longest label of a fault or an event.
const MAX_LABEL: usize = 60;
/// How high the row of another member is.
const MEMBER: f64 = 12.0;
/// How high an operation is, and from one to the next.
const OP: f64 = 6.0;
/// How many operations of a node are drawn beneath each other.
const OP_LANES: usize = 7;
/// Lanes of faults and events.
const MAX_LANES: usize = 12;

/// How many operations may still be drawn so that one can point at each.
pub(super) struct Titles {
    /// Of those that were done.
    pub(super) done: usize,
    /// Of the others.
    pub(super) others: usize,
}

/// Draws a node.
pub(super) fn node(story: &Story<'_>, host: Host, scale: Scale, titles: &mut Titles) -> (String, usize) {
    let name = if host.is_stranger() { format!("{host} (stranger)") } else { host.to_string() };
    let mut band = Band::new(scale, &name);
    processes(&mut band, story, host);
    band.labelled("faults", MAX_LANES, faults(story, host));
    members(&mut band, story, host);
    operations(&mut band, story, host, titles);
    band.labelled("events", MAX_LANES, events(story, host));
    band.finish(&format!("node-{host}"))
}

fn processes(band: &mut Band, story: &Story<'_>, host: Host) {
    let y = band.row("row", "process", 16.0);
    let scale = band.scale;
    let ends = ends(story, host);
    for living in story.lives.iter().filter(|living| living.host == host) {
        let to = living.to.unwrap_or(story.end);
        let mut part = |class, from: Duration, to: Duration, what: &str| {
            let title = format!("{host} {what}: {} s to {} s", Secs(from), Secs(to));
            band.drawing.bar(class, (scale.x(from), scale.x(to)), (y + 1.0, 12.0), &title);
        };
        let (ready, life) = living.ready.map_or((to, None), |(at, life)| (at, Some(life)));
        part("starting", living.from, ready, "starts");
        if let Some(life) = life {
            let leaving = living.leaving.unwrap_or(to).max(ready);
            part("running", ready, leaving, &format!("runs, life {life:?}"));
            if leaving < to {
                part("leaving", leaving, to, "leaves");
            }
            let label = format!("life {life:?}");
            // Not over what is written of the end before.
            let before = ends.iter().rev().find(|(at, ..)| *at <= ready);
            let free = before.map_or(0.0, |(at, _, label, _)| scale.x(*at) + 14.0 + text_width(label));
            let x = free.max(scale.x(ready) + 4.0);
            if scale.x(leaving) - x > text_width(&label) {
                band.drawing.text("label", (scale.x(ready), x - scale.x(ready)), y + 11.0, &label);
            }
        }
    }
    let mut free = 0.0;
    for (at, shape, label, title) in &ends {
        let x = scale.x(*at);
        band.drawing.mark("end", shape, x, y + 7.0, title);
        if x >= free {
            band.drawing.text("label", (x, 8.0), y + 11.0, label);
            free = x + 8.0 + text_width(label);
        }
    }
}

/// How the processes of a host ended: when, as which shape, in short and in full.
fn ends(story: &Story<'_>, host: Host) -> Vec<(Duration, &'static str, &'static str, String)> {
    let mut ends = Vec::new();
    for (at, event) in story.moments(host) {
        let (shape, label) = match event {
            Event::Crashed { wiped: false, .. } => ("cross", "killed"),
            Event::Crashed { wiped: true, .. } => ("cross", "killed, disk lost"),
            Event::Left { .. } => ("out", "left"),
            Event::Stopped { superseded: true, .. } => ("stop", "stopped: name taken"),
            Event::Stopped { .. } => ("stop", "stopped"),
            Event::StartFailed { .. } => ("cross", "could not start"),
            _ => continue,
        };
        let (_, text) = words::event(event);
        ends.push((at, shape, label, format!("{} s: {host} {text}", Secs(at))));
    }
    ends
}

fn faults(story: &Story<'_>, host: Host) -> Vec<Labelled> {
    let concern = story.faults.iter().filter(|fault| fault.hosts.contains(&host));
    let items = concern.filter_map(|fault| {
        let links = if fault.class.starts_with("partition") { Links::of(fault) } else { None };
        let label = match links {
            Some(links) => links.around(host)?,
            // What befalls several is told in full above.
            None if fault.hosts.len() > 1 => fault.class.to_owned(),
            None => format!("{}: {}", fault.class, fault.what),
        };
        let label = clip(&label, MAX_LABEL).into_owned();
        Some(Labelled { class: family(fault.class), shape: None, span: fault.span, label, title: in_full(fault) })
    });
    items.collect()
}

/// How many members the node sees up, and a row for each other member.
fn members(band: &mut Band, story: &Story<'_>, host: Host) {
    let counts = story.counts(host);
    if !counts.iter().any(|(_, count)| count.is_some()) {
        return;
    }
    let (scale, y) = (band.scale, band.row("row", "members up", 13.0));
    let (mut last, mut free) = (None, f64::MIN);
    for (at, count) in &counts {
        let (x, Some(up)) = (scale.x(*at), *count) else {
            last = None;
            continue;
        };
        band.drawing.bar("tick", (x, x), (y, 4.0), &format!("{} s: {host} sees {up} up", Secs(*at)));
        if last != Some(up) && x >= free {
            band.drawing.text("count", (x, 1.0), y + 13.0, &up.to_string());
            (last, free) = (Some(up), x + 16.0);
        }
    }
    for other in story.hosts.iter().copied().filter(|other| *other != host) {
        let looks = story.looks(host, other);
        if !other.is_stranger() || looks.iter().any(|look| look.seen.is_some()) {
            let y = band.row("row member", &format!("sees {other}"), MEMBER - 3.0);
            truth(band, story, (host, other), y);
            belief(band, &looks, (host, other), y);
        }
    }
}

/// What really kept a node from another.
fn truth(band: &mut Band, story: &Story<'_>, (host, other): (Host, Host), y: f64) {
    let scale = band.scale;
    for ((from, to), apart, what) in between(story, host, other) {
        let class = match apart {
            Apart::Cut => "apart cut",
            Apart::Paused => "apart paused",
            Apart::Absent => "apart absent",
        };
        let title = format!("{what}: {} s to {} s", Secs(from), Secs(to));
        band.drawing.bar(class, (scale.x(from), scale.x(to)), (y - 1.5, MEMBER), &title);
    }
}

/// What a node believed of another.
fn belief(band: &mut Band, looks: &[Look], (host, other): (Host, Host), y: f64) {
    let (scale, mut life) = (band.scale, None);
    for Look { span: (from, to), seen } in looks {
        let (class, height) = match seen.map(|(standing, _)| standing) {
            Some(Standing::Alive) => ("look alive", 2.0),
            Some(Standing::Suspect) => ("look suspect", 6.0),
            Some(Standing::Down) => ("look down", 9.0),
            Some(Standing::Left) => ("look left", 8.0),
            None => ("look nobody", 1.0),
        };
        let word = seen.map_or("not in the list", |(seen, _)| standing(seen));
        let (x, end) = (scale.x(*from), scale.x(*to));
        let known = seen.map_or(String::new(), |(_, life)| format!(", life {life:?}"));
        let title = format!("{host} sees {other} {word}{known}: {} s to {} s", Secs(*from), Secs(*to));
        band.drawing.bar(class, (x, end), (y + 4.5 - height / 2.0, height), &title);
        if height > 6.0 && end - x > 34.0 {
            band.drawing.text("in-bar", (x, 4.0), y + 8.0, word);
        }
        if let Some((_, now)) = *seen {
            if life.is_some_and(|life| life != now) {
                let title = format!("{} s: {host} learns of a new life of {other}: {now:?}", Secs(*from));
                band.drawing.mark("reborn", "reborn", x, y + 4.5, &title);
            }
            life = Some(now);
        }
    }
}

fn operations(band: &mut Band, story: &Story<'_>, host: Host, titles: &mut Titles) {
    let ops: Vec<&Op> = story.ops.values().filter(|op| op.host == host).collect();
    let (done, others): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.is_done());
    rows(band, story, ("done", &done), &mut titles.done);
    rows(band, story, ("not done", &others), &mut titles.others);
}

fn rows(band: &mut Band, story: &Story<'_>, (name, ops): (&str, &[&Op]), titles: &mut usize) {
    if ops.is_empty() {
        return;
    }
    let (scale, mut lanes) = (band.scale, Lanes::new(OP_LANES));
    let spans: Vec<_> = ops.iter().map(|op| story.span(op)).collect();
    let placed: Vec<_> = spans
        .iter()
        .map(|(from, to)| {
            let (from, to) = (scale.x(*from), scale.x(*to).max(scale.x(*from) + 2.0));
            ((from, to), lanes.place(from, to + 0.6).0)
        })
        .collect();
    let name = format!("{} {name}", ops.len());
    let top = band.row("row", &name, lanes.count() as f64 * OP + 2.0);
    let mut untitled = [
        ("op done", Bars::default()),
        ("op refused", Bars::default()),
        ("op unknown", Bars::default()),
        ("op exhausted", Bars::default()),
    ];
    let titled = (*titles).min(ops.len());
    *titles -= titled;
    for (i, (op, (at, lane))) in ops.iter().zip(placed).enumerate() {
        let y = top + 1.0 + lane as f64 * OP;
        let (class, place) = match outcome_class(&op.outcome) {
            "done" => ("op done", (y + 1.0, OP - 3.0)),
            "refused" => ("op refused", (y, OP - 1.5)),
            "unknown" => ("op unknown", (y, OP - 1.0)),
            _ => ("op exhausted", (y + 1.5, OP - 4.0)),
        };
        if i < titled {
            let title = in_words(op, spans[i]);
            band.drawing.bar(class, at, place, &title);
        } else if let Some((_, bars)) = untitled.iter_mut().find(|(other, _)| *other == class) {
            bars.add(at, place);
        }
    }
    for (class, bars) in &untitled {
        band.drawing.bars(class, bars);
    }
}

/// An operation with all that is known of it. The page's script reads its number from the beginning.
fn in_words(op: &Op, (from, to): (Duration, Duration)) -> String {
    let lasts = to.saturating_sub(from).as_millis();
    format!("{} {} {}: {}, {} s, {lasts} ms", op.id, doing(op), op.key, ending(op), Secs(from))
}

fn events(story: &Story<'_>, host: Host) -> Vec<Labelled> {
    let mut items: Vec<Labelled> = Vec::new();
    let mut held: Option<(Duration, usize)> = None;
    for (at, event) in story.moments(host) {
        let (kind, text) = words::event(event);
        let (class, shape, label) = match event {
            Event::Settled { .. } => ("good", "diamond", "settled".to_owned()),
            Event::FinalReadsDone { .. } => ("good", "disc", "has read all".to_owned()),
            Event::Gap { .. } => ("bad", "late", format!("gap: {text}")),
            Event::Garbage { .. } => ("bad", "burst", format!("garbage: {text}")),
            Event::Note { .. } => ("plain", "note", text.clone()),
            Event::Edited { .. }
            | Event::Shows { .. }
            | Event::Sighted { .. }
            | Event::Subscriber { .. }
            | Event::Published { .. }
            | Event::Got { .. }
            | Event::Lacks { .. }
            | Event::Watching { .. }
            | Event::Told { .. }
            | Event::Clock { .. }
            | Event::Ownership { .. }
            | Event::Owners { .. } => continue,
            Event::Holds { .. } => {
                let (since, keys) = held.get_or_insert((at, 0));
                // A node tells of all its keys at once.
                if *since == at {
                    *keys += 1;
                }
                continue;
            }
            _ => continue,
        };
        let (label, title) = (clip(&label, MAX_LABEL).into_owned(), format!("{} s: {host} {kind}: {text}", Secs(at)));
        items.push(Labelled { class, shape: Some(shape), span: (at, at), label, title });
    }
    if let Some((at, keys)) = held {
        let label = "tells its copies".to_owned();
        let title = format!("{} s: {host} tells where it believes {keys} keys to be, and its copies", Secs(at));
        items.push(Labelled { class: "plain", shape: Some("ring"), span: (at, at), label, title });
    }
    items
}
