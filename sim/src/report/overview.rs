//! What is above the nodes: the axis, the phases of the run, its faults, and what broke.

use std::time::Duration;

use super::band::{Band, Labelled, NAMES};
use super::broken::Broken;
use super::escape::{clip, escape};
use super::story::{FaultSpan, Story};
use super::svg::{Drawing, Px, Scale};
use super::truth::Links;
use super::words::{self, Secs, names};
use crate::history::Event;

/// The longest label of a fault or an event.
const MAX_LABEL: usize = 90;
/// How high a flag is.
const FLAG: f64 = 17.0;
/// How high the axis is.
const AXIS: f64 = 22.0;
/// Lanes of faults.
const MAX_LANES: usize = 24;

/// The class in which a fault is drawn, and its family in a word.
pub(super) fn family(class: &str) -> &'static str {
    match class.split('-').next().unwrap_or("") {
        "partition" | "clog" => "fault links",
        "pause" => "fault pause",
        "clock" => "fault clock",
        "crash" | "outage" | "restart" | "leave" | "join" | "disk" => "fault process",
        _ => "fault weather",
    }
}

/// What a fault does, in as few words as there are.
pub(super) fn in_short(fault: &FaultSpan<'_>) -> String {
    let links = if fault.class.starts_with("partition") { Links::of(fault) } else { None };
    let what = links.map_or_else(|| fault.what.to_owned(), |links| links.words());
    clip(&what, MAX_LABEL).into_owned()
}

/// A fault in full.
pub(super) fn in_full(fault: &FaultSpan<'_>) -> String {
    let FaultSpan { number, class, what, disturbs, hosts, span: (from, to) } = fault;
    let lasts = Secs(to.saturating_sub(*from));
    let disturbs = if *disturbs { "\nmembers may fail to see each other in time while it lasts" } else { "" };
    let (from, to, hosts) = (Secs(*from), Secs(*to), names(hosts));
    format!("fault {number}, {class}: {what}\n{from} s to {to} s ({lasts} s), concerns {hosts}{disturbs}")
}

/// The axis: seconds, each of which leads to the first event of its time in words.
pub(super) fn axis(scale: Scale) -> String {
    let (mut drawing, mut names) = (Drawing::new(1000), Drawing::new(10));
    names.text("row", (NAMES, -6.0), 15.0, "seconds");
    for second in scale.seconds() {
        let x = scale.x(Duration::from_secs(second));
        drawing.link(&format!("s{second}"), (x, 3.0), 15.0, &second.to_string());
    }
    let (names, body) = (names.finish("names", NAMES, AXIS), drawing.finish("body", scale.width(), AXIS));
    format!("<div class=\"band axis\">{names}{body}</div>\n")
}

/// The lines through the whole timeline: where the phases begin, and what broke.
pub(super) fn lines(story: &Story<'_>, broken: &Broken<'_>, scale: Scale) -> String {
    let mut html = String::from("<div class=\"lines\">\n");
    for (at, phase) in story.phases() {
        if at > Duration::ZERO {
            let x = Px(scale.x(at));
            html.push_str(&format!("<span class=\"phase\" style=\"--x:{x}\" title=\"{}\"></span>\n", escape(phase)));
        }
    }
    html + &broken.lines(AXIS + 4.0) + "</div>\n"
}

/// The band above all nodes.
pub(super) fn overview(story: &Story<'_>, broken: &Broken<'_>, scale: Scale) -> (String, usize) {
    let mut band = Band::new(scale, "the run");
    if !broken.is_empty() {
        band.row("row", "broken", FLAG);
    }
    let phases = story.phases();
    let ends = phases.iter().skip(1).map(|(at, _)| *at).chain([story.end]);
    let items = phases.iter().zip(ends).map(|((from, name), to)| Labelled {
        class: "part",
        shape: None,
        span: (*from, to),
        label: (*name).to_owned(),
        title: format!("{name}: {} s to {} s", Secs(*from), Secs(to)),
    });
    band.labelled("phase", 4, items.collect());
    let items = story.faults.iter().map(|fault| Labelled {
        class: family(fault.class),
        shape: None,
        span: fault.span,
        label: format!("{}: {}", fault.class, in_short(fault)),
        title: in_full(fault),
    });
    band.labelled("faults", MAX_LANES, items.collect());
    let of_nobody = story.history.entries.iter().filter_map(|entry| {
        let shape = match &entry.event {
            Event::Missed { .. } => "late",
            Event::Panicked { .. } => "burst",
            _ => return None,
        };
        let (kind, text) = words::event(&entry.event);
        Some(Labelled {
            class: "bad",
            shape: Some(shape),
            span: (entry.at, entry.at),
            label: clip(&format!("{kind}: {text}"), MAX_LABEL).into_owned(),
            title: format!("{kind} at {} s: {text}", Secs(entry.at)),
        })
    });
    band.labelled("went wrong", MAX_LANES, of_nobody.collect());
    band.finish("overview")
}
