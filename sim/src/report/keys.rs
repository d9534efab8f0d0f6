//! The keys: who holds them, and what was done to each, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::escape::escape;
use super::story::{Span, Story, outcome_class};
use super::svg::{Bars, Drawing, Px};
use super::words::{Secs, doing, ending, is_read, names};
use crate::history::{Event, Host, Op, OpId};

/// How many keys are shown.
const MAX_KEYS: usize = 400;
/// How many operations are listed on the page.
const MAX_LISTED: usize = 9000;
/// How many of a key are listed at least.
const MIN_LISTED: usize = 20;
/// The picture of a key's operations, in pixels.
const PICTURE: (f64, f64) = (600.0, 24.0);

/// What one node told of a key in the end: where it believes it to be, and a hash of its own copy.
type Told<'a> = (&'a [Host], Option<u64>);

/// What is known of a key.
#[derive(Default)]
struct Key<'a> {
    ops: Vec<&'a Op>,
    told: BTreeMap<Host, Told<'a>>,
}

/// The section of the keys.
pub(super) fn keys(story: &Story<'_>, listed: &BTreeSet<OpId>) -> String {
    let keys = gather(story);
    let mut html = String::from(
        "<section id=\"keys\"><h2>Keys</h2>\n<p>Open a key to read its operations in order. In the picture of a key, \
         writes are above the line and reads below; what was not applied is higher, and what is unknown the highest. \
         Behind it, the faults that disturb. Copies are what the nodes told before the final reads.</p>\n",
    );
    if keys.is_empty() {
        return html + "<p>There are none.</p></section>\n";
    }
    if keys.len() > MAX_KEYS {
        html.push_str(&format!("<p class=\"cap\">Only the first {MAX_KEYS} of {} keys are shown.</p>\n", keys.len()));
    }
    html.push_str(
        "<div class=\"key head\"><span>key</span><span>replicas</span><span>copies</span><span>operations</span>\
         <span>not done</span><span>over time</span></div>\n",
    );
    for (name, key) in keys.iter().take(MAX_KEYS) {
        html.push_str(&section(story, name, key, listed));
    }
    html + "</section>\n"
}

/// The operations that are listed. Of too many, those are left out that were done, are named by no violation and are not
/// among the last of their key.
pub(super) fn listed(story: &Story<'_>) -> BTreeSet<OpId> {
    let named: BTreeSet<OpId> = story.violations.iter().flat_map(|violation| numbers(&violation.text)).collect();
    let all = story.ops.len().max(1);
    let mut listed = BTreeSet::new();
    for key in gather(story).values().take(MAX_KEYS) {
        let share = key.ops.len() * MAX_LISTED / all;
        let most = if all > MAX_LISTED { share.max(MIN_LISTED) } else { key.ops.len() };
        let (matter, others): (Vec<&Op>, Vec<&Op>) =
            key.ops.iter().partition(|op| !op.is_done() || named.contains(&op.id));
        listed.extend(matter.iter().chain(others.iter().rev()).take(most).map(|op| op.id));
    }
    listed
}

/// The operations that a text names, as `#12`.
fn numbers(text: &str) -> impl Iterator<Item = OpId> {
    text.split('#').skip(1).filter_map(|rest| digits(rest).0.parse().ok().map(OpId))
}

/// The digits that a text begins with, and what follows.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len()))
}

/// The text with every operation that it names as a link to where that is listed.
pub(super) fn linked(text: &str, listed: &BTreeSet<OpId>) -> String {
    let mut parts = text.split('#');
    let mut html = escape(parts.next().unwrap_or("")).to_string();
    for part in parts {
        let (number, rest) = digits(part);
        match number.parse().ok().filter(|number| listed.contains(&OpId(*number))) {
            Some(number) => html.push_str(&format!("<a href=\"#o{number}\">#{number}</a>")),
            None => html.push_str(&format!("#{}", escape(number))),
        }
        html.push_str(&escape(rest).to_string());
    }
    html
}

