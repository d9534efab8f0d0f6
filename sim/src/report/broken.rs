//! The violations: a list of them, and lines through the timeline where they were seen. Each leads to the other.

use std::collections::BTreeSet;
use std::time::Duration;

use super::escape::{clip, escape};
use super::keys::linked;
use super::svg::{Px, Scale, text_width};
use super::words::Secs;
use crate::checker::Violation;
use crate::history::OpId;

/// How many violations are shown.
const MAX_VIOLATIONS: usize = 400;
/// The longest text of one.
const MAX_TEXT: usize = 2000;
/// Lines that are less apart are drawn as one.
const APART: f64 = 1.5;

/// See the [module](self). Violations are numbered from 1 in the order of their times.
pub(super) struct Broken<'a> {
    shown: Vec<&'a Violation>,
    all: usize,
    lines: Vec<Line>,
}

/// A line for the violations from one number to another.
struct Line {
    first: usize,
    last: usize,
    x: f64,
    at: Duration,
    /// What is written at its top. It speaks for the lines that follow too, where they are too close for their own.
    flag: Option<String>,
}

impl<'a> Broken<'a> {
    pub(super) fn of(violations: &'a [Violation], scale: Scale) -> Self {
        let mut shown: Vec<&Violation> = violations.iter().collect();
        shown.sort_by_key(|violation| violation.at);
        shown.truncate(MAX_VIOLATIONS);
        let lines = lines(&shown, scale);
        Self { shown, all: violations.len(), lines }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// The lines, with flags so far from the top.
    pub(super) fn lines(&self, top: f64) -> String {
        let mut html = String::new();
        for line in &self.lines {
            let Line { first, last, x, at, flag } = line;
            let (x, title) = (Px(*x), format!("{} broken at {} s", name(*first, *last), Secs(*at)));
            let flag =
                flag.as_ref().map_or(String::new(), |flag| format!("<span style=\"top:{}px\">{flag}</span>", Px(top)));
            html.push_str(&format!(
                "<a class=\"broken\" id=\"moment-{first}\" href=\"#violation-{first}\" style=\"--x:{x}\" \
                 title=\"{title}\">{flag}</a>\n"
            ));
        }
        html
    }

    /// All of them in words, with links to the operations that are listed; nothing if there are none.
    pub(super) fn list(&self, listed: &BTreeSet<OpId>) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut html = String::from(
            "<section id=\"violations\"><h2>Broken promises</h2>\n<div class=\"scroll low\"><table>\
             <tr><th><th>s<th>promise<th>what was seen\n",
        );
        let mut number = 1;
        // What broke one promise at one moment is often one thing, seen from many sides.
        for group in self.shown.chunk_by(|a, b| (&a.promise, a.at) == (&b.promise, b.at)) {
            let (first, others) = (group[0], &group[1..]);
            let (link, at, promise, text) =
                (self.link(number), Secs(first.at), escape(&first.promise), words(first, listed));
            html.push_str(&format!(
                "<tr id=\"violation-{number}\"><td>{link}<td>{at}<td><b>{promise}</b><td>{text}{}\n",
                self.others(number + 1, others, listed)
            ));
            number += group.len();
        }
        html.push_str("</table></div>\n");
        if self.shown.len() < self.all {
            let (shown, all) = (self.shown.len(), self.all);
            html.push_str(&format!("<p class=\"cap\">Only the first {shown} of {all} are shown.</p>\n"));
        }
        html + "</section>\n"
    }

    fn others(&self, from: usize, others: &[&Violation], listed: &BTreeSet<OpId>) -> String {
        if others.is_empty() {
            return String::new();
        }
        let mut html = format!("<details><summary><b>{} more at this moment</b></summary>", others.len());
        for (number, violation) in (from..).zip(others) {
            let (link, text) = (self.link(number), words(violation, listed));
            html.push_str(&format!("<p id=\"violation-{number}\">{link} {text}</p>\n"));
        }
        html + "</details>"
    }

    fn link(&self, number: usize) -> String {
        let line = self.lines.iter().find(|line| (line.first..=line.last).contains(&number));
        format!("<a href=\"#moment-{}\">V{number}</a>", line.map_or(number, |line| line.first))
    }
}

fn words(violation: &Violation, listed: &BTreeSet<OpId>) -> String {
    linked(&clip(&violation.text, MAX_TEXT), listed)
}

fn name(first: usize, last: usize) -> String {
    if first == last { format!("V{first}") } else { format!("V{first} to V{last}") }
}

fn lines(shown: &[&Violation], scale: Scale) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, at) in (1..).zip(shown.iter().map(|violation| violation.at)) {
        let x = scale.x(at);
        match lines.last_mut() {
            Some(line) if x - line.x < APART => line.last = number,
            _ => lines.push(Line { first: number, last: number, x, at, flag: None }),
        }
    }
    let mut i = 0;
    while i < lines.len() {
        let (first, x) = (lines[i].first, lines[i].x);
        let mut end = i;
        while let Some(next) = lines.get(end + 1)
            && next.x < x + text_width(&name(first, lines[end].last)) + 12.0
        {
            end += 1;
        }
        lines[i].flag = Some(name(first, lines[end].last));
        i = end + 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Violation {
        Violation { promise: "K1".into(), at: Duration::from_millis(ms), text: String::new() }
    }

    #[test]
    fn a_flag_speaks_for_the_lines_that_are_close() {
        let violations = [at(9000), at(1000), at(1000), at(1200), at(1400)];
        let broken = Broken::of(&violations, Scale::until(Duration::from_secs(60)));
        let lines: Vec<_> = broken.lines.iter().map(|line| (line.first, line.last, line.flag.as_deref())).collect();
        assert_eq!(lines, [(1, 2, Some("V1 to V4")), (3, 3, None), (4, 4, None), (5, 5, Some("V5"))]);
        assert!(broken.list(&BTreeSet::new()).contains("1 more at this moment"));
    }

    #[test]
    fn of_too_many_the_first_are_shown() {
        let many: Vec<Violation> = (0..1000).map(at).collect();
        let list = Broken::of(&many, Scale::until(Duration::from_secs(60))).list(&BTreeSet::new());
        assert!(list.contains("Only the first 400 of 1000") && !list.contains("violation-401"));
    }
}
