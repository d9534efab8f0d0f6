//! The page: its head, the timeline, the events and the keys, one after the other.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::broken::Broken;
use super::escape::escape;
use super::keys::{keys, listed};
use super::log::log;
use super::node::{Titles, node};
use super::overview::{axis, lines, overview};
use super::story::Story;
use super::svg::{Px, Scale};
use super::words::{Secs, is_read, kind};
use crate::history::{Event, Outcome};

/// How many operations are drawn so that one can point at each.
const MAX_TITLES: usize = 9000;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const SHAPES: &str = include_str!("shapes.svg");
const LEGEND: &str = include_str!("legend.html");

/// Writes the page of a run.
pub(super) fn page(story: &Story<'_>, replay: &str, out: &mut impl io::Write) -> io::Result<()> {
    let (scenario, seed) = (escape(&story.history.scenario), story.history.seed);
    // No resource is ever loaded, whatever a text on the page says.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{scenario} {seed}</title>\n\
         <style>\n{STYLE}</style></head>\n<body>\n{SHAPES}"
    )?;
    head(story, replay, out)?;
    let scale = Scale::until(story.end);
    let (broken, listed) = (Broken::of(story.violations, scale), listed(story));
    out.write_all(broken.list(&listed).as_bytes())?;
    counts(story, out)?;
    timeline(story, &broken, scale, out)?;
    out.write_all(log(story, scale).as_bytes())?;
    out.write_all(keys(story, &listed).as_bytes())?;
    write!(out, "<script>\n{SCRIPT}</script>\n</body></html>\n")
}

fn head(story: &Story<'_>, replay: &str, out: &mut impl io::Write) -> io::Result<()> {
    let history = story.history;
    let (scenario, seed) = (escape(&history.scenario), history.seed);
    let (class, verdict) = match story.violations.len() {
        0 => ("good", "ok: no promise was broken".to_owned()),
        1 => ("bad", "FAIL: 1 violation".to_owned()),
        many => ("bad", format!("FAIL: {many} violations")),
    };
    let bounds = &history.bounds;
    let bound = |time: Duration| format!("{} s", Secs(time));
    write!(
        out,
        "<header><h1>{scenario}, seed {seed} <span class=\"verdict {class}\">{verdict}</span></h1>\n\
         <p>{} s of simulated time, {} hosts, {} entries. Replay: <code>{}</code></p>\n\
         <p>Bounds: a process that ended is down everywhere within {} (M1); member lists agree within {} of the heal \
         (M3); a restarted node is listed within {} (M4); copies agree within {} of settling (K4).</p></header>\n",
        Secs(story.end),
        history.hosts,
        history.entries.len(),
        escape(replay),
        bound(bounds.detection),
        bound(bounds.convergence),
        bound(bounds.comeback),
        bound(bounds.repair),
    )
}

/// How many operations there were by kind and outcome, and how much else.
fn counts(story: &Story<'_>, out: &mut impl io::Write) -> io::Result<()> {
    out.write_all(b"<section id=\"counts\" class=\"side\"><div><h2>Operations</h2>\n")?;
    let mut by_kind: BTreeMap<(bool, &str), [usize; 6]> = BTreeMap::new();
    for op in story.ops.values() {
        let row = by_kind.entry((is_read(&op.action), kind(&op.action))).or_default();
        let column = match op.outcome {
            Outcome::Done(_) | Outcome::Total(_) | Outcome::Held { .. } => 1,
            Outcome::Exhausted => 2,
            Outcome::NotApplied | Outcome::OtherKind(_) => 3,
            Outcome::Unknown if op.returned.is_some() => 4,
            Outcome::Unknown => 5,
        };
        row[0] += 1;
        row[column] += 1;
    }
    out.write_all(
        b"<table class=\"numbers\"><tr><th><th>all<th>done<th>exhausted<th>not applied<th>unknown<th>caller died\n",
    )?;
    for ((_, kind), row) in &by_kind {
        write!(out, "<tr><th>{kind}")?;
        row.iter().try_for_each(|count| write!(out, "<td>{count}"))?;
        out.write_all(b"\n")?;
    }
    out.write_all(b"</table></div>\n<div><h2>Faults</h2>\n<table class=\"numbers\"><tr><th>class<th>all<th>seconds\n")?;
    let mut by_class: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    for fault in &story.faults {
        let (count, time) = by_class.entry(fault.class).or_default();
        *count += 1;
        *time += fault.span.1.saturating_sub(fault.span.0);
    }
    for (class, (count, time)) in by_class.iter().take(100) {
        writeln!(out, "<tr><th>{}<td>{count}<td>{}", escape(class), Secs(*time))?;
    }
    let count = |is: fn(&Event) -> bool| story.history.entries.iter().filter(|entry| is(&entry.event)).count();
    out.write_all(b"</table></div>\n<div><h2>Else</h2>\n<table class=\"numbers\">\n")?;
    let others = [
        ("changes of views", count(|event| matches!(event, Event::View { .. }))),
        ("processes", story.lives.len()),
        ("killed", count(|event| matches!(event, Event::Crashed { .. }))),
        ("left", count(|event| matches!(event, Event::Left { .. }))),
        ("gaps", count(|event| matches!(event, Event::Gap { .. }))),
        ("reads of garbage", count(|event| matches!(event, Event::Garbage { .. }))),
        ("panics", count(|event| matches!(event, Event::Panicked { .. }))),
    ];
    others.iter().try_for_each(|(name, count)| writeln!(out, "<tr><th>{name}<td>{count}"))?;
    out.write_all(b"</table></div></section>\n")
}

fn timeline(story: &Story<'_>, broken: &Broken<'_>, scale: Scale, out: &mut impl io::Write) -> io::Result<()> {
    let (overview, mut omitted) = overview(story, broken, scale);
    let done = story.ops.values().filter(|op| op.is_done()).count();
    let others = (story.ops.len() - done).min(MAX_TITLES);
    let mut titles = Titles { done: (MAX_TITLES - others).min(done), others };
    let untitled = story.ops.len() - titles.done - titles.others;
    write!(
        out,
        "<section id=\"timeline\"><h2>Timeline <a class=\"hint\" href=\"#legend\">what the signs mean</a></h2>\n<p class=\"script\" id=\"tools\"></p>\n\
         <div class=\"frame\" tabindex=\"0\" style=\"--step:{};--width:{}\"><div class=\"inner\">\n{}{}{overview}",
        Px(scale.step_width()),
        Px(scale.width()),
        lines(story, broken, scale),
        axis(scale)
    )?;
    for host in &story.hosts {
        let (band, more) = node(story, *host, scale, &mut titles);
        omitted += more;
        out.write_all(band.as_bytes())?;
    }
    out.write_all(b"</div></div>\n")?;
    if untitled > 0 {
        writeln!(out, "<p class=\"cap\">{untitled} operations are drawn without a text of their own.</p>")?;
    }
    if omitted > 0 {
        writeln!(out, "<p class=\"cap\">There was no room to draw {omitted} more elements.</p>")?;
    }
    writeln!(out, "{LEGEND}</section>")
}
