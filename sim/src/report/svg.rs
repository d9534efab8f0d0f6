//! Drawing: bars, marks and text at places in simulated time, as inline SVG.
//!
//! A drawing takes a limited number of elements, so that no history makes a page that cannot be opened; it counts what
//! it left out. Only the attributes `x` and `width`, and whole paths, depend on time: the page's script zooms by them.

use std::fmt;
use std::time::Duration;

use super::escape::{clip, escape};

/// How wide a second is drawn in a run of usual length.
const PER_SECOND: f64 = 40.0;
/// A short run fills a page, and a second is at most so wide.
const PAGE: f64 = 1000.0;
const MAX_PER_SECOND: f64 = 120.0;
/// A very long run is drawn narrower.
const MAX_WIDTH: f64 = 7200.0;
/// The least distance between lines of the grid.
const GRID: f64 = 38.0;
/// The longest text that is shown when one points at something.
const MAX_TITLE: usize = 400;
/// About how wide a character of a label is.
const CHARACTER: f64 = 6.1;
/// Bars of nothing are seen nevertheless.
const MIN_BAR: f64 = 1.6;

/// Where moments are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    end: Duration,
    per_second: f64,
}

impl Scale {
    /// For a run that ends then.
    pub(super) fn until(end: Duration) -> Self {
        let end = end.max(Duration::from_secs(1));
        let seconds = end.as_secs_f64();
        let per_second = (PAGE / seconds).clamp(PER_SECOND, MAX_PER_SECOND).min(MAX_WIDTH / seconds);
        Self { end, per_second }
    }

    /// The place of a moment, in pixels from the left.
    pub(super) fn x(&self, at: Duration) -> f64 {
        at.as_secs_f64() * self.per_second
    }

    /// The width of the whole run, with room for what is written at its end.
    pub(super) fn width(&self) -> f64 {
        self.x(self.end) + 160.0
    }

    /// Seconds between the lines of the grid: 1, 2 or 5 of some magnitude.
    pub(super) fn step(&self) -> u64 {
        let steps = (0..15).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        steps.into_iter().find(|step| *step as f64 * self.per_second >= GRID).unwrap_or(u64::MAX)
    }

    /// The distance between the lines of the grid.
    pub(super) fn step_width(&self) -> f64 {
        self.step() as f64 * self.per_second
    }

    /// The seconds of the lines of the grid.
    pub(super) fn seconds(&self) -> impl Iterator<Item = u64> + use<> {
        let (step, end) = (self.step(), self.end.as_secs());
        (0..=end / step).map(move |i| i * step)
    }
}

/// A length in pixels: one digit is enough, and keeps pages small.
pub(super) struct Px(pub(super) f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() as i64;
        let sign = if tenths < 0 { "-" } else { "" };
        match tenths.unsigned_abs() {
            tenths if tenths % 10 == 0 => write!(f, "{sign}{}", tenths / 10),
            tenths => write!(f, "{sign}{}.{}", tenths / 10, tenths % 10),
        }
    }
}

/// About how wide a label is.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// One picture. Classes and shapes are names of this module's own; all other text is escaped here.
#[derive(Debug)]
pub(super) struct Drawing {
    body: String,
    room: usize,
    omitted: usize,
}

impl Drawing {
    /// With room for so many elements.
    pub(super) fn new(room: usize) -> Self {
        Self { body: String::new(), room, omitted: 0 }
    }

    /// How many elements there was no room for.
    pub(super) fn omitted(&self) -> usize {
        self.omitted
    }

