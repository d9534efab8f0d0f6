//! All that happened but operations and copies, in words and in order.

use std::collections::BTreeMap;

use super::escape::{clip, escape};
use super::story::{Story, host_of};
use super::svg::Scale;
use super::words::{self, Secs, difference};
use crate::history::{Event, Host, MemberList};

/// How many events are told.
const MAX_EVENTS: usize = 5000;
/// The longest text of one.
const MAX_TEXT: usize = 600;

/// The section of the events. The seconds of the axis lead into it.
pub(super) fn log(story: &Story<'_>, scale: Scale) -> String {
    let mut html = String::from(
        "<section id=\"log\"><h2>Events in words</h2>\n<p class=\"script\"><label>show only what contains \
         <input id=\"filter\" placeholder=\"n2, down, began\"></label></p>\n\
         <div class=\"scroll\"><table><tr><th>s<th>where<th>what<th>in words\n",
    );
    let mut seen: BTreeMap<Host, &MemberList> = BTreeMap::new();
    let (mut told, mut seconds) = (0, scale.seconds().peekable());
    for entry in &story.history.entries {
        let event = &entry.event;
        let (kind, text) = match event {
            Event::Invoked { .. }
            | Event::Returned { .. }
            | Event::Holds { .. }
            | Event::Edited { .. }
            | Event::Shows { .. }
            | Event::Sighted { .. }
            | Event::Subscriber { .. }
            | Event::Published { .. }
            | Event::Got { .. }
            | Event::Lacks { .. }
            | Event::Watching { .. }
            | Event::Told { .. } => continue,
            Event::View { host, members } => ("view", difference(seen.insert(*host, members), members)),
            event => words::event(event),
        };
        if let Event::Launched { host } = event {
            seen.remove(host);
        }
        told += 1;
        if told > MAX_EVENTS {
            continue;
        }
        // A second leads to the first event that is not before it.
        let mut ids = String::new();
        while let Some(second) = seconds.next_if(|second| *second <= entry.at.as_secs()) {
            ids.push_str(&anchor(second));
        }
        let host = host_of(event).map_or(String::new(), |host| host.to_string());
        let class = class(event);
        html.push_str(&format!(
            "<tr class=\"{class}\"><td>{ids}{}<td>{host}<td>{kind}<td>{}\n",
            Secs(entry.at),
            escape(&clip(&text, MAX_TEXT))
        ));
    }
    html.push_str("</table></div>\n");
    seconds.for_each(|second| html.push_str(&anchor(second)));
    if told > MAX_EVENTS {
        html.push_str(&format!("<p class=\"cap\">Only the first {MAX_EVENTS} of {told} events are told.</p>\n"));
    }
    html + "</section>\n"
}

fn anchor(second: u64) -> String {
    format!("<a id=\"s{second}\"></a>")
}

fn class(event: &Event) -> &'static str {
    match event {
        Event::Gap { .. }
        | Event::Garbage { .. }
        | Event::Missed { .. }
        | Event::Panicked { .. }
        | Event::StartFailed { .. } => "bad",
        Event::Began { .. } | Event::Ended { .. } | Event::Crashed { .. } => "struck",
        Event::Healed | Event::FinalReads => "turn",
        _ => "",
    }
}