fn gather<'a>(story: &'a Story<'_>) -> BTreeMap<&'a str, Key<'a>> {
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for key in &story.history.keys {
        keys.entry(key).or_default();
    }
    for op in story.ops.values() {
        keys.entry(&op.key).or_default().ops.push(op);
    }
    for entry in &story.history.entries {
        if let Event::Holds { host, key, replicas, copy } = &entry.event {
            keys.entry(key).or_default().told.insert(*host, (replicas, *copy));
        }
    }
    keys
}

fn section(story: &Story<'_>, name: &str, key: &Key<'_>, listed: &BTreeSet<OpId>) -> String {
    let (replicas, (class, copies)) = (replicas(key), copies(key));
    let (all, not_done) = (key.ops.len(), key.ops.iter().filter(|op| !op.is_done()).count());
    let (name, replicas, picture) = (escape(name), escape(&replicas).to_string(), picture(story, key));
    format!(
        "<details class=\"one\"><summary class=\"key\"><b>{name}</b><span>{replicas}</span>\
         <span class=\"{class}\">{}</span><span>{all}</span><span>{not_done}</span>{picture}</summary>\n{}</details>\n",
        escape(&copies),
        list(story, key, listed)
    )
}

/// The replicas, as all nodes tell, or as each tells.
fn replicas(key: &Key<'_>) -> String {
    let mut by_list: BTreeMap<&[Host], Vec<Host>> = BTreeMap::new();
    for (host, (replicas, _)) in &key.told {
        by_list.entry(replicas).or_default().push(*host);
    }
    let lists: Vec<_> = by_list.iter().collect();
    match &lists[..] {
        [] => "not told".to_owned(),
        [(replicas, _)] => names(replicas),
        many => {
            let told = many.iter().map(|(replicas, by)| format!("{} (say {})", names(replicas), names(by)));
            told.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Whether the copies of the replicas agree.
fn copies(key: &Key<'_>) -> (&'static str, String) {
    if key.told.is_empty() {
        return ("", "not told".to_owned());
    }
    let replicas: BTreeSet<Host> = key.told.values().flat_map(|(replicas, _)| replicas.iter().copied()).collect();
    let mut by_copy: BTreeMap<Option<u64>, Vec<Host>> = BTreeMap::new();
    for (host, (_, copy)) in key.told.iter().filter(|(host, _)| replicas.contains(host)) {
        by_copy.entry(*copy).or_default().push(*host);
    }
    let silent: Vec<Host> = replicas.iter().filter(|host| !key.told.contains_key(host)).copied().collect();
    let silent = if silent.is_empty() { String::new() } else { format!("; {} tell nothing", names(&silent)) };
    let spare = key.told.iter().filter(|(host, (_, copy))| copy.is_some() && !replicas.contains(host));
    let spare: Vec<Host> = spare.map(|(host, _)| *host).collect();
    let spare = if spare.is_empty() { String::new() } else { format!("; also at {}", names(&spare)) };
    let copies: Vec<_> = by_copy.iter().collect();
    match &copies[..] {
        [] => ("", format!("none{silent}{spare}")),
        [(None, _)] => ("", format!("no copy at any replica{silent}{spare}")),
        [(Some(_), hosts)] => ("good", format!("{} agree{silent}{spare}", hosts.len())),
        many => {
            let told = many.iter().map(|(copy, hosts)| match copy {
                Some(copy) => format!("{copy:016x} at {}", names(hosts)),
                None => format!("none at {}", names(hosts)),
            });
            ("bad", format!("DIFFER: {}{silent}{spare}", told.collect::<Vec<_>>().join(", ")))
        }
    }
}

/// Writes above, reads below, over the time of the whole run.
fn picture(story: &Story<'_>, key: &Key<'_>) -> String {
    let (width, height) = PICTURE;
    let end = story.end.as_secs_f64().max(1.0);
    let x = |at: Duration| at.as_secs_f64() / end * width;
    let mut drawing = Drawing::new(1000);
    for fault in story.faults.iter().filter(|fault| fault.disturbs) {
        drawing.bar("shade", (x(fault.span.0), x(fault.span.1)), (0.0, height), "");
    }
    drawing.bar("middle", (0.0, width), (height / 2.0 - 0.5, 1.0), "");
    for class in ["op done", "op refused", "op unknown", "op exhausted"] {
        let (mut bars, mut last) = (Bars::default(), [f64::MIN; 2]);
        for op in key.ops.iter().filter(|op| class.ends_with(outcome_class(&op.outcome))) {
            let ((from, to), read) = (story.span(op), is_read(&op.action));
            // What would hide behind the one before is left out.
            if x(to) < last[usize::from(read)] + 0.4 {
                continue;
            }
            last[usize::from(read)] = x(to);
            let high = match outcome_class(&op.outcome) {
                "unknown" => height / 2.0 - 1.0,
                "refused" => height / 2.0 - 4.0,
                _ => height / 4.0 - 1.0,
            };
            let y = if read { height / 2.0 + 1.0 } else { height / 2.0 - 1.0 - high };
            bars.add((x(from), x(to)), (y, high));
        }
        drawing.bars(class, &bars);
    }
    let (from, to) = (Px(0.0), Px(story.end.as_secs_f64()));
    format!("<span class=\"picture\" title=\"{from} to {to} s\">{}</span>", drawing.stretch("lane", width, height))
}

/// The operations of a key, in the order in which they began.
fn list(story: &Story<'_>, key: &Key<'_>, listed: &BTreeSet<OpId>) -> String {
    let mut html = String::from("<table><tr><th>from, s<th>lasts, ms<th>number<th>at<th>operation<th>outcome\n");
    for part in key.ops.chunk_by(|a, b| listed.contains(&a.id) == listed.contains(&b.id)) {
        if listed.contains(&part[0].id) {
            part.iter().for_each(|op| html.push_str(&row(op, story.span(op), listed)));
        } else {
            html.push_str(&gap(part.len()));
        }
    }
    html + "</table>\n"
}

fn gap(many: usize) -> String {
    format!("<tr class=\"cap\"><td colspan=\"6\">{many} operations are left out here\n")
}

fn row(op: &Op, (from, to): Span, listed: &BTreeSet<OpId>) -> String {
    let (class, lasts) = (outcome_class(&op.outcome), to.saturating_sub(from).as_millis());
    let Op { id, host, .. } = op;
    let (doing, ending) = (linked(&doing(op), listed), linked(&ending(op), listed));
    let number = id.0;
    format!(
        "<tr id=\"o{number}\" class=\"{class}\"><td>{}<td>{lasts}<td>{id}<td>{host}<td>{doing}<td>{ending}\n",
        Secs(from)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a>(told: &[(u8, &'a [Host], Option<u64>)]) -> Key<'a> {
        let told = told.iter().map(|(host, replicas, copy)| (Host(*host), (*replicas, *copy))).collect();
        Key { ops: Vec::new(), told }
    }

    #[test]
    fn copies_agree_or_it_is_told_who_has_which() {
        let both = [Host(0), Host(1)];
        let agree = told(&[(0, &both, Some(1)), (1, &both, Some(1)), (2, &both, None)]);
        assert_eq!((replicas(&agree), copies(&agree)), ("n0 n1".to_owned(), ("good", "2 agree".to_owned())));
        let differ = told(&[(0, &both, Some(1)), (1, &both, Some(2)), (2, &both, Some(1))]);
        let text = "DIFFER: 0000000000000001 at n0, 0000000000000002 at n1; also at n2".to_owned();
        assert_eq!(copies(&differ), ("bad", text));
        let missing = told(&[(0, &both, Some(1))]);
        assert_eq!(copies(&missing), ("good", "1 agree; n1 tell nothing".to_owned()));
        let torn = told(&[(0, &both, None), (2, &both[..1], None)]);
        assert_eq!(replicas(&torn), "n0 (say n2); n0 n1 (say n0)");
        assert_eq!(copies(&told(&[])), ("", "not told".to_owned()));
    }

    #[test]
    fn operations_in_a_text_are_links_and_nothing_else_is() {
        let text = "op #12 <b> # and ##7, n#x9";
        let html = linked(text, &[OpId(12), OpId(7)].into());
        let expected = "op <a href=\"#o12\">#12</a> &lt;b&gt; # and #<a href=\"#o7\">#7</a>, n#x9";
        assert_eq!(html, expected);
        assert_eq!(linked("#12", &BTreeSet::new()), "#12");
        assert_eq!(numbers(text).collect::<Vec<_>>(), [OpId(12), OpId(7)]);
    }
}