    /// A bar from one place to another. `title` is what it means, for whoever points at it.
    pub(super) fn bar(&mut self, class: &'static str, (from, to): (f64, f64), (y, height): (f64, f64), title: &str) {
        let (x, width) = (Px(from), Px((to - from).max(MIN_BAR)));
        let title = Title(title);
        self.push(format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"{}\">{title}</rect>\n",
            Px(y),
            Px(height)
        ));
    }

    /// A shape of the page's, around a place.
    pub(super) fn mark(&mut self, class: &'static str, shape: &'static str, x: f64, y: f64, title: &str) {
        let (x, y, title) = (Px(x), Px(y), Title(title));
        self.push(format!("<use class=\"{class}\" href=\"#{shape}\" x=\"{x}\" y=\"{y}\">{title}</use>\n"));
    }

    /// Text that begins so far from a place, however large a second is.
    pub(super) fn text(&mut self, class: &'static str, (x, dx): (f64, f64), y: f64, text: &str) {
        let (x, dx, y, text) = (Px(x), Px(dx), Px(y), escape(text));
        self.push(format!("<text class=\"{class}\" x=\"{x}\" dx=\"{dx}\" y=\"{y}\">{text}</text>\n"));
    }

    /// Text that leads to a place on the page.
    pub(super) fn link(&mut self, target: &str, (x, dx): (f64, f64), y: f64, text: &str) {
        let (x, dx, y, target, text) = (Px(x), Px(dx), Px(y), escape(target), escape(text));
        self.push(format!("<a href=\"#{target}\"><text x=\"{x}\" dx=\"{dx}\" y=\"{y}\">{text}</text></a>\n"));
    }

    /// Many bars that look alike.
    pub(super) fn bars(&mut self, class: &'static str, bars: &Bars) {
        if !bars.0.is_empty() {
            self.push(format!("<path class=\"{class}\" d=\"{}\"/>\n", bars.0));
        }
    }

    fn push(&mut self, element: String) {
        if self.room == 0 {
            self.omitted += 1;
            return;
        }
        self.room -= 1;
        self.body.push_str(&element);
    }

    /// The picture as an element of the page.
    pub(super) fn finish(self, class: &'static str, width: f64, height: f64) -> String {
        let (width, height) = (Px(width), Px(height));
        format!("<svg class=\"{class}\" width=\"{width}\" height=\"{height}\">\n{}</svg>\n", self.body)
    }

    /// The picture as an element that is as wide as there is room, and shows nothing but what these lengths hold.
    pub(super) fn stretch(self, class: &'static str, width: f64, height: f64) -> String {
        let (width, height) = (Px(width), Px(height));
        let view = format!("viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" height=\"{height}\"");
        format!("<svg class=\"{class}\" {view}>\n{}</svg>\n", self.body)
    }
}

struct Title<'a>(&'a str);

impl fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "<title>{}</title>", escape(&clip(self.0, MAX_TITLE)))
    }
}

/// Bars of one class as one path: small, but nothing can be said about each.
#[derive(Debug, Default)]
pub(super) struct Bars(String);

impl Bars {
    pub(super) fn add(&mut self, (from, to): (f64, f64), (y, height): (f64, f64)) {
        let (x, y, width, height) = (Px(from), Px(y), Px((to - from).max(MIN_BAR)), Px(height));
        self.0.push_str(&format!("M{x} {y}h{width}v{height}h-{width}z"));
    }
}

/// Puts spans that would overlap beneath each other.
#[derive(Debug)]
pub(super) struct Lanes {
    ends: Vec<f64>,
    most: usize,
}

impl Lanes {
    /// At most so many lanes, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { ends: Vec::new(), most: most.max(1) }
    }

    /// The lane of a span: the first that is free. When all are taken, it is the one that is free first, and the span
    /// overlaps: the second value says so. Spans must come in the order in which they begin.
    pub(super) fn place(&mut self, from: f64, to: f64) -> (usize, bool) {
        if let Some(lane) = self.ends.iter().position(|end| *end <= from) {
            self.ends[lane] = to;
            return (lane, true);
        }
        if self.ends.len() < self.most {
            self.ends.push(to);
            return (self.ends.len() - 1, true);
        }
        let first = self.ends.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(lane, _)| lane);
        self.ends[first] = self.ends[first].max(to);
        (first, false)
    }

    /// How many there are; at least one.
    pub(super) fn count(&self) -> usize {
        self.ends.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_not_wider_than_a_page_can_be() {
        let usual = Scale::until(Duration::from_secs(60));
        assert_eq!((usual.x(Duration::from_secs(12)), usual.step()), (480.0, 1));
        for end in [Duration::ZERO, Duration::from_secs(86_400), Duration::from_micros(u64::MAX)] {
            let scale = Scale::until(end);
            assert!(scale.width() < 8000.0);
            assert!(scale.seconds().count() < 200);
        }
    }

    #[test]
    fn lengths_have_at_most_one_digit() {
        let text = |length| Px(length).to_string();
        assert_eq!([text(3.0), text(3.04), text(3.06), text(-0.25)], ["3", "3", "3.1", "-0.3"]);
    }

    #[test]
    fn spans_that_overlap_get_lanes_of_their_own_while_there_are_any() {
        let mut lanes = Lanes::new(2);
        assert_eq!(lanes.place(0.0, 10.0), (0, true));
        assert_eq!(lanes.place(5.0, 30.0), (1, true));
        assert_eq!(lanes.place(10.0, 12.0), (0, true));
        assert_eq!(lanes.place(11.0, 13.0), (0, false));
        assert_eq!(lanes.count(), 2);
    }

    #[test]
    fn a_drawing_says_how_much_it_left_out() {
        let mut drawing = Drawing::new(1);
        drawing.text("name", (0.0, 0.0), 0.0, "<b>");
        drawing.bar("done", (0.0, 0.0), (0.0, 4.0), "");
        assert_eq!(drawing.omitted(), 1);
        let svg = drawing.finish("body", 10.0, 10.0);
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>") && !svg.contains("rect"), "{svg}");
    }
}
